"""NumPy arrays in the shared heap: what is made there, names, damaged descriptions, messages, and who frees what."""

import asyncio
import copy
import ctypes
import gc
import os
import pickle
import random
import struct
import sys
import threading

import support
from support_arrays import ArraysTest, live  # first: without NumPy the program ends there

import numpy as np

import goalloc

LIBRARY = os.environ.get("GOALLOC_LIBRARY", "libgoalloc.so.1")

# Of the layout in _numpy_names.c: the description of a published array.
META = struct.Struct("=QQQqIIII")
META_MAGIC = 0x676F617272617931


class Allocation(ArraysTest):
    def test_arrays_of_all_sizes_lie_in_the_heap_aligned(self):
        with goalloc.arrays():
            for size in [0, 1, 7, 8, 15, 16, 24, 100, 1023, 1024, 4096, 32703, 32704, 32768, 40000, 1 << 20, 5 << 20]:
                a = np.empty(size, np.uint8)
                self.assertTrue(goalloc.in_heap(a), size)
                self.assertEqual(a.ctypes.data % (64 if size >= 1024 else 16), 0, size)
                a[:] = size % 251
                z = np.zeros(size, np.uint8)
                self.assertTrue(goalloc.in_heap(z))
                self.assertFalse(z.any(), size)
                self.assertTrue((a == size % 251).all())
        self.assertFalse(goalloc.in_heap(np.zeros(100)))

    def test_resized_arrays_keep_what_they_hold(self):
        chance = random.Random(support.SEED)
        with goalloc.arrays():
            a = np.zeros(1, np.int64)
        wanted = np.zeros(1, np.int64)  # resized outside, too: an array keeps its allocator
        for _ in range(300):
            n = chance.choice([chance.randrange(1, 300), chance.randrange(1, 10000), chance.randrange(1, 400000)])
            a.resize(n, refcheck=False)
            wanted.resize(n, refcheck=False)
            self.assertTrue(goalloc.in_heap(a))
            self.assertTrue((a == wanted).all())
            a[-1] = wanted[-1] = chance.randrange(1 << 40)

    def test_contexts_nest_and_are_of_one_thread(self):
        seen = []
        with goalloc.arrays() as context:
            with context:
                self.assertTrue(goalloc.in_heap(np.ones(10)))
            self.assertTrue(goalloc.in_heap(np.ones(10)))
            thread = threading.Thread(target=lambda: seen.append(goalloc.in_heap(np.ones(10))))
            thread.start()
            thread.join()
        self.assertEqual(seen, [False])
        self.assertFalse(goalloc.in_heap(np.ones(10)))
        with self.assertRaises(KeyError), goalloc.arrays():
            raise KeyError
        self.assertFalse(goalloc.in_heap(np.ones(10)))

    def test_a_task_of_asyncio_has_a_context_of_its_own(self):
        async def inside(event):
            with goalloc.arrays():
                await event.wait()
                return goalloc.in_heap(np.ones(10))

        async def outside(event):
            result = goalloc.in_heap(np.ones(10))
            event.set()
            return result

        async def both():
            event = asyncio.Event()
            return await asyncio.gather(inside(event), outside(event))

        self.assertEqual(asyncio.run(both()), [True, False])

    def test_objects_in_such_an_array_are_counted_as_ever(self):
        with goalloc.arrays():
            a = np.array([object(), object()], dtype=object)
        self.assertTrue(goalloc.in_heap(a))
        count = sys.getrefcount(a[0])
        b = a.copy()
        self.assertEqual(sys.getrefcount(a[0]), count + 1)
        del b

    def test_a_detach_is_refused_while_an_array_is_there(self):
        with goalloc.arrays():
            a = np.ones(10)
        with self.assertRaises(BufferError):
            goalloc.detach()
        self.assertEqual(a.sum(), 10)
        s = goalloc.share(a)
        del a
        with self.assertRaises(BufferError):
            goalloc.detach()
        del s

    def test_the_collector_of_a_forked_child_frees_nothing_of_its_parent(self):
        with goalloc.arrays():
            mine = [np.full(n, n) for n in (3, 500, 50000)]
            mine[0].resize(4, refcheck=False)
            circle = [np.full(70000, 5)]
            circle.append(circle)
        before = live()
        pid = os.fork()
        if pid == 0:
            try:
                mine[1].resize(600, refcheck=False)  # moves to memory of the child's
                good = mine[1][499] == 500 and goalloc.in_heap(mine[1])
                circle = None
                mine = None
                gc.collect()
                with goalloc.arrays():
                    own = [np.full(n, 1) for n in (3, 500, 50000, 70000) * 50]
                own = None
                os._exit(0 if good else 1)
            finally:
                os._exit(2)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0)
        self.assertTrue(support.eventually(lambda: live() == before, 10))
        for a, n in zip(mine, (3, 500, 50000)):
            self.assertTrue((a[:3] == n).all())
        self.assertTrue((circle[0] == 5).all())
        with goalloc.arrays():  # nothing of it was given to somebody else
            others = [np.zeros(n, int) for n in (3, 4, 500, 600, 50000, 70000) * 20]
        self.assertTrue((mine[1] == 500).all() and (circle[0] == 5).all())
        del others, circle[:]


