/*
 * Session: opens and ends sessions, and says of each what state it is in.
 *
 * Called by request (attach, detach) and server (a process has died, slices of an end). Calls lease, for what a session
 * holds, and users, on which it counts. Data: the session table in spans, the tokens in the private memfd, and there
 * that the process of a new session is not known yet (deaths.c), written by this thread alone; the private sessions,
 * each of which is a lessee in the lease table.
 *
 * States of a session: OPEN -> ENDING (Detach, or its process has died) -> gone; OPEN -> LOST (the connection has
 * ended but the process lives, and might still write the alloc bits of its spans: they stay its own) -> ENDING when
 * it dies. One that is OPEN or LOST keeps its group (daemon/heap/group.h) from ending. A session does not end while
 * memory is being committed for it (the lessee's nops). Ending is done in slices, so others wait little.
 *
 * Invariants (session_table_validate, linear in sessions and spans): the entry in spans says what the session says;
 * and those of its leases and of the shelf.
 *
 * Collecting (request_collect.c): a word of the entry, 1 in one living entry at most. It means nothing in one that is
 * FREE, and is 0 before an entry is OPEN. died_epoch is written before the state is FREE: a span's origin (shm/origin.h)
 * is looked up by who finds the entry FREE. If the daemon dies in between, the next one ends the session once more.
 *
 * A label that changes is no single store: if the daemon dies in between, the next one finds a mixture of the two. That
 * is text with an end all the same, since the last byte of every label is 0; label_copy() makes what is no UTF-8
 * harmless; and the process, which got no reply, asks again.
 *
 * A new session: its sign of life, which is put on the shelf, token, fields (its group among them, which is OPEN),
 * epoch, then state. If the daemon dies before the state, the entry is FREE, and the next one closes the sign. If it
 * dies after it, the next one has the sign, and nobody holds it, so the session ends. A session has one sign for all of
 * its life, whichever daemon serves; it is taken from the shelf when the state is FREE.
 *
 * A group's end (session_group_end_step) is looked at when none of its sessions is OPEN or LOST any more. A forked
 * child that has not attached yet has the group's sign of life mapped, and the group waits for it.
 */
#include "daemon/serve/session.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>
#include <unistr.h>

#include "daemon/heap/intents.h"
#include "shm/crash.h"
#include "shm/probe.h"

/*
 * A label is for people, whoever sends it: UTF-8 without control characters, so that nothing in it moves a terminal's
 * cursor; a byte that is no UTF-8 becomes '?'. It is cut between characters.
 */
static void label_copy(char ret[SHM_LABEL_BYTES], const char *label)
{
    const uint8_t *at = (const uint8_t *)label;
    size_t left = strlen(label);
    size_t used = 0;

    while (left > 0) {
        ucs4_t c;
        int n = u8_mbtoucr(&c, at, left);
        bool plain = n > 0 && c >= 0x20 && (c < 0x7f || c > 0x9f);
        size_t nbytes = plain ? (size_t)n : 1;

        if (used + nbytes > SHM_LABEL_BYTES - 1)
            break;
        if (plain)
            memcpy(ret + used, at, nbytes);
        else
            ret[used] = '?';
        used += nbytes;
        at += n > 0 ? n : 1;
        left -= n > 0 ? (size_t)n : 1;
    }
    memset(ret + used, 0, SHM_LABEL_BYTES - used);
}

void session_table_init(session_table *table, mheap *heap)
{
    *table = (session_table){ .leases.heap = heap };
}

void session_table_end(session_table *table)
{
    for (uint32_t no = 0; no < SHM_SESSIONS_MAX; no++) {
        session *s = session_at(table, no);

        if (s != NULL) {
            offers_end(&s->lessee.offers);
            lifesign_end(&s->sign);
        }
        free(s);
        table->leases.lessees[no] = NULL;
    }
}

static shm_session *entry_of(const session_table *table, session_no no)
{
    return &table->leases.heap->map->sessions[no.n];
}

/* A session in one of these states keeps its group from ending. */
static bool is_living(enum shm_session_state state)
{
    return state == SHM_SESSION_OPEN || state == SHM_SESSION_LOST;
}

