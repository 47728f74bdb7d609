"""goalloc.roots: a mapping, a C program's roots, and roots that are replaced while others look."""

import concurrent.futures
import ctypes
import multiprocessing
import os
import random
import threading
import time

import goalloc
import support
from support import HeapTest, eventually, library, main, seconds


def look(stop_name, seed):
    """Look at a root that is replaced all the time: each buffer is whole."""
    chance = random.Random(seed)
    parent = os.getppid()
    try:
        while stop_name not in goalloc.roots and os.getppid() == parent:
            buffer = goalloc.roots.get("replaced")
            if buffer is not None:
                view = memoryview(buffer)
                if len(set(bytes(view))) != 1:
                    os._exit(3)
                view.release()
                if chance.randrange(2):
                    buffer.free()
        os._exit(0)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(4)


def is_whole(buffer):
    """All of it is one byte, again and again."""
    view = memoryview(buffer)
    try:
        return bytes(view) == bytes(view[:1]) * len(view)
    finally:
        view.release()


def set_or_look(number, chance):
    name = f"storm{chance.randrange(4)}"
    what = chance.randrange(6)
    if what < 2:
        with goalloc.alloc(chance.randrange(1, 3000)) as buffer:
            memoryview(buffer)[:] = bytes([chance.randrange(256)]) * buffer.size
            goalloc.roots[name] = buffer
    elif what < 5:
        buffer = goalloc.roots.get(name)
        assert buffer is None or is_whole(buffer), "another one's data"
    else:
        buffer = goalloc.roots.pop(name, None)
        assert buffer is None or is_whole(buffer), "another one's data"


