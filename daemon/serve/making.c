/*
 * Making: reservations of names, while a process makes the object that is to be the root.
 *
 * Called by request_root.c (from a message to a change), requests.c (a session comes back), rounds.c (it ends). Calls
 * nobody but for the bits of an object. Data: private to the daemon. If it dies, the reservations are gone, and a
 * process that comes to an end of its work hears so, frees its object and asks again.
 *
 *     nothing --RootReserve--> VALID --root_finish--> the root, and nothing
 *                                |---RootGiveBack, root_finish that is refused, the session's end--> nothing
 *                                '---its session is lost, and another asks, or it comes back--> VOID
 *     VOID --RootGiveBack, the session's end--> nothing
 *
 * A reservation has its session's number, epoch and a ticket, which the client chooses: so a request that comes twice,
 * because the reply was lost, finds what the first one has done. Of one name there is one that is valid, and no wait is
 * tied to it: who asks meanwhile is told that it is being made, and asks again (client/lib/root.c).
 *
 * The object: between its allocation and the root's change it is known to nobody but the process that makes it, and
 * in a session that does not reclaim it would stay for ever if that dies. So the process names it (root_announce)
 * before it begins to work on it, and the end of the session frees it, if the reservation is still there. For that the
 * process gives the reservation back before it frees the object itself, and a reservation that is void is kept until
 * then. The client could name any object here; but it could free any by itself.
 *
 * Bounds: SHM_MAKING_MAX a session, void ones included, of which the oldest makes room; MAKING_UID_MAX for a uid,
 * MAKING_MAX for all. To begin is linear in what is being made, some microseconds.
 *
 * Invariants (making_validate): what is valid is found by its name; counters are those of the lists.
 */
#include "daemon/serve/making.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define uthash_fatal(message) abort() /* not reached: HASH_NONFATAL_OOM reports instead */
#define HASH_NONFATAL_OOM     1
#define HASH_FUNCTION         HASH_SEEDED /* clients choose the names */
#include <uthash.h>
#include <utlist.h>

#include "daemon/heap/seededhash.h"
#include "shm/object.h"

struct making {
    making_request what; /* its name lies in name */
    session_no session;
    uint32_t epoch;
    uint32_t uid;
    bool is_void;
    uint64_t offset; /* of the object; 0: not announced */
    UT_hash_handle hh;
    making *prev; /* of the session, the oldest first */
    making *next;
    uint8_t name[SHM_ROOT_NAME_BYTES];
};

session_no making_session(const making *m)
{
    return m->session;
}

uint32_t making_epoch(const making *m)
{
    return m->epoch;
}

const making_request *making_what(const making *m)
{
    return &m->what;
}

void making_set_object(making *m, uint64_t offset)
{
    m->offset = offset;
}

making *making_find(const making_table *table, root_name name)
{
    making *m;

    HASH_FIND(hh, table->by_name, name.bytes, name.nbytes, m);
    return m;
}

static bool has_name(const making *m, root_name name)
{
    return m->what.name.nbytes == name.nbytes && memcmp(m->name, name.bytes, name.nbytes) == 0;
}

/* Valid or not. */
static making *find_ticket(const making_table *table, const session *s, root_name name, uint32_t ticket)
{
    making *m = table->of_session[s->lessee.no.n];

    while (m != NULL && (m->what.ticket != ticket || m->epoch != s->lessee.epoch || !has_name(m, name)))
        m = m->next;
    return m;
}

making *making_of(const making_table *table, const session *s, root_name name, uint32_t ticket)
{
    making *m = find_ticket(table, s, name, ticket);

    return m != NULL && !m->is_void ? m : NULL;
}

void making_void(making_table *table, making *m)
{
    if (m->is_void)
        return;
    HASH_DEL(table->by_name, m);
    m->is_void = true;
}

static void forget(making_table *table, making *m)
{
    making_void(table, m);
    DL_DELETE(table->of_session[m->session.n], m);
    table->nof_session[m->session.n]--;
    table->n--;
    free(m);
}

void making_table_end(making_table *table)
{
    for (uint32_t no = 0; no < SHM_SESSIONS_MAX; no++) {
        while (table->of_session[no] != NULL)
            forget(table, table->of_session[no]);
    }
}

static uint32_t count_uid(const making_table *table, uint32_t uid)
{
    uint32_t n = 0;

    for (const making *m = table->by_name; m != NULL; m = m->hh.next)
        n += m->uid == uid;
    return n;
}

