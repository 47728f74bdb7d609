/*
 * Confine: what this process gives up before it serves.
 */
#ifndef GOALLOC_EXPORTER_CONFINE_H
#define GOALLOC_EXPORTER_CONFINE_H

/* Give up what is not needed to connect to the daemon and to serve. ndescriptors: as many as it needs. 0, -errno. */
int confine(unsigned ndescriptors);

#endif
