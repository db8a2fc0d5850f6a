/* The table of driver calls by name and version, as cuGetProcAddress looks them up. */
#include <string.h>

#include "cuda_api.h"
#include "process.h"

typedef struct {
    const char *name;
    int version; /* the first CUDA version, as in CUDA_VERSION, whose headers have it in this form */
    void *function;
    bool default_stream;
} Procedure;

/* Of the same name, the later version comes later. */
static const Procedure PROCEDURES[] = {
#define PROCEDURE(name, version, symbol) {#name, version, (void *)symbol, false},
#define PROCEDURE_IN_STREAM(name, version, symbol) {#name, version, (void *)symbol, true},
#include "procedures.def"
#undef PROCEDURE
#undef PROCEDURE_IN_STREAM
};

CUresult cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status)
{
    int found = CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    if (name == NULL || function == NULL) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    *function = NULL;
    for (size_t i = 0; i < sizeof PROCEDURES / sizeof PROCEDURES[0]; i++) {
        const Procedure *procedure = &PROCEDURES[i];
        /* Per-thread default streams by flag are not simulated: not found is better than the wrong stream. */
        bool wrong_default = procedure->default_stream && (flags & CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM) != 0;
        if (strcmp(procedure->name, name) != 0 || procedure->version > driver_version() || wrong_default) {
            continue;
        }
        if (procedure->version <= version) {
            *function = procedure->function;
            found = CU_GET_PROC_ADDRESS_SUCCESS;
        } else if (*function == NULL) {
            found = CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT;
        }
    }
    if (status != NULL) {
        *status = found;
    }
    return *function == NULL ? CUDA_ERROR_NOT_FOUND : CUDA_SUCCESS;
}

CUresult cuGetProcAddress(const char *name, void **function, int version, uint64_t flags)
{
    return cuGetProcAddress_v2(name, function, version, flags, NULL);
}