class Sharing(ArraysTest):
    def test_after_the_first_use_its_names_are_the_package_s_own(self):
        """Module-level __getattr__ costs more than the whole of share() otherwise."""
        self.assertFalse(goalloc.is_shared(1))
        self.assertEqual([name for name in goalloc._ARRAYS if name not in vars(goalloc)], [])

    def arrays(self):
        yield np.arange(12.0)
        yield np.arange(24, dtype=np.int8).reshape(2, 3, 4)
        yield np.asfortranarray(np.arange(12.0).reshape(3, 4))
        yield np.float32(7) * np.ones(())
        yield np.empty((3, 0, 2), np.uint16)
        yield np.arange(100)[::-7]
        yield np.array(["2026-01-01", "NaT"], dtype="M8[us]")
        yield np.array([b"abc", b""])
        yield np.array(["Ä", "öü"])
        yield np.array([(1, 2.5, [1, 2])], dtype=[("a", ">i4"), ("b", "f8"), ("c", "u1", (2,))])
        yield np.arange(5, dtype=">f8")
        yield np.ones((1,) * 32)
        yield np.array([True, False])
        yield np.array([1 + 2j])
        yield np.arange(200000).reshape(400, 500)[3:77:3, ::-9]

    def test_a_shared_array_equals_what_it_was_made_of(self):
        for a in self.arrays():
            s = goalloc.share(a)
            self.assertIs(type(s), goalloc.SharedArray)
            self.assertTrue(goalloc.is_shared(s) and goalloc.in_heap(s) and not goalloc.is_shared(a))
            self.assertEqual((s.dtype, s.shape), (a.dtype, a.shape))
            np.testing.assert_array_equal(s, a)
            self.assertEqual(s.ctypes.data % 64, 0)
            self.assertTrue(s.flags.writeable)
            self.assertIs(goalloc.share(s), s)

    def test_a_message_carries_no_data(self):
        for a in self.arrays():
            s = goalloc.share(a)
            message = pickle.dumps(s)
            self.assertLess(len(message), 1200)
            r = pickle.loads(message)
            np.testing.assert_array_equal(r, a)
            self.assertEqual((r.dtype, r.shape, r.strides), (s.dtype, s.shape, s.strides))
            if s.size:
                self.assertTrue(np.shares_memory(r, s))

    def test_views_go_as_views(self):
        s = goalloc.share(np.arange(100).reshape(10, 10))
        for view in (s[2:5], s[:, ::-2], s.T, s[3], s[9:0:-3, 1], s[5:5], s.reshape(100)[7:], s.view(np.uint8)):
            r = pickle.loads(pickle.dumps(view))
            np.testing.assert_array_equal(r, view)
            self.assertEqual(r.strides, view.strides)
        r = pickle.loads(pickle.dumps(s[2:5]))
        r[0, 0] = -1
        self.assertEqual(s[2, 0], -1)
        v = s[1:]
        v.flags.writeable = False
        self.assertFalse(pickle.loads(pickle.dumps(v)).flags.writeable)

    def test_what_is_computed_is_private(self):
        s = goalloc.share(np.arange(4.0))
        for made in (s + 1, np.sqrt(s), s.copy() + 0, copy.copy(s), copy.deepcopy(s), np.array(s)):
            self.assertFalse(goalloc.in_heap(made))
            self.assertFalse(goalloc.is_shared(made))
        self.assertIs(type(s + 1), np.ndarray)
        self.assertIs(type(s.sum()), np.float64)
        s += 1
        self.assertIs(type(s), goalloc.SharedArray)
        np.testing.assert_array_equal(s, [1, 2, 3, 4])
        private = pickle.loads(pickle.dumps(s[[0, 2]]))
        self.assertFalse(goalloc.in_heap(private))
        np.testing.assert_array_equal(private, [1, 3])

    def test_shared_empty_has_shape_dtype_and_order(self):
        a = goalloc.shared_empty((3, 4), "i2", "F")
        self.assertEqual((a.shape, a.dtype, a.flags.f_contiguous), ((3, 4), np.dtype("i2"), True))
        self.assertEqual(goalloc.shared_empty(5).dtype, float)
        for bad in ((-1,), (1 << 62, 8), (1 << 31, 1 << 31, 1 << 31)):
            with self.assertRaises((ValueError, MemoryError)):
                goalloc.shared_empty(bad)
        with self.assertRaises(ValueError):
            goalloc.shared_empty(3, order="K")
        with self.assertRaises((MemoryError, OSError)):
            goalloc.shared_empty(1 << 40)

    def test_objects_are_refused(self):
        for a in (np.array([object()]), np.zeros(2, [("a", "O"), ("b", "i4")])):
            with self.assertRaises(TypeError):
                goalloc.share(a)
            with self.assertRaises(TypeError):
                goalloc.publish("objects", a)
            with self.assertRaises(TypeError):
                goalloc.shared_empty(3, a.dtype)

    def test_a_message_serves_once_more_while_the_array_lives(self):
        s = goalloc.share(np.arange(3))
        message = pickle.dumps(s)
        a, b = pickle.loads(message), pickle.loads(message)
        np.testing.assert_array_equal(a, b)
        del s, a, b
        with self.assertRaises(ReferenceError):
            pickle.loads(message)
        others = [goalloc.share(np.zeros(3)) for _ in range(200)]  # the entry is used again, by another array
        with self.assertRaises(ReferenceError):
            pickle.loads(message)
        del others

    def test_many_messages_of_one_array(self):
        s = goalloc.share(np.arange(3))
        messages = [pickle.dumps(s) for _ in range(500)]
        del s
        random.shuffle(messages)
        first = pickle.loads(messages.pop())
        for message in messages:
            self.assertEqual(pickle.loads(message)[2], 2)
        self.assertEqual(first[1], 1)

    def test_messages_that_say_what_cannot_be(self):
        s = goalloc.share(np.arange(16.0))
        function, arguments = s.__reduce_ex__(4)
        function(*arguments)
        ticket, index, generation, nonce, offset, shape, strides, dtype, writable = arguments

        def receive(**changed):
            values = {"offset": offset, "shape": shape, "strides": strides, "dtype": dtype, "index": index,
                      "generation": generation, **changed}
            return function(ticket, values["index"], values["generation"], nonce, values["offset"], values["shape"],
                            values["strides"], values["dtype"], writable)

        for changed in ({"offset": 8}, {"offset": -8}, {"shape": (17,)}, {"shape": (-1,)}, {"strides": (16,)},
                        {"strides": (-8,)}, {"shape": (2, 9)}, {"shape": (1 << 62, 1 << 62)}, {"strides": (8, 8)},
                        {"shape": (1,) * 40}, {"dtype": -1}, {"dtype": 999}, {"shape": (2,), "strides": (1 << 62,)},
                        {"offset": (1 << 63) - 1}, {"shape": (0,), "offset": 1 << 40}):
            with self.subTest(changed), self.assertRaises(ValueError):
                receive(**changed)
        with self.assertRaises(TypeError):
            receive(dtype=17)  # objects
        for changed in ({"index": 1 << 60}, {"index": index + 32 * 100}, {"generation": generation + 1}):
            with self.subTest(changed), self.assertRaises(ReferenceError):
                receive(**changed)
        np.testing.assert_array_equal(receive(), s)


