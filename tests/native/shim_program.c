/*
 * An unmodified CUDA program, which finds the driver in one of the ways that programs do:
 *
 *     shim_program link|dlsym|deepbind|proc_address
 *
 * It makes one call of each kind, in two threads, then says which path the driver's cuMemFree has in the dynamic linker's eyes.
 */
#define _GNU_SOURCE 1
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_api.h"

#define CALLS(CALL) \
    CALL(cuInit, 2000, cuInit) CALL(cuCtxCreate, 3020, cuCtxCreate_v2) CALL(cuCtxDestroy, 4000, cuCtxDestroy_v2) \
    CALL(cuCtxSetCurrent, 4000, cuCtxSetCurrent) CALL(cuCtxSynchronize, 2000, cuCtxSynchronize) \
    CALL(cuStreamCreate, 2000, cuStreamCreate) CALL(cuStreamDestroy, 4000, cuStreamDestroy_v2) \
    CALL(cuStreamSynchronize, 2000, cuStreamSynchronize) CALL(cuEventCreate, 2000, cuEventCreate) \
    CALL(cuEventRecord, 2000, cuEventRecord) CALL(cuEventSynchronize, 2000, cuEventSynchronize) \
    CALL(cuEventDestroy, 4000, cuEventDestroy_v2) CALL(cuMemAlloc, 3020, cuMemAlloc_v2) \
    CALL(cuMemFree, 3020, cuMemFree_v2) CALL(cuMemcpyHtoD, 3020, cuMemcpyHtoD_v2) \
    CALL(cuMemcpyHtoDAsync, 3020, cuMemcpyHtoDAsync_v2) CALL(cuMemsetD8, 3020, cuMemsetD8_v2) \
    CALL(cuModuleLoadData, 2000, cuModuleLoadData) CALL(cuModuleGetFunction, 2000, cuModuleGetFunction) \
    CALL(cuLaunchKernel, 4000, cuLaunchKernel) CALL(cuDriverGetVersion, 2020, cuDriverGetVersion)

static struct {
#define CALL(name, version, symbol) __typeof__(&symbol) name;
    CALLS(CALL)
#undef CALL
} cuda;

static CUcontext context;

static void check(CUresult result, const char *what)
{
    if (result != CUDA_SUCCESS) {
        fprintf(stderr, "%s: %d\n", what, (int)result);
        exit(1);
    }
}

#define DO(call) check(cuda.call, #call)

static void find(const char *way)
{
    if (strcmp(way, "link") == 0) {
#define CALL(name, version, symbol) cuda.name = symbol;
        CALLS(CALL)
#undef CALL
        return;
    }
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL | (strcmp(way, "deepbind") == 0 ? RTLD_DEEPBIND : 0));
    __typeof__(&cuGetProcAddress_v2) ask = library ? (__typeof__(ask))dlsym(library, "cuGetProcAddress_v2") : NULL;
    check(ask ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND, "dlopen");
    int by_name = strcmp(way, "proc_address") != 0;
#define CALL(name, version, symbol) \
    if (by_name) \
        cuda.name = (__typeof__(&symbol))dlsym(library, #symbol); \
    else \
        check(ask(#name, (void **)&cuda.name, version, 0, NULL), #name); \
    check(cuda.name ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND, #name);
    CALLS(CALL)
#undef CALL
}

static void *work(void *times)
{
    CUstream stream;
    CUevent event;
    CUdeviceptr address;
    CUmodule module;
    CUfunction function;
    char bytes[4096] = {0};
    DO(cuCtxSetCurrent(context));
    DO(cuStreamCreate(&stream, 0));
    DO(cuEventCreate(&event, 0));
    DO(cuModuleLoadData(&module, bytes));
    DO(cuModuleGetFunction(&function, module, "sim_sleep_us_20"));
    DO(cuMemAlloc(&address, sizeof bytes));
    for (int i = 0; i < *(int *)times; i++) {
        DO(cuMemcpyHtoD(address, bytes, sizeof bytes));
        DO(cuMemcpyHtoDAsync(address, bytes, sizeof bytes, stream));
        DO(cuMemsetD8(address, 0, sizeof bytes));
        DO(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL));
        DO(cuEventRecord(event, stream));
        DO(cuEventSynchronize(event));
        DO(cuStreamSynchronize(stream));
        DO(cuCtxSynchronize());
    }
    DO(cuMemFree(address));
    DO(cuEventDestroy(event));
    DO(cuStreamDestroy(stream));
    return NULL;
}

int main(int count, char **arguments)
{
    pthread_t thread;
    int few = 3, many = 7, version;
    if (count != 2)
        return 2;
    find(arguments[1]);
    DO(cuDriverGetVersion(&version));
    DO(cuInit(0));
    DO(cuCtxCreate(&context, 0, 0));
    work(&few);
    pthread_create(&thread, NULL, work, &many);
    pthread_join(thread, NULL);
    DO(cuCtxDestroy(context));
    return 0;
}
