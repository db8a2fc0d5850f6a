/*
 * What a range (push and pop) costs, by NVIDIA's own header: medians of rounds. Run without an injected library, with one that
 * does nothing (nvtx_noop.c) and with ours.
 *
 *     nvtx_bench DRIVER
 */
#define _GNU_SOURCE 1
#include <dlfcn.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "nvtx3/nvToolsExt.h"

enum { ROUNDS = 41, RANGES = 20000, NUMBERED = 4000 };

static nvtxEventAttributes_t registered, ascii;
static char numbered[NUMBERED][24];

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

static void by_name(int number)
{
    (void)number;
    nvtxRangePushA("conv2d_17");
}

static void by_long_name(int number)
{
    (void)number;
    nvtxRangePushA("backbone.layer3.block_12.conv2d_17 + relu_17");
}

static void by_wide_name(int number)
{
    (void)number;
    nvtxRangePushW(L"conv2d_17");
}

static void by_attributes(int number)
{
    (void)number;
    nvtxRangePushEx(&ascii);
}

static void by_handle(int number)
{
    (void)number;
    nvtxDomainRangePushEx(NULL, &registered);
}

static void by_number(int number) { nvtxRangePushA(numbered[number % NUMBERED]); }

static const struct {
    const char *name;
    void (*push)(int);
} kinds[] = {
    {"name", by_name},         {"long_name", by_long_name}, {"wide_name", by_wide_name}, {"attributes", by_attributes},
    {"registered", by_handle}, {"numbered", by_number}, /* the last one: it fills the table */
};

static int compare(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

int main(int count, char **arguments)
{
    void *driver = count == 2 ? dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    int (*synchronize)(void *) = driver ? (int (*)(void *))(uintptr_t)dlsym(driver, "cuStreamSynchronize") : NULL;
    if (!synchronize)
        return 2;
    synchronize(NULL); /* a lane for this thread */
    ascii = registered = (nvtxEventAttributes_t){.version = NVTX_VERSION, .size = NVTX_EVENT_ATTRIB_STRUCT_SIZE};
    ascii.messageType = NVTX_MESSAGE_TYPE_ASCII;
    ascii.message.ascii = "conv2d_17";
    registered.messageType = NVTX_MESSAGE_TYPE_REGISTERED;
    registered.message.registered = nvtxDomainRegisterStringA(NULL, "conv2d_17");
    for (int number = 0; number < NUMBERED; number++)
        snprintf(numbered[number], sizeof *numbered, "frame %d", number);
    for (unsigned kind = 0; kind < sizeof kinds / sizeof *kinds; kind++) {
        double each[ROUNDS];
        for (int round = 0; round < ROUNDS; round++) {
            uint64_t begin_ns = now_ns();
            for (int number = 0; number < RANGES; number++) {
                kinds[kind].push(number);
                nvtxRangePop();
            }
            each[round] = (double)(now_ns() - begin_ns) / RANGES;
        }
        qsort(each, ROUNDS, sizeof *each, compare);
        printf("%s\"%s_ns\": %.1f", kind ? ", " : "{", kinds[kind].name, each[ROUNDS / 2]);
    }
    printf("}\n");
    return 0;
}
