/*
 * What one process can see of the headers: each container, pointer and wrapper once, and the traits.
 */
#include "worker.hpp"

#include <algorithm>
#include <chrono>
#include <limits>
#include <memory>
#include <thread>
#include <utility>

namespace {

struct point {
    double x, y;
};

struct account {
    goalloc::string name;
    std::string note;
};

struct item {
    item *next;
    int value;
};

struct alignas(64) wide {
    char bytes[64];
};

/* One of a list, and what its destructor comes to. */
struct knot {
    goalloc::shared_ptr<knot> next;
    const goalloc::shared_ptr<knot> *head; /* nullptr: it does not look */
    int value;

    ~knot()
    {
        CHECK(head == nullptr || (*head && (*head)->value == value + 1));
        value = -1;
    }
};

enum class colour { red };

struct virtual_one {
    virtual ~virtual_one() = default;
};

} // namespace

template <> struct goalloc::is_pointer_free<point> : std::true_type {};
template <> struct goalloc::is_shareable<account> : goalloc::all_shareable<goalloc::string, std::string> {};

namespace {

using goalloc::is_pointer_free_v;
using goalloc::is_shareable_v;

static_assert(is_pointer_free_v<int> && is_pointer_free_v<colour> && is_pointer_free_v<const double[3]>);
static_assert(is_pointer_free_v<std::pair<int, std::array<char, 3>>> && is_pointer_free_v<std::atomic<int>>);
static_assert(is_pointer_free_v<std::tuple<int, float>> && is_pointer_free_v<point>);
static_assert(!is_pointer_free_v<int *> && !is_pointer_free_v<std::pair<int, int *>> && !is_pointer_free_v<item>);

static_assert(is_shareable_v<goalloc::map<goalloc::string, goalloc::vector<int>>>);
static_assert(is_shareable_v<goalloc::unordered_map<goalloc::string, goalloc::shared_ptr<item>>>);
static_assert(is_shareable_v<std::pair<const goalloc::string, goalloc::unique_ptr<item>>>);
static_assert(is_shareable_v<item *> && is_shareable_v<std::atomic<std::uint64_t>> && is_shareable_v<goalloc::mutex>);
static_assert(!is_shareable_v<virtual_one> && !is_shareable_v<std::function<void()>> && !is_shareable_v<std::mutex>);
static_assert(!is_shareable_v<std::string> && !is_shareable_v<goalloc::vector<std::string>>);
static_assert(!is_shareable_v<int &> && !is_shareable_v<void (*)(int)> && !is_shareable_v<void (item::*)()>);
static_assert(!is_shareable_v<std::shared_ptr<int>> && !is_shareable_v<std::unique_ptr<int>>);
static_assert(!is_shareable_v<std::array<std::mutex, 2>> && !is_shareable_v<std::tuple<int, std::any>>);
static_assert(!is_shareable_v<goalloc::map<int, int, bool (*)(int, int)>>);
static_assert(!is_shareable_v<std::atomic<std::array<char, 64>>> && !is_shareable_v<std::condition_variable[2]>);
static_assert(!is_shareable_v<account>);
#if defined(__cpp_lib_memory_resource)
static_assert(!is_shareable_v<std::pmr::vector<int>> && !is_shareable_v<std::pmr::string>);
#endif

using goalloc::detail::milliseconds_of;
using goalloc::detail::nanoseconds_of;
using std::chrono::duration;
constexpr std::int64_t for_ever = std::numeric_limits<std::int64_t>::max();

static_assert(nanoseconds_of(std::chrono::seconds(3)) == 3000000000 && nanoseconds_of(std::chrono::hours(0)) == 0);
static_assert(nanoseconds_of(std::chrono::hours::max()) == for_ever && nanoseconds_of(std::chrono::hours::min()) == 0);
static_assert(nanoseconds_of(duration<std::int64_t, std::ratio<31556952>>::max()) == for_ever);
static_assert(nanoseconds_of(std::chrono::nanoseconds::max()) == for_ever);
static_assert(nanoseconds_of(std::chrono::nanoseconds::min()) == 0);
static_assert(nanoseconds_of(std::chrono::hours(999999)) == INT64_C(3599996400000000000));
static_assert(nanoseconds_of(duration<double>(0.5)) == 500000000 && nanoseconds_of(duration<double>(-0.5)) == 0);
static_assert(nanoseconds_of(duration<double>(std::numeric_limits<double>::infinity())) == for_ever);
static_assert(milliseconds_of(std::chrono::microseconds(1)) == 1 && milliseconds_of(std::chrono::milliseconds(7)) == 7);
static_assert(milliseconds_of(std::chrono::milliseconds(INT64_C(1) << 32)) == std::numeric_limits<int>::max());
static_assert(milliseconds_of(std::chrono::hours(-1)) == 0);

const char *const long_text = "a text that is longer than a string has room for";

void try_containers()
{
    goalloc::string text = long_text;
    auto everything = goalloc::make_unique<std::tuple<
        goalloc::vector<bool>, goalloc::deque<goalloc::string>, goalloc::list<int>, goalloc::forward_list<int>,
        goalloc::set<goalloc::string>, goalloc::multimap<int, goalloc::string>, goalloc::unordered_set<goalloc::string>,
        goalloc::unordered_map<goalloc::string, goalloc::vector<double>>, goalloc::wstring, goalloc::vector<wide>>>();
    auto &[bits, deque, list, forward, set, multi, unordered, table, wide_text, wides] = *everything;

    CHECK(goalloc_contains(everything.get()));
    for (int i = 0; i < 1000; i++) {
        bits.push_back(i % 3 == 0);
        deque.push_front(text);
        list.push_back(i);
        forward.push_front(i);
        set.insert(text + std::to_string(i).c_str());
        multi.emplace(i % 10, text);
        unordered.insert(text + std::to_string(i % 500).c_str());
        table[text + std::to_string(i % 100).c_str()].push_back(i);
        wide_text += L"wide";
        wides.emplace_back();
    }
    CHECK(std::count(bits.begin(), bits.end(), true) == 334);
    CHECK(deque.size() == 1000 && deque[999] == long_text && goalloc_contains(&deque[500]));
    CHECK(list.size() == 1000 && forward.front() == 999 && set.size() == 1000 && multi.count(3) == 100);
    CHECK(unordered.size() == 500 && table.at(text + "7").size() == 10 && wide_text.size() == 4000);
    CHECK(reinterpret_cast<std::uintptr_t>(wides.data()) % 64 == 0);
    auto moved = std::move(table);
    CHECK(table.empty() && moved.size() == 100);
    CHECK(goalloc_contains(moved.at(text + "7").data()));
}

void try_pointers()
{
    auto one = goalloc::make_unique<point>(point{ 1, 2 });
    goalloc::shared_ptr<item> shared = goalloc::make_shared<item>(item{ nullptr, 5 });
    goalloc::shared_ptr<const item> fixed = shared;
    goalloc::shared_ptr<wide> aligned = goalloc::make_shared<wide>();
    goalloc::weak_ptr<item> weak = shared;
    goalloc::weak_ptr<item> other;

    CHECK(one->y == 2 && goalloc_contains(one.get()));
    CHECK(fixed->value == 5 && fixed == shared && shared.use_count() == 2 && fixed != nullptr);
    CHECK(reinterpret_cast<std::uintptr_t>(aligned.get()) % 64 == 0);
    other = weak;
    auto &same = shared;
    shared = same;
    CHECK(shared.use_count() == 2);
    shared.swap(shared);
    CHECK(shared.use_count() == 2 && shared);
    fixed.reset();
    auto second = std::move(shared);
    CHECK(!shared && second.use_count() == 1 && weak.lock() == second && !weak.expired());
    second = nullptr;
    CHECK(weak.expired() && !other.lock());
}

/* n of them, the first one with the lowest value. */
goalloc::shared_ptr<knot> list_of(int n)
{
    goalloc::shared_ptr<knot> head;

    for (int i = n; i-- > 0;) {
        auto one = goalloc::make_shared<knot>(knot{ nullptr, nullptr, i });
        one->next = std::move(head);
        head = std::move(one);
    }
    return head;
}

/* What is assigned lies in the object that goes, or the destructor of that looks at what is assigned to. */
void try_assignments(goalloc::shared_ptr<knot> &head)
{
    head = list_of(4);
    for (int i = 0; i < 3; i++) {
        CHECK(head->value == i);
        head->head = &head;
        if (i % 2 == 0)
            head = std::move(head->next);
        else
            head = head->next;
    }
    CHECK(head->value == 3 && head.use_count() == 1 && !head->next);
    auto &same = head;
    head = std::move(same);
    CHECK(head && head.use_count() == 1);
    head = same;
    CHECK(head && head.use_count() == 1);
    head = nullptr;
}

void try_durations()
{
    goalloc::root<goalloc::event> root("an event");
    goalloc::event &event = root.find_or_construct();
    auto mutex = goalloc::make_unique<goalloc::mutex>();
    std::uint32_t seen = event.now();

    CHECK(nanoseconds_of(duration<double>(std::numeric_limits<double>::quiet_NaN())) == 0);
    CHECK(mutex->try_lock_for(std::chrono::hours::max()) == goalloc::lock_state::locked);
    std::thread waiter([&mutex, &event] {
        CHECK(mutex->try_lock_for(std::chrono::hours::min()) == goalloc::lock_state::busy);
        CHECK(mutex->try_lock_for(std::chrono::milliseconds(70)) == goalloc::lock_state::busy); /* more than a slice */
        event.signal();
        CHECK(mutex->try_lock_for(std::chrono::hours::max()) == goalloc::lock_state::locked);
        mutex->unlock();
    });
    CHECK(event.wait(seen, std::chrono::hours::max()));
    mutex->unlock();
    waiter.join();
    CHECK(!event.wait(event.now(), std::chrono::hours::min()));
    CHECK(root.wait(std::chrono::hours::max()) == &event);
    CHECK(goalloc::root<int>("none").wait(std::chrono::hours::min()) == nullptr);
    CHECK(root.destroy());
}

void try_links()
{
    auto head = goalloc::make_unique<item>();

    goalloc::link(head->next, goalloc::make_unique<item>(item{ nullptr, 1 }));
    CHECK(head->next->value == 1);
    auto second = goalloc::make_unique<item>(item{ head->next, 2 });
    goalloc::link(head->next, std::move(second));
    CHECK(head->next->value == 2 && second == nullptr);
    goalloc::settle();
    goalloc::unlink_free(head->next, head->next->next);
    CHECK(head->next->value == 1);
    goalloc::unlink_free(head->next, static_cast<item *>(nullptr));
    item *outside = nullptr;
    auto third = goalloc::make_unique<item>();
    CHECK_THROWS(goalloc::link(outside, std::move(third)), EINVAL);
    CHECK(third != nullptr && outside == nullptr);
}

void try_errors(goalloc::session &heap)
{
    goalloc::allocator<char> memory;
    bool refused = false;

    try {
        (void)memory.allocate(std::size_t(1) << 60);
    } catch (const goalloc::bad_alloc &e) {
        refused = e.code() == std::errc::not_enough_memory && e.what() == std::string(goalloc_strerror(ENOMEM));
    }
    CHECK(refused);
    refused = false;
    try {
        (void)goalloc::allocator<item>().allocate(std::size_t(1) << 62);
    } catch (const std::bad_array_new_length &) {
        refused = true;
    }
    CHECK(refused);
    CHECK_THROWS(goalloc::session second, EALREADY);
    CHECK_THROWS(goalloc::root<int>("").find_or_construct(), EINVAL);
    CHECK_THROWS(goalloc::root<int>(std::string(300, 'x')).find(), ENAMETOOLONG);
    goalloc::session moved = std::move(heap);
    CHECK(moved && !heap && moved.is_current() && !heap.is_current());
    heap = std::move(moved);
    CHECK(heap && heap.heap_id() != 0);
}

} // namespace

