/* Queues, and waiting for what is in them. */
#include "stream.h"

#include <sched.h>
#include <signal.h>
#include <stdlib.h>

#include "clock.h"
#include "process.h"

pthread_mutex_t stream_lock = PTHREAD_MUTEX_INITIALIZER;

static _Atomic uint64_t threads_seen;
static _Thread_local uint64_t this_thread;

static uint64_t thread_number(void)
{
    if (this_thread == 0) {
        this_thread = atomic_fetch_add(&threads_seen, 1) + 1;
    }
    return this_thread;
}

void *operation_create(size_t size, Stream *stream, CUresult (*run)(Operation *, CUresult))
{
    Operation *operation = calloc(1, size);
    if (operation != NULL) {
        operation->accelerator = stream->place.accelerator;
        operation->run = run;
    }
    return operation;
}

static void destroy_stream(Object *object)
{
    Stream *stream = (Stream *)object;
    pthread_mutex_lock(&stream_lock);
    for (Stream **link = &stream->context->streams; *link != NULL; link = &(*link)->next_in_context) {
        if (*link == stream) {
            *link = stream->next_in_context;
            break;
        }
    }
    pthread_mutex_unlock(&stream_lock);
    pthread_cond_destroy(&stream->work);
    pthread_cond_destroy(&stream->progress);
    object_put(&stream->context->object);
    free(stream);
}

CUresult stream_create(Context *context, unsigned flags, int priority, Stream **created)
{
    Stream *stream = calloc(1, sizeof *stream);
    if (stream == NULL) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    stream->context = context;
    stream->flags = flags;
    stream->priority = priority;
    pthread_cond_init(&stream->work, NULL);
    pthread_cond_init(&stream->progress, NULL);
    object_get(&stream->object); /* the caller's: once published, any thread may destroy the context and it */
    uint64_t handle = object_publish(&stream->object, OBJECT_STREAM, &context->object, destroy_stream);
    if (handle == 0) {
        free(stream);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    object_get(&context->object);
    stream->place = (Place){handle, context->object.handle, context->device, context->device, false};
    pthread_mutex_lock(&stream_lock);
    stream->next_in_context = context->streams;
    context->streams = stream;
    pthread_mutex_unlock(&stream_lock);
    *created = stream;
    return CUDA_SUCCESS;
}

static CUresult per_thread_stream(Context *context, Stream **stream)
{
    uint64_t thread = thread_number();
    pthread_mutex_lock(&stream_lock);
    Stream *found = context->streams;
    while (found != NULL && (found->thread != thread || found->closed)) {
        found = found->next_in_context;
    }
    if (found != NULL) {
        object_get(&found->object);
    }
    pthread_mutex_unlock(&stream_lock);
    if (found != NULL) {
        *stream = found;
        return CUDA_SUCCESS;
    }
    CUresult result = stream_create(context, 0, 0, &found);
    if (result == CUDA_SUCCESS) {
        pthread_mutex_lock(&stream_lock);
        found->thread = thread;
        pthread_mutex_unlock(&stream_lock);
        *stream = found;
    }
    return result;
}

CUresult stream_look_up(CUstream handle, Context *current, Stream **stream)
{
    if (handle == NULL || handle == CU_STREAM_LEGACY) {
        pthread_mutex_lock(&stream_lock);
        *stream = current->legacy;
        if (*stream != NULL) {
            object_get(&(*stream)->object);
        }
        pthread_mutex_unlock(&stream_lock);
        return *stream == NULL ? CUDA_ERROR_CONTEXT_IS_DESTROYED : CUDA_SUCCESS;
    }
    if (handle == CU_STREAM_PER_THREAD) {
        return per_thread_stream(current, stream);
    }
    Object *object;
    if (object_look_up((uint64_t)(uintptr_t)handle, OBJECT_STREAM, &object) != LOOKUP_FOUND) {
        return CUDA_ERROR_INVALID_HANDLE;
    }
    *stream = (Stream *)object;
    return CUDA_SUCCESS;
}

/* Blocking streams and the legacy default stream wait for each other's earlier work. */
static bool ordered_with_legacy(const Stream *stream)
{
    return (stream->flags & CU_STREAM_NON_BLOCKING) == 0;
}

static bool add_point(Point **points, size_t *count, Stream *stream)
{
    if (atomic_load(&stream->completed) >= stream->enqueued) {
        return true;
    }
    Point *larger = realloc(*points, (*count + 1) * sizeof *larger);
    if (larger == NULL) {
        return false;
    }
    object_get(&stream->object);
    larger[*count] = (Point){stream, stream->enqueued};
    *points = larger;
    ++*count;
    return true;
}

/* Adds the ends of all streams of the context that `wanted` picks; under stream_lock. */
static bool add_tails(Context *context, bool (*wanted)(const Stream *), Point **points, size_t *count)
{
    for (Stream *stream = context->streams; stream != NULL; stream = stream->next_in_context) {
        if ((wanted == NULL || wanted(stream)) && !add_point(points, count, stream)) {
            return false;
        }
    }
    return true;
}

static bool add_legacy_order(Stream *stream, Point **points, size_t *count)
{
    Context *context = stream->context;
    if (stream == context->legacy) {
        return add_tails(context, ordered_with_legacy, points, count);
    }
    return !ordered_with_legacy(stream) || context->legacy == NULL || add_point(points, count, context->legacy);
}

/* Signals are the program's business: none may be handled on a thread it does not know of. */
static bool start_worker(Stream *stream)
{
    pthread_t thread;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    object_get(&stream->object);
    int failed = pthread_create(&thread, NULL, worker_main, stream);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed != 0) {
        object_put(&stream->object);
        return false;
    }
    pthread_detach(thread);
    stream->has_worker = true;
    return true;
}

