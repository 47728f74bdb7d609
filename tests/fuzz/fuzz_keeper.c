/*
 * What another daemon, a keeper or systemd hands over: descriptors of all kinds, sizes, names and seals, in any number
 * and order (daemon/keeper.c, fdstore.c, shm/handover.c, heapfile.c). A new daemon takes them as main.c does: it gets a
 * heap, or says why not; and in neither case is a descriptor lost or closed twice.
 *
 * An input says which descriptors there are, then who hands them over. A keeper is a thread at the other end of a
 * socket, which says what the input says. systemd's are at number 3 and up, with their names in the environment.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/fdstore.h"
#include "daemon/heap/mheap.h"
#include "daemon/keeper.h"
#include "daemon/log.h"
#include "proto/fdpass.h"
#include "proto/keeper.h"
#include "shm/handover.h"
#include "tests/fuzz/fuzz.h"

#define ARENA_BYTES  (64 * MIB)
#define FIRST_FD     3   /* systemd's */
#define GIVEN_MAX    8
#define NAMES_MAX    16  /* of descriptors that systemd says it hands over */
#define NUMBERS      (2 * NAMES_MAX) /* that these names may have: a name of ":" is two */
#define OWN_FDS_FROM 64  /* this process's, out of the way of those that are handed over */

static heapfile whole;     /* a heap that nobody serves */
static char dir[] = "/tmp/fuzz-keeper-XXXXXX";
static struct sockaddr_un addr = { .sun_family = AF_UNIX };
static int listener;
static int null_fd;

/* What is handed over. */
typedef struct given {
    int fds[GIVEN_MAX];
    int nfds;
} given;

/* What the keeper says: the conversation of one input. */
typedef struct keeper_part {
    const given *given;
    uint8_t text[8];
    size_t text_bytes;
    bool hangs_up; /* without a word */
} keeper_part;

/* --- descriptors --- */

/* Put it where nobody else looks for one. Takes fd. */
static int aside(int fd)
{
    int r = fcntl(fd, F_DUPFD_CLOEXEC, OWN_FDS_FROM);

    FUZZ_CHECK(fd >= 0 && r >= 0);
    (void)close(fd);
    return r;
}

static void remove_dir(void)
{
    (void)unlink(addr.sun_path);
    (void)rmdir(dir);
}

/* Between inputs the numbers of systemd's descriptors are taken: the sanitizers open pipes to their symbolizer. */
static void hold_numbers(void)
{
    for (int fd = FIRST_FD; fd < FIRST_FD + NUMBERS; fd++)
        FUZZ_CHECK(dup2(null_fd, fd) == fd);
}

static void free_numbers(void)
{
    for (int fd = FIRST_FD; fd < FIRST_FD + NUMBERS; fd++)
        (void)close(fd);
}

