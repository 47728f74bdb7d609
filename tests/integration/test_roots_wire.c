/*
 * What clients send about roots that no library would: rights of others, and none; objects that are none; names by the
 * thousand that nobody finishes; requests that come twice, and connections that go in between; sleepers by the dozen.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "proto/wire.h"
#include "tests/support/rawheap.h"
#include "tests/support/roots.h"

#define NOBODY   65534
#define UID_MAX  1024 /* roots that the sessions of a user make at the same time */
#define NSESSIONS (UID_MAX / SHM_MAKING_MAX + 1)

static ProtobufCBinaryData data_of(const char *name)
{
    return (ProtobufCBinaryData){ .len = strlen(name), .data = (uint8_t *)(uintptr_t)name };
}

/* Reserve: the state, or the error as a negative number. */
static int reserve_as(const rawheap *heap, const char *name, uint64_t size, uint64_t tag, uint32_t ticket)
{
    Goallocd__RootReserve body = GOALLOCD__ROOT_RESERVE__INIT;
    Goallocd__Request request = WIRE_REQUEST(ROOT_RESERVE, root_reserve, &body);
    Goallocd__Reply *reply;
    int ret;

    body.name = data_of(name);
    body.size = size;
    body.type_tag = tag;
    body.ticket = ticket;
    request.id = 10;
    reply = raw_call(heap->fd, &request);
    CHECK(reply != NULL);
    ret = reply->error != 0 ? -reply->error : (int)reply->root_reserve->state;
    goallocd__reply__free_unpacked(reply, NULL);
    return ret;
}

static int reserve(const rawheap *heap, const char *name, uint32_t ticket)
{
    return reserve_as(heap, name, 64, 0, ticket);
}

/* The error of the reply as a negative number. */
static int ask(const rawheap *heap, Goallocd__Request request)
{
    request.id = 11;
    return -rawheap_error(heap, &request);
}

#define ASK(heap, OP, op, body) ask(heap, (Goallocd__Request)WIRE_REQUEST(OP, op, body))

static int announce(const rawheap *heap, const char *name, uint32_t ticket, uint64_t offset)
{
    Goallocd__RootObject body = GOALLOCD__ROOT_OBJECT__INIT;

    body.name = data_of(name);
    body.ticket = ticket;
    body.offset = offset;
    return ASK(heap, ROOT_ANNOUNCE, root_announce, &body);
}

static int finish(const rawheap *heap, const char *name, uint32_t ticket, uint64_t offset)
{
    Goallocd__RootObject body = GOALLOCD__ROOT_OBJECT__INIT;

    body.name = data_of(name);
    body.ticket = ticket;
    body.offset = offset;
    return ASK(heap, ROOT_FINISH, root_finish, &body);
}

static int give_back(const rawheap *heap, const char *name, uint32_t ticket)
{
    Goallocd__RootGiveBack body = GOALLOCD__ROOT_GIVE_BACK__INIT;

    body.name = data_of(name);
    body.ticket = ticket;
    return ASK(heap, ROOT_GIVE_BACK, root_give_back, &body);
}

static int compare_and_set(const rawheap *heap, const char *name, uint64_t expected, uint64_t offset, uint32_t ticket)
{
    Goallocd__RootCompareAndSet body = GOALLOCD__ROOT_COMPARE_AND_SET__INIT;

    body.name = data_of(name);
    body.expected = expected;
    body.offset = offset;
    body.ticket = ticket;
    return ASK(heap, ROOT_COMPARE_AND_SET, root_compare_and_set, &body);
}

static int set(const rawheap *heap, const char *name, uint64_t offset, uint32_t ticket)
{
    Goallocd__RootSet body = GOALLOCD__ROOT_SET__INIT;

    body.name = data_of(name);
    body.offset = offset;
    body.ticket = ticket;
    return ASK(heap, ROOT_SET, root_set, &body);
}

