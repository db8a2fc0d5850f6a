/* The harness's part on faults, and on several processes that share a device. */
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"

#define WORKERS 3
#define THREADS 3
#define ROUNDS 50

extern char **environ;

static CUcontext context;

static uint64_t set_fault(const char *text)
{
    char problem[128];
    uint64_t id = simcontrol_add_fault(device, text, problem, sizeof problem);
    if (id == 0) {
        fprintf(stderr, "%s: %s\n", text, problem);
    }
    CHECK(id != 0);
    return id;
}

static FaultReport report_of(uint64_t id)
{
    FaultReport report;
    CHECK(simcontrol_read_fault(device, id, &report));
    return report;
}

static void clear(uint64_t id)
{
    CHECK(simcontrol_clear_fault(device, id));
}

/* Threads that each wait for their own stream while one of them, or all, hang. */
static void work(int number)
{
    CUstream stream;
    (void)number;
    OK(cuCtxSetCurrent(context));
    OK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CUfunction function = function_named("sim_sleep_us_100");
    for (int round = 0; round < ROUNDS; round++) {
        OK(launch(function, stream, NULL));
        OK(cuStreamSynchronize(stream));
    }
    OK(cuStreamDestroy_v2(stream));
}

static uint64_t fault_to_clear;

static void clear_once_fired(int number)
{
    if (number > 0) {
        work(number);
        return;
    }
    WAIT_UNTIL(report_of(fault_to_clear).fired == 1);
    clock_sleep_ns(5 * NS_PER_MS);
    clear(fault_to_clear);
}

static void use_hangs(void)
{
    static const char *const HANGS[] = {
        "hang scope=stream after=10",
        "hang scope=context after=10 spread_ms=2",
        "hang scope=process after=10",
        "hang scope=device after=10 spread_ms=2 load=43",
    };
    for (size_t i = 0; i < sizeof HANGS / sizeof HANGS[0]; i++) {
        fault_to_clear = set_fault(HANGS[i]);
        in_threads(1 + THREADS, clear_once_fired);
    }
    uint64_t healing = set_fault("hang scope=context after=5 heal_ms=10 times=3");
    in_threads(THREADS, work);
    WAIT_UNTIL(report_of(healing).fired >= 1);
    clear(healing);
}

static void deadlock(int number)
{
    CUdeviceptr memory;
    if (number == 2) {
        WAIT_UNTIL(report_of(fault_to_clear).fired == 1);
        clear(fault_to_clear);
        return;
    }
    OK(cuCtxSetCurrent(context));
    if (number == 0) {
        OK(cuMemAllocManaged(&memory, 64, 1));
    } else {
        OK(cuMemAlloc_v2(&memory, 64));
    }
    OK(cuMemFree_v2(memory));
}

static void use_other_faults(void)
{
    CUdeviceptr memory;
    int value = 5, back;
    fault_to_clear = set_fault("deadlock calls=alloc_managed,free window_ms=5000");
    in_threads(3, deadlock);
    uint64_t held = set_fault("call_hang call=alloc for_ms=5 times=0");
    OK(cuMemAlloc_v2(&memory, sizeof value));
    CHECK(report_of(held).fired == 1);
    clear(held);
    OK(cuMemcpyHtoD_v2(memory, &value, sizeof value));
    uint64_t zero = set_fault("zero");
    OK(cuMemcpyDtoH_v2(&back, memory, sizeof back));
    CHECK(back == 0);
    clear(zero);
    OK(cuMemcpyDtoH_v2(&back, memory, sizeof back));
    CHECK(back == value);
    uint64_t slow = set_fault("slow factor=3");
    in_threads(THREADS, work);
    CHECK(report_of(slow).fired > 0);
    clear(slow);
}

void use_faults(void)
{
    OK(cuCtxCreate_v2(&context, CU_CTX_SCHED_BLOCKING_SYNC, 0));
    use_hangs();
    use_other_faults();
    OK(cuCtxDestroy_v2(context));
}

/* Processes. */

static pid_t start(const char *program, const char *role)
{
    pid_t pid;
    char *arguments[] = {(char *)program, (char *)role, NULL};
    CHECK(setenv("SIMCUDA_LABEL", role, 1) == 0);
    CHECK(posix_spawn(&pid, program, NULL, NULL, arguments, environ) == 0);
    return pid;
}

static int end_of(pid_t pid)
{
    int status;
    CHECK(waitpid(pid, &status, 0) == pid);
    return status;
}

int act_as(const char *role)
{
    CUstream stream;
    OK(cuInit(0));
    OK(cuCtxCreate_v2(&context, CU_CTX_SCHED_BLOCKING_SYNC, 0));
    if (strcmp(role, "worker") == 0) {
        in_threads(THREADS, work);
        OK(cuCtxDestroy_v2(context));
        return 0;
    }
    OK(cuStreamCreate(&stream, 0));
    OK(launch(function_named("sim_sleep_us_100"), stream, NULL));
    if (strcmp(role, "faulty") == 0) {
        EXPECT(CUDA_ERROR_LAUNCH_FAILED, cuStreamSynchronize(stream));
        EXPECT(CUDA_ERROR_LAUNCH_FAILED, cuCtxSynchronize());
        return 0;
    }
    (void)cuStreamSynchronize(stream); /* as "victim": hangs until it is killed */
    return 1;
}

static void use_a_killed_culprit(const char *program)
{
    uint64_t hang = set_fault("hang label=victim scope=device spread_ms=1");
    LoadReport load;
    pid_t victim = start(program, "victim");
    WAIT_UNTIL(report_of(hang).fired == 1);
    CHECK(report_of(hang).culprit == victim);
    WAIT_UNTIL(clock_now_ns() > report_of(hang).spread_ns);
    CUstream stream;
    OK(cuStreamCreate(&stream, 0));
    OK(launch(function_named("sim_sleep_us_100"), stream, NULL));
    EXPECT(CUDA_ERROR_NOT_READY, cuStreamQuery(stream));
    simcontrol_read_load(device, 0, &load);
    CHECK(load.shown_percent == -1 && load.busy_ns > 0);
    CHECK(kill(victim, SIGKILL) == 0);
    OK(cuStreamSynchronize(stream)); /* also while it is not reaped */
    CHECK(report_of(hang).lifted_ns != 0);
    CHECK(WIFSIGNALED(end_of(victim)));
}

static void use_a_forked_child(void)
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        _exit(cuCtxSynchronize() == CUDA_ERROR_NOT_INITIALIZED ? 0 : 1);
    }
    CHECK(end_of(child) == 0);
}

void use_processes(const char *program)
{
    pid_t workers[WORKERS];
    ProcessReport reports[STATE_PROCESSES];
    OK(cuCtxCreate_v2(&context, CU_CTX_SCHED_BLOCKING_SYNC, 0));
    for (int i = 0; i < WORKERS; i++) {
        workers[i] = start(program, "worker");
    }
    in_threads(THREADS, work);
    CHECK(simcontrol_read_processes(device, reports) >= 1);
    for (int i = 0; i < WORKERS; i++) {
        CHECK(end_of(workers[i]) == 0);
    }
    set_fault("error code=719 label=faulty");
    CHECK(end_of(start(program, "faulty")) == 0);
    use_a_killed_culprit(program);
    use_a_forked_child();
    OK(cuCtxDestroy_v2(context));
    CHECK(simcontrol_read_processes(device, reports) == 1);
}
