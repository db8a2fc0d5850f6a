/*
 * The types of cuda.h that the driver's functions take, as far as calling them needs: no CUDA header is needed to build.
 *
 * Invariant: each has the size, and is passed in the registers, of the real one (a test compiles every row of functions.def
 * against the real header). What is only pointed to has no contents here.
 */
#ifndef WATCHDOGD_SHIM_TYPES_H
#define WATCHDOGD_SHIM_TYPES_H

#include <stddef.h>
#include <stdint.h>

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr, CUmemGenericAllocationHandle;
typedef uint32_t cuuint32_t;
typedef uint64_t cuuint64_t;

typedef unsigned CUjitInputType, CUjit_option, CUlibraryOption, CUlimit, CUmemAllocationHandleType, CUmemPool_attribute,
    CUmem_advise, CUgraphExecUpdateResult;

typedef void *CUarray, *CUcontext, *CUdevResourceDesc, *CUevent, *CUexternalMemory, *CUexternalSemaphore, *CUfunction,
    *CUgraph, *CUgraphExec, *CUgraphNode, *CUgraphicsResource, *CUgreenCtx, *CUkernel, *CUlibrary, *CUlinkState,
    *CUmemoryPool, *CUmipmappedArray, *CUmodule, *CUstream;

typedef void (*CUhostFn)(void *), (*CUstreamCallback)(CUstream, CUresult, void *);

typedef void CUDA_ARRAY3D_DESCRIPTOR, CUDA_ARRAY_DESCRIPTOR, CUDA_EXTERNAL_MEMORY_BUFFER_DESC,
    CUDA_EXTERNAL_MEMORY_HANDLE_DESC, CUDA_EXTERNAL_MEMORY_MIPMAPPED_ARRAY_DESC, CUDA_EXTERNAL_SEMAPHORE_SIGNAL_PARAMS,
    CUDA_EXTERNAL_SEMAPHORE_WAIT_PARAMS, CUDA_GRAPH_INSTANTIATE_PARAMS, CUDA_LAUNCH_PARAMS, CUDA_MEMCPY2D, CUDA_MEMCPY3D,
    CUDA_MEMCPY3D_BATCH_OP, CUDA_MEMCPY3D_PEER, CUarrayMapInfo, CUctxCreateParams, CUexecAffinityParam,
    CUgraphExecUpdateResultInfo, CUmemAccessDesc, CUmemAllocationProp, CUmemDecompressParams, CUmemPoolProps,
    CUmemPoolPtrExportData, CUmemcpyAttributes, CUmulticastObjectProp, CUstreamBatchMemOpParams;

/* By value. */
typedef struct {
    unsigned type;
    int id;
} CUmemLocation;

typedef struct {
    char reserved[64];
} CUipcMemHandle;

/* Looked into. */
typedef struct {
    unsigned grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes;
    CUstream stream;
} CUlaunchConfig;

enum {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_STUB_LIBRARY = 34, /* what NVIDIA's own stub of this library returns */
    CUDA_ERROR_INVALID_CONTEXT = 201,
    CUDA_ERROR_INVALID_HANDLE = 400,
    CUDA_ERROR_NOT_READY = 600,
    CU_STREAM_LEGACY = 1,
    CU_STREAM_PER_THREAD = 2,
    CU_GET_PROC_ADDRESS_LEGACY_STREAM = 1,
    CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM = 2,
    CU_CTX_SCHED_SPIN = 1,
    CU_CTX_SCHED_YIELD = 2,
    CU_CTX_SCHED_BLOCKING_SYNC = 4,
    CU_CTX_SCHED_MASK = 7,
};

#endif
