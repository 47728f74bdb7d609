"""What the tests of the package for Python share: a daemon of their own, workers, chance that can be repeated.

A test program is run by ctest, which sets GOALLOCD, GOALLOCCTL and PYTHONPATH; by hand the same is needed. A class of
tests with a daemon derives from HeapTest: the daemon serves a socket in a directory of its own, with a keeper, so that
it may be killed and started again; at the end it is stopped, and everything that the class has made is removed.

GOALLOC_TEST_SEED repeats a run, GOALLOC_TEST_SECONDS makes those longer that go on for a time: storms, in which
workers, and the daemon, are killed at random.
"""

import collections
import contextlib
import ctypes
import errno
import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import unittest

DAEMON = os.environ.get("GOALLOCD", "goallocd")
CONTROL = os.environ.get("GOALLOCCTL", "goallocctl")
SEED = int(os.environ.get("GOALLOC_TEST_SEED") or random.SystemRandom().randrange(2**32))
PATIENCE = 60.0  # seconds: what has not happened then will not


def seconds(default):
    """How long a test goes on that does so for a time."""
    return float(os.environ.get("GOALLOC_TEST_SECONDS", default))


# When the test program has ended, however that came about, what its daemons have left goes: they, the keepers, and the
# directory, whose name is in their command lines.
GUARD = """
import os, select, shutil, signal, sys
pid, directory = int(sys.argv[1]), sys.argv[2]
try:
    select.select([os.pidfd_open(pid)], [], [])
except ProcessLookupError:
    pass
for entry in os.listdir("/proc"):
    try:
        if entry.isdigit() and int(entry) != os.getpid():
            with open(f"/proc/{entry}/cmdline", "rb") as line:
                if (directory + "/").encode() in line.read():
                    os.kill(int(entry), signal.SIGKILL)
    except OSError:
        pass
shutil.rmtree(directory, ignore_errors=True)
"""


class Daemon:
    """goallocd on a socket in a directory of its own."""

    def __init__(self, *options):
        self.directory = tempfile.mkdtemp(prefix="goalloc-py.", dir=os.environ.get("GOALLOC_TEST_DIR"))
        self.socket = os.path.join(self.directory, "s")
        self.options = options
        self.process = None
        self.guard = subprocess.Popen(
            [sys.executable, "-S", "-c", GUARD, str(os.getpid()), self.directory], start_new_session=True
        )

    def start(self):
        self.process = subprocess.Popen(
            [DAEMON, "--socket", self.socket, "--state-dir", os.path.join(self.directory, "state"), "--reserve", "16G",
             "--log-level", "warn", *self.options],
            start_new_session=True,
        )
        until = time.monotonic() + PATIENCE
        while subprocess.run([CONTROL, "--socket", self.socket, "ping"], capture_output=True, check=False).returncode:
            if self.process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"goallocd does not serve {self.socket}")
            time.sleep(0.02)
        return self

    def kill(self):
        self.process.kill()
        self.process.wait()

    def control(self, *words):
        return subprocess.run(
            [CONTROL, "--socket", self.socket, *words], capture_output=True, text=True, check=False, timeout=PATIENCE
        )

    def end(self):
        """The heap goes, too."""
        if self.process.poll() is None:
            self.control("drop", "--yes")
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
        if self.process.poll() is None:
            self.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # the keeper, if it is left
        self.guard.kill()
        self.guard.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


class HeapTest(unittest.TestCase):
    """Tests with a daemon for the class; each test attaches as it likes."""

    daemon_options = ()

    @classmethod
    def setUpClass(cls):
        cls.daemon = Daemon(*cls.daemon_options).start()
        os.environ["GOALLOC_SOCKET"] = cls.daemon.socket
        cls.addClassCleanup(cls.daemon.end)

    def tearDown(self):
        import goalloc

        if goalloc.is_attached():
            goalloc.detach()

    def run_python(self, text, *arguments, **options):
        """A program in an interpreter of its own; its output. It must succeed, unless expect is another status."""
        expect = options.pop("expect", 0)
        result = subprocess.run(
            [sys.executable, "-X", "faulthandler", "-c", text, *arguments],
            capture_output=True, text=True, timeout=PATIENCE, check=False, **options,
        )
        self.assertEqual(result.returncode, expect, result.stdout + result.stderr)
        return result.stdout


def library():
    """libgoalloc, as ctypes calls it: what a C program would do in this process."""
    result = ctypes.CDLL(os.environ.get("GOALLOC_LIBRARY", "libgoalloc.so.1"))
    result.goalloc_malloc.restype = ctypes.c_void_p
    result.goalloc_usable_size.restype = ctypes.c_size_t
    return result


def root_address(name):
    """Where a root of this process's heap leads to."""
    p = ctypes.c_void_p()
    if library().goalloc_root_get(name.encode(), ctypes.byref(p)) != 0:
        raise KeyError(name)
    return p.value


