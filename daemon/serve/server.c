/*
 * Server: one libuv loop, one thread, which owns all heap state. Puts the parts together, starts and stops them.
 *
 * Called by main; tests/fuzz opens a server and turns its loop itself. It hands requests.c to the peers as their
 * handler, and tells the queue when those who work in the background have set pages free.
 *
 * SIGHUP has the configuration read again (reload.c).
 *
 * What stops it: SIGUSR1 leaves the heap to the next daemon; SIGTERM and SIGINT leave or drop it, as server_options
 * says; a Drop request drops it. A heap that is to be left and that nobody else holds is dropped, since it ends with
 * this process. To drop it begins with one store, the word dropped in the header; what follows (clients are told by the
 * end of their connections, main has the keeper and systemd let go) only carries out what that word says already. If
 * the daemon dies before the store, it was killed, and the heap is there for the next one; after it, the next one
 * finishes (main.c).
 */
#include "daemon/serve/server.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "daemon/log.h"
#include "daemon/notify.h"
#include "daemon/serve/releases.h"
#include "daemon/serve/request_profile.h"
#include "daemon/serve/requests.h"
#include "daemon/serve/unmap.h"
#include "shm/crash.h"
#include "shm/probe.h"

#define MAP_NS UINT64_C(500000) /* of writing page maps without a pause */
#define MAP_PAUSE_MS 1u
#define REPLACE_AGAIN_MS 2000

static void give_turns(service *srv)
{
    if (!srv->stopping)
        service_give_turns(srv);
}

/* Pages that the scavenger has taken are free again. Who waits for them comes before its next job. */
static void on_released(void *data, uint64_t npages)
{
    server *s = data;

    sysmem_regain(&s->service.mem, npages * PAGE_BYTES);
    queue_note(&s->service.queue, WAIT_PAGES);
    give_turns(&s->service);
}

/* Pages that were punched because clients may have given them memory are free again. */
static void on_excess(void *data)
{
    on_released(data, 0);
}

/* A piece has been prepared ahead, or could not be. */
static void on_prepared(void *data, bool failed)
{
    server *s = data;

    if (failed)
        releases_undo(&s->service, s->service.ahead.ranges, s->service.ahead.job.nranges);
    queue_note(&s->service.queue, WAIT_AHEAD);
    queue_note(&s->service.queue, WAIT_PAGES);
    give_turns(&s->service);
}

static void on_mapping(void *data);

static void on_map_pause(uv_timer_t *timer)
{
    on_mapping(timer->data);
}

/* Slices between turns of the loop; then a pause, since others need the processor for what they ask. */
static void map_some(uv_idle_t *idle)
{
    server *s = idle->data;
    bool freed;

    if (!mheap_map_some(s->service.heap, &freed))
        (void)uv_idle_stop(idle);
    else if (uv_hrtime() - s->mapping_ns > MAP_NS) {
        (void)uv_idle_stop(idle);
        (void)uv_timer_start(&s->map_pause, on_map_pause, MAP_PAUSE_MS, 0);
    }
    if (freed)
        on_released(s, 0);
}

static void on_mapping(void *data)
{
    server *s = data;

    if (s->service.stopping || uv_is_active((const uv_handle_t *)&s->service.mapping) ||
        uv_is_active((const uv_handle_t *)&s->map_pause))
        return;
    s->mapping_ns = uv_hrtime();
    (void)uv_idle_start(&s->service.mapping, map_some);
}

/* Nobody waits for pages of which nobody knows when they come back. */
static void on_stuck(void *data, bool stuck)
{
    server *s = data;

    (void)stuck;
    queue_note(&s->service.queue, WAIT_PAGES);
}

/* What the helper of a daemon before this one was punching is free. */
static void on_old_gone(void *data, unsigned place)
{
    server *s = data;

    mheap_remove_fence(s->service.heap, place);
    queue_note(&s->service.queue, WAIT_PAGES);
}

