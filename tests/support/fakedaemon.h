/*
 * Fakedaemon: a process that answers goallocctl in a daemon's place, with what no daemon, or an older one, would say.
 */
#ifndef GOALLOC_TESTS_FAKEDAEMON_H
#define GOALLOC_TESTS_FAKEDAEMON_H

#include <sys/socket.h>
#include <sys/un.h>

#include "proto/wire.h"
#include "tests/support/fixture.h"

/* Fills in the reply to a request. What it points to must stay until the next one. */
typedef void fakedaemon_answer(Goallocd__Reply *reply, const Goallocd__Request *request);

static inline void fakedaemon_answer_one(int fd, const Goallocd__Request *request, fakedaemon_answer *fill)
{
    static uint8_t buf[FRAME_BYTES_MAX];
    Goallocd__Reply reply = GOALLOCD__REPLY__INIT;

    reply.id = request->id;
    fill(&reply, request);
    (void)send(fd, buf, frame_pack(&reply.base, buf, sizeof(buf)), MSG_NOSIGNAL);
}

/* One connection after the other. */
__attribute__((noreturn)) static inline void fakedaemon_serve(int listen_fd, fakedaemon_answer *fill)
{
    static uint8_t buf[FRAME_BYTES_MAX];
    static _Alignas(16) uint8_t memory[1 << 16];

    for (;;) {
        int fd = accept(listen_fd, NULL, NULL);

        for (ssize_t n = recv(fd, buf, sizeof(buf), 0); n > 4; n = recv(fd, buf, sizeof(buf), 0)) {
            frame_bump bump;
            const Goallocd__Request *request;

            frame_bump_init(&bump, memory, sizeof(memory));
            request = wire_unpack_request(&bump, buf + 4, (size_t)n - 4);
            if (request != NULL)
                fakedaemon_answer_one(fd, request, fill);
        }
        (void)close(fd);
    }
}

/* Start it on the socket of a place (fixture_make_place). The caller kills it and waits for it. */
static inline pid_t fakedaemon_start(const fixture *place, fakedaemon_answer *fill)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    pid_t pid;

    memcpy(address.sun_path, place->socket, sizeof(place->socket));
    (void)unlink(place->socket);
    CHECK(bind(listen_fd, (struct sockaddr *)&address, sizeof(address)) == 0);
    CHECK(listen(listen_fd, 4) == 0);
    pid = fork();
    CHECK(pid >= 0);
    if (pid == 0)
        fakedaemon_serve(listen_fd, fill);
    (void)close(listen_fd);
    return pid;
}

#endif
