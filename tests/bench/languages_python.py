#!/usr/bin/env python3
"""Python's part of the benchmarks of languages: caches of workers, and shared memory.

    tests/bench/languages_python.py [--build DIR] [--rounds N] [--workers N] [--seconds S] [--json]

DIR is a finished build (build-tests/release). All that is compared takes turns, N rounds of it; printed are medians,
and the ratio goalloc / other: below 1 goalloc is faster. What is not installed is left out and named.

  cache    each worker sets and gets in turn, 100 keys, values of 100 bytes: goalloc.dict, redis (redis-server on a
           Unix socket without persistence, python3-redis), multiprocessing.Manager().dict(). Microseconds an operation
           of a worker
  segment  create, write a page, open by name, read, close both, unlink: goalloc.SharedMemory and
           multiprocessing.shared_memory. Microseconds each, by size
"""

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from itself import run_itself

WHAT = "Python: caches of workers, shared memory; us"
TARGETS = ["goallocctl", "goalloc_python"]
ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
KEYS = [b"key:%d" % i for i in range(100)]
VALUE = b"v" * 100
SIZES = (4096, 1 << 20)


def loop(get, put, seconds):
    """Operations, and how long they took."""
    done = 0
    begin = time.perf_counter()
    while True:
        for key in KEYS:
            put(key, VALUE)
            get(key)
        done += 2 * len(KEYS)
        took = time.perf_counter() - begin
        if took >= seconds:
            return done, took


def goalloc_cache(where, seconds):
    import goalloc

    cache = goalloc.dict(where)
    return loop(cache.get, cache.set, seconds)


def redis_cache(where, seconds):
    import redis

    client = redis.Redis(unix_socket_path=where)
    return loop(client.get, client.set, seconds)


def manager_cache(where, seconds):
    return loop(where.get, where.__setitem__, seconds)


def worker(run, where, seconds, start, results):
    start.wait()
    results.put(run(where, seconds))


def measure_cache(run, where, workers, seconds):
    """Microseconds an operation of one of the workers."""
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(workers), context.Queue()
    crowd = [context.Process(target=worker, args=(run, where, seconds, start, results)) for _ in range(workers)]
    for one in crowd:
        one.start()
    said = [results.get() for _ in crowd]
    for one in crowd:
        one.join()
    return statistics.mean(took / done for done, took in said) * 1e6


def measure_segments(kind, size, seconds):
    done = 0
    begin = time.perf_counter()
    while True:
        for _ in range(20):
            made = kind(create=True, size=size)
            made.buf[:4096] = bytes(4096)
            other = kind(made.name)
            if other.buf[4095] != 0:
                raise RuntimeError("what was written is not there")
            other.close()
            made.close()
            made.unlink()
        done += 20
        took = time.perf_counter() - begin
        if took >= seconds:
            return took / done * 1e6


def start_redis(directory):
    """The path of its socket, and the process; None, and why not."""
    if shutil.which("redis-server") is None:
        return None, "no redis-server (Debian: redis-server)"
    try:
        import redis
    except ImportError:
        return None, "no module redis (Debian: python3-redis)"
    path = os.path.join(directory, "redis")
    process = subprocess.Popen(
        ["redis-server", "--port", "0", "--unixsocket", path, "--save", "", "--appendonly", "no", "--dir", directory],
        stdout=subprocess.DEVNULL,
    )
    for _ in range(500):
        try:
            redis.Redis(unix_socket_path=path).ping()
            return path, process
        except redis.ConnectionError:
            time.sleep(0.02)
    process.kill()
    return None, "redis-server does not serve"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=os.path.join(ROOT, "build-tests", "release"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    os.environ["GOALLOCD"] = os.path.join(options.build, "daemon", "goallocd")
    os.environ["GOALLOCCTL"] = os.path.join(options.build, "client", "ctl", "goallocctl")
    sys.path[:0] = [os.path.join(options.build, "python"), os.path.join(ROOT, "tests", "python")]
    import goalloc
    from multiprocessing import shared_memory

    from support import Daemon

    directory = tempfile.mkdtemp(prefix="goalloc-bench.")
    daemon = Daemon().start()
    redis_path, redis = start_redis(directory)
    manager = multiprocessing.Manager()
    figures = {}

    def note(name, figure):
        figures.setdefault(name, []).append(figure)

    try:
        goalloc.attach(daemon.socket)
        os.environ["GOALLOC_SOCKET"] = daemon.socket
        shared = manager.dict()
        for _ in range(options.rounds):
            note("cache goalloc", measure_cache(goalloc_cache, "bench", options.workers, options.seconds))
            if redis_path is not None:
                note("cache redis", measure_cache(redis_cache, redis_path, options.workers, options.seconds))
            note("cache Manager", measure_cache(manager_cache, shared, options.workers, options.seconds))
            for size in SIZES:
                note(f"segment {size} goalloc", measure_segments(goalloc.SharedMemory, size, options.seconds / 4))
                note(f"segment {size} multiprocessing",
                     measure_segments(shared_memory.SharedMemory, size, options.seconds / 4))
    finally:
        manager.shutdown()
        if redis_path is not None:
            redis.terminate()
            redis.wait()
        if goalloc.is_attached():
            goalloc.detach()
        daemon.end()
        shutil.rmtree(directory, ignore_errors=True)

    rows = []
    for name, all_of_it in figures.items():
        what = name.rsplit(" ", 1)[0]
        mine = statistics.median(figures[what + " goalloc"])
        median = statistics.median(all_of_it)
        rows.append({"measured": what, "who": name.rsplit(" ", 1)[1], "us": median, "ratio": mine / median})
    if options.json:
        print(json.dumps({"rounds": options.rounds, "workers": options.workers, "rows": rows}, indent=2))
        return
    print("\n".join(show({"rounds": options.rounds, "workers": options.workers, "rows": rows})))
    if redis_path is None:
        print(f"without redis: {redis}")

# --- as a part of tests/bench/languages ---


def run(build, repetitions):
    return run_itself(__file__, build, repetitions)


def ratios(figures):
    return {f"Python {row['measured']} / {row['who']}": row["ratio"] for row in figures["rows"] if row["who"] != "goalloc"}


def show(figures):
    yield f"medians of {figures['rounds']} rounds, {figures['workers']} workers"
    for row in figures["rows"]:
        yield f"{row['measured']:16} {row['who']:16} {row['us']:10.2f} us   goalloc / this: {row['ratio']:.3f}"


if __name__ == "__main__":
    main()
