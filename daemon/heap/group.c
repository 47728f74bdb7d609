/*
 * Group: the table of groups, by which sessions own together.
 *
 * Called by session (join, end, a takeover), mcentral and lease (whose span is it, and has its owner ended) and
 * mheap_validate. Data: the group table in spans and the groups' tokens in the private memfd, written by this thread
 * alone; private groups with their mcentrals.
 *
 * An owner of objects is a number: that of a RECLAIM session without a group, or that of a group here. In both cases
 * the objects are freed when the owner ends; all that differs is when that is, and where spans are meanwhile that have
 * objects and no lessee:
 *
 *                     a session of its own                    a group
 *   ends              when the session does                   with its last session, and its last forked child
 *   its spans are     leased until then                       leased, or in the group's mcentrals, for its members
 *   is freed by       lease_end_some, from the leases         lease_end_some from leases, lease_end_group_some the rest
 *
 * The life of an entry (the state is in its word, one aligned store each):
 *
 *   FREE -- first session --> OPEN -- no living session, no child --> ENDING
 *    ^                                                                  |
 *    '-- no session has its number, no span and no adoption its owner --'
 *
 * Founding puts the sign of life on the shelf, writes the token, then uid, flags and name, then the word: OPEN, with
 * the next epoch. If the daemon dies before it, the entry is FREE. If it dies after it, the group has no session, and
 * the next daemon ends it. The session's entry names the group before its state leaves FREE, so a session that counts
 * has a group that counts.
 *
 * ENDING comes before the first of the group's objects is freed: whoever publishes one sets its kept bit and then looks
 * at the word (client/lib/owner.c), as for a session's state. If the daemon dies while the group ends, the next one
 * finds it ENDING, or OPEN without living sessions, and goes on; each span is as it was, or the heap's, or free. FREE
 * comes last, so a number that is used again is on no span.
 *
 * A group is found by its name and the founder's uid, or, by a forked child, whatever uid it has by then, by the token
 * that its parent was given. One that is ENDING is not found: who comes then founds another one of the same name.
 *
 * Whether a process of the family lives: its sign of life says (lifesign.h), which its members and their children have
 * mapped and nobody else has. It is one file for as long as the group is, whichever daemon serves. Members that join
 * while there are others get the same description of it (the door), so that a pool of any size is one lock. When no
 * session is left, the daemon closes its own descriptor of the door (group_lives): then who holds it is of the family.
 * Who joins after that, while a child lives, gets another description. There are LIFESIGN_DOORS at most, and processes
 * that keep so many, of as many generations, or set other locks there (lifesign.c), are refused another. All who have
 * one may drop its lock; what that ends is their own group.
 *
 * A group of sessions that only read has nobody who could write the heap (writes): a child has the mapping of its
 * parent. One in which a session ever was that is not read-only may have such a child, without a session, which only
 * the sign of life shows. The next daemon does not know, and takes each for one that may.
 *
 * Bounds: SHM_GROUPS_MAX groups, GROUPS_PER_UID_MAX of them founded by one uid, 13 KiB of private memory each. A group
 * has a session, or a process that has a session's descriptor; so it lasts as long as somebody lives who is of it.
 *
 * Invariants (group_table_validate, session_table_validate, mheap_validate): an entry is FREE iff there is no group;
 * else both say the same. nmembers and nliving are those of the session table. A span is in a group's mcentrals iff it
 * is CENTRAL and the group is its owner.
 */
#include "daemon/heap/group.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>
#include <unistr.h>

#include "shm/crash.h"

group_table *group_table_new(heapfile *file)
{
    group_table *table = calloc(1, sizeof(*table));

    if (table != NULL)
        table->file = file;
    return table;
}

static void close_door(group *g)
{
    if (g->door_fd >= 0)
        (void)close(g->door_fd);
    g->door_fd = -1;
}

static void group_remove(group_table *table, group *g)
{
    close_door(g);
    lifesign_end(&g->sign);
    table->groups[g->no.n - SHM_SESSIONS_MAX] = NULL;
    table->ngroups--;
    free(g);
}

/* The same, and the next daemon finds nothing of it. */
static void group_end(group_table *table, group *g)
{
    shelf_remove(table->file->shelf, g->no.n, g->epoch);
    group_remove(table, g);
}

group_table *group_table_free(group_table *table)
{
    if (table != NULL) {
        for (uint32_t i = 0; i < SHM_GROUPS_MAX; i++) {
            if (table->groups[i] != NULL)
                group_remove(table, table->groups[i]);
        }
        free(table);
    }
    return NULL;
}

static shm_group *entry_of(const group_table *table, owner_no no)
{
    return shm_group_at(&table->file->map, no.n);
}

const char *group_name(const group_table *table, const group *g)
{
    return entry_of(table, g->no)->name;
}

