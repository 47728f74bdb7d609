/*
 * Messages by hand (proto/wire.c) against protobuf-c: the same bytes out, the same meaning in, whatever the bytes are.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "proto/wire.h"
#include "shm/units.h"
#include "tests/support/fixture.h"

#define ROUNDS 200000

static uint64_t seed;
static _Alignas(16) uint8_t memory[MIB];
static uint8_t ours[FRAME_BYTES_MAX];
static uint8_t theirs[FRAME_BYTES_MAX];
static frame_bump bump;

/* Of any length in bits, often 0. */
static uint64_t any_number(unsigned nbits)
{
    uint64_t n = test_random(&seed) % (nbits + 1);

    return n == 0 ? 0 : test_random(&seed) >> (64 - n);
}

static size_t any_spans(uint32_t *spans)
{
    size_t n = (size_t)any_number(test_random(&seed) % 64 == 0 ? 10 : 4);

    for (size_t i = 0; i < n; i++)
        spans[i] = (uint32_t)any_number(32);
    return n;
}

static void must_unpack_request_the_same(const uint8_t *payload, size_t len)
{
    Goallocd__Request *theirs_unpacked = goallocd__request__unpack(NULL, len, payload);
    Goallocd__Request *unpacked = wire_unpack_request(&bump, payload, len);
    size_t n;

    assert_int_equal(unpacked == NULL, theirs_unpacked == NULL);
    if (unpacked == NULL)
        return;
    assert_int_equal(unpacked->id, theirs_unpacked->id);
    assert_int_equal(unpacked->cpu, theirs_unpacked->cpu);
    assert_int_equal(unpacked->sent_us, theirs_unpacked->sent_us);
    assert_int_equal(unpacked->op_case, theirs_unpacked->op_case);
    n = frame_pack(&unpacked->base, ours, sizeof(ours));
    assert_int_equal(n, frame_pack(&theirs_unpacked->base, theirs, sizeof(theirs)));
    assert_memory_equal(ours, theirs, n);
    goallocd__request__free_unpacked(theirs_unpacked, NULL);
}

static void must_unpack_reply_the_same(const uint8_t *payload, size_t len)
{
    Goallocd__Reply *theirs_unpacked = goallocd__reply__unpack(NULL, len, payload);
    Goallocd__Reply *unpacked = wire_unpack_reply(&bump, payload, len);
    size_t n;

    assert_int_equal(unpacked == NULL, theirs_unpacked == NULL);
    if (unpacked == NULL)
        return;
    assert_int_equal(unpacked->id, theirs_unpacked->id);
    assert_int_equal(unpacked->result_case, theirs_unpacked->result_case);
    n = frame_pack(&unpacked->base, ours, sizeof(ours));
    assert_int_equal(n, frame_pack(&theirs_unpacked->base, theirs, sizeof(theirs)));
    assert_memory_equal(ours, theirs, n);
    goallocd__reply__free_unpacked(theirs_unpacked, NULL);
}

/* The payload with some bytes changed, cut off, or put in. */
static size_t spoil(uint8_t *payload, size_t len)
{
    for (uint64_t n = test_random(&seed) % 3 + 1; n > 0 && len > 0; n--) {
        size_t at = (size_t)(test_random(&seed) % len);

        switch (test_random(&seed) % 4) {
        case 0:
            payload[at] = (uint8_t)test_random(&seed);
            break;
        case 1:
            payload[at] ^= (uint8_t)(1u << test_random(&seed) % 8);
            break;
        case 2:
            len = at;
            break;
        default:
            memmove(payload + at + 1, payload + at, len - at);
            payload[at] = (uint8_t)any_number(8);
            len++;
            break;
        }
    }
    return len;
}

static void wire_pack_request_any_refill_or_return_is_what_protobuf_packs(void **state)
{
    (void)state;
    for (int i = 0; i < ROUNDS; i++) {
        static uint32_t spans[PROTO_SPANS_MAX];
        static uint32_t large[PROTO_SPANS_MAX];
        Goallocd__Request request = GOALLOCD__REQUEST__INIT;
        Goallocd__Refill refill = GOALLOCD__REFILL__INIT;
        Goallocd__ReturnSpans back = GOALLOCD__RETURN_SPANS__INIT;
        size_t len;

        request.id = any_number(64);
        request.cpu = (uint32_t)any_number(32);
        request.sent_us = (uint32_t)any_number(32);
        if (i % 2 == 0) {
            refill.span_class = (uint32_t)any_number(32);
            refill.nspans = (uint32_t)any_number(32);
            refill.insist = any_number(1) != 0;
            refill.marked = any_number(1) != 0;
            refill.npages = (uint32_t)any_number(32);
            request.op_case = GOALLOCD__REQUEST__OP_REFILL;
            request.refill = &refill;
        } else {
            back.n_spans = any_spans(spans);
            back.spans = spans;
            back.n_large = i % 4 == 1 ? any_spans(large) : 0;
            back.large = large;
            request.op_case = GOALLOCD__REQUEST__OP_RETURN_SPANS;
            request.return_spans = &back;
        }
        len = wire_pack_request(&request, ours, sizeof(ours));
        assert_int_equal(len, frame_pack(&request.base, theirs, sizeof(theirs)));
        assert_memory_equal(ours, theirs, len);
        assert_int_equal(frame_payload_bytes(ours), len - FRAME_HEADER_BYTES);

        uint8_t payload[16384];

        len -= FRAME_HEADER_BYTES;
        memcpy(payload, ours + FRAME_HEADER_BYTES, len);
        must_unpack_request_the_same(payload, len);
        must_unpack_request_the_same(payload, spoil(payload, len));
    }
}

