/*
 * Bad input through the public API and the command line: a clear error each, and nothing lost.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "proto/channel.h"
#include "proto/layout.h"
#include "shm/layout.h"
#include "tests/support/attach.h"

static int attach_to(const char *path, int timeout_ms)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;

    options.socket_path = path;
    options.timeout_ms = timeout_ms;
    return goalloc_attach(&options);
}

/* --- attach --- */

/* Listen at path; the caller closes. */
static int listen_at(const char *path)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    (void)strncpy(addr.sun_path, path, sizeof(addr.sun_path) - 1);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)&addr, sizeof(addr)), 0);
    assert_int_equal(listen(fd, 4), 0);
    return fd;
}

static void attach_to_nothing_says_what_is_missing(void **state)
{
    const fixture *f = *state;
    goalloc_options options = GOALLOC_OPTIONS_INIT;
    char path[160];
    char longest[300];
    int fd;

    (void)snprintf(path, sizeof(path), "%s/none", f->dir);
    assert_int_equal(attach_to(path, 500), -ENOENT);
    assert_int_equal(attach_to("", 500), -EINVAL);
    memset(longest, 'x', sizeof(longest));
    longest[sizeof(longest) - 1] = '\0';
    assert_int_equal(attach_to(longest, 500), -ENAMETOOLONG);

    fd = listen_at(path); /* it never answers */
    assert_int_equal(attach_to(path, 200), -ETIMEDOUT);
    (void)close(fd);
    assert_int_equal(attach_to(path, 500), -ECONNREFUSED);
    (void)unlink(path);

    options.struct_size = 0;
    assert_int_equal(goalloc_attach(&options), -EINVAL);
    options.struct_size = sizeof(options);
    options.flags = 1u << 30;
    assert_int_equal(goalloc_attach(&options), -EINVAL);
    options.flags = 0;
    options.timeout_ms = -1;
    assert_int_equal(goalloc_attach(&options), -EINVAL);

    assert_int_equal(setenv("GOALLOC_SOCKET", "/nonexistent/socket", 1), 0);
    errno = 0;
    assert_null(goalloc_malloc(10)); /* attaches with the defaults */
    assert_int_equal(errno, ENOENT);
    assert_null(goalloc_malloc(100000));
    assert_int_equal(unsetenv("GOALLOC_SOCKET"), 0);
    assert_int_equal(goalloc_detach(), -ENOTCONN);
    assert_int_equal(goalloc_trim(), -ENOTCONN);
    assert_int_equal(goalloc_free_checked(path), -ENOTCONN);
    assert_int_equal(goalloc_publish(path), -ENOTCONN);
    assert_int_equal(goalloc_usable_size(path), 0);
    assert_int_equal(goalloc_contains(path), 0);
}

/* What a daemon of another version would answer to an Attach. */
typedef struct answer {
    uint32_t protocol;
    uint32_t major;
    int32_t error; /* 0: a reply that looks like success */
    int expected;
} answer;

/* Take one connection and answer its first request. */
static void answer_once(int listen_fd, const answer *a)
{
    static uint8_t in[FRAME_BYTES_MAX];
    static uint8_t out[FRAME_BYTES_MAX];
    Goallocd__Reply reply = GOALLOCD__REPLY__INIT;
    Goallocd__AttachReply body = GOALLOCD__ATTACH_REPLY__INIT;
    Goallocd__Layout layout;
    int peer = accept(listen_fd, NULL, NULL);
    ssize_t n = recv(peer, in, sizeof(in), 0);
    size_t len;

    CHECK(n > (ssize_t)FRAME_HEADER_BYTES);
    Goallocd__Request *request =
        goallocd__request__unpack(NULL, (size_t)n - FRAME_HEADER_BYTES, in + FRAME_HEADER_BYTES);

    CHECK(request != NULL && request->op_case == GOALLOCD__REQUEST__OP_ATTACH);
    reply.id = request->id;
    reply.error = a->error;
    body.protocol = a->protocol;
    body.layout = layout_tell(&layout, version_own());
    layout.major = a->major;
    body.session = 1;
    if (a->error == 0) {
        reply.result_case = GOALLOCD__REPLY__RESULT_ATTACH;
        reply.attach = &body;
    }
    len = frame_pack(&reply.base, out, sizeof(out));
    CHECK(send(peer, out, len, 0) == (ssize_t)len);
    goallocd__request__free_unpacked(request, NULL);
    (void)close(peer);
}

