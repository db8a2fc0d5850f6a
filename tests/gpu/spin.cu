// A kernel that never ends, in a function that it calls: what a core dump of the GPU has to name, with its line.

__device__ volatile int flag;

__device__ __noinline__ int wait_for_ever()
{
    int seen = 0;
    while (flag == 0) { // line 8
        seen++;         // line 9
    }
    return seen;
}

extern "C" __global__ void spin_deep(int *out)
{
    *out = wait_for_ever();
}