/* Start the helper. 0, -EUCLEAN: one of a daemon before this one punches pages that are in use. */
static int start_helper(server *s)
{
    service *srv = &s->service;
    helper_watch watch = { .on_stuck = on_stuck, .on_old_gone = on_old_gone, .data = s };

    helper_start(&srv->helper, &srv->loop, srv->heap->file, &watch);
    for (unsigned i = 0; i < HELPERS_MAX; i++) {
        const helper_hole *hole = helper_old_hole(&srv->helper, i);

        if (hole != NULL && !mheap_put_fence(srv->heap, i, ASIDE_FENCED, hole->range))
            return -EUCLEAN;
    }
    return 0;
}

/* A connection ends: its session is LOST, unless the daemon stops and leaves it as it is. */
static void on_close(peer *p)
{
    client *c = client_of(p);
    session *sess = client_session(c);

    if (sess != NULL && !client_service(c)->stopping) {
        const log_subject subject = session_subject(sess);

        log_client_event(LOG_EVENT_SESSION_LOST, &subject, "its connection has ended");
        deaths_lost(client_service(c)->deaths, sess);
    }
    service_forget_client(c);
    events_unsubscribe(&client_service(c)->events, &c->subscriber);
    operation_close(&c->op);
}

static void on_refused(peer *p, enum limit which)
{
    bool of_peer = which == LIMIT_CONNECTION_BUFFER;

    (void)service_refuse(client_of(p), which, of_peer ? p->buffered : 0,
                         of_peer ? p->host->users->limits->max[which] : 0);
}

static void on_drained(peer *p)
{
    client *c = client_of(p);

    events_go_on(&client_service(c)->events, &c->subscriber);
}

static void watch(server *s);

/* Until there is another one: what forbade it, a full table of processes say, may be over soon. */
static void replace_watched(server *s)
{
    if (s->service.stopping)
        return;
    loopcpu_release(&s->service.loopcpu); /* another keeper is made */
    s->options.watched_fd = s->options.on_death(s->options.data);
    watch(s);
}

static void on_watched_closed(uv_handle_t *handle)
{
    replace_watched(handle->data);
}

/* The process at the other end says nothing while it lives. The handle goes first, then the descriptor. */
static void on_watched(uv_poll_t *poll, int status, int events)
{
    (void)status;
    (void)events;
    uv_close((uv_handle_t *)poll, on_watched_closed);
}

static void on_again(uv_timer_t *timer)
{
    server *s = timer->data;

    if (s->options.watched_fd < 0)
        replace_watched(s);
    else
        watch(s);
}

static void watch_later(server *s)
{
    if (!s->service.stopping)
        (void)uv_timer_start(&s->replace, on_again, REPLACE_AGAIN_MS, 0);
}

static void on_unwatched(uv_handle_t *handle)
{
    watch_later(handle->data);
}

/* From the start, and after each change; what fails is tried again. */
static void watch(server *s)
{
    if (s->service.stopping || !s->options.watches)
        return;
    if (s->options.watched_fd < 0 || uv_poll_init(&s->service.loop, &s->watched, s->options.watched_fd) < 0) {
        watch_later(s);
        return;
    }
    s->watched.data = s;
    if (uv_poll_start(&s->watched, UV_READABLE | UV_DISCONNECT, on_watched) < 0)
        uv_close((uv_handle_t *)&s->watched, on_unwatched);
}

