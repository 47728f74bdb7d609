/*
 * test_collector_world: what a collector sees of the processes that it stops, in memory, in files and in the kernel,
 * and what it leaves as it was. Threads, with their registers and stacks, are test_collector_threads's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <time.h>

#include "tests/support/collecting.h"

/* Memory by its protection. */
static int keep_in_page(const fixture *f, void *arg)
{
    void **slot = private_pages(1);

    must_attach(f, 0);
    *slot = goalloc_malloc(100);
    board_say(*slot, slot);
    if (arg != NULL)
        CHECK(mprotect(slot, PAGE_SIZE_HERE, *(int *)arg) == 0);
    wait_to_be_killed();
    return 0;
}

static void private_memory_is_seen(void **state)
{
    must_be_found_in(*state, keep_in_page, NULL, WORDS_MEMORY);
}

static void pages_made_read_only_are_seen(void **state)
{
    int protection = PROT_READ;

    must_be_found_in(*state, keep_in_page, &protection, WORDS_MEMORY);
}

static void pages_that_the_process_itself_may_not_read_are_seen(void **state)
{
    int protection = PROT_NONE;

    must_be_found_in(*state, keep_in_page, &protection, WORDS_MEMORY);
}

static int keep_in_readonly_session(const fixture *f, void *arg)
{
    void **slot = private_pages(1);

    (void)arg;
    must_attach(f, GOALLOC_ATTACH_READONLY);
    CHECK(goalloc_root_get("kept", slot) == 0);
    board_say(*slot, slot);
    wait_to_be_killed();
    return 0;
}

static int make_root(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    CHECK(goalloc_root_set("kept", goalloc_malloc(64)) == 0);
    return 0;
}

static void a_read_only_session_is_seen(void **state)
{
    assert_int_equal(child_run(*state, make_root, NULL), 0);
    must_be_found_in(*state, keep_in_readonly_session, NULL, WORDS_MEMORY);
}

static int keep_tagged(const fixture *f, void *arg)
{
    uint64_t *slot = private_pages(1);
    char *p;

    (void)arg;
    must_attach(f, 0);
    p = goalloc_malloc(100);
    *slot = (uint64_t)(uintptr_t)(p + 40) | UINT64_C(0xabcd) << 48;
    board_say(p + 40, slot);
    wait_to_be_killed();
    return 0;
}

static void upper_bits_are_ignored_and_interior_pointers_are_told_as_they_are(void **state)
{
    must_be_found_in(*state, keep_tagged, NULL, WORDS_MEMORY);
}

static void *static_slot;

static int keep_in_bss(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    return keep_in(&static_slot);
}

static void static_data_is_seen(void **state)
{
    must_be_found_in(*state, keep_in_bss, NULL, WORDS_DATA);
}

/* Swapped out. */
static int keep_swapped(const fixture *f, void *arg)
{
    void **slot = private_pages(1);
    uint64_t entry = 0;
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

    (void)arg;
    must_attach(f, 0);
    *slot = goalloc_malloc(100);
    the_board->not_offset = ~goalloc_offset(*slot);
    (void)madvise(slot, PAGE_SIZE_HERE, 21 /* MADV_PAGEOUT */);
    CHECK(pread(fd, &entry, sizeof(entry), (off_t)((uintptr_t)slot / PAGE_SIZE_HERE * sizeof(entry))) == sizeof(entry));
    the_board->count = entry >> 62 & 1;
    the_board->not_address = ~(uint64_t)(uintptr_t)slot;
    the_board->pid = getpid();
    atomic_store(&the_board->ready, 1);
    wait_to_be_killed();
    return 0;
}

static void swapped_pages_are_seen(void **state)
{
    int r = look_at(*state, keep_swapped, NULL, WORDS_MEMORY);

    if (the_board->count == 0)
        (void)printf("          this system has no swap: the page has stayed where it was\n");
    assert_int_equal(r, 0);
    assert_true(the_board->found);
}

