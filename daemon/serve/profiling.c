/*
 * Profiling: the words that say who samples, and the region of profiles, which is made when somebody first does.
 *
 * Called by request_profile.c, requests.c (an Attach), leasing.c (may it have marked spans?) and server. Calls
 * profilefile (the region), session, metabook. Data: in spans the profile words of header, groups and sessions, and the
 * feature SHM_OPTIONAL_PROFILE, written by this thread alone; file->profile, which is on the shelf, too; and private,
 * what is being made.
 *
 * A word says at which rate to sample, and of which region (seq). It may be on before there is a region, or name the
 * one before: a process that finds it on asks for the region (ProfileOpen), is answered when there is one, and believes
 * the reply. So rates alone have to be right.
 *
 *   1. Somebody asks for it. If the heap may have the memory, a thread of the pool makes the region: some ms.
 *   2. install(): the region is put on the shelf, then its seq into the header's word, then the feature is set, then
 *      the seq goes into the words of groups and sessions that are on. Who waits is handled again.
 *   3. A reset makes another region in the same way, which takes the place of the first one; that is taken off the
 *      shelf and closed in the pool. Processes that still have it mapped record into the void until they see the word.
 *
 * If the daemon dies in between, the next one finds
 *
 *   before the shelf       the words as they were. If some are on and there is no region, it makes one, as below
 *   behind it              the old seq, and on the shelf the next one, if the feature is set: that is taken, since a
 *                          reset was asked for. If it is not set, nobody has seen the region, and it goes
 *   behind the header      the same with the new seq
 *   behind the feature     words of sessions with the old seq: set right
 *
 * An older daemon in between has cleared the feature. Then marks mean nothing any more and are taken away
 * (heap/recover.c), before it is set again; the region is closed; and if words are on, there is a new one with another
 * seq. Sessions that this daemon has opened have words that are off.
 *
 * Bounds: one region is made or closed at a time, so the daemon has two at most: the current one, and the next or the
 * last. The last one is closed, and the shelf holds nothing of it, before the next one is begun; if the daemon dies in
 * between, its successor takes it out of the shelf, at its start or as soon as it can. All count as metadata
 * (metabook.c). Which region is mapped by whom is the processes' own. If there was no memory, nobody tries again for a
 * second.
 */
#include "daemon/serve/profiling.h"

#include <errno.h>
#include <string.h>

#include "daemon/log.h"
#include "shm/crash.h"

#define AGAIN_NS UINT64_C(1000000000)

/* --- words --- */

static profilefile *current(const profiling *p)
{
    return &p->heap->file->profile;
}

static profile_word header_word(const profiling *p)
{
    return profile_word_unpack(u64_load_relaxed(&p->heap->map->header->profile));
}

static uint64_t word_of(const profiling *p, uint64_t rate)
{
    return profile_word_pack((profile_word){ .rate = rate, .seq = header_word(p).seq });
}

static void set_header(profiling *p, uint64_t rate, uint32_t seq)
{
    u64_store_release(&p->heap->map->header->profile,
                      profile_word_pack((profile_word){ .rate = rate, .seq = seq }));
}

static shm_u64 *group_word_at(const profiling *p, const group *g)
{
    return &shm_group_at(p->heap->map, g->no.n)->profile;
}

uint64_t profiling_rate(const profiling *p)
{
    return header_word(p).rate;
}

uint64_t profiling_word(const profiling *p, uint64_t asked_bytes, const group *g)
{
    uint64_t of_group = g != NULL ? u64_load_relaxed(group_word_at(p, g)) : 0;
    uint64_t rate = asked_bytes < PROFILE_RATE_MAX ? asked_bytes : PROFILE_RATE_MAX;

    if (rate == 0)
        rate = of_group != 0 ? profile_word_unpack(of_group).rate : profiling_rate(p);
    return word_of(p, rate);
}

bool profiling_marks(const profiling *p, const session *s)
{
    return profile_word_unpack(s->profile).rate != 0 &&
           (u32_load_relaxed(&p->heap->map->header->optional) & SHM_OPTIONAL_PROFILE) != 0;
}

