// An allocator for sessions whose weights are read in full for each token.
//
// Kernels reserve memory for the weights that they have packed while a session loads. The C library's is made of pages of 4 kB,
// and walking the page tables takes a tenth of a decode step and more. Here such memory is cut from slabs of
// huge pages. Slabs live as long as what was packed into them.
//
// All other memory is the C library's, which is slow to align: a step takes and gives back some hundred blocks of always the
// same sizes, 2 % of its time. They are kept in lists, each of one size, until the last slab goes.
//
// No block that fits a page lies across two. Attention over a cache of integers adds up a head's output in scratch that begins
// 8 bytes behind a cache line; where a page ended in it, each token of the context cost twice as much, and a page ended there in
// every fourth process (ADR 13).

#include "shim.h"

#ifdef __linux__

#include <pthread.h>
#include <sys/mman.h>

enum { PAGE = 4 << 10, HUGE_PAGE = 2 << 20, SLAB = 32 << 20, ALIGNMENT = 64 };

// Kept blocks have 4, 5, 6 or 7 << shift bytes, from 64 to 229,376: what a step takes, not what a long prompt does.
enum { MAX_SHIFT = 15, LISTS = 4 * (MAX_SHIFT - 4 + 1) };

typedef struct {
  char *base;
  size_t size, used; // bytes
  size_t blocks;     // in use
} slab;

// A block has its content ALIGNMENT bytes further on.
typedef struct block {
  slab *from;         // NULL: the C library
  unsigned list;      // that it goes to when it is free; LISTS: none
  struct block *next; // in that list
} block;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static slab *filling;   // what small blocks are cut from
static size_t reserved; // bytes of all slabs
static block *kept[LISTS];
static int loading;     // sessions that are being created

static size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

static slab *slab_new(size_t size) {
  slab *s = malloc(sizeof *s);
  if (!s) return NULL;
  size = round_up(size, HUGE_PAGE);
  char *p = mmap(NULL, size + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
  if (p == MAP_FAILED) {
    free(s);
    return NULL;
  }
  size_t before = round_up((uintptr_t)p, HUGE_PAGE) - (uintptr_t)p;
  if (before) munmap(p, before);
  munmap(p + before + size, HUGE_PAGE - before);
  madvise(p + before, size, MADV_HUGEPAGE); // where it fails, pages are small
  reserved += size;
  *s = (slab){p + before, size, 0, 0};
  return s;
}

static void slab_drop(slab *s) {
  munmap(s->base, s->size);
  reserved -= s->size;
  free(s);
  for (int i = 0; !reserved && i < LISTS; i++) {
    for (block *b; (b = kept[i]);) {
      kept[i] = b->next;
      free(b);
    }
  }
}

// list_of gives the list of blocks that hold n bytes, and makes n their size; LISTS where such blocks are not kept.
static unsigned list_of(size_t *n) {
  unsigned shift = 4, quarters = 4;
  if (*n > (size_t)7 << MAX_SHIFT) return LISTS;
  while (*n > (size_t)7 << shift) shift++;
  while (*n > (size_t)quarters << shift) quarters++;
  *n = (size_t)quarters << shift;
  return 4 * (shift - 4) + quarters - 4;
}

// boundary gives what a block of the C library begins on, so that it lies within a page if it fits one.
static size_t boundary(size_t size) {
  size_t n = ALIGNMENT;
  while (n < size && n < PAGE) n *= 2;
  return n;
}

static void *slab_cut(slab *s, size_t size) {
  if (!s || s->size - s->used < size) return NULL;
  block *b = (block *)(s->base + s->used);
  b->from = s;
  s->used += size;
  s->blocks++;
  return (char *)b + ALIGNMENT;
}

static void *ORT_API_CALL weights_alloc(OrtAllocator *self, size_t n) {
  (void)self;
  if (n > SIZE_MAX / 2) return NULL;
  size_t size = n + ALIGNMENT;
  unsigned list = list_of(&size);
  block *b = NULL;
  if (list < LISTS) {
    pthread_mutex_lock(&mutex);
    if ((b = kept[list])) kept[list] = b->next;
    pthread_mutex_unlock(&mutex);
  }
  if (!b) {
    void *p;
    if (posix_memalign(&p, list < LISTS ? boundary(size) : ALIGNMENT, size)) return NULL;
    b = p;
    *b = (block){NULL, list, NULL};
  }
  return (char *)b + ALIGNMENT;
}

static void *ORT_API_CALL weights_reserve(OrtAllocator *self, size_t n) {
  if (n > SIZE_MAX / 2) return NULL;
  size_t size = round_up(n + ALIGNMENT, ALIGNMENT);
  pthread_mutex_lock(&mutex);
  if (!loading) { // what kernels reserve in a run is for that run
    pthread_mutex_unlock(&mutex);
    return weights_alloc(self, n);
  }
  void *p;
  if (size > SLAB / 4) {
    p = slab_cut(slab_new(size), size);
  } else if (!(p = slab_cut(filling, size))) {
    filling = slab_new(SLAB);
    p = slab_cut(filling, size);
  }
  pthread_mutex_unlock(&mutex);
  return p;
}

static void ORT_API_CALL weights_free(OrtAllocator *self, void *p) {
  (void)self;
  if (!p) return;
  block *b = (block *)((char *)p - ALIGNMENT);
  slab *s = b->from;
  pthread_mutex_lock(&mutex);
  if (!s) {
    if (b->list < LISTS && reserved) {
      b->next = kept[b->list];
      kept[b->list] = b;
    } else {
      free(b);
    }
  } else if (--s->blocks == 0) {
    if (s != filling) {
      slab_drop(s);
    } else if (loading) {
      s->used = 0; // more is to come
    } else {
      slab_drop(s);
      filling = NULL;
    }
  }
  pthread_mutex_unlock(&mutex);
}

static OrtAllocator allocator = {
    .version = ORT_API_VERSION,
    .Alloc = weights_alloc,
    .Free = weights_free,
    .Reserve = weights_reserve,
};

static const OrtMemoryInfo *memory;

static const OrtMemoryInfo *ORT_API_CALL weights_info(const OrtAllocator *self) {
  (void)self;
  return memory;
}

OrtStatus *capi_weights_register(const OrtApi *api, OrtEnv *env, const OrtMemoryInfo *info) {
  memory = info;
  allocator.Info = weights_info;
  return api->RegisterAllocator(env, &allocator);
}

void capi_weights_loading(int on) {
  pthread_mutex_lock(&mutex);
  loading += on ? 1 : -1;
  if (!loading && filling && !filling->blocks) {
    slab_drop(filling);
    filling = NULL;
  }
  pthread_mutex_unlock(&mutex);
}

size_t capi_weights_reserved(void) {
  pthread_mutex_lock(&mutex);
  size_t n = reserved;
  pthread_mutex_unlock(&mutex);
  return n;
}

#else

OrtStatus *capi_weights_register(const OrtApi *api, OrtEnv *env, const OrtMemoryInfo *info) {
  (void)env, (void)info;
  return api->CreateStatus(ORT_NOT_IMPLEMENTED, "no huge pages on this system");
}

void capi_weights_loading(int on) { (void)on; }

size_t capi_weights_reserved(void) { return 0; }

#endif
