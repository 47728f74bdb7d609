/*
 * Limits: the table of what clients may take at most.
 *
 * Called by options.c (the command line), users.c (who counts by uid), and those who refuse something: requests,
 * request_root.c, peer. Data: a limits, private to the daemon and set once at the start.
 *
 * A limit by uid does not hold for root and the user of the daemon (users.c), who can end the daemon in any case; those
 * of all do. Defaults leave room for others: no uid gets the last quarter of sessions and roots, or half of the
 * connections; where there are few descriptors, these are lowered at the start (users.c). A table here and not an
 * option each in options.c, so that a new limit is one row, which also `goallocctl limits` shows.
 */
#include "daemon/limits.h"

#include <argp.h>
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "shm/limits.h"
#include "shm/units.h"

#define OPTION_FIRST 0x1000 /* key of the first limit; options.c has lower ones */

static const limit_row rows[LIMITS] = {
    [LIMIT_CONNECTIONS] = { "connections", 16384, 16, LIMIT_COUNT, LIMIT_OF_ALL, 0, NULL,
                            "Connections of all users, as far as there are descriptors" },
    [LIMIT_UID_CONNECTIONS] = { "uid-connections", 8192, 1, LIMIT_COUNT, LIMIT_OF_UID, 0, NULL,
                                "Connections of a user" },
    [LIMIT_UID_CONNECTS] = { "uid-connects", 5000, 1, LIMIT_PER_SECOND, LIMIT_OF_UID, 0, NULL,
                             "New connections of a user in a second; so many more at once" },
    [LIMIT_UID_SESSIONS] = { "uid-sessions", 3072, 1, LIMIT_COUNT, LIMIT_OF_UID, EDQUOT,
                             "this user has as many sessions as it may (uid-sessions)", "Sessions of a user" },
    [LIMIT_UID_LOST] = { "uid-lost", 256, 1, LIMIT_COUNT, LIMIT_OF_UID, EDQUOT,
                         "this user has as many sessions without a connection as it may (uid-lost)",
                         "Sessions of a user whose connections have ended while their processes live: with so many it "
                         "gets no new session" },
    [LIMIT_RESERVE] = { "reserve-sessions", 64, 0, LIMIT_COUNT, LIMIT_OF_ALL, EUSERS,
                        "the sessions that are left are for root and the daemon's user (reserve-sessions)",
                        "Sessions, and connections, that only root and the daemon's user get" },
    [LIMIT_SESSION_DEFAULT] = { "session-default", 0, 0, LIMIT_BYTES, LIMIT_OF_SESSION, EDQUOT,
                                "the session's limit is reached (session-default)",
                                "Memory that a session may hold which asks for no limit of its own; 0: as much as "
                                "--session-limit" },
    [LIMIT_SESSION_BYTES] = { "session-limit", 0, 0, LIMIT_BYTES, LIMIT_OF_SESSION, EDQUOT,
                              "the session's limit is reached (limit_bytes, or session-limit)",
                              "Memory that a session may hold, whatever it asks for; 0: no limit" },
    [LIMIT_UID_BYTES] = { "uid-bytes", 0, 0, LIMIT_BYTES, LIMIT_OF_UID, EDQUOT,
                          "this user's sessions hold as much memory as they may (uid-bytes)",
                          "Memory that the sessions of a user may hold; 0: no limit" },
    [LIMIT_UID_LEFT] = { "uid-left-bytes", 0, 0, LIMIT_BYTES, LIMIT_OF_UID, EDQUOT,
                         "this user's sessions have left as much memory in use as they may (uid-left-bytes)",
                         "Memory with objects in it that sessions of a user have left to nobody; 0: no limit" },
    [LIMIT_GROUP_BYTES] = { "group-bytes", 0, 0, LIMIT_BYTES, LIMIT_OF_GROUP, EDQUOT,
                            "the group's sessions hold as much memory as they may (group-bytes)",
                            "Memory that the sessions of a group may hold; 0: no limit" },
    [LIMIT_UID_ROOTS] = { "uid-roots", SHM_ROOTS_MAX - SHM_ROOTS_MAX / 4, 1, LIMIT_COUNT, LIMIT_OF_UID, EDQUOT,
                          "this user has made as many roots as it may (uid-roots)",
                          "Roots that sessions of a user have made" },
    [LIMIT_UID_ADOPTIONS] = { "uid-adoptions", 262144, 1, LIMIT_COUNT, LIMIT_OF_UID, EDQUOT,
                              "this user's sessions have adopted as many objects as they may (uid-adoptions)",
                              "Objects that sessions of a user have adopted" },
    [LIMIT_PIPELINED] = { "pipelined-requests", 16, 1, LIMIT_COUNT, LIMIT_OF_CONNECTION, 0, NULL,
                          "Requests of a connection that are answered before others get their turn" },
    [LIMIT_UID_TURN] = { "uid-turn-us", 500, 1, LIMIT_COUNT, LIMIT_OF_UID, 0, NULL,
                         "Microseconds that a user's requests take before others get their turn" },
    [LIMIT_CONNECTION_BUFFER] = { "connection-buffer", 256 * KIB, 128 * KIB, LIMIT_BYTES, LIMIT_OF_CONNECTION, 0, NULL,
                                  "The daemon's memory for what a connection has half sent, or has not read" },
    [LIMIT_UID_BUFFER] = { "uid-buffer", 8 * MIB, 128 * KIB, LIMIT_BYTES, LIMIT_OF_UID, 0, NULL,
                           "The daemon's memory for what a user's connections have half sent, or have not read" },
    [LIMIT_BUFFER] = { "buffer", 32 * MIB, 128 * KIB, LIMIT_BYTES, LIMIT_OF_ALL, 0, NULL,
                       "The daemon's memory for what all connections have half sent, or have not read" },
};

