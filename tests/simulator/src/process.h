/*
 * This process as a user of the driver, and the gate that every driver call goes through.
 *
 * The gate keeps the order of the real driver's answers: called from a host function (800), not initialised or forked
 * (3), then faults that hold the call back, then an error that stuck (700, ...), then the context (201, 709).
 */
#ifndef SIMULATOR_PROCESS_H
#define SIMULATOR_PROCESS_H

#include <stdatomic.h>
#include <stdbool.h>

#include "calls.h"
#include "cuda_types.h"
#include "state.h"

typedef struct Context Context;

typedef struct {
    State *state;
    Owner self;
    int slot;
    int device_count;
    char label[STATE_LABEL_BYTES];
    _Atomic int sticky_error; /* a CUresult that every call repeats from now on */
    _Atomic bool dumped;      /* a core dump of it was taken: nothing of it stands still any more */
} Process;

extern Process process;

/* Set while a host function or callback runs on this thread. */
extern _Thread_local bool in_host_function;

/* For calls that need no context. */
CUresult gate(enum Call call);
/* For calls that need one: also sets *context to the current one, referenced. */
CUresult gate_context(enum Call call, Context **context);

int driver_version(void);
void process_count_operation(void);
void process_add_memory(int64_t bytes);
/* Something of this process starts or ends executing on an accelerator. */
void process_busy_begin(int accelerator);
void process_busy_end(int accelerator);

#endif