static void close_handle(uv_handle_t *handle, void *data)
{
    (void)data;
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

/* Nobody will serve the heap any more: whoever has it mapped sees that from here on. */
static void drop_heap(server *s)
{
    s->dropped = true;
    u32_store_release(&s->service.heap->map->header->dropped, SHM_DROPPED);
    CRASH_POINT(drop_after_word);
}

/* Peers and watches have memory of their own, so they are closed by their nouns; then whatever else is in the loop. */
static void stop(server *s, const char *why, bool keep)
{
    service *srv = &s->service;
    const log_subject subject = { .heap = srv->heap->map->header->generation };
    bool held = s->options.is_held(s->options.data);
    Goallocd__Reply notice = GOALLOCD__REPLY__INIT;
    Goallocd__ShutdownNotice body = GOALLOCD__SHUTDOWN_NOTICE__INIT;
    bool freed;

    if (srv->stopping || saving_is_active(&s->saving))
        return;
    keep = keep && !s->dropped; /* a request to drop it has been answered */
    if (!s->dropped && (!keep || !held) && saving_begin(&s->saving, why))
        return; /* on_saved() goes on */
    log_event(LOG_EVENT_STOPPING, &subject, "stopping: %s; the heap %s", why,
              !keep  ? "is dropped"
              : held ? "is kept for the next goallocd"
                     : "ends with this goallocd, because nobody else holds it");
    if (!s->dropped && (!keep || !held))
        drop_heap(s);
    notify_systemd("STOPPING=1");
    srv->stopping = srv->commits.stopping = true;
    refusals_end_all(&srv->users.refusal_log);
    notice.result_case = GOALLOCD__REPLY__RESULT_SHUTDOWN_NOTICE;
    notice.shutdown_notice = &body;
    door_shut(&s->door);
    reload_stop(&s->reload);
    unmap_stop();
    profiling_stop(&srv->profiling);
    peer_host_stop(&srv->peers, &notice);
    deaths_stop(&s->deaths);
    loopcpu_stop(&srv->loopcpu);
    while (mheap_map_some(srv->heap, &freed))
        ; /* who has begun a long span comes to an end */
    helper_stop(&srv->helper);
    uv_walk(&srv->loop, close_handle, NULL);
}

/* The heap has been saved, or can't be: now it ends. */
static void on_saved(void *data, const char *why)
{
    stop(data, why, false);
}

static void on_signal(uv_signal_t *handle, int signum)
{
    server *s = handle->data;

    if (signum == SIGHUP)
        reload_ask(&s->reload);
    else
        stop(s, strsignal(signum), signum == SIGUSR1 || s->options.keep_on_stop);
}

static void on_stop(uv_timer_t *timer)
{
    server *s = timer->data;

    stop(s, s->save_on_stop ? "it was asked to stop" : "it was asked to drop the heap", false);
}

/* From here on it is dropped, whatever ends the daemon; that stops after the turn of the loop that answers. */
static void on_drop(void *data, bool save)
{
    server *s = data;

    s->save_on_stop = save && s->saving.setup.path != NULL && !s->dropped;
    if (!s->save_on_stop)
        drop_heap(s);
    (void)uv_timer_start(&s->stop, on_stop, 0, 0);
}

/* 0, or an error of libuv's. */
static int start(server *s, int listen_fd)
{
    static const int signums[4] = { SIGTERM, SIGINT, SIGUSR1, SIGHUP };
    service *srv = &s->service;
    int r;

    (void)setenv("UV_THREADPOOL_SIZE", SHM_TEXT(COMMIT_THREADS), 0); /* looked at when the pool is used first */
    r = uv_loop_init(&srv->loop);
    for (size_t i = 0; i < 4 && r == 0; i++) {
        s->signals[i].data = s;
        r = uv_signal_init(&srv->loop, &s->signals[i]);
        if (r == 0)
            r = uv_signal_start(&s->signals[i], on_signal, signums[i]);
    }
    if (r == 0)
        r = reload_start(&s->reload, srv, s->options.reload, &s->options.keep_on_stop);
    if (r == 0)
        r = start_helper(s);
    if (r < 0)
        return r;
    saving_init(&s->saving, srv, s->options.saving, on_saved, s);
    sweep_start(&s->sweep, &srv->loop, &srv->sessions.leases);
    deaths_start(&s->deaths, srv);
    rounds_start(&s->rounds, srv);
    loopcpu_start(&srv->loopcpu, &srv->loop);
    service_queue_start(srv);
    refusals_start(&srv->users.refusal_log, &srv->loop);
    events_start(&srv->events, &srv->loop);
    (void)uv_timer_init(&srv->loop, &s->replace);
    (void)uv_timer_init(&srv->loop, &s->stop);
    (void)uv_timer_init(&srv->loop, &s->map_pause);
    s->map_pause.data = s;
    s->replace.data = s->stop.data = s;
    srv->on_drop = on_drop;
    srv->on_drop_data = s;
    srv->reload = &s->reload;
    watch(s);
    if (s->options.recovered) {
        srv->tell_census = !s->options.loaded;
        deaths_recover(&s->deaths);
        service_wake(srv);
    }
    unmap_start(&srv->loop);
    sysmem_start(&srv->mem, "");
    (void)uv_idle_init(&srv->loop, &srv->mapping);
    srv->mapping.data = s;
    srv->heap->on_mapping = on_mapping;
    srv->heap->on_mapping_data = s;
    commit_pool_start(&srv->commits, &srv->loop, srv->heap->file);
    scavenge_start(&srv->scav, &srv->loop, srv->heap, &srv->helper, s->options.scavtrace, srv->eager_commit,
                   on_released, s);
    excess_start(&srv->excess, &srv->loop, srv->heap, &srv->helper, on_excess, s);
    srv->peers.loop = &srv->loop;
    srv->peers.peer_bytes = sizeof(client);
    srv->peers.handle = requests_handle;
    srv->peers.on_close = on_close;
    srv->peers.on_drained = on_drained;
    srv->peers.on_refused = on_refused;
    srv->peers.users = &srv->users;
    srv->peers.data = srv;
    operation_rings_init(&srv->rings);
    srv->peers.operations = &srv->rings;
    peer_host_start(&srv->peers);
    pulse_start(&s->pulse, srv);
    r = door_open(&s->door, &srv->peers, listen_fd, s->options.refuses_fds);
    if (r < 0)
        return r;
    for (unsigned i = 0; i < s->options.nwaiting; i++)
        door_let_in(&s->door, s->options.waiting[i]);
    /* Last: their first jobs, in the thread pool, would outlive a start that fails. */
    srv->profiling.on_change = request_profile_go_on;
    srv->profiling.data = srv;
    profiling_start(&srv->profiling, &srv->loop, &srv->sessions, &srv->mem);
    if (srv->eager_commit)
        ahead_start(&srv->ahead, srv->heap, &srv->commits, &srv->mem, &srv->scav, on_prepared, s);
    return 0;
}

static void on_root(void *data, root_name name, bool set)
{
    service *srv = data;

    events_root(&srv->events, set ? PROTO_EVENT_ROOT_SET : PROTO_EVENT_ROOT_REMOVED, name.bytes, name.nbytes);
}

/* The sessions and roots of the heap. 0, -errno: logged. */
static int set_up(service *srv, bool recovered)
{
    const char *why = NULL;
    int r;

    if (recovered) {
        r = session_table_recover(&srv->sessions, srv->heap, &why);
        if (r < 0) {
            log_event(LOG_EVENT_TAKEOVER_REFUSED, NULL, "the heap's sessions can't be taken over: %s",
                      why != NULL ? why : strerror(-r));
            return r;
        }
        CRASH_POINT(recover_after_sessions);
    } else {
        session_table_init(&srv->sessions, srv->heap);
    }
    r = session_table_count_on(&srv->sessions, &srv->users);
    if (r < 0) {
        log_error("no memory for the accounts of users");
        return r;
    }
    r = roots_new(srv->heap->map, &srv->roots);
    if (r == 0)
        roots_on_change(srv->roots, on_root, srv);
    srv->heap->roots = srv->roots;
    if (r < 0)
        log_event(LOG_EVENT_TAKEOVER_REFUSED, NULL, "the heap's named roots can't be read: %s",
                  r == -EUCLEAN ? "the table is damaged" : strerror(-r));
    return r;
}

/* How long ago, as people say it, in one buffer. */
static const char *age_text(uint64_t ms)
{
    static char text[32];
    uint64_t s = ms / 1000;

    if (s < 120)
        (void)snprintf(text, sizeof(text), "%llu s", (unsigned long long)s);
    else if (s < 7200)
        (void)snprintf(text, sizeof(text), "%llu min", (unsigned long long)s / 60);
    else if (s < 172800)
        (void)snprintf(text, sizeof(text), "%llu h", (unsigned long long)s / 3600);
    else
        (void)snprintf(text, sizeof(text), "%llu days", (unsigned long long)s / 86400);
    return text;
}

/* What there was, for who wonders whether all of it is still there, and how long nobody was served. */
static void log_takeover(const server *s, const log_subject *subject)
{
    const service *srv = &s->service;
    const mheap *heap = srv->heap;
    uint64_t took_us = (uv_hrtime() - s->options.began_ns) / 1000;

    log_event(LOG_EVENT_TAKEOVER, subject,
              "took over heap %016llx, made %s ago: %u sessions, %u groups, %u roots, %llu spans with %llu MiB; "
              "in %llu.%03llu ms",
              (unsigned long long)subject->heap, age_text(shm_header_age_ms(heap->map->header)), srv->sessions.nopen,
              heap->groups->ngroups, roots_count(srv->roots), (unsigned long long)heap->ninuse_spans,
              (unsigned long long)(heap->ninuse_pages * PAGE_BYTES / MIB), (unsigned long long)(took_us / 1000),
              (unsigned long long)(took_us % 1000));
    PROBE(goallocd, takeover, subject->heap, srv->sessions.nopen, heap->groups->ngroups, heap->ninuse_spans,
          heap->ninuse_pages * PAGE_BYTES, took_us);
}

/* "64 MiB", or "none". */
static const char *limit_text(uint64_t bytes, char text[32])
{
    if (bytes == 0)
        return "none";
    (void)snprintf(text, 32, "%llu MiB", (unsigned long long)(bytes / MIB));
    return text;
}

static void log_start(const server *s)
{
    const service *srv = &s->service;
    const shm_header *header = srv->heap->map->header;
    const log_subject subject = { .heap = header->generation };
    char limit[32];
    char max[32];

    if (s->options.loaded)
        log_info("heap %016llx is a new one, with what was in the image", (unsigned long long)header->generation);
    else if (s->options.recovered)
        log_takeover(s, &subject);
    else
        log_event(LOG_EVENT_NEW_HEAP, &subject, "new heap %016llx", (unsigned long long)header->generation);
    log_event(LOG_EVENT_STARTED, &subject,
              "goallocd %s serves %s, as pid %d and uid %u: arena of %llu MiB at 0x%llx, memory limit %s, maximum %s, "
              "commit %s",
              GOALLOC_VERSION, s->options.socket_path, (int)getpid(), (unsigned)geteuid(),
              (unsigned long long)(header->arena_bytes / MIB), (unsigned long long)header->base,
              limit_text(mheap_limit_bytes(srv->heap), limit), limit_text(srv->heap->max_bytes, max),
              srv->eager_commit ? "eager" : "lazy");
}

static uint64_t wall_ms(void)
{
    struct timespec now;

    return clock_gettime(CLOCK_REALTIME, &now) < 0
               ? 0
               : (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

int server_open(server *s, int listen_fd, mheap *heap, const server_options *options)
{
    service *srv = &s->service;
    int r;

    srv->heap = heap;
    srv->eager_commit = options->eager_commit;
    srv->access = options->access;
    srv->started_ms = uv_hrtime() / 1000000;
    srv->start_time_ms = wall_ms();
    srv->taken_over = options->recovered && !options->loaded;
    s->options = *options;
    users_start(&srv->users, options->limits);
    r = set_up(srv, options->recovered);
    if (r < 0)
        return r;
    r = start(s, listen_fd);
    if (r < 0)
        log_error("the loop can't be set up: %s", uv_strerror(r));
    return r;
}

void server_close(server *s)
{
    service *srv = &s->service;

    (void)uv_loop_close(&srv->loop);
    helper_end(&srv->helper);
    sysmem_end(&srv->mem);
    session_table_end(&srv->sessions);
    users_end(&srv->users);
    making_table_end(&srv->making);
    srv->heap->roots = srv->roots = roots_free(srv->roots);
}

int server_run(server *s, int listen_fd, mheap *heap, const server_options *options)
{
    int r = server_open(s, listen_fd, heap, options);

    if (r == 0 && options->before_serving != NULL)
        r = options->before_serving(options->data);
    if (r < 0)
        return r; /* the process ends */
    log_start(s);
    notify_systemd("READY=1\nSTATUS=serving");
    (void)uv_run(&s->service.loop, UV_RUN_DEFAULT);
    server_close(s);
    return 0;
}
