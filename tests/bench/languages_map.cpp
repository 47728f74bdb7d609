/*
 * languages_map: std::map<string, vector<int>> in shared memory, built by one process and grown by another one: with
 * goalloc, or with Boost.Interprocess as its documentation does it.
 *
 *   languages_map goalloc|boost [ENTRIES]      prints a line of JSON
 *
 * One process makes a map of ENTRIES keys (half of them too long for a string that needs no memory of its own), each
 * with a vector of 4 numbers. Another one, started by exec, finds it by its name, adds 4 numbers to each vector, as many
 * keys again, and erases every fourth of the first. Then the first process reads it all and destroys it. The order of
 * keys is the same pseudo-random one for both. Timed are build, grow, and read with destruction; not the attach or the
 * making of the segment. A sum of all that is read shows that both have done the same.
 *
 * goalloc is attached to the daemon of $GOALLOC_SOCKET. Boost's segment is as large as it takes, and its pages are
 * touched for the first time within the timed parts, as goalloc's are.
 */
#include <goalloc.hpp>

#include <boost/interprocess/allocators/allocator.hpp>
#include <boost/interprocess/containers/map.hpp>
#include <boost/interprocess/containers/string.hpp>
#include <boost/interprocess/containers/vector.hpp>
#include <boost/interprocess/managed_shared_memory.hpp>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <sys/wait.h>
#include <unistd.h>

namespace {

namespace ipc = boost::interprocess;
using clock_type = std::chrono::steady_clock;

/* A permutation of [0, 2^32): the order of keys. */
std::uint32_t shuffled(std::uint32_t i)
{
    return i * UINT32_C(2654435761);
}

/* The text of key i, in private memory of the caller. */
void key_text(std::uint32_t i, char *text, std::size_t size)
{
    (void)std::snprintf(text, size, i % 2 == 0 ? "%u" : "the name of the entry %u", shuffled(i));
}

struct goalloc_heap {
    using map_type = goalloc::map<goalloc::string, goalloc::vector<int>>;
    goalloc::session session;
    goalloc::root<map_type> root{ "languages_map" };
    map_type *map = &root.find_or_construct();

    goalloc_heap(bool, const std::string &)
    {
    }
    goalloc::string key(const char *text)
    {
        return goalloc::string(text);
    }
    goalloc::vector<int> &at(const char *text)
    {
        return (*map)[key(text)];
    }
    void destroy()
    {
        root.destroy();
    }
};

struct boost_heap {
    template <class T> using allocator = ipc::allocator<T, ipc::managed_shared_memory::segment_manager>;
    using string = ipc::basic_string<char, std::char_traits<char>, allocator<char>>;
    using vector = ipc::vector<int, allocator<int>>;
    using value = std::pair<const string, vector>;
    using map_type = ipc::map<string, vector, std::less<string>, allocator<value>>;
    ipc::managed_shared_memory segment;
    map_type *map;

