/*
 * Attacks by numbers: connections, sessions, labels, lines of the log.
 */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "tests/hostile/enemy.h"

#define IDLE_EACH 7500u
#define LABELS_EACH 20u
#define GARBAGE_FRAMES 8u

/*
 * Attaches and goes in a loop, and keeps what shows that the session's process lives: so the daemon has to wait for it
 * to come back. When it has as many such sessions as it may have, it lets go of them; from then on it detaches, and
 * keeps the sign all the same: as many as it may have descriptors.
 */
void attack_sessions(attacker *a)
{
    static int kept[SHM_SESSIONS_MAX];
    Goallocd__Detach body = GOALLOCD__DETACH__INIT;
    Goallocd__Request detach = GOALLOCD__REQUEST__INIT;
    bool detaches = false;

    detach.id = 2;
    detach.op_case = GOALLOCD__REQUEST__OP_DETACH;
    detach.detach = &body;
    for (unsigned n = 0;;) {
        rawheap heap;

        memset(&heap, 0, sizeof(heap));
        heap.fd = enemy_must_connect(a);
        if (enemy_attach(&heap, 8192, 0, "enemy", false) == 0) {
            for (int i = 0; i < ATTACH_NFDS; i++) {
                if (i != ATTACH_FD_SIGN && heap.fds[i] >= 0)
                    (void)close(heap.fds[i]);
            }
            if (detaches)
                (void)rawheap_error(&heap, &detach);
            else if (n < SHM_SESSIONS_MAX)
                kept[n++] = heap.fds[ATTACH_FD_SIGN];
            enemy_deed(a, 1);
        } else {
            enemy_refused(a);
            detaches = true;
            while (n > 0)
                (void)close(kept[--n]);
        }
        rawheap_disconnect(&heap);
    }
}

/* Opens connections, keeps them and says nothing. */
void attack_connections(attacker *a)
{
    for (;;) {
        int fd = enemy_connect(a);

        if (fd < 0)
            enemy_refused(a);
        else
            enemy_deed(a, 1);
    }
}

/* Connects and closes, as often as it can. */
void attack_connects(attacker *a)
{
    for (;;) {
        int fd = enemy_connect(a);

        if (fd >= 0) {
            (void)close(fd);
            enemy_deed(a, 1);
        } else {
            u64_add_relaxed(&a->entry->refused, 1);
        }
    }
}

/* Holds idle connections, and opens them again when the daemon has closed them. */
void attack_idle(attacker *a)
{
    static int fds[IDLE_EACH];

    memset(fds, -1, sizeof(fds));
    for (unsigned i = 0;; i = (i + 1) % IDLE_EACH) {
        if (fds[i] >= 0 && !enemy_drain(fds[i])) {
            (void)close(fds[i]);
            fds[i] = -1;
        }
        if (fds[i] < 0 && (fds[i] = enemy_connect(a)) >= 0)
            enemy_deed(a, 1);
        else if (fds[i] < 0)
            enemy_refused(a);
        if (i == IDLE_EACH - 1)
            board_sleep_us(10000);
    }
}

/* Sessions whose labels are no UTF-8, end within a character, or would tell a terminal what to do. */
void attack_labels(attacker *a)
{
    static const char *const labels[] = {
        "\xff\xfe bytes",
        ("\xc2\x9b"
         "31m red"),
        "\x1b]0;title\x07", "\xe2\x82",
        "a label that is cut within its last character, which has 3 \xe2\x82\xac\xe2\x82\xac"
    };
    static rawheap heaps[LABELS_EACH];

    for (unsigned i = 0;; i++) {
        rawheap *heap = &heaps[i % LABELS_EACH];

        if (i >= LABELS_EACH)
            enemy_close(heap);
        memset(heap, 0, sizeof(*heap));
        heap->fd = enemy_must_connect(a);
        if (enemy_attach(heap, 8192, 0, labels[i % (sizeof(labels) / sizeof(labels[0]))], false) == 0)
            enemy_deed(a, 1);
        else
            enemy_refused(a);
        board_sleep_us(2000);
    }
}

/* How many sessions of attackers are shown; -1: a byte of a label tells a terminal something, or there is no text. */
static int count_labels(const fixture *f)
{
    static const char *const as_json[] = { "--json", "sessions", NULL };
    static char text[400000];
    json_t *answer;
    int nenemies = 0;
    size_t i;
    json_t *session;

    if (fixture_ctl(f, as_json, text, sizeof(text)) != 0)
        return -1;
    answer = json_loads(text, 0, NULL);
    json_array_foreach(json_object_get(answer, "sessions"), i, session)
    {
        const char *label = json_string_value(json_object_get(session, "label"));

        nenemies += label != NULL && strncmp(label, "honest", 6) != 0;
        for (; label != NULL && *label != '\0'; label++) {
            unsigned char byte = (unsigned char)*label;

            if (byte < ' ' || byte == 0x7f || (byte == 0xc2 && (unsigned char)label[1] < 0xa0)) {
                json_decref(answer);
                return -1;
            }
        }
    }
    json_decref(answer);
    return nenemies;
}

/*
 * True if each session that is shown has a label that is text. One attacker may be between two sessions, and the other
 * one's are there; on a busy machine it takes them a while to have so many.
 */
bool labels_seen_well(const fixture *f)
{
    int n = 0;

    for (int i = 0; i < 1000 && n >= 0 && n < (int)LABELS_EACH; i++, board_sleep_us(10000))
        n = count_labels(f);
    return n >= (int)LABELS_EACH;
}

/* Breaks the protocol on new connections: each time the daemon has something to log. */
void attack_log(attacker *a)
{
    static const uint8_t garbage[] = { 4, 0, 0, 0, 0xff, 0xff, 0xff, 0xff };

    for (;;) {
        int fd = enemy_must_connect(a);

        if (enemy_send(fd, garbage, sizeof(garbage)) > 0)
            enemy_deed(a, 1);
        (void)close(fd);
    }
}

/* Connects and asks something, while some of the daemon's calls fail. The supervisor has them fail. */
void attack_accept(attacker *a)
{
    for (;;) {
        Goallocd__Request request = GOALLOCD__REQUEST__INIT;
        Goallocd__Ping ping = GOALLOCD__PING__INIT;
        uint8_t frame[64];
        int fd = enemy_must_connect(a);

        request.op_case = GOALLOCD__REQUEST__OP_PING;
        request.ping = &ping;
        if (enemy_push(fd, frame, enemy_pack(frame, sizeof(frame), &request, 1)))
            enemy_deed(a, 1);
        (void)close(fd);
        board_sleep_us(200);
    }
}

/* Looks for the keeper: it may not be had. */
void attack_keeper(attacker *a)
{
    char path[128];

    (void)snprintf(path, sizeof(path), "%s/keeper.sock", a->f->state_dir);
    for (;;) {
        static channel ch;

        if (channel_try_connect(&ch, path, 0, 0) == 0)
            channel_close(&ch);
        enemy_deed(a, 1);
        board_sleep_us(1000);
    }
}

/* True if the heap has a keeper, after one was killed. */
bool keeper_seen_well(const fixture *f)
{
    for (int i = 0; i < 1000; i++, board_sleep_us(10000)) {
        if (fixture_keeper(f) != 0)
            return true;
    }
    return false;
}
