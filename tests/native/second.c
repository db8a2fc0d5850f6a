/* A second translation unit of the C worker: it shares the first one's state. */
#include "watchdogd.h"

#include "second.h"

void second_enter(void) { watchdogd_call_enter(WATCHDOGD_OP_COPY); }

void second_leave(void) { watchdogd_call_leave(); }
