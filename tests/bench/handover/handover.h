/*
 * handover: what hands out memory that a forked child sees, too. A name is what the processes tell each other: an
 * address, or where the memory lies in a segment; never 0.
 */
#ifndef BENCH_HANDOVER_H
#define BENCH_HANDOVER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct handover_peer {
    const char *name;
    void (*open)(size_t size); /* by the parent, before it forks; objects of that size will be asked for */
    void *(*take)(size_t size, uint64_t *ret_name); /* NULL: there is none now */
    void *(*see)(uint64_t name);
    void (*drop)(uint64_t name);
    void (*close)(void); /* by the parent, when the child has ended */
} handover_peer;

/* Objects that there may be at a time. */
#define HANDOVER_OBJECTS 512u

extern const handover_peer handover_goalloc;
extern const handover_peer handover_pool;
extern const handover_peer handover_boost;

#ifdef __cplusplus
}
#endif

#endif
