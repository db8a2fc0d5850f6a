/*
 * The functions that a program calls in place of the driver's: one from each row of functions.def.
 *
 * Invariant: each calls the driver's function of the same name with the same arguments, once, and returns what it returned;
 * some differ in what they pass (scheduling flags, by option; a function of ours that calls the program's). Where the driver has none it answers as NVIDIA's stub does.
 */
#include "shim.h"

/* What a call means: one pair each, what is done before it, and with its result. `_` = the parenthesised subject. */
#define BEFORE_PLAIN(operation, _) shim_enter(WATCHDOGD_OP_##operation, NULL)
#define AFTER_PLAIN(thread, result, _) shim_leave(thread, result)

#define BEFORE_IN_STREAM(operation, stream) shim_enter(WATCHDOGD_OP_##operation, stream)
#define AFTER_IN_STREAM(thread, result, stream) shim_leave_in_stream(thread, result, stream)

#define BEFORE_RECORDS(operation, stream) shim_enter(WATCHDOGD_OP_##operation, stream)
#define AFTER_RECORDS(thread, result, stream) shim_leave_recorded(thread, result, stream, hEvent)

#define BEFORE_QUEUES(operation, stream) shim_enter(WATCHDOGD_OP_##operation, stream)
#define AFTER_QUEUES(thread, result, stream) shim_leave_queued_in(thread, result, stream)

#define BEFORE_QUEUES_SOMEWHERE(operation, _) shim_enter(WATCHDOGD_OP_##operation, NULL)
#define AFTER_QUEUES_SOMEWHERE(thread, result, _) shim_leave_queued(thread, result)

/* The driver gets `kept`, and a function of ours: launches.def. */
#define BEFORE_CALLS_BACK(operation, stream) \
    shim_enter(WATCHDOGD_OP_##operation, stream); \
    void *kept = shim_keep(stream, (void (*)(void))fn, userData)
#define AFTER_CALLS_BACK(thread, result, stream) (shim_kept(kept, result), shim_leave_queued_in(thread, result, stream))

#define BEFORE_COMPLETES(operation, _) shim_enter(WATCHDOGD_OP_##operation, NULL)
#define AFTER_COMPLETES(thread, result, _) shim_leave_completed(thread, result)

#define BEFORE_AWAITS(operation, _) shim_enter(WATCHDOGD_OP_##operation, NULL)
#define AFTER_AWAITS(thread, result, _) shim_leave_awaited(thread, result)

#define BEFORE_AWAITS_EVENT(operation, event) shim_enter(WATCHDOGD_OP_##operation, event)
#define AFTER_AWAITS_EVENT(thread, result, event) shim_leave_awaited_event(thread, result, event)

#define BEFORE_AWAITS_STREAM(operation, stream) shim_enter(WATCHDOGD_OP_##operation, stream)
#define AFTER_AWAITS_STREAM(thread, result, stream) shim_leave_awaited_stream(thread, result, stream)

#define BEFORE_ASKS_EVENT(operation, _) NULL
#define AFTER_ASKS_EVENT(thread, result, event) ((void)(thread), shim_answered_event(result, event))

#define BEFORE_ASKS_STREAM(operation, _) NULL
#define AFTER_ASKS_STREAM(thread, result, stream) ((void)(thread), shim_answered_stream(result, stream))

#define BEFORE_MAKES_STREAM(operation, _) shim_enter(WATCHDOGD_OP_##operation, NULL)
#define AFTER_MAKES_STREAM(thread, result, made) make_stream(shim_leave(thread, result), made)

#define BEFORE_ENDS_STREAM(operation, stream) (shim_end_stream(stream), shim_enter(WATCHDOGD_OP_##operation, stream))
#define AFTER_ENDS_STREAM(thread, result, _) shim_leave(thread, result)

#define BEFORE_INITIALIZES(operation, _) shim_enter(WATCHDOGD_OP_##operation, NULL)
#define AFTER_INITIALIZES(thread, result, _) initialize(shim_leave(thread, result))

#define BEFORE_SELECTS(operation, _) NULL
#define AFTER_SELECTS(thread, result, _) ((void)(thread), select_context(result))

#define BEFORE_MAKES_CONTEXT(operation, _) shim_enter(WATCHDOGD_OP_##operation, NULL)
#define AFTER_MAKES_CONTEXT(thread, result, made) make_context(shim_leave(thread, result), UNPACKED made)

#define BEFORE_ENDS_CONTEXT(operation, context) \
    shim_enter(WATCHDOGD_OP_##operation, NULL); \
    uint64_t *entry = shim_end_context(context)
#define AFTER_ENDS_CONTEXT(thread, result, _) end_context(shim_leave(thread, result), entry)

#define BEFORE_RETAINS(operation, retained) shim_enter(WATCHDOGD_OP_##operation, NULL); shim_set_primary_flags(DEVICE_OF retained)
#define AFTER_RETAINS(thread, result, retained) retain_context(shim_leave(thread, result), UNPACKED retained)

#define BEFORE_RELEASES(operation, _) shim_enter(WATCHDOGD_OP_##operation, NULL)
#define AFTER_RELEASES(thread, result, device) release_context(shim_leave(thread, result), device)

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
        return AFTER_##effect(thread, result, subject); \
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
