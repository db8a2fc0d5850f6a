/* What module.c adds to the module from doze.c. */
#ifndef WATCHDOGD_DOZE_H
#define WATCHDOGD_DOZE_H

#include <Python.h>

/* doze(epoll, awake_ns, beat_ns, late_margin_ns): when it was last awake for certain, before what ended the wait. */
PyObject *watchdogd_doze(PyObject *module, PyObject *const *arguments, Py_ssize_t count);

#endif
