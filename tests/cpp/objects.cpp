/*
 * Shared objects whose holders are killed.
 *
 * An object has a mark, which its destructor changes; who holds one looks at it all the time.
 */
#include "worker.hpp"

#include <sys/wait.h>
#include <thread>
#include <vector>

namespace {

constexpr std::uint64_t lives = 0x6c697665;
constexpr std::uint64_t gone = 0x676f6e65;

struct payload {
    std::uint64_t mark = lives;
    std::atomic<std::uint64_t> *destroyed; /* a counter in the heap */
    goalloc::string text = "a text that needs memory of its own, so that something is lost with a payload";

    explicit payload(std::atomic<std::uint64_t> *counter) : destroyed(counter)
    {
    }
    ~payload()
    {
        CHECK(mark == lives);
        mark = gone;
        destroyed->fetch_add(1);
    }
};

using reference = goalloc::shared_ptr<payload>;

struct exhibits {
    goalloc::mutex mutex;
    std::atomic<std::uint64_t> destroyed;
    std::atomic<std::uint64_t> made;
    goalloc::vector<reference> all;
    goalloc::vector<goalloc::weak_ptr<payload>> weak;
};

exhibits &the_exhibits()
{
    return goalloc::root<exhibits>("exhibits").find_or_construct();
}

constexpr std::size_t shelf = 32; /* so many are there at a time */

} // namespace

/* Make one object, hold it and a weak reference to it NUMBER times in private memory alone, and die. 0: don't. */
int part_hold(const arguments &a)
{
    goalloc::session heap;
    exhibits &e = the_exhibits();
    std::vector<reference> held;
    std::vector<goalloc::weak_ptr<payload>> seen;
    auto one = goalloc::make_shared<payload>(&e.destroyed);
    goalloc::shared_ptr<int> simple = goalloc::make_shared<int>(7);

    for (long i = 1; i < a.number; i++) {
        held.push_back(one);
        seen.emplace_back(one);
    }
    CHECK(*simple == 7);
    if (a.number > 0) {
        CHECK(one.use_count() == static_cast<std::uint32_t>(a.number));
        die();
    }
    return 0;
}

/* Hold an object, without a call of the library, until killed. */
int part_keep(const arguments &)
{
    goalloc::session heap;
    exhibits &e = the_exhibits();
    auto one = goalloc::make_shared<payload>(&e.destroyed);

    for (;; (void)usleep(1000))
        CHECK(one->mark == lives && one.use_count() == 1);
}

/* Collect until what NUMBER processes have held has come back; SEED objects have been destroyed then. */
int part_collect(const arguments &a)
{
    goalloc::session heap;
    std::size_t ledgers = 0;
    goalloc::shared_ptr<payload> none; /* so this program has the code */

    for (int i = 0; i < 2000 && ledgers < static_cast<std::size_t>(a.number); i++, (void)usleep(5000)) {
        auto done = goalloc::collect_references();
        CHECK(done.unknown == 0);
        ledgers += done.ledgers;
    }
    CHECK(ledgers == static_cast<std::size_t>(a.number));
    CHECK(the_exhibits().destroyed.load() == a.seed);
    CHECK(goalloc::collect_references().references == 0);
    return 0;
}

/* Take and drop references until killed, in private memory and in the heap. */
int part_juggle(const arguments &a)
{
    goalloc::session heap = attach_patiently();
    exhibits &e = the_exhibits();
    std::uint64_t random = a.seed | 1;
    std::vector<reference> held(16);

    for (;;) {
        reference &mine = held[random_number(random) % held.size()];
        std::size_t at = random_number(random) % shelf;

        if (mine)
            CHECK(mine->mark == lives);
        if (random_number(random) % 8 == 0)
            mine.reset();
        else if (random_number(random) % 8 == 0)
            mine = held[random_number(random) % held.size()];
        else if (random_number(random) % 64 == 0)
            (void)goalloc::collect_references();
        if (mine)
            CHECK(mine->mark == lives);

        goalloc::scoped_lock lock(e.mutex);
        if (lock.owner_died())
            lock.recovered(); /* a reference in the heap is one word; the vectors' lengths don't change */
        if (e.all.empty()) {
            e.weak.resize(shelf);
            e.all.resize(shelf);
        }
        switch (random_number(random) % 4) {
        case 0:
            e.all[at] = goalloc::make_shared<payload>(&e.destroyed);
            e.weak[at] = e.all[at];
            e.made.fetch_add(1);
            break;
        case 1:
            mine = e.weak[at].lock();
            break;
        case 2:
            if (mine)
                e.all[at] = mine;
            break;
        default:
            mine = e.all[at];
        }
        if (e.all[at])
            CHECK(e.all[at]->mark == lives);
    }
}

