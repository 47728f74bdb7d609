"""A part of tests/bench/languages: languages_map.cpp with goalloc and with Boost.Interprocess, in turn.

Each execution begins with a heap, or a segment, of its own. Medians of the repetitions; the ratio is that of the sums
of build, grow and read, each pair of executions for itself.
"""

import json
import os
import socket
import statistics
import subprocess
import tempfile
import time

WHAT = "std::map<string, vector<int>>, built by one process and grown by another; ms"
TARGETS = ["languages_map"]
STEPS = ["build_ms", "grow_ms", "read_ms"]
SECONDS = 120  # that one execution may take
BAR = 0.6      # goalloc's time by Boost's


class Daemon:
    """A goallocd of its own; its socket is what the with statement gives."""

    def __init__(self, build):
        self.program = os.path.join(build, "daemon", "goallocd")
        self.directory = tempfile.TemporaryDirectory(prefix="goalloc-languages-")
        self.process = None

    def __enter__(self):
        path = os.path.join(self.directory.name, "goallocd.sock")
        with open(os.path.join(self.directory.name, "log"), "wb") as log:
            self.process = subprocess.Popen([self.program, "--socket", path, "--config", "", "--log-level", "warn"],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + 10
        while True:
            with socket.socket(socket.AF_UNIX) as client:
                if client.connect_ex(path) == 0:
                    return path
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise RuntimeError("goallocd does not start")
            time.sleep(0.001)

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.directory.cleanup()


def execute(build, who):
    program = os.path.join(build, "tests", "bench", "languages_map")
    with Daemon(build) as path:
        try:
            done = subprocess.run([program, who], env=dict(os.environ, GOALLOC_SOCKET=path), text=True, check=False,
                                  capture_output=True, timeout=SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RuntimeError(str(error)) from None
    if done.returncode != 0:
        raise RuntimeError(f"{who}: exit status {done.returncode}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def run(build, repetitions):
    runs = {"goalloc": [], "boost": []}
    for repetition in range(repetitions):
        for who in sorted(runs, reverse=repetition % 2 == 0):
            runs[who].append(execute(build, who))
    if len({one["sum"] for each in runs.values() for one in each}) != 1:
        raise RuntimeError("the two did not do the same")
    totals = {who: [sum(one[step] for step in STEPS) for one in each] for who, each in runs.items()}
    figures = {who: {step: statistics.median(one[step] for one in each) for step in STEPS} for who, each in runs.items()}
    for who, total in totals.items():
        figures[who]["total_ms"] = statistics.median(total)
    figures["ratio"] = statistics.median(a / b for a, b in zip(totals["goalloc"], totals["boost"]))
    figures["entries"] = runs["goalloc"][0]["entries"]
    figures["repetitions"] = repetitions
    return figures


def ratios(figures):
    return {"C++ map, built by two / Boost.Interprocess": figures["ratio"]}


def show(figures):
    yield f"{'':10}" + "".join(f"{step.removesuffix('_ms'):>10}" for step in STEPS + ["total_ms"])
    for who in ("goalloc", "boost"):
        yield f"{who:10}" + "".join(f"{figures[who][step]:10.1f}" for step in STEPS + ["total_ms"])
    yield (f"goalloc / Boost.Interprocess: {figures['ratio']:.2f} (bar: {BAR}), {figures['entries']} entries, "
           f"median of {figures['repetitions']} pairs")
