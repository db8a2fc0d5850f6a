/*
 * Whether what a wait or a query found done is news: a program may ask idle streams for ever while its work hangs in another.
 *
 * Invariant: not news is only what was found done before, with nothing queued since that it could have waited for, as far as
 * the shim sees. What it does not know is news, so that whatever is queued is told of at least once when it is done.
 */
#ifndef WATCHDOGD_SHIM_IDLE_H
#define WATCHDOGD_SHIM_IDLE_H

#include "shim.h"

void shim_note_record(CUevent event);
void shim_stir_event(CUevent event); /* it was found not done */
int shim_settle_event(CUevent event);

/* Read first: where many threads queue, the word then stays in all their caches. */
static inline void shim_stir_word(uint64_t *word)
{
    if (__atomic_load_n(word, __ATOMIC_RELAXED))
        __atomic_store_n(word, 0, __ATOMIC_RELAXED);
}

static inline int shim_settle(uint64_t *word)
{
    if (__atomic_load_n(word, __ATOMIC_RELAXED))
        return 0;
    __atomic_store_n(word, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&shim.settled, 1, __ATOMIC_RELEASE);
    return 1;
}

/* Of a stream; NULL: it has none. */
static inline void shim_stir_entry(uint64_t *entry)
{
    if (entry)
        shim_stir_word(entry + WATCHDOGD_DRIVER_STREAM_IDLE);
}

/* Something was queued in it: work, or a wait for what is queued elsewhere. */
static inline void shim_stir(uint64_t *entry)
{
    shim_stir_word(&shim.idle);
    shim_stir_entry(entry);
}

/* The legacy default stream waits for others too. */
static inline int shim_settle_stream(CUstream stream, uint64_t *entry)
{
    int is_news = !entry || shim_settle(entry + WATCHDOGD_DRIVER_STREAM_IDLE);
    return ((uintptr_t)stream <= CU_STREAM_LEGACY && shim_settle(&shim.idle)) || is_news;
}

#endif
