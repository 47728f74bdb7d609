/*
 * What no library would send: the daemon refuses, disconnects that client, and serves the others.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "proto/channel.h"
#include "shm/layout.h"
#include "tests/support/attach.h"
#include "tests/support/rawheap.h"

/* Whatever a test has done, another client is served, and nothing is left. */
static int use_the_heap(const fixture *f, void *arg)
{
    void *p;

    (void)arg;
    must_attach(f, 0);
    p = goalloc_malloc(1000);
    CHECK(p != NULL);
    goalloc_free(p);
    return 0;
}

static int teardown(void **state)
{
    bool serves = child_run(*state, use_the_heap, NULL) == 0;

    return fixture_teardown(state) == 0 && serves ? 0 : -1;
}

static void send_bytes(int fd, const void *data, size_t len)
{
    const char *at = data;

    while (len > 0) {
        ssize_t n = send(fd, at, len, MSG_NOSIGNAL);

        if (n <= 0)
            return;
        at += n;
        len -= (size_t)n;
    }
}

static uint32_t refill_raw(int fd, uint32_t class, uint32_t nspans, int *ret_error)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Refill ask = GOALLOCD__REFILL__INIT;
    Goallocd__Reply *reply;
    uint32_t first = 0;

    ask.span_class = class;
    ask.nspans = nspans;
    request.id = 2;
    request.op_case = GOALLOCD__REQUEST__OP_REFILL;
    request.refill = &ask;
    reply = raw_call(fd, &request);
    assert_non_null(reply);
    *ret_error = reply->error;
    if (reply->error == 0) {
        assert_true(reply->refill->n_spans >= 1 && reply->refill->n_spans <= nspans);
        first = reply->refill->spans[0];
    }
    goallocd__reply__free_unpacked(reply, NULL);
    return first;
}

