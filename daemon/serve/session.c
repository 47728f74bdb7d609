/*
 * Session: opens and ends sessions, and writes the lease words.
 *
 * Called by request (everything that a client asks for), server (a process has died) and sweep. Data: the session
 * table and the lease words in spans, written by this thread alone; the private session with the list of its spans.
 *
 * A lease, from end to end:
 *   1. request takes a span from mcentral or mheap; it is in no list.
 *   2. lease_give: owner (RECLAIM), then the list, then the lease word {LEASED, session, epoch}; then the reply leaves.
 *   3. The client writes the span's alloc bits. Others only set remote bits.
 *   4. lease_return, or the session's end: a RECLAIM session's objects that are not kept are freed, owner becomes 0,
 *      and mcentral_put makes the state CENTRAL or frees the span.
 *
 * States of a session: OPEN -> ENDING (Detach, or its process has died) -> gone; OPEN -> LOST (the connection has
 * ended but the process lives, and might still write the alloc bits of its spans: they stay its own) -> ENDING when
 * it dies. A session does not end while memory is being committed for it (nops): its pages would be free, and get
 * memory afterwards. A lease is never taken from a process that lives and has not given it up. Ending is done in
 * slices, so others wait little.
 *
 * Invariants (checked by mheap_validate, linear): a span is in a session's list iff its lease word says LEASED.
 * If the daemon dies within step 4: freeing what is not kept may be repeated; owner becomes 0 after it.
 */
#include "daemon/serve/session.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistr.h>

#include "shm/crash.h"

void session_table_init(session_table *table, mheap *heap)
{
    *table = (session_table){ .heap = heap };
}

void session_table_end(session_table *table)
{
    for (size_t i = 0; i < SHM_SESSIONS_MAX; i++) {
        free(table->slots[i]);
        table->slots[i] = NULL;
    }
}

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

int session_open(session_table *table, const session_request *request, session **ret)
{
    session *s;
    uint16_t no = 0;

    /* Numbers go round, so that a number is used again as late as possible. */
    for (uint32_t i = 0; i < SHM_SESSIONS_MAX && no == 0; i++) {
        uint16_t at = (uint16_t)((table->search_from + 1 + i) % SHM_SESSIONS_MAX);

        if (at != 0 && table->slots[at] == NULL)
            no = at;
    }
    if (no == 0)
        return SESSION_E_NO_SLOT;
    s = calloc(1, sizeof(*s));
    if (s == NULL)
        return SESSION_E_NO_MEMORY;
    if (getrandom(table->heap->file->private->tokens[no], SESSION_TOKEN_BYTES, 0) != (ssize_t)SESSION_TOKEN_BYTES) {
        free(s);
        return SESSION_E_NO_RANDOM;
    }
    table->search_from = no;
    if (no >= u32_load_relaxed(&table->heap->map->header->nsession_entries))
        u32_store_release(&table->heap->map->header->nsession_entries, no + 1u);

    CRASH_POINT(session_after_token);

    shm_session *slot = &table->heap->map->sessions[no];

    s->no = (session_no){ no };
    s->epoch = u32_load_relaxed(&slot->epoch) + 1;
    s->flags = request->flags;
    s->pid = request->pid;
    s->uid = request->uid;
    if (request->limit_bytes != 0)
        s->limit_pages = request->limit_bytes / PAGE_BYTES + (request->limit_bytes % PAGE_BYTES != 0);
    label_copy(s->label, request->label);
    for (size_t i = 0; i < SHM_COUNTERS_WORDS; i++)
        u64_store_relaxed(&shm_counters(table->heap->map, s->no)[i], 0);
    slot->flags = s->flags;
    slot->pid = s->pid;
    slot->uid = s->uid;
    slot->limit_bytes = request->limit_bytes;
    memcpy(slot->label, s->label, sizeof(slot->label));
    u32_store_release(&slot->epoch, s->epoch);
    table->slots[no] = s;
    table->nopen++;
    CRASH_POINT(session_before_state);
    session_set_state(table, s, SHM_SESSION_OPEN);
    CRASH_POINT(session_after_state);
    *ret = s;
    return 0;
}

static void session_forget(session_table *table, session *s)
{
    session_set_state(table, s, SHM_SESSION_FREE);
    table->slots[s->no.n] = NULL;
    table->nopen--;
    free(s);
}

