/*
 * What clients can do to a daemon (world.h): an input is a list of steps of four clients. Most steps are a request,
 * with fields that a client would send or that are just beyond it; between them words are scribbled and holes punched
 * in all that a client can write, bytes come that are no frames, processes die, and the loop turns.
 *
 * The first byte says which daemon, and what its administrator has decided. A step: a byte for what is done, a byte for
 * the client (2 bits) and for how often the loop turns afterwards, then what the step needs. After each input all
 * processes die, and then the heap validates and is empty.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proto/layout.h"
#include "shm/holds.h"
#include "shm/offers.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/world.h"

#define STEPS_MAX 64u
#define STEP_KINDS 48u
#define LIST_MAX 24u  /* spans of a request */
#define BYTES_MAX 255u /* that are sent as they are */
#define HOLE_PAGES 64u
#define MODEST_PAGES 300u

static world worlds[2];

/* A step of client i. */
typedef struct step {
    world *w;
    world_client *c;
    unsigned i;
    fuzz_input *in;
} step;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    worlds[1].lazy = true;
    return 0;
}

/* --- plausible fields --- */

/* The first page of a span: one of the client's, one of another client's, or anything. */
static uint32_t any_page(step *s)
{
    uint8_t how = fuzz_u8(s->in);
    const world_client *c = how & 64 ? &s->w->clients[how >> 4 & 3] : s->c;

    if (how < 128 && c->npages > 0)
        return c->pages[how % (c->npages < WORLD_PAGES_MAX ? c->npages : WORLD_PAGES_MAX)];
    return (uint32_t)fuzz_number(s->in);
}

/* Of an object in a span, or within one, or anything. */
static uint64_t any_offset(step *s)
{
    uint32_t page = any_page(s);
    uint8_t how = fuzz_u8(s->in);
    const shm_map *map = s->w->heap.map;

    if (how >= 224)
        return fuzz_number(s->in);
    return page_offset(page_at(page)) + (how < 160 ? 0 : how % 16) +
           (page < map->npages ? how % 32 * shm_span_at(map, page_at(page))->elem_bytes : 0);
}

static ProtobufCBinaryData any_name(step *s)
{
    static char longest[SHM_ROOT_NAME_MAX + 1];
    static const char *const names[] = { "a", "b", "index", "\xc3\xa9", "", "\xff", "a\x01", longest };
    uint8_t how = fuzz_u8(s->in);
    const char *name = names[how % 8];
    size_t len = name == longest ? sizeof(longest) - (how & 8 ? 0 : 1) : strlen(name);

    memset(longest, 'n', sizeof(longest));
    return (ProtobufCBinaryData){ .len = len, .data = (uint8_t *)(uintptr_t)name };
}

static ProtobufCBinaryData token_of(const uint8_t *token, uint8_t how)
{
    return (ProtobufCBinaryData){ .len = SESSION_TOKEN_BYTES - (how & 1), .data = (uint8_t *)(uintptr_t)token };
}

static uint64_t any_npages(step *s)
{
    uint8_t how = fuzz_u8(s->in);

    return how < 200 ? how % 64u : how < 240 ? fuzz_u16(s->in) % MODEST_PAGES : fuzz_number(s->in);
}

/* --- requests, each with a body of its own --- */

static void send_request(step *s, Goallocd__Request request)
{
    request.id = ++s->c->next_id;
    request.cpu = s->c->cpu;
    request.sent_us = s->c->sent_us;
    world_send(s->w, s->i, &request);
}

#define SEND(s, OP, op, body) send_request(s, (Goallocd__Request)WIRE_REQUEST(OP, op, body))

/* The id of the session's own memfd. */
static uint64_t own_id(const world_client *c)
{
    uint64_t id = 0;

    if (c->nfds > ATTACH_FD_OWN)
        (void)!pread(c->fds[ATTACH_FD_OWN], &id, sizeof(id), 0);
    return id;
}

