/* Modules of a context, and libraries, which belong to none. Any image will do: functions come from their names. */
#ifndef SIMULATOR_MODULE_H
#define SIMULATOR_MODULE_H

#include "cuda_types.h"
#include "kernel.h"
#include "object.h"

typedef struct {
    Object object;
    uint64_t context; /* handle; 0 for a library's, which runs in any */
    Kernel kernel;
} Function;

/* A function or a library's kernel, referenced. */
CUresult function_look_up(uint64_t handle, Function **function);
/* What goes with its module. */
void module_retire_functions(Object *module);

#endif
