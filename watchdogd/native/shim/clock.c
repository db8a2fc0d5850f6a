/*
 * How many ns a tick of the processor's counter is, and a thread's anchor between the two.
 *
 * Invariant: a signal handler that interrupts any line here finds an anchor that is whole, or says that it is not valid.
 */
#include "clock.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

enum {
    WINDOW_NS = 400000,       /* the clock is slewed by 500 ppm at most: 0.2 us in it */
    CALIBRATION_NS = 4000000, /* at least, between the readings that give the scale */
    GAP_NS = 500,             /* a reading during which more passed was interrupted */
    PRECISION = 4096,         /* the counter's part in a calibration that its readings may be wrong by */
    STRAY_NS = 20000,         /* so far from the clock at the next reading: it is not the same time */
    WINDOWS = 20,             /* after so many the counter may be that far away by the clock's slewing alone */
};

uint64_t shim_scale;

static uint64_t first_ticks, first_ns, first_gap;

struct reading {
    uint64_t ns, ticks, gap;
};

static struct reading read_both(void)
{
    struct timespec now;
    uint64_t before = shim_ticks();
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t gap = shim_ticks() - before;
    return (struct reading){(uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec, before + gap / 2, gap};
}

void shim_start_clock(const char *clocksource)
{
    static const char *const counters[] = {"tsc\n", "arch_sys_counter\n"};
    char name[32] = "";
    int fd = open(clocksource, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? 0 : read(fd, name, sizeof name - 1);
    if (fd >= 0)
        close(fd);
    name[length > 0 ? length : 0] = 0;
    if (strcmp(name, counters[0]) != 0 && strcmp(name, counters[1]) != 0)
        return;
    struct reading best = read_both();
    for (int again = 0; again < 8; again++) {
        struct reading next = read_both();
        if (next.gap < best.gap)
            best = next;
    }
    first_ns = best.ns;
    first_gap = best.gap;
    __atomic_store_n(&first_ticks, best.ticks, __ATOMIC_RELEASE);
}

void shim_start_ticks(long longest_ns, uint64_t *tick_ns, shim_clock_function **read_clock)
{
    struct timespec tick;
    if (clock_getres(CLOCK_MONOTONIC_COARSE, &tick) != 0 || tick.tv_sec || tick.tv_nsec > longest_ns)
        return;
    /* The kernel's own function: through that of libc, a launch would touch two pages more. */
    void *kernels = dlopen("linux-vdso.so.1", RTLD_NOW | RTLD_NOLOAD), *found = NULL;
    if (kernels && !(found = dlsym(kernels, "__vdso_clock_gettime")))
        found = dlsym(kernels, "__kernel_clock_gettime"); /* aarch64 */
    *read_clock = found ? (shim_clock_function *)(uintptr_t)found : clock_gettime;
    *tick_ns = (uint64_t)tick.tv_nsec;
}

/* From the first reading to this one, if they are far enough apart for what each may be wrong by. */
static void calibrate(struct reading now)
{
    uint64_t from = __atomic_load_n(&first_ticks, __ATOMIC_ACQUIRE), passed = now.ticks - from;
    if (from && now.ns - first_ns >= CALIBRATION_NS && passed / PRECISION > now.gap + first_gap) {
        __extension__ unsigned __int128 passed_ns = now.ns - first_ns;
        __atomic_store_n(&shim_scale, (uint64_t)((passed_ns << SHIM_SCALE_BITS) / passed), __ATOMIC_RELAXED);
    }
}

/* Whether the counter and the clock went the same way since the last reading, as far as that can be told. */
static int has_strayed(const struct shim_clock *last, struct reading now, uint64_t scale)
{
    uint64_t passed = now.ticks - last->ticks;
    if (!last->valid_for || passed > WINDOWS * last->valid_for)
        return 0;
    int64_t apart = (int64_t)(passed * scale >> SHIM_SCALE_BITS) - (int64_t)(now.ns - last->ns);
    return apart > STRAY_NS || apart < -STRAY_NS;
}

uint64_t shim_read_clock(struct shim_clock *clock)
{
    struct shim_clock last = *clock;
    clock->valid_for = 0;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    struct reading now = read_both();
    uint64_t scale = __atomic_load_n(&shim_scale, __ATOMIC_RELAXED);
    if (!scale) {
        calibrate(now);
        return now.ns;
    }
    if (now.gap * scale >> SHIM_SCALE_BITS > GAP_NS)
        return now.ns;
    if (has_strayed(&last, now, scale)) {
        __atomic_store_n(&first_ticks, 0, __ATOMIC_RELAXED); /* for good */
        __atomic_store_n(&shim_scale, 0, __ATOMIC_RELAXED);
        return now.ns;
    }
    clock->ticks = now.ticks;
    clock->ns = now.ns;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    clock->valid_for = ((uint64_t)WINDOW_NS << SHIM_SCALE_BITS) / scale;
    return now.ns;
}
