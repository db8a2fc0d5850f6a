/* How long a process takes to its first context: startup. Prints ns from before the load of libcuda.so.1. */
#include "driver_api.h"
#include <unistd.h>

int main(void)
{
    int64_t begin = now_ns();
    struct api api = api_of(must(dlopen("libcuda.so.1", RTLD_NOW), "libcuda.so.1"));
    int device;
    Handle context;
    check(api.init(0), "cuInit");
    check(api.device(&device, 0), "cuDeviceGet");
    check(api.retain(&context, device), "cuDevicePrimaryCtxRetain");
    check(api.set_current(context), "cuCtxSetCurrent");
    printf("%lld\n", (long long)(now_ns() - begin));
    fflush(stdout);
    _exit(0); /* its end is not what is measured */
}
