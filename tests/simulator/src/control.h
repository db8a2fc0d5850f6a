/* What tests/simulator/control.py calls; its structures are mirrored there. */
#ifndef SIMULATOR_CONTROL_H
#define SIMULATOR_CONTROL_H

#include "state.h"

#pragma GCC visibility push(default)

typedef struct {
    uint64_t active;
    uint64_t fired;
    uint64_t fired_ns;
    uint64_t spread_ns;
    uint64_t lifted_ns;
    int64_t culprit; /* pid */
} FaultReport;

typedef struct {
    int64_t pid;
    uint64_t start_ticks;
    uint64_t operations;
    uint64_t memory_bytes;
    uint64_t busy_ns[STATE_ACCELERATORS];
    char label[STATE_LABEL_BYTES];
} ProcessReport;

typedef struct {
    int64_t shown_percent; /* what to report whatever was measured; -1 = go by busy_ns */
    uint64_t now_ns;
    uint64_t busy_ns;
} LoadReport;

State *simcontrol_open(const char *path);
void simcontrol_close(State *state);

/* 0 with a sentence in `problem` when the text is not a fault. */
uint64_t simcontrol_add_fault(State *state, const char *text, char *problem, size_t problem_size);
bool simcontrol_read_fault(State *state, uint64_t id, FaultReport *report);
bool simcontrol_clear_fault(State *state, uint64_t id);
uint64_t simcontrol_last_fault(State *state);

/* Fills up to STATE_PROCESSES reports and returns how many. */
int simcontrol_read_processes(State *state, ProcessReport *reports);
void simcontrol_read_load(State *state, int accelerator, LoadReport *report);
/* -1 goes back to what is measured. */
void simcontrol_override_load(State *state, int accelerator, int percent);
void simcontrol_set_tegrastats(State *state, uint32_t mode, uint32_t value);
uint64_t simcontrol_tegrastats(State *state);

#pragma GCC visibility pop

#endif