void session_set_state(session_table *table, session *s, enum shm_session_state state)
{
    if (s->group != NULL) {
        s->group->nliving += is_living(state);
        s->group->nliving -= is_living(s->state);
        s->group->waits &= s->group->nliving == 0;
    }
    if (s->user != NULL && s->counts_as_lost != (state == SHM_SESSION_LOST)) {
        s->counts_as_lost = !s->counts_as_lost;
        if (s->counts_as_lost)
            users_count_always(table->users, s->user, LIMIT_UID_LOST, 1);
        else
            users_uncount(table->users, s->user, LIMIT_UID_LOST, 1);
    }
    table->nending += state == SHM_SESSION_ENDING;
    table->nending -= s->state == SHM_SESSION_ENDING;
    table->nlost += state == SHM_SESSION_LOST;
    table->nlost -= s->state == SHM_SESSION_LOST;
    s->state = state;
    u32_store_release(&entry_of(table, s->lessee.no)->state, state);
}

/* --- whose they are --- */

static void set_limit(const session_table *table, session *s)
{
    uint64_t bytes = table->users == NULL ? s->asked_bytes : limits_of_session(table->users->limits, s->asked_bytes);

    s->lessee.limit_pages = bytes / PAGE_BYTES + (bytes % PAGE_BYTES != 0);
}

static void set_group_limit(const session_table *table, session *s)
{
    if (s->group != NULL)
        s->group->quota.limit_pages = table->users->limits->max[LIMIT_GROUP_BYTES] / PAGE_BYTES;
}

/* What it holds counts on its user, and on its group. */
static int count_on_user(session_table *table, session *s)
{
    if (table->users == NULL)
        return 0;
    s->user = users_find(table->users, s->uid);
    if (s->user == NULL)
        return -ENOMEM;
    users_count_always(table->users, s->user, LIMIT_UID_SESSIONS, 1);
    lease_add_quota(&s->lessee, &s->user->quota);
    s->lessee.left_quota = &s->user->left;
    s->commits.whole = &s->user->commits;
    set_limit(table, s);
    set_group_limit(table, s);
    if (s->group != NULL)
        lease_add_quota(&s->lessee, &s->group->quota);
    return 0;
}

/* A session that another daemon had is lost without its user's doing, and does not count as such. */
int session_table_count_on(session_table *table, users *accounts)
{
    int r = 0;

    table->users = accounts;
    for (uint32_t no = 1; no < SHM_SESSIONS_MAX && r == 0; no++) {
        if (session_at(table, no) != NULL)
            r = count_on_user(table, session_at(table, no));
    }
    return r;
}

void session_table_set_limits(session_table *table)
{
    for (uint32_t no = 1; no < SHM_SESSIONS_MAX; no++) {
        session *s = session_at(table, no);

        if (s == NULL)
            continue;
        set_limit(table, s);
        set_group_limit(table, s);
    }
}

enum limit session_forbidden_by(const session_table *table, const user *who)
{
    uint64_t reserve = table->users->limits->max[LIMIT_RESERVE];

    if (who->privileged)
        return LIMITS;
    if (!users_allows(table->users, who, LIMIT_UID_SESSIONS, 1))
        return LIMIT_UID_SESSIONS;
    if (!users_allows(table->users, who, LIMIT_UID_LOST, 1))
        return LIMIT_UID_LOST;
    return table->nopen + reserve >= SHM_SESSIONS_MAX - 1 ? LIMIT_RESERVE : LIMITS;
}

