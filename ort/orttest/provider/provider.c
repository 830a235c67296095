// An execution provider for tests, with a device of its own that is none.
//
// Device memory is a range of addresses that nobody can read or write, with storage beside it that this file alone
// knows: who takes a device's pointer for an ordinary one crashes, and who hands an ordinary pointer to the device gets
// an error. Kernels are those of the CPU: the graph becomes one node, which runs the same model file in a session of
// its own over the storage. What crosses between host and device, and what each run was given, is counted and kept for
// the functions at the end.
//
// There are two devices, 0 and 1, which know nothing of each other's memory.
//
// Options: device_id is the device, 0 by default; model is the model's file, where the session was given none; threads is
// how many the nested session has, 1 by default; fail is create, compile or run: what is to fail.

#define _GNU_SOURCE // MAP_ANONYMOUS, MAP_NORESERVE
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "onnxruntime_c_api.h"

#define NAME "TestDevice"
#define OPTION "ep.testdevice." // what ONNX Runtime puts before the name of an option
#define EXPORT __attribute__((visibility("default")))

enum {
  DEVICES = 2,
  MAX_RANK = 16,
  VENDOR = 0x51E7,
  ALIGNMENT = 256,     // of blocks
  FRESH = 0xCD,        // what new memory holds: as a float -4.3e8, as an index out of any range
  KEPT_CALLS = 1 << 12 // of the latest runs
};

static const OrtApi *api;
static const OrtEpApi *ep_api;

#define TRY(call)                      \
  do {                                 \
    OrtStatus *failed = (call);        \
    if (failed) return failed;         \
  } while (0)

static OrtStatus *fault(OrtErrorCode code, const char *format, ...) {
  char text[512];
  va_list args;
  va_start(args, format);
  vsnprintf(text, sizeof text, format, args);
  va_end(args);
  return api->CreateStatus(code, text);
}

// ---- what tests read ----

// Counters are what has happened since the library was loaded.
typedef struct {
  int64_t faults;                             // misuse that has no other way to be told
  int64_t blocks, bytes;                      // of device memory in use
  int64_t allocations, frees;                 // so far
  int64_t copies_in, bytes_in;                // host to device, one for each tensor
  int64_t copies_out, bytes_out;              // device to host
  int64_t copies_within, bytes_within;        // device to device
  int64_t transfers;                          // calls of CopyTensors, each for any number of tensors
  int64_t runs, running;                      // of the fused node: that came to their end, that are under way
  int64_t copied_outputs;                     // outputs that the nested run could not write in place
  int64_t allocators, transfer_objects, eps;  // objects that ONNX Runtime holds
} counters;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER; // over all that follows
static counters count;

// calls are the latest runs as text, each ended by a line "end"; call_count of them have been made.
static char *calls[KEPT_CALLS];
static int64_t call_count;

// ---- device memory ----

typedef struct block {
  int device;
  char *address; // what others see; no access
  size_t size;   // as asked for
  size_t range;  // of addresses, in pages
  char *storage;
  struct block *next;
} block;

static block *blocks;

static size_t pages(size_t size) {
  const size_t page = 1 << 16; // a multiple of the page size of every system
  return (size + page) / page * page;
}

