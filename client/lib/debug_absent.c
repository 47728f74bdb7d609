/*
 * debug_absent: what the normal library, which has no checks to switch on, says to GOALLOC_DEBUG=1: one line on stderr
 * when the program starts, since a program that seems to be checked and is not misleads. Else it says nothing, ever.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

__attribute__((constructor)) static void debug_absent_say(void)
{
    static const char line[] = "goalloc: GOALLOC_DEBUG=1 checks nothing in this library; the debug variant is in "
                               "goalloc/debug of its directory (LD_LIBRARY_PATH)\n";
    const char *asked = getenv("GOALLOC_DEBUG");

    if (asked != NULL && strcmp(asked, "1") == 0 && write(STDERR_FILENO, line, sizeof(line) - 1) < 0)
        return; /* nobody listens */
}
