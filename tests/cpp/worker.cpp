/*
 * worker PART [NUMBER [SEED]]: runs one part (worker.hpp).
 */
#include "worker.hpp"

#include <cstring>
#include <exception>

namespace {

const struct {
    const char *name;
    int (*run)(const arguments &);
} parts[] = {
    { "api", part_api },
    { "reclaim", part_reclaim },
    { "stranger", part_stranger },
    { "no-daemon", part_no_daemon },
    { "insert", part_insert },
    { "extend", part_extend },
    { "erase", part_erase },
    { "verify", part_verify },
    { "storm", part_storm },
    { "calm", part_calm },
    { "unrecovered", part_unrecovered },
    { "hold", part_hold },
    { "keep", part_keep },
    { "collect", part_collect },
    { "juggle", part_juggle },
    { "recount", part_recount },
    { "fork", part_fork },
    { "steps", part_steps },
    { "race", part_race },
    { "race-result", part_race_result },
    { "throwing", part_throwing },
    { "watch", part_watch },
};

} // namespace

int main(int argc, char **argv)
{
    arguments a = { argc > 2 ? std::strtol(argv[2], nullptr, 10) : 0,
                    argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 0 };

    try {
        for (const auto &part : parts) {
            if (argc > 1 && std::strcmp(argv[1], part.name) == 0)
                return part.run(a);
        }
        (void)std::fprintf(stderr, "worker: there is no such part\n");
        return 2;
    } catch (const std::exception &e) {
        (void)std::fprintf(stderr, "worker: %s: %s\n", argv[1], e.what());
        return 1;
    }
}
