/*
 * load: SIP user agents that keep a server busy: see usage below. tests/programs/kamailio.py starts it for the
 * comparison. It takes a small part of what the same takes in Python, so on two processors the server's workers have
 * most of both, and requests wait for workers, not workers for requests.
 *
 * One thread, two sockets: callers and devices have one, the agents that are called have the other. What is sent in a
 * turn goes with one sendmmsg().
 *
 * A flight is a request that the server has not answered yet, or a call that is being set up or taken down: at most
 * AT_ONCE of them. Each has a slot in `flights`; a message carries its slot and number as the tag in From,
 * "SLOT-NUMBER", so what belongs to a flight that has ended is known and dropped. What has no answer for two
 * seconds is sent again, once nothing else is there to be read: a server that is slow has lost nothing.
 *
 * A call: INVITE, 180, 200, ACK; when the ACK has come to who is called, the call lives. Of those that live the oldest
 * is taken down, by BYE, as soon as there are more than LIVING. What is sent within a call has the route that the
 * server has recorded, if it did, and is for the address of who is called.
 *
 * Ends with 0 if all was answered with 200, else with a message and 1.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BATCH 64
#define TEXT_BYTES 2048
#define AGAIN_MS 2000
#define PATIENCE_MS 60000 /* that nothing comes at all */

enum step { STEP_FREE, STEP_REQUEST, STEP_INVITE, STEP_ACK, STEP_LIVES, STEP_BYE };

typedef struct flight {
    enum step step;
    uint32_t number;
    int64_t sent_ms;
    char route[256]; /* that the server has recorded: the header's value; empty: none */
    char text[TEXT_BYTES];
    size_t bytes; /* of text: what was sent last */
} flight;

/* What goes out of a socket at the end of a turn. */
typedef struct outgoing {
    int fd;
    unsigned n;
    struct mmsghdr messages[BATCH];
    struct iovec parts[BATCH];
    struct sockaddr_in to[BATCH];
    char texts[BATCH][TEXT_BYTES];
} outgoing;

static outgoing caller, callee;
static struct sockaddr_in server;
static unsigned own_port, server_port, behind_port;
static flight *flights;
static uint32_t nflights, number;  /* slots; the last flight's number */
static uint32_t *living, nliving, living_at, living_size; /* slots of calls that live, a ring */
static uint32_t *resting, nresting; /* slots that are free */
static uint64_t chance = UINT64_C(0x9e3779b97f4a7c15);

static void usage(void)
{
    fputs("Usage: load calls PORT COUNT AT_ONCE BEHIND LIVING USER\n"
          "       load register PORT COUNT AT_ONCE USERS\n"
          "       load stores|objects PORT COUNT AT_ONCE\n"
          "\n"
          "Keeps the SIP server at 127.0.0.1:PORT busy with COUNT calls or requests, AT_ONCE of them at the same time.\n"
          "  calls     to sip:USER@127.0.0.1:PORT, which come out at port BEHIND; LIVING of them live at the same time\n"
          "  register  devices of so many users come, come again, come from another address, and go\n"
          "  stores    OPTIONS, and\n"
          "  objects   PUBLISH, of tests/programs/kamailio/kamailio.cfg\n",
          stderr);
    exit(2);
}

__attribute__((format(printf, 1, 2), noreturn)) static void die(const char *format, ...)
{
    va_list values;

    va_start(values, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, values);
    fputc('\n', stderr);
    va_end(values);
    exit(1);
}

static int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static uint32_t random_below(uint32_t limit)
{
    chance ^= chance << 13;
    chance ^= chance >> 7;
    chance ^= chance << 17;
    return (uint32_t)(chance >> 33) % limit;
}

static void outgoing_flush(outgoing *out)
{
    for (unsigned done = 0; done < out->n;) {
        int r = sendmmsg(out->fd, out->messages + done, out->n - done, 0);

        if (r > 0)
            done += (unsigned)r;
        else if (errno != EINTR && errno != ENOBUFS && errno != EAGAIN)
            die("sendmmsg: %s", strerror(errno));
    }
    out->n = 0;
}

static void outgoing_add(outgoing *out, const char *text, size_t bytes, const struct sockaddr_in *to)
{
    unsigned i;

    if (out->n == BATCH)
        outgoing_flush(out);
    i = out->n++;
    memcpy(out->texts[i], text, bytes);
    out->to[i] = *to;
    out->parts[i] = (struct iovec){ out->texts[i], bytes };
    out->messages[i] = (struct mmsghdr){
        .msg_hdr = { .msg_name = &out->to[i], .msg_namelen = sizeof(*to), .msg_iov = &out->parts[i], .msg_iovlen = 1 }
    };
}

