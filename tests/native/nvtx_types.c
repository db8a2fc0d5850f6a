/* What nvtx.c says of NVTX without its headers, against the headers. */
#define _GNU_SOURCE 1
#include "nvtx3/nvToolsExt.h"

#include "../../watchdogd/native/nvtx.c"

#define SAME(ours, theirs) _Static_assert((int)(ours) == (int)(theirs), #ours)
#define AT(ours, theirs) \
    SAME(offsetof(struct attributes, ours), offsetof(nvtxEventAttributes_t, theirs)); \
    SAME(sizeof((struct attributes *)0)->ours, sizeof((nvtxEventAttributes_t *)0)->theirs)

SAME(TABLE_OF_CALLBACKS, NVTX_ETID_CALLBACKS);
SAME(CORE, NVTX_CB_MODULE_CORE);
SAME(CORE2, NVTX_CB_MODULE_CORE2);
SAME(PUSH_EX, NVTX_CBID_CORE_RangePushEx);
SAME(PUSH_A, NVTX_CBID_CORE_RangePushA);
SAME(PUSH_W, NVTX_CBID_CORE_RangePushW);
SAME(POP, NVTX_CBID_CORE_RangePop);
SAME(DOMAIN_PUSH_EX, NVTX_CBID_CORE2_DomainRangePushEx);
SAME(DOMAIN_POP, NVTX_CBID_CORE2_DomainRangePop);
SAME(REGISTER_A, NVTX_CBID_CORE2_DomainRegisterStringA);
SAME(REGISTER_W, NVTX_CBID_CORE2_DomainRegisterStringW);
SAME(ASCII, NVTX_MESSAGE_TYPE_ASCII);
SAME(UNICODE, NVTX_MESSAGE_TYPE_UNICODE);
SAME(HANDLE, NVTX_MESSAGE_TYPE_REGISTERED);
SAME(WATCHDOGD_RANGES_UNKEPT, NVTX_NO_PUSH_POP_TRACKING);
SAME(sizeof(struct attributes), NVTX_EVENT_ATTRIB_STRUCT_SIZE);
AT(version, version);
AT(size, size);
AT(message_type, messageType);
AT(message, message);
SAME(sizeof(struct callbacks), sizeof(NvtxExportTableCallbacks));
SAME(offsetof(struct callbacks, size), offsetof(NvtxExportTableCallbacks, struct_size));
SAME(offsetof(struct callbacks, table), offsetof(NvtxExportTableCallbacks, GetModuleFunctionTable));
