/* Contexts and the per-thread stacks of them. */
#include "context.h"

#include <stdlib.h>
#include <string.h>

#include "cuda_api.h"
#include "memory.h"
#include "module.h"
#include "process.h"
#include "stream.h"

#define STACK_DEPTH 128

/* Handles, not references: a context may be destroyed while it is current to other threads. */
static _Thread_local uint64_t stack[STACK_DEPTH];
static _Thread_local size_t depth;

static const size_t DEFAULT_LIMITS[CU_LIMIT_MAX] = {1024, 1 << 20, 8 << 20, 2, 2048, 64, 0, 0, 0, 0, 0};

CUcontext context_handle(const Context *context)
{
    return (CUcontext)(uintptr_t)context->object.handle;
}

CUresult context_look_up(CUcontext handle, Context **context)
{
    Object *object;
    switch (object_look_up((uint64_t)(uintptr_t)handle, OBJECT_CONTEXT, &object)) {
    case LOOKUP_FOUND:
        *context = (Context *)object;
        return CUDA_SUCCESS;
    case LOOKUP_STALE:
        return CUDA_ERROR_CONTEXT_IS_DESTROYED;
    default:
        return CUDA_ERROR_INVALID_CONTEXT;
    }
}

CUresult context_current(Context **context)
{
    if (depth == 0) {
        return CUDA_ERROR_INVALID_CONTEXT;
    }
    return context_look_up((CUcontext)(uintptr_t)stack[depth - 1], context);
}

CUresult context_failure(Context *context)
{
    CUresult failure = (CUresult)atomic_load(&process.sticky_error);
    return failure != CUDA_SUCCESS ? failure : (CUresult)atomic_load(&context->error);
}

void context_fail(Context *context, CUresult error)
{
    int none = CUDA_SUCCESS;
    _Atomic int *place = error == CUDA_ERROR_ASSERT ? &context->error : &process.sticky_error;
    atomic_compare_exchange_strong(place, &none, (int)error);
}

void context_busy_begin(Context *context, int accelerator)
{
    atomic_fetch_add(&context->running[accelerator], 1);
    process_busy_begin(accelerator);
}

void context_busy_end(Context *context, int accelerator)
{
    process_busy_end(accelerator);
    atomic_fetch_sub(&context->running[accelerator], 1);
}

bool context_busy_beside(Context *context, int accelerator)
{
    for (int other = 0; other < STATE_ACCELERATORS; other++) {
        if (other != accelerator && atomic_load(&context->running[other]) != 0) {
            return true;
        }
    }
    return false;
}

static void free_context(Object *object)
{
    free(object);
}

