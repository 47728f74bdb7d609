/*
 * Options: the command line of goallocd-exporter.
 */
#ifndef GOALLOC_EXPORTER_OPTIONS_H
#define GOALLOC_EXPORTER_OPTIONS_H

typedef struct options {
    const char *socket_path;
    const char *listen;        /* ADDRESS:PORT */
    int cache_ms;              /* how old figures may be that a scrape gets */
    int timeout_ms;            /* how long a scrape waits for the daemon */
    int connection_timeout_ms; /* how long a connection may take for a request, and for its answer */
    unsigned connections;      /* that there may be */
    unsigned groups_max;       /* groups with figures of their own */
} options;

/* Parse the command line. Exits with status 2 if it is wrong, 0 after --help and --version. */
void options_parse(options *o, int argc, char **argv);

#endif
