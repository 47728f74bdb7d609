/*
 * Layout: computes where the tables lie, and checks that a header says the same.
 *
 * Called by the daemon when it makes or takes over a heap, and by clients when they attach. Only shm_header_init()
 * writes to shared memory, if the header lies there.
 */
#include "shm/layout.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "shm/intents.h"

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
    header->major = version_own()->major;
    u32_store_relaxed(&header->minor, version_own()->minor);
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

shm_version shm_header_version(const shm_header *header)
{
    return (shm_version){ .major = header->major,
                          .minor = u32_load_relaxed(&header->minor),
                          .needed = u32_load_relaxed(&header->needed),
                          .writing = u32_load_relaxed(&header->writing),
                          .optional = u32_load_relaxed(&header->optional) };
}

int shm_header_check(const shm_header *header, enum version_use use, uint64_t spans_bytes, uint64_t bitmap_bytes)
{
    shm_version version;
    shm_header want;

    if (spans_bytes < sizeof(*header) || header->magic != SHM_MAGIC)
        return -EPROTO;
    version = shm_header_version(header);
    if (version_check(&version, version_own(), use) != 0)
        return -ENOEXEC;
    if (header->arena_bytes == 0 || header->arena_bytes > SHM_ARENA_BYTES_MAX ||
        header->arena_bytes % SHM_HEAP_ARENA_BYTES != 0 || header->base % PAGE_BYTES != 0 || header->generation == 0)
        return -EPROTO;
    shm_header_init(&want, header->base, header->arena_bytes);
    if (header->spans_bytes != spans_bytes || header->bitmap_bytes != bitmap_bytes || spans_bytes < want.spans_bytes ||
        bitmap_bytes < want.bitmap_bytes)
        return -EPROTO;
    u32_store_relaxed(&want.minor, version.minor);
    want.generation = header->generation;
    want.created_ms = header->created_ms;
    want.spans_bytes = spans_bytes; /* a later minor may have tables of its own behind those that all know */
    want.bitmap_bytes = bitmap_bytes;
    want.reserved = header->reserved;
    return memcmp(&want, header, offsetof(shm_header, free_limit)) != 0 ? -EPROTO : 0;
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
