"""What the tests of NumPy arrays share: tests that leave nothing in the heap. Without NumPy, who imports it is skipped."""

import gc
import os
import sys

import support

try:
    import numpy  # noqa: F401
except ImportError:
    print("skipped: no NumPy (Debian: python3-numpy)")
    sys.exit(77)

import goalloc


def live():
    gc.collect()
    return goalloc.stats()["live_objects"]


class ArraysTest(support.HeapTest):
    """Attached; at the end everything that the test has made in the heap is gone."""

    collects = False  # what is left of processes that were killed

    def setUp(self):
        goalloc.attach()
        goalloc.roots["warm"] = goalloc.alloc(1)
        del goalloc.roots["warm"]
        many = [goalloc.shared_empty(1) for _ in range(64)]  # the tables grow now, and not in the middle of a test
        del many
        self.before = live()
        self.addCleanup(goalloc.detach)
        self.addCleanup(self.nothing_is_left)

    def tearDown(self):
        pass

    def nothing_is_left(self):
        def is_clean():
            if self.collects:
                goalloc.collect()
            return live() == self.before

        support.eventually(is_clean, 10)
        self.assertEqual(live(), self.before)

    def in_child(self, function):
        """A child by os.fork() that ends by os._exit(): 0 if the function says so. Its pid."""
        pid = os.fork()
        if pid == 0:
            try:
                os._exit(0 if function() else 1)
            finally:
                os._exit(2)
        return pid

    def assert_child(self, pid):
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)
