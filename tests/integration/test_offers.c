/*
 * Idle spans that processes offer (shm/offers.h): the daemon takes them back, from processes that sleep, and nobody
 * loses anything by it: not threads that take them back at the same moment, not after a takeover, and not by what a
 * process writes into its words.
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
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "shm/offers.h"
#include "tests/support/objects.h"
#include "tests/support/rawheap.h"

#define NSIZES 4
#define NSTORM_SIZES 6 /* with objects that have their span for themselves */

static const size_t sizes[NSTORM_SIZES] = { 64, 1024, 5120, 40960, 300 * KIB, MIB };

/* --- what processes do --- */

/* Allocate bytes in objects of that size, and free all of them in an order of its own. */
static void fill_and_free(size_t bytes, size_t size, uint64_t seed)
{
    size_t n = bytes / size;
    void **objects = malloc(n * sizeof(*objects));

    CHECK(objects != NULL);
    for (size_t i = 0; i < n; i++) {
        CHECK((objects[i] = goalloc_malloc(size)) != NULL);
        *(_Atomic uint64_t *)objects[i] = i;
    }
    for (size_t i = n - 1; i > 0; i--) {
        size_t other = test_random(&seed) % (i + 1);
        void *p = objects[i];

        objects[i] = objects[other];
        objects[other] = p;
    }
    for (size_t i = 0; i < n; i++)
        goalloc_free(objects[i]);
    free(objects);
}

/* What a sleeper does before it stops, and after it goes on. */
typedef struct sleeper {
    size_t bytes;
    size_t size;
    bool in_thread; /* a thread that has ended since has done it */
    uint32_t flags;
} sleeper;

static void *fill_in_thread(void *arg)
{
    const sleeper *s = arg;

    fill_and_free(s->bytes, s->size, 1 + s->size);
    return NULL;
}

