/*
 * What a cycle of the collector has found, as leaks.c has gathered it: for people, and as JSON.
 */
#ifndef GOALLOC_CLIENT_CTL_LEAKS_SHOW_H
#define GOALLOC_CLIENT_CTL_LEAKS_SHOW_H

#include "client/collector/collect.h"
#include "client/ctl/command.h"
#include "client/ctl/profile/symbols.h"

/* A session that has left something, as far as anybody knows. */
typedef struct leaks_session {
    uint32_t session; /* 0: nobody knows, or several have */
    uint32_t epoch;
    bool mixed; /* several sessions have */
    bool ended;
    char label[SHM_LABEL_BYTES];
    garbage_sum sum;
} leaks_session;

/* An object that nobody can reach. */
typedef struct leaks_object {
    uint64_t address;
    uint64_t bytes;
    uint8_t class;
    bool noscan;
    bool leased;
} leaks_object;

typedef struct leaks {
    const arguments *args;
    collect_result result;
    leaks_session *sessions;
    size_t nsessions;
    leaks_object *objects; /* the first ones, by address */
    size_t nobjects;
    bool has_profile; /* rows of the profile that are garbage */
    snapshot profile;
    symbols symbols;
    bool asked_why;
    bool why_is_garbage;
    uint32_t nwhy;
    collect_link *why;
    uint64_t base;
} leaks;

/* Print it. The exit status. */
int leaks_print_text(const leaks *l);
int leaks_print_json(const leaks *l);

#endif
