/* Devices and their primary contexts. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "context.h"
#include "cuda_api.h"
#include "memory.h"
#include "process.h"

#define NAME "Simulated Orin (no GPU)"
#define ATTRIBUTE_MAX 160

/* As an AGX Orin 64GB has them; what is not here is 0. */
static const struct {
    int attribute;
    int value;
} ATTRIBUTES[] = {
    {1, 1024},        /* threads per block */
    {2, 1024},        /* block dimensions */
    {3, 1024},
    {4, 64},
    {5, 2147483647},  /* grid dimensions */
    {6, 65535},
    {7, 65535},
    {8, 49152},       /* shared memory per block */
    {10, 32},         /* warp size */
    {13, 1300000},    /* clock in kHz */
    {15, 1},          /* copies overlap with kernels */
    {16, 16},         /* multiprocessors */
    {18, 1},          /* integrated */
    {19, 1},          /* maps host memory */
    {31, 1},          /* concurrent kernels */
    {36, 1300000},    /* memory clock in kHz */
    {37, 256},        /* memory bus width in bits */
    {38, 4194304},    /* L2 bytes */
    {39, 1536},       /* threads per multiprocessor */
    {40, 2},          /* copy engines */
    {41, 1},          /* unified addressing */
    {75, 8},          /* compute capability 8.7 */
    {76, 7},
    {78, 1},          /* stream priorities */
    {83, 1},          /* managed memory */
    {115, 1},         /* memory pools */
};

static CUresult check(CUdevice device)
{
    CUresult result = gate(CALL_OTHER);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    return device >= 0 && device < process.device_count ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
    CUresult result = check(ordinal);
    if (result == CUDA_SUCCESS && device == NULL) {
        result = CUDA_ERROR_INVALID_VALUE;
    }
    if (result == CUDA_SUCCESS) {
        *device = ordinal;
    }
    return result;
}

CUresult cuDeviceGetCount(int *count)
{
    CUresult result = gate(CALL_OTHER);
    if (result == CUDA_SUCCESS && count == NULL) {
        result = CUDA_ERROR_INVALID_VALUE;
    }
    if (result == CUDA_SUCCESS) {
        *count = process.device_count;
    }
    return result;
}

CUresult cuDeviceGetName(char *name, int length, CUdevice device)
{
    CUresult result = check(device);
    if (result == CUDA_SUCCESS && (name == NULL || length <= 0)) {
        result = CUDA_ERROR_INVALID_VALUE;
    }
    if (result == CUDA_SUCCESS) {
        snprintf(name, (size_t)length, "%s", NAME);
    }
    return result;
}

CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device)
{
    CUresult result = check(device);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (value == NULL || attribute < 1 || attribute > ATTRIBUTE_MAX) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    *value = 0;
    for (size_t i = 0; i < sizeof ATTRIBUTES / sizeof ATTRIBUTES[0]; i++) {
        if (ATTRIBUTES[i].attribute == attribute) {
            *value = ATTRIBUTES[i].value;
        }
    }
    return CUDA_SUCCESS;
}

CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device)
{
    CUresult result = check(device);
    if (result == CUDA_SUCCESS && bytes == NULL) {
        result = CUDA_ERROR_INVALID_VALUE;
    }
    if (result == CUDA_SUCCESS) {
        *bytes = MEMORY_TOTAL_BYTES;
    }
    return result;
}

CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device)
{
    CUresult result = check(device);
    if (result == CUDA_SUCCESS && uuid == NULL) {
        result = CUDA_ERROR_INVALID_VALUE;
    }
    if (result == CUDA_SUCCESS) {
        memcpy(uuid->bytes, "simulated-orin-0", sizeof uuid->bytes);
        uuid->bytes[15] = (char)('0' + device);
    }
    return result;
}

CUresult cuDeviceGetUuid(CUuuid *uuid, CUdevice device)
{
    return cuDeviceGetUuid_v2(uuid, device);
}

typedef struct {
    Context *context; /* referenced while retained */
    unsigned retained;
    unsigned flags; /* for when it is next created */
} Primary;

static pthread_mutex_t primary_lock = PTHREAD_MUTEX_INITIALIZER;
static Primary primaries[STATE_GPUS];

CUresult cuDevicePrimaryCtxRetain(CUcontext *handle, CUdevice device)
{
    CUresult result = gate(CALL_PRIMARY_RETAIN);
    if (result == CUDA_SUCCESS) {
        result = check(device);
    }
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (handle == NULL) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    pthread_mutex_lock(&primary_lock);
    Primary *primary = &primaries[device];
    if (primary->context == NULL) {
        result = context_create(device, primary->flags, &primary->context);
        if (result == CUDA_SUCCESS) {
            object_get(&primary->context->object);
        }
    }
    if (result == CUDA_SUCCESS) {
        primary->retained++;
        *handle = context_handle(primary->context);
    }
    pthread_mutex_unlock(&primary_lock);
    return result;
}

/* Takes the context out of its place once nobody retains it; NULL while somebody does. */
static Context *take_primary(CUdevice device, bool whatever_is_retained)
{
    Primary *primary = &primaries[device];
    Context *context = NULL;
    if (primary->retained > 0) {
        primary->retained = whatever_is_retained ? 0 : primary->retained - 1;
        if (primary->retained == 0) {
            context = primary->context;
            primary->context = NULL;
        }
    }
    return context;
}

static void end_primary(Context *context)
{
    if (context != NULL) {
        context_destroy(context);
        object_put(&context->object);
    }
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device)
{
    CUresult result = gate(CALL_PRIMARY_RELEASE);
    if (result == CUDA_SUCCESS) {
        result = check(device);
    }
    if (result != CUDA_SUCCESS) {
        return result;
    }
    pthread_mutex_lock(&primary_lock);
    bool was_retained = primaries[device].retained > 0;
    Context *context = take_primary(device, false);
    pthread_mutex_unlock(&primary_lock);
    end_primary(context);
    return was_retained ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}

CUresult cuDevicePrimaryCtxReset_v2(CUdevice device)
{
    CUresult result = check(device);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    pthread_mutex_lock(&primary_lock);
    Context *context = take_primary(device, true);
    pthread_mutex_unlock(&primary_lock);
    end_primary(context);
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active)
{
    CUresult result = check(device);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (flags == NULL || active == NULL) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    pthread_mutex_lock(&primary_lock);
    *flags = primaries[device].flags;
    *active = primaries[device].context != NULL;
    pthread_mutex_unlock(&primary_lock);
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice device, unsigned flags)
{
    CUresult result = check(device);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (!context_flags_valid(flags)) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    pthread_mutex_lock(&primary_lock);
    primaries[device].flags = flags;
    if (primaries[device].context != NULL) {
        atomic_store(&primaries[device].context->flags, flags);
    }
    pthread_mutex_unlock(&primary_lock);
    return CUDA_SUCCESS;
}
