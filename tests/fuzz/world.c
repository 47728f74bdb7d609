/*
 * World: server_open() on a socket without a name, and the loop turned between what the clients do.
 *
 * Called by fuzz_requests.c. The clients are in the same thread, so that an input does the same each time it is tried:
 * what is sent is there when the loop turns next. Only the threads of libuv's pool (commits, releases, zeroing) go
 * their own way.
 *
 * The daemon serves many inputs, since to make a heap takes longer than most of them; so after each input nothing may
 * be left. A client may clear any bit, which is how the objects of dead sessions go here. The daemon is replaced after
 * INPUTS_MAX inputs, and after one that has had it drop its heap.
 */
#include "tests/fuzz/world.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/access.h"
#include "daemon/limits.h"
#include "daemon/log.h"
#include "shm/holds.h"
#include "tests/fuzz/fuzz.h"

#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83
#endif

#define ARENA_BYTES  (64 * MIB)
#define LAZY_BYTES   (1024 * MIB) /* has room for spans of which the page map is written in slices */
#define LIMIT_BYTES  (4 * MIB)
#define INPUTS_MAX   4096u
#define LONG_MS      60000u
#define UID_BYTES    (8 * MIB)
#define CONTROL_GID  4242u
#define TURNS_MAX    1000000000u /* until it is at rest; libFuzzer's time runs out before */

static const struct {
    uint32_t uid;
    uint32_t gid;
} users_of[WORLD_USERS] = {
    [WORLD_ROOT] = { 0, 0 },        [WORLD_OTHER] = { 1000, 0 },           [WORLD_THIRD] = { 1001, 0 },
    [WORLD_READER] = { 1002, 0 },   [WORLD_CONTROL] = { 1003, CONTROL_GID }, [WORLD_UNLISTED] = { 1004, 0 },
};

/* --- start and stop --- */

static bool is_held(void *data)
{
    (void)data;
    return false;
}

static int on_death(void *data)
{
    (void)data;
    return -1;
}

/* A socket that is found by the number that the kernel has given it, which lets no descriptors in if it can. */
static int new_listener(bool refuses_fds)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (refuses_fds)
        (void)setsockopt(fd, SOL_SOCKET, SO_PASSRIGHTS, &(int){ 0 }, sizeof(int));
    FUZZ_CHECK(fd >= 0 && bind(fd, (const struct sockaddr *)&addr, sizeof(sa_family_t)) == 0 && listen(fd, 64) == 0);
    return fd;
}

static void tighten(limits *l)
{
    l->max[LIMIT_UID_CONNECTIONS] = l->max[LIMIT_UID_SESSIONS] = 2;
    l->max[LIMIT_UID_LOST] = l->max[LIMIT_PIPELINED] = 1;
    l->max[LIMIT_UID_ROOTS] = l->max[LIMIT_UID_ADOPTIONS] = 2;
    l->max[LIMIT_SESSION_BYTES] = l->max[LIMIT_GROUP_BYTES] = MIB;
    l->max[LIMIT_SESSION_DEFAULT] = MIB / 2;
    l->max[LIMIT_CONNECTION_BUFFER] = l->max[LIMIT_UID_BUFFER] = 128 * KIB;
}

/* Who is on a list, and who on none; nobody is there whom they concern. */
static const access_policy *policy(unsigned rules)
{
    static const access_policy anybody;
    static const access_policy listed = { .uids = { { 1000, 1001, 1003 }, 3 },
                                          .read_uids = { { 1002 }, 1 },
                                          .control = { true, CONTROL_GID },
                                          .root_owner = true };

    return rules & WORLD_LISTED ? &listed : &anybody;
}

