/*
 * Threads that open and close ranges of known and ever new names, in fork's children too, through our parts built with a
 * sanitizer. Each looks whether its depths are right.
 */
#define _GNU_SOURCE 1
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "nvtx3/nvToolsExt.h"

int cuStreamSynchronize(void *);

enum { THREADS = 6, TIMES = 300, DEEP = 70, CHILDREN = 3 };

static void expect(int seen, int expected)
{
    if (seen != expected) {
        fprintf(stderr, "depth %d, not %d\n", seen, expected);
        abort();
    }
}

static void *work(void *argument)
{
    char name[64];
    for (int i = 0; i < TIMES; i++) {
        snprintf(name, sizeof name, "thread %d's range %d with a long name", (int)(uintptr_t)argument, i);
        expect(nvtxRangePushA("known"), 0);
        expect(nvtxRangePushA(name), 1);
        expect(nvtxRangePushW(L"kn\u00f6wn"), 2);
        if (i % 10 == 0)
            cuStreamSynchronize(NULL);
        for (int depth = 2; depth >= 0; depth--)
            expect(nvtxRangePop(), depth);
        if (i % 50 == 0) {
            nvtxEventAttributes_t attributes = {.version = NVTX_VERSION, .size = NVTX_EVENT_ATTRIB_STRUCT_SIZE};
            attributes.messageType = NVTX_MESSAGE_TYPE_REGISTERED;
            attributes.message.registered = nvtxDomainRegisterStringA(NULL, name);
            for (int depth = 0; depth < DEEP; depth++)
                expect(nvtxDomainRangePushEx(NULL, &attributes), depth);
            for (int depth = DEEP; depth-- > 0;)
                expect(nvtxDomainRangePop(NULL), depth);
        }
    }
    return NULL;
}

int main(void)
{
    pthread_t threads[THREADS];
    cuStreamSynchronize(NULL);
    nvtxInitialize(NULL);
    for (uintptr_t i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, work, (void *)i);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (uintptr_t i = 0; i < CHILDREN; i++) {
        int status;
        pid_t child = fork();
        if (child == 0) {
            work((void *)(THREADS + i));
            _exit(0);
        }
        if (waitpid(child, &status, 0) != child || status != 0)
            return 1;
    }
    return 0;
}
