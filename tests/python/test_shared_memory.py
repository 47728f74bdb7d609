"""goalloc.SharedMemory: the standard library's own tests of multiprocessing.shared_memory, and what it adds.

CPython's tests (Debian: libpython3.11-testsuite) run with goalloc.shared_memory in the place of the module that they
test, by fork and by spawn. Those of the standard library's that don't apply are left out by name, with the reason.
"""

import multiprocessing
import multiprocessing.managers
import os
import signal
import sys
import unittest

import goalloc
import goalloc.shared_memory
import support
from support import HeapTest, eventually, main, seconds

# Before CPython's tests are imported, and in spawned children as well.
sys.modules["multiprocessing.shared_memory"] = goalloc.shared_memory
multiprocessing.shared_memory = goalloc.shared_memory
multiprocessing.managers.shared_memory = goalloc.shared_memory

try:
    import test._test_multiprocessing as cpython

    cpython.shared_memory = goalloc.shared_memory
except ImportError:
    cpython = None

DOES_NOT_APPLY = {
    "test_shared_memory_cleaned_after_process_termination":
        "a segment lives until it is unlinked; it is not removed because the process that made it has ended",
    "test_shared_memory_SharedMemoryManager_reuses_resource_tracker":
        "it is about the resource tracker, which there is none of",
}


def add_cpythons_tests(method):
    if cpython is None:
        return

    class CPython(cpython._TestSharedMemory, HeapTest):
        Process = staticmethod(multiprocessing.get_context(method).Process)
        TYPE = "processes"

        @classmethod
        def setUpClass(cls):
            super().setUpClass()
            cls.former = multiprocessing.get_start_method(allow_none=True)
            multiprocessing.set_start_method(method, force=True)
            goalloc.attach()

        @classmethod
        def tearDownClass(cls):
            multiprocessing.set_start_method(cls.former, force=True)
            import gc

            gc.collect()
            goalloc.detach()

        def tearDown(self):
            pass

    for name, reason in DOES_NOT_APPLY.items():
        if not hasattr(CPython, name):
            raise AttributeError(f"{name}: CPython has no such test any more")
        setattr(CPython, name, unittest.skip(reason)(getattr(CPython, name)))
    CPython.__name__ = CPython.__qualname__ = f"CPython_{method}"
    globals()[CPython.__name__] = CPython


def write_and_die(name):
    shm = goalloc.SharedMemory(name)
    shm.buf[:5] = b"alive"
    os.kill(os.getpid(), signal.SIGKILL)


kept = []  # of a worker


def churn(number, chance):
    """Make, open, unlink, close, by a few names. What has been written is all that is there."""
    name = f"churn{chance.randrange(5)}"
    what = chance.randrange(5)
    try:
        if what == 0:
            kept.append(goalloc.SharedMemory(name, create=True, size=chance.randrange(1, 5000)))
            kept[-1].buf[:] = b"\77" * kept[-1].size
        elif what == 1:
            goalloc.SharedMemory(name).unlink()
        elif what == 2:
            kept.append(goalloc.SharedMemory(name))
        elif what == 3 and kept:
            kept.pop(chance.randrange(len(kept))).close()
        elif kept:
            one = bytes(chance.choice(kept).buf)
            assert set(one) <= {0, 0o77}, "another one's data"
    except (FileExistsError, FileNotFoundError):
        pass


class Names(HeapTest):
    def setUp(self):
        goalloc.attach(group="names")

    def test_unlink_takes_the_name_and_leaves_the_memory(self):
        one = goalloc.SharedMemory("same", create=True, size=10)
        one.buf[:] = b"0123456789"
        one.unlink()
        other = goalloc.SharedMemory("same", create=True, size=20)
        self.assertEqual((bytes(one.buf), bytes(other.buf)), (b"0123456789", bytes(20)))
        one.close()
        other.unlink()
        other.close()
        other.close()
        with self.assertRaises(FileNotFoundError):
            goalloc.SharedMemory("same")

    def test_it_outlives_its_processes_until_it_is_unlinked(self):
        self.run_python("import goalloc\n"
                        "s = goalloc.SharedMemory('outlives', create=True, size=5)\ns.buf[:] = b'hello'")
        self.run_python("import goalloc\ns = goalloc.SharedMemory('outlives')\n"
                        "assert bytes(s.buf) == b'hello'\ns.unlink()")
        with self.assertRaises(FileNotFoundError):
            goalloc.SharedMemory("outlives")

    def test_a_killed_process_holds_nothing(self):
        goalloc.collect()
        before = goalloc.stats()["live_objects"]
        for i in range(10):
            shm = goalloc.SharedMemory(create=True, size=100_000)
            worker = multiprocessing.get_context("fork").Process(target=write_and_die, args=(shm.name,))
            worker.start()
            worker.join()
            self.assertEqual((worker.exitcode, bytes(shm.buf[:5])), (-signal.SIGKILL, b"alive"))
            shm.unlink()
            shm.close()
        goalloc.collect()
        self.assertLess(goalloc.stats()["live_objects"], before + 70)

    def test_bad_names_and_sizes_are_refused(self):
        for name in ("", "/", "a\0b", "x" * 256, "\u00e9" * 200):
            with self.assertRaises(ValueError, msg=name):
                goalloc.SharedMemory(name, create=True, size=1)
        for wrong in (b"bytes", 5, 1.5):
            with self.assertRaises((TypeError, AttributeError)):
                goalloc.SharedMemory(wrong)
        with self.assertRaises(TypeError):
            goalloc.SharedMemory("x", create=True, size="1")
        with self.assertRaises(MemoryError):
            goalloc.SharedMemory("x", create=True, size=1 << 60)
        self.assertEqual(goalloc.SharedMemory("/slash", create=True, size=1).name, "slash")
        goalloc.SharedMemory("slash").unlink()

    def test_close_with_a_view_in_use_is_refused(self):
        shm = goalloc.SharedMemory(create=True, size=10)
        view = shm.buf[2:]
        with self.assertRaises(BufferError):
            shm.close()
        view.release()
        shm.close()
        shm.unlink()

    def test_names_are_made_and_unlinked_by_processes_that_are_killed(self):
        support.storm(self, churn, seconds(2), self.daemon, nworkers=3)
        self.assertTrue(eventually(goalloc.is_current))
        for i in range(5):
            name = f"churn{i}"
            try:
                goalloc.SharedMemory(name).unlink()
            except FileNotFoundError:
                pass
            shm = goalloc.SharedMemory(name, create=True, size=9)
            self.assertEqual(shm.size, 9)
            shm.unlink()
            shm.close()
        goalloc.collect()
        # Nothing is left but the tables' arrays: each stripe of three tables has one at most.
        self.assertTrue(eventually(lambda: goalloc.stats()["live_objects"] < 200), goalloc.stats()["live_objects"])


for start_method in ("fork", "spawn"):
    add_cpythons_tests(start_method)

if __name__ == "__main__":
    main()
