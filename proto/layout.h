/*
 * Layout: versions of the shared memory's layout (shm/version.h) as messages.
 */
#ifndef GOALLOC_PROTO_LAYOUT_H
#define GOALLOC_PROTO_LAYOUT_H

#include "proto/goallocd.pb-c.h"
#include "shm/version.h"

/* Say it in *to, which is returned. */
static inline Goallocd__Layout *layout_tell(Goallocd__Layout *to, const shm_version *version)
{
    goallocd__layout__init(to);
    to->major = version->major;
    to->minor = version->minor;
    to->needed = version->needed;
    to->writing = version->writing;
    to->optional = version->optional;
    to->daemon = version->daemon;
    return to;
}

/* What a peer has said; NULL: nothing, as before layouts had versions. */
static inline shm_version layout_heard(const Goallocd__Layout *layout)
{
    if (layout == NULL)
        return (shm_version){ 0 };
    return (shm_version){ .major = layout->major,
                          .minor = layout->minor,
                          .needed = layout->needed,
                          .writing = layout->writing,
                          .optional = layout->optional,
                          .daemon = layout->daemon };
}

#endif
