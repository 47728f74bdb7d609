/*
 * Roots: the table of names in spans, and a hash over it in private memory.
 *
 * Called by the request handlers. Data: shm_root entries, written here alone; one is used while it has a name. The hash
 * maps a name to its entry and is made from the entries at the start. Names are checked here, whoever sends them: 1 to
 * 255 bytes of UTF-8 without zero bytes.
 *
 * A new root: nroot_entries, if the entry is above it; name, then offset, then name_bytes (release), which makes it
 * exist. A change: one store of offset. A removal: name_bytes to 0. If the daemon dies in between, a root is as before
 * or as after.
 *
 * Invariants (roots_validate, linear): an entry has a name iff the hash finds it by that name; its offset lies in the
 * arena. The object there may have been freed since: a root does not hold it.
 */
#include "daemon/heap/roots.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistr.h>

#define uthash_fatal(message) abort() /* not reached: HASH_NONFATAL_OOM reports instead */
#define HASH_NONFATAL_OOM     1
#include <uthash.h>

#include "shm/crash.h"
#include "shm/object.h"

typedef struct root_entry {
    UT_hash_handle hh; /* its key is the name in the table */
} root_entry;

struct roots {
    shm_map *map;
    root_entry *by_name;
    root_entry entries[SHM_ROOTS_MAX]; /* one for each of the table */
};

static bool root_index(roots *r, uint32_t at)
{
    shm_root *root = &r->map->roots[at];
    root_entry *entry = &r->entries[at];

    HASH_ADD_KEYPTR(hh, r->by_name, root->name, u64_load_relaxed(&root->name_bytes), entry);
    return entry->hh.tbl != NULL;
}

/* True if the entry of the table has a name. Entries that were never used are not read: that would give them memory. */
static bool is_used(const roots *r, uint32_t at)
{
    return at < u32_load_relaxed(&r->map->header->nroot_entries) &&
           u64_load_relaxed(&r->map->roots[at].name_bytes) != 0;
}

roots *roots_free(roots *r)
{
    if (r != NULL) {
        HASH_CLEAR(hh, r->by_name);
        free(r);
    }
    return NULL;
}

static int name_check(const uint8_t *name, size_t name_bytes)
{
    if (name_bytes == 0)
        return ROOTS_E_EMPTY;
    if (name_bytes >= SHM_ROOT_NAME_BYTES)
        return ROOTS_E_TOO_LONG;
    if (u8_check(name, name_bytes) != NULL || memchr(name, 0, name_bytes) != NULL)
        return ROOTS_E_NOT_UTF8;
    return 0;
}

static root_entry *root_lookup(const roots *r, const uint8_t *name, size_t name_bytes)
{
    root_entry *entry;

    HASH_FIND(hh, r->by_name, name, name_bytes, entry);
    return entry;
}

int roots_new(shm_map *map, roots **ret)
{
    roots *r = calloc(1, sizeof(*r));
    int e = 0;

    if (r == NULL)
        return -ENOMEM;
    r->map = map;
    for (uint32_t at = roots_next(r, 0); at < SHM_ROOTS_MAX && e == 0; at = roots_next(r, at + 1)) {
        const shm_root *root = &map->roots[at];
        uint64_t name_bytes = u64_load_relaxed(&root->name_bytes);

        /* Of a heap that was taken over it may say anything. */
        if (name_check((const uint8_t *)root->name, name_bytes) != 0 ||
            root_lookup(r, (const uint8_t *)root->name, name_bytes) != NULL)
            e = -EUCLEAN;
        else if (!root_index(r, at))
            e = -ENOMEM;
    }
    if (e != 0)
        r = roots_free(r);
    *ret = r;
    return e;
}

static int root_remove(roots *r, root_entry *entry)
{
    HASH_DEL(r->by_name, entry);
    u64_store_release(&r->map->roots[entry - r->entries].name_bytes, 0);
    return 0;
}

