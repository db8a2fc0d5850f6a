/*
 * What the parts of the shim know of each other.
 *
 * Invariant: whatever is wrong (no heartbeat, no lane, no region, no such function in the driver), calls are forwarded and
 * the rest does nothing. On the path of a call there is no lock, no allocation and no system call but reading the clock.
 */
#ifndef WATCHDOGD_SHIM_H
#define WATCHDOGD_SHIM_H

#include "light.h"
#ifndef SHIM_IS_HERE /* attach.c has the state of the process and its threads */
#define WATCHDOGD_ELSEWHERE
#endif
#include "../watchdogd.h"
#include "types.h"

#define EXPORTED __attribute__((visibility("default")))
#define COLD __attribute__((cold)) /* what leads to it is put out of the way of the rest */
#define UNLIKELY(condition) __builtin_expect(!!(condition), 0)
#define PER_THREAD_VERSION(version) ((version) < 7000 ? 7000 : (version))

enum {
#define ROW(symbol, version, operation, effect, subject, parameters, arguments) AT_##symbol,
#include "functions.def"
#undef ROW
    AT_cuGetProcAddress,
    AT_cuGetProcAddress_v2,
    ROWS
};

/* --- forward.c --- */

extern void *const shim_wrappers[ROWS];

/* --- real.c: the driver behind --- */

extern CUresult (*shim_get_current)(CUcontext *); /* the same; found beforehand, as the check asks it in each call */

void shim_find_driver(void);
/* A function of the driver that is not wrapped; NULL if it has none. */
void *shim_find(const char *symbol);
/* What to give a program that asked for `name` and would get `function`. */
void *shim_translate(const char *name, void *function);


/* --- attach.c: this process and its heartbeat --- */

/* In one page of memory with what the driver's functions are: a launch finds few of its pages at hand. */
struct shim {
    char *region;    /* the file from its start, with the driver region; NULL: nothing to write it to */
    uint64_t owner;  /* pid << 32, as in entries of the region */
    uint64_t options;
    uint64_t tick_ns; /* of the kernel's clock, where launches are stamped by that; else 0 */
    shim_clock_function *read_clock;
    unsigned scheduling; /* of contexts that are made; 0: as the program asks */
    int ready_on_sync;
    void *functions[ROWS]; /* NULL: the driver has none */
    uint64_t settled __attribute__((aligned(64))); /* how often anything was found idle that was not known to be */
    uint64_t idle; /* 1: nothing was queued by this process since a wait for all of it */
} __attribute__((aligned(4096)));

extern struct shim shim;

static inline void *shim_real(unsigned row) { return __atomic_load_n(&shim.functions[row], __ATOMIC_RELAXED); }

/* The lane of a thread that had none; NULL if there is none to be had. */
struct watchdogd_thread *shim_claim(struct watchdogd_thread *thread);

static inline uint64_t *shim_words(uint64_t offset) { return (uint64_t *)(void *)(shim.region + offset); }

/* The driver's line of a lane. Both strides are the same. */
static inline uint64_t *shim_line(const struct watchdogd_thread *thread)
{
    return shim_words(WATCHDOGD_DRIVER_LANES_OFFSET - WATCHDOGD_HOT_OFFSET +
                      (uint64_t)((const char *)thread->hot - (const char *)watchdogd_process_.words));
}

/* --- stamp.c: a call --- */

struct watchdogd_thread *shim_enter(unsigned operation, const void *object);
/* Each returns `result`. `thread`: what shim_enter() returned. */
CUresult shim_leave(struct watchdogd_thread *thread, CUresult result);
CUresult shim_leave_queued(struct watchdogd_thread *thread, CUresult result);
CUresult shim_leave_queued_in(struct watchdogd_thread *thread, CUresult result, CUstream stream);
CUresult shim_leave_in_stream(struct watchdogd_thread *thread, CUresult result, CUstream stream);
CUresult shim_leave_completed(struct watchdogd_thread *thread, CUresult result);
CUresult shim_leave_awaited(struct watchdogd_thread *thread, CUresult result);
CUresult shim_leave_awaited_event(struct watchdogd_thread *thread, CUresult result, CUevent event);
CUresult shim_leave_awaited_stream(struct watchdogd_thread *thread, CUresult result, CUstream stream);
CUresult shim_answered_event(CUresult result, CUevent event);
CUresult shim_answered_stream(CUresult result, CUstream stream);
/* For calls that are not stamped. */
CUresult shim_returned(CUresult result);
int shim_is_sticky(uint64_t code);

/* --- light.c --- */

/* What light_path.h leaves to it: every now and then. */
COLD struct watchdogd_thread *shim_enter_as_sample(unsigned operation, const void *object);
COLD void shim_begin_burst(struct watchdogd_thread *thread, CUstream stream, unsigned queued, uint64_t settled);
void shim_begin_light(struct watchdogd_thread *thread); /* it has a lane now */
void shim_count_light_ones(struct watchdogd_thread *thread, uint64_t now_ns); /* a SAMPLE of them has ended */

/* --- contexts.c --- */

CUcontext shim_current_context(void); /* asks the driver */
void shim_note_current(void);         /* this thread made another one current */
void shim_note_context(CUcontext context, CUdevice device);
void shim_note_primary(CUcontext context, CUdevice device);
void shim_set_primary_flags(CUdevice device);
uint64_t *shim_end_context(CUcontext context); /* before it ends; what shim_unend_context() needs if it did not */
void shim_unend_context(uint64_t *entry);
void shim_check_primary(CUdevice device); /* after a release: whether it is gone */
/* The option check_context: around a stamped call. */
void shim_check_before(unsigned operation, const void *object);
void shim_check_after(CUresult result);
void shim_begin_line(uint64_t *line); /* its lane has changed hands */

/* --- ranges.c --- */

void shim_give_ranges(void); /* to the library that NVTX has loaded, if it has */
void shim_show_range(const struct watchdogd_thread *thread); /* it has a lane now */

/* --- streams.c --- */

uint64_t *shim_stream(CUstream stream); /* its entry; NULL if there is none for it */
uint64_t *shim_known_stream(CUstream stream); /* the same; it gets none now */
CUcontext shim_context_of(CUstream stream); /* NULL: not known */
void shim_end_stream(CUstream stream);
void shim_streams_after_fork(void);
void shim_stir_all(void); /* something was queued, in any of them */
void shim_end_streams_of(CUcontext context);
/* Claims an entry of a table by its first word; `spent`: whether one of a living owner may be taken. NULL: all are in use. */
uint64_t *shim_claim_entry(uint64_t offset, unsigned entries, unsigned words, uint64_t owner, int (*spent)(const uint64_t *));

/* --- host_functions.c --- */

void shim_begin_host_functions(void); /* at attach */
/* What the driver is given as user data in place of `data`, with shim_run() in place of `function`; NULL: leave both as they
 * are. `function` is a CUhostFn, or, for shim_run_callback(), a CUstreamCallback. */
void *shim_keep(CUstream stream, void (*function)(void), void *data);
void shim_kept(void *kept, CUresult result); /* what the driver answered */
void shim_run(void *kept);
void shim_run_callback(CUstream stream, CUresult status, void *kept);
void shim_drop_host_functions(CUcontext context); /* before it ends: none of its own need run any more */

#endif
