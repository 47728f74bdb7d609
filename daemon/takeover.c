/*
 * Takeover: the answer to goallocd --check-takeover, by which a package decides whether it may replace the daemon.
 *
 * Called by main, instead of serving. Calls keeper, heapfile (the versions of what a keeper holds) and proto. Data:
 * none; nothing of the heap is mapped or written, no lock is taken, and no directory is made.
 *
 *   1. Whoever serves the socket is asked by a Ping, whose reply has the version of the heap's layout. What it says is
 *      what the next daemon will find. A daemon from before layouts had versions says nothing of it: no.
 *   2. If nobody serves it, a keeper may have the heap of a daemon that is gone: it hands out its descriptors, as to
 *      any daemon, and waits for the next one when the connection ends.
 *   3. If there is neither, there is nothing to take over. What systemd's store holds of a service that is not running
 *      is known to systemd alone; the daemon that it starts refuses what it can't serve, and leaves it as it is.
 *
 * Who connects to a socket that systemd listens on for a service that does not run has systemd start that.
 */
#include "daemon/takeover.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "daemon/keeper.h"
#include "proto/channel.h"
#include "proto/layout.h"
#include "proto/wire.h"

#define ANSWER_MS      5000
#define GOING_MS       10 /* until one that has gone is asked for again */
#define UNPACKED_BYTES 4096u

/* Who has the heap: a sentence's object. */
typedef struct owner {
    char name[PATH_MAX + 80];
    shm_version heap;
} owner;

/* What this build would do with it. */
static int judge(const owner *o)
{
    const shm_version *own = version_own();
    char why[VERSION_TEXT_BYTES];

    if (version_check(&o->heap, own, VERSION_SERVES) == 0) {
        (void)fprintf(stderr,
                      "goallocd: goallocd " GOALLOC_VERSION " (layout %u.%u) would take over %s (layout %u.%u)\n",
                      own->major, own->minor, o->name, o->heap.major, o->heap.minor);
        return TAKEOVER_YES;
    }
    (void)fprintf(stderr,
                  "goallocd: goallocd " GOALLOC_VERSION " can't take over %s: %s. Leave it where it is, and don't "
                  "restart its daemon, as long as workers need it; when they are done, drop it (goallocctl drop) and "
                  "start this goallocd\n",
                  o->name, version_explain(why, sizeof(why), &o->heap, own, VERSION_SERVES, "this goallocd"));
    return TAKEOVER_NO;
}

/* Ask whoever serves the socket. 0, and *ret is set; -ECONNRESET: it has gone meanwhile; -errno. */
static int ask_once(const char *path, deadline until, owner *ret)
{
    static channel ch;
    static uint8_t out[FRAME_BYTES_MAX];
    static _Alignas(16) uint8_t memory[UNPACKED_BYTES];
    Goallocd__Ping body = GOALLOCD__PING__INIT;
    Goallocd__Request request = WIRE_REQUEST(PING, ping, &body);
    const Goallocd__Reply *reply = NULL;
    const uint8_t *payload;
    frame_bump bump;
    size_t len;
    int r = channel_connect(&ch, path, until);

    if (r < 0)
        return r;
    request.id = 1;
    frame_bump_init(&bump, memory, sizeof(memory));
    r = channel_send(&ch, out, wire_pack_request(&request, out, sizeof(out)), until);
    if (r == 0)
        r = channel_recv(&ch, &payload, &len, until);
    if (r == 0)
        reply = wire_unpack_reply(&bump, payload, len);
    if (reply != NULL && reply->error == 0 && reply->result_case == GOALLOCD__REPLY__RESULT_PING) {
        ret->heap = layout_heard(reply->ping->layout);
        (void)snprintf(ret->name, sizeof(ret->name), "the heap that goallocd %.20s, pid %u, serves at %s",
                       reply->ping->version, reply->ping->pid, path);
    } else if (r == 0) {
        r = -EPROTO;
    }
    channel_close(&ch);
    return r;
}

/* 0, and *ret is what the daemon at the socket serves; -errno: nobody answers there. */
static int ask_daemon(const char *path, owner *ret)
{
    deadline until = deadline_in(ANSWER_MS);
    int r;

    while ((r = ask_once(path, until, ret)) == -ECONNRESET && deadline_left_ms(until) > 0)
        (void)poll(NULL, 0, GOING_MS);
    return r;
}

/* 0, and *ret is what the keeper holds; KEEPER_E_NONE; -errno: it can't be found out. */
static int ask_keeper(const char *dir, owner *ret, const char **ret_why)
{
    int fds[HEAPFILE_NFDS];
    int r = keeper_look(dir, fds);

    if (r != 0)
        return r;
    (void)snprintf(ret->name, sizeof(ret->name), "the heap that a keeper holds in %s", dir);
    r = heapfile_look(fds, &ret->heap, ret_why);
    heapfile_close_fds(fds);
    return r;
}

static int say_unknown(const char *where, const char *why)
{
    (void)fprintf(stderr, "goallocd: %s: can't find out which heap there is to take over: %s\n", where, why);
    return TAKEOVER_UNKNOWN;
}

int takeover_check(const char *socket_path, const char *state_dir)
{
    owner o;
    const char *why = NULL;
    int r = ask_daemon(socket_path, &o);

    if (r == 0)
        return judge(&o);
    if (r != -ENOENT && r != -ECONNREFUSED)
        return say_unknown(socket_path, r == -EPROTO ? "what answers is no goallocd" : strerror(-r));
    if (state_dir != NULL) {
        r = ask_keeper(state_dir, &o, &why);
        if (r == 0)
            return judge(&o);
        if (r < 0)
            return say_unknown(state_dir, why != NULL ? why : strerror(-r));
    }
    (void)fprintf(stderr, "goallocd: no heap to take over: nobody serves %s%s%s\n", socket_path,
                  state_dir != NULL ? ", and no keeper is in " : "", state_dir != NULL ? state_dir : "");
    return TAKEOVER_YES;
}
