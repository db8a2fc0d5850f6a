/*
 * An independent count of a process's driver calls, by CUPTI: CUDA_INJECTION64_PATH=libtrace.so TRACE=FILE program
 *
 * FILE.PID is mapped while the program runs, so it is whole however that ends: FUNCTIONS records, each a name of 64 bytes and
 * how often that function was entered (8 bytes).
 */
#include <cupti.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { FUNCTIONS = 2048 };

struct record {
    char name[64];
    _Atomic unsigned long long count;
};

static struct record *records;

static void CUPTIAPI entered(void *unused, CUpti_CallbackDomain domain, CUpti_CallbackId id, const CUpti_CallbackData *call)
{
    (void)unused, (void)domain;
    if (id >= FUNCTIONS || call->callbackSite != CUPTI_API_ENTER)
        return;
    if (atomic_fetch_add(&records[id].count, 1) == 0)
        strncpy(records[id].name, call->functionName, sizeof records[id].name - 1);
}

int InitializeInjection(void)
{
    static CUpti_SubscriberHandle subscriber;
    char path[4096];
    snprintf(path, sizeof path, "%s.%d", getenv("TRACE"), (int)getpid());
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0644);
    if (fd < 0 || ftruncate(fd, FUNCTIONS * sizeof *records))
        return 0;
    records = mmap(NULL, FUNCTIONS * sizeof *records, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    return records != MAP_FAILED && cuptiSubscribe(&subscriber, (CUpti_CallbackFunc)entered, NULL) == CUPTI_SUCCESS &&
           cuptiEnableDomain(1, subscriber, CUPTI_CB_DOMAIN_DRIVER_API) == CUPTI_SUCCESS;
}
