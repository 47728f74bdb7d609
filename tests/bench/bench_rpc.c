/*
 * bench_rpc: what a request to the daemon costs, against a bare libuv echo with messages of the same sizes.
 *
 * Starts a goallocd of its own, and the echo: one libuv loop in a process of its own that reads into a fixed buffer and
 * answers by uv_try_write, so about as little as a libuv server can do. Measured in turns, in one run:
 *
 *   round trip   one client, blocking, a refill of one span at a time, which goes back outside of the measured time.
 *                With raw frames, and through libgoalloc's own connection.
 *   rate         64 clients at once, each with one request under way, driven by one process with epoll. Spans go back
 *                in the same packet as the next refill, each or after 32: that is part of what is measured. Or
 *                none: then all of them are of pages that have no memory yet. Also the CPU time that the server spends
 *                on one, which does not depend on how fast the driver is.
 *   memory       the daemon's resident memory for each of 1000 attached clients, then after a refill of each.
 *
 * Client and server are bound to processors: left to itself, the scheduler puts one server on the client's processor
 * and the other on another one, where waking it up takes five times as long, and leaves them there. So round trips are
 * measured with both on one processor and on two; the ratio in JSON is the larger one.
 *
 * Prints the medians of the rounds; --json: one object. Asserts nothing.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

#include <uv.h>

#include "client/lib/connection.h"
#include "client/lib/outbox.h"
#include "client/lib/process.h"
#include "tests/support/fixture.h"

#define ROUNDS        15
#define TRIPS         1000u /* in a round */
#define CLIENTS       64u
#define BATCH         32u /* refills before a client gives its spans back */
#define RATE_ROUNDS   7
#define RATE_REFILLS  40000u
#define HOLDERS       4u /* processes that hold the connections for the memory */
#define HELD_EACH     250u
#define SPAN_CLASS    11u /* objects of 48 bytes */

/* Messages as the library sends them, and a reply of the usual length. */
static uint8_t refill[64];
static size_t refill_bytes;
static size_t reply_bytes;

__attribute__((noreturn)) static void give_up(const char *what)
{
    (void)fprintf(stderr, "bench_rpc: %s: %s\n", what, strerror(errno));
    exit(EXIT_FAILURE);
}

static double now_ns(clockid_t clock)
{
    struct timespec ts;

    if (clock_gettime(clock, &ts) < 0)
        give_up("clock_gettime");
    return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *values, size_t n)
{
    qsort(values, n, sizeof(*values), compare);
    return values[n / 2];
}

/* Two processors that may be used; the same one twice if there is but one. */
static int cpus[2] = { -1, -1 };

static void find_cpus(void)
{
    cpu_set_t set;

    if (sched_getaffinity(0, sizeof(set), &set) < 0)
        give_up("sched_getaffinity");
    for (int i = 0; i < CPU_SETSIZE && cpus[1] < 0; i++) {
        if (CPU_ISSET((size_t)i, &set))
            cpus[cpus[0] < 0 ? 0 : 1] = i;
    }
    if (cpus[1] < 0)
        cpus[1] = cpus[0];
}

static void bind_to(pid_t pid, int cpu)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET((size_t)cpu, &set);
    if (sched_setaffinity(pid, sizeof(set), &set) < 0)
        give_up("sched_setaffinity");
}

/* --- the echo --- */

typedef struct echo_peer {
    uv_pipe_t pipe;
    size_t have_bytes; /* of a request that has not come whole */
} echo_peer;

static uv_loop_t echo_loop;
static char echo_in[65536];
static char echo_out[65536];

static void echo_on_closed(uv_handle_t *handle)
{
    free(handle);
}

static void echo_on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    (void)handle;
    (void)suggested;
    *buf = uv_buf_init(echo_in, sizeof(echo_in));
}