static void malformed_frames_disconnect(void **state)
{
    static const uint8_t too_long[] = { 1, 0, 1, 0 };
    static const uint8_t huge[] = { 0xff, 0xff, 0xff, 0xff };
    static const uint8_t garbage[] = { 6, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
    static const uint8_t no_id[] = { 2, 0, 0, 0, 0x72, 0x00 }; /* a Ping */
    const struct {
        const uint8_t *bytes;
        size_t len;
    } rows[] = {
        { too_long, sizeof(too_long) }, { huge, sizeof(huge) }, { garbage, sizeof(garbage) }, { no_id, sizeof(no_id) }
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        int fd = raw_connect(*state);

        send_bytes(fd, rows[i].bytes, rows[i].len);
        assert_true(raw_is_closed(fd));
        (void)close(fd);
    }
    assert_true(fixture_is_clean(*state, 0));
}

static void frame_in_single_bytes_is_answered(void **state)
{
    static uint8_t out[FRAME_BYTES_MAX];
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Ping ping = GOALLOCD__PING__INIT;
    int fd = raw_connect(*state);
    size_t len;

    request.id = 5;
    request.op_case = GOALLOCD__REQUEST__OP_PING;
    request.ping = &ping;
    len = frame_pack(&request.base, out, sizeof(out));
    for (size_t i = 0; i < len; i++) {
        send_bytes(fd, out + i, 1);
        (void)usleep(1000);
    }
    assert_int_equal(raw_error(fd, &request), 0);
    (void)close(fd);
}

static void pipelined_requests_are_answered_in_order(void **state)
{
    static uint8_t out[1000 * 64];
    static channel ch;
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Stats stats = GOALLOCD__STATS__INIT;
    Goallocd__Ping ping = GOALLOCD__PING__INIT;
    size_t used = 0;

    for (uint64_t id = 1; id <= 1000; id++) {
        request.id = id;
        request.op_case = id % 3 == 0 ? GOALLOCD__REQUEST__OP_STATS : GOALLOCD__REQUEST__OP_PING;
        if (id % 3 == 0)
            request.stats = &stats;
        else
            request.ping = &ping;
        used += frame_pack(&request.base, out + used, sizeof(out) - used);
    }
    assert_int_equal(channel_connect(&ch, ((fixture *)*state)->socket, deadline_in(5000)), 0);
    assert_int_equal(channel_send(&ch, out, used, deadline_in(5000)), 0);
    for (uint64_t id = 1; id <= 1000; id++) {
        const uint8_t *payload;
        size_t len;

        assert_int_equal(channel_recv(&ch, &payload, &len, deadline_in(5000)), 0);

        Goallocd__Reply *reply = goallocd__reply__unpack(NULL, len, payload);

        assert_non_null(reply);
        assert_int_equal(reply->id, id);
        goallocd__reply__free_unpacked(reply, NULL);
        channel_drop_frame(&ch);
    }
    channel_close(&ch);
}

/* Request number id of a stream: short ones, long ones, some that take longer. Returns the bytes of its frame. */
static size_t mixed_request(uint64_t id, uint8_t *out, size_t cap)
{
    static uint8_t name[50000];
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Ping ping = GOALLOCD__PING__INIT;
    Goallocd__Stats stats = GOALLOCD__STATS__INIT;
    Goallocd__RootGet get = GOALLOCD__ROOT_GET__INIT;

    request.id = id;
    if (id % 5 == 0) {
        get.name = (ProtobufCBinaryData){ .data = name, .len = id * 7919 % sizeof(name) };
        request.op_case = GOALLOCD__REQUEST__OP_ROOT_GET;
        request.root_get = &get;
    } else if (id % 7 == 0) {
        request.op_case = GOALLOCD__REQUEST__OP_STATS;
        request.stats = &stats;
    } else {
        request.op_case = GOALLOCD__REQUEST__OP_PING;
        request.ping = &ping;
    }
    return frame_pack(&request.base, out, cap);
}

static void requests_in_pieces_of_any_length_are_answered_in_order(void **state)
{
    enum { NREQUESTS = 300 };
    static uint8_t out[NREQUESTS * 12000];
    static channel ch;
    uint64_t seed = test_seed();
    uint64_t id = 1;
    size_t used = 0;

    for (uint64_t i = 1; i <= NREQUESTS; i++)
        used += mixed_request(i, out + used, sizeof(out) - used);
    assert_int_equal(channel_connect(&ch, ((fixture *)*state)->socket, deadline_in(5000)), 0);
    for (size_t at = 0; at < used;) {
        size_t some = (size_t)(test_random(&seed) >> (63 - test_random(&seed) % 17)) + 1;

        some = some < used - at ? some : used - at;
        assert_int_equal(channel_send(&ch, out + at, some, deadline_in(5000)), 0);
        at += some;
        if (test_random(&seed) % 4 == 0)
            (void)usleep(200); /* so that the daemon reads just this */
    }
    for (; id <= NREQUESTS; id++) {
        const uint8_t *payload;
        size_t len;

        assert_int_equal(channel_recv(&ch, &payload, &len, deadline_in(5000)), 0);

        Goallocd__Reply *reply = goallocd__reply__unpack(NULL, len, payload);

        assert_non_null(reply);
        assert_int_equal(reply->id, id);
        assert_int_equal(reply->error != 0, id % 5 == 0);
        goallocd__reply__free_unpacked(reply, NULL);
        channel_drop_frame(&ch);
    }
    channel_close(&ch);
}

static void more_large_objects_at_once_than_the_daemon_commits_at_once_all_come(void **state)
{
    enum { NCLIENTS = 150 };
    Goallocd__AllocLarge large = GOALLOCD__ALLOC_LARGE__INIT;
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    static uint8_t out[64];
    int fds[NCLIENTS];
    size_t len;

    large.npages = 64; /* more than is committed without the thread pool */
    request.id = 2;
    request.op_case = GOALLOCD__REQUEST__OP_ALLOC_LARGE;
    request.alloc_large = &large;
    len = frame_pack(&request.base, out, sizeof(out));
    for (int i = 0; i < NCLIENTS; i++)
        fds[i] = raw_attach(*state);
    for (int i = 0; i < NCLIENTS; i++)
        send_bytes(fds[i], out, len);
    for (int i = 0; i < NCLIENTS; i += 10) {
        (void)close(fds[i]); /* some do not wait for theirs */
        fds[i] = -1;
    }
    for (int i = 0; i < NCLIENTS; i++) {
        static channel ch;
        const uint8_t *payload;

        if (fds[i] < 0)
            continue;
        ch.fd = fds[i];
        ch.have_bytes = 0;
        assert_int_equal(channel_recv(&ch, &payload, &len, deadline_in(5000)), 0);

        Goallocd__Reply *reply = goallocd__reply__unpack(NULL, len, payload);

        assert_non_null(reply);
        assert_int_equal(reply->error, 0);
        assert_int_equal(reply->result_case, GOALLOCD__REPLY__RESULT_ALLOC_LARGE);
        goallocd__reply__free_unpacked(reply, NULL);
        channel_close(&ch);
    }
    assert_true(fixture_is_clean(*state, 0));
    assert_true(fixture_is_whole(*state));
}

static void unknown_request_is_enosys_and_unknown_fields_are_ignored(void **state)
{
    /* id 9, field 999 = {} (no op that is known); then id 9, ping, field 1000 = 5 */
    static const uint8_t unknown[] = { 5, 0, 0, 0, 0x08, 0x09, 0xba, 0x3e, 0x00 };
    static const uint8_t extra[] = { 7, 0, 0, 0, 0x08, 0x09, 0x72, 0x00, 0xc0, 0x3e, 0x05 };
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Ping ping = GOALLOCD__PING__INIT;
    static channel ch;
    const uint8_t *payload;
    size_t len;
    Goallocd__Reply *reply;

    assert_int_equal(channel_connect(&ch, ((fixture *)*state)->socket, deadline_in(5000)), 0);
    send_bytes(ch.fd, unknown, sizeof(unknown));
    send_bytes(ch.fd, extra, sizeof(extra));
    for (int i = 0; i < 2; i++) {
        assert_int_equal(channel_recv(&ch, &payload, &len, deadline_in(5000)), 0);
        reply = goallocd__reply__unpack(NULL, len, payload);
        assert_non_null(reply);
        assert_int_equal(reply->id, 9);
        assert_int_equal(reply->error, i == 0 ? ENOSYS : 0);
        goallocd__reply__free_unpacked(reply, NULL);
        channel_drop_frame(&ch);
    }
    request.id = 10;
    request.op_case = GOALLOCD__REQUEST__OP_PING;
    request.ping = &ping;
    assert_int_equal(raw_error(ch.fd, &request), 0);
    channel_close(&ch);
}

static void requests_without_a_session_are_refused(void **state)
{
    Goallocd__AllocLarge large = GOALLOCD__ALLOC_LARGE__INIT;
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    int fd = raw_connect(*state);
    uint32_t span = 5;
    int error;

    (void)refill_raw(fd, 10, 1, &error);
    assert_int_equal(error, ENOTCONN);
    assert_int_equal(raw_return(fd, &span, 1, NULL, 0), ENOTCONN);
    large.npages = 1;
    request.id = 4;
    request.op_case = GOALLOCD__REQUEST__OP_ALLOC_LARGE;
    request.alloc_large = &large;
    assert_int_equal(raw_error(fd, &request), ENOTCONN);
    (void)close(fd);
}

static void refill_of_no_such_class_or_of_nothing_is_refused(void **state)
{
    int fd = raw_attach(*state);
    const uint32_t rows[][2] = { { 0, 1 }, { 1, 1 }, { 136, 1 }, { UINT32_MAX, 1 }, { 10, 0 } };
    int error;

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        (void)refill_raw(fd, rows[i][0], rows[i][1], &error);
        assert_int_equal(error, EINVAL);
    }
    assert_true(refill_raw(fd, 10, UINT32_MAX, &error) != 0); /* as many as the daemon gives */
    (void)close(fd);
}

