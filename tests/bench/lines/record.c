/*
 * Record: which cache lines each thread writes and reads.
 *
 * The library is compiled with -fsanitize=thread, and linked with this file instead of the thread sanitizer: the
 * compiler puts a call before each access to memory that is not the function's own, and makes a call of each atomic
 * operation. Here these calls count the access, and do the atomic operation. Called by instrumented code, and by
 * lines.c. Data: a table for each thread, which it alone writes while it counts.
 *
 * What is not instrumented is not seen: the C library (memset and memcpy of the library's calls, mutexes), the program.
 */
#include "tests/bench/lines/record.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#define LINE_BYTES 64u
#define ENTRIES    (1u << 18)

typedef struct table {
    record_use uses[ENTRIES];
    size_t nuses;
} table;

static table *tables[RECORD_THREADS_MAX];
static __thread table *mine; /* NULL: the thread does not count */

static record_use *use_of(table *t, uint64_t line)
{
    size_t at = (line * UINT64_C(0x9e3779b97f4a7c15)) >> 46;

    while (t->uses[at].line != line) {
        if (t->uses[at].line == 0) {
            if (++t->nuses > ENTRIES / 2) {
                (void)fprintf(stderr, "record: more lines than there is room for\n");
                exit(EXIT_FAILURE);
            }
            t->uses[at].line = line;
            break;
        }
        at = (at + 1) % ENTRIES;
    }
    return &t->uses[at];
}

static void note(const volatile void *p, size_t bytes, bool write, const void *code)
{
    uint64_t line = (uintptr_t)p / LINE_BYTES;
    uint64_t last = ((uintptr_t)p + bytes - 1) / LINE_BYTES;

    if (mine == NULL || bytes == 0)
        return;
    for (; line <= last; line++) {
        record_use *use = use_of(mine, line);

        use->nreads += !write;
        use->nwrites += write;
        if (write)
            use->writes_at = code;
    }
}

void record_begin(unsigned thread)
{
    if (tables[thread] == NULL)
        tables[thread] = calloc(1, sizeof(table));
    if (tables[thread] == NULL) {
        (void)fprintf(stderr, "record: no memory\n");
        exit(EXIT_FAILURE);
    }
    mine = tables[thread];
}

void record_end(void)
{
    mine = NULL;
}

/* --- all threads together --- */

static void add(record_line *to, const record_use *use)
{
    if (use->nwrites > 0) {
        if (to->nwriters < 2)
            to->writes_at[to->nwriters] = use->writes_at;
        to->nwriters++;
        to->nwrites += use->nwrites;
    } else {
        to->nreaders++;
    }
}

static int by_line(const void *a, const void *b)
{
    const record_use *x = a;
    const record_use *y = b;

    return (x->line > y->line) - (x->line < y->line);
}

static int by_writers(const void *a, const void *b)
{
    const record_line *x = a;
    const record_line *y = b;

    if (x->nwriters != y->nwriters)
        return (x->nwriters < y->nwriters) - (x->nwriters > y->nwriters);
    return (x->nwrites < y->nwrites) - (x->nwrites > y->nwrites);
}

size_t record_lines(record_line **ret)
{
    size_t nuses = 0;
    size_t nlines = 0;
    record_use *all;

    for (unsigned i = 0; i < RECORD_THREADS_MAX; i++)
        nuses += tables[i] != NULL ? tables[i]->nuses : 0;
    all = calloc(nuses + 1, sizeof(*all));
    *ret = calloc(nuses + 1, sizeof(**ret));
    if (all == NULL || *ret == NULL)
        abort();
    nuses = 0;
    for (unsigned i = 0; i < RECORD_THREADS_MAX; i++) {
        for (size_t at = 0; tables[i] != NULL && at < ENTRIES; at++) {
            if (tables[i]->uses[at].line != 0)
                all[nuses++] = tables[i]->uses[at];
        }
    }
    qsort(all, nuses, sizeof(*all), by_line);
    for (size_t i = 0; i < nuses;) {
        record_line *to = &(*ret)[nlines];

        to->line = all[i].line;
        while (i < nuses && all[i].line == to->line)
            add(to, &all[i++]);
        if (to->nwriters > 0)
            nlines++;
        else
            *to = (record_line){ .line = 0 };
    }
    free(all);
    qsort(*ret, nlines, sizeof(**ret), by_writers);
    return nlines;
}

/* --- what the compiler calls --- */

#define CODE __builtin_return_address(0)

void __tsan_init(void);
void __tsan_init(void)
{
}

void __tsan_func_entry(void *pc);
void __tsan_func_entry(void *pc)
{
    (void)pc;
}

