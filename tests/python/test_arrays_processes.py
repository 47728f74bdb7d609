"""NumPy arrays between processes: multiprocessing, concurrent.futures, joblib, forks, and processes that are killed."""

import concurrent.futures
import contextlib
import ctypes
import gc
import multiprocessing
import os
import pickle
import random
import signal
import threading
import time

import support
from support_arrays import ArraysTest, live  # first: without NumPy the program ends there

import numpy as np

import goalloc

METHODS = ("fork", "spawn")


# Of the layout in _numpy_entries.h.
HOLDERS = 4096
HOLDER_BYTES = 48
HOLDERS_AT = 48
RESERVED = 1
RESERVED_AT = 40
STRIPES = 32
STRIPES_AT = HOLDERS_AT + HOLDERS * HOLDER_BYTES
STRIPE_BYTES = 40 + 8 + 8 + 512 * 8
SLABS_AT = 56
ENTRY_BYTES = 64
SLOTS_AT = 32
NAMING = 3 << 56 | HOLDERS - 1
NAMED = 4 << 56


def word(address):
    return ctypes.c_uint64.from_address(address)


def directory():
    return support.root_address("goalloc.arrays")


def stripe_and_entry(array):
    """Addresses of an array's stripe, which begins with its mutex, and of its entry, in its first slab."""
    function, arguments = array.__reduce_ex__(4)
    index = arguments[1]
    function(*arguments)
    stripe = directory() + STRIPES_AT + index % STRIPES * STRIPE_BYTES
    return stripe, word(stripe + SLABS_AT).value + index // STRIPES * ENTRY_BYTES


def age_reservations():
    """Those of children that are being forked are old now."""
    holders = directory() + HOLDERS_AT
    for i in range(HOLDERS):
        holder = holders + i * HOLDER_BYTES
        if word(holder).value & 0xFF == RESERVED:
            word(holder + RESERVED_AT).value = 0


# What workers run: at the top of the module, so that spawned ones find it.


def double(array):
    """In place, so that the sender sees it; what is returned is the array itself."""
    array *= 2
    return array


def total(array):
    return float(array.sum())


def make(n):
    return goalloc.share(np.full(n, n))


def echo(inbox, outbox):
    while (array := inbox.get()) is not None:
        outbox.put(array)


def stay(array, ready, leave):
    """What was inherited or sent is there, whatever its maker does."""
    ready.set()
    leave.wait(support.PATIENCE)
    os._exit(0 if (np.asarray(array) == 7).all() else 1)


class ProcessesTest(ArraysTest):
    collects = True


class Libraries(ProcessesTest):
    def test_queues(self):
        for method in METHODS:
            context = multiprocessing.get_context(method)
            inbox, outbox = context.Queue(), context.Queue()
            worker = context.Process(target=echo, args=(inbox, outbox))
            worker.start()
            arrays = [goalloc.share(np.full(n, n)) for n in (1, 10, 1000, 100000)]
            for array in arrays:
                inbox.put(array)
                back = outbox.get(timeout=support.PATIENCE)
                back[0] = -1
                self.assertEqual(array[0], -1, method)
                inbox.put([array[:1], {"same": array}])
                both = outbox.get(timeout=support.PATIENCE)
                self.assertTrue(np.shares_memory(both[0], array) and np.shares_memory(both[1]["same"], array))
            inbox.put(None)
            worker.join()
            self.assertEqual(worker.exitcode, 0)
            del arrays, array, back, both

    def test_arguments_outlive_their_sender_s_reference(self):
        for method in METHODS:
            context = multiprocessing.get_context(method)
            ready, leave = context.Event(), context.Event()
            array = goalloc.share(np.full(50000, 7))
            worker = context.Process(target=stay, args=(array[100:], ready, leave))
            worker.start()  # from here on the Process has no reference
            if method == "spawn":
                self.assertTrue(ready.wait(support.PATIENCE))
            del array
            gc.collect()
            churn = [goalloc.share(np.zeros(50000, int)) for _ in range(20)]
            leave.set()
            worker.join()
            self.assertEqual(worker.exitcode, 0, method)
            del churn

    def test_pools(self):
        for method in METHODS:
            with multiprocessing.get_context(method).Pool(2) as pool:
                arrays = [goalloc.share(np.arange(1000.0)) for _ in range(10)]
                for array, back in zip(arrays, pool.map(double, arrays)):
                    self.assertEqual(array[999], 1998)
                    self.assertTrue(np.shares_memory(array, back))
                del back
                self.assertEqual(pool.map(total, [arrays[0]] * 20), [999000.0] * 20)
                for n, array in enumerate(pool.imap(make, range(1, 30)), 1):
                    self.assertTrue(goalloc.is_shared(array))
                    self.assertTrue((array == n).all())
                pool.close()
                pool.join()
            del arrays, array

    def test_concurrent_futures(self):
        for method in METHODS:
            context = multiprocessing.get_context(method)
            with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
                array = goalloc.share(np.ones(5000))
                for _ in range(3):
                    self.assertTrue(np.shares_memory(pool.submit(double, array).result(support.PATIENCE), array))
                self.assertEqual(list(pool.map(total, [array, array[:10]])), [40000.0, 80.0])
            del array

    def test_joblib(self):
        try:
            import joblib
        except ImportError:
            self.skipTest("no joblib (Debian: python3-joblib)")
        array = goalloc.share(np.ones(300000))
        for backend in ("multiprocessing", "loky"):
            with joblib.Parallel(2, backend=backend) as parallel:
                for back in parallel(joblib.delayed(double)(array[i * 1000 : (i + 1) * 1000]) for i in range(6)):
                    self.assertTrue(np.shares_memory(back, array), backend)
            del back
        self.assertEqual(array[:6000].min(), 4)
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown()