/*
 * All who juggled are dead: NUMBER of them. What they held is collected; then each object of the heap has the count of
 * its references there, but for one that each death may have left. At the end the heap's references are dropped.
 */
int part_recount(const arguments &a)
{
    goalloc::session heap;
    exhibits &e = the_exhibits();
    std::uint64_t too_many = 0;
    goalloc::collected done;

    for (int i = 0; i < 2000; i++, (void)usleep(5000)) {
        bool some = false;
        auto round = goalloc::collect_references();

        done.references += round.references;
        done.ledgers += round.ledgers;
        CHECK(round.unknown == 0);
        CHECK(goalloc_root_list("goalloc.cxx/held/", [](const goalloc_root_info *, void *arg) {
                  *static_cast<bool *>(arg) = true;
                  return 0;
              }, &some) == 0);
        if (!some)
            break;
    }
    goalloc::scoped_lock lock(e.mutex);
    if (lock.owner_died())
        lock.recovered();
    for (std::size_t i = 0; i < e.all.size(); i++) {
        const reference &one = e.all[i];
        std::uint32_t here = 0;
        bool is_first = true;

        if (!one)
            continue;
        CHECK(one->mark == lives);
        for (std::size_t j = 0; j < e.all.size(); j++) {
            here += e.all[j] == one ? 1 : 0;
            is_first = is_first && (j >= i || e.all[j] != one);
        }
        CHECK(one.use_count() >= here);
        too_many += is_first ? one.use_count() - here : 0;
    }
    (void)std::printf("%llu objects made, %llu destroyed; %zu references of %zu ledgers collected; "
                      "counts too high by %llu after %ld deaths\n",
                      static_cast<unsigned long long>(e.made.load()),
                      static_cast<unsigned long long>(e.destroyed.load()), done.references, done.ledgers,
                      static_cast<unsigned long long>(too_many), a.number);
    CHECK(too_many <= static_cast<std::uint64_t>(a.number));
    e.weak.clear();
    e.all.clear();
    CHECK(e.destroyed.load() <= e.made.load() + static_cast<std::uint64_t>(a.number)); /* made, and not counted yet */
    CHECK(e.made.load() <= e.destroyed.load() + static_cast<std::uint64_t>(a.number));
    return 0;
}

/* A forked child has none of its parent's references, but its own. */
int part_fork(const arguments &)
{
    goalloc::session heap;
    exhibits &e = the_exhibits();
    auto one = goalloc::make_shared<payload>(&e.destroyed);
    goalloc::weak_ptr<payload> weak = one;
    goalloc::vector<reference> *shared = goalloc::make_unique<goalloc::vector<reference>>().release();
    int status = 0;

    shared->push_back(one);
    CHECK(one.use_count() == 2);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        CHECK(one->mark == lives);
        CHECK_THROWS(reference copy(one), EPERM);
        CHECK_THROWS((void)weak.lock(), EPERM);
        CHECK_THROWS((*shared)[0] = std::move(one), EPERM);
        CHECK_THROWS((*shared)[0].swap(one), EPERM);
        CHECK_THROWS(one.swap((*shared)[0]), EPERM);
        CHECK(one && (*shared)[0] == one && one.use_count() == 2);
        reference own = (*shared)[0]; /* the heap's are everybody's */
        CHECK(own.use_count() == 3);
        one.reset();
        weak.reset();
        CHECK(own.use_count() == 3);
        reference moved(std::move(own));
        CHECK(!own && moved.use_count() == 3);
        moved.reset();
        CHECK((*shared)[0].use_count() == 2);
        moved = (*shared)[0];
        heap.detach();
        moved.reset(); /* of a heap that it has left: nothing happens */
        std::_Exit(0);
    }
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    for (int i = 0; i < 2000 && one.use_count() > 2; i++, (void)usleep(5000))
        (void)goalloc::collect_references(); /* what the child held when it detached */
    CHECK(one.use_count() == 2);
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; t++) {
        threads.emplace_back([&one, &weak] {
            for (int i = 0; i < 2000; i++) {
                reference copy = one;
                std::vector<reference> more(3, copy);
                CHECK(weak.lock() == one);
            }
        });
    }
    for (auto &thread : threads)
        thread.join();
    CHECK(one.use_count() == 2);
    std::vector<reference> many(2000, one); /* more than a chunk of the ledger */
    CHECK(one.use_count() == 2002);
    many.clear();
    goalloc::deleter<goalloc::vector<reference>>()(shared);
    CHECK(one.use_count() == 1 && e.destroyed.load() == 0);
    one = nullptr;
    CHECK(e.destroyed.load() == 1 && weak.expired() && !weak.lock());
    return 0;
}
