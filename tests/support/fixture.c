/*
 * Fixture: starts and stops the daemon that was built with the test, and looks at it from outside.
 *
 * Nothing is shared between tests: each has its own directory, socket and daemon, so they run in parallel.
 */
#include "proto/layout.h"
#include "tests/support/fixture.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "proto/channel.h"
#include "shm/layout.h"
#include "tests/support/guard.h"

#define TIMEOUT_MS 10000
#define DESCRIPTORS_MOST 8192 /* that a daemon which may take few has in all */

__attribute__((noreturn)) static void give_up(const char *what)
{
    (void)fprintf(stderr, "fixture: %s: %s\n", what, strerror(errno));
    exit(EXIT_FAILURE);
}

static void show_log(const fixture *f)
{
    FILE *log = fopen(f->log, "re");
    char line[512];

    while (log != NULL && fgets(line, sizeof(line), log) != NULL)
        (void)fputs(line, stderr);
    if (log != NULL)
        (void)fclose(log);
}

static void sleep_ms(long ms)
{
    struct timespec ts = { ms / 1000, ms % 1000 * 1000000 };

    (void)nanosleep(&ts, NULL);
}

/* True if it is of a region of profiles. */
static bool is_profile(int dir_fd, const char *name)
{
    static const char wanted[] = "/memfd:goalloc-profile";
    char link[sizeof(wanted)];

    return readlinkat(dir_fd, name, link, sizeof(link)) >= (ssize_t)sizeof(wanted) - 1 &&
           memcmp(link, wanted, sizeof(wanted) - 1) == 0;
}

/* But for the two descriptors of the one region of profiles that there may be. */
static int count_fds(pid_t pid)
{
    const struct dirent *entry;
    char path[64];
    int nprofile = 0;
    int n = 0;
    DIR *dir;

    (void)snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
    dir = opendir(path);
    if (dir == NULL)
        return -1;
    while ((entry = readdir(dir)) != NULL) {
        nprofile += is_profile(dirfd(dir), entry->d_name);
        n++;
    }
    (void)closedir(dir);
    return n - (nprofile < 2 ? nprofile : 2);
}

/* This process and what it executes may have n descriptors; fewer where the limit is lower. Returns how many. */
static rlim_t limit_descriptors(rlim_t n)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        _exit(126);
    limit.rlim_max = limit.rlim_max < n ? limit.rlim_max : n;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
        _exit(126);
    return limit.rlim_cur;
}

/*
 * This process and what it executes have no more than n descriptors to take. Not by a low limit: the kernel lets nobody
 * send descriptors whose user has more on their way than the limit, and other tests of the user send some.
 */
static void leave_descriptors(unsigned n)
{
    rlim_t most = limit_descriptors(DESCRIPTORS_MOST);
    int null = open("/dev/null", O_RDONLY);

    if (null < 0)
        _exit(126);
    for (int fd = STDERR_FILENO + 1; (rlim_t)fd + n < most; fd++) {
        int flags = fcntl(fd, F_GETFD);

        if ((flags < 0 || (flags & FD_CLOEXEC) != 0) && dup2(null, fd) < 0) /* else exec leaves a gap */
            _exit(126);
    }
}

