/* Launching kernels. */
#include <stdlib.h>

#include "cuda_api.h"
#include "kernel.h"
#include "module.h"
#include "process.h"
#include "stream.h"

#define THREADS_PER_BLOCK 1024

typedef struct {
    Operation operation;
    enum KernelBody body;
    KernelArguments arguments;
} LaunchOperation;

static CUresult run_kernel(Operation *operation, CUresult failure)
{
    (void)failure;
    const LaunchOperation *launch = (const LaunchOperation *)operation;
    return kernel_compute(launch->body, &launch->arguments);
}

static bool dimensions_valid(const CUlaunchConfig *config)
{
    uint64_t blocks = (uint64_t)config->gridDimX * config->gridDimY * config->gridDimZ;
    uint64_t threads = (uint64_t)config->blockDimX * config->blockDimY * config->blockDimZ;
    return blocks > 0 && threads > 0 && config->blockDimX <= THREADS_PER_BLOCK &&
           config->blockDimY <= THREADS_PER_BLOCK && threads <= THREADS_PER_BLOCK;
}

static CUresult queue_kernel(Stream *stream, const Kernel *kernel, void **parameters)
{
    LaunchOperation *launch = operation_create(sizeof *launch, stream, run_kernel);
    if (launch == NULL) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (!kernel_read_arguments(kernel->body, parameters, &launch->arguments)) {
        free(launch);
        return CUDA_ERROR_INVALID_VALUE;
    }
    launch->body = kernel->body;
    launch->operation.on_device = true;
    launch->operation.duration_ns = kernel->duration_ns;
    launch->operation.endless = kernel->endless;
    if (kernel->dla >= 0) {
        launch->operation.accelerator = STATE_GPUS + kernel->dla;
    }
    return stream_enqueue(stream, &launch->operation);
}

static CUresult launch_in(Context *context, const CUlaunchConfig *config, CUfunction handle, void **parameters)
{
    Stream *stream;
    Function *function;
    CUresult result = function_look_up((uint64_t)(uintptr_t)handle, &function);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    result = stream_look_up(config->hStream, context, &stream);
    if (result == CUDA_SUCCESS) {
        uint64_t place = stream->context->object.handle;
        if (place != (function->context == 0 ? context->object.handle : function->context)) {
            result = CUDA_ERROR_INVALID_HANDLE; /* stream and function of different contexts */
        } else {
            result = queue_kernel(stream, &function->kernel, parameters);
        }
        object_put(&stream->object);
    }
    object_put(&function->object);
    return result;
}

CUresult cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction function, void **parameters, void **extra)
{
    Context *context;
    CUresult result = gate_context(CALL_LAUNCH, &context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (config == NULL || !dimensions_valid(config)) {
        result = CUDA_ERROR_INVALID_VALUE;
    } else if (extra != NULL) {
        result = CUDA_ERROR_NOT_SUPPORTED; /* arguments packed in a buffer */
    } else {
        result = launch_in(context, config, function, parameters);
    }
    object_put(&context->object);
    return result;
}

CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                        unsigned block_y, unsigned block_z, unsigned shared_bytes, CUstream stream, void **parameters,
                        void **extra)
{
    const CUlaunchConfig config = {grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes, stream, NULL, 0};
    return cuLaunchKernelEx(&config, function, parameters, extra);
}
