/* The log of driver calls that SIMCUDA_CALLS names: what a trace of the same calls is compared with. */
#ifndef SIMULATOR_CALL_LOG_H
#define SIMULATOR_CALL_LOG_H

#include "calls.h"

void call_log_open(void);
void call_log(enum Call call);

#endif
