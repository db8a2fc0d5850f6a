/* A program with NVIDIA's own NVTX header on the driver that never comes back from its synchronize, within two ranges. */
#include <stdio.h>

#include "cuda_api.h"
#include "nvtx3/nvToolsExt.h"

int main(void)
{
    CUcontext context;
    CUstream stream;
    CUmodule module;
    CUfunction spin;
    nvtxRangePushA("forward");
    if (cuInit(0) || cuCtxCreate_v2(&context, 0, 0) || cuStreamCreate(&stream, 0) || cuModuleLoadData(&module, "x") ||
        cuModuleGetFunction(&spin, module, "sim_spin"))
        return 1;
    nvtxRangePushA("conv2d_16");
    cuLaunchKernel(spin, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL);
    nvtxRangePop();
    nvtxRangePushA("conv2d_17");
    cuStreamSynchronize(stream);
    nvtxRangePop();
    nvtxRangePop();
    return 0;
}