/* What is no page is a fault of the client's own; what it does not lease may be another one's fault. */
static void return_of_a_span_that_is_not_leased_changes_nothing(void **state)
{
    const fixture *f = *state;
    int error;
    int other = raw_attach(f);
    uint32_t others = refill_raw(other, 10, 1, &error);
    const uint32_t rows[] = { 0, 1u << 30, UINT32_MAX };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        int fd = raw_attach(f);
        uint32_t spans[3] = { refill_raw(fd, 12, 1, &error), rows[i], rows[i] };

        assert_int_equal(raw_return(fd, spans, 3, NULL, 0), -1);
        assert_true(raw_is_closed(fd));
        (void)close(fd);
    }
    for (int twice = 0; twice < 2; twice++) {
        int fd = raw_attach(f);
        uint32_t spans[3] = { refill_raw(fd, 12, 1, &error), 1, others };

        assert_int_equal(raw_return(fd, spans, 3, NULL, 0), 0);
        assert_int_equal(raw_return(fd, spans, 3, NULL, 0), 0);
        (void)close(fd);
    }
    assert_true(fixture_log_has(f, "which it does not lease: ignored"));
    assert_int_equal(raw_return(other, &others, 1, NULL, 0), 0); /* untouched by all that */
    (void)close(other);
}

