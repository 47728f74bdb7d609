/*
 * Sessions, as the daemon sees them: processes that come back to one.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "tests/support/rawheap.h"

#define NOBODY 65534u

/* --- coming back as another user --- */

static int become_nobody_and_come_back(const fixture *f, void *arg)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__LeaseList ask = GOALLOCD__LEASE_LIST__INIT;
    Goallocd__Reply *reply;
    rawheap heap;
    uint32_t span;

    (void)arg;
    rawheap_open(&heap, f, 0, "daemon that drops its privileges");
    CHECK(rawheap_refill(&heap, 20, 0, 1, &span) == 1);
    rawheap_disconnect(&heap);
    CHECK(setresgid(NOBODY, NOBODY, NOBODY) == 0 && setresuid(NOBODY, NOBODY, NOBODY) == 0);

    heap.token[3] ^= 1;
    CHECK(rawheap_come_back(&heap, f) == EACCES);
    rawheap_disconnect(&heap);
    heap.token[3] ^= 1;
    CHECK(rawheap_come_back(&heap, f) == 0);

    /* It is the same session, with its leases. */
    request.id = 7;
    request.op_case = GOALLOCD__REQUEST__OP_LEASE_LIST;
    request.lease_list = &ask;
    reply = raw_call(heap.fd, &request);
    CHECK(reply != NULL && reply->error == 0);
    CHECK(reply->lease_list->n_spans == 1 && reply->lease_list->spans[0] == span);
    goallocd__reply__free_unpacked(reply, NULL);
    CHECK(rawheap_return(&heap, &span, 1, NULL, 0) == 0);
    rawheap_close(&heap);
    return 0;
}

static void reattach_of_a_process_that_has_become_another_user_succeeds(void **state)
{
    const fixture *f = *state;

    if (geteuid() != 0)
        skip();
    assert_int_equal(chmod(f->dir, 0711), 0);
    assert_int_equal(chmod(f->socket, 0666), 0);
    assert_int_equal(child_run(f, become_nobody_and_come_back, NULL), 0);
    assert_true(fixture_is_clean(f, 0));
}

/* --- publishing what is about to be freed with its owner --- */

#define PUBLISH_SPANS 3000u /* the end of a session takes many slices of the loop */

/* Publish the object at the beginning of the span. The error of the reply. */
static int publish(const rawheap *heap, uint32_t span)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Publish ask = GOALLOCD__PUBLISH__INIT;

    ask.offset = page_offset(page_at(span));
    request.id = 8;
    request.op_case = GOALLOCD__REQUEST__OP_PUBLISH;
    request.publish = &ask;
    return rawheap_error(heap, &request);
}

/* As the library does it: true, the object is the heap's; false: the daemon has to be asked. */
static bool publish_by_bit(const rawheap *heap, uint32_t first, const rawheap *owner)
{
    page_no span = page_at(first);

    if (!span_has_kept(shm_span_at(&heap->map, span)))
        return false;
    (void)u64_fetch_or_acq_rel(shm_kept_word(&heap->map, span, 0), 1);
    fence_seq_cst();

    const shm_session *entry = &heap->map.sessions[owner->session];

    return u32_load_acquire(&entry->epoch) == owner->epoch && u32_load_acquire(&entry->state) < SHM_SESSION_ENDING &&
           rawheap_leases(owner, span);
}

static bool is_live(const rawheap *heap, uint32_t span)
{
    object_ref object;

    return object_find(&heap->map, heap->map.base + page_offset(page_at(span)), &object) == OBJECT_LIVE;
}

/* The first half by bit where that is allowed, the rest by request. What was published is there afterwards, else not.
 */