static void flight_send(flight *f)
{
    f->sent_ms = now_ms();
    outgoing_add(&caller, f->text, f->bytes, &server);
}

/* Make a request the flight's text: with these headers, each of which ends with a line's end. */
__attribute__((format(printf, 4, 5))) static void flight_write(flight *f, const char *method, const char *user,
                                                               const char *headers, ...)
{
    uint32_t slot = (uint32_t)(f - flights);
    int n = snprintf(f->text, sizeof(f->text),
                     "%s sip:%s@127.0.0.1:%u SIP/2.0\r\n"
                     "Via: SIP/2.0/UDP 127.0.0.1:%u;branch=z9hG4bK-%u-%u-%s;rport\r\n"
                     "Max-Forwards: 70\r\nUser-Agent: load of tests/programs\r\n",
                     method, user, f->route[0] != '\0' ? behind_port : server_port, own_port, slot, f->number, method);
    va_list values;

    va_start(values, headers);
    n += vsnprintf(f->text + n, sizeof(f->text) - (size_t)n, headers, values);
    va_end(values);
    n += snprintf(f->text + n, sizeof(f->text) - (size_t)n, "Content-Length: 0\r\n\r\n");
    if ((size_t)n >= sizeof(f->text))
        die("a request is too long");
    f->bytes = (size_t)n;
}

static flight *flight_begin(enum step step)
{
    uint32_t slot = resting[--nresting];
    flight *f = &flights[slot];

    f->step = step;
    f->number = ++number;
    f->route[0] = '\0';
    return f;
}

static void flight_end(flight *f)
{
    f->step = STEP_FREE;
    resting[nresting++] = (uint32_t)(f - flights);
}

static const char *called; /* USER of calls */

/* A request of a call; `step` is what comes of it. */
static void call_send(flight *f, const char *method, enum step step)
{
    bool within = step != STEP_INVITE;

    f->step = step;
    flight_write(f, method, called,
                 "From: \"Caller %u\" <sip:caller%u@127.0.0.1>;tag=%u-%u\r\nTo: <sip:%s@127.0.0.1>%s\r\n"
                 "Call-ID: %u-%u\r\nCSeq: %u %s\r\nContact: <sip:caller%u@127.0.0.1:%u>\r\n%s%s%s",
                 f->number % 1000, f->number % 1000, (uint32_t)(f - flights), f->number, called,
                 within ? ";tag=b" : "", f->number, own_port, step == STEP_BYE ? 2 : 1, method, f->number % 1000,
                 own_port, f->route[0] != '\0' ? "Route: " : "", f->route, f->route[0] != '\0' ? "\r\n" : "");
    flight_send(f);
}

/* The next line that begins with the name and a colon, from `text` on; NULL: there is none. Its value, and how long. */
static const char *header_find(const char *text, const char *name, size_t *ret_bytes)
{
    size_t bytes = strlen(name);

    for (const char *line = strstr(text, "\r\n"); line != NULL && line[2] != '\r'; line = strstr(line + 2, "\r\n"))
        if (strncmp(line + 2, name, bytes) == 0 && line[2 + bytes] == ':') {
            const char *value = line + 3 + bytes;

            value += *value == ' ';
            *ret_bytes = (size_t)(strstr(value, "\r\n") - value);
            return value;
        }
    return NULL;
}

/* The flight that a message belongs to; NULL: one that has ended. */
static flight *flight_of(const char *text)
{
    size_t bytes;
    const char *from = header_find(text, "From", &bytes);
    const char *tag = from == NULL ? NULL : memmem(from, bytes, ";tag=", 5);
    unsigned slot, which;

    if (tag == NULL || sscanf(tag, ";tag=%u-%u", &slot, &which) != 2 || slot >= nflights)
        die("whose is this?\n%s", text);
    return flights[slot].step != STEP_FREE && flights[slot].number == which ? &flights[slot] : NULL;
}

/* Answer a request that has come to who is called. */
static void callee_answer(const char *text, const char *status, const struct sockaddr_in *to)
{
    char reply[TEXT_BYTES];
    size_t n = (size_t)snprintf(reply, sizeof(reply), "SIP/2.0 %s\r\n", status);

    for (const char *line = strstr(text, "\r\n") + 2, *end; line[0] != '\r'; line = end + 2) {
        bool is_to = strncmp(line, "To:", 3) == 0;

        end = strstr(line, "\r\n");
        if (!is_to && strncmp(line, "Via:", 4) != 0 && strncmp(line, "Record-Route:", 13) != 0 &&
            strncmp(line, "From:", 5) != 0 && strncmp(line, "Call-ID:", 8) != 0 && strncmp(line, "CSeq:", 5) != 0)
            continue;
        if (n + (size_t)(end - line) + 128 > sizeof(reply))
            die("an answer is too long");
        memcpy(reply + n, line, (size_t)(end - line));
        n += (size_t)(end - line);
        if (is_to && memmem(line, (size_t)(end - line), ";tag=", 5) == NULL)
            n += (size_t)sprintf(reply + n, ";tag=b");
        n += (size_t)sprintf(reply + n, "\r\n");
    }
    n += (size_t)snprintf(reply + n, sizeof(reply) - n,
                          "Contact: <sip:%s@127.0.0.1:%u>\r\nContent-Length: 0\r\n\r\n", called, behind_port);
    outgoing_add(&callee, reply, n, to);
}

