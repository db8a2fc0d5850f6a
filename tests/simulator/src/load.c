/* The busy word of an accelerator. */
#include "load.h"

#include "clock.h"

static uint32_t current_tick(void)
{
    return (uint32_t)(clock_now_ns() / LOAD_TICK_NS);
}

static uint64_t pack(uint32_t who, uint32_t since)
{
    return (uint64_t)who << 32 | since;
}

void load_enter(AcceleratorState *accelerator, int process)
{
    uint64_t old = atomic_load(&accelerator->busy);
    uint64_t new;
    do {
        uint32_t who = (uint32_t)(old >> 32);
        uint32_t since = who == 0 ? current_tick() : (uint32_t)old;
        new = pack(who | UINT32_C(1) << process, since);
    } while (!atomic_compare_exchange_weak(&accelerator->busy, &old, new));
}

void load_leave(AcceleratorState *accelerator, int process)
{
    uint64_t old = atomic_load(&accelerator->busy);
    uint64_t new;
    uint32_t ended;
    do {
        uint32_t who = (uint32_t)(old >> 32);
        if ((who & UINT32_C(1) << process) == 0) {
            return;
        }
        uint32_t left = who & ~(UINT32_C(1) << process);
        ended = left == 0 ? current_tick() - (uint32_t)old : 0;
        new = pack(left, (uint32_t)old);
    } while (!atomic_compare_exchange_weak(&accelerator->busy, &old, new));
    atomic_fetch_add(&accelerator->busy_ticks, ended);
}

uint64_t load_busy_ns(AcceleratorState *accelerator)
{
    uint64_t busy = atomic_load(&accelerator->busy);
    uint64_t ticks = atomic_load(&accelerator->busy_ticks);
    if (busy >> 32 != 0) {
        ticks += (uint32_t)(current_tick() - (uint32_t)busy);
    }
    return ticks * LOAD_TICK_NS;
}
