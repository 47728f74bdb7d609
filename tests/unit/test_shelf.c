/*
 * The shelf: what one daemon puts there the next one finds, whenever the first one has died, and however many have come
 * and gone; and the queue stays short.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/memory/lifesign.h"
#include "daemon/memory/memfd.h"
#include "daemon/memory/shelf.h"
#include "proto/fdpass.h"
#include "shm/limits.h"
#include "tests/support/fixture.h"

#define NSIGNS  7u /* files, of which each stands for many signs */
#define QUEUE   (SHELF_LOOSE_MAX + 2 * (SHM_OWNERS_MAX / SHELF_BATCH + 1) + SHM_OWNERS_MAX / SHELF_BATCH + 8)
#define CHURN   20000u
#define STEPS   3000u
#define NUMBERS 300u /* of the model */

typedef struct bench {
    int fds[SHELF_NFDS];
    lifesign signs[NSIGNS];
    shelf *s;
    int taken[SHM_OWNERS_MAX]; /* from the shelf; 0: none */
} bench;

static void close_taken(bench *b)
{
    for (uint32_t i = 0; i < SHM_OWNERS_MAX; i++) {
        if (b->taken[i] != 0)
            (void)close(b->taken[i]);
        b->taken[i] = 0;
    }
}

static int setup(void **state)
{
    static bench b;
    struct rlimit limit;

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = limit.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_int_equal(shelf_make(b.fds), 0);
    for (unsigned i = 0; i < NSIGNS; i++)
        assert_int_equal(lifesign_new(&b.signs[i]), 0);
    b.s = shelf_new(b.fds);
    assert_non_null(b.s);
    *state = &b;
    return 0;
}

static int teardown(void **state)
{
    bench *b = *state;

    b->s = shelf_free(b->s);
    close_taken(b);
    for (unsigned i = 0; i < NSIGNS; i++)
        lifesign_end(&b->signs[i]);
    (void)close(b->fds[SHELF_IN]);
    (void)close(b->fds[SHELF_OUT]);
    return 0;
}

static int sign_of(const bench *b, uint32_t number, uint32_t epoch)
{
    return b->signs[(number + epoch) % NSIGNS].fd;
}

static ino_t inode_of(int fd)
{
    struct stat st;

    assert_int_equal(fstat(fd, &st), 0);
    return st.st_ino;
}

static void put(bench *b, uint32_t number, uint32_t epoch)
{
    assert_int_equal(shelf_put(b->s, number, epoch, sign_of(b, number, epoch)), 0);
}

/* The daemon has died, at whatever it was: the next one reads what there is. */
static void next_daemon(bench *b)
{
    b->s = shelf_free(b->s);
    close_taken(b);
    b->s = shelf_new(b->fds);
    assert_non_null(b->s);
    assert_int_equal(shelf_read(b->s), 0);
    assert_int_equal(shelf_validate(b->s, stderr), 0);
}

/* The next daemon has found the sign of that number and epoch. It has it from then on. */
static void must_take(bench *b, uint32_t number, uint32_t epoch)
{
    int fd = shelf_take(b->s, number, epoch);

    assert_true(fd >= 0);
    assert_int_equal(inode_of(fd), inode_of(sign_of(b, number, epoch)));
    b->taken[number] = fd;
}

static unsigned count_descriptors(void)
{
    DIR *all = opendir("/proc/self/fd");
    unsigned n = 0;

    assert_non_null(all);
    while (readdir(all) != NULL)
        n++;
    (void)closedir(all);
    return n;
}

/* --- one after the other --- */

static void next_daemon_finds_what_was_put(void **state)
{
    bench *b = *state;
    unsigned before = count_descriptors();
    int locked = lifesign_fd(&b->signs[(1 + 10) % NSIGNS]);
    lifesign found;

    assert_true(locked >= 0);
    put(b, 1, 10);
    put(b, 2, 20);
    put(b, SHM_OWNERS_MAX - 1, 30);
    next_daemon(b);
    found = lifesign_find(b->s, 1, 10);
    assert_true(lifesign_is_held(&found));
    (void)close(locked);
    assert_false(lifesign_is_held(&found));
    lifesign_end(&found);
    assert_int_equal(shelf_take(b->s, 1, 10), -1); /* it has it */
    assert_int_equal(shelf_take(b->s, 2, 21), -1); /* another epoch's */
    assert_int_equal(shelf_take(b->s, 3, 1), -1);
    shelf_forget_rest(b->s);
    assert_int_equal(shelf_validate(b->s, stderr), 0);
    assert_int_equal(count_descriptors(), before);
}

