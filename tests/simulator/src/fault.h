/*
 * Faults as they act inside a process that uses the driver: what happens to an operation, to a stream, to a call.
 *
 * A hang has one culprit at a time, the stream whose operation it stopped. Its `culprit` word is taken by
 * compare-and-exchange, and `spread_at_ns` is written last: until then no other stream looks at the slot.
 */
#ifndef SIMULATOR_FAULT_H
#define SIMULATOR_FAULT_H

#include <stdbool.h>
#include <stdint.h>

#include "calls.h"

/* Where an operation executes. */
typedef struct {
    uint64_t stream;
    uint64_t context;
    int device;
    int accelerator;
    bool mixed; /* another accelerator runs an operation of this context */
} Place;

typedef struct {
    int error;     /* 0 = none; else the operation fails with this CUresult */
    double factor; /* its time is multiplied by this */
} Effect;

/* To be called once as an operation starts; a hang that fires here shows in fault_frozen. */
Effect fault_on_operation(const Place *place);
/* Whether work at this place stands still at this moment; to be polled, since freezes begin and end elsewhere. */
bool fault_frozen(const Place *place);
/* Whether a copy to the host that starts now must deliver zeros. */
bool fault_zeroes_copy(void);
/* Returns when no fault holds the call back: at once, later, or never. */
void fault_on_call(enum Call call);

/* Reads SIMCUDA_FAULT, faults separated by semicolons. False, with a line on stderr, when it is not understood. */
bool fault_read_environment(void);

#endif
