/*
 * Users: what is counted on each uid, and on all, against the limits (daemon/limits.h).
 *
 * Called by who gives something to a client: door.c (connections), peer (buffered bytes), session (sessions, those that
 * are lost, the pages that they hold), the handlers (roots, adoptions). Calls nobody but the log. Data: private.
 *
 * An account is found by a hash of the uid, whose two numbers are random: who can be many users (a range of subordinate
 * uids) can't choose them so that all are in one bucket. It lives while anything is counted on it, so there are no more
 * of them than connections and sessions; those that have nothing any more are kept for their rates, episodes and what
 * they have left, USERS_IDLE_MAX of them, and the oldest makes room.
 *
 * What is counted is counted where it is given and where it is given back, and never recounted; users_validate()
 * compares. What another daemon had given is counted at a takeover, whatever the limits say. Of roots and adoptions,
 * which end in many ways, there are upper bounds (holdings.c).
 *
 * Root and the user of the daemon have accounts too, but only the limits of all hold for them, without the reserve:
 * they could end the daemon, and have to be able to look at one that others have filled.
 *
 * Refusals come in episodes (refusals.c): the first one is a line in the log, and those that follow are counted, and
 * said at the end. So a client that asks in a loop costs two lines a minute.
 *
 * Invariants (users_validate): the sums of what is counted on all are those of the users; ncounts is the number of
 * counts that are not 0; who has none is in the list of idle accounts, and nobody else.
 */
#include "daemon/serve/users.h"

#include <stdarg.h>
#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

#include <utlist.h>

#include "daemon/log.h"

#define NS_PER_SECOND UINT64_C(1000000000)

#define CONNECTIONS_LEAST 16u
#define UNREAD_LEAST      16u /* of a reply or two */
#define NOT_SAID          (UINT64_MAX / 4) /* so many that they limit nothing */

/* The limit of all that belongs to one of a uid; LIMITS: there is none. */
static enum limit of_all(enum limit which)
{
    return which == LIMIT_UID_CONNECTIONS ? LIMIT_CONNECTIONS : which == LIMIT_UID_BUFFER ? LIMIT_BUFFER : LIMITS;
}

void users_start(users *u, const limits *max)
{
    u->fitted = *max;
    u->limits = &u->fitted;
    u->most_pidfds = u->ndescriptors = u->nwatches = NOT_SAID;
    if (getrandom(u->seed, sizeof(u->seed), GRND_NONBLOCK) != (ssize_t)sizeof(u->seed))
        u->seed[0] = (uint64_t)(uintptr_t)u ^ (uint64_t)getpid() << 32;
    u->seed[0] |= 1;
}

static void lower(users *u, enum limit which, uint64_t most)
{
    if (u->fitted.max[which] > most)
        u->fitted.max[which] = most;
}

/*
 * A session takes two descriptors beside its connection, if it has one: its process's pidfd and its sign of life. So
 * 3/8 of them as connections and 3/16 as sessions are three quarters at most. (Groups take two each, of which
 * GROUPS_PER_UID_MAX bounds the number.) Of the watches no uid gets more than three quarters for connections. And the
 * daemon may have no more descriptors on their way in sockets than it may have open: no uid keeps half of them there.
 */
static void fit(users *u)
{
    uint64_t n = u->ndescriptors;
    uint64_t most = u->nwatches / 2 > CONNECTIONS_LEAST ? u->nwatches / 2 : CONNECTIONS_LEAST;

    lower(u, LIMIT_UID_CONNECTIONS, n * 3 / 8 > 0 ? n * 3 / 8 : 1);
    lower(u, LIMIT_UID_SESSIONS, n * 3 / 16 > 0 ? n * 3 / 16 : 1);
    lower(u, LIMIT_UID_UNREAD, n / 2 > UNREAD_LEAST ? n / 2 : UNREAD_LEAST);
    u->most_pidfds = most;
    lower(u, LIMIT_CONNECTIONS, most);
    lower(u, LIMIT_UID_CONNECTIONS, most * 3 / 4);
}

void users_fit_descriptors(users *u, uint64_t n)
{
    u->ndescriptors = n;
    fit(u);
}

void users_fit_watches(users *u, uint64_t n)
{
    u->nwatches = n;
    fit(u);
}

