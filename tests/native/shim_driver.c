/*
 * A driver that does nothing, for what is measured and tested of the shim alone. It knows which function was called last. Like
 * a later driver than the shim it has a new form of a known name, and one that is exported under no name at all. Host functions
 * are kept until it is told to run them. Built with BEFORE_12 it is asked as drivers of CUDA 11 are.
 */
#include <pthread.h>
#include <stdint.h>
#include <stddef.h>
#include <string.h>

static const char *last = "";
static int result;
static void (*interrupt)(void);
static void *current = (void *)(uintptr_t)0xc0;

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

/* --- host functions --- */

enum { KEPT = 200 };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct host_function {
    void (*function)(void *);
    void (*callback)(void *, int, void *);
    void *stream, *data;
} kept[KEPT];
static unsigned first, count;
static int capturing;

void driver_capture(int status) { capturing = status; }

static int keep(struct host_function one)
{
    pthread_mutex_lock(&mutex);
    int is_kept = result == 0 && count < KEPT;
    if (is_kept)
        kept[(first + count++) % KEPT] = one;
    pthread_mutex_unlock(&mutex);
    return is_kept ? 0 : result ? result : 1;
}

/* Runs the oldest. Returns how many there were. */
unsigned driver_run(void)
{
    struct host_function one = {0};
    pthread_mutex_lock(&mutex);
    unsigned before = count;
    if (before) {
        one = kept[first++ % KEPT];
        count--;
    }
    pthread_mutex_unlock(&mutex);
    if (one.function)
        one.function(one.data);
    if (one.callback)
        one.callback(one.stream, result, one.data);
    return before;
}

int cuLaunchHostFunc(void *stream, void (*function)(void *), void *data)
{
    return keep((struct host_function){function, NULL, stream, data});
}

int cuStreamAddCallback(void *stream, void (*callback)(void *, int, void *), void *data, unsigned flags)
{
    (void)flags;
    return keep((struct host_function){NULL, callback, stream, data});
}

int cuStreamIsCapturing(void *stream, int *status)
{
    (void)stream;
    *status = capturing;
    return 0;
}

int cuCtxDestroy_v2(void *context)
{
    (void)context;
    return result;
}

int cuCtxSynchronize(void) { return result; }

int cuEventQuery(void *event)
{
    (void)event;
    return result;
}

int cuEventRecord(void *event, void *stream)
{
    (void)event, (void)stream;
    return result;
}

int cuStreamWaitEvent(void *stream, void *event, unsigned flags)
{
    (void)stream, (void)event, (void)flags;
    return result;
}

int cuGraphLaunch(void *graph, void *stream)
{
    (void)graph, (void)stream;
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
