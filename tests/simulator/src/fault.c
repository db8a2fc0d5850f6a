/* Faults that meet operations, streams and calls of this process. */
#include "fault.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "fault_text.h"
#include "process.h"

#define POLL_NS NS_PER_MS

static size_t slots_in_use(void)
{
    uint64_t added = atomic_load(&process.state->last_fault_id);
    return added < STATE_FAULTS ? (size_t)added : STATE_FAULTS;
}

static bool in_force(FaultSlot *slot)
{
    return atomic_load(&slot->phase) == PHASE_ARMED;
}

static bool meant_for_this_process(const FaultRequest *request)
{
    bool ours = request->only != 0 ? request->only == process.self
                                   : request->label[0] == '\0' || strcmp(request->label, process.label) == 0;
    return ours && (request->with[0] == '\0' || state_has(process.state, request->with));
}

static bool may_stop(const FaultRequest *request, const Place *place)
{
    return (request->accelerator < 0 || request->accelerator == place->accelerator) &&
           (request->mixed == 0 || place->mixed);
}

static bool may_fire_again(FaultSlot *slot)
{
    return slot->request.times == 0 || atomic_load(&slot->fired) < slot->request.times;
}

static void lift(FaultSlot *slot)
{
    uint32_t armed = PHASE_ARMED;
    if (atomic_compare_exchange_strong(&slot->phase, &armed, PHASE_LIFTED)) {
        atomic_store(&slot->lifted_ns, clock_now_ns());
    }
}

/* The freeze is over: the fault waits for its next victim, or is done. */
static void end_episode(FaultSlot *slot, Owner culprit)
{
    if (!may_fire_again(slot)) {
        lift(slot);
        return;
    }
    uint64_t spread_at = atomic_load(&slot->spread_at_ns);
    if (spread_at != 0 && !atomic_compare_exchange_strong(&slot->spread_at_ns, &spread_at, 0)) {
        return; /* another process ended it first */
    }
    atomic_store(&slot->seen, 0);
    atomic_store(&slot->lifted_ns, clock_now_ns());
    atomic_compare_exchange_strong(&slot->culprit, &culprit, 0);
}

static bool healed(FaultSlot *slot)
{
    uint64_t fired_ns = atomic_load(&slot->fired_ns);
    return slot->request.heal_ns != 0 && fired_ns != 0 && clock_now_ns() >= fired_ns + slot->request.heal_ns;
}

/* The one that makes this operation the culprit; false when it is somebody else's turn or not yet time. */
static bool take_blame(FaultSlot *slot, const Place *place)
{
    Owner culprit = atomic_load(&slot->culprit);
    if (culprit != 0 && culprit != process.self && may_fire_again(slot) && !slot->request.permanent &&
        !owner_alive(culprit)) {
        end_episode(slot, culprit);
    }
    Owner nobody = 0;
    uint64_t now = clock_now_ns(); /* before others of this process see whose fault it is, and fail by it */
    if (atomic_load(&slot->culprit) != 0 || atomic_fetch_add(&slot->seen, 1) < slot->request.after ||
        !may_fire_again(slot) || !atomic_compare_exchange_strong(&slot->culprit, &nobody, process.self)) {
        return false;
    }
    atomic_store(&slot->culprit_stream, place->stream);
    atomic_store(&slot->culprit_context, place->context);
    atomic_store(&slot->culprit_device, place->device);
    atomic_store(&slot->culprit_accelerator, place->accelerator);
    atomic_store(&slot->fired_ns, now);
    atomic_fetch_add(&slot->fired, 1);
    atomic_store(&slot->spread_at_ns, now + slot->request.spread_ns);
    return true;
}

/* For the kinds without a culprit: whether this occurrence is one to fire at. */
static bool fires_now(FaultSlot *slot)
{
    if (atomic_fetch_add(&slot->seen, 1) < slot->request.after) {
        return false;
    }
    uint64_t fired = atomic_load(&slot->fired);
    do {
        if (slot->request.times != 0 && fired >= slot->request.times) {
            return false;
        }
    } while (!atomic_compare_exchange_weak(&slot->fired, &fired, fired + 1));
    uint64_t never = 0;
    atomic_compare_exchange_strong(&slot->fired_ns, &never, clock_now_ns());
    atomic_store(&slot->culprit, process.self);
    return true;
}

static bool covers(FaultSlot *slot, Owner culprit, uint64_t spread_at, const Place *place)
{
    bool ours = culprit == process.self;
    if (ours && atomic_load(&slot->culprit_stream) == place->stream) {
        return true;
    }
    if (clock_now_ns() < spread_at) {
        return false;
    }
    switch (slot->request.scope) {
    case SCOPE_CONTEXT:
        return ours && atomic_load(&slot->culprit_context) == place->context;
    case SCOPE_PROCESS:
        return ours;
    case SCOPE_DEVICE:
        return atomic_load(&slot->culprit_device) == place->device;
    default:
        return false;
    }
}

static bool freezes(FaultSlot *slot, const Place *place)
{
    if (slot->request.kind != FAULT_HANG || !in_force(slot)) {
        return false;
    }
    Owner culprit = atomic_load(&slot->culprit);
    uint64_t spread_at = atomic_load(&slot->spread_at_ns);
    if (culprit == 0 || spread_at == 0 || !covers(slot, culprit, spread_at, place)) {
        return false;
    }
    bool culprit_gone = culprit != process.self && !slot->request.permanent && !owner_alive(culprit);
    if (culprit_gone || healed(slot)) {
        end_episode(slot, culprit);
        return false;
    }
    return true;
}

