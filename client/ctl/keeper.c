/*
 * keeper: the process that holds a heap for the next daemon: goallocctl keeper.
 *
 * Called by goallocctl.c. It asks no daemon: it connects to the keeper's socket as a daemon would (daemon/keeper.c has
 * the conversation), gets the heap's descriptors, and looks at the header. So it needs the keeper's user, or root. What
 * is there need be no keeper: descriptors are read by pread(), which takes anything, and shown only if the header is
 * that of a heap.
 *
 * To end a keeper that is left over: 1. take the heap's lock, so no daemon serves it or comes to do so; 2. mark the
 * heap as dropped, so whoever still has it mapped is told; 3. say "bye". If this process dies in between, the keeper is
 * still there: before 2 with a heap, after it with one that the next daemon lets go (shm/handover.c).
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "client/ctl/commands.h"
#include "client/ctl/ctl.h"
#include "proto/fdpass.h"
#include "proto/keeper.h"
#include "shm/handover.h"
#include "shm/layout.h"

typedef struct found {
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
    int fd; /* the connection */
    struct ucred cred;
    int fds[FDPASS_MAX];
    int nfds;
    shm_header header; /* magic 0: it is none that can be shown */
    uint64_t memory_bytes;
    unsigned nsessions;
    unsigned nroots;
    bool is_served;
    bool is_dropped;
} found;

/* --- asking --- */

/* The keeper's first message is there: who has sent it. The descriptors stay with the message. */
static void read_sender(found *f)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(struct ucred))];
    } control;
    char said[8];
    struct iovec data = { said, sizeof(said) };
    struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = control.bytes,
                              .msg_controllen = sizeof(control.bytes) };
    const struct cmsghdr *header;

    if (recvmsg(f->fd, &message, MSG_PEEK | MSG_DONTWAIT) < 0)
        return;
    header = CMSG_FIRSTHDR(&message);
    if (header != NULL && header->cmsg_type == SCM_CREDENTIALS)
        memcpy(&f->cred, CMSG_DATA(header), sizeof(f->cred));
}

/* Connect, and get the descriptors. A keeper that is stopped takes no connections once its queue is full. 0, -errno. */
static int receive(found *f, deadline until)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    struct pollfd ready = { .events = POLLIN };
    int left_ms = deadline_left_ms(until);
    struct timeval left = { left_ms / 1000, (left_ms % 1000) * 1000 + 1 }; /* 0 would be for ever */
    char said[8];
    ssize_t n;

    memcpy(addr.sun_path, f->path, sizeof(addr.sun_path));
    f->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (f->fd < 0 || setsockopt(f->fd, SOL_SOCKET, SO_PASSCRED, &(int){ 1 }, sizeof(int)) < 0 ||
        setsockopt(f->fd, SOL_SOCKET, SO_SNDTIMEO, &left, sizeof(left)) < 0)
        return -errno;
    if (connect(f->fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0)
        return errno == EAGAIN ? -ETIMEDOUT : -errno;
    ready.fd = f->fd;
    if (poll(&ready, 1, deadline_left_ms(until)) != 1)
        return -ETIMEDOUT;
    read_sender(f);
    (void)setsockopt(f->fd, SOL_SOCKET, SO_PASSCRED, &(int){ 0 }, sizeof(int));
    n = fdpass_recv(f->fd, said, sizeof(said), f->fds, &f->nfds);
    if (n == 0 || n == -ECONNRESET)
        return -EACCES; /* it has hung up: it serves its own user and root */
    return n == 4 && memcmp(said, KEEPER_HEAP, 4) == 0 && f->nfds == KEEPER_NFDS ? 0 : -EPROTO;
}

static unsigned count_sessions(int fd, const shm_header *header)
{
    uint32_t n = u32_load_relaxed(&header->nsession_entries);
    unsigned used = 0;

    for (uint32_t i = 0; i < n && i < SHM_SESSIONS_MAX; i++) {
        uint32_t state = 0;
        uint64_t at = header->sessions_off + i * sizeof(shm_session) + offsetof(shm_session, state);

        if (pread(fd, &state, sizeof(state), (off_t)at) == (ssize_t)sizeof(state))
            used += state != SHM_SESSION_FREE;
    }
    return used;
}

static unsigned count_roots(int fd, const shm_header *header)
{
    uint32_t n = u32_load_relaxed(&header->nroot_entries);
    unsigned used = 0;

    for (uint32_t i = 0; i < n && i < SHM_ROOTS_MAX; i++) {
        shm_root root;

        if (pread(fd, &root, sizeof(root), (off_t)(header->roots_off + i * sizeof(root))) != (ssize_t)sizeof(root))
            continue;

        uint64_t current = u64_load_relaxed(&root.current);

        used += current != 0 && u64_load_relaxed(&root.values[root_which(current)].offset) != 0;
    }
    return used;
}

