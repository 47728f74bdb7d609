/*
 * collector NUMBER: has code for no type of objects. So of what a dead process held it collects what needs none, and
 * leaves NUMBER references to programs that know more.
 */
#include <goalloc.hpp>

#include <cstdlib>
#include <unistd.h>

int main(int argc, char **argv)
{
    goalloc::session heap;
    goalloc::collected done;

    for (int i = 0; i < 2000 && done.unknown == 0; i++, (void)usleep(5000))
        done = goalloc::collect_references();
    return argc == 2 && done.unknown == std::strtoull(argv[1], nullptr, 10) && done.ledgers == 0 ? 0 : 1;
}
