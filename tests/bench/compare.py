"""Compares two builds of goalloc: the rows of suite.py, each executed by the old and the new build in turn.

Called by tests/bench/compare. suite.py has the rows, the daemon for each execution and the counting of instructions,
and takes the build from two variables of its module, which are set here for each execution. In each pair of executions
the one or the other build comes first, by turns.

A row's noise is taken from its own samples: what two executions of the same build, one after the other, differ by in
three of four cases. A row is marked if its ratio new / old is further from 1 than that.
"""

import argparse
import json
import math
import os
import re
import signal
import statistics
import sys
import tempfile
import time

import report
import suite

BUILDS = ("old", "new")
LONGEST_SHOWN = 5


def cache_entry(directory, name):
    return report.first(rf"^{name}:\w+=(.*)$", report.read(os.path.join(directory, "CMakeCache.txt")), "")


class Comparison:
    def __init__(self, arguments, directories, directory):
        self.arguments = arguments
        self.directories = directories  # by build
        self.suite = suite.Suite(arguments, directory)
        self.seconds = {}  # by row's name

    def use(self, build):
        suite.BUILD = self.directories[build]
        suite.BIN = os.path.join(suite.BUILD, "tests", "bench")
        os.environ.pop("GOALLOC_PROFILE", None)
        if build == "new" and self.arguments.profile:
            os.environ["GOALLOC_PROFILE"] = self.arguments.profile

    def run_row(self, row, old_first):
        begin = time.monotonic()
        for build in BUILDS if old_first else reversed(BUILDS):
            self.use(build)
            sample = self.suite.execute(row.command("goalloc"), "goalloc")
            if sample is not None:
                row.samples.setdefault(build, []).append(sample)
        self.seconds[row.name] = self.seconds.get(row.name, 0) + time.monotonic() - begin

    def run(self, rows):
        """Pair by pair; how many there were. A pair that would end after --minutes does not begin."""
        begin = time.monotonic()
        longest = 0
        done = 0
        for pair in range(self.arguments.pairs):
            pair_begin = time.monotonic()
            spent = pair_begin - begin
            if self.arguments.minutes is not None and pair > 0 and spent + longest > self.arguments.minutes * 60:
                print(f"{pair} of {self.arguments.pairs} pairs: more would take longer than {self.arguments.minutes:g} "
                      "minutes", file=sys.stderr)
                break
            for at, row in enumerate(rows):
                self.run_row(row, (pair + at) % 2 == 0)
            done += 1
            longest = max(longest, time.monotonic() - pair_begin)
            left = longest * (self.arguments.pairs - pair - 1)
            print(f"pair {pair + 1} of {self.arguments.pairs} done after {time.monotonic() - begin:.0f} s, "
                  f"some {left:.0f} s left", file=sys.stderr)
        for row in rows:
            self.suite.compare_checksums(row)
        return done

    def count_instructions(self):
        """Of malloc and free of 64 bytes, by build; None where there is no callgrind."""
        counts = {}
        for build in BUILDS:
            self.use(build)
            counts[build] = self.suite.count_instructions()
        return counts


# --- what the samples say ---


def noise_of(row):
    """The third quartile of how far consecutive executions of the same build differ, as a logarithm; None: too few."""
    steps = []
    for samples in row.samples.values():
        times = [s["ns_per_op"] for s in samples]
        steps += [abs(math.log(b / a)) for a, b in zip(times, times[1:])]
    return statistics.quantiles(steps, n=4, method="inclusive")[2] if len(steps) >= 2 else None


def share_of_program(row):
    """What the new build's execution takes more than the old one's, in parts of what the recorded program took."""
    took = report.read(row.trace[:-len(".trace")] + ".seconds") if row.trace else None
    seconds = {b: report.median(row.samples.get(b, []), "seconds") for b in BUILDS}
    if not took or None in seconds.values():
        return None
    return (seconds["new"] - seconds["old"]) / sum(float(part) for part in took.split())


