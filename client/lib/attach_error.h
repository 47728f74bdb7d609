/*
 * Attach error: why the last attach of this thread has failed, in a sentence that names the path.
 */
#ifndef GOALLOC_LIB_ATTACH_ERROR_H
#define GOALLOC_LIB_ATTACH_ERROR_H

/* What is known of a failed attach besides its error. */
typedef struct attach_failure {
    const char *path;  /* of the socket */
    const char *why;   /* a sentence that says more than the error: the daemon's, or the caller's. "": none */
    int connect_error; /* -errno of the last connect(); 0: somebody has accepted */
    int timeout_ms;
} attach_failure;

/* Keep the sentence for this thread. error 0: the attach has gone well. */
void attach_error_set(int error, const attach_failure *failure);

#endif