static void listen_there(void)
{
    listener = aside(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    FUZZ_CHECK(bind(listener, (const struct sockaddr *)&addr, sizeof(addr)) == 0 && listen(listener, 4) == 0);
}

/* The lock of the heap goes with what has it mapped, so that the inputs can take it over. */
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    heapfile made;
    mheap heap;

    (void)argc;
    (void)argv;
    log_set_level(LOG_LEVEL_ERROR);
    null_fd = aside(open("/dev/null", O_RDWR | O_CLOEXEC));
    hold_numbers();
    FUZZ_CHECK(heapfile_create(&made, SHM_BASE_DEFAULT, ARENA_BYTES) == 0 && mheap_init(&heap, &made, 0) == 0);
    whole = made;
    for (int i = 0; i < HEAPFILE_NFDS; i++)
        whole.fds[i] = aside(dup(made.fds[i]));
    mheap_end(&heap);
    heapfile_close(&made);
    FUZZ_CHECK(mkdtemp(dir) != NULL && atexit(remove_dir) == 0);
    (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/" KEEPER_SOCKET, dir);
    listen_there();
    return 0;
}

/* A memfd: of one of the names, or another; of a size that is right, nearly right, or small; with some of the seals. */
static int new_memfd(fuzz_input *in)
{
    static const int seals[4] = { F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL, F_SEAL_SHRINK, 0,
                                  F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL | F_SEAL_WRITE };
    uint8_t how = fuzz_u8(in);
    unsigned which = how & 3;
    int fd = memfd_create(how & 4 ? "goalloc-heap" : heapfile_names[which], MFD_CLOEXEC | MFD_ALLOW_SEALING);
    uint64_t size = how & 8 ? fuzz_number(in) % (2 * whole.sizes[which]) : whole.sizes[which];
    uint8_t bytes[512];

    FUZZ_CHECK(fd >= 0 && ftruncate(fd, (off_t)size) == 0);
    if (how & 16) { /* as a heap of its own begins, with a byte of it changed */
        FUZZ_CHECK(pread(whole.fds[which], bytes, sizeof(bytes), 0) == sizeof(bytes));
        bytes[fuzz_u16(in) % sizeof(bytes)] ^= fuzz_u8(in);
        (void)!pwrite(fd, bytes, size < sizeof(bytes) ? size : sizeof(bytes), 0);
    }
    (void)fcntl(fd, F_ADD_SEALS, seals[how >> 6]);
    return fd;
}

static int reopened(int fd, int flags)
{
    char path[64];

    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return open(path, flags | O_CLOEXEC);
}

/* The end of a shelf with a message, which may be one of a sign of life. */
static int other_shelf(fuzz_input *in, int fd)
{
    uint8_t how = fuzz_u8(in);
    uint32_t item[2] = { (uint32_t)fuzz_number(in), how };
    int ends[2];

    FUZZ_CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
    (void)setsockopt(ends[1], SOL_SOCKET, SO_PEEK_OFF, &(int){ 0 }, sizeof(int));
    if (how & 1)
        (void)!send(ends[0], item, how & 2 ? sizeof(item) : how >> 5, MSG_DONTWAIT);
    else
        (void)!fdpass_send(ends[0], item, how & 2 ? sizeof(item) : 1u + (how >> 6), &fd, 1);
    (void)close(ends[0]);
    return ends[1];
}

static int any_descriptor(fuzz_input *in)
{
    uint8_t how = fuzz_u8(in);
    int heap_fd = whole.fds[how >> 5 & 3];
    int ends[2];

    switch (how & 15) {
    case 0: return epoll_create1(EPOLL_CLOEXEC);
    case 1: return open("/dev/null", O_RDWR | O_CLOEXEC);
    case 2: return open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    case 3: return open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    case 4: return reopened(heap_fd, O_RDONLY);
    case 5: return reopened(heap_fd, O_PATH);
    case 6: return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    case 7:
        FUZZ_CHECK(pipe2(ends, O_CLOEXEC) == 0);
        (void)close(ends[1]);
        return ends[0];
    case 8: case 9: case 10: return new_memfd(in);
    case 11: return dup(whole.fds[HEAPFILE_SHELF_IN + (how >> 5 & 1)]);
    case 12: return other_shelf(in, heap_fd);
    default: return dup(heap_fd);
    }
}

static void gather(fuzz_input *in, given *ret)
{
    uint8_t how = fuzz_u8(in);
    int n = how & 8 ? how % (GIVEN_MAX + 1) : HEAPFILE_NFDS;

    ret->nfds = 0;
    for (int i = 0; i < n; i++) {
        bool right = how & 16 && i < HEAPFILE_NFDS && (how >> 5) != i;

        ret->fds[ret->nfds++] = aside(right ? dup(whole.fds[i]) : any_descriptor(in));
    }
}

static void drop(given *g)
{
    for (int i = 0; i < g->nfds; i++)
        (void)close(g->fds[i]);
}

static int count_descriptors(void)
{
    DIR *all = opendir("/proc/self/fd");
    int n = 0;

    FUZZ_CHECK(all != NULL);
    while (readdir(all) != NULL)
        n++;
    (void)closedir(all);
    return n;
}

/* --- who hands over --- */

/* Answer one connection. If it is hung up on, the socket goes first, or who calls would try again for a second. */
static void *be_keeper(void *data)
{
    const keeper_part *part = data;
    const given *g = part->given;
    int nfds = g->nfds < FDPASS_MAX ? g->nfds : FDPASS_MAX;
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

    if (fd < 0)
        return NULL;
    if (part->hangs_up)
        (void)unlink(addr.sun_path);
    else if (nfds > 0)
        (void)!fdpass_send(fd, part->text, part->text_bytes, g->fds, nfds);
    else
        (void)!send(fd, part->text, part->text_bytes, MSG_NOSIGNAL);
    (void)close(fd);
    return NULL;
}

/* 0: ret_fds are a keeper's, which has gone meanwhile; else there are none. */
static int from_keeper(fuzz_input *in, const given *g, int ret_fds[HEAPFILE_NFDS])
{
    uint8_t how = fuzz_u8(in);
    keeper_part part = { .given = g, .text = KEEPER_HEAP, .text_bytes = 4 };
    pthread_t thread;
    keeper k;
    int r;

    part.hangs_up = how == UINT8_MAX;
    if (how & 1) {
        part.text_bytes = 1 + (how >> 1) % sizeof(part.text);
        part.text[how >> 4 & 7] = fuzz_u8(in);
    }
    FUZZ_CHECK(pthread_create(&thread, NULL, be_keeper, &part) == 0);
    r = keeper_connect(&k, dir, ret_fds);
    FUZZ_CHECK(pthread_join(thread, NULL) == 0);
    FUZZ_CHECK(r == 0 ? k.fd >= 0 : k.fd < 0);
    FUZZ_CHECK(r <= 0 || (r == KEEPER_E_NONE && part.hangs_up));
    keeper_leave(&k);
    if (part.hangs_up) {
        (void)close(listener);
        listen_there();
    }
    return r;
}

/* Names for systemd's descriptors: right, wrong, too few or too many, or anything. */
static void set_names(fuzz_input *in, int nfds)
{
    static const char *const names[] = { "goalloc-heap", "goalloc-heap", "goalloc-heap", "other", "", "goalloc-heaps",
                                         "goalloc-hea", ":" };
    char text[512] = "";
    uint8_t how = fuzz_u8(in);
    int n = how & 1 ? nfds : how % NAMES_MAX;

    for (int i = 0; i < n; i++) {
        (void)strcat(text, i == 0 ? "" : ":");
        (void)strcat(text, how & 2 ? names[0] : names[fuzz_u8(in) % 8]);
    }
    FUZZ_CHECK(setenv("LISTEN_FDNAMES", text, 1) == 0);
}

static int from_systemd(fuzz_input *in, const given *g, int ret_fds[HEAPFILE_NFDS])
{
    static const char *const numbers[] = { "", "-1", "2147483647", "99999999999999999999", "4x", "0x4", "64", " 4" };
    char text[32];
    uint8_t how = fuzz_u8(in);
    int r;

    for (int i = 0; i < g->nfds; i++)
        FUZZ_CHECK(dup2(g->fds[i], FIRST_FD + i) == FIRST_FD + i);
    (void)snprintf(text, sizeof(text), "%d", how & 1 ? 1 : (int)getpid());
    FUZZ_CHECK(setenv("LISTEN_PID", text, 1) == 0);
    (void)snprintf(text, sizeof(text), "%d", g->nfds);
    FUZZ_CHECK(setenv("LISTEN_FDS", how & 2 ? numbers[how >> 2 & 7] : text, 1) == 0);
    set_names(in, g->nfds);
    r = fdstore_take(ret_fds);
    FUZZ_CHECK(r == 0 || r == FDSTORE_E_NONE || r == FDSTORE_E_BROKEN);
    return r;
}

/* --- what is done with it --- */

/* As main.c does: a heap that was dropped is let go; else it is taken over, if it is one. */
static void take(fuzz_input *in, int fds[HEAPFILE_NFDS])
{
    const char *why = NULL;
    heapfile file;
    mheap heap;
    int lock;

    if (fuzz_u8(in) & 1 || handover_is_dropped(fds[HEAPFILE_SPANS]) == 1) {
        lock = handover_lock(fds[HEAPFILE_PRIVATE]);
        (void)handover_is_locked(fds[HEAPFILE_PRIVATE]);
        if (lock >= 0)
            (void)close(lock);
        heapfile_close_fds(fds);
        return;
    }
    if (heapfile_open(&file, fds, &why) < 0) {
        heapfile_close_fds(fds);
        return;
    }
    if (mheap_recover(&heap, &file, 0, &why) == 0) {
        FUZZ_CHECK(mheap_validate(&heap, stderr) == 0);
        mheap_end(&heap);
    }
    heapfile_close(&file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input in = { data, data + size };
    int fds[HEAPFILE_NFDS];
    given g;
    bool by_keeper;
    int before;

    free_numbers();
    before = count_descriptors();
    gather(&in, &g);
    by_keeper = fuzz_u8(&in) & 1;
    if ((by_keeper ? from_keeper(&in, &g, fds) : from_systemd(&in, &g, fds)) == 0)
        take(&in, fds);
    for (int i = 0; i < g.nfds && !by_keeper; i++)
        (void)close(FIRST_FD + i); /* of systemd's, what is not the heap's stays open */
    drop(&g);
    FUZZ_CHECK(count_descriptors() == before);
    hold_numbers();
    return 0;
}
