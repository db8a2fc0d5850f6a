/* The driver's types as its ABI has them, as far as the simulator uses them. */
#ifndef SIMULATOR_CUDA_TYPES_H
#define SIMULATOR_CUDA_TYPES_H

#include <stddef.h>
#include <stdint.h>

typedef enum {
    CUDA_SUCCESS = 0,
#define RESULT(name, value, text) CUDA_ERROR_##name = value,
#include "results.def"
#undef RESULT
} CUresult;

typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
typedef struct CUlib_st *CUlibrary;
typedef struct CUkern_st *CUkernel;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef struct {
    char bytes[16];
} CUuuid;
typedef void (*CUhostFn)(void *user_data);
typedef void (*CUstreamCallback)(CUstream stream, CUresult status, void *user_data);

typedef struct {
    unsigned gridDimX, gridDimY, gridDimZ;
    unsigned blockDimX, blockDimY, blockDimZ;
    unsigned sharedMemBytes;
    CUstream hStream;
    void *attrs;
    unsigned numAttrs;
} CUlaunchConfig;

#define CU_CTX_SCHED_AUTO 0u
#define CU_CTX_SCHED_SPIN 1u
#define CU_CTX_SCHED_YIELD 2u
#define CU_CTX_SCHED_BLOCKING_SYNC 4u
#define CU_CTX_SCHED_MASK 7u
#define CU_CTX_FLAGS_MASK 0xFFu

#define CU_STREAM_LEGACY ((CUstream)0x1)
#define CU_STREAM_PER_THREAD ((CUstream)0x2)
#define CU_STREAM_NON_BLOCKING 1u

#define CU_EVENT_BLOCKING_SYNC 1u
#define CU_EVENT_DISABLE_TIMING 2u
#define CU_EVENT_FLAGS_MASK 7u

#define CU_LIMIT_MAX 11

#define CU_GET_PROC_ADDRESS_SUCCESS 0
#define CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND 1
#define CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT 2
#define CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM 2u

#endif
