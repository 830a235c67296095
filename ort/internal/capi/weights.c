// An allocator for sessions whose weights are read in full for each token.
//
// Kernels reserve memory for the weights that they have packed while a session loads. The C library's is made of pages of 4 kB,
// and walking the page tables takes a tenth of a decode step and more. Here such memory is cut from slabs of
// huge pages. Slabs live as long as what was packed into them.
//
// Of all other memory small blocks are the C library's, which is slow to align: a step takes and gives back some hundred of
// always the same sizes, 2 % of its time. They are kept in lists, each of one size, until the last slab goes.
//
// No block that fits a page lies across two. Attention over a cache of integers adds up a head's output in scratch that begins
// 8 bytes behind a cache line; where a page ended in it, each token of the context cost twice as much, and a page ended there in
// every fourth process (ADR 13).
//
// Large blocks, the activations of a prompt, are mappings of their own, which the next block of the same size takes over. The
// C library takes twice the memory for them, being left with gaps, and keeps what the largest prompt took. What is spare
// goes back to the system when a run ends.

#include "shim.h"

#ifdef __linux__

#include <pthread.h>
#include <sys/mman.h>

enum { PAGE = 4 << 10, HUGE_PAGE = 2 << 20, SLAB = 32 << 20, SPARE = 8 << 20, ALIGNMENT = 64 };

// Kept blocks have 4, 5, 6 or 7 << shift bytes, from 64 to 229,376: what a step takes, not what a long prompt does.
enum { MAX_SHIFT = 15, LISTS = 4 * (MAX_SHIFT - 4 + 1) };

// Where larger blocks go when they are free, in place of a list: to the spare ones, or, if a session has them for as long as
// it lives, to the system.
enum { LARGE = LISTS, LOADED };

typedef struct {
  char *base;
  size_t size, used; // bytes
  size_t blocks;     // in use
} slab;

// A block has its content ALIGNMENT bytes further on.
typedef struct block {
  slab *from;         // NULL: none
  unsigned list;      // that it goes to when it is free, LARGE or LOADED
  struct block *next; // in that list
  size_t size;        // bytes of the content of a large one
} block;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static slab *filling;   // what small blocks are cut from
static size_t reserved; // bytes of all slabs
static block *kept[LISTS];
static int loading;     // sessions that are being created

static block *spare;       // large blocks that are free, the last one first
static size_t spare_bytes; // of them
static size_t live;        // bytes of large blocks in use
static size_t most;        // that live was since it was 0

static size_t round_up(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

// map gives size bytes, a multiple of PAGE, on huge pages as far as they fill any, and before bytes more in front of them.
static char *map(size_t before, size_t size) {
  size_t whole = before + size + HUGE_PAGE;
  char *p = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
  if (p == MAP_FAILED) return NULL;
  char *content = (char *)round_up((uintptr_t)p + before, HUGE_PAGE), *end = content + size;
  if (content - before > p) munmap(p, content - before - p);
  if (end < p + whole) munmap(end, p + whole - end);
  madvise(content, size, MADV_HUGEPAGE); // where it fails, pages are small
  return content;
}

// A large block begins at the end of a page, so that its content begins the next.
static block *large_new(size_t size, unsigned list) {
  char *content = map(PAGE, size);
  if (!content) return NULL;
  block *b = (block *)(content - ALIGNMENT);
  *b = (block){NULL, list, NULL, size};
  return b;
}

static void large_drop(block *b) { munmap((char *)b + ALIGNMENT - PAGE, PAGE + b->size); }

// spare_limit gives back what was spare for longest, until the rest is at most limit bytes.
static void spare_limit(size_t limit) {
  while (spare_bytes > limit) {
    block **oldest = &spare;
    while ((*oldest)->next) oldest = &(*oldest)->next;
    spare_bytes -= (*oldest)->size;
    large_drop(*oldest);
    *oldest = NULL;
  }
}

static slab *slab_new(size_t size) {
  slab *s = malloc(sizeof *s);
  if (!s) return NULL;
  size = round_up(size, HUGE_PAGE);
  char *base = map(0, size);
  if (!base) {
    free(s);
    return NULL;
  }
  reserved += size;
  *s = (slab){base, size, 0, 0};
  return s;
}

static void slab_drop(slab *s) {
  munmap(s->base, s->size);
  reserved -= s->size;
  free(s);
  if (!reserved && !live) spare_limit(0);
  for (int i = 0; !reserved && i < LISTS; i++) {
    for (block *b; (b = kept[i]);) {
      kept[i] = b->next;
      free(b);
    }
  }
}

// list_of gives the list of blocks that hold n bytes, and makes n their size; LARGE where there is none.
static unsigned list_of(size_t *n) {
  unsigned shift = 4, quarters = 4;
  if (*n > (size_t)7 << MAX_SHIFT) return LARGE;
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

static block *small_alloc(size_t size, unsigned list) {
  pthread_mutex_lock(&mutex);
  block *b = kept[list];
  if (b) kept[list] = b->next;
  pthread_mutex_unlock(&mutex);
  void *p;
  if (b) return b;
  if (posix_memalign(&p, boundary(size), size)) return NULL;
  b = p;
  *b = (block){NULL, list, NULL, 0};
  return b;
}

static block *large_alloc(size_t n) {
  size_t size = round_up(n, PAGE);
  pthread_mutex_lock(&mutex);
  block *b = NULL;
  if (loading) {
    b = large_new(size, LOADED);
    pthread_mutex_unlock(&mutex);
    return b;
  }
  for (block **at = &spare; *at; at = &(*at)->next) {
    if ((*at)->size != size) continue;
    b = *at;
    *at = b->next;
    spare_bytes -= size;
    break;
  }
  if (!b) {
    // A run wants the same sizes in each layer, and is never short of them with a quarter more than it uses at once.
    size_t use = live + size, top = most > use ? most : use;
    spare_limit(top - use + (top / 4 > SPARE ? top / 4 : SPARE));
    b = large_new(size, LARGE);
  }
  if (b) live += size;
  if (most < live) most = live;
  pthread_mutex_unlock(&mutex);
  return b;
}

static void large_free(block *b) {
  b->next = spare;
  spare = b;
  spare_bytes += b->size;
  live -= b->size;
  if (!live) {
    most = 0;
    spare_limit(reserved ? SPARE : 0);
  }
}

static void *ORT_API_CALL weights_alloc(OrtAllocator *self, size_t n) {
  (void)self;
  if (n > SIZE_MAX / 2) return NULL;
  size_t size = n + ALIGNMENT;
  unsigned list = list_of(&size);
  block *b = list < LISTS ? small_alloc(size, list) : large_alloc(n);
  return b ? (char *)b + ALIGNMENT : NULL;
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
    if (b->list == LARGE) {
      large_free(b);
    } else if (b->list == LOADED) {
      large_drop(b);
    } else if (reserved) {
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

size_t capi_weights_spare(void) {
  pthread_mutex_lock(&mutex);
  size_t n = spare_bytes;
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

size_t capi_weights_spare(void) { return 0; }

#endif