def summarise(row, seconds):
    medians = {b: report.median(row.samples.get(b, []), "ns_per_op") for b in BUILDS}
    memory = {b: report.median(row.samples.get(b, []), "peak_bytes") for b in BUILDS}
    ratio = report.ratio(medians["new"], medians["old"])
    noise = noise_of(row)
    big = min(memory["old"] or 0, memory["new"] or 0) >= report.SMALL_BYTES
    return {
        "name": row.name,
        "ns_per_op": medians,
        "samples_ns": {b: [s["ns_per_op"] for s in row.samples.get(b, [])] for b in BUILDS},
        "ratio": ratio,
        "noise": None if noise is None else math.exp(noise) - 1,
        "outside": None if ratio is None or noise is None else abs(math.log(ratio)) > noise,
        "memory_ratio": report.ratio(memory["new"], memory["old"]) if big else None,
        "rpcs": {b: report.median(row.samples.get(b, []), "rpcs") for b in BUILDS},
        "daemon_ns": {b: report.median(row.samples.get(b, []), "daemon_ns_per_op") for b in BUILDS},
        "seconds": seconds,
        "of_program": share_of_program(row),
    }


def make(comparison, rows, npairs, instructions):
    summaries = [summarise(row, comparison.seconds[row.name]) for row in rows if row.samples]
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": report.describe_machine(comparison.directories["new"]),
        "builds": comparison.directories,
        "pairs": npairs,
        "rows": summaries,
        "geometric_mean": report.geometric_mean([r["ratio"] for r in summaries if r["ratio"]]),
        "instructions": instructions,
        "failures": comparison.suite.failures,
    }


# --- output ---


def row_line(row):
    noise = "-" if row["noise"] is None else f"{row['noise'] * 100:.0f}%"
    mark = ("faster" if row["ratio"] < 1 else "SLOWER") if row["outside"] else ""
    return (f"{row['name']:34} {report.number(row['ns_per_op']['old'], '{:.1f}'):>10} "
            f"{report.number(row['ns_per_op']['new'], '{:.1f}'):>10} {report.number(row['ratio'], '{:.3f}'):>7} "
            f"{noise:>6} {mark:6} {report.number(row['memory_ratio']):>7} "
            f"{report.number(row['rpcs']['old'], '{:.0f}'):>6} "
            f"{report.number(row['rpcs']['new'], '{:.0f}'):>6} "
            f"{report.number(row['daemon_ns']['old'], '{:.1f}'):>7} "
            f"{report.number(row['daemon_ns']['new'], '{:.1f}'):>7}")


def show(results):
    for build in BUILDS:
        print(f"{build}: {results['builds'][build]}")
    print(f"pairs of executions: {results['pairs']}; medians; below 1 the new build is faster. Marked: outside of the "
          "row's noise,\nwhich is what two executions of the same build differ by in three of four cases\n")
    print(f"{'':34} {'ns/op':>21} {'':7} {'':6} {'':6} {'memory':>7} {'RPCs':>13} {'daemon, ns/op':>15}")
    print(f"{'row':34} {'old':>10} {'new':>10} {'new/old':>7} {'noise':>6} {'':6} {'new/old':>7} {'old':>6} {'new':>6} "
          f"{'old':>7} {'new':>7}")
    for row in results["rows"]:
        print(row_line(row).rstrip())
    print()
    marked = [r for r in results["rows"] if r["outside"]]
    slower = sum(1 for r in marked if r["ratio"] > 1)
    print(f"geometric mean of {len(results['rows'])} ratios: {report.number(results['geometric_mean'], '{:.3f}')}; "
          f"outside of their noise: {slower} slower, {len(marked) - slower} faster")
    shares = [r for r in results["rows"] if r["of_program"] is not None]
    if shares:
        print("what the new build adds, in parts of the time that the recorded program itself took: " +
              ", ".join(f"{r['name'].split()[1].rstrip(',')} {r['of_program'] * 100:.2f}%" for r in shares))
    for build, counts in (results["instructions"] or {}).items():
        if counts:
            print(f"instructions of malloc + free, 64 bytes, {build}: {counts['with_loop']:.1f}, "
                  f"{counts['without_loop']:.1f} without the loop")
    longest = sorted(results["rows"], key=lambda r: -r["seconds"])[:LONGEST_SHOWN]
    print("longest rows: " + "; ".join(f"{r['name']} {r['seconds']:.0f} s" for r in longest))
    for failure in results["failures"]:
        print(f"FAILED: {failure}")


# --- command line ---


