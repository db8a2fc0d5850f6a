/* A C (and C++) worker that does what it is told, one command a line on stdin, one line of answer each on stdout. */
#include "watchdogd.h"

#include <sys/wait.h>

#include "second.h"

static uint64_t previous_stages[8];
static unsigned open_stages;
static uint64_t output_run;

static long long obey(const char *command, const char *argument)
{
    unsigned long long number = strtoull(argument, NULL, 0);
    if (strcmp(command, "attach") == 0)
        return watchdogd_attach();
    if (strcmp(command, "ready") == 0)
        return watchdogd_ready(), 0;
    if (strcmp(command, "error") == 0)
        return watchdogd_error((int)number), 0;
    if (strcmp(command, "enter") == 0)
        return watchdogd_call_enter((unsigned)number), 0;
    if (strcmp(command, "leave") == 0)
        return watchdogd_call_leave(), 0;
    if (strcmp(command, "second-enter") == 0)
        return second_enter(), 0;
    if (strcmp(command, "second-leave") == 0)
        return second_leave(), 0;
    if (strcmp(command, "begin") == 0)
        return (long long)watchdogd_step_begin();
    if (strcmp(command, "begin-request") == 0)
        return (long long)watchdogd_step_begin_request(number);
    if (strcmp(command, "redelivered") == 0) { /* -1: none */
        uint64_t request;
        return watchdogd_redelivered(&request) ? (long long)request : -1;
    }
    if (strcmp(command, "end") == 0)
        return watchdogd_step_end(number), 0;
    if (strcmp(command, "code") == 0)
        return watchdogd_stage_code(argument);
    if (strcmp(command, "stage") == 0)
        return previous_stages[open_stages++] = watchdogd_stage_enter((unsigned)number), 0;
    if (strcmp(command, "unstage") == 0)
        return watchdogd_stage_leave(previous_stages[--open_stages]), 0;
    if (strcmp(command, "word") == 0)
        return (long long)watchdogd_load_(watchdogd_process_.words + number / sizeof(uint64_t));
    if (strcmp(command, "bucket") == 0)
        return watchdogd_bucket_(number);
    if (strcmp(command, "output") == 0) /* of its only check */
        return watchdogd_output(&output_run, (unsigned)number), (long long)output_run;
    if (strcmp(command, "bisecting") == 0)
        return watchdogd_is_bisecting();
    if (strcmp(command, "errno") == 0) { /* as it is after a first call, which claims a lane */
        errno = (int)number;
        watchdogd_call_enter(WATCHDOGD_OP_SYNC);
        watchdogd_call_leave();
        watchdogd_step_end(watchdogd_step_begin());
        return errno;
    }
    fprintf(stderr, "unknown command %s\n", command);
    exit(2);
}

int main(void)
{
    char line[256], command[64], argument[128];
    setvbuf(stdout, NULL, _IOLBF, 0);
    while (fgets(line, sizeof line, stdin)) {
        argument[0] = '\0';
        if (sscanf(line, "%63s %127s", command, argument) >= 1)
            printf("%lld\n", obey(command, argument));
    }
    return 0;
}
