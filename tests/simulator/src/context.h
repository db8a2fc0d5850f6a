/* Contexts: created by the caller or the primary one of a device; each thread has a stack of them. */
#ifndef SIMULATOR_CONTEXT_H
#define SIMULATOR_CONTEXT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "cuda_types.h"
#include "object.h"
#include "state.h"

typedef struct Stream Stream;

typedef struct Context {
    Object object;
    int device;
    _Atomic unsigned flags;
    _Atomic int error; /* an error that ends this context alone (710) */
    _Atomic size_t limits[CU_LIMIT_MAX];
    _Atomic unsigned running[STATE_ACCELERATORS]; /* operations that are executing */
    Stream *legacy;  /* the default stream; NULL once the context is destroyed; under stream_lock */
    Stream *streams; /* all that live; under stream_lock */
} Context;

/* The context current to this thread, referenced; 201 when there is none, 709 when it was destroyed. */
CUresult context_current(Context **context);
/* The error that work in this context meets: of the process or of the context itself. */
CUresult context_failure(Context *context);
/* Records an error that an operation met: 710 ends the context, the others the process. */
void context_fail(Context *context, CUresult error);
/* One of its operations starts or ends executing on an accelerator. */
void context_busy_begin(Context *context, int accelerator);
void context_busy_end(Context *context, int accelerator);
/* Whether one is executing on another accelerator than this. */
bool context_busy_beside(Context *context, int accelerator);
CUresult context_look_up(CUcontext handle, Context **context);
CUcontext context_handle(const Context *context);

bool context_flags_valid(unsigned flags);
CUresult context_create(int device, unsigned flags, Context **context);
/* Waits for the context's work, then takes everything in it away. Needs and keeps the caller's reference. */
void context_destroy(Context *context);

#endif