class Forks(ProcessesTest):
    def test_a_child_keeps_what_it_has_inherited(self):
        arrays = [goalloc.share(np.full(3000, i)) for i in range(50)]
        opened, asked = os.pipe()

        def child():
            os.read(opened, 1)
            good = all((a == i).all() for i, a in enumerate(arrays))
            for _ in range(len(arrays)):  # its own collector frees what it alone has
                arrays.pop()
            gc.collect()
            return good and pickle.loads(pickle.dumps(goalloc.share(np.ones(3))))[2] == 1

        pids = [self.in_child(child) for _ in range(3)]
        del arrays[:]
        gc.collect()
        churn = [goalloc.share(np.full(3000, -1)) for _ in range(200)]
        os.write(asked, b"xyz")
        for pid in pids:
            self.assert_child(pid)
        os.close(opened)
        os.close(asked)
        del churn

    def test_a_child_of_a_child(self):
        array = goalloc.share(np.full(1000, 3))

        def grandchild():
            return (array == 3).all() and pickle.loads(pickle.dumps(array))[5] == 3

        def child():
            pid = self.in_child(grandchild)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0 and (array == 3).all()

        self.assert_child(self.in_child(child))
        self.assertTrue((array == 3).all())

    def test_a_child_that_lets_go_leaves_its_parent_s(self):
        arrays = [goalloc.share(np.full(100, i)) for i in range(100)]

        def child():
            del arrays[:]
            gc.collect()
            goalloc.collect()
            return len([goalloc.share(np.zeros(100)) for _ in range(300)]) == 300

        self.assert_child(self.in_child(child))
        for i, array in enumerate(arrays):
            self.assertTrue((array == i).all())
        del array

    def test_a_fork_in_c_has_no_part_in_its_parent_s(self):
        arrays = [goalloc.share(np.full(100, i)) for i in range(10)]
        pid = ctypes.PyDLL(None).fork()
        if pid == 0:
            del arrays[:]
            os._exit(0)
        self.assert_child(pid)
        for i, array in enumerate(arrays):
            self.assertTrue((array == i).all())
        del array


