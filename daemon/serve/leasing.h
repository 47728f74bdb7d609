/*
 * Leasing: an operation that leases spans to its session; and shortage of memory.
 */
#ifndef GOALLOC_DAEMON_SERVE_LEASING_H
#define GOALLOC_DAEMON_SERVE_LEASING_H

#include "daemon/serve/service.h"

extern const answer leasing_no_memory;
extern const answer leasing_exhausted;
extern const answer leasing_max_reached;
extern const answer leasing_limit_reached;

/* Begin it. There is memory for it: requests_handle() has looked. */
void leasing_begin(client *c, const Goallocd__Request *request);

/* Lease a span that mcentral had, or one that is fresh: nscavenged of its pages have no memory yet. */
void leasing_add(client *c, session *s, page_no first);
void leasing_add_fresh(client *c, session *s, page_no first, uint64_t nscavenged);

/* Instead of a span: npages pages, taken behind the large object first, which is to grow by them. */
void leasing_add_growth(client *c, page_no first, page_no behind, uint64_t npages, uint64_t nscavenged);

/* All is gathered: commit what has no memory, then reply. ANSWER_GIVEN. */
answer leasing_commit(client *c);

/*
 * Nothing has been leased: end it. Returns why; or, if npages are missing and some are aside, ANSWER_GIVEN: it is
 * deferred until they are free again, but not too often. 0: not for want of pages.
 */
answer leasing_give_up(client *c, answer why, uint64_t npages);

/* True if others wait for pages that came first: these are not to be taken from under them. */
bool leasing_must_leave_pages(const client *c);

/*
 * Whether the session may have npages more, as far as arena, system and the heap's own limits go; the session's limit
 * is not looked at. Without insist, a memory limit that would be passed means EAGAIN: the client is to give back what
 * it holds idle first, and insists. What is idle elsewhere is looked for before this says no.
 */
answer leasing_allows(service *srv, const session *s, uint64_t npages, bool insist);

/* The same for one that gets something already: without a search. */
answer leasing_allows_more(service *srv, const session *s, uint64_t npages, bool insist);

/* The request gets an answer: if that is for want of memory, it is counted, and in the log. */
void leasing_note_refused(client *c, const Goallocd__Request *request, answer why);

/* mheap_alloc_span(), with a second try after a rescue. */
int leasing_alloc_span(service *srv, uint64_t npages, uint64_t align_pages, span_class spc, page_no *ret,
                       uint64_t *ret_nscavenged) __attribute__((warn_unused_result));

/*
 * The same for a span of more than MHEAP_MAP_PAGES, in slices between the turns of the loop: the operation is
 * COMMITTING and goes on by itself, to the reply. Or it is DEFERRED, because another such span has cost much time.
 */
int leasing_alloc_long(client *c, uint64_t npages, uint64_t align_pages, span_class spc)
    __attribute__((warn_unused_result));

#endif
