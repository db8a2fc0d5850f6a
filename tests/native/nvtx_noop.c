/* What NVTX loads, taking what ours takes and doing nothing: what an injected library costs at least. */
#include <stddef.h>

#include "nvtx3/nvToolsExt.h"

static int push(const char *name) { return name == NULL; }
static int push_wide(const wchar_t *name) { return name == NULL; }
static int push_with(const nvtxEventAttributes_t *attributes) { return attributes == NULL; }
static int domain_push_with(nvtxDomainHandle_t domain, const nvtxEventAttributes_t *attributes)
{
    return domain == NULL && attributes == NULL;
}
static int pop(void) { return 0; }

int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t table);
int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t table)
{
    const NvtxExportTableCallbacks *callbacks = table(NVTX_ETID_CALLBACKS);
    NvtxFunctionTable core, core2;
    unsigned count;
    if (!callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE, &core, &count) ||
        !callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE2, &core2, &count))
        return 0;
    *core[NVTX_CBID_CORE_RangePushEx] = (NvtxFunctionPointer)push_with;
    *core[NVTX_CBID_CORE_RangePushA] = (NvtxFunctionPointer)push;
    *core[NVTX_CBID_CORE_RangePushW] = (NvtxFunctionPointer)push_wide;
    *core[NVTX_CBID_CORE_RangePop] = (NvtxFunctionPointer)pop;
    *core2[NVTX_CBID_CORE2_DomainRangePushEx] = (NvtxFunctionPointer)domain_push_with;
    return 1;
}