int part_api(const arguments &)
{
    goalloc::attach_options options;
    options.timeout = std::chrono::milliseconds(-1);
    CHECK_THROWS(goalloc::session refused(options), EINVAL);
    options.timeout = std::chrono::milliseconds(INT64_C(1) << 40);
    goalloc::session heap(options);
    goalloc::shared_ptr<knot> in_private;
    auto in_heap = goalloc::make_unique<goalloc::shared_ptr<knot>>();

    heap.set_label("api");
    try_containers();
    try_pointers();
    try_assignments(in_private);
    try_assignments(*in_heap);
    in_heap.reset();
    try_durations();
    try_links();
    try_errors(heap);
    auto done = goalloc::collect_references();
    CHECK(done.references == 0 && done.ledgers == 0);
    CHECK(goalloc_root_set("goalloc.cxx/collectors", nullptr) == 0);
    heap.trim();
    CHECK(heap.stats().live_objects == 2); /* the ledger, and the collectors' mutex */
    heap.detach();
    heap.detach();
    heap = goalloc::session();
    CHECK(heap.stats().live_objects == 1); /* an empty ledger goes with its session */
    return 0;
}

/* In a session with RECLAIM a root's content outlives it, and so does a shared object. NUMBER 1: look. */
int part_reclaim(const arguments &a)
{
    goalloc::attach_options options;
    options.reclaim = true;
    options.label = "reclaims";
    options.timeout = std::chrono::seconds(10);
    goalloc::session heap(options);
    using slots = goalloc::vector<goalloc::shared_ptr<point>>;
    goalloc::root<slots> root("slots");

    if (a.number == 0) {
        slots &s = root.find_or_construct(std::size_t(3));
        s[1] = goalloc::make_shared<point>(point{ 3, 4 });
        (void)goalloc::make_unique<point>().release(); /* goes with the session */
        die();
    }
    slots *s = root.find();
    CHECK(s != nullptr && s->size() == 3 && !(*s)[0] && (*s)[1]->y == 4 && (*s)[1].use_count() == 1);
    CHECK(root.destroy());
    return 0;
}

