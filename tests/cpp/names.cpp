/*
 * Roots that several processes make, and what they are told of the heap.
 */
#include "worker.hpp"

#include <poll.h>
#include <stdexcept>

namespace {

/* The first ones that construct it die of that. */
struct tally {
    std::atomic<int> to_die;
    std::atomic<int> begun;
    std::atomic<int> created;
};

struct prize {
    goalloc::map<goalloc::string, int> content;
    int winner;

    explicit prize(int pid) : winner(pid)
    {
        tally &t = goalloc::root<tally>("tally").find_or_construct();

        t.begun.fetch_add(1);
        if (t.to_die.fetch_sub(1) > 0)
            die();
        content["a key that is longer than sixteen bytes"] = pid;
    }
};

struct thrower {
    goalloc::string text;

    explicit thrower(bool throws) : text("a text that needs memory of its own, to be given back")
    {
        if (throws)
            throw std::runtime_error("as it was told");
    }
};

} // namespace

/* NUMBER > 0: so many constructors are to die. Else: get the prize, as all others. */
int part_race(const arguments &a)
{
    goalloc::session heap;
    tally &t = goalloc::root<tally>("tally").find_or_construct();

    if (a.number > 0) {
        t.to_die.store(static_cast<int>(a.number));
        return 0;
    }
    goalloc::root<prize> root("prize");
    prize &p = root.find_or_construct(static_cast<int>(getpid()));
    CHECK(root.created() == (p.winner == getpid()));
    CHECK(p.content.at("a key that is longer than sixteen bytes") == p.winner);
    if (root.created())
        t.created.fetch_add(1);
    return 0;
}

/* NUMBER constructors have begun, one has come to its end. */
int part_race_result(const arguments &a)
{
    goalloc::session heap;
    tally &t = goalloc::root<tally>("tally").find_or_construct();

    CHECK(t.begun.load() == a.number && t.created.load() == 1);
    CHECK(goalloc::root<prize>("prize").destroy());
    CHECK(!goalloc::root<prize>("prize").destroy());
    CHECK(goalloc::root<prize>("prize").find() == nullptr);
    CHECK(goalloc::root<tally>("tally").destroy());
    return 0;
}

/* A constructor that throws leaves nothing, and its exception arrives. */
int part_throwing(const arguments &)
{
    goalloc::session heap;
    goalloc::root<thrower> root("thrower");
    std::string said;

    try {
        (void)root.find_or_construct(true);
    } catch (const std::runtime_error &e) {
        said = e.what();
    }
    CHECK(said == "as it was told");
    CHECK(root.find() == nullptr && heap.stats().live_objects == 0);
    CHECK(root.wait(std::chrono::milliseconds(1)) == nullptr);
    CHECK(&root.find_or_construct(false) == root.find() && root.created());
    CHECK(root.wait(std::chrono::seconds(5)) == root.find());
    CHECK(&root.find_or_construct(true) == root.find() && !root.created());

    bool refused = false;
    try {
        (void)goalloc::root<goalloc::string>("thrower").find();
    } catch (const goalloc::wrong_type &e) {
        refused = e.found().find("thrower") != std::string::npos && e.wanted().find("string") != std::string::npos &&
                  e.code() == std::error_code(EMEDIUMTYPE, goalloc::category()) &&
                  std::string(e.what()).find(e.found()) != std::string::npos &&
                  std::string(e.what()).find(e.wanted()) != std::string::npos;
    }
    CHECK(refused);
    CHECK(root.destroy());

    /* What a program in C has named is no C++ object. */
    void *p = goalloc_malloc(256);
    CHECK(p != nullptr && goalloc_root_set("plain", p) == 0);
    try {
        (void)goalloc::root<goalloc::string>("plain").find();
        CHECK(false);
    } catch (const goalloc::wrong_type &e) {
        CHECK(e.found().find("no C++ object") == 0);
    }
    try {
        (void)goalloc::root<goalloc::string>("plain").find_or_construct();
        CHECK(false);
    } catch (const goalloc::wrong_type &e) {
        CHECK(e.found().find("no C++ object") == 0);
    }
    CHECK(goalloc_root_set("plain", nullptr) == 0);
    goalloc_free(p);
    return 0;
}

/* Be told of the death of another worker. */
int part_watch(const arguments &)
{
    goalloc::session heap;
    goalloc::heap_events events;
    bool told = false;

    while (!told) {
        pollfd one = { events.fd(), POLLIN, 0 };
        CHECK(poll(&one, 1, 20000) == 1);
        events.dispatch([&told](const goalloc::heap_event &e) {
            told = told || (e.kind() == goalloc::heap_event_kind::session_end && e.died() && e.pid() > 0 &&
                            e.label() == "worker");
        });
    }
    CHECK(!events.next());
    return 0;
}
