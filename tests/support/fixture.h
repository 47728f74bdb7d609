/*
 * Fixture: a goallocd of a test's own, on a socket in a directory of its own, and child processes that use it.
 */
#ifndef GOALLOC_TESTS_FIXTURE_H
#define GOALLOC_TESTS_FIXTURE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>
#include <unistd.h>

#include "goalloc.h"
#include "proto/goallocd.pb-c.h"

/* Where the arena goes: sanitizers occupy the default address. */
#if defined(__SANITIZE_ADDRESS__)
#define FIXTURE_BASE "0x200000000000"
#elif defined(__SANITIZE_THREAD__)
#define FIXTURE_BASE "0x4000000000"
#else
#define FIXTURE_BASE "0xc000000000"
#endif

#define FIXTURE_EMULATED_RESERVE "8G" /* of daemons under qemu, unless a test says otherwise */

typedef struct fixture {
    pid_t daemon; /* 0: there is none (any more) */
    char dir[64];
    char socket[96];
    char log[96]; /* what the daemon has said */
    int log_fd;   /* where daemons say it instead; 0: nowhere else */
    int nfds;     /* the daemon's open descriptors when it had no client yet */
    char state_dir[96];        /* "": the daemon has none */
    const char *const *options; /* the caller's, for restarts */
    const char *on_stop;        /* with a state_dir; NULL: drop, so that nothing is left when a test has ended */
    unsigned nofile;            /* descriptors that a daemon may take; 0: as many as the test */
    unsigned nofile_limit;      /* its RLIMIT_NOFILE; 0: that of the test */
    const char *program;        /* what is started as the daemon; NULL: the one that ships */
    const char *crash;          /* the point at which daemons that are started from now on are killed; NULL: none */
    void (*prepare)(void *data); /* called in the process that becomes a daemon; NULL: nothing */
    void *prepare_data;
} fixture;

/*
 * Start a daemon with options of its own ("--reserve", "256M", NULL); NULL: none. Exits the test program when it does
 * not come up.
 */
void fixture_start(fixture *f, const char *const *options);

/* The same with a daemon that may take so many descriptors. */
void fixture_start_with_descriptors(fixture *f, const char *const *options, unsigned nofile);

/* The same with a daemon of that RLIMIT_NOFILE: so many descriptors of its user may be on their way in sockets. */
void fixture_start_with_limit(fixture *f, const char *const *options, unsigned nofile_limit);

/* A directory, and the paths of what would be in it, without a daemon. It goes when the test program has ended. */
void fixture_make_place(fixture *f);

/* The daemon must still run; it is stopped by SIGTERM and must end with status 0. False: it has not. */
bool fixture_stop(fixture *f);

/* The same with a --state-dir of its own, so that a keeper holds the heap. */
void fixture_start_kept(fixture *f, const char *const *options);

/*
 * Kill the daemon and wait for it; start another one in its place, with the same options and maybe one more (NULL). The
 * heap that it has taken over must be whole: else the test program ends.
 */
void fixture_kill(fixture *f);

/* A daemon that was killed, of another process's perhaps, takes no connections any more. */
void fixture_await_gone(const fixture *f);
void fixture_restart(fixture *f, const char *more);

/* Daemons that are started from now on get that module (LD_PRELOAD); NULL: none. */
void fixture_preload(const char *module);

/* Start a daemon in place of one that has died, and don't wait for it. */
void fixture_launch(fixture *f);

/* As fixture_restart(), for a daemon that refuses to start: its exit status. */
int fixture_restart_refused(fixture *f, const char *more);

/* Either of them: -1 if it serves, its exit status (or 1000 + signal) if it has ended. */
int fixture_try_restart(fixture *f);

/*
 * Setup and teardown of a cmocka test: a daemon of its own in *state. At the end it must be whole, and end cleanly.
 * The test's first state is the daemon's options, or NULL.
 */
