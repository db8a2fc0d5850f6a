/*
 * The ranges that a program emits by NVTX: the innermost open one is the stage of its thread's lane.
 *
 * A thread that makes no call of the driver gets no lane by its ranges; one that makes its first call within ranges is in
 * the stage of the innermost. A name costs a search of the heartbeat's table once; then a cache of this process leads from
 * its hash to its code.
 *
 * Invariant: not more than MOST codes are claimed for ranges, so that names with numbers in them leave some for stages. A
 * range without a name, and one whose name is not kept, is shown as the one around it.
 */
#include "../ranges.h"
#include "shim.h"

#include <dlfcn.h>

enum { DEPTH = 24, MOST = 240, NAMES = 512 }; /* a thread of a program has few bytes to spare for the stack */

static __thread struct {
    uint32_t depth; /* of open ranges; those beyond DEPTH are only counted */
    uint64_t stages[DEPTH];
} mine;

static uint64_t names[NAMES]; /* hash << 8 | code; entries are only added; 0 = free */

static unsigned claim(const char *name)
{
    unsigned code = watchdogd_claim_stage_(name, MOST);
    if (!code)
        __atomic_fetch_add(
            shim_words(WATCHDOGD_DRIVER_OFFSET) + WATCHDOGD_DRIVER_HEADER_RANGES_UNKEPT, 1, __ATOMIC_RELAXED);
    return code;
}

static unsigned code_of(const char *name)
{
    uint64_t hash = UINT64_C(0xCBF29CE484222325); /* FNV-1a; 56 bits of it stand for the name */
    for (unsigned byte = 0; byte < WATCHDOGD_STAGE_NAME_SIZE - 1 && name[byte]; byte++)
        hash = (hash ^ (unsigned char)name[byte]) * UINT64_C(0x100000001B3);
    hash &= ~WATCHDOGD_CODE_MASK;
    for (uint64_t probe = 0, first = hash >> 32; probe < NAMES; probe++) {
        uint64_t *entry = &names[(first + probe) % NAMES], found = watchdogd_load_(entry);
        if (!found) {
            unsigned code = claim(name);
            if (!code || watchdogd_swap_(entry, 0, hash | code))
                return code;
            found = watchdogd_load_(entry); /* another thread was quicker */
        }
        if ((found & ~WATCHDOGD_CODE_MASK) == hash)
            return (unsigned)(found & WATCHDOGD_CODE_MASK);
    }
    return claim(name);
}

static void show(const struct watchdogd_thread *thread, uint32_t depth)
{
    if (thread->hot)
        watchdogd_store_(thread->hot + WATCHDOGD_LANE_STAGE, depth ? mine.stages[depth - 1] : 0);
}

void shim_show_range(const struct watchdogd_thread *thread) { show(thread, mine.depth < DEPTH ? mine.depth : DEPTH); }

/* As in watchdogd_enter_(): the depth first, so that a signal handler's range nests in this one. */
static int push(const char *name)
{
    uint32_t depth = mine.depth;
    mine.depth = depth + 1;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    if (depth < DEPTH) {
        unsigned code = *name ? code_of(name) : 0;
        mine.stages[depth] = code    ? watchdogd_stamp_(watchdogd_now_ns(), code)
                             : depth ? mine.stages[depth - 1]
                                     : 0;
        show(&watchdogd_thread_, depth + 1);
    }
    return (int)depth;
}

static int pop(void)
{
    if (mine.depth == 0) /* opened before the shim was there, or never */
        return WATCHDOGD_RANGES_UNKEPT;
    uint32_t depth = mine.depth - 1;
    mine.depth = depth;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    if (depth < DEPTH)
        show(&watchdogd_thread_, depth);
    return (int)depth;
}

static const struct watchdogd_ranges ranges = {push, pop};

EXPORTED watchdogd_give_ranges_t watchdogd_give_ranges_1;
EXPORTED const struct watchdogd_ranges *watchdogd_give_ranges_1(void) { return shim.region ? &ranges : NULL; }

void shim_give_ranges(void)
{
    const char *path = getenv(WATCHDOGD_NVTX_ENVIRONMENT);
    void *library = path && *path ? dlopen(path, RTLD_LAZY | RTLD_NOLOAD) : NULL;
    watchdogd_take_ranges_t *take =
        library ? (watchdogd_take_ranges_t *)(uintptr_t)dlsym(library, WATCHDOGD_TAKE_RANGES) : NULL;
    if (take)
        take(&ranges);
    if (library)
        dlclose(library);
}
