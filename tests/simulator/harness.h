/* What the parts of the harness share: checks that end the program, and the few steps each scenario begins with. */
#ifndef SIMULATOR_HARNESS_H
#define SIMULATOR_HARNESS_H

#include <stdio.h>
#include <stdlib.h>

#include "clock.h"
#include "control.h"
#include "cuda_api.h"

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                                    \
            _Exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

#define EXPECT(result, call)                                                                                           \
    do {                                                                                                               \
        CUresult answer_ = (call);                                                                                     \
        if (answer_ != (result)) {                                                                                     \
            fprintf(stderr, "%s:%d: %s: %d\n", __FILE__, __LINE__, #call, (int)answer_);                               \
            _Exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

#define OK(call) EXPECT(CUDA_SUCCESS, call)

/* Waits for a condition, at most 20 s: sanitizers are slow and machines are shared. */
#define WAIT_UNTIL(condition)                                                                                          \
    do {                                                                                                               \
        uint64_t end_ = clock_now_ns() + 20 * NS_PER_S;                                                                \
        while (!(condition)) {                                                                                         \
            CHECK(clock_now_ns() < end_);                                                                              \
            clock_sleep_ns(NS_PER_MS);                                                                                 \
        }                                                                                                              \
    } while (0)

extern State *device; /* the state all processes of the harness share */

/* Runs the function in this many threads at once, each told its number. */
void in_threads(int count, void (*function)(int number));
CUfunction function_named(const char *name);
CUresult launch(CUfunction function, CUstream stream, void **parameters);

void use_driver(void);
void use_faults(void);
void use_processes(const char *program);
/* What a process started by use_processes does. */
int act_as(const char *role);

#endif