void session_cancel(session_table *table, session *s)
{
    assert(s->leased.count == 0 && s->nops == 0);
    session_forget(table, s);
}

bool session_has_token(const session_table *table, const session *s, const uint8_t *token, size_t len_bytes)
{
    const uint8_t *want = table->heap->file->private->tokens[s->no.n];
    uint8_t differs = 0;

    if (len_bytes != SESSION_TOKEN_BYTES)
        return false;
    for (size_t i = 0; i < SESSION_TOKEN_BYTES; i++)
        differs |= want[i] ^ token[i];
    return differs == 0;
}

/* --- after another daemon --- */

static void span_reclaim(mheap *heap, page_no first);

/* The session in a slot that is in use. NULL with *ret_why, or without: no memory. */
static session *recover_slot(session_table *table, uint16_t no, const char **ret_why)
{
    const shm_session *slot = &table->heap->map->sessions[no];
    uint32_t state = u32_load_relaxed(&slot->state);
    session *s;

    if (state > SHM_SESSION_ENDING || (slot->flags & ~(SESSION_RECLAIM | SESSION_READONLY)) != 0 ||
        memchr(slot->label, 0, sizeof(slot->label)) == NULL) {
        *ret_why = "the session table is damaged";
        return NULL;
    }
    s = calloc(1, sizeof(*s));
    if (s == NULL)
        return NULL;
    *s = (session){ .no = { no },
                    .epoch = u32_load_relaxed(&slot->epoch),
                    .flags = slot->flags,
                    .pid = slot->pid,
                    .uid = slot->uid,
                    .limit_pages = slot->limit_bytes / PAGE_BYTES + (slot->limit_bytes % PAGE_BYTES != 0) };
    label_copy(s->label, slot->label); /* an older daemon's may be anything */
    session_set_state(table, s, state == SHM_SESSION_ENDING || !heapfile_session_lives(table->heap->file, s->no)
                                    ? SHM_SESSION_ENDING
                                    : SHM_SESSION_LOST);
    return s;
}

static bool recover_lives(void *data, session_no no, uint32_t epoch)
{
    return session_find(data, no, epoch) != NULL;
}

/* Give a leased span back to its session; one whose session has ended is nobody's. */
static void recover_lease(session_table *table, page_no first)
{
    shm_span *span = shm_span_at(table->heap->map, first);
    lease_word lease = lease_unpack(u64_load_relaxed(&span->lease));
    session *s = session_find(table, lease.session, lease.epoch);

    adopt_recover_span(table->heap->adopted, first);
    if (lease.state != SPAN_LEASED)
        return;
    if (s == NULL) {
        if (u32_load_relaxed(&span->owner) != 0)
            span_reclaim(table->heap, first);
        mcentral_put(table->heap, first);
        return;
    }
    spanlist_push_back(&s->leased, table->heap->links, first, PLACE_LEASED);
    s->nheld_pages += span->npages;
    table->nleased++;
}

int session_table_recover(session_table *table, mheap *heap, const char **ret_why)
{
    uint32_t nslots = u32_load_relaxed(&heap->map->header->nsession_entries);
    page_no pos = { 0 };

    session_table_init(table, heap);
    *ret_why = NULL;
    for (uint16_t no = 1; no < nslots && no < SHM_SESSIONS_MAX; no++) {
        if (u32_load_relaxed(&heap->map->sessions[no].state) == SHM_SESSION_FREE)
            continue;
        table->slots[no] = recover_slot(table, no, ret_why);
        if (table->slots[no] == NULL) {
            session_table_end(table);
            return *ret_why != NULL ? -EUCLEAN : -ENOMEM;
        }
        table->nopen++;
        CRASH_POINT(recover_half_sessions);
    }
    if (!adopt_recover(heap->adopted, recover_lives, table)) {
        session_table_end(table);
        return -ENOMEM;
    }
    for (page_no first = mheap_next_span(heap, &pos); first.n != 0; first = mheap_next_span(heap, &pos))
        recover_lease(table, first);
    return 0;
}

/* --- leases --- */

session *session_find(const session_table *table, session_no no, uint32_t epoch)
{
    session *s = no.n < SHM_SESSIONS_MAX ? table->slots[no.n] : NULL;

    return s != NULL && s->epoch == epoch ? s : NULL;
}