/* The offset of a new object of some pages, which the session leases. */
static uint64_t new_object(const rawheap *heap)
{
    page_no first = rawheap_alloc_large(heap, 40);

    CHECK(first.n != 0);
    (void)u64_fetch_or_acq_rel(shm_alloc_word(&heap->map, first, 0), 1);
    return page_offset(first);
}

#define THERE  ((int)GOALLOCD__ROOT_STATE__ROOT_THERE)
#define MAKING ((int)GOALLOCD__ROOT_STATE__ROOT_MAKING)
#define YOURS  ((int)GOALLOCD__ROOT_STATE__ROOT_YOURS)

/* --- rights --- */

static int lie(const fixture *f, void *arg)
{
    rawheap a;
    rawheap b;
    rawheap readonly = { .fd = raw_connect(f) };
    rawheap none = { .fd = raw_connect(f) };
    Goallocd__Attach ask = rawheap_attach_init();
    uint64_t object;

    (void)arg;
    rawheap_open(&a, f, 0, "a");
    rawheap_open(&b, f, 0, "b");
    ask.flags = SESSION_READONLY;
    goallocd__reply__free_unpacked(rawheap_ask(&readonly, &ask), NULL);
    object = new_object(&a);
    CHECK(reserve(&none, "x", 1) == -ENOTCONN && announce(&none, "x", 1, object) == -ENOTCONN);
    CHECK(reserve(&readonly, "x", 1) == -EROFS && finish(&readonly, "x", 1, object) == -EROFS);
    CHECK(reserve(&a, "x", 0) == -EINVAL && reserve_as(&a, "x", 0, 0, 1) == -EINVAL && reserve(&a, "", 1) == -EINVAL);
    /* What was not reserved, or by another, or by another ticket or name. */
    CHECK(announce(&a, "x", 1, object) == -ECANCELED && finish(&a, "x", 1, object) == -ECANCELED);
    CHECK(reserve(&a, "x", 7) == YOURS && reserve(&a, "x", 7) == YOURS && reserve(&a, "x", 8) == MAKING);
    CHECK(reserve(&b, "x", 7) == MAKING && give_back(&b, "x", 7) == 0 && reserve(&b, "x", 7) == MAKING);
    CHECK(announce(&b, "x", 7, object) == -ECANCELED && finish(&b, "x", 7, object) == -ECANCELED);
    CHECK(announce(&a, "x", 8, object) == -ECANCELED && finish(&a, "y", 7, object) == -ECANCELED);
    /* What is no object. */
    CHECK(announce(&a, "x", 7, 0) == -EINVAL && announce(&a, "x", 7, object + 8) == -EINVAL);
    CHECK(announce(&a, "x", 7, UINT64_MAX) == -EINVAL && announce(&a, "x", 7, object + 50 * PAGE_BYTES) == -EINVAL);
    CHECK(finish(&a, "x", 7, 0) == -EINVAL && finish(&a, "x", 7, UINT64_MAX) == -EINVAL);
    CHECK(finish(&a, "x", 7, object + 50 * PAGE_BYTES) == -EINVAL);
    CHECK(reserve(&b, "x", 7) == MAKING); /* the right is still there */
    CHECK(announce(&a, "x", 7, object) == 0 && finish(&a, "x", 7, object) == 0);
    CHECK(reserve(&b, "x", 7) == THERE && reserve_as(&b, "x", 65, 0, 7) == -EMEDIUMTYPE);
    CHECK(reserve_as(&b, "x", 64, 1, 7) == -EMEDIUMTYPE && reserve_as(&b, "x", 64, ROOT_REINIT, 7) == THERE);
    CHECK(reserve(&readonly, "x", 1) == THERE);
    CHECK(finish(&b, "x", 7, object) == -ECANCELED && set(&a, "x", UINT64_MAX, 9) == -EINVAL);
    CHECK(compare_and_set(&a, "x", UINT64_MAX, object, 10) == -EEXIST);
    CHECK(set(&a, "x", 0, 11) == 0);
    (void)close(none.fd);
    rawheap_close(&a);
    rawheap_close(&b);
    return 0;
}

