/*
 * leaks: what nobody can reach any more: goallocctl leaks.
 *
 * The one command that attaches: it is a cycle of the collector (client/collector/), run here. What is asked of the
 * daemon beside that are labels of sessions that have ended (SessionList) and the profile, if there is one
 * (ProfileRead): its records say which stack has allocated a sampled object that is garbage.
 *
 *     collect_run() -- found(), before anything is freed --> sums by session; first objects; why; profile
 *                   --> leaks_show.c
 *
 * Progress goes to stderr if that is a terminal, once the cycle has taken PROGRESS_AFTER_NS.
 */
#include "client/ctl/leaks_show.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/ctl/commands.h"
#include "client/ctl/ctl.h"
#include "proto/wire.h"
#include "shm/origin.h"

#define ROWS_PRESET        20u
#define JSON_ROWS_PRESET   1000u
#define PROGRESS_AFTER_NS  UINT64_C(1000000000)
#define PROGRESS_EACH_NS   UINT64_C(200000000)
#define SYMBOLS_TIMEOUT_MS 60000
#define READ_NFDS          3

static uint64_t why_address; /* 0: none was given */

bool leaks_set(const arguments *args)
{
    if (args->why != NULL) {
        char *end;

        errno = 0;
        why_address = strtoull(args->why, &end, 0);
        if (*end != '\0' || errno != 0 || why_address == 0)
            return false;
    }
    return !(args->why != NULL && (args->free_them || args->all));
}

/* --- progress --- */

typedef struct progress {
    bool wanted;
    bool shown;
    uint64_t begin_ns;
    uint64_t last_ns;
} progress;

static progress shown_progress;

static void show_progress(enum collect_step step, uint64_t n, uint64_t total, void *arg)
{
    static const char *const steps[] = { "waiting for sessions to end", "copying", "marking", "freeing" };
    progress *p = &shown_progress;
    uint64_t now = heapcopy_now_ns();

    (void)arg;
    if (!p->wanted || now - p->begin_ns < PROGRESS_AFTER_NS || now - p->last_ns < PROGRESS_EACH_NS)
        return;
    p->last_ns = now;
    p->shown = true;
    if (step == COLLECT_MARKS && total > 0)
        (void)fprintf(stderr, "\r%s: %3.0f%% of %s objects\033[K", steps[step], 100.0 * (double)n / (double)total,
                      ctl_count(total));
    else
        (void)fprintf(stderr, "\r%s\033[K", steps[step]);
}

static void end_progress(void)
{
    if (shown_progress.shown)
        (void)fputs("\r\033[K", stderr);
}

/* --- sessions --- */

static leaks_session *session_of(leaks *l, const leaks_session *like)
{
    for (size_t i = 0; i < l->nsessions; i++) {
        leaks_session *s = &l->sessions[i];

        if (s->session == like->session && s->epoch == like->epoch && s->mixed == like->mixed)
            return s;
    }
    l->sessions[l->nsessions] = *like;
    return &l->sessions[l->nsessions++];
}

static int sum_by_session(leaks *l, const collect_view *view)
{
    const garbage *g = view->garbage;

    l->sessions = calloc(g->nparts + 1, sizeof(*l->sessions));
    if (l->sessions == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < g->nparts; i++) {
        origin_word origin = origin_unpack(g->parts[i].origin);
        leaks_session like = { .mixed = origin.state == ORIGIN_MIXED };
        leaks_session *s;

        if (origin.state == ORIGIN_ALONE) {
            like.session = origin.session.n;
            like.epoch = origin.epoch;
        }
        s = session_of(l, &like);
        s->sum.objects += g->parts[i].sum.objects;
        s->sum.bytes += g->parts[i].sum.bytes;
    }
    return 0;
}

/* The label of each session, also of those that have ended as long as the daemon knows them. A reply may be missing. */
static void name_sessions(leaks *l, const asker *who)
{
    Goallocd__SessionList body = GOALLOCD__SESSION_LIST__INIT;
    Goallocd__Request request = WIRE_REQUEST(SESSION_LIST, session_list, &body);

    for (;;) {
        const Goallocd__Reply *reply = ask(who, &request, GOALLOCD__REPLY__RESULT_SESSION_LIST);

        if (reply == NULL)
            return;
        for (size_t i = 0; i < reply->session_list->n_sessions; i++) {
            const Goallocd__SessionInfo *from = reply->session_list->sessions[i];

            for (size_t k = 0; k < l->nsessions; k++) {
                leaks_session *to = &l->sessions[k];

                if (to->session == 0 || to->session != from->session || to->epoch != from->epoch)
                    continue;
                to->ended = from->state == SHM_SESSION_DETACHED || from->state == SHM_SESSION_DIED;
                (void)ctl_plain_text(from->label, to->label, sizeof(to->label));
            }
        }
        if (reply->session_list->next <= body.start)
            return;
        body.start = reply->session_list->next;
    }
}

/* --- objects --- */

static size_t rows_wanted(const arguments *args)
{
    return args->nrows != 0 ? args->nrows : args->json ? JSON_ROWS_PRESET : ROWS_PRESET;
}

static bool gather_object(const heap_object *object, void *arg)
{
    leaks *l = arg;
    const heap_span *span = object->span;

    if (l->nobjects == rows_wanted(l->args))
        return false;
    l->objects[l->nobjects++] = (leaks_object){ .address = l->base + object->offset,
                                                .bytes = object->bytes,
                                                .class = span_class_size((span_class){ span->spc }).n,
                                                .noscan = span->flags & HEAP_SPAN_NOSCAN,
                                                .leased = span->flags & HEAP_SPAN_LEASED };
    return true;
}