    boost_heap(bool first, const std::string &name)
        : segment(first ? ipc::managed_shared_memory(ipc::create_only, name.c_str(), std::size_t(1) << 30)
                        : ipc::managed_shared_memory(ipc::open_only, name.c_str())),
          map(segment.find_or_construct<map_type>("map")(std::less<string>(), segment.get_segment_manager()))
    {
    }
    string key(const char *text)
    {
        return string(text, segment.get_segment_manager());
    }
    vector &at(const char *text)
    {
        return map->try_emplace(key(text), segment.get_segment_manager()).first->second;
    }
    void destroy()
    {
        segment.destroy<map_type>("map");
    }
};

template <class Heap> void build(Heap &heap, std::uint32_t n)
{
    char text[64];

    for (std::uint32_t i = 0; i < n; i++) {
        key_text(i, text, sizeof(text));
        auto &v = heap.at(text);
        for (int k = 0; k < 4; k++)
            v.push_back(static_cast<int>(i) + k);
    }
}

template <class Heap> void grow(Heap &heap, std::uint32_t n)
{
    char text[64];

    for (std::uint32_t i = 0; i < n; i++) {
        key_text(i, text, sizeof(text));
        if (i % 4 == 0) {
            heap.map->erase(heap.key(text));
        } else {
            auto &v = heap.at(text);
            for (int k = 4; k < 8; k++)
                v.push_back(static_cast<int>(i) + k);
        }
        key_text(n + i, text, sizeof(text));
        heap.at(text).push_back(1);
    }
}

template <class Heap> std::uint64_t read_all(Heap &heap)
{
    std::uint64_t sum = 0;

    for (const auto &one : *heap.map) {
        sum += one.first.size();
        for (int number : one.second)
            sum = sum * 31 + static_cast<std::uint64_t>(number);
    }
    return sum;
}

double ms_since(clock_type::time_point begin)
{
    return std::chrono::duration<double, std::milli>(clock_type::now() - begin).count();
}

/* What the other process has taken comes back through a pipe. */
double grown_by_another(char **argv, const std::string &n, const std::string &name)
{
    double ms = -1;
    int ends[2];
    int status = 1;

    if (pipe(ends) != 0)
        return ms;
    std::string fd = std::to_string(ends[1]);
    pid_t pid = fork();
    if (pid == 0) {
        (void)execl("/proc/self/exe", argv[0], argv[1], n.c_str(), name.c_str(), fd.c_str(), static_cast<char *>(nullptr));
        std::_Exit(127);
    }
    close(ends[1]);
    if (read(ends[0], &ms, sizeof(ms)) != static_cast<ssize_t>(sizeof(ms)) || waitpid(pid, &status, 0) != pid ||
        status != 0)
        ms = -1;
    close(ends[0]);
    return ms;
}

template <class Heap> int run(char **argv, std::uint32_t n, const char *given_name, const char *fd)
{
    std::string name = given_name != nullptr ? given_name : "goalloc-languages." + std::to_string(getpid());
    Heap heap(fd == nullptr, name);
    auto begin = clock_type::now();

    if (fd != nullptr) {
        grow(heap, n);
        double ms = ms_since(begin);
        return write(static_cast<int>(std::strtol(fd, nullptr, 10)), &ms, sizeof(ms)) ==
                       static_cast<ssize_t>(sizeof(ms))
                   ? 0
                   : 1;
    }
    build(heap, n);
    double build_ms = ms_since(begin);
    double grow_ms = grown_by_another(argv, std::to_string(n), name);
    begin = clock_type::now();
    std::uint64_t sum = read_all(heap);
    heap.destroy();
    double read_ms = ms_since(begin);
    ipc::shared_memory_object::remove(name.c_str()); /* goalloc has none */
    (void)std::printf("{\"who\": \"%s\", \"entries\": %u, \"build_ms\": %.2f, \"grow_ms\": %.2f, \"read_ms\": %.2f, "
                      "\"sum\": %llu}\n",
                      argv[1], n, build_ms, grow_ms, read_ms, static_cast<unsigned long long>(sum));
    return grow_ms < 0 ? 1 : 0;
}

} // namespace

int main(int argc, char **argv)
{
    std::uint32_t n = argc > 2 ? static_cast<std::uint32_t>(std::strtoul(argv[2], nullptr, 10)) : 100000;
    const char *name = argc > 4 ? argv[3] : nullptr;
    const char *fd = argc > 4 ? argv[4] : nullptr;

    try {
        if (argc > 1 && std::strcmp(argv[1], "goalloc") == 0)
            return run<goalloc_heap>(argv, n, name, fd);
        if (argc > 1 && std::strcmp(argv[1], "boost") == 0)
            return run<boost_heap>(argv, n, name, fd);
        (void)std::fprintf(stderr, "languages_map goalloc|boost [ENTRIES]\n");
    } catch (const std::exception &e) {
        (void)std::fprintf(stderr, "languages_map: %s\n", e.what());
    }
    return 2;
}
