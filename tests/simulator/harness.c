/*
 * Uses every feature of the simulated driver and every fault from many threads and processes, for the sanitizers to
 * watch: `make tsan`, `make asan`. That it also checks results is secondary; tests/process/test_simulator.py does that.
 */
#include "harness.h"

#include <pthread.h>
#include <string.h>
#include <unistd.h>

#define THREADS 4
#define MOST_THREADS 16
#define ROUNDS 10
#define FLOATS 64

State *device;

typedef struct {
    void (*function)(int number);
    int number;
} Start;

static void *begin(void *argument)
{
    const Start *start = argument;
    start->function(start->number);
    return NULL;
}

void in_threads(int count, void (*function)(int number))
{
    pthread_t threads[MOST_THREADS];
    Start starts[MOST_THREADS];
    CHECK(count <= MOST_THREADS);
    for (int number = 0; number < count; number++) {
        starts[number] = (Start){function, number};
        CHECK(pthread_create(&threads[number], NULL, begin, &starts[number]) == 0);
    }
    for (int number = 0; number < count; number++) {
        CHECK(pthread_join(threads[number], NULL) == 0);
    }
}

CUfunction function_named(const char *name)
{
    CUmodule module;
    CUfunction function;
    OK(cuModuleLoadData(&module, "image"));
    OK(cuModuleGetFunction(&function, module, name));
    return function;
}

CUresult launch(CUfunction function, CUstream stream, void **parameters)
{
    return cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, parameters, NULL);
}

/* Contexts: each thread its own, destroyed by it or by its neighbour. */

static CUcontext handed_over[MOST_THREADS];

static void use_own_context(int number)
{
    static const unsigned FLAGS[] = {CU_CTX_SCHED_AUTO, CU_CTX_SCHED_SPIN, CU_CTX_SCHED_YIELD,
                                     CU_CTX_SCHED_BLOCKING_SYNC};
    CUcontext context, popped;
    CUstream stream;
    size_t limit;
    int least, greatest;
    OK(cuCtxCreate_v2(&context, FLAGS[number % 4], 0));
    OK(cuStreamCreateWithPriority(&stream, CU_STREAM_NON_BLOCKING, -1));
    CUfunction function = function_named("sim_sleep_us_2000");
    for (int round = 0; round < ROUNDS; round++) {
        OK(launch(function, stream, NULL));
        OK(cuStreamSynchronize(stream));
    }
    OK(cuCtxSetLimit(0, 2048));
    OK(cuCtxGetLimit(&limit, 0));
    CHECK(limit == 2048);
    OK(cuCtxGetStreamPriorityRange(&least, &greatest));
    OK(cuCtxPopCurrent_v2(&popped));
    CHECK(popped == context);
    EXPECT(CUDA_ERROR_INVALID_CONTEXT, cuCtxSynchronize());
    if (number % 2 == 0) {
        OK(cuCtxDestroy_v2(context));
        EXPECT(CUDA_ERROR_CONTEXT_IS_DESTROYED, cuCtxPushCurrent_v2(context));
    } else {
        handed_over[number] = context;
    }
}

static void use_primary_context(int number)
{
    CUcontext context;
    CUdevice current;
    (void)number;
    for (int round = 0; round < ROUNDS; round++) {
        OK(cuDevicePrimaryCtxRetain(&context, 0));
        OK(cuCtxSetCurrent(context));
        OK(cuCtxGetDevice(&current));
        OK(cuCtxSynchronize());
        OK(cuDevicePrimaryCtxRelease_v2(0));
    }
}

static void use_contexts(void)
{
    in_threads(THREADS, use_own_context);
    for (int number = 1; number < THREADS; number += 2) {
        OK(cuCtxDestroy_v2(handed_over[number]));
    }
    in_threads(THREADS, use_primary_context);
}

/* One context for all threads: work in each kind of stream, ordered by events. */

static CUcontext shared;