static void exec_daemon(const fixture *f, const char *more)
{
    const char *argv[36] = { GOALLOCD_PATH, "--socket", f->socket, "--base", FIXTURE_BASE, "--log-level", "debug",
                             "--config", "" };
    int argc = 9;
    int fd = f->log_fd != 0 ? f->log_fd : open(f->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

#ifdef GOALLOC_TESTS_EMULATED
    argv[argc++] = "--reserve"; /* qemu describes each page of an address space: seconds, and 400 MiB a process */
    argv[argc++] = FIXTURE_EMULATED_RESERVE;
#endif
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    argv[argc++] = "--seccomp-kill"; /* a system call that the daemon's filter lacks fails a test */
#endif
    for (const char *const *option = f->options; option != NULL && *option != NULL && argc < 30; option++)
        argv[argc++] = *option;
    if (f->state_dir[0] != '\0') {
        argv[argc++] = "--state-dir";
        argv[argc++] = f->state_dir;
        argv[argc++] = "--on-stop";
        argv[argc++] = f->on_stop != NULL ? f->on_stop : "drop";
    }
    argv[argc] = more;
    argv[0] = f->program != NULL ? f->program : GOALLOCD_PATH;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* also if a child of the test has started it */
    if (f->crash != NULL && setenv("GOALLOC_CRASH", f->crash, 1) < 0)
        _exit(126);
    if (fd < 0 || dup2(fd, STDERR_FILENO) < 0)
        _exit(126);
    if (f->nofile_limit != 0)
        limit_descriptors(f->nofile_limit);
    if (f->nofile != 0)
        leave_descriptors(f->nofile);
    if (f->prepare != NULL)
        f->prepare(f->prepare_data);
    (void)execv(argv[0], (char *const *)(uintptr_t)argv);
    _exit(127);
}

static bool answers(const fixture *f)
{
    channel ch;
    int r = channel_connect(&ch, f->socket, deadline_in(100));

    channel_close(&ch);
    return r == 0;
}

static void launch(fixture *f, const char *more)
{
    f->daemon = fork();
    if (f->daemon < 0)
        give_up("fork");
    if (f->daemon == 0)
        exec_daemon(f, more);
}

static Goallocd__Reply *ask_stats(const fixture *f);

/* True if a daemon serves. A child of one that was killed may still have its socket, and nobody answers there. */
static bool serves(const fixture *f)
{
    Goallocd__Reply *reply = ask_stats(f);
    bool good = reply != NULL && reply->result_case == GOALLOCD__REPLY__RESULT_STATS;

    if (reply != NULL)
        goallocd__reply__free_unpacked(reply, NULL);
    return good;
}

/* Until it serves. */
static void await_daemon(fixture *f)
{
    deadline until;

    for (int i = 0; i < TIMEOUT_MS / 5 && !answers(f); i++) {
        int status;

        if (waitpid(f->daemon, &status, WNOHANG) != 0) {
            (void)fprintf(stderr, "the daemon has ended at once, with status 0x%x; its log:\n", (unsigned)status);
            show_log(f);
            exit(EXIT_FAILURE);
        }
        sleep_ms(i < 20 ? 1 : 5);
    }
    if (!answers(f)) {
        show_log(f);
        give_up("the daemon does not come up");
    }
    until = deadline_in(TIMEOUT_MS);
    while (!serves(f)) { /* it listens early */
        if (deadline_left_ms(until) <= 0) {
            show_log(f);
            give_up("the daemon does not serve");
        }
        sleep_ms(20);
    }
}

void fixture_make_place(fixture *f)
{
    memset(f, 0, sizeof(*f));
    (void)snprintf(f->dir, sizeof(f->dir), "%s/XXXXXX", guard_dir());
    if (mkdtemp(f->dir) == NULL)
        give_up("mkdtemp");
    (void)snprintf(f->socket, sizeof(f->socket), "%s/socket", f->dir);
    (void)snprintf(f->log, sizeof(f->log), "%s/log", f->dir);
}

static void start(fixture *f)
{
    launch(f, NULL);
    await_daemon(f);
    /* Its own descriptors: those of the connections that looked whether it answers must be gone. */
    for (int i = 0, same = 0; i < 400 && same < 5; i++) {
        int n = count_fds(f->daemon);

        same = n == f->nfds ? same + 1 : 0;
        f->nfds = n;
        sleep_ms(5);
    }
}

void fixture_start(fixture *f, const char *const *options)
{
    fixture_start_with_descriptors(f, options, 0);
}

void fixture_start_with_descriptors(fixture *f, const char *const *options, unsigned nofile)
{
    fixture_make_place(f);
    f->options = options;
    f->nofile = nofile;
    start(f);
}

void fixture_start_with_limit(fixture *f, const char *const *options, unsigned nofile_limit)
{
    fixture_make_place(f);
    f->options = options;
    f->nofile_limit = nofile_limit;
    start(f);
}

void fixture_start_kept(fixture *f, const char *const *options)
{
    fixture_make_place(f);
    f->options = options;
    (void)snprintf(f->state_dir, sizeof(f->state_dir), "%s/state", f->dir);
    start(f);
}

int fixture_setup(void **state)
{
    fixture *f = malloc(sizeof(*f));

    fixture_start(f, *state);
    *state = f;
    return 0;
}

int fixture_setup_kept(void **state)
{
    fixture *f = malloc(sizeof(*f));

    fixture_start_kept(f, *state);
    *state = f;
    return 0;
}

int fixture_teardown(void **state)
{
    fixture *f = *state;
    bool good = true;

    if (f->daemon != 0) {
        (void)kill(f->daemon, SIGCONT); /* a test that has failed may have stopped it */
        good = fixture_is_whole(f);
    }
    good = fixture_stop(f) && good;
    free(f);
    return good ? 0 : -1;
}

void fixture_kill(fixture *f)
{
    (void)kill(f->daemon, SIGKILL);
    if (waitpid(f->daemon, NULL, 0) < 0) /* another process started it, and waits for it */
        fixture_await_gone(f);
}

void fixture_await_gone(const fixture *f)
{
    for (int i = 0; i < TIMEOUT_MS && answers(f); i++)
        sleep_ms(1);
}

void fixture_preload(const char *module)
{
#if defined(__SANITIZE_ADDRESS__)
    /* A module comes before the sanitizer's runtime, which minds; nothing that it watches is in one. */
    const char *options = getenv("ASAN_OPTIONS");
    char more[256];

    if (module != NULL && (options == NULL || strstr(options, "verify_asan_link_order") == NULL)) {
        (void)snprintf(more, sizeof(more), "%s:verify_asan_link_order=0", options == NULL ? "" : options);
        (void)setenv("ASAN_OPTIONS", more, 1);
    }
#endif
    if (module != NULL)
        (void)setenv("LD_PRELOAD", module, 1);
    else
        (void)unsetenv("LD_PRELOAD");
}

void fixture_launch(fixture *f)
{
    launch(f, NULL);
}

void fixture_restart(fixture *f, const char *more)
{
    launch(f, more);
    await_daemon(f);
    if (!fixture_is_whole(f))
        give_up("the heap that was taken over is not whole");
}

int fixture_restart_refused(fixture *f, const char *more)
{
    launch(f, more);
    return child_wait(f->daemon);
}

int fixture_try_restart(fixture *f)
{
    launch(f, NULL);
    for (int i = 0; i < TIMEOUT_MS; i++) {
        int status;

        if (waitpid(f->daemon, &status, WNOHANG) == f->daemon)
            return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
        if (i > 20 && answers(f)) { /* it listens before it looks at the heap */
            Goallocd__Request request = GOALLOCD__REQUEST__INIT;
            Goallocd__Ping body = GOALLOCD__PING__INIT;
            Goallocd__Reply *reply;
            static channel ch; /* only its descriptor is used */

            request.id = 1;
            request.op_case = GOALLOCD__REQUEST__OP_PING;
            request.ping = &body;
            if (channel_connect(&ch, f->socket, deadline_in(TIMEOUT_MS)) < 0)
                continue; /* it has just ended */
            reply = raw_call(ch.fd, &request);
            (void)close(ch.fd);
            if (reply != NULL) {
                goallocd__reply__free_unpacked(reply, NULL);
                return -1;
            }
        }
        sleep_ms(1);
    }
    give_up("the daemon neither serves nor ends");
}

bool fixture_stop(fixture *f)
{
    char keeper[128];
    int status = -1;
    bool clean;

    if (f->daemon == 0)
        return true;
    (void)kill(f->daemon, SIGTERM);
    for (int i = 0; i < TIMEOUT_MS / 5 && waitpid(f->daemon, &status, WNOHANG) == 0; i++)
        sleep_ms(5);
    clean = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (status == -1)
        fixture_kill(f);
    if (!clean) {
        (void)fprintf(stderr, "the daemon ended with status 0x%x; its last words:\n", (unsigned)status);
        show_log(f);
    }
    if (access(f->socket, F_OK) == 0) {
        (void)fprintf(stderr, "the daemon left its socket behind\n");
        clean = false;
    }
    (void)snprintf(keeper, sizeof(keeper), "%s/keeper.sock", f->state_dir);
    if (f->state_dir[0] != '\0' && access(keeper, F_OK) == 0) {
        (void)fprintf(stderr, "the keeper is still there\n");
        clean = false;
    }
    (void)unlink(f->log); /* long, if a storm has many rounds; the rest goes with the test program */
    return clean;
}

int raw_connect(const fixture *f)
{
    static channel ch; /* only its descriptor is used */

    if (channel_connect(&ch, f->socket, deadline_in(TIMEOUT_MS)) < 0)
        give_up("connect");
    return ch.fd;
}

Goallocd__Reply *raw_call(int fd, Goallocd__Request *request)
{
    static uint8_t out[FRAME_BYTES_MAX];
    static channel ch;
    const uint8_t *payload;
    size_t len = frame_pack(&request->base, out, sizeof(out));
    Goallocd__Reply *reply = NULL;

    ch.fd = fd;
    ch.have_bytes = 0;
    ch.nfds = 0;
    if (channel_send(&ch, out, len, deadline_in(TIMEOUT_MS)) < 0)
        return NULL;
    while (channel_recv(&ch, &payload, &len, deadline_in(TIMEOUT_MS)) == 0) {
        reply = goallocd__reply__unpack(NULL, len, payload);
        if (reply != NULL && reply->id == 0) { /* a notice */
            goallocd__reply__free_unpacked(reply, NULL);
            reply = NULL;
            channel_drop_frame(&ch);
            continue;
        }
        break;
    }
    for (int i = 0; i < ch.nfds; i++)
        (void)close(ch.fds[i]);
    return reply;
}

int raw_attach(const fixture *f)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Attach ask = GOALLOCD__ATTACH__INIT;
    Goallocd__Reply *reply;
    int fd = raw_connect(f);

    ask.protocol = GOALLOC_PROTOCOL;
    ask.layout = layout_tell(&(Goallocd__Layout){ 0 }, version_own());
    ask.label = (char *)(uintptr_t)"raw";
    request.id = 1;
    request.op_case = GOALLOCD__REQUEST__OP_ATTACH;
    request.attach = &ask;
    reply = raw_call(fd, &request);
    if (reply == NULL || reply->error != 0)
        give_up("attach");
    goallocd__reply__free_unpacked(reply, NULL);
    return fd;
}

