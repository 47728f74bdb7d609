"""The benchmark suite: builds, runs every workload for goalloc and its peers, hands the samples to report.py.

Called by tests/bench/run. A row is a workload with its parameters; a sample is one execution of bench-<allocator> (or
of replay-<allocator>, for a trace). In each repetition each row is executed by all its allocators in turn, so what
disturbs the machine disturbs all; who is first rotates. goalloc gets a daemon of its own for each execution, started
before and ended after it, so that it starts from an empty heap as its peers do.
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import report
import shared

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
BUILD = os.path.join(ROOT, "build-bench")
BIN = os.path.join(BUILD, "tests", "bench")
PEERS = ["mimalloc", "jemalloc", "tcmalloc", "glibc"]
SIZES = [8, 16, 64, 256, 1024, 8192, 32768, 65536]
QUICK_SIZES = [16, 64, 1024, 32768]
TIMEOUT_S = 180

WAYS = {
    "1t": (["--threads", "1"], "1 thread"),
    "2t": (["--threads", "2"], "2 threads"),
    "2p": (["--processes", "2"], "2 processes"),
}


class Row:
    """One line of the table."""

    def __init__(self, group, way, arguments=(), detail="", allocators=("goalloc", *PEERS), trace=None, size=None):
        self.group = group
        self.way = way
        self.size = size
        self.name = f"{group}{' ' + detail if detail else ''}, {WAYS[way][1]}"
        self.arguments = [group, *WAYS[way][0], *arguments]
        self.allocators = allocators
        self.trace = trace
        self.samples = {}

    def command(self, allocator):
        """What to execute, or None if it was not built."""
        kind = "replay" if self.trace else "bench"
        program = os.path.join(BIN, f"{kind}-{allocator}")
        if not os.access(program, os.X_OK):
            return None
        return [program, self.trace, "--json"] if self.trace else [program, *self.arguments]


def size_name(size):
    return f"{size} B"


def make_rows(quick):
    rows = []
    everybody = ("goalloc", *PEERS)
    for group in ("pairs", "batches"):
        for way in ("1t", "2t", "2p"):
            for size in QUICK_SIZES if quick else SIZES:
                who = (*everybody, "boost") if way == "1t" else everybody
                rows.append(Row(group, way, ["--size", str(size)], size_name(size), who, size=size))
    for group in ("churn", "larson", "sh6bench", "threadtest", "calloc", "realloc", "large"):
        rows += [Row(group, way) for way in ("1t", "2t", "2p")]
    for group in ("cache-scratch", "cache-thrash"):
        rows += [Row(group, way) for way in ("1t", "2t")]
    rows.append(Row("prodcons", "2t"))
    rows.append(Row("prodcons", "2p", ["--size", "64"], size_name(64), ("goalloc", "boost"), size=64))
    for size in [1024] if quick else [64, 1024, 32768]:
        rows.append(Row("growth", "1t", ["--size", str(size)], size_name(size), size=size))
    if not quick:
        rows.append(Row("growth", "2p", ["--size", "1024"], size_name(1024), size=1024))
    return rows


def make_trace_rows(quick):
    """Records the traces, where that is built; returns rows and the reason why there are none."""
    script = os.path.join(ROOT, "tests", "bench", "trace", "record.sh")
    if not os.access(script, os.X_OK) or not os.access(os.path.join(BIN, "replay-goalloc"), os.X_OK):
        return [], "not built"
    directory = os.path.join(BUILD, "traces-quick" if quick else "traces")
    if not os.path.isdir(directory):
        print("recording traces", file=sys.stderr)
        partial = directory + ".new"
        shutil.rmtree(partial, ignore_errors=True)
        os.makedirs(partial)
        if subprocess.run([script, partial, *(["--quick"] if quick else [])], check=False).returncode != 0:
            return [], "recording failed"
        os.rename(partial, directory)
    rows = []
    for name in sorted(os.listdir(directory)):
        if name.endswith(".trace"):
            rows.append(Row("trace", "1t", detail=name[:-6], trace=os.path.join(directory, name)))
    return rows, None if rows else "no traces"


class Daemon:
    """A goallocd in a directory of its own, for one execution."""

    def __init__(self, directory):
        self.socket = os.path.join(directory, "goallocd.sock")
        self.log = open(os.path.join(directory, "goallocd.log"), "ab")
        self.process = None

    def __enter__(self):
        self.process = subprocess.Popen(
            [os.path.join(BUILD, "daemon", "goallocd"), "--socket", self.socket, "--reserve", "64G",
             "--log-level", "warn"], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + 10
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError("goallocd does not start: " + self.log.name)
            time.sleep(0.001)
        return dict(os.environ, GOALLOC_SOCKET=self.socket, GOALLOC_BENCH_DAEMON=str(self.process.pid))

    def answers(self):
        """The socket is there a moment before anybody listens."""
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(self.socket) == 0

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def __exit__(self, *_):
        self.stop()


class Suite:
    def __init__(self, arguments, directory):
        self.arguments = arguments
        self.directory = directory
        self.failures = []

    def execute(self, command, allocator):
        """One sample, or None and an entry in failures."""
        try:
            if allocator == "goalloc":
                with Daemon(self.directory) as environment:
                    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S,
                                          check=False)
            else:
                done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
            if done.returncode == 0:
                return json.loads(done.stdout)
            why = done.stderr.strip() or f"exit status {done.returncode}"
        except (subprocess.TimeoutExpired, RuntimeError, ValueError, OSError) as error:
            why = str(error)
        words = [os.path.relpath(word, ROOT) if "/" in word else word for word in command]
        self.failures.append(f"{' '.join(words)}: {why}")
        return None

    def run_rows(self, rows):
        repetitions = self.arguments.repetitions
        begin = time.monotonic()
        for repetition in range(repetitions):
            for at, row in enumerate(rows):
                who = [a for a in row.allocators if row.command(a) is not None]
                turn = (repetition + at) % len(who) if who else 0
                for allocator in who[turn:] + who[:turn]:
                    sample = self.execute(row.command(allocator), allocator)
                    if sample is not None:
                        row.samples.setdefault(allocator, []).append(sample)
                self.progress(repetition, at, rows, begin)
        if sys.stderr.isatty():
            print(file=sys.stderr)
        for row in rows:
            self.compare_checksums(row)

    def progress(self, repetition, at, rows, begin):
        if sys.stderr.isatty():
            print(f"\rrepetition {repetition + 1} of {self.arguments.repetitions}, {at + 1} of {len(rows)}: "
                  f"{rows[at].name:40}", end="", file=sys.stderr)
        elif at + 1 == len(rows):
            print(f"repetition {repetition + 1} of {self.arguments.repetitions} done after "
                  f"{time.monotonic() - begin:.0f} s", file=sys.stderr)

    def compare_checksums(self, row):
        """All allocators must have done the same work (Boost does less of it: it would take too long)."""
        sums = {s["checksum"] for a, samples in row.samples.items() if a != "boost" for s in samples if "checksum" in s}
        if len(sums) > 1:
            self.failures.append(f"{row.name}: the allocators did not do the same work: {sorted(sums)}")

    def warm_up(self):
        """Memory that this machine has never touched costs more the first time (a virtual machine's host backs it)."""
        for allocator in ("goalloc", "mimalloc"):
            command = Row("growth", "1t", ["--size", "1024"]).command(allocator)
            if command is not None:
                self.execute(command, allocator)

    def count_instructions(self):
        """Instructions of malloc + free of 64 bytes, and of the loop around them, by callgrind."""
        if shutil.which("valgrind") is None:
            return None
        program = os.path.join(BIN, "bench-hotpath")
        result = {}
        for what in ("pair", "empty"):
            counts = []
            for n in (10000, 110000):
                command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", program, what, str(n)]
                with Daemon(self.directory) as environment:
                    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S,
                                          check=False)
                found = re.search(r"Collected : (\d+)", done.stderr)
                if done.returncode != 0 or found is None:
                    self.failures.append("callgrind: " + done.stderr.strip()[-300:])
                    return None
                counts.append(int(found.group(1)))
            result[what] = (counts[1] - counts[0]) / 100000
        return {"with_loop": result["pair"], "loop": result["empty"], "without_loop": result["pair"] - result["empty"]}

    def run_rpc(self):
        """What bench_rpc measures: the daemon's requests against a bare echo server."""
        program = os.path.join(BIN, "bench_rpc")
        if not os.access(program, os.X_OK):
            return None
        return self.execute([program, "--json"], "none")


