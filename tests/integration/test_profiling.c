/*
 * Profiling, as the daemon has it: who samples, the region in which that is recorded, and marked spans. Sessions here
 * are raw: nobody samples anything.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>

#include "tests/support/parts.h"
#include "tests/support/rawprofile.h"

#define CLASS     20u /* a span class of small objects */
#define RATE      (512 * KIB)
#define OTHER_UID 61234u

static Goallocd__ProfileSet set_init(uint64_t rate)
{
    Goallocd__ProfileSet ask = GOALLOCD__PROFILE_SET__INIT;

    ask.rate_bytes = rate;
    return ask;
}

/* Ask for it over a connection of its own. The error; *ret_n: sessions. */
static int set(const fixture *f, Goallocd__ProfileSet ask, uint32_t *ret_n)
{
    int fd = raw_connect(f);
    int error = rawprofile_set(fd, &ask, ret_n);

    (void)close(fd);
    return error;
}

static void set_all(const fixture *f, uint64_t rate, bool reset)
{
    Goallocd__ProfileSet ask = set_init(rate);
    uint32_t n;

    ask.all = true;
    ask.reset = reset;
    assert_int_equal(set(f, ask, &n), 0);
}

static int set_session(const fixture *f, const rawheap *heap, uint64_t rate)
{
    Goallocd__ProfileSet ask = set_init(rate);
    uint32_t n = 0;
    int error;

    ask.session = heap->session;
    ask.epoch = heap->epoch;
    error = set(f, ask, &n);
    assert_int_equal(n, error == 0);
    return error;
}

static profile_word word_of(const rawheap *heap)
{
    return profile_word_unpack(u64_load_acquire(&heap->map.sessions[heap->session].profile));
}

static profile_word header_word(const rawheap *heap)
{
    return profile_word_unpack(u64_load_acquire(&heap->map.header->profile));
}

static bool is_marked(const rawheap *heap, uint32_t span)
{
    return shm_span_at(&heap->map, page_at(span))->marked == 1;
}

/* Regions that the daemon has open: descriptors by two. */
static int nregions(const fixture *f)
{
    char command[160];
    FILE *out;
    int n = -1;

    (void)snprintf(command, sizeof(command), "ls -l /proc/%d/fd | grep -c goalloc-profile", (int)f->daemon);
    out = popen(command, "re");
    assert_non_null(out);
    assert_int_equal(fscanf(out, "%d", &n), 1);
    (void)pclose(out);
    return n / 2;
}

/* Until so many are left: the daemon closes them beside what it serves. */
static void await_regions(const fixture *f, int n)
{
    for (int i = 0; i < 2000 && nregions(f) > n; i++)
        (void)usleep(10000);
    assert_in_range(nregions(f), 0, n);
}

/* --- who samples --- */

static void session_samples_as_it_asks_or_is_told_and_opens_the_region(void **state)
{
    fixture *f = *state;
    Goallocd__Attach ask = rawheap_attach_init();
    Goallocd__Reply *reply;
    rawheap heap;
    rawheap own = { 0 };
    uint32_t seq = 0;
    char out[8192];
    struct stat st;
    int fd;

    rawheap_open(&heap, f, 0, "plain");
    assert_int_equal(word_of(&heap).rate, 0);
    assert_int_equal(rawprofile_open(heap.fd, &seq, &fd), ENOENT);
    assert_int_equal(nregions(f), 0);
    assert_int_equal(set_session(f, &heap, RATE), 0);
    assert_int_equal(word_of(&heap).rate, RATE);
    assert_int_equal(header_word(&heap).rate, 0);
    assert_int_equal(rawprofile_open(heap.fd, &seq, &fd), 0);
    assert_true(seq != 0 && seq == word_of(&heap).seq && seq == header_word(&heap).seq);
    assert_int_not_equal(u32_load_relaxed(&heap.map.header->optional) & SHM_OPTIONAL_PROFILE, 0);
    assert_int_equal(~fcntl(fd, F_GET_SEALS) & (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), 0);
    assert_true(fstat(fd, &st) == 0 && (uint64_t)st.st_size == sizeof(profile_region));
    assert_true((st.st_mode & 0777) == 0600 && (uint64_t)st.st_blocks * 512 >= sizeof(profile_region));
    (void)close(fd);
    assert_int_equal(nregions(f), 1);

    own.fd = raw_connect(f);
    ask.label = (char *)(uintptr_t)"asks";
    ask.profile_bytes = 4096;
    reply = rawheap_ask(&own, &ask);
    assert_true(reply != NULL && reply->error == 0);
    own.map = heap.map;
    own.session = reply->attach->session;
    goallocd__reply__free_unpacked(reply, NULL);
    assert_true(word_of(&own).rate == 4096 && word_of(&own).seq == seq);
    assert_int_equal(fixture_ctl(f, (const char *const[]){ "--json", "sessions", NULL }, out, sizeof(out)), 0);
    assert_true(strstr(out, "\"profile_bytes\": 4096") != NULL && strstr(out, "\"profile_bytes\": 524288") != NULL);
    for (int i = 0; i < ATTACH_NFDS; i++)
        (void)close(own.fds[i]);
    (void)close(own.fd);
    assert_int_equal(set_session(f, &heap, 0), 0);
    assert_int_equal(word_of(&heap).rate, 0);
    assert_int_equal(rawprofile_open(heap.fd, &seq, &fd), ENOENT);
    rawheap_close(&heap);
}

