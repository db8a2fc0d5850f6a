/* Initialisation, and the gate. */
#include "process.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "call_log.h"
#include "clock.h"
#include "context.h"
#include "core_dump.h"
#include "cuda_api.h"
#include "fault.h"
#include "load.h"

enum Life { LIFE_NEW, LIFE_READY, LIFE_FORKED };

#define DEFAULT_VERSION 13000

Process process;
_Thread_local bool in_host_function;

static _Atomic int life;
static pthread_once_t start_once = PTHREAD_ONCE_INIT;
static CUresult start_result;

int driver_version(void)
{
    const char *text = getenv("SIMCUDA_VERSION");
    int version = text == NULL ? 0 : atoi(text);
    return version >= 1000 ? version : DEFAULT_VERSION;
}

static int device_count(void)
{
    const char *text = getenv("SIMCUDA_DEVICES");
    int count = text == NULL ? 1 : atoi(text);
    return count < 0 ? 0 : count > STATE_GPUS ? STATE_GPUS : count;
}

/* The driver's threads do not exist in the child and its locks may be held for ever: nothing works there. */
static void after_fork_in_child(void)
{
    if (atomic_load(&life) == LIFE_READY) {
        atomic_store(&life, LIFE_FORKED);
    }
}

static CUresult start(void)
{
    const char *label = getenv("SIMCUDA_LABEL");
    process.device_count = device_count();
    if (process.device_count == 0) {
        return CUDA_ERROR_NO_DEVICE;
    }
    process.self = owner_of_this_process();
    if (label != NULL) {
        snprintf(process.label, sizeof process.label, "%s", label);
    } else {
        snprintf(process.label, sizeof process.label, "%d", (int)getpid());
    }
    process.state = state_map(getenv("SIMCUDA_STATE"));
    if (process.state == NULL) {
        fprintf(stderr, "simulated libcuda: SIMCUDA_STATE: %s\n", strerror(errno));
        return CUDA_ERROR_OPERATING_SYSTEM;
    }
    process.slot = state_join(process.state, process.label);
    if (process.slot < 0) {
        fprintf(stderr, "simulated libcuda: SIMCUDA_STATE: %d processes use it already\n", STATE_PROCESSES);
        return CUDA_ERROR_OPERATING_SYSTEM;
    }
    call_log_open();
    if (!fault_read_environment()) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (!core_dump_listen()) {
        return CUDA_ERROR_OPERATING_SYSTEM;
    }
    if (pthread_atfork(NULL, NULL, after_fork_in_child) != 0) {
        return CUDA_ERROR_OPERATING_SYSTEM;
    }
    atomic_store(&life, LIFE_READY);
    return CUDA_SUCCESS;
}

static void start_first(void)
{
    start_result = start();
}

CUresult cuInit(unsigned flags)
{
    if (in_host_function) {
        return CUDA_ERROR_NOT_PERMITTED;
    }
    if (flags != 0) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (atomic_load(&life) == LIFE_FORKED) {
        return CUDA_ERROR_NOT_INITIALIZED;
    }
    pthread_once(&start_once, start_first);
    if (start_result == CUDA_SUCCESS) {
        call_log(CALL_INIT);
        fault_on_call(CALL_INIT);
    }
    return start_result;
}

CUresult cuDriverGetVersion(int *version)
{
    if (version == NULL) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    *version = driver_version();
    return CUDA_SUCCESS;
}

CUresult gate(enum Call call)
{
    if (in_host_function) {
        return CUDA_ERROR_NOT_PERMITTED;
    }
    if (atomic_load(&life) != LIFE_READY) {
        return CUDA_ERROR_NOT_INITIALIZED;
    }
    call_log(call);
    fault_on_call(call);
    return (CUresult)atomic_load(&process.sticky_error);
}

CUresult gate_context(enum Call call, Context **context)
{
    CUresult result = gate(call);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    result = context_current(context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    result = context_failure(*context);
    if (result != CUDA_SUCCESS) {
        object_put(&(*context)->object);
    }
    return result;
}

void process_count_operation(void)
{
    atomic_fetch_add(&process.state->processes[process.slot].operations, 1);
}

void process_add_memory(int64_t bytes)
{
    atomic_fetch_add(&process.state->processes[process.slot].memory_bytes, (uint64_t)bytes);
}

/* How many streams of this process execute on each accelerator; the shared state hears of the first and the last. */
static pthread_mutex_t busy_lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned executing[STATE_ACCELERATORS];
static uint64_t executing_since[STATE_ACCELERATORS];

void process_busy_begin(int accelerator)
{
    pthread_mutex_lock(&busy_lock);
    if (executing[accelerator]++ == 0) {
        executing_since[accelerator] = clock_now_ns();
        load_enter(&process.state->accelerators[accelerator], process.slot);
    }
    pthread_mutex_unlock(&busy_lock);
}

void process_busy_end(int accelerator)
{
    pthread_mutex_lock(&busy_lock);
    if (--executing[accelerator] == 0) {
        load_leave(&process.state->accelerators[accelerator], process.slot);
        atomic_fetch_add(&process.state->processes[process.slot].busy_ns[accelerator],
                         clock_now_ns() - executing_since[accelerator]);
    }
    pthread_mutex_unlock(&busy_lock);
}