static void rights_of_others_and_objects_that_are_none_are_refused(void **state)
{
    assert_int_equal(child_run(*state, lie, NULL), 0);
    assert_true(fixture_is_clean(*state, 1)); /* the object was a root, and is the heap's */
}

/* --- requests that come twice --- */

static int ask_twice(const fixture *f, void *arg)
{
    rawheap a;
    rawheap b;
    uint64_t one;
    uint64_t two;

    (void)arg;
    rawheap_open(&a, f, 0, "a");
    rawheap_open(&b, f, 0, "b");
    one = new_object(&a);
    two = new_object(&a);
    CHECK(reserve(&a, "x", 1) == YOURS && finish(&a, "x", 1, one) == 0);
    CHECK(finish(&a, "x", 1, one) == 0); /* it has been done */
    /* Another has changed the root since: that stays. */
    CHECK(compare_and_set(&a, "x", one, two, 2) == 0 && compare_and_set(&b, "x", two, one, 2) == 0);
    CHECK(compare_and_set(&a, "x", one, two, 2) == 0 && compare_and_set(&a, "x", two, one, 3) == -EEXIST);
    CHECK(compare_and_set(&a, "x", one, 0, 4) == 0 && compare_and_set(&a, "x", one, 0, 4) == 0);
    CHECK(compare_and_set(&b, "x", one, 0, 4) == -EEXIST && compare_and_set(&a, "x", one, 0, 5) == -EEXIST);
    CHECK(set(&a, "x", one, 6) == 0 && set(&a, "x", 0, 7) == 0 && set(&a, "x", 0, 7) == 0);
    CHECK(set(&a, "x", 0, 8) == -ENOENT && set(&a, "x", 0, 8) == -ENOENT);
    rawheap_close(&a);
    rawheap_close(&b);
    return 0;
}

static void request_that_comes_twice_is_carried_out_once(void **state)
{
    assert_int_equal(child_run(*state, ask_twice, NULL), 0);
}

/* The daemon is replaced between the two, and the root is another's by then. */
static void request_that_comes_again_to_the_next_daemon_is_carried_out_once(void **state)
{
    fixture *f = *state;
    rawheap a;
    rawheap b;
    uint64_t one;
    uint64_t two;

    rawheap_open(&a, f, 0, "a");
    rawheap_open(&b, f, 0, "b");
    one = new_object(&a);
    two = new_object(&a);
    assert_int_equal(set(&a, "x", one, 1), 0);
    assert_int_equal(compare_and_set(&a, "x", one, two, 2), 0);
    assert_int_equal(compare_and_set(&b, "x", two, one, 2), 0);
    fixture_kill(f);
    fixture_restart(f, NULL);
    rawheap_disconnect(&a);
    assert_int_equal(rawheap_come_back(&a, f), 0);
    assert_int_equal(compare_and_set(&a, "x", one, two, 2), 0);
    assert_int_equal(compare_and_set(&a, "x", two, one, 3), -EEXIST);
    assert_int_equal(set(&a, "x", 0, 4), 0);
    rawheap_close(&a);
    rawheap_close(&b);
}

/* --- connections that go --- */

static int lose_the_connection(const fixture *f, void *arg)
{
    rawheap a;
    rawheap b;
    uint64_t one;
    uint64_t two;

    (void)arg;
    rawheap_open(&a, f, 0, "a");
    rawheap_open(&b, f, 0, "b");
    one = new_object(&a);
    two = new_object(&b);
    CHECK(reserve(&a, "x", 1) == YOURS && announce(&a, "x", 1, one) == 0);
    CHECK(reserve(&a, "y", 2) == YOURS);
    rawheap_disconnect(&a);
    while (reserve(&b, "x", 1) != YOURS) /* when the daemon has seen the end of the connection */
        waits_sleep_ms(1);
    CHECK(finish(&b, "x", 1, two) == 0);
    CHECK(rawheap_come_back(&a, f) == 0);
    CHECK(finish(&a, "x", 1, one) == -ECANCELED && finish(&a, "y", 2, one) == -ECANCELED);
    CHECK(reserve(&b, "y", 2) == YOURS); /* though nobody asked meanwhile */
    CHECK(reserve(&a, "y", 2) == MAKING && give_back(&b, "y", 2) == 0 && reserve(&a, "y", 2) == YOURS);
    rawheap_close(&a); /* and the object that it has announced is freed */
    rawheap_close(&b);
    return 0;
}

