/*
 * watchdogd._native: watchdogd.h for Python (stable ABI of 3.10 and later).
 *
 * Invariant: a guard costs no allocation beyond what the `with` statement itself does: call guards are stateless and made
 * once per operation. Everything but `doze` is short, so nothing else releases the GIL.
 */
#include <Python.h> /* first, as always; it defines _GNU_SOURCE */

#include "doze.h"
#include "output.h"
#include "place.h"
#include "watchdogd.h"

#define OPERATIONS (WATCHDOGD_OP_OTHER + 1)

static PyObject *call_guards[OPERATIONS];
static PyObject *operation_names[OPERATIONS]; /* interned, as literals in code are: a comparison of pointers mostly does */
static PyObject *stage_codes;                 /* name -> code */
static PyObject *stage_type, *step_type;

typedef struct {
    PyObject_HEAD
    unsigned operation;
} CallGuard;

typedef struct {
    PyObject_HEAD
    unsigned code;
    uint64_t previous;
} StageGuard;

typedef struct {
    PyObject_HEAD
    uint64_t token;
    uint64_t request;
    int has_request;
} StepGuard;

static PyObject *enter_call(PyObject *self, PyObject *Py_UNUSED(none))
{
    watchdogd_call_enter(((CallGuard *)self)->operation);
    Py_RETURN_NONE;
}

static PyObject *leave_call(PyObject *Py_UNUSED(self), PyObject *const *Py_UNUSED(exception), Py_ssize_t Py_UNUSED(count))
{
    watchdogd_call_leave();
    Py_RETURN_NONE;
}

static PyObject *enter_stage(PyObject *self, PyObject *Py_UNUSED(none))
{
    StageGuard *stage = (StageGuard *)self;
    stage->previous = watchdogd_stage_enter(stage->code);
    Py_RETURN_NONE;
}

static PyObject *leave_stage(PyObject *self, PyObject *const *Py_UNUSED(exception), Py_ssize_t Py_UNUSED(count))
{
    watchdogd_stage_leave(((StageGuard *)self)->previous);
    Py_RETURN_NONE;
}

static PyObject *enter_step(PyObject *self, PyObject *Py_UNUSED(none))
{
    StepGuard *step = (StepGuard *)self;
    step->token = step->has_request ? watchdogd_step_begin_request(step->request) : watchdogd_step_begin();
    Py_RETURN_NONE;
}

static PyObject *leave_step(PyObject *self, PyObject *const *Py_UNUSED(exception), Py_ssize_t Py_UNUSED(count))
{
    watchdogd_step_end(((StepGuard *)self)->token);
    Py_RETURN_NONE;
}

static void free_guard(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_Free(self);
    Py_DECREF(type);
}

/* A type whose objects are only made here, with these two methods. */
#define FAST(function) (PyCFunction)(void (*)(void))function
#define GUARD_TYPE(Struct, name, enter, leave)                                                                             \
    static PyMethodDef name##_methods[] = {                                                                                \
        {"__enter__", enter, METH_NOARGS, NULL},                                                                           \
        {"__exit__", FAST(leave), METH_FASTCALL, NULL},                                                                    \
        {NULL, NULL, 0, NULL},                                                                                             \
    };                                                                                                                     \
    static PyType_Slot name##_slots[] = {                                                                                  \
        {Py_tp_methods, name##_methods},                                                                                   \
        {Py_tp_dealloc, (void *)free_guard},                                                                               \
        {0, NULL},                                                                                                         \
    };                                                                                                                     \
    static PyType_Spec name##_spec = {                                                                                     \
        "watchdogd._native." #Struct, sizeof(Struct), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,           \
        name##_slots,                                                                                                      \
    }

GUARD_TYPE(CallGuard, call, enter_call, leave_call);
GUARD_TYPE(StageGuard, stage, enter_stage, leave_stage);
GUARD_TYPE(StepGuard, step, enter_step, leave_step);

static PyObject *module_attach(PyObject *Py_UNUSED(module), PyObject *path)
{
    if (path == Py_None)
        return PyBool_FromLong(watchdogd_attach_path(NULL));
    PyObject *bytes;
    if (!PyUnicode_FSConverter(path, &bytes))
        return NULL;
    int supervised = watchdogd_attach_path(PyBytes_AsString(bytes));
    Py_DECREF(bytes);
    return PyBool_FromLong(supervised);
}

static PyObject *module_ready(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    watchdogd_ready();
    Py_RETURN_NONE;
}

static PyObject *module_error(PyObject *Py_UNUSED(module), PyObject *curesult)
{
    long code = PyLong_AsLong(curesult);
    if (code == -1 && PyErr_Occurred())
        return NULL;
    watchdogd_error(code < 0 || code > INT32_MAX ? INT32_MAX : (int)code);
    Py_RETURN_NONE;
}

