"""goalloc.Dict: what it does, against a model; eviction; many workers; kills of workers and of the daemon at random."""

import concurrent.futures
import functools
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time

import goalloc
import support
from support import SEED, HeapTest, eventually, main, seconds


class Behaviour(HeapTest):
    def setUp(self):
        goalloc.attach(group="dicts")
        self.d = goalloc.dict(self.id())

    def test_as_a_dictionary(self):
        d = self.d
        self.assertEqual((len(d), list(d), d.get(b"a"), d.get(b"a", 5), b"a" in d), (0, [], None, 5, False))
        d[b"a"] = b"1"
        d.set(b"b", b"2")
        self.assertEqual((d[b"a"], d.get(b"b"), len(d), b"a" in d), (b"1", b"2", 2, True))
        self.assertEqual(sorted(d), [b"a", b"b"])
        self.assertEqual(sorted(d.items()), [(b"a", b"1"), (b"b", b"2")])
        self.assertEqual((sorted(d.keys()), sorted(d.values())), ([b"a", b"b"], [b"1", b"2"]))
        self.assertEqual((d.pop(b"a"), d.pop(b"a", None), len(d)), (b"1", None, 1))
        with self.assertRaises(KeyError):
            d.pop(b"a")
        with self.assertRaises(KeyError):
            d[b"a"]
        with self.assertRaises(KeyError):
            del d[b"a"]
        del d[b"b"]
        self.assertEqual(len(d), 0)
        self.assertEqual((d.setdefault(b"c", b"3"), d.setdefault(b"c", b"4"), d[b"c"]), (b"3", b"3", b"3"))
        d.clear()
        self.assertEqual((len(d), d.get(b"c"), d.nbytes), (0, None, 0))
        self.assertIn("Dict", repr(d))

    def test_incr_counts_as_text(self):
        d = self.d
        self.assertEqual((d.incr(b"n"), d.incr(b"n", 41), d[b"n"], d.incr(b"n", -50)), (1, 42, b"42", -8))
        d[b"max"] = b"%d" % (2**63 - 1)
        with self.assertRaises(OverflowError):
            d.incr(b"max")
        for wrong in (b"", b"x", b"1x", b" 1", b"1 ", b"+1", b"1\0", b"9" * 30, b"1.5"):
            d[b"w"] = wrong
            with self.assertRaises(ValueError, msg=repr(wrong)):
                d.incr(b"w")
            self.assertEqual(d[b"w"], wrong)
        with self.assertRaises(TypeError):
            d.incr(b"n", "1")
        with self.assertRaises(OverflowError):
            d.incr(b"n", 1 << 64)

    def test_keys_and_values_are_any_bytes(self):
        d = self.d
        for key in (b"", b"\0", b"\0\0", bytes(range(256)), b"k" * 100_000):
            for value in (b"", b"\0", os.urandom(1000), os.urandom(300_000)):
                d[key] = value
                self.assertEqual(d[key], value)
        self.assertEqual(len(d), 5)
        d[bytearray(b"array")] = memoryview(b"view")
        self.assertEqual(d[memoryview(b"array")], b"view")
        buffer = goalloc.alloc(4)
        d[b"buffer"] = buffer
        self.assertEqual(d[buffer.size.to_bytes(1, "big")] if b"\4" in d else d[b"buffer"], bytes(4))

    def test_bad_input_is_refused_and_changes_nothing(self):
        d = self.d
        d[b"k"] = b"v"
        for key in ("k", 5, None, [1], 1.5):
            for call in (lambda: d[key], lambda: d.get(key), lambda: key in d, lambda: d.pop(key),
                         lambda: d.set(key, b""), lambda: d.incr(key), lambda: d.setdefault(key, b"")):
                with self.assertRaises(TypeError):
                    call()
            with self.assertRaises(TypeError):
                d[b"k"] = key
            with self.assertRaises(TypeError):
                d.setdefault(b"k", key)
        for call in (d.get, d.pop, d.incr, lambda: d.set(b"k"), lambda: d.get(b"k", 1, 2), lambda: d.setdefault(b"k")):
            with self.assertRaises(TypeError):
                call()
        with self.assertRaises(BufferError):
            d[memoryview(bytearray(10))[::2]] = b"x"
        for name in ("", "x" * 201, "a\0b"):
            with self.assertRaises(ValueError):
                goalloc.dict(name)
        with self.assertRaises(TypeError):
            goalloc.dict(b"bytes")
        with self.assertRaises(ValueError):
            goalloc.dict("limit", max_bytes=-1)
        with self.assertRaises(ValueError):
            goalloc.dict("\udc80")
        self.assertEqual(d.items(), [(b"k", b"v")])

    def test_a_root_of_another_kind_is_refused(self):
        goalloc.roots["goalloc.dict.other"] = goalloc.alloc(100)
        with self.assertRaises(TypeError):
            goalloc.dict("other")
        del goalloc.roots["goalloc.dict.other"]

    def test_against_a_model(self):
        d, model = self.d, {}
        chance = random.Random(SEED)
        before = goalloc.stats()["live_objects"]
        for i in range(60_000):
            key = b"%d" % chance.randrange(700)
            what = chance.randrange(10)
            if what < 4:
                d[key] = model[key] = bytes(chance.randrange(200))
            elif what < 7:
                self.assertEqual(d.get(key), model.get(key))
            elif what < 9:
                self.assertEqual(d.pop(key, None), model.pop(key, None))
            else:
                self.assertEqual(d.setdefault(key, b"s"), model.setdefault(key, b"s"))
            if i % 20_000 == 0:
                d.clear()
                model.clear()
        self.assertEqual(dict(d.items()), model)
        self.assertEqual(len(d), len(model))
        d.clear()
        self.assertLess(goalloc.stats()["live_objects"], before + 200)  # the arrays are left

    def test_growth_to_a_hundred_thousand_and_back(self):
        for i in range(100_000):
            self.d[b"%d" % i] = b"%d" % (i * i)
        self.assertEqual(len(self.d), 100_000)
        for i in range(0, 100_000, 7):
            self.assertEqual(self.d[b"%d" % i], b"%d" % (i * i))
        for i in range(100_000):
            del self.d[b"%d" % i]
        self.assertEqual(self.d.items(), [])

    def test_two_names_are_two_dictionaries_and_one_name_is_one(self):
        other, same = goalloc.dict("other one"), goalloc.dict(self.d.name)
        self.d[b"k"] = b"here"
        self.assertEqual((other.get(b"k"), same[b"k"]), (None, b"here"))
        self.assertEqual(pickle.loads(pickle.dumps(same))[b"k"], b"here")

    def test_threads_lose_no_count(self):
        def work(_):
            for i in range(500):
                self.d.incr(b"sum")
                self.d.setdefault(b"%d" % i, b"x")

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        self.assertEqual((self.d[b"sum"], len(self.d)), (b"4000", 501))

    def test_a_failing_allocation_changes_nothing(self):
        text = "import goalloc\ngoalloc.attach(limit=1 << 20)\nd = goalloc.dict('full')\nd[b'k'] = b'v'\n" \
               "try: d[b'k'] = bytes(1 << 23)\nexcept MemoryError: print(d[b'k'], len(d))"
        self.assertEqual(self.run_python(text), "b'v' 1\n")