bool raw_is_closed(int fd)
{
    char buf[4096];

    for (int i = 0; i < 500; i++) {
        struct pollfd pfd = { .fd = fd, .events = POLLIN };

        if (poll(&pfd, 1, 10) > 0) {
            ssize_t n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);

            if (n == 0 || (n < 0 && errno != EAGAIN))
                return true;
        }
    }
    return false;
}

/* The reply, whatever it is; NULL: none. */
static Goallocd__Reply *ask_stats(const fixture *f)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Stats body = GOALLOCD__STATS__INIT;
    Goallocd__Reply *reply;
    channel ch;

    if (channel_connect(&ch, f->socket, deadline_in(TIMEOUT_MS)) < 0)
        return NULL;
    request.id = 1;
    request.op_case = GOALLOCD__REQUEST__OP_STATS;
    request.stats = &body;
    reply = raw_call(ch.fd, &request);
    channel_close(&ch);
    return reply;
}

Goallocd__Reply *fixture_stats_reply(const fixture *f)
{
    Goallocd__Reply *reply = ask_stats(f);

    if (reply == NULL || reply->result_case != GOALLOCD__REPLY__RESULT_STATS) {
        int saved_errno = errno;
        siginfo_t info = { .si_pid = 0 };

        sleep_ms(100); /* for a daemon that is dying */
        if (waitid(P_PID, (id_t)f->daemon, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid != 0)
            (void)fprintf(stderr, "the daemon (pid %d) has ended: code %d, status %d\n", (int)f->daemon, info.si_code,
                          info.si_status);
        show_log(f);
        errno = saved_errno;
        give_up("stats");
    }
    return reply;
}

/* The daemon's memfd of that name. */
static struct stat memfd_stat(const fixture *f, const char *name)
{
    char dir_path[64];
    char want[64];
    DIR *dir;
    struct stat ret = { 0 };
    bool found = false;

    (void)snprintf(dir_path, sizeof(dir_path), "/proc/%d/fd", (int)f->daemon);
    (void)snprintf(want, sizeof(want), "/memfd:goalloc-%s", name);
    dir = opendir(dir_path);
    if (dir == NULL)
        give_up(dir_path);
    for (struct dirent *entry; !found && (entry = readdir(dir)) != NULL;) {
        char link[128];
        ssize_t n = readlinkat(dirfd(dir), entry->d_name, link, sizeof(link) - 1);

        link[n > 0 ? n : 0] = '\0';
        found = strncmp(link, want, strlen(want)) == 0 && fstatat(dirfd(dir), entry->d_name, &ret, 0) == 0;
    }
    (void)closedir(dir);
    if (!found)
        give_up(want);
    return ret;
}

uint64_t fixture_memfd_bytes(const fixture *f, const char *name)
{
    return (uint64_t)memfd_stat(f, name).st_blocks * 512;
}

pid_t fixture_helper(const fixture *f)
{
    char path[64];
    char name[64];
    int pid = 0;
    int found = 0;
    FILE *children;

    (void)snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)f->daemon, (int)f->daemon);
    children = fopen(path, "re");
    while (children != NULL && found == 0 && fscanf(children, "%d", &pid) == 1) {
        FILE *comm;

        (void)snprintf(path, sizeof(path), "/proc/%d/comm", pid);
        comm = fopen(path, "re");
        if (comm != NULL && fgets(name, sizeof(name), comm) != NULL && strcmp(name, "goallocd-helper\n") == 0)
            found = pid;
        if (comm != NULL)
            (void)fclose(comm);
    }
    if (children != NULL)
        (void)fclose(children);
    return found;
}

