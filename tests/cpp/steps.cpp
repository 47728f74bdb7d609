/*
 * A process that takes, copies, moves and drops references is killed after each instruction of that, or after every
 * few: what it leaves, others collect, and no count is too low. One that is too high is counted.
 */
#include "worker.hpp"

#include "../support/steps.h"

#include <algorithm>

namespace {

struct thing {
    std::uint64_t mark = 0x6c697665;
    ~thing()
    {
        CHECK(mark == 0x6c697665);
        mark = 0;
    }
};

using reference = goalloc::shared_ptr<thing>;

/* All of it in the heap. Slot 0 is the thing's from the beginning. */
struct shelf {
    reference slots[4];
    goalloc::weak_ptr<thing> weak;
};

void use(shelf &s)
{
    reference a = s.slots[0];           /* heap to private memory */
    reference b = a;                    /* private to private */
    reference own = goalloc::make_shared<thing>();

    s.slots[1] = std::move(b);          /* private to heap, moved */
    s.slots[2] = a;                     /* copied */
    reference c = std::move(s.slots[2]); /* heap to private, moved */
    s.slots[3] = std::move(s.slots[1]); /* heap to heap */
    s.weak = a;
    reference d = s.weak.lock();
    goalloc::weak_ptr<thing> e = d;
    s.slots[2] = own;
    s.slots[2] = d;                     /* what is overwritten goes on in own */
    own.reset();                        /* the last one */
    s.weak.reset();
    s.slots[2].reset();
    s.slots[3].reset();
}

/* The child. Before it is traced it has its session, its ledger, and spans to allocate from. */
void child(shelf &s)
{
    use(s);
    CHECK(steps_begin());
    steps_mark();
    use(s);
    steps_mark();
    std::_Exit(0);
}

/* Kill it after nsteps instructions; how many there were. Adds what its death has left to the counts. */
std::uint64_t round(std::uint64_t nsteps, std::uint64_t &too_high, int &no_tracing)
{
    auto s = goalloc::make_unique<shelf>();
    std::uint32_t here = 0;
    bool alive = false;
    int status = 0;

    s->slots[0] = goalloc::make_shared<thing>();
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0)
        child(*s);
    if (!steps_start(pid)) {
        no_tracing = 1;
        return 0;
    }
    std::uint64_t taken = steps_take(pid, nsteps, &alive);
    CHECK(alive);
    (void)kill(pid, SIGKILL);
    CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status));
    for (int i = 0; i < 20000 && goalloc::collect_references().ledgers == 0; i++)
        (void)usleep(500);
    for (const reference &slot : s->slots)
        here += slot == s->slots[0] ? 1 : 0;
    CHECK(s->slots[0]->mark == 0x6c697665);
    CHECK(s->slots[0].use_count() >= here);
    CHECK(s->slots[0].use_count() <= here + 1);
    too_high += s->slots[0].use_count() - here;
    return taken;
}

} // namespace

/* NUMBER deaths at about equal distances; 0: after each instruction. Exit status 77: the system allows no tracing. */
int part_steps(const arguments &a)
{
    goalloc::session heap;
    std::uint64_t random = a.seed | 1;
    std::uint64_t too_high = 0;
    std::uint64_t deaths = 0;
    int no_tracing = 0;
    std::uint64_t nsteps = round(10000000, too_high, no_tracing);

    if (no_tracing != 0)
        return 77;
    std::uint64_t stride = a.number == 0 ? 1 : std::max(nsteps / static_cast<std::uint64_t>(a.number), UINT64_C(1));
    CHECK(too_high == 0 && nsteps > 100);
    for (std::uint64_t at = 0; at < nsteps; at += stride, deaths++)
        (void)round(at + random_number(random) % stride, too_high, no_tracing);
    (void)std::printf("%llu instructions, %llu deaths, %llu counts too high by one\n",
                      static_cast<unsigned long long>(nsteps), static_cast<unsigned long long>(deaths),
                      static_cast<unsigned long long>(too_high));
    return 0;
}
