/* Reading the text form of a fault. */
#include "fault_text.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"

#define TEXT_LIMIT 512

static const char *const KIND_NAMES[] = {
    [FAULT_HANG] = "hang",   [FAULT_CALL_HANG] = "call_hang", [FAULT_DEADLOCK] = "deadlock",
    [FAULT_ERROR] = "error", [FAULT_ZERO] = "zero",           [FAULT_SLOW] = "slow",
};
static const char *const SCOPE_NAMES[] = {
    [SCOPE_STREAM] = "stream", [SCOPE_CONTEXT] = "context", [SCOPE_PROCESS] = "process", [SCOPE_DEVICE] = "device"};
static const char *const CALL_NAMES[] = {
#define CALL(identifier, name) name,
#include "calls.def"
#undef CALL
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define KIND_BIT(kind) (1u << (kind))
#define ANY_KIND ~0u

static bool find_name(const char *const *names, size_t count, const char *name, uint32_t *index)
{
    for (size_t i = 0; i < count; i++) {
        if (names[i] != NULL && strcmp(names[i], name) == 0) {
            *index = (uint32_t)i;
            return true;
        }
    }
    return false;
}

static bool read_number(const char *text, double least, double *number)
{
    char *end;
    errno = 0;
    *number = strtod(text, &end);
    return end != text && *end == '\0' && errno == 0 && *number >= least && *number < 1e15;
}

static bool read_count(const char *text, uint64_t *count)
{
    double number;
    if (!read_number(text, 0, &number) || number != (double)(uint64_t)number) {
        return false;
    }
    *count = (uint64_t)number;
    return true;
}

static bool read_ms(const char *text, uint64_t *duration_ns)
{
    double number;
    if (!read_number(text, 0, &number)) {
        return false;
    }
    *duration_ns = (uint64_t)(number * (double)NS_PER_MS);
    return true;
}

static bool copy_label(char label[STATE_LABEL_BYTES], const char *value)
{
    return snprintf(label, STATE_LABEL_BYTES, "%s", value) < STATE_LABEL_BYTES;
}

static bool set_label(FaultRequest *request, const char *value)
{
    return copy_label(request->label, value);
}

static bool set_with(FaultRequest *request, const char *value)
{
    return copy_label(request->with, value);
}

static bool set_after(FaultRequest *request, const char *value)
{
    return read_count(value, &request->after);
}

static bool set_times(FaultRequest *request, const char *value)
{
    uint64_t times;
    if (!read_count(value, &times) || times > UINT32_MAX) {
        return false;
    }
    request->times = (uint32_t)times;
    return true;
}

static bool set_scope(FaultRequest *request, const char *value)
{
    return find_name(SCOPE_NAMES, COUNT(SCOPE_NAMES), value, &request->scope);
}

static bool set_spread(FaultRequest *request, const char *value)
{
    return read_ms(value, &request->spread_ns);
}

static bool set_heal(FaultRequest *request, const char *value)
{
    return read_ms(value, &request->heal_ns);
}

static bool set_window(FaultRequest *request, const char *value)
{
    return read_ms(value, &request->window_ns);
}

static bool read_flag(const char *text, uint32_t *flag)
{
    *flag = strcmp(text, "1") == 0;
    return *flag || strcmp(text, "0") == 0;
}

static bool set_permanent(FaultRequest *request, const char *value)
{
    return read_flag(value, &request->permanent);
}

static bool set_mixed(FaultRequest *request, const char *value)
{
    return read_flag(value, &request->mixed);
}

static bool set_at(FaultRequest *request, const char *value)
{
    bool dla = strncmp(value, "dla", 3) == 0;
    uint64_t number;
    if ((!dla && strncmp(value, "gpu", 3) != 0) || !read_count(value + 3, &number) ||
        number >= (dla ? STATE_DLAS : STATE_GPUS)) {
        return false;
    }
    request->accelerator = (int32_t)number + (dla ? STATE_GPUS : 0);
    return true;
}

static bool set_load(FaultRequest *request, const char *value)
{
    uint64_t percent;
    if (!read_count(value, &percent) || percent > 100) {
        return false;
    }
    request->load_percent = (int32_t)percent;
    return true;
}

static bool set_call(FaultRequest *request, const char *value)
{
    return find_name(CALL_NAMES, COUNT(CALL_NAMES), value, &request->calls[0]);
}

static bool set_calls(FaultRequest *request, const char *value)
{
    char first[TEXT_LIMIT];
    const char *comma = strchr(value, ',');
    if (comma == NULL) {
        return false;
    }
    snprintf(first, sizeof first, "%.*s", (int)(comma - value), value);
    return find_name(CALL_NAMES, COUNT(CALL_NAMES), first, &request->calls[0]) &&
           find_name(CALL_NAMES, COUNT(CALL_NAMES), comma + 1, &request->calls[1]) &&
           request->calls[0] != request->calls[1];
}

static bool set_code(FaultRequest *request, const char *value)
{
    uint64_t code;
    if (!read_count(value, &code) || code == 0 || code > 999) {
        return false;
    }
    request->code = (int32_t)code;
    return true;
}

static bool set_factor(FaultRequest *request, const char *value)
{
    return read_number(value, 1, &request->factor);
}

static const struct {
    const char *name;
    unsigned kinds; /* that take this key */
    unsigned needed_by;
    bool (*set)(FaultRequest *request, const char *value);
} KEYS[] = {
    {"label", ANY_KIND, 0, set_label},
    {"with", ANY_KIND, 0, set_with},
    {"after", ANY_KIND, 0, set_after},
    {"times", ANY_KIND, 0, set_times},
    {"scope", KIND_BIT(FAULT_HANG), 0, set_scope},
    {"spread_ms", KIND_BIT(FAULT_HANG), 0, set_spread},
    {"permanent", KIND_BIT(FAULT_HANG), 0, set_permanent},
    {"load", KIND_BIT(FAULT_HANG), 0, set_load},
    {"at", KIND_BIT(FAULT_HANG), 0, set_at},
    {"mixed", KIND_BIT(FAULT_HANG), 0, set_mixed},
    {"heal_ms", KIND_BIT(FAULT_HANG) | KIND_BIT(FAULT_ZERO) | KIND_BIT(FAULT_SLOW), 0, set_heal},
    {"call", KIND_BIT(FAULT_CALL_HANG), KIND_BIT(FAULT_CALL_HANG), set_call},
    {"for_ms", KIND_BIT(FAULT_CALL_HANG), 0, set_heal},
    {"calls", KIND_BIT(FAULT_DEADLOCK), KIND_BIT(FAULT_DEADLOCK), set_calls},
    {"window_ms", KIND_BIT(FAULT_DEADLOCK), 0, set_window},
    {"code", KIND_BIT(FAULT_ERROR), KIND_BIT(FAULT_ERROR), set_code},
    {"factor", KIND_BIT(FAULT_SLOW), KIND_BIT(FAULT_SLOW), set_factor},
};

static void set_defaults(FaultRequest *request, uint32_t kind)
{
    *request = (FaultRequest){
        .kind = kind,
        .scope = SCOPE_STREAM,
        .load_percent = -1,
        .accelerator = -1,
        /* A slow device or one that returns zeros stays so; the others are single events. */
        .times = kind == FAULT_ZERO || kind == FAULT_SLOW ? 0 : 1,
        .window_ns = 5 * NS_PER_MS,
        .factor = 1,
    };
}

/* Reads one KEY=VALUE into the request and adds the key to `given`. */
static bool read_pair(char *pair, FaultRequest *request, unsigned *given, char *problem, size_t problem_size)
{
    char *value = strchr(pair, '=');
    if (value == NULL) {
        snprintf(problem, problem_size, "'%s' is not key=value", pair);
        return false;
    }
    *value++ = '\0';
    for (size_t i = 0; i < COUNT(KEYS); i++) {
        if (strcmp(KEYS[i].name, pair) == 0 && (KEYS[i].kinds & KIND_BIT(request->kind)) != 0) {
            if (!KEYS[i].set(request, value)) {
                snprintf(problem, problem_size, "'%s' is no value for %s", value, pair);
                return false;
            }
            *given |= 1u << i;
            return true;
        }
    }
    snprintf(problem, problem_size, "%s takes no key '%s'", KIND_NAMES[request->kind], pair);
    return false;
}

bool fault_parse(const char *text, FaultRequest *request, char *problem, size_t problem_size)
{
    char copy[TEXT_LIMIT];
    char *rest;
    uint32_t kind;
    if (strlen(text) >= sizeof copy) {
        snprintf(problem, problem_size, "longer than %zu characters", sizeof copy - 1);
        return false;
    }
    memcpy(copy, text, strlen(text) + 1);
    char *word = strtok_r(copy, " \t\n", &rest);
    if (word == NULL || !find_name(KIND_NAMES, COUNT(KIND_NAMES), word, &kind)) {
        snprintf(problem, problem_size, "'%s' is no kind of fault", word == NULL ? "" : word);
        return false;
    }
    set_defaults(request, kind);
    unsigned given = 0;
    while ((word = strtok_r(NULL, " \t\n", &rest)) != NULL) {
        if (!read_pair(word, request, &given, problem, problem_size)) {
            return false;
        }
    }
    for (size_t i = 0; i < COUNT(KEYS); i++) {
        if ((KEYS[i].needed_by & KIND_BIT(kind)) != 0 && (given & 1u << i) == 0) {
            snprintf(problem, problem_size, "%s needs %s=", KIND_NAMES[kind], KEYS[i].name);
            return false;
        }
    }
    return true;
}

static FaultSlot *slot_of(State *state, uint64_t id)
{
    return &state->faults[(id - 1) % STATE_FAULTS];
}

uint64_t fault_add(State *state, const FaultRequest *request)
{
    uint64_t id = atomic_fetch_add(&state->last_fault_id, 1) + 1;
    FaultSlot *slot = slot_of(state, id);
    atomic_store(&slot->phase, PHASE_EMPTY);
    slot->request = *request;
    atomic_store(&slot->seen, 0);
    atomic_store(&slot->fired, 0);
    atomic_store(&slot->fired_ns, 0);
    atomic_store(&slot->spread_at_ns, 0);
    atomic_store(&slot->lifted_ns, 0);
    atomic_store(&slot->culprit, 0);
    atomic_store(&slot->id, id);
    atomic_store(&slot->phase, PHASE_ARMED);
    return id;
}

FaultSlot *fault_find(State *state, uint64_t id)
{
    FaultSlot *slot = slot_of(state, id);
    return id != 0 && atomic_load(&slot->id) == id ? slot : NULL;
}
