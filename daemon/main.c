/*
 * main: puts the daemon together: command line and files, then the socket's place, whose owner alone may touch the
 * heap, then the heap that another daemon has left with systemd (fdstore.c) or with a keeper (keeper.c), else a new
 * one, then the server. A heap that can't be trusted is refused, and dropped only on request; one that was dropped
 * already (shm/handover.c) is let go. Exit status 0 after a clean stop, 1 if it could not serve, 2 for a wrong command
 * line or a wrong file. Before it serves, the daemon gives up all privileges that it does not need (privileges.c).
 *
 * A heap that is dropped is marked first, then its keeper and systemd let it go: the server does the former (stop()),
 * or let_go() for a heap that is not served; main does the latter. So whoever has it mapped is told before it is gone.
 */
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "daemon/antechamber.h"
#include "daemon/commandline.h"
#include "daemon/fdstore.h"
#include "daemon/imagefile.h"
#include "daemon/keeper.h"
#include "daemon/listen.h"
#include "daemon/log.h"
#include "daemon/notify.h"
#include "daemon/privileges.h"
#include "daemon/saver.h"
#include "daemon/serve/server.h"
#include "daemon/takeover.h"
#include "shm/crash.h"
#include "shm/handover.h"

#define LOOP_NICE     (-5)
#define RESET_ON_FORK 1u /* a flag of the kernel: what the loop starts begins at 0 */

/* A session takes three descriptors, a group two: ask for as many as the system allows. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
            log_warn("the limit of descriptors can't be raised: %s", strerror(errno));
    }
}

/*
 * One thread serves all processes, so it comes before those that keep the processors busy: else who floods it with work
 * shares them with it, and everybody waits for both. This is for the loop alone: threads and children that it makes
 * begin at 0. Nothing happens without the privilege, or if somebody has chosen another priority.
 */
static void raise_priority(void)
{
    /* What SYS_sched_setattr takes; not every C library has a type for it. */
    const struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
    } attr = { .size = sizeof(attr), .policy = SCHED_OTHER, .flags = RESET_ON_FORK, .nice = LOOP_NICE };

    if (getpriority(PRIO_PROCESS, 0) == 0 && syscall(SYS_sched_setattr, 0, &attr, 0) < 0)
        log_debug("the loop's priority stays: %s", strerror(errno));
}

/*
 * True if the system's memory pages are small enough. Of a larger one a punch would give back nothing before all of it
 * is punched, while the books count its parts as released; and MADV_DONTNEED rounds its length up, so with the links of
 * one chunk (mheap.c) those of the next would go.
 */
static bool are_system_pages_small(void)
{
    long bytes = sysconf(_SC_PAGESIZE);

    if (bytes > (long)SYSTEM_PAGE_BYTES)
        log_error("the system has memory pages of %ld bytes, and a heap needs pages of %d bytes: cannot serve", bytes,
                  (int)SYSTEM_PAGE_BYTES);
    return bytes <= (long)SYSTEM_PAGE_BYTES;
}

/* Where the heap came from, and who holds it besides. */
typedef struct home {
    keeper keeper;
    heapfile *file;
    bool recovered;
    bool stored; /* systemd has it already */
    bool loaded; /* out of an image */
    saver saver; /* who saves it at a stop */
    antechamber antechamber; /* who has connected while it was loaded */
    int listen_fd;
    int mark_fd; /* of the image that is older once it is served; -1: there is none */
} home;

/* True if the heap outlives this process. Systemd does not say what it holds: it is believed to. */
static bool is_held(void *data)
{
    const home *h = data;

    return h->keeper.fd >= 0 || notify_is_wanted();
}

static const char drop_advice[] =
    "start with --cold-start to drop it and begin with an empty heap; workers that still use it "
    "will be told that it is gone";

