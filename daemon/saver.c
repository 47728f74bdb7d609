/*
 * Saver: a child process that writes the image of the heap when the daemon stops.
 *
 * Called by main, which starts it before anything else, and by the server, by way of main, when all sessions have
 * ended (serve/saving.c). A process of its own, since the daemon that serves may write no files (privileges.c), and
 * since the loop must not wait for a disk. It has nothing of the heap until it is asked to save: then it gets the
 * read-only descriptors that clients get, so whatever becomes of it, the heap is as it was.
 *
 * The conversation, over a SOCK_SEQPACKET pair:
 *   daemon sends "save" with arena, spans, bitmap   -> it begins
 *   saver sends saving_report, SAVING_PROGRESS      every 200 ms, while it works or the disk does
 *   saver sends saving_report, SAVING_DONE          the image is on the disk, or what has gone wrong
 * If goallocctl save writes there at that time, it waits until that is through.
 * It dies with the daemon (PDEATHSIG, and the end of the socket): then the image of before stays (imagewriter.c).
 *
 * It may write, make, rename and remove files in the directory of the image, and no others: Landlock, and a filter of
 * its own. It ignores all signals but SIGKILL: at a stop systemd sends SIGTERM to all processes of the unit.
 */
#include "daemon/saver.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/fds.h"
#include "daemon/privileges.h"
#include "daemon/serve/saving.h"
#include "image/imageio.h"
#include "image/imagewriter.h"
#include "proto/fdpass.h"

#define SAY_SAVE    "save"
#define LOOK_MS     10 /* whether it is over */
#define LOOKS       20 /* from one report to the next */

/* --- the saver's side --- */

typedef struct job {
    int fd;
    shm_u64 ndone;
    shm_u64 ntotal;
    shm_u32 over;
} job;

/* Tell the daemon how far it is, as long as the other thread works. */
static void *tell_progress(void *data)
{
    job *j = data;

    for (unsigned i = 1; u32_load_acquire(&j->over) == 0; i++) {
        saving_report report = { .kind = SAVING_PROGRESS,
                                 .done = u64_load_relaxed(&j->ndone),
                                 .total = u64_load_relaxed(&j->ntotal) };

        if (i % LOOKS == 0)
            (void)send(j->fd, &report, sizeof(report), MSG_NOSIGNAL | MSG_DONTWAIT);
        (void)poll(NULL, 0, LOOK_MS);
    }
    return NULL;
}

/* Save what is in the three files. 0, or -errno and why. */
static int save(job *j, const char *path, const int fds[IMAGE_FILES], saving_report *report, image_error *why)
{
    image_heap files;
    const image_source heap = { .map = &files.map, .arena_fd = fds[IMAGE_FILE_ARENA], .ended = true };
    const image_writing how = { .mark = IMAGE_CLEAN, .waits = true, .level = IMAGE_LEVEL, .ndone = &j->ndone };
    image_written written = { 0 };
    image_plan plan;
    int r = image_heap_map(&files, fds, VERSION_SERVES, why);

    if (r < 0)
        goto out;
    r = image_plan_make(&plan, &heap, why);
    u64_store_relaxed(&j->ntotal, plan.nblocks);
    if (r == 0)
        r = image_save(AT_FDCWD, path, &plan, &heap, &how, &written, why);
    report->file_bytes = written.file_bytes;
    report->in_place = written.in_place;
    report->took_ms = written.took_ns / 1000000;
    report->live_objects = plan.header.live_objects;
    report->live_bytes = plan.header.live_bytes;
    image_plan_free(&plan);
out:
    image_heap_unmap(&files);
    return r;
}

static void serve_one(int socket_fd, const char *path, const int fds[IMAGE_FILES])
{
    saving_report report = { .kind = SAVING_DONE };
    image_error why = { "" };
    job j = { .fd = socket_fd };
    pthread_t teller;
    bool tells = pthread_create(&teller, NULL, tell_progress, &j) == 0;
    /* Without it the daemon would hear nothing for as long as that takes, and give it up. */
    int r = tells ? save(&j, path, fds, &report, &why) : image_fail(&why, -EAGAIN, "no thread to report by");

    u32_store_release(&j.over, 1);
    if (tells)
        (void)pthread_join(teller, NULL);
    report.error = -r;
    (void)snprintf(report.text, sizeof(report.text), "%s", why.text);
    (void)send(socket_fd, &report, sizeof(report), MSG_NOSIGNAL);
}

__attribute__((noreturn)) static void run(int socket_fd, const char *path, pid_t parent)
{
    int fds[FDPASS_MAX] = { socket_fd };
    char dir[IMAGE_PATH_BYTES];
    sigset_t all;

    (void)sigfillset(&all);
    (void)sigprocmask(SIG_SETMASK, &all, NULL);
    fds_keep_only(fds, 1);
    (void)prctl(PR_SET_NAME, "goallocd-saver");
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(EXIT_SUCCESS);
    image_dir_of(path, dir);
    (void)umask(0077);
    /* It works with privileges, too. */
    (void)(privileges_confine(PRIVILEGES_SAVER, (const char *const[]){ dir, NULL }) < 0);
    for (;;) {
        struct pollfd asked = { .fd = 0, .events = POLLIN };
        char said[8];
        int nfds = 0;
        ssize_t n;

        if (poll(&asked, 1, -1) < 0)
            continue;
        n = fdpass_recv(0, said, sizeof(said), fds, &nfds);
        if (n == -EAGAIN || n == -EINTR)
            continue;
        if (n <= 0)
            _exit(EXIT_SUCCESS); /* the daemon is gone */
        if (n == 4 && memcmp(said, SAY_SAVE, 4) == 0 && nfds == IMAGE_FILES)
            serve_one(0, path, fds);
        for (int i = 0; i < nfds; i++)
            (void)close(fds[i]);
    }
}

/* --- the daemon's side --- */

int saver_start(saver *s, const char *path, image_error *why)
{
    int pair[2];
    pid_t parent = getpid();
    pid_t pid;
    int r = image_check_place(AT_FDCWD, path, why);

    *s = (saver){ .fd = -1, .path = path };
    if (r < 0)
        return r;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return image_fail(why, -errno, "%s", strerror(errno));
    pid = fork();
    if (pid == 0)
        run(pair[1], path, parent);
    (void)close(pair[1]);
    if (pid < 0) {
        r = image_fail(why, -errno, "no process for it: %s", strerror(errno));
        (void)close(pair[0]);
        return r;
    }
    s->fd = pair[0];
    return 0;
}

void saver_end(saver *s)
{
    if (s->fd >= 0)
        (void)close(s->fd);
    s->fd = -1;
}

int saver_save(saver *s, const heapfile *file)
{
    const int fds[IMAGE_FILES] = { file->arena_ro_fd, file->spans_ro_fd, file->bitmap_ro_fd };
    ssize_t n = s->fd < 0 ? -EPIPE : fdpass_send(s->fd, SAY_SAVE, 4, fds, IMAGE_FILES);

    return n < 0 ? (int)n : 0;
}
