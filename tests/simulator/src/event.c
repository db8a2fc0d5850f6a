/* Events: a remembered point in a stream, and when it was reached. */
#include <stdlib.h>

#include "clock.h"
#include "cuda_api.h"
#include "process.h"
#include "stream.h"

/* What changes with each record is under stream_lock. */
typedef struct {
    Object object;
    Context *context;
    unsigned flags;
    uint64_t records; /* how often it was recorded */
    Point point;      /* of the last record */
    uint64_t time_ns; /* when that point was reached; 0 = not yet */
} Event;

typedef struct {
    Operation operation;
    Event *event;
    uint64_t record;
} RecordOperation;

static void destroy_event(Object *object)
{
    Event *event = (Event *)object;
    point_release(&event->point);
    object_put(&event->context->object);
    free(event);
}

static CUresult look_up(CUevent handle, Event **event)
{
    Object *object;
    if (object_look_up((uint64_t)(uintptr_t)handle, OBJECT_EVENT, &object) != LOOKUP_FOUND) {
        return CUDA_ERROR_INVALID_HANDLE;
    }
    *event = (Event *)object;
    return CUDA_SUCCESS;
}

static Point current_point(Event *event)
{
    pthread_mutex_lock(&stream_lock);
    Point point = event->point;
    if (point.stream != NULL) {
        object_get(&point.stream->object);
    }
    pthread_mutex_unlock(&stream_lock);
    return point;
}