static void echo_on_read(uv_stream_t *stream, ssize_t nread, const uv_buf_t *buf)
{
    echo_peer *p = (echo_peer *)stream;

    (void)buf;
    if (nread < 0) {
        uv_close((uv_handle_t *)stream, echo_on_closed);
        return;
    }
    for (p->have_bytes += (size_t)nread; p->have_bytes >= refill_bytes; p->have_bytes -= refill_bytes) {
        uv_buf_t answer = uv_buf_init(echo_out, (unsigned)reply_bytes);

        if (uv_try_write(stream, &answer, 1) != (int)reply_bytes)
            abort(); /* a client has one request under way: there is room for its answer */
    }
}

static void echo_on_connection(uv_stream_t *listener, int status)
{
    echo_peer *p = calloc(1, sizeof(*p));

    if (status < 0 || p == NULL || uv_pipe_init(&echo_loop, &p->pipe, 0) < 0 ||
        uv_accept(listener, (uv_stream_t *)&p->pipe) < 0 ||
        uv_read_start((uv_stream_t *)&p->pipe, echo_on_alloc, echo_on_read) < 0)
        abort();
}

static int unix_connect(const char *path)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    (void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
    if (fd >= 0 && connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0) {
        (void)close(fd);
        return -1;
    }
    return fd;
}

static pid_t echo_start(const char *path)
{
    static uv_pipe_t listener;
    pid_t pid = fork();

    if (pid < 0)
        give_up("fork");
    if (pid == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (uv_loop_init(&echo_loop) < 0 || uv_pipe_init(&echo_loop, &listener, 0) < 0 ||
            uv_pipe_bind(&listener, path) < 0 ||
            uv_listen((uv_stream_t *)&listener, SOMAXCONN, echo_on_connection) < 0)
            abort();
        (void)uv_run(&echo_loop, UV_RUN_DEFAULT);
        _exit(0);
    }
    for (int i = 0; i < 1000; i++) {
        int fd = unix_connect(path);

        if (fd >= 0) {
            (void)close(fd);
            return pid;
        }
        (void)usleep(1000);
    }
    give_up("the echo does not come up");
}

/* A connection with a session on it, which waits as long as it takes, as the echo's do. */
static int attach_raw(const fixture *f)
{
    int fd = raw_attach(f);

    if (fcntl(fd, F_SETFL, 0) < 0)
        give_up("fcntl");
    return fd;
}

/* --- messages --- */

static size_t pack_return(uint64_t id, uint32_t *spans, size_t nspans, uint8_t *out, size_t cap_bytes)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__ReturnSpans body = GOALLOCD__RETURN_SPANS__INIT;

    body.n_spans = nspans;
    body.spans = spans;
    request.id = id;
    request.op_case = GOALLOCD__REQUEST__OP_RETURN_SPANS;
    request.return_spans = &body;
    return frame_pack(&request.base, out, cap_bytes);
}

static void pack_refill(void)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Refill body = GOALLOCD__REFILL__INIT;

    body.span_class = SPAN_CLASS;
    body.nspans = 1;
    body.npages = 1;
    request.id = 100;
    request.op_case = GOALLOCD__REQUEST__OP_REFILL;
    request.refill = &body;
    refill_bytes = frame_pack(&request.base, refill, sizeof(refill));
}

/* The span that a reply brings. */
static uint32_t reply_span(const uint8_t *data, size_t len_bytes)
{
    static uint8_t memory[4096];
    frame_bump bump;
    Goallocd__Reply *reply;

    frame_bump_init(&bump, memory, sizeof(memory));
    if (len_bytes < FRAME_HEADER_BYTES || len_bytes != FRAME_HEADER_BYTES + frame_payload_bytes(data))
        give_up("half a reply");
    reply = goallocd__reply__unpack(&bump.allocator, len_bytes - FRAME_HEADER_BYTES, data + FRAME_HEADER_BYTES);
    if (reply == NULL || reply->error != 0 || reply->result_case != GOALLOCD__REPLY__RESULT_REFILL) {
        (void)fprintf(stderr, "bench_rpc: a refill failed: %d %s\n", reply == NULL ? 0 : reply->error,
                      reply == NULL ? "" : reply->message);
        exit(EXIT_FAILURE);
    }
    return reply->refill->spans[0];
}

