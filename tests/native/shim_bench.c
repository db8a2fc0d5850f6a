/*
 * What a call costs more through the shim: bare and shimmed calls of a driver that does nothing, in turn, medians of rounds.
 *
 *     shim_bench DRIVER SHIM
 */
#define _GNU_SOURCE 1
#include <dlfcn.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { ROUNDS = 61, CALLS = 20000 };

typedef int Wait(void *);
typedef int Launch(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **);

struct calls {
    Wait *wait, *ask;
    Launch *launch;
};

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

static struct calls load(const char *path)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    return (struct calls){
        (Wait *)(uintptr_t)dlsym(library, "cuStreamSynchronize"),
        (Wait *)(uintptr_t)dlsym(library, "cuStreamQuery"),
        (Launch *)(uintptr_t)dlsym(library, "cuLaunchKernel"),
    };
}

static double measure(const struct calls *calls, int kind)
{
    void *stream = (void *)(uintptr_t)0x7f0012345600;
    uint64_t begin_ns = now_ns();
    for (int i = 0; i < CALLS; i++) {
        if (kind == 1)
            calls->launch(NULL, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL);
        if (kind == 2)
            calls->ask(stream);
        else
            calls->wait(stream);
    }
    return (double)(now_ns() - begin_ns) / CALLS;
}

static int compare(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

int main(int count, char **arguments)
{
    static const char *const names[] = {"synchronize", "launch_and_synchronize", "query"};
    if (count != 3)
        return 2;
    struct calls bare = load(arguments[1]), shimmed = load(arguments[2]);
    uint64_t begin_ns = now_ns();
    for (int i = 0; i < CALLS; i++)
        now_ns();
    printf("{\"two_clock_reads_ns\": %.1f", 2 * (double)(now_ns() - begin_ns) / CALLS);
    for (int kind = 0; kind < 3; kind++) {
        double more[ROUNDS];
        for (int round = 0; round < ROUNDS; round++) {
            double first = measure(&bare, kind);
            more[round] = measure(&shimmed, kind) - first;
        }
        qsort(more, ROUNDS, sizeof *more, compare);
        printf(", \"%s_ns\": %.1f", names[kind], more[ROUNDS / 2]);
    }
    printf("}\n");
    return 0;
}