def build(arguments):
    jobs = str(os.cpu_count() or 1)
    commands = [
        ["cmake", "-S", ROOT, "-B", BUILD, "-DCMAKE_BUILD_TYPE=Release", "-DGOALLOC_BENCH=ON"],
        ["cmake", "--build", BUILD, "-j", jobs],
    ]
    if arguments.no_build:
        return True
    for command in commands:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        for line in done.stdout.splitlines():
            if "bench:" in line:
                print(line.removeprefix("-- "), file=sys.stderr)
        if done.returncode != 0:
            print(done.stdout[-4000:], file=sys.stderr)
            print("tests/bench/run: the build failed", file=sys.stderr)
            return False
    return True


def parse_arguments():
    parser = argparse.ArgumentParser(
        prog="tests/bench/run",
        description="Builds optimised into build-bench, runs every workload for goalloc and its peers, interleaved, "
                    "and prints a table of medians and ratios and which bars are reached. Writes results.json and "
                    "plots. tests/bench/README.md explains.")
    parser.add_argument("--quick", action="store_true", help="fewer sizes, 3 repetitions: some 2 minutes")
    parser.add_argument("--repetitions", type=int, metavar="N", help="of each row (default: 7)")
    parser.add_argument("--only", metavar="REGEX", help="only the rows whose names match, such as 'pairs 64 B' or "
                                                        "'2 threads'; also instructions, rpc")
    parser.add_argument("--output", metavar="DIR", default=os.path.join(BUILD, "results"),
                        help="where results.json and the plots go (default: build-bench/results)")
    parser.add_argument("--shared", action="store_true",
                        help="only goalloc against other allocators in shared memory, in a table of its own; installs "
                             "PostgreSQL and APR, and unpacks Kamailio into the build directory")
    parser.add_argument("--check", action="store_true", help="exit status 1 also if a bar is not reached")
    parser.add_argument("--no-build", action="store_true", help="take what build-bench holds")
    parser.add_argument("--list", action="store_true", help="print the names of the rows")
    arguments = parser.parse_args()
    if arguments.repetitions is None:
        arguments.repetitions = 3 if arguments.quick else 7
    if arguments.repetitions < 1:
        parser.error("--repetitions takes a positive number")
    try:
        re.compile(arguments.only or "")
    except re.error as error:
        parser.error(f"--only: {error}")
    return arguments