/* Go on with a session, its own or another client's; with how bits that are wrong. */
static void claim_session(step *s, uint8_t how, Goallocd__Attach *ask)
{
    const world_client *other = &s->w->clients[how & 3];

    ask->token = token_of(other->token, how >> 2);
    ask->session = other->session + (how >> 3 & 1);
    ask->epoch = other->epoch + (how >> 4 & 1);
    ask->generation = s->w->heap.map->header->generation + (how >> 5 & 1);
    ask->own = how >> 6 == 3 ? own_id(other) : how >> 6;
}

static void send_attach(step *s)
{
    static char longest[SHM_LABEL_MAX + 2];
    char *const labels[] = { "fuzz", "", "\xc3\xa9\xff\x1b[2J", longest };
    Goallocd__Attach ask = GOALLOCD__ATTACH__INIT;
    Goallocd__Layout layout;
    uint8_t how = fuzz_u8(s->in);
    uint8_t more = fuzz_u8(s->in);
    const world_client *parent = &s->w->clients[more >> 5 & 3];

    memset(longest, 'l', sizeof(longest) - 1);
    ask.protocol = GOALLOC_PROTOCOL + (how == 255);
    ask.layout = layout_tell(&layout, version_own());
    layout.major += how == 254;
    ask.flags = (how & 3) | (how == 253 ? 4 : 0);
    ask.label = labels[how >> 2 & 3];
    ask.limit_bytes = how & 16 ? 0 : fuzz_number(s->in) * PAGE_BYTES;
    if (how & 32)
        claim_session(s, fuzz_u8(s->in), &ask);
    if (more & 1)
        ask.group = any_name(s);
    if (more & 2) {
        ask.parent_group = parent->group + (more >> 2 & 1);
        ask.group_token = token_of(parent->group_token, more >> 3);
    }
    SEND(s, ATTACH, attach, &ask);
}

static void send_refill(step *s)
{
    Goallocd__Refill ask = GOALLOCD__REFILL__INIT;
    uint8_t how = fuzz_u8(s->in);

    ask.span_class = fuzz_u8(s->in);
    ask.nspans = how & 1 ? 1 : how & 2 ? how >> 4 : (uint32_t)fuzz_number(s->in);
    ask.insist = how & 4;
    ask.marked = how & 64;
    ask.npages = how & 8 ? (uint32_t)any_npages(s) : 0;
    SEND(s, REFILL, refill, &ask);
}

static void send_return(step *s)
{
    uint32_t spans[LIST_MAX];
    Goallocd__ReturnSpans ask = GOALLOCD__RETURN_SPANS__INIT;
    Goallocd__Request request = WIRE_REQUEST(RETURN_SPANS, return_spans, &ask);
    uint8_t how = fuzz_u8(s->in);

    ask.spans = ask.large = spans;
    ask.n_spans = how % LIST_MAX / 2;
    ask.n_large = (how >> 4) % (LIST_MAX / 2);
    ask.large += ask.n_spans;
    for (size_t n = 0; n < ask.n_spans + ask.n_large; n++)
        spans[n] = any_page(s);
    if (how & 128)
        world_send(s->w, s->i, &request); /* without an id: no reply */
    else
        send_request(s, request);
}

static void send_alloc_large(step *s)
{
    Goallocd__AllocLarge ask = GOALLOCD__ALLOC_LARGE__INIT;
    uint8_t how = fuzz_u8(s->in);

    ask.npages = any_npages(s);
    ask.align_pages = how & 1 ? 0 : how & 2 ? 1u << (how >> 4) : fuzz_number(s->in);
    ask.noscan = how & 4;
    ask.insist = how & 8;
    ask.marked = how & 64;
    SEND(s, ALLOC_LARGE, alloc_large, &ask);
}

static void send_free_large(step *s)
{
    Goallocd__FreeLarge ask = GOALLOCD__FREE_LARGE__INIT;

    ask.span = any_page(s);
    SEND(s, FREE_LARGE, free_large, &ask);
}

static void send_resize_large(step *s)
{
    Goallocd__ResizeLarge ask = GOALLOCD__RESIZE_LARGE__INIT;

    ask.span = any_page(s);
    ask.npages = any_npages(s);
    SEND(s, RESIZE_LARGE, resize_large, &ask);
}

