// A worker on the plain CUDA runtime: one stream, one frame after the other, stamped for watchdogd.
//
//     [workers.cpp]
//     command = ["/opt/vehicle/worker"]
//     deadlines = { startup = "60s", sync = "500ms", step = "1s" }
//
// Started by hand it runs as well: without a heartbeat the same calls write private memory, and nobody watches.
// It needs no nvcc: copies and a fill stand where your kernels or enqueueV3() would be.
#include <watchdogd.h> // first: it asks the C library for what it needs (_GNU_SOURCE)

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

// The error goes into the heartbeat before the process ends: the incident then says "CUDA error 700", not only "exit 1".
void check(cudaError_t error, const char *what)
{
    if (error == cudaSuccess)
        return;
    watchdogd_error(static_cast<int>(error));
    std::fprintf(stderr, "%s: %s (%d)\n", what, cudaGetErrorString(error), static_cast<int>(error));
    std::exit(1);
}

// Around every call that may block: while one is open its deadline runs. In a scope, so that no way out leaves it open.
class Blocking {
public:
    explicit Blocking(unsigned operation) { watchdogd_call_enter(operation); }
    ~Blocking() { watchdogd_call_leave(); }
    Blocking(const Blocking &) = delete;
    Blocking &operator=(const Blocking &) = delete;
};

// The same around a step: whatever it consists of, it has a deadline too (deadlines.step).
class Step {
public:
    Step() : token_(watchdogd_step_begin()) {}
    ~Step() { watchdogd_step_end(token_); }
    Step(const Step &) = delete;
    Step &operator=(const Step &) = delete;

private:
    uint64_t token_;
};

} // namespace

int main(int argc, char **argv)
{
    const long frames = argc > 1 ? std::atol(argv[1]) : -1; // without end unless told
    watchdogd_attach();

    // Allocating is the first call into CUDA here: it makes the context, which can take seconds (deadlines.startup).
    unsigned char *host = nullptr, *device = nullptr;
    cudaStream_t stream = nullptr;
    {
        Blocking call(WATCHDOGD_OP_ALLOC);
        check(cudaMallocHost(reinterpret_cast<void **>(&host), FRAME_BYTES), "cudaMallocHost");
        check(cudaMalloc(reinterpret_cast<void **>(&device), FRAME_BYTES), "cudaMalloc");
    }
    check(cudaStreamCreate(&stream), "cudaStreamCreate");
    watchdogd_ready(); // from here on: the deadlines of calls and steps

    for (long frame = 0; frame != frames; frame++) {
        std::this_thread::sleep_for(std::chrono::milliseconds(5)); // for the next frame: idle, no deadline runs
        Step step;
        const int pixel = static_cast<int>(frame & 0x3f);
        std::memset(host, pixel, FRAME_BYTES); // the camera's frame
        // From pinned memory these three only queue, and return at once; from pageable memory a copy can block.
        check(cudaMemcpyAsync(device, host, FRAME_BYTES, cudaMemcpyHostToDevice, stream), "copy to the device");
        check(cudaMemsetAsync(device, MARK, MARK_BYTES, stream), "fill");
        check(cudaMemcpyAsync(host, device, FRAME_BYTES, cudaMemcpyDeviceToHost, stream), "copy from the device");
        {
            Blocking call(WATCHDOGD_OP_SYNC); // a device that hangs shows itself here: this never returns
            check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
        }
        if (host[0] != MARK || host[FRAME_BYTES - 1] != pixel) {
            std::fprintf(stderr, "frame %ld: the device gave other bytes\n", frame);
            return 1;
        }
    }

    // Freeing waits for all work of the device, so it can hang as a synchronize can.
    Blocking call(WATCHDOGD_OP_FREE);
    check(cudaStreamDestroy(stream), "cudaStreamDestroy");
    check(cudaFree(device), "cudaFree");
    check(cudaFreeHost(host), "cudaFreeHost");
    return 0;
}