static void send_all(int fd, const void *data, size_t len_bytes)
{
    if (send(fd, data, len_bytes, MSG_NOSIGNAL) != (ssize_t)len_bytes)
        give_up("send");
}

/* --- round trip --- */

/* ns of one, by TRIPS of them. The spans go back. */
static double trip_raw(int fd)
{
    uint8_t out[64];
    double sum = 0;
    uint8_t in[256];

    for (uint32_t i = 0; i < TRIPS; i++) {
        double start = now_ns(CLOCK_MONOTONIC);

        send_all(fd, refill, refill_bytes);
        ssize_t n = recv(fd, in, sizeof(in), 0);

        sum += now_ns(CLOCK_MONOTONIC) - start;
        if (n <= 0)
            give_up("recv");
        reply_bytes = (size_t)n;

        uint32_t span = reply_span(in, (size_t)n);

        send_all(fd, out, pack_return(1, &span, 1, out, sizeof(out)));
        if (recv(fd, in, sizeof(in), 0) <= 0)
            give_up("recv");
    }
    return sum / TRIPS;
}

static double trip_library(void)
{
    double sum = 0;

    for (uint32_t i = 0; i < TRIPS; i++) {
        uint32_t span;
        double start = now_ns(CLOCK_MONOTONIC);
        int r = connection_refill((span_class){ SPAN_CLASS }, 1, 1, false, &span);

        sum += now_ns(CLOCK_MONOTONIC) - start;
        if (r != 1)
            give_up("refill");
        outbox_return(&span, 1);
        if (connection_sync() < 0)
            give_up("return");
    }
    return sum / TRIPS;
}

static double trip_echo(int fd)
{
    double sum = 0;
    uint8_t in[256];

    for (uint32_t i = 0; i < TRIPS; i++) {
        double start = now_ns(CLOCK_MONOTONIC);

        send_all(fd, refill, refill_bytes);
        if (recv(fd, in, sizeof(in), 0) != (ssize_t)reply_bytes)
            give_up("recv");
        sum += now_ns(CLOCK_MONOTONIC) - start;
        send_all(fd, refill, refill_bytes); /* as the others' return */
        if (recv(fd, in, sizeof(in), 0) != (ssize_t)reply_bytes)
            give_up("recv");
    }
    return sum / TRIPS;
}

/* --- rate --- */

typedef struct client {
    int fd;
    uint32_t spans[BATCH];
    uint32_t nspans;
} client;

typedef struct rate {
    double per_second;
    double cpu_ns; /* of the server, for each */
} rate;

/* Who asks for what: who gives spans back does so in batches; 0: never. */
typedef struct load {
    client *clients;
    pid_t server;
    bool echo;
    uint32_t batch;
} load;

static void client_ask(const load *l, client *c)
{
    uint8_t out[512];
    size_t len = 0;

    if (l->batch != 0 && c->nspans == l->batch) {
        len = pack_return(0, c->spans, l->batch, out, sizeof(out));
        c->nspans = 0;
    }
    memcpy(out + len, refill, refill_bytes);
    send_all(c->fd, out, len + refill_bytes);
}

static void client_answered(const load *l, client *c)
{
    uint8_t in[256];
    ssize_t n = recv(c->fd, in, sizeof(in), 0);

    if (n <= 0)
        give_up("recv");
    if (!l->echo && l->batch != 0)
        c->spans[c->nspans++] = reply_span(in, (size_t)n);
}

static void give_back(client *c)
{
    uint8_t out[512];

    if (c->nspans > 0)
        send_all(c->fd, out, pack_return(0, c->spans, c->nspans, out, sizeof(out)));
    c->nspans = 0;
}