static uint8_t *token_of(const group_table *table, owner_no no)
{
    return table->file->private->group_tokens[no.n - SHM_SESSIONS_MAX];
}

const uint8_t *group_token(const group_table *table, const group *g)
{
    return token_of(table, g->no);
}

static void set_word(const group_table *table, const group *g, enum shm_group_state state)
{
    u64_store_release(&entry_of(table, g->no)->word, group_pack((group_word){ .state = state, .epoch = g->epoch }));
}

/* --- who is asked for --- */

/* True if the group is open and the token is its own. */
static bool has_token(const group_table *table, const group *g, const group_request *request)
{
    return g->state == SHM_GROUP_OPEN && heapfile_token_is(group_token(table, g), request->token, request->token_bytes);
}

static bool has_name(const group_table *table, const group *g, const group_request *request)
{
    const char *name = group_name(table, g);

    return g->state == SHM_GROUP_OPEN && g->uid == request->uid && strlen(name) == request->name_bytes &&
           memcmp(name, request->name, request->name_bytes) == 0;
}

/* NULL: there is none. *ret_nof_uid: groups of that uid. */
static group *find(const group_table *table, const group_request *request, uint32_t *ret_nof_uid)
{
    group *g = group_at(table, request->number);

    *ret_nof_uid = 0;
    if (g != NULL && has_token(table, g, request))
        return g;
    for (uint32_t i = 0; i < SHM_GROUPS_MAX; i++) {
        g = table->groups[i];
        if (g != NULL && has_name(table, g, request))
            return g;
        *ret_nof_uid += g != NULL && g->uid == request->uid;
    }
    return NULL;
}

/* An entry that is free, in turn, so that a number is used again as late as possible. There is one. */
static uint32_t free_entry(const group_table *table)
{
    uint32_t i = table->search_from;

    while (table->groups[i] != NULL)
        i = (i + 1) % SHM_GROUPS_MAX;
    return i;
}

/* The private part of an entry. NULL: no memory. */
static group *group_add(group_table *table, uint32_t i, uint32_t epoch, uint32_t uid, uint32_t flags)
{
    group *g = calloc(1, sizeof(*g));

    if (g == NULL)
        return NULL;
    g->no = (owner_no){ (uint16_t)(SHM_SESSIONS_MAX + i) };
    g->epoch = epoch;
    g->uid = uid;
    g->reclaims = flags & SESSION_RECLAIM;
    g->state = SHM_GROUP_OPEN;
    g->sign = LIFESIGN_NONE;
    g->door_fd = -1;
    table->groups[i] = g;
    table->ngroups++;
    return g;
}

static int group_found(group_table *table, const group_request *request, group **ret)
{
    shm_header *header = table->file->map.header;
    uint32_t i = free_entry(table);
    shm_group *entry = &table->file->map.groups[i];
    group *g =
        group_add(table, i, group_unpack(u64_load_relaxed(&entry->word)).epoch + 1, request->uid, request->flags);

    if (g == NULL)
        return GROUP_E_NO_MEMORY;
    if (lifesign_new(&g->sign) < 0 || shelf_put(table->file->shelf, g->no.n, g->epoch, g->sign.fd) < 0) {
        group_end(table, g);
        return GROUP_E_NO_SIGN;
    }
    CRASH_POINT(group_after_shelf);
    if (getrandom(token_of(table, g->no), SESSION_TOKEN_BYTES, 0) != (ssize_t)SESSION_TOKEN_BYTES) {
        group_end(table, g);
        return GROUP_E_NO_RANDOM;
    }
    table->search_from = (i + 1) % SHM_GROUPS_MAX;
    if (i >= u32_load_relaxed(&header->ngroup_entries))
        u32_store_release(&header->ngroup_entries, i + 1);
    entry->uid = g->uid;
    entry->flags = g->reclaims ? SESSION_RECLAIM : 0;
    u64_store_relaxed(&entry->profile, 0);
    memset(entry->reserved, 0, sizeof(entry->reserved));
    memset(entry->name, 0, sizeof(entry->name));
    memcpy(entry->name, request->name, request->name_bytes);
    CRASH_POINT(group_before_word);
    set_word(table, g, SHM_GROUP_OPEN);
    CRASH_POINT(group_after_word);
    *ret = g;
    return 0;
}

int group_find_or_found(group_table *table, const group_request *request, group **ret)
{
    uint32_t nof_uid;
    group *g;

    *ret = NULL;
    if (request->name_bytes == 0)
        return 0;
    if (request->name_bytes > SHM_GROUP_NAME_MAX)
        return GROUP_E_TOO_LONG;
    if (u8_check(request->name, request->name_bytes) != NULL || memchr(request->name, 0, request->name_bytes) != NULL)
        return GROUP_E_NOT_UTF8;
    g = find(table, request, &nof_uid);
    if (g == NULL && table->ngroups >= SHM_GROUPS_MAX)
        return GROUP_E_FULL;
    if (g == NULL && nof_uid >= GROUPS_PER_UID_MAX)
        return GROUP_E_UID_FULL;
    if (g == NULL)
        return group_found(table, request, ret);
    if (g->reclaims != ((request->flags & SESSION_RECLAIM) != 0))
        return GROUP_E_MODE;
    *ret = g;
    return 0;
}