/* The first one to ask waits for the region as whoever asks while it is being made. */
static void attach_that_asks_for_it_has_the_region_made(void **state)
{
    fixture *f = *state;
    Goallocd__Attach ask = rawheap_attach_init();
    Goallocd__Reply *reply;
    rawheap own = { 0 };
    uint32_t seq = 0;
    int fd = -1;

    own.fd = raw_connect(f);
    ask.label = (char *)(uintptr_t)"asks";
    ask.profile_bytes = UINT64_MAX;
    reply = rawheap_ask(&own, &ask);
    assert_true(reply != NULL && reply->error == 0);
    assert_int_equal(rawprofile_open(own.fd, &seq, &fd), 0);
    assert_true(seq != 0 && nregions(f) == 1);
    goallocd__reply__free_unpacked(reply, NULL);
    for (int i = 0; i < ATTACH_NFDS; i++)
        (void)close(own.fds[i]);
    (void)close(fd);
    (void)close(own.fd);
}

/* A session in that group ("": in none), without a mapping. */
static rawheap open_in(const fixture *f, const char *group, uint32_t flags)
{
    Goallocd__Attach ask = rawheap_attach_init();
    Goallocd__Reply *reply;
    rawheap heap = { 0 };

    heap.fd = raw_connect(f);
    ask.label = (char *)(uintptr_t)"member";
    ask.flags = flags;
    ask.group = (ProtobufCBinaryData){ .len = strlen(group), .data = (uint8_t *)(uintptr_t)group };
    reply = rawheap_ask(&heap, &ask);
    assert_true(reply != NULL && reply->error == 0);
    heap.session = reply->attach->session;
    heap.epoch = reply->attach->epoch;
    goallocd__reply__free_unpacked(reply, NULL);
    return heap;
}

static void close_in(rawheap *heap)
{
    for (int i = 0; i < ATTACH_NFDS; i++)
        (void)close(heap->fds[i]);
    (void)close(heap->fd);
}

static void all_and_groups_hold_for_who_comes_later(void **state)
{
    fixture *f = *state;
    Goallocd__ProfileSet ask = set_init(1000);
    rawheap look;
    rawheap one = open_in(f, "red", 0);
    rawheap two = open_in(f, "blue", 0);
    rawheap late;
    rawheap reader;
    uint32_t n = 0;

    rawheap_open(&look, f, 0, "look");
    one.map = two.map = look.map;
    ask.group = (ProtobufCBinaryData){ .len = 3, .data = (uint8_t *)(uintptr_t)"red" };
    assert_int_equal(set(f, ask, &n), 0);
    assert_int_equal(n, 1);
    late = open_in(f, "red", 0);
    late.map = look.map;
    assert_true(word_of(&one).rate == 1000 && word_of(&late).rate == 1000);
    assert_true(word_of(&two).rate == 0 && word_of(&look).rate == 0);
    close_in(&late);
    set_all(f, 2000, false);
    assert_true(word_of(&one).rate == 2000 && word_of(&two).rate == 2000 && word_of(&look).rate == 2000);
    ask.rate_bytes = 0;
    assert_int_equal(set(f, ask, &n), 0);
    late = open_in(f, "red", 0);
    late.map = look.map;
    assert_true(word_of(&one).rate == 0 && word_of(&late).rate == 0 && word_of(&two).rate == 2000);
    close_in(&late);
    late = open_in(f, "new", 0);
    late.map = look.map;
    assert_int_equal(word_of(&late).rate, 2000);
    close_in(&late);
    reader = open_in(f, "", SESSION_READONLY);
    reader.map = look.map;
    assert_int_equal(word_of(&reader).rate, 0);
    assert_int_equal(set_session(f, &reader, 7), EINVAL);
    close_in(&reader);
    set_all(f, 0, false);
    assert_true(word_of(&one).rate == 0 && word_of(&two).rate == 0 && word_of(&look).rate == 0);
    assert_int_equal(header_word(&look).rate, 0);
    close_in(&one);
    close_in(&two);
    rawheap_close(&look);
}

