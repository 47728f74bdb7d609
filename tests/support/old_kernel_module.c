/*
 * A module that is preloaded into a daemon, which then finds itself on a kernel that lets anybody send descriptors to
 * its sockets, as before Linux 6.16.
 */
#include <errno.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SO_PASSRIGHTS_OPTION 83

__attribute__((visibility("default"))) int setsockopt(int fd, int level, int option, const void *value, socklen_t len)
{
    if (level == SOL_SOCKET && option == SO_PASSRIGHTS_OPTION) {
        errno = ENOPROTOOPT;
        return -1;
    }
    return (int)syscall(SYS_setsockopt, fd, level, option, value, len);
}
