/*
 * Reload: reads the configuration again while the daemon serves, and has what can change take effect.
 *
 * Called by requests.c (Reload) and server.c (SIGHUP). Calls config, which reads, and those whose limits change: users,
 * session, the heap. Data: the running options, which are the loop's.
 *
 *   1. handle_reload() has who asks wait for ROUND_RELOAD; reload_ask()
 *   2. begin(): all who wait have JOINED; a thread of its own reads the files and looks up names
 *   3. finish(), in the loop: with a mistake nothing changes; else each key that differs is exchanged if it reloads,
 *      and apply() has the others look at the new values: all within one turn of the loop
 *   4. those who have JOINED are answered; if somebody has asked meanwhile it begins anew, since the files may have
 *      changed after they were read
 *
 * So however many ask, one thread reads, and who asks waits for two readings at most. It is no thread of libuv's pool:
 * a file on a server that does not answer, or a service of names that hangs, may hold it for ever, while the pool's
 * threads commit memory, and the loop does not end before they are through. A thread that hangs keeps those who have
 * asked waiting, and nobody else; when the daemon stops, it is left to itself (abandoned), and ends with the process.
 *
 * Of a request to reload nothing is left in the heap. Wherever a daemon dies in it, the next one reads the files anew.
 * One that is wrong keeps that daemon from starting, so the log says that, too.
 *
 * Who has more than a limit that was lowered keeps it, and gets no more until it has less: nobody's connection, session
 * or memory is taken away (a connection that has more bytes unread than it may is closed when it gets another one).
 * Who may attach is asked at the next attach; sessions that are open stay.
 */
#include "daemon/serve/reload.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/config.h"
#include "daemon/notify.h"
#include "proto/reload.h"
#include "shm/crash.h"

#define TEXT_BYTES 200u /* of a value that is shown: with all keys a reply stays below a frame's length */

/* The thread's until it is done, then the loop's; of an abandoned one the thread's for good. */
typedef struct reload_job {
    const config_source *source;
    uv_async_t *done;
    bool is_done;   /* under the lock: the thread has let go of it */
    bool abandoned; /* under the lock: nobody waits for it any more */
    bool is_whole;
    options read;
    config_mistakes mistakes;
} reload_job;

_Static_assert(OPTIONS_MAX * (3 * TEXT_BYTES + 128) < FRAME_PAYLOAD_MAX, "all keys fit into a frame");
_Static_assert(CONFIG_MISTAKES_MAX * (CONFIG_MISTAKE_BYTES + 8) < FRAME_PAYLOAD_MAX, "all mistakes do");

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* held for a few instructions */

typedef struct key_report {
    Goallocd__ReloadKey key;
    char old[TEXT_BYTES];
    char wanted[TEXT_BYTES];
    char origin[TEXT_BYTES];
} key_report;

/* What those who have asked are told. One reload is reported at a time. */
typedef struct report {
    size_t nkeys;
    unsigned napplied;
    unsigned nrefused;
    key_report keys[OPTIONS_MAX];
    Goallocd__ReloadKey *key_pointers[OPTIONS_MAX];
    char *mistakes[CONFIG_MISTAKES_MAX];
} report;

/* --- reading --- */

static void job_free(reload_job *job)
{
    if (job->is_whole)
        options_end(&job->read);
    free(job);
}

static void *read_all(void *arg)
{
    reload_job *job = arg;
    bool abandoned;

    job->is_whole = config_load(job->source, &job->read, &job->mistakes);
    (void)pthread_mutex_lock(&lock);
    abandoned = job->abandoned;
    job->is_done = true;
    if (!abandoned)
        (void)uv_async_send(job->done);
    (void)pthread_mutex_unlock(&lock);
    if (abandoned)
        job_free(job);
    return NULL;
}