void session_set_state(session_table *table, session *s, enum shm_session_state state)
{
    s->state = state;
    u32_store_release(&table->heap->map->sessions[s->no.n].state, state);
}

uint64_t session_room_pages(const session *s)
{
    if (s->limit_pages == 0)
        return UINT64_MAX;
    return s->nheld_pages >= s->limit_pages ? 0 : s->limit_pages - s->nheld_pages;
}

void lease_give(session_table *table, session *s, page_no first)
{
    mheap *heap = table->heap;
    shm_span *span = shm_span_at(heap->map, first);

    if (s->flags & SESSION_RECLAIM) {
        if (span->nelems <= SPAN_NELEMS_MAX / 2)
            adopt_ensure_kept(heap->map, first);
        u32_store_release(&span->owner, s->no.n);
        CRASH_POINT(lease_after_owner);
    }
    left_lease_begins(heap->left, first);
    spanlist_push_back(&s->leased, heap->links, first, PLACE_LEASED);
    s->nheld_pages += span->npages;
    table->nleased++;
    CRASH_POINT(lease_after_list);
    u64_store_release(&span->lease,
                      lease_pack((lease_word){ .state = SPAN_LEASED, .session = s->no, .epoch = s->epoch }));
    CRASH_POINT(lease_after_word);
}

int lease_check(const session_table *table, const session *s, uint32_t first, page_no *ret)
{
    const shm_map *map = table->heap->map;

    if (first == 0 || first >= map->npages)
        return SESSION_E_NOT_LEASED;

    lease_word lease = lease_unpack(u64_load_relaxed(&shm_span_at(map, page_at(first))->lease));

    if (lease.state != SPAN_LEASED || lease.session.n != s->no.n || lease.epoch != s->epoch)
        return SESSION_E_NOT_LEASED;
    *ret = page_at(first);
    return 0;
}

/* The span leaves its session; it is in no list afterwards, and its lease word is as before. */
static void lease_unlink(session_table *table, session *s, page_no first)
{
    spanlist_remove(&s->leased, table->heap->links, first);
    s->nheld_pages -= shm_span_at(table->heap->map, first)->npages;
    table->nleased--;
}

/*
 * Free the objects of a RECLAIM session's span that are not kept. After this the span is the heap's.
 *
 * Another process may publish an object of it at this moment (goalloc_publish in client/lib/owner.c): it sets the kept bit,
 * passes a fence, and then looks at the owner's state and the lease word. Here the state was stored first (ENDING, or
 * what comes after it), then comes the fence, then the kept bits are read. So either the bit is seen here, and the
 * object stays; or the publisher sees that the session is at its end, and asks the daemon, which knows what it has
 * freed. Who dies after the bit and before the look has not said to anybody that the object is published.
 */
static void span_reclaim(mheap *heap, page_no first)
{
    shm_span *span = shm_span_at(heap->map, first);

    fence_seq_cst();
    (void)span_fold(heap, first);
    CRASH_POINT(reclaim_after_fold);
    for (uint32_t w = 0; w < bits_nwords(span->nelems); w++) {
        uint64_t alloc = u64_load_relaxed(&shm_alloc_bits(heap->map, first)[w]);
        uint64_t kept = span_has_kept(span) ? u64_load_acquire(&shm_kept_bits(heap->map, first)[w]) : 0;

        u64_store_release(&shm_alloc_bits(heap->map, first)[w], alloc & kept);
    }
    CRASH_POINT(reclaim_after_bits);
    u32_store_release(&span->owner, 0);
    if (u32_load_relaxed(&span->nadopted) == 0)
        u32_store_release(&span->has_kept, 0);
}

static void lease_end(session_table *table, session *s, page_no first)
{
    lease_unlink(table, s, first);
    CRASH_POINT(lease_end_after_unlink);
    if (u32_load_relaxed(&shm_span_at(table->heap->map, first)->owner) != 0)
        span_reclaim(table->heap, first);
    left_lease_ends(table->heap->left, first, s->state == SHM_SESSION_ENDING ? &s->left : NULL);
    mcentral_put(table->heap, first);
}

