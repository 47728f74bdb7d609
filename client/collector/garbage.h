/*
 * Garbage: what a marking has left unmarked: summed up, visited, freed.
 */
#ifndef GOALLOC_COLLECTOR_GARBAGE_H
#define GOALLOC_COLLECTOR_GARBAGE_H

#include "client/collector/mark.h"

typedef struct garbage_sum {
    uint64_t objects;
    uint64_t bytes;
} garbage_sum;

/* Of the spans that have the same origin word. */
typedef struct garbage_part {
    uint64_t origin;
    garbage_sum sum;
} garbage_part;

#define GARBAGE_PARTS_MAX 8192u /* what is of still other origins is the last one's */

typedef struct garbage {
    garbage_sum total;
    garbage_sum leased; /* of that, in spans that sessions lease: freed only if all is */
    garbage_sum owned;  /* not in total: it goes with the session or group that owns it, or has adopted objects there */
    garbage_sum classes[SIZE_CLASS_COUNT + 1]; /* total by size class */
    garbage_sum noscan; /* of total */
    garbage_part *parts; /* total by origin, the largest first */
    uint32_t nparts;
    garbage_sum freed;
    uint64_t ngone; /* that were free by the time: somebody has freed what nobody could reach */
} garbage;

/* Sum up what is not marked. 0, -ENOMEM. Call garbage_end() in any case. */
int garbage_find(garbage *g, const heapcopy *h) __attribute__((warn_unused_result));
void garbage_end(garbage *g);

/* Visit each object of it, in the order of addresses, until visit() returns false. */
typedef bool garbage_visit(const heap_object *object, void *arg);
void garbage_each(const heapcopy *h, garbage_visit *visit, void *arg);

/* True if the object at that offset is garbage: not reached, and nobody's. */
bool garbage_has(const heapcopy *h, uint64_t offset);

/* True if no thread of that session's process was in the library at the snapshot. */
typedef bool garbage_is_quiet(uint32_t session, void *arg);

/*
 * Free it: in spans that nobody leases, and in those that quiet sessions lease (is_quiet NULL: none is). The caller is
 * attached, and has the right to collect. 0; -ESTALE: it has lost that right on the way, with its session; what was not
 * freed by then is left.
 */
int garbage_free(garbage *g, heapcopy *h, garbage_is_quiet *is_quiet, void *arg) __attribute__((warn_unused_result));

/*
 * How many objects of each span have been reached by now, in the order of the copy's spans; the caller's, from malloc.
 * NULL: no memory.
 */
uint32_t *garbage_count_reached(const heapcopy *h);

/*
 * Visit the first page of each span whose objects that live have all been reached, or are free by now: of those that
 * nobody leased at the snapshot, that nobody owns, and that wanted() names. Of these, the spans of which no more objects
 * have been reached since `before` was counted.
 */
void garbage_each_clean(const heapcopy *h, const uint32_t *before, bool (*wanted)(const heap_span *span),
                        void (*visit)(uint32_t page, void *arg), void *arg);

#endif
