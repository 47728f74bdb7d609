/*
 * Layout: computes where the tables lie, and the hash by which two programs know that they mean the same by them.
 *
 * Called by the daemon when it makes or takes over a heap, and by clients when they attach. Only shm_header_init()
 * writes to shared memory, if the header lies there.
 */
#include "shm/layout.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "shm/intents.h"
#include "shm/offers.h"

/* Raise it when the meaning of a word changes but its place does not. */
#define LAYOUT_VERSION 11

static uint64_t fnv1a(uint64_t hash, uint64_t value)
{
    for (int i = 0; i < 8; i++) {
        hash ^= (value >> (8 * i)) & 0xff;
        hash *= UINT64_C(0x100000001b3);
    }
    return hash;
}

uint64_t shm_abi_hash(void)
{
    static const uint64_t facts[] = {
        LAYOUT_VERSION, PAGE_SHIFT, SHM_SESSIONS_MAX, SHM_GROUPS_MAX, SHM_ROOTS_MAX, SHM_HEAP_ARENA_BYTES,
        SHM_BITS_WORDS, SHM_COUNTERS_WORDS, SHM_RUN_PAGES_MIN, SHM_RUN_PAGES_MAX, SESSION_RECLAIM, SESSION_READONLY,
        SPAN_CLASS_COUNT, SPAN_FREE, SPAN_LEASED, SPAN_CENTRAL, SHM_WORD_STRIDE, SHM_REMOTE_AT,
        sizeof(shm_header), offsetof(shm_header, generation), offsetof(shm_header, base),
        offsetof(shm_header, span_table_off), offsetof(shm_header, free_limit), offsetof(shm_header, nroot_entries),
        offsetof(shm_header, nsession_entries), offsetof(shm_header, ngroup_entries), offsetof(shm_header, groups_off),
        offsetof(shm_header, created_ms), offsetof(shm_header, dropped),
        sizeof(shm_session), offsetof(shm_session, epoch), offsetof(shm_session, trim_seq),
        offsetof(shm_session, label), offsetof(shm_session, group), offsetof(shm_session, root_pending),
        sizeof(shm_group), offsetof(shm_group, name),
        sizeof(shm_root), offsetof(shm_root, values), offsetof(shm_root, name), sizeof(shm_root_value),
        offsetof(shm_root_value, generation), offsetof(shm_header, roots_seq),
        sizeof(shm_heap_arena), offsetof(shm_heap_arena, backed_base), offsetof(shm_heap_arena, npages),
        sizeof(shm_span), offsetof(shm_span, elem_bytes), offsetof(shm_span, npages), offsetof(shm_span, nelems),
        offsetof(shm_span, magic), offsetof(shm_span, spc), offsetof(shm_span, needzero),
        offsetof(shm_span, lessee_folds), offsetof(shm_span, owner), offsetof(shm_span, nadopted),
        offsetof(shm_span, has_kept), offsetof(shm_span, nleases), offsetof(shm_header, nleases),
        offsetof(shm_header, npeak_pages),
        OFFER_NONE, OFFER_OFFERED, OFFER_SEEN, OFFER_TAKEN, SHM_OFFERS_HEADER_BYTES, offsetof(shm_offers, active),
        sizeof(shm_intents), SHM_INTENTS_MAX, SHM_HOLDS_MAX, HOLD_PLACE_BITS, HOLD_SESSION_BITS, INTENT_LINK,
        INTENT_UNLINK, offsetof(shm_intents, holds), offsetof(shm_intents, records), offsetof(shm_intent, state),
    };
    uint64_t hash = UINT64_C(0xcbf29ce484222325);

    for (size_t i = 0; i < sizeof(facts) / sizeof(facts[0]); i++)
        hash = fnv1a(hash, facts[i]);
    for (size_t i = 0; i <= SIZE_CLASS_COUNT; i++) {
        hash = fnv1a(hash, size_class_bytes[i]);
        hash = fnv1a(hash, size_class_npages[i]);
        hash = fnv1a(hash, size_class_nelems[i]);
        hash = fnv1a(hash, size_class_short_npages[i]);
        hash = fnv1a(hash, size_class_short_nelems[i]);
    }
    return hash;
}