class Names(ArraysTest):
    def test_published_arrays_are_opened_by_name(self):
        for a in Sharing.arrays(self):
            p = goalloc.publish("name", a)
            o = goalloc.open("name")
            self.assertFalse(o.flags.writeable)
            self.assertEqual((o.dtype, o.shape), (a.dtype, a.shape))
            np.testing.assert_array_equal(o, a)
            del p, o
            np.testing.assert_array_equal(goalloc.open("name"), a)
            goalloc.unlink("name")

    def test_a_writable_view_is_asked_for(self):
        goalloc.publish("name", np.zeros(3))
        goalloc.open("name", writable=True)[1] = 5
        reader = goalloc.open("name")
        np.testing.assert_array_equal(reader, [0, 5, 0])
        with self.assertRaises(ValueError):
            reader[0] = 1
        goalloc.unlink("name")
        self.assertEqual(reader[1], 5)  # who has it keeps it

    def test_names_that_are_taken_gone_or_bad(self):
        p = goalloc.publish("name", np.zeros(3))
        with self.assertRaises(FileExistsError):
            goalloc.publish("name", np.ones(4))
        self.assertEqual(len(goalloc.open("name")), 3)
        goalloc.unlink("name")
        for function in (goalloc.open, goalloc.unlink):
            with self.assertRaises(FileNotFoundError):
                function("name")
        for bad in ("", "x" * 256, "a\0b"):
            with self.assertRaises(ValueError):
                goalloc.publish(bad, p)

    def test_two_names_are_two_arrays(self):
        a = goalloc.publish("one", np.zeros(3))
        b = goalloc.publish("two", a)
        self.assertFalse(np.shares_memory(a, b))
        goalloc.unlink("one")
        self.assertIs(goalloc.publish("one", a), a)
        goalloc.unlink("one")
        goalloc.unlink("two")

    def test_a_name_that_was_removed_otherwise_is_collected(self):
        goalloc.publish("name", np.zeros(3))
        del goalloc.roots["name"]
        self.assertEqual(goalloc.collect_arrays()[1:], (1, 1))

    def scribble(self, name):
        """The address of the description, and how long it is."""
        library = ctypes.CDLL(LIBRARY)
        p = ctypes.c_void_p()
        self.assertEqual(library.goalloc_root_get(name.encode(), ctypes.byref(p)), 0)
        meta = ctypes.c_void_p.from_address(p.value + 16).value
        return meta, META.unpack_from(ctypes.string_at(meta, META.size))[2]

    def test_a_description_with_any_byte_changed_is_an_error(self):
        chance = random.Random(support.SEED)
        keep = goalloc.publish("name", np.zeros((3, 4), [("a", "i4"), ("b", "f8")]))
        meta, size = self.scribble("name")
        whole = ctypes.string_at(meta, size)
        for at in range(size - len("name")):
            if 44 <= at < 48:
                continue  # what fills up means nothing, but for the checksum
            changed = bytearray(whole)
            changed[at] ^= chance.randrange(1, 256)
            ctypes.memmove(meta, bytes(changed), size)
            with self.subTest(at), self.assertRaises(ValueError):
                goalloc.open("name")
        for _ in range(300):
            ctypes.memmove(meta, chance.randbytes(size), size)
            with self.assertRaises(ValueError):
                goalloc.open("name")
        ctypes.memmove(meta, whole, size)
        np.testing.assert_array_equal(goalloc.open("name"), keep)
        goalloc.unlink("name")

    def forge(self, meta, room, text=b"'<f8'", shape=(8,), strides=(8,), offset=0, ndim=None, name=b"name"):
        """A description with a right checksum."""
        numbers = struct.pack(f"={len(shape) + len(strides)}q", *shape, *strides)
        n = len(shape) if ndim is None else ndim
        rest = struct.pack("=QqIIII", META.size + len(numbers) + len(text) + len(name), offset, n, len(text),
                           len(name), 0) + numbers + text + name
        check = 14695981039346656037
        for byte in rest:
            check = (check ^ byte) * 1099511628211 % 2**64
        data = struct.pack("=QQ", META_MAGIC, check) + rest
        self.assertLessEqual(len(data), room)
        ctypes.memmove(meta, data, len(data))

    def test_a_description_that_lies_is_an_error(self):
        keep = goalloc.publish("name", np.zeros(8, [("a" * 200, "f8")]))
        meta, size = self.scribble("name")
        whole = ctypes.string_at(meta, size)
        self.forge(meta, size)
        self.assertEqual(goalloc.open("name").shape, (8,))
        for lie in ({"shape": (9,)}, {"shape": (-1,)}, {"strides": (16,)}, {"offset": 8}, {"offset": -8},
                    {"offset": 1 << 62}, {"shape": (1 << 61,), "strides": (1 << 60,)}, {"ndim": 2}, {"ndim": 33},
                    {"ndim": 1 << 31}, {"text": b"'nonsense'"}, {"text": b"__import__('os')"}, {"text": b"(" * 150},
                    {"text": b"\xff\0"}, {"text": b""}, {"text": b"'V0'", "shape": (1 << 50,)},
                    {"text": b"'<U99999999'"},
                    {"text": b"[('a', '<f8'), ('a', '<f8')]"}, {"text": b"[]", "shape": (1 << 62,)},
                    {"shape": (0, 1 << 62), "strides": (8, 8), "offset": -1}):
            self.forge(meta, size, **lie)
            with self.subTest(lie):
                try:
                    lied = goalloc.open("name")
                except ValueError:
                    continue
                self.assertEqual(lied.nbytes, 0, "more than nothing was believed")
        for objects in (b"'|O'", b"[('a', 'O')]"):
            self.forge(meta, size, objects)
            with self.assertRaises((ValueError, TypeError)):
                goalloc.open("name")
        # That of another name: the root is taken for one that is left over.
        self.forge(meta, size, name=b"nama")
        with self.assertRaises(FileNotFoundError):
            goalloc.open("name")
        ctypes.memmove(meta, whole, size)
        self.assertEqual(goalloc.collect_arrays()[1:], (1, 0))
        goalloc.publish("name", keep)
        goalloc.unlink("name")
        del keep


