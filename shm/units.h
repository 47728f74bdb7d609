/*
 * Units: distinct types for the numbers that must not be mixed up, and the fixed sizes of the heap.
 */
#ifndef GOALLOC_SHM_UNITS_H
#define GOALLOC_SHM_UNITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KIB UINT64_C(1024)
#define MIB (UINT64_C(1024) * KIB)
#define GIB (UINT64_C(1024) * MIB)
#define TIB (UINT64_C(1024) * GIB)

#define PAGE_SHIFT 13u
#define PAGE_BYTES (UINT64_C(1) << PAGE_SHIFT)

/* A memory page of the system. The daemon refuses to start where they are larger (main.c says why). */
#define SYSTEM_PAGE_BYTES (4 * KIB)

/* A page of the arena, counted from its base. Page 0 is never handed out: 0 says "no page" wherever a page is named. */
typedef struct page_no {
    uint32_t n;
} page_no;

/* Pages [first, first + npages). npages 0: none. */
typedef struct page_range {
    page_no first;
    uint64_t npages;
} page_range;

/* An entry of the session table. Entry 0 is never used: 0 says "no session". */
typedef struct session_no {
    uint16_t n;
} session_no;

/*
 * Who owns the objects of a span: 0, the heap; below SHM_SESSIONS_MAX, the RECLAIM session of that number, which has no
 * group name; above, an entry of the group table.
 */
typedef struct owner_no {
    uint16_t n;
} owner_no;

/* A size class: 0 for runs and large objects, 1 to 67 for small objects, 68 for tiny blocks. */
typedef struct size_class {
    uint8_t n;
} size_class;

/* A span class: size class << 1 | noscan. */
typedef struct span_class {
    uint8_t n;
} span_class;

static inline page_no page_at(uint64_t n)
{
    return (page_no){ (uint32_t)n };
}

static inline uint64_t page_offset(page_no page)
{
    return (uint64_t)page.n << PAGE_SHIFT;
}

static inline span_class span_class_of(size_class class, bool noscan)
{
    return (span_class){ (uint8_t)(class.n << 1 | (noscan ? 1 : 0)) };
}

static inline size_class span_class_size(span_class spc)
{
    return (size_class){ (uint8_t)(spc.n >> 1) };
}

static inline bool span_class_noscan(span_class spc)
{
    return spc.n & 1;
}

#endif
