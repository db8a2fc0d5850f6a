/* The table of what was allocated or pinned. */
#include "memory.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "process.h"

static pthread_mutex_t memory_lock = PTHREAD_MUTEX_INITIALIZER;
static Allocation *allocations; /* in the order of their addresses */
static size_t allocation_count;
static size_t allocation_capacity;

/* The first allocation that ends after the address; under memory_lock. */
static size_t position_of(uint64_t address)
{
    size_t low = 0, high = allocation_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (allocations[middle].base + allocations[middle].size <= address) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

CUresult memory_insert(const Allocation *allocation)
{
    CUresult result = CUDA_SUCCESS;
    pthread_mutex_lock(&memory_lock);
    if (allocation_count == allocation_capacity) {
        size_t capacity = allocation_capacity == 0 ? 64 : allocation_capacity * 2;
        Allocation *larger = realloc(allocations, capacity * sizeof *larger);
        if (larger == NULL) {
            pthread_mutex_unlock(&memory_lock);
            return CUDA_ERROR_OUT_OF_MEMORY;
        }
        allocations = larger;
        allocation_capacity = capacity;
    }
    size_t position = position_of(allocation->base);
    if (position < allocation_count && allocations[position].base < allocation->base + allocation->size) {
        result = CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
    } else {
        memmove(&allocations[position + 1], &allocations[position],
                (allocation_count - position) * sizeof *allocations);
        allocations[position] = *allocation;
        allocation_count++;
    }
    pthread_mutex_unlock(&memory_lock);
    return result;
}

bool memory_take(uint64_t base, unsigned kinds, Allocation *taken)
{
    bool found = false;
    pthread_mutex_lock(&memory_lock);
    size_t position = position_of(base);
    if (position < allocation_count && allocations[position].base == base &&
        (allocations[position].kind & kinds) != 0) {
        *taken = allocations[position];
        allocation_count--;
        memmove(&allocations[position], &allocations[position + 1],
                (allocation_count - position) * sizeof *allocations);
        found = true;
    }
    pthread_mutex_unlock(&memory_lock);
    return found;
}

bool memory_find(uint64_t address, uint64_t size, unsigned kinds, Allocation *found)
{
    pthread_mutex_lock(&memory_lock);
    size_t position = position_of(address);
    bool inside = position < allocation_count && (allocations[position].kind & kinds) != 0 &&
                  allocations[position].base <= address && size <= allocations[position].size &&
                  address - allocations[position].base <= allocations[position].size - size;
    if (inside && found != NULL) {
        *found = allocations[position];
    }
    pthread_mutex_unlock(&memory_lock);
    return inside;
}

void memory_give_back(const Allocation *allocation)
{
    if (allocation->kind != MEMORY_REGISTERED) {
        process_add_memory(-(int64_t)allocation->size);
        free((void *)(uintptr_t)allocation->base);
    }
}

void memory_free_owned(const Context *context)
{
    for (;;) {
        Allocation owned = {0};
        pthread_mutex_lock(&memory_lock);
        for (size_t i = 0; i < allocation_count && owned.base == 0; i++) {
            if (allocations[i].context == context->object.handle) {
                owned = allocations[i];
            }
        }
        pthread_mutex_unlock(&memory_lock);
        if (owned.base == 0) {
            return;
        }
        if (memory_take(owned.base, MEMORY_ANY, &owned)) {
            memory_give_back(&owned);
        }
    }
}