static PyObject *module_call(PyObject *Py_UNUSED(module), PyObject *name)
{
    for (unsigned code = 1; code < OPERATIONS; code++)
        if (name == operation_names[code])
            return Py_NewRef(call_guards[code]);
    for (unsigned code = 1; code < OPERATIONS; code++) {
        int equal = PyObject_RichCompareBool(name, operation_names[code], Py_EQ);
        if (equal)
            return equal < 0 ? NULL : Py_NewRef(call_guards[code]);
    }
    PyObject *names = PyTuple_New(OPERATIONS - 1);
    if (!names)
        return NULL;
    for (unsigned code = 1; code < OPERATIONS; code++)
        PyTuple_SetItem(names, code - 1, Py_NewRef(operation_names[code]));
    PyErr_Format(PyExc_ValueError, "unknown operation %R: use one of %R", name, names);
    Py_DECREF(names);
    return NULL;
}

static PyObject *module_stage(PyObject *Py_UNUSED(module), PyObject *name)
{
    PyObject *code = PyDict_GetItemWithError(stage_codes, name);
    if (!code) {
        const char *text = PyErr_Occurred() ? NULL : PyUnicode_AsUTF8AndSize(name, NULL);
        PyObject *found = text ? PyLong_FromUnsignedLong(watchdogd_stage_code(text)) : NULL;
        int status = found ? PyDict_SetItem(stage_codes, name, found) : -1;
        Py_XDECREF(found);
        if (status < 0)
            return NULL;
        code = found; /* the dictionary keeps it */
    }
    StageGuard *stage = PyObject_New(StageGuard, (PyTypeObject *)stage_type);
    if (!stage)
        return NULL;
    stage->code = (unsigned)PyLong_AsUnsignedLong(code);
    stage->previous = 0;
    return (PyObject *)stage;
}

/* The arguments of a step: nothing, or request=NUMBER. 1 if there is one, -1 with an error set. */
static int request_of(PyObject *const *arguments, Py_ssize_t count, PyObject *names, uint64_t *request)
{
    Py_ssize_t named = names ? PyTuple_Size(names) : 0;
    if (count == 0 && named == 0)
        return 0;
    if (count != 0 || named != 1 || PyUnicode_CompareWithASCIIString(PyTuple_GetItem(names, 0), "request") != 0) {
        PyErr_SetString(PyExc_TypeError, "a step takes one argument at most: request=NUMBER");
        return -1;
    }
    if (arguments[0] == Py_None)
        return 0;
    PyObject *number = PyNumber_Index(arguments[0]);
    *request = number ? PyLong_AsUnsignedLongLong(number) : 0;
    if (number && PyErr_Occurred())
        PyErr_SetString(PyExc_ValueError, "request is a number from 0 to 2**64 - 1");
    Py_XDECREF(number);
    return PyErr_Occurred() ? -1 : 1;
}

static PyObject *module_step(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    uint64_t request = 0;
    int has_request = request_of(arguments, count, names, &request);
    StepGuard *step = has_request < 0 ? NULL : PyObject_New(StepGuard, (PyTypeObject *)step_type);
    if (step) {
        step->token = UINT64_MAX; /* in flight nowhere */
        step->request = request;
        step->has_request = has_request;
    }
    return (PyObject *)step;
}

static PyObject *module_begin_step(
    PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t count, PyObject *names)
{
    uint64_t request = 0;
    int has_request = request_of(arguments, count, names, &request);
    if (has_request < 0)
        return NULL;
    return PyLong_FromUnsignedLongLong(has_request ? watchdogd_step_begin_request(request) : watchdogd_step_begin());
}

static PyObject *module_redelivered(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    uint64_t request;
    if (!watchdogd_redelivered(&request))
        Py_RETURN_NONE;
    return PyLong_FromUnsignedLongLong(request);
}

static PyObject *module_end_step(PyObject *Py_UNUSED(module), PyObject *token)
{
    unsigned long long value = PyLong_AsUnsignedLongLong(token);
    if (value == (unsigned long long)-1 && PyErr_Occurred())
        return NULL;
    watchdogd_step_end(value);
    Py_RETURN_NONE;
}

static PyObject *module_first_step(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    watchdogd_step_first();
    Py_RETURN_NONE;
}

