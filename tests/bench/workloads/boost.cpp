/*
 * boost: the workloads for Boost.Interprocess, the peer across processes: managed_shared_memory with its default
 * algorithm (rbtree_best_fit, one process-shared mutex).
 *
 * Compiled with bench.c into bench-boost. The segment is created before the workers start, as large as the workloads
 * need it, and opened by each process; objects are named by their handles (the distance from the segment's beginning),
 * since the segment has another address in each process. The code is that of fixed.c and threads.c, with
 * allocate(size, nothrow) and deallocate(p).
 */
#include <boost/interprocess/managed_shared_memory.hpp>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <string>
#include <unistd.h>

#include "tests/bench/workloads/bench.h"
#include "tests/bench/workloads/ring.h"

namespace ipc = boost::interprocess;

namespace {

constexpr unsigned batch_objects = 1000;
constexpr size_t segment_bytes = size_t{ 256 } << 20;

std::string segment_name;
ipc::managed_shared_memory *segment;

void *allocate(size_t size)
{
    void *p = segment->allocate(size, std::nothrow);

    if (p == nullptr)
        bench_die("out of memory");
    return p;
}

void write_word(void *p, uint64_t value)
{
    *static_cast<volatile uint64_t *>(p) = value;
}

void pairs(bench_worker *w, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        void *p = allocate(w->size);

        write_word(p, i);
        segment->deallocate(p);
    }
}

void batches(bench_worker *w, uint64_t n)
{
    void **batch = static_cast<void **>(w->state);

    for (uint64_t done = 0; done < n; done += batch_objects) {
        for (unsigned i = 0; i < batch_objects; i++) {
            batch[i] = allocate(w->size);
            write_word(batch[i], i);
        }
        for (unsigned i = 0; i < batch_objects; i++)
            segment->deallocate(batch[i]);
    }
}

void produce(bench_worker *w, uint64_t n)
{
    ring_side side = ring_producer(w->ring);

    for (uint64_t i = 0; i < n; i++) {
        void *p = allocate(w->size);

        write_word(p, i);
        ring_put(&side, static_cast<uint64_t>(segment->get_handle_from_address(p)));
    }
    ring_finish_producer(&side);
}

void consume(bench_worker *w, uint64_t n)
{
    ring_side side = ring_consumer(w->ring);
    uint64_t checksum = 0;

    for (uint64_t i = 0; i < n; i++) {
        auto handle = static_cast<ipc::managed_shared_memory::handle_t>(ring_get(&side));
        void *p = segment->get_address_from_handle(handle);

        checksum += *static_cast<uint64_t *>(p);
        segment->deallocate(p);
    }
    ring_finish_consumer(&side);
    w->checksum = checksum;
}

void prodcons(bench_worker *w, uint64_t n)
{
    if (w->index % 2 == 0)
        produce(w, n);
    else
        consume(w, n);
}

void batches_prepare(bench_worker *w)
{
    w->ops -= w->ops % batch_objects;
    w->state = bench_array(batch_objects * sizeof(void *));
}

void pairs_setup(bench_worker *w)
{
    pairs(w, w->ops / 10);
}

void pairs_run(bench_worker *w)
{
    pairs(w, w->ops);
    w->checksum = w->ops;
}

void batches_setup(bench_worker *w)
{
    batches(w, w->ops / 10 + batch_objects);
}

void batches_run(bench_worker *w)
{
    batches(w, w->ops);
    w->checksum = w->ops;
}

void prodcons_setup(bench_worker *w)
{
    prodcons(w, w->ops / 4);
}

void prodcons_run(bench_worker *w)
{
    prodcons(w, w->ops);
}

} // namespace

extern "C" {

void bench_segment_create()
{
    segment_name = "goalloc-bench-" + std::to_string(getpid());
    try {
        ipc::managed_shared_memory created(ipc::create_only, segment_name.c_str(), segment_bytes);
    } catch (const ipc::interprocess_exception &e) {
        bench_die(e.what());
    }
}

void bench_segment_remove()
{
    (void)ipc::shared_memory_object::remove(segment_name.c_str());
}

void bench_segment_attach()
{
    try {
        segment = new ipc::managed_shared_memory(ipc::open_only, segment_name.c_str());
    } catch (const ipc::interprocess_exception &e) {
        bench_die(e.what());
    }
}

extern const bench_workload bench_boost[] = {
    { "pairs", "malloc and free at once", 200000, 64, 0, nullptr, pairs_setup, pairs_run },
    { "batches", "1000 mallocs, 1000 frees in the same order", 200000, 64, 0, batches_prepare, batches_setup,
      batches_run },
    { "prodcons", "one worker of two allocates, the other one frees", 200000, 64, 2, nullptr, prodcons_setup,
      prodcons_run },
    { nullptr, nullptr, 0, 0, 0, nullptr, nullptr, nullptr },
};

} // extern "C"
