/* The part of the CUDA driver's interface that these programs use, from whatever library they are told. */
#pragma once
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

typedef void *Handle;

struct api {
    int (*init)(unsigned flags);
    int (*device)(int *device, int ordinal);
    int (*retain)(Handle *context, int device);
    int (*set_current)(Handle context);
    int (*load)(Handle *module, const void *image);
    int (*function)(Handle *function, Handle module, const char *name);
    int (*make_stream)(Handle *stream, unsigned flags);
    int (*synchronize)(Handle stream);
    int (*launch)(Handle function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                  Handle stream, void **parameters, void **extra);
};

static void *must(void *found, const char *what)
{
    if (!found) {
        fprintf(stderr, "%s: %s\n", what, dlerror());
        exit(1);
    }
    return found;
}

static void check(int result, const char *what)
{
    if (result) {
        fprintf(stderr, "%s: CUresult %d\n", what, result);
        exit(1);
    }
}

static struct api api_of(void *library)
{
    struct api api;
#define GET(field, name) *(void **)&api.field = must(dlsym(library, name), name)
    GET(init, "cuInit");
    GET(device, "cuDeviceGet");
    GET(retain, "cuDevicePrimaryCtxRetain");
    GET(set_current, "cuCtxSetCurrent");
    GET(load, "cuModuleLoadData");
    GET(function, "cuModuleGetFunction");
    GET(make_stream, "cuStreamCreate");
    GET(synchronize, "cuStreamSynchronize");
    GET(launch, "cuLaunchKernel");
#undef GET
    return api;
}

static inline int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}
