/*
 * How the library that NVTX loads (nvtx.c) and the driver shim (shim/ranges.c) find each other, whichever is loaded first.
 *
 * Invariant: the number in the names is that of this interface: two builds that do not share it never meet.
 */
#ifndef WATCHDOGD_RANGES_H
#define WATCHDOGD_RANGES_H

#define WATCHDOGD_NVTX_ENVIRONMENT "NVTX_INJECTION64_PATH"
#define WATCHDOGD_GIVE_RANGES "watchdogd_give_ranges_1" /* the shim's: NULL if there is no heartbeat to write */
#define WATCHDOGD_TAKE_RANGES "watchdogd_take_ranges_1" /* the library's */

/* Of the calling thread. Both return the depth of the range, from 0, or what NVTX returns where nobody keeps it. */
struct watchdogd_ranges {
    int (*push)(const char *name); /* UTF-8; the empty one: it has none */
    int (*pop)(void);
};

enum { WATCHDOGD_RANGES_UNKEPT = -2 };

typedef const struct watchdogd_ranges *watchdogd_give_ranges_t(void);
typedef void watchdogd_take_ranges_t(const struct watchdogd_ranges *);

#endif