int fixture_setup(void **state);
int fixture_setup_kept(void **state); /* with a keeper */
int fixture_teardown(void **state);

#define FIXTURE_TEST(name)      cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
#define FIXTURE_TEST_KEPT(name) cmocka_unit_test_setup_teardown(name, fixture_setup_kept, fixture_teardown)
/* With options for the daemon: FIXTURE_TEST_WITH(name, "--reserve", "64M"), within a function. */
#define FIXTURE_TEST_WITH(name, ...)                                                                  \
    cmocka_unit_test_prestate_setup_teardown(name, fixture_setup, fixture_teardown,                   \
                                             ((void *)(uintptr_t)(const char *const[]){ __VA_ARGS__, NULL }))

/* Statistics, asked for without a session. Exits the test program on failure. */
void fixture_stats(const fixture *f, goalloc_stats_t *ret);

/* Wait until there are so many sessions, 10 s at least: what lives then. Exits the test program on failure. */
uint64_t fixture_live_with(const fixture *f, uint64_t nsessions);

/*
 * Wait up to 5 s until no session and no lease is left. Then the daemon must have as many descriptors open as at the
 * start, and the heap nobjects objects. False: a message says what is left.
 */
bool fixture_is_clean(const fixture *f, uint64_t nobjects);

/* Run fn in a child process; with waiting for it: its exit status, or 1000 + signal. */
typedef int (*child_fn)(const fixture *f, void *arg);
pid_t child_start(const fixture *f, child_fn fn, void *arg);
int child_wait(pid_t pid);
int child_run(const fixture *f, child_fn fn, void *arg);

/* A new connection, to write to it what no library would. */
int raw_connect(const fixture *f);
/*
 * Send a request and wait for its reply (the caller frees it with goallocd__reply__free_unpacked), NULL:
 * disconnected.
 */
Goallocd__Reply *raw_call(int fd, Goallocd__Request *request);
/* A new connection with a session on it. Exits the test program on failure. */
int raw_attach(const fixture *f);
/* True if the daemon closes the connection within 5 s. */
bool raw_is_closed(int fd);

/* The whole answer to a Stats request. Exits the test program on failure; the caller frees it. */
Goallocd__Reply *fixture_stats_reply(const fixture *f);

/* Bytes that the kernel says the daemon's memfd of that name ("arena", "spans", "bitmap") occupies. */
uint64_t fixture_memfd_bytes(const fixture *f, const char *name);

/* The helper of the daemon; 0: there is none, or the kernel does not say. */
pid_t fixture_helper(const fixture *f);

/* The keeper of the daemon's heap; 0: there is none. */
pid_t fixture_keeper(const fixture *f);

/* Kill it. False: there is none. */
bool fixture_kill_keeper(const fixture *f);

/* Run goallocctl with arguments, NULL-terminated; its exit status, and up to size - 1 bytes of its output in ret. */
int fixture_ctl(const fixture *f, const char *const *arguments, char *ret, size_t size);

/* True if the daemon's tables agree with each other; else what differs is printed. */
bool fixture_is_whole(const fixture *f);

/*
 * Wait, 5 s at most, until the arena has the memory that the daemon says is committed, so that none is on its way.
 * False: it never has; both are printed.
 */
bool fixture_is_settled(const fixture *f);

/* True if the daemon has said text so far. */
bool fixture_log_has(const fixture *f, const char *text);

/* A seed: $GOALLOC_TEST_SEED, or a random one. Printed. */
uint64_t test_seed(void);
uint64_t test_random(uint64_t *state);

/* In a child process: a failed check ends it with status 1. */
#define CHECK(condition)                                                                              \
    do {                                                                                              \
        if (!(condition)) {                                                                           \
            (void)fprintf(stderr, "%s:%d: check failed: %s\n", __FILE__, __LINE__, #condition);       \
            _exit(1);                                                                                 \
        }                                                                                             \
    } while (0)

#endif