/* The descriptors of a heap that another daemon has left: systemd's, else the keeper's. 0, 1: none, -errno: logged. */
static int find_heap(const options *o, home *h, int ret_fds[HEAPFILE_NFDS])
{
    int from_keeper[HEAPFILE_NFDS];
    int stored = fdstore_take(ret_fds);
    int kept;

    h->stored = stored == 0;
    if (stored == FDSTORE_E_BROKEN && !o->cold_start) {
        log_event(LOG_EVENT_TAKEOVER_REFUSED, NULL, "systemd has descriptors of a heap, but not all: %s", drop_advice);
        return -EPROTO;
    }
    kept = o->state_dir == NULL ? KEEPER_E_NONE : keeper_connect(&h->keeper, o->state_dir, from_keeper);
    if (kept == 0 && h->stored)
        heapfile_close_fds(from_keeper);
    else if (kept == 0)
        memcpy(ret_fds, from_keeper, sizeof(from_keeper));
    if (kept < 0)
        return kept;
    return kept == 0 || h->stored ? 0 : 1;
}

/* Take over the heap that the descriptors hold. 0, -errno: logged. */
static int take_over(const options *o, const int fds[HEAPFILE_NFDS], heapfile *ret_file, mheap *ret_heap)
{
    const char *why = NULL;
    shm_version before;
    int r = heapfile_look(fds, &before, &why);

    if (r == 0)
        r = heapfile_open(ret_file, fds, &why);
    CRASH_POINT(recover_after_files);
    if (r == 0) {
        r = mheap_recover(ret_heap, ret_file, o->memory_limit_bytes, &why);
        if (r < 0)
            heapfile_close(ret_file); /* and the descriptors */
    }
    if (r < 0) {
        log_event(LOG_EVENT_TAKEOVER_REFUSED, NULL, "the heap that was left behind can't be used: %s%s; %s",
                  why != NULL ? why : strerror(-r),
                  r == -ENOEXEC ? "; it is as it was: start a goallocd of its version, and that takes it over" : "",
                  drop_advice);
        return r;
    }
    CRASH_POINT(recover_after_heap);
    if (before.minor != version_own()->minor)
        log_info("the heap that was left behind was of layout %u.%u, and is of %u.%u now", before.major, before.minor,
                 before.major, version_own()->minor);
    if (ret_file->map.arena_bytes != o->reserve_bytes || ret_file->map.base != o->base)
        log_warn("the heap that was left behind has %llu MiB at 0x%llx, and that stays",
                 (unsigned long long)(ret_file->map.arena_bytes / MIB), (unsigned long long)ret_file->map.base);
    return 0;
}

/*
 * The heap that was left behind is not to be served any more: on request, or because a daemon has dropped it and did
 * not come to the end of that. Whoever has it mapped is told, then nobody holds it any more. 1: there is none; -errno:
 * logged, and the heap is as it was.
 */
static int let_go(home *h, const int fds[HEAPFILE_NFDS])
{
    bool dropped = handover_is_dropped(fds[HEAPFILE_SPANS]) == 1;
    int lock = handover_lock(fds[HEAPFILE_PRIVATE]);

    if (lock == -EADDRINUSE && !dropped) {
        log_event(LOG_EVENT_TAKEOVER_REFUSED, NULL,
                  "the heap that was left behind can't be dropped: another goallocd serves it");
        heapfile_close_fds(fds);
        return lock;
    }
    log_event(LOG_EVENT_HEAP_DROPPED, NULL, "%s",
              dropped ? "the heap that was left behind was dropped" : "dropping the heap that was left behind");
    if (handover_mark_dropped(fds[HEAPFILE_SPANS]) < 0)
        log_warn("what was left behind is no heap: nobody who uses it can be told");
    CRASH_POINT(let_go_after_word);
    if (lock >= 0)
        (void)close(lock);
    heapfile_close_fds(fds);
    keeper_dismiss(&h->keeper);
    return 1;
}

static int make_heap(const options *o, heapfile *ret_file, mheap *ret_heap)
{
    int r = heapfile_create(ret_file, o->base, o->reserve_bytes);

    if (r < 0) {
        log_error("cannot make the heap: %s", strerror(-r));
        return r;
    }
    r = mheap_init(ret_heap, ret_file, o->memory_limit_bytes);
    if (r < 0) {
        log_error("cannot set up the page heap: %s", strerror(-r));
        heapfile_close(ret_file);
    }
    return r;
}