def _lock(mutex):
    c = ctypes.CDLL(None)
    r = c.pthread_mutex_lock(ctypes.c_void_p(mutex))
    if r == errno.EOWNERDEAD:
        r = c.pthread_mutex_consistent(ctypes.c_void_p(mutex))
    return r == 0


class LockHolder:
    """A process that has the mutexes at these addresses, has called do_it(), and waits until it is killed."""

    def __init__(self, mutexes, do_it=lambda: None):
        read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                has_all = all([_lock(mutex) for mutex in mutexes])
                do_it()
                os.write(write, b"y" if has_all else b"n")
                time.sleep(PATIENCE)
            finally:
                os._exit(0)
        os.close(write)
        said = os.read(read, 1)
        os.close(read)
        if said != b"y":
            self.kill()
            raise RuntimeError("a process could not take locks")

    def stop(self):
        os.kill(self.pid, signal.SIGSTOP)

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


# Of the layout in table.h, and of block.h below.
TABLE_STRIPES = 64
TABLE_STRIPES_AT = TABLE_STRIPE_BYTES = 128


def table_mutexes(root):
    """Addresses of the mutexes of a table in the heap, as goalloc.dict and buffers have."""
    stripes = root_address(root) + TABLE_STRIPES_AT
    return [stripes + i * TABLE_STRIPE_BYTES for i in range(TABLE_STRIPES)]


def age_block_reservations():
    """Children that are being forked hold blocks for a minute; it is over now. Nobody else must be at it."""

    def word(address):
        return ctypes.c_uint64.from_address(address)

    def words_of(block):
        yield from (word(block + 32 + 8 * i) for i in range(8))
        more = word(block + 96).value
        while more:
            yield from (word(more + 8 + 8 * i) for i in range(31))
            more = word(more).value

    for mutex in table_mutexes("goalloc.python.blocks"):
        places = word(mutex + 48).value
        for i in range(word(places + 8).value if places else 0):
            block = word(places + 16 + 16 * i).value
            for one in words_of(block) if block > 1 else ():
                if one.value >> 47 & 1 and not one.value & 0x3FFFFF:
                    one.value = 0


class Box:
    """Datagrams: a message comes whole or not at all, whoever is killed, and who sends to a full one is told."""

    def __init__(self):
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.ours.setblocking(False)
        self.theirs.setblocking(False)

    def send_bytes(self, data):
        self.theirs.send(data)

    def recv_bytes(self):
        return self.ours.recv(65536)

    def close(self):
        self.ours.close()
        self.theirs.close()


def _work(work, number, seed, parent):
    """work(number, chance) again and again; what no death explains ends the process with 3."""
    chance = random.Random(seed)
    try:
        while os.getppid() == parent:
            try:
                work(number, chance)
            except (ConnectionError, TimeoutError):
                time.sleep(0.01)  # no daemon just now
    except BaseException:
        traceback.print_exc()
        os._exit(3)


def storm(test, work, how_long, daemon=None, nworkers=4):
    """Forked workers do work(number, chance) again and again, number being below nworkers, and are killed at random; so
    is the daemon, if it is given. None ends by itself. How many deaths of "workers" and "daemons" there were."""
    context = multiprocessing.get_context("fork")
    chance = random.Random(SEED)
    deaths = collections.Counter()
    workers = {}

    def start(number):
        workers[number] = context.Process(target=_work, args=(work, number, chance.randrange(2**32), os.getpid()))
        workers[number].start()

    until = time.monotonic() + how_long
    next_daemon = time.monotonic() + 0.7
    try:
        for number in range(nworkers):
            start(number)
        while time.monotonic() < until:
            time.sleep(chance.random() * 0.06)
            victim = chance.randrange(nworkers)
            test.assertIsNone(workers[victim].exitcode, f"worker {victim} has ended by itself")
            workers[victim].kill()
            workers[victim].join()
            deaths["workers"] += 1
            start(victim)
            if daemon is not None and time.monotonic() > next_daemon:
                daemon.kill()
                deaths["daemons"] += 1
                daemon.start()
                next_daemon = time.monotonic() + 0.7
        for number, worker in workers.items():
            test.assertIsNone(worker.exitcode, f"worker {number} has ended by itself")
    finally:
        for worker in workers.values():
            worker.kill()
            worker.join()
    print(f"{test.id()}: {dict(deaths)}", flush=True)
    return deaths


def eventually(condition, patience=PATIENCE):
    """True as soon as the condition is; False if it never is."""
    until = time.monotonic() + patience
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def main():
    print(f"seed {SEED} (GOALLOC_TEST_SEED)", flush=True)
    random.seed(SEED)
    unittest.main(verbosity=1)
