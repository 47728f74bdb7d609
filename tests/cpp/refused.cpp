/*
 * What the headers must not compile: check-refused compiles it, and expects an error for each line with REFUSED, and
 * for no other.
 */
#include <goalloc.hpp>

#include <any>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

struct shape {
    virtual double area() const = 0;
    virtual ~shape() = default;
};
struct square final : shape {
    double area() const override
    {
        return 1;
    }
};
struct record {
    goalloc::string name;
    std::string note;
};
template <> struct goalloc::is_shareable<record> : goalloc::all_shareable<goalloc::string, std::string> {};
struct with_destructor {
    ~with_destructor()
    {
    }
};
struct alignas(64) wide {
    char bytes[64];
};

void refused()
{
    (void)goalloc::make_unique<square>();                            /* REFUSED: virtual functions */
    (void)goalloc::make_shared<square>();                            /* REFUSED: virtual functions */
    goalloc::vector<std::function<void()>>().reserve(1);             /* REFUSED: a pointer to code */
    goalloc::vector<void (*)(int)>().reserve(2);                     /* REFUSED: a pointer to code */
    goalloc::map<int, std::string>()[1] = "";                        /* REFUSED: private memory */
    goalloc::unordered_map<int, std::vector<int>>()[1].push_back(1); /* REFUSED: private memory */
    (void)goalloc::root<std::vector<int>>("x");                      /* REFUSED: private memory */
    (void)goalloc::root<std::mutex>("x");                            /* REFUSED: one process's lock */
    (void)goalloc::root<record>("x");                                /* REFUSED: it says what it is made of */
    (void)goalloc::root<wide>("x");                                  /* REFUSED: too much alignment */
    goalloc::list<std::shared_ptr<int>>().push_back(nullptr);        /* REFUSED: a table in a program */
    goalloc::vector<std::unique_ptr<int>>().reserve(3);              /* REFUSED: private memory */
    (void)goalloc::make_unique<std::pair<int, std::any>>();          /* REFUSED: private memory */
    (void)goalloc::make_unique<int[]>();                             /* REFUSED: an array */
    with_destructor *slot = nullptr;
    goalloc::unlink_free(slot, slot);                                /* REFUSED: a destructor */
}

void allowed(goalloc::mutex &m)
{
    (void)goalloc::make_unique<goalloc::map<goalloc::string, goalloc::vector<int>>>();
    (void)goalloc::make_shared<std::pair<int, goalloc::shared_ptr<goalloc::string>>>();
    goalloc::vector<with_destructor *>().reserve(1);
    m.lock();                     /* REFUSED: what it says is to be looked at */
    (void)m.try_lock();
    goalloc::shared_ptr<int> a(new int); /* REFUSED: an object comes from make_shared */
    goalloc::shared_ptr<int> b(nullptr);
}
