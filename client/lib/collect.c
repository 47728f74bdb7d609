/*
 * collect: goalloc_collect() and what a process declares for collectors.
 *
 * Called by users. Calls attach (a heap is wanted, and the way to its daemon), mapping and declared (private roots).
 * Data: none. There is no ptrace in this library: goallocd-collector does all of it, as a process that others have no
 * part in. One collection here goes so:
 *
 *   1. find the program: $GOALLOC_COLLECTOR, beside this library as it was installed or built, or the compiled-in path;
 *   2. start it, with one end of a socket pair, and nothing else of this process's descriptors;
 *   3. let it trace this process (PR_SET_PTRACER, for Yama), then tell it to begin by a byte;
 *   4. wait for its answer, a record of fixed length (collectanswer.h), and then for its end, for a minute at most.
 *
 * If this process dies at any point, the socket's end tells the collector, which goes on to its own end: what it frees
 * nobody could reach, whoever has asked. If the collector dies, the socket's end tells this process: -EIO. It is known
 * by a pidfd, so a program that waits for all its children, and has waited for this one, harms nothing.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client/include/goalloc.h"
#include "client/lib/attach.h"
#include "client/lib/collectanswer.h"
#include "client/lib/declared.h"
#include "client/lib/mapping.h"
#include "client/lib/process.h"
#include "proto/channel.h"

#define PROGRAM "goallocd-collector"
#define END_MS 60000 /* for its end after that */
#define WAIT_MS 600000 /* for the answer: goalloc.h says so */
#define ARGS_MAX 20
#define ENV_MAX 32
#define PAUSE_US 100000u

static const struct {
    uint32_t flag;
    const char *arg;
} flags[] = {
    { GOALLOC_COLLECT_REPORT, "--report" },
    { GOALLOC_COLLECT_ALL, "--all" },
    { GOALLOC_COLLECT_OFFSETS, "--offsets" },
    { GOALLOC_COLLECT_PAST_END, "--past-end" },
    { GOALLOC_COLLECT_TRUST_KERNEL, "--trust-kernel" },
};

#define NFLAGS (sizeof(flags) / sizeof(flags[0]))

/* --- what is declared --- */

int goalloc_private_roots(const void *p, size_t bytes)
{
    int r;

    if (p == NULL || bytes == 0 || bytes > UINTPTR_MAX - (uintptr_t)p)
        return -EINVAL;
    (void)process_state_now(); /* in a forked child that does not know it yet: whole again is the list then */
    r = mapping_declare();
    return r < 0 ? r : declared_add_roots(p, bytes);
}

int goalloc_private_roots_remove(const void *p)
{
    (void)process_state_now();
    return declared_remove_roots(p);
}

/* --- where the program is --- */

static bool is_program(const char *path)
{
    return access(path, X_OK) == 0;
}

#ifdef GOALLOC_SHARED
/*
 * The file name that is at this place, seen from the directory that this library is in. Not of a program that is linked
 * with the static library: what the loader calls that is what its caller has said.
 */
static bool find_beside(const char *place, char ret[PATH_MAX])
{
    Dl_info info;
    const char *slash;
    int n;

    if (dladdr((const void *)&process, &info) == 0 || info.dli_fname == NULL)
        return false;
    slash = strrchr(info.dli_fname, '/');
    if (slash == NULL || info.dli_fname[0] != '/')
        return false;
    n = snprintf(ret, PATH_MAX, "%.*s/%s", (int)(slash - info.dli_fname), info.dli_fname, place);
    return n > 0 && n < PATH_MAX && is_program(ret);
}

static bool is_beside(char ret[PATH_MAX])
{
    static const char *const places[] = {
        GOALLOC_COLLECTOR_FROM_LIB "/" PROGRAM,          /* as installed */
        "../../" GOALLOC_COLLECTOR_FROM_LIB "/" PROGRAM, /* the debug variant */
        "../collector/" PROGRAM,                         /* as built */
        "../../collector/" PROGRAM,
    };

    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        if (find_beside(places[i], ret))
            return true;
    }
    return false;
}
#else
static bool is_beside(char ret[PATH_MAX])
{
    (void)ret;
    return false;
}
#endif

static bool find_program(char ret[PATH_MAX])
{
    const char *asked = secure_getenv("GOALLOC_COLLECTOR");

    if (asked != NULL && asked[0] != '\0') {
        int n = snprintf(ret, PATH_MAX, "%s", asked);

        return n > 0 && n < PATH_MAX && is_program(ret);
    }
    if (is_beside(ret))
        return true;
    (void)snprintf(ret, PATH_MAX, "%s", GOALLOC_COLLECTOR_INSTALLED "/" PROGRAM);
    return is_program(ret);
}

