/*
 * One call of the driver: stamped in the thread's lane while it lasts, and what its result says, in the lane's driver line.
 *
 * Invariant: nothing here is done on behalf of a thread without a lane, and every result is returned as it came.
 */
#include "shim.h"

/* As watchdogd.cuda_results.STICKY_ERRORS has them; a test compares. */
static int is_sticky(uint64_t code)
{
    switch (code) {
    case 226: case 700: case 702: case 714: case 715: case 716: case 717: case 718: case 719: case 721: case 810: case 911:
        return 1;
    default:
        return 0;
    }
}

/* After a sticky error every call of its process fails: the first one says why, and that process writes no other over it.
 * Another one may, with a sticky error of its own: the first may have ended and left the others well. What is no error of
 * the device or its context (not ready, no memory, not found) is the program's own business. */
static void record(CUresult result)
{
    uint64_t *words = __atomic_load_n(&watchdogd_process_.words, __ATOMIC_ACQUIRE);
    uint64_t code = (uint64_t)(unsigned)result;
    int ends_context = code == 709 || code == 710; /* destroyed, assert */
    if (!words || !(is_sticky(code) || ends_context))
        return;
    uint64_t *owner = shim.region ? shim_words(WATCHDOGD_DRIVER_OFFSET) + WATCHDOGD_DRIVER_HEADER_ERROR_OWNER : NULL;
    uint64_t whose = owner ? watchdogd_load_(owner) : 0;
    int is_anothers = whose && whose != shim.owner && is_sticky(code);
    uint64_t *word = words + WATCHDOGD_HEADER_LAST_ERROR, before = watchdogd_load_(word);
    while (is_anothers ||
           (!is_sticky(before & WATCHDOGD_ERROR_MASK) && (before & WATCHDOGD_ERROR_MASK) != code)) {
        if (watchdogd_swap_(word, before, (watchdogd_now_ns() & ~WATCHDOGD_ERROR_MASK) | code)) {
            if (owner)
                watchdogd_store_(owner, shim.owner);
            return;
        }
        before = watchdogd_load_(word);
    }
}

CUresult shim_returned(CUresult result)
{
    if (UNLIKELY(result != CUDA_SUCCESS && result != CUDA_ERROR_NOT_READY))
        record(result);
    return result;
}

struct watchdogd_thread *shim_enter(unsigned operation, const void *object)
{
    struct watchdogd_thread *thread = &watchdogd_thread_;
    if (UNLIKELY(!thread->hot) && !(thread = shim_claim(thread)))
        return NULL;
    if (shim.region) {
        watchdogd_store_(shim_line(thread) + WATCHDOGD_DRIVER_LANE_OBJECT, (uint64_t)(uintptr_t)object);
        if (UNLIKELY(shim.options & WATCHDOGD_DRIVER_OPTION_CHECK_CONTEXT))
            shim_check_before(operation, object);
    }
    watchdogd_enter_(thread, operation);
    return thread;
}

/* The end of a stamped call. Returns when it was; 0: not known. */
static inline uint64_t leave(struct watchdogd_thread *thread, CUresult result)
{
    uint64_t now_ns = thread ? watchdogd_leave_(thread) : 0;
    shim_returned(result);
    if (UNLIKELY(shim.options & WATCHDOGD_DRIVER_OPTION_CHECK_CONTEXT) && now_ns)
        shim_check_after(result);
    return now_ns;
}

/* One more of what `count` counts, and when: the word behind it. */
static inline void count(struct watchdogd_thread *thread, unsigned word, uint64_t now_ns)
{
    uint64_t *line = shim_line(thread);
    watchdogd_add_(line + word, 1);
    watchdogd_store_(line + word + 1, now_ns);
}

/* Several threads may use one stream. */
static inline void count_in(CUstream stream, unsigned word, uint64_t now_ns)
{
    uint64_t *entry = shim_stream(stream);
    if (!entry)
        return;
    __atomic_fetch_add(entry + word, 1, __ATOMIC_RELAXED);
    if (word == WATCHDOGD_DRIVER_STREAM_COMPLETED)
        watchdogd_store_(entry + WATCHDOGD_DRIVER_STREAM_COMPLETED_NS, now_ns);
}

CUresult shim_leave(struct watchdogd_thread *thread, CUresult result)
{
    leave(thread, result);
    return result;
}

CUresult shim_leave_queued(struct watchdogd_thread *thread, CUresult result)
{
    uint64_t now_ns = leave(thread, result);
    if (now_ns && shim.region && result == CUDA_SUCCESS)
        count(thread, WATCHDOGD_DRIVER_LANE_QUEUED, now_ns);
    return result;
}

CUresult shim_leave_queued_in(struct watchdogd_thread *thread, CUresult result, CUstream stream)
{
    uint64_t now_ns = leave(thread, result);
    if (now_ns && shim.region && result == CUDA_SUCCESS) {
        count(thread, WATCHDOGD_DRIVER_LANE_QUEUED, now_ns);
        count_in(stream, WATCHDOGD_DRIVER_STREAM_QUEUED, now_ns);
    }
    return result;
}

CUresult shim_leave_completed(struct watchdogd_thread *thread, CUresult result)
{
    uint64_t now_ns = leave(thread, result);
    if (now_ns && shim.region && result == CUDA_SUCCESS)
        count(thread, WATCHDOGD_DRIVER_LANE_COMPLETED, now_ns);
    return result;
}

static void be_ready(CUresult result)
{
    if (result == CUDA_SUCCESS) {
        shim.ready_on_sync = 0;
        watchdogd_ready();
    }
}

CUresult shim_leave_awaited(struct watchdogd_thread *thread, CUresult result)
{
    shim_leave_completed(thread, result);
    if (UNLIKELY(__atomic_load_n(&shim.ready_on_sync, __ATOMIC_RELAXED)))
        be_ready(result);
    return result;
}

CUresult shim_leave_awaited_stream(struct watchdogd_thread *thread, CUresult result, CUstream stream)
{
    uint64_t now_ns = leave(thread, result);
    if (now_ns && shim.region && result == CUDA_SUCCESS) {
        count(thread, WATCHDOGD_DRIVER_LANE_COMPLETED, now_ns);
        count_in(stream, WATCHDOGD_DRIVER_STREAM_COMPLETED, now_ns);
    }
    if (UNLIKELY(__atomic_load_n(&shim.ready_on_sync, __ATOMIC_RELAXED)))
        be_ready(result);
    return result;
}

/* --- queries --- */

/* Returns when a query found all done; 0: it did not, or there is nowhere to say so. */
static uint64_t answered(CUresult result)
{
    struct watchdogd_thread *thread = &watchdogd_thread_;
    if (!shim.region || (result != CUDA_SUCCESS && result != CUDA_ERROR_NOT_READY) ||
        (UNLIKELY(!thread->hot) && !(thread = shim_claim(thread)))) {
        shim_returned(result);
        return 0;
    }
    uint64_t now_ns = watchdogd_now_ns();
    if (result == CUDA_ERROR_NOT_READY) {
        watchdogd_store_(shim_line(thread) + WATCHDOGD_DRIVER_LANE_UNREADY_NS, now_ns);
        return 0;
    }
    count(thread, WATCHDOGD_DRIVER_LANE_COMPLETED, now_ns);
    return now_ns;
}

CUresult shim_answered(CUresult result)
{
    answered(result);
    return result;
}

CUresult shim_answered_stream(CUresult result, CUstream stream)
{
    uint64_t now_ns = answered(result);
    if (now_ns)
        count_in(stream, WATCHDOGD_DRIVER_STREAM_COMPLETED, now_ns);
    return result;
}
