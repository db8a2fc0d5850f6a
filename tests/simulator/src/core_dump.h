/* A core dump of the GPU at a user's request, as far as who asks can tell it from the real one. */
#ifndef SIMULATOR_CORE_DUMP_H
#define SIMULATOR_CORE_DUMP_H

#include <stdbool.h>

/* Where the environment asks for it: makes the pipe, and a thread that waits for somebody to write there. False with a
 * line on stderr when that fails. What it dumps is a copy of the file SIMCUDA_COREDUMP, in parts. */
bool core_dump_listen(void);

#endif
