/*
 * Events that were found done, as far as this small table goes: each in one place, where a later one takes its room.
 *
 * Invariant: as in idle.h. An event of which no record was seen (another process's, or one that lost its place) is news.
 */
#include "idle.h"

enum { EVENTS = 256, DONE = 1 };

/* handle << 1, DONE from when it was found to be until it is recorded again. */
static uint64_t events[EVENTS];

static uint64_t name_of(CUevent event) { return (uint64_t)(uintptr_t)event << 1; }

static uint64_t *place_of(CUevent event)
{
    return &events[(uint64_t)(uintptr_t)event * UINT64_C(0x9E3779B97F4A7C15) >> 56];
}

void shim_note_record(CUevent event) { watchdogd_store_(place_of(event), name_of(event)); }

void shim_stir_event(CUevent event) { watchdogd_swap_(place_of(event), name_of(event) | DONE, name_of(event)); }

int shim_settle_event(CUevent event)
{
    uint64_t *place = place_of(event), before = watchdogd_load_(place);
    if (before != (name_of(event) | DONE)) {
        if (before == name_of(event))
            watchdogd_swap_(place, before, before | DONE); /* or it is being recorded again */
        return 1;
    }
    return shim_settle(&shim.idle); /* a graph may have recorded it */
}