static void set_of_nothing_or_of_several_things_is_refused(void **state)
{
    fixture *f = *state;
    Goallocd__ProfileSet ask = set_init(RATE);
    uint32_t n;

    assert_int_equal(set(f, ask, &n), EINVAL);
    ask.session = 4000;
    assert_int_equal(set(f, ask, &n), ENOENT);
    ask.session = UINT32_MAX;
    assert_int_equal(set(f, ask, &n), ENOENT);
    ask.all = true;
    assert_int_equal(set(f, ask, &n), EINVAL);
    ask.session = 0;
    ask.rate_bytes = PROFILE_RATE_MAX + 1;
    assert_int_equal(set(f, ask, &n), EINVAL);
    ask = set_init(RATE);
    ask.group = (ProtobufCBinaryData){ .len = 4, .data = (uint8_t *)(uintptr_t)"none" };
    assert_int_equal(set(f, ask, &n), ENOENT);
    assert_int_equal(nregions(f), 0);
}

/* --- the region --- */

static uint64_t metadata_bytes(const fixture *f)
{
    goalloc_stats_t stats;

    fixture_stats(f, &stats);
    return stats.metadata_bytes;
}

static void region_is_read_by_who_controls_and_counts_as_metadata(void **state)
{
    fixture *f = *state;
    uint64_t before = metadata_bytes(f);
    int asking = raw_connect(f);
    uint32_t seq = 0;
    int fds[3];

    assert_int_equal(rawprofile_read(asking, &seq, fds), ENOENT);
    set_all(f, RATE, false);
    assert_int_equal(rawprofile_read(asking, &seq, fds), 0);
    for (int i = 0; i < 3; i++) {
        assert_true(fds[i] >= 0 && (fcntl(fds[i], F_GETFL) & O_ACCMODE) == O_RDONLY);
        (void)close(fds[i]);
    }
    (void)close(asking);
    assert_true(metadata_bytes(f) >= before + sizeof(profile_region));
    set_all(f, 0, true);
    await_regions(f, 0);
    assert_true(metadata_bytes(f) < before + sizeof(profile_region));
}

