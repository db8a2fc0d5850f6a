/*
 * What the caller holds as a handle.
 *
 * A handle is a number looked up in a table, never a pointer followed, so that a bad or stale one is answered with an
 * error. Objects are counted: the table holds one reference, whoever works on an object another.
 */
#ifndef SIMULATOR_OBJECT_H
#define SIMULATOR_OBJECT_H

#include <stdatomic.h>
#include <stdint.h>

enum ObjectKind { OBJECT_CONTEXT = 1, OBJECT_STREAM, OBJECT_EVENT, OBJECT_MODULE, OBJECT_FUNCTION };

typedef struct Object {
    enum ObjectKind kind;
    uint64_t handle;
    struct Object *owner; /* compared, not followed: what goes when its owner goes */
    void (*destroy)(struct Object *object);
    _Atomic unsigned references;
} Object;

enum Lookup {
    LOOKUP_FOUND,
    LOOKUP_STALE,  /* was a handle of this kind once */
    LOOKUP_UNKNOWN /* never was */
};

/* Gives the object a handle and the table's reference to it; 0 when memory or the table is full. */
uint64_t object_publish(Object *object, enum ObjectKind kind, Object *owner, void (*destroy)(Object *));
/* On LOOKUP_FOUND, *object has one more reference. */
enum Lookup object_look_up(uint64_t handle, enum ObjectKind kind, Object **object);
/* Makes the handle stale and drops the table's reference. Only the first caller gets a non-zero answer. */
int object_retire(Object *object);
/* Retires every object of this kind that has this owner, calling `last_words` before it does. */
void object_retire_owned(enum ObjectKind kind, Object *owner, void (*last_words)(Object *));
void object_get(Object *object);
void object_put(Object *object);

#endif
