/*
 * Commands: what goallocctl shows of a reply, which goallocctl.c asks for.
 *
 * A function that ends with _text prints it. One that ends with _json adds it to object; false: no memory. One that
 * ends with _next changes the request into the next one; false: that was the last reply. One that ends with _set takes
 * what the command line says; false: its arguments are not as wanted. One that ends with _run does all by itself, and
 * returns the exit status.
 */
#ifndef GOALLOC_CLIENT_CTL_COMMANDS_H
#define GOALLOC_CLIENT_CTL_COMMANDS_H

#include <stdbool.h>

#include <jansson.h>

#include "client/ctl/command.h"
#include "client/ctl/profile/symbols.h"
#include "proto/goallocd.pb-c.h"

/* stats.c */
bool stats_set(const arguments *args);
void stats_text(const Goallocd__Reply *reply);
bool stats_json(json_t *object, const Goallocd__Reply *reply);
void classes_text(const Goallocd__Reply *reply);
bool classes_json(json_t *object, const Goallocd__Reply *reply);
void ping_text(const Goallocd__Reply *reply);
bool ping_json(json_t *object, const Goallocd__Reply *reply);
void scavenge_text(const Goallocd__Reply *reply);
bool scavenge_json(json_t *object, const Goallocd__Reply *reply);
void check_text(const Goallocd__Reply *reply);
bool check_json(json_t *object, const Goallocd__Reply *reply);
bool check_failed(const Goallocd__Reply *reply);

/* stats.c: its numbers, by the names that --json has. There are stats_figures() of them. */
size_t stats_figures(void);
const char *stats_figure_name(size_t i);
uint64_t stats_figure(const Goallocd__StatsReply *s, size_t i);

/* What a size class is called: "large", "tiny", or the size of its objects. */
const char *stats_class_name(uint32_t class, uint32_t object_bytes, char ret[16]);

/* groups.c */
void groups_text(const Goallocd__Reply *stats);
bool groups_json(json_t *object, const Goallocd__Reply *stats);

/* reclaim.c */
extern Goallocd__Reclaim reclaim_first;
bool reclaim_set(const arguments *args);
bool reclaim_next(Goallocd__Request *request, const Goallocd__Reply *reply);
void reclaim_text(const Goallocd__Reply *last);
bool reclaim_json(json_t *object, const Goallocd__Reply *last);

/* heapmap.c: the picture is gathered by heap_map_next() and shown when the last reply is there */
extern Goallocd__HeapMap heap_map_first;
bool heap_map_set(const arguments *args);
bool heap_map_next(Goallocd__Request *request, const Goallocd__Reply *reply);
void heap_map_text(const Goallocd__Reply *last);
bool heap_map_json(json_t *object, const Goallocd__Reply *last);

/* sessions.c */
extern Goallocd__SessionList sessions_first;
extern Goallocd__Disconnect disconnect_first;
extern Goallocd__Trim trim_first;
extern Goallocd__Drop drop_first;
bool sessions_set(const arguments *args);
bool sessions_next(Goallocd__Request *request, const Goallocd__Reply *reply);
void sessions_text(const Goallocd__Reply *last);
bool sessions_json(json_t *object, const Goallocd__Reply *last);
bool disconnect_set(const arguments *args);
bool trim_set(const arguments *args);
bool drop_set(const arguments *args);

/* leases.c */
extern Goallocd__Leases leases_first;
bool leases_set(const arguments *args);
bool leases_next(Goallocd__Request *request, const Goallocd__Reply *reply);
void leases_text(const Goallocd__Reply *last);
bool leases_json(json_t *object, const Goallocd__Reply *last);

/* roots.c */
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

/* keeper.c: it asks no daemon, but the keeper in the state directory */
bool keeper_set(const arguments *args);
int keeper_run(const arguments *args);

/* image.c: it asks no daemon, and reads the file; save.c: it copies the heap and writes the file */
int image_run(const arguments *args);
int save_run(const arguments *args);

/* profile.c: it changes what is sampled, or reads what was */
bool profile_set(const arguments *args);
int profile_run(const arguments *args);

/* The names of a stack's frames, the innermost first, as objects behind the others of list. False: no memory. */
bool profile_stack_json(const snapshot *s, const symbols *sy, json_t *list, uint32_t stack);

/* leaks.c: it attaches, and asks the heap itself */
bool leaks_set(const arguments *args);
int leaks_run(const arguments *args);

/* top.c, watch.c: they ask until they are told to end */
bool top_set(const arguments *args);
int top_run(const arguments *args);
bool watch_set(const arguments *args);
int watch_run(const arguments *args);

/* help.c, completion.c: they ask nobody */
int help_run(const arguments *args);
bool completion_set(const arguments *args);
int completion_run(const arguments *args);

#endif