static void send_adopt(step *s)
{
    Goallocd__Adopt ask = GOALLOCD__ADOPT__INIT;

    ask.offset = any_offset(s);
    SEND(s, ADOPT, adopt, &ask);
}

static void send_publish(step *s)
{
    Goallocd__Publish ask = GOALLOCD__PUBLISH__INIT;

    ask.offset = any_offset(s);
    SEND(s, PUBLISH, publish, &ask);
}

static void send_root_set(step *s)
{
    Goallocd__RootSet ask = GOALLOCD__ROOT_SET__INIT;

    ask.name = any_name(s);
    ask.offset = any_offset(s);
    ask.ticket = fuzz_u8(s->in) % 4;
    SEND(s, ROOT_SET, root_set, &ask);
}

static void send_root_compare_and_set(step *s)
{
    Goallocd__RootCompareAndSet ask = GOALLOCD__ROOT_COMPARE_AND_SET__INIT;

    ask.name = any_name(s);
    ask.expected = any_offset(s);
    ask.offset = any_offset(s);
    ask.ticket = fuzz_u8(s->in) % 4;
    SEND(s, ROOT_COMPARE_AND_SET, root_compare_and_set, &ask);
}

static void send_root_get(step *s)
{
    Goallocd__RootGet ask = GOALLOCD__ROOT_GET__INIT;

    ask.name = any_name(s);
    SEND(s, ROOT_GET, root_get, &ask);
}

static void send_root_list(step *s)
{
    Goallocd__RootList ask = GOALLOCD__ROOT_LIST__INIT;
    uint8_t how = fuzz_u8(s->in);

    if (how & 1)
        ask.prefix = any_name(s);
    ask.start = how & 2 ? 0 : (uint32_t)fuzz_number(s->in);
    ask.most = how & 4 ? 0 : (uint32_t)fuzz_number(s->in);
    ask.drop_dead = how & 8;
    SEND(s, ROOT_LIST, root_list, &ask);
}

static void send_root_reserve(step *s)
{
    Goallocd__RootReserve ask = GOALLOCD__ROOT_RESERVE__INIT;
    uint8_t how = fuzz_u8(s->in);

    ask.name = any_name(s);
    ask.size = how & 1 ? 64 : fuzz_number(s->in);
    ask.type_tag = (how & 2 ? ROOT_REINIT : 0) | how >> 6;
    ask.ticket = how >> 4 & 3;
    SEND(s, ROOT_RESERVE, root_reserve, &ask);
}

static void send_root_object(step *s)
{
    Goallocd__RootObject ask = GOALLOCD__ROOT_OBJECT__INIT;
    uint8_t how = fuzz_u8(s->in);

    ask.name = any_name(s);
    ask.ticket = how >> 4 & 3;
    ask.offset = any_offset(s);
    if (how & 1)
        SEND(s, ROOT_ANNOUNCE, root_announce, &ask);
    else
        SEND(s, ROOT_FINISH, root_finish, &ask);
}

static void send_root_give_back(step *s)
{
    Goallocd__RootGiveBack ask = GOALLOCD__ROOT_GIVE_BACK__INIT;

    ask.name = any_name(s);
    ask.ticket = fuzz_u8(s->in) % 4;
    SEND(s, ROOT_GIVE_BACK, root_give_back, &ask);
}

static void send_subscribe(step *s)
{
    Goallocd__Subscribe ask = GOALLOCD__SUBSCRIBE__INIT;
    Goallocd__Attach claim = GOALLOCD__ATTACH__INIT;

    claim_session(s, fuzz_u8(s->in), &claim);
    ask.session = claim.session;
    ask.epoch = claim.epoch;
    ask.generation = claim.generation;
    ask.token = claim.token;
    SEND(s, SUBSCRIBE, subscribe, &ask);
}

static void send_reclaim(step *s)
{
    Goallocd__Reclaim ask = GOALLOCD__RECLAIM__INIT;
    uint8_t how = fuzz_u8(s->in);

    ask.session = how & 1 ? s->c->session : (uint32_t)fuzz_number(s->in);
    if (how & 2)
        ask.group = any_name(s);
    ask.any_uid = how & 4;
    ask.uid = how & 8 ? 0 : 1000;
    ask.count_only = how & 16;
    SEND(s, RECLAIM, reclaim, &ask);
}