static void set_quotas(const users *u, user *who)
{
    if (who->privileged)
        return;
    who->quota.limit_pages = u->limits->max[LIMIT_UID_BYTES] / PAGE_BYTES;
    who->left.limit_pages = u->limits->max[LIMIT_UID_LEFT] / PAGE_BYTES;
}

void users_set_limits(users *u, const limits *max)
{
    u->fitted = *max;
    fit(u);
    for (size_t i = 0; i < USERS_BUCKETS; i++) {
        for (user *who = u->buckets[i]; who != NULL; who = who->below)
            set_quotas(u, who);
    }
}

void users_end(users *u)
{
    for (size_t i = 0; i < USERS_BUCKETS; i++) {
        for (user *who = u->buckets[i], *below; who != NULL; who = below) {
            below = who->below;
            refusals_end(&u->refusal_log, &who->refusals);
            estate_forget(&who->left);
            free(who);
        }
        u->buckets[i] = NULL;
    }
    u->idle = NULL;
    u->nusers = u->nidle = 0;
}

static user **bucket_of(users *u, uint32_t uid)
{
    _Static_assert(USERS_BUCKETS == 1u << 12, "the highest 12 bits are a bucket");

    return &u->buckets[(u->seed[0] * uid + u->seed[1]) >> 52];
}

/* --- accounts --- */

static void forget(users *u, user *who)
{
    user **at = bucket_of(u, who->uid);

    while (*at != who)
        at = &(*at)->below;
    *at = who->below;
    DL_DELETE(u->idle, who);
    u->nidle--;
    u->nusers--;
    refusals_end(&u->refusal_log, &who->refusals);
    estate_forget(&who->left);
    free(who);
}

user *users_look_up(users *u, uint32_t uid)
{
    user *who = *bucket_of(u, uid);

    while (who != NULL && who->uid != uid)
        who = who->below;
    return who;
}

user *users_find(users *u, uint32_t uid)
{
    user **bucket = bucket_of(u, uid);
    user *who = users_look_up(u, uid);

    if (who != NULL)
        return who;
    if (u->nidle == USERS_IDLE_MAX)
        forget(u, u->idle);
    who = calloc(1, sizeof(*who));
    if (who == NULL)
        return NULL;
    who->uid = who->refusals.uid = uid;
    who->privileged = uid == 0 || uid == geteuid();
    who->credit_ns = NS_PER_SECOND;
    who->bound[LIMIT_UID_ROOTS] = who->bound[LIMIT_UID_ADOPTIONS] = UINT64_MAX;
    set_quotas(u, who);
    who->below = *bucket;
    *bucket = who;
    DL_APPEND(u->idle, who);
    u->nidle++;
    u->nusers++;
    return who;
}

/* --- counting --- */

void users_count_always(users *u, user *who, enum limit which, uint64_t n)
{
    enum limit all = of_all(which);

    if (n == 0)
        return;
    if (who->used[which] == 0 && who->ncounts++ == 0) {
        DL_DELETE(u->idle, who);
        u->nidle--;
    }
    who->used[which] += n;
    if (all != LIMITS)
        u->used[all] += n;
}

void users_uncount(users *u, user *who, enum limit which, uint64_t n)
{
    enum limit all = of_all(which);

    if (n == 0)
        return;
    who->used[which] -= n;
    if (all != LIMITS)
        u->used[all] -= n;
    if (who->used[which] == 0 && --who->ncounts == 0) {
        DL_APPEND(u->idle, who);
        u->nidle++;
    }
}

/* The limit that forbids it; LIMITS: none. */
static enum limit forbids(const users *u, const user *who, enum limit which, uint64_t n)
{
    enum limit all = of_all(which);
    uint64_t reserve = which == LIMIT_UID_CONNECTIONS && !who->privileged ? u->limits->max[LIMIT_RESERVE] : 0;

    if (!who->privileged && who->used[which] + n > u->limits->max[which])
        return which;
    if (all == LIMITS || u->used[all] + n + reserve <= u->limits->max[all])
        return LIMITS;
    return u->used[all] + n > u->limits->max[all] ? all : LIMIT_RESERVE;
}