class AsMapping(HeapTest):
    def setUp(self):
        goalloc.attach(group="roots")

    def tearDown(self):
        for name in list(goalloc.roots):
            del goalloc.roots[name]
        super().tearDown()

    def test_set_get_list_remove(self):
        roots = goalloc.roots
        self.assertEqual((list(roots), len(roots), "a" in roots, roots.get("a")), ([], 0, False, None))
        buffer = goalloc.alloc(100)
        roots["a"] = buffer
        roots["b/c \u00e9"] = buffer
        self.assertEqual(sorted(roots), ["a", "b/c \u00e9"])
        self.assertEqual(roots.names("b"), ["b/c \u00e9"])
        self.assertEqual((roots["a"].address, roots["a"].size), (buffer.address, 100))
        buffer.free()
        memoryview(roots["a"])[:1] = b"x"
        self.assertEqual(bytes(memoryview(roots.pop("b/c \u00e9"))[:1]), b"x")
        del roots["a"]
        for name in ("a", "never"):
            with self.assertRaises(KeyError):
                roots[name]
            with self.assertRaises(KeyError):
                del roots[name]
        self.assertIn("roots", repr(roots))

    def test_a_root_outlives_its_process_and_is_freed_when_it_is_removed(self):
        goalloc.collect()
        before = goalloc.stats()["live_objects"]
        self.run_python("import goalloc\nb = goalloc.alloc(50)\nmemoryview(b)[:2] = b'hi'\ngoalloc.roots['left'] = b")
        self.assertEqual(bytes(memoryview(goalloc.roots["left"])[:2]), b"hi")
        del goalloc.roots["left"]
        self.assertTrue(eventually(lambda: goalloc.stats()["live_objects"] <= before + 66))

    def test_replacing_frees_what_was_there(self):
        for i in range(300):
            buffer = goalloc.alloc(30)
            goalloc.roots["again"] = buffer
            buffer.free()
            if i == 100:
                before = goalloc.stats()["live_objects"]
        self.assertLess(goalloc.stats()["live_objects"], before + 66)

    def test_bad_input_is_refused(self):
        buffer = goalloc.alloc(10)
        for name in ("", "a\0b", "x" * 256, "\udc80"):
            with self.assertRaises(ValueError, msg=repr(name)):
                goalloc.roots[name] = buffer
        for name in (b"bytes", 5, None):
            with self.assertRaises(TypeError):
                goalloc.roots[name] = buffer
        for value in (b"bytes", None, bytearray(5), memoryview(b"view")):
            with self.assertRaises(TypeError):
                goalloc.roots["r"] = value
        buffer.free()
        with self.assertRaises(ValueError):
            goalloc.roots["r"] = buffer
        with self.assertRaises(TypeError):
            goalloc.roots.clear()
        self.assertEqual(list(goalloc.roots), [])

    def test_wait_for_a_root(self):
        with self.assertRaises(TimeoutError):
            goalloc.roots.wait("later", 0.1)
        threading.Timer(0.2, lambda: goalloc.roots.__setitem__("later", goalloc.alloc(7))).start()
        self.assertEqual(goalloc.roots.wait("later", 30).size, 7)

    def test_a_root_of_another_program_is_borrowed(self):
        text = "import ctypes\nc = ctypes.CDLL('libgoalloc.so.1')\nc.goalloc_malloc.restype = ctypes.c_void_p\n" \
               "p = c.goalloc_malloc(40)\nctypes.memset(p, 65, 40)\n" \
               "assert c.goalloc_root_set(b'of c', ctypes.c_void_p(p)) == 0"
        library = os.environ.get("GOALLOC_LIBRARY")
        environment = dict(os.environ, LD_LIBRARY_PATH=os.path.dirname(library)) if library else None
        self.run_python(text, env=environment)
        buffer = goalloc.roots["of c"]
        self.assertGreaterEqual(buffer.size, 40)
        self.assertEqual(bytes(memoryview(buffer)[:40]), b"A" * 40)
        with self.assertRaises(ValueError):
            buffer.handle()
        goalloc.roots["second name"] = buffer
        del goalloc.roots["of c"]
        self.assertEqual(goalloc.roots["second name"].address, buffer.address)

    def test_the_size_of_a_root_of_another_program_is_that_of_its_memory(self):
        """Two objects take turns under one name; each has its own size, whenever one looks."""
        own = library()
        sizes = {own.goalloc_malloc(size): size for size in (16, 20000)}
        big, small = max(sizes, key=sizes.get), min(sizes, key=sizes.get)
        fits = {p: own.goalloc_usable_size(ctypes.c_void_p(p)) for p in sizes}
        stop = threading.Event()

        def turn():
            while not stop.is_set():
                for p in (big, small):
                    own.goalloc_root_set(b"turns", ctypes.c_void_p(p))
                    time.sleep(random.random() * 0.0002)

        thread = threading.Thread(target=turn)
        thread.start()
        try:
            until = time.monotonic() + seconds(1)
            while time.monotonic() < until:
                buffer = goalloc.roots.get("turns")
                if buffer is not None:
                    self.assertEqual(buffer.size, fits[buffer.address])
        finally:
            stop.set()
            thread.join()
        del goalloc.roots["turns"]
        for p in sizes:
            own.goalloc_free(ctypes.c_void_p(p))

    def test_of_many_who_pop_or_set_one_root_one_does(self):
        for _ in range(20):
            goalloc.roots["once"] = goalloc.alloc(8)
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                popped = list(pool.map(lambda _: goalloc.roots.pop("once", None), range(4)))
                mine = [goalloc.alloc(8) for _ in range(4)]
                there = list(pool.map(lambda one: goalloc.roots.setdefault("once", one).address, mine))
            self.assertEqual(popped.count(None), 3)
            self.assertEqual({goalloc.roots["once"].address}, set(there))
            self.assertIn(there[0], [one.address for one in mine])
        self.assertEqual(goalloc.roots.popitem()[0], "once")
        with self.assertRaises(KeyError):
            goalloc.roots.popitem()
        with self.assertRaises(KeyError):
            goalloc.roots.pop("once")
        with self.assertRaises(TypeError):
            goalloc.roots.setdefault("once")
        self.assertEqual((goalloc.roots.pop("once", 5), goalloc.roots.setdefault("once", mine[0])), (5, mine[0]))

    def test_looking_while_it_is_replaced_and_lookers_are_killed(self):
        context = multiprocessing.get_context("fork")
        workers = [context.Process(target=look, args=("stop", random.randrange(2**32))) for _ in range(3)]
        for worker in workers:
            worker.start()
        until = time.monotonic() + seconds(2)
        i = 0
        while time.monotonic() < until:
            i += 1
            buffer = goalloc.alloc(random.randrange(1, 3000))
            memoryview(buffer)[:] = bytes([i % 255]) * buffer.size
            goalloc.roots["replaced"] = buffer
            buffer.free()
            scribble = goalloc.alloc(3000)
            memoryview(scribble)[:] = bytes(range(250)) * 12
            scribble.free()
            if i % 50 == 0:
                victim = random.randrange(3)
                self.assertIsNone(workers[victim].exitcode)
                workers[victim].kill()
                workers[victim].join()
                workers[victim] = context.Process(target=look, args=("stop", random.randrange(2**32)))
                workers[victim].start()
        goalloc.roots["stop"] = goalloc.alloc(1)
        for worker in workers:
            worker.join(30)
            self.assertEqual(worker.exitcode, 0)


class Kills(HeapTest):
    def test_roots_are_set_and_removed_by_processes_that_are_killed(self):
        goalloc.attach()  # without a group: what the dead have not shared goes with them
        goalloc.collect()
        before = goalloc.stats()["live_objects"]
        deaths = support.storm(self, set_or_look, seconds(2), self.daemon)
        self.assertGreater(deaths["daemons"], 0)
        for name in goalloc.roots.names("storm"):
            self.assertTrue(is_whole(goalloc.roots.pop(name)))
        goalloc.collect()
        # Each kill leaves one block that nobody names, at most, and the table of blocks an array a stripe.
        self.assertTrue(eventually(lambda: goalloc.stats()["live_objects"] <= before + 66 + deaths["workers"], 10),
                        f"{before} objects before, {goalloc.stats()['live_objects']} after {deaths}")


if __name__ == "__main__":
    main()
