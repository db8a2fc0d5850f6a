/*
 * scan.h for Python, and the stamp of what was found.
 *
 * Invariant: no size, width or step of a caller reaches scan.h before it was checked. The GIL is released only for what takes
 * long: to get it back from a busy thread can take 5 ms.
 */
#include <Python.h> /* first, as always; it defines _GNU_SOURCE */

#include "output.h"
#include "scan.h"

#if defined(Py_LIMITED_API) && Py_LIMITED_API + 0 < 0x030B0000
/* In the stable ABI from 3.11 on; every 3.10 has the same structure and exports the functions, its headers hide them. */
typedef struct {
    void *buf;
    PyObject *obj;
    Py_ssize_t len, itemsize;
    int readonly, ndim;
    char *format;
    Py_ssize_t *shape, *strides, *suboffsets;
    void *internal;
} Py_buffer;
PyAPI_FUNC(int) PyObject_GetBuffer(PyObject *object, Py_buffer *view, int flags);
PyAPI_FUNC(void) PyBuffer_Release(Py_buffer *view);
#define PyBUF_SIMPLE 0 /* contiguous bytes, else BufferError */
#endif

enum { LONG_READ = 1 << 20 };

/* An argument from `least` to `most`; -1 with an exception. */
static Py_ssize_t number(PyObject *argument, Py_ssize_t least, Py_ssize_t most)
{
    Py_ssize_t value = PyLong_AsSsize_t(argument);
    if (value == -1 && PyErr_Occurred())
        return -1;
    if (value < least || value > most) {
        PyErr_Format(PyExc_ValueError, "%zd is not from %zd to %zd", value, least, most);
        return -1;
    }
    return value;
}

/* Width and kind of the elements, and whether the buffer holds whole ones. */
static int elements(PyObject *const *arguments, const Py_buffer *view, size_t *width, enum scan_kind *kind)
{
    Py_ssize_t bytes = number(arguments[0], 1, 8), code = number(arguments[1], 0, SCAN_KINDS - 1);
    if (bytes < 0 || code < 0)
        return 0;
    int is_float = code >= SCAN_FLOAT;
    if ((bytes & (bytes - 1)) || (is_float && bytes == 1) || (code == SCAN_BFLOAT && bytes != 2) || view->len % bytes) {
        PyErr_SetString(PyExc_ValueError, "not whole elements of a known format");
        return 0;
    }
    *width = (size_t)bytes;
    *kind = (enum scan_kind)code;
    return 1;
}

static int takes(Py_ssize_t wanted, Py_ssize_t count)
{
    if (wanted != count)
        PyErr_Format(PyExc_TypeError, "takes %zd arguments, not %zd", wanted, count);
    return wanted == count;
}

PyObject *watchdogd_output_range(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t count)
{
    Py_buffer view;
    size_t width;
    enum scan_kind kind;
    PyObject *result = NULL;
    if (!takes(5, count) || PyObject_GetBuffer(arguments[0], &view, PyBUF_SIMPLE) < 0)
        return NULL;
    Py_ssize_t first = number(arguments[3], 0, PY_SSIZE_T_MAX / SCAN_BLOCK / 2);
    Py_ssize_t step = first < 0 ? -1 : number(arguments[4], 1, PY_SSIZE_T_MAX / SCAN_BLOCK / 2);
    if (step > 0 && elements(arguments + 1, &view, &width, &kind)) {
        if (first * SCAN_BLOCK >= view.len) {
            PyErr_SetString(PyExc_ValueError, "no element is there");
        } else {
            int64_t low, high;
            scan_range(view.buf, (size_t)view.len, width, kind, (size_t)first, (size_t)step, &low, &high);
            result = Py_BuildValue("LL", (long long)low, (long long)high);
        }
    }
    PyBuffer_Release(&view);
    return result;
}

PyObject *watchdogd_output_uniform(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t count)
{
    Py_buffer view;
    size_t width;
    enum scan_kind kind;
    int uniform = -1;
    if (!takes(3, count) || PyObject_GetBuffer(arguments[0], &view, PyBUF_SIMPLE) < 0)
        return NULL;
    if (elements(arguments + 1, &view, &width, &kind)) {
        PyThreadState *state = view.len > LONG_READ ? PyEval_SaveThread() : NULL;
        uniform = scan_uniform(view.buf, (size_t)view.len, width, kind);
        if (state)
            PyEval_RestoreThread(state);
    }
    PyBuffer_Release(&view);
    return uniform < 0 ? NULL : PyBool_FromLong(uniform);
}

PyObject *watchdogd_output_digest(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t count)
{
    Py_buffer view;
    PyObject *result = NULL;
    if (!takes(2, count) || PyObject_GetBuffer(arguments[0], &view, PyBUF_SIMPLE) < 0)
        return NULL;
    Py_ssize_t step = number(arguments[1], 1, PY_SSIZE_T_MAX / SCAN_BLOCK / 2);
    if (step > 0) {
        PyThreadState *state = view.len / step > LONG_READ ? PyEval_SaveThread() : NULL;
        uint64_t digest = scan_digest(view.buf, (size_t)view.len, (size_t)step);
        if (state)
            PyEval_RestoreThread(state);
        result = PyLong_FromUnsignedLongLong(digest);
    }
    PyBuffer_Release(&view);
    return result;
}

PyObject *watchdogd_output_deviation(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t count)
{
    Py_buffer left, right;
    size_t width;
    enum scan_kind kind;
    PyObject *result = NULL;
    if (!takes(4, count) || PyObject_GetBuffer(arguments[0], &left, PyBUF_SIMPLE) < 0)
        return NULL;
    if (PyObject_GetBuffer(arguments[1], &right, PyBUF_SIMPLE) < 0) {
        PyBuffer_Release(&left);
        return NULL;
    }
    if (left.len != right.len) {
        PyErr_Format(PyExc_ValueError, "%zd bytes against %zd", left.len, right.len);
    } else if (elements(arguments + 2, &left, &width, &kind)) {
        PyThreadState *state = left.len > LONG_READ ? PyEval_SaveThread() : NULL;
        double deviation = scan_deviation(left.buf, right.buf, (size_t)left.len, width, kind);
        if (state)
            PyEval_RestoreThread(state);
        result = PyFloat_FromDouble(deviation);
    }
    PyBuffer_Release(&right);
    PyBuffer_Release(&left);
    return result;
}

PyObject *watchdogd_output_looked_at(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t count)
{
    if (!takes(2, count))
        return NULL;
    uint64_t run = PyLong_AsUnsignedLongLong(arguments[0]);
    if (run == UINT64_MAX && PyErr_Occurred())
        return NULL;
    Py_ssize_t kind = number(arguments[1], 0, WATCHDOGD_OUTPUT_CANARY);
    if (kind < 0)
        return NULL;
    watchdogd_output(&run, (unsigned)kind);
    return PyLong_FromUnsignedLongLong(run);
}
