/*
 * A map of 100,000 entries that two programs change crosswise, and a table whose users are killed.
 *
 * The table's truth is an array: `values[i]`, 0 for none. A map of the same is changed with it, by all who hold the
 * mutex. Who changes something writes down first what it shall become (`open` last), then changes map and value, then
 * closes that. Who takes the mutex over from a dead holder does what is open, throws the map away, which may be torn,
 * and makes it anew from the values.
 */
#include "worker.hpp"

#include <new>
#include <thread>

namespace {

/* --- crosswise --- */

constexpr int entries = 100000;
constexpr int batch = 50;

using numbers = goalloc::map<goalloc::string, goalloc::vector<int>>;

struct book {
    goalloc::mutex mutex;
    numbers map;
};

book &the_book()
{
    return goalloc::root<book>("book").find_or_construct();
}

/* Every other key is longer than a string that needs no memory of its own. */
goalloc::string key_of(int i)
{
    return goalloc::string(i % 4 < 2 ? "" : "a name that is longer than sixteen bytes: ") + std::to_string(i).c_str();
}

/* f(map, i) for all i of that parity, with the mutex, for a batch at a time. */
template <class F> void for_half(long parity, F &&f)
{
    goalloc::session heap;
    book &b = the_book();

    for (int from = 0; from < entries; from += batch) {
        goalloc::scoped_lock lock(b.mutex);
        CHECK(!lock.owner_died());
        for (int i = from; i < from + batch; i++) {
            if (i % 2 == parity)
                f(b.map, i);
        }
    }
}

/* --- the table --- */

constexpr std::uint32_t keys = 256;

struct journal {
    std::atomic<std::uint32_t> open;
    std::uint32_t key;
    int value;
};

struct table {
    goalloc::mutex mutex;
    goalloc::event changed;
    journal next;
    int values[keys];
    numbers *map; /* of the values: as many elements as it says, each of them the value */
    std::uint64_t nchanges;
    std::uint64_t nrepairs;
    std::uint64_t low, high; /* two counters that belong together */
};

table &the_table()
{
    return goalloc::root<table>("table").find_or_construct();
}

void enter(table &t, std::uint32_t key, int value)
{
    if (t.map == nullptr)
        t.map = goalloc::make_unique<numbers>().release();
    if (value == 0)
        t.map->erase(key_of(static_cast<int>(key)));
    else
        (*t.map)[key_of(static_cast<int>(key))].assign(static_cast<std::size_t>(value), value);
}

void repair(table &t)
{
    goalloc::settle();
    if (t.next.open.load() == 1) {
        t.values[t.next.key] = t.next.value;
        t.next.open.store(0);
    }
    t.high = t.low;
    t.map = nullptr; /* it may be torn: nobody can free it */
    for (std::uint32_t i = 0; i < keys; i++)
        enter(t, i, t.values[i]);
    t.nrepairs++;
}

void change(table &t, std::uint32_t key, int value)
{
    t.next.key = key;
    t.next.value = value;
    t.next.open.store(1);
    t.low++;
    enter(t, key, value);
    t.values[key] = value;
    t.next.open.store(0);
    t.high++;
    t.nchanges++;
}

void verify(const table &t)
{
    std::size_t there = 0;

    CHECK(t.low == t.high);
    CHECK(t.next.open.load() == 0);
    for (std::uint32_t i = 0; i < keys; i++) {
        if (t.values[i] == 0)
            continue;
        auto found = t.map->find(key_of(static_cast<int>(i)));
        CHECK(found != t.map->end());
        CHECK(found->second.size() == static_cast<std::size_t>(t.values[i]));
        for (int one : found->second)
            CHECK(one == t.values[i]);
        there++;
    }
    CHECK(there == (t.map == nullptr ? 0 : t.map->size()));
}

} // namespace

int part_insert(const arguments &a)
{
    for_half(a.number, [](numbers &map, int i) { map[key_of(i)].push_back(i); });
    return 0;
}

int part_extend(const arguments &a)
{
    for_half(a.number, [](numbers &map, int i) {
        auto &v = map.at(key_of(i));
        for (int n = 1; n <= i % 16; n++)
            v.push_back(i + n);
    });
    return 0;
}

