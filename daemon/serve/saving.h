/*
 * Saving: the heap is saved before a stop ends it.
 */
#ifndef GOALLOC_DAEMON_SERVE_SAVING_H
#define GOALLOC_DAEMON_SERVE_SAVING_H

#include <uv.h>

#include "daemon/serve/service.h"

enum { SAVING_PROGRESS = 1, SAVING_DONE = 2 };

/* What the process that saves says (daemon/saver.c). */
typedef struct saving_report {
    uint32_t kind;
    int32_t error; /* of SAVING_DONE: an errno; 0: the image is on the disk */
    uint32_t in_place; /* 1: the new image is there, if not for certain on the disk; 0: what was there before */
    uint64_t done; /* blocks of so many; 0 of 0: it looks what there is */
    uint64_t total;
    uint64_t file_bytes;
    uint64_t took_ms;
    uint64_t live_objects;
    uint64_t live_bytes;
    char text[320]; /* what is wrong */
} saving_report;

/* Who saves, as main has set it up. */
typedef struct saving_setup {
    const char *path; /* of the image; NULL: nothing is saved */
    int fd;           /* on which reports come */
    const uint64_t *wait_us;   /* for sessions to end; a reload changes it */
    int (*begin)(void *data);  /* have it save now: 0, -errno */
    void *data;
} saving_setup;

enum saving_state { SAVING_IDLE, SAVING_WAITING, SAVING_WRITING, SAVING_OVER };

typedef struct saving {
    service *srv;
    saving_setup setup;
    enum saving_state state;
    uv_timer_t tick;
    uv_poll_t reports;
    bool polls;
    uint64_t until_ms;    /* waiting: no longer */
    uint64_t said_ms;     /* systemd was told that it goes on */
    uint64_t heard_ms;    /* writing: the last report, */
    uint64_t moved_ms;    /* and the last one that said more than the one before, */
    uint64_t written;     /* namely so many blocks */
    unsigned percent;
    const char *why;      /* the daemon stops */
    void (*done)(void *data, const char *why); /* saved or not: the stop goes on */
    void *done_data;
} saving;

void saving_init(saving *s, service *srv, const saving_setup *setup, void (*done)(void *data, const char *why),
                 void *data);

/*
 * The heap is about to end with a stop: save it first. True: done() is called later, when it is saved or can't be.
 * False: nothing is to be saved, or it was.
 */
bool saving_begin(saving *s, const char *why) __attribute__((warn_unused_result));

/* True if a reclaim is under way, or waits: it frees objects. */
bool saving_reclaims(const service *srv);

/* Who can write the heap, as text, which is cut to size. False: nobody can. */
#define SAVING_NAMES_BYTES 512
bool saving_writers(const service *srv, char *ret, size_t size);

/* True while it waits or writes. */
static inline bool saving_is_active(const saving *s)
{
    return s->state == SAVING_WAITING || s->state == SAVING_WRITING;
}

#endif
