/*
 * Antechamber: pings are answered while a heap is loaded, and what else comes is left for the server, byte for byte.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/antechamber.h"
#include "proto/fdpass.h"
#include "proto/goallocd.pb-c.h"
#include "proto/wire.h"
#include "tests/support/guard.h"

static struct sockaddr_un address = { .sun_family = AF_UNIX };
static antechamber room;
static int listen_fd;

static int setup(void **state)
{
    static unsigned n;

    (void)state;
    (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s/antechamber-%u", guard_dir(), n++);
    listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(listen_fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(listen_fd, 16), 0);
    antechamber_open(&room, listen_fd);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    (void)close(listen_fd);
    return 0;
}

static int connect_to_it(void)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_int_equal(connect(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

static size_t pack_ping(uint64_t id, uint8_t *out, size_t size)
{
    Goallocd__Ping body = GOALLOCD__PING__INIT;
    Goallocd__Request request = WIRE_REQUEST(PING, ping, &body);

    request.id = id;
    return frame_pack(&request.base, out, size);
}

/* The answer to a ping; 5 s are enough. */
static Goallocd__Reply *hear(int fd)
{
    struct pollfd ready = { .fd = fd, .events = POLLIN };
    uint8_t in[600];
    ssize_t n;

    assert_int_equal(poll(&ready, 1, 5000), 1);
    n = recv(fd, in, sizeof(in), 0);
    assert_true(n > (ssize_t)FRAME_HEADER_BYTES);
    assert_int_equal(frame_payload_bytes(in), n - (ssize_t)FRAME_HEADER_BYTES);
    return goallocd__reply__unpack(NULL, frame_payload_bytes(in), in + FRAME_HEADER_BYTES);
}

static void pings_are_answered_with_how_far_it_is(void **state)
{
    uint8_t out[64];
    int fd = connect_to_it();

    (void)state;
    u64_store_relaxed(&room.total, 50);
    for (uint64_t i = 1; i < 5; i++) {
        size_t len = pack_ping(i, out, sizeof(out));
        Goallocd__Reply *reply;

        u64_store_relaxed(&room.done, 10 * i);
        assert_int_equal(send(fd, out, len, 0), len);
        reply = hear(fd);
        assert_non_null(reply);
        assert_int_equal(reply->id, i);
        assert_true(reply->ping != NULL && reply->ping->loading && reply->ping->pid == (uint32_t)getpid());
        assert_int_equal(reply->ping->loading_done, 10 * i);
        assert_int_equal(reply->ping->loading_total, 50);
        goallocd__reply__free_unpacked(reply, NULL);
    }
    antechamber_close(&room);
    assert_int_equal(room.nfds, 1); /* it may ask the server next */
    (void)close(room.fds[0]);
    (void)close(fd);
}

/* What is not a whole ping, of any kind. */
static void all_else_is_left_for_the_server(void **state)
{
    static const char attach[] = "\x04\0\0\0\x08\x01\x12\x00then more";
    static const char part[] = "\x10\0";
    static const char large[] = "\xff\xff\xff\xff nonsense";
    const struct {
        const char *bytes;
        size_t n;
    } rows[] = { { attach, sizeof(attach) }, { part, sizeof(part) - 1 }, { large, sizeof(large) } };
    int fds[3];

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        fds[i] = connect_to_it();
        assert_int_equal(send(fds[i], rows[i].bytes, rows[i].n, 0), rows[i].n);
    }
    for (int ms = 0; ms < 5000 && u32_load_relaxed(&room.nwaiting) < 3; ms++)
        usleep(1000);
    antechamber_close(&room);
    assert_int_equal(room.nfds, 3);
    for (size_t i = 0; i < 3; i++) {
        char in[64];

        assert_int_equal(recv(room.fds[i], in, sizeof(in), MSG_DONTWAIT), rows[i].n);
        assert_memory_equal(in, rows[i].bytes, rows[i].n);
        (void)close(room.fds[i]);
        (void)close(fds[i]);
    }
}

static void descriptors_that_come_along_are_not_taken(void **state)
{
    uint8_t out[64];
    size_t len = pack_ping(1, out, sizeof(out));
    int fd = connect_to_it();
    int fds[FDPASS_MAX];
    int nfds = 0;
    char in[64];

    (void)state;
    assert_int_equal(fdpass_send(fd, out, len, &fd, 1), len);
    for (int ms = 0; ms < 5000 && u32_load_relaxed(&room.nwaiting) < 1; ms++)
        usleep(1000);
    antechamber_close(&room);
    assert_int_equal(room.nfds, 1);
    assert_int_equal(fdpass_recv(room.fds[0], in, sizeof(in), fds, &nfds), len);
    assert_int_equal(nfds, 1);
    (void)close(fds[0]);
    (void)close(room.fds[0]);
    (void)close(fd);
}

static void who_goes_is_forgotten(void **state)
{
    uint8_t out[64];
    size_t len = pack_ping(1, out, sizeof(out));

    (void)state;
    for (unsigned i = 0; i < 2 * ANTECHAMBER_MAX; i++) {
        int fd = connect_to_it();

        assert_int_equal(send(fd, out, i % 2 == 0 ? len : 3, 0), i % 2 == 0 ? len : 3);
        if (i % 2 == 0)
            goallocd__reply__free_unpacked(hear(fd), NULL);
        (void)close(fd);
    }
    for (int ms = 0; ms < 5000 && u32_load_relaxed(&room.nopen) > 0; ms++)
        usleep(1000);
    antechamber_close(&room);
    assert_int_equal(room.nfds, 0);
}

/* Writes pings and reads answers, as fast as it can, until it is closed. */
static void *ping_without_a_pause(void *data)
{
    int fd = *(int *)data;
    uint8_t out[64 * 64];
    char in[16384];
    size_t len = 0;

    for (uint64_t i = 1; i <= 64; i++)
        len += pack_ping(i, out + len, sizeof(out) - len);
    while (send(fd, out, len, MSG_NOSIGNAL) > 0) {
        while (recv(fd, in, sizeof(in), MSG_DONTWAIT) > 0)
            continue;
    }
    return NULL;
}

static void who_pings_without_a_pause_keeps_nobody_from_anything(void **state)
{
    pthread_t threads[2];
    uint8_t out[64];
    int busy[2];
    int fd;

    (void)state;
    for (int i = 0; i < 2; i++) {
        busy[i] = connect_to_it();
        assert_int_equal(pthread_create(&threads[i], NULL, ping_without_a_pause, &busy[i]), 0);
    }
    fd = connect_to_it();
    for (uint64_t i = 1; i < 20; i++) {
        size_t len = pack_ping(i, out, sizeof(out));

        assert_int_equal(send(fd, out, len, 0), len);
        goallocd__reply__free_unpacked(hear(fd), NULL);
    }
    antechamber_close(&room);
    for (unsigned i = 0; i < room.nfds; i++)
        (void)close(room.fds[i]);
    for (int i = 0; i < 2; i++) {
        (void)shutdown(busy[i], SHUT_RDWR);
        (void)pthread_join(threads[i], NULL);
        (void)close(busy[i]);
    }
    (void)close(fd);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(pings_are_answered_with_how_far_it_is),
        TEST(all_else_is_left_for_the_server),
        TEST(descriptors_that_come_along_are_not_taken),
        TEST(who_goes_is_forgotten),
        TEST(who_pings_without_a_pause_keeps_nobody_from_anything),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
