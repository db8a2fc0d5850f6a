/*
 * A driver that does nothing, for what is measured and tested of the shim alone. It knows which function was called last. Like
 * a later driver than the shim it has a new form of a known name, and one that is exported under no name at all. Built with
 * BEFORE_12 it is asked as drivers of CUDA 11 are.
 */
#include <stdint.h>
#include <stddef.h>
#include <string.h>

static const char *last = "";
static int result;
static void (*interrupt)(void);
static void *current;

const char *driver_last_call(void) { return last; }
void driver_answer(int code) { result = code; } /* to every call from here on */

void driver_interrupt(void (*function)(void)) { interrupt = function; } /* in each synchronize */

void driver_make_current(void *context) { current = context; } /* as by a call that the shim does not see */

int cuCtxGetCurrent(void **context)
{
    if (result == 0)
        *context = current;
    return result;
}

int cuInit(unsigned flags)
{
    (void)flags;
    last = "cuInit";
    return result;
}

int cuStreamSynchronize(void *stream)
{
    (void)stream;
    if (interrupt)
        interrupt();
    return result;
}

int cuStreamSynchronize_ptsz(void *stream)
{
    (void)stream;
    last = "cuStreamSynchronize_ptsz";
    return result;
}

int cuStreamQuery(void *stream)
{
    (void)stream;
    return result;
}

int cuEventSynchronize(void *event)
{
    (void)event;
    return result;
}

int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                   void *stream, void **parameters, void **extra)
{
    (void)function, (void)gx, (void)gy, (void)gz, (void)bx, (void)by, (void)bz, (void)shared, (void)stream, (void)parameters;
    (void)extra;
    last = "cuLaunchKernel";
    return result;
}

int cuMemAlloc_v2(uint64_t *address, size_t size)
{
    *address = size;
    last = "cuMemAlloc_v2";
    return result;
}

static int new_alloc(uint64_t *address, double size) /* cuMemAlloc as of version 99000 */
{
    *address = (uint64_t)size;
    last = "new cuMemAlloc";
    return 0;
}

static int hidden_free(uint64_t address) /* cuMemFree, which this driver does not export */
{
    (void)address;
    last = "hidden cuMemFree";
    return result;
}

int cuMemGetInfo_v2(size_t *free, size_t *total)
{
    (void)free, (void)total;
    return 801;
}

/* As if a linker had folded the two into one. */
int cuMemFreeHost(size_t *, size_t *) __attribute__((alias("cuMemGetInfo_v2")));

static int earlier_prefetch(uint64_t address, size_t size, int device, void *stream) /* no later form, no exported name */
{
    (void)address, (void)size, (void)device, (void)stream;
    last = "earlier cuMemPrefetchAsync";
    return result;
}

#ifdef BEFORE_12
#define ASK cuGetProcAddress
int ASK(const char *name, void **function, int version, uint64_t flags)
{
#else
#define ASK cuGetProcAddress_v2
int ASK(const char *name, void **function, int version, uint64_t flags, int *status)
{
    (void)status;
#endif
    if (flags == 2) /* the per-thread default stream */
        *function = strcmp(name, "cuStreamSynchronize") == 0 ? (void *)(uintptr_t)cuStreamSynchronize_ptsz : NULL;
    else
        *function = strcmp(name, "cuMemFree") == 0 && version >= 3020             ? (void *)(uintptr_t)hidden_free
                    : strcmp(name, "cuMemAlloc") == 0 && version >= 99000         ? (void *)(uintptr_t)new_alloc
                    : strcmp(name, "cuMemAlloc") == 0 && version >= 3020          ? (void *)(uintptr_t)cuMemAlloc_v2
                    : strcmp(name, "cuStreamSynchronize") == 0 && version >= 2000 ? (void *)(uintptr_t)cuStreamSynchronize
                    : strcmp(name, "cuMemPrefetchAsync") == 0 && version >= 8000  ? (void *)(uintptr_t)earlier_prefetch
                    : strcmp(name, "cuMemGetInfo") == 0 && version >= 3020        ? (void *)(uintptr_t)cuMemGetInfo_v2
                    : strcmp(name, "cuGetProcAddress") == 0 && version >= 11030   ? (void *)(uintptr_t)ASK
                                                                                  : NULL;
    return *function ? 0 : 500;
}
