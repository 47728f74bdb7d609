/*
 * The recorder, with a region of the test's own in the daemon's place: what a sample leaves there, who is counted as
 * having allocated it, and what a reset, a detach, a fork, another label and another rate change.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/lib/backtrace.h"
#include "client/lib/connection.h"
#include "client/lib/mapping.h"
#include "client/lib/process.h"
#include "client/lib/recorder.h"
#include "client/lib/unwinder.h"

#define RATE PROFILE_RATE_DEFAULT
#define ELEM_BYTES 64u
#define PLACE (PAGE_BYTES + 5 * ELEM_BYTES)
#define NOINLINE __attribute__((noinline))

/* The daemon's part: the region of this number, and how often it was asked for. */
static int region_fds[4];
static profile_region *regions[4];
static uint32_t served_seq;
static int refusal;
static _Atomic uint32_t nasked;

int connection_samples_ms(void)
{
    return 10000; /* no thread of these tests gives up its turn */
}

int connection_profile_open(profile_region **region, uint32_t *ret_seq)
{
    void *p;

    atomic_fetch_add(&nasked, 1);
    if (refusal != 0)
        return refusal;
    p = mmap(*region, sizeof(profile_region), PROT_READ | PROT_WRITE, MAP_SHARED | (*region != NULL ? MAP_FIXED : 0),
             region_fds[served_seq], 0);
    assert_true(p != MAP_FAILED);
    *region = p;
    *ret_seq = served_seq;
    return 0;
}

void mapping_delete(void *p, uint64_t bytes)
{
    if (p != NULL)
        (void)munmap(p, bytes);
}

static uint64_t word(uint64_t rate, uint32_t seq)
{
    return profile_word_pack((profile_word){ .rate = rate, .seq = seq });
}

static void *zeros(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    assert_true(p != MAP_FAILED);
    return p;
}

static int make_heap(void **state)
{
    static shm_header header;
    void *spans;
    shm_session *session;

    (void)state;
    shm_header_init(&header, UINT64_C(1) << 40, SHM_HEAP_ARENA_BYTES);
    spans = zeros(header.spans_bytes);
    memcpy(spans, &header, sizeof(header));
    shm_map_init(&process.map, spans, zeros(header.bitmap_bytes), NULL);
    process.session = (session_no){ 3 };
    process.epoch = 9;
    session = &process.map.sessions[3];
    session->pid = (uint32_t)getpid();
    session->uid = 1000;
    session->group = SHM_SESSIONS_MAX + 2;
    strcpy(session->label, "worker");
    strcpy(process.map.groups[2].name, "crowd");
    return 0;
}

static int setup(void **state)
{
    (void)state;
    for (int i = 0; i < 4; i++) {
        region_fds[i] = memfd_create("profile", MFD_CLOEXEC);
        if (region_fds[i] < 0 || ftruncate(region_fds[i], sizeof(profile_region)) < 0)
            return -1;
        regions[i] = mmap(NULL, sizeof(profile_region), PROT_READ | PROT_WRITE, MAP_SHARED, region_fds[i], 0);
        if (regions[i] == MAP_FAILED)
            return -1;
        regions[i]->header.magic = PROFILE_MAGIC;
    }
    served_seq = 1;
    refusal = 0;
    nasked = 0;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    recorder_close();
    for (int i = 0; i < 4; i++) {
        (void)munmap(regions[i], sizeof(profile_region));
        (void)close(region_fds[i]);
    }
    return 0;
}

/* --- what is there --- */

static uint64_t count_samples(const profile_region *region)
{
    uint64_t n = 0;

    for (uint32_t i = 0; i < PROFILE_SITES; i++)
        n += u64_load_relaxed(&region->sites[i].nsamples);
    return n;
}

static const profile_site *site_of(const profile_region *region, uint64_t offset)
{
    for (uint32_t i = 0; i < PROFILE_SAMPLES; i++) {
        uint64_t sample = u64_load_relaxed(&region->samples[i]);

        if ((sample & PROFILE_SAMPLE_USED) != 0 && profile_sample_unpack(sample).offset == offset)
            return &region->sites[profile_sample_unpack(sample).site];
    }
    return NULL;
}