/* --- the collector as a child --- */

/*
 * Of the environment what a program needs to start and to find this daemon. What would make it allocate in the heap by
 * itself, or sample, is left out.
 */
static void pick_environment(char *ret[ENV_MAX])
{
    static const char *const wanted[] = { "LD_LIBRARY_PATH=", "GOALLOC_SERVER_UID=", "GOALLOC_CRASH", "ASAN_OPTIONS=",
                                          "UBSAN_OPTIONS=",   "TSAN_OPTIONS=",       "LANG=",         "LC_ALL=" };
    size_t n = 0;

    for (char **e = environ; e != NULL && *e != NULL && n < ENV_MAX - 1; e++) {
        for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
            if (strncmp(*e, wanted[i], strlen(wanted[i])) == 0) {
                ret[n++] = *e;
                break;
            }
        }
    }
    ret[n] = NULL;
}

typedef struct collector {
    pid_t pid;
    int pidfd;  /* -1: the kernel has none to give */
    int socket; /* this process's end */
} collector;

static int spawn(const char *program, const char *const *args, int socket, pid_t *ret_pid)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    char *env[ENV_MAX];
    sigset_t none;
    sigset_t all;
    int r = posix_spawn_file_actions_init(&actions);

    if (r != 0)
        return -r;
    r = posix_spawnattr_init(&attributes);
    if (r != 0) {
        (void)posix_spawn_file_actions_destroy(&actions);
        return -r;
    }
    pick_environment(env);
    (void)sigemptyset(&none);
    (void)sigfillset(&all);
    (void)posix_spawnattr_setsigmask(&attributes, &none);
    (void)posix_spawnattr_setsigdefault(&attributes, &all);
    (void)posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    r = posix_spawn_file_actions_adddup2(&actions, socket, COLLECT_ANSWER_FD);
    if (r == 0)
        r = posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    if (r == 0)
        r = posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    if (r == 0)
        r = posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    if (r == 0)
        r = posix_spawn_file_actions_addclosefrom_np(&actions, COLLECT_ANSWER_FD + 1);
    if (r == 0)
        r = posix_spawn(ret_pid, program, &actions, &attributes, (char *const *)(uintptr_t)args, env);
    (void)posix_spawnattr_destroy(&attributes);
    (void)posix_spawn_file_actions_destroy(&actions);
    return -r;
}

/* Both ends at 4 or above, so that the file actions do not write over them. */
static int make_sockets(int ret[2])
{
    int low[2];
    int r = 0;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, low) < 0)
        return -errno;
    for (int i = 0; i < 2; i++) {
        ret[i] = fcntl(low[i], F_DUPFD_CLOEXEC, COLLECT_ANSWER_FD + 1);
        if (ret[i] < 0)
            r = -errno;
    }
    (void)close(low[0]);
    (void)close(low[1]);
    for (int i = 0; i < 2 && r < 0; i++) {
        if (ret[i] >= 0)
            (void)close(ret[i]);
    }
    return r;
}

static int start(collector *c, const char *program, const char *const *args)
{
    int ends[2] = { -1, -1 };
    int r = make_sockets(ends);

    if (r < 0)
        return r;
    r = spawn(program, args, ends[1], &c->pid);
    if (r == -ENOEXEC || r == -EACCES || r == -ENOENT)
        r = -ENOSYS; /* it is no program, or not for this user */
    (void)close(ends[1]);
    if (r < 0) {
        (void)close(ends[0]);
        return r;
    }
    /* It waits for the byte, so the number is still its own. */
    c->pidfd = (int)syscall(SYS_pidfd_open, c->pid, 0);
    c->socket = ends[0];
    /* Until it ends. Without Yama this is an error, and nobody asks for it. */
    (void)prctl(PR_SET_PTRACER, (unsigned long)c->pid, 0, 0, 0);
    return send(c->socket, "", 1, MSG_NOSIGNAL) == 1 ? 0 : -EIO;
}