static void callee_hears(const char *text, const struct sockaddr_in *from)
{
    flight *f = flight_of(text);

    if (strncmp(text, "INVITE ", 7) == 0) {
        callee_answer(text, "180 Ringing", from);
        callee_answer(text, "200 OK", from);
    } else if (strncmp(text, "BYE ", 4) == 0) {
        callee_answer(text, "200 OK", from);
    } else if (strncmp(text, "ACK ", 4) == 0 && f != NULL && f->step == STEP_ACK) {
        f->step = STEP_LIVES;
        living[(living_at + nliving++) % living_size] = (uint32_t)(f - flights);
    }
}

/* An answer. True: a flight is over. */
static bool caller_hears(const char *text)
{
    flight *f = flight_of(text);
    const char *value;
    size_t bytes;

    if (strncmp(text, "SIP/2.0 1", 9) == 0)
        return false;
    if (strncmp(text, "SIP/2.0 200", 11) != 0)
        die("an answer that is none of these\n%s", text);
    value = header_find(text, "CSeq", &bytes);
    if (f == NULL || value == NULL)
        return false;
    if (f->step == STEP_REQUEST || (f->step == STEP_BYE && memmem(value, bytes, "BYE", 3) != NULL)) {
        flight_end(f);
        return true;
    }
    if (f->step == STEP_INVITE || f->step == STEP_ACK) { /* again, if the ACK was lost */
        value = header_find(text, "Record-Route", &bytes);
        if (value != NULL && bytes < sizeof(f->route)) {
            memcpy(f->route, value, bytes);
            f->route[bytes] = '\0';
        }
        call_send(f, "ACK", STEP_ACK);
    }
    return false;
}

/* All that has come to a socket. How many flights are over. */
static unsigned receive(int fd)
{
    static char texts[BATCH][TEXT_BYTES + 1];
    struct sockaddr_in from[BATCH];
    struct iovec parts[BATCH];
    struct mmsghdr messages[BATCH];
    unsigned over = 0;
    int n;

    for (unsigned i = 0; i < BATCH; i++) {
        parts[i] = (struct iovec){ texts[i], TEXT_BYTES };
        messages[i] = (struct mmsghdr){ .msg_hdr = { .msg_name = &from[i],
                                                     .msg_namelen = sizeof(from[i]),
                                                     .msg_iov = &parts[i],
                                                     .msg_iovlen = 1 } };
    }
    n = recvmmsg(fd, messages, BATCH, MSG_DONTWAIT, NULL);
    for (int i = 0; i < n; i++) {
        texts[i][messages[i].msg_len] = '\0';
        if (fd == callee.fd)
            callee_hears(texts[i], &from[i]);
        else
            over += caller_hears(texts[i]);
    }
    return over;
}

/* A user's device: what it says of itself changes as the address does that it has. */
typedef struct device {
    uint32_t sequence, address;
} device;

static device *devices;

/* One in 16 goes, one in 16 comes from another address, others say again that they are there. */
static void register_send(uint32_t nusers)
{
    flight *f = flight_begin(STEP_REQUEST);
    uint32_t user = random_below(nusers), what = random_below(16);
    device *d = &devices[user];
    char name[32];

    if (what == 1)
        d->address++;
    d->sequence++;
    (void)snprintf(name, sizeof(name), "user%u", user);
    flight_write(f, "REGISTER", name,
                 "From: <sip:%s@127.0.0.1>;tag=%u-%u\r\nTo: <sip:%s@127.0.0.1>\r\nCall-ID: %08x-%u-device\r\n"
                 "CSeq: %u REGISTER\r\n"
                 "Contact: <sip:%s@10.%u.%u.%u:5060;transport=udp>;expires=%u;+sip.instance=\"<urn:uuid:%08x>\"\r\n",
                 name, (uint32_t)(f - flights), f->number, name, user * 2654435761u, d->address, d->sequence, name,
                 d->address & 255, user >> 8 & 255, user & 255, what == 0 ? 0 : 3600, user);
    flight_send(f);
}

static const char *kind;

