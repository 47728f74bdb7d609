/*
 * SO_PEEK_OFF for programs under qemu's user emulation, which answers ENOPROTOOPT (7.2, and newer ones) though the
 * kernel has it. The daemon's shelf can't do without it (daemon/memory/shelf.c), so no daemon would start.
 *
 * It is compiled twice by tests/arm64/setup: for arm64 an object that is linked into every program, where its functions
 * come before the C library's; for this machine a program (QEMU_SOCKETS_NATIVE), which the other one runs. A socket's
 * options belong to the socket: a child process that inherits its descriptor can read and set them.
 *
 * A daemon can run that program because nothing confines it there: qemu has no seccomp filters and no Landlock.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define NO_OFFSET 200 /* exit status: SO_PEEK_OFF is negative; any other is an errno, or 0 */

#ifdef QEMU_SOCKETS_NATIVE

/* qemu_sockets FD: is there an offset? qemu_sockets FD OFFSET: set it. */
int main(int argc, char **argv)
{
    int fd = argc > 1 ? atoi(argv[1]) : -1;
    int value = argc > 2 ? atoi(argv[2]) : 0;
    socklen_t len = sizeof(value);

    if (argc > 2)
        return setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &value, sizeof(value)) < 0 ? errno : 0;
    if (getsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &value, &len) < 0)
        return errno;
    return value < 0 ? NO_OFFSET : 0;
}

#else

/* Run the program on fd. offset NULL: it only looks. Returns its exit status. */
static int run_native(int fd, const int *offset)
{
    char fd_text[16], offset_text[16];
    char *argv[] = { QEMU_SOCKETS_PATH, fd_text, offset != NULL ? offset_text : NULL, NULL };
    int inherited = dup(fd); /* without FD_CLOEXEC */
    int status = 0;
    pid_t pid;

    if (inherited < 0)
        return errno;
    (void)snprintf(fd_text, sizeof(fd_text), "%d", inherited);
    (void)snprintf(offset_text, sizeof(offset_text), "%d", offset != NULL ? *offset : 0);
    pid = _Fork(); /* no handlers: it is a child of this file alone */
    if (pid == 0) {
        (void)execv(argv[0], argv);
        _exit(ENOSYS);
    }
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    (void)close(inherited);
    return pid > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : ENOSYS;
}

int setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
    int r;

    if (level != SOL_SOCKET || name != SO_PEEK_OFF || len != sizeof(int))
        return (int)syscall(SYS_setsockopt, fd, level, name, value, len);
    r = run_native(fd, value);
    if (r != 0)
        errno = r;
    return r == 0 ? 0 : -1;
}

int getsockopt(int fd, int level, int name, void *value, socklen_t *len)
{
    int r;

    if (level != SOL_SOCKET || name != SO_PEEK_OFF)
        return (int)syscall(SYS_getsockopt, fd, level, name, value, len);
    r = run_native(fd, NULL);
    if (r != 0 && r != NO_OFFSET) {
        errno = r;
        return -1;
    }
    *(int *)value = r == NO_OFFSET ? -1 : 0;
    return 0;
}

#endif
