/*
 * fdpass: sendmsg and recvmsg with SCM_RIGHTS. Called by peer.c in the daemon for the reply to an Attach, by keeper.c
 * for a heap's files, and by channel.c for everything that clients receive. Descriptors that the receiver has no room
 * for are closed, so a peer cannot fill its table.
 */
#include "proto/fdpass.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

typedef union control_buf {
    char bytes[CMSG_SPACE(sizeof(int) * FDPASS_MAX)];
    struct cmsghdr align;
} control_buf;

ssize_t fdpass_send(int socket_fd, const void *data, size_t len_bytes, const int *fds, int nfds)
{
    control_buf control = { .bytes = { 0 } };
    struct iovec iov = { .iov_base = (void *)(uintptr_t)data, .iov_len = len_bytes };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes };
    size_t fd_bytes = sizeof(int) * (size_t)nfds;
    struct cmsghdr *head;
    ssize_t n;

    if (nfds < 1 || nfds > FDPASS_MAX)
        return -EINVAL;
    msg.msg_controllen = CMSG_SPACE(fd_bytes);
    head = CMSG_FIRSTHDR(&msg);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(fd_bytes);
    memcpy(CMSG_DATA(head), fds, fd_bytes);
    do
        n = sendmsg(socket_fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

ssize_t fdpass_recv(int socket_fd, void *buf, size_t cap_bytes, int fds[FDPASS_MAX], int *nfds)
{
    control_buf control = { .bytes = { 0 } };
    struct iovec iov = { .iov_base = buf, .iov_len = cap_bytes };
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes)
    };
    ssize_t n;

    do
        n = recvmsg(socket_fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;

    for (struct cmsghdr *head = CMSG_FIRSTHDR(&msg); head != NULL; head = CMSG_NXTHDR(&msg, head)) {
        if (head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (head->cmsg_len - CMSG_LEN(0)) / sizeof(int);

        for (size_t i = 0; i < count; i++) {
            int fd;

            memcpy(&fd, CMSG_DATA(head) + i * sizeof(int), sizeof(int));
            if (*nfds < FDPASS_MAX)
                fds[(*nfds)++] = fd;
            else
                (void)close(fd);
        }
    }
    return n;
}
