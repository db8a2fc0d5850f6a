/*
 * Contexts: which there are, which one each thread last made current, and the optional check that it still is.
 *
 * Invariant: nothing here changes a context or what is current; the one exception, a primary context's scheduling flags, is
 * what `sync_mode` asks for. The driver itself is asked what is current, never assumed.
 */
#include "shim.h"

enum { WORDS = WATCHDOGD_DRIVER_CONTEXT_STRIDE / 8, DEVICES = 64 };

static __thread struct {
    CUcontext current; /* as the thread last made it */
    CUcontext used;    /* by its last stamped call, or made current since */
    CUcontext found;   /* by the call under way */
    const void *object;
    int is_launch;
} mine;

static CUcontext last_used; /* by any thread: what one that has none was probably meant to have */
static CUcontext primaries[DEVICES];

CUcontext shim_current_context(void)
{
    CUcontext current = NULL;
    return shim_get_current && shim_get_current(&current) == CUDA_SUCCESS ? current : NULL;
}

/* --- the table --- */

static uint64_t *entry_at(unsigned number) { return shim_words(WATCHDOGD_DRIVER_CONTEXTS_OFFSET) + number * WORDS; }

static uint64_t *find(CUcontext context)
{
    for (unsigned number = 0; number < WATCHDOGD_DRIVER_CONTEXTS; number++) {
        uint64_t *entry = entry_at(number);
        if (watchdogd_load_(entry + WATCHDOGD_DRIVER_CONTEXT_HANDLE) == (uint64_t)(uintptr_t)context &&
            watchdogd_load_(entry + WATCHDOGD_DRIVER_CONTEXT_OWNER) >> 32 == shim.owner >> 32 &&
            !watchdogd_load_(entry + WATCHDOGD_DRIVER_CONTEXT_GONE_NS))
            return entry;
    }
    return NULL;
}

static int is_gone(const uint64_t *entry) { return watchdogd_load_(entry + WATCHDOGD_DRIVER_CONTEXT_GONE_NS) != 0; }

void shim_note_context(CUcontext context, CUdevice device)
{
    if (!shim.region || !context || find(context))
        return;
    uint64_t owner = shim.owner | (uint32_t)(device + 1);
    uint64_t *entry =
        shim_claim_entry(WATCHDOGD_DRIVER_CONTEXTS_OFFSET, WATCHDOGD_DRIVER_CONTEXTS, WORDS, owner, is_gone);
    if (!entry) {
        __atomic_fetch_add(
            shim_words(WATCHDOGD_DRIVER_OFFSET) + WATCHDOGD_DRIVER_HEADER_CONTEXTS_UNKEPT, 1, __ATOMIC_RELAXED);
        return;
    }
    watchdogd_store_(entry + WATCHDOGD_DRIVER_CONTEXT_MADE_NS, watchdogd_now_ns());
    watchdogd_store_(entry + WATCHDOGD_DRIVER_CONTEXT_GONE_NS, 0);
    watchdogd_store_(entry + WATCHDOGD_DRIVER_CONTEXT_HANDLE, (uint64_t)(uintptr_t)context);
}

uint64_t *shim_end_context(CUcontext context)
{
    uint64_t *entry, *ended = NULL;
    if (shim.region && context)
        shim_drop_host_functions(context);
    while (shim.region && context && (entry = find(context))) { /* two threads may have noted it at one moment */
        shim_end_streams_of(context);
        watchdogd_store_(entry + WATCHDOGD_DRIVER_CONTEXT_GONE_NS, watchdogd_now_ns());
        ended = entry;
    }
    return ended;
}

void shim_unend_context(uint64_t *entry)
{
    if (entry)
        watchdogd_store_(entry + WATCHDOGD_DRIVER_CONTEXT_GONE_NS, 0);
}

/* --- primary contexts --- */

static int is_active(CUdevice device, unsigned *flags)
{
    CUresult (*state)(CUdevice, unsigned *, int *) =
        (CUresult (*)(CUdevice, unsigned *, int *))(uintptr_t)shim_find("cuDevicePrimaryCtxGetState");
    int active = 1;
    return !state || state(device, flags, &active) != CUDA_SUCCESS || active;
}

