/* The wrappers, and a table of what they gave out. */
#include <errno.h>
#include <execinfo.h>
#include <pthread.h>
#include <protobuf-c/protobuf-c.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "malloc_fail.h"

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
void __real_free(void *p);
void __real_protobuf_c_message_free_unpacked(ProtobufCMessage *m, ProtobufCAllocator *a);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size);
void __wrap_free(void *p);
char *__wrap_strdup(const char *text);
char *__wrap_strndup(const char *text, size_t n);
void __wrap_protobuf_c_message_free_unpacked(ProtobufCMessage *m, ProtobufCAllocator *a);

/* ---- The table: open addressing, moved together when an entry goes */
enum { SLOTS = 1 << 17, DEPTH = 6 };

struct entry {
    void *p;
    size_t size_bytes;
    uint64_t number;
    void *caller;
};
static struct entry table[SLOTS];
static uint64_t n_live, last_number;
static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;

static size_t slot_of(const void *p) {
    return (size_t)(((uintptr_t)p >> 4) * 0x9e3779b97f4a7c15u >> 20) % SLOTS;
}

static size_t find(const void *p) {
    size_t i = slot_of(p);
    while (table[i].p && table[i].p != p) i = (i + 1) % SLOTS;
    return i;
}

static void note(void *p, size_t size_bytes, void *caller) {
    if (!p) return;
    pthread_mutex_lock(&table_lock);
    size_t i = find(p);
    if (!table[i].p) n_live++; /* else its owner let go of it behind our back */
    if (n_live >= SLOTS / 2) abort();
    table[i] = (struct entry){p, size_bytes, ++last_number, caller};
    pthread_mutex_unlock(&table_lock);
}

static void forget(const void *p) {
    if (!p) return;
    pthread_mutex_lock(&table_lock);
    size_t hole = find(p);
    if (table[hole].p) {
        n_live--;
        for (size_t i = (hole + 1) % SLOTS; table[i].p; i = (i + 1) % SLOTS) {
            size_t home = slot_of(table[i].p);
            bool stays = hole <= i ? hole < home && home <= i : hole < home || home <= i;
            if (stays) continue;
            table[hole] = table[i];
            hole = i;
        }
        table[hole] = (struct entry){0};
    }
    pthread_mutex_unlock(&table_lock);
}

/* ---- Failing */
struct counters {
    _Atomic uint64_t at, repeat, seen, hits;
    _Atomic bool counting;
    void *where[DEPTH + 2];
    int n_where;
};
static struct counters own, *counters = &own;
static bool held;

void fail_share(void) {
    void *shared =
        mmap(NULL, sizeof *counters, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) abort();
    counters = memcpy(shared, counters, sizeof *counters);
}

void fail_hold(bool hold) {
    held = hold;
}

static bool fails(void) {
    if (held || !atomic_load_explicit(&counters->counting, memory_order_relaxed)) return false;
    uint64_t n = atomic_fetch_add(&counters->seen, 1) + 1, at = atomic_load(&counters->at);
    if (!at || n < at || n - at >= atomic_load(&counters->repeat)) return false;
    if (atomic_fetch_add(&counters->hits, 1) == 0)
        counters->n_where = backtrace(counters->where, DEPTH + 2);
    errno = ENOMEM;
    return true;
}

void fail_arm(uint64_t at, uint64_t repeat) {
    atomic_store(&counters->counting, false);
    atomic_store(&counters->seen, 0);
    atomic_store(&counters->hits, 0);
    atomic_store(&counters->at, at);
    atomic_store(&counters->repeat, repeat);
    atomic_store(&counters->counting, true);
}

void fail_arm_again(void) {
    fail_arm(atomic_load(&counters->at), atomic_load(&counters->repeat));
}

uint64_t fail_disarm(void) {
    atomic_store(&counters->counting, false);
    return atomic_load(&counters->hits);
}

uint64_t fail_seen(void) {
    return atomic_load(&counters->seen);
}