static int start_thread(reload_job *job)
{
    pthread_attr_t attr;
    pthread_t thread;
    int e = pthread_attr_init(&attr);

    if (e != 0)
        return -e;
    (void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    e = pthread_create(&thread, &attr, read_all, job);
    (void)pthread_attr_destroy(&attr);
    return -e;
}

/* --- what has changed --- */

static void copy_text(char ret[TEXT_BYTES], const char *text)
{
    size_t len = text == NULL ? 0 : strlen(text);

    if (len >= TEXT_BYTES)
        (void)snprintf(ret, TEXT_BYTES, "%.*s...", (int)TEXT_BYTES - 4, text);
    else
        (void)snprintf(ret, TEXT_BYTES, "%s", text == NULL ? "" : text);
}

static key_report *report_key(report *rep, const option_row *row, const option_value *old, const option_value *wanted,
                              enum reload_result result)
{
    key_report *k = &rep->keys[rep->nkeys];

    goallocd__reload_key__init(&k->key);
    copy_text(k->old, old->text);
    copy_text(k->wanted, wanted->text);
    copy_text(k->origin, wanted->origin);
    k->key.name = (char *)(uintptr_t)row->name;
    k->key.result = (uint32_t)result;
    k->key.old = k->old;
    k->key.wanted = k->wanted;
    k->key.origin = k->origin;
    rep->key_pointers[rep->nkeys++] = &k->key;
    return k;
}

/* What the running options say changes to what was read, but for what takes a restart. */
static void exchange(options *running, options *read, report *rep)
{
    for (unsigned i = 0; i < options_count(); i++) {
        const option_row *row = option_row_at(i);
        bool is_same = option_is_same(running, read, i);
        enum reload_result result = is_same ? RELOAD_UNCHANGED : row->reloads ? RELOAD_APPLIED : RELOAD_REFUSED;
        const key_report *k;

        if (row->section == SECTION_NONE)
            continue;
        k = report_key(rep, row, &running->values[i], &read->values[i], result);
        if (row->reloads)
            option_exchange(running, read, i); /* a name in a list may be another number by now */
        rep->napplied += result == RELOAD_APPLIED;
        rep->nrefused += result == RELOAD_REFUSED;
        if (result == RELOAD_APPLIED)
            log_info("%s: '%s' instead of '%s'", row->name, k->wanted, k->old);
        else if (result == RELOAD_REFUSED)
            log_warn("%s: '%s' stays; '%s' (%s) takes a restart", row->name, k->old, k->wanted, k->origin);
    }
}

/* The running options hold. Those who have copied something of them are told. */
static void apply(reload *r)
{
    const options *o = r->setup->running;
    service *srv = r->srv;

    log_set_level(o->log_level);
    *r->keep_on_stop = r->setup->keeps_on_stop(o);
    users_set_limits(&srv->users, &o->limits);
    session_table_set_limits(&srv->sessions);
    CRASH_POINT(reload_half_applied);
    srv->heap->limit_bytes = o->memory_limit_bytes;
    srv->heap->max_bytes = o->max_memory_bytes;
    u32_store_relaxed(&srv->heap->file->huge.never, !o->huge_pages);
    srv->scav.trace = o->scavtrace;
    scavenge_look(&srv->scav);
    queue_note(&srv->queue, WAIT_PAGES); /* there may be room for who waits */
    service_give_turns(srv);
}

/* --- one reload --- */

static void answer_joined(reload *r, const Goallocd__ReloadReply *body)
{
    operation *op;

    while ((op = operations_first(&r->srv->peers, OPERATION_JOINED, ROUND_RELOAD)) != NULL) {
        reply_body(op->peer, op->id, GOALLOCD__REPLY__RESULT_RELOAD, (void *)(uintptr_t)body);
        operation_finish(op);
    }
}

static void refuse_joined(reload *r, answer a)
{
    operation *op;

    while ((op = operations_first(&r->srv->peers, OPERATION_JOINED, ROUND_RELOAD)) != NULL) {
        reply_answer(op->peer, op->id, a);
        operation_finish(op);
    }
}

static void begin(reload *r)
{
    operation *op;
    int e;

    r->again = false;
    while ((op = operations_first(&r->srv->peers, OPERATION_WAITING, ROUND_RELOAD)) != NULL)
        operation_set_state(op, OPERATION_JOINED);
    notify_reloading();
    loopcpu_release(&r->srv->loopcpu); /* the thread is not to be bound to the loop's CPU */
    r->job = calloc(1, sizeof(*r->job));
    e = r->job == NULL ? -ENOMEM : 0;
    if (e == 0) {
        r->job->source = r->setup->source;
        r->job->done = &r->done;
        e = start_thread(r->job);
    }
    if (e == 0)
        return;
    log_event(LOG_EVENT_RELOAD_REFUSED, NULL, "the configuration can't be read again: %s; it stays as it was",
              strerror(-e));
    free(r->job);
    r->job = NULL;
    refuse_joined(r, (answer){ -e, "the daemon has no memory, or no thread, to read its configuration" });
    notify_ready();
}

static void tell_mistakes(const config_mistakes *m, report *rep, Goallocd__ReloadReply *body)
{
    log_event(LOG_EVENT_RELOAD_REFUSED, NULL,
              "the configuration stays as it was, and no goallocd can start with these files:");
    for (size_t i = 0; i < m->n; i++) {
        rep->mistakes[i] = (char *)(uintptr_t)m->texts[i];
        log_error("%s", m->texts[i]);
    }
    if (m->nmore > 0)
        log_error("%zu more mistakes", m->nmore);
    body->mistakes = rep->mistakes;
    body->n_mistakes = m->n;
    body->nmore_mistakes = (uint32_t)m->nmore;
}

static void finish(reload *r, reload_job *job)
{
    static report rep;
    Goallocd__ReloadReply body = GOALLOCD__RELOAD_REPLY__INIT;

    rep.nkeys = rep.napplied = rep.nrefused = 0;
    CRASH_POINT(reload_before_apply);
    if (job->is_whole) {
        exchange(r->setup->running, &job->read, &rep);
        apply(r);
        CRASH_POINT(reload_after_apply);
        log_event(LOG_EVENT_RELOADED, NULL, "the configuration was read again: %u changed, %u take a restart",
                  rep.napplied, rep.nrefused);
        body.keys = rep.key_pointers;
        body.n_keys = rep.nkeys;
    } else {
        tell_mistakes(&job->mistakes, &rep, &body);
    }
    answer_joined(r, &body);
    job_free(job);
    notify_ready();
}

/* The thread is through, or somebody asks. */
static void on_done(uv_async_t *done)
{
    reload *r = done->data;
    reload_job *job = r->job;
    bool is_done;

    (void)pthread_mutex_lock(&lock);
    is_done = job != NULL && job->is_done;
    (void)pthread_mutex_unlock(&lock);
    if (is_done) {
        r->job = NULL;
        finish(r, job);
    }
    if (r->job == NULL && r->again && !r->srv->stopping)
        begin(r);
}

/* --- life --- */

int reload_start(reload *r, service *srv, const reload_setup *setup, bool *keep_on_stop)
{
    r->srv = srv;
    r->setup = setup;
    r->keep_on_stop = keep_on_stop;
    r->done.data = r;
    return uv_async_init(&srv->loop, &r->done, on_done);
}

void reload_stop(reload *r)
{
    reload_job *job = r->job;
    bool is_done;

    r->job = NULL;
    if (job == NULL)
        return;
    (void)pthread_mutex_lock(&lock);
    job->abandoned = true;
    is_done = job->is_done;
    (void)pthread_mutex_unlock(&lock);
    if (is_done)
        job_free(job);
}

/* It begins in a turn of its own: who asks is not through with the request yet. */
void reload_ask(reload *r)
{
    if (r->setup == NULL || r->srv->stopping)
        return;
    r->again = true;
    (void)uv_async_send(&r->done);
}

/* Not for the control group: it may end the heap, and not say who else may. */
answer handle_reload(client *c, const Goallocd__Request *request)
{
    service *srv = client_service(c);

    if (c->peer.uid != 0 && c->peer.uid != geteuid())
        return (answer){ EPERM, "only root and the daemon's user may have the configuration read again" };
    if (srv->reload == NULL || srv->reload->setup == NULL)
        return (answer){ ENOSYS, "this daemon has no configuration to read again" };
    log_info("pid %u, uid %u, has the configuration read again", c->peer.pid, c->peer.uid);
    c->op.round = ROUND_RELOAD;
    c->op.after_round = NULL;
    operation_begin(&c->op, &c->peer, request, OPERATION_WAITING);
    reload_ask(srv->reload);
    return ANSWER_GIVEN;
}