/* Files that several have mapped. */
static int keep_in_file(const fixture *f, void *arg)
{
    int fd = memfd_create("of the test", MFD_CLOEXEC);
    uint64_t word;
    char *map;
    void *p;

    must_attach(f, 0);
    p = goalloc_malloc(100);
    word = (uint64_t)(uintptr_t)p;
    CHECK(ftruncate(fd, 64 << 20) == 0);
    CHECK(pwrite(fd, &word, sizeof(word), 33 << 20) == sizeof(word)); /* by no page table */
    map = mmap(NULL, 64 << 20, PROT_READ, MAP_SHARED, fd, 0);
    CHECK(map != MAP_FAILED);
    board_say(p, map + (33 << 20));
    if (arg != NULL)
        (void)close(fd);
    while (atomic_load(&the_board->step) == 0)
        (void)usleep(1000);
    {
        struct stat st;

        CHECK(fstat(fd, &st) == 0);
        the_board->count = (uint64_t)st.st_blocks;
    }
    atomic_store(&the_board->step, 2);
    wait_to_be_killed();
    return 0;
}

static void data_of_a_shared_file_is_seen_and_its_holes_stay(void **state)
{
    pid_t pid = target_start(*state, keep_in_file, NULL);
    int r = look(*state, (world_options){ 0 });

    atomic_store(&the_board->step, 1);
    board_await(&the_board->step, 2);
    target_kill(pid);
    assert_int_equal(r, 0);
    assert_true(the_board->found);
    assert_int_equal(the_board->kind, WORDS_SHARED);
    assert_true(the_board->count > 0 && the_board->count <= 2 * PAGE_SIZE_HERE / 512);
}

/* Children. */
static int keep_in_forked_child(const fixture *f, void *arg)
{
    void **slot = private_pages(1);
    void *p;
    pid_t pid;

    must_attach(f, 0);
    p = goalloc_malloc(100);
    pid = fork();
    if (pid == 0) {
        if (arg != NULL && fork() != 0) /* its parent ends */
            _exit(0);
        if (arg == NULL)
            (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        *slot = p;
        board_say(p, slot);
        wait_to_be_killed();
    }
    wait_to_be_killed();
    return 0;
}

static void a_forked_child_that_is_no_client_yet_is_seen(void **state)
{
    assert_int_equal(look_at(*state, keep_in_forked_child, NULL, WORDS_MEMORY), 0);
    assert_true(the_board->found);
    assert_int_equal(the_board->nprocesses, 2);
}

static void a_child_whose_parent_has_ended_is_seen(void **state)
{
    char more;

    assert_int_equal(look_at(*state, keep_in_forked_child, &more, WORDS_MEMORY), 0);
    assert_true(the_board->found);
}

/* What the kernel holds. */
static int keep_in_epoll(const fixture *f, void *arg)
{
    struct epoll_event event = { .events = EPOLLIN };
    int fds[2], fd;

    (void)arg;
    must_attach(f, 0);
    CHECK(pipe2(fds, O_CLOEXEC) == 0);
    fd = epoll_create1(EPOLL_CLOEXEC);
    event.data.ptr = goalloc_malloc(100);
    CHECK(epoll_ctl(fd, EPOLL_CTL_ADD, fds[0], &event) == 0);
    board_say(event.data.ptr, (void *)(uintptr_t)fd);
    memset(&event, 0, sizeof(event));
    while (epoll_wait(fd, &event, 1, -1) < 0) /* a stop has it return EINTR */
        continue;
    return 0;
}

static void epolls_data_is_seen(void **state)
{
    must_be_found_in(*state, keep_in_epoll, NULL, WORDS_EPOLL);
}

enum { MANY_ENTRIES = 400, ENTRY_BYTES_MIN = 40 };

/* Many descriptors in any case, and *arg says whether an epoll instance has them. */
static int have_many_descriptors(const fixture *f, void *arg)
{
    struct epoll_event event = { .events = EPOLLIN };
    int fds[2], fd = epoll_create1(EPOLL_CLOEXEC);

    must_attach(f, 0);
    CHECK(fd >= 0 && pipe2(fds, O_CLOEXEC) == 0);
    for (int i = 0; i < MANY_ENTRIES; i++) {
        int copy = fcntl(fds[0], F_DUPFD_CLOEXEC, 0);

        CHECK(copy >= 0 && (!*(bool *)arg || epoll_ctl(fd, EPOLL_CTL_ADD, copy, &event) == 0));
    }
    board_say(goalloc_malloc(100), NULL);
    wait_to_be_killed();
    return 0;
}

/* What the kernel has to tell takes time: an estimate that is no time of this test, but a sum of what there is. */
static void epolls_entries_count_when_the_pause_is_estimated(void **state)
{
    uint64_t estimates[2];

    for (int k = 0; k < 2; k++) {
        bool in_epoll = k == 1;
        pid_t pid = target_start(*state, have_many_descriptors, &in_epoll);
        int r = look(*state, (world_options){ 0 });

        target_kill(pid);
        assert_int_equal(r, 0);
        estimates[k] = the_board->estimate_ns;
    }
    assert_true(estimates[1] > estimates[0] + MANY_ENTRIES * ENTRY_BYTES_MIN * 10);
}

static int keep_in_timer(const fixture *f, void *arg)
{
    struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN };
    timer_t timer;

    (void)arg;
    must_attach(f, 0);
    event.sigev_value.sival_ptr = goalloc_malloc(100);
    CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
    board_say(event.sigev_value.sival_ptr, NULL);
    memset(&event, 0, sizeof(event));
    wait_to_be_killed();
    return 0;
}

