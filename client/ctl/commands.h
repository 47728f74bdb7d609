/*
 * Commands: what goallocctl shows of a reply, which goallocctl.c asks for.
 *
 * A function that ends with _text prints it. One that ends with _json adds it to object; false: no memory. One that
 * ends with _next changes the request into the next one; false: that was the last reply.
 */
#ifndef GOALLOC_CLIENT_CTL_COMMANDS_H
#define GOALLOC_CLIENT_CTL_COMMANDS_H

#include <stdbool.h>

#include <jansson.h>

#include "proto/channel.h"
#include "proto/goallocd.pb-c.h"

/* stats.c */
void stats_text(const Goallocd__Reply *reply);
bool stats_json(json_t *object, const Goallocd__Reply *reply);
void classes_text(const Goallocd__Reply *reply);
bool classes_json(json_t *object, const Goallocd__Reply *reply);
void ping_text(const Goallocd__Reply *reply);
bool ping_json(json_t *object, const Goallocd__Reply *reply);
void check_text(const Goallocd__Reply *reply);
bool check_json(json_t *object, const Goallocd__Reply *reply);

/* groups.c */
void groups_text(const Goallocd__Reply *stats);
bool groups_json(json_t *object, const Goallocd__Reply *stats);

/*
 * groups.c: reclaim asks twice. The first reply says how much would be freed; reclaim_next() asks the user, unless yes.
 * reclaim_set() says whose it is: the number of a session, the name of a group, or UID:NAME. False: it is none of
 * these.
 */
extern Goallocd__Reclaim reclaim_first;
bool reclaim_set(const char *whose, bool yes);
bool reclaim_next(Goallocd__Request *request, const Goallocd__Reply *reply);
void reclaim_text(const Goallocd__Reply *last);
bool reclaim_json(json_t *object, const Goallocd__Reply *last);

/* memory.c: the picture is gathered by heap_map_next() and shown when the last reply is there */
extern Goallocd__HeapMap heap_map_first;
bool heap_map_next(Goallocd__Request *request, const Goallocd__Reply *reply);
void heap_map_text(const Goallocd__Reply *last);
bool heap_map_json(json_t *object, const Goallocd__Reply *last);
void scavenge_text(const Goallocd__Reply *reply);
bool scavenge_json(json_t *object, const Goallocd__Reply *reply);

/* sessions.c. disconnect_set() says which session: by its number. False: it is none. */
extern Goallocd__Disconnect disconnect_first;
bool disconnect_set(const char *session);
extern const char sessions_heading[];
bool sessions_next(Goallocd__Request *request, const Goallocd__Reply *reply);
void sessions_text(const Goallocd__Reply *reply);
bool sessions_json(json_t *object, const Goallocd__Reply *reply);

/* roots.c */
extern const char roots_heading[];
bool roots_next(Goallocd__Request *request, const Goallocd__Reply *reply);
void roots_text(const Goallocd__Reply *reply);
bool roots_json(json_t *object, const Goallocd__Reply *reply);

/* limits.c */
extern const char limits_heading[];
bool limits_next(Goallocd__Request *request, const Goallocd__Reply *reply);
void limits_text(const Goallocd__Reply *reply);
bool limits_json(json_t *object, const Goallocd__Reply *reply);

/* reload.c. reload_failed(): not all is as the files want it. */
void reload_text(const Goallocd__Reply *reply);
bool reload_json(json_t *object, const Goallocd__Reply *reply);
bool reload_failed(const Goallocd__Reply *reply);

/* keeper.c: it asks no daemon, but the keeper in state_dir. Returns the exit status. */
typedef struct keeper_options {
    const char *state_dir;
    int timeout_ms;
    bool json;
    bool end; /* it is to end, */
    bool yes; /* without a question */
} keeper_options;
int keeper_show(const keeper_options *o, deadline until);

#endif
