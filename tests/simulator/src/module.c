/* Loading modules and libraries, and finding functions in them. */
#include "module.h"

#include <ctype.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "context.h"
#include "cuda_api.h"
#include "process.h"

/* What was asked of a module before: asked again, it answers with the same handle. */
typedef struct Known {
    struct Known *next;
    uint64_t handle;
    char name[];
} Known;

typedef struct {
    Object object;
    uint64_t context; /* handle; 0 for a library */
    Known *known;     /* under known_lock */
} Module;

static pthread_mutex_t known_lock = PTHREAD_MUTEX_INITIALIZER;

static void free_function(Object *object)
{
    free(object);
}

static void free_module(Object *object)
{
    Known *next;
    for (Known *known = ((Module *)object)->known; known != NULL; known = next) {
        next = known->next;
        free(known);
    }
    free(object);
}

static CUresult create_module(Object *owner, uint64_t *handle)
{
    Module *module = calloc(1, sizeof *module);
    if (module == NULL) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    module->context = owner == NULL ? 0 : owner->handle;
    *handle = object_publish(&module->object, OBJECT_MODULE, owner, free_module);
    if (*handle == 0) {
        free(module);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    return CUDA_SUCCESS;
}

static CUresult load(CUmodule *handle, bool image_given, CUresult otherwise)
{
    Context *context;
    uint64_t number;
    CUresult result = gate_context(CALL_MODULE_LOAD, &context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (handle == NULL) {
        result = CUDA_ERROR_INVALID_VALUE;
    } else if (!image_given) {
        result = otherwise;
    } else {
        result = create_module(&context->object, &number);
        if (result == CUDA_SUCCESS) {
            *handle = (CUmodule)(uintptr_t)number;
        }
    }
    object_put(&context->object);
    return result;
}

CUresult cuModuleLoad(CUmodule *module, const char *path)
{
    return load(module, path != NULL && access(path, R_OK) == 0, CUDA_ERROR_FILE_NOT_FOUND);
}

CUresult cuModuleLoadData(CUmodule *module, const void *image)
{
    return load(module, image != NULL, CUDA_ERROR_INVALID_VALUE);
}

CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned option_count, int *options, void **values)
{
    (void)option_count; /* options for a compiler that is not here */
    (void)options;
    (void)values;
    return load(module, image != NULL, CUDA_ERROR_INVALID_VALUE);
}

CUresult cuLibraryLoadData(CUlibrary *library, const void *image, int *jit_options, void **jit_values,
                           unsigned jit_count, int *options, void **values, unsigned count)
{
    uint64_t number;
    (void)jit_options;
    (void)jit_values;
    (void)jit_count;
    (void)options;
    (void)values;
    (void)count;
    CUresult result = gate(CALL_MODULE_LOAD);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (library == NULL || image == NULL) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    result = create_module(NULL, &number);
    if (result == CUDA_SUCCESS) {
        *library = (CUlibrary)(uintptr_t)number;
    }
    return result;
}

void module_retire_functions(Object *module)
{
    object_retire_owned(OBJECT_FUNCTION, module, NULL);
}

static CUresult unload(uint64_t handle)
{
    Object *module;
    CUresult result = gate(CALL_MODULE_UNLOAD);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (object_look_up(handle, OBJECT_MODULE, &module) != LOOKUP_FOUND) {
        return CUDA_ERROR_INVALID_HANDLE;
    }
    module_retire_functions(module);
    object_retire(module);
    object_put(module);
    return CUDA_SUCCESS;
}

CUresult cuModuleUnload(CUmodule module)
{
    return unload((uint64_t)(uintptr_t)module);
}

CUresult cuLibraryUnload(CUlibrary library)
{
    return unload((uint64_t)(uintptr_t)library);
}

static bool is_identifier(const char *name)
{
    if (!isalpha((unsigned char)name[0]) && name[0] != '_') {
        return false;
    }
    for (; *name != '\0'; name++) {
        if (!isalnum((unsigned char)*name) && *name != '_') {
            return false;
        }
    }
    return true;
}

static CUresult create_function(Module *module, const char *name, uint64_t *handle)
{
    Function *function = calloc(1, sizeof *function);
    if (function == NULL) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    function->context = module->context;
    function->kernel = kernel_from_name(name);
    *handle = object_publish(&function->object, OBJECT_FUNCTION, &module->object, free_function);
    if (*handle == 0) {
        free(function);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    return CUDA_SUCCESS;
}

/* Under known_lock. */
static CUresult find_or_create(Module *module, const char *name, uint64_t *handle)
{
    for (Known *known = module->known; known != NULL; known = known->next) {
        if (strcmp(known->name, name) == 0) {
            *handle = known->handle;
            return CUDA_SUCCESS;
        }
    }
    size_t size = strlen(name) + 1;
    Known *known = malloc(sizeof *known + size);
    if (known == NULL) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    CUresult result = create_function(module, name, &known->handle);
    if (result != CUDA_SUCCESS) {
        free(known);
        return result;
    }
    memcpy(known->name, name, size);
    known->next = module->known;
    module->known = known;
    *handle = known->handle;
    return CUDA_SUCCESS;
}

static CUresult get_function(uint64_t module_handle, const char *name, uint64_t *handle)
{
    Object *object;
    CUresult result = gate(CALL_OTHER);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (handle == NULL || name == NULL) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (!is_identifier(name)) {
        return CUDA_ERROR_NOT_FOUND;
    }
    if (object_look_up(module_handle, OBJECT_MODULE, &object) != LOOKUP_FOUND) {
        return CUDA_ERROR_INVALID_HANDLE;
    }
    pthread_mutex_lock(&known_lock);
    result = find_or_create((Module *)object, name, handle);
    pthread_mutex_unlock(&known_lock);
    object_put(object);
    return result;
}

CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name)
{
    uint64_t handle;
    CUresult result = get_function((uint64_t)(uintptr_t)module, name, function == NULL ? NULL : &handle);
    if (result == CUDA_SUCCESS) {
        *function = (CUfunction)(uintptr_t)handle;
    }
    return result;
}

CUresult cuLibraryGetKernel(CUkernel *kernel, CUlibrary library, const char *name)
{
    uint64_t handle;
    CUresult result = get_function((uint64_t)(uintptr_t)library, name, kernel == NULL ? NULL : &handle);
    if (result == CUDA_SUCCESS) {
        *kernel = (CUkernel)(uintptr_t)handle;
    }
    return result;
}

CUresult function_look_up(uint64_t handle, Function **function)
{
    Object *object;
    if (object_look_up(handle, OBJECT_FUNCTION, &object) != LOOKUP_FOUND) {
        return CUDA_ERROR_INVALID_HANDLE;
    }
    *function = (Function *)object;
    return CUDA_SUCCESS;
}

/* A kernel may be launched where a function is asked for, here as in the real driver. */
CUresult cuKernelGetFunction(CUfunction *function, CUkernel kernel)
{
    Function *found;
    CUresult result = gate(CALL_OTHER);
    if (result == CUDA_SUCCESS && function == NULL) {
        result = CUDA_ERROR_INVALID_VALUE;
    }
    if (result == CUDA_SUCCESS) {
        result = function_look_up((uint64_t)(uintptr_t)kernel, &found);
    }
    if (result == CUDA_SUCCESS) {
        *function = (CUfunction)kernel;
        object_put(&found->object);
    }
    return result;
}