class Eviction(HeapTest):
    def setUp(self):
        goalloc.attach(group="dicts")

    def test_it_stays_below_its_limit_and_keeps_what_is_used(self):
        d = goalloc.dict("bounded", max_bytes=4 << 20)
        self.assertEqual(d.max_bytes, 4 << 20)
        for i in range(100):
            d[b"hot%d" % i] = b"h"
        for i in range(200_000):
            d[b"cold%d" % i] = bytes(100)
            if i % 50 == 0:
                for j in range(100):
                    d.get(b"hot%d" % j)
        self.assertLessEqual(d.nbytes, 4 << 20)
        self.assertGreater(d.nbytes, 3 << 20)
        self.assertGreater(sum(b"hot%d" % i in d for i in range(100)), 90)
        self.assertEqual(d[b"cold199999"], bytes(100))

    def test_an_entry_that_can_never_fit_is_refused(self):
        d = goalloc.dict("small", max_bytes=10_000)
        with self.assertRaises(ValueError):
            d[b"k"] = bytes(20_000)
        for i in range(1000):
            d[b"%d" % i] = bytes(1000)
        self.assertLessEqual(d.nbytes, 10_000)
        self.assertEqual(d[b"999"], bytes(1000))

    def test_the_limit_is_its_makers(self):
        goalloc.dict("made", max_bytes=1 << 20)
        self.assertEqual(goalloc.dict("made", max_bytes=5).max_bytes, 1 << 20)


def check_value(key, value):
    """A value of the storm says what key it is of, and ends as it begins."""
    inner = value[len(key) + 1:-len(key) - 1]
    return value.startswith(key + b":") and value.endswith(b":" + key) and len(set(inner)) <= 1


@functools.cache
def opened(name, **options):
    return goalloc.dict(name, **options)