bool users_count(users *u, user *who, enum limit which, uint64_t n, enum limit *ret)
{
    enum limit why = forbids(u, who, which, n);

    if (why != LIMITS) {
        *ret = why;
        return false;
    }
    users_count_always(u, who, which, n);
    return true;
}

bool users_allows(const users *u, const user *who, enum limit which, uint64_t n)
{
    return forbids(u, who, which, n) == LIMITS;
}

/* Time is saved up to a second, and each connection takes its part of one. */
bool users_takes_connect(users *u, user *who, uint64_t now_ns)
{
    uint64_t price_ns = NS_PER_SECOND / u->limits->max[LIMIT_UID_CONNECTS];
    uint64_t most_ns = NS_PER_SECOND - who->credit_ns;

    if (who->privileged)
        return true;
    who->credit_ns += now_ns - who->credit_at_ns < most_ns ? now_ns - who->credit_at_ns : most_ns;
    who->credit_at_ns = now_ns;
    if (who->credit_ns < price_ns)
        return false;
    who->credit_ns -= price_ns;
    return true;
}

static const char *unit_of(const limit_row *row)
{
    return row->unit == LIMIT_BYTES ? " bytes" : row->unit == LIMIT_PER_SECOND ? " a second" : "";
}

void users_refused(users *u, user *who, enum limit which, const log_subject *subject, users_use use, uint64_t now_ms)
{
    const limit_row *row = limit_row_of(which);
    log_subject limited = *subject;

    who->refused[which]++;
    u->refused[which]++;
    if (!refusals_note(&u->refusal_log, &who->refusals, (enum refusal)which, now_ms))
        return;
    if (use.maximum == 0) {
        use.maximum = u->limits->max[which];
        use.used = row->unit == LIMIT_PER_SECOND ? use.maximum
                   : row->scope == LIMIT_OF_UID  ? who->used[which]
                                                 : u->used[which];
    }
    limited.limit = row->name;
    log_client_event(LOG_EVENT_LIMIT_REACHED, &limited,
                     "limit %s is reached, %llu of %llu%s; refused %llu times so far", row->name,
                     (unsigned long long)use.used, (unsigned long long)use.maximum, unit_of(row),
                     (unsigned long long)who->refused[which]);
}

void users_refused_by(users *u, user *who, enum refusal what, const log_subject *subject, uint64_t now_ms,
                      const char *format, ...)
{
    log_subject limited = *subject;
    char text[256];
    va_list args;

    if (!refusals_note(&u->refusal_log, &who->refusals, what, now_ms))
        return;
    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    limited.limit = refusal_name(what);
    log_client_event(what >= REFUSAL_TABLE ? LOG_EVENT_CLIENT_REFUSED : LOG_EVENT_GROWTH_REFUSED, &limited, "%s", text);
}

/* --- looking --- */

uint32_t users_visit_bucket(const users *u, uint32_t from, void (*visit)(const user *who, void *data), void *data)
{
    for (uint32_t i = from; i < USERS_BUCKETS; i++) {
        if (u->buckets[i] == NULL)
            continue;
        for (const user *who = u->buckets[i]; who != NULL; who = who->below)
            visit(who, data);
        return i + 1;
    }
    return 0;
}

const char *users_validate(const users *u)
{
    uint64_t sums[LIMITS] = { 0 };
    unsigned nusers = 0;
    unsigned nidle = 0;
    unsigned nlisted = 0;
    const user *one;

    for (size_t i = 0; i < USERS_BUCKETS; i++) {
        for (const user *who = u->buckets[i]; who != NULL; who = who->below) {
            unsigned ncounts = 0;

            for (size_t l = 0; l < LIMITS; l++) {
                ncounts += who->used[l] != 0;
                if (of_all((enum limit)l) != LIMITS)
                    sums[of_all((enum limit)l)] += who->used[l];
            }
            if (ncounts != who->ncounts)
                return "a user's counts are counted wrongly";
            nusers++;
            nidle += ncounts == 0;
        }
    }
    DL_FOREACH(u->idle, one)
        nlisted++;
    if (nusers != u->nusers || nidle != u->nidle || nlisted != nidle)
        return "the users are counted wrongly";
    for (size_t l = 0; l < LIMITS; l++) {
        if (sums[l] != u->used[l])
            return "what all users have is not what each has";
    }
    return NULL;
}
