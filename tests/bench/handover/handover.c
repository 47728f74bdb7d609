/*
 * bench_handover: what it takes that one process makes an object and another one reads it: in memory that both see, or
 * through redis. Called by hand; asserts nothing. Starts a goallocd and a redis-server of its own, on Unix sockets.
 *
 * An operation: one process gets memory for an object and writes all of it; another one reads all of it and drops it.
 * Names go through a ring that both see, and a pipe says how many: so nobody spins. For redis, which has no memory to
 * hand out, the object is the value of an LPUSH, and comes by a BRPOP; both are pipelined to a depth: 1, as most
 * programs use it, and 32. The last two rows: a process reads an object that is there, and stays: by its address, or by
 * a GET.
 *
 * Counted is the processors' time of all who take part, the daemons too: it hardly depends on what else the machine
 * does. Medians of several runs, all peers in turn in each of them. Checksums show that the bytes have come.
 */
#include <hiredis/hiredis.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <goalloc.h>

#include "tests/bench/handover/handover.h"
#include "tests/support/fixture.h"

#define RUNS 7u
#define SIZES 3u
#define BATCH 64u /* names that a side tells the other at once, so that the ring costs little */
#define ENTRIES 256u
#define PEERS 5u
#define KEY "handover"

static const size_t sizes[SIZES] = { 64, 4096, 65536 };
static const unsigned operations[SIZES] = { 500000, 50000, 10000 };

typedef struct ring {
    uint64_t sum; /* of what the reader has read */
    uint64_t names[ENTRIES];
} ring;

static ring *shared;
static char redis_socket[128];
static pid_t daemons[2]; /* whose time counts, too */

static double ns_of(clockid_t clock)
{
    struct timespec t;

    return clock_gettime(clock, &t) == 0 ? (double)t.tv_sec * 1e9 + (double)t.tv_nsec : 0;
}

/* The processors' time so far: of this process, of its readers that have ended, and of the daemons. */
static double cpu_ns(void)
{
    struct rusage readers;
    double ns = ns_of(CLOCK_PROCESS_CPUTIME_ID);
    clockid_t clock;

    (void)getrusage(RUSAGE_CHILDREN, &readers);
    ns += (double)(readers.ru_utime.tv_sec + readers.ru_stime.tv_sec) * 1e9;
    ns += (double)(readers.ru_utime.tv_usec + readers.ru_stime.tv_usec) * 1e3;
    for (unsigned i = 0; i < 2; i++) {
        if (clock_getcpuclockid(daemons[i], &clock) == 0)
            ns += ns_of(clock);
    }
    return ns;
}

static void die(const char *what)
{
    (void)fprintf(stderr, "bench_handover: %s\n", what);
    exit(EXIT_FAILURE);
}

static void fill(void *p, size_t size, uint64_t i)
{
    memset(p, (int)(i & 0x7f), size);
}

static uint64_t sum_of(const void *p, size_t size)
{
    uint64_t sum = 0, word;

    for (size_t at = 0; at < size; at += sizeof(word)) {
        memcpy(&word, (const char *)p + at, sizeof(word));
        sum += word;
    }
    return sum;
}

/* --- through memory --- */

/* One batch more: told to the other side, or waited for. */
static void tell(int pipe_end)
{
    if (write(pipe_end, "", 1) != 1)
        die("the other side has gone");
}

static void await(int pipe_end)
{
    char byte;

    if (read(pipe_end, &byte, 1) != 1)
        die("the other side has gone");
}

static void write_objects(const handover_peer *peer, size_t size, unsigned n, int written, int read_back)
{
    for (unsigned i = 0; i < n; i++) {
        uint64_t name = 0;
        void *p;

        if (i >= ENTRIES && i % BATCH == 0)
            await(read_back);
        p = peer->take(size, &name);
        if (p == NULL)
            die("no memory");
        fill(p, size, i);
        shared->names[i % ENTRIES] = name;
        if ((i + 1) % BATCH == 0)
            tell(written);
    }
}

