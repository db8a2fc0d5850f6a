/*
 * The functions that a program calls in place of the driver's: one from each row of functions.def.
 *
 * Invariant: each calls the driver's function of the same name with the same arguments, once, and returns what it returned;
 * some differ in what they pass (scheduling flags, by option; a function of ours that calls the program's). Where the driver has none it answers as NVIDIA's stub does.
 */
#include "idle.h"
#include "light_path.h"

/* Launches are many, and stamped lightly; what else a stream is given to do is not only launched. */
#define IS_LIGHT(operation) (WATCHDOGD_OP_##operation == WATCHDOGD_OP_LAUNCH)
#define ENTER_IN(operation, stream) \
    (IS_LIGHT(operation) ? enter_lightly(WATCHDOGD_OP_##operation, stream, 1) : shim_enter(WATCHDOGD_OP_##operation, stream))
#define LEAVE_IN(operation, thread, result, stream, queued, precisely) \
    (IS_LIGHT(operation) && is_light(thread) ? leave_lightly_in(WATCHDOGD_OP_##operation, thread, result, stream, queued) \
                                             : precisely)

/* What a call means: one pair each, what is done before it, and with its result. `_` = the parenthesised subject. */
#define BEFORE_PLAIN(operation, _) shim_enter(WATCHDOGD_OP_##operation, NULL)
#define AFTER_PLAIN(operation, thread, result, _) shim_leave(thread, result)

#define BEFORE_PREPARES(operation, _) enter_lightly(WATCHDOGD_OP_##operation, NULL, 0)
#define AFTER_PREPARES(operation, thread, result, _) \
    (is_light(thread) ? leave_lightly(WATCHDOGD_OP_##operation, thread, result) : shim_leave(thread, result))

#define BEFORE_IN_STREAM(operation, stream) ENTER_IN(operation, stream)
#define AFTER_IN_STREAM(operation, thread, result, stream) \
    LEAVE_IN(operation, thread, result, stream, 0, shim_leave_in_stream(thread, result, stream))

#define BEFORE_RECORDS(operation, stream) ENTER_IN(operation, stream)
#define AFTER_RECORDS(operation, thread, result, stream) \
    note_record(LEAVE_IN(operation, thread, result, stream, 0, shim_leave_in_stream(thread, result, stream)), hEvent)

#define BEFORE_QUEUES(operation, stream) ENTER_IN(operation, stream)
#define AFTER_QUEUES(operation, thread, result, stream) \
    LEAVE_IN(operation, thread, result, stream, 1, shim_leave_queued_in(thread, result, stream))

#define BEFORE_QUEUES_SOMEWHERE(operation, _) shim_enter(WATCHDOGD_OP_##operation, NULL)
#define AFTER_QUEUES_SOMEWHERE(operation, thread, result, _) shim_leave_queued(thread, result)

/* The driver gets `kept`, and a function of ours: launches.def. */
#define BEFORE_CALLS_BACK(operation, stream) \
    shim_enter(WATCHDOGD_OP_##operation, stream); \
    void *kept = shim_keep(stream, (void (*)(void))fn, userData)
#define AFTER_CALLS_BACK(operation, thread, result, stream) (shim_kept(kept, result), shim_leave_queued_in(thread, result, stream))

#define BEFORE_COMPLETES(operation, _) shim_enter(WATCHDOGD_OP_##operation, NULL)
#define AFTER_COMPLETES(operation, thread, result, _) shim_leave_completed(thread, result)

#define BEFORE_AWAITS(operation, _) shim_enter(WATCHDOGD_OP_##operation, NULL)
#define AFTER_AWAITS(operation, thread, result, _) shim_leave_awaited(thread, result)

#define BEFORE_AWAITS_EVENT(operation, event) shim_enter(WATCHDOGD_OP_##operation, event)
#define AFTER_AWAITS_EVENT(operation, thread, result, event) shim_leave_awaited_event(thread, result, event)

#define BEFORE_AWAITS_STREAM(operation, stream) shim_enter(WATCHDOGD_OP_##operation, stream)
#define AFTER_AWAITS_STREAM(operation, thread, result, stream) shim_leave_awaited_stream(thread, result, stream)

#define BEFORE_ASKS_EVENT(operation, _) NULL
#define AFTER_ASKS_EVENT(operation, thread, result, event) ((void)(thread), shim_answered_event(result, event))

#define BEFORE_ASKS_STREAM(operation, _) NULL
#define AFTER_ASKS_STREAM(operation, thread, result, stream) ((void)(thread), shim_answered_stream(result, stream))

#define BEFORE_MAKES_STREAM(operation, _) shim_enter(WATCHDOGD_OP_##operation, NULL)
#define AFTER_MAKES_STREAM(operation, thread, result, made) make_stream(shim_leave(thread, result), made)

#define BEFORE_ENDS_STREAM(operation, stream) \
    shim_enter(WATCHDOGD_OP_##operation, stream); \
    shim_end_stream(stream)
#define AFTER_ENDS_STREAM(operation, thread, result, _) shim_leave(thread, result)

#define BEFORE_INITIALIZES(operation, _) shim_enter(WATCHDOGD_OP_##operation, NULL)
#define AFTER_INITIALIZES(operation, thread, result, _) initialize(shim_leave(thread, result))

#define BEFORE_SELECTS(operation, _) NULL
#define AFTER_SELECTS(operation, thread, result, _) ((void)(thread), select_context(result))

#define BEFORE_MAKES_CONTEXT(operation, _) shim_enter(WATCHDOGD_OP_##operation, NULL)
#define AFTER_MAKES_CONTEXT(operation, thread, result, made) make_context(shim_leave(thread, result), UNPACKED made)

#define BEFORE_ENDS_CONTEXT(operation, context) \
    shim_enter(WATCHDOGD_OP_##operation, NULL); \
    uint64_t *entry = shim_end_context(context)
#define AFTER_ENDS_CONTEXT(operation, thread, result, _) end_context(shim_leave(thread, result), entry)

#define BEFORE_RETAINS(operation, retained) shim_enter(WATCHDOGD_OP_##operation, NULL); shim_set_primary_flags(DEVICE_OF retained)
#define AFTER_RETAINS(operation, thread, result, retained) retain_context(shim_leave(thread, result), UNPACKED retained)

#define BEFORE_RELEASES(operation, _) shim_enter(WATCHDOGD_OP_##operation, NULL)
#define AFTER_RELEASES(operation, thread, result, device) release_context(shim_leave(thread, result), device)

#define UNPACKED(...) __VA_ARGS__
#define DEVICE_OF(context, device) device
#define PER_THREAD(stream) per_thread(stream)

static inline CUstream per_thread(CUstream stream)
{
    return stream ? stream : (CUstream)(uintptr_t)CU_STREAM_PER_THREAD;
}

static inline CUstream stream_of(const CUlaunchConfig *config) { return config ? config->stream : NULL; }

static inline unsigned scheduling(unsigned flags)
{
    return shim.scheduling ? (flags & ~(unsigned)CU_CTX_SCHED_MASK) | shim.scheduling : flags;
}

static inline CUresult note_record(CUresult result, CUevent event)
{
    if (result == CUDA_SUCCESS)
        shim_note_record(event);
    return result;
}

static CUresult make_stream(CUresult result, const CUstream *made)
{
    if (result == CUDA_SUCCESS)
        shim_stream(*made);
    return result;
}

static CUresult initialize(CUresult result)
{
    CUresult (*version)(int *) = (CUresult (*)(int *))(uintptr_t)shim_find("cuDriverGetVersion");
    int number = 0;
    if (result == CUDA_SUCCESS && shim.region && version && version(&number) == CUDA_SUCCESS)
        watchdogd_store_(
            shim_words(WATCHDOGD_DRIVER_OFFSET) + WATCHDOGD_DRIVER_HEADER_DRIVER_VERSION, (uint64_t)(unsigned)number);
    return result;
}

static CUresult select_context(CUresult result)
{
    shim_note_current();
    return shim_returned(result);
}

static CUresult make_context(CUresult result, const CUcontext *made, CUdevice device)
{
    if (result == CUDA_SUCCESS)
        shim_note_context(*made, device);
    shim_note_current();
    return result;
}

static CUresult end_context(CUresult result, uint64_t *entry)
{
    if (result != CUDA_SUCCESS)
        shim_unend_context(entry);
    shim_note_current();
    return result;
}

static CUresult retain_context(CUresult result, const CUcontext *retained, CUdevice device)
{
    if (result == CUDA_SUCCESS)
        shim_note_primary(*retained, device);
    return result;
}

static CUresult release_context(CUresult result, CUdevice device)
{
    if (result == CUDA_SUCCESS)
        shim_check_primary(device);
    shim_note_current();
    return result;
}

#define ROW(symbol, version, operation, effect, subject, parameters, arguments) \
    EXPORTED CUresult symbol parameters; \
    EXPORTED CUresult symbol parameters \
    { \
        CUresult (*forwarded) parameters = (CUresult (*) parameters)(uintptr_t)shim_real(AT_##symbol); \
        if (UNLIKELY(!forwarded)) \
            return CUDA_ERROR_STUB_LIBRARY; \
        struct watchdogd_thread *thread = BEFORE_##effect(operation, subject); \
        CUresult result = forwarded arguments; \
        return AFTER_##effect(operation, thread, result, subject); \
    }
#include "functions.def"
#undef ROW

EXPORTED CUresult cuGetProcAddress(const char *, void **, int, cuuint64_t);
EXPORTED CUresult cuGetProcAddress_v2(const char *, void **, int, cuuint64_t, int *);

void *const shim_wrappers[ROWS] = {
#define ROW(symbol, version, operation, effect, subject, parameters, arguments) \
    [AT_##symbol] = (void *)(uintptr_t)symbol,
#include "functions.def"
#undef ROW
    [AT_cuGetProcAddress] = (void *)(uintptr_t)cuGetProcAddress,
    [AT_cuGetProcAddress_v2] = (void *)(uintptr_t)cuGetProcAddress_v2,
};
