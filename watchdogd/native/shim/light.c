/* What light_path.h leaves to it. */
#include "idle.h"
#include "light_path.h"

void shim_begin_light(struct watchdogd_thread *thread)
{
    thread->light = (struct shim_light){.stream = NOT_KNOWN};
    thread->light.uncounted = watchdogd_load_(shim_line(thread) + WATCHDOGD_DRIVER_LANE_UNCOUNTED);
}

void shim_flush(struct watchdogd_thread *thread)
{
    struct shim_light *light = &thread->light;
    if (light->stream == NOT_KNOWN)
        return;
    uint64_t *line = shim_line(thread), *entry = shim_known_stream((CUstream)(uintptr_t)light->stream);
    watchdogd_store_(line + WATCHDOGD_DRIVER_LANE_UNCOUNTED, light->uncounted);
    if (light->queued) {
        uint64_t completed_ns = watchdogd_load_(line + WATCHDOGD_DRIVER_LANE_COMPLETED_NS);
        watchdogd_add_(line + WATCHDOGD_DRIVER_LANE_QUEUED, light->queued);
        watchdogd_store_( /* after it, whatever the tick says: else it would have been flushed before */
            line + WATCHDOGD_DRIVER_LANE_QUEUED_NS,
            light->entered_ns > completed_ns ? light->entered_ns : completed_ns + 1);
        if (entry)
            watchdogd_add_(entry + WATCHDOGD_DRIVER_STREAM_QUEUED, light->queued);
        light->queued = 0;
    }
    light->stream = NOT_KNOWN;
}

struct watchdogd_thread *shim_enter_as_sample(unsigned operation, const void *object)
{
    struct watchdogd_thread *thread = shim_enter(operation, object);
    if (thread && thread->depth == 1 && shim.tick_ns)
        thread->light.mode = SAMPLE;
    return thread;
}

void shim_begin_burst(struct watchdogd_thread *thread, CUstream stream, unsigned queued, uint64_t settled)
{
    struct shim_light *light = &thread->light;
    uint64_t *entry = shim_stream(stream);
    shim_flush(thread); /* to the stream before this one */
    shim_stir(entry);
    light->stream = (uint64_t)(uintptr_t)stream;
    light->queued = queued;
    shim_flush(thread);
    light->stream = (uint64_t)(uintptr_t)stream;
    light->settled = settled;
}

void shim_count_light_ones(struct watchdogd_thread *thread, uint64_t now_ns)
{
    unsigned operation = thread->operation[0];
    if (thread->depth || !now_ns)
        return;
    thread->light.mode = PRECISE;
    watchdogd_count_(thread->cold, operation, now_ns - thread->started_ns[0], uncounted(thread, operation));
    thread->light.uncounted &= ~(0xff * one_of(operation));
    watchdogd_store_(shim_line(thread) + WATCHDOGD_DRIVER_LANE_UNCOUNTED, thread->light.uncounted);
}
