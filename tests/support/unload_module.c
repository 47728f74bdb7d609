/*
 * A module that brings libgoalloc.a along, as a plugin would: what test_loading loads, calls and unloads.
 */
#include <string.h>

#include "goalloc.h"
#include "shm/limits.h"

__attribute__((visibility("default"))) int unload_module_attach(const char *socket_path);
__attribute__((visibility("default"))) int unload_module_use(void);
__attribute__((visibility("default"))) int unload_module_detach(void);

int unload_module_attach(const char *socket_path)
{
    goalloc_options options = GOALLOC_OPTIONS_INIT;

    options.socket_path = socket_path;
    return goalloc_attach(&options);
}

/* Objects of several kinds by the calling thread, one of which stays. */
int unload_module_use(void)
{
    static const size_t sizes[] = { 5, 100, 5000, 40000, SHM_RUN_BYTES_MAX + 1 };

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        void *p = goalloc_malloc_noscan(sizes[i]);

        if (p == NULL)
            return -1;
        memset(p, 1, sizes[i]);
        goalloc_free(p);
    }
    return goalloc_malloc(100) == NULL ? -1 : 0;
}

int unload_module_detach(void)
{
    return goalloc_detach();
}
