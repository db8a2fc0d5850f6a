/* Copies and fills, in stream order. */
#include <stdlib.h>
#include <string.h>

#include "cuda_api.h"
#include "memory.h"
#include "process.h"
#include "stream.h"

enum Direction { HOST_TO_DEVICE, DEVICE_TO_HOST, DEVICE_TO_DEVICE, ANY_TO_ANY };

typedef struct {
    Operation operation;
    void *target;
    const void *source;
    size_t size;
    void *staged; /* a copy of pageable source memory, which the caller may change at once */
    bool to_host;
} CopyOperation;

typedef struct {
    Operation operation;
    void *target;
    uint32_t value;
    size_t width;
    size_t count;
} FillOperation;

/* Pinned memory is mapped, and so has a device address too; what the driver does not know is pageable. */
static bool on_device(uint64_t address, size_t size)
{
    return memory_find(address, size, MEMORY_ANY, NULL);
}

static bool valid(enum Direction direction, uint64_t target, uint64_t source, size_t size)
{
    bool target_is_device = direction == HOST_TO_DEVICE || direction == DEVICE_TO_DEVICE;
    bool source_is_device = direction == DEVICE_TO_HOST || direction == DEVICE_TO_DEVICE;
    return target != 0 && source != 0 && (!target_is_device || on_device(target, size)) &&
           (!source_is_device || on_device(source, size));
}

static CUresult run_copy(Operation *operation, CUresult failure)
{
    (void)failure;
    CopyOperation *copy = (CopyOperation *)operation;
    if (copy->to_host && fault_zeroes_copy()) {
        memset(copy->target, 0, copy->size);
    } else {
        memmove(copy->target, copy->source, copy->size);
    }
    return CUDA_SUCCESS;
}

static void release_copy(Operation *operation)
{
    free(((CopyOperation *)operation)->staged);
}

static CUresult make_copy(Stream *stream, enum Direction direction, uint64_t target, uint64_t source, size_t size,
                          CopyOperation **made)
{
    CopyOperation *copy = operation_create(sizeof *copy, stream, run_copy);
    if (copy == NULL) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    copy->operation.on_device = true;
    copy->operation.release = release_copy;
    copy->target = (void *)(uintptr_t)target;
    copy->source = (const void *)(uintptr_t)source;
    copy->size = size;
    copy->to_host = direction == DEVICE_TO_HOST ||
                    (direction == ANY_TO_ANY && !memory_find(target, size, MEMORY_ON_DEVICE, NULL));
    if (!on_device(source, size)) {
        copy->staged = malloc(size);
        if (copy->staged == NULL) {
            free(copy);
            return CUDA_ERROR_OUT_OF_MEMORY;
        }
        copy->source = memcpy(copy->staged, copy->source, size);
    }
    *made = copy;
    return CUDA_SUCCESS;
}

static CUresult queue_copy(Context *context, Stream *stream, enum Direction direction, uint64_t target, uint64_t source,
                           size_t size, bool wait)
{
    CopyOperation *copy;
    Point end;
    if (!valid(direction, target, source, size)) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    CUresult result = make_copy(stream, direction, target, source, size, &copy);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    result = stream_enqueue_marked(stream, &copy->operation, &end);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (wait) {
        point_wait(&end, atomic_load(&context->flags));
        result = context_failure(stream->context);
    }
    point_release(&end);
    return result;
}

