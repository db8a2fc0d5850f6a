/*
 * The shim's clock beside the clock itself: shim_clock CLOCKSOURCE SECONDS
 *
 * Prints the scale, how many readings were taken from the counter, and the furthest that one was outside of the two readings of
 * CLOCK_MONOTONIC around it, in ns.
 */
#include "clock.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

int main(int argc, char **argv)
{
    struct shim_clock clock = {0, 0, 0};
    uint64_t derived = 0, furthest = 0;
    if (argc != 3)
        return 2;
    shim_start_clock(argv[1]);
    for (uint64_t number = 0, end = now_ns() + (uint64_t)(atof(argv[2]) * 1e9), before = 0; before < end; number++) {
        uint64_t anchored = clock.ns;
        before = now_ns();
        uint64_t told = shim_clock_ns(&clock), after = now_ns();
        derived += clock.valid_for && clock.ns == anchored;
        uint64_t off = told < before ? before - told : told > after ? told - after : 0;
        if (off > furthest)
            furthest = off;
        if (number % 64 == 0) { /* times apart as a program's calls are, from 1 us to 1 ms */
            uint64_t pause = UINT64_C(1000) << number / 64 % 10;
            while (now_ns() - after < pause) {
            }
        }
    }
    printf("%" PRIu64 " %" PRIu64 " %" PRIu64 "\n", __atomic_load_n(&shim_scale, __ATOMIC_RELAXED), derived, furthest);
    return 0;
}
