// A shared library that says it is an ONNX Runtime of long ago.
#include <stdint.h>

struct OrtApiBase {
  const void *(*GetApi)(uint32_t version);
  const char *(*GetVersionString)(void);
};

static const void *api(uint32_t version) { return (void *)(uintptr_t)(version & 0); }
static const char *version(void) { return "1.19.2"; }

const struct OrtApiBase *OrtGetApiBase(void) {
  static const struct OrtApiBase base = {api, version};
  return &base;
}