static void a_timers_value_is_seen(void **state)
{
    must_be_found_in(*state, keep_in_timer, NULL, WORDS_TIMER);
}

static int keep_in_signal(const fixture *f, void *arg)
{
    union sigval value;
    sigset_t set;

    (void)arg;
    must_attach(f, 0);
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGRTMIN);
    CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
    value.sival_ptr = goalloc_malloc(100);
    CHECK(sigqueue(getpid(), SIGRTMIN, value) == 0);
    board_say(value.sival_ptr, (void *)(uintptr_t)SIGRTMIN);
    value.sival_ptr = NULL;
    wait_to_be_killed();
    return 0;
}

static void the_value_of_a_pending_signal_is_seen(void **state)
{
    must_be_found_in(*state, keep_in_signal, NULL, WORDS_SIGNAL);
}

/* What is declared. */
static int keep_declared(const fixture *f, void *arg)
{
    void **slot = private_pages(2);

    must_attach(f, 0);
    CHECK(goalloc_private_roots(slot, PAGE_SIZE_HERE) == 0);
    slot += arg != NULL ? PAGE_SIZE_HERE / sizeof(*slot) : 0;
    return keep_in(slot);
}

/* A page that is declared, if there is an argument, and the pointer in another one of the same shared mapping. */
static int keep_beside_declared(const fixture *f, void *arg)
{
    int fd = memfd_create("shared", MFD_CLOEXEC);
    void **slot;

    CHECK(fd >= 0 && ftruncate(fd, (off_t)(2 * PAGE_SIZE_HERE)) == 0);
    slot = mmap(NULL, 2 * PAGE_SIZE_HERE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(slot != MAP_FAILED);
    must_attach(f, 0);
    CHECK(goalloc_private_roots(arg != NULL ? slot : private_pages(1), PAGE_SIZE_HERE) == 0);
    return keep_in(slot + PAGE_SIZE_HERE / sizeof(*slot));
}

static void a_shared_mapping_in_which_roots_are_declared_is_seen(void **state)
{
    must_be_found_in(*state, keep_beside_declared, (void *)1, WORDS_SHARED);
}

static void of_a_process_that_declares_roots_other_shared_memory_does_not_count(void **state)
{
    must_not_be_found(*state, keep_beside_declared, NULL);
}

static void declared_roots_are_seen(void **state)
{
    must_be_found_in(*state, keep_declared, NULL, WORDS_DECLARED);
}

static void of_a_process_that_declares_roots_other_memory_does_not_count(void **state)
{
    char more;

    must_not_be_found(*state, keep_declared, &more);
}

/* A table that nobody of the library has made. */
static int keep_beside_a_lie(const fixture *f, void *arg)
{
    int fd = memfd_create("goalloc-declared", MFD_CLOEXEC);
    const int *more = arg;
    uint64_t *table;

    CHECK(ftruncate(fd, 1 << 20) == 0);
    table = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    memset(table, 0xff, 1 << 20);
    for (int i = 0; more != NULL && i < *more; i++)
        CHECK(mmap(NULL, 4096, i % 2 == 0 ? PROT_READ : PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0) != MAP_FAILED);
    return keep_in_page(f, NULL);
}

static void a_forged_table_is_passed_over(void **state)
{
    must_be_found_in(*state, keep_beside_a_lie, NULL, WORDS_MEMORY);
}

static void thousands_of_forged_tables_are_passed_over(void **state)
{
    int more = 3000;

    must_be_found_in(*state, keep_beside_a_lie, &more, WORDS_MEMORY);
}

/* Names of mappings are anybody's. */
static int keep_in_file_of_name(const fixture *f, void *arg)
{
    char path[160];
    void **slot;
    int fd;

    (void)snprintf(path, sizeof(path), "%s/%s", f->dir, (const char *)arg);
    fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    CHECK(fd >= 0 && unlink(path) == 0 && ftruncate(fd, 8192) == 0);
    slot = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    CHECK(slot != MAP_FAILED);
    must_attach(f, 0);
    return keep_in(slot);
}

static void names_of_mappings_lead_nobody_astray(void **state)
{
    static char *const names[] = { "[vdso]", "[stack]", "x\n7fff00000000-7fff00001000 rw-p 00000000 00:00 0 [vvar]",
                                   " (deleted)", "\001\033[2J" };

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        must_be_found_in(*state, keep_in_file_of_name, names[i], WORDS_DATA);
}

/* Looking gives no memory to what has none. */
static uint64_t resident_kib(pid_t pid)
{
    proc_text text = { 0 };
    int64_t kib =
        proc_read(&text, pid, "smaps_rollup") == 0 ? proc_field(text.text, "Rss") : -1; /* counted, page by page */

    proc_text_free(&text);
    CHECK(kib > 0);
    return (uint64_t)kib;
}

static int keep_in_the_midst_of_nothing(const fixture *f, void *arg)
{
    const size_t bytes = (size_t)16 << 30;
    char *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    void **slot = (void **)(void *)(map + bytes / 2);

    (void)arg;
    CHECK(map != MAP_FAILED);
    CHECK(madvise(map, bytes, MADV_NOHUGEPAGE) == 0);
    must_attach(f, 0);
    *slot = goalloc_malloc(100);
    for (size_t at = 0; at < bytes; at += bytes / 64)
        (void)*(volatile char *)(map + at); /* the zero page */
    board_say(*slot, slot);
    wait_to_be_killed();
    return 0;
}

static void a_sparse_mapping_stays_sparse(void **state)
{
    pid_t pid = target_start(*state, keep_in_the_midst_of_nothing, NULL);
    uint64_t before = resident_kib(pid), after;
    int r = look(*state, (world_options){ 0 });

    after = resident_kib(pid);
    target_kill(pid);
    (void)printf("          %llu KiB before, %llu after\n", (unsigned long long)before, (unsigned long long)after);
    assert_int_equal(r, 0);
    assert_true(the_board->found);
    assert_true(after <= before + 16); /* what it needs itself: a stack's page or two */
}

/* Offsets count if asked for. */
static int keep_offset(const fixture *f, void *arg)
{
    uint64_t *slot = private_pages(1);
    void *p;

    (void)arg;
    must_attach(f, 0);
    p = goalloc_malloc(100);
    *slot = goalloc_offset(p);
    board_say(p, slot);
    wait_to_be_killed();
    return 0;
}

static void offsets_count_if_asked_for(void **state)
{
    pid_t pid = target_start(*state, keep_offset, NULL);
    int r = look(*state, (world_options){ 0 });
    bool without = the_board->found;

    if (r == 0)
        r = look(*state, (world_options){ .offsets = true });
    target_kill(pid);
    assert_int_equal(r, 0);
    assert_false(without);
    assert_true(the_board->found);
}

static int keep_among_many_mappings(const fixture *f, void *arg)
{
    for (int i = 0; i < 6000; i++) { /* none touches another one of its kind */
        char *p = mmap(NULL, 4096, i % 2 == 0 ? PROT_READ : PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        CHECK(p != MAP_FAILED);
        if (i % 2 == 1)
            *p = 1;
    }
    return keep_in_page(f, arg);
}

static void thousands_of_mappings_are_seen(void **state)
{
    must_be_found_in(*state, keep_among_many_mappings, NULL, WORDS_MEMORY);
}

/* --- what the library is at --- */

/* The daemon is stopped, so it does not answer. */
static int ask_for_a_root(const fixture *f, void *arg)
{
    void *p;

    (void)arg;
    must_attach(f, 0);
    board_say(goalloc_malloc(100), NULL);
    board_await(&the_board->step, 2);
    return goalloc_root_get("never", &p) == 0;
}

static int look_until_it_asks(const fixture *f, void *arg)
{
    (void)arg;
    must_attach(f, 0);
    atomic_store(&the_board->step, 1);
    board_await(&the_board->step, 2);
    for (int i = 0; i < 400; i++, (void)usleep(5000)) {
        if (look_once(&(world_options){ 0 }) == -EAGAIN && strstr(the_board->text, "told of an object") != NULL)
            return 0;
    }
    return 1;
}

static void a_process_that_is_being_told_of_an_object_ends_the_look(void **state)
{
    const fixture *f = *state;
    pid_t pid = target_start(f, ask_for_a_root, NULL), looking = child_start(f, look_until_it_asks, NULL);
    int status;

    board_await(&the_board->step, 1);
    (void)kill(f->daemon, SIGSTOP);
    atomic_store(&the_board->step, 2);
    status = child_wait(looking);
    (void)kill(f->daemon, SIGCONT);
    target_kill(pid);
    assert_int_equal(status, 0);
    assert_int_equal(the_board->trouble_pid, pid);
}

/* --- texts of /proc --- */

static void a_text_past_its_deadline_is_not_read_on(void **state)
{
    proc_text text = { .deadline_ns = 1 };

    (void)state;
    assert_int_equal(proc_read(&text, getpid(), "maps"), -ETIMEDOUT);
    text.deadline_ns = UINT64_MAX;
    assert_int_equal(proc_read(&text, getpid(), "maps"), 0);
    assert_non_null(strstr(text.text, "[stack]"));
    proc_text_free(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_text_past_its_deadline_is_not_read_on),
        FIXTURE_TEST(private_memory_is_seen),
        FIXTURE_TEST(pages_made_read_only_are_seen),
        FIXTURE_TEST(pages_that_the_process_itself_may_not_read_are_seen),
        FIXTURE_TEST(a_read_only_session_is_seen),
        FIXTURE_TEST(upper_bits_are_ignored_and_interior_pointers_are_told_as_they_are),
        FIXTURE_TEST(static_data_is_seen),
        FIXTURE_TEST(swapped_pages_are_seen),
        FIXTURE_TEST(data_of_a_shared_file_is_seen_and_its_holes_stay),
        FIXTURE_TEST(a_forked_child_that_is_no_client_yet_is_seen),
        FIXTURE_TEST(a_child_whose_parent_has_ended_is_seen),
        FIXTURE_TEST(epolls_data_is_seen),
        FIXTURE_TEST(epolls_entries_count_when_the_pause_is_estimated),
        FIXTURE_TEST(a_timers_value_is_seen),
        FIXTURE_TEST(the_value_of_a_pending_signal_is_seen),
        FIXTURE_TEST(declared_roots_are_seen),
        FIXTURE_TEST(a_shared_mapping_in_which_roots_are_declared_is_seen),
        FIXTURE_TEST(of_a_process_that_declares_roots_other_shared_memory_does_not_count),
        FIXTURE_TEST(of_a_process_that_declares_roots_other_memory_does_not_count),
        FIXTURE_TEST(a_forged_table_is_passed_over),
        FIXTURE_TEST(thousands_of_forged_tables_are_passed_over),
        FIXTURE_TEST(names_of_mappings_lead_nobody_astray),
        FIXTURE_TEST(a_sparse_mapping_stays_sparse),
        FIXTURE_TEST(offsets_count_if_asked_for),
        FIXTURE_TEST(thousands_of_mappings_are_seen),
        FIXTURE_TEST(a_process_that_is_being_told_of_an_object_ends_the_look),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