CUresult cuEventCreate(CUevent *handle, unsigned flags)
{
    Context *context;
    CUresult result = gate_context(CALL_EVENT_CREATE, &context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    Event *event = NULL;
    if (handle == NULL || (flags & ~CU_EVENT_FLAGS_MASK) != 0) {
        result = CUDA_ERROR_INVALID_VALUE;
    } else if ((event = calloc(1, sizeof *event)) == NULL) {
        result = CUDA_ERROR_OUT_OF_MEMORY;
    } else {
        event->context = context;
        event->flags = flags;
        uint64_t number = object_publish(&event->object, OBJECT_EVENT, &context->object, destroy_event);
        if (number != 0) {
            *handle = (CUevent)(uintptr_t)number;
            return CUDA_SUCCESS; /* the event keeps the reference to its context */
        }
        free(event);
        result = CUDA_ERROR_OUT_OF_MEMORY;
    }
    object_put(&context->object);
    return result;
}

CUresult cuEventDestroy_v2(CUevent handle)
{
    Event *event;
    CUresult result = gate(CALL_EVENT_DESTROY);
    if (result == CUDA_SUCCESS) {
        result = look_up(handle, &event);
    }
    if (result == CUDA_SUCCESS) {
        object_retire(&event->object);
        object_put(&event->object);
    }
    return result;
}

static CUresult run_record(Operation *operation, CUresult failure)
{
    (void)failure;
    RecordOperation *record = (RecordOperation *)operation;
    pthread_mutex_lock(&stream_lock);
    if (record->event->records == record->record) {
        record->event->time_ns = clock_now_ns();
    }
    pthread_mutex_unlock(&stream_lock);
    return CUDA_SUCCESS;
}

static void release_record(Operation *operation)
{
    object_put(&((RecordOperation *)operation)->event->object);
}

static CUresult record_in(Stream *stream, Event *event)
{
    if (event->context != stream->context) {
        return CUDA_ERROR_INVALID_HANDLE;
    }
    RecordOperation *record = operation_create(sizeof *record, stream, run_record);
    if (record == NULL) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    record->operation.release = release_record;
    record->event = event;
    object_get(&event->object);
    pthread_mutex_lock(&stream_lock);
    record->record = ++event->records;
    event->time_ns = 0;
    pthread_mutex_unlock(&stream_lock);
    Point point;
    CUresult result = stream_enqueue_marked(stream, &record->operation, &point);
    if (result == CUDA_SUCCESS) {
        pthread_mutex_lock(&stream_lock);
        Point before = event->point;
        event->point = point;
        pthread_mutex_unlock(&stream_lock);
        point_release(&before);
    }
    return result;
}

CUresult cuEventRecord(CUevent handle, CUstream stream_handle)
{
    Context *context;
    Stream *stream;
    Event *event;
    CUresult result = gate_context(CALL_EVENT_RECORD, &context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    result = stream_look_up(stream_handle, context, &stream);
    object_put(&context->object);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    result = look_up(handle, &event);
    if (result == CUDA_SUCCESS) {
        result = record_in(stream, event);
        object_put(&event->object);
    }
    object_put(&stream->object);
    return result;
}

CUresult cuEventRecordWithFlags(CUevent handle, CUstream stream, unsigned flags)
{
    if (flags > 1) { /* CU_EVENT_RECORD_EXTERNAL matters only to a capture */
        return CUDA_ERROR_INVALID_VALUE;
    }
    return cuEventRecord(handle, stream);
}

CUresult cuEventQuery(CUevent handle)
{
    Event *event;
    CUresult result = gate(CALL_EVENT_QUERY);
    if (result == CUDA_SUCCESS) {
        result = look_up(handle, &event);
    }
    if (result != CUDA_SUCCESS) {
        return result;
    }
    Point point = current_point(event);
    bool reached = point_reached(&point);
    result = reached ? context_failure(event->context) : CUDA_ERROR_NOT_READY;
    point_release(&point);
    object_put(&event->object);
    return result;
}

CUresult cuEventSynchronize(CUevent handle)
{
    Event *event;
    CUresult result = gate(CALL_EVENT_SYNCHRONIZE);
    if (result == CUDA_SUCCESS) {
        result = look_up(handle, &event);
    }
    if (result != CUDA_SUCCESS) {
        return result;
    }
    bool must_block = (event->flags & CU_EVENT_BLOCKING_SYNC) != 0;
    Point point = current_point(event);
    point_wait(&point, must_block ? CU_CTX_SCHED_BLOCKING_SYNC : atomic_load(&event->context->flags));
    point_release(&point);
    result = context_failure(event->context);
    object_put(&event->object);
    return result;
}

static CUresult elapsed(float *milliseconds, Event *start, Event *end)
{
    if (milliseconds == NULL) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (((start->flags | end->flags) & CU_EVENT_DISABLE_TIMING) != 0 || start->context != end->context) {
        return CUDA_ERROR_INVALID_HANDLE;
    }
    pthread_mutex_lock(&stream_lock);
    bool recorded = start->records > 0 && end->records > 0;
    uint64_t start_ns = start->time_ns;
    uint64_t end_ns = end->time_ns;
    pthread_mutex_unlock(&stream_lock);
    if (!recorded) {
        return CUDA_ERROR_INVALID_HANDLE;
    }
    if (start_ns == 0 || end_ns == 0) {
        return CUDA_ERROR_NOT_READY;
    }
    *milliseconds = (float)((double)(int64_t)(end_ns - start_ns) / (double)NS_PER_MS);
    return CUDA_SUCCESS;
}

CUresult cuEventElapsedTime(float *milliseconds, CUevent start_handle, CUevent end_handle)
{
    Event *start, *end;
    CUresult result = gate(CALL_OTHER);
    if (result == CUDA_SUCCESS) {
        result = look_up(start_handle, &start);
    }
    if (result != CUDA_SUCCESS) {
        return result;
    }
    result = look_up(end_handle, &end);
    if (result == CUDA_SUCCESS) {
        result = elapsed(milliseconds, start, end);
        object_put(&end->object);
    }
    object_put(&start->object);
    return result;
}

/* The second version is the first: it differs from it only in what it says of events recorded in other ways. */
CUresult cuEventElapsedTime_v2(float *milliseconds, CUevent start_handle, CUevent end_handle)
{
    return cuEventElapsedTime(milliseconds, start_handle, end_handle);
}

static CUresult wait_in(Stream *stream, Event *event)
{
    Point point = current_point(event);
    if (point_reached(&point)) {
        point_release(&point);
        return CUDA_SUCCESS;
    }
    Operation *operation = operation_create(sizeof *operation, stream, NULL);
    Point *waits = malloc(sizeof *waits);
    if (operation == NULL || waits == NULL) {
        free(operation);
        free(waits);
        point_release(&point);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    waits[0] = point;
    operation->waits = waits;
    operation->wait_count = 1;
    return stream_enqueue(stream, operation);
}

CUresult cuStreamWaitEvent(CUstream stream_handle, CUevent handle, unsigned flags)
{
    Context *context;
    Stream *stream;
    Event *event;
    CUresult result = gate_context(CALL_STREAM_WAIT_EVENT, &context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    result = stream_look_up(stream_handle, context, &stream);
    object_put(&context->object);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    result = look_up(handle, &event);
    if (result == CUDA_SUCCESS) {
        result = flags > 1 ? CUDA_ERROR_INVALID_VALUE : wait_in(stream, event);
        object_put(&event->object);
    }
    object_put(&stream->object);
    return result;
}
