/*
 * Holdings: the roots and adopted objects of each user, which outlive what has made them.
 */
#ifndef GOALLOC_DAEMON_SERVE_HOLDINGS_H
#define GOALLOC_DAEMON_SERVE_HOLDINGS_H

#include "daemon/serve/service.h"

/* True if the user may have one more, which then counts: LIMIT_UID_ROOTS, LIMIT_UID_ADOPTIONS. */
bool holdings_allow(service *srv, user *who, enum limit which) __attribute__((warn_unused_result));

/* Whose account the session's adoptions count on. NULL: no memory. */
user *holdings_adopter(service *srv, const session *s);

/* Count all roots and adoptions: the bounds of all users are what there is. Linear in roots, sessions and users. */
void holdings_recount(service *srv);

#endif
