/* What module.c adds to the module from place.c. */
#ifndef WATCHDOGD_PLACE_H
#define WATCHDOGD_PLACE_H

#include <Python.h>

/* Adds `place`, `host_function` and `in_host_function`; -1 with an exception set if that failed. */
int watchdogd_add_place(PyObject *module);

#endif
