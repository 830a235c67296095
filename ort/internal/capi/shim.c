#include "shim.h"

#include <stdio.h>

#ifdef _WIN32
#include <malloc.h>
#include <windows.h>
#else
#include <dlfcn.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <sys/mman.h>
#endif

static const OrtApi *api;

typedef const OrtApiBase *(ORT_API_CALL *get_api_base)(void);

#ifdef _WIN32

const char *capi_load(const void *path, void **handle, const OrtApiBase **base) {
  static _Thread_local char text[64];
  HMODULE module = LoadLibraryW((const wchar_t *)path);
  if (!module) {
    snprintf(text, sizeof text, "LoadLibrary failed with error %lu", GetLastError());
    return text;
  }
  get_api_base get = (get_api_base)(void *)GetProcAddress(module, "OrtGetApiBase");
  if (!get) {
    FreeLibrary(module);
    return "it has no OrtGetApiBase: not an ONNX Runtime library";
  }
  *handle = module;
  *base = get();
  return NULL;
}

void capi_unload(void *handle) { FreeLibrary((HMODULE)handle); }

#else

const char *capi_load(const void *path, void **handle, const OrtApiBase **base) {
  void *library = dlopen((const char *)path, RTLD_LAZY | RTLD_LOCAL);
  if (!library) return dlerror();
  get_api_base get = (get_api_base)dlsym(library, "OrtGetApiBase");
  if (!get) {
    dlclose(library);
    return "it has no OrtGetApiBase: not an ONNX Runtime library";
  }
  *handle = library;
  *base = get();
  return NULL;
}

void capi_unload(void *handle) { dlclose(handle); }

#endif

const char *capi_base_version(const OrtApiBase *base) { return base->GetVersionString(); }

int capi_use(const OrtApiBase *base) {
  api = base->GetApi(ORT_API_VERSION);
  return api != NULL;
}

OrtErrorCode capi_status_code(const OrtStatus *status) { return api->GetErrorCode(status); }
const char *capi_status_message(const OrtStatus *status) { return api->GetErrorMessage(status); }
void capi_status_release(OrtStatus *status) { api->ReleaseStatus(status); }

OrtStatus *capi_env_create(OrtEnv **out) { return api->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "qwenrt", out); }

OrtStatus *capi_cpu_memory_info(OrtMemoryInfo **out) {
  return api->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, out);
}

OrtStatus *capi_use_huge_pages(OrtEnv *env, const OrtMemoryInfo *info) { return capi_weights_register(api, env, info); }

OrtStatus *capi_default_allocator(OrtAllocator **out) { return api->GetAllocatorWithDefaultOptions(out); }

OrtStatus *capi_allocator_free(OrtAllocator *allocator, void *p) { return api->AllocatorFree(allocator, p); }

OrtStatus *capi_providers(char ***names, int *count) { return api->GetAvailableProviders(names, count); }

OrtStatus *capi_providers_release(char **names, int count) { return api->ReleaseAvailableProviders(names, count); }

OrtStatus *capi_ep_devices(const OrtEnv *env, const OrtEpDevice *const **devices, size_t *count) {
  return api->GetEpDevices(env, devices, count);
}

const char *capi_ep_device_name(const OrtEpDevice *device) { return api->EpDevice_EpName(device); }

const char *capi_ep_device_option(const OrtEpDevice *device, const char *key) {
  const OrtKeyValuePairs *options = api->EpDevice_EpOptions(device);
  const char *value = options ? api->GetKeyValue(options, key) : NULL;
  return value ? value : "";
}

OrtStatus *capi_append_provider_v2(OrtSessionOptions *options, OrtEnv *env,
                                   const OrtEpDevice *const *devices, size_t device_count,
                                   char **keys, char **values, size_t option_count) {
  return api->SessionOptionsAppendExecutionProvider_V2(options, env, devices, device_count,
                                                       (const char *const *)keys, (const char *const *)values,
                                                       option_count);
}

