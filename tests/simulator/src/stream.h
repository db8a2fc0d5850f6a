/*
 * Streams: queues of operations, each executed in order by a thread of its own.
 *
 * `stream_lock` guards every queue and every list of streams; it is never held while an operation executes or a wait
 * spins. What has been done in a stream is one number, `completed`, which only grows.
 */
#ifndef SIMULATOR_STREAM_H
#define SIMULATOR_STREAM_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "context.h"
#include "cuda_types.h"
#include "fault.h"
#include "object.h"

/* A place in a stream's work: reached once `completed` is at least `sequence`. Holds a reference to its stream. */
typedef struct {
    Stream *stream;
    uint64_t sequence;
} Point;

typedef struct Operation Operation;

/* Embedded first in what a particular operation needs. */
struct Operation {
    Operation *next;
    uint64_t sequence;
    Point *waits; /* to be reached before it starts */
    size_t wait_count;
    bool on_device;       /* takes device time, as opposed to a mere mark in the queue */
    int accelerator;      /* on which it takes it */
    uint64_t duration_ns; /* of device time, at least */
    bool endless;
    bool always; /* runs also after an error, which its `run` is told */
    CUresult (*run)(Operation *operation, CUresult failure); /* NULL for one that only waits */
    void (*release)(Operation *operation);
};

enum { CAPTURE_NONE, CAPTURE_ACTIVE, CAPTURE_INVALIDATED };

struct Stream {
    Object object;
    Context *context;
    Stream *next_in_context;
    uint64_t thread; /* whose per-thread default stream this is; 0 = nobody's */
    unsigned flags;
    int priority;
    Place place;
    Operation *first, *last; /* `first` stays in the queue while it executes */
    uint64_t enqueued;
    _Atomic uint64_t completed;
    _Atomic int capture; /* records a graph, as CUstreamCaptureStatus has it */
    bool has_worker;
    bool closed;
    pthread_cond_t work;     /* something was queued, or the stream was closed */
    pthread_cond_t progress; /* `completed` grew */
};

extern pthread_mutex_t stream_lock;

/* All operations begin like this; `size` is that of the structure it is embedded in. */
void *operation_create(size_t size, Stream *stream, CUresult (*run)(Operation *, CUresult));

/* The caller holds a reference to what it gets. */
CUresult stream_create(Context *context, unsigned flags, int priority, Stream **stream);
/* Resolves a handle, the default ones included, for a thread with this current context; referenced. */
CUresult stream_look_up(CUstream handle, Context *current, Stream **stream);
/* Puts the operation at the end and takes it over. */
CUresult stream_enqueue(Stream *stream, Operation *operation);
/* The same, and says where it is: the point holds a reference to be given back with point_release. */
CUresult stream_enqueue_marked(Stream *stream, Operation *operation, Point *point);
/* Queues nothing more; the worker goes once the queue is empty. Give the reference of the table back afterwards. */
void stream_close(Object *stream);

/* Where the stream's work ends now; for a legacy default stream also the work of those it waits for. */
CUresult stream_tails(Stream *stream, Point **points, size_t *count);
CUresult context_tails(Context *context, Point **points, size_t *count);
void point_release(Point *point);
bool point_reached(const Point *point);
/* Waits as the context of the waiting thread has it: spinning, yielding or blocked. */
void point_wait(const Point *point, unsigned context_flags);
/* Waits for all of them and gives them back. */
void points_wait(Point *points, size_t count, unsigned context_flags);
void points_release(Point *points, size_t count);

/* The body of a stream's thread, in worker.c. */
void *worker_main(void *stream);

#endif
