/*
 * Roots: the table of names in spans; a hash over it by name, and a list of it by place, in private memory.
 *
 * Called by the request handlers and, before pages are used for other objects, by lease. Data: shm_root entries,
 * roots_seq, and the tickets in the sessions' entries, written here alone. Hash and list are made from the entries at
 * the start. Names are checked here, whoever sends them: 1 to 255 bytes of UTF-8 without zero bytes.
 *
 *     not used --new name--> set <--change--> removed --(its entry is needed)--> another name, set
 *
 * A new root: nroot_entries, if the entry is above it; name and value, then current (release), which makes it exist. A
 * change: the value that does not count, then current, which makes it count. A removal is a change to offset 0. Another
 * name for an entry: current to 0, then as a new root. If the daemon dies in between, a root is as before or as after.
 *
 * A process whose connection was lost sends its last request again. For one that compares that must not be a second
 * try: it may have succeeded, and somebody else have changed the root since. So a change has a ticket. It stands in the
 * session's entry before the change (root_pending), in the value, and in the session's entry after it (root_done). A
 * session has one request under way, so root_done says of a request that comes again whether it was carried out. If the
 * daemon dies between the change and root_done, the root still has that value when the next one takes over (nobody else
 * has changed it), which sets root_done right.
 *
 * A root holds no object alive. That its object does not live any more is seen in two ways: by a lookup, from the bits;
 * and before the daemon gives the pages to anybody who could put another object there (roots_forget_dead). What remains
 * is an object that its lessee has freed, and a place that the same lessee has used again.
 *
 * Who waits for a root (client/lib/root.c) sleeps on roots_seq, a futex. It is a hint: who misses it looks again in a
 * while. At most WAKE_MAX are woken at once, since anybody who has spans mapped may sleep there, with any number of
 * threads, and the loop must not pay for that.
 *
 * Invariants (roots_validate, linear): an entry has a name iff the hash finds it by that name; a set one is in the list
 * of places once, at its offset, which lies in the arena; a removed one is in the list of removed ones.
 */
#include "daemon/heap/roots.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <unistr.h>

#define uthash_fatal(message) abort() /* not reached: HASH_NONFATAL_OOM reports instead */
#define HASH_NONFATAL_OOM     1
#define HASH_FUNCTION         HASH_SEEDED /* clients choose the names */
#include <uthash.h>
#include <utlist.h>

#include "daemon/heap/seededhash.h"
#include "shm/crash.h"
#include "shm/object.h"

#define WAKE_MAX 64

typedef struct root_entry {
    UT_hash_handle hh;       /* its key is the name in the table */
    struct root_entry *prev; /* in the list of removed ones */
    struct root_entry *next;
} root_entry;

/* Where a root that is set points to. */
typedef struct root_place {
    uint64_t offset;
    uint32_t entry;
} root_place;

struct roots {
    shm_map *map;
    root_entry *by_name;
    root_entry *removed;
    uint32_t nremoved;
    uint32_t nplaces;                   /* roots that are set */
    root_place places[SHM_ROOTS_MAX];   /* of them, by offset */
    root_entry entries[SHM_ROOTS_MAX];  /* one for each of the table */
    roots_change_fn *on_change;
    void *data; /* for it */
};

/* --- the table --- */

static shm_root *root_at(const roots *r, uint32_t at)
{
    return &r->map->roots[at];
}

static uint32_t number_of(const roots *r, const root_entry *entry)
{
    return (uint32_t)(entry - r->entries);
}

/* Entries that were never used are not read: that would give them memory. */
static uint32_t nentries(const roots *r)
{
    uint32_t n = u32_load_relaxed(&r->map->header->nroot_entries);

    return n < SHM_ROOTS_MAX ? n : SHM_ROOTS_MAX; /* it may be another daemon's */
}

static const shm_root_value *current_value(const shm_root *root)
{
    return &root->values[root_which(u64_load_relaxed(&root->current))];
}

static uint64_t offset_at(const roots *r, uint32_t at)
{
    return u64_load_relaxed(&current_value(root_at(r, at))->offset);
}

static bool has_name(const roots *r, uint32_t at)
{
    return at < nentries(r) && u64_load_relaxed(&root_at(r, at)->current) != 0;
}

static bool is_set(const roots *r, uint32_t at)
{
    return has_name(r, at) && offset_at(r, at) != 0;
}