OrtStatus *capi_session_create(const OrtEnv *env, const void *path, const OrtSessionOptions *options, OrtSession **out) {
  capi_weights_loading(1);
  OrtStatus *status = api->CreateSession(env, (const ORTCHAR_T *)path, options, out);
  capi_weights_loading(0);
  return status;
}

OrtStatus *capi_session_create_from_bytes(const OrtEnv *env, const void *model, size_t size,
                                          const OrtSessionOptions *options, OrtSession **out) {
  capi_weights_loading(1);
  OrtStatus *status = api->CreateSessionFromArray(env, model, size, options, out);
  capi_weights_loading(0);
  return status;
}

// Sessions come in and go in programs that reconfigure themselves: what the C library keeps of one goes back to the
// system. After five models of 0.4 to 2.6 GB one after the other, 100 MB are left instead of 144.
void capi_session_release(OrtSession *session) {
  api->ReleaseSession(session);
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

OrtStatus *capi_session_count(const OrtSession *session, int list, size_t *count) {
  switch (list) {
    case CAPI_INPUTS: return api->SessionGetInputCount(session, count);
    case CAPI_OUTPUTS: return api->SessionGetOutputCount(session, count);
    default: return api->SessionGetOverridableInitializerCount(session, count);
  }
}

OrtStatus *capi_session_name(const OrtSession *session, int list, size_t i, OrtAllocator *allocator, char **out) {
  switch (list) {
    case CAPI_INPUTS: return api->SessionGetInputName(session, i, allocator, out);
    case CAPI_OUTPUTS: return api->SessionGetOutputName(session, i, allocator, out);
    default: return api->SessionGetOverridableInitializerName(session, i, allocator, out);
  }
}

OrtStatus *capi_session_type(const OrtSession *session, int list, size_t i, OrtTypeInfo **out) {
  switch (list) {
    case CAPI_INPUTS: return api->SessionGetInputTypeInfo(session, i, out);
    case CAPI_OUTPUTS: return api->SessionGetOutputTypeInfo(session, i, out);
    default: return api->SessionGetOverridableInitializerTypeInfo(session, i, out);
  }
}

OrtStatus *capi_session_end_profiling(OrtSession *session, OrtAllocator *allocator, char **out) {
  return api->SessionEndProfiling(session, allocator, out);
}

OrtStatus *capi_session_assigned(const OrtSession *session, const OrtEpAssignedSubgraph *const **out, size_t *count) {
  return api->Session_GetEpGraphAssignmentInfo(session, out, count);
}

OrtStatus *capi_assigned_provider(const OrtEpAssignedSubgraph *subgraph, const char **out) {
  return api->EpAssignedSubgraph_GetEpName(subgraph, out);
}

OrtStatus *capi_assigned_nodes(const OrtEpAssignedSubgraph *subgraph, const OrtEpAssignedNode *const **out, size_t *count) {
  return api->EpAssignedSubgraph_GetNodes(subgraph, out, count);
}

OrtStatus *capi_assigned_operator(const OrtEpAssignedNode *node, const char **domain, const char **type) {
  OrtStatus *status = api->EpAssignedNode_GetDomain(node, domain);
  return status ? status : api->EpAssignedNode_GetOperatorType(node, type);
}

OrtStatus *capi_session_run(OrtSession *session, const OrtRunOptions *options,
                            char **input_names, OrtValue **inputs, size_t input_count,
                            char **output_names, size_t output_count, OrtValue **outputs) {
  return api->Run(session, options, (const char *const *)input_names, (const OrtValue *const *)inputs, input_count,
                  (const char *const *)output_names, output_count, outputs);
}

OrtStatus *capi_session_run_binding(OrtSession *session, const OrtRunOptions *options, const OrtIoBinding *binding) {
  return api->RunWithBinding(session, options, binding);
}

OrtStatus *capi_type_tensor(const OrtTypeInfo *type, const OrtTensorTypeAndShapeInfo **out) {
  return api->CastTypeInfoToTensorInfo(type, out);
}

void capi_type_release(OrtTypeInfo *type) { api->ReleaseTypeInfo(type); }

OrtStatus *capi_shape_element_type(const OrtTensorTypeAndShapeInfo *info, ONNXTensorElementDataType *out) {
  return api->GetTensorElementType(info, out);
}

OrtStatus *capi_shape_rank(const OrtTensorTypeAndShapeInfo *info, size_t *out) {
  return api->GetDimensionsCount(info, out);
}

OrtStatus *capi_shape_dims(const OrtTensorTypeAndShapeInfo *info, int64_t *dims, size_t rank) {
  return api->GetDimensions(info, dims, rank);
}

OrtStatus *capi_shape_symbols(const OrtTensorTypeAndShapeInfo *info, const char **symbols, size_t rank) {
  return api->GetSymbolicDimensions(info, symbols, rank);
}

void capi_shape_release(OrtTensorTypeAndShapeInfo *info) { api->ReleaseTensorTypeAndShapeInfo(info); }

OrtStatus *capi_run_options_create(OrtRunOptions **out) { return api->CreateRunOptions(out); }
void capi_run_options_release(OrtRunOptions *options) { api->ReleaseRunOptions(options); }
OrtStatus *capi_run_options_terminate(OrtRunOptions *options) { return api->RunOptionsSetTerminate(options); }
OrtStatus *capi_run_options_unterminate(OrtRunOptions *options) { return api->RunOptionsUnsetTerminate(options); }

OrtStatus *capi_run_options_add(OrtRunOptions *options, const char *key, const char *value) {
  return api->AddRunConfigEntry(options, key, value);
}

OrtStatus *capi_session_memory(const OrtSession *session, int list, const OrtMemoryInfo **infos, size_t count) {
  return list == CAPI_INPUTS ? api->SessionGetMemoryInfoForInputs(session, infos, count)
                             : api->SessionGetMemoryInfoForOutputs(session, infos, count);
}

OrtStatus *capi_memory_describe(const OrtMemoryInfo *info, capi_memory *out) {
  OrtMemoryInfoDeviceType type;
  api->MemoryInfoGetDeviceType(info, &type);
  out->device = (int)type;
  out->vendor = api->MemoryInfoGetVendorId(info);
  out->host = type == OrtMemoryInfoDeviceType_CPU ||
              api->MemoryInfoGetDeviceMemType(info) == OrtDeviceMemoryType_HOST_ACCESSIBLE;
  OrtStatus *status = api->MemoryInfoGetName(info, &out->name);
  return status ? status : api->MemoryInfoGetId(info, &out->id);
}

OrtStatus *capi_allocator_create(const OrtSession *session, const OrtMemoryInfo *info, OrtAllocator **out) {
  return api->CreateAllocator(session, info, out);
}

void capi_allocator_release(OrtAllocator *allocator) { api->ReleaseAllocator(allocator); }

OrtStatus *capi_value_wrap(const OrtMemoryInfo *info, void *data, size_t size,
                           const int64_t *dims, size_t rank, ONNXTensorElementDataType type, OrtValue **out) {
  return api->CreateTensorWithDataAsOrtValue(info, data, size, dims, rank, type, out);
}

OrtStatus *capi_value_allocate(OrtAllocator *allocator, const int64_t *dims, size_t rank,
                               ONNXTensorElementDataType type, OrtValue **out) {
  return api->CreateTensorAsOrtValue(allocator, dims, rank, type, out);
}

void capi_value_release(OrtValue *value) { api->ReleaseValue(value); }
OrtStatus *capi_value_is_tensor(const OrtValue *value, int *out) { return api->IsTensor(value, out); }

OrtStatus *capi_value_shape(const OrtValue *value, OrtTensorTypeAndShapeInfo **out) {
  return api->GetTensorTypeAndShape(value, out);
}

OrtStatus *capi_value_data(OrtValue *value, void **out) { return api->GetTensorMutableData(value, out); }
OrtStatus *capi_value_size(const OrtValue *value, size_t *out) { return api->GetTensorSizeInBytes(value, out); }

OrtStatus *capi_value_memory_info(const OrtValue *value, const OrtMemoryInfo **out) {
  return api->GetTensorMemoryInfo(value, out);
}

static OrtStatus *bytes_over(const OrtMemoryInfo *info, void *data, size_t size, OrtValue **out) {
  const int64_t shape[1] = {(int64_t)size};
  return api->CreateTensorWithDataAsOrtValue(info, data, size, shape, 1, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, out);
}

OrtStatus *capi_memory_copy(const OrtEnv *env, const OrtMemoryInfo *to, void *dst, const OrtMemoryInfo *from, void *src,
                            size_t size) {
  OrtValue *written = NULL, *read = NULL;
  OrtStatus *status = bytes_over(to, dst, size, &written);
  if (!status) status = bytes_over(from, src, size, &read);
  if (!status) status = api->CopyTensors(env, (const OrtValue *const *)&read, &written, NULL, 1);
  api->ReleaseValue(read);
  api->ReleaseValue(written);
  return status;
}

OrtStatus *capi_binding_create(OrtSession *session, OrtIoBinding **out) { return api->CreateIoBinding(session, out); }
void capi_binding_release(OrtIoBinding *binding) { api->ReleaseIoBinding(binding); }

OrtStatus *capi_binding_input(OrtIoBinding *binding, const char *name, const OrtValue *value) {
  return api->BindInput(binding, name, value);
}

OrtStatus *capi_binding_output(OrtIoBinding *binding, const char *name, const OrtValue *value) {
  return api->BindOutput(binding, name, value);
}

OrtStatus *capi_binding_output_to(OrtIoBinding *binding, const char *name, const OrtMemoryInfo *info) {
  return api->BindOutputToDevice(binding, name, info);
}

OrtStatus *capi_binding_output_names(const OrtIoBinding *binding, OrtAllocator *allocator,
                                     char **buffer, size_t **lengths, size_t *count) {
  return api->GetBoundOutputNames(binding, allocator, buffer, lengths, count);
}

OrtStatus *capi_binding_output_values(const OrtIoBinding *binding, OrtAllocator *allocator,
                                      OrtValue ***values, size_t *count) {
  return api->GetBoundOutputValues(binding, allocator, values, count);
}

void capi_binding_clear(OrtIoBinding *binding) {
  api->ClearBoundInputs(binding);
  api->ClearBoundOutputs(binding);
}

enum { ALIGNMENT = 64, PAGES_FROM = 1 << 20 };

#ifdef _WIN32

void *capi_alloc(size_t size) {
  if (size >= PAGES_FROM) return VirtualAlloc(NULL, size, MEM_COMMIT | MEM_RESERVE, PAGE_READWRITE);
  void *p = _aligned_malloc(size, ALIGNMENT);
  if (p) memset(p, 0, size);
  return p;
}

void capi_free(void *p, size_t size) {
  if (size >= PAGES_FROM) {
    VirtualFree(p, 0, MEM_RELEASE);
  } else {
    _aligned_free(p);
  }
}

#else

void *capi_alloc(size_t size) {
  void *p;
  if (size >= PAGES_FROM) {
    p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
    return p == MAP_FAILED ? NULL : p;
  }
  if (posix_memalign(&p, ALIGNMENT, size)) return NULL;
  return memset(p, 0, size);
}

void capi_free(void *p, size_t size) {
  if (size >= PAGES_FROM) {
    munmap(p, size);
  } else {
    free(p);
  }
}

#endif