static bool span_is_empty(const mheap *heap, page_no first)
{
    const shm_span *span = shm_span_at(heap->map, first);
    uint64_t live = 0;

    for (uint32_t w = 0; w < bits_nwords(span->nelems); w++) {
        uint64_t remote = u64_load_acquire(&shm_remote_bits(heap->map, first)[w]);

        live |= u64_load_acquire(&shm_alloc_bits(heap->map, first)[w]) & ~remote & bits_mask(span->nelems, w);
    }
    return live == 0;
}

int lease_return(session_table *table, session *s, page_no first)
{
    if (s->flags & SESSION_RECLAIM && !span_is_empty(table->heap, first))
        return SESSION_E_NOT_EMPTY;
    lease_end(table, s, first);
    return 0;
}

int lease_return_run(session_table *table, session *s, page_no first)
{
    const shm_span *span = shm_span_at(table->heap->map, first);

    if (span_class_size(span->spc).n != 0 || span->lessee_folds)
        return SESSION_E_NO_RUN;
    return lease_return(table, s, first);
}

void lease_revoke(session_table *table, session *s, page_no first, bool punched)
{
    lease_unlink(table, s, first);
    mheap_free_span(table->heap, first, punched);
}

/*
 * A large run belongs to who allocated it until its object is freed. One that another process has freed is the
 * daemon's if the daemon takes the object: true, and then the lessee holds nothing of it.
 *
 * Three write the two words of a leased run, bit 0 of each.
 *   alloc   the lessee alone sets it, for an object that it hands out. The lessee (free) and the daemon (here) clear it
 *           by fetch_and, and who sees it go from 1 to 0 has the run; so a lessee that frees at the same time is told
 *           that the object is free already.
 *   remote  others set it by fetch_or (free); only the daemon clears it, when the lease is over. The lessee never hands
 *           out a run whose remote bit is set, which a faulty second free leaves behind: it returns the run.
 *
 * Remote first, acquire: what the freeing process wrote into the object happens before the next use of the pages. A
 * remote bit of an object before this one is not distinguished from one of this object: the lessee does not hand out
 * such a run, so the two frees are one faulty program's.
 *
 * If the daemon dies behind the fetch_and: alloc 0, remote 1, LEASED. The object is free for everybody, no sweep takes
 * the run, and the lessee returns it when it comes back, because it sees no object there; or the session's end does.
 */
static bool run_claim(const shm_map *map, page_no first)
{
    uint64_t before;

    if ((u64_load_acquire(shm_remote_bits(map, first)) & 1) == 0)
        return false;
    before = u64_fetch_and_acq_rel(shm_alloc_bits(map, first), ~UINT64_C(1));
    CRASH_POINT(sweep_after_claim);
    return before & 1;
}

bool lease_sweep(session_table *table, page_no first, bool force)
{
    mheap *heap = table->heap;
    const shm_span *span = shm_span_at(heap->map, first);
    lease_word lease = lease_unpack(u64_load_relaxed(&span->lease));
    session *s;

    if (lease.state == SPAN_CENTRAL)
        return mcentral_sweep(heap, first, force);
    if (lease.state != SPAN_LEASED || span_class_size(span->spc).n != 0 || span->lessee_folds)
        return false;
    s = session_find(table, lease.session, lease.epoch);
    assert(s != NULL);
    if (s->nops > 0)
        return false; /* it may be this one that memory is being committed for */
    if (!run_claim(heap->map, first))
        return false;
    lease_end(table, s, first);
    return true;
}

bool session_end_step(session_table *table, session *s, unsigned budget)
{
    mheap *heap = table->heap;

    for (; budget > 0 && s->leased.head.n != 0; budget--)
        lease_end(table, s, s->leased.head);
    CRASH_POINT(session_end_half);
    for (; budget > 0; budget--) {
        object_ref object;
        bool empty;

        if (adopt_pop(heap->adopted, s->no, &object, &empty)) {
            (void)object_free_remote(heap->map, &object);
            (void)lease_sweep(table, object.first, true);
        }
        if (empty) {
            if (table->nended >= SESSIONS_ENDED_KEPT)
                left_forget_owner(heap->left, table->ended[table->nended % SESSIONS_ENDED_KEPT].left);
            table->ended[table->nended++ % SESSIONS_ENDED_KEPT] = *s;
            session_forget(table, s);
            return true;
        }
    }
    return false;
}