class Attachment(support.HeapTest):
    def test_a_read_only_process_cannot_hold_arrays(self):
        goalloc.attach()
        goalloc.publish("name", np.zeros(3))
        goalloc.detach()
        goalloc.attach(readonly=True)
        for call in (lambda: goalloc.open("name"), lambda: goalloc.share(np.zeros(3))):
            with self.assertRaises(PermissionError):
                call()
        with goalloc.arrays(), self.assertRaises(MemoryError):
            np.zeros(100)
        goalloc.detach()
        goalloc.attach()
        goalloc.unlink("name")

    def test_roots_that_are_no_arrays(self):
        goalloc.attach()
        goalloc.roots["buffer"] = goalloc.alloc(100)
        for function in (goalloc.open, goalloc.unlink):
            with self.assertRaises(ValueError):
                function("buffer")
        with self.assertRaises(FileExistsError):
            goalloc.publish("buffer", np.zeros(3))
        self.assertEqual(len(goalloc.roots["buffer"]), 100)
        del goalloc.roots["buffer"]
        gc.collect()

    def test_arrays_after_another_attach(self):
        for _ in range(3):
            goalloc.attach()
            s = goalloc.share(np.arange(5))
            np.testing.assert_array_equal(pickle.loads(pickle.dumps(s)), np.arange(5))
            del s
            goalloc.detach()

    def test_memory_that_is_short_is_an_error_and_nothing_is_lost(self):
        goalloc.attach(limit=64 << 20)
        kept = []
        with self.assertRaises(MemoryError):
            for _ in range(100):
                kept.append(goalloc.share(np.full(1 << 20, len(kept), float)))
        self.assertGreater(len(kept), 3)
        for i, a in enumerate(kept):
            self.assertTrue((a == i).all())
        with goalloc.arrays(), self.assertRaises(MemoryError):
            np.zeros(1 << 28)
        del a
        kept.pop()
        kept.append(goalloc.share(np.zeros(1 << 20)))
        del kept


