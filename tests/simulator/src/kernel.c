/* Kernels by name, and the few that compute. */
#include "kernel.h"

#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "memory.h"
#include "state.h"

#define DEFAULT_US 100
#define LONGEST_US UINT64_C(1000000000000)

static bool skip(const char **text, const char *prefix)
{
    size_t length = strlen(prefix);
    if (strncmp(*text, prefix, length) != 0) {
        return false;
    }
    *text += length;
    return true;
}

/* The body's name is followed by the end or by the duration suffix. */
static bool names_body(const char *text, const char *body)
{
    return skip(&text, body) && (*text == '\0' || strncmp(text, "__", 2) == 0);
}

/* A number with this exact suffix at its end. */
static bool read_us(const char *text, const char *suffix, uint64_t *duration_us)
{
    char *end;
    if (*text < '0' || *text > '9') {
        return false;
    }
    *duration_us = strtoull(text, &end, 10);
    return strcmp(end, suffix) == 0 && *duration_us <= LONGEST_US;
}

static const char *last_double_underscore(const char *name)
{
    const char *found = NULL;
    for (const char *at = strstr(name, "__"); at != NULL; at = strstr(at + 1, "__")) {
        found = at;
    }
    return found;
}

Kernel kernel_from_name(const char *name)
{
    Kernel kernel = {.body = BODY_TIME_ONLY, .dla = -1, .duration_ns = DEFAULT_US * NS_PER_US};
    uint64_t duration_us;
    const char *suffix = last_double_underscore(name);
    if (suffix != NULL && read_us(suffix + 2, "us", &duration_us)) {
        kernel.duration_ns = duration_us * NS_PER_US;
    }
    if (!skip(&name, "sim_")) {
        return kernel;
    }
    if (skip(&name, "dla0_")) {
        kernel.dla = 0;
    } else if (skip(&name, "dla1_")) {
        kernel.dla = 1;
    }
    if (names_body(name, "add_one")) {
        kernel.body = BODY_ADD_ONE;
    } else if (names_body(name, "copy_scale")) {
        kernel.body = BODY_COPY_SCALE;
    } else if (names_body(name, "spin")) {
        kernel.endless = true;
    } else if (skip(&name, "sleep_us_") && read_us(name, "", &duration_us)) {
        kernel.duration_ns = duration_us * NS_PER_US;
    }
    return kernel;
}

bool kernel_read_arguments(enum KernelBody body, void **parameters, KernelArguments *arguments)
{
    if (body == BODY_TIME_ONLY) {
        return true;
    }
    if (parameters == NULL) {
        return false;
    }
    memcpy(&arguments->target, parameters[0], sizeof arguments->target);
    if (body == BODY_ADD_ONE) {
        memcpy(&arguments->count, parameters[1], sizeof arguments->count);
        return true;
    }
    memcpy(&arguments->source, parameters[1], sizeof arguments->source);
    memcpy(&arguments->count, parameters[2], sizeof arguments->count);
    memcpy(&arguments->factor, parameters[3], sizeof arguments->factor);
    return true;
}

static bool reachable(uint64_t address, size_t bytes)
{
    return bytes == 0 || memory_find(address, bytes, MEMORY_ANY, NULL);
}

CUresult kernel_compute(enum KernelBody body, const KernelArguments *arguments)
{
    if (body == BODY_TIME_ONLY) {
        return CUDA_SUCCESS;
    }
    size_t count = arguments->count > 0 ? (size_t)arguments->count : 0;
    if (!reachable(arguments->target, count * sizeof(float))) {
        return CUDA_ERROR_ILLEGAL_ADDRESS;
    }
    if (body == BODY_COPY_SCALE && !reachable(arguments->source, count * sizeof(float))) {
        return CUDA_ERROR_ILLEGAL_ADDRESS;
    }
    if ((arguments->target | arguments->source) % sizeof(float) != 0) {
        return CUDA_ERROR_MISALIGNED_ADDRESS;
    }
    float *target = (float *)(uintptr_t)arguments->target;
    const float *source = (const float *)(uintptr_t)arguments->source;
    for (size_t i = 0; i < count; i++) {
        target[i] = body == BODY_ADD_ONE ? target[i] + 1.0f : source[i] * arguments->factor;
    }
    return CUDA_SUCCESS;
}
