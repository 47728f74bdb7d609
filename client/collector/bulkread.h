/*
 * Bulkread: many pieces of a file read into memory, by all processors at once.
 */
#ifndef GOALLOC_COLLECTOR_BULKREAD_H
#define GOALLOC_COLLECTOR_BULKREAD_H

#include <stdbool.h>
#include <stdint.h>

/* Bytes of the file, one behind the other, that go to one place. */
typedef struct bulk_piece {
    uint64_t offset;
    uint64_t bytes;
    char *to;
} bulk_piece;

#define BULK_PIECE_BYTES (UINT64_C(1) << 20) /* a piece is read by one call: none should be longer */

/* Processors that this thread may run on: at least 1. */
uint32_t bulkread_nprocessors(void);

typedef struct bulkread bulkread;

/* Helpers that wait, one for each other processor, up to 7; wanted false: none. NULL: no memory. */
bulkread *bulkread_new(bool wanted);
bulkread *bulkread_free(bulkread *b);

/* From now on helpers run before other programs, if they may. */
void bulkread_hurry(bulkread *b);

/*
 * Read all pieces of fd. deadline_ns: on CLOCK_MONOTONIC; none is begun after it. 0, -ETIMEDOUT, -EIO (the file ends
 * before), or an error of pread().
 */
int bulkread_all(bulkread *b, int fd, const bulk_piece *pieces, uint64_t n, uint64_t deadline_ns)
    __attribute__((warn_unused_result));

/* One piece, by the caller. */
int bulkread_one(int fd, const bulk_piece *piece) __attribute__((warn_unused_result));

#endif
