/* One line for each call, "TID NAME", written at once as it begins: a call that hangs is in it. */
#include "call_log.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static int log_fd = -1;

void call_log_open(void)
{
    const char *path = getenv("SIMCUDA_CALLS");
    if (path == NULL || *path == 0) {
        return;
    }
    log_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log_fd < 0) {
        perror("simulated libcuda: SIMCUDA_CALLS");
        abort(); /* a log with calls missing would prove nothing */
    }
}

void call_log(enum Call call)
{
    static const char *const names[] = {
#define CALL(identifier, name) [CALL_##identifier] = name,
#include "calls.def"
#undef CALL
    };
    if (log_fd >= 0 && dprintf(log_fd, "%ld %s\n", syscall(SYS_gettid), names[call]) < 0) {
        abort();
    }
}
