/*
 * Check: all tables of the daemon against each other. The heap, sessions and roots each by its own; connections,
 * operations and who waits against them.
 *
 * Called by rounds.c, a slice a turn of the loop, so that others are served in between, and what they change is allowed
 * for (daemon/heap/checking.h). A check is for all who wait when it begins. Its last part, the connections, is done in
 * one go: it is linear in the requests under way, not in the connections.
 *
 * If something differs, the first such thing is what the reply says, and all is dumped to the log.
 */
#include "daemon/serve/check.h"

#include <errno.h>
#include <string.h>

#include "daemon/log.h"

enum { PART_HEAP, PART_SESSIONS, PART_ROOTS, PART_REQUESTS };

struct check {
    unsigned part;
    uint32_t root; /* the next entry that is looked at */
    bool whole;
    char text[1024]; /* what differs */
};

static struct check the;

/* --- requests under way --- */

/* Those who wait, and that nobody is forgotten who could go on. */
static int validate_queue(const service *srv, FILE *err)
{
    queue_facts facts = service_facts(srv);
    const char *what = queue_validate(&srv->queue);

    if (what == NULL && operations_count(&srv->peers, OPERATION_DEFERRED, 0) != srv->queue.nwaiting)
        what = "is deferred and does not wait, or waits and is not deferred";
    if (what == NULL && queue_next(&srv->queue, &facts) != NULL && !uv_is_active((const uv_handle_t *)&srv->turns))
        what = "waits though it could go on";
    if (what != NULL)
        (void)fprintf(err, "queue: a request %s\n", what);
    return what != NULL ? -EUCLEAN : 0;
}

typedef struct operations_checked {
    uint32_t ncommitting[SHM_SESSIONS_MAX];
    const char *what;
    uint32_t pid;
} operations_checked;

static void validate_operation(operation *op, void *data)
{
    operations_checked *checked = data;
    const client *c = client_of(op->peer);
    const char *what = operation_validate(op, op->peer);

    if (what != NULL && checked->what == NULL) {
        checked->what = what;
        checked->pid = op->peer->pid;
    }
    if (op->state == OPERATION_COMMITTING && client_any_session(c) != NULL)
        checked->ncommitting[c->session.n]++;
}

static int validate_operations(const service *srv, FILE *err)
{
    static operations_checked checked;

    memset(&checked, 0, sizeof(checked));
    operations_all(&srv->peers, validate_operation, &checked);
    if (checked.what != NULL) {
        (void)fprintf(err, "operation: that of pid %u %s\n", checked.pid, checked.what);
        return -EUCLEAN;
    }
    for (uint32_t i = 1, end = service_nentries(srv); i < end; i++) {
        const session *s = session_at(&srv->sessions, i);

        if (s != NULL && s->lessee.nops != checked.ncommitting[i]) {
            (void)fprintf(err, "operation: %u commit memory for session %u, which counts %u\n", checked.ncommitting[i],
                          i, s->lessee.nops);
            return -EUCLEAN;
        }
    }
    return 0;
}

static int validate_requests(const service *srv, FILE *err)
{
    const char *what = users_validate(&srv->users);

    if (what != NULL) {
        (void)fprintf(err, "users: %s\n", what);
        return -EUCLEAN;
    }
    what = events_validate(&srv->events);
    if (what != NULL) {
        (void)fprintf(err, "events: %s\n", what);
        return -EUCLEAN;
    }
    if (making_validate(&srv->making, err) < 0 || validate_queue(srv, err) < 0)
        return -EUCLEAN;
    return validate_operations(srv, err);
}

/* --- the whole --- */

static void dump_operation(operation *op, void *out)
{
    (void)fprintf(out, "operation of pid %u, session %u: kind %d, state %d, %u spans\n", op->peer->pid,
                  client_of(op->peer)->session.n, (int)op->kind, (int)op->state, op->nspans);
}

static void dump(const service *srv)
{
    FILE *out = log_stream(LOG_LEVEL_ERROR);

    if (out == NULL)
        return;
    operations_all(&srv->peers, dump_operation, out);
    session_table_dump(&srv->sessions, out);
    group_table_dump(srv->heap->groups, out);
    roots_dump(srv->roots, out);
    making_dump(&srv->making, out);
    adopt_dump(srv->heap->adopted, out);
    (void)fclose(out);
}

/* 0, VALIDATE_E_MORE, -EUCLEAN. */
static int validate_part(service *srv, unsigned budget, FILE *err)
{
    switch (the.part) {
    case PART_HEAP:
        return mheap_validate_step(srv->heap, budget, err);
    case PART_SESSIONS:
        return session_table_validate_step(&srv->sessions, budget, err);
    case PART_ROOTS:
        return roots_validate_step(srv->roots, &the.root, budget, err);
    default:
        return validate_requests(srv, err);
    }
}

/* The part is done: begin the next one. */
static int next_part(service *srv, FILE *err)
{
    if (the.part == PART_REQUESTS)
        return 0;
    the.part++;
    if (the.part == PART_SESSIONS && session_table_validate_begin(&srv->sessions, err) < 0)
        return -EUCLEAN;
    return VALIDATE_E_MORE;
}

void check_begin(service *srv)
{
    the = (struct check){ .part = PART_HEAP };
    mheap_validate_begin(srv->heap);
}

bool check_step(service *srv, unsigned budget)
{
    const log_subject subject = { .heap = srv->heap->map->header->generation };
    FILE *out = fmemopen(the.text, sizeof(the.text), "w");
    FILE *err = out != NULL ? out : stderr;
    int r = validate_part(srv, budget, err);

    if (r == 0)
        r = next_part(srv, err);
    if (out != NULL)
        (void)fclose(out);
    the.text[sizeof(the.text) - 1] = '\0';
    the.whole = r == 0;
    if (r < 0) {
        log_event(LOG_EVENT_HEAP_DAMAGED, &subject, "the heap's tables differ: %s", the.text);
        dump(srv);
    }
    return r != VALIDATE_E_MORE;
}

void check_reply(operation *op)
{
    Goallocd__CheckReply body = GOALLOCD__CHECK_REPLY__INIT;

    body.whole = the.whole;
    body.text = the.text;
    (void)reply_body(op->peer, op->id, GOALLOCD__REPLY__RESULT_CHECK, &body);
}
