/*
 * block: memory of the heap that several processes hold, by counts that a death gives back.
 *
 * Called by buffer.c and segment.c. Calls table.c, link.c, process.c and libgoalloc. A block begins private: its
 * process allocates it, and frees it. When it is shared (a handle, a name, a fork) it goes into the table of blocks, by
 * a key that no other block ever has, and lives as long as somebody holds it. Who comes with a key that is not there
 * any more is told so: a handle that is too old, or made up, is never taken for memory.
 *
 * A block has no count. It has words, one a holder: which process, and how many times. So each change is one store:
 *
 *   word    count:16 | kind:1 | start:25 | pid:22      0: nobody
 *   kind    0: buffers of that process; 1: handles that it has given out
 *   start   the process's start, in ticks of the kernel, its low bits: another process with the same number is another
 *   pid 0   kind 0: holds for ever, until it is dropped: a name
 *           kind 1: a child that is being forked, by the second since the boot in which that began (start). The parent
 *           may be killed before the child has run, so it is no word of the parent's; a child that has not taken it
 *           over after a minute never will
 *
 * They are written with the lock of the block's stripe. A death finds a word before or after its change. What a dead
 * process held stays written, and counts for nothing: when the last living holder drops a block, its words are looked
 * through, and it is freed if none is of a process that lives. What nobody drops (all holders died), and what could not
 * be freed then, block_collect() frees; it is called now and then.
 *
 * The eight words of a block are enough for most; then there are chunks of 31 more, linked by goalloc_link(). Words of
 * the dead are used again first. A block is freed by taking its chunks out one by one, then its entry: a death in
 * between leaves a block that only the dead hold.
 *
 * All processes are in one PID namespace: what robust mutexes take as well.
 */
#include "block.h"

#include <errno.h>
#include <goalloc.h>
#include <signal.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "link.h"
#include "process.h"

#define BLOCKS_ROOT "goalloc.python.blocks"
#define PID_BITS 22
#define START_BITS 25
#define COUNT_SHIFT 48
#define COUNT_MAX UINT64_C(0xffff)
#define WHO_MASK ((UINT64_C(1) << COUNT_SHIFT) - 1)
#define KIND_BIT (UINT64_C(1) << 47)
#define FOR_EVER (UINT64_C(1) << PID_BITS) /* pid 0, start 1: not 0 */
#define RESERVED_S 60

/* --- processes --- */

static uint64_t start_bits(uint64_t start)
{
    return start & ((UINT64_C(1) << START_BITS) - 1);
}

holder block_self(void)
{
    static _Atomic uint64_t known_mark; /* of the process that has written `known` before */
    static _Atomic holder known;
    uint64_t mark = process_mark();
    pid_t pid;

    if (mark != atomic_load_explicit(&known_mark, memory_order_acquire)) {
        pid = getpid();
        atomic_store_explicit(&known, (uint64_t)pid | start_bits(process_look(pid).start) << PID_BITS,
                              memory_order_relaxed);
        atomic_store_explicit(&known_mark, mark, memory_order_release);
    }
    return atomic_load_explicit(&known, memory_order_relaxed);
}

holder block_handle(holder who)
{
    return who | KIND_BIT;
}

static uint64_t boot_seconds(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_BOOTTIME, &now);
    return (uint64_t)now.tv_sec;
}

holder block_reservation(void)
{
    return KIND_BIT | start_bits(boot_seconds()) << PID_BITS;
}

bool holder_is_alive(holder who)
{
    pid_t pid = (pid_t)(who & ((UINT64_C(1) << PID_BITS) - 1));
    uint64_t start = start_bits(who >> PID_BITS);
    process_facts now;

    if (pid == 0)
        return (who & KIND_BIT) == 0 || start_bits(boot_seconds() - start) <= RESERVED_S;
    if ((who & ~KIND_BIT) == block_self())
        return true;
    if (kill(pid, 0) < 0 && errno == ESRCH)
        return false;
    now = process_look(pid);
    if (now.start == 0) /* no /proc to see it in: as kill() says; or it has just gone, and the next look finds that */
        return true;
    return !now.has_ended && (start == 0 || start == start_bits(now.start));
}

/* --- private blocks --- */

