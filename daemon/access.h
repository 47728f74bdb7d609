/*
 * Access: who may attach, who may only read, and who controls the daemon.
 */
#ifndef GOALLOC_DAEMON_ACCESS_H
#define GOALLOC_DAEMON_ACCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ACCESS_IDS_MAX       64u
#define ACCESS_CONTROL_GROUP "goallocd-admin"

typedef struct access_list {
    uint32_t ids[ACCESS_IDS_MAX];
    size_t nids;
} access_list;

/* The group that controls. */
typedef struct access_control {
    bool is_set;
    uint32_t gid;
} access_control;

/* What an administrator has decided. If one of the four lists has anybody, who is in none may not attach. Zeroed:
 * whoever may connect may attach; nobody but root and the daemon's user controls. */
typedef struct access_policy {
    access_list uids; /* who may attach */
    access_list gids;
    access_list read_uids; /* who may attach read-only */
    access_list read_gids;
    access_control control;
    bool root_owner; /* a root is changed by the user alone who has made it */
} access_policy;

/* What somebody may do, as bits. ACCESS_WRITE includes ACCESS_READ. */
enum { ACCESS_READ = 1, ACCESS_WRITE = 2, ACCESS_CONTROL = 4 };

/* What a caller handles itself. */
enum {
    ACCESS_E_UNKNOWN = 1, /* no such user, or group, or not a number */
    ACCESS_E_FULL,        /* more than ACCESS_IDS_MAX */
};

/*
 * Add users (or groups), names or numbers, separated by commas, to a list. 0, ACCESS_E_*: *ret_wrong is where the one
 * begins in text that can't be added, and *ret_bytes its length.
 */
int access_list_add(access_list *list, const char *text, bool groups, const char **ret_wrong, int *ret_bytes)
    __attribute__((warn_unused_result));

/* Who is in group controls. 0, ACCESS_E_UNKNOWN. */
int access_set_control(access_control *control, const char *group) __attribute__((warn_unused_result));

/* Have the system load what it needs to look up names, while it still may. */
void access_prepare(void);

/* What who has made the connection may do, by what it was then. fd -1, or one that is no Unix socket: nothing. */
unsigned access_of(const access_policy *policy, int fd);

#endif
