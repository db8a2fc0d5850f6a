/* What output.c adds to the module. */
#ifndef WATCHDOGD_OUTPUT_H
#define WATCHDOGD_OUTPUT_H

#define WATCHDOGD_OUTPUT_FUNCTION(name)                                                                                    \
    __attribute__((visibility("hidden"))) PyObject *name(PyObject *module, PyObject *const *arguments, Py_ssize_t count)

WATCHDOGD_OUTPUT_FUNCTION(watchdogd_output_range);
WATCHDOGD_OUTPUT_FUNCTION(watchdogd_output_uniform);
WATCHDOGD_OUTPUT_FUNCTION(watchdogd_output_digest);
WATCHDOGD_OUTPUT_FUNCTION(watchdogd_output_deviation);
WATCHDOGD_OUTPUT_FUNCTION(watchdogd_output_looked_at);

#endif