root_name roots_name_at(const roots *r, uint32_t at)
{
    const shm_root *root = root_at(r, at);

    return (root_name){ (const uint8_t *)root->name, root_name_bytes(u64_load_relaxed(&root->current)) };
}

root_value roots_value_at(const roots *r, uint32_t at)
{
    const shm_root_value *value = current_value(root_at(r, at));
    uint64_t setter = u64_load_relaxed(&value->setter);

    return (root_value){
        .offset = u64_load_relaxed(&value->offset),
        .size = u64_load_relaxed(&value->size),
        .type_tag = u64_load_relaxed(&value->type_tag),
        .session = { (uint16_t)(setter >> 32) },
        .epoch = (uint32_t)setter,
        .ticket = (uint32_t)u64_load_relaxed(&value->ticket),
        .owner = (uint32_t)(u64_load_relaxed(&value->ticket) >> 32),
        .generation = u64_load_relaxed(&value->generation),
    };
}

static void value_write(const roots *r, shm_root_value *to, const root_value *value)
{
    u64_store_relaxed(&to->offset, value->offset);
    u64_store_relaxed(&to->size, value->size);
    u64_store_relaxed(&to->type_tag, value->type_tag);
    u64_store_relaxed(&to->setter, (uint64_t)value->session.n << 32 | value->epoch);
    u64_store_relaxed(&to->ticket, (uint64_t)value->owner << 32 | value->ticket);
    u64_store_relaxed(&to->generation, r->map->header->generation);
}

/* --- tickets --- */

/* The entry of the session, which is not 0. NULL: it has none, by what another daemon has written. */
static shm_session *session_entry(const roots *r, session_no session)
{
    return session.n != 0 && session.n < u32_load_relaxed(&r->map->header->nsession_entries) &&
                   session.n < SHM_SESSIONS_MAX
               ? &r->map->sessions[session.n]
               : NULL;
}

static uint64_t ticket_word(const root_value *value)
{
    return (uint64_t)value->epoch << 32 | value->ticket;
}

/* Before the change, and after it. */
static void note_pending(const roots *r, const root_value *value)
{
    shm_session *entry = session_entry(r, value->session);

    if (entry != NULL && value->ticket != 0)
        u64_store_release(&entry->root_pending, ticket_word(value));
    CRASH_POINT(root_after_pending);
}

static void note_done(const roots *r, const root_value *value)
{
    shm_session *entry = session_entry(r, value->session);

    if (entry != NULL && value->ticket != 0)
        u64_store_release(&entry->root_done, ticket_word(value));
    CRASH_POINT(root_after_done);
}

/* Another daemon may have died between the two. */
static void recover_done(const roots *r, uint32_t at)
{
    root_value value = roots_value_at(r, at);
    const shm_session *entry = session_entry(r, value.session);

    if (entry != NULL && u64_load_relaxed(&entry->root_pending) == ticket_word(&value))
        note_done(r, &value);
}

bool roots_has_done(const roots *r, session_no session, uint32_t epoch, uint32_t ticket)
{
    root_value value = { .session = session, .epoch = epoch, .ticket = ticket };
    const shm_session *entry = session_entry(r, session);

    return entry != NULL && ticket != 0 && u64_load_relaxed(&entry->root_done) == ticket_word(&value);
}

/* --- places --- */

/* The first place that is not before that of the entry at offset. */
static uint32_t place_search(const roots *r, uint64_t offset, uint32_t entry)
{
    uint32_t from = 0;
    uint32_t to = r->nplaces;

    while (from < to) {
        uint32_t middle = from + (to - from) / 2;
        const root_place *place = &r->places[middle];

        if (place->offset < offset || (place->offset == offset && place->entry < entry))
            from = middle + 1;
        else
            to = middle;
    }
    return from;
}

static void place_add(roots *r, uint32_t at, uint64_t offset)
{
    uint32_t i = place_search(r, offset, at);

    memmove(&r->places[i + 1], &r->places[i], (r->nplaces - i) * sizeof(r->places[0]));
    r->places[i] = (root_place){ offset, at };
    r->nplaces++;
}

static bool place_is_known(const roots *r, uint32_t at, uint64_t offset)
{
    uint32_t i = place_search(r, offset, at);

    return i < r->nplaces && r->places[i].offset == offset && r->places[i].entry == at;
}

