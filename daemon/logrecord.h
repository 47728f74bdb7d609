/*
 * Logrecord: a line of the log as bytes: for people, or as a datagram for the journal.
 */
#ifndef GOALLOC_DAEMON_LOGRECORD_H
#define GOALLOC_DAEMON_LOGRECORD_H

#include <stdarg.h>
#include <stdint.h>
#include <time.h>

#include "daemon/logevent.h"

#define LOGRECORD_MESSAGE_BYTES 1024u /* of text, its end included; a longer one is cut */
#define LOGRECORD_BYTES         2048u /* of a record: that and all fields */

/* Whom a line is about. Names are what clients have sent; they may be anything that ends with a 0. */
typedef struct log_subject {
    uint32_t session; /* 0: none */
    uint32_t pid;     /* 0: none */
    bool has_uid;
    uint32_t uid;
    const char *label; /* of the session; NULL, "": none. Borrowed, as the next ones */
    const char *group;
    const char *limit; /* the name of the limit that has refused something; NULL: none */
    uint64_t heap;     /* its generation; 0: none */
} log_subject;

/* Who reads it. */
enum logrecord_form {
    LOGRECORD_TEXT,    /* people: time, program, level, message */
    LOGRECORD_STREAM,  /* the journal, which has stderr and knows the time: "<4>message" */
    LOGRECORD_DATAGRAM /* the journal by its socket: fields */
};

typedef struct logrecord {
    enum log_event event;
    enum log_level level;
    const log_subject *subject;
    struct timespec time;
    char message[LOGRECORD_MESSAGE_BYTES];
} logrecord;

/*
 * The message: the subject, if it has a name, and what is said of it. What could move a terminal's cursor, end a line
 * or turn its direction is not in it any more.
 */
__attribute__((format(printf, 2, 0))) void logrecord_say(logrecord *r, const char *format, va_list args);

/* Write the record. Returns its bytes; text ends with a newline. */
size_t logrecord_write(const logrecord *r, enum logrecord_form form, char ret[LOGRECORD_BYTES]);

#endif