/* A heap that nobody has left: out of an image, or an empty one. 0, -errno: logged. */
static int begin_heap(const options *o, home *h, heapfile *ret_file, mheap *ret_heap)
{
    int r = 1;

    if (!o->cold_start && (o->image_path != NULL || o->load_path != NULL)) {
        antechamber_open(&h->antechamber, h->listen_fd);
        r = imagefile_load(o, &h->antechamber, ret_file, ret_heap);
        antechamber_close(&h->antechamber);
    }
    h->loaded = r == 0;
    return r == 1 ? make_heap(o, ret_file, ret_heap) : r;
}

static const char held_by_keeper[] = "a keeper holds the heap";
static const char held_by_nobody[] =
    "nobody holds the heap but this daemon until a keeper starts: if it dies before, the heap is gone";

/* The server tries again for as long as there is none. 0; -errno: there can't be one. */
static int start_keeper(home *h)
{
    int r = keeper_start(&h->keeper, h->file);

    if (r == KEEPER_E_LATER)
        log_event(LOG_EVENT_HEAP_UNHELD, NULL, "%s", held_by_nobody);
    else if (r == 0)
        log_event(LOG_EVENT_KEEPER_STARTED, NULL, "%s", held_by_keeper);
    return r < 0 ? r : 0;
}

/* Find or make the heap, and see to it that somebody holds it if this daemon dies. 0, -errno: logged. */
static int settle(const options *o, home *h, heapfile *ret_file, mheap *ret_heap)
{
    int fds[HEAPFILE_NFDS];
    int r = find_heap(o, h, fds);
    bool over = r == 0 && (o->cold_start || handover_is_dropped(fds[HEAPFILE_SPANS]) == 1);

    if (over)
        r = let_go(h, fds);
    if (r < 0)
        return r;
    if (over || o->cold_start)
        fdstore_remove(); /* also what was not whole: the next start would find it beside the new heap's */
    h->recovered = r == 0;
    r = h->recovered ? take_over(o, fds, ret_file, ret_heap) : begin_heap(o, h, ret_file, ret_heap);
    if (r < 0)
        return r;
    if (h->recovered && o->load_path != NULL)
        log_warn("--load %s: there is a heap, and that stays", o->load_path);
    if (!h->stored || !h->recovered)
        fdstore_put(ret_file);
    if (o->state_dir != NULL && h->keeper.fd < 0)
        r = start_keeper(h);
    if (r == 0)
        r = imagefile_open_mark(o, &h->mark_fd);
    if (r < 0) {
        mheap_end(ret_heap);
        heapfile_close(ret_file);
    }
    return r;
}

/* The keeper has died, or none has started: start one. Returns its descriptor, or -1. */
static int replace_keeper(void *data)
{
    home *h = data;
    bool had_one = h->keeper.fd >= 0;

    if (had_one)
        log_event(LOG_EVENT_KEEPER_LOST, NULL, "the keeper of the heap has died; starting another one");
    keeper_leave(&h->keeper);
    if (keeper_start(&h->keeper, h->file) == 0)
        log_event(LOG_EVENT_KEEPER_STARTED, NULL, "%s", held_by_keeper);
    else if (had_one)
        log_event(LOG_EVENT_HEAP_UNHELD, NULL, "%s", held_by_nobody);
    return h->keeper.fd;
}

/* The heap is to be saved. */
static int save(void *data)
{
    home *h = data;

    return saver_save(&h->saver, h->file);
}

/* The first client is about to be served. */
static int begin_serving(void *data)
{
    return imagefile_mark(((home *)data)->mark_fd);
}

static bool keeps_on_stop(const options *o)
{
    bool somebody = o->state_dir != NULL || notify_is_wanted();

    if (o->on_stop == ON_STOP_KEEP && !somebody)
        log_warn("--on-stop keep: nobody holds the heap without --state-dir or systemd, so it ends with this goallocd");
    return o->on_stop == ON_STOP_AUTO ? somebody : o->on_stop == ON_STOP_KEEP;
}

/* The socket that systemd has made, else one of its own. 0, -errno: logged. */
static int find_place(const options *o, listen_place *ret)
{
    int fd;
    int r = fdstore_take_socket(&fd);

    if (r < 0)
        return r;
    return r == 0 ? listen_take(ret, fd, o->socket_path) : listen_open(ret, o->socket_path);
}