def run_shared(arguments, rows):
    if not rows:
        print(f"tests/bench/run: no row matches '{arguments.only}'; --shared --list prints their names",
              file=sys.stderr)
        return 1
    os.makedirs(arguments.output, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="goalloc-bench-") as directory:
        suite = Suite(arguments, directory)
        suite.run_rows(rows)
    shared.show(rows)
    with open(os.path.join(arguments.output, "shared.json"), "w", encoding="utf-8") as file:
        json.dump(shared.results(rows), file, indent=1)
    for failure in suite.failures:
        print("FAILED: " + failure)
    return 1 if suite.failures else 0


def main():
    arguments = parse_arguments()
    rows = shared.make_rows(Row, arguments.quick) if arguments.shared else make_rows(arguments.quick)
    if arguments.list:
        print("\n".join(row.name for row in rows))
        return 0
    if not build(arguments):
        return 1
    if not os.access(os.path.join(BIN, "bench-goalloc"), os.X_OK):
        print(f"tests/bench/run: there is no suite in {BUILD}", file=sys.stderr)
        return 1

    def wanted(name):
        return not arguments.only or re.search(arguments.only, name) is not None

    if arguments.shared:
        return run_shared(arguments, [row for row in rows if wanted(row.name)])
    why_no_traces = "not asked for"
    if not arguments.only or "trace" in arguments.only:
        trace_rows, why_no_traces = make_trace_rows(arguments.quick)
        rows += trace_rows
    rows = [row for row in rows if wanted(row.name)]
    if not rows and not wanted("instructions") and not wanted("rpc"):
        print(f"tests/bench/run: no row matches '{arguments.only}'; --list prints their names", file=sys.stderr)
        return 1
    os.makedirs(arguments.output, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="goalloc-bench-") as directory:
        suite = Suite(arguments, directory)
        if why_no_traces == "recording failed":
            suite.failures.append("the traces could not be recorded")
        if any(row.group == "growth" for row in rows):
            suite.warm_up()
        suite.run_rows(rows)
        extra = {
            "instructions": suite.count_instructions() if wanted("instructions") else None,
            "rpc": suite.run_rpc() if wanted("rpc") else None,
            "no_traces": why_no_traces,
        }
    results = report.make(rows, extra, arguments, BUILD)
    results["failures"] = suite.failures
    report.write(results, arguments.output)
    report.show(results, arguments.output)
    if suite.failures:
        return 1
    return 1 if arguments.check and any(bar["reached"] is False for bar in results["bars"]) else 0


def interrupt(number, _):
    """Ended like by ^C, so that daemon and directory go, too."""
    raise KeyboardInterrupt(number)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, interrupt)  # also where the shell has it ignored
    signal.signal(signal.SIGTERM, interrupt)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("tests/bench/run: interrupted")