static void reset_makes_another_region_and_what_was_mapped_stays(void **state)
{
    fixture *f = *state;
    rawheap heap;
    profile_region *region;
    uint32_t first = 0;
    uint32_t seq = 0;
    int fd = -1;

    rawheap_open(&heap, f, 0, "resets");
    set_all(f, RATE, false);
    assert_int_equal(rawprofile_open(heap.fd, &first, &fd), 0);
    region = mmap(NULL, sizeof(*region), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(region != MAP_FAILED && region->header.magic == PROFILE_MAGIC);
    assert_true(region->header.heap == heap.generation && region->header.bytes == sizeof(*region));
    (void)close(fd);
    u64_store_release(&region->samples[7], 7);
    set_all(f, RATE, true);
    assert_true(word_of(&heap).rate == RATE && word_of(&heap).seq == first + 1);
    u64_store_release(&region->samples[8], 8);
    assert_true(u64_load_acquire(&region->samples[7]) == 7);
    (void)munmap(region, sizeof(*region));
    assert_int_equal(rawprofile_open(heap.fd, &seq, &fd), 0);
    assert_int_equal(seq, first + 1);
    region = mmap(NULL, sizeof(*region), PROT_READ, MAP_SHARED, fd, 0);
    assert_true(region != MAP_FAILED && u64_load_acquire(&region->samples[7]) == 0);
    (void)munmap(region, sizeof(*region));
    (void)close(fd);
    rawheap_close(&heap);
}

/* Nobody gives anything back: the sign of an old session keeps all that is behind it on the shelf. */
static void resets_in_a_loop_hold_no_more_than_one_region(void **state)
{
    fixture *f = *state;
    uint64_t before = 0;
    rawheap heaps[3];

    for (size_t i = 0; i < 3; i++)
        rawheap_open(&heaps[i], f, 0, "stays");
    set_all(f, RATE, false);
    before = metadata_bytes(f);
    for (int i = 1; i <= 40; i++) {
        set_all(f, RATE, true);
        assert_true(i % 10 != 0 || nregions(f) <= 2);
    }
    assert_int_equal(word_of(&heaps[0]).seq, 41);
    await_regions(f, 1);
    assert_true(metadata_bytes(f) < before + MIB);
    for (size_t i = 0; i < 3; i++)
        rawheap_close(&heaps[i]);
    assert_true(fixture_is_whole(f));
}

static void close_all(const int fds[3])
{
    for (int i = 0; i < 3; i++) {
        if (fds[i] >= 0)
            (void)close(fds[i]);
    }
}

static void descriptors_are_sent_again_to_who_has_received_them(void **state)
{
    fixture *f = *state;
    int asking = raw_connect(f);
    rawheap heap;
    uint32_t seq;
    int fds[3] = { -1, -1, -1 };

    rawheap_open(&heap, f, 0, "greedy");
    set_all(f, RATE, false);
    for (int i = 0; i < 100; i++) {
        assert_int_equal(rawprofile_open(heap.fd, &seq, &fds[0]), 0);
        close_all(fds);
        assert_int_equal(rawprofile_read(asking, &seq, fds), 0);
        close_all(fds);
        fds[1] = fds[2] = -1;
    }
    (void)close(asking);
    rawheap_close(&heap);
}

/* Two requests at once: the second's reply would have descriptors while those of the first are on their way. */
static void descriptors_that_were_not_received_are_not_sent_again(void **state)
{
    fixture *f = *state;
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__ProfileRead ask = GOALLOCD__PROFILE_READ__INIT;
    uint8_t frames[256];
    size_t len;
    int fd = raw_connect(f);
    int fds[3];
    uint32_t seq;

    set_all(f, RATE, true);
    request.id = 9;
    request.op_case = GOALLOCD__REQUEST__OP_PROFILE_READ;
    request.profile_read = &ask;
    len = frame_pack(&request.base, frames, sizeof(frames) / 2);
    memcpy(frames + len, frames, len);
    assert_int_equal(send(fd, frames, 2 * len, MSG_NOSIGNAL), 2 * len);
    (void)usleep(100000);
    for (int i = 0; i < 2; i++) {
        Goallocd__Reply *reply = rawprofile_await(fd, fds);

        assert_non_null(reply);
        assert_int_equal(reply->error, i == 0 ? 0 : EBUSY);
        goallocd__reply__free_unpacked(reply, NULL);
        close_all(fds);
    }
    assert_int_equal(rawprofile_read(fd, &seq, fds), 0);
    close_all(fds);
    (void)close(fd);
}

static void region_above_max_memory_is_refused_and_nothing_changes(void **state)
{
    fixture *f = *state;
    Goallocd__ProfileSet ask = set_init(RATE);
    Goallocd__Attach attach = rawheap_attach_init();
    Goallocd__Reply *reply;
    rawheap heap;
    rawheap own = { 0 };
    uint32_t seq;
    uint32_t n;
    int fd;

    rawheap_open(&heap, f, 0, "small");
    ask.all = true;
    assert_int_equal(set(f, ask, &n), ENOMEM);
    assert_true(word_of(&heap).rate == 0 && header_word(&heap).rate == 0 && nregions(f) == 0);
    assert_int_equal(rawprofile_open(heap.fd, &seq, &fd), ENOENT);
    own.fd = raw_connect(f);
    attach.profile_bytes = RATE;
    attach.label = (char *)(uintptr_t)"asks";
    reply = rawheap_ask(&own, &attach);
    assert_true(reply != NULL && reply->error == 0); /* it works without */
    goallocd__reply__free_unpacked(reply, NULL);
    for (int i = 0; i < 100; i++)
        assert_int_equal(rawprofile_open(own.fd, &seq, &fd), ENOMEM);
    assert_int_equal(nregions(f), 0);
    close_in(&own);
    rawheap_close(&heap);
}

/* They ask, and are gone before there is a region. */
static void who_leaves_while_it_is_made_leaves_nothing(void **state)
{
    static uint8_t out[FRAME_BYTES_MAX];
    fixture *f = *state;
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__ProfileSet ask = set_init(RATE);
    size_t len;

    ask.all = ask.reset = true;
    request.id = 7;
    request.op_case = GOALLOCD__REQUEST__OP_PROFILE_SET;
    request.profile_set = &ask;
    len = frame_pack(&request.base, out, sizeof(out));
    for (int i = 0; i < 60; i++) {
        int fd = raw_connect(f);

        assert_int_equal(write(fd, out, len), len);
        (void)close(fd);
    }
    set_all(f, RATE, true);
    assert_true(fixture_is_whole(f) && nregions(f) <= 2);
    set_all(f, 0, true);
    await_regions(f, 0);
    assert_true(fixture_is_clean(f, 0));
}

/* --- rights --- */

static int ask_as_another(const fixture *f, void *arg)
{
    const rawheap *others = arg;
    Goallocd__ProfileSet ask = set_init(RATE);
    rawheap own;
    uint32_t n = 0;
    uint32_t seq;
    int fds[3];
    int fd;

    CHECK(setresgid(OTHER_UID, OTHER_UID, OTHER_UID) == 0 && setresuid(OTHER_UID, OTHER_UID, OTHER_UID) == 0);
    rawheap_open(&own, f, 0, "other");
    fd = raw_connect(f);
    for (int i = 0; i < 1000; i++) {
        ask.session = others->session;
        CHECK(rawprofile_set(fd, &ask, &n) == EPERM);
        ask.session = 0;
        ask.all = true;
        CHECK(rawprofile_set(fd, &ask, &n) == EPERM);
        ask.all = false;
        ask.reset = true;
        CHECK(rawprofile_set(fd, &ask, &n) == EPERM);
        ask.session = own.session;
        CHECK(rawprofile_set(fd, &ask, &n) == EPERM);
        ask.reset = false;
        CHECK(rawprofile_read(fd, &seq, fds) == EPERM);
    }
    CHECK(rawprofile_set(fd, &ask, &n) == 0 && n == 1);
    CHECK(rawprofile_open(own.fd, &seq, &fds[0]) == 0);
    (void)close(fds[0]);
    ask.rate_bytes = 0;
    CHECK(rawprofile_set(fd, &ask, &n) == 0 && n == 1);
    return 0;
}

static void another_user_has_its_own_sessions_sampled_alone(void **state)
{
    fixture *f = *state;
    rawheap heap;

    if (geteuid() != 0)
        skip();
    (void)chmod(f->dir, 0711);
    (void)chmod(f->socket, 0666);
    rawheap_open(&heap, f, 0, "root's");
    assert_int_equal(child_run(f, ask_as_another, &heap), 0);
    assert_int_equal(word_of(&heap).rate, 0);
    assert_true(fixture_log_has(f, "have sessions of others sampled"));
    assert_true(fixture_log_has(f, "read what was sampled"));
    rawheap_close(&heap);
}

/* --- marked spans --- */

static void marked_spans_are_leased_to_marked_refills_alone(void **state)
{
    fixture *f = *state;
    rawheap heap;
    rawheap next;
    uint32_t marked[4];
    uint32_t plain[4];

    rawheap_open(&heap, f, 0, "samples");
    assert_int_equal(rawprofile_refill(&heap, CLASS, 1, true, marked), 1); /* profiling is off */
    assert_false(is_marked(&heap, marked[0]));
    assert_int_equal(set_session(f, &heap, RATE), 0);
    assert_int_equal(rawprofile_refill(&heap, CLASS, 1, true, marked), 1);
    assert_int_equal(rawprofile_refill(&heap, CLASS, 1, false, plain), 1);
    assert_true(is_marked(&heap, marked[0]) && !is_marked(&heap, plain[0]));
    rawheap_fill(&heap, page_at(marked[0]));
    rawheap_fill(&heap, page_at(plain[0]));
    rawheap_close(&heap);
    assert_int_equal(fixture_live_with(f, 0), 2);
    rawheap_open(&next, f, 0, "next");
    assert_true(is_marked(&next, marked[0]));
    assert_int_equal(rawprofile_refill(&next, CLASS, 1, false, plain + 1), 1);
    assert_int_equal(plain[1], plain[0]);
    assert_int_equal(rawprofile_refill(&next, CLASS, 1, false, plain + 1), 1);
    assert_int_not_equal(plain[1], marked[0]);
    assert_int_equal(set_session(f, &next, RATE), 0);
    assert_int_equal(rawprofile_refill(&next, CLASS, 1, true, marked + 1), 1);
    assert_int_equal(marked[1], marked[0]);
    assert_true(is_marked(&next, marked[1]) && rawheap_leases(&next, page_at(marked[1])));
    assert_true(fixture_is_whole(f));
    u64_store_release(shm_alloc_word(&next.map, page_at(marked[1]), 0), 0);
    assert_int_equal(rawheap_return(&next, marked + 1, 1, NULL, 0), 0);
    assert_int_equal(lease_unpack(u64_load_acquire(&shm_span_at(&next.map, page_at(marked[0]))->lease)).state,
                     SPAN_FREE); /* with its last object */
    u64_store_release(shm_alloc_word(&next.map, page_at(plain[0]), 0), 0);
    rawheap_close(&next);
    assert_true(fixture_is_clean(f, 0));
}

static void marked_large_object_keeps_its_mark_until_somebody_else_has_it(void **state)
{
    fixture *f = *state;
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__ResizeLarge ask = GOALLOCD__RESIZE_LARGE__INIT;
    rawheap heap;
    rawheap next;
    page_no first;

    rawheap_open(&heap, f, 0, "samples");
    assert_false(is_marked(&heap, rawprofile_large(&heap, 40, true).n));
    assert_int_equal(set_session(f, &heap, RATE), 0);
    assert_false(is_marked(&heap, rawprofile_large(&heap, 40, false).n));
    first = rawprofile_large(&heap, 40, true);
    assert_true(is_marked(&heap, first.n));
    rawheap_fill(&heap, first);
    rawheap_close(&heap);
    assert_int_equal(fixture_live_with(f, 0), 1);
    rawheap_open(&next, f, 0, "next");
    assert_true(is_marked(&next, first.n));
    ask.span = first.n;
    ask.npages = 20;
    request.id = 3;
    request.op_case = GOALLOCD__REQUEST__OP_RESIZE_LARGE;
    request.resize_large = &ask;
    assert_int_equal(rawheap_error(&next, &request), 0);
    assert_true(rawheap_leases(&next, first) && !is_marked(&next, first.n));
    u64_store_release(shm_alloc_word(&next.map, first, 0), 0);
    rawheap_close(&next);
    assert_true(fixture_is_clean(f, 0));
}

/* Spans of an owner that none of its sessions leases: its members alone get them, marked ones if they sample. */
static void group_has_marked_spans_of_its_own_until_it_ends(void **state)
{
    fixture *f = *state;
    rawheap look;
    rawheap one = open_in(f, "red", SESSION_RECLAIM);
    rawheap two = open_in(f, "red", SESSION_RECLAIM);
    uint32_t span;
    uint32_t other;

    rawheap_open(&look, f, 0, "look");
    one.map = two.map = look.map;
    set_all(f, RATE, false);
    assert_int_equal(rawprofile_refill(&one, CLASS, 1, true, &span), 1);
    assert_true(is_marked(&look, span));
    rawheap_fill(&look, page_at(span));
    close_in(&one);
    (void)fixture_live_with(f, 2);
    assert_int_equal(rawprofile_refill(&two, CLASS, 1, false, &other), 1);
    assert_true(other != span && !is_marked(&look, other));
    assert_int_equal(rawprofile_refill(&look, CLASS, 1, true, &other), 1);
    assert_true(other != span && is_marked(&look, other));
    assert_int_equal(rawprofile_refill(&two, CLASS, 1, true, &other), 1);
    assert_int_equal(other, span);
    assert_true(is_marked(&look, span) && fixture_is_whole(f));
    close_in(&two);
    assert_int_equal(fixture_live_with(f, 1), 0);
    rawheap_close(&look);
    assert_true(fixture_is_clean(f, 0));
}

/* What the session of a reclaiming process has published stays, in a span that stays marked. */
static void published_object_of_a_dead_session_stays_in_its_marked_span(void **state)
{
    fixture *f = *state;
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Publish ask = GOALLOCD__PUBLISH__INIT;
    rawheap look;
    rawheap heap;
    uint32_t span;

    rawheap_open(&look, f, 0, "look");
    rawheap_open(&heap, f, SESSION_RECLAIM, "publishes");
    set_all(f, RATE, false);
    assert_int_equal(rawprofile_refill(&heap, CLASS, 1, true, &span), 1);
    u64_store_release(shm_alloc_word(&heap.map, page_at(span), 0), 3);
    ask.offset = page_offset(page_at(span));
    request.id = 3;
    request.op_case = GOALLOCD__REQUEST__OP_PUBLISH;
    request.publish = &ask;
    assert_int_equal(rawheap_error(&heap, &request), 0);
    rawheap_close(&heap);
    assert_int_equal(fixture_live_with(f, 1), 1);
    assert_true(is_marked(&look, span) && fixture_is_whole(f));
    u64_store_release(shm_alloc_word(&look.map, page_at(span), 0), 0);
    rawheap_close(&look);
    assert_true(fixture_is_clean(f, 0));
}

/* --- whoever does what it likes --- */

static int scribble(const fixture *f, void *arg)
{
    uint64_t seed = *(uint64_t *)arg;
    rawheap heap;
    uint32_t seq;
    int fd;
    char *region;

    rawheap_open(&heap, f, 0, "scribbles");
    CHECK(set_session(f, &heap, 1) == 0 && rawprofile_open(heap.fd, &seq, &fd) == 0);
    region = mmap(NULL, sizeof(profile_region), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(region != MAP_FAILED && ftruncate(fd, 0) < 0 && ftruncate(fd, 1 << 30) < 0);
    for (size_t i = 0; i < sizeof(profile_region); i++)
        region[i] = (char)test_random(&seed);
    CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, sizeof(profile_region) / 2) == 0);
    CHECK(fallocate(fd, 0, 0, 1 << 30) < 0);
    for (int i = 0; i < 2000; i++)
        (void)fcntl(fd, F_OFD_SETLK, &(struct flock){ .l_type = F_RDLCK, .l_start = 2 * i, .l_len = 1 });
    (void)kill(getpid(), SIGKILL);
    return 1;
}

