/* What can be asked of a context. */
#include "context.h"
#include "cuda_api.h"
#include "process.h"

CUresult cuCtxGetDevice(CUdevice *device)
{
    Context *context;
    CUresult result = gate_context(CALL_OTHER, &context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (device == NULL) {
        result = CUDA_ERROR_INVALID_VALUE;
    } else {
        *device = context->device;
    }
    object_put(&context->object);
    return result;
}

CUresult cuCtxGetDevice_v2(CUdevice *device, CUcontext handle)
{
    Context *context;
    if (handle == NULL) {
        return cuCtxGetDevice(device);
    }
    CUresult result = gate(CALL_OTHER);
    if (result == CUDA_SUCCESS) {
        result = context_look_up(handle, &context);
    }
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (device == NULL) {
        result = CUDA_ERROR_INVALID_VALUE;
    } else {
        *device = context->device;
    }
    object_put(&context->object);
    return result;
}

CUresult cuCtxGetFlags(unsigned *flags)
{
    Context *context;
    CUresult result = gate_context(CALL_OTHER, &context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (flags == NULL) {
        result = CUDA_ERROR_INVALID_VALUE;
    } else {
        *flags = atomic_load(&context->flags);
    }
    object_put(&context->object);
    return result;
}

CUresult cuCtxGetId(CUcontext handle, unsigned long long *id)
{
    Context *context;
    CUresult result = handle == NULL ? gate_context(CALL_OTHER, &context) : gate(CALL_OTHER);
    if (result == CUDA_SUCCESS && handle != NULL) {
        result = context_look_up(handle, &context);
    }
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (id == NULL) {
        result = CUDA_ERROR_INVALID_VALUE;
    } else {
        *id = context->object.handle;
    }
    object_put(&context->object);
    return result;
}

CUresult cuCtxGetApiVersion(CUcontext handle, unsigned *version)
{
    unsigned long long id;
    if (version == NULL) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    CUresult result = cuCtxGetId(handle, &id); /* answers whether the context can be asked at all */
    if (result == CUDA_SUCCESS) {
        *version = 3020; /* that of cuCtxCreate_v2, which the later ones report too */
    }
    return result;
}

CUresult cuCtxGetLimit(size_t *value, int limit)
{
    Context *context;
    CUresult result = gate_context(CALL_OTHER, &context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (value == NULL) {
        result = CUDA_ERROR_INVALID_VALUE;
    } else if (limit < 0 || limit >= CU_LIMIT_MAX) {
        result = CUDA_ERROR_UNSUPPORTED_LIMIT;
    } else {
        *value = atomic_load(&context->limits[limit]);
    }
    object_put(&context->object);
    return result;
}

CUresult cuCtxSetLimit(int limit, size_t value)
{
    Context *context;
    CUresult result = gate_context(CALL_OTHER, &context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (limit < 0 || limit >= CU_LIMIT_MAX) {
        result = CUDA_ERROR_UNSUPPORTED_LIMIT;
    } else {
        atomic_store(&context->limits[limit], value);
    }
    object_put(&context->object);
    return result;
}