int roots_set(roots *r, const uint8_t *name, size_t name_bytes, uint64_t offset)
{
    int e = name_check(name, name_bytes);
    root_entry *entry;
    enum object_verdict verdict;
    object_ref object;
    uint32_t at = 0;

    if (e != 0)
        return e;
    entry = root_lookup(r, name, name_bytes);
    if (offset == 0)
        return entry == NULL ? ROOTS_E_NO_SUCH : root_remove(r, entry);

    verdict = object_find(r->map, r->map->base + offset, &object);
    if (verdict != OBJECT_LIVE && (verdict != OBJECT_INTERIOR || !object_is_live(r->map, &object)))
        return ROOTS_E_NOT_LIVE;
    if (entry != NULL) {
        u64_store_release(&r->map->roots[entry - r->entries].offset, offset);
        return 0;
    }

    while (at < SHM_ROOTS_MAX && is_used(r, at))
        at++;
    if (at == SHM_ROOTS_MAX)
        return ROOTS_E_FULL;

    shm_root *root = &r->map->roots[at];

    if (at >= u32_load_relaxed(&r->map->header->nroot_entries))
        u32_store_release(&r->map->header->nroot_entries, at + 1);
    CRASH_POINT(root_after_entry);
    memset(root->name, 0, sizeof(root->name));
    memcpy(root->name, name, name_bytes);
    u64_store_relaxed(&root->offset, offset);
    CRASH_POINT(root_after_name);
    u64_store_release(&root->name_bytes, name_bytes);
    CRASH_POINT(root_after_set);
    if (!root_index(r, at)) {
        u64_store_release(&root->name_bytes, 0);
        return ROOTS_E_FULL;
    }
    return 0;
}

int roots_get(const roots *r, const uint8_t *name, size_t name_bytes, uint64_t *ret_offset)
{
    int e = name_check(name, name_bytes);
    const root_entry *entry;

    if (e != 0)
        return e;
    entry = root_lookup(r, name, name_bytes);
    if (entry == NULL)
        return ROOTS_E_NO_SUCH;
    *ret_offset = u64_load_relaxed(&r->map->roots[entry - r->entries].offset);
    return 0;
}

uint32_t roots_count(const roots *r)
{
    return HASH_COUNT(r->by_name);
}

uint32_t roots_next(const roots *r, uint32_t start)
{
    while (start < SHM_ROOTS_MAX && !is_used(r, start))
        start++;
    return start;
}

/* --- looking --- */

int roots_validate(const roots *r, FILE *err)
{
    uint32_t n = 0;

    for (uint32_t at = roots_next(r, 0); at < SHM_ROOTS_MAX; at = roots_next(r, at + 1)) {
        const shm_root *root = &r->map->roots[at];
        const uint8_t *name = (const uint8_t *)root->name;
        uint64_t name_bytes = u64_load_relaxed(&root->name_bytes);
        uint64_t offset = u64_load_relaxed(&root->offset);

        n++;
        if (name_check(name, name_bytes) != 0 || root_lookup(r, name, name_bytes) != &r->entries[at] || offset == 0 ||
            offset >= r->map->arena_bytes) {
            (void)fprintf(err, "roots: entry %u: %llu bytes of name, offset 0x%llx\n", at,
                          (unsigned long long)name_bytes, (unsigned long long)offset);
            return -EUCLEAN;
        }
    }
    if (n == HASH_COUNT(r->by_name))
        return 0;
    (void)fprintf(err, "roots: %u counted, %u found by name\n", n, HASH_COUNT(r->by_name));
    return -EUCLEAN;
}

void roots_dump(const roots *r, FILE *out)
{
    for (uint32_t at = roots_next(r, 0); at < SHM_ROOTS_MAX; at = roots_next(r, at + 1)) {
        const shm_root *root = &r->map->roots[at];

        (void)fprintf(out, "root %u: '%.*s' is 0x%llx\n", at, (int)u64_load_relaxed(&root->name_bytes), root->name,
                      (unsigned long long)u64_load_relaxed(&root->offset));
    }
}