static void daemon_that_dies_while_it_takes_over_loses_nothing(void **state)
{
    bench *b = *state;
    unsigned before = count_descriptors();

    for (uint32_t i = 1; i <= 20; i++)
        put(b, i, i);
    for (int n = 0; n < 3; n++) { /* it has read, and claimed nothing */
        next_daemon(b);
        b->s = shelf_free(b->s);
        assert_int_equal(count_descriptors(), before);
    }
    next_daemon(b);
    for (uint32_t i = 1; i <= 20; i++) {
        int fd = shelf_take(b->s, i, i);

        assert_int_equal(inode_of(fd), inode_of(sign_of(b, i, i)));
        (void)close(fd);
    }
}

/* As if it had died between a gathering and what it takes out after it. */
static void sign_that_is_there_twice_counts_once(void **state)
{
    bench *b = *state;
    unsigned before = count_descriptors();
    int fd;

    put(b, 5, 1);
    put(b, 6, 1);
    next_daemon(b);
    shelf_forget_rest(b->s);
    put(b, 5, 1);
    put(b, 6, 2); /* and the number is used again */
    next_daemon(b);
    assert_int_equal(shelf_nmessages(b->s), 2); /* those before were at the head, and of nobody */
    fd = shelf_take(b->s, 5, 1);
    assert_int_equal(inode_of(fd), inode_of(sign_of(b, 5, 1)));
    assert_int_equal(shelf_take(b->s, 6, 1), -1);
    shelf_forget_rest(b->s);
    (void)close(fd);
    assert_int_equal(count_descriptors(), before);
}

/* --- many --- */

static void sessions_that_come_and_go_leave_the_queue_short(void **state)
{
    bench *b = *state;

    put(b, 7, 1); /* at the head, and stays */
    for (uint32_t i = 1; i <= CHURN; i++) {
        put(b, 8 + i % 100, i);
        if (i > 50) /* some at a time */
            shelf_remove(b->s, 8 + (i - 50) % 100, i - 50);
        assert_true(shelf_nmessages(b->s) <= SHELF_LOOSE_MAX + 8);
    }
    assert_int_equal(shelf_validate(b->s, stderr), 0);
    next_daemon(b);
    for (uint32_t i = CHURN - 49; i <= CHURN; i++)
        must_take(b, 8 + i % 100, i);
    must_take(b, 7, 1);
}

static void all_numbers_have_a_place_and_come_and_go(void **state)
{
    bench *b = *state;
    uint32_t most = 0;

    for (uint32_t i = 0; i < SHM_OWNERS_MAX; i++)
        put(b, i, 1);
    assert_int_equal(shelf_validate(b->s, stderr), 0);
    for (uint32_t i = 0; i < 2 * SHM_OWNERS_MAX; i++) { /* in another order */
        uint32_t number = i * 1031 % SHM_OWNERS_MAX;

        shelf_remove(b->s, number, 1 + i / SHM_OWNERS_MAX);
        put(b, number, 2 + i / SHM_OWNERS_MAX);
        most = shelf_nmessages(b->s) > most ? shelf_nmessages(b->s) : most;
    }
    (void)printf("%u messages at most, for %u signs\n", most, SHM_OWNERS_MAX);
    assert_true(most <= QUEUE);
    assert_int_equal(shelf_validate(b->s, stderr), 0);
    next_daemon(b);
    for (uint32_t i = 0; i < SHM_OWNERS_MAX; i++)
        must_take(b, i, 3);
    for (uint32_t i = 0; i < SHM_OWNERS_MAX; i++)
        shelf_remove(b->s, i, 3);
    assert_int_equal(shelf_validate(b->s, stderr), 0);
    for (uint32_t i = 0; i < 64; i++) /* what has ended goes with what comes */
        put(b, 1, 4 + i);
    assert_true(shelf_nmessages(b->s) <= 2);
}

/* Whatever lies before it: the region of profiles is large. */
static void clean_leaves_nothing_that_was_removed_and_all_that_was_not(void **state)
{
    bench *b = *state;

    assert_true(shelf_clean(b->s));
    for (uint32_t i = 1; i < 2000; i++) {
        put(b, i, 1);
        if (i % 7 == 0)
            shelf_remove(b->s, i, 1);
    }
    for (uint32_t epoch = 1; epoch < 20; epoch++) {
        put(b, 0, epoch);
        assert_true(shelf_clean(b->s));
        assert_int_equal(shelf_validate(b->s, stderr), 0);
        assert_true(shelf_nmessages(b->s) <= 2000 / SHELF_BATCH + 2);
    }
    next_daemon(b);
    assert_int_equal(shelf_take(b->s, 0, 18), -1);
    must_take(b, 0, 19);
    for (uint32_t i = 1; i < 2000; i++) {
        if (i % 7 != 0)
            must_take(b, i, 1);
        else
            assert_int_equal(shelf_take(b->s, i, 1), -1);
    }
}

