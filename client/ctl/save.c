/*
 * save: the heap of a running daemon as an image: goallocctl save.
 *
 * Called by goallocctl.c. Calls ask.c and the image's writer. It maps the heap read-only, as a client that reads, and
 * writes nothing but the file.
 *
 *   1. LOOK: the descriptors. What lives is counted, and memory for a copy of it is allocated and mapped, before
 *      anybody has to wait: memory that is mapped while it is copied into takes 30 times as long
 *   2. HOLD: no session can write from here on. If there is one that can, all processes that have the heap mapped are
 *      stopped first (client/collector/world.h). How long that will be is measured before, by all of it without a stop.
 *      A thread that does not stop in time (LONGEST_NS, --max-pause) lets all go on, and nothing is saved
 *   3. what lives is found out anew, and copied. If it is more than there is memory for, or a thread was stopped at a
 *      link or an unlink, from 1 again
 *   4. END: the heap goes on. Only if the hold has lasted until here is the copy one of an instant. All go on
 *   5. the image is written from the copy, in its own time
 *
 * A signal that would end this process while it writes has the writing given up first, so that no NAME.part is left,
 * and ends it then. Before the writing there is nothing to be cleaned up, and after the rename there is an image.
 *
 * Twice the memory of what lives is there for a while; if the system can't spare it, nothing is begun. If this process
 * dies, the kernel lets go of all whom it has stopped, the daemon ends the hold with the connection, and the file of
 * before is as it was.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "client/collector/world.h"
#include "client/ctl/commands.h"
#include "client/ctl/ctl.h"
#include "image/imageio.h"
#include "image/imagewriter.h"
#include "proto/wire.h"

#define TRIES       50
#define BUSY_MS     100 /* sessions that are at their end may take so long */
#define AGAIN_MS    20
#define WRITE_NICE  10
#define THREAD_NS   UINT64_C(30000) /* to stop one, and to let it go */
#define PROCESS_NS  UINT64_C(200000)
#define LOOK_MS     100
#define LONGEST_NS  UINT64_C(8000000000) /* of a pause; the daemon ends its hold after 10 s (request_save.c) */
#define TORN_MAX    3u /* what looks damaged while the daemon finishes an operation is whole a little later */
#define SPARE_PAGES 1024u /* for what is allocated between two looks */

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

typedef struct saved {
    int fds[IMAGE_FILES];
    image_heap files;
    image_source heap;
    image_plan plan;
    char *copy;
    uint64_t copy_pages;
    uint64_t held_ns;
    image_written written;
    bool pauses;          /* there are sessions that can write */
    uint64_t estimate_ns; /* of the pause, */
    uint64_t pause_ns;    /* and what it was */
    uint32_t nprocesses;
    unsigned ntorn; /* how often it looked damaged */
} saved;