static void attach_to_another_protocol_or_layout_is_refused_by_both_sides(void **state)
{
    const fixture *f = *state;
    const uint32_t own = version_own()->major;
    const answer answers[] = {
        { GOALLOC_PROTOCOL, own, EPROTONOSUPPORT, -EPROTONOSUPPORT },
        { GOALLOC_PROTOCOL, own, ENOEXEC, -ENOEXEC },
        { GOALLOC_PROTOCOL + 1, own, 0, -EPROTONOSUPPORT },
        { GOALLOC_PROTOCOL, own + 1, 0, -ENOEXEC },
        { GOALLOC_PROTOCOL, own, 0, -EPROTO }, /* no descriptors came */
    };
    char path[160];

    (void)snprintf(path, sizeof(path), "%s/fake", f->dir);
    for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
        int fd = listen_at(path);
        pid_t pid = fork();

        if (pid == 0) {
            answer_once(fd, &answers[i]);
            _exit(0);
        }
        (void)close(fd);
        assert_int_equal(attach_to(path, 5000), answers[i].expected);
        assert_int_equal(child_wait(pid), 0);
        (void)unlink(path);
    }

    /* The real daemon refuses what a library of another version would send. */
    for (int i = 0; i < 4; i++) { /* the last says nothing of a layout */
        Goallocd__Request request = GOALLOCD__REQUEST__INIT;
        Goallocd__Attach ask = GOALLOCD__ATTACH__INIT;
        Goallocd__Layout layout = GOALLOCD__LAYOUT__INIT;
        int fd = raw_connect(f);
        Goallocd__Reply *refusal;

        ask.protocol = i == 0 ? GOALLOC_PROTOCOL + 1 : GOALLOC_PROTOCOL;
        ask.layout = i == 3 ? NULL : layout_tell(&layout, version_own());
        layout.major += i == 1;
        ask.flags = i == 2 ? 1u << 31 : 0;
        request.id = 7;
        request.op_case = GOALLOCD__REQUEST__OP_ATTACH;
        request.attach = &ask;
        refusal = raw_call(fd, &request);
        assert_non_null(refusal);
        assert_int_equal(refusal->id, 7);
        assert_int_equal(refusal->error, i == 0 ? EPROTONOSUPPORT : i == 2 ? EINVAL : ENOEXEC);
        assert_true(strlen(refusal->message) > 0);
        goallocd__reply__free_unpacked(refusal, NULL);
        (void)close(fd);
    }
    assert_true(fixture_is_clean(f, 0));
}