class Ends(ProcessesTest):
    def test_who_ends_in_order_leaves_nothing(self):
        self.run_python("""if 1:
            import goalloc, numpy as np, sys
            kept = [goalloc.share(np.ones(1000)) for _ in range(100)]
            with goalloc.arrays():
                sys.kept = np.ones(100000)
            sys.circle = [kept[0][5:]]
            sys.circle.append(sys.circle)
        """)
        self.assertTrue(support.eventually(lambda: live() == self.before, 10))

    def test_what_a_killed_process_had_is_collected(self):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            kept = [goalloc.share(np.ones(1000)) for _ in range(100)]
            os.write(write, pickle.dumps(kept[0]))
            time.sleep(support.PATIENCE)
            os._exit(len(kept))
        mine = pickle.loads(os.read(read, 65536))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(read)
        os.close(write)
        holders, references, arrays = goalloc.collect_arrays()
        self.assertEqual((holders, references, arrays), (1, 100, 99))
        self.assertEqual(mine.sum(), 1000)

    def test_an_unread_message_is_returned_when_its_group_has_ended(self):
        program = """if 1:
            import goalloc, numpy as np, os, pickle
            goalloc.attach(group="writers")
            print(len(pickle.dumps(goalloc.share(np.ones(1000)))), flush=True)
        """
        self.run_python(program)
        self.assertTrue(support.eventually(lambda: goalloc.collect_arrays()[2] == 1 or live() == self.before, 10))
        mine = pickle.dumps(goalloc.share(np.ones(10)))  # that of a group that lives stays
        goalloc.collect_arrays()
        self.assertEqual(pickle.loads(mine).sum(), 10)

    def test_a_child_that_becomes_another_program_holds_nothing(self):
        array = goalloc.share(np.ones(1000))
        pid = os.fork()
        if pid == 0:
            os.execv("/bin/sleep", ["sleep", str(support.PATIENCE)])
        del array
        try:
            self.assertTrue(support.eventually(lambda: goalloc.collect_arrays()[2] == 1, 10))
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def test_a_program_that_becomes_another_one_begins_anew(self):
        self.run_python("""if 1:
            import goalloc, numpy as np, os, sys
            kept = [goalloc.share(np.ones(10)) for _ in range(20)]
            os.execv(sys.executable, [sys.executable, "-c",
                "import goalloc, numpy as np; a = goalloc.share(np.ones(3)); print(a.sum())"])
        """)


class Locks(ProcessesTest):
    """Processes that die, or stop, while they have the mutex of an entry."""

    def with_the_lock(self, array, do_it):
        """A process that has locked the array's stripe, has done that with its entry, and waits."""
        stripe, entry = stripe_and_entry(array)
        return support.LockHolder([stripe], lambda: do_it(entry))

    def use_all(self):
        """Every stripe is locked by this."""
        for array in [goalloc.share(np.full(10, i)) for i in range(64)]:
            self.assertEqual(pickle.loads(pickle.dumps(array))[3], array[0])

    def test_a_death_before_the_block_is_freed(self):
        array = goalloc.share(np.ones(100))

        def let_go(entry):  # of both: the parent's, and its own
            for i in range(3):
                word(entry + SLOTS_AT + 8 * i).value = 0

        self.with_the_lock(array, let_go).kill()
        self.use_all()
        before = live()
        del array  # its entry is another one's by now, or nobody's
        self.assertEqual(live(), before)

    def test_a_death_before_the_entry_is_alive(self):
        array = goalloc.share(np.ones(100))

        def not_yet(entry):
            word(entry).value &= ~1

        self.with_the_lock(array, not_yet).kill()
        self.use_all()
        del array

    def test_a_death_with_the_lock_alone_loses_nothing(self):
        array = goalloc.publish("name", np.ones(100))
        self.with_the_lock(array, lambda entry: None).kill()
        self.use_all()
        self.assertEqual(goalloc.open("name").sum(), 100)
        self.assertEqual(pickle.loads(pickle.dumps(array)).sum(), 100)
        goalloc.unlink("name")

    def test_a_process_that_is_stopped_with_the_lock_holds_up_nobody_for_ever(self):
        array, other = goalloc.share(np.ones(100)), goalloc.share(np.ones(100))
        holder = self.with_the_lock(array, lambda entry: None)
        holder.stop()
        with self.assertRaises(TimeoutError):
            pickle.dumps(array)
        self.assertEqual(pickle.loads(pickle.dumps(other)).sum(), 100)
        holder.kill()
        self.assertEqual(pickle.loads(pickle.dumps(array)).sum(), 100)


