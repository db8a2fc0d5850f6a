/*
 * A call of the driver that is left in another way than by its return. Says after each what stands in the program's lanes: for
 * each one of a thread, its outer call word.
 *
 *     shim_leaving HEARTBEAT
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../watchdogd/native/watchdogd.h" /* for where the words are; nothing of it is used */

extern "C" int cuStreamSynchronize(void *);
extern "C" void driver_interrupt(void (*)(void));

static const uint64_t *words;

static void tell(const char *what)
{
    printf("%s:", what);
    for (unsigned lane = 0; lane < 8; lane++) {
        const uint64_t *hot = words + (WATCHDOGD_HOT_OFFSET + lane * WATCHDOGD_HOT_STRIDE) / 8;
        if (hot[WATCHDOGD_LANE_OWNER] & UINT32_MAX)
            printf(" %d", (int)(hot[WATCHDOGD_LANE_OUTER] & WATCHDOGD_CODE_MASK));
    }
    puts("");
}

static void hang(void)
{
    for (;;)
        pause();
}

static void end_thread(void) { pthread_exit(NULL); }
static void throw_something(void) { throw 7; }

static void *call(void *)
{
    cuStreamSynchronize(NULL);
    return NULL;
}

int main(int, char **arguments)
{
    pthread_t thread;
    int fd = open(arguments[1], O_RDONLY);
    words = (const uint64_t *)mmap(NULL, WATCHDOGD_SIZE, PROT_READ, MAP_SHARED, fd, 0);
    driver_interrupt(hang);
    pthread_create(&thread, NULL, call, NULL);
    const uint64_t *outer = words + (WATCHDOGD_HOT_OFFSET + WATCHDOGD_HOT_STRIDE) / 8;
    while (!__atomic_load_n(outer, __ATOMIC_ACQUIRE))
        usleep(1000);
    tell("hung");
    pthread_cancel(thread);
    pthread_join(thread, NULL);
    tell("cancelled");
    driver_interrupt(end_thread);
    pthread_create(&thread, NULL, call, NULL);
    pthread_join(thread, NULL);
    tell("ended");
    driver_interrupt(throw_something);
    try {
        cuStreamSynchronize(NULL);
    } catch (int thrown) {
        printf("caught %d\n", thrown);
    }
    return 0;
}
