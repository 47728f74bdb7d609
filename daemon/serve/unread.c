/*
 * Unread: descriptors that clients were sent and have not received, counted on their uids.
 *
 * Called by peer: before a reply with descriptors, when a connection is closed, and while it lingers. Calls users,
 * which counts. Data: an unread in each peer, and in each user the list of those that have any, the oldest first. No
 * word is shared: if the daemon dies, its messages stay in the clients' sockets, and the next one counts its own alone.
 *
 * The kernel counts descriptors in messages that nobody has received on the user who has sent them. If there are more
 * than a process's RLIMIT_NOFILE, that process can't send another one (ETOOMANYREFS), unless it is the superuser. A
 * client that attaches and never reads would so keep all others from attaching, and a message stays in the client's
 * socket after the daemon has closed its own. So
 *
 *   - a connection has one message with descriptors at most, and is sent another one when it has received that;
 *   - what it has counts on its uid, which gets no more than half of the daemon's descriptors (users.c);
 *   - a connection that is closed with such a message is only shut down, and its socket stays, with all that counts on
 *     its uid, until the client has received the message, or closed its end (peer.c).
 *
 * SIOCOUTQ says what a client has not received: it is 0 if nothing that the daemon sent is left in the client's socket.
 * Nobody tells when that comes to be. So whoever is about to be sent something looks at LOOKS of its user's oldest:
 * each of these counts no more, or goes to the end of the list. As more leave the list than come to it, an honest
 * user's is short; that of a user who never reads is as long as its limit, and nobody else's business.
 *
 * Invariant: an unread has nfds > 0 iff it is in its user's list, and their sum is the user's LIMIT_UID_UNREAD.
 */
#include "daemon/serve/unread.h"

#include <errno.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>

#include <utlist.h>

#define LOOKS 4

static bool is_received(const unread *connection)
{
    int nbytes = 0;

    return ioctl(connection->fd, SIOCOUTQ, &nbytes) < 0 || nbytes == 0;
}

void unread_end(users *u, unread *connection)
{
    if (connection->nfds == 0)
        return;
    users_uncount(u, connection->user, LIMIT_UID_UNREAD, connection->nfds);
    DL_DELETE(connection->user->unread, connection);
    connection->nfds = 0;
}

bool unread_has(users *u, unread *connection)
{
    if (connection->nfds > 0 && is_received(connection))
        unread_end(u, connection);
    return connection->nfds > 0;
}

/* Those that the user's oldest connections have received count no more. */
static void look(users *u, user *who)
{
    for (int i = 0; i < LOOKS && who->unread != NULL; i++) {
        unread *oldest = who->unread;

        if (!unread_has(u, oldest))
            continue;
        DL_DELETE(who->unread, oldest);
        DL_APPEND(who->unread, oldest);
    }
}

int unread_begin(users *u, unread *connection, user *who, int fd, unsigned nfds)
{
    enum limit why = LIMIT_UID_UNREAD;

    if (unread_has(u, connection))
        return -EBUSY;
    look(u, who);
    if (!users_count(u, who, LIMIT_UID_UNREAD, nfds, &why))
        return -EDQUOT;
    connection->user = who;
    connection->fd = fd;
    connection->nfds = nfds;
    DL_APPEND(who->unread, connection);
    return 0;
}