static void *allocate(int device, size_t size) {
  block *b = malloc(sizeof *b);
  if (!b) return NULL;
  *b = (block){.device = device, .size = size, .range = pages(size)};
  b->address = mmap(NULL, b->range, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  void *storage = NULL;
  if (b->address == MAP_FAILED || posix_memalign(&storage, ALIGNMENT, size ? size : 1)) {
    if (b->address != MAP_FAILED) munmap(b->address, b->range);
    free(b);
    return NULL;
  }
  b->storage = memset(storage, FRESH, size ? size : 1);
  pthread_mutex_lock(&mutex);
  b->next = blocks;
  blocks = b;
  count.blocks++;
  count.allocations++;
  count.bytes += (int64_t)size;
  pthread_mutex_unlock(&mutex);
  return b->address;
}

static void release(void *address) {
  if (!address) return;
  pthread_mutex_lock(&mutex);
  block **at = &blocks;
  while (*at && (*at)->address != address) at = &(*at)->next;
  block *b = *at;
  if (!b) {
    count.faults++; // not a block, or freed before
    pthread_mutex_unlock(&mutex);
    return;
  }
  *at = b->next;
  count.blocks--;
  count.frees++;
  count.bytes -= (int64_t)b->size;
  pthread_mutex_unlock(&mutex);
  munmap(b->address, b->range);
  free(b->storage);
  free(b);
}

// storage_of gives the storage of size bytes at an address of a device, or NULL where they are not all in one block.
static char *storage_of(int device, const void *address, size_t size) {
  char *p = (char *)address, *found = NULL;
  pthread_mutex_lock(&mutex);
  for (block *b = blocks; b && !found; b = b->next) {
    const char *end = b->address + b->size;
    if (b->device != device || p < b->address || p > end || size > (size_t)(end - p)) continue;
    found = b->storage + (p - b->address);
  }
  pthread_mutex_unlock(&mutex);
  return found;
}

// number_of tells which device a memory belongs to.
static int number_of(const OrtMemoryInfo *info) {
  return (int)ep_api->MemoryDevice_GetDeviceId(ep_api->MemoryInfo_GetMemoryDevice(info));
}

typedef struct {
  OrtAllocator base;
  const OrtMemoryInfo *info;
} allocator;

static void *ORT_API_CALL allocator_alloc(OrtAllocator *a, size_t size) {
  return allocate(number_of(((allocator *)a)->info), size);
}

static void ORT_API_CALL allocator_free(OrtAllocator *a, void *p) {
  (void)a;
  release(p);
}

static const OrtMemoryInfo *ORT_API_CALL allocator_info(const OrtAllocator *a) { return ((const allocator *)a)->info; }

// ---- values ----

// A view is a tensor as a kernel sees it.
typedef struct {
  const char *name;
  void *address; // on the device
  size_t size;
  int64_t dims[MAX_RANK];
  size_t rank;
  ONNXTensorElementDataType type;
} view;

static OrtStatus *shape_of(const OrtValue *value, view *v) {
  OrtTensorTypeAndShapeInfo *info;
  TRY(api->GetTensorTypeAndShape(value, &info));
  OrtStatus *status = api->GetDimensionsCount(info, &v->rank);
  if (!status && v->rank > MAX_RANK) status = fault(ORT_EP_FAIL, NAME ": %s has rank %zu", v->name, v->rank);
  if (!status) status = api->GetDimensions(info, v->dims, v->rank);
  if (!status) status = api->GetTensorElementType(info, &v->type);
  api->ReleaseTensorTypeAndShapeInfo(info);
  if (status) return status;
  return api->GetTensorSizeInBytes(value, &v->size);
}

static bool same(const OrtMemoryDevice *d, const OrtMemoryInfo *info) {
  return ep_api->MemoryDevice_AreEqual(d, ep_api->MemoryInfo_GetMemoryDevice(info));
}

// device_view describes a value that must lie in device memory, and gives its storage.
static OrtStatus *device_view(const OrtValue *value, const OrtMemoryInfo *device, view *v, char **storage) {
  TRY(shape_of(value, v));
  TRY(api->GetTensorData(value, (const void **)&v->address));
  if (!same(ep_api->Value_GetMemoryDevice(value), device)) return fault(ORT_EP_FAIL, NAME ": %s is not there", v->name);
  static char none[ALIGNMENT];
  *storage = v->size ? storage_of(number_of(device), v->address, v->size) : none;
  if (!*storage) {
    return fault(ORT_EP_FAIL, NAME ": %s: %zu bytes at %p are not in device memory that is in use", v->name, v->size,
                 v->address);
  }
  return NULL;
}

// ---- copies between host and device ----

typedef struct {
  OrtDataTransferImpl base;
  OrtMemoryInfo *const *devices;
} transfer;

// device_of gives the one of our devices that d is, or NULL.
static const OrtMemoryInfo *device_of(const transfer *t, const OrtMemoryDevice *d) {
  for (int i = 0; i < DEVICES; i++) {
    if (same(d, t->devices[i])) return t->devices[i];
  }
  return NULL;
}

static bool on_host(const OrtMemoryDevice *d) {
  return ep_api->MemoryDevice_GetDeviceType(d) == OrtMemoryInfoDeviceType_CPU;
}

static bool ORT_API_CALL transfer_can(const OrtDataTransferImpl *this, const OrtMemoryDevice *src,
                                      const OrtMemoryDevice *dst) {
  const transfer *t = (const transfer *)this;
  const OrtMemoryInfo *from = device_of(t, src), *to = device_of(t, dst);
  return (from && (from == to || on_host(dst))) || (to && on_host(src));
}

static OrtStatus *copy(const transfer *t, const OrtValue *src, OrtValue *dst) {
  const OrtMemoryInfo *from_device = device_of(t, ep_api->Value_GetMemoryDevice(src));
  const OrtMemoryInfo *to_device = device_of(t, ep_api->Value_GetMemoryDevice(dst));
  view from = {.name = "a copy's source"}, to = {.name = "a copy's destination"};
  char *read, *write;
  if (from_device) {
    TRY(device_view(src, from_device, &from, &read));
  } else {
    TRY(shape_of(src, &from));
    TRY(api->GetTensorData(src, (const void **)&read));
  }
  if (to_device) {
    TRY(device_view(dst, to_device, &to, &write));
  } else {
    TRY(shape_of(dst, &to));
    TRY(api->GetTensorMutableData(dst, (void **)&write));
  }
  if (from.size != to.size) return fault(ORT_EP_FAIL, NAME ": copy of %zu bytes to %zu", from.size, to.size);
  memmove(write, read, from.size);
  int64_t size = (int64_t)from.size;
  pthread_mutex_lock(&mutex);
  if (from_device && to_device) {
    count.copies_within++, count.bytes_within += size;
  } else if (to_device) {
    count.copies_in++, count.bytes_in += size;
  } else {
    count.copies_out++, count.bytes_out += size;
  }
  pthread_mutex_unlock(&mutex);
  return NULL;
}

static OrtStatus *ORT_API_CALL transfer_copy(OrtDataTransferImpl *this, const OrtValue **src, OrtValue **dst,
                                             OrtSyncStream **streams, size_t n) {
  (void)streams; // there are none
  pthread_mutex_lock(&mutex);
  count.transfers++;
  pthread_mutex_unlock(&mutex);
  for (size_t i = 0; i < n; i++) TRY(copy((const transfer *)this, src[i], dst[i]));
  return NULL;
}

static void ORT_API_CALL transfer_release(OrtDataTransferImpl *this) {
  pthread_mutex_lock(&mutex);
  count.transfer_objects--;
  pthread_mutex_unlock(&mutex);
  free(this);
}

// ---- the provider of one session ----

typedef struct {
  OrtEpFactory base;
  OrtEnv *env;
  OrtMemoryInfo *devices[DEVICES];
  OrtMemoryInfo *host;
} factory;

typedef struct {
  OrtEp base;
  factory *factory;
  const OrtMemoryInfo *device;
  char *model;              // may be NULL
  OrtSessionOptions *nested; // for the session of the model
  char fail[16];
} ep;

// A slot is an input or an output of the fused node.
typedef struct {
  char *name;
  // For an output, the input whose memory it was in the last run, as a KV cache is; -1 if none. The next run then
  // writes in place.
  int alias;
} slot;

// A node is the fused graph.
typedef struct {
  OrtNodeComputeInfo base;
  ep *ep;
  OrtSession *session; // on the CPU; NULL where the model's file is not known
  slot *inputs, *outputs;
  size_t input_count, output_count;
} node;

// The options of the run that this thread is in. Other threads, which a session with InterOpThreads has for nodes, know
// none: then a run cannot be stopped.
static _Thread_local const OrtRunOptions *running;

static OrtStatus *ORT_API_CALL ep_run_start(OrtEp *this, const OrtRunOptions *options) {
  (void)this;
  running = options;
  return NULL;
}

static OrtStatus *ORT_API_CALL ep_run_end(OrtEp *this, const OrtRunOptions *options, bool sync) {
  (void)this, (void)options, (void)sync;
  running = NULL;
  return NULL;
}

static const char *ORT_API_CALL ep_name(const OrtEp *this) {
  (void)this;
  return NAME;
}

// All nodes of the graph become one. Bodies of loops and branches go with the node that they belong to.
static OrtStatus *ORT_API_CALL ep_capability(OrtEp *this, const OrtGraph *graph, OrtEpGraphSupportInfo *support) {
  (void)this;
  const OrtNode *parent;
  size_t n;
  TRY(api->Graph_GetParentNode(graph, &parent));
  TRY(api->Graph_GetNumNodes(graph, &n));
  if (parent || n == 0) return NULL;
  const OrtNode **nodes = malloc(n * sizeof *nodes);
  OrtNodeFusionOptions options = {.ort_version_supported = ORT_API_VERSION, .drop_constant_initializers = true};
  OrtStatus *status = api->Graph_GetNodes(graph, nodes, n);
  if (!status) status = ep_api->EpGraphSupportInfo_AddNodesToFuse(support, nodes, n, &options);
  free(nodes);
  return status;
}

static void free_slots(slot *slots, size_t n) {
  for (size_t i = 0; slots && i < n; i++) free(slots[i].name);
  free(slots);
}

static void node_free(node *n) {
  if (n->session) api->ReleaseSession(n->session);
  free_slots(n->inputs, n->input_count);
  free_slots(n->outputs, n->output_count);
  free(n);
}

// slots_of names the inputs or the outputs of a node in order, which is that of KernelContext_GetInput and GetOutput.
static OrtStatus *slots_of(const OrtNode *fused, bool inputs, slot **out, size_t *n) {
  TRY(inputs ? api->Node_GetNumInputs(fused, n) : api->Node_GetNumOutputs(fused, n));
  const OrtValueInfo **infos = calloc(*n + 1, sizeof *infos);
  *out = calloc(*n + 1, sizeof **out);
  OrtStatus *status = inputs ? api->Node_GetInputs(fused, infos, *n) : api->Node_GetOutputs(fused, infos, *n);
  for (size_t i = 0; !status && i < *n; i++) {
    const char *name;
    status = api->GetValueInfoName(infos[i], &name);
    (*out)[i] = (slot){.name = status ? NULL : strdup(name), .alias = -1};
  }
  free(infos);
  return status;
}

typedef struct {
  OrtIoBinding *binding;
  view *views; // of the inputs, and behind them of the outputs
  char **storage;
  OrtValue **made; // to be released
} run;

static OrtStatus *wrap_storage(node *n, view *v, char *storage, OrtValue **out) {
  return api->CreateTensorWithDataAsOrtValue(n->ep->factory->host, storage, v->size, v->dims, v->rank, v->type, out);
}

// output asks ONNX Runtime for the i-th output in the shape that v has: memory that the caller has bound, or new.
static OrtStatus *output(node *n, OrtKernelContext *context, size_t i, view *v, char **storage) {
  OrtValue *value;
  TRY(api->KernelContext_GetOutput(context, i, v->dims, v->rank, &value));
  return device_view(value, n->ep->device, v, storage);
}

static OrtStatus *bind_all(node *n, OrtKernelContext *context, run *r) {
  for (size_t i = 0; i < n->input_count; i++) {
    const OrtValue *value;
    r->views[i].name = n->inputs[i].name;
    TRY(api->KernelContext_GetInput(context, i, &value));
    if (!value) return fault(ORT_EP_FAIL, NAME ": no input %s", n->inputs[i].name);
    TRY(device_view(value, n->ep->device, &r->views[i], &r->storage[i]));
    TRY(wrap_storage(n, &r->views[i], r->storage[i], &r->made[i]));
    TRY(api->BindInput(r->binding, n->inputs[i].name, r->made[i]));
  }
  for (size_t o = 0; o < n->output_count; o++) {
    const size_t i = n->input_count + o;
    slot *s = &n->outputs[o];
    pthread_mutex_lock(&mutex);
    const int alias = s->alias;
    pthread_mutex_unlock(&mutex);
    if (alias < 0) {
      r->views[i].name = s->name;
      TRY(api->BindOutputToDevice(r->binding, s->name, n->ep->factory->host));
      continue;
    }
    r->views[i] = r->views[alias];
    r->views[i].name = s->name;
    OrtStatus *other = output(n, context, o, &r->views[i], &r->storage[i]);
    if (other) { // another shape is bound this time
      api->ReleaseStatus(other);
      r->storage[i] = NULL;
      TRY(api->BindOutputToDevice(r->binding, s->name, n->ep->factory->host));
      continue;
    }
    TRY(wrap_storage(n, &r->views[i], r->storage[i], &r->made[i]));
    TRY(api->BindOutput(r->binding, s->name, r->made[i]));
  }
  return NULL;
}

// find_alias gives the input that has the address and the shape of an output.
static int find_alias(const node *n, const view *views, const view *v) {
  for (size_t i = 0; v->size && i < n->input_count; i++) {
    const view *in = &views[i];
    if (in->address != v->address || in->rank != v->rank) continue;
    if (!memcmp(in->dims, v->dims, v->rank * sizeof *v->dims)) return (int)i;
  }
  return -1;
}

// take_outputs copies what the nested run has allocated to where it belongs.
static OrtStatus *take_outputs(node *n, OrtKernelContext *context, run *r, OrtValue **values) {
  for (size_t o = 0; o < n->output_count; o++) {
    view *v = &r->views[n->input_count + o];
    if (r->storage[n->input_count + o]) continue; // in place
    char *storage;
    const void *data;
    TRY(shape_of(values[o], v));
    TRY(api->GetTensorData(values[o], &data));
    TRY(output(n, context, o, v, &storage));
    memcpy(storage, data, v->size);
    const int alias = find_alias(n, r->views, v);
    pthread_mutex_lock(&mutex);
    n->outputs[o].alias = alias;
    count.copied_outputs++;
    pthread_mutex_unlock(&mutex);
  }
  return NULL;
}

// A text that grows.
typedef struct {
  char *data;
  size_t size, room;
} text;

static void add(text *t, const char *format, ...) {
  va_list args;
  for (;;) {
    va_start(args, format);
    int n = vsnprintf(t->data ? t->data + t->size : NULL, t->room - t->size, format, args);
    va_end(args);
    if (t->data && t->size + (size_t)n < t->room) {
      t->size += (size_t)n;
      return;
    }
    t->room = 2 * t->room + (size_t)n + 256;
    t->data = realloc(t->data, t->room);
  }
}

// keep writes down what a run was given.
static void keep(const node *n, const run *r) {
  text t = {0};
  const char *graph = running ? api->GetRunConfigEntry(running, "gpu_graph_id") : NULL;
  if (graph) add(&t, "graph %s\n", graph);
  for (size_t i = 0; i < n->input_count + n->output_count; i++) {
    const view *v = &r->views[i];
    add(&t, "%s %s %zu", i < n->input_count ? "in" : "out", v->name, (size_t)v->address);
    for (size_t d = 0; d < v->rank; d++) add(&t, " %lld", (long long)v->dims[d]);
    add(&t, "\n");
  }
  add(&t, "end\n");
  pthread_mutex_lock(&mutex);
  char **at = &calls[call_count++ % KEPT_CALLS];
  free(*at);
  *at = t.data;
  count.runs++;
  pthread_mutex_unlock(&mutex);
}

static OrtStatus *run_once(node *n, OrtKernelContext *context, run *r) {
  TRY(bind_all(n, context, r));
  TRY(api->RunWithBinding(n->session, running, r->binding));
  OrtAllocator *strings;
  OrtValue **values = NULL;
  size_t value_count = 0;
  TRY(api->GetAllocatorWithDefaultOptions(&strings));
  TRY(api->GetBoundOutputValues(r->binding, strings, &values, &value_count));
  OrtStatus *status = take_outputs(n, context, r, values);
  for (size_t i = 0; i < value_count; i++) api->ReleaseValue(values[i]);
  if (values) strings->Free(strings, values);
  if (!status) keep(n, r);
  return status;
}

static void count_run(int change) {
  pthread_mutex_lock(&mutex);
  count.running += change;
  pthread_mutex_unlock(&mutex);
}

static OrtStatus *ORT_API_CALL node_compute(OrtNodeComputeInfo *this, void *state, OrtKernelContext *context) {
  (void)state;
  node *n = (node *)this;
  if (!strcmp(n->ep->fail, "run")) return fault(ORT_EP_FAIL, NAME ": the run fails, as asked for");
  if (!n->session) return fault(ORT_EP_FAIL, NAME ": the model came without a file, which the option model names");
  const size_t all = n->input_count + n->output_count + 1;
  run r = {NULL, calloc(all, sizeof(view)), calloc(all, sizeof(char *)), calloc(all, sizeof(OrtValue *))};
  OrtStatus *status = api->CreateIoBinding(n->session, &r.binding);
  count_run(1);
  if (!status) status = run_once(n, context, &r);
  count_run(-1);
  if (r.binding) api->ReleaseIoBinding(r.binding);
  for (size_t i = 0; i < all; i++) {
    if (r.made[i]) api->ReleaseValue(r.made[i]);
  }
  free(r.views), free(r.storage), free(r.made);
  return status;
}

static OrtStatus *ORT_API_CALL node_create_state(OrtNodeComputeInfo *this, OrtNodeComputeContext *context,
                                                 void **state) {
  (void)context;
  *state = this;
  return NULL;
}

static void ORT_API_CALL node_release_state(OrtNodeComputeInfo *this, void *state) { (void)this, (void)state; }

static OrtStatus *compile(ep *e, const OrtGraph *graph, const OrtNode *fused, node *n) {
  n->base = (OrtNodeComputeInfo){ORT_API_VERSION, node_create_state, node_compute, node_release_state};
  n->ep = e;
  TRY(slots_of(fused, true, &n->inputs, &n->input_count));
  TRY(slots_of(fused, false, &n->outputs, &n->output_count));
  const char *path;
  TRY(api->Graph_GetModelPath(graph, &path));
  if (e->model) path = e->model;
  return path && *path ? api->CreateSession(e->factory->env, path, e->nested, &n->session) : NULL;
}

static OrtStatus *ORT_API_CALL ep_compile(OrtEp *this, const OrtGraph **graphs, const OrtNode **fused, size_t n,
                                          OrtNodeComputeInfo **infos, OrtNode **contexts) {
  (void)contexts;
  ep *e = (ep *)this;
  if (!strcmp(e->fail, "compile")) return fault(ORT_EP_FAIL, NAME ": compiling fails, as asked for");
  for (size_t i = 0; i < n; i++) {
    node *made = calloc(1, sizeof *made);
    OrtStatus *status = compile(e, graphs[i], fused[i], made);
    if (status) {
      node_free(made);
      return status;
    }
    infos[i] = &made->base;
  }
  return NULL;
}

static void ORT_API_CALL ep_release_nodes(OrtEp *this, OrtNodeComputeInfo **infos, size_t n) {
  (void)this;
  for (size_t i = 0; i < n; i++) node_free((node *)infos[i]);
}

// ---- what makes providers, allocators and transfers ----

static const char *ORT_API_CALL factory_name(const OrtEpFactory *this) {
  (void)this;
  return NAME;
}

static const char *ORT_API_CALL factory_vendor(const OrtEpFactory *this) {
  (void)this;
  return "qwenrt";
}

static uint32_t ORT_API_CALL factory_vendor_id(const OrtEpFactory *this) {
  (void)this;
  return VENDOR;
}

static const char *ORT_API_CALL factory_version(const OrtEpFactory *this) {
  (void)this;
  return "1.0.0";
}

// The devices are said to be the machine's CPU, which every machine has; their memory is said to be a GPU's.
static OrtStatus *ORT_API_CALL factory_devices(OrtEpFactory *this, const OrtHardwareDevice *const *devices, size_t n,
                                               OrtEpDevice **out, size_t max, size_t *out_count) {
  *out_count = 0;
  size_t cpu = 0;
  while (cpu < n && api->HardwareDevice_Type(devices[cpu]) != OrtHardwareDeviceType_CPU) cpu++;
  for (size_t i = 0; cpu < n && i < DEVICES && i < max; i++) {
    OrtKeyValuePairs *options;
    api->CreateKeyValuePairs(&options);
    api->AddKeyValuePair(options, "device_id", i ? "1" : "0");
    OrtStatus *status = ep_api->CreateEpDevice(this, devices[cpu], NULL, options, &out[i]);
    api->ReleaseKeyValuePairs(options);
    if (status) return status;
    *out_count = i + 1;
    TRY(ep_api->EpDevice_AddAllocatorInfo(out[i], ((factory *)this)->devices[i]));
  }
  return NULL;
}

// option reads an option of the provider as text; *out stays as it is where there is none.
static OrtStatus *option(const OrtSessionOptions *options, const char *key, char **out) {
  int has;
  TRY(api->HasSessionConfigEntry(options, key, &has));
  if (!has) return NULL;
  size_t size = 0;
  TRY(api->GetSessionConfigEntry(options, key, NULL, &size));
  *out = malloc(size);
  return api->GetSessionConfigEntry(options, key, *out, &size);
}

// nested_options makes options for a session of the same model, of the entries that this session has, so that both have
// the same kernels.
static OrtStatus *nested_options(const OrtSessionOptions *options, const char *threads, OrtSessionOptions **out) {
  const int count = threads ? atoi(threads) : 1;
  if (count < 1) return fault(ORT_INVALID_ARGUMENT, NAME ": %s threads", threads);
  TRY(api->CreateSessionOptions(out));
  TRY(api->SetIntraOpNumThreads(*out, count));
  OrtKeyValuePairs *entries;
  TRY(api->GetSessionOptionsConfigEntries(options, &entries));
  const char *const *keys, *const *values;
  size_t n;
  api->GetKeyValuePairs(entries, &keys, &values, &n);
  OrtStatus *status = NULL;
  for (size_t i = 0; !status && i < n; i++) {
    if (!strncmp(keys[i], "ep.", 3) || !strcmp(keys[i], "session.disable_cpu_ep_fallback")) continue;
    status = api->AddSessionConfigEntry(*out, keys[i], values[i]);
  }
  api->ReleaseKeyValuePairs(entries);
  return status;
}

static OrtStatus *configure(ep *e, const OrtSessionOptions *options) {
  char *device = NULL, *threads = NULL, *fail = NULL;
  OrtStatus *status = option(options, OPTION "device_id", &device);
  if (!status) status = option(options, OPTION "model", &e->model);
  if (!status) status = option(options, OPTION "threads", &threads);
  if (!status) status = option(options, OPTION "fail", &fail);
  e->device = e->factory->devices[device && !strcmp(device, "1")];
  if (!status) status = nested_options(options, threads, &e->nested);
  snprintf(e->fail, sizeof e->fail, "%s", fail ? fail : "");
  free(device), free(threads), free(fail);
  if (!status && !strcmp(e->fail, "create")) status = fault(ORT_EP_FAIL, NAME ": no such device, as asked for");
  return status;
}

static void ORT_API_CALL factory_release_ep(OrtEpFactory *this, OrtEp *e) {
  (void)this;
  if (((ep *)e)->nested) api->ReleaseSessionOptions(((ep *)e)->nested);
  free(((ep *)e)->model);
  free(e);
  pthread_mutex_lock(&mutex);
  count.eps--;
  pthread_mutex_unlock(&mutex);
}

static OrtStatus *ORT_API_CALL factory_create_ep(OrtEpFactory *this, const OrtHardwareDevice *const *devices,
                                                 const OrtKeyValuePairs *const *metadata, size_t n,
                                                 const OrtSessionOptions *options, const OrtLogger *logger, OrtEp **out) {
  (void)devices, (void)metadata, (void)n, (void)logger;
  ep *e = calloc(1, sizeof *e);
  e->factory = (factory *)this;
  e->base.ort_version_supported = ORT_API_VERSION;
  e->base.GetName = ep_name;
  e->base.GetCapability = ep_capability;
  e->base.Compile = ep_compile;
  e->base.ReleaseNodeComputeInfos = ep_release_nodes;
  e->base.OnRunStart = ep_run_start;
  e->base.OnRunEnd = ep_run_end;
  pthread_mutex_lock(&mutex);
  count.eps++;
  pthread_mutex_unlock(&mutex);
  OrtStatus *status = configure(e, options);
  if (status) {
    factory_release_ep(this, &e->base);
    return status;
  }
  *out = &e->base;
  return NULL;
}

static OrtStatus *ORT_API_CALL factory_create_allocator(OrtEpFactory *this, const OrtMemoryInfo *info,
                                                        const OrtKeyValuePairs *options, OrtAllocator **out) {
  (void)this, (void)options;
  allocator *a = calloc(1, sizeof *a);
  a->base.version = ORT_API_VERSION;
  a->base.Alloc = a->base.Reserve = allocator_alloc;
  a->base.Free = allocator_free;
  a->base.Info = allocator_info;
  a->info = info;
  pthread_mutex_lock(&mutex);
  count.allocators++;
  pthread_mutex_unlock(&mutex);
  *out = &a->base;
  return NULL;
}

static void ORT_API_CALL factory_release_allocator(OrtEpFactory *this, OrtAllocator *a) {
  (void)this;
  pthread_mutex_lock(&mutex);
  count.allocators--;
  pthread_mutex_unlock(&mutex);
  free(a);
}

static OrtStatus *ORT_API_CALL factory_create_transfer(OrtEpFactory *this, OrtDataTransferImpl **out) {
  transfer *t = calloc(1, sizeof *t);
  t->base = (OrtDataTransferImpl){ORT_API_VERSION, transfer_release, transfer_can, transfer_copy};
  t->devices = ((factory *)this)->devices;
  pthread_mutex_lock(&mutex);
  count.transfer_objects++;
  pthread_mutex_unlock(&mutex);
  *out = &t->base;
  return NULL;
}

static bool ORT_API_CALL factory_streams(const OrtEpFactory *this) {
  (void)this;
  return false;
}

EXPORT OrtStatus *CreateEpFactories(const char *registered_name, const OrtApiBase *base, const OrtLogger *logger,
                                    OrtEpFactory **factories, size_t max, size_t *n) {
  (void)registered_name, (void)logger;
  api = base->GetApi(ORT_API_VERSION);
  ep_api = api->GetEpApi();
  if (max < 1) return fault(ORT_INVALID_ARGUMENT, NAME ": no room for a factory");
  factory *f = calloc(1, sizeof *f);
  f->base.ort_version_supported = ORT_API_VERSION;
  f->base.GetName = factory_name;
  f->base.GetVendor = factory_vendor;
  f->base.GetVendorId = factory_vendor_id;
  f->base.GetVersion = factory_version;
  f->base.GetSupportedDevices = factory_devices;
  f->base.CreateEp = factory_create_ep;
  f->base.ReleaseEp = factory_release_ep;
  f->base.CreateAllocator = factory_create_allocator;
  f->base.ReleaseAllocator = factory_release_allocator;
  f->base.CreateDataTransfer = factory_create_transfer;
  f->base.IsStreamAware = factory_streams;
  OrtStatus *status = api->CreateEnv(ORT_LOGGING_LEVEL_FATAL, NAME, &f->env); // the process's own
  for (int i = 0; !status && i < DEVICES; i++) {
    status = api->CreateMemoryInfo_V2(NAME, OrtMemoryInfoDeviceType_GPU, VENDOR, i, OrtDeviceMemoryType_DEFAULT, 0,
                                      OrtDeviceAllocator, &f->devices[i]);
  }
  if (!status) status = api->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &f->host);
  if (status) {
    free(f);
    return status;
  }
  factories[0] = &f->base;
  *n = 1;
  return NULL;
}

EXPORT OrtStatus *ReleaseEpFactory(OrtEpFactory *this) {
  factory *f = (factory *)this;
  for (int i = 0; i < DEVICES; i++) api->ReleaseMemoryInfo(f->devices[i]);
  api->ReleaseMemoryInfo(f->host);
  api->ReleaseEnv(f->env);
  free(f);
  return NULL;
}

// ---- for tests, through dlsym ----

EXPORT void testdevice_counters(counters *out) {
  pthread_mutex_lock(&mutex);
  *out = count;
  pthread_mutex_unlock(&mutex);
}

// testdevice_calls returns the runs from the n-th on, as far as they are kept, as text that the caller frees, and how
// many there have been.
EXPORT char *testdevice_calls(int64_t from, int64_t *total) {
  text t = {0};
  pthread_mutex_lock(&mutex);
  *total = call_count;
  if (from < call_count - KEPT_CALLS) from = call_count - KEPT_CALLS;
  for (; from < call_count; from++) add(&t, "%s", calls[from % KEPT_CALLS]);
  pthread_mutex_unlock(&mutex);
  add(&t, "%s", "");
  return t.data;
}