/* The daemon has its socket and its heap: from here on it needs little. */
static void confine(const options *o, const char *socket_path)
{
    char dir[PATH_MAX] = ".";
    const char *slash = strrchr(socket_path, '/');
    const char *const dirs[] = { dir, o->state_dir, NULL };
    int r;

    if (slash != NULL) /* the path fits into a socket's address */
        (void)snprintf(dir, sizeof(dir), "%.*s", (int)(slash - socket_path) + 1, socket_path);
    r = privileges_confine(PRIVILEGES_DAEMON, dirs);
    if (r < 0)
        log_warn("the daemon keeps privileges, or has no filter of system calls: %s", strerror(-r));
}

/* 0, or -errno: logged. The saver is the caller's. */
static int run(const config_source *source, options *o, const saver *who_saves)
{
    const reload_setup setup = { .source = source, .running = o, .keeps_on_stop = keeps_on_stop };

    static server srv;
    listen_place place;
    heapfile file;
    mheap heap;
    home h = { .keeper = { .fd = -1 }, .file = &file, .saver = *who_saves, .mark_fd = -1 };
    const saving_setup saves = { .path = o->image_path, .fd = who_saves->fd, .wait_us = &o->image_wait_us, .begin = save,
                                 .data = &h };
    uint64_t began_ns = uv_hrtime();
    int r = find_place(o, &place);

    if (r < 0)
        return r;
    h.listen_fd = place.fd;
    r = settle(o, &h, &file, &heap);
    if (r < 0)
        goto out;
    u32_store_relaxed(&file.huge.never, !o->huge_pages);
    heap.max_bytes = o->max_memory_bytes;
    access_prepare();
    raise_priority(); /* which needs a privilege that it gives up now */
    confine(o, place.path);
    r = server_run(&srv, place.fd, &heap,
                   &(server_options){ .eager_commit = o->eager_commit,
                                      .scavtrace = o->scavtrace,
                                      .access = &o->access,
                                      .recovered = h.recovered || h.loaded,
                                      .loaded = h.loaded,
                                      .saving = &saves,
                                      .before_serving = begin_serving,
                                      .waiting = h.antechamber.fds,
                                      .nwaiting = h.antechamber.nfds,
                                      .began_ns = began_ns,
                                      .socket_path = place.path,
                                      .keep_on_stop = keeps_on_stop(o),
                                      .is_held = is_held,
                                      .watched_fd = h.keeper.fd,
                                      .watches = o->state_dir != NULL,
                                      .on_death = replace_keeper,
                                      .data = &h,
                                      .limits = &o->limits,
                                      .refuses_fds = place.refuses_fds,
                                      .reload = &setup });
    if (r < 0)
        log_error("cannot serve: %s", strerror(-r));
    mheap_end(&heap);
    heapfile_close(&file);
out:
    if (r == 0 && srv.dropped) {
        fdstore_remove();
        keeper_dismiss(&h.keeper);
    }
    keeper_leave(&h.keeper);
    listen_close(&place);
    return r;
}

int main(int argc, char **argv)
{
    static config_source source; /* for as long as a thread may read it */
    static options o;
    saver who_saves = { .fd = -1 };
    image_error why = { "" };
    int r;

    commandline_parse(&source, &o, argc, argv);
    if (o.check_takeover)
        return takeover_check(o.socket_path, o.state_dir);
    log_set_level(o.log_level);
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGHUP, SIG_IGN); /* until it serves: then the configuration is read again */
    privileges_prepare(o.filter);
    r = o.image_path == NULL ? 0 : saver_start(&who_saves, o.image_path, &why);
    if (r < 0) {
        log_error("--image %s: nothing can be saved there: %s", o.image_path, why.text);
        return EXIT_FAILURE;
    }
    r = log_open(privileges_confine_thread);
    if (r < 0) {
        log_error("the log has no thread: %s", strerror(-r));
        return EXIT_FAILURE;
    }
    raise_descriptor_limit();
    r = are_system_pages_small() ? run(&source, &o, &who_saves) : -EINVAL;
    saver_end(&who_saves);
    log_close();
    return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
