/*
 * Server: one libuv loop, one thread, which owns all heap state. Puts the parts together, starts and stops them.
 *
 * Called by main. It hands requests.c to the peers as their handler, and tells the queue when those who work in the
 * background have set pages free. SIGTERM and SIGINT stop it, and the heap ends; SIGUSR1 stops it and leaves the heap
 * to the next daemon.
 */
#include "daemon/serve/server.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

#include "daemon/log.h"
#include "daemon/notify.h"
#include "daemon/serve/requests.h"
#include "shm/crash.h"

#define REPLACE_AGAIN_MS 2000

static void give_turns(service *srv)
{
    if (!srv->stopping)
        service_give_turns(srv);
}

/* Pages that the scavenger has taken are free again. Who waits for them comes before its next job. */
static void on_released(void *data)
{
    server *s = data;

    queue_note(&s->service.queue, WAIT_PAGES);
    give_turns(&s->service);
}

/* A piece has been prepared ahead, or could not be. */
static void on_prepared(void *data)
{
    server *s = data;

    queue_note(&s->service.queue, WAIT_AHEAD);
    queue_note(&s->service.queue, WAIT_PAGES);
    give_turns(&s->service);
}

/* A connection ends: its session is LOST, unless the daemon stops and leaves it as it is. */
static void on_close(peer *p)
{
    client *c = client_of(p);
    session *sess = client_session(c);

    if (sess != NULL && !client_service(c)->stopping) {
        log_debug("session %u (pid %u): connection ended", sess->lessee.no.n, sess->pid);
        deaths_lost(client_service(c)->deaths, sess);
    }
    operation_close(&c->op);
}

static void watch(server *s);

/* Until there is another one: what forbade it, a full table of processes say, may be over soon. */
static void replace_watched(uv_timer_t *timer)
{
    server *s = timer->data;

    if (s->service.stopping)
        return;
    loopcpu_release(&s->service.loopcpu); /* another keeper is made */
    s->options.watched_fd = s->options.on_death(s->options.data);
    if (s->options.watched_fd < 0)
        (void)uv_timer_start(timer, replace_watched, REPLACE_AGAIN_MS, 0);
    watch(s);
}

static void on_watched_closed(uv_handle_t *handle)
{
    server *s = handle->data;

    replace_watched(&s->replace);
}

/* The process at the other end says nothing while it lives. The handle goes first, then the descriptor. */
static void on_watched(uv_poll_t *poll, int status, int events)
{
    (void)status;
    (void)events;
    uv_close((uv_handle_t *)poll, on_watched_closed);
}

static void watch(server *s)
{
    if (s->service.stopping || s->options.watched_fd < 0 ||
        uv_poll_init(&s->service.loop, &s->watched, s->options.watched_fd) < 0)
        return;
    s->watched.data = s;
    if (uv_poll_start(&s->watched, UV_READABLE | UV_DISCONNECT, on_watched) < 0)
        log_warn("the keeper can't be watched");
}

static void close_handle(uv_handle_t *handle, void *data)
{
    (void)data;
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

/* Peers and watches have memory of their own, so they are closed by their nouns; then whatever else is in the loop. */
static void on_signal(uv_signal_t *handle, int signum)
{
    server *s = handle->data;
    service *srv = &s->service;
    Goallocd__Reply notice = GOALLOCD__REPLY__INIT;
    Goallocd__ShutdownNotice body = GOALLOCD__SHUTDOWN_NOTICE__INIT;

    if (srv->stopping)
        return;
    log_info("stopping on signal %d", signum);
    s->leave_heap = signum == SIGUSR1;
    notify_systemd("STOPPING=1");
    srv->stopping = srv->commits.stopping = true;
    notice.result_case = GOALLOCD__REPLY__RESULT_SHUTDOWN_NOTICE;
    notice.shutdown_notice = &body;
    peer_host_stop(&srv->peers, &notice);
    deaths_stop(&s->deaths);
    loopcpu_stop(&srv->loopcpu);
    uv_walk(&srv->loop, close_handle, NULL);
}

/* 0, or an error of libuv's. */
static int start(server *s, int listen_fd)
{
    static const int signums[3] = { SIGTERM, SIGINT, SIGUSR1 };
    service *srv = &s->service;
    int r = uv_loop_init(&srv->loop);

    for (size_t i = 0; i < 3 && r == 0; i++) {
        s->signals[i].data = s;
        r = uv_signal_init(&srv->loop, &s->signals[i]);
        if (r == 0)
            r = uv_signal_start(&s->signals[i], on_signal, signums[i]);
    }
    if (r < 0)
        return r;
    sweep_start(&s->sweep, &srv->loop, &srv->sessions.leases);
    deaths_start(&s->deaths, srv);
    rounds_start(&s->rounds, srv);
    loopcpu_start(&srv->loopcpu, &srv->loop);
    service_queue_start(srv);
    (void)uv_timer_init(&srv->loop, &s->replace);
    s->replace.data = s;
    watch(s);
    if (s->options.recovered) {
        deaths_look(&s->deaths);
        service_wake(srv);
    }
    srv->commits.loop = &srv->loop;
    srv->commits.file = srv->heap->file;
    scavenge_start(&srv->scav, &srv->loop, srv->heap, s->options.scavtrace, srv->eager_commit, on_released, s);
    if (srv->eager_commit)
        ahead_start(&srv->ahead, srv->heap, &srv->commits, &srv->mem, &srv->scav, on_prepared, s);
    srv->peers.loop = &srv->loop;
    srv->peers.peer_bytes = sizeof(client);
    srv->peers.handle = requests_handle;
    srv->peers.on_close = on_close;
    srv->peers.data = srv;
    return peer_host_start(&srv->peers, listen_fd);
}

/* The sessions and roots of the heap. 0, -errno: logged. */
static int set_up(service *srv, bool recovered)
{
    const char *why = NULL;
    int r;

    if (recovered) {
        r = session_table_recover(&srv->sessions, srv->heap, &why);
        if (r < 0) {
            log_error("the heap's sessions can't be taken over: %s", why != NULL ? why : strerror(-r));
            return r;
        }
        CRASH_POINT(recover_after_sessions);
    } else {
        session_table_init(&srv->sessions, srv->heap);
    }
    r = roots_new(srv->heap->map, &srv->roots);
    srv->heap->roots = srv->roots;
    if (r < 0)
        log_error("the heap's named roots can't be read: %s", r == -EUCLEAN ? "the table is damaged" : strerror(-r));
    return r;
}

int server_run(server *s, int listen_fd, mheap *heap, const server_options *options)
{
    service *srv = &s->service;
    int r;

    srv->heap = heap;
    srv->eager_commit = options->eager_commit;
    srv->started_ms = uv_hrtime() / 1000000;
    s->options = *options;
    r = set_up(srv, options->recovered);
    if (r < 0)
        return r;
    r = start(s, listen_fd);
    if (r < 0) {
        log_error("start: %s", uv_strerror(r));
        return r; /* the process ends */
    }
    log_info("serving %llu MiB at 0x%llx", (unsigned long long)(heap->map->arena_bytes / MIB),
             (unsigned long long)heap->map->base);
    notify_systemd("READY=1\nSTATUS=serving");
    (void)uv_run(&srv->loop, UV_RUN_DEFAULT);
    (void)uv_loop_close(&srv->loop);
    session_table_end(&srv->sessions);
    making_table_end(&srv->making);
    srv->heap->roots = srv->roots = roots_free(srv->roots);
    return 0;
}