static int attach_over_a_mapping(const fixture *f, void *arg)
{
    void *base = (void *)strtoull(FIXTURE_BASE, NULL, 16);
    void *squatter =
        mmap((char *)base + (1 << 20), 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

    (void)arg;
    CHECK(squatter != MAP_FAILED);
    CHECK(attach_to(f->socket, 0) == -EEXIST);
    CHECK(*(volatile char *)squatter == 0); /* still there */
    CHECK(munmap(squatter, 4096) == 0);
    CHECK(attach_to(f->socket, 0) == 0);
    CHECK(attach_to(f->socket, 0) == -EALREADY);
    return 0;
}

static void attach_with_the_address_taken_is_an_error_and_moves_nothing(void **state)
{
    assert_int_equal(child_run(*state, attach_over_a_mapping, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* --- the daemon's place --- */

static int run_daemon(const char *const *argv)
{
    pid_t pid = fork();

    if (pid == 0) {
        int null = open("/dev/null", O_WRONLY);

        (void)dup2(null, STDERR_FILENO);
        (void)dup2(null, STDOUT_FILENO);
        (void)execv(GOALLOCD_PATH, (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    return child_wait(pid);
}

static void second_daemon_on_the_same_socket_is_refused(void **state)
{
    const fixture *f = *state;
    const char *const argv[] = { GOALLOCD_PATH, "--socket", f->socket, "--base", FIXTURE_BASE, NULL };

    assert_int_equal(run_daemon(argv), 1);
    assert_int_equal(access(f->socket, F_OK), 0);
    assert_true(fixture_is_clean(f, 0)); /* the first one still serves */
}

/* Has what a child of a daemon has that was killed as it forked: the lock, and the socket that listens; a moment. */
static int hold_place(const fixture *f, void *data)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    char name[160];
    int ready = *(const int *)data;
    int lock;
    int fd;

    (void)snprintf(name, sizeof(name), "%s.lock", f->socket);
    (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", f->socket);
    CHECK(unlink(f->socket) == 0);
    CHECK((lock = open(name, O_RDWR | O_CLOEXEC)) >= 0 && flock(lock, LOCK_EX | LOCK_NB) == 0);
    CHECK((fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) >= 0);
    CHECK(bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) == 0 && listen(fd, 10) == 0);
    CHECK(write(ready, "r", 1) == 1);
    (void)usleep(60000);
    (void)close(lock);
    (void)usleep(60000); /* with the socket */
    return 0;
}

static void place_of_a_killed_daemon_may_be_held_for_a_moment(void **state)
{
    fixture *f = *state;
    int ready[2];
    char byte;
    pid_t pid;

    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    fixture_kill(f);
    pid = child_start(f, hold_place, &ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    fixture_restart(f, NULL);
    assert_int_equal(child_wait(pid), 0);
    assert_true(fixture_is_clean(f, 0));
    (void)close(ready[0]);
    (void)close(ready[1]);
}

static void file_that_is_no_socket_is_not_replaced(void **state)
{
    const fixture *f = *state;
    char path[160];
    const char *const argv[] = { GOALLOCD_PATH, "--socket", path, "--base", FIXTURE_BASE, NULL };
    struct stat st;
    int fd;

    (void)snprintf(path, sizeof(path), "%s/file", f->dir);
    fd = open(path, O_CREAT | O_WRONLY, 0600);
    assert_true(fd >= 0 && write(fd, "x", 1) == 1);
    (void)close(fd);
    assert_int_equal(run_daemon(argv), 1);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 1);
    (void)unlink(path);
    (void)strcat(path, ".lock");
    (void)unlink(path);
}

static void stale_socket_of_a_dead_daemon_is_replaced(void **state)
{
    fixture *f = *state;
    pid_t pid;

    assert_int_equal(kill(f->daemon, SIGKILL), 0);
    assert_int_equal(child_wait(f->daemon), 1000 + SIGKILL);
    assert_int_equal(access(f->socket, F_OK), 0);
    pid = fork();
    if (pid == 0) {
        (void)execl(GOALLOCD_PATH, GOALLOCD_PATH, "--socket", f->socket, "--base", FIXTURE_BASE, "--log-level", "error",
                    NULL);
        _exit(127);
    }
    f->daemon = pid;
    for (int i = 0; i < 500; i++) {
        if (attach_to(f->socket, 1000) == 0)
            break;
        (void)usleep(10000);
    }
    assert_int_equal(goalloc_detach(), 0);
}

static void wrong_command_lines_are_refused(void **state)
{
    const char *const rows[][4] = {
        { GOALLOCD_PATH, "--reserve", "12X", NULL },      { GOALLOCD_PATH, "--reserve", "100M", NULL },
        { GOALLOCD_PATH, "--reserve", "32T", NULL },      { GOALLOCD_PATH, "--reserve", "-64M", NULL },
        { GOALLOCD_PATH, "--base", "0xzz", NULL },        { GOALLOCD_PATH, "--base", "0x1000", NULL },
        { GOALLOCD_PATH, "--base", "7ffffc000000", NULL }, { GOALLOCD_PATH, "--memory-limit", "", NULL },
        { GOALLOCD_PATH, "--commit", "maybe", NULL },     { GOALLOCD_PATH, "--log-level", "loud", NULL },
        { GOALLOCD_PATH, "--unknown", NULL, NULL },       { GOALLOCD_PATH, "argument", NULL, NULL },
    };
    const char *const help[] = { GOALLOCD_PATH, "--help", NULL };
    const char *const version[] = { GOALLOCD_PATH, "--version", NULL };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        assert_int_equal(run_daemon(rows[i]), 2);
    assert_int_equal(run_daemon(help), 0);
    assert_int_equal(run_daemon(version), 0);
}

/* --- allocation --- */

static int exhausting(const fixture *f, void *arg)
{
    static void *objects[100000];
    size_t size = *(size_t *)arg;
    uint64_t first = 0;

    CHECK(attach_to(f->socket, 0) == 0);
    for (int round = 0; round < 3; round++) {
        uint64_t n = 0;

        for (; n < 100000; n++) {
            errno = 0;
            objects[n] = goalloc_malloc(size);
            if (objects[n] == NULL)
                break;
            memset(objects[n], 1, size);
        }
        CHECK(n > 100 && n < 100000 && errno == ENOSPC);
        if (round == 0)
            first = n;
        CHECK(n * 10 > first * 9); /* what was freed is there again */
        CHECK(goalloc_malloc(size) == NULL);
        for (uint64_t i = 0; i < n; i++)
            goalloc_free(objects[i]);
        /* Another size takes the memory over. */
        objects[0] = goalloc_malloc(size < 32768 ? 1 << 20 : 100);
        CHECK(objects[0] != NULL);
        goalloc_free(objects[0]);
    }
    return 0;
}

static void exhausted_heap_gives_enospc_and_goes_on_after_frees(void **state)
{
    size_t sizes[] = { 1000, 32768, 100000 };

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        assert_int_equal(child_run(*state, exhausting, &sizes[i]), 0);
    assert_true(fixture_is_clean(*state, 0));
}

#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
/* More than any machine has: the daemon must say so, rather than be killed for asking. */
static int more_than_there_is(const fixture *f, void *arg)
{
    void *p;

    (void)arg;
    CHECK(attach_to(f->socket, 0) == 0);
    p = goalloc_malloc(100);
    CHECK(p != NULL);
    for (size_t size = UINT64_C(15) << 40; size >= UINT64_C(4) << 40; size /= 2)
        CHECK(goalloc_malloc(size) == NULL && errno == ENOMEM);
    CHECK(goalloc_malloc(100) != NULL && goalloc_free_checked(p) == 0);
    return 0;
}

static void more_memory_than_the_system_has_is_enomem(void **state)
{
    assert_int_equal(child_run(*state, more_than_there_is, NULL), 0);
    assert_true(fixture_is_clean(*state, 1));
}
#endif

static int limited_session(const fixture *f, void *arg)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;
    goalloc_stats_t stats = { .struct_size = sizeof(stats) };

    (void)arg;
    options.socket_path = f->socket;
    options.limit_bytes = 4 << 20;
    CHECK(goalloc_attach(&options) == 0);
    CHECK(goalloc_malloc(8 << 20) == NULL && errno == EDQUOT);
    for (int i = 0; i < 100000 && goalloc_malloc(1000) != NULL; i++)
        ;
    CHECK(errno == EDQUOT);
    CHECK(goalloc_stats(&stats) == 0 && stats.session_held_bytes <= 4 << 20 && stats.session_held_bytes > 3 << 20);
    return 0;
}

static void session_limit_gives_edquot(void **state)
{
    assert_int_equal(child_run(*state, limited_session, NULL), 0);
}

static int absurd(const fixture *f, void *arg)
{
    static const size_t alignments[] = { 0, 3, 24, 4097, (64 << 20) + 1, 128 << 20, SIZE_MAX };

    (void)arg;
    CHECK(attach_to(f->socket, 0) == 0);
    for (int shift = 0; shift < 32; shift++) {
        volatile size_t count = SIZE_MAX >> shift; /* volatile: the compiler would refuse it */

        errno = 0;
        CHECK(goalloc_calloc(count, ((size_t)2 << shift) + 1) == NULL && errno == ENOMEM);
        errno = 0;
        CHECK(goalloc_calloc(((size_t)2 << shift) + 1, count) == NULL && errno == ENOMEM);
    }
    for (int shift = 0; shift < 16; shift++) {
        volatile size_t size = SIZE_MAX >> shift;

        errno = 0;
        CHECK(goalloc_malloc(size) == NULL && errno == ENOMEM);
        CHECK(goalloc_aligned_alloc(1 << 20, size) == NULL && errno == ENOMEM);
    }
    for (size_t i = 0; i < sizeof(alignments) / sizeof(alignments[0]); i++) {
        errno = 0;
        CHECK(goalloc_aligned_alloc(alignments[i], 100) == NULL && errno == EINVAL);
    }
    return 0;
}

static void absurd_sizes_and_alignments_are_errors(void **state)
{
    assert_int_equal(child_run(*state, absurd, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

/* --- frees --- */

static int bad_frees(const fixture *f, void *arg)
{
    static int foreign;
    char *small;
    char *large;
    char *tail;

    (void)arg;
    CHECK(attach_to(f->socket, 0) == 0);
    small = goalloc_malloc(64);
    large = goalloc_malloc(100000);
    CHECK(small != NULL && large != NULL);
    CHECK(goalloc_free_checked(NULL) == 0);
    CHECK(goalloc_free_checked(&foreign) == -EINVAL);
    CHECK(goalloc_free_checked(small + 1) == -EINVAL);
    CHECK(goalloc_free_checked(small + 8) == -EINVAL);
    CHECK(goalloc_free_checked(small + 64) == -EALREADY); /* the next object, never handed out */
    CHECK(goalloc_free_checked(large + 16) == -EINVAL);
    CHECK(goalloc_free_checked(large + 8192) == -EINVAL);
    CHECK(goalloc_free_checked(large + (1 << 30)) == -EINVAL);
    CHECK(goalloc_free_checked((void *)strtoull(FIXTURE_BASE, NULL, 16)) == -EINVAL);
    tail = goalloc_malloc(3000); /* class 3072: 8 objects in 24576 bytes */
    CHECK(goalloc_usable_size(tail) == 3072 && goalloc_usable_size(tail + 1) == 0);
    CHECK(goalloc_free_checked(tail) == 0 && goalloc_free_checked(tail) == -EALREADY);
    CHECK(goalloc_free_checked(small) == 0 && goalloc_free_checked(small) == -EALREADY);
    CHECK(goalloc_free_checked(large) == 0 && goalloc_free_checked(large) == -EALREADY);
    CHECK(goalloc_publish(small) == -EALREADY && goalloc_adopt(small) == -EALREADY);
    CHECK(goalloc_publish(&foreign) == -EINVAL);
    return 0;
}

static void bad_frees_are_detected_and_change_nothing(void **state)
{
    assert_int_equal(child_run(*state, bad_frees, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

static int bad_remote_free(const fixture *f, void *arg)
{
    char *small;
    char *large;

    (void)arg;
    CHECK(attach_to(f->socket, 0) == 0);
    small = goalloc_malloc(64);
    large = goalloc_malloc(100000);

    pid_t pid = fork();

    if (pid == 0) {
        CHECK(goalloc_free_checked(small + 8) == -EINVAL);
        CHECK(goalloc_free_checked(small) == 0 && goalloc_free_checked(small) == -EALREADY);
        CHECK(goalloc_free_checked(large + 8) == -EINVAL && goalloc_free_checked(large) == 0);
        _exit(0);
    }
    CHECK(child_wait(pid) == 0);
    CHECK(goalloc_free_checked(small) == -EALREADY); /* by its owner */
    CHECK(goalloc_free_checked(large) < 0);
    return 0;
}

static void double_free_by_owner_and_another_process_is_detected(void **state)
{
    assert_int_equal(child_run(*state, bad_remote_free, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
}

static int aborting(const fixture *f, void *arg)
{
    static int foreign;
    int which = *(int *)arg;
    int null = open("/dev/null", O_WRONLY);
    char *p;

    CHECK(attach_to(f->socket, 0) == 0);
    p = goalloc_malloc(64);
    (void)dup2(null, STDERR_FILENO);
    if (which == 0)
        goalloc_free(p);
    goalloc_free(which == 0 ? p : which == 1 ? p + 8 : (char *)&foreign);
    return 0;
}

static void goalloc_free_of_a_bad_pointer_aborts(void **state)
{
    for (int which = 0; which < 3; which++)
        assert_int_equal(child_run(*state, aborting, &which), 1000 + SIGABRT);
}

/* --- roots --- */

static int bad_roots(const fixture *f, void *arg)
{
    static int foreign;
    char name[400];
    char *p;
    void *found;

    (void)arg;
    CHECK(attach_to(f->socket, 0) == 0);
    p = goalloc_malloc(64);
    CHECK(goalloc_root_set("", p) == -EINVAL);
    CHECK(goalloc_root_set(NULL, p) == -EINVAL);
    CHECK(goalloc_root_set("\xff\xfe", p) == -EILSEQ);
    CHECK(goalloc_root_set("a\xc0\xaf", p) == -EILSEQ);     /* overlong */
    CHECK(goalloc_root_set("\xed\xa0\x80", p) == -EILSEQ);  /* a surrogate */
    CHECK(goalloc_root_set("\xe2\x82", p) == -EILSEQ);      /* cut off */
    memset(name, 'n', sizeof(name));
    name[256] = '\0';
    CHECK(goalloc_root_set(name, p) == -ENAMETOOLONG);
    CHECK(goalloc_root_get(name, &found) == -ENAMETOOLONG);
    name[256] = 'n';
    name[399] = '\0';
    CHECK(goalloc_root_set(name, p) == -ENAMETOOLONG);
    name[255] = '\0';
    CHECK(goalloc_root_set(name, p) == 0);
    CHECK(goalloc_root_get(name, &found) == 0 && found == p);
    CHECK(goalloc_root_set("caf\xc3\xa9 \xe2\x82\xac", p + 8) == 0); /* into the object */
    CHECK(goalloc_root_get("caf\xc3\xa9 \xe2\x82\xac", &found) == 0 && found == p + 8);
    CHECK(goalloc_root_get("", &found) == -EINVAL);
    CHECK(goalloc_root_get("none", &found) == -ENOENT);
    CHECK(goalloc_root_get(name, NULL) == -EINVAL);
    CHECK(goalloc_root_set("foreign", &foreign) == -EINVAL);
    CHECK(goalloc_root_set("free", p + 64) == -EINVAL);
    CHECK(goalloc_root_set("nothing", p + (1 << 30)) == -EINVAL);
    CHECK(goalloc_root_set("none", NULL) == -ENOENT);
    CHECK(goalloc_root_set(name, NULL) == 0);
    CHECK(goalloc_root_get(name, &found) == -ENOENT);
    CHECK(goalloc_root_set("caf\xc3\xa9 \xe2\x82\xac", NULL) == 0);
    for (int i = 0; i < 4096; i++) {
        (void)snprintf(name, sizeof(name), "root %d", i);
        CHECK(goalloc_root_set(name, p) == 0);
    }
    CHECK(goalloc_root_set("one more", p) == -ENOSPC);
    CHECK(goalloc_root_set("root 0", p) == 0);
    for (int i = 0; i < 4096; i++) {
        (void)snprintf(name, sizeof(name), "root %d", i);
        CHECK(goalloc_root_set(name, NULL) == 0);
    }
    goalloc_free(p);
    return 0;
}

static void bad_root_names_and_targets_are_refused(void **state)
{
    goalloc_stats_t stats;

    assert_int_equal(child_run(*state, bad_roots, NULL), 0);
    assert_true(fixture_is_clean(*state, 0));
    fixture_stats(*state, &stats);
    assert_int_equal(stats.roots, 0);
}

/* --- descriptors --- */

static int reopening(const fixture *f, void *arg)
{
    uid_t nobody = 65534;
    char path[64];

    (void)arg;
    (void)f;
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", *(int *)arg);
    CHECK(open(path, O_RDONLY | O_CLOEXEC) >= 0 || getuid() != 0);
    CHECK(setresuid(nobody, nobody, nobody) == 0);
    CHECK(open(path, O_RDWR | O_CLOEXEC) < 0 && (errno == EACCES || errno == EPERM));
    return 0;
}

static void spans_descriptor_is_readonly_and_cannot_be_reopened_or_resized(void **state)
{
    const fixture *f = *state;
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Attach ask = GOALLOCD__ATTACH__INIT;
    static uint8_t out[FRAME_BYTES_MAX];
    static channel ch;
    const uint8_t *payload;
    size_t len;
    struct stat st;

    ask.protocol = GOALLOC_PROTOCOL;
    ask.layout = layout_tell(&(Goallocd__Layout){ 0 }, version_own());
    request.id = 1;
    request.op_case = GOALLOCD__REQUEST__OP_ATTACH;
    request.attach = &ask;
    assert_int_equal(channel_connect(&ch, f->socket, deadline_in(5000)), 0);
    assert_int_equal(channel_send(&ch, out, frame_pack(&request.base, out, sizeof(out)), deadline_in(5000)), 0);
    assert_int_equal(channel_recv(&ch, &payload, &len, deadline_in(5000)), 0);
    assert_int_equal(ch.nfds, ATTACH_NFDS);
    (void)close(ch.fds[ATTACH_FD_SIGN]);
    (void)close(ch.fds[ATTACH_FD_OWN]);
    assert_int_equal(fcntl(ch.fds[0], F_GETFL) & O_ACCMODE, O_RDWR);
    assert_int_equal(fcntl(ch.fds[1], F_GETFL) & O_ACCMODE, O_RDONLY);
    assert_ptr_equal(mmap(NULL, 4096, PROT_WRITE, MAP_SHARED, ch.fds[1], 0), MAP_FAILED);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(fstat(ch.fds[i], &st), 0);
        assert_int_equal(st.st_mode & 0777, 0600);
        assert_true(ftruncate(ch.fds[i], 4096) < 0);
    }
    if (getuid() == 0)
        assert_int_equal(child_run(f, reopening, &ch.fds[1]), 0);
    channel_close(&ch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        FIXTURE_TEST(attach_to_nothing_says_what_is_missing),
        FIXTURE_TEST(attach_to_another_protocol_or_layout_is_refused_by_both_sides),
        FIXTURE_TEST(attach_with_the_address_taken_is_an_error_and_moves_nothing),
        FIXTURE_TEST(second_daemon_on_the_same_socket_is_refused),
        FIXTURE_TEST(place_of_a_killed_daemon_may_be_held_for_a_moment),
        FIXTURE_TEST(file_that_is_no_socket_is_not_replaced),
        FIXTURE_TEST(stale_socket_of_a_dead_daemon_is_replaced),
        FIXTURE_TEST(wrong_command_lines_are_refused),
        FIXTURE_TEST_WITH(exhausted_heap_gives_enospc_and_goes_on_after_frees, "--reserve", "64M"),
#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__) /* which have no room for such a mapping */
        FIXTURE_TEST_WITH(more_memory_than_the_system_has_is_enomem, "--reserve", "16T", "--base", "0x100000000000"),
#endif
        FIXTURE_TEST(session_limit_gives_edquot),
        FIXTURE_TEST(absurd_sizes_and_alignments_are_errors),
        FIXTURE_TEST(bad_frees_are_detected_and_change_nothing),
        FIXTURE_TEST(double_free_by_owner_and_another_process_is_detected),
        FIXTURE_TEST(goalloc_free_of_a_bad_pointer_aborts),
        FIXTURE_TEST(bad_root_names_and_targets_are_refused),
        FIXTURE_TEST(spans_descriptor_is_readonly_and_cannot_be_reopened_or_resized),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