def parse_arguments():
    parser = argparse.ArgumentParser(
        prog="tests/bench/compare",
        description="Runs the rows of the benchmark suite for goalloc alone with two builds, in turn, and says which "
                    "rows changed by more than their noise. Both are directories that were configured with "
                    "-DGOALLOC_BENCH=ON and built. tests/bench/README.md explains.")
    parser.add_argument("old", metavar="OLD_BUILD")
    parser.add_argument("new", metavar="NEW_BUILD")
    parser.add_argument("--pairs", type=int, metavar="N",
                        help="executions of each row and build (default: 7, with --quick 3)")
    parser.add_argument("--only", metavar="REGEX", help="only the rows whose names match; also instructions")
    parser.add_argument("--quick", action="store_true",
                        help="fewer sizes, 3 pairs, no traces unless --only names them")
    parser.add_argument("--minutes", type=float, metavar="M", help="begin no pair that would end after so long")
    parser.add_argument("--profile", metavar="SIZE", help="the new build samples its allocations: what that costs")
    parser.add_argument("--output", metavar="FILE", help="write the results as JSON, too")
    parser.add_argument("--list", action="store_true", help="print the names of the rows but those of traces")
    arguments = parser.parse_args()
    if arguments.pairs is None:
        arguments.pairs = 3 if arguments.quick else 7
    if arguments.pairs < 1:
        parser.error("--pairs takes a positive number")
    try:
        re.compile(arguments.only or "")
    except re.error as error:
        parser.error(f"--only: {error}")
    return arguments


def check_builds(directories):
    """None, or what is wrong."""
    for build, directory in directories.items():
        for program in ("daemon/goallocd", "tests/bench/bench-goalloc", "tests/bench/bench-hotpath"):
            if not os.access(os.path.join(directory, program), os.X_OK):
                return f"{build}: {directory} has no {program}: configure it with -DGOALLOC_BENCH=ON and build it"
    for name in ("CMAKE_BUILD_TYPE", "CMAKE_C_FLAGS_RELEASE", "CMAKE_C_COMPILER", "GOALLOC_CRASH_POINTS"):
        values = [cache_entry(directories[build], name) for build in BUILDS]
        if values[0] != values[1]:
            print(f"warning: {name} differs: '{values[0]}' and '{values[1]}'", file=sys.stderr)
    return None


def make_rows(arguments, comparison):
    """Both builds replay the same traces: those that the new one has recorded, or records now."""
    comparison.use("new")
    rows = [row for row in suite.make_rows(arguments.quick) if "goalloc" in row.allocators]
    with_traces = "trace" in arguments.only if arguments.only else not arguments.quick
    if with_traces and not arguments.list:  # their names are known when they are recorded
        rows += suite.make_trace_rows(arguments.quick)[0]
    wanted = [row for row in rows if not arguments.only or re.search(arguments.only, row.name)]
    missing = []
    for build in BUILDS:
        comparison.use(build)
        missing += [row.name for row in wanted if row.command("goalloc") is None]
    for name in sorted(set(missing)):
        print(f"left out, one build does not have it: {name}", file=sys.stderr)
    return [row for row in wanted if row.name not in missing]


def compare(arguments, directories, directory):
    comparison = Comparison(arguments, directories, directory)
    rows = make_rows(arguments, comparison)
    with_instructions = not arguments.only or re.search(arguments.only, "instructions") is not None
    if arguments.list:
        print("\n".join(row.name for row in rows))
        return 0
    if not rows and not with_instructions:
        print(f"tests/bench/compare: no row matches '{arguments.only}'; --list prints their names",
              file=sys.stderr)
        return 1
    if any(row.group == "growth" for row in rows):
        comparison.suite.warm_up()
    npairs = comparison.run(rows)
    results = make(comparison, rows, npairs, comparison.count_instructions() if with_instructions else None)
    if arguments.output:
        with open(arguments.output, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)
            file.write("\n")
    show(results)
    return 1 if results["failures"] else 0


def main():
    arguments = parse_arguments()
    directories = {"old": os.path.abspath(arguments.old), "new": os.path.abspath(arguments.new)}
    wrong = check_builds(directories)
    if wrong:
        print(f"tests/bench/compare: {wrong}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="goalloc-compare-") as directory:
        return compare(arguments, directories, directory)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, suite.interrupt)
    signal.signal(signal.SIGTERM, suite.interrupt)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("tests/bench/compare: interrupted")