static CUresult copy_synchronously(enum Direction direction, uint64_t target, uint64_t source, size_t size)
{
    Context *context;
    Stream *stream;
    CUresult result = gate_context(CALL_COPY, &context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (size > 0) {
        result = stream_look_up(NULL, context, &stream);
        if (result == CUDA_SUCCESS) {
            result = queue_copy(context, stream, direction, target, source, size, true);
            object_put(&stream->object);
        }
    }
    object_put(&context->object);
    return result;
}

static CUresult copy_in_stream(enum Direction direction, uint64_t target, uint64_t source, size_t size, CUstream handle)
{
    Context *context;
    Stream *stream;
    CUresult result = gate_context(CALL_COPY_ASYNC, &context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    result = stream_look_up(handle, context, &stream);
    if (result == CUDA_SUCCESS) {
        /* "For transfers from device memory to pageable host memory, the function will return only once the copy
         * has completed": an asynchronous copy that blocks, and so can hang. */
        bool wait = size > 0 && !on_device(target, size);
        if (size > 0) {
            result = queue_copy(context, stream, direction, target, source, size, wait);
        }
        object_put(&stream->object);
    }
    object_put(&context->object);
    return result;
}

CUresult cuMemcpyHtoD_v2(CUdeviceptr target, const void *source, size_t size)
{
    return copy_synchronously(HOST_TO_DEVICE, target, (uint64_t)(uintptr_t)source, size);
}

CUresult cuMemcpyDtoH_v2(void *target, CUdeviceptr source, size_t size)
{
    return copy_synchronously(DEVICE_TO_HOST, (uint64_t)(uintptr_t)target, source, size);
}

CUresult cuMemcpyDtoD_v2(CUdeviceptr target, CUdeviceptr source, size_t size)
{
    return copy_synchronously(DEVICE_TO_DEVICE, target, source, size);
}

CUresult cuMemcpy(CUdeviceptr target, CUdeviceptr source, size_t size)
{
    return copy_synchronously(ANY_TO_ANY, target, source, size);
}

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr target, const void *source, size_t size, CUstream stream)
{
    return copy_in_stream(HOST_TO_DEVICE, target, (uint64_t)(uintptr_t)source, size, stream);
}

CUresult cuMemcpyDtoHAsync_v2(void *target, CUdeviceptr source, size_t size, CUstream stream)
{
    return copy_in_stream(DEVICE_TO_HOST, (uint64_t)(uintptr_t)target, source, size, stream);
}

CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr target, CUdeviceptr source, size_t size, CUstream stream)
{
    return copy_in_stream(DEVICE_TO_DEVICE, target, source, size, stream);
}

CUresult cuMemcpyAsync(CUdeviceptr target, CUdeviceptr source, size_t size, CUstream stream)
{
    return copy_in_stream(ANY_TO_ANY, target, source, size, stream);
}

static CUresult run_fill(Operation *operation, CUresult failure)
{
    (void)failure;
    const FillOperation *fill = (const FillOperation *)operation;
    if (fill->width == 1) {
        memset(fill->target, (int)fill->value, fill->count);
    } else {
        for (size_t i = 0; i < fill->count; i++) {
            ((uint32_t *)fill->target)[i] = fill->value;
        }
    }
    return CUDA_SUCCESS;
}

/* Fills do not wait for the device, whether or not a stream is named. */
static CUresult fill(enum Call call, CUdeviceptr target, uint32_t value, size_t width, size_t count, CUstream handle)
{
    Context *context;
    Stream *stream;
    CUresult result = gate_context(call, &context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    result = stream_look_up(handle, context, &stream);
    object_put(&context->object);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (count > SIZE_MAX / width || target % width != 0 || !on_device(target, count * width)) {
        result = CUDA_ERROR_INVALID_VALUE;
    } else if (count > 0) {
        FillOperation *operation = operation_create(sizeof *operation, stream, run_fill);
        if (operation == NULL) {
            result = CUDA_ERROR_OUT_OF_MEMORY;
        } else {
            operation->operation.on_device = true;
            operation->target = (void *)(uintptr_t)target;
            operation->value = value;
            operation->width = width;
            operation->count = count;
            result = stream_enqueue(stream, &operation->operation);
        }
    }
    object_put(&stream->object);
    return result;
}

CUresult cuMemsetD8_v2(CUdeviceptr target, unsigned char value, size_t count)
{
    return fill(CALL_SET, target, value, 1, count, NULL);
}

CUresult cuMemsetD32_v2(CUdeviceptr target, unsigned value, size_t count)
{
    return fill(CALL_SET, target, value, 4, count, NULL);
}

CUresult cuMemsetD8Async(CUdeviceptr target, unsigned char value, size_t count, CUstream stream)
{
    return fill(CALL_SET_ASYNC, target, value, 1, count, stream);
}

CUresult cuMemsetD32Async(CUdeviceptr target, unsigned value, size_t count, CUstream stream)
{
    return fill(CALL_SET_ASYNC, target, value, 4, count, stream);
}
