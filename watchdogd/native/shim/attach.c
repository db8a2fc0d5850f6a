/*
 * This process and its heartbeat: attached as the library is loaded, and in a child of a fork as it makes its first call.
 *
 * Invariant: the driver region is written only if the file has it and its version says so; a file that has none is stamped
 * all the same.
 */
#define SHIM_IS_HERE
#include "shim.h"

struct shim shim;

/* The whole file once more, as watchdogd.h maps no more than versions before 3 had. From its start: a region in the middle
 * need not begin with a page where pages are of 64 KiB. */
static char *map_region(const char *path)
{
    const uint64_t size = WATCHDOGD_DRIVER_OFFSET + WATCHDOGD_DRIVER_SIZE;
    if (watchdogd_load_(watchdogd_process_.words + WATCHDOGD_HEADER_VERSION) < 3)
        return NULL;
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    struct stat file;
    void *map = MAP_FAILED;
    if (fd >= 0 && fstat(fd, &file) == 0 && (uint64_t)file.st_size >= size)
        map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd >= 0)
        close(fd);
    return map == MAP_FAILED ? NULL : (char *)map;
}

/* Of the program that this process ran before an exec, or of another process that had its number. */
static void free_entries_of_old_image(void)
{
    uint64_t *entry = shim_words(WATCHDOGD_DRIVER_STREAMS_OFFSET);
    for (unsigned number = 0; number < WATCHDOGD_DRIVER_STREAMS; number++, entry += WATCHDOGD_DRIVER_STREAM_STRIDE / 8)
        if (watchdogd_load_(entry) >> 32 == shim.owner >> 32)
            watchdogd_store_(entry, 0);
    entry = shim_words(WATCHDOGD_DRIVER_CONTEXTS_OFFSET);
    for (unsigned number = 0; number < WATCHDOGD_DRIVER_CONTEXTS; number++, entry += WATCHDOGD_DRIVER_CONTEXT_STRIDE / 8)
        if (watchdogd_load_(entry) >> 32 == shim.owner >> 32)
            watchdogd_store_(entry, 0);
    uint64_t *error_owner = shim_words(WATCHDOGD_DRIVER_OFFSET) + WATCHDOGD_DRIVER_HEADER_ERROR_OWNER;
    if (watchdogd_load_(error_owner) == shim.owner) {
        watchdogd_store_(watchdogd_process_.words + WATCHDOGD_HEADER_LAST_ERROR, 0);
        watchdogd_store_(error_owner, 0);
    }
}

static void set_owner(void) { shim.owner = (uint64_t)getpid() << 32; }

static void after_fork(void)
{
    set_owner();
    shim_streams_after_fork();
}

static void attach(const char *path)
{
    set_owner();
    if (!watchdogd_attach_path(path)) { /* it has said why */
        __atomic_store_n(&watchdogd_process_.words, NULL, __ATOMIC_RELEASE);
        return;
    }
    shim.options = watchdogd_load_(watchdogd_process_.words + WATCHDOGD_HEADER_DRIVER);
    shim.scheduling = shim.options & WATCHDOGD_DRIVER_OPTION_SYNC_SPIN       ? CU_CTX_SCHED_SPIN
                      : shim.options & WATCHDOGD_DRIVER_OPTION_SYNC_YIELD    ? CU_CTX_SCHED_YIELD
                      : shim.options & WATCHDOGD_DRIVER_OPTION_SYNC_BLOCKING ? CU_CTX_SCHED_BLOCKING_SYNC
                                                                             : 0;
    shim.ready_on_sync = (shim.options & WATCHDOGD_DRIVER_OPTION_READY_ON_SYNC) != 0;
    shim_start_clock("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    pthread_atfork(NULL, NULL, after_fork);
    shim.region = map_region(path);
    if (shim.region) {
        uint64_t *header = shim_words(WATCHDOGD_DRIVER_OFFSET);
        free_entries_of_old_image();
        shim_begin_host_functions();
        watchdogd_store_(header + WATCHDOGD_DRIVER_HEADER_LOADED_PID, (uint64_t)getpid());
        watchdogd_store_(header + WATCHDOGD_DRIVER_HEADER_LOADED_NS, watchdogd_now_ns());
        if (!(shim.options & WATCHDOGD_DRIVER_OPTION_CHECK_CONTEXT))
            shim_start_ticks((long)WATCHDOGD_DRIVER_LONGEST_TICK_NS, &shim.tick_ns, &shim.read_clock);
        shim_give_ranges();
    }
}

__attribute__((constructor)) static void load(void)
{
    int saved_errno = errno;
    const char *path = getenv(WATCHDOGD_ENVIRONMENT);
    shim_find_driver();
    if (path && *path)
        attach(path);
    errno = saved_errno;
}

/* The first thread ends without the end of a thread. */
__attribute__((destructor)) static void leave(void)
{
    if (watchdogd_thread_.hot && shim.region)
        shim_flush(&watchdogd_thread_);
}

struct watchdogd_thread *shim_claim(struct watchdogd_thread *thread)
{
    if (!__atomic_load_n(&watchdogd_process_.words, __ATOMIC_ACQUIRE) || thread->laneless)
        return NULL;
    if (!watchdogd_process_.attached) /* after a fork: a lane for this process too, and an end to its parent's steps */
        watchdogd_attach_path(NULL);
    if (!watchdogd_claim_thread_(thread))
        return NULL;
    if (shim.region) {
        shim_begin_line(shim_line(thread));
        shim_begin_light(thread);
    }
    shim_show_range(thread);
    return thread;
}