static CUresult append(Stream *stream, Operation *operation)
{
    if (stream->closed) {
        return CUDA_ERROR_INVALID_HANDLE;
    }
    if (!add_legacy_order(stream, &operation->waits, &operation->wait_count)) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (!stream->has_worker && !start_worker(stream)) {
        return CUDA_ERROR_OPERATING_SYSTEM;
    }
    operation->sequence = ++stream->enqueued;
    if (stream->last == NULL) {
        stream->first = operation;
    } else {
        stream->last->next = operation;
    }
    stream->last = operation;
    pthread_cond_signal(&stream->work);
    return CUDA_SUCCESS;
}

CUresult stream_enqueue_marked(Stream *stream, Operation *operation, Point *point)
{
    bool dropped = atomic_load(&stream->capture) != CAPTURE_NONE;
    pthread_mutex_lock(&stream_lock);
    CUresult result = dropped ? CUDA_SUCCESS : append(stream, operation);
    if (result == CUDA_SUCCESS && point != NULL) {
        object_get(&stream->object);
        *point = (Point){stream, stream->enqueued};
    }
    pthread_mutex_unlock(&stream_lock);
    if (dropped || result != CUDA_SUCCESS) {
        points_release(operation->waits, operation->wait_count);
        if (operation->release != NULL) {
            operation->release(operation);
        }
        free(operation);
    }
    return result;
}

CUresult stream_enqueue(Stream *stream, Operation *operation)
{
    return stream_enqueue_marked(stream, operation, NULL);
}

void stream_close(Object *object)
{
    Stream *stream = (Stream *)object;
    pthread_mutex_lock(&stream_lock);
    stream->closed = true;
    pthread_cond_signal(&stream->work);
    pthread_mutex_unlock(&stream_lock);
}

CUresult stream_tails(Stream *stream, Point **points, size_t *count)
{
    *points = NULL;
    *count = 0;
    pthread_mutex_lock(&stream_lock);
    bool complete = stream == stream->context->legacy
                        ? add_tails(stream->context, ordered_with_legacy, points, count)
                        : add_point(points, count, stream);
    pthread_mutex_unlock(&stream_lock);
    if (!complete) {
        points_release(*points, *count);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    return CUDA_SUCCESS;
}

CUresult context_tails(Context *context, Point **points, size_t *count)
{
    *points = NULL;
    *count = 0;
    pthread_mutex_lock(&stream_lock);
    bool complete = add_tails(context, NULL, points, count);
    pthread_mutex_unlock(&stream_lock);
    if (!complete) {
        points_release(*points, *count);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    return CUDA_SUCCESS;
}

void point_release(Point *point)
{
    if (point->stream != NULL) {
        object_put(&point->stream->object);
        point->stream = NULL;
    }
}

bool point_reached(const Point *point)
{
    return point->stream == NULL || atomic_load(&point->stream->completed) >= point->sequence;
}

void point_wait(const Point *point, unsigned context_flags)
{
    switch (context_flags & CU_CTX_SCHED_MASK) {
    case CU_CTX_SCHED_SPIN:
        /* The real driver reads the clock in this loop, and so shows up in a profile. */
        while (!point_reached(point)) {
            (void)clock_now_ns();
        }
        return;
    case CU_CTX_SCHED_YIELD:
        while (!point_reached(point)) {
            sched_yield();
        }
        return;
    default:
        pthread_mutex_lock(&stream_lock);
        while (!point_reached(point)) {
            pthread_cond_wait(&point->stream->progress, &stream_lock);
        }
        pthread_mutex_unlock(&stream_lock);
    }
}

void points_wait(Point *points, size_t count, unsigned context_flags)
{
    for (size_t i = 0; i < count; i++) {
        point_wait(&points[i], context_flags);
    }
    points_release(points, count);
}

void points_release(Point *points, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        point_release(&points[i]);
    }
    free(points);
}
