/*
 * Launches, stamped lightly: of these a program makes hundreds a frame, with its caches full of other things.
 *
 * There a reading of the time costs 60 ns and a page that is not at hand 40, and half a percent of such a program's time
 * is 50 ns a launch. So it writes its stamp alone, by the kernel's last tick: two ticks after it (the next may be late, on a
 * virtual machine above all), so that no deadline is early.
 * What it counts stays with the thread until its next call that is stamped precisely: each wait and copy, and one launch in
 * COUNTED_ONE_IN, which tells how long launches take.
 *
 * Invariant: a call in flight is seen as any other is; what is not flushed are less than COUNTED_ONE_IN calls of a thread.
 */
#ifndef WATCHDOGD_SHIM_LIGHT_H
#define WATCHDOGD_SHIM_LIGHT_H

#include "clock.h"

enum { COUNTED_ONE_IN = 64 };

enum shim_mode { PRECISE, LIGHT, SAMPLE }; /* of a thread's outermost call; SAMPLE: precise, to tell of the light ones */

struct shim_light { /* a line of the cache, with the first words of struct watchdogd_thread */
    uint32_t mode;
    uint32_t queued;    /* pieces of work since it was flushed */
    uint64_t uncounted; /* as in the lane's driver line */
    uint64_t stream;    /* in which it queued last, if it made no other call since; else NOT_KNOWN */
    uint64_t settled;   /* shim.settled when that stream was last said not to be idle */
    uint64_t entered_ns; /* of the last light call, by the last tick */
};

#define NOT_KNOWN UINT64_MAX

struct watchdogd_thread;
void shim_flush(struct watchdogd_thread *thread);

#define WATCHDOGD_STATE_OF_THREAD_ struct shim_light light; struct shim_clock clock;
#define WATCHDOGD_BEFORE_RELEASE_(thread) shim_flush(thread)

#endif
