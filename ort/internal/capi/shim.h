// A C function for each entry of OrtApi that package capi needs: Go cannot call
// a function pointer. Names follow the C API; see onnxruntime_c_api.h for the
// contracts. Every function that returns an OrtStatus gives NULL on success.
#ifndef QWENRT_ORT_SHIM_H
#define QWENRT_ORT_SHIM_H

#include "onnxruntime_c_api.h"

// The three lists of values that a session describes.
enum { CAPI_INPUTS, CAPI_OUTPUTS, CAPI_OVERRIDABLE };

// capi_load opens the shared library at path (UTF-16 on Windows) and finds its
// OrtApiBase. It returns NULL, or what the loader said.
const char *capi_load(const void *path, void **handle, const OrtApiBase **base);
void capi_unload(void *handle);
const char *capi_base_version(const OrtApiBase *base);
// capi_use makes base's OrtApi of version ORT_API_VERSION the one that all
// functions below call. It returns 0 where the library has no such version.
int capi_use(const OrtApiBase *base);

OrtErrorCode capi_status_code(const OrtStatus *status);
const char *capi_status_message(const OrtStatus *status);
void capi_status_release(OrtStatus *status);

OrtStatus *capi_env_create(OrtEnv **out);
OrtStatus *capi_cpu_memory_info(OrtMemoryInfo **out);
// capi_use_huge_pages offers sessions with session.use_env_allocators an allocator that has packed weights on huge pages.
// The memory info is kept. It fails on systems without them. capi_weights_reserved is how many bytes those take,
// capi_weights_spare how many are kept for activations that there are none of at present.
OrtStatus *capi_use_huge_pages(OrtEnv *env, const OrtMemoryInfo *info);
OrtStatus *capi_weights_register(const OrtApi *api, OrtEnv *env, const OrtMemoryInfo *info);
size_t capi_weights_reserved(void);
size_t capi_weights_spare(void);
// capi_weights_loading is called before and after a session is created.
void capi_weights_loading(int on);

OrtStatus *capi_default_allocator(OrtAllocator **out);
OrtStatus *capi_allocator_free(OrtAllocator *allocator, void *p);
OrtStatus *capi_providers(char ***names, int *count);
OrtStatus *capi_providers_release(char **names, int count);

OrtStatus *capi_ep_devices(const OrtEnv *env, const OrtEpDevice *const **devices, size_t *count);
const char *capi_ep_device_name(const OrtEpDevice *device);
const char *capi_ep_device_option(const OrtEpDevice *device, const char *key);
OrtStatus *capi_append_provider_v2(OrtSessionOptions *options, OrtEnv *env,
                                   const OrtEpDevice *const *devices, size_t device_count,
                                   char **keys, char **values, size_t option_count);

OrtStatus *capi_session_create(const OrtEnv *env, const void *path, const OrtSessionOptions *options, OrtSession **out);
OrtStatus *capi_session_create_from_bytes(const OrtEnv *env, const void *model, size_t size,
                                          const OrtSessionOptions *options, OrtSession **out);
void capi_session_release(OrtSession *session);
OrtStatus *capi_session_count(const OrtSession *session, int list, size_t *count);
OrtStatus *capi_session_name(const OrtSession *session, int list, size_t i, OrtAllocator *allocator, char **out);
OrtStatus *capi_session_type(const OrtSession *session, int list, size_t i, OrtTypeInfo **out);
OrtStatus *capi_session_end_profiling(OrtSession *session, OrtAllocator *allocator, char **out);
// What the session's execution providers were given: subgraphs, each of one provider, and their nodes. All belongs to the session.
OrtStatus *capi_session_assigned(const OrtSession *session, const OrtEpAssignedSubgraph *const **out, size_t *count);
OrtStatus *capi_assigned_provider(const OrtEpAssignedSubgraph *subgraph, const char **out);
OrtStatus *capi_assigned_nodes(const OrtEpAssignedSubgraph *subgraph, const OrtEpAssignedNode *const **out, size_t *count);
OrtStatus *capi_assigned_operator(const OrtEpAssignedNode *node, const char **domain, const char **type);
OrtStatus *capi_session_run(OrtSession *session, const OrtRunOptions *options,
                            char **input_names, OrtValue **inputs, size_t input_count,
                            char **output_names, size_t output_count, OrtValue **outputs);