static void begin_one(uint32_t nusers)
{
    static const unsigned lengths[] = { 20, 90, 200, 500 };

    if (strcmp(kind, "calls") == 0) {
        call_send(flight_begin(STEP_INVITE), "INVITE", STEP_INVITE);
    } else if (strcmp(kind, "register") == 0) {
        register_send(nusers);
    } else {
        bool stores = strcmp(kind, "stores") == 0;
        flight *f = flight_begin(STEP_REQUEST);
        const char *method = stores ? "OPTIONS" : "PUBLISH";
        static char value[512];

        memset(value, 'v', sizeof(value));
        flight_write(f, method, "test",
                     "From: <sip:load@127.0.0.1>;tag=%u-%u\r\nTo: <sip:test@127.0.0.1>\r\nCall-ID: %u-%u\r\n"
                     "CSeq: 1 %s\r\nX-Times: 1000\r\nX-Key: %u\r\nX-Value: %.*s\r\n",
                     (uint32_t)(f - flights), f->number, f->number, own_port, method, f->number * 7919 % 262144,
                     (int)lengths[f->number % 4], value);
        flight_send(f);
    }
}

static void again(void)
{
    int64_t now = now_ms();

    for (uint32_t i = 0; i < nflights; i++)
        if (flights[i].step != STEP_FREE && flights[i].step != STEP_LIVES && now - flights[i].sent_ms > AGAIN_MS)
            flight_send(&flights[i]);
}

static void run(uint32_t count, uint32_t at_once, uint32_t most_living, uint32_t nusers)
{
    struct pollfd polled[2] = { { .fd = caller.fd, .events = POLLIN }, { .fd = callee.fd, .events = POLLIN } };
    uint32_t begun = 0, ended = 0;
    int64_t heard = now_ms();

    while (ended < count) {
        while (begun < count && nflights - nresting - nliving < at_once && nresting > 0) {
            begin_one(nusers);
            begun++;
        }
        while (nliving > 0 && (nliving > most_living || begun == count)) {
            if (nflights - nresting - nliving >= at_once)
                break;
            nliving--;
            call_send(&flights[living[living_at++ % living_size]], "BYE", STEP_BYE);
        }
        outgoing_flush(&caller);
        outgoing_flush(&callee);
        if (poll(polled, 2, 100) > 0)
            heard = now_ms();
        else
            again();
        if (polled[1].revents != 0)
            (void)receive(callee.fd);
        if (polled[0].revents != 0)
            ended += receive(caller.fd);
        if (now_ms() - heard > PATIENCE_MS)
            die("no answers");
    }
    outgoing_flush(&callee);
}

static int open_socket(unsigned port, bool everywhere)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), bytes = 1 << 22;

    address.sin_addr.s_addr = htonl(everywhere ? INADDR_ANY : INADDR_LOOPBACK);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes)) < 0)
        die("a socket at port %u: %s", port, strerror(errno));
    return fd;
}

static uint32_t number_of(const char *text)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);

    if (*text == '\0' || *end != '\0' || value > 100000000)
        usage();
    return (uint32_t)value;
}

int main(int argc, char **argv)
{
    struct sockaddr_in own;
    socklen_t bytes = sizeof(own);
    uint32_t count, at_once, most_living = 0, nusers = 0;

    if (argc < 5)
        usage();
    kind = argv[1];
    server_port = number_of(argv[2]);
    count = number_of(argv[3]);
    at_once = number_of(argv[4]);
    if (strcmp(kind, "calls") == 0 && argc == 8) {
        behind_port = number_of(argv[5]);
        most_living = number_of(argv[6]);
        called = argv[7];
    } else if (strcmp(kind, "register") == 0 && argc == 6) {
        nusers = number_of(argv[5]);
    } else if ((strcmp(kind, "stores") != 0 && strcmp(kind, "objects") != 0) || argc != 5) {
        usage();
    }
    if (at_once == 0 || (nusers == 0 && argc == 6))
        usage();
    nflights = living_size = at_once + most_living + at_once;
    flights = calloc(nflights, sizeof(*flights));
    living = calloc(nflights, sizeof(*living));
    resting = calloc(nflights, sizeof(*resting));
    devices = calloc(nusers + 1, sizeof(*devices));
    if (flights == NULL || living == NULL || resting == NULL || devices == NULL)
        die("no memory");
    for (uint32_t i = 0; i < nflights; i++)
        resting[nresting++] = i;
    caller.fd = open_socket(0, false);
    callee.fd = open_socket(behind_port, true);
    if (getsockname(caller.fd, (struct sockaddr *)&own, &bytes) < 0)
        die("getsockname: %s", strerror(errno));
    own_port = ntohs(own.sin_port);
    number = 0;
    server = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons((uint16_t)server_port) };
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    run(count, at_once, most_living, nusers);
    return 0;
}
