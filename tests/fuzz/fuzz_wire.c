/*
 * The decoder of frames and messages (proto/frame.c, proto/wire.c, proto/channel.c) against protobuf-c's own: the same
 * verdict, the same values, and the same bytes when packed again. The first byte of an input says what the rest is: a
 * request, a reply, or a stream of frames for a client's end of a connection.
 */
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proto/channel.h"
#include "proto/wire.h"
#include "shm/units.h"
#include "tests/fuzz/fuzz.h"

#define LITTLE_BYTES 2048u /* of memory for a message, to have it refused for want of that */
#define NFDS_MAX     4u

static _Alignas(16) uint8_t memory[MIB];
static _Alignas(16) uint8_t other_memory[MIB];
static uint8_t ours[FRAME_BYTES_MAX];
static uint8_t theirs[FRAME_BYTES_MAX];
static frame_bump bump;
static frame_bump other_bump;
static frame_bump little_bump;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    frame_bump_init(&bump, memory, sizeof(memory));
    frame_bump_init(&other_bump, other_memory, sizeof(other_memory));
    frame_bump_init(&little_bump, other_memory, LITTLE_BYTES);
    return 0;
}

/* Nobody packs fields that are not known. */
static bool has_unknown_fields(const Goallocd__Request *request, const Goallocd__Reply *reply)
{
    if (reply != NULL)
        return reply->base.n_unknown_fields != 0 || (reply->result_case == GOALLOCD__REPLY__RESULT_REFILL &&
                                                     reply->refill->base.n_unknown_fields != 0);
    return request->base.n_unknown_fields != 0 ||
           (request->op_case == GOALLOCD__REQUEST__OP_REFILL && request->refill->base.n_unknown_fields != 0) ||
           (request->op_case == GOALLOCD__REQUEST__OP_RETURN_SPANS &&
            request->return_spans->base.n_unknown_fields != 0);
}

/* What is packed by hand is what protobuf-c packs, and takes no more room than there is. */
static void must_pack_the_same(const ProtobufCMessage *message, size_t (*pack)(const void *, uint8_t *, size_t))
{
    size_t len = frame_pack(message, theirs, sizeof(theirs));

    FUZZ_CHECK(pack(message, ours, sizeof(ours)) == len);
    FUZZ_CHECK(memcmp(ours, theirs, len) == 0);
    FUZZ_CHECK(len == 0 || frame_payload_bytes(ours) == len - FRAME_HEADER_BYTES);
    FUZZ_CHECK(len == 0 || pack(message, ours, len - 1) <= len);
    FUZZ_CHECK(len == 0 || pack(message, ours, len - 1) == 0 || pack(message, ours, len - 1) == len);
}

static size_t pack_request(const void *request, uint8_t *buf, size_t cap_bytes)
{
    return wire_pack_request(request, buf, cap_bytes);
}

static size_t pack_reply(const void *reply, uint8_t *buf, size_t cap_bytes)
{
    return wire_pack_reply(reply, buf, cap_bytes);
}

/* The same message, by the bytes that both are packed to. */
static void must_be_equal(const ProtobufCMessage *a, const ProtobufCMessage *b)
{
    size_t len = protobuf_c_message_get_packed_size(a);
    uint8_t *bytes;

    FUZZ_CHECK(protobuf_c_message_get_packed_size(b) == len);
    bytes = malloc(2 * len + 1);
    FUZZ_CHECK(bytes != NULL);
    FUZZ_CHECK(protobuf_c_message_pack(a, bytes) == len && protobuf_c_message_pack(b, bytes + len) == len);
    FUZZ_CHECK(memcmp(bytes, bytes + len, len) == 0);
    free(bytes);
}

static void try_request(const uint8_t *payload, size_t len)
{
    Goallocd__Request *unpacked = wire_unpack_request(&bump, payload, len);
    Goallocd__Request *other;

    frame_bump_reset(&other_bump);
    other = goallocd__request__unpack(&other_bump.allocator, len, payload);
    FUZZ_CHECK((unpacked == NULL) == (other == NULL));
    if (unpacked != NULL) {
        FUZZ_CHECK(unpacked->id == other->id && unpacked->cpu == other->cpu && unpacked->sent_us == other->sent_us &&
                   unpacked->op_case == other->op_case);
        must_be_equal(&unpacked->base, &other->base);
        if (!has_unknown_fields(unpacked, NULL))
            must_pack_the_same(&unpacked->base, pack_request);
    }
    (void)!wire_unpack_request(&little_bump, payload, len);
}

