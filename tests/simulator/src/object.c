/* The table of handles. */
#include "object.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

#define INDEX_BITS 20
#define GENERATION_BITS 28
#define KIND_SHIFT (INDEX_BITS + GENERATION_BITS)
#define TAG_SHIFT 56
#define TAG UINT64_C(0x5C) /* keeps handles apart from real addresses and small numbers */
#define LIMIT (1u << INDEX_BITS)

typedef struct {
    Object *object;
    uint32_t generation; /* of the present object, or the next */
    uint32_t used_kinds; /* bit set: some handle of that kind lived here */
} Entry;

static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
static Entry *table;
static uint32_t capacity;
static uint32_t next_index;

static bool grow(void)
{
    uint32_t larger = capacity == 0 ? 256 : capacity * 2;
    if (larger > LIMIT) {
        return false;
    }
    Entry *entries = realloc(table, larger * sizeof *entries);
    if (entries == NULL) {
        return false;
    }
    for (uint32_t index = capacity; index < larger; index++) {
        entries[index] = (Entry){0};
    }
    table = entries;
    next_index = capacity;
    capacity = larger;
    return true;
}

/* Goes round the table, so that an index comes back as late as possible. */
static bool find_free(uint32_t *found)
{
    for (uint32_t step = 0; step < capacity; step++) {
        uint32_t index = (next_index + step) % capacity;
        if (table[index].object == NULL) {
            *found = index;
            return true;
        }
    }
    return false;
}

uint64_t object_publish(Object *object, enum ObjectKind kind, Object *owner, void (*destroy)(Object *))
{
    uint32_t index;
    uint64_t handle = 0;
    pthread_mutex_lock(&table_lock);
    if (find_free(&index) || (grow() && find_free(&index))) {
        next_index = (index + 1) % capacity;
        Entry *entry = &table[index];
        entry->object = object;
        entry->generation = (entry->generation + 1) & ((1u << GENERATION_BITS) - 1);
        entry->used_kinds |= 1u << kind;
        handle = TAG << TAG_SHIFT | (uint64_t)kind << KIND_SHIFT | (uint64_t)entry->generation << INDEX_BITS | index;
        object->kind = kind;
        object->handle = handle;
        object->owner = owner;
        object->destroy = destroy;
        atomic_fetch_add(&object->references, 1); /* the table's, beside those that its maker already holds */
    }
    pthread_mutex_unlock(&table_lock);
    return handle;
}

enum Lookup object_look_up(uint64_t handle, enum ObjectKind kind, Object **object)
{
    enum Lookup answer = LOOKUP_UNKNOWN;
    uint32_t index = handle & (LIMIT - 1);
    if (handle >> TAG_SHIFT != TAG || (handle >> KIND_SHIFT & 0xFF) != (uint64_t)kind) {
        return LOOKUP_UNKNOWN;
    }
    pthread_mutex_lock(&table_lock);
    if (index < capacity && (table[index].used_kinds & 1u << kind) != 0) {
        Object *present = table[index].object;
        if (present != NULL && present->handle == handle) {
            object_get(present);
            *object = present;
            answer = LOOKUP_FOUND;
        } else {
            answer = LOOKUP_STALE;
        }
    }
    pthread_mutex_unlock(&table_lock);
    return answer;
}

static bool retire_locked(Object *object)
{
    Entry *entry = &table[object->handle & (LIMIT - 1)];
    if (entry->object != object) {
        return false;
    }
    entry->object = NULL;
    return true;
}

int object_retire(Object *object)
{
    pthread_mutex_lock(&table_lock);
    bool first = retire_locked(object);
    pthread_mutex_unlock(&table_lock);
    if (first) {
        object_put(object);
    }
    return first;
}

void object_retire_owned(enum ObjectKind kind, Object *owner, void (*last_words)(Object *))
{
    for (uint32_t index = 0;; index++) {
        Object *object = NULL;
        pthread_mutex_lock(&table_lock);
        bool more = index < capacity;
        if (more && table[index].object != NULL && table[index].object->kind == kind &&
            table[index].object->owner == owner) {
            object = table[index].object;
            table[index].object = NULL;
        }
        pthread_mutex_unlock(&table_lock);
        if (!more) {
            return;
        }
        if (object != NULL) {
            if (last_words != NULL) {
                last_words(object);
            }
            object_put(object);
        }
    }
}

void object_get(Object *object)
{
    atomic_fetch_add(&object->references, 1);
}

void object_put(Object *object)
{
    if (atomic_fetch_sub(&object->references, 1) == 1) {
        object->destroy(object);
    }
}