def change_or_look(number, chance):
    """One operation at random. A wrong value is an error."""
    d = opened("storm")
    key = b"k%d" % chance.randrange(300)
    what = chance.randrange(12)
    if what < 5:
        d[key] = key + b":" + b"abcdefg"[chance.randrange(7):][:1] * chance.randrange(400) + b":" + key
    elif what < 10:
        value = d.get(key) if what < 8 else d.pop(key, None)
        assert value is None or check_value(key, value), (key, value)
    elif what == 10:
        d.incr(b"sum")
        d.incr(b"sum of %d" % number)
    else:
        opened("storm bounded", max_bytes=300_000)[key] = bytes(chance.randrange(3000))
    if chance.randrange(2000) == 0:
        for key, value in d.items():
            assert key.startswith(b"sum") or check_value(key, value), (key, value)


def look_whole(test, d):
    """Each key once, each value whole, and counts that agree."""
    keys = d.keys()
    test.assertEqual(len(keys), len(set(keys)))
    test.assertEqual(len(d), len(keys))
    for key in keys:
        value = d[key]
        if not key.startswith(b"sum"):
            test.assertTrue(check_value(key, value), (key, value))


class Storm(HeapTest):
    """Workers are killed at random, and the daemon as well; what is left is whole, and nothing of it is lost."""

    def storm(self, how_long, daemon):
        d = goalloc.dict("storm")
        deaths = support.storm(self, change_or_look, how_long, daemon)
        self.assertTrue(eventually(lambda: _can(lambda: d.get(b"x"))))
        look_whole(self, d)
        total = int(d.get(b"sum", b"0"))
        parts = sum(int(d[key]) for key in d.keys() if key.startswith(b"sum of"))
        self.assertLessEqual(abs(total - parts), deaths["workers"] + 4)  # one instant a death lies between the two
        return deaths

    def test_workers_are_killed(self):
        goalloc.attach(self.daemon.socket)  # without a group: an entry that is not in the table yet goes with its maker
        d, bounded = goalloc.dict("storm"), goalloc.dict("storm bounded", max_bytes=300_000)
        d.clear()
        bounded.clear()
        before = goalloc.stats()["live_objects"]
        deaths = self.storm(seconds(3), None)
        d.clear()
        bounded.clear()
        # The arrays of the stripes are left, at most 65; no entry, though each death came while some were linked.
        self.assertTrue(eventually(lambda: goalloc.stats()["live_objects"] <= before + 65, 10),
                        f"{before} objects before, {goalloc.stats()['live_objects']} after {deaths}")

    def test_workers_and_daemons_are_killed(self):
        goalloc.attach(self.daemon.socket, group="storm")
        deaths = self.storm(seconds(3), self.daemon)
        self.assertGreater(deaths["daemons"], 0)
        self.assertEqual(self.daemon.control("check").returncode, 0)

    def test_one_winner_of_setdefault_and_no_increment_lost(self):
        goalloc.attach(self.daemon.socket)
        text = "import goalloc, os, sys\nd = goalloc.dict('race')\nme = b'%d' % os.getpid()\n" \
               "won = sum(d.setdefault(b'w%d' % i, me) == me for i in range(3000))\n" \
               "for i in range(3000): d.incr(b'n')\nprint(won)"
        crowd = [subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True) for _ in range(4)]
        self.assertEqual(sum(int(one.communicate()[0]) for one in crowd), 3000)
        self.assertEqual(goalloc.dict("race")[b"n"], b"12000")
        goalloc.dict("race").clear()

    def test_a_holder_that_is_stopped_gives_a_timeout_and_ctrl_c_works(self):
        goalloc.attach(self.daemon.socket, timeout=1)
        d = goalloc.dict("stopped", max_bytes=1000)  # one stripe, so one lock
        text = "import goalloc\nd = goalloc.dict('stopped')\nd.set(b'k', b'v')\nprint('ready', flush=True)\n" \
               "while True:\n    d.set(b'k', b'v'); d.clear()"
        worker = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE)
        self.addCleanup(worker.wait)
        self.addCleanup(worker.kill)
        self.addCleanup(worker.stdout.close)
        worker.stdout.readline()
        for _ in range(5000):
            time.sleep(random.random() * 0.002)
            worker.send_signal(signal.SIGSTOP)
            try:
                start = time.monotonic()
                d.get(b"k")
            except TimeoutError:
                self.assertGreaterEqual(time.monotonic() - start, 0.9)
                break
            worker.send_signal(signal.SIGCONT)
        else:
            self.fail("never stopped with the lock")
        threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        with self.assertRaises(KeyboardInterrupt):
            d.set(b"k", b"w")
        worker.kill()
        worker.wait()
        d.set(b"k", b"w")
        self.assertEqual(d[b"k"], b"w")


def _can(call):
    try:
        call()
    except (ConnectionError, TimeoutError):
        return False
    return True


if __name__ == "__main__":
    main()