/* 0; -ETIMEDOUT; -EIO: it has ended without an answer. */
static int wait_answer(const collector *c, collect_answer *ret)
{
    deadline until = deadline_in(WAIT_MS);

    for (;;) {
        struct pollfd p = { .fd = c->socket, .events = POLLIN };
        int left_ms = deadline_left_ms(until);
        ssize_t n;

        if (left_ms == 0)
            return -ETIMEDOUT;
        if (poll(&p, 1, left_ms) < 1)
            continue;
        n = recv(c->socket, ret, sizeof(*ret), MSG_DONTWAIT);
        if (n < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        return n == (ssize_t)sizeof(*ret) && ret->magic == COLLECT_ANSWER_MAGIC && ret->error <= 0 ? 0 : -EIO;
    }
}

/*
 * It has answered, or is killed, so it ends; unless a thread of it waits in the kernel for a file system that does not
 * answer (client/collector/world.c): then it is left, and ends when that does.
 */
static void await_end(const collector *c)
{
    deadline until = deadline_in(END_MS);
    struct pollfd p = { .fd = c->pidfd, .events = POLLIN };

    while (poll(&p, 1, deadline_left_ms(until)) < 0 && errno == EINTR)
        ;
    (void)waitpid(c->pid, NULL, WNOHANG);
    (void)close(c->pidfd);
}

static void finish(const collector *c, bool kill_it)
{
    if (kill_it && c->pidfd >= 0)
        (void)syscall(SYS_pidfd_send_signal, c->pidfd, SIGKILL, NULL, 0);
    (void)close(c->socket);
    if (c->pidfd >= 0) {
        await_end(c);
    } else if (!kill_it) { /* no descriptor was to be had */
        while (waitpid(c->pid, NULL, 0) < 0 && errno == EINTR)
            ;
    }
}

static int run(const goalloc_collect_options *o, collect_answer *ret)
{
    char program[PATH_MAX];
    char pause[24];
    char heap[24];
    char thread[24];
    const char *args[ARGS_MAX] = { PROGRAM, "--once",      "--answer", thread,  "--socket", attach_socket_path(),
                                   "--heap", heap,         "--max-pause", pause };
    collector c = { .pidfd = -1, .socket = -1 };
    size_t n = 10;
    int r;

    if (!find_program(program))
        return -ENOSYS;
    (void)snprintf(pause, sizeof(pause), "%uus", o->max_pause_us);
    (void)snprintf(heap, sizeof(heap), "%llu", (unsigned long long)process.generation);
    (void)snprintf(thread, sizeof(thread), "%ld", syscall(SYS_gettid));
    for (size_t i = 0; i < NFLAGS; i++) {
        if (o->flags & flags[i].flag)
            args[n++] = flags[i].arg;
    }
    r = start(&c, program, args);
    if (c.socket < 0)
        return r;
    if (r == 0)
        r = wait_answer(&c, ret);
    finish(&c, r < 0);
    return r < 0 ? r : ret->error;
}

static bool flags_are_known(uint32_t asked)
{
    for (size_t i = 0; i < NFLAGS; i++)
        asked &= ~flags[i].flag;
    return asked == 0;
}

static void tell(int error, const collect_answer *answer, goalloc_collect_result *ret)
{
    goalloc_collect_result result = { .struct_size = ret->struct_size, .blocking_pid = error < 0 ? answer->pid : 0 };

    if (error == 0) {
        result.garbage_objects = answer->garbage_objects;
        result.garbage_bytes = answer->garbage_bytes;
        result.freed_objects = answer->freed_objects;
        result.freed_bytes = answer->freed_bytes;
        result.pause_us = answer->pause_us;
    }
    memcpy(ret, &result, result.struct_size < sizeof(result) ? result.struct_size : sizeof(result));
}

int goalloc_collect(const goalloc_collect_options *options, goalloc_collect_result *ret)
{
    goalloc_collect_options o = GOALLOC_COLLECT_OPTIONS_INIT;
    collect_answer answer = { .magic = 0 };
    int cancel_state;
    int r;

    if (options != NULL) {
        if (options->struct_size < sizeof(options->struct_size))
            return -EINVAL;
        memcpy(&o, options, options->struct_size < sizeof(o) ? options->struct_size : sizeof(o));
    }
    if (!flags_are_known(o.flags) || (ret != NULL && ret->struct_size < sizeof(ret->struct_size)))
        return -EINVAL;
    if (o.max_pause_us == 0)
        o.max_pause_us = PAUSE_US;
    (void)pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel_state);
    r = attach_ensure();
    if (r == 0)
        r = run(&o, &answer);
    (void)pthread_setcancelstate(cancel_state, NULL);
    if (ret != NULL)
        tell(r, &answer, ret);
    return r;
}
