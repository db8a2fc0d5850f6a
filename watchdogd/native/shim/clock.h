/*
 * CLOCK_MONOTONIC for a thread's stamps, from the processor's counter in the 0.4 ms after each reading of the clock itself.
 *
 * Two readings are most of what a stamped call costs: 39 ns each on a virtual machine with an H200, 18 to 30 ns by the counter,
 * 60 ns between the launches of a program that has other things to do. Only where the kernel itself takes its time from that
 * counter, so that all processors agree on it. Where even that is too much, the kernel's last tick will do: 5 ns.
 *
 * Invariant: never further from the clock than 1 us; what cannot be trusted (no such counter, no room between two readings,
 * a counter that went its own way) is read from the clock.
 */
#ifndef WATCHDOGD_SHIM_CLOCK_H
#define WATCHDOGD_SHIM_CLOCK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1 /* for watchdogd.h, which comes after it */
#endif

#include <stdint.h>
#include <time.h>

enum { SHIM_SCALE_BITS = 24 };

struct shim_clock { /* one for each thread */
    uint64_t valid_for; /* ticks; 0: not at all */
    uint64_t ticks;     /* when the clock said `ns` */
    uint64_t ns;
};

extern uint64_t shim_scale; /* ns of a tick, << SHIM_SCALE_BITS; 0: not known */

/* `clocksource`: the file in which the kernel says where its time is from. */
void shim_start_clock(const char *clocksource);
uint64_t shim_read_clock(struct shim_clock *clock);

typedef int shim_clock_function(clockid_t, struct timespec *);

/* Where CLOCK_MONOTONIC_COARSE is read, and how far apart its times are. Leaves both as they are where that is too far. */
void shim_start_ticks(long longest_ns, uint64_t *tick_ns, shim_clock_function **read_clock);

static inline uint64_t shim_ticks(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
    uint64_t ticks;
    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(ticks));
    return ticks;
#else
    return 0;
#endif
}

static inline uint64_t shim_clock_ns(struct shim_clock *clock)
{
    uint64_t passed = shim_ticks() - clock->ticks;
    if (__builtin_expect(passed < clock->valid_for, 1))
        return clock->ns + (passed * __atomic_load_n(&shim_scale, __ATOMIC_RELAXED) >> SHIM_SCALE_BITS);
    return shim_read_clock(clock);
}

/* What watchdogd.h stamps with. */
#define WATCHDOGD_NOW_OF_THREAD_(thread) shim_clock_ns(&(thread)->clock)

#endif
