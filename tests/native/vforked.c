/* A real D state: the parent of a vfork stands in the kernel, uninterruptible but for SIGKILL, until its child ends. */
#include <stdlib.h>
#include <unistd.h>

/* As a function for a worker that loads this, and as a program. */
int stand(unsigned seconds);

int stand(unsigned seconds)
{
    pid_t child = vfork();
    if (child == 0) {
        sleep(seconds);
        _exit(0);
    }
    return child < 0;
}

int main(int count, char **arguments)
{
    return count < 2 || stand((unsigned)atoi(arguments[1]));
}