static rate drive(const load *l)
{
    struct epoll_event events[CLIENTS];
    int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    uint32_t nasked = CLIENTS;
    uint32_t nanswered = 0;
    clockid_t cpu;
    double cpu_start;
    double start;

    if (epoll_fd < 0 || clock_getcpuclockid(l->server, &cpu) != 0)
        give_up("drive");
    for (uint32_t i = 0; i < CLIENTS; i++) {
        struct epoll_event event = { .events = EPOLLIN, .data = { .ptr = &l->clients[i] } };

        if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, l->clients[i].fd, &event) < 0)
            give_up("epoll_ctl");
    }
    cpu_start = now_ns(cpu);
    start = now_ns(CLOCK_MONOTONIC);
    for (uint32_t i = 0; i < CLIENTS; i++)
        client_ask(l, &l->clients[i]);
    while (nanswered < RATE_REFILLS) {
        int n = epoll_wait(epoll_fd, events, CLIENTS, -1);

        for (int i = 0; i < n; i++) {
            client_answered(l, events[i].data.ptr);
            nanswered++;
            if (nasked < RATE_REFILLS) {
                client_ask(l, events[i].data.ptr);
                nasked++;
            }
        }
    }
    rate ret = { nanswered * 1e9 / (now_ns(CLOCK_MONOTONIC) - start), (now_ns(cpu) - cpu_start) / nanswered };

    (void)close(epoll_fd);
    return ret;
}

/* --- memory --- */

static double status_bytes(pid_t pid, const char *field)
{
    char path[64];
    char line[256];
    unsigned long long kib = 0;
    FILE *file;

    (void)snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    file = fopen(path, "re");
    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        if (strncmp(line, field, strlen(field)) == 0)
            (void)sscanf(line + strlen(field) + 1, "%llu", &kib);
    }
    if (file != NULL)
        (void)fclose(file);
    return (double)kib * 1024;
}

typedef struct memory {
    double total;
    double anon;
    double shmem;
} memory;

static memory memory_of(pid_t pid)
{
    return (memory){ status_bytes(pid, "VmRSS"), status_bytes(pid, "RssAnon"), status_bytes(pid, "RssShmem") };
}

static memory memory_each(memory from, memory to)
{
    double n = HOLDERS * HELD_EACH;

    return (memory){ (to.total - from.total) / n, (to.anon - from.anon) / n, (to.shmem - from.shmem) / n };
}

/* Attach, say so; refill, say so; hold until the end. */
static void hold_clients(const fixture *f, int say, int hear)
{
    static int fds[HELD_EACH];
    uint8_t in[256];
    char c = 0;

    for (uint32_t i = 0; i < HELD_EACH; i++)
        fds[i] = attach_raw(f);
    if (write(say, &c, 1) != 1 || read(hear, &c, 1) != 1)
        _exit(1);
    for (uint32_t i = 0; i < HELD_EACH; i++) {
        send_all(fds[i], refill, refill_bytes);
        if (recv(fds[i], in, sizeof(in), 0) <= 0)
            _exit(1);
    }
    if (write(say, &c, 1) != 1)
        _exit(1);
    _exit(read(hear, &c, 1) == 1 ? 0 : 1);
}

static void say_all(int fd, char c)
{
    for (uint32_t i = 0; i < HOLDERS; i++) {
        if (write(fd, &c, 1) != 1)
            give_up("write");
    }
}

static void hear_all(int fd)
{
    char c;

    for (uint32_t i = 0; i < HOLDERS; i++) {
        if (read(fd, &c, 1) != 1)
            give_up("a holder of connections has ended");
    }
}

