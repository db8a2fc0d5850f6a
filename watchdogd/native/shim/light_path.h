/*
 * What a launch does (light.h). Inline, so that it is in one page of the program's text with what it is part of.
 *
 * Invariant: as long as nothing is out of the ordinary, it touches the thread's state, one line of the heartbeat, one page
 * of the shim's own and what the kernel keeps its time in; nothing else.
 */
#ifndef WATCHDOGD_SHIM_LIGHT_PATH_H
#define WATCHDOGD_SHIM_LIGHT_PATH_H

#include "shim.h"

enum { COUNT_BITS = 8 };

static inline uint64_t one_of(unsigned operation) { return UINT64_C(1) << operation * COUNT_BITS; }

static inline uint64_t uncounted(const struct watchdogd_thread *thread, unsigned operation)
{
    return thread->light.uncounted >> operation * COUNT_BITS & 0xff;
}

static inline int is_light(const struct watchdogd_thread *thread)
{
    return thread && thread->light.mode == LIGHT && thread->depth == 1;
}

/* Up to shim.tick_ns earlier than it is, or two where the tick itself is late. */
static inline uint64_t roughly_ns(void)
{
    struct timespec tick;
    shim.read_clock(CLOCK_MONOTONIC_COARSE, &tick);
    return (uint64_t)tick.tv_sec * UINT64_C(1000000000) + (uint64_t)tick.tv_nsec;
}

static inline struct watchdogd_thread *enter_lightly(unsigned operation, const void *object, int is_in_stream)
{
    struct watchdogd_thread *thread = &watchdogd_thread_;
    __asm__("" : "+r"(thread)); /* else it is looked up once more below */
    if (UNLIKELY(!thread->hot || thread->depth || !shim.tick_ns || uncounted(thread, operation) == COUNTED_ONE_IN - 1))
        return shim_enter_as_sample(operation, object);
    if (is_in_stream && UNLIKELY(thread->light.stream != (uint64_t)(uintptr_t)object))
        watchdogd_store_(shim_line(thread) + WATCHDOGD_DRIVER_LANE_OBJECT, (uint64_t)(uintptr_t)object);
    thread->depth = 1; /* before the rest, as in watchdogd_enter_() */
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    thread->light.mode = LIGHT;
    thread->light.entered_ns = roughly_ns();
    uint64_t stamp = watchdogd_stamp_(thread->light.entered_ns + 2 * shim.tick_ns, operation);
    watchdogd_store_(thread->hot + WATCHDOGD_LANE_OUTER, stamp);
    return thread;
}

static inline CUresult leave_lightly(unsigned operation, struct watchdogd_thread *thread, CUresult result)
{
    watchdogd_store_(thread->hot + WATCHDOGD_LANE_OUTER, 0);
    thread->light.uncounted += one_of(operation);
    thread->light.mode = PRECISE;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    thread->depth = 0;
    return UNLIKELY(result != CUDA_SUCCESS) ? shim_returned(result) : result;
}

static inline CUresult leave_lightly_in(
    unsigned operation, struct watchdogd_thread *thread, CUresult result, CUstream stream, unsigned queued)
{
    leave_lightly(operation, thread, result);
    uint64_t settled = __atomic_load_n(&shim.settled, __ATOMIC_ACQUIRE);
    if (UNLIKELY(result != CUDA_SUCCESS))
        return result;
    if (UNLIKELY(thread->light.stream != (uint64_t)(uintptr_t)stream || thread->light.settled != settled))
        shim_begin_burst(thread, stream, queued, settled);
    else
        thread->light.queued += queued;
    return result;
}

#endif
