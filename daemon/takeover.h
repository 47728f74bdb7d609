/*
 * Takeover: whether this build would take over the heap that another goallocd serves, or has left with a keeper.
 */
#ifndef GOALLOC_DAEMON_TAKEOVER_H
#define GOALLOC_DAEMON_TAKEOVER_H

/* The exit status of goallocd --check-takeover: packages go by it. */
enum {
    TAKEOVER_YES = 0,     /* or there is no heap */
    TAKEOVER_UNKNOWN = 1, /* it can't be found out */
    TAKEOVER_NO = 3,
};

/*
 * Look, change nothing, and say on stderr what was found. The daemon at the socket is asked, if there is one; else the
 * keeper in the state directory, if one is given (NULL: none). Takes 5 s at most for each.
 */
int takeover_check(const char *socket_path, const char *state_dir);

#endif