static void start_daemon(world *w)
{
    limits max;
    server_options options = { .eager_commit = !w->lazy, .socket_path = "", .is_held = is_held, .watched_fd = -1,
                               .on_death = on_death, .access = policy(0), .limits = &max };

    limits_preset(&max);
    max.max[LIMIT_UID_CONNECTS] = UINT32_MAX; /* inputs a second are no connections a second */
    max.max[LIMIT_UID_BYTES] = UID_BYTES;
    (void)signal(SIGPIPE, SIG_IGN);
    log_set_level(LOG_LEVEL_ERROR);
    options.refuses_fds = w->server != NULL;
    w->server = w->server == NULL ? &w->first : &w->others;
    memset(w->server, 0, sizeof(*w->server));
    FUZZ_CHECK(heapfile_create(&w->file, SHM_BASE_DEFAULT, w->lazy ? LAZY_BYTES : ARENA_BYTES) == 0);
    FUZZ_CHECK(mheap_init(&w->heap, &w->file, w->lazy ? LIMIT_BYTES : 0) == 0);
    u32_store_relaxed(&w->file.huge.never, 1);
    w->listen_fd = new_listener(options.refuses_fds);
    FUZZ_CHECK(server_open(w->server, dup(w->listen_fd), &w->heap, &options) == 0);
    for (unsigned i = 0; i < WORLD_CLIENTS; i++)
        w->clients[i] = (world_client){ .ch.fd = -1 };
    w->usual = w->server->service.users.fitted;
    w->ninputs = 0;
    w->running = true;
}

void world_start(world *w, unsigned rules)
{
    if (!w->running)
        start_daemon(w);
    w->rules = rules;
    w->server->service.access = policy(rules);
    w->server->service.users.fitted = w->usual;
    if (rules & WORLD_TIGHT)
        tighten(&w->server->service.users.fitted);
}

/* The loop has nothing left: all handles are closed. */
static void close_down(world *w)
{
    FUZZ_CHECK(w->server->dropped);
    (void)uv_run(&w->server->service.loop, UV_RUN_DEFAULT);
    FUZZ_CHECK(w->server->service.peers.peers == NULL);
    server_close(w->server);
    mheap_end(&w->heap);
    heapfile_close(&w->file);
    (void)close(w->listen_fd);
    w->running = false;
}

void world_stop(world *w)
{
    Goallocd__Drop body = GOALLOCD__DROP__INIT;
    Goallocd__Request request = WIRE_REQUEST(DROP, drop, &body);

    world_connect(w, 0, WORLD_ROOT);
    request.id = ++w->clients[0].next_id;
    world_send(w, 0, &request);
    while (!w->server->service.stopping)
        world_turn(w, 1);
    for (unsigned i = 0; i < WORLD_CLIENTS; i++)
        world_die(w, i);
    close_down(w);
}

/* --- clients --- */

/* The thread's user, not the process's: the other threads stay what they are. */
static void become(uint32_t uid, uint32_t gid)
{
    if (uid == 0)
        (void)syscall(SYS_setresuid, -1, 0, -1);
    (void)syscall(SYS_setresgid, -1, gid, -1);
    if (uid != 0)
        (void)syscall(SYS_setresuid, -1, uid, -1);
}

static void connect_as(world_client *c, const struct sockaddr_un *addr, socklen_t len, enum world_user user)
{
    bool changes = user != WORLD_ROOT && geteuid() == 0;

    c->user = changes ? user : WORLD_ROOT;
    c->uid = changes ? users_of[user].uid : geteuid();
    if (changes)
        become(c->uid, users_of[user].gid);
    if (connect(c->ch.fd, (const struct sockaddr *)addr, len) < 0) /* its queue is full */
        channel_close(&c->ch);
    if (changes)
        become(0, 0);
}

void world_connect(world *w, unsigned i, enum world_user user)
{
    world_client *c = &w->clients[i];
    struct sockaddr_un addr;
    socklen_t len = sizeof(addr);

    world_disconnect(w, i);
    FUZZ_CHECK(getsockname(w->listen_fd, (struct sockaddr *)&addr, &len) == 0);
    c->ch.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    FUZZ_CHECK(c->ch.fd >= 0);
    connect_as(c, &addr, len, user);
    c->controls = c->user == WORLD_ROOT || (c->user == WORLD_CONTROL && w->rules & WORLD_LISTED);
    c->deaf = c->wild = false;
    c->forbidden = c->nearest = 0;
}

