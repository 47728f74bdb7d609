/*
 * Wire: requests and replies, to and from frames. Refills and returns are packed and unpacked by hand, all else by
 * protobuf-c.
 */
#ifndef GOALLOC_PROTO_WIRE_H
#define GOALLOC_PROTO_WIRE_H

#include "proto/frame.h"
#include "proto/goallocd.pb-c.h"

/* The initialiser of a request: WIRE_REQUEST(REFILL, refill, &body). */
#define WIRE_REQUEST(OP, op, body)                                                                                     \
    {                                                                                                                  \
        .base = PROTOBUF_C_MESSAGE_INIT(&goallocd__request__descriptor), .op_case = GOALLOCD__REQUEST__OP_##OP,        \
        .op = (body)                                                                                                   \
    }

/* As frame_pack(), with the same result. */
size_t wire_pack_request(const Goallocd__Request *request, uint8_t *buf, size_t cap_bytes)
    __attribute__((warn_unused_result));
size_t wire_pack_reply(const Goallocd__Reply *reply, uint8_t *buf, size_t cap_bytes)
    __attribute__((warn_unused_result));

/*
 * Unpack a payload into the memory of bump, which is emptied first: so the message is valid until the next one. NULL:
 * it is no such message, or does not fit into that memory.
 */
Goallocd__Request *wire_unpack_request(frame_bump *bump, const uint8_t *payload, size_t len_bytes)
    __attribute__((warn_unused_result));
Goallocd__Reply *wire_unpack_reply(frame_bump *bump, const uint8_t *payload, size_t len_bytes)
    __attribute__((warn_unused_result));

#endif
