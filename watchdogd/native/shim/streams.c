/*
 * The table of streams in the driver region: who queued and completed how much.
 *
 * A small cache of this process leads from a handle to its entry. It only hints: an entry is believed by its own words, so
 * that a hint may be wrong, lost, or a parent's after a fork.
 *
 * Invariant: an entry is claimed by a swap of its first word, and one of another living process is never written. (A call
 * that uses a stream as another thread first does may not be counted in it; nor one that does as another thread destroys it,
 * which may go to the stream that comes next. The counts of lanes are exact.)
 */
#include "idle.h"

enum { HINTS = 256, NONE = 0xff, UNKNOWN = 0x100, WORDS = WATCHDOGD_DRIVER_STREAM_STRIDE / 8 };

/* handle << 8 | its entry, or NONE: there was no free one. */
static uint64_t hints[HINTS];
static int claiming;

static uint64_t owner(void) { return shim.owner | 1; }

static uint64_t *entry_at(uint64_t number) { return shim_words(WATCHDOGD_DRIVER_STREAMS_OFFSET) + number * WORDS; }

static uint64_t *hint_for(uint64_t handle) { return &hints[handle * UINT64_C(0x9E3779B97F4A7C15) >> 56]; }

static int is_of(const uint64_t *entry, uint64_t handle)
{
    return watchdogd_load_(entry + WATCHDOGD_DRIVER_STREAM_OWNER) == owner() &&
           watchdogd_load_(entry + WATCHDOGD_DRIVER_STREAM_HANDLE) == handle;
}

/* Its entry among the first `entries`; their number if there is none. */
static uint64_t find(uint64_t handle, uint64_t entries)
{
    uint64_t number = 0;
    while (number < entries && !is_of(entry_at(number), handle))
        number++;
    return number;
}

static void free_entry(uint64_t *entry)
{
    watchdogd_store_(entry + WATCHDOGD_DRIVER_STREAM_HANDLE, UINT64_MAX); /* no stream's: nobody finds it from here on */
    watchdogd_store_(entry + WATCHDOGD_DRIVER_STREAM_OWNER, 0);
    for (unsigned number = 0; number < HINTS; number++) { /* who found no entry may look again */
        uint64_t hint = __atomic_load_n(&hints[number], __ATOMIC_RELAXED);
        if ((hint & NONE) == NONE)
            __atomic_store_n(&hints[number], 0, __ATOMIC_RELAXED);
    }
}

uint64_t *shim_claim_entry(uint64_t offset, unsigned entries, unsigned words, uint64_t owner, int (*spent)(const uint64_t *))
{
    int same_namespace = watchdogd_load_(watchdogd_process_.words + WATCHDOGD_HEADER_PID_NAMESPACE) ==
                         watchdogd_process_.namespace_inode;
    int saved_errno = errno;
    uint64_t *claimed = NULL;
    /* Free ones, then those whose process is gone (in another namespace it cannot be looked up), then spent ones. */
    for (unsigned kind = 0; kind < 3 && !claimed; kind++) {
        for (unsigned number = 0; number < entries && !claimed; number++) {
            uint64_t *entry = shim_words(offset) + number * words, before = watchdogd_load_(entry);
            int is_free = kind == 0   ? before == 0
                          : kind == 1 ? same_namespace && watchdogd_is_gone_(before & ~(uint64_t)UINT32_MAX)
                                      : spent && spent(entry);
            if (is_free && watchdogd_swap_(entry, before, owner))
                claimed = entry;
        }
    }
    errno = saved_errno;
    return claimed;
}

/* The number of an entry that is now the handle's; NONE. */
static uint64_t claim(uint64_t handle)
{
    uint64_t number = find(handle, WATCHDOGD_DRIVER_STREAMS);
    if (number < WATCHDOGD_DRIVER_STREAMS) /* another thread was quicker */
        return number;
    uint64_t *entry =
        shim_claim_entry(WATCHDOGD_DRIVER_STREAMS_OFFSET, WATCHDOGD_DRIVER_STREAMS, WORDS, owner(), NULL);
    if (!entry) {
        __atomic_fetch_add(
            shim_words(WATCHDOGD_DRIVER_OFFSET) + WATCHDOGD_DRIVER_HEADER_STREAMS_UNKEPT, 1, __ATOMIC_RELAXED);
        return NONE;
    }
    for (unsigned word = WATCHDOGD_DRIVER_STREAM_QUEUED; word < WORDS; word++)
        watchdogd_store_(entry + word, 0);
    watchdogd_store_(entry + WATCHDOGD_DRIVER_STREAM_CONTEXT, (uint64_t)(uintptr_t)shim_current_context());
    watchdogd_store_(entry + WATCHDOGD_DRIVER_STREAM_HANDLE, handle);
    return (uint64_t)(entry - entry_at(0)) / WORDS;
}