block *block_new(size_t len)
{
    block *b;

    if (len > SIZE_MAX / 2) {
        errno = ENOMEM;
        return NULL;
    }
    b = goalloc_calloc(1, sizeof(*b) + len);
    if (b != NULL)
        b->data_len = len;
    return b;
}

void block_free_private(block *b)
{
    goalloc_free(b);
}

int blocks_open(table **ret)
{
    return table_open(BLOCKS_ROOT, 0, ret);
}

/* A key that no block has had, nor will have. */
static int key_make(char key[BLOCK_KEY])
{
    return getrandom(key, BLOCK_KEY, 0) == (ssize_t)BLOCK_KEY ? 0 : -EIO;
}

/* --- words: with the stripe's lock --- */

static uint64_t word_of(const _Atomic uint64_t *at)
{
    return atomic_load_explicit(at, memory_order_relaxed);
}

static void word_set(_Atomic uint64_t *at, uint64_t word)
{
    atomic_store_explicit(at, word, memory_order_relaxed);
}

typedef struct cursor {
    block *b;
    holders *more;
    size_t i;
} cursor;

/* The next word of a block, NULL at the end. */
static _Atomic uint64_t *next_word(cursor *c)
{
    if (c->more == NULL) {
        if (c->i < BLOCK_HOLDERS)
            return &c->b->words[c->i++];
        c->more = c->b->more;
        c->i = 0;
    } else if (c->i == sizeof(c->more->words) / sizeof(c->more->words[0])) {
        c->more = c->more->next;
        c->i = 0;
    }
    return c->more != NULL ? &c->more->words[c->i++] : NULL;
}

/* The word of `who`, or (is_new) one that is free; NULL if there is none. */
static _Atomic uint64_t *find_word(block *b, holder who, bool is_new)
{
    _Atomic uint64_t *at, *free_at = NULL;

    for (cursor c = { .b = b }; (at = next_word(&c)) != NULL;) {
        uint64_t word = word_of(at);

        if (word != 0 && (word & WHO_MASK) == who && (!is_new || word >> COUNT_SHIFT < COUNT_MAX))
            return at;
        if (word == 0 && free_at == NULL)
            free_at = at;
    }
    return is_new ? free_at : NULL;
}

static bool is_held(block *b)
{
    _Atomic uint64_t *at;

    for (cursor c = { .b = b }; (at = next_word(&c)) != NULL;)
        if (word_of(at) != 0 && holder_is_alive(word_of(at) & WHO_MASK))
            return true;
    return false;
}

/* True if a word has come free. */
static bool forget_dead(block *b)
{
    _Atomic uint64_t *at;
    bool any = false;

    for (cursor c = { .b = b }; (at = next_word(&c)) != NULL;) {
        if (word_of(at) != 0 && !holder_is_alive(word_of(at) & WHO_MASK)) {
            word_set(at, 0);
            any = true;
        }
    }
    return any;
}

static holder normal(holder who)
{
    return who == BLOCK_FOR_EVER ? FOR_EVER : who;
}

/* False: there is no word left. */
static bool hold(block *b, holder who)
{
    _Atomic uint64_t *at = find_word(b, who, true);

    if (at == NULL && forget_dead(b))
        at = find_word(b, who, true);
    if (at == NULL)
        return false;
    word_set(at, word_of(at) == 0 ? who | UINT64_C(1) << COUNT_SHIFT : word_of(at) + (UINT64_C(1) << COUNT_SHIFT));
    return true;
}

/* --- the table --- */

int block_share(table *t, block *b, holder who, int wait_ms)
{
    int r = key_make(b->key);

    if (r < 0)
        return r;
    b->e.key_at = offsetof(block, key);
    b->e.key_len = BLOCK_KEY;
    b->e.value_len = b->data_len;
    b->e.hash = table_hash(t, b->key, BLOCK_KEY);
    for (size_t i = 0; i < BLOCK_HOLDERS; i++)
        word_set(&b->words[i], 0);
    (void)hold(b, normal(who));
    r = table_store(t, &b->e, wait_ms, NULL, NULL);
    return r < 0 ? r : 0;
}

