/*
 * The shared state as tests.simulator.control sees it, through ctypes: so that the layout of the state and the text of
 * a fault are known in one place. Nothing here is part of the driver.
 */
#include "control.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "clock.h"
#include "fault_text.h"
#include "load.h"

State *simcontrol_open(const char *path)
{
    return state_map(path);
}

void simcontrol_close(State *state)
{
    munmap(state, sizeof *state);
}

uint64_t simcontrol_add_fault(State *state, const char *text, char *problem, size_t problem_size)
{
    FaultRequest request;
    return fault_parse(text, &request, problem, problem_size) ? fault_add(state, &request) : 0;
}

bool simcontrol_read_fault(State *state, uint64_t id, FaultReport *report)
{
    FaultSlot *slot = fault_find(state, id);
    if (slot == NULL) {
        return false;
    }
    *report = (FaultReport){
        .active = atomic_load(&slot->phase) == PHASE_ARMED,
        .fired = atomic_load(&slot->fired),
        .fired_ns = atomic_load(&slot->fired_ns),
        .spread_ns = slot->request.scope == SCOPE_STREAM ? 0 : atomic_load(&slot->spread_at_ns),
        .lifted_ns = atomic_load(&slot->lifted_ns),
        .culprit = owner_pid(atomic_load(&slot->culprit)),
    };
    return true;
}

bool simcontrol_clear_fault(State *state, uint64_t id)
{
    FaultSlot *slot = fault_find(state, id);
    if (slot == NULL) {
        return false;
    }
    atomic_store(&slot->phase, PHASE_CLEARED);
    return true;
}

uint64_t simcontrol_last_fault(State *state)
{
    return atomic_load(&state->last_fault_id);
}

int simcontrol_read_processes(State *state, ProcessReport *reports)
{
    int count = 0;
    state_reap(state);
    for (int index = 0; index < STATE_PROCESSES; index++) {
        ProcessSlot *slot = &state->processes[index];
        Owner owner = atomic_load(&slot->owner);
        if (owner == 0 || atomic_load(&slot->ready) == 0) {
            continue;
        }
        ProcessReport *report = &reports[count++];
        report->pid = owner_pid(owner);
        report->start_ticks = (uint32_t)owner;
        report->operations = atomic_load(&slot->operations);
        report->memory_bytes = atomic_load(&slot->memory_bytes);
        memcpy(report->label, slot->label, sizeof report->label);
        for (int accelerator = 0; accelerator < STATE_ACCELERATORS; accelerator++) {
            report->busy_ns[accelerator] = atomic_load(&slot->busy_ns[accelerator]);
        }
    }
    return count;
}

/* The load that a freeze in force shows on this accelerator; -1 for none. */
static int frozen_load(State *state, int accelerator)
{
    for (int index = 0; index < STATE_FAULTS; index++) {
        FaultSlot *slot = &state->faults[index];
        Owner culprit = atomic_load(&slot->culprit);
        if (atomic_load(&slot->phase) == PHASE_ARMED && slot->request.load_percent >= 0 && culprit != 0 &&
            atomic_load(&slot->culprit_accelerator) == accelerator &&
            (slot->request.permanent || owner_alive(culprit))) {
            return slot->request.load_percent;
        }
    }
    return -1;
}

void simcontrol_read_load(State *state, int accelerator, LoadReport *report)
{
    int override = atomic_load(&state->accelerators[accelerator].override) - 1;
    state_reap(state);
    report->shown_percent = override >= 0 ? override : frozen_load(state, accelerator);
    report->now_ns = clock_now_ns();
    report->busy_ns = load_busy_ns(&state->accelerators[accelerator]);
}

void simcontrol_override_load(State *state, int accelerator, int percent)
{
    atomic_store(&state->accelerators[accelerator].override, percent + 1);
}

void simcontrol_set_tegrastats(State *state, uint32_t mode, uint32_t value)
{
    atomic_store(&state->tegrastats, (uint64_t)mode << 32 | value);
}

uint64_t simcontrol_tegrastats(State *state)
{
    return atomic_load(&state->tegrastats);
}