void shim_set_primary_flags(CUdevice device)
{
    unsigned flags = 0;
    unsigned rows[] = {AT_cuDevicePrimaryCtxSetFlags_v2, AT_cuDevicePrimaryCtxSetFlags};
    for (unsigned row = 0; shim.scheduling && row < 2; row++) {
        CUresult (*set)(CUdevice, unsigned) = (CUresult (*)(CUdevice, unsigned))(uintptr_t)shim_real(rows[row]);
        if (!set)
            continue;
        if (!is_active(device, &flags))
            set(device, (flags & ~(unsigned)CU_CTX_SCHED_MASK) | shim.scheduling);
        return;
    }
}

void shim_note_primary(CUcontext context, CUdevice device)
{
    if (device >= 0 && device < DEVICES)
        __atomic_store_n(&primaries[device], context, __ATOMIC_RELAXED);
    shim_note_context(context, device);
}

void shim_check_primary(CUdevice device)
{
    unsigned flags;
    if (device >= 0 && device < DEVICES && !is_active(device, &flags))
        shim_end_context(__atomic_exchange_n(&primaries[device], NULL, __ATOMIC_RELAXED));
}

/* --- what is current --- */

void shim_note_current(void)
{
    CUcontext now = shim_current_context();
    mine.used = now;
    if (!shim.region || now == mine.current)
        return;
    mine.current = now;
    if (watchdogd_thread_.hot)
        watchdogd_store_(shim_line(&watchdogd_thread_) + WATCHDOGD_DRIVER_LANE_CONTEXT, (uint64_t)(uintptr_t)now);
    if (now && !find(now)) {
        CUresult (*ask)(CUdevice *) = (CUresult (*)(CUdevice *))(uintptr_t)shim_find("cuCtxGetDevice");
        CUdevice device = 0;
        if (ask && ask(&device) == CUDA_SUCCESS)
            shim_note_context(now, device);
    }
}

void shim_begin_line(uint64_t *line)
{
    watchdogd_store_(line + WATCHDOGD_DRIVER_LANE_OBJECT, 0);
    watchdogd_store_(line + WATCHDOGD_DRIVER_LANE_CONTEXT, (uint64_t)(uintptr_t)mine.current);
}

/* --- the check --- */

static void misuse(CUcontext expected, CUcontext found)
{
    uint64_t *header = shim_words(WATCHDOGD_DRIVER_OFFSET);
    uint64_t tid = (uint32_t)watchdogd_load_(watchdogd_thread_.hot + WATCHDOGD_LANE_OWNER);
    watchdogd_store_(header + WATCHDOGD_DRIVER_HEADER_MISUSE_OWNER, shim.owner | tid);
    watchdogd_store_(header + WATCHDOGD_DRIVER_HEADER_MISUSE_EXPECTED, (uint64_t)(uintptr_t)expected);
    watchdogd_store_(header + WATCHDOGD_DRIVER_HEADER_MISUSE_FOUND, (uint64_t)(uintptr_t)found);
    watchdogd_store_(header + WATCHDOGD_DRIVER_HEADER_MISUSE_NS, watchdogd_now_ns());
    __atomic_fetch_add(header + WATCHDOGD_DRIVER_HEADER_MISUSES, 1, __ATOMIC_RELEASE);
}

/* Of a thread that had a context, and did not change it by a call that the shim sees. */
void shim_check_before(unsigned operation, const void *object)
{
    CUcontext found, used = mine.used;
    if (!shim_get_current || shim_get_current(&found) != CUDA_SUCCESS) /* the driver has ended, or the context: no answer */
        found = used;
    mine.found = found;
    mine.object = object;
    mine.is_launch = operation == WATCHDOGD_OP_LAUNCH;
    mine.used = found;
    if (found)
        __atomic_store_n(&last_used, found, __ATOMIC_RELAXED);
    if (used && found != used)
        misuse(used, found);
}

/* What the driver itself calls wrong: a thread that has no context where it needs one (a goroutine that went on in another
 * thread), and a launch into a stream of a context that is not the current one. Both are errors of the call; here is why. */
void shim_check_after(CUresult result)
{
    CUcontext expected = NULL;
    if (result == CUDA_ERROR_INVALID_CONTEXT && !mine.found)
        expected = __atomic_load_n(&last_used, __ATOMIC_RELAXED);
    else if (result == CUDA_ERROR_INVALID_HANDLE && mine.is_launch)
        expected = shim_context_of((CUstream)(uintptr_t)mine.object);
    if (expected && expected != mine.found)
        misuse(expected, mine.found);
}
