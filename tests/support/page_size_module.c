/*
 * A module that is preloaded into a daemon, which then finds itself on a system whose memory pages have
 * $GOALLOC_TEST_PAGE_BYTES bytes.
 */
#include <stdlib.h>
#include <unistd.h>

long __sysconf(int name); /* glibc's, by the name that this module does not take */

__attribute__((visibility("default"))) long sysconf(int name)
{
    const char *bytes = name == _SC_PAGESIZE ? getenv("GOALLOC_TEST_PAGE_BYTES") : NULL;

    return bytes == NULL ? __sysconf(name) : atol(bytes);
}

__attribute__((visibility("default"))) int getpagesize(void)
{
    return (int)sysconf(_SC_PAGESIZE);
}