/* A session of that number, which is free: a lessee that holds nothing. NULL: no memory. */
static session *session_add(session_table *table, session_no no, uint32_t epoch, const session_request *request)
{
    session *s = calloc(1, sizeof(*s));

    if (s == NULL)
        return NULL;
    s->lessee.no = no;
    s->lessee.epoch = epoch;
    s->group = request->group;
    if (request->flags & SESSION_RECLAIM)
        s->lessee.owner = s->group != NULL ? s->group->no : (owner_no){ no.n };
    s->asked_bytes = request->asked_bytes;
    set_limit(table, s);
    s->sign = LIFESIGN_NONE;
    s->flags = request->flags;
    s->pid = request->pid;
    s->uid = request->uid;
    label_copy(s->label, request->label);
    if (s->group != NULL) {
        s->group->nmembers++;
        s->group->writes |= (request->flags & SESSION_READONLY) == 0;
        s->group_uid = s->group->uid;
        memcpy(s->group_name, group_name(table->leases.heap->groups, s->group), sizeof(s->group_name));
    }
    lease_add_lessee(&table->leases, &s->lessee);
    table->nopen++;
    if (count_on_user(table, s) == 0)
        return s;
    session_forget(table, s);
    return NULL;
}

static void end_sign(const session_table *table, session *s)
{
    if (s->sign.fd >= 0)
        shelf_remove(table->leases.heap->file->shelf, s->lessee.no.n, s->lessee.epoch);
    lifesign_end(&s->sign);
}

void session_forget(session_table *table, session *s)
{
    session_set_state(table, s, SHM_SESSION_FREE);
    if (s->group != NULL)
        s->group->nmembers--;
    lease_remove_lessee(&s->lessee);
    if (s->user != NULL)
        users_uncount(table->users, s->user, LIMIT_UID_SESSIONS, 1);
    end_sign(table, s);
    table->nopen--;
    free(s);
}

/* A number that no session has, in turn, so that a number is used again as late as possible. 0: there is none. */
static session_no free_number(const session_table *table)
{
    for (uint32_t i = 0; i < SHM_SESSIONS_MAX; i++) {
        uint16_t no = (uint16_t)((table->search_from + 1 + i) % SHM_SESSIONS_MAX);

        if (no != 0 && session_at(table, no) == NULL)
            return (session_no){ no };
    }
    return (session_no){ 0 };
}

/* Its sign of life, for this daemon and the next. 0, SESSION_E_*. */
static int make_sign(const session_table *table, session *s)
{
    if (lifesign_new(&s->sign) < 0)
        return SESSION_E_NO_SIGN;
    CRASH_POINT(session_after_sign);
    if (shelf_put(table->leases.heap->file->shelf, s->lessee.no.n, s->lessee.epoch, s->sign.fd) < 0)
        return SESSION_E_NO_SHELF;
    CRASH_POINT(session_after_shelf);
    return 0;
}

/* What its entry in spans says of its group. */
static uint32_t group_word_of(const session *s)
{
    return s->group != NULL ? s->group->no.n : s->lessee.owner.n;
}

int session_open(session_table *table, const session_request *request, session **ret)
{
    shm_map *map = table->leases.heap->map;
    session_no no = free_number(table);
    shm_session *entry = entry_of(table, no);
    session *s;
    int r;

    if (no.n == 0)
        return SESSION_E_NO_ENTRY;
    s = session_add(table, no, u32_load_relaxed(&entry->epoch) + 1, request);
    if (s == NULL)
        return SESSION_E_NO_MEMORY;
    r = make_sign(table, s);
    if (r != 0) {
        session_forget(table, s);
        return r;
    }
    if (getrandom(table->leases.heap->file->private->tokens[no.n], SESSION_TOKEN_BYTES, 0) !=
        (ssize_t)SESSION_TOKEN_BYTES) {
        session_forget(table, s);
        return SESSION_E_NO_RANDOM;
    }
    u64_store_release(&table->leases.heap->file->private->processes[no.n].pidfd_ino, 0); /* deaths.c knows it soon */
    table->search_from = no.n;
    if (no.n >= u32_load_relaxed(&map->header->nsession_entries))
        u32_store_release(&map->header->nsession_entries, no.n + 1u);
    CRASH_POINT(session_after_token);
    for (size_t i = 0; i < SHM_COUNTERS_WORDS; i++)
        u64_store_relaxed(&shm_counters(map, no)[i], 0);
    entry->flags = s->flags;
    entry->pid = s->pid;
    entry->uid = s->uid;
    entry->limit_bytes = s->asked_bytes; /* the next daemon may have another limit for it */
    entry->opened_ms = s->opened_ms = shm_clock_ms();
    entry->group = group_word_of(s);
    entry->minor = request->knows.minor;
    entry->knows_needed = request->knows.needed;
    entry->knows_writing = request->knows.writing;
    u64_store_relaxed(&entry->profile, s->profile = request->profile);
    u32_store_relaxed(&entry->collecting, 0); /* died_epoch stays: it is of those before */
    memset(entry->reserved, 0, sizeof(entry->reserved));
    memcpy(entry->label, s->label, sizeof(entry->label));
    u32_store_release(&entry->epoch, s->lessee.epoch);
    CRASH_POINT(session_before_state);
    session_set_state(table, s, SHM_SESSION_OPEN);
    CRASH_POINT(session_after_state);
    PROBE(goallocd, session_begin, no.n, s->pid, s->uid, s->label, s->group_name);
    *ret = s;
    return 0;
}

