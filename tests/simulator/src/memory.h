/* Memory: what the driver handed out or pinned. Device memory is host memory, as on a Jetson. */
#ifndef SIMULATOR_MEMORY_H
#define SIMULATOR_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "context.h"
#include "cuda_types.h"

#define MEMORY_TOTAL_BYTES (UINT64_C(62841) << 20) /* as an AGX Orin 64GB reports it */

enum MemoryKind {
    MEMORY_DEVICE = 1,
    MEMORY_MANAGED = 2,
    MEMORY_HOST = 4,       /* allocated pinned */
    MEMORY_REGISTERED = 8, /* the program's own, pinned */
};
#define MEMORY_ON_DEVICE (MEMORY_DEVICE | MEMORY_MANAGED)
#define MEMORY_ANY (MEMORY_ON_DEVICE | MEMORY_HOST | MEMORY_REGISTERED)

typedef struct {
    uint64_t base;
    uint64_t size;
    enum MemoryKind kind;
    uint64_t context; /* handle */
} Allocation;

/* The allocation of one of these kinds that holds the whole range. */
bool memory_find(uint64_t address, uint64_t size, unsigned kinds, Allocation *found);
CUresult memory_insert(const Allocation *allocation);
/* Removes the allocation that begins there; its memory is then the caller's. */
bool memory_take(uint64_t base, unsigned kinds, Allocation *taken);
/* Frees the memory of an allocation that was taken or never inserted. */
void memory_give_back(const Allocation *allocation);
void memory_free_owned(const Context *context);

#endif
