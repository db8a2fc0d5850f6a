/*
 * A thin double of NVIDIA's libcudart, of what examples/cpp calls: it goes to the driver the way the real one does, a
 * dlopen of libcuda.so.1 and everything else by cuGetProcAddress. It is compiled against the real headers, so that each
 * signature is the real one, and has the real version node, so that a program linked with the real library runs on it.
 *
 * Why not the real one: before its first call it has the driver prove, by a keyed hash, that it is NVIDIA's.
 */
#define _GNU_SOURCE
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define DRIVER_CALLS(CALL) \
    CALL(cuInit) \
    CALL(cuGetErrorString) \
    CALL(cuDevicePrimaryCtxRetain) \
    CALL(cuCtxSetCurrent) \
    CALL(cuMemAlloc) \
    CALL(cuMemFree) \
    CALL(cuMemHostAlloc) \
    CALL(cuMemFreeHost) \
    CALL(cuMemcpyHtoDAsync) \
    CALL(cuMemcpyDtoHAsync) \
    CALL(cuMemsetD8Async) \
    CALL(cuStreamCreate) \
    CALL(cuStreamDestroy) \
    CALL(cuStreamSynchronize) \
    CALL(cuLaunchHostFunc)

/* The name that is looked up has no suffix; the type is that of the version which cuda.h makes of it. */
#define DECLARE(name) static __typeof__(&name) name##_;
DRIVER_CALLS(DECLARE)

static pthread_once_t once = PTHREAD_ONCE_INIT;
static CUcontext primary; /* of device 0, the only one here */
static CUresult start_failed;
static _Thread_local int has_context;

static void find(const char *name, void *into)
{
    static __typeof__(&cuGetProcAddress) get;
    static void *driver;
    if (driver == NULL) {
        driver = dlopen("libcuda.so.1", RTLD_NOW);
        get = driver == NULL ? NULL : (__typeof__(get))dlsym(driver, "cuGetProcAddress_v2");
    }
    if (get == NULL || get(name, into, CUDA_VERSION, CU_GET_PROC_ADDRESS_DEFAULT, NULL) != CUDA_SUCCESS) {
        fprintf(stderr, "double of libcudart: no %s: %s\n", name, driver == NULL ? dlerror() : "not in the driver");
        exit(1);
    }
}

static void start(void)
{
#define FIND(name) find(#name, &name##_);
    DRIVER_CALLS(FIND)
    start_failed = cuInit_(0);
    if (start_failed == CUDA_SUCCESS) {
        start_failed = cuDevicePrimaryCtxRetain_(&primary, 0);
    }
}

/* The runtime's error numbers are the driver's. */
static cudaError_t ready(void)
{
    pthread_once(&once, start);
    if (start_failed == CUDA_SUCCESS && !has_context) {
        CUresult result = cuCtxSetCurrent_(primary);
        has_context = result == CUDA_SUCCESS;
        return (cudaError_t)result;
    }
    return (cudaError_t)start_failed;
}

#define RETURN(call) \
    do { \
        cudaError_t begun = ready(); \
        return begun != cudaSuccess ? begun : (cudaError_t)(call); \
    } while (0)

#define ADDRESS(pointer) ((CUdeviceptr)(uintptr_t)(pointer))

const char *cudaGetErrorString(cudaError_t error)
{
    const char *text = NULL;
    return ready() == cudaSuccess && cuGetErrorString_((CUresult)error, &text) == CUDA_SUCCESS ? text : "unknown error";
}

cudaError_t cudaMalloc(void **address, size_t size)
{
    RETURN(cuMemAlloc_((CUdeviceptr *)address, size));
}

cudaError_t cudaFree(void *address)
{
    RETURN(cuMemFree_(ADDRESS(address)));
}

cudaError_t cudaMallocHost(void **address, size_t size)
{
    RETURN(cuMemHostAlloc_(address, size, 0));
}

cudaError_t cudaFreeHost(void *address)
{
    RETURN(cuMemFreeHost_(address));
}

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    RETURN(cuStreamCreate_(stream, CU_STREAM_DEFAULT));
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    RETURN(cuStreamDestroy_(stream));
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    RETURN(cuStreamSynchronize_(stream));
}

cudaError_t cudaMemcpyAsync(void *target, const void *source, size_t size, enum cudaMemcpyKind kind, cudaStream_t stream)
{
    switch (kind) {
    case cudaMemcpyHostToDevice:
        RETURN(cuMemcpyHtoDAsync_(ADDRESS(target), source, size, stream));
    case cudaMemcpyDeviceToHost:
        RETURN(cuMemcpyDtoHAsync_(target, ADDRESS(source), size, stream));
    default:
        return cudaErrorInvalidMemcpyDirection;
    }
}

cudaError_t cudaMemsetAsync(void *target, int value, size_t count, cudaStream_t stream)
{
    RETURN(cuMemsetD8Async_(ADDRESS(target), (unsigned char)value, count, stream));
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data)
{
    RETURN(cuLaunchHostFunc_(stream, function, data));
}