const limit_row *limit_row_of(enum limit which)
{
    return &rows[which];
}

void limits_preset(limits *l)
{
    for (size_t i = 0; i < LIMITS; i++)
        l->max[i] = rows[i].preset;
}

bool limits_parse_size(const char *text, uint64_t *ret_bytes)
{
    static const char units[] = "KMGT";
    const char *unit;
    unsigned shift = 0;
    char *end;
    unsigned long long value;

    if (!isdigit((unsigned char)text[0]))
        return false;
    errno = 0;
    value = strtoull(text, &end, 10);
    if (errno != 0)
        return false;
    while (*end == ' ')
        end++;
    if (*end != '\0') {
        unit = strchr(units, toupper((unsigned char)*end));
        if (unit == NULL)
            return false;
        shift = 10 * (unsigned)(unit - units + 1);
        end++;
        if (strcmp(end, "iB") != 0 && strcmp(end, "B") != 0 && *end != '\0')
            return false;
    }
    if (value > UINT64_MAX >> shift)
        return false;
    *ret_bytes = (uint64_t)value << shift;
    return true;
}

bool limits_set(limits *l, enum limit which, const char *text)
{
    uint64_t value;

    if (!limits_parse_size(text, &value) || value < rows[which].lowest)
        return false;
    if (rows[which].unit != LIMIT_BYTES && text[strspn(text, "0123456789")] != '\0')
        return false; /* sizes have units, counts have none */
    l->max[which] = value;
    return true;
}

static error_t parse_option(int key, char *arg, struct argp_state *state)
{
    unsigned which = (unsigned)key - OPTION_FIRST;

    if (key < OPTION_FIRST || which >= LIMITS)
        return ARGP_ERR_UNKNOWN;
    if (!limits_set(state->input, (enum limit)which, arg))
        argp_error(state, "--%s: '%s' is not a %s from %llu on", rows[which].name, arg,
                   rows[which].unit == LIMIT_BYTES ? "size" : "number", (unsigned long long)rows[which].lowest);
    return 0;
}

const struct argp *limits_argp(void)
{
    static struct argp_option option_table[LIMITS + 2];
    static const struct argp argp = { .options = option_table, .parser = parse_option };

    option_table[0] = (struct argp_option){ .doc = "Limits of clients (goallocctl limits shows them with their use). "
                                                   "Those of a user don't hold for root and the daemon's user:" };
    for (int i = 0; i < LIMITS; i++)
        option_table[i + 1] = (struct argp_option){ .name = rows[i].name,
                                                    .key = OPTION_FIRST + i,
                                                    .arg = rows[i].unit == LIMIT_BYTES ? "SIZE" : "N",
                                                    .doc = rows[i].help };
    return &argp;
}
