/*
 * Threads that call, come and go, share streams, take signals and fork, through a shim that is built with a sanitizer. Says at
 * the end how many calls of each operation it made.
 */
#define _GNU_SOURCE 1
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

int cuInit(unsigned);
int cuStreamSynchronize(void *);
int cuStreamQuery(void *);
int cuEventSynchronize(void *);
int cuLaunchKernel(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **);
int cuLaunchHostFunc(void *, void (*)(void *), void *);
int cuEventRecord(void *, void *);
int cuMemAlloc_v2(uint64_t *, size_t);
int cuGetProcAddress_v2(const char *, void **, int, uint64_t, int *);

enum { THREADS = 6, TIMES = 400, GENERATIONS = 5, STREAMS = 80, CHILDREN = 4, SIGNALS = 50, RACES = 40, PENDING = 100,
       BRIEF = 40, FORKS = 3 };

static void in_signal(int number)
{
    (void)number;
    cuEventSynchronize((void *)(uintptr_t)0x5000);
}

static unsigned asked, ran, is_over;

static void host_function(void *number) { __atomic_fetch_add((unsigned *)number, 1, __ATOMIC_RELAXED); }

/* The driver's own thread. */
static void *run_host_functions(void *argument)
{
    unsigned (*driver_run)(void) = (unsigned (*)(void))(uintptr_t)dlsym(RTLD_DEFAULT, "driver_run");
    for (;;) {
        unsigned last = __atomic_load_n(&is_over, __ATOMIC_ACQUIRE);
        if (!driver_run() && last)
            return argument;
    }
}

static void *work(void *argument)
{
    uintptr_t seed = (uintptr_t)argument;
    for (uintptr_t i = 0; i < TIMES; i++) {
        void *stream = (void *)(0x1000 + (seed * 7 + i) % STREAMS * 64); /* more than the table has entries */
        uint64_t address;
        void *function;
        int status;
        cuLaunchKernel(NULL, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL);
        if (__atomic_load_n(&asked, __ATOMIC_RELAXED) - __atomic_load_n(&ran, __ATOMIC_RELAXED) < PENDING) {
            __atomic_fetch_add(&asked, 1, __ATOMIC_RELAXED);
            if (cuLaunchHostFunc(stream, host_function, &ran))
                abort();
        }
        cuEventRecord((void *)(0x5000 + i % 400 * 8), stream);
        cuStreamQuery(stream);
        cuStreamSynchronize(stream);
        cuMemAlloc_v2(&address, 64);
        if (i % 50 == 0 && (cuGetProcAddress_v2("cuMemFree", &function, 12000, 0, &status) || !function))
            abort();
    }
    return NULL;
}

static pthread_barrier_t start;

/* All use a stream for the first time at one moment: it is still one entry. */
static void *race(void *argument)
{
    (void)argument;
    for (uintptr_t i = 0; i < RACES; i++) {
        pthread_barrier_wait(&start);
        cuStreamSynchronize((void *)(0x90000 + i * 64));
    }
    return NULL;
}

static void *be_signalled(void *argument)
{
    (void)argument;
    for (int i = 0; i < SIGNALS; i++)
        raise(SIGUSR1);
    return NULL;
}

static void *be_brief(void *argument)
{
    cuEventSynchronize(argument);
    return NULL;
}

/* Threads that end as others begin, so that lanes change hands while others call, and while a process is forked. */
static void *come_and_go(void *argument)
{
    for (int i = 0; i < BRIEF; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, be_brief, argument) || pthread_join(thread, NULL))
            abort();
    }
    return NULL;
}

static void *fork_meanwhile(void *argument)
{
    cuEventSynchronize(argument); /* a lane that the children must not take for theirs */
    for (int i = 0; i < FORKS; i++) {
        int status;
        pid_t child = fork();
        if (child == 0) {
            cuEventSynchronize(argument);
            cuEventSynchronize(argument);
            _exit(0);
        }
        if (waitpid(child, &status, 0) != child || status != 0)
            abort();
    }
    return NULL;
}

static void generation(void)
{
    void *(*const others[])(void *) = {be_signalled, come_and_go, come_and_go, fork_meanwhile};
    enum { OTHERS = sizeof others / sizeof *others };
    pthread_t threads[THREADS + OTHERS], driver;
    __atomic_store_n(&is_over, 0, __ATOMIC_RELEASE);
    pthread_create(&driver, NULL, run_host_functions, NULL);
    for (uintptr_t i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, work, (void *)i);
    for (int i = 0; i < OTHERS; i++)
        pthread_create(&threads[THREADS + i], NULL, others[i], (void *)(uintptr_t)0x7000);
    for (int i = 0; i < THREADS + OTHERS; i++)
        pthread_join(threads[i], NULL);
    __atomic_store_n(&is_over, 1, __ATOMIC_RELEASE);
    pthread_join(driver, NULL);
}

int main(void)
{
    signal(SIGUSR1, in_signal);
    cuInit(0);
    pthread_t racers[THREADS];
    pthread_barrier_init(&start, NULL, THREADS);
    for (int i = 0; i < THREADS; i++)
        pthread_create(&racers[i], NULL, race, NULL);
    for (int i = 0; i < THREADS; i++)
        pthread_join(racers[i], NULL);
    for (int i = 0; i < GENERATIONS; i++)
        generation();
    if (asked != ran || asked == 0)
        return 2;
    for (int i = 0; i < CHILDREN; i++) {
        pid_t child = fork();
        if (child == 0) {
            work((void *)(uintptr_t)i);
            _exit(0);
        }
        int status;
        if (waitpid(child, &status, 0) != child || status != 0)
            return 1;
    }
    int works = (THREADS * GENERATIONS + CHILDREN) * TIMES;
    printf("{\"sync\": %d, \"event\": %d, \"alloc\": %d, \"launch\": %d, \"other\": 1}\n", works + THREADS * RACES,
           (SIGNALS + 2 * BRIEF + 1 + 2 * FORKS) * GENERATIONS, works, (int)(2 * works + asked + CHILDREN * PENDING));
    printf("{\"pid\": %d, \"host_functions\": %u}\n", (int)getpid(), ran);
    return 0;
}
