/*
 * What NVTX loads into a program (NVTX_INJECTION64_PATH) to tell the driver shim which ranges its threads are in.
 *
 * A library of its own, that needs none but libc: NVTX loads it into every program of the worker that emits a range, and the
 * shim would bring the driver with it, into those that use no CUDA, and under the name libcuda.so.1, ahead of what else a
 * program was to find by that name. Before the shim is loaded, ranges lead nowhere.
 *
 * Invariant: only functions that nest (push, pop) are taken; all others are left as no-ops. On their path there is no
 * allocation, no lock and no system call but the shim's reading of the clock.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1 /* strnlen() */
#endif

#include "ranges.h"

#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

#define EXPORTED __attribute__((visibility("default")))

enum { NAME = 32, REGISTERED = 4096 };

/* --- what of nvToolsExt.h and nvtxTypes.h is used; a test compares --- */

enum { TABLE_OF_CALLBACKS = 1, CORE = 1, CORE2 = 5 };
enum { PUSH_EX = 8, PUSH_A, PUSH_W, POP };
enum { DOMAIN_PUSH_EX = 4, DOMAIN_POP, REGISTER_A = 10, REGISTER_W };
enum { ASCII = 1, UNICODE = 2, HANDLE = 3 };

typedef void function(void);

struct callbacks {
    size_t size;
    int (*table)(int module, function ****entries, unsigned *count);
};

struct attributes {
    uint16_t version, size;
    uint32_t category;
    int32_t color_type;
    uint32_t color;
    int32_t payload_type, reserved;
    uint64_t payload;
    int32_t message_type;
    const void *message;
};

/* --- names --- */

static char registered[REGISTERED][NAME]; /* a handle points to one; [0] is for all that find no room */
static unsigned used = 1;

static size_t encode(uint32_t character, char *utf8)
{
    if (character >= 0x110000 || (character >= 0xD800 && character < 0xE000))
        character = '?';
    if (character < 0x80)
        return utf8[0] = (char)character, 1;
    size_t more = character < 0x800 ? 1 : character < 0x10000 ? 2 : 3;
    for (size_t byte = more; byte > 0; byte--, character >>= 6)
        utf8[byte] = (char)(0x80 | (character & 0x3F));
    utf8[0] = (char)(0xFF80 >> more | character);
    return more + 1;
}

static const char *narrow(const wchar_t *wide, char name[NAME])
{
    size_t length = 0;
    char utf8[4];
    for (; wide && *wide; wide++) {
        size_t more = encode((uint32_t)*wide, utf8);
        if (length + more >= NAME)
            break;
        memcpy(name + length, utf8, more);
        length += more;
    }
    name[length] = 0;
    return name;
}

/* --- ranges --- */

static const struct watchdogd_ranges *ranges; /* NULL: the shim is not there (yet) */

static int push(const char *name)
{
    const struct watchdogd_ranges *shim = __atomic_load_n(&ranges, __ATOMIC_ACQUIRE);
    return shim ? shim->push(name ? name : "") : WATCHDOGD_RANGES_UNKEPT;
}

static int push_wide(const wchar_t *wide)
{
    char name[NAME];
    return push(narrow(wide, name));
}

static int push_with(const struct attributes *attributes)
{
    int type = attributes && attributes->size >= sizeof *attributes ? attributes->message_type : 0;
    if (type == UNICODE)
        return push_wide(attributes->message);
    return push(type == ASCII || type == HANDLE ? attributes->message : NULL);
}

static int pop(void)
{
    const struct watchdogd_ranges *shim = __atomic_load_n(&ranges, __ATOMIC_ACQUIRE);
    return shim ? shim->pop() : WATCHDOGD_RANGES_UNKEPT;
}

/* All domains are one to us: what nests in a thread is told, whoever emits it. */
static int domain_push_with(void *domain, const struct attributes *attributes)
{
    (void)domain;
    return push_with(attributes);
}

static int domain_pop(void *domain)
{
    (void)domain;
    return pop();
}

static void *keep(const char *name)
{
    unsigned number = name && *name ? __atomic_load_n(&used, __ATOMIC_RELAXED) : REGISTERED;
    if (number < REGISTERED)
        number = __atomic_fetch_add(&used, 1, __ATOMIC_RELAXED);
    if (number >= REGISTERED)
        return registered[0];
    size_t length = strnlen(name, NAME); /* cut in a character: the shim cuts it further */
    memcpy(registered[number], name, length < NAME ? length : NAME - 1);
    return registered[number];
}

static void *domain_register(void *domain, const char *name)
{
    (void)domain;
    return keep(name);
}

static void *domain_register_wide(void *domain, const wchar_t *wide)
{
    char name[NAME];
    (void)domain;
    return keep(narrow(wide, name));
}

/* --- NVTX, once for each object of the program that has it --- */

EXPORTED watchdogd_take_ranges_t watchdogd_take_ranges_1;
EXPORTED void watchdogd_take_ranges_1(const struct watchdogd_ranges *given)
{
    __atomic_store_n(&ranges, given, __ATOMIC_RELEASE);
}

static void find_shim(void)
{
    void *shim = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
    watchdogd_give_ranges_t *give =
        shim ? (watchdogd_give_ranges_t *)(uintptr_t)dlsym(shim, WATCHDOGD_GIVE_RANGES) : NULL;
    if (give)
        watchdogd_take_ranges_1(give());
    if (shim)
        dlclose(shim);
}

static void take(const struct callbacks *callbacks, int module, unsigned number, function *ours)
{
    function ***entries = NULL;
    unsigned count = 0;
    if (callbacks->table(module, &entries, &count) && number < count && entries && entries[number])
        *entries[number] = ours;
}

EXPORTED int InitializeInjectionNvtx2(const void *(*table)(uint32_t));
EXPORTED int InitializeInjectionNvtx2(const void *(*table)(uint32_t))
{
    const struct callbacks *callbacks = table(TABLE_OF_CALLBACKS);
    if (!callbacks || callbacks->size < sizeof *callbacks)
        return 0;
    find_shim();
    take(callbacks, CORE, PUSH_EX, (function *)push_with);
    take(callbacks, CORE, PUSH_A, (function *)push);
    take(callbacks, CORE, PUSH_W, (function *)push_wide);
    take(callbacks, CORE, POP, (function *)pop);
    take(callbacks, CORE2, DOMAIN_PUSH_EX, (function *)domain_push_with);
    take(callbacks, CORE2, DOMAIN_POP, (function *)domain_pop);
    take(callbacks, CORE2, REGISTER_A, (function *)domain_register);
    take(callbacks, CORE2, REGISTER_W, (function *)domain_register_wide);
    return 1;
}