void session_set_label(session_table *table, session *s, const char *label)
{
    char *shown = entry_of(table, s->lessee.no)->label;

    label_copy(s->label, label);
    memcpy(shown, s->label, SHM_LABEL_BYTES / 2);
    CRASH_POINT(label_half);
    memcpy(shown + SHM_LABEL_BYTES / 2, s->label + SHM_LABEL_BYTES / 2, SHM_LABEL_BYTES / 2);
}

void session_set_profile(session_table *table, session *s, uint64_t word)
{
    s->profile = word;
    u64_store_release(&entry_of(table, s->lessee.no)->profile, word);
}

void session_set_collecting(session_table *table, session *s, bool collecting)
{
    s->collecting = collecting;
    s->collect_nleases = collecting ? u64_load_relaxed(&table->leases.heap->map->header->nleases) : 0;
    u32_store_release(&entry_of(table, s->lessee.no)->collecting, collecting);
}

bool session_has_token(const session_table *table, const session *s, const uint8_t *token, size_t len_bytes)
{
    return heapfile_token_is(table->leases.heap->file->private->tokens[s->lessee.no.n], token, len_bytes);
}

uint64_t session_age_ms(const session *s)
{
    uint64_t until = s->ended_ms != 0 ? s->ended_ms : shm_clock_ms();

    return s->opened_ms != 0 && s->opened_ms < until ? until - s->opened_ms : 0;
}

session *session_named(const session_table *table, uint32_t no, uint32_t epoch)
{
    session *s = no > 0 && no < SHM_SESSIONS_MAX ? session_at(table, no) : NULL;

    return s != NULL && (epoch == 0 || epoch == s->lessee.epoch) ? s : NULL;
}

/* --- after another daemon --- */

/* Take over an entry that is in use. 0, -ENOMEM, -EUCLEAN. */
static int recover_entry(session_table *table, session_no no)
{
    const shm_session *entry = entry_of(table, no);
    uint32_t state = u32_load_relaxed(&entry->state);
    group *g = group_at(table->leases.heap->groups, entry->group);
    session_request request = { .flags = entry->flags, .pid = entry->pid, .uid = entry->uid,
                                .asked_bytes = entry->limit_bytes, .label = entry->label, .group = g };
    session *s;

    if (state > SHM_SESSION_ENDING || (entry->flags & ~(SESSION_RECLAIM | SESSION_READONLY)) != 0 ||
        memchr(entry->label, 0, sizeof(entry->label)) == NULL ||
        (g == NULL && entry->group != (entry->flags & SESSION_RECLAIM ? no.n : 0)) ||
        (g != NULL && (g->reclaims != ((entry->flags & SESSION_RECLAIM) != 0) ||
                       (g->state == SHM_GROUP_ENDING && state != SHM_SESSION_ENDING))))
        return -EUCLEAN;
    s = session_add(table, no, u32_load_relaxed(&entry->epoch), &request); /* an older daemon's label may be anything */
    if (s == NULL)
        return -ENOMEM;
    s->opened_ms = entry->opened_ms;
    s->profile = u64_load_relaxed(&entry->profile);
    s->collecting = u32_load_relaxed(&entry->collecting) != 0;
    s->sign = lifesign_find(table->leases.heap->file->shelf, no.n, s->lessee.epoch);
    session_set_state(table, s, state == SHM_SESSION_ENDING ? SHM_SESSION_ENDING : SHM_SESSION_LOST);
    return 0;
}