static const profile_party *party_of(const profile_region *region, uint64_t offset)
{
    const profile_site *site = site_of(region, offset);

    assert_non_null(site);
    return &region->parties[(u64_load_relaxed(&site->key) & ~PROFILE_SITE_USED) >> 32];
}

static const profile_stack *stack_of(const profile_region *region, uint64_t offset)
{
    const profile_site *site = site_of(region, offset);

    assert_non_null(site);
    return &region->stacks[(uint32_t)u64_load_relaxed(&site->key)];
}

static uintptr_t caller_of_note; /* that the stack has to name */

NOINLINE static bool note(uint64_t offset)
{
    bool recorded = recorder_note(offset, ELEM_BYTES, RATE);

    caller_of_note = (uintptr_t)__builtin_return_address(0);
    __asm__ volatile("" : : : "memory");
    return recorded;
}

static void note_leaves_site_and_record(void **state)
{
    const profile_region *region = regions[1];
    const profile_party *party;
    const profile_stack *stack;
    const profile_module *in;
    double weight = profile_weight(ELEM_BYTES, RATE);

    (void)state;
    assert_false(note(PLACE)); /* it is not open */
    assert_int_equal(recorder_open(word(RATE, 1)), 0);
    assert_int_equal(recorder_open(word(RATE, 1)), 0);
    assert_int_equal(nasked, 1);
    assert_true(note(PLACE));
    assert_false(recorder_is_busy());

    assert_int_equal(u64_load_relaxed(&site_of(region, PLACE)->nsamples), 1);
    assert_true(u64_load_relaxed(&site_of(region, PLACE)->bytes) == (uint64_t)(weight * ELEM_BYTES + 0.5));
    party = party_of(region, PLACE);
    assert_string_equal(party->label, "worker");
    assert_string_equal(party->group, "crowd");
    assert_true(party->session == 3 && party->epoch == 9 && party->pid == (uint32_t)getpid() && party->rate == RATE);
    stack = stack_of(region, PLACE);
    assert_in_range(stack->nframes, 2, PROFILE_FRAMES_MAX);
    assert_in_range(stack->frames[1] >> 48, 1, PROFILE_MODULES); /* frame 0 is in note() */
    in = &region->modules[(stack->frames[1] >> 48) - 1];
    assert_non_null(strstr(in->path, "/test_recorder"));
    assert_int_equal(stack->frames[1] & ((UINT64_C(1) << 48) - 1), caller_of_note - modules_find(caller_of_note)->base);

    recorder_forget(PLACE);
    assert_null(site_of(region, PLACE));
    assert_false(note(0)); /* without a place */
    assert_int_equal(count_samples(region), 2);
    assert_int_equal(u64_load_relaxed(&region->header.nlost_samples), 1);
}

static void note_same_stack_is_the_same_site(void **state)
{
    (void)state;
    assert_int_equal(recorder_open(word(RATE, 1)), 0);
    for (uint64_t i = 0; i < 100; i++)
        assert_true(note(PLACE + i * ELEM_BYTES));
    assert_in_range(u64_load_relaxed(&site_of(regions[1], PLACE + 99 * ELEM_BYTES)->nsamples), 98, 100);
    assert_int_equal(count_samples(regions[1]), 100);
}

static void note_other_rate_and_label_are_other_parties(void **state)
{
    const profile_region *region = regions[1];

    (void)state;
    assert_int_equal(recorder_open(word(RATE, 1)), 0);
    assert_true(note(PLACE));
    assert_true(recorder_note(PLACE + ELEM_BYTES, ELEM_BYTES, 2 * RATE));
    assert_true(note(PLACE + 2 * ELEM_BYTES));
    assert_true(party_of(region, PLACE) == party_of(region, PLACE + 2 * ELEM_BYTES));
    assert_int_equal(party_of(region, PLACE + ELEM_BYTES)->rate, 2 * RATE);
    strcpy(process.map.sessions[3].label, "renamed");
    recorder_renew_party();
    assert_true(note(PLACE + 3 * ELEM_BYTES));
    assert_string_equal(party_of(region, PLACE + 3 * ELEM_BYTES)->label, "renamed");
    assert_string_equal(party_of(region, PLACE)->label, "worker");
    strcpy(process.map.sessions[3].label, "worker");
}