int part_erase(const arguments &a)
{
    for_half(a.number, [](numbers &map, int i) {
        if (i % 3 == 0)
            CHECK(map.erase(key_of(i)) == 1);
    });
    return 0;
}

/* What the others have left; NUMBER 1: and destroy it. */
int part_verify(const arguments &a)
{
    goalloc::session heap;
    book &b = the_book();
    std::size_t left = 0;

    for (int i = 0; i < entries; i++) {
        auto found = b.map.find(key_of(i));
        CHECK((found == b.map.end()) == (i % 3 == 0));
        if (i % 3 == 0)
            continue;
        left++;
        CHECK(found->second.size() == static_cast<std::size_t>(1 + i % 16));
        for (int n = 0; n <= i % 16; n++)
            CHECK(found->second[static_cast<std::size_t>(n)] == i + n);
    }
    CHECK(b.map.size() == left);
    if (a.number == 1)
        CHECK(goalloc::root<book>("book").destroy());
    return 0;
}

/* Change the table until killed. */
int part_storm(const arguments &a)
{
    goalloc::session heap = attach_patiently();
    table &t = the_table();
    std::uint64_t random = a.seed | 1;

    for (;;) {
        std::uint32_t seen = t.changed.now();
        {
            goalloc::scoped_lock lock(t.mutex, [&t] { repair(t); });
            change(t, static_cast<std::uint32_t>(random_number(random) % keys),
                   static_cast<int>(random_number(random) % 40));
            if (random_number(random) % 64 == 0)
                verify(t);
        }
        t.changed.signal();
        if (random_number(random) % 4 == 0)
            (void)t.changed.wait(seen + 1, std::chrono::milliseconds(2));
    }
}

/*
 * One that is never killed: it gets the mutex, and waits for a signal of others NUMBER times, with so long a time-out
 * that a lost signal would be noticed. Then it looks at everything. Prints how many changes and repairs there were.
 */
int part_calm(const arguments &a)
{
    goalloc::session heap = attach_patiently();
    table &t = the_table();

    for (long i = 0; i < a.number; i++) {
        std::uint32_t seen = t.changed.now();
        CHECK(t.changed.wait(seen, std::chrono::seconds(20)));
        goalloc::scoped_lock lock(t.mutex, [&t] { repair(t); });
        verify(t);
    }
    goalloc::scoped_lock lock(t.mutex, [&t] { repair(t); });
    verify(t);
    (void)std::printf("%llu changes, %llu repairs\n", static_cast<unsigned long long>(t.nchanges),
                      static_cast<unsigned long long>(t.nrepairs));
    return 0;
}

/* NUMBER 0: die with the mutex. 1: get it, and don't say that it is recovered. 2: nobody gets it any more. */
int part_unrecovered(const arguments &a)
{
    goalloc::session heap;
    auto &m = goalloc::root<goalloc::mutex>("unrecovered").find_or_construct();

    if (a.number == 0) {
        CHECK(m.lock() == goalloc::lock_state::locked);
        CHECK_THROWS((void)m.lock(), EDEADLK);
        std::thread([&m] {
            CHECK(m.try_lock() == goalloc::lock_state::busy);
            CHECK(m.try_lock_for(std::chrono::milliseconds(1)) == goalloc::lock_state::busy);
        }).join();
        die();
    } else if (a.number == 1) {
        goalloc::scoped_lock lock(m);
        CHECK(lock.owner_died() && lock.state() == goalloc::lock_state::owner_died);
    } else {
        for (int i = 0; i < 2; i++) /* who has asked keeps nothing */
            CHECK_THROWS((void)m.try_lock(), ENOTRECOVERABLE);
        std::thread([&m] {
            CHECK_THROWS((void)m.try_lock_for(std::chrono::seconds(10)), ENOTRECOVERABLE);
        }).join();
        CHECK_THROWS((void)m.lock(), ENOTRECOVERABLE);
        CHECK_THROWS(goalloc::scoped_lock lock(m), ENOTRECOVERABLE);
    }
    return 0;
}
