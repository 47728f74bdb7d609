#!/usr/bin/env python3
"""A pre-fork web server, gunicorn, whose workers share a cache in the heap: see --help and web/app.py."""

import argparse
import http.client
import os
import random
import signal
import socket
import sys
import threading
import time

import world
from world import PATIENCE_S, children_of, cpu_s, free_port, wait_for

HERE = os.path.dirname(os.path.abspath(__file__))
CACHES = {"goalloc": "goalloc.dict", "redis": "redis", "dict": "a dict in each worker"}
PAGES = 2000


class Web:
    """gunicorn with some workers, and the redis server if the cache is there."""

    def __init__(self, here, options, cache, workers=4):
        self.here = here
        self.port = free_port(socket.SOCK_STREAM)
        self.redis = None
        self.cache = cache
        redis_socket = here.path("redis.sock")
        if cache == "redis":
            # The program that Debian's redis-tools has: what it is called by says what it is.
            self.redis = here.start(["redis-server", "--port", "0", "--unixsocket", redis_socket, "--save", "",
                                     "--daemonize", "no", "--dir", here.dir], "redis.log",
                                    executable="/usr/bin/redis-check-rdb")
            wait_for("redis", lambda: os.path.exists(redis_socket))
        self.process = here.start(
            [sys.executable, "-m", "gunicorn", "--chdir", os.path.join(HERE, "web"), "--bind",
             f"127.0.0.1:{self.port}", "--workers", str(workers), "--timeout", str(PATIENCE_S), "--graceful-timeout",
             "5", "--worker-tmp-dir", here.dir, "app:application"], "gunicorn.log",
            env=world.environment(PYTHONPATH=options.package or "", PYTHONDONTWRITEBYTECODE="1", WEB_CACHE=cache,
                                  GOALLOC_SOCKET=here.socket, WEB_REDIS=redis_socket))
        wait_for("an answer of gunicorn", lambda: self.lives() and request(self.port, "GET", "/size") is not None)
        wait_for("all workers", lambda: len(self.workers()) == workers)

    def lives(self):
        assert self.process.poll() is None, f"gunicorn ended: {self.here.log('gunicorn.log')[-4000:]}"
        return True

    def workers(self):
        return [pid for pid in children_of(self.process.pid) if pid != self.process.pid]

    def pids(self):
        """All that is there for it: the daemon too, but not its keeper, which sleeps."""
        return (children_of(self.process.pid) + ([self.redis.pid] if self.redis else []) +
                (children_of(self.here.daemon.pid) if self.here.daemon else []))

    def stop(self):
        for process in (self.process, self.redis):
            if process is not None:
                process.terminate()
                process.wait(PATIENCE_S)
                self.here.processes.remove(process)