static void read_objects(const handover_peer *peer, size_t size, unsigned n, int written, int read_back)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < n; i++) {
        uint64_t name;

        if (i % BATCH == 0)
            await(written);
        name = shared->names[i % ENTRIES];
        sum += sum_of(peer->see(name), size);
        peer->drop(name);
        if ((i + 1) % BATCH == 0)
            tell(read_back);
    }
    shared->sum = sum;
}

/* --- through redis --- */

static redisContext *redis_open(void)
{
    redisContext *c = redisConnectUnix(redis_socket);

    for (int tries = 0; (c == NULL || c->err != 0) && tries < 1000; tries++) {
        redisFree(c);
        (void)usleep(10000);
        c = redisConnectUnix(redis_socket);
    }
    if (c == NULL || c->err != 0)
        die("redis-server does not answer");
    return c;
}

static redisReply *redis_next(redisContext *c, int type)
{
    void *reply = NULL;

    if (redisGetReply(c, &reply) != REDIS_OK || ((redisReply *)reply)->type != type)
        die("redis has another answer");
    return reply;
}

static void write_to_redis(size_t size, unsigned n, unsigned depth)
{
    redisContext *c = redis_open();
    char *buf = malloc(size);

    for (unsigned i = 0; i < n && buf != NULL; i += depth) {
        for (unsigned k = 0; k < depth; k++) {
            fill(buf, size, i + k);
            (void)redisAppendCommand(c, "LPUSH " KEY " %b", buf, size);
        }
        for (unsigned k = 0; k < depth; k++)
            freeReplyObject(redis_next(c, REDIS_REPLY_INTEGER));
    }
    free(buf);
    redisFree(c);
}

static void read_from_redis(size_t size, unsigned n, unsigned depth)
{
    redisContext *c = redis_open();
    uint64_t sum = 0;

    for (unsigned i = 0; i < n; i += depth) {
        for (unsigned k = 0; k < depth; k++)
            (void)redisAppendCommand(c, "BRPOP " KEY " 0");
        for (unsigned k = 0; k < depth; k++) {
            redisReply *reply = redis_next(c, REDIS_REPLY_ARRAY);

            if (reply->element[1]->len != size)
                die("redis has another value");
            sum += sum_of(reply->element[1]->str, size);
            freeReplyObject(reply);
        }
    }
    shared->sum = sum;
    redisFree(c);
}

/* --- runs --- */

/* What an operation takes, in ns; n is a multiple of BATCH. peer NULL: redis. */
static double hand_over(const handover_peer *peer, size_t size, unsigned n, unsigned depth)
{
    uint64_t expected = 0;
    int written[2], read_back[2], status;
    double begun;
    pid_t reader;

    memset(shared, 0, sizeof(*shared));
    if (pipe(written) < 0 || pipe(read_back) < 0)
        die("no pipe");
    if (peer != NULL)
        peer->open(size);
    begun = cpu_ns();
    reader = fork();
    if (reader == 0) {
        if (peer != NULL)
            read_objects(peer, size, n, written[0], read_back[1]);
        else
            read_from_redis(size, n, depth);
        _exit(EXIT_SUCCESS);
    }
    if (peer != NULL)
        write_objects(peer, size, n, written[1], read_back[0]);
    else
        write_to_redis(size, n, depth);
    if (reader < 0 || waitpid(reader, &status, 0) != reader || status != 0)
        die("the reader has failed");
    begun = cpu_ns() - begun;
    if (peer != NULL)
        peer->close();
    for (unsigned i = 0; i < 2; i++) {
        (void)close(written[i]);
        (void)close(read_back[i]);
    }
    for (unsigned i = 0; i < n; i++)
        expected += (i & 0x7f) * UINT64_C(0x0101010101010101) * (size / sizeof(uint64_t));
    if (shared->sum != expected)
        die("other bytes have come than were sent");
    return begun / n;
}