static void absurd_large_requests_are_refused(void **state)
{
    const struct {
        uint64_t npages;
        uint64_t align_pages;
        int error;
    } rows[] = {
        { 0, 1, EINVAL },          { 1, 3, EINVAL },          { 1, 16384, EINVAL },      { UINT64_MAX, 1, ENOSPC },
        { UINT64_MAX, 8192, ENOSPC }, { 1 << 23, 1, ENOSPC }, { (1 << 23) - 1, 8192, ENOMEM }, { 1, 8192, 0 },
    };
    int fd = raw_attach(*state);

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        Goallocd__AllocLarge large = GOALLOCD__ALLOC_LARGE__INIT;
        Goallocd__Request request = GOALLOCD__REQUEST__INIT;
        int error;

        large.npages = rows[i].npages;
        large.align_pages = rows[i].align_pages;
        request.id = 4;
        request.op_case = GOALLOCD__REQUEST__OP_ALLOC_LARGE;
        request.alloc_large = &large;
        error = raw_error(fd, &request);
        if (error == ENOSPC && rows[i].error == ENOMEM)
            continue; /* the system has as much as the arena, which is not to be had from a multiple of 64 MiB on */
        assert_int_equal(error, rows[i].error);
    }
    (void)close(fd);
}

/* Sends pings and reads no answer, until the daemon takes no more; then reads them all. */
static int reading_late(const fixture *f, void *arg)
{
    static uint8_t out[4096];
    static channel ch;
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Ping ping = GOALLOCD__PING__INIT;
    size_t nrequests = 0;
    size_t used = 0;

    (void)arg;
    CHECK(channel_connect(&ch, f->socket, deadline_in(5000)) == 0);
    request.id = 1;
    request.op_case = GOALLOCD__REQUEST__OP_PING;
    request.ping = &ping;
    while (used < sizeof(out) - 64)
        used += frame_pack(&request.base, out + used, sizeof(out) - used);
    for (;;) {
        struct pollfd pfd = { .fd = ch.fd, .events = POLLOUT };
        ssize_t n = poll(&pfd, 1, 500) == 1 ? send(ch.fd, out, used, MSG_NOSIGNAL | MSG_DONTWAIT) : 0;

        CHECK(n == 0 || n == (ssize_t)used || (n < 0 && errno == EAGAIN)); /* it is not disconnected */
        CHECK(nrequests < 10 * MIB);
        if (n == 0)
            break;
        nrequests += n > 0 ? used / 8 : 0;
    }
    for (; nrequests > 0; nrequests--) {
        const uint8_t *payload;
        size_t len;

        CHECK(channel_recv(&ch, &payload, &len, deadline_in(5000)) == 0);
        channel_drop_frame(&ch);
    }
    channel_close(&ch);
    return 0;
}

static void client_that_does_not_read_waits_for_itself(void **state)
{
    assert_int_equal(child_run(*state, reading_late, NULL), 0);
}

