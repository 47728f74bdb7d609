/*
 * Recorder: writes samples of allocations into the profile's region.
 *
 * Called by sample.c and attach.c. Calls backtrace.c (the stack), modules.c (what its addresses are in), the
 * region's tables (shm/profile.c), and connection.c for the region itself. Data: the region, which all processes that
 * sample write; and private, where it is mapped and which entry of it is this session's.
 *
 * A sample: the stack is walked; its addresses become modules' numbers and places there; stack, party and site are
 * interned and the site counts the sample; the place's record is written. shm/profile.c has what a death in between
 * leaves.
 *
 * Two words say what is recorded where:
 *
 *   opened   number of the mapping << 32 | seq of the region << 1 | whether to record. A thread that is still in the
 *            middle of a sample when the daemon has answered, and another region is put in its place (a reset), writes
 *            the rest of it into the new one: a sample may count for a wrong stack there.
 *   party    how often it was renewed << 52 | rate << 12 | entry. One that belongs to another rate, or to before the
 * last renewal, is looked up again.
 *
 * A region is mapped once in a process and others are put in its place; where it is changes only at a detach, during
 * which nobody else is here. Who opens it has a turn; who records takes no lock. A child of a fork has the mapping, and
 * all tables of modules and addresses, as they are whole at any time; it has a party of its own.
 */
#include "client/lib/recorder.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "client/lib/backtrace.h"
#include "client/lib/connection.h"
#include "client/lib/forklock.h"
#include "client/lib/mapping.h"
#include "client/lib/process.h"
#include "client/lib/turn.h"
#include "client/lib/unwinder.h"

#define PARTY_BITS 12
#define RENEW_BITS 12
#define RATE_BITS 40

_Static_assert(PROFILE_PARTIES <= 1u << PARTY_BITS && PROFILE_RATE_MAX < UINT64_C(1) << RATE_BITS &&
                   PARTY_BITS + RENEW_BITS + RATE_BITS == 64,
               "a party's word");

typedef struct opened_word {
    uint32_t number; /* of the mapping; 0: there was none yet */
    uint32_t seq;
    bool records;
} opened_word;

static turn opening = TURN_INIT;
static profile_region *_Atomic region; /* written with the turn, or at a detach; one address until then */
static shm_u64 opened;                 /* the same */
static shm_u64 party;
static shm_u32 nrenewed;
static _Thread_local bool busy __attribute__((tls_model("initial-exec")));

static uint64_t opened_pack(opened_word o)
{
    return (uint64_t)o.number << 32 | (uint64_t)o.seq << 1 | o.records;
}

static opened_word opened_unpack(uint64_t word)
{
    return (opened_word){ .number = (uint32_t)(word >> 32), .seq = (uint32_t)word >> 1, .records = (word & 1) != 0 };
}

static opened_word opened_now(void)
{
    return opened_unpack(u64_load_acquire(&opened));
}

bool recorder_is_busy(void)
{
    return busy;
}

/* What is called between these may allocate, and the thread is not cancelled there. */
static int enter(void)
{
    int cancel_state;

    busy = true;
    (void)pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel_state);
    return cancel_state;
}

static void leave(int cancel_state)
{
    (void)pthread_setcancelstate(cancel_state, NULL);
    busy = false;
}

/* --- the region --- */

/* With the turn. What is under way meanwhile is over when the daemon has answered. */
static int open_region(profile_word wanted)
{
    opened_word now = opened_now();
    profile_region *mapped = atomic_load_explicit(&region, memory_order_relaxed);
    int r;

    if (mapped == NULL || now.seq != wanted.seq) {
        u64_store_release(&opened, opened_pack((opened_word){ now.number, now.seq, false }));
        r = connection_profile_open(&mapped, &now.seq);
        if (r < 0)
            return r;
        atomic_store_explicit(&region, mapped, memory_order_release);
        now.number++;
        recorder_renew_party();
        if (mapped->header.magic != PROFILE_MAGIC)
            return -EPROTO;
    }
    u64_store_release(&opened, opened_pack((opened_word){ now.number, now.seq, true }));
    return 0;
}

int recorder_open(uint64_t word)
{
    profile_word wanted = profile_word_unpack(word);
    opened_word now = opened_now();
    int cancel_state;
    int r = 0;

    if (wanted.rate == 0 || busy)
        return -EINVAL;
    if (now.records && now.seq == wanted.seq)
        return 0;
    r = turn_take(&opening, deadline_in(connection_samples_ms()));
    if (r < 0)
        return r;
    cancel_state = enter();
    r = open_region(wanted);
    if (r == 0)
        unwinder_load_later();
    leave(cancel_state);
    turn_give(&opening);
    return r;
}

