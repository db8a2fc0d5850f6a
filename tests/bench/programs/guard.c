/*
 * Cost of a call guard beyond the two clock reads it holds. Prints medians in ns over batches that alternate, so that a
 * change of the clock rate or of the neighbours' load hits both: {"two_clock_reads_ns", "guard_ns", "difference_ns", "calls"}.
 * Invariant: without a heartbeat it measures nothing and exits with status 1.
 */
#include "watchdogd.h"

enum { BATCHES = 2001, CALLS = 1000 };

static double clocks[BATCHES], guards[BATCHES], differences[BATCHES];

static int by_value(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static double median(double *values)
{
    qsort(values, BATCHES, sizeof *values, by_value);
    return values[BATCHES / 2];
}

static double batch_of_clock_reads(void)
{
    struct timespec enter, leave;
    uint64_t start = watchdogd_now_ns();
    for (int call = 0; call < CALLS; call++) {
        clock_gettime(CLOCK_MONOTONIC, &enter);
        __asm__ volatile("" ::"m"(enter)); /* used, so not left out */
        clock_gettime(CLOCK_MONOTONIC, &leave);
        __asm__ volatile("" ::"m"(leave));
    }
    return (double)(watchdogd_now_ns() - start) / CALLS;
}

static double batch_of_guards(void)
{
    uint64_t start = watchdogd_now_ns();
    for (int call = 0; call < CALLS; call++) {
        watchdogd_call_enter(WATCHDOGD_OP_SYNC);
        __asm__ volatile("" ::: "memory"); /* where the blocking call would be */
        watchdogd_call_leave();
    }
    return (double)(watchdogd_now_ns() - start) / CALLS;
}

int main(void)
{
    if (!watchdogd_attach())
        return 1;
    watchdogd_ready();
    for (int batch = 0; batch < BATCHES; batch++) {
        clocks[batch] = batch_of_clock_reads();
        guards[batch] = batch_of_guards();
        differences[batch] = guards[batch] - clocks[batch];
    }
    printf("{\"two_clock_reads_ns\": %.2f, \"guard_ns\": %.2f, ", median(clocks), median(guards));
    printf("\"difference_ns\": %.2f, \"calls\": %d}\n", median(differences), BATCHES * CALLS);
    return 0;
}