static int sleep_idle(const fixture *f, void *arg)
{
    sleeper *s = arg;
    pthread_t thread;

    must_attach(f, s->flags);
    if (s->in_thread) {
        CHECK(pthread_create(&thread, NULL, fill_in_thread, s) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
    } else {
        (void)fill_in_thread(s);
    }
    (void)raise(SIGSTOP);
    fill_and_free(s->bytes, s->size, 2 + s->size); /* what was taken comes again, what was not is still there */
    CHECK(goalloc_detach() == 0);
    return 0;
}

/* A child that stops itself; it does by now. */
static pid_t start_stopping(const fixture *f, int (*child)(const fixture *f, void *arg), void *arg)
{
    pid_t pid = child_start(f, child, arg);

    assert_true(child_stops(pid));
    return pid;
}

static pid_t start_sleeper(const fixture *f, sleeper *s)
{
    return start_stopping(f, sleep_idle, s);
}

static void await_next_sleep(pid_t pid)
{
    (void)kill(pid, SIGCONT);
    assert_true(child_stops(pid));
}

static void end_sleeper(pid_t pid)
{
    (void)kill(pid, SIGCONT);
    assert_int_equal(child_wait(pid), 0);
}

/* --- what the daemon says --- */

static uint64_t inuse_bytes(const fixture *f)
{
    Goallocd__Reply *reply = fixture_stats_reply(f);
    uint64_t bytes = reply->stats->inuse_bytes;

    goallocd__reply__free_unpacked(reply, NULL);
    return bytes;
}

/* Wait until no more than that is in spans. */
static void await_inuse(const fixture *f, uint64_t most)
{
    uint64_t bytes = 0;

    for (int i = 0; i < 1500; i++, (void)usleep(20000)) {
        bytes = inuse_bytes(f);
        if (bytes <= most)
            return;
    }
    fail_msg("%llu bytes are in use, at most %llu expected", (unsigned long long)bytes, (unsigned long long)most);
}

static void trim(const fixture *f)
{
    char out[256];

    CHECK(fixture_ctl(f, (const char *const[]){ "trim", NULL }, out, sizeof(out)) == 0); /* children ask, too */
}

/* --- who sleeps holds little --- */

static void idle_processes_hold_little_after_some_seconds(void **state)
{
    sleeper sleepers[2 * NSIZES];
    pid_t pids[2 * NSIZES];

    for (size_t i = 0; i < 2 * NSIZES; i++) {
        sleepers[i] = (sleeper){ 8 * MIB, sizes[i % NSIZES], i >= NSIZES, i % 3 == 0 ? GOALLOC_ATTACH_RECLAIM : 0 };
        pids[i] = start_sleeper(*state, &sleepers[i]);
    }
    await_inuse(*state, 2 * NSIZES * 200 * KIB);
    for (size_t i = 0; i < 2 * NSIZES; i++)
        end_sleeper(pids[i]);
    assert_true(fixture_is_clean(*state, 0));
}

static void trim_takes_what_others_offer_at_once(void **state)
{
    sleeper sleepers[NSIZES];
    pid_t pids[NSIZES];

    for (size_t i = 0; i < NSIZES; i++) {
        sleepers[i] = (sleeper){ 8 * MIB, sizes[i], i % 2, 0 };
        pids[i] = start_sleeper(*state, &sleepers[i]);
    }
    trim(*state);
    assert_true(inuse_bytes(*state) <= NSIZES * 200 * KIB);
    for (size_t i = 0; i < NSIZES; i++)
        end_sleeper(pids[i]);
    assert_true(fixture_is_clean(*state, 0));
}

static void processes_in_turns_stay_below_the_memory_limit(void **state)
{
    sleeper sleepers[3];
    pid_t pids[3];
    uint64_t most = 0;

    for (size_t i = 0; i < 3; i++) {
        Goallocd__Reply *reply;

        sleepers[i] = (sleeper){ 40 * MIB, sizes[i], false, 0 };
        pids[i] = start_sleeper(*state, &sleepers[i]);
        reply = fixture_stats_reply(*state);
        most = most > reply->stats->inuse_bytes ? most : reply->stats->inuse_bytes;
        goallocd__reply__free_unpacked(reply, NULL);
    }
    assert_true(most <= 72 * MIB); /* the limit is 64 MiB, and two of them together need 80 */
    for (size_t i = 0; i < 3; i++)
        end_sleeper(pids[i]);
    assert_true(fixture_is_clean(*state, 0));
}

/* Below its limit a session can use for one size what another thread of it has offered of another size. */
static int use_other_sizes(const fixture *f, void *arg)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;
    sleeper s = { 6 * MIB, 0, true, 0 };
    pthread_t thread;

    (void)arg;
    options.socket_path = f->socket;
    options.limit_bytes = 8 * MIB;
    CHECK(goalloc_attach(&options) == 0);
    for (size_t i = 0; i < 3 * NSIZES; i++) {
        s.size = sizes[i % NSIZES];
        if (i % 2) {
            fill_and_free(s.bytes, s.size, i + 1);
        } else {
            CHECK(pthread_create(&thread, NULL, fill_in_thread, &s) == 0);
            CHECK(pthread_join(thread, NULL) == 0);
        }
    }
    CHECK(goalloc_detach() == 0);
    return 0;
}

