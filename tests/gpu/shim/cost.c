/*
 * What the driver shim costs a call: cost SHIM REAL_DRIVER PTX KERNEL ROUNDS
 *
 * One process holds both: the shim, and the real driver that it forwards to. Bare and shimmed calls take turns, in changing
 * order, on one stream of one context, so that clocks, caches and neighbours weigh on both alike. Printed as JSON: medians
 * of the bare calls and of the differences to them, in ns a call.
 */
#include "driver_api.h"

enum { MOST = 200000, BATCH = 16 };

static struct api apis[2]; /* bare, shimmed */
static Handle stream, function;

static void idle(const struct api *api)
{
    for (int i = 0; i < BATCH; i++)
        check(api->synchronize(stream), "cuStreamSynchronize");
}

static void launched(const struct api *api)
{
    check(api->launch(function, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL), "cuLaunchKernel");
    check(api->synchronize(stream), "cuStreamSynchronize");
}

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static double median(int64_t *values, int count)
{
    qsort(values, (size_t)count, sizeof *values, by_value);
    return count % 2 ? (double)values[count / 2] : (double)(values[count / 2 - 1] + values[count / 2]) / 2;
}

static void measure(const char *name, void (*run)(const struct api *), int calls, int rounds, const char *end)
{
    static int64_t bare[MOST], more[MOST];
    for (int round = -rounds / 10; round < rounds; round++) { /* the first ones warm up */
        int64_t took[2];
        for (int turn = 0; turn < 2; turn++) {
            int which = (turn + round) & 1;
            int64_t begin = now_ns();
            run(&apis[which]);
            took[which] = now_ns() - begin;
        }
        if (round >= 0) {
            bare[round] = took[0];
            more[round] = took[1] - took[0];
        }
    }
    printf("\"%s\": {\"bare_ns\": %.1f, \"more_ns\": %.1f}%s", name, median(bare, rounds) / calls, median(more, rounds) / calls, end);
}

static char *text_of(const char *path)
{
    FILE *file = must(fopen(path, "rb"), path);
    char *text = must(calloc(1, 1 << 20), "memory");
    if (fread(text, 1, (1 << 20) - 1, file) == 0)
        exit(1);
    fclose(file);
    return text;
}

int main(int argc, char **argv)
{
    if (argc != 6)
        return 2;
    void *shim = must(dlopen(argv[1], RTLD_NOW | RTLD_LOCAL), argv[1]);
    void *real = must(dlopen(argv[2], RTLD_NOW | RTLD_LOCAL), argv[2]);
    apis[0] = api_of(real);
    apis[1] = api_of(shim);
    if (apis[0].synchronize == apis[1].synchronize) {
        fprintf(stderr, "both are the same library\n");
        return 1;
    }
    int device, rounds = atoi(argv[5]);
    if (rounds < 10 || rounds > MOST)
        return 2;
    Handle context, module;
    const struct api *api = &apis[1];
    check(api->init(0), "cuInit");
    check(api->device(&device, 0), "cuDeviceGet");
    check(api->retain(&context, device), "cuDevicePrimaryCtxRetain");
    check(api->set_current(context), "cuCtxSetCurrent");
    check(api->load(&module, text_of(argv[3])), "cuModuleLoadData");
    check(api->function(&function, module, argv[4]), "cuModuleGetFunction");
    check(api->make_stream(&stream, 1), "cuStreamCreate");
    printf("{");
    measure("idle_synchronize", idle, BATCH, rounds, ", ");
    measure("launch_and_synchronize", launched, 1, rounds, "}\n");
    return 0;
}
