/* Time as the whole simulator uses it: nanoseconds of CLOCK_MONOTONIC, the clock the watchdog's records use too. */
#ifndef SIMULATOR_CLOCK_H
#define SIMULATOR_CLOCK_H

#include <stdint.h>
#include <time.h>

#define NS_PER_US UINT64_C(1000)
#define NS_PER_MS UINT64_C(1000000)
#define NS_PER_S UINT64_C(1000000000)

static inline uint64_t clock_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

/* An absolute wake-up time: a signal or a late start does not lengthen the wait. */
static inline void clock_sleep_until_ns(uint64_t instant_ns)
{
    struct timespec until = {(time_t)(instant_ns / NS_PER_S), (long)(instant_ns % NS_PER_S)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) != 0) {
    }
}

static inline void clock_sleep_ns(uint64_t duration_ns)
{
    clock_sleep_until_ns(clock_now_ns() + duration_ns);
}

#endif
