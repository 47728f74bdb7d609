/*
 * Roster: rows of sessions, and of groups.
 *
 * Called by sessions.c and top.c. Private to the process. A daemon lists 4095 sessions and the last thousand that have
 * ended; a roster takes a few times as many, so what lies in the answers of whoever serves the socket costs bounded
 * memory. Labels and names are made fit for a terminal when they are added, once for tables and JSON.
 */
#include "client/ctl/roster.h"

#include <stdlib.h>
#include <string.h>

#include "client/ctl/ctl.h"

#define ROWS_MAX 16384u

#define GROUP_COLUMNS_MIN 5u /* of the heading */
#define GROUP_COLUMNS_MAX 8u

struct roster_key {
    const char *name;
    size_t at;
    enum { NUMBER_32, NUMBER_64, NUMBER_REAL, TEXT } kind;
    bool rising; /* the smallest first */
};

#define KEY(name, field, kind, rising) { name, offsetof(roster_row, field), kind, rising }
static const roster_key keys[] = {
    KEY("held", held_bytes, NUMBER_64, false),
    KEY("live", live_bytes, NUMBER_64, false),
    KEY("idle", idle_bytes, NUMBER_64, false),
    KEY("refills", refills_per_s, NUMBER_REAL, false),
    KEY("age", age_ms, NUMBER_64, false),
    KEY("spans", leased_spans, NUMBER_64, false),
    KEY("requests", rpcs, NUMBER_64, false),
    KEY("left", left_bytes, NUMBER_64, false),
    KEY("session", session, NUMBER_32, true),
    KEY("pid", pid, NUMBER_32, true),
    KEY("uid", uid, NUMBER_32, true),
    KEY("state", state, NUMBER_32, true),
    KEY("group", group, TEXT, true),
    KEY("label", label, TEXT, true),
};
#define KEYS (sizeof(keys) / sizeof(keys[0]))

const roster_key *roster_key_named(const char *name)
{
    for (size_t i = 0; i < KEYS; i++) {
        if (strcmp(keys[i].name, name) == 0)
            return &keys[i];
    }
    return NULL;
}

const char *roster_key_name(const roster_key *key)
{
    return key->name;
}

const roster_key *roster_key_next(const roster_key *key, int step)
{
    return &keys[((size_t)(key - keys) + KEYS + (size_t)(step < 0 ? KEYS - 1 : 1)) % KEYS];
}

const char *roster_key_names(void)
{
    return "held live idle refills age spans requests left session pid uid state group label";
}

void roster_clear(roster *r)
{
    r->n = 0;
}

void roster_free(roster *r)
{
    free(r->rows);
    *r = (roster){ 0 };
}

bool roster_add(roster *r, const Goallocd__SessionListReply *reply)
{
    if (r->n + reply->n_sessions > r->cap) {
        size_t cap = 2 * r->cap + reply->n_sessions;
        roster_row *rows = cap > ROWS_MAX ? NULL : realloc(r->rows, cap * sizeof(*rows));

        if (rows == NULL)
            return false;
        r->rows = rows;
        r->cap = cap;
    }
    for (size_t i = 0; i < reply->n_sessions; i++) {
        const Goallocd__SessionInfo *s = reply->sessions[i];
        roster_row *row = &r->rows[r->n++];

        *row = (roster_row){ .session = s->session,
                             .epoch = s->epoch,
                             .pid = s->pid,
                             .uid = s->uid,
                             .flags = s->flags,
                             .state = s->state,
                             .group_uid = s->group_uid,
                             .nsessions = 1,
                             .held_bytes = s->held_bytes,
                             .leased_spans = s->leased_spans,
                             .limit_bytes = s->limit_bytes,
                             .rpcs = s->rpcs,
                             .left_objects = s->left_objects,
                             .left_bytes = s->left_bytes,
                             .live_objects = s->live_objects,
                             .live_bytes = s->live_bytes,
                             .idle_bytes = s->idle_bytes,
                             .refills = s->refills,
                             .age_ms = s->age_ms,
                             .profile_bytes = s->profile_bytes };
        (void)ctl_plain_text(s->label, row->label, sizeof(row->label));
        (void)ctl_plain_text(s->group, row->group, sizeof(row->group));
    }
    return true;
}

