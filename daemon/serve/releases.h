/*
 * Releases: free pages lose their memory because a lease would pass the memory limit otherwise.
 */
#ifndef GOALLOC_DAEMON_SERVE_RELEASES_H
#define GOALLOC_DAEMON_SERVE_RELEASES_H

#include "daemon/serve/service.h"

/*
 * Take free pages with memory, npages or as many as there are, and have them punched. True: after is called in a later
 * turn, once: released says whether they are gone now. False: there are none, or nobody can punch them now.
 */
bool releases_begin(service *srv, uint64_t npages, void (*after)(void *data, bool released), void *data);

/*
 * These pages are free and count as having memory, but some of them may have none: they are punched before anybody gets
 * them, however long that takes. If nobody can be asked for it, the heap trusts no such page any more.
 */
void releases_undo(service *srv, const page_range *ranges, size_t n);

#endif