bool profiling_is_on(const profiling *p)
{
    bool on = profiling_rate(p) != 0;

    for (uint32_t i = 0; i < SHM_GROUPS_MAX; i++) {
        const group *g = p->heap->groups->groups[i];

        on |= g != NULL && profile_word_unpack(u64_load_relaxed(group_word_at(p, g))).rate != 0;
    }
    for (uint32_t no = 1; no < SHM_SESSIONS_MAX; no++) {
        const session *s = session_at(p->sessions, no);

        on |= s != NULL && profile_word_unpack(s->profile).rate != 0;
    }
    return on;
}

/* Read-only sessions allocate nothing. */
uint32_t profiling_set_session(profiling *p, session *s, uint64_t rate)
{
    if (s->flags & SESSION_READONLY)
        return 0;
    session_set_profile(p->sessions, s, word_of(p, rate));
    return 1;
}

/* g NULL: all sessions. */
static uint32_t set_members(profiling *p, const group *g, uint64_t rate)
{
    uint32_t n = 0;

    for (uint32_t no = 1; no < SHM_SESSIONS_MAX; no++) {
        session *s = session_at(p->sessions, no);

        if (s != NULL && (g == NULL || s->group == g))
            n += profiling_set_session(p, s, rate);
    }
    return n;
}

uint32_t profiling_set_group(profiling *p, group *g, uint64_t rate)
{
    u64_store_release(group_word_at(p, g), word_of(p, rate));
    CRASH_POINT(profile_half_words);
    return set_members(p, g, rate);
}

/* The groups have nothing of their own any more: what joins one goes by the header. */
uint32_t profiling_set_all(profiling *p, uint64_t rate)
{
    set_header(p, rate, header_word(p).seq);
    for (uint32_t i = 0; i < SHM_GROUPS_MAX; i++) {
        const group *g = p->heap->groups->groups[i];

        if (g != NULL)
            u64_store_release(group_word_at(p, g), 0);
    }
    CRASH_POINT(profile_half_words);
    return set_members(p, NULL, rate);
}

/* Words that are on name the current region. */
static void renew_words(profiling *p)
{
    for (uint32_t i = 0; i < SHM_GROUPS_MAX; i++) {
        const group *g = p->heap->groups->groups[i];
        uint64_t rate = g != NULL ? profile_word_unpack(u64_load_relaxed(group_word_at(p, g))).rate : 0;

        if (rate != 0)
            u64_store_release(group_word_at(p, g), word_of(p, rate));
    }
    CRASH_POINT(profile_half_words);
    for (uint32_t no = 1; no < SHM_SESSIONS_MAX; no++) {
        session *s = session_at(p->sessions, no);
        uint64_t rate = s != NULL ? profile_word_unpack(s->profile).rate : 0;

        if (rate != 0)
            session_set_profile(p->sessions, s, word_of(p, rate));
    }
}

/* --- the region --- */

static void note_bytes(profiling *p)
{
    unsigned n = (current(p)->fd >= 0) + (p->working || p->dirty ? 1u : 0);

    metabook_note_profile(&p->heap->book, n * PROFILEFILE_BYTES);
}

static void begin(profiling *p, uv_work_cb work, uv_after_work_cb after)
{
    p->work.data = p;
    p->working = true;
    note_bytes(p);
    (void)uv_queue_work(p->loop, &p->work, work, after); /* it fails only without a function */
}

static void end(profiling *p)
{
    p->working = false;
    note_bytes(p);
    if (!p->stopped)
        p->on_change(p->data);
}

static void close_work(uv_work_t *work)
{
    profiling *p = work->data;

    profilefile_close(&p->old);
}

static void close_after(uv_work_t *work, int status)
{
    if (status < 0)
        close_work(work); /* it was cancelled */
    end(work->data);
}

/* No region but the current one is on the shelf. False: none of another one may be begun. */
static bool tidy(profiling *p)
{
    p->dirty = !profilefile_is_tidy(p->heap->file->shelf);
    note_bytes(p);
    return !p->dirty;
}

