/*
 * Declared: the one table of this process, and its lock.
 *
 * Called by mapping.c (what to skip), attach.c (opaque, fork) and collect.c (roots); calls nobody. Data: the table,
 * which mapping.c has mapped; private, and the child of a fork has a copy. shm/declared.h says in which order it is
 * written, and what a collector finds that stops this process in between.
 *
 * The lock is a leaf: it is held for a look at the entries, 4088 at most, and nothing is called under it.
 */
#include "client/lib/declared.h"

#include <errno.h>
#include <pthread.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static declared_table *_Atomic table; /* NULL: there is none */

static declared_table *table_now(void)
{
    return atomic_load_explicit(&table, memory_order_acquire);
}

bool declared_has_begun(void)
{
    return table_now() != NULL;
}

void declared_begin(declared_table *t)
{
    t->version = DECLARED_VERSION;
    t->nentries_max = DECLARED_ENTRIES_MAX;
    fence_release();
    t->magic = DECLARED_MAGIC;
    atomic_store_explicit(&table, t, memory_order_release);
}

/* NULL: there is no table, and nothing is locked. */
static declared_table *change_begin(void)
{
    declared_table *t = table_now();

    if (t == NULL)
        return NULL;
    (void)pthread_mutex_lock(&lock);
    u32_store_relaxed(&t->sequence, u32_load_relaxed(&t->sequence) + 1);
    fence_release();
    return t;
}

static void change_end(declared_table *t)
{
    u32_store_release(&t->sequence, u32_load_relaxed(&t->sequence) + 1);
    (void)pthread_mutex_unlock(&lock);
}

void declared_reset(void)
{
    declared_table *t = table_now();

    (void)pthread_mutex_init(&lock, NULL);
    if (t != NULL)
        u32_store_relaxed(&t->nasking, 0);
    if (t != NULL && u32_load_relaxed(&t->sequence) % 2 != 0)
        u32_store_release(&t->sequence, u32_load_relaxed(&t->sequence) + 1); /* entries are whole at any instant */
}

/* --- entries --- */

/* The entry of that kind that begins there. NULL: there is none. */
static declared_entry *find(declared_table *t, enum declared_kind kind, uint64_t start)
{
    uint32_t n = u32_load_relaxed(&t->n);

    for (uint32_t i = 0; i < n; i++) {
        declared_entry *e = &t->entries[i];

        if (u64_load_relaxed(&e->kind) == kind && u64_load_relaxed(&e->start) == start)
            return e;
    }
    return NULL;
}

static uint32_t count(declared_table *t, enum declared_kind kind)
{
    uint32_t n = u32_load_relaxed(&t->n);
    uint32_t found = 0;

    for (uint32_t i = 0; i < n; i++)
        found += u64_load_relaxed(&t->entries[i].kind) == kind;
    return found;
}

/* An entry that is not used; NULL: of this kind there are as many as there may be. */
static declared_entry *find_room(declared_table *t, enum declared_kind kind)
{
    uint32_t n = u32_load_relaxed(&t->n);
    declared_entry *e = NULL;

    static const uint32_t most[] = { [DECLARED_ROOTS] = DECLARED_ROOTS_MAX,
                                     [DECLARED_SKIP] = DECLARED_SKIP_MAX,
                                     [DECLARED_TEXT] = DECLARED_TEXT_MAX };

    if (count(t, kind) >= most[kind])
        return NULL;
    for (uint32_t i = 0; i < n && e == NULL; i++) {
        if (u64_load_relaxed(&t->entries[i].kind) == DECLARED_NONE)
            e = &t->entries[i];
    }
    if (e == NULL) { /* there is room: the limits of all kinds add up to all entries */
        e = &t->entries[n];
        u32_store_release(&t->n, n + 1);
    }
    return e;
}

static bool add(declared_table *t, enum declared_kind kind, uint64_t start, uint64_t bytes)
{
    declared_entry *e = find(t, kind, start);

    if (e == NULL) {
        e = find_room(t, kind);
        if (e == NULL)
            return false;
        u64_store_relaxed(&e->start, start);
    }
    u64_store_relaxed(&e->bytes, bytes);
    u64_store_release(&e->kind, kind);
    return true;
}

void declared_skip(const void *p, uint64_t bytes)
{
    declared_table *t = change_begin();

    if (t == NULL)
        return;
    (void)add(t, DECLARED_SKIP, (uintptr_t)p, bytes); /* without room it is looked through */
    change_end(t);
}

void declared_text(const void *p, uint64_t bytes)
{
    declared_table *t = change_begin();

    if (t == NULL)
        return;
    (void)add(t, DECLARED_TEXT, (uintptr_t)p, bytes);
    change_end(t);
}

/*
 * An atomic addition orders nothing for a collector, and need not: the thread is stopped before or after it. The
 * compiler may not move what comes before or after over it.
 */
bool declared_asking_begin(void)
{
    declared_table *t = table_now();

    if (t == NULL)
        return false;
    (void)atomic_fetch_add_explicit(&t->nasking, 1, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
    return true;
}

void declared_asking_end(bool counted)
{
    atomic_signal_fence(memory_order_seq_cst);
    if (counted)
        (void)atomic_fetch_sub_explicit(&table_now()->nasking, 1, memory_order_relaxed);
}

static bool removed(declared_table *t, enum declared_kind kind, const void *p)
{
    declared_entry *e = find(t, kind, (uintptr_t)p);

    if (e != NULL)
        u64_store_release(&e->kind, DECLARED_NONE);
    return e != NULL;
}

void declared_unskip(const void *p)
{
    declared_table *t = change_begin();

    if (t == NULL)
        return;
    (void)removed(t, DECLARED_SKIP, p);
    change_end(t);
}

static void set_flag(declared_table *t, uint32_t flag, bool on)
{
    uint32_t flags = u32_load_relaxed(&t->flags);

    u32_store_release(&t->flags, on ? flags | flag : flags & ~flag);
}

int declared_add_roots(const void *p, uint64_t bytes)
{
    declared_table *t = change_begin();
    bool fits;

    if (t == NULL)
        return -ENOTSUP;
    fits = add(t, DECLARED_ROOTS, (uintptr_t)p, bytes);
    if (fits)
        set_flag(t, DECLARED_ONLY_ROOTS, true);
    change_end(t);
    return fits ? 0 : -ENOSPC;
}

int declared_remove_roots(const void *p)
{
    declared_table *t = change_begin();
    bool was_there;

    if (t == NULL)
        return -ENOENT;
    was_there = find(t, DECLARED_ROOTS, (uintptr_t)p) != NULL;
    if (was_there && count(t, DECLARED_ROOTS) == 1)
        set_flag(t, DECLARED_ONLY_ROOTS, false);
    (void)removed(t, DECLARED_ROOTS, p);
    change_end(t);
    return was_there ? 0 : -ENOENT;
}

bool declared_set_opaque(bool opaque)
{
    declared_table *t = change_begin();
    bool was;

    if (t == NULL)
        return false;
    was = u32_load_relaxed(&t->flags) & DECLARED_OPAQUE;
    set_flag(t, DECLARED_OPAQUE, opaque);
    change_end(t);
    return was;
}

bool declared_is_opaque(void)
{
    declared_table *t = table_now();

    return t != NULL && (u32_load_relaxed(&t->flags) & DECLARED_OPAQUE);
}