/* What it takes to read an object that is there: by its address, and by GET. */
static void look(size_t size, unsigned n, double *ret_goalloc, double *ret_redis)
{
    redisContext *c = redis_open();
    volatile uint64_t sink = 0;
    double begun;
    void *p;

    if (goalloc_attach(NULL) < 0 || (p = goalloc_malloc(size)) == NULL)
        die("goallocd does not answer");
    fill(p, size, 1);
    freeReplyObject(redisCommand(c, "SET object %b", p, size));
    begun = cpu_ns();
    for (unsigned i = 0; i < n; i++)
        sink += sum_of(*(void *volatile *)&p, size);
    *ret_goalloc = (cpu_ns() - begun) / n;
    begun = cpu_ns();
    for (unsigned i = 0; i < n; i++) {
        redisReply *reply = redisCommand(c, "GET object");

        if (reply == NULL || reply->type != REDIS_REPLY_STRING || reply->len != size)
            die("redis has another value");
        sink += sum_of(reply->str, size);
        freeReplyObject(reply);
    }
    *ret_redis = (cpu_ns() - begun) / n;
    goalloc_free(p);
    (void)goalloc_detach();
    redisFree(c);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *runs)
{
    qsort(runs, RUNS, sizeof(*runs), compare);
    return runs[RUNS / 2];
}

/* redis-server without files, without persistence. Debian has it in redis-tools, under the name of a checker. */
static pid_t start_redis(const char *dir)
{
    pid_t pid;

    (void)snprintf(redis_socket, sizeof(redis_socket), "%s/redis.sock", dir);
    pid = fork();
    if (pid == 0) {
        const char *arguments[] = { "redis-server", "--port", "0", "--unixsocket",
                                    redis_socket,   "--save", "",  "--appendonly",
                                    "no",           "--dir",  dir, "--logfile",
                                    "redis.log",    NULL };

        (void)execvp("redis-server", (char *const *)arguments);
        (void)execv("/usr/bin/redis-check-rdb", (char *const *)arguments);
        _exit(127);
    }
    return pid;
}

int main(void)
{
    static const struct {
        const char *name;
        const handover_peer *peer;
        unsigned depth;
    } peers[PEERS] = { { "goalloc", &handover_goalloc, 0 },
                       { "own pool", &handover_pool, 0 },
                       { "Boost.Interprocess", &handover_boost, 0 },
                       { "redis", NULL, 1 },
                       { "redis, 32 at a time", NULL, 32 } };
    static double runs[SIZES][PEERS + 2][RUNS];
    fixture f = { 0 };
    pid_t redis;

    fixture_start(&f, (const char *const[]){ NULL });
    (void)setenv("GOALLOC_SOCKET", f.socket, 1);
    redis = start_redis(f.dir);
    daemons[0] = f.daemon;
    daemons[1] = redis;
    shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        die("no memory");
    for (unsigned run = 0; run < RUNS; run++) {
        for (unsigned s = 0; s < SIZES; s++) {
            for (unsigned i = 0; i < PEERS; i++) {
                unsigned n = operations[s] / (peers[i].peer == NULL ? 10 : 1);

                runs[s][i][run] = hand_over(peers[i].peer, sizes[s], n / BATCH * BATCH, peers[i].depth);
            }
            look(sizes[s], operations[s] / 5, &runs[s][PEERS][run], &runs[s][PEERS + 1][run]);
        }
    }
    (void)printf("ns of CPU, medians of %u runs; in brackets / goalloc\n\n", RUNS);
    (void)printf("%-28s%20s%20s%20s\n", "", "64 B", "4 KiB", "64 KiB");
    for (unsigned i = 0; i < PEERS + 2; i++) {
        static const char *const looks[] = { "read by address", "read by GET of redis" };

        (void)printf("%-28s", i < PEERS ? peers[i].name : looks[i - PEERS]);
        for (unsigned s = 0; s < SIZES; s++) {
            double own = median(runs[s][i]);

            (void)printf("%11.0f (%6.2f)", own, own / median(runs[s][i < PEERS ? 0 : PEERS]));
        }
        (void)printf("\n");
    }
    (void)kill(redis, SIGTERM);
    (void)waitpid(redis, NULL, 0);
    return fixture_stop(&f) ? EXIT_SUCCESS : EXIT_FAILURE;
}