static void look(found *f)
{
    int spans = f->fds[KEEPER_FD_SPANS];
    struct stat st;
    uint64_t nblocks = 0;
    uint64_t sizes[KEEPER_NMEMFDS] = { 0 };
    shm_header header;

    for (int i = 0; i < KEEPER_NMEMFDS; i++) {
        if (fstat(f->fds[i], &st) == 0) {
            nblocks += (uint64_t)st.st_blocks;
            sizes[i] = (uint64_t)st.st_size;
        }
    }
    f->memory_bytes = nblocks * 512;
    f->is_served = handover_is_locked(f->fds[KEEPER_FD_PRIVATE]) == 1;
    f->is_dropped = handover_is_dropped(spans) == 1;
    if (pread(spans, &header, sizeof(header), 0) != (ssize_t)sizeof(header) ||
        shm_header_check(&header, VERSION_READS, sizes[KEEPER_FD_SPANS], sizes[KEEPER_FD_BITMAP]) < 0)
        return;
    f->header = header;
    f->nsessions = count_sessions(spans, &header);
    f->nroots = count_roots(spans, &header);
}

/* --- showing --- */

static void show_text(const found *f)
{
    (void)printf("keeper of %s: pid %d, uid %u\n", f->path, (int)f->cred.pid, f->cred.uid);
    if (f->header.magic == 0)
        (void)printf("it holds %s, no heap of this build\n", ctl_bytes(f->memory_bytes));
    else
        (void)printf("heap %016" PRIx64 ", made %" PRIu64 " s ago: %s of memory, arena of %s at 0x%" PRIx64
                     ", %u sessions, %u roots\n",
                     f->header.generation, shm_header_age_ms(&f->header) / 1000, ctl_bytes(f->memory_bytes),
                     ctl_bytes(f->header.arena_bytes), f->header.base, f->nsessions, f->nroots);
    (void)printf("%s\n", f->is_served    ? "a daemon serves it"
                         : f->is_dropped ? "it was dropped, and no daemon serves it"
                                         : "no daemon serves it");
}

static bool show_json(const found *f, bool ended)
{
    char id[24];
    json_t *object;
    bool whole;

    (void)snprintf(id, sizeof(id), "%016" PRIx64, f->header.generation);
    object = json_pack("{s:s%, s:i, s:i, s:b, s:b, s:b, s:I}", "socket", f->path, strlen(f->path), "pid",
                       (int)f->cred.pid, "uid", (int)f->cred.uid, "served", (int)f->is_served, "dropped",
                       (int)f->is_dropped, "ended", (int)ended, "memory_bytes", (json_int_t)f->memory_bytes);
    whole = object != NULL;
    if (whole && f->header.magic != 0)
        whole = ctl_json_set_text(object, "heap_id", id) &&
                ctl_json_set(object, "age_ms", shm_header_age_ms(&f->header)) &&
                ctl_json_set(object, "arena_bytes", f->header.arena_bytes) &&
                ctl_json_set(object, "arena_base", f->header.base) &&
                ctl_json_set(object, "sessions", f->nsessions) && ctl_json_set(object, "roots", f->nroots);
    whole = whole && ctl_json_print(object);
    json_decref(object);
    return whole;
}

/* --- ending --- */

/* 0, or -errno: the keeper stays. */
static int end(const found *f, deadline until)
{
    struct pollfd gone = { .fd = f->fd, .events = POLLIN };
    int lock = handover_lock(f->fds[KEEPER_FD_PRIVATE]);

    if (lock == -EADDRINUSE)
        return lock;
    if (handover_mark_dropped(f->fds[KEEPER_FD_SPANS]) < 0)
        (void)fprintf(stderr, "goallocctl: it holds no heap: nobody who uses it can be told\n");
    if (send(f->fd, KEEPER_BYE, strlen(KEEPER_BYE), MSG_NOSIGNAL) < 0 || poll(&gone, 1, deadline_left_ms(until)) != 1)
        return -ETIMEDOUT;
    if (lock >= 0)
        (void)close(lock);
    return 0;
}

static int fail(const char *path, int r)
{
    return ctl_fail(CTL_E_KEEPER, 0, "%s: %s", path,
                    r == -ENOENT || r == -ECONNREFUSED ? "there is no keeper"
                    : r == -EPROTO                     ? "what answers is no keeper of a heap"
                    : r == -EACCES                     ? "it is another user's"
                    : r == -ETIMEDOUT                  ? "the keeper did not answer"
                    : r == -EADDRINUSE ? "a daemon serves the heap; goallocctl drop ends both" : strerror(-r));
}

bool keeper_set(const arguments *args)
{
    return args->state_dir != NULL;
}

int keeper_run(const arguments *args)
{
    found f = { .fd = -1 };
    int r;

    if (snprintf(f.path, sizeof(f.path), "%s/" KEEPER_SOCKET, args->state_dir) >= (int)sizeof(f.path))
        return fail(args->state_dir, -ENAMETOOLONG);
    r = receive(&f, args->who.until);
    if (r < 0)
        return fail(f.path, r);
    look(&f);
    if (!args->json)
        show_text(&f);
    if (args->end) {
        if (f.is_served)
            return fail(f.path, -EADDRINUSE);
        if (!ctl_confirm("End it? The heap is dropped: all its objects are gone.", args->yes))
            return CTL_FAILED;
        r = end(&f, deadline_in(args->who.timeout_ms));
        if (r < 0)
            return fail(f.path, r);
    }
    if (args->json && !show_json(&f, args->end))
        return ctl_fail(CTL_E_MEMORY, 0, "out of memory");
    if (!args->json && args->end)
        (void)puts("it has ended");
    return fflush(stdout) == 0 ? CTL_OK : ctl_fail(CTL_E_OUTPUT, 0, "stdout: %s", strerror(errno));
}