/* Programs of one standard library meet: 0. Of two: each is told of the other (3). */
int part_stranger(const arguments &)
{
    goalloc::session heap;
    goalloc::root<goalloc::map<int, int>> root("meeting");

    try {
        root.find_or_construct()[1]++;
        CHECK(root.find() != nullptr);
        return 0;
    } catch (const goalloc::wrong_type &e) {
        CHECK(e.found() != e.wanted());
        (void)std::printf("%s\n", e.what());
        CHECK((e.found() + e.wanted()).find("libstdc++ with") != std::string::npos);
        CHECK((e.found() + e.wanted()).find("libc++ with") != std::string::npos);
        return 3;
    }
}

int part_no_daemon(const arguments &)
{
    goalloc::attach_options options;
    bool refused = false;

    options.socket_path = "/nowhere/goallocd.sock";
    try {
        goalloc::session heap(options);
    } catch (const std::system_error &e) {
        refused = e.code() == std::errc::no_such_file_or_directory && e.code().category() == goalloc::category() &&
                  std::string(e.what()).find("/nowhere/goallocd.sock") != std::string::npos;
    }
    CHECK(refused);
    options.socket_path.clear();
    options.read_only = true;
    goalloc::session heap(options);
    CHECK_THROWS(goalloc::root<int>("none").find_or_construct(), EROFS);
    CHECK(goalloc::root<int>("none").find() == nullptr);
    refused = false;
    try {
        (void)goalloc::make_unique<int>();
    } catch (const goalloc::bad_alloc &e) {
        refused = e.code().value() == EROFS;
    }
    CHECK(refused);
    return 0;
}