/* --- life --- */

int group_life_fd(group *g)
{
    int fd;

    if (g->door_fd >= 0)
        return g->door_fd;
    fd = g->sign.fd < 0 ? -ENOENT : lifesign_fd(&g->sign);
    if (fd >= 0)
        g->door_fd = fd;
    return fd;
}

/* A sign that was not on the shelf, of a heap that is damaged, holds up nothing. */
bool group_lives(group *g)
{
    close_door(g);
    return g->sign.fd >= 0 && lifesign_is_held(&g->sign);
}

bool group_table_has_writers(const group_table *table)
{
    for (uint32_t i = 0; i < SHM_GROUPS_MAX && table->ngroups > 0; i++) {
        if (table->groups[i] != NULL && table->groups[i]->writes)
            return true;
    }
    return false;
}

/* --- the end --- */

void group_set_ending(group_table *table, group *g)
{
    g->state = SHM_GROUP_ENDING;
    set_word(table, g, SHM_GROUP_ENDING);
    CRASH_POINT(group_after_ending);
}

void group_forget(group_table *table, group *g)
{
    CRASH_POINT(group_before_free);
    set_word(table, g, SHM_GROUP_FREE);
    CRASH_POINT(group_after_free);
    group_end(table, g);
}

/* --- after another daemon --- */

int group_table_recover(group_table *table)
{
    const shm_map *map = &table->file->map;
    uint32_t nentries = u32_load_relaxed(&map->header->ngroup_entries);

    for (uint32_t i = 0; i < nentries && i < SHM_GROUPS_MAX; i++) {
        const shm_group *entry = &map->groups[i];
        group_word word = group_unpack(u64_load_relaxed(&entry->word));
        group *g;

        if (word.state == SHM_GROUP_FREE)
            continue;
        if (word.state > SHM_GROUP_ENDING || memchr(entry->name, 0, sizeof(entry->name)) == NULL ||
            (entry->flags & ~SESSION_RECLAIM) != 0)
            return -EUCLEAN;
        g = group_add(table, i, word.epoch, entry->uid, entry->flags);
        if (g == NULL)
            return -ENOMEM;
        g->state = word.state;
        g->writes = true; /* who has been of it before is not known */
        g->sign = lifesign_find(table->file->shelf, g->no.n, g->epoch);
    }
    return 0;
}

/* --- looking --- */

static bool entry_agrees(const group_table *table, uint32_t i)
{
    const shm_group *entry = &table->file->map.groups[i];
    group_word word = group_unpack(u64_load_relaxed(&entry->word));
    const group *g = table->groups[i];

    if (g == NULL)
        return word.state == SHM_GROUP_FREE;
    return word.state == g->state && word.state != SHM_GROUP_FREE && word.epoch == g->epoch && entry->uid == g->uid &&
           (entry->flags == SESSION_RECLAIM) == g->reclaims && g->no.n == SHM_SESSIONS_MAX + i &&
           g->nliving <= g->nmembers && (g->state == SHM_GROUP_OPEN || g->nliving == 0);
}

int group_table_validate(const group_table *table, FILE *err)
{
    uint32_t nentries = u32_load_relaxed(&table->file->map.header->ngroup_entries);
    uint32_t ngroups = 0;

    for (uint32_t i = 0; i < SHM_GROUPS_MAX; i++) {
        ngroups += table->groups[i] != NULL;
        /* Entries that were never used are not looked at: reading them would give the table memory. */
        if (i < nentries ? !entry_agrees(table, i) : table->groups[i] != NULL) {
            (void)fprintf(err, "group: entry %u of %u differs from its group\n", i, nentries);
            return -EUCLEAN;
        }
    }
    if (ngroups == table->ngroups)
        return 0;
    (void)fprintf(err, "group: %u there, %u noted\n", ngroups, table->ngroups);
    return -EUCLEAN;
}

void group_table_dump(const group_table *table, FILE *out)
{
    for (uint32_t i = 0; i < SHM_GROUPS_MAX; i++) {
        const group *g = table->groups[i];

        if (g != NULL)
            (void)fprintf(out, "group %u.%u: state %d, uid %u, %s, '%s', %u sessions, %u of them open or lost\n",
                          g->no.n, g->epoch, (int)g->state, g->uid, g->reclaims ? "reclaims" : "does not reclaim",
                          group_name(table, g), g->nmembers, g->nliving);
    }
}