static void send_heap_map(step *s)
{
    Goallocd__HeapMap ask = GOALLOCD__HEAP_MAP__INIT;
    uint8_t how = fuzz_u8(s->in);

    ask.start = how & 1 ? 0 : fuzz_number(s->in) * (how & 2 ? 64 : 1);
    ask.cell_pages = how & 4 ? 64 : fuzz_number(s->in) * (how & 8 ? 64 : 1);
    ask.max_cells = how & 16 ? 16 : (uint32_t)fuzz_number(s->in);
    ask.classes = how & 32;
    SEND(s, HEAP_MAP, heap_map, &ask);
}

static void send_with_a_number(step *s)
{
    Goallocd__LeaseList leases = GOALLOCD__LEASE_LIST__INIT;
    Goallocd__SessionList sessions = GOALLOCD__SESSION_LIST__INIT;
    Goallocd__Leases of = GOALLOCD__LEASES__INIT;
    Goallocd__Settle settle = GOALLOCD__SETTLE__INIT;
    uint8_t how = fuzz_u8(s->in);

    if (how % 3 == 0 && how & 64) {
        of.start = how & 128 ? 0 : any_page(s);
        of.session = how & 32 ? s->w->clients[how >> 3 & 3].session : (uint32_t)fuzz_number(s->in);
        SEND(s, LEASES, leases, &of);
    } else if (how % 3 == 0) {
        leases.after = how & 128 ? 0 : any_page(s);
        SEND(s, LEASE_LIST, lease_list, &leases);
    } else if (how % 3 == 1) {
        sessions.start = how & 128 ? 0 : (uint32_t)fuzz_number(s->in);
        sessions.live = how & 64;
        SEND(s, SESSION_LIST, session_list, &sessions);
    } else {
        settle.session = how & 128 ? s->w->clients[how >> 4 & 3].session : (uint32_t)fuzz_number(s->in);
        SEND(s, SETTLE, settle, &settle);
    }
}

/* Parts of the list begin behind users, and behind sessions. */
static void send_limits(step *s)
{
    Goallocd__Limits ask = GOALLOCD__LIMITS__INIT;
    uint8_t how = fuzz_u8(s->in);

    ask.nearest = how % 32 == 31;
    ask.start = how < 64 ? 0 : (uint32_t)fuzz_number(s->in) + (how < 128 ? 0 : how < 192 ? 4096 : 8192);
    SEND(s, LIMITS, limits, &ask);
}

static void send_disconnect(step *s)
{
    Goallocd__Disconnect ask = GOALLOCD__DISCONNECT__INIT;
    uint8_t how = fuzz_u8(s->in);
    const world_client *other = &s->w->clients[how & 3];

    ask.session = how & 4 ? (uint32_t)fuzz_number(s->in) : other->session;
    ask.epoch = how & 8 ? 0 : other->epoch + (how >> 4 & 1);
    SEND(s, DISCONNECT, disconnect, &ask);
}

/* Who samples; and the region, which has its turn of the loop to be made in. */
static void send_profile(step *s)
{
    Goallocd__ProfileSet ask = GOALLOCD__PROFILE_SET__INIT;
    Goallocd__ProfileOpen open = GOALLOCD__PROFILE_OPEN__INIT;
    Goallocd__ProfileRead read = GOALLOCD__PROFILE_READ__INIT;
    uint8_t how = fuzz_u8(s->in);

    if (how % 8 == 6) {
        SEND(s, PROFILE_OPEN, profile_open, &open);
    } else if (how % 8 == 7) {
        SEND(s, PROFILE_READ, profile_read, &read);
    } else {
        ask.rate_bytes = how & 8 ? 0 : how & 16 ? fuzz_number(s->in) : 4096;
        ask.session = how % 8 < 2 ? s->w->clients[how >> 5 & 3].session : 0;
        if (how % 8 == 2)
            ask.group = any_name(s);
        ask.all = how % 8 > 2 && how % 8 < 5;
        ask.reset = how & 128;
        SEND(s, PROFILE_SET, profile_set, &ask);
    }
}