/* 0: there is no such process. */
static pid_t parent_of(pid_t pid)
{
    char path[64];
    char line[256];
    const char *end = NULL;
    FILE *stat_file;
    int parent = 0;

    (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    stat_file = fopen(path, "re");
    if (stat_file != NULL && fgets(line, sizeof(line), stat_file) != NULL)
        end = strrchr(line, ')');
    if (end != NULL)
        (void)sscanf(end, ") %*c %d", &parent);
    if (stat_file != NULL)
        (void)fclose(stat_file);
    return parent;
}

pid_t fixture_keeper(const fixture *f)
{
    struct stat arena = memfd_stat(f, "arena");
    DIR *dir = opendir("/proc");
    pid_t keeper = 0;

    for (struct dirent *entry; dir != NULL && keeper == 0 && (entry = readdir(dir)) != NULL;) {
        pid_t pid = (pid_t)atoi(entry->d_name);
        char path[64];
        struct stat st;
        pid_t parent;

        (void)snprintf(path, sizeof(path), "/proc/%d/fd/0", (int)pid); /* where a keeper has the arena */
        if (pid > 0 && pid != f->daemon && stat(path, &st) == 0 && st.st_ino == arena.st_ino &&
            st.st_dev == arena.st_dev && (parent = parent_of(pid)) != 0 && parent != f->daemon)
            keeper = pid; /* and no child of the daemon, which makes the keeper, and ends */
    }
    if (dir != NULL)
        (void)closedir(dir);
    return keeper;
}

bool fixture_kill_keeper(const fixture *f)
{
    pid_t keeper = fixture_keeper(f);

    return keeper != 0 && kill(keeper, SIGKILL) == 0;
}

int fixture_ctl(const fixture *f, const char *const *arguments, char *ret, size_t size)
{
    char command[512];
    size_t used = 0;
    int n = snprintf(command, sizeof(command), "%s --socket %s", GOALLOCCTL_PATH, f->socket);
    FILE *out;
    int status;

    for (; *arguments != NULL; arguments++)
        n += snprintf(command + n, sizeof(command) - (size_t)n, " %s", *arguments);
    out = popen(command, "re");
    if (out == NULL)
        give_up("popen");
    while (used + 1 < size) {
        size_t got = fread(ret + used, 1, size - 1 - used, out);

        if (got == 0)
            break;
        used += got;
    }
    ret[used] = '\0';
    status = pclose(out);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

bool fixture_is_whole(const fixture *f)
{
    static const char *const check[] = { "check", NULL };
    char text[1200];
    bool whole = fixture_ctl(f, check, text, sizeof(text)) == 0;

    if (!whole)
        (void)fprintf(stderr, "%s", text);
    return whole;
}

bool fixture_is_settled(const fixture *f)
{
    goalloc_stats_t stats = { .committed_bytes = 0 };
    uint64_t bytes = 0;

    for (int i = 0; i < 500; i++, (void)usleep(10000)) {
        fixture_stats(f, &stats);
        bytes = fixture_memfd_bytes(f, "arena");
        if (stats.committed_bytes == bytes)
            return true;
    }
    (void)printf("%llu bytes are committed, and the kernel counts %llu\n", (unsigned long long)stats.committed_bytes,
                 (unsigned long long)bytes);
    return false;
}

bool fixture_log_has(const fixture *f, const char *text)
{
    FILE *log = fopen(f->log, "re");
    char line[1024];
    bool found = false;

    while (log != NULL && !found && fgets(line, sizeof(line), log) != NULL)
        found = strstr(line, text) != NULL;
    if (log != NULL)
        (void)fclose(log);
    return found;
}

void fixture_stats(const fixture *f, goalloc_stats_t *ret)
{
    Goallocd__Reply *reply = fixture_stats_reply(f);

    *ret = (goalloc_stats_t){
        .struct_size = sizeof(*ret),
        .live_objects = reply->stats->live_objects,
        .live_bytes = reply->stats->live_bytes,
        .committed_bytes = reply->stats->committed_bytes,
        .released_bytes = reply->stats->released_bytes,
        .metadata_bytes = reply->stats->metadata_bytes,
        .sessions = reply->stats->sessions,
        .leased_spans = reply->stats->leased_spans,
        .roots = reply->stats->roots,
        .free_bytes = reply->stats->free_bytes,
    };
    goallocd__reply__free_unpacked(reply, NULL);
}

uint64_t fixture_live_with(const fixture *f, uint64_t nsessions)
{
    goalloc_stats_t stats = { .sessions = nsessions + 1 };
    unsigned pause_us = 200;

    for (int i = 0; i < 2000 && stats.sessions != nsessions; i++) {
        fixture_stats(f, &stats);
        (void)usleep(pause_us);
        pause_us = pause_us < 5000 ? pause_us * 2 : pause_us;
    }
    if (stats.sessions != nsessions)
        give_up("the sessions that should end stay");
    fixture_stats(f, &stats); /* what the last one to go has left is counted by now */
    return stats.live_objects;
}

bool fixture_is_clean(const fixture *f, uint64_t nobjects)
{
    goalloc_stats_t stats;
    int nfds = -1;

    for (int i = 0; i < 500; i++) {
        fixture_stats(f, &stats);
        sleep_ms(i == 0 ? 2 : 10); /* the daemon has to see that this connection has ended */
        nfds = count_fds(f->daemon);
        if (stats.sessions == 0 && stats.leased_spans == 0 && stats.live_objects == nobjects && nfds <= f->nfds)
            return true;
    }
    (void)fprintf(stderr,
                  "left behind: %llu sessions, %llu leases, %llu objects (%llu expected), %d descriptors (%d)\n",
                  (unsigned long long)stats.sessions, (unsigned long long)stats.leased_spans,
                  (unsigned long long)stats.live_objects, (unsigned long long)nobjects, nfds, f->nfds);
    return false;
}

pid_t child_start(const fixture *f, child_fn fn, void *arg)
{
    pid_t pid;

    (void)fflush(NULL);
    pid = fork();
    if (pid < 0)
        give_up("fork");
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        _exit(fn(f, arg));
    }
    return pid;
}

int child_wait(pid_t pid)
{
    int status;

    if (waitpid(pid, &status, 0) != pid)
        give_up("waitpid");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

int child_run(const fixture *f, child_fn fn, void *arg)
{
    return child_wait(child_start(f, fn, arg));
}

uint64_t test_random(uint64_t *state)
{
    /* splitmix64 */
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

uint64_t test_seed(void)
{
    const char *given = getenv("GOALLOC_TEST_SEED");
    uint64_t seed = 0;

    if (given != NULL)
        seed = strtoull(given, NULL, 0);
    else if (getrandom(&seed, sizeof(seed), 0) != (ssize_t)sizeof(seed))
        give_up("getrandom");
    (void)printf("seed: GOALLOC_TEST_SEED=%llu\n", (unsigned long long)seed);
    return seed;
}
