/* Names for the driver calls that a fault can pick out. */
#ifndef SIMULATOR_CALLS_H
#define SIMULATOR_CALLS_H

enum Call {
#define CALL(identifier, name) CALL_##identifier,
#include "calls.def"
#undef CALL
    CALL_COUNT
};

#endif