CUresult context_create(int device, unsigned flags, Context **created)
{
    Context *context = calloc(1, sizeof *context);
    if (context == NULL) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    context->device = device;
    atomic_store(&context->flags, flags);
    for (int limit = 0; limit < CU_LIMIT_MAX; limit++) {
        atomic_store(&context->limits[limit], DEFAULT_LIMITS[limit]);
    }
    if (object_publish(&context->object, OBJECT_CONTEXT, NULL, free_context) == 0) {
        free(context);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    CUresult result = stream_create(context, 0, 0, &context->legacy);
    if (result != CUDA_SUCCESS) {
        object_retire(&context->object);
        return result;
    }
    object_put(&context->legacy->object); /* the context keeps it alive; nobody else knows of either yet */
    *created = context;
    return CUDA_SUCCESS;
}

static void wait_for_all(Context *context)
{
    Point *points;
    size_t count;
    if (context_tails(context, &points, &count) == CUDA_SUCCESS) {
        points_wait(points, count, atomic_load(&context->flags));
    }
}

void context_destroy(Context *context)
{
    wait_for_all(context);
    if (!object_retire(&context->object)) {
        return; /* another thread destroyed it meanwhile */
    }
    pthread_mutex_lock(&stream_lock);
    context->legacy = NULL;
    pthread_mutex_unlock(&stream_lock);
    object_retire_owned(OBJECT_STREAM, &context->object, stream_close);
    wait_for_all(context); /* what was queued before the streams were closed */
    object_retire_owned(OBJECT_EVENT, &context->object, NULL);
    object_retire_owned(OBJECT_MODULE, &context->object, module_retire_functions);
    memory_free_owned(context);
}

static CUresult push(CUcontext handle)
{
    if (depth == STACK_DEPTH) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    stack[depth++] = (uint64_t)(uintptr_t)handle;
    return CUDA_SUCCESS;
}

bool context_flags_valid(unsigned flags)
{
    unsigned schedule = flags & CU_CTX_SCHED_MASK;
    bool one_way = (schedule & (schedule - 1)) == 0;
    return one_way && (flags & ~CU_CTX_FLAGS_MASK) == 0;
}

static CUresult create_and_push(CUcontext *handle, unsigned flags, CUdevice device)
{
    Context *context;
    CUresult result = gate(CALL_CONTEXT_CREATE);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (handle == NULL || !context_flags_valid(flags)) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (device < 0 || device >= process.device_count) {
        return CUDA_ERROR_INVALID_DEVICE;
    }
    result = context_create(device, flags, &context);
    if (result == CUDA_SUCCESS) {
        *handle = context_handle(context);
        result = push(*handle);
    }
    return result;
}

CUresult cuCtxCreate_v2(CUcontext *context, unsigned flags, CUdevice device)
{
    return create_and_push(context, flags, device);
}

CUresult cuCtxCreate_v3(CUcontext *context, void *affinities, int affinity_count, unsigned flags, CUdevice device)
{
    if (affinities != NULL || affinity_count != 0) {
        return CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY;
    }
    return create_and_push(context, flags, device);
}

CUresult cuCtxCreate_v4(CUcontext *context, void *parameters, unsigned flags, CUdevice device)
{
    if (parameters != NULL) {
        return CUDA_ERROR_NOT_SUPPORTED; /* execution affinity and graphics sharing */
    }
    return create_and_push(context, flags, device);
}

CUresult cuCtxDestroy_v2(CUcontext handle)
{
    Context *context;
    CUresult result = gate(CALL_CONTEXT_DESTROY);
    if (result == CUDA_SUCCESS) {
        result = context_look_up(handle, &context);
    }
    if (result != CUDA_SUCCESS) {
        return result;
    }
    context_destroy(context);
    if (depth > 0 && stack[depth - 1] == context->object.handle) {
        depth--;
    }
    object_put(&context->object);
    return CUDA_SUCCESS;
}

CUresult cuCtxPushCurrent_v2(CUcontext handle)
{
    Context *context;
    CUresult result = gate(CALL_OTHER);
    if (result == CUDA_SUCCESS) {
        result = context_look_up(handle, &context);
    }
    if (result == CUDA_SUCCESS) {
        result = push(handle);
        object_put(&context->object);
    }
    return result;
}

CUresult cuCtxPopCurrent_v2(CUcontext *handle)
{
    CUresult result = gate(CALL_OTHER);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (depth == 0) {
        return CUDA_ERROR_INVALID_CONTEXT;
    }
    depth--;
    if (handle != NULL) {
        *handle = (CUcontext)(uintptr_t)stack[depth];
    }
    return CUDA_SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext handle)
{
    CUresult result = gate(CALL_OTHER);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (handle == NULL) {
        depth = depth > 0 ? depth - 1 : 0;
        return CUDA_SUCCESS;
    }
    Context *context;
    result = context_look_up(handle, &context);
    if (result == CUDA_SUCCESS) {
        depth = depth > 0 ? depth - 1 : 0;
        result = push(handle);
        object_put(&context->object);
    }
    return result;
}

CUresult cuCtxGetCurrent(CUcontext *handle)
{
    CUresult result = gate(CALL_OTHER);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (handle == NULL) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    *handle = depth == 0 ? NULL : (CUcontext)(uintptr_t)stack[depth - 1];
    return CUDA_SUCCESS;
}
