/*
 * Frame: a message on the stream socket. A 4-byte little-endian length, then that many bytes of protobuf.
 */
#ifndef GOALLOC_PROTO_FRAME_H
#define GOALLOC_PROTO_FRAME_H

#include <stddef.h>
#include <stdint.h>

#include <protobuf-c/protobuf-c.h>

#define GOALLOC_PROTOCOL   1u
#define FRAME_HEADER_BYTES 4u
#define FRAME_PAYLOAD_MAX  65536u /* longer is a violation of the protocol */
#define FRAME_BYTES_MAX    (FRAME_HEADER_BYTES + FRAME_PAYLOAD_MAX)

/* How many spans one Refill or ReturnSpans may name: with at most 5 bytes each they fit into a frame. */
#define PROTO_SPANS_MAX 1024u

/*
 * The descriptors of an AttachReply, in this order. SIGN: the session's sign of life. OWN: its memfd of offers; a
 * read-only session has none. If the session has a group, the group's sign of life is the last.
 */
enum {
    ATTACH_FD_ARENA,
    ATTACH_FD_SPANS,
    ATTACH_FD_BITMAP,
    ATTACH_FD_SIGN,
    ATTACH_FD_OWN,
    ATTACH_NFDS, /* of a session that writes and has no group */
    ATTACH_NFDS_MAX,
};

/* The length that the 4 bytes of header announce; not checked against FRAME_PAYLOAD_MAX. */
static inline uint32_t frame_payload_bytes(const uint8_t header[FRAME_HEADER_BYTES])
{
    return (uint32_t)header[0] | (uint32_t)header[1] << 8 | (uint32_t)header[2] << 16 | (uint32_t)header[3] << 24;
}

/*
 * Pack message, with its length before it, into buf. Returns the bytes written, 0 if they are more than cap_bytes or
 * than a frame may have.
 */
size_t frame_pack(const ProtobufCMessage *message, uint8_t *buf, size_t cap_bytes) __attribute__((warn_unused_result));

/*
 * Bump: memory for unpacking one message, out of a buffer that the caller owns. Nothing is freed singly; unpacking
 * fails when the buffer is used up. So a message costs at most that much memory, whatever a peer has put into it, and
 * no malloc. allocator.allocator_data points back at the bump: do not copy it.
 */
typedef struct frame_bump {
    ProtobufCAllocator allocator;
    uint8_t *buf;
    size_t cap_bytes;
    size_t used_bytes;
} frame_bump;

void frame_bump_init(frame_bump *bump, void *buf, size_t cap_bytes);

static inline void frame_bump_reset(frame_bump *bump)
{
    bump->used_bytes = 0;
}

#endif
