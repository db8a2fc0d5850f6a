/*
 * Functions of the program that it queued in a stream, for the driver to call once the work before them is done. A program
 * may wait for nothing else: no call of it is in flight while its kernel hangs.
 *
 * The driver gets a function of ours, and with it the entry here of the program's own. Not for a stream that is being
 * captured: a graph calls what it holds never, or many times.
 *
 * Invariant: each is called once, with its own arguments, by the thread that the driver chose; that thread is given no lane, and
 * does nothing here but write words. An entry is taken again only when the driver cannot call it any more.
 */
#include "shim.h"

enum { WORDS = WATCHDOGD_DRIVER_HOST_FUNCTION_STRIDE / 8 };

/* What belongs to the entry of the same number while this process owns it. */
static struct function {
    void (*function)(void);
    void *data;
} functions[WATCHDOGD_DRIVER_HOST_FUNCTIONS];

static CUresult (*is_capturing)(CUstream, int *); /* NULL: the driver cannot say */

static uint64_t owner(void) { return shim.owner | 1; }

static uint64_t *entry_at(uint64_t number) { return shim_words(WATCHDOGD_DRIVER_HOST_FUNCTIONS_OFFSET) + number * WORDS; }

static uint64_t *entry_of(const struct function *kept) { return entry_at((uint64_t)(kept - functions)); }

static void free_entry(uint64_t *entry)
{
    watchdogd_store_(entry + WATCHDOGD_DRIVER_HOST_FUNCTION_QUEUED_NS, 0);
    watchdogd_store_(entry + WATCHDOGD_DRIVER_HOST_FUNCTION_OWNER, 0);
}

/* What a program left that this process ran before an exec, or that is gone. */
void shim_begin_host_functions(void)
{
    int same_namespace = watchdogd_load_(watchdogd_process_.words + WATCHDOGD_HEADER_PID_NAMESPACE) ==
                         watchdogd_process_.namespace_inode;
    is_capturing = (CUresult (*)(CUstream, int *))(uintptr_t)shim_find("cuStreamIsCapturing");
    for (uint64_t number = 0; number < WATCHDOGD_DRIVER_HOST_FUNCTIONS; number++) {
        uint64_t before = watchdogd_load_(entry_at(number) + WATCHDOGD_DRIVER_HOST_FUNCTION_OWNER);
        uint64_t process = before & ~(uint64_t)UINT32_MAX;
        if (before && (process == shim.owner || (same_namespace && watchdogd_is_gone_(process))))
            free_entry(entry_at(number));
    }
}

/* NULL: all are in use. From another one each time: those before are likely in use. */
static uint64_t *claim(void)
{
    static uint64_t next;
    uint64_t first = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED);
    for (uint64_t number = 0; number < WATCHDOGD_DRIVER_HOST_FUNCTIONS; number++) {
        uint64_t *entry = entry_at((first + number) % WATCHDOGD_DRIVER_HOST_FUNCTIONS);
        if (!watchdogd_load_(entry) && watchdogd_swap_(entry, 0, owner()))
            return entry;
    }
    return NULL;
}

void *shim_keep(CUstream stream, void (*function)(void), void *data)
{
    int capture = 1;
    if (!shim.region || !function || !is_capturing || is_capturing(stream, &capture) != CUDA_SUCCESS || capture)
        return NULL;
    uint64_t *entry = claim();
    if (!entry) {
        __atomic_fetch_add(
            shim_words(WATCHDOGD_DRIVER_OFFSET) + WATCHDOGD_DRIVER_HEADER_HOST_FUNCTIONS_UNKEPT, 1, __ATOMIC_RELAXED);
        return NULL;
    }
    struct function *kept = &functions[(entry - entry_at(0)) / WORDS];
    *kept = (struct function){function, data};
    watchdogd_store_(entry + WATCHDOGD_DRIVER_HOST_FUNCTION_STREAM, (uint64_t)(uintptr_t)stream);
    watchdogd_store_(entry + WATCHDOGD_DRIVER_HOST_FUNCTION_CONTEXT, (uint64_t)(uintptr_t)shim_current_context());
    watchdogd_store_(entry + WATCHDOGD_DRIVER_HOST_FUNCTION_QUEUED_NS, watchdogd_now_ns());
    return kept;
}

/* After an error that an earlier piece of work made, nobody says whether this one was queued: then it stays taken. */
void shim_kept(void *kept, CUresult result)
{
    if (!kept || result == CUDA_SUCCESS)
        return;
    if (shim_is_sticky((uint64_t)(unsigned)result))
        watchdogd_store_(entry_of(kept) + WATCHDOGD_DRIVER_HOST_FUNCTION_QUEUED_NS, 0);
    else
        free_entry(entry_of(kept));
}

/* As it begins, the work before it is done; as it ends, it is. */
static void note(unsigned more)
{
    uint64_t *header = shim_words(WATCHDOGD_DRIVER_OFFSET);
    __atomic_fetch_add(header + WATCHDOGD_DRIVER_HEADER_HOST_FUNCTIONS_RUN, more, __ATOMIC_RELAXED);
    watchdogd_store_(header + WATCHDOGD_DRIVER_HEADER_HOST_FUNCTION_NS, watchdogd_now_ns());
}

/* Not in a child that the function forked: the entry is its parent's. */
static void end(const struct function *kept)
{
    if (watchdogd_load_(entry_of(kept) + WATCHDOGD_DRIVER_HOST_FUNCTION_OWNER) != owner())
        return;
    note(1);
    free_entry(entry_of(kept));
}

void shim_run(void *kept)
{
    struct function own = *(struct function *)kept;
    note(0);
    ((CUhostFn)own.function)(own.data);
    end(kept);
}

void shim_run_callback(CUstream stream, CUresult status, void *kept)
{
    struct function own = *(struct function *)kept;
    note(0);
    ((CUstreamCallback)own.function)(stream, status, own.data);
    end(kept);
}

/* They stay taken: should the driver call one all the same, it is there. */
void shim_drop_host_functions(CUcontext context)
{
    for (uint64_t number = 0; number < WATCHDOGD_DRIVER_HOST_FUNCTIONS; number++) {
        uint64_t *entry = entry_at(number);
        uint64_t *word = entry + WATCHDOGD_DRIVER_HOST_FUNCTION_QUEUED_NS, queued_ns = watchdogd_load_(word);
        if (watchdogd_load_(entry + WATCHDOGD_DRIVER_HOST_FUNCTION_CONTEXT) == (uint64_t)(uintptr_t)context &&
            watchdogd_load_(entry + WATCHDOGD_DRIVER_HOST_FUNCTION_OWNER) == owner())
            watchdogd_swap_(word, queued_ns, 0);
    }
}