static void session_takes_its_own_offers_at_its_limit(void **state)
{
    assert_int_equal(child_run(*state, use_other_sizes, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* --- takeover --- */

static void offers_are_void_after_a_takeover(void **state)
{
    fixture *f = *state;
    sleeper s = { 4 * MIB, 1024, false, 0 };
    sleeper t = { 4 * MIB, 1024, true, 0 };
    pid_t pids[2] = { start_sleeper(f, &s), start_sleeper(f, &t) };
    uint64_t before = inuse_bytes(f);

    fixture_kill(f);
    fixture_restart(f, NULL);
    assert_true(inuse_bytes(f) <= before);
    trim(f); /* takes nothing from who has not come back, and harms nobody */
    assert_true(inuse_bytes(f) <= before);
    for (int i = 0; i < 2; i++)
        end_sleeper(pids[i]);
    assert_true(fixture_is_clean(f, 0));
}

/* After a takeover, and after its next request, a process offers again. */
static int offer_after_takeover(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    fill_and_free(2 * MIB, 64, 7);
    (void)raise(SIGSTOP);
    fill_and_free(4 * MIB, 1024, 7);
    (void)raise(SIGSTOP);
    fill_and_free(2 * MIB, 64, 8);
    CHECK(goalloc_detach() == 0);
    return 0;
}

static void process_that_has_come_back_offers_again(void **state)
{
    fixture *f = *state;
    pid_t pid = start_stopping(f, offer_after_takeover, NULL);

    fixture_kill(f);
    fixture_restart(f, NULL);
    await_next_sleep(pid);
    trim(f);
    assert_true(inuse_bytes(f) <= 3 * MIB); /* what it had offered to the dead daemon is its own again */
    end_sleeper(pid);
    assert_true(fixture_is_clean(f, 0));
}

/* --- large spans without object, in the process's cache --- */

#define NLARGE 100u

/* So often that the cache retains all of them. */
static void fill_with_large(uint64_t seed)
{
    for (uint64_t i = 0; i < 4; i++)
        fill_and_free(NLARGE * MIB, MIB, seed + i);
}

static int sleep_with_large(const fixture *f, void *arg)
{
    must_attach(f, arg != NULL ? *(uint32_t *)arg : 0);
    fill_with_large(1);
    (void)raise(SIGSTOP);
    fill_with_large(11);
    (void)raise(SIGSTOP);
    fill_and_free(NLARGE * MIB / 2, 2 * MIB - 4096, 21); /* pages of two earlier ones each */
    fill_with_large(31);
    CHECK(goalloc_detach() == 0);
    return 0;
}

static void idle_large_spans_go_and_come_again(void **state)
{
    uint32_t flags = GOALLOC_ATTACH_RECLAIM;
    pid_t pids[2] = { start_stopping(*state, sleep_with_large, NULL),
                      start_stopping(*state, sleep_with_large, &flags) };

    await_inuse(*state, 2 * 2 * MIB);
    for (int i = 0; i < 2; i++)
        await_next_sleep(pids[i]);
    trim(*state); /* at once */
    assert_true(inuse_bytes(*state) <= 2 * 2 * MIB);
    for (int i = 0; i < 2; i++)
        end_sleeper(pids[i]);
    assert_true(fixture_is_clean(*state, 0));
}

/* What was offered to a dead daemon is the process's, and it offers it again when it has used it. */
static void idle_large_spans_stay_after_a_takeover(void **state)
{
    fixture *f = *state;
    pid_t pid = start_stopping(f, sleep_with_large, NULL);
    uint64_t before = inuse_bytes(f);

    fixture_kill(f);
    fixture_restart(f, NULL);
    trim(f);
    assert_true(inuse_bytes(f) <= before);
    await_next_sleep(pid);
    trim(f);
    assert_true(inuse_bytes(f) <= NLARGE * MIB);
    end_sleeper(pid);
    assert_true(fixture_is_clean(f, 0));
}

/* An object grows into pages behind it that the cache has offered: they are free already, or are given back. */
static int grow_into_offers(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    for (int round = 0; round < 40; round++) {
        char *objects[8];
        char *grown;

        for (int i = 0; i < 8; i++) {
            CHECK((objects[i] = goalloc_malloc(MIB)) != NULL);
            objects[i][0] = objects[i][MIB - 1] = (char)(round + i);
        }
        for (int i = 1; i < 8; i++)
            goalloc_free(objects[i]);
        if (round % 2)
            trim(f);
        CHECK((grown = goalloc_realloc(objects[0], 5 * MIB)) != NULL);
        CHECK(grown[0] == (char)round && grown[MIB - 1] == (char)round);
        memset(grown + MIB, round, 4 * MIB);
        goalloc_free(grown);
    }
    CHECK(goalloc_detach() == 0);
    return 0;
}

static void resize_passes_over_what_the_daemon_has_taken(void **state)
{
    assert_int_equal(child_run(*state, grow_into_offers, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* --- fork, detach --- */

/* The children of a process with offers neither take them back nor give them away. */
static int fork_with_offers(const fixture *f, void *arg)
{
    int bare = *(int *)arg;

    must_attach(f, 0);
    fill_and_free(2 * MIB, 1024, 1);
    fill_and_free(2 * MIB, 300 * KIB, 1);
    for (int i = 0; i < 4; i++) {
        pid_t pid = bare ? _Fork() : fork();

        CHECK(pid >= 0);
        if (pid == 0) {
            fill_and_free(MIB, 1024, 2);
            fill_and_free(MIB, 64, 3);
            fill_and_free(2 * MIB, 300 * KIB, 3);
            _exit(goalloc_detach() == 0 ? 0 : 1);
        }
        fill_and_free(2 * MIB, 1024, 4);
        fill_and_free(2 * MIB, 300 * KIB, 4);
        CHECK(child_wait(pid) == 0);
    }
    CHECK(goalloc_detach() == 0);
    must_attach(f, 0);
    fill_and_free(2 * MIB, 1024, 5);
    CHECK(goalloc_detach() == 0);
    return 0;
}

static void children_have_no_part_in_offers(void **state)
{
    for (int bare = 0; bare < 2; bare++) {
        assert_int_equal(child_run(*state, fork_with_offers, &bare), 0);
        assert_true(fixture_is_clean(*state, 0));
    }
}

/* --- threads take back while the daemon takes --- */

#define STORM_THREADS 3
#define STORM_OBJECTS 600u

static atomic_bool over;

/*
 * Each object names itself, at both ends: another one who was given the same place would overwrite it. Atomic, since of
 * a place that comes by way of the daemon no sanitizer sees what happened before.
 */
static void *storm_thread(void *arg)
{
    uint64_t seed = (uintptr_t)arg;
    _Atomic uint64_t *objects[STORM_OBJECTS];

    while (!atomic_load(&over)) {
        size_t size = sizes[test_random(&seed) % NSTORM_SIZES];
        size_t n = size > SHM_RUN_BYTES_MAX ? STORM_OBJECTS / 60 : size > 4096 ? STORM_OBJECTS / 6 : STORM_OBJECTS;

        for (size_t i = 0; i < n; i++) {
            CHECK((objects[i] = goalloc_malloc(size)) != NULL);
            objects[i][0] = objects[i][size / 8 - 1] = seed ^ i;
        }
        for (size_t i = 0; i < n; i++) {
            CHECK(objects[i][0] == (seed ^ i) && objects[i][size / 8 - 1] == (seed ^ i));
            goalloc_free(objects[i]);
        }
        if (test_random(&seed) % 16 == 0)
            (void)usleep(1000);
    }
    return NULL;
}

static int storm(const fixture *f, void *arg)
{
    pthread_t threads[STORM_THREADS];
    uint64_t seed = test_seed();

    must_attach(f, *(uint32_t *)arg);
    for (int i = 0; i < STORM_THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, storm_thread, (void *)(uintptr_t)(test_random(&seed) | 1)) == 0);
    (void)usleep(3000000);
    atomic_store(&over, true);
    for (int i = 0; i < STORM_THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(goalloc_detach() == 0);
    return 0;
}

static bool child_has_ended(pid_t pid)
{
    siginfo_t info = { 0 };

    return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == pid;
}

/* Until that child ends. */
static void trim_all_the_time(fixture *f, pid_t pid, bool kills)
{
    Goallocd__Trim body = GOALLOCD__TRIM__INIT;
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    unsigned n = 0;
    int fd = raw_connect(f);

    request.op_case = GOALLOCD__REQUEST__OP_TRIM;
    request.trim = &body;
    request.id = 1;
    while (!child_has_ended(pid)) {
        Goallocd__Reply *reply = raw_call(fd, &request);

        assert_non_null(reply);
        goallocd__reply__free_unpacked(reply, NULL);
        if (kills && ++n % 64 == 0) {
            (void)close(fd);
            fixture_kill(f);
            fixture_restart(f, NULL);
            fd = raw_connect(f);
        }
    }
    (void)close(fd);
}

static void storm_with(fixture *f, bool kills)
{
    uint32_t flags[2] = { 0, GOALLOC_ATTACH_RECLAIM };
    pid_t pids[2] = { child_start(f, storm, &flags[0]), child_start(f, storm, &flags[1]) };

    trim_all_the_time(f, pids[0], kills);
    for (int i = 0; i < 2; i++)
        assert_int_equal(child_wait(pids[i]), 0);
    assert_true(fixture_is_clean(f, 0));
}

static void threads_take_back_while_the_daemon_takes(void **state)
{
    storm_with(*state, false);
}

static void threads_take_back_while_daemons_die(void **state)
{
    storm_with(*state, true);
}

/* --- what a process may write --- */

static shm_offers *map_offers(const rawheap *heap)
{
    void *p = mmap(NULL, shm_offers_bytes(heap->map.npages), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                   heap->fds[ATTACH_FD_OWN], 0);

    CHECK(p != MAP_FAILED);
    return p;
}

static uint64_t nleases_of(const rawheap *heap, uint32_t page)
{
    return u64_load_relaxed(&shm_span_at(&heap->map, page_at(page))->nleases);
}

/* A process offers all that there is, for whatever lease, while another one works. */
static int forge(const fixture *f, void *arg)
{
    rawheap heap;
    shm_offers *offers;
    uint32_t spans[64];

    (void)arg;
    rawheap_open(&heap, f, 0, "forger");
    offers = map_offers(&heap);
    CHECK(rawheap_refill(&heap, 10 << 1, 0, 64, spans) > 0);
    u32_store_release(&offers->active, 1);
    for (int round = 0; round < 200; round++) {
        for (uint32_t page = 0; page < 4096; page++) {
            uint64_t nleases = nleases_of(&heap, page);

            if (round % 3 == 1)
                nleases = u64_load_relaxed(&heap.map.header->nleases) + page % 100; /* that of a lease to come */
            u64_store_release(&offers->words[page], offer_pack((enum offer_state)(round % 4), nleases));
        }
        if (round % 4 == 3)
            (void)rawheap_refill(&heap, 10 << 1, 0, 64, spans); /* none, if memory is short */
        if (round % 16 == 0)
            CHECK(fallocate(heap.fds[ATTACH_FD_OWN], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 1 << 15) == 0);
        u32_store_release(&offers->active, 1);
        (void)usleep(5000);
    }
    rawheap_close(&heap);
    return 0;
}

static void forged_offers_take_nothing_from_others(void **state)
{
    fixture *f = *state;
    uint32_t flags = 0;
    pid_t pids[2] = { child_start(f, storm, &flags), child_start(f, forge, NULL) };

    trim_all_the_time(f, pids[0], false);
    for (int i = 0; i < 2; i++)
        assert_int_equal(child_wait(pids[i]), 0);
    assert_true(fixture_is_whole(f));
    assert_true(fixture_is_clean(f, 0));
}

/* What the daemon makes of one word: all that it does is to end the lease, of what the session leases, and is free. */
static int offer_by_hand(const fixture *f, void *arg)
{
    rawheap heap;
    rawheap other;
    shm_offers *offers;
    uint32_t mine[4];
    uint32_t his[1];

    (void)arg;
    rawheap_open(&heap, f, 0, "one");
    rawheap_open(&other, f, 0, "other");
    offers = map_offers(&heap);
    CHECK(rawheap_refill(&heap, 10 << 1, 0, 4, mine) == 4 && rawheap_refill(&other, 10 << 1, 0, 1, his) == 1);

    u64_store_release(&offers->words[mine[0]], offer_pack(OFFER_OFFERED, nleases_of(&heap, mine[0])));
    trim(f);
    CHECK(rawheap_leases(&heap, page_at(mine[0]))); /* active is 0 */
    u32_store_release(&offers->active, 1);
    u64_store_release(&offers->words[mine[1]], offer_pack(OFFER_OFFERED, nleases_of(&heap, mine[1]) + 1));
    u64_store_release(&offers->words[mine[2]], offer_pack(OFFER_SEEN, nleases_of(&heap, mine[2])));
    u64_store_release(shm_alloc_word(&heap.map, page_at(mine[2]), 0), 2); /* an object lives there */
    u64_store_release(&offers->words[mine[3]], offer_pack(OFFER_TAKEN, nleases_of(&heap, mine[3])));
    u64_store_release(&offers->words[his[0]], offer_pack(OFFER_OFFERED, nleases_of(&heap, his[0])));
    trim(f);
    CHECK(!rawheap_leases(&heap, page_at(mine[0])));
    CHECK(offer_state_of(u64_load_acquire(&offers->words[mine[0]])) == OFFER_TAKEN);
    CHECK(rawheap_leases(&heap, page_at(mine[1])) && rawheap_leases(&heap, page_at(mine[2])));
    CHECK(rawheap_leases(&heap, page_at(mine[3])) && rawheap_leases(&other, page_at(his[0])));
    CHECK(ftruncate(heap.fds[ATTACH_FD_OWN], 4096) < 0 && errno == EPERM);
    u64_store_release(shm_alloc_word(&heap.map, page_at(mine[2]), 0), 0);
    (void)munmap(offers, shm_offers_bytes(heap.map.npages));
    rawheap_close(&heap);
    rawheap_close(&other);
    return 0;
}

static void offer_ends_a_lease_of_its_own_session_alone(void **state)
{
    assert_int_equal(child_run(*state, offer_by_hand, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/*
 * A session at its limit asks thousands of times at once. Its spans lie far apart, so the search for those that it
 * offers takes long; but all others are served meanwhile (goallocctl waits no longer than 5 s).
 */
static void requests_at_a_limit_hold_up_nobody(void **state)
{
    enum { NSPANS = 12000, SPAN_PAGES = 500 };
    fixture *f = *state;
    Goallocd__Attach attach = rawheap_attach_init();
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__AllocLarge ask = GOALLOCD__ALLOC_LARGE__INIT;
    rawheap heap = { .fd = raw_connect(f) };
    static uint8_t out[60000];
    size_t len_bytes = 0;
    Goallocd__Reply *reply;
    shm_offers *offers;

    attach.limit_bytes = (uint64_t)NSPANS * SPAN_PAGES * PAGE_BYTES;
    reply = rawheap_ask(&heap, &attach);
    assert_true(reply != NULL && reply->error == 0);
    goallocd__reply__free_unpacked(reply, NULL);
    for (int i = 0; i < NSPANS; i++)
        assert_int_not_equal(rawheap_ask_large(&heap, SPAN_PAGES).n, 0);
    offers = mmap(NULL, sizeof(*offers), PROT_READ | PROT_WRITE, MAP_SHARED, heap.fds[ATTACH_FD_OWN], 0);
    assert_ptr_not_equal(offers, MAP_FAILED);
    u32_store_release(&offers->active, 1);
    ask.npages = 1;
    request.id = 1;
    request.op_case = GOALLOCD__REQUEST__OP_ALLOC_LARGE;
    request.alloc_large = &ask;
    while (len_bytes + 64 <= sizeof(out))
        len_bytes += frame_pack(&request.base, out + len_bytes, 64);
    assert_int_equal(send(heap.fd, out, len_bytes, MSG_NOSIGNAL), len_bytes);
    assert_true(fixture_is_whole(f));
    (void)munmap(offers, sizeof(*offers));
    for (int i = 0; i < ATTACH_NFDS; i++)
        (void)close(heap.fds[i]);
    (void)close(heap.fd);
    assert_true(fixture_is_clean(f, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(idle_processes_hold_little_after_some_seconds),
        FIXTURE_TEST(trim_takes_what_others_offer_at_once),
        FIXTURE_TEST_WITH(processes_in_turns_stay_below_the_memory_limit, "--memory-limit", "64M"),
        FIXTURE_TEST(session_takes_its_own_offers_at_its_limit),
        FIXTURE_TEST_KEPT(offers_are_void_after_a_takeover),
        FIXTURE_TEST_KEPT(process_that_has_come_back_offers_again),
        FIXTURE_TEST(idle_large_spans_go_and_come_again),
        FIXTURE_TEST_KEPT(idle_large_spans_stay_after_a_takeover),
        FIXTURE_TEST(resize_passes_over_what_the_daemon_has_taken),
        FIXTURE_TEST(children_have_no_part_in_offers),
        FIXTURE_TEST(threads_take_back_while_the_daemon_takes),
        FIXTURE_TEST_KEPT(threads_take_back_while_daemons_die),
        FIXTURE_TEST_WITH(forged_offers_take_nothing_from_others, "--memory-limit", "8M"),
        FIXTURE_TEST(offer_ends_a_lease_of_its_own_session_alone),
        FIXTURE_TEST_WITH(requests_at_a_limit_hold_up_nobody, "--commit", "lazy"),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