static void publish_while_the_owner_ends_is_kept_or_refused(void **state)
{
    const fixture *f = *state;
    static uint32_t spans[PUBLISH_SPANS + 1024];
    static bool published[PUBLISH_SPANS];
    uint64_t npublished = 0;
    size_t n = 0;
    rawheap owner;
    rawheap other;
    rawheap watched; /* the owner's names and view, after it has gone */
    uint64_t seed = test_seed();

    rawheap_open(&other, f, 0, "other");
    rawheap_open(&owner, f, GOALLOC_ATTACH_RECLAIM, "owner");
    while (n < PUBLISH_SPANS) {
        size_t got = rawheap_refill(&owner, 2u * size_class_for(PAGE_BYTES).n, 0, 1024, &spans[n]);

        assert_int_not_equal(got, 0);
        n += got;
    }
    for (size_t i = 0; i < PUBLISH_SPANS; i++)
        u64_store_release(shm_alloc_word(&owner.map, page_at(spans[i]), 0), 1);
    watched = other;
    watched.session = owner.session;
    watched.epoch = owner.epoch;
    rawheap_close(&owner);
    (void)usleep((useconds_t)(test_random(&seed) % 500));
    for (size_t i = 0; i < PUBLISH_SPANS; i++) {
        size_t at = i % 2 == 0 ? i / 2 : PUBLISH_SPANS - 1 - i / 2; /* from both ends: the session's end begins at 0 */
        int error = 0;

        if (!publish_by_bit(&other, spans[at], &watched)) {
            error = publish(&other, spans[at]);
            assert_true(error == 0 || error == EALREADY || error == EINVAL);
        }
        published[at] = error == 0;
        npublished += error == 0;
    }
    for (int i = 0; i < 1000 && u32_load_acquire(&other.map.sessions[watched.session].state) != SHM_SESSION_FREE; i++)
        (void)usleep(5000);
    for (size_t i = 0; i < PUBLISH_SPANS; i++)
        assert_int_equal(is_live(&other, spans[i]), published[i]);
    assert_int_equal(publish(&other, (uint32_t)other.map.npages - 1), EINVAL);
    (void)printf("%u of %u were published in time\n", (unsigned)npublished, PUBLISH_SPANS);
    rawheap_close(&other);
    assert_true(fixture_is_clean(f, npublished));
}

/* --- a daemon without descriptors --- */

#define NOFILE 160u
#define CONNECTIONS 200

/* Open sessions until the daemon refuses; their connections are in heaps. Returns how many there are. */
static unsigned attach_until_refused(const fixture *f, rawheap *heaps)
{
    Goallocd__Attach ask = rawheap_attach_init();

    for (unsigned n = 0; n < CONNECTIONS; n++) {
        Goallocd__Reply *reply;
        int error;

        memset(&heaps[n], 0, sizeof(heaps[n]));
        heaps[n].fd = raw_connect(f);
        reply = rawheap_ask(&heaps[n], &ask);
        assert_non_null(reply); /* it is told why, and not just disconnected */
        error = reply->error;
        if (error != 0)
            assert_non_null(strstr(reply->message, "descriptors"));
        goallocd__reply__free_unpacked(reply, NULL);
        for (int i = 0; i < ATTACH_NFDS; i++) {
            if (heaps[n].fds[i] >= 0)
                (void)close(heaps[n].fds[i]);
        }
        if (error != 0) {
            assert_int_equal(error, EUSERS);
            assert_true(raw_is_closed(heaps[n].fd));
            rawheap_disconnect(&heaps[n]);
            return n;
        }
    }
    fail_msg("%u sessions with %u descriptors", CONNECTIONS, NOFILE);
    return 0;
}

static uint64_t open_sessions(const fixture *f)
{
    goalloc_stats_t stats;

    fixture_stats(f, &stats);
    return stats.sessions;
}

/* Processor time that the daemon has used, in ticks. */
static unsigned long daemon_ticks(const fixture *f)
{
    char path[64];
    unsigned long user = 0;
    unsigned long system = 0;
    FILE *file;

    (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)f->daemon);
    file = fopen(path, "re");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%*d (%*[^)]) %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system),
                     2);
    (void)fclose(file);
    return user + system;
}