/* Requests that have few fields, and one that no daemon knows. Few inputs drop the heap: the next one makes it anew. */
static void send_plain(step *s)
{
    Goallocd__Stats stats = GOALLOCD__STATS__INIT;
    Goallocd__Trim trim = GOALLOCD__TRIM__INIT;
    Goallocd__Scavenge scavenge = GOALLOCD__SCAVENGE__INIT;
    Goallocd__Check check = GOALLOCD__CHECK__INIT;
    Goallocd__Ping ping = GOALLOCD__PING__INIT;
    Goallocd__Detach detach = GOALLOCD__DETACH__INIT;
    Goallocd__Drop drop = GOALLOCD__DROP__INIT;
    Goallocd__SetLabel label = GOALLOCD__SET_LABEL__INIT;
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    uint8_t how = fuzz_u8(s->in);

    trim.session = how < 128 ? 0 : s->w->clients[how >> 4 & 3].session;
    label.label = how & 16 ? "other" : "\xc3";
    switch (how % 9) {
    case 0: SEND(s, STATS, stats, &stats); return;
    case 1: SEND(s, TRIM, trim, &trim); return;
    case 2: SEND(s, SCAVENGE, scavenge, &scavenge); return;
    case 3: SEND(s, CHECK, check, &check); return;
    case 4: SEND(s, PING, ping, &ping); return;
    case 5: SEND(s, DETACH, detach, &detach); return;
    case 6: SEND(s, SET_LABEL, set_label, &label); return;
    case 7:
        if (how == 7 && fuzz_u16(s->in) == 0x1234)
            SEND(s, DROP, drop, &drop);
        return;
    default: send_request(s, request); return;
    }
}

/* --- bytes --- */

static void send_bytes(step *s)
{
    size_t len = fuzz_u8(s->in) % (BYTES_MAX + 1);

    s->c->wild = true;
    if (len > (size_t)(s->in->end - s->in->at))
        len = (size_t)(s->in->end - s->in->at);
    world_send_bytes(s->w, s->i, s->in->at, len);
    s->in->at += len;
}

/* A frame of bytes that say of themselves how many they are, as a whole or a part. */
static void send_frame(step *s)
{
    uint8_t frame[FRAME_HEADER_BYTES + BYTES_MAX] = { 0 };
    size_t len = fuzz_u8(s->in) % BYTES_MAX;
    size_t cut = fuzz_u8(s->in);

    for (size_t n = 0; n < len; n++)
        frame[FRAME_HEADER_BYTES + n] = fuzz_u8(s->in);
    frame[0] = (uint8_t)len;
    s->c->wild = true;
    world_send_bytes(s->w, s->i, frame, cut < 128 ? FRAME_HEADER_BYTES + len : cut % (FRAME_HEADER_BYTES + len));
}