static void flood_of_requests_for_the_whole_heap_delays_nobody(void **state)
{
    const fixture *f = *state;
    static uint8_t frames[60000];
    Goallocd__Request trim = GOALLOCD__REQUEST__INIT;
    Goallocd__Trim trim_body = GOALLOCD__TRIM__INIT;
    Goallocd__Request ping = GOALLOCD__REQUEST__INIT;
    Goallocd__Ping ping_body = GOALLOCD__PING__INIT;
    size_t used = 0;
    int flood = raw_connect(f);
    int fd = raw_connect(f);

    trim.id = 1;
    trim.op_case = GOALLOCD__REQUEST__OP_TRIM;
    trim.trim = &trim_body;
    while (used + 64 < sizeof(frames))
        used += frame_pack(&trim.base, frames + used, 64);
    send_bytes(flood, frames, used);
    ping.id = 2;
    ping.op_case = GOALLOCD__REQUEST__OP_PING;
    ping.ping = &ping_body;
    for (int i = 0; i < 20; i++)
        assert_int_equal(raw_error(fd, &ping), 0);
    (void)close(flood);
    (void)close(fd);
}

static void random_bytes_break_nothing(void **state)
{
    const fixture *f = *state;
    uint64_t seed = test_seed();

    for (int i = 0; i < 300; i++) {
        uint8_t bytes[512];
        size_t len = 5 + test_random(&seed) % 500;
        int fd = i % 2 ? raw_attach(f) : raw_connect(f);

        for (size_t j = 0; j < len; j++)
            bytes[j] = (uint8_t)test_random(&seed);
        bytes[0] = (uint8_t)(len - 4); /* often a whole frame */
        bytes[1] = (uint8_t)((len - 4) >> 8);
        bytes[2] = bytes[3] = 0;
        if (test_random(&seed) % 2) { /* with a plausible beginning */
            bytes[4] = 0x08;
            bytes[5] = 0x01;
            bytes[6] = (uint8_t)((2 + test_random(&seed) % 16) << 3 | 2);
        }
        send_bytes(fd, bytes, len);
        (void)close(fd);
    }
}

/* A client that scribbles over every bit it can reach. */
static int scribbling(const fixture *f, void *arg)
{
    goalloc_stats_t stats = { .struct_size = sizeof(stats) };
    uint64_t seed = *(uint64_t *)arg;
    FILE *maps;
    char line[512];
    unsigned long from = 0;
    unsigned long to = 0;

    must_attach(f, 0);
    for (int i = 0; i < 1000; i++)
        CHECK(goalloc_malloc(1 + test_random(&seed) % 5000) != NULL);
    maps = fopen("/proc/self/maps", "re");
    while (maps != NULL && fgets(line, sizeof(line), maps) != NULL) {
        if (strstr(line, "goalloc-bitmap") != NULL)
            CHECK(sscanf(line, "%lx-%lx", &from, &to) == 2);
    }
    CHECK(from != 0);
    for (uint64_t *word = (uint64_t *)from; word < (uint64_t *)(from + 256 * 1024); word++)
        *word = test_random(&seed);
    CHECK(goalloc_stats(&stats) == 0);
    _exit(0);
}

static void scribbled_bits_do_not_harm_the_daemon(void **state)
{
    const fixture *f = *state;
    uint64_t seed = test_seed();
    goalloc_stats_t stats;

    for (int i = 0; i < 5; i++) {
        assert_int_equal(child_run(f, scribbling, &seed), 0);
        fixture_stats(f, &stats);
        assert_int_equal(child_run(f, use_the_heap, NULL), 0);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(malformed_frames_disconnect),
        TEST(frame_in_single_bytes_is_answered),
        TEST(pipelined_requests_are_answered_in_order),
        TEST(requests_in_pieces_of_any_length_are_answered_in_order),
        TEST(more_large_objects_at_once_than_the_daemon_commits_at_once_all_come),
        TEST(unknown_request_is_enosys_and_unknown_fields_are_ignored),
        TEST(requests_without_a_session_are_refused),
        TEST(refill_of_no_such_class_or_of_nothing_is_refused),
        TEST(return_of_a_span_that_is_not_leased_changes_nothing),
        TEST(absurd_large_requests_are_refused),
        TEST(client_that_does_not_read_waits_for_itself),
        TEST(flood_of_requests_for_the_whole_heap_delays_nobody),
        TEST(random_bytes_break_nothing),
        TEST(scribbled_bits_do_not_harm_the_daemon),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
