#!/usr/bin/env python3
"""NumPy's part of the benchmarks of languages: arrays for workers, against multiprocessing.shared_memory.

    tests/bench/languages_numpy.py [--build DIR] [--rounds N] [--workers N] [--megabytes N] [--small N] [--json]

DIR is a finished build (build-tests/release). Both take turns in each row, N rounds, after one that does not count;
printed are medians, and the ratio goalloc / multiprocessing: below 1 goalloc is faster. The same workers, forked before,
serve both.

  large    an array of 512 MB is copied into shared memory and sent to four workers; each sums its part and answers;
           then it is let go. Milliseconds
  fill     the same, but the array is computed in shared memory (filled with a number), and not copied there
  small    1000 arrays of 1 KiB, one message: copied into shared memory, sent to one worker, which sums each and lets it
           go. Microseconds an array

What shared_memory needs for it: a segment an array, whose name, dtype and shape are sent; the worker attaches and
closes, and the sender unlinks after the answer. What this measures most is how often memory is made anew: a segment's
pages come and go with it, those of the heap stay for the next array.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from multiprocessing import shared_memory

from itself import run_itself

try:
    import numpy as np
except ImportError:
    np = None

WHAT = "NumPy arrays for workers; ms, and us"
TARGETS = ["goallocctl", "goalloc_python", "goalloc_numpy"]
ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
SMALL_SHAPE = (128,)


class Goalloc:
    """Arrays as they are; a message carries references."""

    def __init__(self, goalloc):
        self.goalloc = goalloc

    def share(self, source):
        return self.goalloc.share(source)

    def empty(self, shape):
        return self.goalloc.shared_empty(shape)

    message = array = staticmethod(lambda shared: shared)
    opened = staticmethod(lambda message: message)

    def let_go(self, shared):
        pass

    closed = let_go


class Segments:
    """One segment of multiprocessing.shared_memory an array."""

    def share(self, source):
        shared = self.empty(source.shape)
        self.array(shared)[...] = source
        return shared

    def empty(self, shape):
        return shared_memory.SharedMemory(create=True, size=8 * int(np.prod(shape))), shape

    def message(self, shared):
        return shared[0].name, shared[1]

    def opened(self, message):
        return shared_memory.SharedMemory(message[0]), message[1]

    def array(self, shared):
        return np.ndarray(shared[1], buffer=shared[0].buf)

    def closed(self, shared):
        shared[0].close()

    def let_go(self, shared):
        shared[0].close()
        shared[0].unlink()


def serve(pipe, kinds, part, nparts):
    """A worker: sums of what it is sent; of a large array its part."""
    while (request := pipe.recv()) is not None:
        kind, message = request
        del request
        peer = kinds[kind]
        if isinstance(message, list):
            answer = 0.0
            for one in message:
                shared = peer.opened(one)
                answer += float(peer.array(shared).sum())
                peer.closed(shared)
            one = None
        else:
            shared = peer.opened(message)
            whole = peer.array(shared)
            step = len(whole) // nparts
            answer = float(whole[part * step : (part + 1) * step].sum())
            whole = None
            peer.closed(shared)
        shared = message = None
        pipe.send(answer)


def ask(pipes, kind, message, wanted):
    for pipe in pipes:
        pipe.send((kind, message))
    answer = sum(pipe.recv() for pipe in pipes)
    if abs(answer - wanted) > 1e-6 * abs(wanted):
        raise SystemExit(f"languages_numpy: {kind}: the sum is {answer} and not {wanted}")


def measure_large(peer, kind, pipes, source, wanted, is_filled):
    begin = time.perf_counter()
    if is_filled:
        shared = peer.empty(source.shape)
        array = peer.array(shared)
        array[...] = 1.0
        del array
        wanted = float(len(source))
    else:
        shared = peer.share(source)
    ask(pipes, kind, peer.message(shared), wanted)
    peer.let_go(shared)
    del shared
    return (time.perf_counter() - begin) * 1e3


def measure_small(peer, kind, pipe, sources, wanted):
    begin = time.perf_counter()
    shared = [peer.share(source) for source in sources]
    ask([pipe], kind, [peer.message(one) for one in shared], wanted)
    for one in shared:
        peer.let_go(one)
    del shared, one
    return (time.perf_counter() - begin) * 1e6 / len(sources)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--build", default=os.path.join(ROOT, "build-tests", "release"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--small", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if np is None:
        raise SystemExit("languages_numpy: no module numpy (Debian: python3-numpy)")

    os.environ["GOALLOCD"] = os.path.join(options.build, "daemon", "goallocd")
    os.environ["GOALLOCCTL"] = os.path.join(options.build, "client", "ctl", "goallocctl")
    sys.path[:0] = [os.path.join(options.build, "python"), os.path.join(ROOT, "tests", "python")]
    import goalloc
    from support import Daemon

    daemon = Daemon().start()
    figures = {}
    try:
        os.environ["GOALLOC_SOCKET"] = daemon.socket
        goalloc.attach()
        peers = {"goalloc": Goalloc(goalloc), "multiprocessing": Segments()}
        goalloc.shared_empty(1)  # workers are forked from a process that has all it needs
        shared_memory.SharedMemory(create=True, size=1).unlink()  # and with the tracker of segments running
        context = multiprocessing.get_context("fork")
        pipes, crowd = [], []
        for number in range(options.workers):
            ours, theirs = context.Pipe()
            crowd.append(context.Process(target=serve, args=(theirs, peers, number, options.workers), daemon=True))
            crowd[-1].start()
            pipes.append(ours)
        chance = np.random.default_rng(1)
        count = (options.megabytes << 20) // 8 // options.workers * options.workers
        large = chance.random(count)
        small = [chance.random(SMALL_SHAPE) for _ in range(options.small)]
        large_sum, small_sum = float(large.sum()), float(sum(one.sum() for one in small))
        for turn in range(-1, options.rounds):
            for what in ("large", "fill", "small"):
                for kind, peer in peers.items():
                    if what == "small":
                        figure = measure_small(peer, kind, pipes[0], small, small_sum)
                    else:
                        figure = measure_large(peer, kind, pipes, large, large_sum, what == "fill")
                    if turn >= 0:
                        figures.setdefault(what, {}).setdefault(kind, []).append(figure)
        for pipe in pipes:
            pipe.send(None)
        for worker in crowd:
            worker.join()
        goalloc.detach()
    finally:
        daemon.end()

    rows = []
    for what, kinds in figures.items():
        medians = {kind: statistics.median(values) for kind, values in kinds.items()}
        rows.append({"what": what, "unit": "us" if what == "small" else "ms", **medians,
                     "ratio": medians["goalloc"] / medians["multiprocessing"]})
    if options.json:
        print(json.dumps({"rounds": options.rounds, "workers": options.workers, "megabytes": options.megabytes,
                          "rows": rows}, indent=2))
        return
    print("\n".join(show({"rounds": options.rounds, "workers": options.workers, "megabytes": options.megabytes,
                          "rows": rows})))


# --- as a part of tests/bench/languages ---


def run(build, repetitions):
    return run_itself(__file__, build, repetitions)


def ratios(figures):
    return {f"NumPy {row['what']} / multiprocessing": row["ratio"] for row in figures["rows"]}


def show(figures):
    yield (f"medians of {figures['rounds']} rounds, {figures['workers']} workers, large: {figures['megabytes']} MB")
    for row in figures["rows"]:
        yield (f"{row['what']:6} goalloc {row['goalloc']:9.2f} {row['unit']}   multiprocessing "
               f"{row['multiprocessing']:9.2f} {row['unit']}   ratio {row['ratio']:.3f}")


if __name__ == "__main__":
    main()