static void attach_without_descriptors_is_refused_and_the_daemon_still_answers(void **state)
{
    static const char *const commands[][2] = { { "stats", NULL }, { "sessions", NULL }, { "check", NULL } };
    static rawheap heaps[CONNECTIONS];
    static char out[1 << 16];
    int idle[CONNECTIONS];
    fixture own;
    const fixture *f = &own;
    unsigned long ticks;
    unsigned n;

    (void)state;
    fixture_start_with_descriptors(&own, NULL, NOFILE);
    n = attach_until_refused(f, heaps);
    assert_in_range(n, 10, NOFILE / 2);
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < 3; i++)
            assert_int_equal(fixture_ctl(f, commands[i], out, sizeof(out)), 0);
        for (int i = 0; round == 0 && i < CONNECTIONS; i++) /* these say nothing */
            idle[i] = raw_connect(f);
    }
    ticks = daemon_ticks(f);
    (void)usleep(500000);
    assert_in_range(daemon_ticks(f) - ticks, 0, (unsigned long)sysconf(_SC_CLK_TCK) / 4); /* it does not spin */
    for (int i = 0; i < CONNECTIONS; i++)
        (void)close(idle[i]);
    for (unsigned i = 0; i < n; i += 2)
        rawheap_disconnect(&heaps[i]);
    for (int i = 0; i < 500 && open_sessions(f) > n / 2; i++)
        (void)usleep(5000);
    assert_in_range(attach_until_refused(f, &heaps[n]), (n + 1) / 2 - 2, (n + 1) / 2 + 2);
    for (unsigned i = 0; i < 3 * n && i < CONNECTIONS; i++) {
        if (heaps[i].fd > 0)
            (void)close(heaps[i].fd);
    }
    assert_true(fixture_is_clean(f, 0));
    assert_true(fixture_stop(&own));
}

/* Its connection is gone, and the daemon has no descriptors for another one: it waits until there are some. */
static int come_back_through_the_crowd(const fixture *f, void *arg)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;

    (void)arg;
    options.socket_path = f->socket;
    CHECK(goalloc_attach(&options) == 0);
    CHECK(close_range(3, ~0u, 0) == 0);
    (void)raise(SIGSTOP);
    CHECK(goalloc_malloc(100) != NULL);
    return 0;
}

static void process_comes_back_when_there_are_descriptors_again(void **state)
{
    static rawheap heaps[CONNECTIONS];
    fixture own;
    const fixture *f = &own;
    int idle[4];
    unsigned n;
    pid_t pid;
    int status;

    (void)state;
    fixture_start_with_descriptors(&own, NULL, NOFILE);
    pid = child_start(f, come_back_through_the_crowd, NULL);
    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    assert_true(WIFSTOPPED(status));
    n = attach_until_refused(f, heaps); /* its place is taken, too */
    for (int i = 0; i < 4; i++) /* and one that is too little for a session */
        idle[i] = raw_connect(f);
    (void)kill(pid, SIGCONT);
    (void)usleep(300000);
    assert_int_equal(waitpid(pid, &status, WNOHANG), 0);
    for (int i = 0; i < 4; i++)
        (void)close(idle[i]);
    for (unsigned i = 0; i < n; i++) {
        if (heaps[i].fd > 0)
            (void)close(heaps[i].fd);
    }
    assert_int_equal(child_wait(pid), 0);
    assert_true(fixture_is_clean(f, 1));
    assert_true(fixture_stop(&own));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(reattach_of_a_process_that_has_become_another_user_succeeds),
        FIXTURE_TEST(publish_while_the_owner_ends_is_kept_or_refused),
        FIXTURE_TEST(attach_without_descriptors_is_refused_and_the_daemon_still_answers),
        FIXTURE_TEST(process_comes_back_when_there_are_descriptors_again),
    };

    return cmocka_run_group_tests_name("sessions in the daemon", tests, NULL, NULL);
}
