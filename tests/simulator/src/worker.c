/* The thread of a stream: takes one operation after the other, for as long as it takes on the device. */
#include <stdlib.h>
#include <sys/prctl.h>

#include "clock.h"
#include "process.h"
#include "stream.h"

/* How soon a stream sees that a freeze begins or ends: its own waiting is cut into such slices. */
#define POLL_NS NS_PER_MS
/* Of a freeze that lasts. A driver's thread would not wake at all, and each wake on a busy machine is a wait for a CPU,
 * which a supervisor credits to the process. */
#define YOUNG_NS (20 * NS_PER_MS)
#define SLOW_POLL_NS (10 * NS_PER_MS)

static void stand_still_while_frozen(const Stream *stream, const Operation *operation)
{
    Place place = stream->place;
    place.accelerator = operation->accelerator;
    if (!fault_frozen(&place)) {
        return;
    }
    context_busy_begin(stream->context, operation->accelerator);
    uint64_t begin_ns = clock_now_ns();
    do {
        clock_sleep_ns(clock_now_ns() < begin_ns + YOUNG_NS ? POLL_NS : SLOW_POLL_NS);
    } while (fault_frozen(&place) && !atomic_load(&process.dumped));
    context_busy_end(stream->context, operation->accelerator);
}

static void pass_time(const Stream *stream, const Operation *operation, uint64_t begin_ns, double factor)
{
    uint64_t worked_ns = clock_now_ns() - begin_ns;
    uint64_t least_ns = operation->duration_ns > worked_ns ? operation->duration_ns : worked_ns;
    if (least_ns > worked_ns || factor > 1) {
        clock_sleep_until_ns(begin_ns + (uint64_t)((double)least_ns * factor));
    }
    while (operation->endless && context_failure(stream->context) == CUDA_SUCCESS) {
        clock_sleep_ns(POLL_NS);
    }
}

static void execute(Stream *stream, Operation *operation)
{
    Place place = stream->place;
    place.accelerator = operation->accelerator;
    place.mixed = operation->on_device && context_busy_beside(stream->context, operation->accelerator);
    Effect effect = fault_on_operation(&place);
    process_count_operation();
    if (effect.error != 0) {
        context_fail(stream->context, (CUresult)effect.error);
    }
    stand_still_while_frozen(stream, operation);
    CUresult failure = context_failure(stream->context);
    if (failure != CUDA_SUCCESS && !operation->always) {
        return;
    }
    if (!operation->on_device) {
        if (operation->run != NULL) {
            operation->run(operation, failure);
        }
        return;
    }
    context_busy_begin(stream->context, operation->accelerator);
    uint64_t begin_ns = clock_now_ns();
    CUresult result = operation->run(operation, failure);
    pass_time(stream, operation, begin_ns, effect.factor);
    context_busy_end(stream->context, operation->accelerator);
    if (result != CUDA_SUCCESS) {
        context_fail(stream->context, result);
    }
    stand_still_while_frozen(stream, operation);
}

static void wait_for_others(const Operation *operation)
{
    for (size_t i = 0; i < operation->wait_count; i++) {
        while (!point_reached(&operation->waits[i])) {
            pthread_cond_wait(&operation->waits[i].stream->progress, &stream_lock);
        }
    }
}

static void release(Operation *operation)
{
    points_release(operation->waits, operation->wait_count);
    if (operation->release != NULL) {
        operation->release(operation);
    }
    free(operation);
}

void *worker_main(void *argument)
{
    Stream *stream = argument;
    /* Device time is meant to be exact: the default slack would add 50 us to each kernel. */
    prctl(PR_SET_TIMERSLACK, 1UL);
    pthread_mutex_lock(&stream_lock);
    for (;;) {
        while (stream->first == NULL && !stream->closed) {
            pthread_cond_wait(&stream->work, &stream_lock);
        }
        Operation *operation = stream->first;
        if (operation == NULL) {
            break;
        }
        wait_for_others(operation);
        pthread_mutex_unlock(&stream_lock);
        execute(stream, operation);
        pthread_mutex_lock(&stream_lock);
        stream->first = operation->next;
        if (stream->first == NULL) {
            stream->last = NULL;
        }
        atomic_store(&stream->completed, operation->sequence);
        pthread_cond_broadcast(&stream->progress);
        pthread_mutex_unlock(&stream_lock);
        /* Outside the lock: dropping the last reference to another stream takes it. */
        release(operation);
        pthread_mutex_lock(&stream_lock);
    }
    pthread_mutex_unlock(&stream_lock);
    object_put(&stream->object);
    return NULL;
}
