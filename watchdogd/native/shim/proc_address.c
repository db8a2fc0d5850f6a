/*
 * cuGetProcAddress, by which the CUDA runtime and cuda-python find the driver's functions: the driver is asked, and the
 * pointer that it gives is exchanged for the wrapper of that very function.
 *
 * Invariant: what is not known to be a function of functions.def is passed on as it is. A later form of a known name is
 * forwarded unstamped, never called with the wrong signature.
 */
#include "shim.h"

EXPORTED CUresult cuGetProcAddress_v2(const char *name, void **function, int version, cuuint64_t flags, int *status);
EXPORTED CUresult cuGetProcAddress(const char *name, void **function, int version, cuuint64_t flags);

EXPORTED CUresult cuGetProcAddress_v2(const char *name, void **function, int version, cuuint64_t flags, int *status)
{
    CUresult (*ask)(const char *, void **, int, cuuint64_t, int *) =
        (CUresult (*)(const char *, void **, int, cuuint64_t, int *))(uintptr_t)shim_real(AT_cuGetProcAddress_v2);
    if (!ask)
        return CUDA_ERROR_STUB_LIBRARY;
    CUresult result = ask(name, function, version, flags, status);
    if (result == CUDA_SUCCESS && name && function && *function)
        *function = shim_translate(name, *function);
    return result;
}

EXPORTED CUresult cuGetProcAddress(const char *name, void **function, int version, cuuint64_t flags)
{
    CUresult (*ask)(const char *, void **, int, cuuint64_t) =
        (CUresult (*)(const char *, void **, int, cuuint64_t))(uintptr_t)shim_real(AT_cuGetProcAddress);
    if (!ask)
        return CUDA_ERROR_STUB_LIBRARY;
    CUresult result = ask(name, function, version, flags);
    if (result == CUDA_SUCCESS && name && function && *function)
        *function = shim_translate(name, *function);
    return result;
}
