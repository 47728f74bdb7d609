/*
 * Attach: for tests that use the library.
 */
#ifndef GOALLOC_TESTS_ATTACH_H
#define GOALLOC_TESTS_ATTACH_H

#include "tests/support/fixture.h"

/* Attach to the fixture's daemon. Ends the (child) process with a message when it fails. */
static inline void must_attach(const fixture *f, uint32_t flags)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;
    int r;

    options.socket_path = f->socket;
    options.flags = flags;
    r = goalloc_attach(&options);
    if (r < 0) {
        (void)fprintf(stderr, "attach: %s\n", goalloc_strerror(r));
        _exit(1);
    }
}

#endif
