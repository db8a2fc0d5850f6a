/*
 * What a kernel does is told by its name:
 *
 *   sim_[dlaN_]BODY[__DURATIONus]       BODY: add_one, copy_scale, spin, sleep_us_DURATION or anything
 *
 * It takes 100 us of device time unless the name says otherwise; spin never ends. With dla0_ or dla1_ the time counts
 * as that engine's load instead of the GPU's. A name without the sim_ prefix is a kernel that only takes time.
 */
#ifndef SIMULATOR_KERNEL_H
#define SIMULATOR_KERNEL_H

#include <stdbool.h>
#include <stdint.h>

#include "cuda_types.h"

enum KernelBody {
    BODY_TIME_ONLY,
    BODY_ADD_ONE,    /* (float *data, int count): adds 1 to each */
    BODY_COPY_SCALE, /* (float *target, const float *source, int count, float factor) */
};

typedef struct {
    enum KernelBody body;
    bool endless;
    int dla; /* -1 = the GPU */
    uint64_t duration_ns;
} Kernel;

typedef struct {
    uint64_t target;
    uint64_t source;
    int count;
    float factor;
} KernelArguments;

Kernel kernel_from_name(const char *name);
/* Copies the arguments out, since the caller's may go once the launch returns; false when there are none to copy. */
bool kernel_read_arguments(enum KernelBody body, void **parameters, KernelArguments *arguments);
/* 700 when the arguments point outside memory that the device can reach. */
CUresult kernel_compute(enum KernelBody body, const KernelArguments *arguments);

#endif
