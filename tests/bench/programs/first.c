/*
 * A worker whose first act is to write the time (CLOCK_MONOTONIC ns) as a line to the file named by its first argument.
 * Then it attaches, is ready, makes calls of 1 ms for as many ms as its second argument says, and hangs in one.
 * Invariant: nothing of its own comes before that first act.
 */
#include "watchdogd.h"

int main(int count, char **arguments)
{
    struct timespec first;
    clock_gettime(CLOCK_MONOTONIC, &first);
    if (count != 3)
        return 2;
    char line[32];
    int length = snprintf(line, sizeof line, "%lld%09ld\n", (long long)first.tv_sec, first.tv_nsec);
    int file = open(arguments[1], O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0 || write(file, line, (size_t)length) != length)
        return 2;
    watchdogd_attach();
    watchdogd_ready();
    struct timespec sync = {0, 1000000};
    for (int call = atoi(arguments[2]); call > 0; call--) {
        watchdogd_call_enter(WATCHDOGD_OP_SYNC);
        nanosleep(&sync, NULL);
        watchdogd_call_leave();
    }
    watchdogd_call_enter(WATCHDOGD_OP_SYNC);
    for (;;)
        pause();
}