static void try_reply(const uint8_t *payload, size_t len)
{
    Goallocd__Reply *unpacked = wire_unpack_reply(&bump, payload, len);
    Goallocd__Reply *other;

    frame_bump_reset(&other_bump);
    other = goallocd__reply__unpack(&other_bump.allocator, len, payload);
    FUZZ_CHECK((unpacked == NULL) == (other == NULL));
    if (unpacked != NULL) {
        FUZZ_CHECK(unpacked->id == other->id && unpacked->error == other->error &&
                   unpacked->result_case == other->result_case);
        must_be_equal(&unpacked->base, &other->base);
        if (!has_unknown_fields(NULL, unpacked))
            must_pack_the_same(&unpacked->base, pack_reply);
    }
    (void)!wire_unpack_reply(&little_bump, payload, len);
}

/* --- a stream --- */

/* Read what has come, and take the frames in it: each lies in what was sent, in order. False: it is no stream. */
static bool take_frames(channel *ch, const uint8_t *sent, size_t sent_bytes, size_t *taken)
{
    const uint8_t *payload;
    size_t len;
    int r;

    while ((r = channel_read(ch)) == 0) {
        while ((r = channel_take_frame(ch, &payload, &len)) == 0) {
            FUZZ_CHECK(len <= FRAME_PAYLOAD_MAX && *taken + FRAME_HEADER_BYTES + len <= sent_bytes);
            FUZZ_CHECK(memcmp(payload, sent + *taken + FRAME_HEADER_BYTES, len) == 0);
            *taken += FRAME_HEADER_BYTES + len;
            (void)!wire_unpack_reply(&bump, payload, len);
            channel_drop_frame(ch);
        }
        FUZZ_CHECK(r == -EAGAIN || r == -EPROTO);
        if (r == -EPROTO)
            return false;
    }
    FUZZ_CHECK(r == -EAGAIN);
    return true;
}

/* The input comes in pieces, some of them with descriptors: the byte before a piece says how long it is. */
static void try_stream(const uint8_t *data, size_t len)
{
    static channel ch;
    fuzz_input in = { data, data + len };
    uint8_t *sent = malloc(len + 1);
    size_t sent_bytes = 0;
    size_t taken = 0;
    bool whole = true;
    int ends[2];

    FUZZ_CHECK(sent != NULL && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
    memset(&ch, 0, offsetof(channel, in));
    ch.fd = ends[0];
    while (fuzz_has_more(&in) && whole) {
        uint8_t how = fuzz_u8(&in);
        size_t piece = how % 64u;
        int fds[NFDS_MAX] = { STDERR_FILENO, STDERR_FILENO, STDERR_FILENO, STDERR_FILENO };
        int nfds = how / 64;

        if (piece > (size_t)(in.end - in.at))
            piece = (size_t)(in.end - in.at);
        if (piece == 0)
            continue;
        if ((nfds == 0 ? send(ends[1], in.at, piece, MSG_DONTWAIT) : fdpass_send(ends[1], in.at, piece, fds, nfds)) !=
            (ssize_t)piece)
            break;
        memcpy(sent + sent_bytes, in.at, piece);
        sent_bytes += piece;
        in.at += piece;
        whole = take_frames(&ch, sent, sent_bytes, &taken);
        FUZZ_CHECK(ch.nfds <= FDPASS_MAX);
    }
    channel_close(&ch);
    (void)close(ends[1]);
    free(sent);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0 || size - 1 > FRAME_PAYLOAD_MAX)
        return 0;
    if (data[0] % 3 == 0)
        try_request(data + 1, size - 1);
    else if (data[0] % 3 == 1)
        try_reply(data + 1, size - 1);
    else
        try_stream(data + 1, size - 1);
    return 0;
}
