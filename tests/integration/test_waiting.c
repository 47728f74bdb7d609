/*
 * Requests that wait in the daemon: each is handled about once, first come first served, whoever closes meanwhile.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "daemon/serve/operation.h"
#include "proto/channel.h"
#include "shm/units.h"
#include "tests/support/attach.h"
#include "tests/support/rawheap.h"

#define CONNECTIONS  (3 * OPERATION_MEMORIES)
#define COMMIT_PAGES 32u /* 256 KiB without memory: for the thread pool; and a heap too small to prepare any ahead */
#define WORKERS      100u
#define WORKER_OPS   2000u
#define WORKER_LIVE  16u

typedef struct counts {
    uint64_t requests;
    uint64_t tries;
    uint64_t waits;
} counts;

static counts counts_now(const fixture *f)
{
    Goallocd__Reply *reply = fixture_stats_reply(f);
    counts ret = { reply->stats->rpcs, reply->stats->tries, reply->stats->waits };

    goallocd__reply__free_unpacked(reply, NULL);
    return ret;
}

/* At most percent tries for 100 requests since before, and at least nwaits of them have waited. */
static void check_tries(const fixture *f, counts before, unsigned percent, uint64_t nwaits)
{
    counts now = counts_now(f);
    uint64_t requests = now.requests - before.requests;
    uint64_t tries = now.tries - before.tries;

    print_message("%llu requests, %llu tries, %llu waits\n", (unsigned long long)requests, (unsigned long long)tries,
                  (unsigned long long)(now.waits - before.waits));
    assert_true(tries >= requests);
    assert_true(tries * 100 <= requests * percent);
    assert_true(now.waits - before.waits >= nwaits);
}

static void send_request(int fd, Goallocd__Request *request)
{
    uint8_t out[64];
    size_t len = frame_pack(&request->base, out, sizeof(out));

    assert_int_equal(send(fd, out, len, MSG_NOSIGNAL), len);
}

static void send_alloc_large(int fd, uint64_t npages)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__AllocLarge ask = GOALLOCD__ALLOC_LARGE__INIT;

    ask.npages = npages;
    request.id = 1;
    request.op_case = GOALLOCD__REQUEST__OP_ALLOC_LARGE;
    request.alloc_large = &ask;
    send_request(fd, &request);
}

/* Which of the connections has its reply next; its descriptor is -1 from then on. */
static unsigned await_reply(struct pollfd *pfds)
{
    assert_true(poll(pfds, CONNECTIONS, 20000) > 0);
    for (unsigned i = 0; i < CONNECTIONS; i++) {
        if (pfds[i].fd >= 0 && (pfds[i].revents & POLLIN) != 0) {
            pfds[i].fd = -1;
            return i;
        }
    }
    fail_msg("no reply");
    return 0;
}

/* A daemon that is stopped finds the requests of all at once; every fourth connection is closed by then. */
static void send_all(const fixture *f, int *fds, struct pollfd *pfds, bool some_close)
{
    for (unsigned i = 0; i < CONNECTIONS; i++)
        fds[i] = raw_attach(f);
    assert_int_equal(kill(f->daemon, SIGSTOP), 0);
    for (unsigned i = 0; i < CONNECTIONS; i++) {
        unsigned at = CONNECTIONS - 1 - i; /* not in the order in which they have connected */

        send_alloc_large(fds[at], COMMIT_PAGES);
        pfds[i] = (struct pollfd){ .fd = fds[at], .events = POLLIN };
    }
    for (unsigned i = 2; some_close && i < CONNECTIONS; i += 4) {
        (void)close(pfds[i].fd);
        fds[CONNECTIONS - 1 - i] = pfds[i].fd = -1;
    }
    assert_int_equal(kill(f->daemon, SIGCONT), 0);
}

static void close_all(const fixture *f, int *fds)
{
    for (unsigned i = 0; i < CONNECTIONS; i++) {
        if (fds[i] >= 0)
            (void)close(fds[i]);
    }
    assert_true(fixture_is_whole(f));
    assert_true(fixture_is_clean(f, 0));
}

/*
 * As many as have memory are under way at once and may overtake each other; all others wait, but for those that the
 * stock is enough for. So who came as number k is answered after all but 63 of those before.
 */
static void requests_at_once_are_answered_in_order(void **state)
{
    const fixture *f = *state;
    int fds[CONNECTIONS];
    struct pollfd pfds[CONNECTIONS];
    counts before = counts_now(f);

    send_all(f, fds, pfds, false);
    for (unsigned n = 0; n < CONNECTIONS; n++) {
        unsigned k = await_reply(pfds);

        assert_true(n + OPERATION_MEMORIES > k);
    }
    check_tries(f, before, 120, CONNECTIONS - OPERATION_MEMORIES - SHM_STOCK_PAGES / COMMIT_PAGES);
    close_all(f, fds);
}

static void requests_of_peers_that_close_leave_the_queue(void **state)
{
    const fixture *f = *state;
    int fds[CONNECTIONS];
    struct pollfd pfds[CONNECTIONS];
    unsigned nopen = 0;

    send_all(f, fds, pfds, true);
    for (unsigned i = 0; i < CONNECTIONS; i++)
        nopen += pfds[i].fd >= 0;
    while (nopen-- > 0)
        (void)await_reply(pfds);
    close_all(f, fds);
}

/* --- for pages, and for a session --- */

#define MOST_PAGES 7500u /* of 8192, with --reserve 64M: not while a piece is being released */
#define ROUNDS_MAX 2000u

