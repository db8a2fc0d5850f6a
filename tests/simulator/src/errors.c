/* Names and texts of results: work before cuInit, after a fork and after any error. */
#include "cuda_api.h"

static const struct {
    CUresult result;
    const char *name;
    const char *text;
} RESULTS[] = {
    {CUDA_SUCCESS, "CUDA_SUCCESS", "no error"},
#define RESULT(name, value, text) {CUDA_ERROR_##name, "CUDA_ERROR_" #name, text},
#include "results.def"
#undef RESULT
};

CUresult cuGetErrorName(CUresult result, const char **name)
{
    if (name == NULL) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    *name = NULL;
    for (size_t i = 0; i < sizeof RESULTS / sizeof RESULTS[0]; i++) {
        if (RESULTS[i].result == result) {
            *name = RESULTS[i].name;
            return CUDA_SUCCESS;
        }
    }
    return CUDA_ERROR_INVALID_VALUE;
}

CUresult cuGetErrorString(CUresult result, const char **text)
{
    if (text == NULL) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    *text = NULL;
    for (size_t i = 0; i < sizeof RESULTS / sizeof RESULTS[0]; i++) {
        if (RESULTS[i].result == result) {
            *text = RESULTS[i].text;
            return CUDA_SUCCESS;
        }
    }
    return CUDA_ERROR_INVALID_VALUE;
}