/* A daemon has died between the next region and the clean-up: the next one knows, and cleans up. */
static void what_was_replaced_before_a_death_is_known_until_it_is_out(void **state)
{
    bench *b = *state;

    put(b, 1, 1);
    assert_false(shelf_has_left(b->s, 0));
    put(b, 0, 1);
    next_daemon(b);
    assert_false(shelf_has_left(b->s, 0));
    must_take(b, 1, 1);
    must_take(b, 0, 1);
    put(b, 0, 2);
    assert_true(shelf_has_left(b->s, 0));
    next_daemon(b);
    assert_true(shelf_has_left(b->s, 0));
    must_take(b, 1, 1);
    must_take(b, 0, 2);
    assert_true(shelf_clean(b->s));
    next_daemon(b);
    assert_false(shelf_has_left(b->s, 0));
    shelf_forget_rest(b->s); /* nobody knows it any more: it is there still */
    assert_true(shelf_has_left(b->s, 0));
}

/* A message that can't be taken out ends a clean-up. */
static void clean_that_can_not_receive_ends(void **state)
{
    bench *b = *state;
    int out = dup(b->fds[SHELF_OUT]);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    put(b, 0, 1);
    put(b, 0, 2);
    assert_true(out >= 0 && null >= 0 && dup2(null, b->fds[SHELF_OUT]) >= 0);
    assert_false(shelf_clean(b->s));
    assert_int_equal(shelf_validate(b->s, stderr), 0);
    assert_true(dup2(out, b->fds[SHELF_OUT]) >= 0);
    (void)close(out);
    (void)close(null);
    assert_true(shelf_clean(b->s));
    assert_int_equal(shelf_nmessages(b->s), 1);
}

/* Random sessions, and daemons that die, against a table of what there is. */
static void shelf_agrees_with_a_model(void **state)
{
    bench *b = *state;
    uint64_t random = test_seed();
    static uint32_t epochs[NUMBERS]; /* 0: it is free */
    uint32_t epoch = 0;

    memset(epochs, 0, sizeof(epochs));
    for (uint32_t i = 0; i < STEPS; i++) {
        uint32_t number = (uint32_t)(test_random(&random) % NUMBERS);

        if (epochs[number] != 0) {
            shelf_remove(b->s, number, epochs[number]);
            epochs[number] = 0;
        } else {
            epochs[number] = ++epoch;
            put(b, number, epoch);
        }
        if (test_random(&random) % 64 == 0) {
            next_daemon(b);
            for (uint32_t n = 0; n < NUMBERS; n++) {
                if (epochs[n] != 0)
                    must_take(b, n, epochs[n]);
            }
            shelf_forget_rest(b->s);
        }
        assert_int_equal(shelf_validate(b->s, stderr), 0);
        assert_true(shelf_nmessages(b->s) <= SHELF_LOOSE_MAX + 16);
    }
}

/* --- a kernel that takes no more, and others --- */

static void full_queue_refuses_and_takes_again(void **state)
{
    bench *b = *state;
    const int few = 1;
    uint32_t n = 1;
    int r;

    assert_int_equal(setsockopt(b->fds[SHELF_IN], SOL_SOCKET, SO_SNDBUF, &few, sizeof(few)), 0);
    while ((r = shelf_put(b->s, n, 1, sign_of(b, n, 1))) == 0)
        assert_true(++n < SHELF_LOOSE_MAX);
    assert_int_equal(r, -EAGAIN);
    assert_int_equal(shelf_validate(b->s, stderr), 0);
    shelf_remove(b->s, 1, 1);
    put(b, n, 1);
    next_daemon(b);
    for (uint32_t i = 2; i <= n; i++)
        must_take(b, i, 1);
}

static void what_is_no_sign_is_refused(void **state)
{
    bench *b = *state;
    uint32_t item[2] = { SHM_OWNERS_MAX, 1 };
    unsigned before;
    uint64_t bytes;
    int other = memfd_sealed("other", 8192);

    assert_true(memfd_is_sealed(other, &bytes) && bytes == 8192);
    assert_int_equal(lifesign_adopt(other).fd, -1);
    assert_int_equal(lifesign_adopt(dup(b->fds[SHELF_IN])).fd, -1);
    before = count_descriptors();
    assert_int_equal(fdpass_send(b->fds[SHELF_IN], item, sizeof(item), &b->signs[0].fd, 1), sizeof(item));
    next_daemon(b); /* a number that there is none of: nobody's */
    assert_int_equal(count_descriptors(), before);
    assert_int_equal(send(b->fds[SHELF_IN], item, sizeof(item), 0), sizeof(item));
    b->s = shelf_free(b->s);
    b->s = shelf_new(b->fds);
    assert_int_equal(shelf_read(b->s), -EPROTO);
    assert_int_equal(count_descriptors(), before);
}

