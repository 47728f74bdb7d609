/*
 * Errors: what each errno means between the library, its users and the daemon, once for both sides.
 */
#ifndef GOALLOC_SHM_ERRORS_H
#define GOALLOC_SHM_ERRORS_H

/* The meaning of a positive errno that the library returns or a reply of the daemon carries. NULL: neither does. */
const char *shm_error_text(int error);

/* The same, of any errno of either sign: else what the system says. Never NULL. */
const char *shm_error_describe(int error);

#endif