static void region_that_is_scribbled_over_is_nothing_to_the_daemons(void **state)
{
    fixture *f = *state;
    uint64_t seed = test_seed();
    rawheap heap;
    uint32_t seq;
    int fd;

    assert_int_equal(child_run(f, scribble, &seed), 1000 + SIGKILL);
    assert_true(fixture_is_whole(f));
    fixture_kill(f);
    fixture_restart(f, NULL);
    set_all(f, RATE, true);
    rawheap_open(&heap, f, 0, "next");
    assert_int_equal(rawprofile_open(heap.fd, &seq, &fd), 0);
    assert_int_equal(nregions(f), 1);
    (void)close(fd);
    rawheap_close(&heap);
    assert_true(fixture_is_clean(f, 0));
}

/* Marked and other spans of several classes, with objects in them; some go back. Until it is killed, or the daemon. */
static int storm(const fixture *f, void *arg)
{
    uint64_t seed = *(uint64_t *)arg;
    rawheap heap;
    uint32_t spans[4];

    rawheap_open(&heap, f, seed % 3 == 0 ? SESSION_RECLAIM : 0, "storm");
    for (unsigned i = 20 + (unsigned)(test_random(&seed) % 200); i > 0; i--) {
        uint32_t class = 2 + (uint32_t)(test_random(&seed) % 40);
        bool marked = test_random(&seed) % 2 == 0;
        size_t n = rawprofile_refill(&heap, class, 4, marked, spans);

        if (n == 0)
            return 0;
        for (size_t k = 0; k < n; k++) {
            CHECK(is_marked(&heap, spans[k]) == marked);
            if (test_random(&seed) % 4 != 0)
                rawheap_fill(&heap, page_at(spans[k]));
        }
        if (test_random(&seed) % 2 == 0 && rawheap_return(&heap, spans, n, NULL, 0) != 0)
            return 0;
    }
    (void)kill(getpid(), SIGKILL);
    return 1;
}

