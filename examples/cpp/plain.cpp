// The work of worker.cpp without one word of watchdogd: for `watchdogd exec` and instrument = "driver".
//
//     watchdogd exec --sync 500ms --startup 60s -- ./plain
//
// --hang-after N makes its stream hang after N frames, on any device: a host function that never returns stands in it.
#include <cuda_runtime_api.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

namespace {

constexpr size_t FRAME_BYTES = 1 << 20;
constexpr size_t MARK_BYTES = 1 << 10;
constexpr int MARK = 0x5a;

void check(cudaError_t error, const char *what)
{
    if (error == cudaSuccess)
        return;
    std::fprintf(stderr, "%s: %s (%d)\n", what, cudaGetErrorString(error), static_cast<int>(error));
    std::exit(1);
}

void CUDART_CB never(void *)
{
    for (;;)
        std::this_thread::sleep_for(std::chrono::hours(1));
}

// The number after `name`, or -1.
long option(int argc, char **argv, const char *name)
{
    for (int i = 1; i + 1 < argc; i++)
        if (std::strcmp(argv[i], name) == 0)
            return std::atol(argv[i + 1]);
    return -1;
}

} // namespace

int main(int argc, char **argv)
{
    const long frames = option(argc, argv, "--frames"); // without end unless told
    const long hang_after = option(argc, argv, "--hang-after");
    unsigned char *host = nullptr, *device = nullptr;
    cudaStream_t stream = nullptr;
    check(cudaMallocHost(reinterpret_cast<void **>(&host), FRAME_BYTES), "cudaMallocHost");
    check(cudaMalloc(reinterpret_cast<void **>(&device), FRAME_BYTES), "cudaMalloc");
    check(cudaStreamCreate(&stream), "cudaStreamCreate");

    for (long frame = 0; frame != frames; frame++) {
        const int pixel = static_cast<int>(frame & 0x3f);
        std::memset(host, pixel, FRAME_BYTES);
        check(cudaMemcpyAsync(device, host, FRAME_BYTES, cudaMemcpyHostToDevice, stream), "copy to the device");
        check(cudaMemsetAsync(device, MARK, MARK_BYTES, stream), "fill");
        check(cudaMemcpyAsync(host, device, FRAME_BYTES, cudaMemcpyDeviceToHost, stream), "copy from the device");
        if (frame == hang_after)
            check(cudaLaunchHostFunc(stream, never, nullptr), "cudaLaunchHostFunc");
        check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
        if (host[0] != MARK || host[FRAME_BYTES - 1] != pixel) {
            std::fprintf(stderr, "frame %ld: the device gave other bytes\n", frame);
            return 1;
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    check(cudaStreamDestroy(stream), "cudaStreamDestroy");
    check(cudaFree(device), "cudaFree");
    check(cudaFreeHost(host), "cudaFreeHost");
    return 0;
}