static void right_ends_with_the_connection(void **state)
{
    assert_int_equal(child_run(*state, lose_the_connection, NULL), 0);
    assert_true(fixture_is_clean(*state, 1));
}

/* An object that was freed, or is another's, or was announced many times. */
static int announce_and_die(const fixture *f, void *arg)
{
    rawheap a;
    char name[32];
    uint64_t object;
    object_ref ref;

    (void)arg;
    rawheap_open(&a, f, 0, "a");
    object = new_object(&a);
    for (uint32_t i = 1; i <= SHM_MAKING_MAX; i++) {
        (void)snprintf(name, sizeof(name), "x%u", i);
        CHECK(reserve(&a, name, i) == YOURS && announce(&a, name, i, object) == 0);
    }
    object = new_object(&a);
    CHECK(announce(&a, "x1", 1, object) == 0);
    CHECK(object_find(&a.map, a.map.base + object, &ref) == OBJECT_LIVE);
    CHECK(object_free_remote(&a.map, &ref) == OBJECT_LIVE);
    return 0;
}

static void objects_that_were_announced_go_with_their_maker(void **state)
{
    assert_int_equal(child_run(*state, announce_and_die, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* --- too many --- */

/* Reserve names until that is refused: how many, and the error. */
static uint32_t reserve_many(const rawheap *heap, const char *prefix, int *ret_error)
{
    uint32_t n = 0;
    char name[64];

    do
        (void)snprintf(name, sizeof(name), "%s %u", prefix, n);
    while ((*ret_error = reserve(heap, name, ++n)) == YOURS && n < 10000);
    return n - 1;
}

static int another_user(const fixture *f, void *arg)
{
    void *p;

    (void)arg;
    if (geteuid() == 0)
        CHECK(setgid(NOBODY) == 0 && setuid(NOBODY) == 0);
    must_attach(f, 0);
    CHECK(table_get("another", &p, NULL) == 0);
    root_drop("another");
    return 0;
}

static int reserve_all(const fixture *f, void *arg)
{
    static rawheap heaps[NSESSIONS];
    char prefix[16];
    int error;

    (void)arg;
    for (int i = 0; i < NSESSIONS; i++) {
        uint32_t n;

        rawheap_open(&heaps[i], f, 0, "greedy");
        (void)snprintf(prefix, sizeof(prefix), "%d", i);
        n = reserve_many(&heaps[i], prefix, &error);
        CHECK(n == (i < NSESSIONS - 1 ? SHM_MAKING_MAX : 0) && error == -EDQUOT);
        CHECK(reserve(&heaps[i], "0 0", 99) == MAKING);
    }
    CHECK(set(&heaps[0], "a name", new_object(&heaps[0]), 100) == 0); /* roots can be set all the while */
    CHECK(set(&heaps[0], "a name", 0, 101) == 0);
    CHECK(give_back(&heaps[1], "1 3", 4) == 0 && reserve(&heaps[1], "1 3", 4) == YOURS);
    if (geteuid() == 0)
        CHECK(child_run(f, another_user, NULL) == 0);
    return 0;
}

static void names_that_nobody_finishes_are_limited(void **state)
{
    const fixture *f = *state;

    (void)chmod(f->dir, 0755);
    (void)chmod(f->socket, 0666);
    assert_int_equal(child_run(f, reserve_all, NULL), 0);
    assert_int_equal(child_run(f, another_user, NULL), 0); /* and forgotten with who has reserved them */
    assert_true(fixture_is_clean(f, 1));
}

/* --- lists --- */

static int list_badly(const fixture *f, void *arg)
{
    static uint8_t prefix[60000];
    Goallocd__RootList body = GOALLOCD__ROOT_LIST__INIT;
    Goallocd__Request request = WIRE_REQUEST(ROOT_LIST, root_list, &body);
    rawheap a;
    char name[SHM_ROOT_NAME_BYTES];

    (void)arg;
    rawheap_open(&a, f, 0, "a label as long as a label can be, which is sixty-three bytes. ");
    uint64_t object = new_object(&a);
    for (uint32_t i = 0; i < 200; i++) { /* the longest there can be */
        memset(name, 'n', sizeof(name));
        (void)snprintf(name, sizeof(name), "%03u", i);
        name[3] = 'n';
        name[SHM_ROOT_NAME_MAX] = '\0';
        CHECK(set(&a, name, object, i + 1) == 0);
    }
    for (int i = 0; i < 4; i++) {
        Goallocd__Reply *reply;

        body.start = i == 0 ? UINT32_MAX : i == 1 ? SHM_ROOTS_MAX : 0;
        body.most = UINT32_MAX;
        body.prefix = (ProtobufCBinaryData){ .len = i == 2 ? sizeof(prefix) : 0, .data = prefix };
        request.id = 20;
        reply = raw_call(a.fd, &request);
        CHECK(reply != NULL && reply->error == 0 && reply->root_list->n_roots == (i == 3 ? 128 : 0));
        CHECK((reply->root_list->next != 0) == (i == 3));
        goallocd__reply__free_unpacked(reply, NULL);
    }
    rawheap_close(&a);
    return 0;
}

static void list_with_any_numbers_is_answered(void **state)
{
    assert_int_equal(child_run(*state, list_badly, NULL), 0);
}

/* --- sleepers --- */

#define NWOKEN    64 /* by one change of a root, at most */
#define NSLEEPERS (NWOKEN + 36)

typedef struct sleeper {
    const shm_u32 *word;
    uint32_t seq; /* that the word has while all fall asleep */
    pthread_t thread;
    atomic_int tid;
} sleeper;

static atomic_uint nwoken;

/* Until it is woken: not as the library does, which looks again after a while. */
static void *sleep_for_ever(void *arg)
{
    sleeper *s = arg;

    s->tid = gettid();
    CHECK(syscall(SYS_futex, s->word, FUTEX_WAIT, s->seq, NULL, NULL, 0) == 0);
    nwoken++;
    return NULL;
}

/* Between its first words and its sleep nothing else can put the thread to sleep. */
static void await_sleep(const sleeper *s)
{
    while (s->tid == 0 || waits_process_state(s->tid) != 'S')
        waits_sleep_ms(1);
}

/* True if so many are awake in the end, and nobody else a while later. */
static bool are_woken(unsigned n)
{
    while (nwoken < n)
        waits_sleep_ms(1);
    waits_sleep_ms(100);
    return nwoken == n;
}

static int sleep_in_a_crowd(const fixture *f, void *arg)
{
    static sleeper sleepers[NSLEEPERS];
    rawheap heap;
    uint64_t object;

    (void)arg;
    waits_not_for_ever();
    rawheap_open(&heap, f, SESSION_RECLAIM, "a crowd");
    object = new_object(&heap);
    for (int i = 0; i < NSLEEPERS; i++) {
        sleeper *s = &sleepers[i];

        s->word = &heap.map.header->roots_seq;
        s->seq = u32_load_acquire(s->word);
        CHECK(pthread_create(&s->thread, NULL, sleep_for_ever, s) == 0);
    }
    for (int i = 0; i < NSLEEPERS; i++)
        await_sleep(&sleepers[i]);
    CHECK(set(&heap, "bell", object, 1) == 0 && are_woken(NWOKEN));
    CHECK(set(&heap, "bell", 0, 2) == 0 && are_woken(NSLEEPERS)); /* the others had been asleep, and not lost */
    for (int i = 0; i < NSLEEPERS; i++)
        CHECK(pthread_join(sleepers[i].thread, NULL) == 0);
    return 0;
}

static void change_wakes_a_bounded_number_of_sleepers(void **state)
{
    assert_int_equal(child_run(*state, sleep_in_a_crowd, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* --- what is left of another heap --- */

static int init_again(void *p, size_t size, void *arg)
{
    table *t = p;

    (void)arg;
    CHECK(size == sizeof(*t) && t->magic == TABLE_MAGIC); /* as it was */
    t->ninits++;
    return 0;
}

static int get_again(const fixture *f, void *arg)
{
    void *p;
    int created;

    must_attach(f, 0);
    CHECK(goalloc_root_get_or_create("table", sizeof(table), TABLE_TAG | GOALLOC_ROOT_REINIT, init_again, NULL, &p,
                                     &created) == 0);
    CHECK(created == 0 && ((table *)p)->ninits == *(unsigned *)arg);
    return 0;
}

/* Of the root at entry 0, in the daemon's own memory, as a file of another heap would say it. */
static void change_generation(const fixture *f)
{
    char path[64];

    for (int fd = 0; fd < 64; fd++) {
        char target[64] = "";
        shm_header header;
        shm_root root;
        int spans;

        (void)snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)f->daemon, fd);
        if (readlink(path, target, sizeof(target) - 1) < 0 || strstr(target, "spans") == NULL)
            continue;
        spans = open(path, O_RDWR | O_CLOEXEC);
        assert_true(spans >= 0);
        assert_int_equal(pread(spans, &header, sizeof(header), 0), sizeof(header));
        assert_int_equal(pread(spans, &root, sizeof(root), (off_t)header.roots_off), sizeof(root));
        for (int i = 0; i < 2; i++)
            u64_store_relaxed(&root.values[i].generation, header.generation ^ 1);
        assert_int_equal(pwrite(spans, &root, sizeof(root), (off_t)header.roots_off), sizeof(root));
        (void)close(spans);
        return;
    }
    fail_msg("the daemon has no spans");
}

static int get_first(const fixture *f, void *arg)
{
    void *p;

    (void)arg;
    must_attach(f, 0);
    CHECK(table_get("table", &p, NULL) == 0);
    return 0;
}

static void reinit_calls_init_once_in_each_heap(void **state)
{
    unsigned ninits = 1;

    assert_int_equal(child_run(*state, get_first, NULL), 0);
    assert_int_equal(child_run(*state, get_again, &ninits), 0);
    for (int i = 0; i < 2; i++) {
        change_generation(*state);
        ninits++;
        assert_int_equal(child_run(*state, get_first, NULL), 0); /* who does not ask for it gets it as it is */
        assert_int_equal(child_run(*state, get_again, &ninits), 0);
        assert_int_equal(child_run(*state, get_again, &ninits), 0);
    }
    assert_true(fixture_is_clean(*state, 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(rights_of_others_and_objects_that_are_none_are_refused),
        FIXTURE_TEST(request_that_comes_twice_is_carried_out_once),
        FIXTURE_TEST_KEPT(request_that_comes_again_to_the_next_daemon_is_carried_out_once),
        FIXTURE_TEST(right_ends_with_the_connection),
        FIXTURE_TEST(objects_that_were_announced_go_with_their_maker),
        FIXTURE_TEST(names_that_nobody_finishes_are_limited),
        FIXTURE_TEST(list_with_any_numbers_is_answered),
        FIXTURE_TEST(change_wakes_a_bounded_number_of_sleepers),
        FIXTURE_TEST(reinit_calls_init_once_in_each_heap),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
