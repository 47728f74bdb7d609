/*
 * Access: lists of users and groups, compared with what the kernel says of a connection.
 *
 * Called by options.c (what the lists are), by requests.c (at an attach) and by service.c (a request that is for who
 * controls). Data: the policy, private, changed by a reload alone (serve/reload.c). Names are looked up when the
 * configuration is read, at the start and by the thread of a reload, since that may ask any service of the system and
 * wait for it; after it numbers are compared. What asks the services is code that the C library loads when it first
 * needs it, which a confined daemon may not do any more (privileges.c): so main has all of it loaded before.
 *
 * The kernel keeps user, group and further groups of who connected with the socket (SO_PEERCRED, SO_PEERGROUPS). Nobody
 * can change them, and who hands the connection on hands on its rights. Root and the daemon's own user may do
 * everything: they could take it.
 *
 * A connection is asked about when it attaches and when it asks for control, not when it comes in: that costs two
 * system calls and a copy of its groups, 64 Ki of them at most, some 0.1 ms.
 */
#include "daemon/access.h"

#include <ctype.h>
#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef SO_PEERGROUPS
#define SO_PEERGROUPS 59
#endif

#define NAME_BYTES        256u
#define NAME_RECORD_BYTES (1024u * 1024u) /* of a user or a group with all its members */
#define NOBODYS_NAME      "goallocd-nobody"
#define BLANKS            " \t" /* around a name in a list */

/* --- the lists --- */

/* (uid_t)-1 is nobody's. */
static bool find_id(const char *name, bool groups, uint32_t *ret)
{
    static char text[NAME_RECORD_BYTES]; /* of the one thread that looks up names */
    struct passwd user;
    struct passwd *found_user = NULL;
    struct group group;
    struct group *found_group = NULL;

    if (isdigit((unsigned char)name[0])) {
        char *end;
        unsigned long id;

        errno = 0;
        id = strtoul(name, &end, 10);
        *ret = (uint32_t)id;
        return errno == 0 && *end == '\0' && id < UINT32_MAX;
    }
    if (groups && getgrnam_r(name, &group, text, sizeof(text), &found_group) == 0 && found_group != NULL)
        *ret = group.gr_gid;
    else if (!groups && getpwnam_r(name, &user, text, sizeof(text), &found_user) == 0 && found_user != NULL)
        *ret = user.pw_uid;
    else
        *ret = UINT32_MAX;
    return *ret != UINT32_MAX;
}

int access_list_add(access_list *list, const char *text, bool groups, const char **ret_wrong, int *ret_bytes)
{
    for (;;) {
        size_t len;
        char name[NAME_BYTES] = "";

        text += strspn(text, BLANKS);
        len = strcspn(text, ",");
        while (len > 0 && strchr(BLANKS, text[len - 1]) != NULL)
            len--;
        *ret_wrong = text;
        *ret_bytes = (int)(len < INT_MAX ? len : INT_MAX);
        if (list->nids == ACCESS_IDS_MAX)
            return ACCESS_E_FULL;
        if (len >= sizeof(name))
            return ACCESS_E_UNKNOWN;
        memcpy(name, text, len);
        if (!find_id(name, groups, &list->ids[list->nids]))
            return ACCESS_E_UNKNOWN;
        list->nids++;
        text += len + strspn(text + len, BLANKS);
        if (*text == '\0')
            return 0;
        text++;
    }
}

int access_set_control(access_control *control, const char *group)
{
    control->is_set = find_id(group, true, &control->gid);
    return control->is_set ? 0 : ACCESS_E_UNKNOWN;
}

/* A name that nobody has: every service of names is asked, so each is loaded. */
void access_prepare(void)
{
    uint32_t id;

    (void)find_id(NOBODYS_NAME, false, &id);
    (void)find_id(NOBODYS_NAME, true, &id);
}

/* --- who asks --- */

static bool has_id(const access_list *list, uint32_t id)
{
    for (size_t i = 0; i < list->nids; i++) {
        if (list->ids[i] == id)
            return true;
    }
    return false;
}

static unsigned rights_of_group(const access_policy *policy, uint32_t gid)
{
    unsigned rights = 0;

    if (has_id(&policy->gids, gid))
        rights |= ACCESS_READ | ACCESS_WRITE;
    if (has_id(&policy->read_gids, gid))
        rights |= ACCESS_READ;
    if (policy->control.is_set && policy->control.gid == gid)
        rights |= ACCESS_CONTROL;
    return rights;
}

/* Of the groups beside the first one. Before Linux 4.13 they are not known. */
static unsigned rights_of_groups(const access_policy *policy, int fd)
{
    static gid_t groups[NGROUPS_MAX];
    socklen_t len = sizeof(groups);
    unsigned rights = 0;

    if (policy->gids.nids + policy->read_gids.nids == 0 && !policy->control.is_set)
        return 0;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &len) < 0)
        return 0;
    for (size_t i = 0; i < len / sizeof(groups[0]); i++)
        rights |= rights_of_group(policy, groups[i]);
    return rights;
}

static bool is_listed(const access_policy *policy)
{
    return policy->uids.nids + policy->gids.nids + policy->read_uids.nids + policy->read_gids.nids > 0;
}

unsigned access_of(const access_policy *policy, int fd)
{
    struct ucred cred = { 0 };
    socklen_t len = sizeof(cred);
    unsigned rights = is_listed(policy) ? 0 : ACCESS_READ | ACCESS_WRITE;

    if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0 || len != sizeof(cred))
        return 0;
    if (cred.uid == 0 || cred.uid == geteuid())
        return ACCESS_READ | ACCESS_WRITE | ACCESS_CONTROL;
    if (has_id(&policy->uids, cred.uid))
        rights |= ACCESS_READ | ACCESS_WRITE;
    if (has_id(&policy->read_uids, cred.uid))
        rights |= ACCESS_READ;
    return rights | rights_of_group(policy, cred.gid) | rights_of_groups(policy, fd);
}
