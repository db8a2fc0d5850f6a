/* One stamp, and what it counted. The header comes second: what the package files define must be enough for it. */
#include <stdio.h>

#include <watchdogd.h>

#ifndef FOUND
#define FOUND "?"
#endif

int main(void)
{
    watchdogd_attach();
    watchdogd_ready();
    watchdogd_step_end(watchdogd_step_begin());
    printf("%s %d\n", FOUND, watchdogd_thread_.hot != NULL || watchdogd_process_.words != NULL);
    return 0;
}
