/*
 * One call of the driver: stamped in the thread's lane while it lasts, and what its result says, in the lane's driver line.
 *
 * Invariant: nothing here is done on behalf of a thread without a lane, and every result is returned as it came.
 */
#include "idle.h"

/* As watchdogd.cuda_results.STICKY_ERRORS has them; a test compares. */
int shim_is_sticky(uint64_t code)
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
    if (!words || !(shim_is_sticky(code) || ends_context))
        return;
    uint64_t *owner = shim.region ? shim_words(WATCHDOGD_DRIVER_OFFSET) + WATCHDOGD_DRIVER_HEADER_ERROR_OWNER : NULL;
    uint64_t whose = owner ? watchdogd_load_(owner) : 0;
    int is_anothers = whose && whose != shim.owner && shim_is_sticky(code);
    uint64_t *word = words + WATCHDOGD_HEADER_LAST_ERROR, before = watchdogd_load_(word);
    while (is_anothers ||
           (!shim_is_sticky(before & WATCHDOGD_ERROR_MASK) && (before & WATCHDOGD_ERROR_MASK) != code)) {
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
        if (!thread->depth)
            thread->light.mode = PRECISE; /* that of a parent, which forked in a call, is not */
        if (thread->light.stream != NOT_KNOWN)
            shim_flush(thread);
        watchdogd_store_(shim_line(thread) + WATCHDOGD_DRIVER_LANE_OBJECT, (uint64_t)(uintptr_t)object);
        if (UNLIKELY(shim.options & WATCHDOGD_DRIVER_OPTION_CHECK_CONTEXT))
            shim_check_before(operation, object);
    }
    watchdogd_enter_(thread, operation);
    return thread;
}

/* The end of a call that was stamped precisely. Returns when it was; 0: not known. */
static inline uint64_t leave(struct watchdogd_thread *thread, CUresult result)
{
    uint64_t now_ns = 0;
    if (thread) {
        now_ns = watchdogd_leave_(thread);
        if (UNLIKELY(thread->light.mode == SAMPLE))
            shim_count_light_ones(thread, now_ns);
    }
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

/* What a wait or a query of a stream found done, if that was not known. The counts of a stream are for people, and several
 * threads that use it at one moment may lose some: a locked add would wait for every store before it. */
static inline void count_done(struct watchdogd_thread *thread, uint64_t *entry, uint64_t now_ns)
{
    count(thread, WATCHDOGD_DRIVER_LANE_COMPLETED, now_ns);
    if (!entry)
        return;
    watchdogd_add_(entry + WATCHDOGD_DRIVER_STREAM_COMPLETED, 1);
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
    if (shim.region && result == CUDA_SUCCESS) {
        if (now_ns)
            count(thread, WATCHDOGD_DRIVER_LANE_QUEUED, now_ns);
        shim_stir_all();
    }
    return result;
}

CUresult shim_leave_queued_in(struct watchdogd_thread *thread, CUresult result, CUstream stream)
{
    uint64_t now_ns = leave(thread, result);
    if (shim.region && result == CUDA_SUCCESS) {
        if (now_ns)
            count(thread, WATCHDOGD_DRIVER_LANE_QUEUED, now_ns);
        uint64_t *entry = shim_stream(stream);
        if (entry)
            watchdogd_add_(entry + WATCHDOGD_DRIVER_STREAM_QUEUED, 1);
        shim_stir(entry); /* by a thread without a lane too: others may wait for its work */
    }
    return result;
}

CUresult shim_leave_in_stream(struct watchdogd_thread *thread, CUresult result, CUstream stream)
{
    leave(thread, result);
    if (shim.region && result == CUDA_SUCCESS)
        shim_stir(shim_stream(stream));
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
    uint64_t now_ns = leave(thread, result);
    if (now_ns && shim.region && result == CUDA_SUCCESS && shim_settle(&shim.idle))
        count(thread, WATCHDOGD_DRIVER_LANE_COMPLETED, now_ns);
    if (UNLIKELY(__atomic_load_n(&shim.ready_on_sync, __ATOMIC_RELAXED)))
        be_ready(result);
    return result;
}

CUresult shim_leave_awaited_event(struct watchdogd_thread *thread, CUresult result, CUevent event)
{
    uint64_t now_ns = leave(thread, result);
    if (now_ns && shim.region && result == CUDA_SUCCESS && shim_settle_event(event))
        count(thread, WATCHDOGD_DRIVER_LANE_COMPLETED, now_ns);
    if (UNLIKELY(__atomic_load_n(&shim.ready_on_sync, __ATOMIC_RELAXED)))
        be_ready(result);
    return result;
}

CUresult shim_leave_awaited_stream(struct watchdogd_thread *thread, CUresult result, CUstream stream)
{
    uint64_t now_ns = leave(thread, result);
    if (now_ns && shim.region && result == CUDA_SUCCESS) {
        uint64_t *entry = shim_stream(stream);
        if (shim_settle_stream(stream, entry))
            count_done(thread, entry, now_ns);
    }
    if (UNLIKELY(__atomic_load_n(&shim.ready_on_sync, __ATOMIC_RELAXED)))
        be_ready(result);
    return result;
}

/* --- queries --- */

/* The thread that has an answer to tell of; NULL: there is none, or nowhere to say so. */
static inline struct watchdogd_thread *asker(CUresult result)
{
    struct watchdogd_thread *thread = &watchdogd_thread_;
    if (!shim.region || (result != CUDA_SUCCESS && result != CUDA_ERROR_NOT_READY)) {
        shim_returned(result);
        return NULL;
    }
    return UNLIKELY(!thread->hot) ? shim_claim(thread) : thread;
}

static inline void note_unready(struct watchdogd_thread *thread)
{
    watchdogd_store_(shim_line(thread) + WATCHDOGD_DRIVER_LANE_UNREADY_NS, watchdogd_now_ns());
}

CUresult shim_answered_event(CUresult result, CUevent event)
{
    struct watchdogd_thread *thread = asker(result);
    if (!thread)
        return result;
    if (result == CUDA_ERROR_NOT_READY) {
        shim_stir_event(event);
        note_unready(thread);
    } else if (shim_settle_event(event)) {
        count(thread, WATCHDOGD_DRIVER_LANE_COMPLETED, watchdogd_now_ns());
    }
    return result;
}

CUresult shim_answered_stream(CUresult result, CUstream stream)
{
    struct watchdogd_thread *thread = asker(result);
    if (!thread)
        return result;
    uint64_t *entry = shim_stream(stream);
    if (result == CUDA_ERROR_NOT_READY) {
        shim_stir_entry(entry);
        note_unready(thread);
    } else if (shim_settle_stream(stream, entry)) {
        count_done(thread, entry, watchdogd_now_ns());
    }
    return result;
}