/* Descriptors, which the daemon has no use for. */
static void send_descriptors(step *s)
{
    int ends[2];
    uint8_t byte = fuzz_u8(s->in);

    s->c->wild = true;
    if (s->c->ch.fd < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        return;
    (void)!fdpass_send(s->c->ch.fd, &byte, 1, (int[]){ ends[0], s->c->ch.fd, ends[0], ends[1] }, 1 + byte % 4);
    (void)close(ends[0]);
    (void)close(ends[1]);
}

/* --- what a client can write --- */

/* A word that many inputs come to, or one of their own. */
static uint64_t any_word(step *s)
{
    uint8_t how = fuzz_u8(s->in);

    return how < 64 ? UINT64_C(1) << how : how < 96 ? UINT64_MAX : how < 128 ? 0 : fuzz_u64(s->in);
}

/* Bits of a span: as a client would, or whatever comes. */
static void scribble_bits(step *s)
{
    const shm_map *map = s->w->heap.map;
    uint32_t page = any_page(s);
    uint8_t how = fuzz_u8(s->in);
    uint32_t word = how >> 4 & 7;
    uint64_t bits = any_word(s);
    shm_u64 *at;

    if (page == 0 || page >= map->npages)
        return;
    at = how & 3 ? (how & 3) == 1 ? shm_remote_word(map, page_at(page), word) : shm_kept_word(map, page_at(page), word)
                 : shm_alloc_word(map, page_at(page), word);
    if ((char *)at < map->bitmap || (char *)at >= map->bitmap + map->bitmap_bytes)
        return;
    if (how & 4)
        (void)u64_fetch_or_acq_rel(at, bits);
    else
        u64_store_release(at, bits);
}

static void scribble_anywhere(step *s)
{
    const shm_map *map = s->w->heap.map;
    uint64_t at = fuzz_u64(s->in) % map->bitmap_bytes & ~UINT64_C(7);

    u64_store_release((shm_u64 *)(void *)(map->bitmap + at), any_word(s));
}

/* A word of an object, or of a tiny block. */
static void scribble_object(step *s)
{
    const shm_map *map = s->w->heap.map;
    uint64_t at = any_offset(s) & ~UINT64_C(7);

    if (at < map->arena_bytes)
        u64_store_release((shm_u64 *)(void *)(map->arena + at), any_word(s));
}

static void scribble_offers(step *s)
{
    const shm_map *map = s->w->heap.map;
    uint32_t page = any_page(s);
    uint8_t how = fuzz_u8(s->in);
    uint64_t nleases = page < map->npages ? u64_load_relaxed(&shm_span_at(map, page_at(page))->nleases) : 0;
    uint64_t word = offer_pack((enum offer_state)(how & 3), nleases + (how >> 2 & 1));
    uint32_t active = how >> 4;

    if (s->c->nfds <= ATTACH_FD_OWN || page >= map->npages)
        return;
    (void)!pwrite(s->c->fds[ATTACH_FD_OWN], &active, sizeof(active), offsetof(shm_offers, active));
    (void)!pwrite(s->c->fds[ATTACH_FD_OWN], &word, sizeof(word),
                  (off_t)(SHM_OFFERS_HEADER_BYTES + page * sizeof(word)));
}

/* What a thread is about to link or unlink, and the hold on it. */
static void scribble_intent(step *s)
{
    const shm_map *map = s->w->heap.map;
    shm_intents *intents = shm_intents_of(map);
    uint8_t how = fuzz_u8(s->in);
    uint64_t place = any_offset(s);
    uint32_t no = how & 1 ? s->c->session : fuzz_u16(s->in) % SHM_SESSIONS_MAX;
    shm_intent *record = &intents->records[no][how >> 1 & 3];

    u64_store_relaxed(&record->slot, any_offset(s));
    u64_store_relaxed(&record->object, how & 16 ? any_offset(s) : place);
    u64_store_relaxed(&record->next, any_offset(s));
    u64_store_release(&record->state, how & 32 ? INTENT_LINK : how & 64 ? INTENT_UNLINK : fuzz_number(s->in));
    u32_store_relaxed(&intents->used, 1);
    (void)holds_add(map, (hold){ place, { (uint16_t)no }, how & 8 ? how >> 1 & 3 : fuzz_u8(s->in) % 128 });
}

static void punch(step *s)
{
    uint8_t how = fuzz_u8(s->in);
    uint32_t page = any_page(s);
    unsigned which = how % 3 == 0 ? ATTACH_FD_ARENA : how % 3 == 1 ? ATTACH_FD_BITMAP : ATTACH_FD_OWN;
    off_t unit = which == ATTACH_FD_ARENA ? (off_t)PAGE_BYTES : which == ATTACH_FD_BITMAP ? 256 : 8;
    int mode = how & 128 ? FALLOC_FL_KEEP_SIZE : FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;

    if ((unsigned)s->c->nfds > which)
        (void)fallocate(s->c->fds[which], mode, page * unit, (1 + how / 3 % HOLE_PAGES) * unit);
}

/* Locks on bytes of spans, of which all clients have the same description. */
static void lock_spans(step *s)
{
    struct flock lock = { .l_type = fuzz_u8(s->in) & 1 ? F_RDLCK : F_UNLCK, .l_whence = SEEK_SET };

    lock.l_start = fuzz_u8(s->in);
    lock.l_len = fuzz_u8(s->in);
    if (s->c->nfds > ATTACH_FD_SPANS)
        (void)fcntl(s->c->fds[ATTACH_FD_SPANS], F_OFD_SETLK, &lock);
}

/* --- processes --- */

static void connect_anew(step *s)
{
    world_connect(s->w, s->i, fuzz_u8(s->in) & 1 ? WORLD_OTHER : WORLD_ROOT);
}

static void connect_as_any(step *s)
{
    world_connect(s->w, s->i, (enum world_user)(fuzz_u8(s->in) % WORLD_USERS));
}

/* --- what is done less often --- */

/* What its requests say from now on of where and when they were sent. */
static void give_hints(step *s)
{
    s->c->cpu = (uint32_t)fuzz_number(s->in);
    s->c->sent_us = (uint32_t)fuzz_number(s->in);
}

static void leave(step *s)
{
    uint8_t how = fuzz_u8(s->in);

    if (how % 4 == 0)
        world_disconnect(s->w, s->i);
    else if (how % 4 == 1)
        world_die(s->w, s->i);
    else if (how % 4 == 2)
        s->c->deaf = !s->c->deaf;
    else if (s->c->ch.fd >= 0)
        (void)shutdown(s->c->ch.fd, how & 4 ? SHUT_WR : SHUT_RD);
}

/* What nobody leases gets memory, more of it than a punch would give. */
static void fill(step *s)
{
    uint8_t how = fuzz_u8(s->in);
    unsigned which = how & 1 ? ATTACH_FD_ARENA : ATTACH_FD_BITMAP;
    off_t unit = which == ATTACH_FD_ARENA ? (off_t)MIB : (off_t)(16 * KIB);

    if ((unsigned)s->c->nfds > which)
        (void)fallocate(s->c->fds[which], FALLOC_FL_KEEP_SIZE, (how >> 4) * 2 * unit, (1 + (how >> 1 & 7)) * unit);
}

static void pass_time(step *s)
{
    world_pass_time(s->w);
}

static void do_rarely(step *s)
{
    static void (*const rare[8])(step *s) = { give_hints, fill, pass_time, send_profile };
    uint8_t what = fuzz_u8(s->in);

    if (rare[what % 8] != NULL)
        rare[what % 8](s);
}

static void turn_long(step *s)
{
    world_turn(s->w, fuzz_u8(s->in));
}

/* What is done more often stands here more often. What is new takes a place that is NULL, for the corpus. */
static void (*const steps[STEP_KINDS])(step *s) = {
    send_attach, send_attach, send_refill, send_refill, send_refill, send_return, send_return, send_alloc_large,
    send_alloc_large, send_free_large, send_resize_large, send_adopt, send_publish, send_root_set,
    send_root_compare_and_set, send_root_get, send_root_list, send_root_reserve, send_root_object,
    send_root_give_back, send_subscribe, send_reclaim, send_heap_map, send_with_a_number, send_plain, send_plain,
    send_bytes, send_frame, send_descriptors, scribble_bits, scribble_bits, scribble_bits, scribble_anywhere,
    scribble_object, scribble_offers, scribble_intent, punch, lock_spans, connect_anew, leave, turn_long,
    NULL, send_limits, send_disconnect, connect_as_any, do_rarely,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input in = { data, data + size };
    uint8_t where = fuzz_u8(&in);
    world *w = &worlds[where & 1];

    world_start(w, where >> 1 & (WORLD_LISTED | WORLD_TIGHT));
    for (unsigned n = 0; n < STEPS_MAX && fuzz_has_more(&in) && !w->server->service.stopping; n++) {
        uint8_t what = fuzz_u8(&in);
        uint8_t who = fuzz_u8(&in);
        step s = { w, &w->clients[who & 3], who & 3, &in };

        if (s.c->ch.fd < 0)
            world_connect(w, s.i, who & 4 ? WORLD_OTHER : WORLD_ROOT);
        if (steps[what % STEP_KINDS] != NULL)
            steps[what % STEP_KINDS](&s);
        world_turn(w, who >> 3 & 3);
    }
    world_end_input(w);
    return 0;
}