int session_table_recover(session_table *table, mheap *heap, const char **ret_why)
{
    uint32_t nentries = u32_load_relaxed(&heap->map->header->nsession_entries);
    int r = group_table_recover(heap->groups);

    session_table_init(table, heap);
    *ret_why = NULL;
    for (uint16_t no = 1; no < nentries && no < SHM_SESSIONS_MAX && r == 0; no++) {
        if (u32_load_relaxed(&heap->map->sessions[no].state) == SHM_SESSION_FREE)
            continue;
        r = recover_entry(table, (session_no){ no });
        CRASH_POINT(recover_half_sessions);
    }
    shelf_forget_rest(heap->file->shelf);
    if (r == -EUCLEAN)
        *ret_why = "the table of sessions or groups is damaged";
    if (r == 0) {
        r = lease_table_recover(&table->leases);
        if (r == -EUCLEAN)
            *ret_why = "a span's owner is not that of the session that leases it";
    }
    if (r < 0)
        session_table_end(table);
    return r;
}

/* --- the end --- */

/* What it has left in its group's spans is the group's. */
static void leave_group(session *s)
{
    if (s->group != NULL)
        s->group->nmembers--;
    s->group = NULL;
}

enum session_group_end session_group_end_step(session_table *table, group *g, unsigned budget)
{
    mheap *heap = table->leases.heap;

    assert(g->nliving == 0);
    if (g->state == SHM_GROUP_OPEN) {
        g->waits = group_lives(g);
        if (g->waits)
            return GROUP_WAITS_FOR_CHILD;
        group_set_ending(heap->groups, g);
    }
    if (g->nmembers > 0)
        return GROUP_WAITS_FOR_SESSIONS;
    if (!lease_end_group_some(&table->leases, g, budget))
        return GROUP_HAS_MORE;
    group_forget(heap->groups, g);
    return GROUP_IS_GONE;
}

bool session_end_step(session_table *table, session *s, unsigned budget)
{
    session *ended;

    if (!s->settled)
        intents_settle(&table->leases, s->lessee.no); /* before its leases: what it unlinks may lie in its spans */
    s->settled = true;
    if (!lease_end_some(&s->lessee, budget))
        return false;
    if (table->nended >= SESSIONS_ENDED_MAX)
        left_forget_owner(table->leases.heap->left, table->ended[table->nended % SESSIONS_ENDED_MAX].lessee.left);
    offers_end(&s->lessee.offers);
    leave_group(s);
    ended = &table->ended[table->nended++ % SESSIONS_ENDED_MAX];
    *ended = *s;
    ended->state = s->detached ? SHM_SESSION_DETACHED : SHM_SESSION_DIED;
    ended->ended_ms = shm_clock_ms();
    ended->counted = (census_lessee){ 0 };
    table->ndied += !s->detached;
    if (!s->detached)
        u32_store_release(&entry_of(table, s->lessee.no)->died_epoch, s->lessee.epoch);
    CRASH_POINT(session_after_died);
    ended->user = NULL;
    ended->sign = LIFESIGN_NONE;
    memset(ended->lessee.quotas, 0, sizeof(ended->lessee.quotas));
    ended->lessee.left_quota = NULL;
    session_forget(table, s);
    return true;
}

/* --- looking --- */

static bool entry_agrees(const session_table *table, uint32_t no)
{
    const shm_session *entry = &table->leases.heap->map->sessions[no];
    const session *s = session_at(table, no);

    if (s == NULL)
        return u32_load_relaxed(&entry->state) == SHM_SESSION_FREE;
    return u32_load_relaxed(&entry->state) == (uint32_t)s->state && s->state != SHM_SESSION_FREE &&
           u32_load_relaxed(&entry->epoch) == s->lessee.epoch && entry->flags == s->flags && entry->pid == s->pid &&
           entry->uid == s->uid && (s->lessee.owner.n != 0) == ((s->flags & SESSION_RECLAIM) != 0) &&
           entry->group == group_word_of(s) && u64_load_relaxed(&entry->profile) == s->profile &&
           (u32_load_relaxed(&entry->collecting) != 0) == s->collecting;
}