static PyObject *module_in_step(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    const uint64_t *words = watchdogd_process_.words, *hot = __atomic_load_n(&watchdogd_process_.hot, __ATOMIC_ACQUIRE);
    if (!words || !hot || (watchdogd_load_(words + WATCHDOGD_HEADER_STATE) & WATCHDOGD_CODE_MASK) != WATCHDOGD_STATE_READY)
        Py_RETURN_FALSE;
    return PyBool_FromLong(watchdogd_load_(hot + WATCHDOGD_LANE_STEP) != 0);
}

static PyObject *module_bisect(PyObject *Py_UNUSED(module), PyObject *done)
{
    return PyBool_FromLong(done == Py_True ? watchdogd_is_bisecting() : watchdogd_bisect_asked_());
}

static PyObject *module_lane(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    const uint64_t *hot = watchdogd_thread_.hot;
    if (!hot)
        Py_RETURN_NONE;
    uint64_t offset = (uint64_t)(hot - watchdogd_process_.words) * sizeof *hot - WATCHDOGD_HOT_OFFSET;
    return PyLong_FromUnsignedLongLong(offset / WATCHDOGD_HOT_STRIDE);
}

static PyMethodDef methods[] = {
    {"attach", module_attach, METH_O, "Map the heartbeat at a path, or private memory for None; whether it is supervised."},
    {"ready", module_ready, METH_NOARGS, "The startup deadline ends here."},
    {"error", module_error, METH_O, "Record a CUresult other than success."},
    {"call", module_call, METH_O, "The guard around a blocking call of this operation."},
    {"stage", module_stage, METH_O, "A guard around a named stage of a step."},
    {"step", FAST(module_step), METH_FASTCALL | METH_KEYWORDS, "A guard around one step, of request=NUMBER."},
    {"begin_step", FAST(module_begin_step), METH_FASTCALL | METH_KEYWORDS, "Begin a step; the token that ends it."},
    {"redelivered", module_redelivered, METH_NOARGS, "The next request to work on again, None if there is none."},
    {"end_step", module_end_step, METH_O, "End a step, from any thread."},
    {"first_step", module_first_step, METH_NOARGS, "Steps in flight, and those begun until one is done, are first ones."},
    {"output", FAST(watchdogd_output_looked_at), METH_FASTCALL, "Stamp and count an output's kind; the word of its run."},
    {"extremes", FAST(watchdogd_output_range), METH_FASTCALL, "Lowest and highest key of a buffer's elements, on a sample."},
    {"uniform", FAST(watchdogd_output_uniform), METH_FASTCALL, "Whether all elements of a buffer are equal."},
    {"digest", FAST(watchdogd_output_digest), METH_FASTCALL, "Of a sample of a buffer's blocks."},
    {"deviation", FAST(watchdogd_output_deviation), METH_FASTCALL, "Largest difference of two buffers' elements."},
    {"doze", FAST(watchdogd_doze), METH_FASTCALL, "Waits for an epoll; when it was last awake before what ended that."},
    {"in_step", module_in_step, METH_NOARGS, "Whether the worker is ready and a step of this process is in flight."},
    {"bisect", module_bisect, METH_O, "Whether each stage is to be synchronized; with True says that it is."},
    {"lane", module_lane, METH_NOARGS, "The calling thread's lane, None without one."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "watchdogd._native", "watchdogd.h for Python.", -1, methods, NULL, NULL, NULL, NULL,
};

static int fill(void)
{
    static const char *const names[OPERATIONS] = {
        [WATCHDOGD_OP_SYNC] = "sync", [WATCHDOGD_OP_EVENT] = "event",   [WATCHDOGD_OP_ALLOC] = "alloc",
        [WATCHDOGD_OP_FREE] = "free", [WATCHDOGD_OP_COPY] = "copy",     [WATCHDOGD_OP_LAUNCH] = "launch",
        [WATCHDOGD_OP_OTHER] = "other",
    };
    PyObject *call_type = PyType_FromSpec(&call_spec);
    stage_type = PyType_FromSpec(&stage_spec);
    step_type = PyType_FromSpec(&step_spec);
    stage_codes = PyDict_New();
    if (!call_type || !stage_type || !step_type || !stage_codes)
        return -1;
    for (unsigned code = 1; code < OPERATIONS; code++) {
        CallGuard *guard = PyObject_New(CallGuard, (PyTypeObject *)call_type);
        operation_names[code] = PyUnicode_InternFromString(names[code]);
        if (!guard || !operation_names[code])
            return -1;
        guard->operation = code;
        call_guards[code] = (PyObject *)guard;
    }
    return 0;
}

PyMODINIT_FUNC PyInit__native(void)
{
    PyObject *module = PyModule_Create(&definition);
    if (module && (fill() < 0 || watchdogd_add_place(module) < 0))
        Py_CLEAR(module);
    return module;
}
