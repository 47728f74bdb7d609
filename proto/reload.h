/*
 * Reload: what has become of a key of the configuration (ReloadKey in goallocd.proto).
 */
#ifndef GOALLOC_PROTO_RELOAD_H
#define GOALLOC_PROTO_RELOAD_H

enum reload_result {
    RELOAD_UNCHANGED = 0,
    RELOAD_APPLIED = 1, /* it holds from now on */
    RELOAD_REFUSED = 2, /* it takes a restart: the old value holds */
};

#endif