static void open_other_region_takes_its_place(void **state)
{
    uint64_t number;

    (void)state;
    assert_int_equal(recorder_open(word(RATE, 1)), 0);
    assert_true(note(PLACE));
    served_seq = 2;
    assert_int_equal(recorder_open(word(RATE, 2)), 0);
    assert_int_equal(nasked, 2);
    assert_true(note(PLACE));
    assert_int_equal(count_samples(regions[1]), 1);
    assert_int_equal(count_samples(regions[2]), 1);
    assert_string_equal(party_of(regions[2], PLACE)->label, "worker");
    number = stack_of(regions[2], PLACE)->frames[0] >> 48;
    assert_in_range(number, 1, PROFILE_MODULES);
    assert_non_null(strstr(regions[2]->modules[number - 1].path, "/test_recorder")); /* its modules are its own */
}

static void open_refused_records_nothing(void **state)
{
    (void)state;
    assert_int_equal(recorder_open(word(0, 1)), -EINVAL);
    refusal = -ENOMEM;
    assert_int_equal(recorder_open(word(RATE, 1)), -ENOMEM);
    assert_false(note(PLACE));
    refusal = 0;
    assert_int_equal(recorder_open(word(RATE, 1)), 0);
    assert_true(note(PLACE));
    refusal = -ENOENT;
    assert_int_equal(recorder_open(word(RATE, 2)), -ENOENT); /* nor into the one before, which was reset */
    assert_false(note(PLACE + ELEM_BYTES));
    refusal = 0;
    served_seq = 3;
    regions[3]->header.magic = 1;
    assert_int_equal(recorder_open(word(RATE, 3)), -EPROTO);
    assert_false(note(PLACE));
    assert_int_equal(count_samples(regions[1]), 1);
}

static void close_ends_recording(void **state)
{
    (void)state;
    assert_int_equal(recorder_open(word(RATE, 1)), 0);
    recorder_close();
    recorder_close();
    assert_false(note(PLACE));
    recorder_forget(PLACE);
    assert_int_equal(recorder_open(word(RATE, 1)), 0);
    assert_int_equal(nasked, 2);
    assert_true(note(PLACE));
}

/* --- threads and forks --- */

static _Atomic bool stop;

static void *note_always(void *arg)
{
    uint64_t i = (uint64_t)(uintptr_t)arg;

    while (!atomic_load(&stop))
        (void)!recorder_note(PLACE + ELEM_BYTES * (i++ % 4096), ELEM_BYTES, RATE);
    return NULL;
}

/* A child records after it has opened, without a request, as another party; its parent's threads were in the middle. */
static void fork_child_records_as_another_party(void **state)
{
    pthread_t threads[2];
    int status;

    (void)state;
    assert_int_equal(recorder_open(word(RATE, 1)), 0);
    stop = false;
    for (uintptr_t i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, note_always, (void *)(i * 1000)), 0);
    for (uint32_t i = 0; i < 20; i++) {
        pid_t pid = fork();

        assert_true(pid >= 0);
        if (pid == 0) {
            (void)alarm(60);
            recorder_reset();
            process.epoch = 100 + i;
            if (note(PLACE) || recorder_open(word(RATE, 1)) != 0 || !note(8 * MIB + i * ELEM_BYTES) || nasked != 1)
                _exit(1);
            _exit(0);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
        assert_int_equal(party_of(regions[1], 8 * MIB + i * ELEM_BYTES)->epoch, 100 + i);
    }
    atomic_store(&stop, true);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
}