/* The region that was there, and of which no word and no message on the shelf is left. */
static void let_go(profiling *p, profilefile old)
{
    (void)tidy(p);
    p->old = old;
    begin(p, close_work, close_after);
}

/* The region is whole: it is the heap's from here on. 0, -errno. */
static int install(profiling *p)
{
    shm_header *header = p->heap->map->header;
    profilefile old = *current(p);
    int r = profilefile_shelve(&p->made, p->heap->file->shelf);

    if (r < 0)
        return r;
    CRASH_POINT(profile_after_shelf);
    *current(p) = p->made;
    p->made = PROFILEFILE_NONE;
    set_header(p, header_word(p).rate, current(p)->seq);
    CRASH_POINT(profile_after_header);
    u32_store_release(&header->optional, u32_load_relaxed(&header->optional) | SHM_OPTIONAL_PROFILE);
    CRASH_POINT(profile_after_feature);
    renew_words(p);
    p->nmade++;
    if (old.fd >= 0)
        let_go(p, old);
    return 0;
}

static void make_work(uv_work_t *work)
{
    profiling *p = work->data;

    p->result = profilefile_make(&p->made, p->heap->map->header->generation, p->made.seq);
}

static void make_after(uv_work_t *work, int status)
{
    profiling *p = work->data;

    p->working = false;
    if (status < 0)
        p->result = -ECANCELED;
    if (p->result == 0 && !p->stopped)
        p->result = install(p);
    if (p->result < 0 && !p->stopped) {
        log_warn("there is no region for profiles: %s", strerror(-p->result));
        p->not_before_ns = uv_hrtime() + AGAIN_NS;
    }
    profilefile_close(&p->made); /* if nobody has it */
    if (!p->working) /* else the one before is being closed */
        end(p);
}

/* Begin to make one. */
static int make(profiling *p)
{
    uint64_t now = uv_hrtime();

    if (p->working)
        return PROFILING_E_WAIT;
    if (p->stopped || (p->dirty && !tidy(p)) || now < p->not_before_ns ||
        !mheap_max_allows(p->heap, 0, PROFILEFILE_BYTES) || !sysmem_has(p->mem, PROFILEFILE_BYTES, 0, now / 1000000))
        return -ENOMEM;
    sysmem_spend(p->mem, PROFILEFILE_BYTES);
    p->made = PROFILEFILE_NONE;
    p->made.seq = profilefile_next_seq(header_word(p).seq);
    p->result = 0;
    begin(p, make_work, make_after);
    return PROFILING_E_WAIT;
}

int profiling_need(profiling *p)
{
    return current(p)->fd >= 0 ? 0 : make(p);
}

int profiling_renew(profiling *p)
{
    return make(p);
}

/* If the daemon dies behind the header's word, what is on the shelf has an older number: the next one closes it. */
int profiling_remove(profiling *p)
{
    profilefile old = *current(p);

    if (p->working)
        return PROFILING_E_WAIT;
    if (old.fd < 0)
        return 0;
    set_header(p, header_word(p).rate, profilefile_next_seq(old.seq));
    CRASH_POINT(profile_before_remove);
    profilefile_unshelve(&old, p->heap->file->shelf);
    *current(p) = PROFILEFILE_NONE;
    let_go(p, old);
    return 0;
}

void profiling_start(profiling *p, uv_loop_t *loop, session_table *sessions, sysmem *mem)
{
    p->loop = loop;
    p->sessions = sessions;
    p->heap = sessions->leases.heap;
    p->mem = mem;
    p->made = p->old = PROFILEFILE_NONE;
    (void)tidy(p); /* the daemon before may have died before it could */
    if (current(p)->fd >= 0) {
        set_header(p, header_word(p).rate, current(p)->seq);
        CRASH_POINT(profile_after_header);
        renew_words(p);
    } else if (profiling_is_on(p)) {
        (void)(make(p) < 0); /* else when somebody asks for it */
    }
    note_bytes(p);
}

void profiling_stop(profiling *p)
{
    p->stopped = true;
}
