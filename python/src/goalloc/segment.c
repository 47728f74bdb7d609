/*
 * segment: blocks with names, for goalloc.SharedMemory.
 *
 * Called by buffer.c. Calls block.c and table.c: a table of names, whose values are a block's key and its maker. A name
 * is good as long as its block is held by the name (BLOCK_FOR_EVER), or by its maker, who lives. A name that is not
 * good is as none: it is passed over, and replaced.
 *
 *   name     the entry, then the block is held for ever     a death in between: the maker is dead, so the name is not
 *                                                           good, and the block is collected
 *   unname   held no more, then the entry goes              a death in between: if the maker lives, the name is there
 *                                                           still, and can be taken away again; else it is not good
 *
 * Locks: of the names' table first, then of the blocks'; nobody takes them the other way round.
 */
#include "segment.h"

#include <errno.h>
#include <string.h>

#define LAST_WAIT_MS 5000 /* for the second of two steps */

typedef struct value {
    char key[BLOCK_KEY];
    holder maker;
} value;

typedef struct decision {
    table *blocks;
    int wait_ms;
} decision;

static value value_of(entry *e)
{
    value v = { .maker = 0 };

    if (e->value_len == sizeof(v))
        memcpy(&v, entry_value(e), sizeof(v));
    return v;
}

static int is_good(table *blocks, entry *e, int wait_ms)
{
    value v = value_of(e);

    return block_is_named(blocks, v.key, v.maker, wait_ms);
}

static int unless_there(entry *old, entry *fresh, void *arg)
{
    const decision *d = arg;
    int r = old != NULL ? is_good(d->blocks, old, d->wait_ms) : 0;

    (void)fresh;
    return r < 0 ? r : !r;
}

int segment_name(table *names, table *blocks, const char *name, size_t len, const block *b, holder maker, int wait_ms)
{
    decision d = { blocks, wait_ms };
    entry *e = entry_new(names, name, len, sizeof(value));
    value v = { .maker = maker };
    block *unused;
    int r;

    if (e == NULL)
        return -errno;
    memcpy(v.key, b->key, BLOCK_KEY);
    memcpy(entry_value(e), &v, sizeof(v));
    r = table_store(names, e, wait_ms, unless_there, &d);
    if (r != 1) {
        entry_free(e);
        return r;
    }
    /* The name is there: from here on there is no way back, and to be called again would not do. */
    r = block_hold(blocks, v.key, BLOCK_FOR_EVER, LAST_WAIT_MS, &unused);
    if (r == BLOCK_E_GONE)
        return -EINVAL; /* the caller holds it: somebody has scribbled on it */
    return r == -EBUSY ? -ETIMEDOUT : r < 0 ? r : 1;
}

/* The good entry's value. 1, 0, or a negative errno. */
static int look_up(table *names, table *blocks, const char *name, size_t len, int wait_ms, value *ret)
{
    uint64_t hash = table_hash(names, name, len), index;
    stripe *s;
    entry *e;
    int r = table_lock(names, hash, wait_ms, &s);

    if (r < 0)
        return r;
    e = table_find(s, hash, name, len, &index);
    r = e != NULL ? is_good(blocks, e, wait_ms) : 0;
    if (r == 1)
        *ret = value_of(e);
    table_unlock(s);
    return r;
}

int segment_find(table *names, table *blocks, const char *name, size_t len, holder who, int wait_ms, block **ret)
{
    value v;
    int r = look_up(names, blocks, name, len, wait_ms, &v);

    if (r != 1)
        return r;
    r = block_hold(blocks, v.key, who, wait_ms, ret);
    if (r == BLOCK_E_GONE) /* its name was taken away meanwhile, and nobody had it */
        return 0;
    return r < 0 ? r : 1;
}

int segment_unname(table *names, table *blocks, const char *name, size_t len, int wait_ms)
{
    uint64_t hash = table_hash(names, name, len), index;
    stripe *s;
    entry *e;
    value v;
    int r = look_up(names, blocks, name, len, wait_ms, &v);

    if (r != 1)
        return r;
    r = block_drop(blocks, v.key, BLOCK_FOR_EVER, true, wait_ms);
    if (r < 0)
        return r;
    r = table_lock(names, hash, LAST_WAIT_MS, &s);
    if (r < 0)
        return r == -EBUSY ? -ETIMEDOUT : r;
    e = table_find(s, hash, name, len, &index);
    if (e != NULL && memcmp(value_of(e).key, v.key, BLOCK_KEY) == 0)
        r = table_remove(s, index);
    table_unlock(s);
    return r < 0 ? r : 1;
}