/* Threads record while the region is replaced again and again: nothing is lost but what is under way. */
static void open_other_region_under_threads(void **state)
{
    pthread_t threads[2];

    (void)state;
    assert_int_equal(recorder_open(word(RATE, 1)), 0);
    stop = false;
    for (uintptr_t i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, note_always, (void *)(i * 1000)), 0);
    for (uint32_t i = 0; i < 100; i++) {
        served_seq = 1 + i % 2;
        assert_int_equal(recorder_open(word(RATE, served_seq)), 0);
        (void)note(PLACE); /* whether there is room depends on the others */
    }
    atomic_store(&stop, true);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_true(count_samples(regions[1]) > 0 && count_samples(regions[2]) > 0);
}

static void *note_until_cancelled(void *arg)
{
    (void)arg;
    (void)pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
    for (uint64_t i = 0;; i++)
        (void)!recorder_note(PLACE + ELEM_BYTES * (i % 4096), ELEM_BYTES, RATE);
    return NULL;
}

/* A thread is cancelled before or after a sample, never within: no entry stays claimed. */
static void cancel_thread_leaves_whole_entries(void **state)
{
    (void)state;
#ifdef __SANITIZE_ADDRESS__
    skip(); /* it takes what is left of a cancelled thread's frames for a fault of who uses that stack next */
#endif
    assert_int_equal(recorder_open(word(RATE, 1)), 0);
    for (int i = 0; i < 20; i++) {
        uint64_t before = count_samples(regions[1]);
        pthread_t thread;

        recorder_renew_party();
        process.epoch = (uint32_t)(1000 + i);
        assert_int_equal(pthread_create(&thread, NULL, note_until_cancelled, NULL), 0);
        while (count_samples(regions[1]) == before)
            (void)sched_yield();
        assert_int_equal(pthread_cancel(thread), 0);
        assert_int_equal(pthread_join(thread, NULL), 0);
    }
    for (uint32_t i = 0; i < PROFILE_STACKS; i++)
        assert_int_not_equal(u64_load_relaxed(&regions[1]->stacks[i].state) & 3, PROFILE_CLAIMED);
    for (uint32_t i = 0; i < PROFILE_PARTIES; i++)
        assert_int_not_equal(u64_load_relaxed(&regions[1]->parties[i].state) & 3, PROFILE_CLAIMED);
    process.epoch = 9;
}

/* An attach loads it before it returns; in a child, so that nothing is loaded for the next test. */
static void prepare_loads_the_unwinder(void **state)
{
    int status;
    pid_t pid = fork();

    (void)state;
    assert_true(pid >= 0);
    if (pid == 0) {
        recorder_prepare(word(0, 1));
        if (unwinder_is_ready())
            _exit(1);
        recorder_prepare(word(RATE, 1));
        _exit(unwinder_is_ready() ? 0 : 2);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

/* Who turns profiling on later does not wait for it: a thread loads it. */
static void open_has_the_unwinder_loaded(void **state)
{
    (void)state;
    assert_false(unwinder_is_ready());
    assert_int_equal(recorder_open(word(RATE, 1)), 0);
    for (int i = 0; i < 6000 && !unwinder_is_ready(); i++) {
        assert_true(note(PLACE)); /* meanwhile by frame pointers */
        (void)usleep(10000);
    }
    assert_true(unwinder_is_ready());
    assert_true(note(PLACE));
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(prepare_loads_the_unwinder),
        TEST(open_has_the_unwinder_loaded), /* the first that loads it */
        TEST(note_leaves_site_and_record),
        TEST(note_same_stack_is_the_same_site),
        TEST(note_other_rate_and_label_are_other_parties),
        TEST(open_other_region_takes_its_place),
        TEST(open_refused_records_nothing),
        TEST(close_ends_recording),
        TEST(fork_child_records_as_another_party),
        TEST(open_other_region_under_threads),
        TEST(cancel_thread_leaves_whole_entries),
    };

    return cmocka_run_group_tests(tests, make_heap, NULL);
}