static void wire_pack_reply_any_refill_is_what_protobuf_packs(void **state)
{
    (void)state;
    for (int i = 0; i < ROUNDS; i++) {
        static uint32_t spans[PROTO_SPANS_MAX];
        Goallocd__Reply reply = GOALLOCD__REPLY__INIT;
        Goallocd__RefillReply refill = GOALLOCD__REFILL_REPLY__INIT;
        Goallocd__PingReply ping = GOALLOCD__PING_REPLY__INIT;
        size_t len;

        reply.id = any_number(64);
        reply.error = i % 16 == 3 ? (int32_t)any_number(32) : 0;
        reply.message = i % 16 == 3 || i % 16 == 4 ? (char *)(uintptr_t)"no" : reply.message;
        if (i % 2 == 0) {
            refill.n_spans = any_spans(spans);
            refill.spans = spans;
            reply.result_case = GOALLOCD__REPLY__RESULT_REFILL;
            reply.refill = &refill;
        } else if (i % 16 == 5) {
            ping.pid = (uint32_t)any_number(32);
            reply.result_case = GOALLOCD__REPLY__RESULT_PING;
            reply.ping = &ping;
        }
        len = wire_pack_reply(&reply, ours, sizeof(ours));
        assert_int_equal(len, frame_pack(&reply.base, theirs, sizeof(theirs)));
        assert_memory_equal(ours, theirs, len);

        uint8_t payload[8192];

        len -= FRAME_HEADER_BYTES;
        memcpy(payload, ours + FRAME_HEADER_BYTES, len);
        must_unpack_reply_the_same(payload, len);
        must_unpack_reply_the_same(payload, spoil(payload, len));
    }
}

static void wire_unpack_more_than_the_memory_holds_is_refused(void **state)
{
    static uint32_t spans[PROTO_SPANS_MAX];
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__ReturnSpans back = GOALLOCD__RETURN_SPANS__INIT;
    frame_bump small;
    size_t len;

    (void)state;
    back.n_spans = PROTO_SPANS_MAX;
    back.spans = spans;
    request.op_case = GOALLOCD__REQUEST__OP_RETURN_SPANS;
    request.return_spans = &back;
    len = wire_pack_request(&request, ours, sizeof(ours));
    assert_true(len > PROTO_SPANS_MAX);
    frame_bump_init(&small, memory, 1024);
    assert_null(wire_unpack_request(&small, ours + FRAME_HEADER_BYTES, len - FRAME_HEADER_BYTES));
    frame_bump_init(&small, memory, 8192);
    assert_non_null(wire_unpack_request(&small, ours + FRAME_HEADER_BYTES, len - FRAME_HEADER_BYTES));
    frame_bump_init(&bump, memory, sizeof(memory));
}

static void wire_pack_into_too_little_is_refused(void **state)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Refill refill = GOALLOCD__REFILL__INIT;

    (void)state;
    request.op_case = GOALLOCD__REQUEST__OP_REFILL;
    request.refill = &refill;
    refill.nspans = 1;
    assert_int_equal(wire_pack_request(&request, ours, 7), 0);
    assert_int_equal(wire_pack_request(&request, ours, 8), 8);
    assert_int_equal(wire_pack_request(&request, ours, sizeof(ours)), 8);
}

/* A later daemon says more than this library knows: it hears what it knows. */
static void wire_unpack_reply_of_unknown_kind_with_unknown_fields_is_a_notice_of_nothing(void **state)
{
    /* field 3000 = { 5 bytes }, field 3001 = 7, field 3002: 8 bytes */
    static const uint8_t later[] = { 0xc2, 0xbb, 0x01, 5, 1, 2, 3, 4, 5, 0xc8, 0xbb, 0x01, 7,
                                     0xd1, 0xbb, 0x01, 1, 2, 3, 4, 5, 6, 7, 8 };
    /* id 4, a refill of span 9 with field 3001 in it, and the same behind it */
    static const uint8_t refill[] = { 0x08, 4, 0x2a, 7, 0x0a, 1, 9, 0xc8, 0xbb, 0x01, 7, 0xc8, 0xbb, 0x01, 7 };
    const Goallocd__Reply *reply;

    (void)state;
    frame_bump_init(&bump, memory, sizeof(memory));
    reply = wire_unpack_reply(&bump, later, sizeof(later));
    assert_non_null(reply);
    assert_int_equal(reply->id, 0);
    assert_int_equal(reply->result_case, GOALLOCD__REPLY__RESULT__NOT_SET);
    reply = wire_unpack_reply(&bump, refill, sizeof(refill));
    assert_non_null(reply);
    assert_int_equal(reply->id, 4);
    assert_int_equal(reply->result_case, GOALLOCD__REPLY__RESULT_REFILL);
    assert_int_equal(reply->refill->n_spans, 1);
    assert_int_equal(reply->refill->spans[0], 9);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(wire_pack_request_any_refill_or_return_is_what_protobuf_packs),
        cmocka_unit_test(wire_pack_reply_any_refill_is_what_protobuf_packs),
        cmocka_unit_test(wire_unpack_more_than_the_memory_holds_is_refused),
        cmocka_unit_test(wire_pack_into_too_little_is_refused),
        cmocka_unit_test(wire_unpack_reply_of_unknown_kind_with_unknown_fields_is_a_notice_of_nothing),
    };

    seed = test_seed();
    frame_bump_init(&bump, memory, sizeof(memory));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