static void place_remove(roots *r, uint32_t at, uint64_t offset)
{
    uint32_t i = place_search(r, offset, at);

    r->nplaces--;
    memmove(&r->places[i], &r->places[i + 1], (r->nplaces - i) * sizeof(r->places[0]));
}

/* The entry has a name and is at offset: it is in the list of places, or of removed ones. */
static void link_entry(roots *r, uint32_t at, uint64_t offset)
{
    if (offset != 0) {
        place_add(r, at, offset);
    } else {
        DL_APPEND(r->removed, &r->entries[at]);
        r->nremoved++;
    }
}

static void unlink_entry(roots *r, uint32_t at, uint64_t offset)
{
    if (offset != 0) {
        place_remove(r, at, offset);
    } else {
        DL_DELETE(r->removed, &r->entries[at]);
        r->nremoved--;
    }
}

/* --- names --- */

int root_name_check(root_name name)
{
    if (name.nbytes == 0)
        return ROOTS_E_EMPTY;
    if (name.nbytes >= SHM_ROOT_NAME_BYTES)
        return ROOTS_E_TOO_LONG;
    if (u8_check(name.bytes, name.nbytes) != NULL || memchr(name.bytes, 0, name.nbytes) != NULL)
        return ROOTS_E_NOT_UTF8;
    return 0;
}

/* The entry is found by its name, of that length. False: no memory. */
static bool index_name(roots *r, uint32_t at, size_t name_bytes)
{
    root_entry *entry = &r->entries[at];

    HASH_ADD_KEYPTR(hh, r->by_name, root_at(r, at)->name, name_bytes, entry);
    return entry->hh.tbl != NULL;
}

static root_entry *find_name(const roots *r, root_name name)
{
    root_entry *entry;

    HASH_FIND(hh, r->by_name, name.bytes, name.nbytes, entry);
    return entry;
}

/* --- set up --- */

/* True if nothing else is in the word than it has room for. */
static bool word_is_whole(const roots *r, uint32_t at)
{
    uint64_t current = u64_load_relaxed(&root_at(r, at)->current);

    return current == root_current_pack(root_name_bytes(current), root_which(current));
}

/* An entry as another daemon has left it, which may say anything. 0, -EUCLEAN, -ENOMEM. */
static int take_entry(roots *r, uint32_t at)
{
    root_name name = roots_name_at(r, at);
    uint64_t offset = offset_at(r, at);

    if (root_name_check(name) != 0 || find_name(r, name) != NULL || !word_is_whole(r, at) ||
        offset >= r->map->arena_bytes)
        return -EUCLEAN;
    if (!index_name(r, at, name.nbytes))
        return -ENOMEM;
    link_entry(r, at, offset);
    recover_done(r, at);
    return 0;
}

int roots_new(shm_map *map, roots **ret)
{
    roots *r = calloc(1, sizeof(*r));
    int e = 0;

    if (r == NULL)
        return -ENOMEM;
    r->map = map;
    for (uint32_t at = 0; at < nentries(r) && e == 0; at++) {
        if (has_name(r, at))
            e = take_entry(r, at);
    }
    if (e == 0)
        roots_wake(r); /* what another daemon knew of roots that were being made is gone */
    else
        r = roots_free(r);
    *ret = r;
    return e;
}

roots *roots_free(roots *r)
{
    if (r != NULL) {
        HASH_CLEAR(hh, r->by_name);
        free(r);
    }
    return NULL;
}

/* --- changes --- */

void roots_wake(roots *r)
{
    shm_u32 *seq = &r->map->header->roots_seq;

    u32_store_release(seq, u32_load_relaxed(seq) + 1);
    (void)syscall(SYS_futex, seq, FUTEX_WAKE, WAKE_MAX, NULL, NULL, 0);
}

void roots_on_change(roots *r, roots_change_fn *f, void *data)
{
    r->on_change = f;
    r->data = data;
}

/* Somebody may want to know what the entry has become. */
static void tell(const roots *r, uint32_t at)
{
    if (r->on_change != NULL)
        r->on_change(r->data, roots_name_at(r, at), is_set(r, at));
}

/* The words of a change: the entry has a name, and value counts from now on. */
static void write_change(roots *r, uint32_t at, const root_value *value)
{
    shm_root *root = root_at(r, at);
    uint64_t current = u64_load_relaxed(&root->current);
    uint32_t next = !root_which(current);

    note_pending(r, value);
    value_write(r, &root->values[next], value);
    CRASH_POINT(root_change_after_value);
    u64_store_release(&root->current, root_current_pack(root_name_bytes(current), next));
    CRASH_POINT(root_change_after_word);
    note_done(r, value);
    tell(r, at);
}