static int gather_objects(leaks *l, const collect_view *view)
{
    size_t most = rows_wanted(l->args);

    l->base = view->heap->base;
    if (most > view->garbage->total.objects)
        most = (size_t)view->garbage->total.objects;
    l->objects = calloc(most + 1, sizeof(*l->objects));
    if (l->objects == NULL)
        return -ENOMEM;
    garbage_each(view->heap, gather_object, l);
    return 0;
}

/* --- stacks --- */

static bool is_garbage(uint64_t offset, void *arg)
{
    return garbage_has(arg, offset);
}

/* The rows of the profile that stand for garbage. A heap without a profile, or without leave to read it, has none. */
static void read_profile(leaks *l, const collect_view *view)
{
    Goallocd__ProfileRead body = GOALLOCD__PROFILE_READ__INIT;
    Goallocd__Request request = WIRE_REQUEST(PROFILE_READ, profile_read, &body);
    const snapshot_filter filter = { .wants = is_garbage, .arg = view->heap };
    const Goallocd__Reply *reply = ask(&l->args->who, &request, GOALLOCD__REPLY__RESULT_PROFILE_READ);
    int fds[READ_NFDS];
    snapshot_files files;

    if (reply == NULL)
        return;
    files.rate = reply->profile_read->rate_bytes;
    if (!ask_take_fds(fds, READ_NFDS))
        return;
    files.spans = fds[0];
    files.bitmap = fds[1];
    files.region = fds[2];
    l->has_profile = snapshot_take(&l->profile, &files, &filter) == 0;
    for (int i = 0; i < READ_NFDS; i++)
        (void)close(fds[i]);
}

/* --- why --- */

/* The view ends: what is shown of it is copied. */
static int copy_range(collect_link *link)
{
    words_range *range = malloc(sizeof(*range));
    char *mapping = strdup(link->range->mapping);

    if (range == NULL || mapping == NULL) {
        free(range);
        free(mapping);
        return -ENOMEM;
    }
    *range = *link->range;
    range->mapping = mapping;
    link->range = range;
    return 0;
}

/* On an error the chain ends before the link that could not be copied. */
static int gather_why(leaks *l, const collect_view *view)
{
    uint32_t n;

    l->asked_why = true;
    l->why = calloc(COLLECT_WHY_STEPS, sizeof(*l->why));
    if (l->why == NULL)
        return -ENOMEM;
    n = collect_why(view, why_address, l->why, &l->why_is_garbage);
    for (; l->nwhy < n; l->nwhy++) {
        if (l->why[l->nwhy].range != NULL && copy_range(&l->why[l->nwhy]) < 0)
            return -ENOMEM;
    }
    return 0;
}

/* --- the cycle --- */

static int found(const collect_view *view, void *arg)
{
    leaks *l = arg;
    int r = sum_by_session(l, view);

    if (r == 0)
        r = gather_objects(l, view);
    if (r == 0 && why_address != 0)
        r = gather_why(l, view);
    if (r == 0 && view->garbage->total.objects > 0)
        read_profile(l, view);
    return r;
}

static int failed(const world_trouble *t)
{
    enum ctl_error why = t->error == -ENOENT || t->error == -ECONNREFUSED ? CTL_E_NO_DAEMON
                         : t->error == -ETIMEDOUT                         ? CTL_E_TIMEOUT
                         : t->error == -ENOMEM                            ? CTL_E_MEMORY
                                                                          : CTL_E_REFUSED;

    if (t->pid != 0)
        return ctl_fail(why, -t->error, "%s (process %d); nothing was freed", t->text, (int)t->pid);
    return ctl_fail(why, -t->error, "%s", t->text);
}

static void leaks_end(leaks *l)
{
    for (uint32_t i = 0; i < l->nwhy; i++) {
        if (l->why[i].range != NULL) {
            free((void *)(uintptr_t)l->why[i].range->mapping);
            free((void *)(uintptr_t)l->why[i].range);
        }
    }
    free(l->why);
    free(l->sessions);
    free(l->objects);
    if (l->has_profile) {
        symbols_free(&l->symbols);
        snapshot_free(&l->profile);
    }
    collect_end(&l->result);
}

int leaks_run(const arguments *args)
{
    leaks l = { .args = args };
    collect_options options = {
        .socket_path = args->who.socket_path,
        .flags = (args->free_them ? COLLECT_FREE : 0) | (args->free_them && args->all ? COLLECT_ALL : 0) |
                 (args->offsets ? COLLECT_OFFSETS : 0) | (args->trust_kernel ? COLLECT_TRUST_KERNEL : 0) |
                 (why_address != 0 ? COLLECT_HOLDERS : 0),
        .max_pause_ns = args->max_pause_ms != 0 ? args->max_pause_ms * UINT64_C(1000000) : COLLECT_MAX_PAUSE_NS,
        .timeout_ms = args->who.timeout_ms,
        .progress = show_progress,
        .found = found,
        .arg = &l,
    };
    int status;
    int r;

    shown_progress = (progress){ .wanted = isatty(STDERR_FILENO), .begin_ns = heapcopy_now_ns() };
    r = collect_run(&options, &l.result);
    end_progress();
    if (r == 0) {
        asker who = args->who;

        who.until = deadline_in(who.timeout_ms); /* the cycle took its time */
        name_sessions(&l, &who);
        if (l.has_profile && symbols_init(&l.symbols, &l.profile, SYMBOLS_TIMEOUT_MS) < 0) {
            snapshot_free(&l.profile);
            l.has_profile = false;
        }
        status = args->json ? leaks_print_json(&l) : leaks_print_text(&l);
    } else {
        status = failed(&l.result.trouble);
    }
    leaks_end(&l);
    return status;
}