/* "function file:line" of return addresses, innermost first, by addr2line. */
static void describe(void *const *addresses, int n, char *out, size_t room) {
    char command[512];
    size_t used =
        (size_t)snprintf(command, sizeof command, "addr2line -sfp -e /proc/%d/exe", (int)getpid());
    extern const char __executable_start[];
    for (int i = 0; i < n && used < sizeof command - 32; i++) {
        uintptr_t at = (uintptr_t)addresses[i] - (uintptr_t)__executable_start - 1;
        used += (size_t)snprintf(command + used, sizeof command - used, " 0x%lx", (long)at);
    }
    out[0] = 0;
    FILE *lines = popen(command, "r");
    if (!lines) return;
    char line[200];
    for (size_t at = 0; fgets(line, sizeof line, lines) && at + sizeof line < room;) {
        line[strcspn(line, "\n")] = 0;
        if (line[0] == '?') continue;
        at += (size_t)snprintf(out + at, room - at, "%s%s", at ? " < " : "", line);
    }
    pclose(lines);
}

const char *fail_where(void) {
    static char text[1200];
    int n = counters->n_where;
    describe(counters->where + 2, n > 2 ? n - 2 : 0, text, sizeof text);
    return text;
}

/* ---- Outstanding */
uint64_t fail_live(void) {
    pthread_mutex_lock(&table_lock);
    uint64_t n = n_live;
    pthread_mutex_unlock(&table_lock);
    return n;
}

uint64_t fail_mark(void) {
    pthread_mutex_lock(&table_lock);
    uint64_t number = last_number;
    pthread_mutex_unlock(&table_lock);
    return number;
}

bool fail_leaks(uint64_t mark, uint64_t live_before, uint64_t within_ms, char *text, int room) {
    const struct timespec moment = {.tv_nsec = 1000000};
    for (uint64_t ms = 0; fail_live() > live_before && ms < within_ms; ms++)
        nanosleep(&moment, NULL);
    if (fail_live() <= live_before) return false;
    void *callers[8];
    int n = 0, used = snprintf(text, (size_t)room,
                               "%d more than before:", (int)(fail_live() - live_before));
    pthread_mutex_lock(&table_lock);
    for (size_t i = 0; i < SLOTS; i++) {
        if (!table[i].p || table[i].number <= mark || n == 8) continue;
        used += snprintf(text + used, (size_t)(room - used), " %zu bytes,", table[i].size_bytes);
        callers[n++] = table[i].caller;
    }
    pthread_mutex_unlock(&table_lock);
    used += snprintf(text + used, (size_t)(room - used), " by ");
    describe(callers, n, text + used, (size_t)(room - used));
    return true;
}

/* ---- The wrappers */
void *__wrap_malloc(size_t size) {
    if (fails()) return NULL;
    void *p = __real_malloc(size);
    note(p, size, __builtin_return_address(0));
    return p;
}

void *__wrap_calloc(size_t n, size_t size) {
    if (fails()) return NULL;
    void *p = __real_calloc(n, size);
    note(p, n * size, __builtin_return_address(0));
    return p;
}

void *__wrap_realloc(void *old, size_t size) {
    if (fails()) return NULL;
    forget(old); /* before: the address may be somebody else's at once */
    void *p = __real_realloc(old, size);
    note(p ? p : old, size, __builtin_return_address(0));
    return p;
}

void *__wrap_aligned_alloc(size_t alignment, size_t size) {
    if (fails()) return NULL;
    void *p = __real_aligned_alloc(alignment, size);
    note(p, size, __builtin_return_address(0));
    return p;
}

void __wrap_free(void *p) {
    forget(p);
    __real_free(p);
}

static char *copy_text(const char *text, size_t n, void *caller) {
    if (fails()) return NULL;
    char *copy = __real_malloc(n + 1);
    if (!copy) return NULL;
    memcpy(copy, text, n);
    copy[n] = 0;
    note(copy, n + 1, caller);
    return copy;
}

char *__wrap_strdup(const char *text) {
    return copy_text(text, strlen(text), __builtin_return_address(0));
}

char *__wrap_strndup(const char *text, size_t n) {
    return copy_text(text, strnlen(text, n), __builtin_return_address(0));
}

/* protobuf-c would free what rpc_unpack had allocated by libc's free itself. */
static void *no_alloc(void *data, size_t size) {
    (void)data;
    (void)size;
    return NULL;
}
static void free_one(void *data, void *p) {
    (void)data;
    __wrap_free(p);
}

void __wrap_protobuf_c_message_free_unpacked(ProtobufCMessage *m, ProtobufCAllocator *a) {
    ProtobufCAllocator ours = {no_alloc, free_one, NULL};
    __real_protobuf_c_message_free_unpacked(m, a ? a : &ours);
}
