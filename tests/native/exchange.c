/*
 * Many threads stamp while one reads; exits 0 if every word read was a possible one and nothing was lost.
 * Run plain and under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer.
 */
#include "watchdogd.h"

#include <stdatomic.h>
#include <sys/wait.h>

enum { THREADS = 8, LIVES = 4, ROUNDS = 1000 };

static uint64_t since_ns; /* before any thread */
static atomic_int stop;
static _Atomic uint64_t handed_over; /* a step begun by one thread, to be ended by any */

#define CHECK(condition)                                                                                                   \
    do {                                                                                                                   \
        if (!(condition)) {                                                                                                \
            fprintf(stderr, "line %d: %s\n", __LINE__, #condition);                                                        \
            _exit(1);                                                                                                      \
        }                                                                                                                  \
    } while (0)

static uint64_t *hot(unsigned lane)
{
    return watchdogd_process_.words + (WATCHDOGD_HOT_OFFSET + lane * WATCHDOGD_HOT_STRIDE) / sizeof(uint64_t);
}

static void *stamp(void *number)
{
    unsigned stage = watchdogd_stage_code((uintptr_t)number % 2 ? "odd" : "even");
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t token = round % 2 ? watchdogd_step_begin() : watchdogd_step_begin_request((uint64_t)round);
        watchdogd_step_end(atomic_exchange(&handed_over, token));
        uint64_t previous = watchdogd_stage_enter(stage);
        watchdogd_call_enter(WATCHDOGD_OP_SYNC);
        watchdogd_call_enter(WATCHDOGD_OP_COPY);
        watchdogd_call_enter(WATCHDOGD_OP_OTHER);
        watchdogd_call_leave();
        watchdogd_call_leave();
        watchdogd_call_leave();
        watchdogd_stage_leave(previous);
    }
    return NULL;
}

static int possible(uint64_t word, uint64_t code)
{
    return word == 0 || ((word & WATCHDOGD_CODE_MASK) == code && word + 256 > since_ns && word < watchdogd_now_ns());
}

static void *read_all(void *unused)
{
    while (!atomic_load(&stop)) {
        for (unsigned lane = 0; lane < WATCHDOGD_LANES; lane++) {
            CHECK(possible(watchdogd_load_(hot(lane) + WATCHDOGD_LANE_OUTER), WATCHDOGD_OP_SYNC));
            CHECK(possible(watchdogd_load_(hot(lane) + WATCHDOGD_LANE_INNER), WATCHDOGD_OP_COPY));
            uint64_t step = watchdogd_load_(hot(lane) + WATCHDOGD_LANE_STEP);
            CHECK(possible(step, WATCHDOGD_STEP_FIRST) || possible(step, WATCHDOGD_STEP_LATER));
        }
    }
    return unused;
}

/* A child of a process whose other threads are in the middle of anything: it has its own lanes, and no lock is held. */
static void fork_one(void)
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        watchdogd_call_enter(WATCHDOGD_OP_SYNC);
        CHECK(watchdogd_load_(watchdogd_thread_.hot + WATCHDOGD_LANE_OWNER) >> 32 == (uint64_t)getpid());
        watchdogd_call_leave();
        watchdogd_step_end(watchdogd_step_begin());
        CHECK(watchdogd_load_(watchdogd_process_.hot + WATCHDOGD_LANE_OWNER) == (uint64_t)getpid() << 32);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static uint64_t total(unsigned word)
{
    uint64_t sum = 0;
    for (unsigned lane = 0; lane < WATCHDOGD_LANES; lane++)
        sum += watchdogd_load_(hot(lane) + word);
    return sum;
}

static uint64_t counted(unsigned histogram)
{
    uint64_t sum = 0;
    for (unsigned lane = 0; lane < WATCHDOGD_LANES; lane++)
        for (unsigned bucket = 0; bucket < WATCHDOGD_BUCKETS; bucket++)
            sum += watchdogd_load_(watchdogd_cold_(&watchdogd_process_, hot(lane)) +
                                   histogram * WATCHDOGD_HISTOGRAM_WORDS + 1 + bucket);
    return sum;
}

int main(void)
{
    const uint64_t rounds = THREADS * LIVES * ROUNDS;
    pthread_t reader, threads[THREADS];
    uint64_t forked = 0;
    since_ns = watchdogd_now_ns();
    watchdogd_attach();
    CHECK(pthread_create(&reader, NULL, read_all, NULL) == 0);
    for (int life = 0; life < LIVES; life++) {
        for (uintptr_t number = 0; number < THREADS; number++)
            CHECK(pthread_create(&threads[number], NULL, stamp, (void *)number) == 0);
        fork_one();
        forked += (uint64_t)watchdogd_process_.supervised; /* private memory is copied: the child's counts stay there */
        for (int number = 0; number < THREADS; number++)
            CHECK(pthread_join(threads[number], NULL) == 0);
    }
    watchdogd_step_end(atomic_load(&handed_over));
    atomic_store(&stop, 1);
    CHECK(pthread_join(reader, NULL) == 0);

    CHECK(total(WATCHDOGD_LANE_OUTER) == 0 && total(WATCHDOGD_LANE_INNER) == 0 && total(WATCHDOGD_LANE_STEP) == 0);
    for (unsigned lane = 0; lane < WATCHDOGD_LANES; lane++) { /* no stage; the process lanes name the image there */
        uint64_t owner = watchdogd_load_(hot(lane) + WATCHDOGD_LANE_OWNER);
        uint64_t image = owner && !(owner & UINT32_MAX) ? watchdogd_process_.image : 0;
        CHECK(watchdogd_load_(hot(lane) + WATCHDOGD_LANE_STAGE) == image);
    }
    CHECK(total(WATCHDOGD_LANE_CALLS) == 3 * rounds + forked);
    CHECK(total(WATCHDOGD_LANE_STEPS_BEGUN) == rounds + forked);
    /* the first step end got token 0, which says "one that was not tracked", and counts */
    CHECK(total(WATCHDOGD_LANE_STEPS_DONE) == rounds + forked + 1);
    CHECK(counted(0) == rounds + forked);
    CHECK(counted(WATCHDOGD_OP_SYNC) == rounds + forked);
    CHECK(counted(WATCHDOGD_OP_COPY) == rounds && counted(WATCHDOGD_OP_OTHER) == rounds);
    CHECK(watchdogd_load_(watchdogd_process_.words + WATCHDOGD_HEADER_LANELESS_CAS) == 0);
    for (unsigned number = 0; number < WATCHDOGD_REQUESTS; number++)
        CHECK(watchdogd_load_(watchdogd_process_.words + WATCHDOGD_REQUEST_TABLE_OFFSET / sizeof(uint64_t) +
                              number * WATCHDOGD_REQUEST_WORDS) == 0);
    CHECK(watchdogd_load_(watchdogd_process_.words + WATCHDOGD_REQUESTS_OFFSET / sizeof(uint64_t) +
                          WATCHDOGD_REQUESTS_UNKEPT_CAS) == 0);
    for (unsigned lane = 0; lane < WATCHDOGD_LANES; lane++) { /* threads are gone, so are their lanes' owners */
        uint64_t owner = watchdogd_load_(hot(lane) + WATCHDOGD_LANE_OWNER);
        CHECK(owner == 0 || owner == (uint64_t)getpid() << 32 || owner >> 32 != (uint64_t)getpid());
    }
    return 0;
}
