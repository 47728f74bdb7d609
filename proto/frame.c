/*
 * Frame: length prefix, packing, and the bump memory for unpacking.
 *
 * Called by wire.c and channel.c, by the daemon's peer.c, by the library's link.c and by goallocctl. No state but the
 * caller's buffers, no malloc, no system call.
 */
#include "proto/frame.h"

#include <string.h>

size_t frame_pack(const ProtobufCMessage *message, uint8_t *buf, size_t cap_bytes)
{
    size_t payload = protobuf_c_message_get_packed_size(message);

    if (payload > FRAME_PAYLOAD_MAX || payload + FRAME_HEADER_BYTES > cap_bytes)
        return 0;
    for (int i = 0; i < 4; i++)
        buf[i] = (uint8_t)(payload >> (8 * i));
    return FRAME_HEADER_BYTES + protobuf_c_message_pack(message, buf + FRAME_HEADER_BYTES);
}

static void *bump_alloc(void *data, size_t bytes)
{
    frame_bump *bump = data;
    size_t rounded = (bytes + 15) & ~(size_t)15;

    if (rounded < bytes || rounded > bump->cap_bytes - bump->used_bytes)
        return NULL;

    void *p = bump->buf + bump->used_bytes;

    bump->used_bytes += rounded;
    return p;
}

static void bump_free(void *data, void *p)
{
    (void)data;
    (void)p;
}

void frame_bump_init(frame_bump *bump, void *buf, size_t cap_bytes)
{
    bump->allocator = (ProtobufCAllocator){ .alloc = bump_alloc, .free = bump_free, .allocator_data = bump };
    bump->buf = buf;
    bump->cap_bytes = cap_bytes;
    bump->used_bytes = 0;
}