void recorder_prepare(uint64_t word)
{
    int cancel_state;

    if (profile_word_unpack(word).rate == 0 || busy)
        return;
    cancel_state = enter();
    unwinder_load();
    leave(cancel_state);
}

static void stop_recording(void)
{
    opened_word now = opened_now();

    u64_store_release(&opened, opened_pack((opened_word){ now.number, now.seq, false }));
    recorder_renew_party();
}

void recorder_close(void)
{
    stop_recording();
    forklock_take();
    mapping_delete(atomic_load_explicit(&region, memory_order_relaxed), sizeof(profile_region));
    atomic_store_explicit(&region, NULL, memory_order_relaxed);
    forklock_give();
}

void recorder_reset(void)
{
    busy = false;
    turn_reset(&opening);
    stop_recording();
    unwinder_reset();
}

/* --- the party --- */

void recorder_renew_party(void)
{
    u32_store_release(&nrenewed, u32_load_relaxed(&nrenewed) + 1);
}

static void copy_text(char *to, const char *from, size_t bytes)
{
    memcpy(to, from, strnlen(from, bytes - 1));
}

static void describe_party(profile_party *ret, uint64_t rate)
{
    const shm_session *session = &process.map.sessions[process.session.n];
    uint32_t group = session->group;

    memset(ret, 0, sizeof(*ret));
    ret->rate = rate;
    ret->session = process.session.n;
    ret->epoch = process.epoch;
    ret->pid = session->pid;
    ret->uid = session->uid;
    ret->began_ms = session->opened_ms;
    copy_text(ret->label, session->label, sizeof(ret->label));
    if (owner_is_group(group))
        copy_text(ret->group, process.map.groups[group - SHM_SESSIONS_MAX].name, sizeof(ret->group));
}

static uint32_t find_party(profile_region *r, uint64_t rate)
{
    uint64_t renewed = u32_load_acquire(&nrenewed) & ((1u << RENEW_BITS) - 1);
    uint64_t wanted = renewed << (RATE_BITS + PARTY_BITS) | rate << PARTY_BITS;
    uint64_t known = u64_load_relaxed(&party);
    profile_party described;

    if (known >> PARTY_BITS != wanted >> PARTY_BITS || known == 0) {
        describe_party(&described, rate);
        known = wanted | profile_add_party(r, &described);
        u64_store_relaxed(&party, known);
    }
    return (uint32_t)known & ((1u << PARTY_BITS) - 1);
}

/* --- samples --- */

static uint32_t find_stack(profile_region *r, uint32_t region_no, const void *frame_pointer)
{
    backtrace_frame frames[PROFILE_FRAMES_MAX];
    uint64_t words[PROFILE_FRAMES_MAX];
    uint32_t n = backtrace_take(frame_pointer, frames);

    for (uint32_t i = 0; i < n; i++) {
        const module *m = frames[i].module;
        uint64_t number = m == NULL ? 0 : modules_number(m, r, region_no);

        if (m != NULL && number == 0)
            frames[i].address += m->base; /* as of no module */
        words[i] = number << 48 | (frames[i].address & ((UINT64_C(1) << 48) - 1));
    }
    return profile_add_stack(r, words, n);
}

/* The size class whose objects have so many bytes; 0: a run, or a large object. */
static uint8_t class_of(uint64_t bytes)
{
    return bytes > SMALL_BYTES_MAX ? 0 : size_class_for(bytes).n;
}

bool recorder_note(uint64_t offset, uint64_t bytes, uint64_t rate)
{
    opened_word now = opened_now();
    profile_region *r = atomic_load_explicit(&region, memory_order_acquire);
    bool recorded = false;
    int cancel_state;
    uint32_t site;

    if (!now.records || r == NULL || busy)
        return false;
    cancel_state = enter();
    rate &= PROFILE_RATE_MAX;
    site = profile_add_site(r, find_party(r, rate), find_stack(r, now.number, __builtin_frame_address(0)));
    profile_count(r, site, bytes, rate);
    if (offset != 0)
        recorded = profile_put_sample(r, &process.map, (profile_sample){ offset, site, class_of(bytes) });
    else
        u64_add_relaxed(&r->header.nlost_samples, 1);
    leave(cancel_state);
    return recorded;
}

void recorder_forget(uint64_t offset)
{
    profile_region *r = atomic_load_explicit(&region, memory_order_acquire);

    if (r != NULL)
        profile_remove_sample(r, offset);
}