/* 0: with the lock; BLOCK_E_GONE or a negative errno: without. */
static int find_locked(table *t, const char key[BLOCK_KEY], int wait_ms, stripe **ret_s, block **ret,
                       uint64_t *ret_index)
{
    uint64_t hash = table_hash(t, key, BLOCK_KEY);
    entry *e;
    int r = table_lock(t, hash, wait_ms, ret_s);

    if (r < 0)
        return r;
    e = table_find(*ret_s, hash, key, BLOCK_KEY, ret_index);
    if (e == NULL) {
        table_unlock(*ret_s);
        return BLOCK_E_GONE;
    }
    *ret = (block *)e;
    return 0;
}

/* Link a chunk of words; the block's stripe is locked. */
static int add_chunk(stripe *s, block *b, holders *fresh)
{
    int r;

    fresh->next = b->more;
    table_open_change(s);
    r = link_patiently(&b->more, fresh);
    table_close_change(s);
    return r;
}

int block_hold(table *t, const char key[BLOCK_KEY], holder who, int wait_ms, block **ret)
{
    holders *fresh = NULL;
    uint64_t index;
    stripe *s;
    block *b;
    int r;

    for (;;) {
        bool is_held;

        r = find_locked(t, key, wait_ms, &s, &b, &index);
        if (r != 0)
            break;
        is_held = hold(b, normal(who));
        if (!is_held && fresh != NULL) {
            r = add_chunk(s, b, fresh);
            if (r == 0) {
                fresh = NULL;
                is_held = hold(b, normal(who));
            }
        }
        table_unlock(s);
        if (is_held || r < 0)
            break;
        if (wait_ms == 0)
            return -EBUSY;                         /* memory may take a wait for the daemon */
        fresh = goalloc_calloc(1, sizeof(*fresh)); /* memory without the lock */
        if (fresh == NULL)
            return -errno;
    }
    if (fresh != NULL)
        goalloc_free(fresh);
    if (r == 0)
        *ret = b;
    return r;
}

/* Nobody who lives holds it: free it. With the lock. */
static int end(stripe *s, block *b, uint64_t index)
{
    int r = 0;

    while (b->more != NULL && r == 0) {
        table_open_change(s);
        r = unlink_patiently(&b->more, b->more->next);
        table_close_change(s);
    }
    return r < 0 ? r : table_remove(s, index);
}

int block_drop(table *t, const char key[BLOCK_KEY], holder who, bool may_free, int wait_ms)
{
    _Atomic uint64_t *at;
    uint64_t index;
    stripe *s;
    block *b;
    int r = find_locked(t, key, wait_ms, &s, &b, &index);

    if (r != 0)
        return r;
    at = find_word(b, normal(who), false);
    if (at == NULL) {
        r = BLOCK_E_GONE;
    } else {
        uint64_t word = word_of(at) - (UINT64_C(1) << COUNT_SHIFT);

        word_set(at, word >> COUNT_SHIFT == 0 ? 0 : word);
        if (word >> COUNT_SHIFT == 0 && may_free && !is_held(b))
            (void)end(s, b, index); /* it is dropped in any case; what can't be freed now is collected later */
    }
    table_unlock(s);
    return r;
}

int block_is_named(table *t, const char key[BLOCK_KEY], holder maker, int wait_ms)
{
    uint64_t index;
    stripe *s;
    block *b;
    int r = find_locked(t, key, wait_ms, &s, &b, &index);

    if (r != 0)
        return r < 0 ? r : 0;
    r = find_word(b, FOR_EVER, false) != NULL || holder_is_alive(maker);
    table_unlock(s);
    return r;
}

int block_collect(table *t, int wait_ms, uint64_t *ret_n)
{
    int r = 0;

    *ret_n = 0;
    for (uint64_t i = 0; i < t->nstripes && r == 0; i++) {
        stripe *s = &t->stripes[i];

        r = table_lock_stripe(s, wait_ms);
        if (r < 0)
            break;
        for (uint64_t j = 0; j < table_nplaces(s) && r == 0; j++) {
            block *b = (block *)table_at(s, j);

            if (b == NULL || is_held(b))
                continue;
            r = end(s, b, j);
            *ret_n += r == 0;
        }
        table_unlock(s);
    }
    return r;
}