void __tsan_func_exit(void);
void __tsan_func_exit(void)
{
}

#define ACCESS(bytes)                              \
    void __tsan_read##bytes(void *p);              \
    void __tsan_read##bytes(void *p)               \
    {                                              \
        note(p, bytes, false, CODE);               \
    }                                              \
    void __tsan_write##bytes(void *p);             \
    void __tsan_write##bytes(void *p)              \
    {                                              \
        note(p, bytes, true, CODE);                \
    }                                              \
    void __tsan_unaligned_read##bytes(void *p);    \
    void __tsan_unaligned_read##bytes(void *p)     \
    {                                              \
        note(p, bytes, false, CODE);               \
    }                                              \
    void __tsan_unaligned_write##bytes(void *p);   \
    void __tsan_unaligned_write##bytes(void *p)    \
    {                                              \
        note(p, bytes, true, CODE);                \
    }

ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)

void __tsan_read_range(void *p, size_t bytes);
void __tsan_read_range(void *p, size_t bytes)
{
    note(p, bytes, false, CODE);
}

void __tsan_write_range(void *p, size_t bytes);
void __tsan_write_range(void *p, size_t bytes)
{
    note(p, bytes, true, CODE);
}

/* Sequentially consistent, whatever was asked for: that is stronger. */
#define MODIFY(bits, name, builtin)                                                                           \
    uint##bits##_t __tsan_atomic##bits##_##name(volatile uint##bits##_t *p, uint##bits##_t value, int order); \
    uint##bits##_t __tsan_atomic##bits##_##name(volatile uint##bits##_t *p, uint##bits##_t value, int order)  \
    {                                                                                                         \
        (void)order;                                                                                          \
        note(p, sizeof(*p), true, CODE);                                                                      \
        return builtin(p, value, __ATOMIC_SEQ_CST);                                                           \
    }

#define EXCHANGE_IF(bits, name, weak)                                                                              \
    int __tsan_atomic##bits##_compare_exchange_##name(volatile uint##bits##_t *p, uint##bits##_t *expected,        \
                                                      uint##bits##_t value, int order, int order_if_not);          \
    int __tsan_atomic##bits##_compare_exchange_##name(volatile uint##bits##_t *p, uint##bits##_t *expected,        \
                                                      uint##bits##_t value, int order, int order_if_not)           \
    {                                                                                                              \
        (void)order;                                                                                               \
        (void)order_if_not;                                                                                        \
        note(p, sizeof(*p), true, CODE);                                                                           \
        return __atomic_compare_exchange_n(p, expected, value, weak, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);          \
    }

#define ATOMICS(bits)                                                                                \
    uint##bits##_t __tsan_atomic##bits##_load(const volatile uint##bits##_t *p, int order);          \
    uint##bits##_t __tsan_atomic##bits##_load(const volatile uint##bits##_t *p, int order)           \
    {                                                                                                \
        (void)order;                                                                                 \
        note(p, sizeof(*p), false, CODE);                                                            \
        return __atomic_load_n(p, __ATOMIC_SEQ_CST);                                                 \
    }                                                                                                \
    void __tsan_atomic##bits##_store(volatile uint##bits##_t *p, uint##bits##_t value, int order);   \
    void __tsan_atomic##bits##_store(volatile uint##bits##_t *p, uint##bits##_t value, int order)    \
    {                                                                                                \
        (void)order;                                                                                 \
        note(p, sizeof(*p), true, CODE);                                                             \
        __atomic_store_n(p, value, __ATOMIC_SEQ_CST);                                                \
    }                                                                                                \
    MODIFY(bits, exchange, __atomic_exchange_n)                                                      \
    MODIFY(bits, fetch_add, __atomic_fetch_add)                                                      \
    MODIFY(bits, fetch_sub, __atomic_fetch_sub)                                                      \
    MODIFY(bits, fetch_and, __atomic_fetch_and)                                                      \
    MODIFY(bits, fetch_or, __atomic_fetch_or)                                                        \
    MODIFY(bits, fetch_xor, __atomic_fetch_xor)                                                      \
    EXCHANGE_IF(bits, strong, false)                                                                 \
    EXCHANGE_IF(bits, weak, true)

ATOMICS(8)
ATOMICS(16)
ATOMICS(32)
ATOMICS(64)

void __tsan_atomic_thread_fence(int order);
void __tsan_atomic_thread_fence(int order)
{
    (void)order;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

void __tsan_atomic_signal_fence(int order);
void __tsan_atomic_signal_fence(int order)
{
    (void)order;
}
