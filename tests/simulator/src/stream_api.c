/* The driver calls on streams, host functions in them included. */
#include <stdlib.h>

#include "cuda_api.h"
#include "process.h"
#include "stream.h"

#define LEAST_PRIORITY 0
#define GREATEST_PRIORITY (-5)

/* The gate, the current context and the stream, which is referenced; for calls that then need only the stream. */
static CUresult enter(enum Call call, CUstream handle, Stream **stream)
{
    Context *context;
    CUresult result = gate_context(call, &context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    result = stream_look_up(handle, context, stream);
    object_put(&context->object);
    return result;
}

CUresult cuCtxGetStreamPriorityRange(int *least, int *greatest)
{
    Context *context;
    CUresult result = gate_context(CALL_OTHER, &context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    object_put(&context->object);
    if (least != NULL) {
        *least = LEAST_PRIORITY;
    }
    if (greatest != NULL) {
        *greatest = GREATEST_PRIORITY;
    }
    return CUDA_SUCCESS;
}

CUresult cuStreamCreateWithPriority(CUstream *handle, unsigned flags, int priority)
{
    Context *context;
    Stream *stream;
    CUresult result = gate_context(CALL_STREAM_CREATE, &context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (handle == NULL || (flags & ~CU_STREAM_NON_BLOCKING) != 0) {
        result = CUDA_ERROR_INVALID_VALUE;
    } else {
        int clamped = priority > LEAST_PRIORITY ? LEAST_PRIORITY : priority;
        clamped = clamped < GREATEST_PRIORITY ? GREATEST_PRIORITY : clamped;
        result = stream_create(context, flags, clamped, &stream);
    }
    if (result == CUDA_SUCCESS) {
        *handle = (CUstream)(uintptr_t)stream->object.handle;
        object_put(&stream->object);
    }
    object_put(&context->object);
    return result;
}

CUresult cuStreamCreate(CUstream *handle, unsigned flags)
{
    return cuStreamCreateWithPriority(handle, flags, LEAST_PRIORITY);
}

CUresult cuStreamDestroy_v2(CUstream handle)
{
    Object *object;
    CUresult result = gate(CALL_STREAM_DESTROY);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (object_look_up((uint64_t)(uintptr_t)handle, OBJECT_STREAM, &object) != LOOKUP_FOUND) {
        return CUDA_ERROR_INVALID_HANDLE; /* the default streams too: they cannot be destroyed */
    }
    /* Returns at once; what is queued is still done. */
    stream_close(object);
    object_retire(object);
    object_put(object);
    return CUDA_SUCCESS;
}

CUresult cuStreamSynchronize(CUstream handle)
{
    Context *context;
    Stream *stream;
    Point *points;
    size_t count;
    CUresult result = gate_context(CALL_STREAM_SYNCHRONIZE, &context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    result = stream_look_up(handle, context, &stream);
    if (result == CUDA_SUCCESS) {
        int active = CAPTURE_ACTIVE;
        atomic_compare_exchange_strong(&stream->capture, &active, CAPTURE_INVALIDATED);
        result = active == CAPTURE_NONE ? stream_tails(stream, &points, &count) : CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
        if (result == CUDA_SUCCESS) {
            points_wait(points, count, atomic_load(&stream->context->flags));
            result = context_failure(stream->context);
        }
        object_put(&stream->object);
    }
    object_put(&context->object);
    return result;
}

CUresult cuStreamQuery(CUstream handle)
{
    Stream *stream;
    Point *points;
    size_t count;
    CUresult result = enter(CALL_STREAM_QUERY, handle, &stream);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    result = stream_tails(stream, &points, &count);
    if (result == CUDA_SUCCESS) {
        result = count > 0 ? CUDA_ERROR_NOT_READY : context_failure(stream->context);
        points_release(points, count);
    }
    object_put(&stream->object);
    return result;
}

static CUresult synchronize(Context *context)
{
    Point *points;
    size_t count;
    CUresult result = context_tails(context, &points, &count);
    if (result == CUDA_SUCCESS) {
        points_wait(points, count, atomic_load(&context->flags));
        result = context_failure(context);
    }
    object_put(&context->object);
    return result;
}

CUresult cuCtxSynchronize(void)
{
    Context *context;
    CUresult result = gate_context(CALL_CONTEXT_SYNCHRONIZE, &context);
    return result == CUDA_SUCCESS ? synchronize(context) : result;
}

CUresult cuCtxSynchronize_v2(CUcontext handle)
{
    Context *context;
    if (handle == NULL) {
        return cuCtxSynchronize();
    }
    CUresult result = gate(CALL_CONTEXT_SYNCHRONIZE);
    if (result == CUDA_SUCCESS) {
        result = context_look_up(handle, &context);
    }
    return result == CUDA_SUCCESS ? synchronize(context) : result;
}

CUresult cuStreamGetCtx(CUstream handle, CUcontext *context)
{
    Stream *stream;
    CUresult result = enter(CALL_OTHER, handle, &stream);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (context == NULL) {
        result = CUDA_ERROR_INVALID_VALUE;
    } else {
        *context = context_handle(stream->context);
    }
    object_put(&stream->object);
    return result;
}

CUresult cuStreamGetCtx_v2(CUstream handle, CUcontext *context, void **green_context)
{
    CUresult result = cuStreamGetCtx(handle, context);
    if (result == CUDA_SUCCESS && green_context != NULL) {
        *green_context = NULL; /* no stream here belongs to one */
    }
    return result;
}

CUresult cuStreamGetFlags(CUstream handle, unsigned *flags)
{
    Stream *stream;
    CUresult result = enter(CALL_OTHER, handle, &stream);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (flags == NULL) {
        result = CUDA_ERROR_INVALID_VALUE;
    } else {
        *flags = stream->flags;
    }
    object_put(&stream->object);
    return result;
}

CUresult cuStreamGetPriority(CUstream handle, int *priority)
{
    Stream *stream;
    CUresult result = enter(CALL_OTHER, handle, &stream);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (priority == NULL) {
        result = CUDA_ERROR_INVALID_VALUE;
    } else {
        *priority = stream->priority;
    }
    object_put(&stream->object);
    return result;
}

CUresult cuStreamGetId(CUstream handle, unsigned long long *id)
{
    Stream *stream;
    CUresult result = enter(CALL_OTHER, handle, &stream);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (id == NULL) {
        result = CUDA_ERROR_INVALID_VALUE;
    } else {
        *id = stream->object.handle;
    }
    object_put(&stream->object);
    return result;
}

CUresult cuStreamIsCapturing(CUstream handle, int *status)
{
    Stream *stream;
    CUresult result = enter(CALL_OTHER, handle, &stream);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (status == NULL) {
        result = CUDA_ERROR_INVALID_VALUE;
    } else {
        *status = atomic_load(&stream->capture);
    }
    object_put(&stream->object);
    return result;
}

/* What is queued while a stream records is dropped: there is no graph that could be launched. */
CUresult cuStreamBeginCapture_v2(CUstream handle, int mode)
{
    Stream *stream;
    CUresult result = enter(CALL_OTHER, handle, &stream);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    int none = CAPTURE_NONE;
    (void)mode; /* no thread here is told of another's recording */
    if (!atomic_compare_exchange_strong(&stream->capture, &none, CAPTURE_ACTIVE)) {
        result = CUDA_ERROR_ILLEGAL_STATE;
    }
    object_put(&stream->object);
    return result;
}

CUresult cuStreamEndCapture(CUstream handle, void **graph)
{
    Stream *stream;
    CUresult result = enter(CALL_OTHER, handle, &stream);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    int before = atomic_exchange(&stream->capture, CAPTURE_NONE);
    if (before != CAPTURE_ACTIVE) {
        result = before == CAPTURE_NONE ? CUDA_ERROR_ILLEGAL_STATE : CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    }
    *graph = NULL;
    object_put(&stream->object);
    return result;
}

typedef struct {
    Operation operation;
    CUhostFn function;
    CUstreamCallback callback; /* the older form, which also hears of an error */
    CUstream stream;
    void *user_data;
} HostOperation;

static CUresult run_host(Operation *operation, CUresult failure)
{
    HostOperation *host = (HostOperation *)operation;
    in_host_function = true;
    if (host->callback != NULL) {
        host->callback(host->stream, failure, host->user_data);
    } else {
        host->function(host->user_data);
    }
    in_host_function = false;
    return CUDA_SUCCESS;
}

static CUresult queue_host(CUstream handle, CUhostFn function, CUstreamCallback callback, void *user_data)
{
    Stream *stream;
    CUresult result = enter(CALL_LAUNCH_HOST, handle, &stream);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    HostOperation *host = NULL;
    if (function == NULL && callback == NULL) {
        result = CUDA_ERROR_INVALID_VALUE;
    } else if ((host = operation_create(sizeof *host, stream, run_host)) == NULL) {
        result = CUDA_ERROR_OUT_OF_MEMORY;
    } else {
        host->operation.always = callback != NULL;
        host->function = function;
        host->callback = callback;
        host->stream = handle;
        host->user_data = user_data;
        result = stream_enqueue(stream, &host->operation);
    }
    object_put(&stream->object);
    return result;
}

CUresult cuLaunchHostFunc(CUstream stream, CUhostFn function, void *user_data)
{
    return queue_host(stream, function, NULL, user_data);
}

CUresult cuLaunchHostFunc_v2(CUstream stream, CUhostFn function, void *user_data, unsigned sync_mode)
{
    (void)sync_mode; /* how the real driver hands the function to its thread; here there is one way */
    return queue_host(stream, function, NULL, user_data);
}

CUresult cuStreamAddCallback(CUstream stream, CUstreamCallback callback, void *user_data, unsigned flags)
{
    if (flags != 0) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    return queue_host(stream, NULL, callback, user_data);
}