static void root_change(roots *r, uint32_t at, const root_value *value)
{
    unlink_entry(r, at, offset_at(r, at));
    write_change(r, at, value);
    link_entry(r, at, value->offset);
    roots_wake(r);
}

void roots_remove_at(roots *r, uint32_t at)
{
    root_change(r, at, &(root_value){ .offset = 0 });
}

/* An entry for a new name. False: all are set. */
static bool take_vacant(roots *r, uint32_t *ret_at)
{
    uint32_t n = nentries(r);

    for (uint32_t at = 0; r->nplaces + r->nremoved < n && at < n; at++) {
        if (!has_name(r, at)) { /* a daemon has died before it had a name */
            *ret_at = at;
            return true;
        }
    }
    if (r->removed != NULL) {
        *ret_at = number_of(r, r->removed);
        HASH_DEL(r->by_name, &r->entries[*ret_at]);
        unlink_entry(r, *ret_at, 0);
        u64_store_release(&root_at(r, *ret_at)->current, 0);
        CRASH_POINT(root_reuse_after_word);
        return true;
    }
    if (n == SHM_ROOTS_MAX)
        return false;
    u32_store_release(&r->map->header->nroot_entries, n + 1);
    CRASH_POINT(root_after_entry);
    *ret_at = n;
    return true;
}

static int root_add(roots *r, root_name name, const root_value *value)
{
    shm_root *root;
    uint32_t at;

    if (!take_vacant(r, &at))
        return ROOTS_E_FULL;
    root = root_at(r, at);
    memset(root->name, 0, sizeof(root->name));
    memcpy(root->name, name.bytes, name.nbytes);
    memset(root->reserved, 0, sizeof(root->reserved));
    if (!index_name(r, at, name.nbytes))
        return ROOTS_E_FULL;
    note_pending(r, value);
    value_write(r, &root->values[0], value);
    CRASH_POINT(root_after_name);
    u64_store_release(&root->current, root_current_pack(name.nbytes, 0));
    CRASH_POINT(root_after_set);
    note_done(r, value);
    place_add(r, at, value->offset);
    roots_wake(r);
    tell(r, at);
    return 0;
}

int roots_set(roots *r, root_name name, const root_value *value)
{
    int e = root_name_check(name);
    root_value then = *value;
    root_entry *entry;

    if (e != 0)
        return e;
    entry = find_name(r, name);
    if (value->offset == 0 && (entry == NULL || !is_set(r, number_of(r, entry))))
        return ROOTS_E_NO_SUCH;
    if (value->offset != 0 && roots_room(r, value->offset) == 0)
        return ROOTS_E_NOT_LIVE;
    if (entry == NULL)
        return root_add(r, name, value);
    if (is_set(r, number_of(r, entry)) && roots_value_at(r, number_of(r, entry)).owner != 0)
        then.owner = roots_value_at(r, number_of(r, entry)).owner;
    root_change(r, number_of(r, entry), &then);
    return 0;
}

int roots_compare_and_set(roots *r, root_name name, uint64_t expected, const root_value *value)
{
    int e = root_name_check(name);
    root_value now = { .offset = 0 };
    root_value then = *value;
    root_entry *entry;

    if (e != 0)
        return e;
    entry = find_name(r, name);
    if (entry != NULL)
        now = roots_value_at(r, number_of(r, entry));
    if (now.offset != expected && (expected != 0 || roots_room(r, now.offset) != 0))
        return ROOTS_E_ANOTHER;
    if (expected == 0 && then.offset == 0)
        return 0; /* there is none, and there is to be none */
    if (expected != 0)
        then.type_tag = now.type_tag;
    return roots_set(r, name, &then);
}

/* --- lookups --- */

uint64_t roots_room(const roots *r, uint64_t offset)
{
    object_ref object;
    enum object_verdict verdict =
        offset >= r->map->arena_bytes ? OBJECT_FOREIGN : object_find(r->map, r->map->base + offset, &object);

    if (verdict != OBJECT_LIVE && (verdict != OBJECT_INTERIOR || !object_is_live(r->map, &object)))
        return 0;
    return object.offset + object.bytes - offset;
}