/* What the hints know: its entry's number, NONE, or UNKNOWN. */
static inline uint64_t hinted(uint64_t handle)
{
    uint64_t hint = __atomic_load_n(hint_for(handle), __ATOMIC_RELAXED), number = hint & NONE;
    int is_its_own = hint >> 8 == (handle & UINT64_MAX >> 8) && (number == NONE || is_of(entry_at(number), handle));
    return is_its_own ? number : UNKNOWN;
}

uint64_t *shim_known_stream(CUstream stream)
{
    uint64_t handle = (uint64_t)(uintptr_t)stream, number = hinted(handle);
    if (number == UNKNOWN)
        number = find(handle, WATCHDOGD_DRIVER_STREAMS);
    return number < WATCHDOGD_DRIVER_STREAMS ? entry_at(number) : NULL;
}

uint64_t *shim_stream(CUstream stream)
{
    uint64_t handle = (uint64_t)(uintptr_t)stream, number;
    if (!shim.region)
        return NULL;
    if ((number = hinted(handle)) != UNKNOWN)
        return number == NONE ? NULL : entry_at(number);
    number = find(handle, WATCHDOGD_DRIVER_STREAMS);
    if (number == WATCHDOGD_DRIVER_STREAMS) {
        /* One thread at a time, so that no stream gets two entries. The others do not wait: they go without for this call. */
        if (__atomic_exchange_n(&claiming, 1, __ATOMIC_ACQUIRE))
            return NULL;
        number = claim(handle);
        __atomic_store_n(&claiming, 0, __ATOMIC_RELEASE);
    }
    __atomic_store_n(hint_for(handle), handle << 8 | number, __ATOMIC_RELAXED);
    return number == NONE ? NULL : entry_at(number);
}

void shim_streams_after_fork(void) { claiming = 0; }

void shim_stir_all(void)
{
    shim_stir(NULL);
    for (uint64_t number = 0; number < WATCHDOGD_DRIVER_STREAMS; number++)
        if (watchdogd_load_(entry_at(number) + WATCHDOGD_DRIVER_STREAM_OWNER) == owner())
            shim_stir_entry(entry_at(number));
}

CUcontext shim_context_of(CUstream stream)
{
    uint64_t number = find((uint64_t)(uintptr_t)stream, WATCHDOGD_DRIVER_STREAMS);
    if ((uintptr_t)stream <= CU_STREAM_PER_THREAD || number == WATCHDOGD_DRIVER_STREAMS)
        return NULL;
    return (CUcontext)(uintptr_t)watchdogd_load_(entry_at(number) + WATCHDOGD_DRIVER_STREAM_CONTEXT);
}

/* Before the driver ends it: as soon as it has, another stream may have its handle. */
void shim_end_stream(CUstream stream)
{
    uint64_t number = shim.region ? find((uint64_t)(uintptr_t)stream, WATCHDOGD_DRIVER_STREAMS) : WATCHDOGD_DRIVER_STREAMS;
    if (number < WATCHDOGD_DRIVER_STREAMS)
        free_entry(entry_at(number));
}

void shim_end_streams_of(CUcontext context)
{
    for (uint64_t number = 0; number < WATCHDOGD_DRIVER_STREAMS; number++) {
        uint64_t *entry = entry_at(number);
        if (watchdogd_load_(entry + WATCHDOGD_DRIVER_STREAM_OWNER) == owner() &&
            watchdogd_load_(entry + WATCHDOGD_DRIVER_STREAM_CONTEXT) == (uint64_t)(uintptr_t)context)
            free_entry(entry);
    }
}