OrtStatus *capi_session_run_binding(OrtSession *session, const OrtRunOptions *options, const OrtIoBinding *binding);

// capi_type_tensor returns NULL in *out where the type is no tensor.
OrtStatus *capi_type_tensor(const OrtTypeInfo *type, const OrtTensorTypeAndShapeInfo **out);
void capi_type_release(OrtTypeInfo *type);
OrtStatus *capi_shape_element_type(const OrtTensorTypeAndShapeInfo *info, ONNXTensorElementDataType *out);
OrtStatus *capi_shape_rank(const OrtTensorTypeAndShapeInfo *info, size_t *out);
OrtStatus *capi_shape_dims(const OrtTensorTypeAndShapeInfo *info, int64_t *dims, size_t rank);
OrtStatus *capi_shape_symbols(const OrtTensorTypeAndShapeInfo *info, const char **symbols, size_t rank);
void capi_shape_release(OrtTensorTypeAndShapeInfo *info);

OrtStatus *capi_run_options_create(OrtRunOptions **out);
void capi_run_options_release(OrtRunOptions *options);
OrtStatus *capi_run_options_terminate(OrtRunOptions *options);
OrtStatus *capi_run_options_unterminate(OrtRunOptions *options);
OrtStatus *capi_run_options_add(OrtRunOptions *options, const char *key, const char *value);

// What an OrtMemoryInfo says.
typedef struct {
  const char *name; // belongs to the info
  int device;       // an OrtMemoryInfoDeviceType
  uint32_t vendor;
  int id;
  int host; // it may be read from the CPU
} capi_memory;

OrtStatus *capi_memory_describe(const OrtMemoryInfo *info, capi_memory *out);
// Where the session takes its inputs from or leaves its outputs, in the order of list. The infos belong to the session.
OrtStatus *capi_session_memory(const OrtSession *session, int list, const OrtMemoryInfo **infos, size_t count);
OrtStatus *capi_allocator_create(const OrtSession *session, const OrtMemoryInfo *info, OrtAllocator **out);
void capi_allocator_release(OrtAllocator *allocator);

OrtStatus *capi_value_wrap(const OrtMemoryInfo *info, void *data, size_t size,
                           const int64_t *dims, size_t rank, ONNXTensorElementDataType type, OrtValue **out);
OrtStatus *capi_value_allocate(OrtAllocator *allocator, const int64_t *dims, size_t rank,
                               ONNXTensorElementDataType type, OrtValue **out);
void capi_value_release(OrtValue *value);
OrtStatus *capi_value_is_tensor(const OrtValue *value, int *out);
OrtStatus *capi_value_shape(const OrtValue *value, OrtTensorTypeAndShapeInfo **out);
OrtStatus *capi_value_data(OrtValue *value, void **out);
OrtStatus *capi_value_size(const OrtValue *value, size_t *out);
OrtStatus *capi_value_memory_info(const OrtValue *value, const OrtMemoryInfo **out);
// Copies between memories, of devices or the CPU.
OrtStatus *capi_memory_copy(const OrtEnv *env, const OrtMemoryInfo *to, void *dst, const OrtMemoryInfo *from, void *src,
                            size_t size);

OrtStatus *capi_binding_create(OrtSession *session, OrtIoBinding **out);
void capi_binding_release(OrtIoBinding *binding);
OrtStatus *capi_binding_input(OrtIoBinding *binding, const char *name, const OrtValue *value);
OrtStatus *capi_binding_output(OrtIoBinding *binding, const char *name, const OrtValue *value);
OrtStatus *capi_binding_output_to(OrtIoBinding *binding, const char *name, const OrtMemoryInfo *info);
OrtStatus *capi_binding_output_names(const OrtIoBinding *binding, OrtAllocator *allocator,
                                     char **buffer, size_t **lengths, size_t *count);
OrtStatus *capi_binding_output_values(const OrtIoBinding *binding, OrtAllocator *allocator,
                                      OrtValue ***values, size_t *count);
void capi_binding_clear(OrtIoBinding *binding);

// capi_alloc returns size bytes of zeroed memory aligned to 64 bytes or more, or
// NULL. Memory of a megabyte or more comes from the operating system in pages
// that cost nothing until they are touched.
void *capi_alloc(size_t size);
void capi_free(void *p, size_t size);

#endif
