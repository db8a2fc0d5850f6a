/* Prints the cost in ns (median of many batches) of two clock reads, and of a call guard, which holds two clock reads. */
#include "watchdogd.h"

enum { BATCHES = 1001, CALLS = 1000 };

static int by_value(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static double median_ns(int guarded)
{
    static double batches[BATCHES];
    for (int batch = 0; batch < BATCHES; batch++) {
        uint64_t sum = 0, started_ns = watchdogd_now_ns();
        for (int call = 0; call < CALLS; call++) {
            if (guarded) {
                watchdogd_call_enter(WATCHDOGD_OP_SYNC);
                watchdogd_call_leave();
            } else {
                sum += watchdogd_now_ns();
                sum += watchdogd_now_ns();
            }
        }
        batches[batch] = (double)(watchdogd_now_ns() - started_ns) / CALLS;
        __asm__ volatile("" ::"r"(sum)); /* the reads are not to be optimised away */
    }
    qsort(batches, BATCHES, sizeof *batches, by_value);
    return batches[BATCHES / 2];
}

int main(void)
{
    int supervised = watchdogd_attach();
    double clocks = median_ns(0), guard = median_ns(1);
    printf("{\"supervised\": %d, \"two_clock_reads_ns\": %.1f, \"guard_ns\": %.1f}\n", supervised, clocks, guard);
    return 0;
}
