/*
 * Limits: the table of what clients may take at most.
 *
 * Called by options.c (command line and configuration), users.c (who counts by uid), and those who refuse something:
 * requests, request_root.c, peer. Data: a limits, private to the daemon, set at the start and by a reload.
 *
 * A limit by uid does not hold for root and the user of the daemon (users.c), who can end the daemon in any case; those
 * of all do. Defaults leave room for others: no uid gets the last quarter of sessions and roots, or half of the
 * connections; where there are few descriptors, these are lowered (users.c). A new limit is one row here: options.c
 * takes from it an option, a key and their texts, and `goallocctl limits` shows it.
 */
#include "daemon/limits.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shm/limits.h"
#include "shm/units.h"

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
    [LIMIT_UID_UNREAD] = { "uid-unread", 32768, 16, LIMIT_COUNT, LIMIT_OF_UID, EDQUOT,
                           "this user's connections have not received as many descriptors as they may (uid-unread)",
                           "Descriptors that a user's connections were sent, and have not received" },
    [LIMIT_RESERVE] = { "reserve-sessions", 64, 0, LIMIT_COUNT, LIMIT_OF_ALL, EUSERS,
                        "the sessions that are left are for root and the daemon's user (reserve-sessions)",
                        "Sessions, and connections, that only root and the daemon's user get" },
    [LIMIT_SESSION_DEFAULT] = { "session-default", 0, 0, LIMIT_BYTES, LIMIT_OF_SESSION, EDQUOT,
                                "the session's limit is reached (session-default)",
                                "Memory that a session may hold which asks for no limit of its own; 0: as much as "
                                "session-limit" },
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
    [LIMIT_UID_TURN] = { "uid-turn-us", 500, 1, LIMIT_MICROSECONDS, LIMIT_OF_UID, 0, NULL,
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

/* The number that text begins with. False: it begins with none, or with one that is too large. */
static bool parse_number(const char *text, uint64_t *ret, const char **ret_end)
{
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
    *ret = value;
    *ret_end = end;
    return true;
}

bool limits_parse_size(const char *text, uint64_t *ret_bytes)
{
    static const char units[] = "KMGT";
    const char *unit;
    unsigned shift = 0;
    const char *end;
    uint64_t value;

    if (!parse_number(text, &value, &end))
        return false;
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
    *ret_bytes = value << shift;
    return true;
}

bool limits_parse_time(const char *text, uint64_t unit_us, uint64_t *ret_us)
{
    static const struct {
        const char *name;
        uint64_t us;
    } units[] = { { "us", 1 }, { "ms", 1000 }, { "s", 1000000 }, { "min", 60000000 } };
    const char *end;
    uint64_t value;

    if (!parse_number(text, &value, &end))
        return false;
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        if (strcmp(end, units[i].name) == 0)
            unit_us = units[i].us;
        else if (*end != '\0')
            continue;
        if (value > UINT64_MAX / unit_us)
            return false;
        *ret_us = value * unit_us;
        return true;
    }
    return false;
}

void limits_size_text(uint64_t bytes, char ret[LIMITS_TEXT_BYTES])
{
    static const char units[] = { 'T', 'G', 'M', 'K' };

    for (unsigned i = 0; i < sizeof(units); i++) {
        unsigned shift = 40 - 10 * i;

        if (bytes == 0 || bytes & ((UINT64_C(1) << shift) - 1))
            continue;
        (void)snprintf(ret, LIMITS_TEXT_BYTES, "%llu%c", (unsigned long long)(bytes >> shift), units[i]);
        return;
    }
    (void)snprintf(ret, LIMITS_TEXT_BYTES, "%llu", (unsigned long long)bytes);
}

void limits_text(uint64_t value, enum limit_unit unit, char ret[LIMITS_TEXT_BYTES])
{
    if (unit == LIMIT_BYTES)
        limits_size_text(value, ret);
    else
        (void)snprintf(ret, LIMITS_TEXT_BYTES, "%llu%s", (unsigned long long)value,
                       unit == LIMIT_MICROSECONDS ? "us" : "");
}

bool limits_set(limits *l, enum limit which, const char *text)
{
    enum limit_unit unit = rows[which].unit;
    uint64_t value;
    bool is_number = unit == LIMIT_MICROSECONDS ? limits_parse_time(text, 1, &value) : limits_parse_size(text, &value);

    if (!is_number || value < rows[which].lowest)
        return false;
    if ((unit == LIMIT_COUNT || unit == LIMIT_PER_SECOND) && text[strspn(text, "0123456789")] != '\0')
        return false; /* counts have no units */
    l->max[which] = value;
    return true;
}

uint64_t limits_of_session(const limits *l, uint64_t asked_bytes)
{
    uint64_t most = l->max[LIMIT_SESSION_BYTES];
    uint64_t bytes = asked_bytes != 0 ? asked_bytes : l->max[LIMIT_SESSION_DEFAULT];

    return most != 0 && (bytes == 0 || bytes > most) ? most : bytes;
}
