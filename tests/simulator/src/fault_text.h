/*
 * The text form of a fault, and putting one into the shared state.
 *
 *   KIND [KEY=VALUE ...]          e.g.  hang label=model_h after=100 scope=process spread_ms=5
 *
 * kinds and the keys each takes beside the common label, with, after, times:
 *   hang       scope=stream|context|process|device spread_ms heal_ms permanent=0|1 load=PERCENT at=gpu0..|dla0|dla1
 *              mixed=0|1
 *   call_hang  call=NAME for_ms                    names: calls.def
 *   deadlock   calls=NAME,NAME window_ms
 *   error      code=NUMBER
 *   zero       heal_ms
 *   slow       factor=NUMBER heal_ms
 */
#ifndef SIMULATOR_FAULT_TEXT_H
#define SIMULATOR_FAULT_TEXT_H

#include <stdbool.h>
#include <stddef.h>

#include "state.h"

/* False with a sentence in `problem` when the text is not a fault. */
bool fault_parse(const char *text, FaultRequest *request, char *problem, size_t problem_size);

/* Puts the fault in force and returns its id. The 257th takes the place of the first. */
uint64_t fault_add(State *state, const FaultRequest *request);
/* The slot that holds the fault; NULL when its place was taken by a later one. */
FaultSlot *fault_find(State *state, uint64_t id);

#endif
