/*
 * Where CUDA calls belong: whether the expected context is current to the calling thread, asked of the driver itself.
 *
 * Invariant: nothing here decides what a misuse means, and a call in its place costs no Python code: a thread's number, one
 * call of the driver and two comparisons. That driver call never blocks, so the GIL is kept.
 */
#include "place.h"

#include <pythread.h>

typedef int (*get_current_function)(void **context); /* cuCtxGetCurrent */

typedef struct {
    PyObject_HEAD
    get_current_function get_current;
    void *context;
    unsigned long thread; /* as threading.get_ident(); 0: any */
    PyObject *missed;
} Place;

static PyObject *place_type, *host_function_type;
static __thread int host_functions; /* this thread is in so many */

static int is_here(const Place *place)
{
    void *current = NULL;
    /* The order matters: no driver call at all is allowed in a host function. */
    return host_functions == 0 && (place->thread == 0 || place->thread == PyThread_get_thread_ident()) &&
           place->get_current(&current) == 0 && current == place->context;
}

static PyObject *told(PyObject *self, const char *when)
{
    if (is_here((Place *)self))
        Py_RETURN_NONE;
    return PyObject_CallFunction(((Place *)self)->missed, "s", when);
}

static PyObject *place_here(PyObject *self, PyObject *Py_UNUSED(none))
{
    return PyBool_FromLong(is_here((Place *)self));
}

static PyObject *place_check(PyObject *self, PyObject *Py_UNUSED(none))
{
    return told(self, "now");
}

static PyObject *place_enter(PyObject *self, PyObject *Py_UNUSED(none))
{
    return told(self, "before");
}

static PyObject *place_exit(PyObject *self, PyObject *const *exception, Py_ssize_t count)
{
    if (count > 0 && exception[0] != Py_None)
        Py_RETURN_NONE; /* it says more than what follows from it */
    PyObject *answer = told(self, "after");
    Py_XDECREF(answer);
    if (!answer)
        return NULL;
    Py_RETURN_NONE;
}

static int place_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((Place *)self)->missed);
    return 0;
}

static int place_clear(PyObject *self)
{
    Py_CLEAR(((Place *)self)->missed);
    return 0;
}

static void place_free(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    place_clear(self);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static PyObject *module_place(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    unsigned long long get_current, context;
    unsigned long thread;
    PyObject *missed;
    if (!PyArg_ParseTuple(arguments, "KKkO:place", &get_current, &context, &thread, &missed))
        return NULL;
    if (get_current == 0) {
        PyErr_SetString(PyExc_ValueError, "no function to ask");
        return NULL;
    }
    Place *place = PyObject_GC_New(Place, (PyTypeObject *)place_type);
    if (!place)
        return NULL;
    place->get_current = (get_current_function)(uintptr_t)get_current;
    place->context = (void *)(uintptr_t)context;
    place->thread = thread;
    place->missed = Py_NewRef(missed);
    PyObject_GC_Track((PyObject *)place);
    return (PyObject *)place;
}

static PyObject *enter_host_function(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(none))
{
    host_functions++;
    Py_RETURN_NONE;
}

static PyObject *leave_host_function(PyObject *Py_UNUSED(self), PyObject *const *Py_UNUSED(exception),
                                     Py_ssize_t Py_UNUSED(count))
{
    host_functions--;
    Py_RETURN_NONE;
}

static PyObject *module_in_host_function(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(none))
{
    return PyBool_FromLong(host_functions > 0);
}

static void free_plain(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_Free(self);
    Py_DECREF(type);
}

static PyMethodDef place_methods[] = {
    {"here", place_here, METH_NOARGS, "Whether a call would be in its place."},
    {"check", place_check, METH_NOARGS, "Calls `missed` with \"now\" if a call would not be in its place."},
    {"__enter__", place_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)(void (*)(void))place_exit, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot place_slots[] = {
    {Py_tp_methods, place_methods},
    {Py_tp_traverse, (void *)place_traverse},
    {Py_tp_clear, (void *)place_clear},
    {Py_tp_dealloc, (void *)place_free},
    {0, NULL},
};
static PyType_Spec place_spec = {
    "watchdogd._native.Place", sizeof(Place), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_HAVE_GC, place_slots,
};

static PyMethodDef host_function_methods[] = {
    {"__enter__", enter_host_function, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)(void (*)(void))leave_host_function, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot host_function_slots[] = {
    {Py_tp_methods, host_function_methods},
    {Py_tp_dealloc, (void *)free_plain},
    {0, NULL},
};
static PyType_Spec host_function_spec = {
    "watchdogd._native.HostFunction", sizeof(PyObject), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    host_function_slots,
};

static PyMethodDef functions[] = {
    {"place", module_place, METH_VARARGS, "place(get_current, context, thread, missed): where calls belong."},
    {"in_host_function", module_in_host_function, METH_NOARGS, "Whether the calling thread runs a host function."},
    {NULL, NULL, 0, NULL},
};

int watchdogd_add_place(PyObject *module)
{
    place_type = PyType_FromSpec(&place_spec);
    host_function_type = PyType_FromSpec(&host_function_spec);
    if (!place_type || !host_function_type)
        return -1;
    PyObject *host_function = PyObject_New(PyObject, (PyTypeObject *)host_function_type);
    if (!host_function || PyModule_AddFunctions(module, functions) < 0)
        return -1;
    return PyModule_AddObjectRef(module, "host_function", host_function);
}
