/*
 * The shared state: what the processes that use one simulated device know of each other, and what control tells them.
 *
 * One file, mapped MAP_SHARED by all. A file of zeros is a valid empty state, so whoever comes first only sets its
 * size. Every fact is one aligned atomic word; there is no lock, because a SIGKILLed process would leave it locked.
 * A process is named by one word, its `Owner`: pid and start time together, so that a reused pid is somebody else.
 */
#ifndef SIMULATOR_STATE_H
#define SIMULATOR_STATE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "calls.h"

#define STATE_MAGIC UINT64_C(0x53494d4355444102) /* "SIMCUDA", layout 2 */
#define STATE_PROCESSES 32 /* one bit each in a busy word, see load.h */
#define STATE_FAULTS 256
#define STATE_LABEL_BYTES 64
#define STATE_GPUS 8
#define STATE_DLAS 2
#define STATE_ACCELERATORS (STATE_GPUS + STATE_DLAS) /* the DLA engines come after the GPUs */

typedef uint64_t Owner; /* pid << 32 | low half of the start time in clock ticks; 0 = nobody */

typedef struct {
    _Atomic Owner owner;
    char label[STATE_LABEL_BYTES]; /* written before `ready` */
    _Atomic uint64_t ready;
    _Atomic uint64_t operations;
    _Atomic uint64_t memory_bytes;
    _Atomic uint64_t busy_ns[STATE_ACCELERATORS];
} ProcessSlot;

enum FaultKind {
    FAULT_NONE,
    FAULT_HANG,
    FAULT_CALL_HANG,
    FAULT_DEADLOCK,
    FAULT_ERROR,
    FAULT_ZERO,
    FAULT_SLOW,
};

enum FaultScope { SCOPE_STREAM, SCOPE_CONTEXT, SCOPE_PROCESS, SCOPE_DEVICE };

enum FaultPhase {
    PHASE_EMPTY,
    PHASE_ARMED,   /* in force; whether it has fired is told by `fired` and `culprit` */
    PHASE_LIFTED,  /* over by itself: healed, or its culprit is gone */
    PHASE_CLEARED, /* over because control said so */
};

/* What was asked for; constant once the fault is armed. */
typedef struct {
    uint32_t kind;
    uint32_t scope;
    uint32_t permanent;
    int32_t load_percent; /* shown while the freeze lasts; -1 = as measured */
    int32_t accelerator;  /* whose operations it may stop; -1 = any */
    uint32_t mixed;       /* only those that start while another accelerator runs one of the same context */
    int32_t code;
    uint32_t calls[2]; /* enum Call */
    uint32_t times;    /* how often it may fire; 0 = without limit */
    uint64_t after;
    uint64_t spread_ns;
    uint64_t heal_ns; /* 0 = never */
    uint64_t window_ns;
    double factor;
    Owner only;                    /* set by that process's environment and meant for it alone; 0 = by label */
    char label[STATE_LABEL_BYTES]; /* empty = any process */
    char with[STATE_LABEL_BYTES];  /* acts only while a process of this label uses the device; empty = always */
} FaultRequest;

typedef struct {
    FaultRequest request;
    _Atomic uint64_t id;
    _Atomic uint32_t phase;
    _Atomic uint64_t seen; /* operations or calls that matched */
    _Atomic uint64_t fired;
    _Atomic uint64_t fired_ns;
    _Atomic uint64_t spread_at_ns; /* when the freeze reaches others; 0 = not fired */
    _Atomic uint64_t lifted_ns;
    _Atomic Owner culprit;
    _Atomic uint64_t culprit_context;
    _Atomic uint64_t culprit_stream;
    _Atomic int32_t culprit_device;
    _Atomic int32_t culprit_accelerator;
} FaultSlot;

typedef struct {
    _Atomic uint64_t busy;       /* who is busy and since when, see load.h */
    _Atomic uint64_t busy_ticks; /* total of the finished busy intervals */
    _Atomic int32_t override;    /* 0 = as measured, else percent + 1 */
} AcceleratorState;

typedef struct {
    _Atomic uint64_t magic;
    _Atomic uint64_t last_fault_id;
    _Atomic uint64_t tegrastats; /* mode << 32 | value, for tests/simulator/tegrastats.py */
    AcceleratorState accelerators[STATE_ACCELERATORS];
    ProcessSlot processes[STATE_PROCESSES];
    FaultSlot faults[STATE_FAULTS];
} State;

/* Maps the file (created when absent), or private memory when path is NULL. NULL and errno on failure. */
State *state_map(const char *path);

Owner owner_of_this_process(void);
pid_t owner_pid(Owner owner);
/* False for a process that has exited, also while its parent has not reaped it. */
bool owner_alive(Owner owner);

/* A slot for this process, taken from a dead one if need be; -1 when 32 live processes have them all. */
int state_join(State *state, const char *label);
/* Whether a live process of this label uses the device. */
bool state_has(State *state, const char *label);
/* Gives back the slots of dead processes, so that they do not count as busy. */
void state_reap(State *state);

#endif
