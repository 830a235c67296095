// misuse ONNXRUNTIME PROVIDER does what nobody may do with the device of provider.c, and prints what comes of it.
// At the end it reads device memory, of which it must die.

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#include "onnxruntime_c_api.h"

static const OrtApi *api;

static void must(OrtStatus *status) {
  if (!status) return;
  printf("%s\n", api->GetErrorMessage(status));
  exit(1);
}

// copy says what came of a copy of 32 bytes to an address.
static void copy(const char *what, OrtEnv *env, const OrtValue *src, const OrtMemoryInfo *info, void *address) {
  const int64_t n = 32;
  OrtValue *dst;
  must(api->CreateTensorWithDataAsOrtValue(info, address, 32, &n, 1, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, &dst));
  OrtStatus *status = api->CopyTensors(env, &src, &dst, NULL, 1);
  printf("%s: %s\n", what, status ? api->GetErrorMessage(status) : "copied");
  api->ReleaseValue(dst);
}

int main(int argc, char **argv) {
  void *library = argc == 3 ? dlopen(argv[1], RTLD_NOW) : NULL;
  if (!library) return 2;
  const OrtApiBase *(*base)(void) = (const OrtApiBase *(*)(void))dlsym(library, "OrtGetApiBase");
  api = base()->GetApi(ORT_API_VERSION);
  OrtEnv *env;
  OrtMemoryInfo *host, *device;
  OrtAllocator *allocator;
  must(api->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "misuse", &env));
  must(api->RegisterExecutionProviderLibrary(env, "TestDevice", argv[2]));
  must(api->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &host));
  must(api->CreateMemoryInfo_V2("TestDevice", OrtMemoryInfoDeviceType_GPU, 0x51E7, 0, OrtDeviceMemoryType_DEFAULT, 0,
                                OrtDeviceAllocator, &device));
  must(api->GetSharedAllocator(env, device, &allocator));

  static char bytes[32];
  const int64_t n = 32;
  OrtValue *src;
  must(api->CreateTensorWithDataAsOrtValue(host, bytes, 32, &n, 1, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, &src));
  char *p = allocator->Alloc(allocator, 40);
  copy("the end of a block", env, src, device, p + 8);
  copy("beyond its end", env, src, device, p + 9);
  copy("a host pointer", env, src, device, bytes);
  allocator->Free(allocator, p);
  copy("freed memory", env, src, device, p);
  allocator->Free(allocator, p);
  void *provider = dlopen(argv[2], RTLD_NOW);
  int64_t counters[64];
  ((void (*)(int64_t *))dlsym(provider, "testdevice_counters"))(counters);
  printf("faults: %lld\n", (long long)counters[0]);
  volatile char *q = allocator->Alloc(allocator, 40);
  printf("reading\n");
  fflush(stdout);
  printf("read %d\n", q[0]);
  return 0;
}