static void compute_in(CUstream stream)
{
    float values[FLOATS] = {0};
    int count = FLOATS;
    float factor = 3;
    CUdeviceptr source, target;
    CUevent begin_event, end_event;
    float elapsed_ms;
    OK(cuMemAlloc_v2(&source, sizeof values));
    OK(cuMemAllocAsync(&target, sizeof values, stream));
    OK(cuEventCreate(&begin_event, 0));
    OK(cuEventCreate(&end_event, CU_EVENT_BLOCKING_SYNC));
    OK(cuEventRecord(begin_event, stream));
    OK(cuMemcpyHtoDAsync_v2(source, values, sizeof values, stream));
    OK(launch(function_named("sim_add_one__50us"), stream, (void *[]){&source, &count}));
    OK(launch(function_named("sim_copy_scale__50us"), stream, (void *[]){&target, &source, &count, &factor}));
    OK(cuEventRecord(end_event, stream));
    OK(cuEventSynchronize(end_event));
    OK(cuEventElapsedTime(&elapsed_ms, begin_event, end_event));
    CHECK(elapsed_ms >= 0.1f);
    OK(cuMemcpyDtoHAsync_v2(values, target, sizeof values, stream));
    for (int i = 0; i < FLOATS; i++) {
        CHECK(values[i] == 3);
    }
    OK(cuMemsetD32Async(target, 7, FLOATS, stream));
    OK(cuMemcpyDtoDAsync_v2(source, target, sizeof values, stream));
    OK(cuMemFreeAsync(target, stream));
    OK(cuEventDestroy_v2(begin_event));
    OK(cuEventDestroy_v2(end_event));
    OK(cuStreamSynchronize(stream));
    OK(cuMemFree_v2(source));
}

static void use_shared_context(int number)
{
    CUstream own;
    OK(cuCtxSetCurrent(shared));
    OK(cuStreamCreate(&own, number % 2 == 0 ? 0 : CU_STREAM_NON_BLOCKING));
    CUstream streams[] = {own, NULL, CU_STREAM_LEGACY, CU_STREAM_PER_THREAD};
    for (int round = 0; round < ROUNDS; round++) {
        compute_in(streams[round % 4]);
    }
    OK(cuCtxSynchronize());
    OK(cuStreamDestroy_v2(own));
    EXPECT(CUDA_ERROR_INVALID_HANDLE, cuStreamSynchronize(own));
}

static CUstream chain[THREADS];
static CUevent links[THREADS];

/* Each stream waits for the one before it. */
static void link_streams(int number)
{
    OK(cuCtxSetCurrent(shared));
    CUfunction function = function_named("sim_sleep_us_200");
    for (int round = 0; round < ROUNDS; round++) {
        OK(cuStreamWaitEvent(chain[number], links[(number + THREADS - 1) % THREADS], 0));
        OK(launch(function, chain[number], NULL));
        OK(cuEventRecord(links[number], chain[number]));
        CUresult result = cuEventQuery(links[number]);
        CHECK(result == CUDA_SUCCESS || result == CUDA_ERROR_NOT_READY);
    }
    OK(cuStreamSynchronize(chain[number]));
}

static _Atomic int host_calls;

static void host_function(void *user_data)
{
    EXPECT(CUDA_ERROR_NOT_PERMITTED, cuCtxSynchronize());
    atomic_fetch_add((_Atomic int *)user_data, 1);
}

static void callback(CUstream stream, CUresult status, void *user_data)
{
    (void)stream;
    CHECK(status == CUDA_SUCCESS);
    host_function(user_data);
}

static void use_streams(void)
{
    OK(cuCtxCreate_v4(&shared, NULL, CU_CTX_SCHED_BLOCKING_SYNC, 0));
    in_threads(THREADS, use_shared_context);
    for (int number = 0; number < THREADS; number++) {
        OK(cuStreamCreate(&chain[number], CU_STREAM_NON_BLOCKING));
        OK(cuEventCreate(&links[number], CU_EVENT_DISABLE_TIMING));
    }
    in_threads(THREADS, link_streams);
    OK(cuLaunchHostFunc(chain[0], host_function, (void *)&host_calls));
    OK(cuStreamAddCallback(chain[1], callback, (void *)&host_calls, 0));
    OK(cuCtxSynchronize());
    CHECK(atomic_load(&host_calls) == 2);
    OK(cuCtxDestroy_v2(shared));
}

/* Memory of every kind, from all threads. */

