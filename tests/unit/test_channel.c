/*
 * The blocking end of a connection: how long it waits, whatever the other end and signals do.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "proto/channel.h"
#include "tests/support/guard.h"

#define QUEUE_MAX 16

static struct sockaddr_un addr = { .sun_family = AF_UNIX };
static int listener = -1;
static channel ch;
static int peer = -1; /* the other end */

static int setup_all(void **state)
{
    (void)state;
    (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/socket", guard_dir());
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return bind(listener, (const struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(listener, 5) < 0 ? -1 : 0;
}

static int teardown_all(void **state)
{
    (void)state;
    return close(listener);
}

static int setup(void **state)
{
    (void)state;
    if (channel_connect(&ch, addr.sun_path, deadline_in(1000)) < 0)
        return -1;
    peer = accept(listener, NULL, NULL);
    return peer < 0 ? -1 : 0;
}

static int teardown(void **state)
{
    (void)state;
    channel_close(&ch);
    (void)close(peer);
    return 0;
}

static double now_ms(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

/* Nothing comes: the call must end at its deadline, and little later; on a busy machine, once in some tries. */
static void must_time_out(int timeout_ms)
{
    double took = 0;

    for (int i = 0; i < 5 && (i == 0 || took > timeout_ms + 60); i++) {
        const uint8_t *payload;
        double start = now_ms();
        size_t len;

        assert_int_equal(channel_recv(&ch, &payload, &len, deadline_in(timeout_ms)), -ETIMEDOUT);
        took = now_ms() - start;
        assert_true(took > timeout_ms - 2);
    }
    assert_true(took < timeout_ms + 60);
}

static void channel_recv_of_nothing_times_out_when_it_should(void **state)
{
    (void)state;
    must_time_out(0);
    must_time_out(1);
    must_time_out(30);
    must_time_out(110);
    must_time_out(330);
}

static void on_alarm(int signum)
{
    (void)signum;
}

static void channel_recv_among_signals_times_out_when_it_should(void **state)
{
    struct sigaction action = { .sa_handler = on_alarm, .sa_flags = SA_RESTART };
    struct itimerval often = { { 0, 3000 }, { 0, 3000 } };
    struct itimerval never = { { 0, 0 }, { 0, 0 } };

    (void)state;
    assert_int_equal(sigaction(SIGALRM, &action, NULL), 0);
    assert_int_equal(setitimer(ITIMER_REAL, &often, NULL), 0);
    must_time_out(20);
    must_time_out(250);
    assert_int_equal(setitimer(ITIMER_REAL, &never, NULL), 0);
}

static void *send_late(void *arg)
{
    static const uint8_t frame[] = { 3, 0, 0, 0, 'a', 'b', 'c' };

    (void)arg;
    for (size_t i = 0; i < sizeof(frame); i++) {
        (void)usleep(i == 0 ? 150000 : 2000);
        (void)send(peer, &frame[i], 1, MSG_NOSIGNAL);
    }
    return NULL;
}

static void channel_recv_of_a_frame_in_pieces_comes_when_it_is_whole(void **state)
{
    const uint8_t *payload;
    pthread_t thread;
    size_t len;

    (void)state;
    assert_int_equal(pthread_create(&thread, NULL, send_late, NULL), 0);
    assert_int_equal(channel_recv(&ch, &payload, &len, deadline_in(20)), -ETIMEDOUT);
    assert_int_equal(channel_recv(&ch, &payload, &len, deadline_in(5000)), 0);
    assert_int_equal(len, 3);
    assert_memory_equal(payload, "abc", 3);
    channel_drop_frame(&ch);
    assert_int_equal(pthread_join(thread, NULL), 0);
}

static void channel_send_to_who_does_not_read_times_out(void **state)
{
    static uint8_t much[4 << 20];
    double start = now_ms();

    (void)state;
    assert_int_equal(channel_send(&ch, much, sizeof(much), deadline_in(50)), -ETIMEDOUT);
    assert_true(now_ms() - start > 48);
}

static void channel_recv_from_who_has_closed_is_a_reset(void **state)
{
    const uint8_t *payload;
    size_t len;

    (void)state;
    (void)shutdown(peer, SHUT_RDWR);
    assert_int_equal(channel_recv(&ch, &payload, &len, deadline_in(1000)), -ECONNRESET);
}

/* True while that thread is in connect(), asleep. */
static bool waits_in_connect(pid_t tid)
{
    char path[64];
    char text[32] = "";
    FILE *f;

    (void)snprintf(path, sizeof(path), "/proc/self/task/%d/syscall", (int)tid);
    f = fopen(path, "r");
    if (f == NULL)
        return true; /* this kernel doesn't tell */
    (void)fgets(text, sizeof(text), f);
    (void)fclose(f);
    return strtol(text, NULL, 10) == SYS_connect; /* a thread that runs says "running" */
}

/* Connections fill the queue of the listener; *ret_n of them. */
static void fill_queue(channel *many, int *ret_n)
{
    for (*ret_n = 0; *ret_n < QUEUE_MAX; ++*ret_n) {
        if (channel_try_connect(&many[*ret_n], addr.sun_path, 0, 0) == -EAGAIN)
            return;
    }
    fail_msg("the queue takes more than %d", QUEUE_MAX);
}

/* Accept one, when the other thread waits in the kernel for room. */
static void *accept_late(void *arg)
{
    const pid_t *tid = arg;

    while (!waits_in_connect(*tid))
        (void)usleep(1000);
    return (void *)(intptr_t)accept(listener, NULL, NULL);
}

static void channel_connect_to_a_full_queue_has_a_place_in_the_line(void **state)
{
    static channel many[QUEUE_MAX];
    channel last;
    pid_t tid = (pid_t)syscall(SYS_gettid);
    pthread_t thread;
    void *accepted;
    int n;

    (void)state;
    fill_queue(many, &n);
    assert_int_equal(channel_try_connect(&last, addr.sun_path, 0, 1), -EAGAIN);
    assert_int_equal(channel_connect(&last, addr.sun_path, deadline_in(5)), -ETIMEDOUT);
    assert_int_equal(pthread_create(&thread, NULL, accept_late, &tid), 0);
    assert_int_equal(channel_connect(&last, addr.sun_path, deadline_in(10000)), 0);
    assert_int_equal(pthread_join(thread, &accepted), 0);
    assert_true((fcntl(last.fd, F_GETFL) & O_NONBLOCK) != 0);
    channel_close(&last);
    (void)close((int)(intptr_t)accepted);
    for (int i = 0; i < n; i++) { /* the queue is empty for who comes next */
        (void)close(accept(listener, NULL, NULL));
        channel_close(&many[i]);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(channel_recv_of_nothing_times_out_when_it_should),
        TEST(channel_recv_among_signals_times_out_when_it_should),
        TEST(channel_recv_of_a_frame_in_pieces_comes_when_it_is_whole),
        TEST(channel_send_to_who_does_not_read_times_out),
        TEST(channel_recv_from_who_has_closed_is_a_reset),
        TEST(channel_connect_to_a_full_queue_has_a_place_in_the_line),
    };

    return cmocka_run_group_tests(tests, setup_all, teardown_all);
}