bool fault_frozen(const Place *place)
{
    size_t used = slots_in_use();
    for (size_t i = 0; i < used; i++) {
        if (freezes(&process.state->faults[i], place)) {
            return true;
        }
    }
    return false;
}

Effect fault_on_operation(const Place *place)
{
    Effect effect = {0, 1};
    size_t used = slots_in_use();
    for (size_t i = 0; i < used; i++) {
        FaultSlot *slot = &process.state->faults[i];
        if (!in_force(slot) || !meant_for_this_process(&slot->request)) {
            continue;
        }
        if (slot->request.kind == FAULT_HANG) {
            if (may_stop(&slot->request, place)) {
                take_blame(slot, place);
            }
        } else if (slot->request.kind == FAULT_ERROR && take_blame(slot, place)) {
            effect.error = slot->request.code;
        } else if (slot->request.kind == FAULT_SLOW) {
            if (healed(slot)) {
                lift(slot);
            } else if (fires_now(slot)) {
                effect.factor *= slot->request.factor;
            }
        }
    }
    return effect;
}

bool fault_zeroes_copy(void)
{
    bool zeroes = false;
    size_t used = slots_in_use();
    for (size_t i = 0; i < used; i++) {
        FaultSlot *slot = &process.state->faults[i];
        if (slot->request.kind != FAULT_ZERO || !in_force(slot) || !meant_for_this_process(&slot->request)) {
            continue;
        }
        if (healed(slot)) {
            lift(slot);
        } else if (fires_now(slot)) {
            zeroes = true;
        }
    }
    return zeroes;
}

static void hold_call(FaultSlot *slot, uint64_t duration_ns)
{
    uint64_t end = duration_ns == 0 ? UINT64_MAX : clock_now_ns() + duration_ns;
    while (in_force(slot) && clock_now_ns() < end) {
        clock_sleep_ns(POLL_NS);
    }
}

/*
 * Two calls that each hold what the other needs. A real call is in its critical section for microseconds; here each
 * lingers for the fault's window, so that a test can bring two together.
 */
typedef struct {
    uint64_t id; /* the fault these counts belong to */
    unsigned inside[2];
    bool met;
} Meeting;

static pthread_mutex_t meeting_lock = PTHREAD_MUTEX_INITIALIZER;
static Meeting meetings[STATE_FAULTS];

static bool has_met(Meeting *meeting)
{
    pthread_mutex_lock(&meeting_lock);
    bool met = meeting->met;
    pthread_mutex_unlock(&meeting_lock);
    return met;
}

static void meet(FaultSlot *slot, Meeting *meeting, int side)
{
    uint64_t end = clock_now_ns() + slot->request.window_ns;
    uint64_t id = atomic_load(&slot->id);
    pthread_mutex_lock(&meeting_lock);
    if (meeting->id != id) {
        *meeting = (Meeting){.id = id};
    }
    meeting->inside[side]++;
    if (!meeting->met && meeting->inside[1 - side] > 0) {
        meeting->met = fires_now(slot);
    }
    pthread_mutex_unlock(&meeting_lock);
    while (in_force(slot) && !has_met(meeting) && clock_now_ns() < end) {
        clock_sleep_ns(POLL_NS / 10);
    }
    if (has_met(meeting)) {
        hold_call(slot, 0);
    }
    pthread_mutex_lock(&meeting_lock);
    if (meeting->id == id) {
        meeting->inside[side]--;
    }
    pthread_mutex_unlock(&meeting_lock);
}

void fault_on_call(enum Call call)
{
    size_t used = slots_in_use();
    for (size_t i = 0; i < used; i++) {
        FaultSlot *slot = &process.state->faults[i];
        const FaultRequest *request = &slot->request;
        if (!in_force(slot) || !meant_for_this_process(request)) {
            continue;
        }
        if (request->kind == FAULT_CALL_HANG && request->calls[0] == call && fires_now(slot)) {
            hold_call(slot, request->heal_ns);
        } else if (request->kind == FAULT_DEADLOCK && (request->calls[0] == call || request->calls[1] == call)) {
            meet(slot, &meetings[i], request->calls[1] == call);
        }
    }
}

bool fault_read_environment(void)
{
    const char *text = getenv("SIMCUDA_FAULT");
    if (text == NULL) {
        return true;
    }
    char *copy = strdup(text);
    char *rest;
    bool understood = copy != NULL;
    for (char *one = strtok_r(copy, ";", &rest); understood && one != NULL; one = strtok_r(NULL, ";", &rest)) {
        FaultRequest request;
        char problem[128];
        understood = fault_parse(one, &request, problem, sizeof problem);
        if (!understood) {
            fprintf(stderr, "simulated libcuda: SIMCUDA_FAULT: %s\n", problem);
        } else {
            /* A process that sets a fault for itself must not hit its neighbours, unless it names one. */
            request.only = request.label[0] == '\0' ? process.self : 0;
            fault_add(process.state, &request);
        }
    }
    free(copy);
    return understood;
}