static uint64_t now_ns(clockid_t id)
{
    struct timespec ts = { 0, 0 };

    (void)clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* --- asking --- */

static const Goallocd__Reply *ask_hold(const arguments *args, Goallocd__Save__Step step,
                                       Goallocd__Reply__ResultCase kind, bool paused)
{
    asker who = args->who;
    Goallocd__Save body = GOALLOCD__SAVE__INIT;
    Goallocd__Request request = WIRE_REQUEST(SAVE, save, &body);

    body.step = step;
    body.paused = paused;
    who.until = deadline_in(who.timeout_ms);
    return ask(&who, &request, kind);
}

static const Goallocd__Reply *ask_step(const arguments *args, Goallocd__Save__Step step,
                                       Goallocd__Reply__ResultCase kind)
{
    return ask_hold(args, step, kind, false);
}

/* Map what the daemon has handed over. The exit status. */
static int map_heap(saved *s, const arguments *args)
{
    image_error why = { "" };
    int r;

    if (ask_step(args, GOALLOCD__SAVE__STEP__LOOK, GOALLOCD__REPLY__RESULT_SAVE) == NULL)
        return ask_failed(&args->who);
    if (!ask_take_fds(s->fds, IMAGE_FILES))
        return ctl_fail(CTL_E_NOT_UNDERSTOOD, 0, "the daemon has not handed over the heap");
    r = image_heap_map(&s->files, s->fds, VERSION_READS, &why);
    if (r < 0)
        return ctl_fail(r == -ENOMEM ? CTL_E_MEMORY : CTL_E_NOT_UNDERSTOOD, -r, "%s", why.text);
    s->heap = (image_source){ .map = &s->files.map, .arena_fd = s->fds[IMAGE_FILE_ARENA] };
    return CTL_OK;
}

/* Nobody writes from here on; or *ret_writers: there is who can. The exit status. */
static int hold(const arguments *args, bool *ret_writers)
{
    *ret_writers = false;
    for (int waited_ms = 0;; waited_ms += AGAIN_MS) {
        if (ask_step(args, GOALLOCD__SAVE__STEP__HOLD, GOALLOCD__REPLY__RESULT__NOT_SET) != NULL)
            return CTL_OK;
        if (ask_refused() != EBUSY)
            return ask_failed(&args->who);
        *ret_writers = waited_ms >= BUSY_MS;
        if (*ret_writers)
            return CTL_OK;
        (void)poll(NULL, 0, AGAIN_MS);
    }
}

/* --- the copy --- */

/* What the system can spare, by its own account. */
static uint64_t available_bytes(void)
{
    FILE *f = fopen("/proc/meminfo", "re");
    unsigned long long kib = 0;
    char line[128];

    while (f != NULL && fgets(line, sizeof(line), f) != NULL) {
        if (strncmp(line, "MemAvailable:", 13) == 0)
            kib = strtoull(line + 13, NULL, 10);
    }
    if (f != NULL)
        (void)fclose(f);
    return kib * KIB;
}

static void drop_copy(saved *s)
{
    if (s->copy != NULL)
        (void)munmap(s->copy, s->copy_pages * PAGE_BYTES);
    s->copy = NULL;
}

/* Memory for so many pages, mapped. The exit status. */
static int prepare(saved *s, uint64_t npages)
{
    uint64_t bytes = (npages + SPARE_PAGES) * PAGE_BYTES;
    void *p;

    drop_copy(s);
    if (bytes > available_bytes())
        return ctl_fail(CTL_E_MEMORY, ENOMEM,
                        "the copy takes %s beside the heap, and the system can spare %s", ctl_bytes(bytes),
                        ctl_bytes(available_bytes()));
    p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return ctl_fail(CTL_E_MEMORY, errno, "no memory for the copy: %s", strerror(errno));
    s->copy = p;
    s->copy_pages = npages + SPARE_PAGES;
    (void)madvise(p, bytes, MADV_HUGEPAGE);
    if (madvise(p, bytes, MADV_POPULATE_WRITE) < 0 && errno != EINVAL)
        return ctl_fail(CTL_E_MEMORY, errno, "no memory for the copy: %s", strerror(errno));
    return CTL_OK;
}

static int fail_plan(int r, const image_error *why)
{
    return ctl_fail(r == -ENOMEM ? CTL_E_MEMORY : CTL_E_IMAGE, -r, "%s", why->text);
}

/* While nobody writes. *ret_again: there is more than memory for it, or it is no good moment. The exit status. */
static int copy_held(saved *s, bool *ret_again)
{
    image_error why = { "" };
    int r;

    image_plan_free(&s->plan);
    r = image_plan_make(&s->plan, &s->heap, &why);
    *ret_again = r == -EAGAIN || (r == -EUCLEAN && s->ntorn++ < TORN_MAX) ||
                 (r == 0 && s->plan.header.npages > s->copy_pages);
    if (*ret_again)
        return CTL_OK;
    if (r < 0)
        return fail_plan(r, &why);
    r = image_plan_copy(&s->plan, &s->heap, s->copy, 0);
    return r < 0 ? ctl_fail(CTL_E_IMAGE, -r, "the heap can't be read: %s", strerror(-r)) : CTL_OK;
}

/* The same between HOLD and END, of a heap that nobody writes. */
static int copy_and_end(saved *s, const arguments *args, bool *ret_again)
{
    uint64_t began_ns = now_ns(CLOCK_MONOTONIC);
    int status = copy_held(s, ret_again);

    if (ask_step(args, GOALLOCD__SAVE__STEP__END, GOALLOCD__REPLY__RESULT__NOT_SET) == NULL)
        return ask_failed(&args->who);
    s->held_ns = now_ns(CLOCK_MONOTONIC) - began_ns;
    return status;
}

/* The processor time of a plan, which one thread makes, and of a copy, which several share. The exit status. */
static int try_once(saved *s, uint64_t *ret_ns)
{
    uint64_t plan_ns = now_ns(CLOCK_THREAD_CPUTIME_ID);
    uint64_t copy_ns;
    image_error why = { "" };
    int r;

    image_plan_free(&s->plan);
    r = image_plan_make(&s->plan, &s->heap, &why);
    if (r == -EAGAIN || r == -EUCLEAN)
        return CTL_OK; /* the real one is tried again as well; and what changes meanwhile may look damaged */
    if (r < 0)
        return fail_plan(r, &why);
    plan_ns = now_ns(CLOCK_THREAD_CPUTIME_ID) - plan_ns;
    copy_ns = now_ns(CLOCK_PROCESS_CPUTIME_ID);
    if (s->plan.header.npages <= s->copy_pages)
        r = image_plan_copy(&s->plan, &s->heap, s->copy, 0);
    copy_ns = (now_ns(CLOCK_PROCESS_CPUTIME_ID) - copy_ns) / image_threads(0, s->plan.nblocks);
    if (plan_ns + copy_ns < *ret_ns)
        *ret_ns = plan_ns + copy_ns;
    return r < 0 ? ctl_fail(CTL_E_IMAGE, -r, "the heap can't be read: %s", strerror(-r)) : CTL_OK;
}

/* The longest that all may be stopped. */
static uint64_t longest_ns(const arguments *args)
{
    uint64_t asked_ns = args->max_pause_ms * UINT64_C(1000000);

    return asked_ns != 0 && asked_ns < LONGEST_NS ? asked_ns : LONGEST_NS;
}

/*
 * What the pause will take: all of it, without one. What is copied so is torn, and thrown away. The first time maps
 * what it reads, so the second counts; and processor time, since in the pause this process comes before all others.
 */
static int estimate(saved *s, const arguments *args, uint32_t nprocesses, uint32_t nthreads)
{
    uint64_t ns = UINT64_MAX;
    int status = try_once(s, &ns);

    if (status == CTL_OK)
        status = try_once(s, &ns);
    s->estimate_ns = (ns == UINT64_MAX ? 1 : ns) + nprocesses * PROCESS_NS + nthreads * THREAD_NS;
    if (status != CTL_OK)
        return status;
    if (s->estimate_ns > longest_ns(args))
        return ctl_fail(CTL_E_IMAGE, ETIMEDOUT, "the pause would be some %.0f ms, for %u process%s with %u thread%s",
                        (double)s->estimate_ns / 1e6, nprocesses, nprocesses == 1 ? "" : "es", nthreads,
                        nthreads == 1 ? "" : "s");
    if (!args->json)
        (void)fprintf(stderr, "goallocctl: %u process%s for some %.0f ms\n", nprocesses,
                      nprocesses == 1 ? " is stopped" : "es are stopped", (double)s->estimate_ns / 1e6);
    return CTL_OK;
}

/*
 * Between a stop of all and their going on. Who has attached since world_prepare() is not stopped, and would write what
 * is copied: nobody can attach any more once the heap is held, so it is looked at then, and all of it done again.
 */
static int copy_stopped(saved *s, const arguments *args, world *w, bool *ret_again)
{
    world_trouble trouble;
    int r;

    if (ask_hold(args, GOALLOCD__SAVE__STEP__HOLD, GOALLOCD__REPLY__RESULT__NOT_SET, true) == NULL) {
        *ret_again = ask_refused() == EBUSY;
        return *ret_again ? CTL_OK : ask_failed(&args->who);
    }
    r = world_validate(w, &trouble);
    if (r < 0) {
        *ret_again = r == -EAGAIN;
        if (ask_step(args, GOALLOCD__SAVE__STEP__END, GOALLOCD__REPLY__RESULT__NOT_SET) == NULL)
            return ask_failed(&args->who);
        return *ret_again ? CTL_OK : ctl_fail(CTL_E_IMAGE, -r, "the heap can't be held still: %s", trouble.text);
    }
    return copy_and_end(s, args, ret_again);
}

/* Stop all, copy, let them go. */
static int copy_in_pause(saved *s, const arguments *args, bool *ret_again)
{
    const world_options options = { .max_pause_ns = longest_ns(args), .trust_kernel = true, .only_stop = true,
                                    .no_estimate = true };
    world_trouble trouble;
    world w;
    int status = CTL_OK;
    sigset_t stops;
    sigset_t before;
    int r = world_prepare(&w, &s->files.map, &options, &trouble);

    if (r == 0 && s->estimate_ns == 0)
        status = estimate(s, args, w.nprocesses, w.nthreads);
    /* A Ctrl-Z waits: all others are stopped for as long as this process is. */
    (void)sigemptyset(&stops);
    (void)sigaddset(&stops, SIGTSTP);
    (void)sigaddset(&stops, SIGTTIN);
    (void)sigaddset(&stops, SIGTTOU);
    (void)pthread_sigmask(SIG_BLOCK, &stops, &before);
    if (r == 0 && status == CTL_OK)
        r = world_stop(&w, &trouble);
    if (r == 0 && status == CTL_OK)
        status = copy_stopped(s, args, &w, ret_again);
    world_resume(&w);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    s->pause_ns = w.pause_end_ns - w.pause_begin_ns;
    s->nprocesses = w.nprocesses;
    world_free(&w);
    *ret_again |= r == -EAGAIN;
    return r == 0 || r == -EAGAIN ? status
                                  : ctl_fail(CTL_E_IMAGE, -r, "somebody can write the heap, and can't be stopped: %s",
                                             trouble.text);
}

/* From 1 to 4. The exit status. */
static int take(saved *s, const arguments *args)
{
    image_error why = { "" };
    int r = image_plan_make(&s->plan, &s->heap, &why);

    if (r < 0 && r != -EAGAIN && r != -EUCLEAN)
        return fail_plan(r, &why);
    for (int i = 0; i < TRIES; i++) {
        uint64_t npages = s->plan.header.npages + s->plan.header.npages / 8;
        bool again = false;
        int status = npages + SPARE_PAGES > s->copy_pages ? prepare(s, npages) : CTL_OK;

        if (status == CTL_OK && !s->pauses)
            status = hold(args, &s->pauses);
        if (status == CTL_OK)
            status = s->pauses ? copy_in_pause(s, args, &again) : copy_and_end(s, args, &again);
        if (status != CTL_OK || !again)
            return status;
        (void)poll(NULL, 0, AGAIN_MS);
    }
    return ctl_fail(CTL_E_IMAGE, EAGAIN, "the heap was at no good moment, or has grown faster than memory for the copy "
                                         "was prepared, %d times", TRIES);
}

/* --- writing --- */

typedef struct showing {
    const image_plan *plan;
    shm_u64 ndone;
    shm_u32 over;
} showing;

/* On a terminal. */
static void *show_progress(void *data)
{
    showing *sh = data;

    for (int i = 0; u32_load_acquire(&sh->over) == 0; i++) {
        if (i > 3)
            (void)fprintf(stderr, "\rsaving: %3u%%",
                          (unsigned)(u64_load_relaxed(&sh->ndone) * 100 / sh->plan->nblocks));
        (void)poll(NULL, 0, LOOK_MS);
    }
    (void)fputs("\r\x1b[K", stderr);
    return NULL;
}

/* --- signals, while it writes --- */

static const int ending_signals[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGXCPU };
#define NENDING (sizeof(ending_signals) / sizeof(ending_signals[0]))

static shm_u32 ended_by; /* the one that has come; 0: none */

static void on_ending_signal(int number)
{
    u32_store_release(&ended_by, (uint32_t)number);
}

/* What is ignored stays so (nohup). A file that may not grow so long is an error of a write, and no signal. */
static void signals_wait(struct sigaction before[NENDING])
{
    const struct sigaction action = { .sa_handler = on_ending_signal, .sa_flags = SA_RESTART };

    (void)signal(SIGXFSZ, SIG_IGN);
    for (size_t i = 0; i < NENDING; i++) {
        if (sigaction(ending_signals[i], NULL, &before[i]) == 0 && before[i].sa_handler == SIG_DFL)
            (void)sigaction(ending_signals[i], &action, NULL);
    }
}

/* As they were; what has come too late to give anything up is of no effect: the image is there, and so is its line. */
static void signals_act(const struct sigaction before[NENDING])
{
    for (size_t i = 0; i < NENDING; i++)
        (void)sigaction(ending_signals[i], &before[i], NULL);
}

static int write_image(saved *s, const arguments *args)
{
    showing sh = { .plan = &s->plan };
    const image_writing how = { .mark = IMAGE_COPY,
                                .level = args->level_given ? (int)args->level : IMAGE_LEVEL,
                                .ndone = &sh.ndone,
                                .stop = &ended_by };
    struct sigaction before[NENDING];
    pthread_t thread;
    image_error why = { "" };
    bool shows = s->plan.nblocks > 0 && isatty(STDERR_FILENO) == 1 &&
                 pthread_create(&thread, NULL, show_progress, &sh) == 0;
    int r;

    signals_wait(before);
    (void)setpriority(PRIO_PROCESS, 0, WRITE_NICE); /* of this thread, and of those that it makes: nobody waits */
    r = image_save(AT_FDCWD, args->words[0], &s->plan, &s->heap, &how, &s->written, &why);
    u32_store_release(&sh.over, 1);
    if (shows)
        (void)pthread_join(thread, NULL);
    signals_act(before);
    if (r == -ECANCELED)
        return ctl_fail(CTL_E_IMAGE, ECANCELED, "given up (%s): %s is as it was", strsignal((int)ended_by),
                        args->words[0]);
    if (r < 0 && s->written.in_place)
        return ctl_fail(CTL_E_IMAGE, -r, "the heap is saved into %s: %s", args->words[0], why.text);
    return r < 0 ? ctl_fail(CTL_E_IMAGE, -r, "%s", why.text) : CTL_OK;
}

static int show(const saved *s, const arguments *args)
{
    const image_header *h = &s->plan.header;
    json_t *object;
    bool whole;

    if (!args->json) {
        (void)printf("saved %" PRIu64 " objects, %s, and %" PRIu64 " roots into %s, in %" PRIu64
                     " ms; requests waited for %.1f ms of them",
                     h->live_objects, ctl_bytes(h->live_bytes), h->nroots, ctl_bytes(s->written.file_bytes),
                     (s->written.took_ns + s->held_ns) / 1000000, (double)s->held_ns / 1e6);
        if (s->pauses)
            (void)printf(", and %u process%s stopped for %.1f ms", s->nprocesses,
                         s->nprocesses == 1 ? " was" : "es were", (double)s->pause_ns / 1e6);
        (void)putchar('\n');
        return fflush(stdout) == 0 ? CTL_OK : ctl_fail(CTL_E_OUTPUT, 0, "stdout: %s", strerror(errno));
    }
    object = json_object();
    whole = object != NULL && ctl_json_set(object, "live_objects", h->live_objects) &&
            ctl_json_set(object, "live_bytes", h->live_bytes) && ctl_json_set(object, "roots", h->nroots) &&
            ctl_json_set(object, "copied_bytes", h->npages * PAGE_BYTES) &&
            ctl_json_set(object, "file_bytes", s->written.file_bytes) &&
            ctl_json_set(object, "held_us", s->held_ns / 1000) &&
            ctl_json_set(object, "write_us", s->written.took_ns / 1000) &&
            ctl_json_set(object, "processes", s->nprocesses) && ctl_json_set(object, "pause_us", s->pause_ns / 1000) &&
            ctl_json_set(object, "estimate_us", s->estimate_ns / 1000) && ctl_json_print(object);
    json_decref(object);
    return whole ? CTL_OK : ctl_fail(CTL_E_MEMORY, 0, "out of memory");
}

int save_run(const arguments *args)
{
    saved s = { .fds = { -1, -1, -1 } };
    image_error why = { "" };
    int r = image_check_place(AT_FDCWD, args->words[0], &why); /* before anybody is stopped for it */
    int status;

    if (r < 0)
        return ctl_fail(CTL_E_IMAGE, -r, "nothing can be saved into %s: %s", args->words[0], why.text);
    status = map_heap(&s, args);
    if (status == CTL_OK)
        status = take(&s, args);
    if (status == CTL_OK)
        status = write_image(&s, args);
    if (status == CTL_OK)
        status = show(&s, args);
    image_plan_free(&s.plan);
    drop_copy(&s);
    image_heap_unmap(&s.files);
    for (int i = 0; i < IMAGE_FILES; i++) {
        if (s.fds[i] >= 0)
            (void)close(s.fds[i]);
    }
    if (status != CTL_OK && u32_load_acquire(&ended_by) != 0) /* a shell is to see what has ended it */
        (void)raise((int)u32_load_acquire(&ended_by));
    return status;
}
