/*
 * How busy an accelerator is: the union, over all processes, of the time in which something executes on it.
 *
 * One word says who is busy (a bit for each process slot) and since when (the other half), so that going busy, going
 * idle and clearing up after a killed process are each one compare-and-exchange. The time is in ticks of 4.096 us and
 * wraps; differences are right as long as one uninterrupted busy interval lasts less than 4.8 hours.
 */
#ifndef SIMULATOR_LOAD_H
#define SIMULATOR_LOAD_H

#include <stdint.h>

#include "state.h"

#define LOAD_TICK_NS UINT64_C(4096)

void load_enter(AcceleratorState *accelerator, int process);
void load_leave(AcceleratorState *accelerator, int process);
/* Busy time since the state was created, the interval still open included. */
uint64_t load_busy_ns(AcceleratorState *accelerator);

#endif
