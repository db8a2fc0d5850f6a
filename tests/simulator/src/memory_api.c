/* Allocating, pinning and freeing. */
#include <stdlib.h>

#include "cuda_api.h"
#include "memory.h"
#include "process.h"
#include "stream.h"

#define ALIGNMENT 256

static uint64_t used_on_device(void)
{
    uint64_t used = 0;
    for (int slot = 0; slot < STATE_PROCESSES; slot++) {
        used += atomic_load(&process.state->processes[slot].memory_bytes);
    }
    return used < MEMORY_TOTAL_BYTES ? used : MEMORY_TOTAL_BYTES;
}

static CUresult allocate(enum Call call, enum MemoryKind kind, uint64_t size, uint64_t *address)
{
    Context *context;
    CUresult result = gate_context(call, &context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    Allocation allocation = {0, size, kind, context->object.handle};
    object_put(&context->object);
    if (address == NULL || size == 0) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (size > MEMORY_TOTAL_BYTES - used_on_device()) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    void *memory = aligned_alloc(ALIGNMENT, (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
    if (memory == NULL) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    allocation.base = (uint64_t)(uintptr_t)memory;
    result = memory_insert(&allocation);
    if (result != CUDA_SUCCESS) {
        free(memory);
        return result;
    }
    process_add_memory((int64_t)size);
    *address = allocation.base;
    return CUDA_SUCCESS;
}

CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t size)
{
    return allocate(CALL_ALLOC, MEMORY_DEVICE, size, (uint64_t *)address);
}

CUresult cuMemAllocManaged(CUdeviceptr *address, size_t size, unsigned flags)
{
    if (flags != 1 && flags != 2) { /* CU_MEM_ATTACH_GLOBAL, CU_MEM_ATTACH_HOST */
        return CUDA_ERROR_INVALID_VALUE;
    }
    return allocate(CALL_ALLOC_MANAGED, MEMORY_MANAGED, size, (uint64_t *)address);
}

CUresult cuMemHostAlloc(void **address, size_t size, unsigned flags)
{
    uint64_t base;
    if (address == NULL || (flags & ~7u) != 0) { /* portable, mapped, write-combined */
        return CUDA_ERROR_INVALID_VALUE;
    }
    CUresult result = allocate(CALL_ALLOC_HOST, MEMORY_HOST, size, &base);
    if (result == CUDA_SUCCESS) {
        *address = (void *)(uintptr_t)base;
    }
    return result;
}

CUresult cuMemAllocHost_v2(void **address, size_t size)
{
    return cuMemHostAlloc(address, size, 0);
}

static CUresult wait_for_context(CUcontext handle)
{
    Context *context;
    Point *points;
    size_t count;
    if (context_look_up(handle, &context) != CUDA_SUCCESS) {
        return CUDA_SUCCESS; /* destroyed meanwhile, and its memory with it */
    }
    CUresult result = context_tails(context, &points, &count);
    if (result == CUDA_SUCCESS) {
        points_wait(points, count, atomic_load(&context->flags));
        result = context_failure(context);
    }
    object_put(&context->object);
    return result;
}

/* Freeing waits for all work of the context the memory belongs to, as the real driver's does. */
static CUresult free_synchronously(enum Call call, uint64_t address, unsigned kinds)
{
    Context *context;
    Allocation allocation;
    CUresult result = gate_context(call, &context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    object_put(&context->object);
    if (address == 0) {
        return CUDA_SUCCESS;
    }
    if (!memory_find(address, 1, kinds, &allocation) || allocation.base != address) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    result = wait_for_context((CUcontext)(uintptr_t)allocation.context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (!memory_take(address, kinds, &allocation)) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    memory_give_back(&allocation);
    return CUDA_SUCCESS;
}

CUresult cuMemFree_v2(CUdeviceptr address)
{
    return free_synchronously(CALL_FREE, address, MEMORY_ON_DEVICE);
}

CUresult cuMemFreeHost(void *address)
{
    return free_synchronously(CALL_FREE_HOST, (uint64_t)(uintptr_t)address, MEMORY_HOST);
}

CUresult cuMemAllocAsync(CUdeviceptr *address, size_t size, CUstream handle)
{
    Context *context;
    Stream *stream;
    CUresult result = gate_context(CALL_ALLOC_ASYNC, &context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    result = stream_look_up(handle, context, &stream);
    object_put(&context->object);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    object_put(&stream->object);
    /* The address is known at once; that it may be used only in stream order is the caller's part. */
    return allocate(CALL_OTHER, MEMORY_DEVICE, size, (uint64_t *)address);
}

typedef struct {
    Operation operation;
    uint64_t address;
} FreeOperation;

static CUresult run_free(Operation *operation, CUresult failure)
{
    (void)failure;
    Allocation allocation;
    if (memory_take(((FreeOperation *)operation)->address, MEMORY_DEVICE, &allocation)) {
        memory_give_back(&allocation);
    }
    return CUDA_SUCCESS;
}

CUresult cuMemFreeAsync(CUdeviceptr address, CUstream handle)
{
    Context *context;
    Stream *stream;
    Allocation allocation;
    CUresult result = gate_context(CALL_FREE_ASYNC, &context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    result = stream_look_up(handle, context, &stream);
    object_put(&context->object);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    FreeOperation *operation = operation_create(sizeof *operation, stream, run_free);
    if (operation == NULL) {
        result = CUDA_ERROR_OUT_OF_MEMORY;
    } else if (!memory_find(address, 1, MEMORY_DEVICE, &allocation) || allocation.base != address) {
        free(operation);
        result = CUDA_ERROR_INVALID_VALUE;
    } else {
        operation->operation.always = true;
        operation->address = address;
        result = stream_enqueue(stream, &operation->operation);
    }
    object_put(&stream->object);
    return result;
}

CUresult cuMemHostRegister_v2(void *address, size_t size, unsigned flags)
{
    Context *context;
    CUresult result = gate_context(CALL_HOST_REGISTER, &context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    Allocation allocation = {(uint64_t)(uintptr_t)address, size, MEMORY_REGISTERED, context->object.handle};
    object_put(&context->object);
    if (address == NULL || size == 0 || (flags & ~15u) != 0) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    return memory_insert(&allocation);
}

CUresult cuMemHostUnregister(void *address)
{
    Allocation allocation;
    CUresult result = gate(CALL_HOST_UNREGISTER);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    bool was_registered = memory_take((uint64_t)(uintptr_t)address, MEMORY_REGISTERED, &allocation);
    return was_registered ? CUDA_SUCCESS : CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
}

CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr *device_address, void *address, unsigned flags)
{
    CUresult result = gate(CALL_OTHER);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    uint64_t value = (uint64_t)(uintptr_t)address;
    if (device_address == NULL || flags != 0 || !memory_find(value, 1, MEMORY_HOST | MEMORY_REGISTERED, NULL)) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    *device_address = value;
    return CUDA_SUCCESS;
}

CUresult cuMemGetAddressRange_v2(CUdeviceptr *base, size_t *size, CUdeviceptr address)
{
    Allocation allocation;
    CUresult result = gate(CALL_OTHER);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (!memory_find(address, 1, MEMORY_ANY, &allocation)) {
        return CUDA_ERROR_NOT_FOUND;
    }
    if (base != NULL) {
        *base = allocation.base;
    }
    if (size != NULL) {
        *size = allocation.size;
    }
    return CUDA_SUCCESS;
}

CUresult cuMemGetInfo_v2(size_t *free_bytes, size_t *total_bytes)
{
    Context *context;
    CUresult result = gate_context(CALL_MEM_INFO, &context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    object_put(&context->object);
    if (free_bytes == NULL || total_bytes == NULL) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    *free_bytes = MEMORY_TOTAL_BYTES - used_on_device();
    *total_bytes = MEMORY_TOTAL_BYTES;
    return CUDA_SUCCESS;
}