static void measure_memory(memory *ret_attached, memory *ret_refilled)
{
    static const char *const options[] = { "--reserve", "16G", "--log-level", "warn", NULL };
    fixture f;
    memory before;
    int up[2];
    int down[2];

    fixture_start(&f, options);
    close(attach_raw(&f)); /* what the first one costs is not each one's */
    (void)usleep(50000);
    before = memory_of(f.daemon);
    if (pipe(up) < 0 || pipe(down) < 0)
        give_up("pipe");
    for (uint32_t i = 0; i < HOLDERS; i++) {
        pid_t pid = fork();

        if (pid < 0)
            give_up("fork");
        if (pid == 0) {
            (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
            hold_clients(&f, up[1], down[0]);
        }
    }
    close(up[1]);
    hear_all(up[0]);
    *ret_attached = memory_each(before, memory_of(f.daemon));
    say_all(down[1], 0);
    hear_all(up[0]);
    *ret_refilled = memory_each(before, memory_of(f.daemon));
    say_all(down[1], 0);
    for (uint32_t i = 0; i < HOLDERS; i++)
        (void)wait(NULL);
    (void)fixture_stop(&f);
}

/* --- all of it --- */

typedef struct trips {
    double raw_ns;
    double library_ns;
    double echo_ns;
} trips;

typedef struct results {
    trips one_cpu;
    trips two_cpus;
    rate refills;
    rate pairs;
    rate cold;
    rate echoes;
    memory attached;
    memory refilled;
} results;

static void measure_trips(const fixture *f, const char *echo_path, trips *ret)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;
    double raw[ROUNDS];
    double library[ROUNDS];
    double echo[ROUNDS];
    int raw_fd = attach_raw(f);
    int echo_fd = unix_connect(echo_path);

    options.socket_path = f->socket;
    if (echo_fd < 0 || goalloc_attach(&options) < 0)
        give_up("attach");
    (void)trip_raw(raw_fd);
    (void)trip_library();
    (void)trip_echo(echo_fd);
    for (int i = 0; i < ROUNDS; i++) {
        raw[i] = trip_raw(raw_fd);
        echo[i] = trip_echo(echo_fd);
        library[i] = trip_library();
    }
    ret->raw_ns = median(raw, ROUNDS);
    ret->library_ns = median(library, ROUNDS);
    ret->echo_ns = median(echo, ROUNDS);
    (void)goalloc_detach();
    (void)close(raw_fd);
    (void)close(echo_fd);
}

static void connect_all(const fixture *f, const char *echo_path, client *clients)
{
    for (uint32_t i = 0; i < CLIENTS; i++) {
        clients[i] = (client){ .fd = echo_path != NULL ? unix_connect(echo_path) : attach_raw(f) };
        if (clients[i].fd < 0)
            give_up("connect");
    }
}

static void close_all(client *clients)
{
    for (uint32_t i = 0; i < CLIENTS; i++)
        (void)close(clients[i].fd);
}

/* Spans that are kept, so that all of them are of pages without memory. */
static rate measure_cold_rate(const fixture *f)
{
    static client clients[CLIENTS];
    load cold = { clients, f->daemon, false, 0 };
    rate ret;

    connect_all(f, NULL, clients);
    ret = drive(&cold);
    close_all(clients);
    return ret;
}

static void measure_rates(const fixture *f, const char *echo_path, pid_t echo, results *ret)
{
    static client refillers[CLIENTS];
    static client echoers[CLIENTS];
    const load loads[3] = { { refillers, f->daemon, false, BATCH },
                            { refillers, f->daemon, false, 1 },
                            { echoers, echo, true, 0 } };
    double values[6][RATE_ROUNDS];

    connect_all(f, NULL, refillers);
    connect_all(f, echo_path, echoers);
    for (int i = -1; i < RATE_ROUNDS; i++) {
        for (int j = 0; j < 3; j++) {
            for (uint32_t k = 0; k < CLIENTS && j < 2; k++)
                give_back(&refillers[k]);

            rate r = drive(&loads[j]);

            if (i >= 0) {
                values[2 * j][i] = r.per_second;
                values[2 * j + 1][i] = r.cpu_ns;
            }
        }
    }
    ret->refills = (rate){ median(values[0], RATE_ROUNDS), median(values[1], RATE_ROUNDS) };
    ret->pairs = (rate){ median(values[2], RATE_ROUNDS), median(values[3], RATE_ROUNDS) };
    ret->echoes = (rate){ median(values[4], RATE_ROUNDS), median(values[5], RATE_ROUNDS) };
    close_all(refillers);
    close_all(echoers);
}

static void print_rate(const char *what, const rate *r, const rate *echo)
{
    (void)printf("%-26s  %8.0f a second   %6.2f us of the server's CPU   %.2f of the echo's rate   %.2f by CPU\n", what,
                 r->per_second, r->cpu_ns / 1e3, r->per_second / echo->per_second, echo->cpu_ns / r->cpu_ns);
}