/* The groups' members, counted from the sessions. */
static int validate_groups(const session_table *table, FILE *err)
{
    static uint32_t nmembers[SHM_GROUPS_MAX];
    static uint32_t nliving[SHM_GROUPS_MAX];
    const group_table *groups = table->leases.heap->groups;

    memset(nmembers, 0, sizeof(nmembers));
    memset(nliving, 0, sizeof(nliving));
    for (uint32_t no = 1; no < SHM_SESSIONS_MAX; no++) {
        const session *s = session_at(table, no);

        if (s == NULL || s->group == NULL)
            continue;
        nmembers[s->group->no.n - SHM_SESSIONS_MAX]++;
        nliving[s->group->no.n - SHM_SESSIONS_MAX] += is_living(s->state);
    }
    for (uint32_t i = 0; i < SHM_GROUPS_MAX; i++) {
        const group *g = groups->groups[i];

        if (g != NULL && (g->nmembers != nmembers[i] || g->nliving != nliving[i])) {
            (void)fprintf(err, "group: %u has %u sessions, %u of them living; noted %u and %u\n", g->no.n, nmembers[i],
                          nliving[i], g->nmembers, g->nliving);
            return -EUCLEAN;
        }
    }
    return 0;
}

static int validate_entries(const session_table *table, FILE *err)
{
    uint32_t nentries = u32_load_relaxed(&table->leases.heap->map->header->nsession_entries);
    uint32_t nopen = 0;
    uint32_t nending = 0;
    uint32_t nlost = 0;

    for (uint32_t no = 1; no < SHM_SESSIONS_MAX; no++) {
        nopen += session_at(table, no) != NULL;
        nending += session_at(table, no) != NULL && session_at(table, no)->state == SHM_SESSION_ENDING;
        nlost += session_at(table, no) != NULL && session_at(table, no)->state == SHM_SESSION_LOST;
        /* Entries that were never used are not looked at: reading them would give the table memory. */
        if (no < nentries ? !entry_agrees(table, no) : session_at(table, no) != NULL) {
            (void)fprintf(err, "session: entry %u of %u differs from its session\n", no, nentries);
            return -EUCLEAN;
        }
    }
    if (nopen == table->nopen && nending == table->nending && nlost == table->nlost)
        return 0;
    (void)fprintf(err, "session: %u there, %u of them ending, %u lost; noted %u, %u and %u\n", nopen, nending, nlost,
                  table->nopen, table->nending, table->nlost);
    return -EUCLEAN;
}

int session_table_validate_begin(session_table *table, FILE *err)
{
    if (validate_entries(table, err) < 0 || validate_groups(table, err) < 0 ||
        shelf_validate(table->leases.heap->file->shelf, err) < 0)
        return -EUCLEAN;
    return lease_validate_begin(&table->leases, err);
}

int session_table_validate_step(session_table *table, unsigned budget, FILE *err)
{
    return lease_validate_step(&table->leases, budget, err);
}

int session_table_validate(session_table *table, FILE *err)
{
    int r = session_table_validate_begin(table, err);

    return r < 0 ? r : session_table_validate_step(table, UINT_MAX, err);
}

void session_table_dump(const session_table *table, FILE *out)
{
    for (uint32_t no = 1; no < SHM_SESSIONS_MAX; no++) {
        const session *s = session_at(table, no);

        if (s == NULL)
            continue;
        (void)fprintf(out, "session %u.%u: state %d, flags %u, pid %u, '%s'", no, s->lessee.epoch, (int)s->state,
                      s->flags, s->pid, s->label);
        (void)fprintf(out, ", %llu pages in %llu spans, %u operations\n", (unsigned long long)s->lessee.nheld_pages,
                      (unsigned long long)s->lessee.leased.count, s->lessee.nops);
    }
}