int roots_get(roots *r, root_name name, root_value *ret)
{
    int e = root_name_check(name);
    const root_entry *entry;

    if (e != 0)
        return e;
    entry = find_name(r, name);
    if (entry == NULL || !is_set(r, number_of(r, entry)))
        return ROOTS_E_NO_SUCH;
    if (roots_room(r, offset_at(r, number_of(r, entry))) == 0) {
        roots_remove_at(r, number_of(r, entry));
        return ROOTS_E_NO_SUCH;
    }
    *ret = roots_value_at(r, number_of(r, entry));
    return 0;
}

/* In one pass: there may be as many roots in one place as there are roots. */
void roots_forget_dead(roots *r, page_no first, uint64_t npages)
{
    uint64_t end = page_offset(first) + npages * PAGE_BYTES;
    uint32_t i = place_search(r, page_offset(first), 0);
    uint32_t kept = i;

    for (; i < r->nplaces && r->places[i].offset < end; i++) {
        if (roots_room(r, r->places[i].offset) != 0) {
            r->places[kept++] = r->places[i];
        } else {
            write_change(r, r->places[i].entry, &(root_value){ .offset = 0 });
            link_entry(r, r->places[i].entry, 0);
        }
    }
    if (kept == i)
        return;
    memmove(&r->places[kept], &r->places[i], (r->nplaces - i) * sizeof(r->places[0]));
    r->nplaces -= i - kept;
    roots_wake(r);
}

uint32_t roots_count(const roots *r)
{
    return r->nplaces;
}

uint32_t roots_next(const roots *r, uint32_t start)
{
    uint32_t n = nentries(r);

    while (start < n && !is_set(r, start))
        start++;
    return start < n ? start : SHM_ROOTS_MAX;
}

/* --- looking --- */

static bool entry_is_whole(const roots *r, uint32_t at)
{
    root_name name = roots_name_at(r, at);
    uint64_t offset = offset_at(r, at);

    return root_name_check(name) == 0 && find_name(r, name) == &r->entries[at] && word_is_whole(r, at) &&
           offset < r->map->arena_bytes && (offset == 0 || place_is_known(r, at, offset));
}

static int validate_counters(const roots *r, FILE *err)
{
    uint32_t nset = 0;
    uint32_t nremoved = 0;
    uint32_t nlisted = 0;
    const root_entry *entry;

    for (uint32_t at = 0; at < nentries(r); at++) {
        nset += has_name(r, at) && offset_at(r, at) != 0;
        nremoved += has_name(r, at) && offset_at(r, at) == 0;
    }
    DL_FOREACH(r->removed, entry)
        nlisted += !is_set(r, number_of(r, entry));
    if (nset == r->nplaces && nremoved == r->nremoved && nremoved == nlisted &&
        nset + nremoved == HASH_COUNT(r->by_name))
        return 0;
    (void)fprintf(err, "roots: %u set and %u removed, %u places, %u of %u removed listed, %u found by name\n", nset,
                  nremoved, r->nplaces, nlisted, r->nremoved, HASH_COUNT(r->by_name));
    return -EUCLEAN;
}

int roots_validate_step(const roots *r, uint32_t *at, unsigned budget, FILE *err)
{
    for (; *at < nentries(r); (*at)++) {
        if (budget-- == 0)
            return VALIDATE_E_MORE;
        if (has_name(r, *at) && !entry_is_whole(r, *at)) {
            (void)fprintf(err, "roots: entry %u: word 0x%llx, offset 0x%llx\n", *at,
                          (unsigned long long)u64_load_relaxed(&root_at(r, *at)->current),
                          (unsigned long long)offset_at(r, *at));
            return -EUCLEAN;
        }
    }
    return validate_counters(r, err);
}

int roots_validate(const roots *r, FILE *err)
{
    uint32_t at = 0;

    return roots_validate_step(r, &at, UINT_MAX, err);
}

void roots_dump(const roots *r, FILE *out)
{
    for (uint32_t at = roots_next(r, 0); at < SHM_ROOTS_MAX; at = roots_next(r, at + 1)) {
        root_name name = roots_name_at(r, at);
        root_value value = roots_value_at(r, at);

        (void)fprintf(out, "root %u: '%.*s' is 0x%llx, of session %u.%u\n", at, (int)name.nbytes,
                      (const char *)name.bytes, (unsigned long long)value.offset, value.session.n, value.epoch);
    }
}