/* A message of the right form, whose descriptor is another file's. */
static void what_stands_for_a_sign_is_not_sent_again(void **state)
{
    bench *b = *state;
    uint32_t item[2] = { 5, 1 };
    unsigned before = count_descriptors();
    int other = memfd_sealed("other", 8192);

    assert_true(other >= 0);
    assert_int_equal(fdpass_send(b->fds[SHELF_IN], item, sizeof(item), &other, 1), sizeof(item));
    (void)close(other);
    next_daemon(b);
    assert_int_equal(lifesign_find(b->s, 5, 1).fd, -1);
    assert_int_equal(count_descriptors(), before);
    assert_int_equal(shelf_validate(b->s, stderr), 0);
    put(b, 6, 1); /* the message before has no sign that counts */
    assert_int_equal(shelf_nmessages(b->s), 1);
    next_daemon(b);
    assert_int_equal(shelf_take(b->s, 5, 1), -1);
    must_take(b, 6, 1);
}

static void ends_are_told_apart(void **state)
{
    const bench *b = *state;
    int sockets[2];

    assert_int_equal(shelf_end_of(b->fds[SHELF_IN]), SHELF_IN);
    assert_int_equal(shelf_end_of(b->fds[SHELF_OUT]), SHELF_OUT);
    assert_int_equal(shelf_end_of(b->signs[0].fd), -1);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
    assert_int_equal(shelf_end_of(sockets[0]), -1);
    (void)close(sockets[0]);
    (void)close(sockets[1]);
}

/* --- doors --- */

static void sign_has_so_many_doors_and_no_more(void **state)
{
    bench *b = *state;
    int doors[LIFESIGN_DOORS];

    for (unsigned i = 0; i < LIFESIGN_DOORS; i++)
        assert_true((doors[i] = lifesign_fd(&b->signs[0])) >= 0);
    assert_int_equal(lifesign_fd(&b->signs[0]), -EUSERS);
    (void)close(doors[20]);
    assert_true((doors[20] = lifesign_fd(&b->signs[0])) >= 0);
    for (unsigned i = 0; i < LIFESIGN_DOORS; i++) {
        assert_true(lifesign_is_held(&b->signs[0]));
        (void)close(doors[i]);
    }
    assert_false(lifesign_is_held(&b->signs[0]));
}

/* Each question about one door would go through all of these locks. */
static void sign_with_other_locks_has_no_more_doors(void **state)
{
    enum { LOCKS = 500 };
    bench *b = *state;
    int door = lifesign_fd(&b->signs[0]);
    int next;

    assert_true(door >= 0);
    for (int i = 0; i < LOCKS; i++) {
        off_t at = (off_t)LIFESIGN_DOORS + 2 * i;
        struct flock lock = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = at, .l_len = 1 };

        assert_int_equal(fcntl(door, F_OFD_SETLK, &lock), 0);
        assert_int_equal(lifesign_fd(&b->signs[0]), -EUSERS);
    }
    assert_true(lifesign_is_held(&b->signs[0]));
    assert_true((next = lifesign_fd(&b->signs[1])) >= 0);
    (void)close(next);
    (void)close(door);
    assert_false(lifesign_is_held(&b->signs[0]));
    assert_true((next = lifesign_fd(&b->signs[0])) >= 0);
    (void)close(next);
}

#define SHELF_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        SHELF_TEST(next_daemon_finds_what_was_put),
        SHELF_TEST(daemon_that_dies_while_it_takes_over_loses_nothing),
        SHELF_TEST(sign_that_is_there_twice_counts_once),
        SHELF_TEST(sessions_that_come_and_go_leave_the_queue_short),
        SHELF_TEST(all_numbers_have_a_place_and_come_and_go),
        SHELF_TEST(clean_leaves_nothing_that_was_removed_and_all_that_was_not),
        SHELF_TEST(what_was_replaced_before_a_death_is_known_until_it_is_out),
        SHELF_TEST(clean_that_can_not_receive_ends),
        SHELF_TEST(shelf_agrees_with_a_model),
        SHELF_TEST(full_queue_refuses_and_takes_again),
        SHELF_TEST(what_is_no_sign_is_refused),
        SHELF_TEST(what_stands_for_a_sign_is_not_sent_again),
        SHELF_TEST(ends_are_told_apart),
        SHELF_TEST(sign_has_so_many_doors_and_no_more),
        SHELF_TEST(sign_with_other_locks_has_no_more_doors),
    };

    return cmocka_run_group_tests_name("shelf", tests, NULL, NULL);
}