/* Room for one more of the session: if it has too many, the oldest that is void goes. */
static bool make_room(making_table *table, session_no no)
{
    making *m = table->of_session[no.n];

    if (table->nof_session[no.n] < SHM_MAKING_MAX)
        return true;
    while (m != NULL && !m->is_void)
        m = m->next;
    if (m != NULL)
        forget(table, m);
    return m != NULL;
}

int making_begin(making_table *table, const session *s, const making_request *request, making **ret)
{
    making *m;

    if (!make_room(table, s->lessee.no))
        return MAKING_E_SESSION_FULL;
    if (count_uid(table, s->uid) >= MAKING_UID_MAX)
        return MAKING_E_UID_FULL;
    m = table->n < MAKING_MAX ? calloc(1, sizeof(*m)) : NULL;
    if (m == NULL)
        return MAKING_E_FULL;
    memcpy(m->name, request->name.bytes, request->name.nbytes);
    m->what = *request;
    m->what.name.bytes = m->name;
    m->session = s->lessee.no;
    m->epoch = s->lessee.epoch;
    m->uid = s->uid;
    HASH_ADD_KEYPTR(hh, table->by_name, m->name, request->name.nbytes, m);
    if (m->hh.tbl == NULL) {
        free(m);
        return MAKING_E_FULL;
    }
    DL_APPEND(table->of_session[m->session.n], m);
    table->nof_session[m->session.n]++;
    table->n++;
    *ret = m;
    return 0;
}

bool making_void_session(making_table *table, const session *s)
{
    making *m = table->of_session[s->lessee.no.n];
    bool any = false;

    for (making *next; m != NULL; m = next) {
        next = m->next;
        any |= !m->is_void;
        making_void(table, m);
    }
    return any;
}

size_t making_objects(const making_table *table, uint64_t *ret, size_t max)
{
    size_t n = 0;

    for (uint32_t no = 0; no < SHM_SESSIONS_MAX && table->n > 0; no++) {
        for (const making *m = table->of_session[no]; m != NULL && n < max; m = m->next) {
            if (m->offset != 0)
                ret[n++] = m->offset;
        }
    }
    return n;
}

bool making_drop(making_table *table, const session *s, root_name name, uint32_t ticket)
{
    making *m = find_ticket(table, s, name, ticket);

    if (m != NULL)
        forget(table, m);
    return m != NULL;
}

bool making_end_session(making_table *table, const session *s, const shm_map *map)
{
    making **first = &table->of_session[s->lessee.no.n];
    bool any = *first != NULL;

    while (*first != NULL) {
        uint64_t offset = (*first)->offset;
        object_ref object;

        if (offset != 0 && object_find(map, map->base + offset, &object) == OBJECT_LIVE)
            (void)object_free_remote(map, &object);
        forget(table, *first);
    }
    return any;
}

int making_validate(const making_table *table, FILE *err)
{
    uint32_t n = 0;
    uint32_t nvalid = 0;

    for (uint32_t no = 0; no < SHM_SESSIONS_MAX; no++) {
        uint32_t of_session = 0;

        for (const making *m = table->of_session[no]; m != NULL; m = m->next) {
            of_session++;
            nvalid += !m->is_void;
            if (m->session.n != no || (making_find(table, m->what.name) == m) == m->is_void) {
                (void)fprintf(err, "making: '%s' of session %u is %svalid, and not found as such\n", m->name, no,
                              m->is_void ? "not " : "");
                return -EUCLEAN;
            }
        }
        n += of_session;
        if (of_session != table->nof_session[no]) {
            (void)fprintf(err, "making: session %u makes %u, and counts %u\n", no, of_session, table->nof_session[no]);
            return -EUCLEAN;
        }
    }
    if (n == table->n && nvalid == HASH_COUNT(table->by_name))
        return 0;
    (void)fprintf(err, "making: %u, %u valid; counted as %u, %u\n", n, nvalid, table->n, HASH_COUNT(table->by_name));
    return -EUCLEAN;
}

void making_dump(const making_table *table, FILE *out)
{
    for (uint32_t no = 0; no < SHM_SESSIONS_MAX; no++) {
        for (const making *m = table->of_session[no]; m != NULL; m = m->next)
            (void)fprintf(out, "making: '%s' by session %u.%u%s, object 0x%llx\n", m->name, no, m->epoch,
                          m->is_void ? ", void" : "", (unsigned long long)m->offset);
    }
}