bool roster_copy(roster *r, const roster *from)
{
    if (r->cap < from->n) {
        roster_row *rows = realloc(r->rows, from->n * sizeof(*rows));

        if (rows == NULL)
            return false;
        r->rows = rows;
        r->cap = from->n;
    }
    r->n = from->n;
    if (from->n > 0)
        memcpy(r->rows, from->rows, from->n * sizeof(r->rows[0]));
    return true;
}

static bool has_ended(const roster_row *row)
{
    return row->state == SHM_SESSION_DETACHED || row->state == SHM_SESSION_DIED;
}

void roster_filter(roster *r, const char *group, bool live)
{
    size_t n = 0;

    for (size_t i = 0; i < r->n; i++) {
        if ((group == NULL || strcmp(r->rows[i].group, group) == 0) && !(live && has_ended(&r->rows[i])))
            r->rows[n++] = r->rows[i];
    }
    r->n = n;
}

/* Whose group it is; sessions without one are put together by their own user. */
static uint32_t owner_of(const roster_row *row)
{
    return row->group[0] == '\0' ? row->uid : row->group_uid;
}

static int compare_groups(const void *a, const void *b)
{
    const roster_row *one = a;
    const roster_row *other = b;
    int by_name = strcmp(one->group, other->group);

    return by_name != 0 ? by_name : (owner_of(one) > owner_of(other)) - (owner_of(one) < owner_of(other));
}

void roster_group(roster *r)
{
    size_t n = 0;

    if (r->n > 0)
        qsort(r->rows, r->n, sizeof(r->rows[0]), compare_groups);
    for (size_t i = 0; i < r->n; i++) {
        roster_row *row = &r->rows[i];
        roster_row *sum = n > 0 && compare_groups(&r->rows[n - 1], row) == 0 ? &r->rows[n - 1] : NULL;

        if (sum == NULL) {
            row->uid = owner_of(row);
            row->label[0] = '\0';
            row->session = row->epoch = row->pid = row->state = 0;
            r->rows[n++] = *row;
            continue;
        }
        sum->nsessions++;
        sum->held_bytes += row->held_bytes;
        sum->leased_spans += row->leased_spans;
        sum->rpcs += row->rpcs;
        sum->left_objects += row->left_objects;
        sum->left_bytes += row->left_bytes;
        sum->live_objects += row->live_objects;
        sum->live_bytes += row->live_bytes;
        sum->idle_bytes += row->idle_bytes;
        sum->refills += row->refills;
        sum->refills_per_s += row->refills_per_s;
        sum->age_ms = sum->age_ms > row->age_ms ? sum->age_ms : row->age_ms;
    }
    r->n = n;
}

static const roster_key *sort_key; /* of the qsort() that is running */
static bool sort_reverse;

static double number_at(const roster_row *row, const roster_key *key)
{
    const char *at = (const char *)row + key->at;
    uint32_t n32;
    uint64_t n64;
    double real;

    if (key->kind == NUMBER_32) {
        memcpy(&n32, at, sizeof(n32));
        return n32;
    }
    if (key->kind == NUMBER_64) {
        memcpy(&n64, at, sizeof(n64));
        return (double)n64;
    }
    memcpy(&real, at, sizeof(real));
    return real;
}

/* Equal ones in the order of their numbers, so that rows don't jump about. */
static int compare_rows(const void *a, const void *b)
{
    const roster_row *one = a;
    const roster_row *other = b;
    int order;

    if (sort_key->kind == TEXT) {
        order = strcmp((const char *)a + sort_key->at, (const char *)b + sort_key->at);
    } else {
        double x = number_at(one, sort_key);
        double y = number_at(other, sort_key);

        order = (x > y) - (x < y);
    }
    if (sort_key->rising == sort_reverse)
        order = -order;
    if (order == 0)
        order = (one->session > other->session) - (one->session < other->session);
    return order != 0 ? order : compare_groups(one, other);
}

void roster_sort(roster *r, const roster_key *key, bool reverse)
{
    if (key == NULL || r->n == 0)
        return;
    sort_key = key;
    sort_reverse = reverse;
    qsort(r->rows, r->n, sizeof(r->rows[0]), compare_rows);
}

