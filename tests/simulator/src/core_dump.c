/* A core dump at a user's request: a pipe, a thread that reads it, a file that comes in parts. Then all work fails. */
#include "core_dump.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clock.h"
#include "cuda_api.h"
#include "process.h"

#define PARTS 3
#define PART_NS (20 * NS_PER_MS) /* between two of them: who looks only once must not take the first for the whole */

static char file_name[4096];
static int pipe_end = -1;

/* "%p" is the pid; the other specifiers of the real one are not known here. */
static void expand(const char *pattern, char *name, size_t size)
{
    const char *mark = strstr(pattern, "%p");
    if (mark == NULL) {
        snprintf(name, size, "%s", pattern);
    } else {
        snprintf(name, size, "%.*s%d%s", (int)(mark - pattern), pattern, (int)getpid(), mark + 2);
    }
}

static void dump(void)
{
    const char *template = getenv("SIMCUDA_COREDUMP");
    FILE *from = template == NULL ? NULL : fopen(template, "rb");
    if (from == NULL) {
        return;
    }
    char *content = NULL;
    size_t size = 0;
    if (fseek(from, 0, SEEK_END) == 0 && ftell(from) > 0) {
        size = (size_t)ftell(from);
        rewind(from);
        content = malloc(size);
        size = content == NULL ? 0 : fread(content, 1, size, from);
    }
    fclose(from);
    int to = open(file_name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    for (size_t part = 0; to >= 0 && part < PARTS; part++) {
        size_t begin = size * part / PARTS, end = size * (part + 1) / PARTS;
        if (write(to, content + begin, end - begin) != (ssize_t)(end - begin)) {
            break;
        }
        clock_sleep_ns(PART_NS);
    }
    if (to >= 0) {
        close(to);
    }
    free(content);
}

static void *listen_for_ever(void *unused)
{
    char asked[16];
    while (read(pipe_end, asked, sizeof asked) > 0) {
        int none = CUDA_SUCCESS;
        dump();
        atomic_store(&process.dumped, true);
        atomic_compare_exchange_strong(&process.sticky_error, &none, (int)CUDA_ERROR_LAUNCH_FAILED);
    }
    return unused;
}

bool core_dump_listen(void)
{
    const char *enable = getenv("CUDA_ENABLE_USER_TRIGGERED_COREDUMP");
    const char *pipe_pattern = getenv("CUDA_COREDUMP_PIPE"), *file_pattern = getenv("CUDA_COREDUMP_FILE");
    if (enable == NULL || strcmp(enable, "1") != 0 || pipe_pattern == NULL || file_pattern == NULL) {
        return true;
    }
    char pipe_name[4096];
    pthread_t thread;
    expand(pipe_pattern, pipe_name, sizeof pipe_name);
    expand(file_pattern, file_name, sizeof file_name);
    if ((mkfifo(pipe_name, 0600) != 0 && errno != EEXIST) ||
        (pipe_end = open(pipe_name, O_RDWR | O_CLOEXEC)) < 0 || /* with O_RDONLY it would wait for who writes */
        pthread_create(&thread, NULL, listen_for_ever, NULL) != 0) {
        fprintf(stderr, "simulated libcuda: %s: %s\n", pipe_name, strerror(errno));
        return false;
    }
    pthread_detach(thread);
    return true;
}