class DroppedHeap(support.HeapTest):
    def test_arrays_of_a_heap_that_was_dropped(self):
        goalloc.attach()
        kept = goalloc.publish("name", np.arange(1000))
        with goalloc.arrays():
            made = np.ones(5000)
        message = pickle.dumps(kept)
        self.assertEqual(self.daemon.control("drop", "--yes").returncode, 0)
        self.daemon.process.wait(support.PATIENCE)
        self.assertTrue(support.eventually(lambda: not goalloc.is_current(), 10))
        self.assertEqual((kept.sum(), made.sum()), (499500, 5000))  # it can still be read
        for call in (lambda: goalloc.open("name"), lambda: goalloc.share(np.ones(1 << 24)), goalloc.collect_arrays):
            with self.assertRaises((OSError, MemoryError)):
                call()
        self.daemon.start()
        with self.assertRaises(BufferError):
            goalloc.detach()
        del kept, made
        gc.collect()
        goalloc.detach()
        goalloc.attach(wait=True)
        with self.assertRaises(FileNotFoundError):
            goalloc.open("name")
        with self.assertRaises(goalloc.HeapGoneError):
            pickle.loads(message)
        new = goalloc.publish("name", np.arange(10))
        self.assertEqual(pickle.loads(pickle.dumps(new)).sum(), 45)
        goalloc.unlink("name")
        del new


if __name__ == "__main__":
    support.main()