def request(port, method, path, body=None):
    """(status, headers, body); None: there was no answer, as when its worker was killed."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request(method, path, body=body)
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def insist(port, method, path, body=None):
    """The same, asked again until there is an answer."""
    return wait_for("an answer", lambda: request(port, method, path, body))


class Visitor(threading.Thread):
    """Stores values under keys of its own and reads them back, until it is told to end."""

    def __init__(self, port, number, seed):
        super().__init__()
        self.port = port
        self.number = number
        self.chance = random.Random(seed * 100 + number)
        self.enough = False
        self.values = {}
        self.checked = 0
        self.error = None

    def run(self):
        try:
            while not self.enough:
                key = f"/value/{self.number}-{self.chance.randrange(100)}"
                if self.chance.random() < 0.5:
                    value = self.chance.randbytes(self.chance.choice((0, 5, 300, 5000, 60000)))
                    status, _, _ = insist(self.port, "PUT", key, value)
                    assert status == 200, (status, key)
                    self.values[key] = value
                elif key in self.values:
                    self.check(key)
        except Exception as error:  # told to the main thread
            self.error = error

    def check(self, key):
        status, _, body = insist(self.port, "GET", key)
        assert status == 200 and body == self.values[key], (key, status, body[:100], self.values[key][:100])
        self.checked += 1


def test_kills(options, seconds, seed):
    """Workers and the daemon are killed at random; what was acknowledged is there, for a later server too."""
    chance = random.Random(seed)
    kills = daemons = 0
    with world.World(options.build) as here:
        here.start_daemon()
        web = Web(here, options, "goalloc")
        visitors = [Visitor(web.port, number, seed) for number in range(3)]
        for visitor in visitors:
            visitor.start()
        try:
            end = time.monotonic() + seconds
            while time.monotonic() < end and not any(visitor.error for visitor in visitors):
                time.sleep(chance.uniform(0, 0.3))
                web.lives()
                if chance.random() < 0.2:
                    here.kill_daemon()
                    daemons += 1
                    time.sleep(chance.uniform(0, 0.5))
                    here.start_daemon()
                elif workers := web.workers():
                    try:
                        os.kill(chance.choice(workers), signal.SIGKILL)
                        kills += 1
                    except ProcessLookupError:
                        pass
        finally:
            for visitor in visitors:
                visitor.enough = True
            for visitor in visitors:
                visitor.join()
        for visitor in visitors:
            if visitor.error is not None:
                print(here.log("gunicorn.log")[-3000:])
                raise visitor.error
            for key in visitor.values:
                visitor.check(key)
        for pid in children_of(web.process.pid):
            os.kill(pid, signal.SIGKILL)
        web.process.wait()
        here.processes.remove(web.process)
        # The cache is the heap's: another server finds it.
        again = Web(here, options, "goalloc", workers=1)
        for visitor in visitors:
            visitor.port = again.port
            for key in visitor.values:
                visitor.check(key)
        again.stop()
        wait_for("the end of all sessions", lambda: here.stats()["sessions"] == 0)
        here.ctl("check")
        here.stop_daemon()
    checked = sum(visitor.checked for visitor in visitors)
    print(f"web: {kills} workers and {daemons} daemons killed; {checked} values there")
    assert kills > 0 and checked > 0


def visit(port, pages):
    """Ask for these pages. How many fragments were rendered for them."""
    rendered = 0
    for number in pages:
        status, headers, body = request(port, "GET", f"/page/{number}")
        assert status == 200 and len(body) > 5000
        rendered += int(headers["X-Rendered"])
    return rendered


def measure(options, file, runs, requests):
    """All caches get the same pages, few of them often: that is what caches are for."""
    chance = random.Random(1)
    pages = [min(int(chance.paretovariate(0.5)) - 1, PAGES - 1) for _ in range(requests)]
    found = world.medians(CACHES, runs, lambda cache: measure_one(options, cache, pages))
    second_goalloc = found["goalloc"][1]
    rows = [(CACHES[cache], f"{first:.0f} us", f"{second:.0f} us", f"{second / second_goalloc:.2f}", f"{rendered:.0f}",
             f"{memory:.1f} MiB")
            for cache, (first, second, rendered, memory) in found.items()]
    world.table(f"gunicorn with 4 workers: {requests} pages of 10 fragments each, twice, medians of {runs}",
                ("cache", "CPU a page, first time", "second time", "of goalloc's", "rendered", "memory"), rows, file)


def measure_one(options, cache, pages):
    """(microseconds of CPU a page, the same the second time, fragments rendered the first time, MiB)."""
    with world.World(options.build) as here:
        if cache == "goalloc":
            here.start_daemon()
        web = Web(here, options, cache)
        if options.prefer:
            world.prefer([])
        before = cpu_s(web.pids())
        rendered = visit(web.port, pages)
        between = cpu_s(web.pids())
        visit(web.port, pages)
        after = cpu_s(web.pids())
        memory = here.memory_mib(web.pids())
        web.stop()
        if cache == "goalloc":
            here.stop_daemon()
    return (between - before) * 1e6 / len(pages), (after - between) * 1e6 / len(pages), rendered, memory


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", required=True, help="a finished build of this project")
    parser.add_argument("--package", help="where the package goalloc is, unless Python finds it")
    parser.add_argument("--table", help="the file to which tables are appended")
    parser.add_argument("--seconds", type=float, default=20, help="how long processes are killed (20)")
    parser.add_argument("--seed", type=int, default=int(os.environ.get("GOALLOC_TEST_SEED", time.time_ns() % 1000000)))
    parser.add_argument("--runs", type=int, default=5, help="rounds of the comparison; 0: none (5)")
    parser.add_argument("--requests", type=int, default=5000, help="pages a round (5000)")
    parser.add_argument("--prefer", action="store_true", help="compare with priority over other processes; root")
    options = parser.parse_args()
    print(f"web: seed {options.seed}", flush=True)
    test_kills(options, options.seconds, options.seed)
    if options.runs > 0:
        measure(options, options.table, options.runs, options.requests)


if __name__ == "__main__":
    main()