static void use_memory(int number)
{
    static char own[THREADS][4096];
    CUdeviceptr memory, managed, base, mapped;
    void *pinned;
    size_t size, free_bytes, total_bytes;
    char back[256];
    OK(cuCtxSetCurrent(shared));
    for (int round = 0; round < ROUNDS; round++) {
        OK(cuMemAlloc_v2(&memory, 1000));
        OK(cuMemAllocManaged(&managed, 1000, 1));
        OK(cuMemAllocHost_v2(&pinned, 1000));
        OK(cuMemHostRegister_v2(own[number], sizeof own[number], 0));
        OK(cuMemHostGetDevicePointer_v2(&mapped, own[number], 0));
        OK(cuMemGetAddressRange_v2(&base, &size, memory + 10));
        CHECK(base == memory && size == 1000);
        OK(cuMemsetD8_v2(memory, (unsigned char)number, 256));
        OK(cuMemcpyDtoD_v2(managed, memory, 256));
        OK(cuMemcpyAsync((CUdeviceptr)(uintptr_t)pinned, managed, 256, CU_STREAM_PER_THREAD));
        OK(cuStreamSynchronize(CU_STREAM_PER_THREAD));
        OK(cuMemcpyHtoD_v2(memory, pinned, 256));
        OK(cuMemcpyDtoH_v2(back, memory, sizeof back));
        CHECK(back[0] == number && back[255] == number);
        OK(cuMemGetInfo_v2(&free_bytes, &total_bytes));
        CHECK(free_bytes < total_bytes);
        EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemFree_v2(memory + 1));
        OK(cuMemFree_v2(memory));
        OK(cuMemFree_v2(managed));
        OK(cuMemFreeHost(pinned));
        OK(cuMemHostUnregister(own[number]));
    }
}

/* A context destroyed while others work in it: errors, but nothing touched after it is gone. */

static void use_what_is_destroyed(int number)
{
    if (number == 0) {
        clock_sleep_ns(3 * NS_PER_MS);
        OK(cuCtxDestroy_v2(shared));
        return;
    }
    CUstream stream = NULL;
    CUdeviceptr memory;
    if (cuCtxSetCurrent(shared) == CUDA_ERROR_CONTEXT_IS_DESTROYED) {
        return; /* too late to meet */
    }
    while (cuCtxSynchronize() == CUDA_SUCCESS) {
        if (cuStreamCreate(&stream, 0) == CUDA_SUCCESS && cuMemAllocAsync(&memory, 64, stream) == CUDA_SUCCESS) {
            (void)cuMemsetD8Async(memory, 1, 64, stream);
            (void)cuStreamDestroy_v2(stream);
        }
    }
    EXPECT(CUDA_ERROR_CONTEXT_IS_DESTROYED, cuCtxSynchronize());
}

static void use_bad_handles(void)
{
    CUstream stream = (CUstream)0xDEAD;
    void *function;
    int status;
    OK(cuCtxCreate_v2(&shared, 0, 0));
    EXPECT(CUDA_ERROR_INVALID_HANDLE, cuStreamSynchronize(stream));
    EXPECT(CUDA_ERROR_INVALID_HANDLE, cuEventRecord((CUevent)&status, NULL));
    EXPECT(CUDA_ERROR_INVALID_HANDLE, launch((CUfunction)&status, NULL, NULL));
    EXPECT(CUDA_ERROR_INVALID_HANDLE, cuModuleUnload((CUmodule)shared));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuMemcpyDtoH_v2(&status, 4096, sizeof status));
    EXPECT(CUDA_ERROR_NOT_FOUND, cuGetProcAddress_v2("cuGraphLaunch", &function, 13000, 0, &status));
    CHECK(status == CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
    OK(cuGetProcAddress_v2("cuCtxCreate", &function, 11000, 0, &status));
    CHECK(function == (void *)cuCtxCreate_v2);
    OK(cuCtxDestroy_v2(shared));
}

void use_driver(void)
{
    use_contexts();
    use_streams();
    OK(cuCtxCreate_v2(&shared, 0, 0));
    in_threads(THREADS, use_memory);
    in_threads(THREADS, use_what_is_destroyed);
    use_bad_handles();
}

int main(int count, char **arguments)
{
    char path[64];
    snprintf(path, sizeof path, "/tmp/simulator-harness.%d", (int)getpid());
    if (count == 1) {
        CHECK(setenv("SIMCUDA_STATE", path, 1) == 0);
    }
    device = simcontrol_open(getenv("SIMCUDA_STATE"));
    CHECK(device != NULL);
    if (count == 2) {
        return act_as(arguments[1]);
    }
    EXPECT(CUDA_ERROR_NOT_INITIALIZED, cuCtxSynchronize());
    OK(cuInit(0));
    use_driver();
    use_faults();
    use_processes(arguments[0]);
    simcontrol_close(device);
    CHECK(unlink(path) == 0);
    return 0;
}
