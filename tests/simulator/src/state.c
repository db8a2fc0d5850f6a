/* Mapping the shared state, and who is in it. */
#include "state.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "load.h"

/*
 * Growing an empty file to its size fills it with zeros and is the same whoever does it, so creation needs no lock. A
 * file of any other size is somebody else's.
 */
static bool reserve(int descriptor)
{
    struct stat status;
    if (fstat(descriptor, &status) != 0) {
        return false;
    }
    if (status.st_size == 0) {
        return ftruncate(descriptor, sizeof(State)) == 0;
    }
    errno = EPROTO;
    return (size_t)status.st_size == sizeof(State);
}

static State *map_file(const char *path)
{
    int descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (descriptor < 0) {
        return NULL;
    }
    void *memory = MAP_FAILED;
    if (reserve(descriptor)) {
        memory = mmap(NULL, sizeof(State), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    }
    int saved = errno;
    close(descriptor);
    errno = saved;
    return memory == MAP_FAILED ? NULL : memory;
}

State *state_map(const char *path)
{
    State *state;
    if (path != NULL) {
        state = map_file(path);
    } else {
        void *memory = mmap(NULL, sizeof(State), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        state = memory == MAP_FAILED ? NULL : memory;
    }
    if (state == NULL) {
        return NULL;
    }
    uint64_t found = 0;
    if (!atomic_compare_exchange_strong(&state->magic, &found, STATE_MAGIC) && found != STATE_MAGIC) {
        munmap(state, sizeof(State));
        errno = EPROTO;
        return NULL;
    }
    return state;
}

/* Start time in clock ticks and state letter from /proc/PID/stat; false, with errno, when they cannot be read. */
static bool read_stat(pid_t pid, uint64_t *start_ticks, char *letter)
{
    char path[32];
    char text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) {
        return false;
    }
    ssize_t length = read(descriptor, text, sizeof text - 1);
    int saved = errno;
    close(descriptor);
    errno = saved;
    if (length <= 0) {
        return false;
    }
    text[length] = '\0';
    /* The command may hold spaces and brackets: the fields start after its last bracket. */
    const char *field = strrchr(text, ')');
    if (field == NULL || field[1] != ' ') {
        return false;
    }
    field += 2;
    *letter = *field;
    for (int number = 3; number < 22; number++) {
        field = strchr(field, ' ');
        if (field == NULL) {
            return false;
        }
        field++;
    }
    *start_ticks = strtoull(field, NULL, 10);
    return true;
}

static Owner owner_of(pid_t pid, uint64_t start_ticks)
{
    return (Owner)(uint32_t)pid << 32 | (uint32_t)start_ticks;
}

Owner owner_of_this_process(void)
{
    uint64_t start_ticks = 0;
    char letter;
    pid_t pid = getpid();
    read_stat(pid, &start_ticks, &letter);
    return owner_of(pid, start_ticks);
}

pid_t owner_pid(Owner owner)
{
    return (pid_t)(owner >> 32);
}

bool owner_alive(Owner owner)
{
    pid_t pid = owner_pid(owner);
    uint64_t start_ticks;
    char letter;
    errno = 0;
    if (!read_stat(pid, &start_ticks, &letter)) {
        /* Out of descriptors, say, is no proof that it is gone. */
        return errno != ENOENT && errno != ESRCH;
    }
    return letter != 'Z' && letter != 'X' && owner_of(pid, start_ticks) == owner;
}

bool state_has(State *state, const char *label)
{
    for (int index = 0; index < STATE_PROCESSES; index++) {
        ProcessSlot *slot = &state->processes[index];
        if (atomic_load(&slot->ready) != 0 && strcmp(slot->label, label) == 0 && owner_alive(atomic_load(&slot->owner))) {
            return true;
        }
    }
    return false;
}

static void clear_slot(State *state, int index)
{
    ProcessSlot *slot = &state->processes[index];
    atomic_store(&slot->ready, 0);
    atomic_store(&slot->operations, 0);
    atomic_store(&slot->memory_bytes, 0);
    for (int accelerator = 0; accelerator < STATE_ACCELERATORS; accelerator++) {
        atomic_store(&slot->busy_ns[accelerator], 0);
        load_leave(&state->accelerators[accelerator], index);
    }
}

void state_reap(State *state)
{
    for (int index = 0; index < STATE_PROCESSES; index++) {
        Owner owner = atomic_load(&state->processes[index].owner);
        if (owner != 0 && !owner_alive(owner)) {
            Owner reaper = owner_of_this_process();
            /* Whoever wins the slot clears it; a reaper that is killed half way is reaped in its turn. */
            if (atomic_compare_exchange_strong(&state->processes[index].owner, &owner, reaper)) {
                clear_slot(state, index);
                atomic_store(&state->processes[index].owner, 0);
            }
        }
    }
}

int state_join(State *state, const char *label)
{
    state_reap(state);
    Owner self = owner_of_this_process();
    for (int index = 0; index < STATE_PROCESSES; index++) {
        ProcessSlot *slot = &state->processes[index];
        Owner nobody = 0;
        if (atomic_compare_exchange_strong(&slot->owner, &nobody, self)) {
            clear_slot(state, index);
            snprintf(slot->label, sizeof slot->label, "%s", label);
            atomic_store(&slot->ready, 1);
            return index;
        }
    }
    return -1;
}