static uint64_t round_up(uint64_t value, uint64_t unit)
{
    return (value + unit - 1) / unit * unit;
}

void shm_header_init(shm_header *header, uint64_t base, uint64_t arena_bytes)
{
    uint64_t npages = arena_bytes / PAGE_BYTES;
    uint64_t off = 4 * KIB;

    memset(header, 0, sizeof(*header));
    header->magic = SHM_MAGIC;
    header->abi_hash = shm_abi_hash();
    header->base = base;
    header->arena_bytes = arena_bytes;
    header->npages = npages;

    header->sessions_off = off;
    off = round_up(off + SHM_SESSIONS_MAX * sizeof(shm_session), 4 * KIB);
    header->groups_off = off;
    off = round_up(off + SHM_GROUPS_MAX * sizeof(shm_group), 4 * KIB);
    header->roots_off = off;
    off = round_up(off + SHM_ROOTS_MAX * sizeof(shm_root), 4 * KIB);
    header->heap_arenas_off = off;
    off = round_up(off + npages / SHM_HEAP_ARENA_PAGES * sizeof(shm_heap_arena), 4 * KIB);
    header->page_map_off = off;
    off = round_up(off + npages * sizeof(shm_u32), 4 * KIB);
    header->span_table_off = off;
    off = round_up(off + npages * sizeof(shm_span), 4 * KIB);
    header->spans_bytes = off;
    header->bitmap_bytes = npages * (256 + 128 + 128) + sizeof(shm_u64) * SHM_SESSIONS_MAX * SHM_COUNTERS_WORDS +
                           sizeof(shm_intents);
    u64_store_relaxed(&header->free_limit, arena_bytes);
}

uint64_t shm_clock_ms(void)
{
    struct timespec ts = { 0, 0 };

    (void)clock_gettime(CLOCK_BOOTTIME, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

uint64_t shm_header_age_ms(const shm_header *header)
{
    uint64_t now = shm_clock_ms();

    return now > header->created_ms ? now - header->created_ms : 0;
}

int shm_header_check(const shm_header *header, uint64_t spans_bytes, uint64_t bitmap_bytes)
{
    shm_header want;

    if (spans_bytes < sizeof(*header) || header->magic != SHM_MAGIC)
        return -EPROTO;
    if (header->abi_hash != shm_abi_hash())
        return -ENOEXEC;
    if (header->arena_bytes == 0 || header->arena_bytes > SHM_ARENA_BYTES_MAX ||
        header->arena_bytes % SHM_HEAP_ARENA_BYTES != 0 || header->base % PAGE_BYTES != 0 || header->generation == 0)
        return -EPROTO;
    shm_header_init(&want, header->base, header->arena_bytes);
    want.generation = header->generation;
    want.created_ms = header->created_ms;
    if (memcmp(&want, header, offsetof(shm_header, free_limit)) != 0 || header->spans_bytes != spans_bytes ||
        header->bitmap_bytes != bitmap_bytes)
        return -EPROTO;
    return 0;
}

void shm_map_init(shm_map *map, void *spans, void *bitmap, void *arena)
{
    shm_header *header = spans;
    char *at = spans;

    *map = (shm_map){
        .base = header->base,
        .arena_bytes = header->arena_bytes,
        .npages = header->npages,
        .header = header,
        .sessions = (shm_session *)(void *)(at + header->sessions_off),
        .groups = (shm_group *)(void *)(at + header->groups_off),
        .roots = (shm_root *)(void *)(at + header->roots_off),
        .heap_arenas = (shm_heap_arena *)(void *)(at + header->heap_arenas_off),
        .page_map = (shm_u32 *)(void *)(at + header->page_map_off),
        .span_table = (shm_span *)(void *)(at + header->span_table_off),
        .bitmap = bitmap,
        .arena = arena,
        .spans_bytes = header->spans_bytes,
        .bitmap_bytes = header->bitmap_bytes,
    };
}