static void send_scavenge(int fd)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Scavenge ask = GOALLOCD__SCAVENGE__INIT;

    request.id = 1;
    request.op_case = GOALLOCD__REQUEST__OP_SCAVENGE;
    request.scavenge = &ask;
    send_request(fd, &request);
}

/* Nearly the whole arena, and back. Another session may have it, until the daemon has seen that one's end. */
static void take_most(const rawheap *heap)
{
    page_no first = rawheap_alloc_large(heap, MOST_PAGES);

    for (unsigned i = 0; first.n == 0 && i < 1000; i++) {
        (void)poll(NULL, 0, 10);
        first = rawheap_alloc_large(heap, MOST_PAGES);
    }
    assert_int_not_equal(first.n, 0);
    assert_int_equal(rawheap_return(heap, NULL, 0, &first.n, 1), 0);
}

/* Nearly the whole arena is asked for while its pages are being released; and by one that closes before it has it. */
static void pages_that_are_being_released_are_waited_for(void **state)
{
    const fixture *f = *state;
    uint64_t before = counts_now(f).waits;
    rawheap heap;

    rawheap_open(&heap, f, 0, "waits");
    for (unsigned round = 0; counts_now(f).waits < before + 6; round++) {
        int other = raw_attach(f);
        int scavenger = raw_connect(f);

        assert_true(round < ROUNDS_MAX);
        take_most(&heap); /* it has memory now, which can be released */
        send_scavenge(scavenger);
        (void)poll(NULL, 0, (int)(round % 4));
        if (round % 2 == 0)
            send_alloc_large(other, MOST_PAGES);
        (void)close(other);
        take_most(&heap);
        (void)close(scavenger);
        assert_true(fixture_is_whole(f));
    }
    rawheap_close(&heap);
    assert_true(fixture_is_clean(f, 0));
}

/* A process loses its connection while memory for it is committed, and comes back at once. */
static void a_session_that_comes_back_waits_for_its_commit(void **state)
{
    const fixture *f = *state;
    uint64_t before = counts_now(f).waits;
    rawheap heap;

    rawheap_open(&heap, f, 0, "comes back");
    for (unsigned round = 0; counts_now(f).waits == before; round++) {
        assert_true(round < 40);
        send_alloc_large(heap.fd, 16 * MIB / PAGE_BYTES); /* more than is prepared ahead at once */
        rawheap_disconnect(&heap);
        assert_int_equal(rawheap_come_back(&heap, f), 0);
        assert_true(fixture_is_whole(f));
    }
    rawheap_close(&heap);
    assert_true(fixture_is_clean(f, 0));
}

/* --- processes --- */

static int worker(const fixture *f, void *arg)
{
    void *live[WORKER_LIVE] = { NULL };
    uint64_t random = (uint64_t)(uintptr_t)arg;

    must_attach(f, 0);
    for (unsigned op = 0; op < WORKER_OPS; op++) {
        void **p = &live[test_random(&random) % WORKER_LIVE];
        size_t size = (size_t)16 << test_random(&random) % 14; /* to 128 KiB */

        goalloc_free(*p);
        *p = goalloc_malloc(size);
        CHECK(*p != NULL);
        *(volatile uint64_t *)*p = op;
    }
    for (unsigned at = 0; at < WORKER_LIVE; at++)
        goalloc_free(live[at]);
    return 0;
}

static void run_workers(const fixture *f, unsigned percent)
{
    counts before = counts_now(f);
    pid_t pids[WORKERS];

    assert_int_equal(kill(f->daemon, SIGSTOP), 0); /* until all of them have asked to attach */
    for (unsigned i = 0; i < WORKERS; i++)
        pids[i] = child_start(f, worker, (void *)(uintptr_t)(i + 1));
    assert_int_equal(kill(f->daemon, SIGCONT), 0);
    for (unsigned i = 0; i < WORKERS; i++)
        assert_int_equal(child_wait(pids[i]), 0);
    check_tries(f, before, percent, 0);
    assert_true(fixture_is_whole(f));
    assert_true(fixture_is_clean(f, 0));
}

/* Some find out when they are handled that what they need is just being prepared: these are handled twice. */
static void many_processes_in_a_growing_heap_are_handled_twice_at_most(void **state)
{
    run_workers(*state, 200);
}

/* With a memory limit nothing is prepared, and each commit releases other pages first. */
static void many_processes_at_a_memory_limit_are_handled_about_once(void **state)
{
    run_workers(*state, 120);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST_WITH(requests_at_once_are_answered_in_order, "--reserve", "1G", "--uid-turn-us", "10000000"),
        FIXTURE_TEST_WITH(requests_of_peers_that_close_leave_the_queue, "--reserve", "1G", "--uid-turn-us", "10000000"),
        FIXTURE_TEST_WITH(pages_that_are_being_released_are_waited_for, "--reserve", "64M"),
        FIXTURE_TEST(a_session_that_comes_back_waits_for_its_commit),
        FIXTURE_TEST(many_processes_in_a_growing_heap_are_handled_twice_at_most),
        FIXTURE_TEST_WITH(many_processes_at_a_memory_limit_are_handled_about_once, "--memory-limit", "32M"),
        FIXTURE_TEST_WITH(many_processes_at_a_memory_limit_are_handled_about_once, "--memory-limit", "32M",
                          "--reserve", "256M"),
    };
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) { /* three descriptors a session, in the daemon */
        limit.rlim_cur = limit.rlim_max < 4096 ? limit.rlim_max : 4096;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
    return cmocka_run_group_tests_name("requests that wait", tests, NULL, NULL);
}
