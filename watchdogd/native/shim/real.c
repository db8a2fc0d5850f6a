/*
 * The driver behind the shim: where it is, and its functions.
 *
 * Its path is written into a copy of this file at start, where it runs (watchdogd/instrument): no compiler is there, and
 * each machine has it elsewhere. The loader then loads it as a dependency, by which dlsym() on this library finds every
 * function that the shim does not wrap.
 *
 * Invariant: a function of the driver is only ever taken from the driver, and paired with the wrapper of its own form.
 */
#include "shim.h"

#include <dlfcn.h>

enum { MARKER = 16 };

/* Volatile: what the compiler sees is not what is there. */
static const volatile char place[1024] = "WDOG-REAL-DRIVER";

CUresult (*shim_get_current)(CUcontext *);
/* What cuGetProcAddress gives for a row, where it is not what dlsym() gives. */
static void *others[ROWS];
static void *driver;
static void *(*find)(void *, const char *) = dlsym;

#ifdef __aarch64__
#define FIRST_GLIBC "GLIBC_2.17"
#else
#define FIRST_GLIBC "GLIBC_2.2.5"
#endif

static const struct {
    const char *symbol;
    int version;
} rows[ROWS] = {
#define ROW(symbol, version, operation, effect, subject, parameters, arguments) [AT_##symbol] = {#symbol, version},
#include "functions.def"
#undef ROW
    [AT_cuGetProcAddress] = {"cuGetProcAddress", 11030},
    [AT_cuGetProcAddress_v2] = {"cuGetProcAddress_v2", 12000},
};

void *shim_find(const char *symbol) { return driver ? find(driver, symbol) : NULL; }

/* The C library's own dlsym(), of those that the driver is linked with. What is called by that name may be that of a preloaded
 * library (HAMi's libvgpu.so), which answers for any handle with functions of its own, and those call the ones here. */
static void find_dlsym(void)
{
    void *own = dlvsym(driver, "dlsym", FIRST_GLIBC);
    if (own)
        find = (void *(*)(void *, const char *))(uintptr_t)own;
}

void shim_find_driver(void)
{
    char path[sizeof place - MARKER];
    for (unsigned byte = 0; byte < sizeof path; byte++)
        path[byte] = place[MARKER + byte];
    path[sizeof path - 1] = 0;
    if (path[0])
        driver = dlopen(path, RTLD_NOW | RTLD_LOCAL); /* it is loaded already: a handle */
    if (!driver) {
        dprintf(STDERR_FILENO, "watchdogd: driver shim: %s\n", path[0] ? dlerror() : "not prepared: it has no driver");
        return;
    }
    find_dlsym();
    shim_get_current = (CUresult (*)(CUcontext *))(uintptr_t)shim_find("cuCtxGetCurrent");
    for (unsigned row = 0; row < ROWS; row++) {
        void *function = shim_find(rows[row].symbol);
        if (function != shim_wrappers[row]) /* a path that leads back here: better none than itself for ever */
            __atomic_store_n(&shim.functions[row], function, __ATOMIC_RELAXED);
    }
}

/* Whether a row is a form of this name: the name, then at most _v2 and the suffix of the per-thread default stream. */
static int is_form_of(const char *symbol, const char *name)
{
    size_t length = strlen(name);
    return strncmp(symbol, name, length) == 0 && (symbol[length] == 0 || symbol[length] == '_');
}

static int is_per_thread(const char *symbol)
{
    const char *end = symbol + strlen(symbol) - 5;
    return strcmp(end, "_ptsz") == 0 || strcmp(end, "_ptds") == 0;
}

/* That of the name's own row before any other's: a linker folds functions that do the same (fail) into one. */
static void *wrapper_of(const char *name, const void *function)
{
    void *wrapper = NULL;
    for (unsigned row = 0; row < ROWS; row++) {
        if (function != shim_real(row) && function != __atomic_load_n(&others[row], __ATOMIC_ACQUIRE))
            continue;
        if (is_form_of(rows[row].symbol, name))
            return shim_wrappers[row];
        if (!wrapper)
            wrapper = shim_wrappers[row];
    }
    return wrapper;
}

static void *ask(const char *name, int version, cuuint64_t flags)
{
    CUresult (*now)(const char *, void **, int, cuuint64_t, int *) =
        (CUresult (*)(const char *, void **, int, cuuint64_t, int *))(uintptr_t)shim_real(AT_cuGetProcAddress_v2);
    CUresult (*before_12)(const char *, void **, int, cuuint64_t) =
        (CUresult (*)(const char *, void **, int, cuuint64_t))(uintptr_t)shim_real(AT_cuGetProcAddress);
    void *function = NULL;
    int status = 0;
    CUresult result = now         ? now(name, &function, version, flags, &status)
                      : before_12 ? before_12(name, &function, version, flags)
                                  : CUDA_ERROR_STUB_LIBRARY;
    return result == CUDA_SUCCESS ? function : NULL;
}

/* What the driver itself gives for each form of a name, at the version that brought it. */
static void learn(const char *name)
{
    for (unsigned row = 0; row < ROWS; row++) {
        if (!is_form_of(rows[row].symbol, name))
            continue;
        void *function = ask(name, rows[row].version,
                             is_per_thread(rows[row].symbol) ? CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM
                                                             : CU_GET_PROC_ADDRESS_LEGACY_STREAM);
        /* One that is known is an earlier form: a driver without this one gives the last that it has. (Rows of a name stand
         * in the order of their versions.) */
        if (!function || wrapper_of(name, function))
            continue;
        __atomic_store_n(&others[row], function, __ATOMIC_RELEASE);
        if (!shim_real(row)) /* not exported by name: then this is where its wrapper leads */
            __atomic_store_n(&shim.functions[row], function, __ATOMIC_RELEASE);
    }
}

void *shim_translate(const char *name, void *function)
{
    void *wrapper = wrapper_of(name, function);
    if (!wrapper) {
        learn(name);
        wrapper = wrapper_of(name, function);
    }
    return wrapper ? wrapper : function;
}
