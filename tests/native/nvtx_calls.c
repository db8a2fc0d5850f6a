/* The calls of NVIDIA's own header, which are inline functions, for programs in Python. */
#include <stddef.h>

#include "nvtx3/nvToolsExt.h"

int range_push(const char *name) { return nvtxRangePushA(name); }
int range_push_wide(const wchar_t *name) { return nvtxRangePushW(name); }
int range_pop(void) { return nvtxRangePop(); }
void *domain_make(const char *name) { return nvtxDomainCreateA(name); }
void *string_register(void *domain, const char *text) { return nvtxDomainRegisterStringA(domain, text); }
void *string_register_wide(void *domain, const wchar_t *text) { return nvtxDomainRegisterStringW(domain, text); }
int domain_pop(void *domain) { return nvtxDomainRangePop(domain); }
uint64_t range_start(const char *name) { return nvtxRangeStartA(name); }
void range_end(uint64_t range) { nvtxRangeEnd(range); }

static nvtxEventAttributes_t with(int type, const void *message)
{
    nvtxEventAttributes_t attributes = {.version = NVTX_VERSION, .size = NVTX_EVENT_ATTRIB_STRUCT_SIZE};
    attributes.messageType = type;
    attributes.message.ascii = message;
    return attributes;
}

int range_push_ex(int type, const void *message)
{
    nvtxEventAttributes_t attributes = with(type, message);
    return nvtxRangePushEx(&attributes);
}

int domain_push(void *domain, int type, const void *message)
{
    nvtxEventAttributes_t attributes = with(type, message);
    return nvtxDomainRangePushEx(domain, &attributes);
}

/* Less of the attributes than ours knows. */
int range_push_short(const char *name)
{
    nvtxEventAttributes_t attributes = with(NVTX_MESSAGE_TYPE_ASCII, name);
    attributes.size = offsetof(nvtxEventAttributes_t, message);
    return nvtxRangePushEx(&attributes);
}