void world_send_bytes(world *w, unsigned i, const uint8_t *data, size_t len_bytes)
{
    world_client *c = &w->clients[i];
    ssize_t n = 0;

    if (c->ch.fd >= 0 && len_bytes > 0)
        n = send(c->ch.fd, data, len_bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
    c->wild |= n > 0 && n < (ssize_t)len_bytes;
}

/* A session's own user may trim and disconnect it, too, and whose it is when the daemon comes to it nobody knows. */
static bool is_control(const Goallocd__Request *request)
{
    switch (request->op_case) {
    case GOALLOCD__REQUEST__OP_SCAVENGE:
    case GOALLOCD__REQUEST__OP_CHECK:
    case GOALLOCD__REQUEST__OP_RECLAIM:
    case GOALLOCD__REQUEST__OP_DROP:
        return true;
    case GOALLOCD__REQUEST__OP_TRIM:
        return request->trim->session == 0;
    default:
        return false;
    }
}

void world_send(world *w, unsigned i, Goallocd__Request *request)
{
    static uint8_t frame[FRAME_BYTES_MAX];
    world_client *c = &w->clients[i];

    if (request->id != 0 && !c->controls && is_control(request))
        c->forbidden |= UINT64_C(1) << (request->id - 1);
    if (request->id != 0 && request->op_case == GOALLOCD__REQUEST__OP_LIMITS && request->limits->nearest)
        c->nearest |= UINT64_C(1) << (request->id - 1);
    world_send_bytes(w, i, frame, wire_pack_request(request, frame, sizeof(frame)));
}

void world_disconnect(world *w, unsigned i)
{
    channel_close(&w->clients[i].ch);
}

void world_die(world *w, unsigned i)
{
    world_client *c = &w->clients[i];

    world_disconnect(w, i);
    for (int n = 0; n < c->nfds; n++)
        (void)close(c->fds[n]);
    *c = (world_client){ .ch.fd = -1 };
}

/* --- what clients are told --- */

static void note_page(world_client *c, uint32_t page)
{
    c->pages[c->npages++ % WORLD_PAGES_MAX] = page;
}

/* A session. If there was another one before, it stays until the process dies, but what it leases is forgotten. */
static void note_attach(world_client *c, const Goallocd__AttachReply *reply)
{
    if (reply->token.len == sizeof(c->token))
        memcpy(c->token, reply->token.data, sizeof(c->token));
    if (reply->group_token.len == sizeof(c->group_token))
        memcpy(c->group_token, reply->group_token.data, sizeof(c->group_token));
    if (c->session != reply->session || c->epoch != reply->epoch)
        c->npages = 0;
    c->session = reply->session;
    c->epoch = reply->epoch;
    c->group = reply->group;
    for (int n = 0; n < c->ch.nfds; n++) {
        if (c->nfds < FDPASS_MAX)
            c->fds[c->nfds++] = c->ch.fds[n];
        else
            (void)close(c->ch.fds[n]);
    }
    c->ch.nfds = 0;
}

/* The entry of the client's session; NULL: it has another one by now. */
static const shm_session *entry_of(const world *w, const world_client *c)
{
    const shm_session *entry = &w->heap.map->sessions[c->session];

    return u32_load_relaxed(&entry->epoch) == c->epoch ? entry : NULL;
}

/* Nobody gets what it may only read, or may not even that. Who shows a token goes on with what there is. */
static void check_attach(const world *w, const world_client *c, const Goallocd__AttachReply *reply)
{
    const shm_session *entry = entry_of(w, c);

    if ((w->rules & WORLD_LISTED) == 0 || reply->token.len == 0)
        return;
    FUZZ_CHECK(c->user != WORLD_UNLISTED);
    FUZZ_CHECK(c->user != WORLD_READER || entry == NULL || entry->flags & SESSION_READONLY);
}

static void check_changes(const world *w, const world_client *c)
{
    const shm_session *entry = entry_of(w, c);

    FUZZ_CHECK(entry == NULL || (entry->flags & SESSION_READONLY) == 0);
}

static void check_stats(const Goallocd__StatsReply *s)
{
    FUZZ_CHECK(s->total_bytes ==
               s->live_bytes + s->unused_bytes + s->free_bytes + s->released_bytes + s->metadata_bytes);
}

/* Of others it is told no more than anybody may know. */
static void check_lists(const world_client *c, const Goallocd__Reply *reply)
{
    const Goallocd__SessionListReply *sessions = reply->session_list;
    const Goallocd__LimitsReply *limits = reply->limits;

    if (c->controls)
        return;
    for (size_t n = 0; reply->result_case == GOALLOCD__REPLY__RESULT_SESSION_LIST && n < sessions->n_sessions; n++) {
        const Goallocd__SessionInfo *info = sessions->sessions[n];

        FUZZ_CHECK(info->uid == c->uid || (info->pid == 0 && info->label[0] == '\0'));
    }
    for (size_t n = 0; reply->result_case == GOALLOCD__REPLY__RESULT_LIMITS && n < limits->n_uses; n++) {
        const Goallocd__LimitUse *use = limits->uses[n];
        bool nearest = c->wild || (c->nearest >> ((reply->id - 1) & 63) & 1);

        FUZZ_CHECK(use->uid == c->uid ||
                   ((use->scope != LIMIT_OF_UID || (nearest && use->uid == 0)) && use->session == 0 &&
                    use->group[0] == '\0'));
    }
}

/* One reply to each request, in order. */
static void check_order(world_client *c, const Goallocd__Reply *reply)
{
    if (c->wild || reply->id == 0)
        return;
    FUZZ_CHECK(reply->id > c->last_id && reply->id <= c->next_id);
    c->last_id = reply->id;
    FUZZ_CHECK((c->forbidden >> (reply->id - 1) & 1) == 0 || reply->error == EPERM);
}

static void note_reply(const world *w, world_client *c, const Goallocd__Reply *reply)
{
    check_order(c, reply);
    switch (reply->result_case) {
    case GOALLOCD__REPLY__RESULT_ATTACH:
        note_attach(c, reply->attach);
        check_attach(w, c, reply->attach);
        return;
    case GOALLOCD__REPLY__RESULT_ALLOC_LARGE:
        check_changes(w, c);
        note_page(c, reply->alloc_large->span);
        return;
    case GOALLOCD__REPLY__RESULT_REFILL:
        check_changes(w, c);
        for (size_t n = 0; n < reply->refill->n_spans; n++)
            note_page(c, reply->refill->spans[n]);
        return;
    case GOALLOCD__REPLY__RESULT_STATS: check_stats(reply->stats); return;
    case GOALLOCD__REPLY__RESULT_SESSION_LIST:
    case GOALLOCD__REPLY__RESULT_LIMITS: check_lists(c, reply); return;
    case GOALLOCD__REPLY__RESULT_CHECK:
        if (!reply->check->whole)
            (void)fprintf(stderr, "check: %s\n", reply->check->text);
        FUZZ_CHECK(reply->check->whole);
        return;
    default: return;
    }
}

/* Everything that the daemon says is a message. */
static void read_replies(const world *w, world_client *c)
{
    static _Alignas(16) uint8_t memory[MIB];
    const uint8_t *payload;
    size_t len;
    frame_bump bump;
    int r;

    frame_bump_init(&bump, memory, sizeof(memory));
    while ((r = channel_read(&c->ch)) == 0) {
        while ((r = channel_take_frame(&c->ch, &payload, &len)) == 0) {
            Goallocd__Reply *reply = wire_unpack_reply(&bump, payload, len);

            FUZZ_CHECK(reply != NULL);
            note_reply(w, c, reply);
            channel_drop_frame(&c->ch);
        }
        FUZZ_CHECK(r == -EAGAIN);
        channel_close_fds(&c->ch);
    }
    if (r != -EAGAIN)
        channel_close(&c->ch);
}

void world_turn(world *w, unsigned n)
{
    while (n-- > 0)
        (void)uv_run(&w->server->service.loop, UV_RUN_NOWAIT);
    for (unsigned i = 0; i < WORLD_CLIENTS; i++) {
        if (w->clients[i].ch.fd >= 0 && !w->clients[i].deaf)
            read_replies(w, &w->clients[i]);
    }
}

static void be_due(uv_handle_t *handle, void *data)
{
    uv_timer_t *timer = (uv_timer_t *)handle;

    (void)data;
    if (handle->type == UV_TIMER && uv_is_active(handle) && !uv_is_closing(handle))
        (void)uv_timer_start(timer, timer->timer_cb, 0, uv_timer_get_repeat(timer));
}

void world_pass_time(world *w)
{
    for (peer *p = w->server->service.peers.silent; p != NULL; p = p->silent_next)
        p->came_ms -= LONG_MS;
    uv_walk(&w->server->service.loop, be_due, NULL);
}

/* --- the end of an input --- */

/*
 * True if nobody is there any more, no thread of the pool has pages of the heap, and no round is under way: who has
 * asked for one may be gone, and it goes on, over what the next input makes. Above all a Check: validators have one
 * place each up to which they have come, and those of must_be_empty() would take it from it.
 */
static bool is_at_rest(const world *w)
{
    const service *srv = &w->server->service;

    for (int kind = 0; kind < ROUNDS; kind++) {
        if (w->server->rounds.states[kind].stage != STAGE_IDLE)
            return false;
    }
    return srv->peers.peers == NULL && srv->sessions.nopen == 0 && !srv->excess.busy && w->heap.groups->ngroups == 0 &&
           mheap_aside_pages(&w->heap) == 0;
}

/* A round a second, and asking for idle spans a few times a second: inputs do not wait for that. */
static void forget_pace(world *w)
{
    for (int kind = 0; kind < ROUNDS; kind++)
        w->server->rounds.states[kind].not_before_ns = 0;
    w->server->service.next_ask_ns = w->server->service.next_rescue_ns = 0;
}

static void come_to_rest(world *w)
{
    for (unsigned n = 0; !is_at_rest(w) && !w->server->service.stopping; n++) {
        FUZZ_CHECK(n < TURNS_MAX);
        forget_pace(w);
        service_wake(&w->server->service);
        (void)uv_run(&w->server->service.loop, UV_RUN_ONCE);
    }
}

/* What a client may do as well: there are no objects any more, and nobody is about to link or unlink any. */
static void free_objects(world *w)
{
    shm_map *map = w->heap.map;

    if (holds_any(map)) {
        memset(shm_intents_of(map)->holds, 0, sizeof(shm_intents_of(map)->holds));
        u32_store_relaxed(&shm_intents_of(map)->used, 0);
    }
    for (page_no pos = { 0 }, first; (first = mheap_next_span(&w->heap, &pos)).n != 0;) {
        for (uint32_t word = 0; word < bits_nwords(shm_span_at(map, first)->nelems); word++)
            u64_store_relaxed(shm_alloc_word(map, first, word), 0);
    }
    for (uint32_t at; (at = roots_next(w->server->service.roots, 0)) < SHM_ROOTS_MAX;)
        roots_remove_at(w->server->service.roots, at);
}

static void must_be_empty(world *w)
{
    service *srv = &w->server->service;

    free_objects(w);
    (void)sweep_some(&srv->sessions.leases, &(page_no){ 0 }, UINT32_MAX, true, OFFERS_TAKE);
    FUZZ_CHECK(w->heap.ninuse_spans == 0 && w->heap.ninuse_pages == 0 && srv->sessions.leases.nleased == 0);
    FUZZ_CHECK(adopt_count(w->heap.adopted) == 0 && roots_count(srv->roots) == 0);
    FUZZ_CHECK(srv->operations.used == 0 && srv->queue.nwaiting == 0);
    FUZZ_CHECK(mheap_validate(&w->heap, stderr) == 0); /* once: it takes a third of an input */
    FUZZ_CHECK(session_table_validate(&srv->sessions, stderr) == 0 && roots_validate(srv->roots, stderr) == 0);
    FUZZ_CHECK(making_validate(&srv->making, stderr) == 0 && users_validate(&srv->users) == NULL);
}

void world_end_input(world *w)
{
    for (unsigned i = 0; i < WORLD_CLIENTS; i++)
        world_die(w, i);
    come_to_rest(w);
    if (w->server->service.stopping) {
        close_down(w);
        return;
    }
    must_be_empty(w);
    forget_pace(w);
    if (++w->ninputs == INPUTS_MAX)
        world_stop(w);
}