void roster_rate(roster *r, const roster *before, double seconds)
{
    uint32_t at[SHM_SESSIONS_MAX] = { 0 }; /* in before, plus 1, by session number */

    for (size_t i = 0; i < before->n; i++) {
        if (before->rows[i].session < SHM_SESSIONS_MAX)
            at[before->rows[i].session] = (uint32_t)i + 1;
    }
    for (size_t i = 0; i < r->n; i++) {
        roster_row *row = &r->rows[i];
        uint32_t was_at = row->session < SHM_SESSIONS_MAX ? at[row->session] : 0;
        const roster_row *was = was_at != 0 ? &before->rows[was_at - 1] : NULL;
        uint64_t since = row->refills;

        if (was != NULL && was->epoch == row->epoch && was->refills <= row->refills)
            since -= was->refills; /* else it has come since then, or another daemon has begun to count */
        row->refills_per_s = seconds > 0 ? (double)since / seconds : 0;
    }
}

size_t roster_group_columns(const roster *r)
{
    size_t columns = GROUP_COLUMNS_MIN;

    for (size_t i = 0; i < r->n && columns < GROUP_COLUMNS_MAX; i++) {
        if (strlen(r->rows[i].group) > columns)
            columns = strlen(r->rows[i].group); /* in bytes: as many columns or more */
    }
    return columns < GROUP_COLUMNS_MAX ? columns : GROUP_COLUMNS_MAX;
}

const char *roster_state_name(uint32_t state)
{
    static const char *const names[] = {
        [SHM_SESSION_FREE] = "free",     [SHM_SESSION_OPEN] = "open",         [SHM_SESSION_LOST] = "lost",
        [SHM_SESSION_ENDING] = "ending", [SHM_SESSION_DETACHED] = "detached", [SHM_SESSION_DIED] = "died",
    };

    return state < sizeof(names) / sizeof(names[0]) ? names[state] : "?";
}

/* What sessions and groups have in common. */
static bool add_sums(json_t *object, const roster_row *row)
{
    return object != NULL && ctl_json_set(object, "held_bytes", row->held_bytes) &&
           ctl_json_set(object, "leased_spans", row->leased_spans) && ctl_json_set(object, "rpcs", row->rpcs) &&
           ctl_json_set(object, "left_objects", row->left_objects) &&
           ctl_json_set(object, "left_bytes", row->left_bytes) &&
           ctl_json_set(object, "live_objects", row->live_objects) &&
           ctl_json_set(object, "live_bytes", row->live_bytes) &&
           ctl_json_set(object, "idle_bytes", row->idle_bytes) && ctl_json_set(object, "refills", row->refills) &&
           ctl_json_set(object, "age_ms", row->age_ms);
}

static json_t *whole_or_null(json_t *object, bool whole)
{
    if (whole)
        return object;
    json_decref(object);
    return NULL;
}

json_t *roster_session_json(const roster_row *row)
{
    json_t *object = json_pack("{s:I, s:I, s:I, s:I, s:s, s:s, s:s, s:I, s:b, s:b, s:I, s:I}", "session",
                               (json_int_t)row->session, "epoch", (json_int_t)row->epoch, "pid", (json_int_t)row->pid,
                               "uid", (json_int_t)row->uid, "label", row->label, "state",
                               roster_state_name(row->state), "group", row->group, "group_uid",
                               (json_int_t)row->group_uid, "reclaim", (row->flags & SESSION_RECLAIM) != 0, "readonly",
                               (row->flags & SESSION_READONLY) != 0, "limit_bytes", (json_int_t)row->limit_bytes,
                               "profile_bytes", (json_int_t)row->profile_bytes);

    return whole_or_null(object, add_sums(object, row));
}

json_t *roster_group_json(const roster_row *row)
{
    json_t *object = json_pack("{s:s, s:I, s:b, s:I}", "name", row->group, "uid", (json_int_t)row->uid, "reclaim",
                               (row->flags & SESSION_RECLAIM) != 0, "sessions", (json_int_t)row->nsessions);

    return whole_or_null(object, add_sums(object, row));
}