static void print_trips(const char *what, const trips *t)
{
    (void)printf("%-26s  echo %6.2f us   raw %6.2f us   library %6.2f us   ratios %.2f and %.2f\n", what,
                 t->echo_ns / 1e3, t->raw_ns / 1e3, t->library_ns / 1e3, t->raw_ns / t->echo_ns,
                 t->library_ns / t->echo_ns);
}

static void print(const results *r)
{
    print_trips("round trip, one processor", &r->one_cpu);
    print_trips("round trip, two processors", &r->two_cpus);
    print_rate("refills, batches go back", &r->refills, &r->echoes);
    print_rate("refills, each goes back", &r->pairs, &r->echoes);
    print_rate("refills, none goes back", &r->cold, &r->echoes);
    print_rate("echoes", &r->echoes, &r->echoes);
    (void)printf("bytes a client, attached     %8.0f         %8.0f anonymous   %8.0f shared\n", r->attached.total,
                 r->attached.anon, r->attached.shmem);
    (void)printf("bytes a client, refilled     %8.0f         %8.0f anonymous   %8.0f shared\n", r->refilled.total,
                 r->refilled.anon, r->refilled.shmem);
}

static void print_json(const results *r)
{
    const trips *one = &r->one_cpu;
    const trips *two = &r->two_cpus;
    const trips *t = one->raw_ns / one->echo_ns > two->raw_ns / two->echo_ns ? one : two;

    (void)printf("{\"round_trip_ratio\": %.3f, \"library_round_trip_ratio\": %.3f, "
                 "\"round_trip_us\": %.2f, \"echo_round_trip_us\": %.2f, \"rate_ratio\": %.3f, \"cpu_ratio\": %.3f, "
                 "\"pair_rate_ratio\": %.3f, \"cold_rate_ratio\": %.3f, "
                 "\"refills_per_second\": %.0f, \"echoes_per_second\": %.0f, \"client_bytes\": %.0f, "
                 "\"client_attached_bytes\": %.0f}\n",
                 t->raw_ns / t->echo_ns, t->library_ns / t->echo_ns, t->raw_ns / 1e3, t->echo_ns / 1e3,
                 r->refills.per_second / r->echoes.per_second,
                 r->echoes.cpu_ns / r->refills.cpu_ns, r->pairs.per_second / r->echoes.per_second,
                 r->cold.per_second / r->echoes.per_second, r->refills.per_second, r->echoes.per_second,
                 r->refilled.total, r->attached.total);
}

int main(int argc, char **argv)
{
    static const char *const options[] = { "--reserve", "16G", "--log-level", "warn", NULL };
    struct rlimit limit;
    char echo_path[128];
    fixture f;
    results r;
    pid_t echo;

    if (argc > 1 && strcmp(argv[1], "--json") != 0) {
        (void)fprintf(stderr, "usage: bench_rpc [--json]\n");
        return 2;
    }
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
    find_cpus();
    pack_refill();
    fixture_start(&f, options);
    int fd = attach_raw(&f);

    (void)trip_raw(fd); /* says how long a reply is */
    (void)close(fd);
    (void)snprintf(echo_path, sizeof(echo_path), "%s/echo", f.dir);
    echo = echo_start(echo_path);
    bind_to(0, cpus[0]);
    bind_to(f.daemon, cpus[1]);
    r.cold = measure_cold_rate(&f);
    bind_to(f.daemon, cpus[0]);
    bind_to(echo, cpus[0]);
    measure_trips(&f, echo_path, &r.one_cpu);
    bind_to(f.daemon, cpus[1]);
    bind_to(echo, cpus[1]);
    measure_trips(&f, echo_path, &r.two_cpus);
    measure_rates(&f, echo_path, echo, &r);
    (void)kill(echo, SIGKILL);
    (void)waitpid(echo, NULL, 0);
    (void)unlink(echo_path);
    if (!fixture_stop(&f))
        give_up("the daemon has not ended cleanly");
    measure_memory(&r.attached, &r.refilled);
    if (argc > 1)
        print_json(&r);
    else
        print(&r);
    return EXIT_SUCCESS;
}
