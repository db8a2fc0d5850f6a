/*
 * The supervisor's wait: its glances at the clock between two looks cost half as much CPU as in Python.
 *
 * Invariant: nothing is read from the descriptors; what is ready, or a signal, is for the caller to find.
 */
#include "doze.h"

#include <sys/epoll.h>
#include <time.h>

#define MILLISECOND INT64_C(1000000)

static int64_t monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 * MILLISECOND + now.tv_nsec;
}

PyObject *watchdogd_doze(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t count)
{
    int64_t values[4];
    if (count != 4)
        return PyErr_Format(PyExc_TypeError, "doze() takes 4 arguments, not %zd", count);
    for (int i = 0; i < 4; i++) {
        values[i] = PyLong_AsLongLong(arguments[i]);
        if (values[i] == -1 && PyErr_Occurred())
            return NULL;
    }
    const int epoll = (int)values[0];
    const int64_t beat_ns = values[2], late_margin_ns = values[3];
    int64_t awake_ns = values[1];
    Py_BEGIN_ALLOW_THREADS
    for (int64_t now_ns = monotonic_ns();; awake_ns = now_ns) {
        struct epoll_event ready;
        const int64_t rest_ns = awake_ns + beat_ns - now_ns;
        if (epoll_wait(epoll, &ready, 1, rest_ns > 0 ? (int)((rest_ns + MILLISECOND - 1) / MILLISECOND) : 0) != 0)
            break;
        now_ns = monotonic_ns();
        if (now_ns - (awake_ns + beat_ns) > late_margin_ns)
            break; /* it stood still */
    }
    Py_END_ALLOW_THREADS
    return PyLong_FromLongLong(awake_ns);
}
