/*
 * Keepers: one that can't start with its daemon starts later, and no peer brings one off its way.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "proto/fdpass.h"
#include "proto/keeper.h"
#include "tests/support/attach.h"

#define NPEERS  200
#define NSILENT 7 /* the daemon is the eighth, which is all that the keeper has room for */

static int setup_without_forks(void **state)
{
    int r;

    (void)setenv("GOALLOC_TEST_FORKS_FAIL", "2", 1);
    fixture_preload(FORK_MODULE_PATH);
    r = fixture_setup_kept(state);
    fixture_preload(NULL);
    return r;
}

static int leave_object(const fixture *f, void *arg)
{
    char *p;

    (void)arg;
    must_attach(f, 0);
    CHECK((p = goalloc_malloc(100)) != NULL && goalloc_root_set("object", strcpy(p, "kept")) == 0);
    return 0;
}

static int find_object(const fixture *f, void *arg)
{
    void *p;

    (void)arg;
    must_attach(f, 0);
    CHECK(goalloc_root_get("object", &p) == 0 && strcmp(p, "kept") == 0);
    CHECK(goalloc_root_set("object", NULL) == 0 && goalloc_free_checked(p) == 0);
    return 0;
}

static void keeper_that_cannot_be_made_at_the_start_is_made_later(void **state)
{
    fixture *f = *state;

    assert_true(fixture_log_has(f, "nobody holds the heap but this daemon"));
    assert_int_equal(child_run(f, leave_object, NULL), 0); /* it serves */
    for (int i = 0; i < 3000 && !fixture_log_has(f, "a keeper holds the heap"); i++)
        usleep(10000);
    assert_true(fixture_log_has(f, "a keeper holds the heap"));
    fixture_kill(f);
    fixture_restart(f, NULL);
    assert_int_equal(child_run(f, find_object, NULL), 0);
}

static int connect_to_keeper(const fixture *f)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

    (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/" KEEPER_SOCKET, f->state_dir);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&addr, sizeof(addr)), 0);
    return fd;
}

/* Bytes that are nearly the word to end, with a descriptor or without, or nothing; some read what comes before. */
static void say_something(int fd, uint64_t *seed)
{
    static const char all[] = "byebye\0heapbyby bye\xff";
    uint64_t how = test_random(seed);
    size_t at = how % 12;
    size_t len = (how >> 8) % 10;
    char read[8];
    int null_fd;

    if (how >> 16 & 1)
        (void)!recv(fd, read, sizeof(read), 0);
    if (len == 0 || (len == 3 && memcmp(all + at, KEEPER_BYE, 3) == 0))
        return;
    if (how >> 17 & 1) {
        (void)!send(fd, all + at, len, MSG_NOSIGNAL);
        return;
    }
    null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    (void)!fdpass_send(fd, all + at, len, &null_fd, 1);
    (void)close(null_fd);
}

static void keeper_whose_peers_say_anything_serves_the_next_daemon(void **state)
{
    fixture *f = *state;
    pid_t keeper = fixture_keeper(f);
    uint64_t seed = test_seed();
    int silent[NSILENT];

    assert_int_equal(child_run(f, leave_object, NULL), 0);
    for (int i = 0; i < NPEERS; i++) {
        int fd = connect_to_keeper(f);

        say_something(fd, &seed);
        (void)close(fd);
    }
    for (int i = 0; i < NSILENT; i++)
        silent[i] = connect_to_keeper(f);
    fixture_kill(f);
    fixture_restart(f, NULL);
    for (int i = 0; i < NSILENT; i++)
        (void)close(silent[i]);
    assert_int_equal(fixture_keeper(f), keeper);
    assert_int_equal(child_run(f, find_object, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST_KEPT(keeper_whose_peers_say_anything_serves_the_next_daemon),
        cmocka_unit_test_setup_teardown(keeper_that_cannot_be_made_at_the_start_is_made_later, setup_without_forks,
                                        fixture_teardown),
    };

    return cmocka_run_group_tests_name("keepers", tests, NULL, NULL);
}
