/*
 * Attach: for tests that use the library.
 */
#ifndef GOALLOC_TESTS_ATTACH_H
#define GOALLOC_TESTS_ATTACH_H

#include <errno.h>

#include "tests/support/fixture.h"

/*
 * Attach to the fixture's daemon; one that the test has killed may be on its way up. Ends the (child) process with a
 * message when it fails.
 */
static inline void must_attach(const fixture *f, uint32_t flags)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;
    int r = -ENOENT;

    options.socket_path = f->socket;
    options.flags = flags;
    for (int i = 0; i < 1000; i++, (void)usleep(5000)) {
        r = goalloc_attach(&options);
        if (r != -ECONNREFUSED && r != -ENOENT)
            break;
    }
    if (r < 0) {
        (void)fprintf(stderr, "attach: %s\n", goalloc_attach_error());
        _exit(1);
    }
}

#endif