class Naming(ProcessesTest):
    def test_a_collection_takes_no_name_away_that_was_given_meanwhile(self):
        """Another process collects without end; of its two looks at the names the second comes after many roots."""
        own = support.library()
        some = ctypes.c_void_p(own.goalloc_malloc(8))
        many = [b"many %d" % i for i in range(400)]
        for name in many:
            self.assertEqual(own.goalloc_root_set(name, some), 0)
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                while True:
                    goalloc.collect_arrays()
                    os.write(write, b"c")
            finally:
                os._exit(0)
        os.close(write)
        os.set_blocking(read, False)
        array = goalloc.share(np.full(10, 7))
        try:
            until = time.monotonic() + support.seconds(1)
            while time.monotonic() < until:
                self.assertIs(goalloc.publish("again", array), array)
                self.assertEqual(goalloc.open("again")[9], 7)
                goalloc.unlink("again")
                with contextlib.suppress(BlockingIOError):
                    os.read(read, 1000)
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(read)
            for name in many:
                own.goalloc_root_set(name, None)
            own.goalloc_free(some)

    def test_a_death_while_a_name_is_given_or_taken_leaves_it_whole(self):
        """A slot of a name without a description, and a description without a slot, are no name: it can be given."""
        for what in ("slot", "description"):
            array = goalloc.publish("torn", np.ones(10)) if what == "description" else goalloc.share(np.ones(10))
            stripe, entry = stripe_and_entry(array)

            def tear(entry=entry, what=what):
                slots = [word(entry + SLOTS_AT + 8 * i) for i in range(3)]
                if what == "slot":
                    next(slot for slot in slots if slot.value == 0).value = NAMING
                else:
                    next(slot for slot in slots if slot.value >> 56 == NAMED >> 56).value = 0

            support.LockHolder([stripe], tear).kill()
            if what == "description":  # its root is left
                with self.assertRaises(FileNotFoundError):
                    goalloc.open("torn")
            self.assertIs(goalloc.publish("whole", array), array)
            self.assertEqual(goalloc.open("whole").sum(), 10)
            goalloc.unlink("whole")
            del array


class Threads(ProcessesTest):
    def test_threads_share_send_and_receive(self):
        failures = []
        arrays = [goalloc.share(np.full(50, i)) for i in range(8)]

        def work(seed):
            chance = random.Random(seed)
            try:
                for _ in range(1500):
                    i = chance.randrange(8)
                    back = pickle.loads(pickle.dumps(arrays[i]))
                    if (back != i).any() or (goalloc.share(back + 1) != i + 1).any():
                        failures.append(i)
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(support.SEED + i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            self.assert_child(self.in_child(lambda: all((a == i).all() for i, a in enumerate(arrays))))
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])


class Storm:
    """What a worker does: share, name, open, send, receive, fork and forget."""

    def __init__(self, boxes):
        self.boxes = boxes  # each receives by one of its own
        self.kept = []

    @staticmethod
    def check(array):
        assert (np.asarray(array) == array.flat[0]).all(), "another one's data"

    def __call__(self, number, chance):
        kept = self.kept
        try:
            self.do_one(number, chance)
        except (FileNotFoundError, FileExistsError, ReferenceError, BlockingIOError):
            pass
        if kept:
            self.check(chance.choice(kept))
        if len(kept) > 50 or (kept and chance.random() < 0.3):
            kept.pop(chance.randrange(len(kept)))

    def do_one(self, number, chance):
        kept = self.kept
        what = chance.randrange(12)
        name = f"storm{chance.randrange(6)}"
        if what < 3:
            kept.append(goalloc.share(np.full(chance.choice([1, 30, 2000, 30000]), chance.randrange(1 << 30))))
        elif what < 5 and kept:
            chance.choice(self.boxes).send_bytes(pickle.dumps(chance.choice(kept)))
        elif what < 8:
            kept.append(pickle.loads(self.boxes[number].recv_bytes()))
        elif what == 8 and kept:
            goalloc.publish(name, chance.choice(kept))
        elif what == 9:
            kept.append(goalloc.open(name))
        elif what == 10:
            goalloc.unlink(name)
        elif chance.random() < 0.02 and os.fork() == 0:
            for array in kept:
                self.check(array)
            os._exit(0)
        elif chance.random() < 0.02:
            goalloc.collect_arrays()


class Kills(ProcessesTest):
    def test_processes_and_the_daemon_killed_at_random_lose_and_leave_nothing(self):
        kept = [goalloc.share(np.full(500, i)) for i in range(50)]
        goalloc.publish("kept", kept[0])
        boxes = [support.Box() for _ in range(4)]
        deaths = support.storm(self, Storm(boxes), support.seconds(3), self.daemon)
        self.assertGreater(deaths["daemons"], 0)
        for box in boxes:
            box.close()
        for i, array in enumerate(kept):
            self.assertTrue((array == i).all())
        np.testing.assert_array_equal(goalloc.open("kept"), kept[0])
        goalloc.unlink("kept")
        for n in range(6):
            try:
                goalloc.unlink(f"storm{n}")
            except FileNotFoundError:
                pass
        # A child that was killed before it took over what was reserved for it is dead after a minute. Messages that
        # were never read are this group's: they go when its last process has left it.
        age_reservations()
        del array, kept
        goalloc.collect()
        goalloc.detach()
        self.run_python("import goalloc; goalloc.attach(group='other'); print(goalloc.collect_arrays())")
        goalloc.attach()


if __name__ == "__main__":
    support.main()