static void storm_of_killed_sessions_and_daemons_mixes_no_marks(void **state)
{
    fixture *f = *state;
    uint64_t seed = test_seed();
    pid_t pids[4];

    set_all(f, RATE, false);
    for (int round = 0; round < 12; round++) {
        for (int i = 0; i < 4; i++) {
            uint64_t own = test_random(&seed);

            pids[i] = child_start(f, storm, &own);
        }
        if (round % 3 == 2) {
            (void)usleep((useconds_t)(test_random(&seed) % 20000));
            fixture_kill(f);
        }
        for (int i = 0; i < 4; i++) {
            int status = child_wait(pids[i]);

            assert_true(round % 3 == 2 || status == 1000 + SIGKILL);
        }
        if (round % 3 == 2)
            fixture_restart(f, NULL);
        assert_true(fixture_is_whole(f));
    }
    (void)fixture_live_with(f, 0);
    assert_true(fixture_is_whole(f) && nregions(f) == 1);
}

/* --- other daemons --- */

static void next_daemon_has_the_region_the_rates_and_the_marks(void **state)
{
    fixture *f = *state;
    profile_region *region;
    rawheap heap;
    uint32_t span;
    uint32_t first = 0;
    uint32_t seq = 0;
    int fd = -1;
    int fds[3];

    rawheap_open(&heap, f, 0, "samples");
    set_all(f, RATE, false);
    assert_int_equal(rawprofile_open(heap.fd, &first, &fd), 0);
    region = mmap(NULL, sizeof(*region), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(region != MAP_FAILED);
    (void)close(fd);
    assert_int_equal(rawprofile_refill(&heap, CLASS, 1, true, &span), 1);
    rawheap_fill(&heap, page_at(span));
    for (int i = 0; i < 3; i++) {
        u64_store_release(&region->samples[i], 11);
        fixture_kill(f);
        fixture_restart(f, NULL);
        assert_true(header_word(&heap).rate == RATE && word_of(&heap).rate == RATE && word_of(&heap).seq == first);
        (void)close(heap.fd);
        assert_int_equal(rawheap_come_back(&heap, f), 0);
        assert_int_equal(rawprofile_open(heap.fd, &seq, &fd), 0);
        assert_int_equal(seq, first);
        (void)close(fd);
        assert_true(is_marked(&heap, span) && nregions(f) == 1);
    }
    rawheap_close(&heap);
    assert_int_equal(fixture_live_with(f, 0), 1);
    fixture_kill(f);
    fixture_restart(f, NULL);
    fd = raw_connect(f);
    assert_int_equal(rawprofile_read(fd, &seq, fds), 0);
    (void)close(fd);
    (void)munmap(region, sizeof(*region));
    region = mmap(NULL, sizeof(*region), PROT_READ, MAP_SHARED, fds[2], 0);
    assert_true(region != MAP_FAILED && u64_load_acquire(&region->samples[2]) == 11);
    (void)munmap(region, sizeof(*region));
    for (int i = 0; i < 3; i++)
        (void)close(fds[i]);
    assert_true(fixture_is_whole(f));
}

/* It has cleared the feature, and leased marked spans to anybody. */
static void older_daemon_in_between_ends_region_and_marks(void **state)
{
    fixture *f = *state;
    shm_header *header = part_map_header(f);
    rawheap heap;
    uint32_t span;
    uint32_t first = 0;
    uint32_t seq = 0;
    int fd = -1;

    rawheap_open(&heap, f, 0, "samples");
    set_all(f, RATE, false);
    assert_int_equal(rawprofile_open(heap.fd, &first, &fd), 0);
    (void)close(fd);
    assert_int_equal(rawprofile_refill(&heap, CLASS, 1, true, &span), 1);
    rawheap_fill(&heap, page_at(span));
    fixture_kill(f);
    u32_store_release(&header->optional, 0);
    fixture_restart(f, NULL);
    assert_false(is_marked(&heap, span));
    (void)close(heap.fd);
    assert_int_equal(rawheap_come_back(&heap, f), 0);
    assert_int_equal(rawprofile_open(heap.fd, &seq, &fd), 0); /* it was on, so there is another one */
    (void)close(fd);
    assert_int_not_equal(seq, first);
    assert_true(word_of(&heap).rate == RATE && word_of(&heap).seq == seq && header_word(&heap).seq == seq);
    assert_int_equal(nregions(f), 1);
    assert_int_not_equal(u32_load_relaxed(&header->optional) & SHM_OPTIONAL_PROFILE, 0);
    assert_int_equal(rawprofile_refill(&heap, CLASS, 1, true, &span), 1);
    assert_true(is_marked(&heap, span));
    u64_store_release(shm_alloc_word(&heap.map, page_at(span), 0), 0);
    assert_true(fixture_is_whole(f));
    rawheap_close(&heap);
    part_unmap(header);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(session_samples_as_it_asks_or_is_told_and_opens_the_region),
        FIXTURE_TEST(attach_that_asks_for_it_has_the_region_made),
        FIXTURE_TEST(all_and_groups_hold_for_who_comes_later),
        FIXTURE_TEST(set_of_nothing_or_of_several_things_is_refused),
        FIXTURE_TEST(region_is_read_by_who_controls_and_counts_as_metadata),
        FIXTURE_TEST(reset_makes_another_region_and_what_was_mapped_stays),
        FIXTURE_TEST(resets_in_a_loop_hold_no_more_than_one_region),
        FIXTURE_TEST(descriptors_are_sent_again_to_who_has_received_them),
        FIXTURE_TEST(descriptors_that_were_not_received_are_not_sent_again),
        FIXTURE_TEST_WITH(region_above_max_memory_is_refused_and_nothing_changes, "--reserve", "64M", "--max-memory",
                          "8M"),
        FIXTURE_TEST(who_leaves_while_it_is_made_leaves_nothing),
        FIXTURE_TEST(another_user_has_its_own_sessions_sampled_alone),
        FIXTURE_TEST(marked_spans_are_leased_to_marked_refills_alone),
        FIXTURE_TEST(marked_large_object_keeps_its_mark_until_somebody_else_has_it),
        FIXTURE_TEST(group_has_marked_spans_of_its_own_until_it_ends),
        FIXTURE_TEST(published_object_of_a_dead_session_stays_in_its_marked_span),
        FIXTURE_TEST_KEPT(region_that_is_scribbled_over_is_nothing_to_the_daemons),
        FIXTURE_TEST_KEPT(storm_of_killed_sessions_and_daemons_mixes_no_marks),
        FIXTURE_TEST_KEPT(next_daemon_has_the_region_the_rates_and_the_marks),
        FIXTURE_TEST_KEPT(older_daemon_in_between_ends_region_and_marks),
    };

    return cmocka_run_group_tests_name("profiles, as the daemon has them", tests, NULL, NULL);
}
