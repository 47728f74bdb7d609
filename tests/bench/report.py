"""What the benchmark suite makes of its samples: medians, ratios, bars, the table, results.json.

Called by suite.py; calls plots.py. A ratio is goalloc's median divided by the peer's, of one run: below 1, goalloc is
faster (or smaller). Nothing here judges the machine: it is named, so that a reader can.
"""

import json
import math
import os
import platform
import re
import statistics
import subprocess
import time

import plots

PEERS = ["mimalloc", "jemalloc", "tcmalloc", "glibc"]
SMALL_BYTES = 2 << 20  # below it a ratio of memory says nothing


def read(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def first(pattern, text, default="unknown"):
    found = re.search(pattern, text, re.MULTILINE)
    return found.group(1).strip() if found else default


def output_of(command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except OSError:
        return ""


def describe_machine(build_directory):
    thp = "/sys/kernel/mm/transparent_hugepage/"
    compiler = first(r"^CMAKE_C_COMPILER:\w+=(.*)$", read(os.path.join(build_directory, "CMakeCache.txt")), "cc")
    packages = ["libmimalloc2.0", "libjemalloc2", "libtcmalloc-minimal4", "libc6", "libboost-dev"]
    versions = output_of(["dpkg-query", "-W", "-f", "${Package} ${Version}\\n", *packages]).split("\n")
    return {
        "cpu": first(r"^model name\s*:\s*(.*)$", read("/proc/cpuinfo"), platform.machine()),
        "cores": os.cpu_count(),
        "virtual": re.search(r"^flags.*\bhypervisor\b", read("/proc/cpuinfo"), re.MULTILINE) is not None,
        "memory_bytes": int(first(r"^MemTotal:\s*(\d+)", read("/proc/meminfo"), "0")) * 1024,
        "kernel": platform.release(),
        "distribution": first(r'^PRETTY_NAME="?([^"\n]*)', read("/etc/os-release")),
        "thp_enabled": first(r"\[(\w+)\]", read(thp + "enabled")),
        "thp_shmem_enabled": first(r"\[(\w+)\]", read(thp + "shmem_enabled")),
        "compiler": output_of([compiler, "--version"]).split("\n")[0],
        "flags": read(os.path.join(build_directory, "tests", "bench", "flags.txt")).strip(),
        "versions": sorted(set(v for v in versions if v)),
        "load_average": read("/proc/loadavg").split(" ")[0],
    }


def median(samples, field):
    values = [s[field] for s in samples if s.get(field) is not None]
    return statistics.median(values) if values else None


def geometric_mean(values):
    return math.exp(sum(math.log(v) for v in values) / len(values)) if values else None


def ratio(a, b):
    return a / b if a and b else None


def summarise(row):
    """One row of the results: medians by allocator, ratios to the peers."""
    allocators = {}
    for name, samples in row.samples.items():
        allocators[name] = {
            "ns_per_op": median(samples, "ns_per_op"),
            "samples_ns": [s["ns_per_op"] for s in samples],
            "peak_bytes": median(samples, "peak_bytes"),
            "rpcs": median(samples, "rpcs"),
            "daemon_ns_per_op": median(samples, "daemon_ns_per_op"),
            "ops": median(samples, "ops"),
        }
    ours = allocators.get("goalloc", {})
    ratios = {a: ratio(ours.get("ns_per_op"), v["ns_per_op"]) for a, v in allocators.items() if a != "goalloc"}
    peers = {a: r for a, r in ratios.items() if a in PEERS and r}
    best = max(peers, key=peers.get) if peers else None
    daemon_ns = ours.get("daemon_ns_per_op")
    with_daemon = None if daemon_ns is None or not best else ratio(ours["ns_per_op"] + daemon_ns,
                                                                   allocators[best]["ns_per_op"])
    small = min(ours.get("peak_bytes") or 0, allocators.get("mimalloc", {}).get("peak_bytes") or 0) < SMALL_BYTES
    return {
        "name": row.name,
        "group": row.group,
        "way": row.way,
        "size": row.size,
        "allocators": allocators,
        "ratios": ratios,
        "best_peer": best,
        "best_ratio": peers.get(best),
        "daemon_ns": daemon_ns,
        "best_ratio_with_daemon": with_daemon,
        "memory_ratio": None if small else ratio(ours["peak_bytes"], allocators["mimalloc"]["peak_bytes"]),
        "rpcs_per_100k": ours["rpcs"] * 1e5 / ours["ops"] if ours.get("rpcs") is not None else None,
    }


# --- bars ---


def bar(name, limit, value, less=True, note="", why_not="not measured"):
    """reached is None if there is nothing to judge. less: the limit is the most, else the least."""
    reached = None
    if value is not None:
        reached = value <= limit if less else value >= limit
    return {"name": name, "limit": limit, "less": less, "value": value, "reached": reached,
            "note": note if value is not None else why_not}


def worst(values):
    """The highest of (value, name), those without a value aside."""
    known = [(v, n) for v, n in values if v is not None]
    return max(known) if known else (None, "")


def is_one_thread(row):
    return row["way"] == "1t"


def is_of_bits(row):
    """Operations of a few nanoseconds, of which the bits that make deaths harmless are 1.5."""
    return is_one_thread(row) and (row["group"] == "threadtest" or (row["group"] == "batches" and row["size"] <= 64))


# A row belongs to the first that takes it.
ROW_BARS = (
    ("batches up to 64 B and threadtest, one thread", 1.45, is_of_bits),
    ("recorded programs", 1.2, lambda r: r["group"] == "trace"),
    ("other rows of one thread", 1.3, is_one_thread),
    ("growth of two processes", 1.8, lambda r: r["group"] == "growth"),
    ("producer and consumer", 0.45, lambda r: r["group"] == "prodcons"),
    ("other rows of two threads or processes", 1.5, lambda r: True),
)


def judge(rows, extra):
    in_process = [r for r in rows if r["ratios"].get("mimalloc")]
    bars = [bar("geometric mean of all in-process rows against mimalloc", 0.8,
                geometric_mean([r["ratios"]["mimalloc"] for r in in_process]), note=f"{len(in_process)} rows")]

    others = in_process
    for kind, limit, belongs in ROW_BARS:
        those = [r for r in others if belongs(r)]
        others = [r for r in others if not belongs(r)]
        value, name = worst([(r["best_ratio"], f"{r['name']}: {r['best_peer']}") for r in those])
        above = sum(1 for r in those if r["best_ratio"] > limit)
        bars.append(bar(f"worst row against its best peer, {kind}", limit, value,
                        note=f"{name}; {above} of {len(those)} rows are above"))

    counts = extra["instructions"]
    bars.append(bar("instructions of malloc + free, 64 bytes", 70, counts and counts["with_loop"],
                    note=counts and f"with the loop; {counts['without_loop']:.1f} without its {counts['loop']:.1f}"))

    boost = [(ratio(1, r["ratios"].get("boost")), r) for r in rows if r["ratios"].get("boost")]
    across = [v for v, r in boost if r["group"] == "prodcons"]
    bars.append(bar("producer/consumer across processes: times faster than Boost.Interprocess", 15,
                    min(across) if across else None, less=False))
    single = [(v, r["name"]) for v, r in boost if r["group"] != "prodcons"]
    least = min(single) if single else (0, "")
    bars.append(bar("pairs and batches, one process: times faster than Boost.Interprocess", 15,
                    geometric_mean([v for v, _ in single]), less=False,
                    note=f"geometric mean; least {least[0]:.1f}: {least[1]}"))

    value, name = worst([(r["ratios"].get("mimalloc"), r["name"]) for r in rows
                         if r["group"] == "growth" and is_one_thread(r)])
    bars.append(bar("fresh growth to 1 GiB, touched, one process, against mimalloc", 0.85, value,
                    note=f"the worst: {name}"))

    rpc = extra["rpc"] or {}
    for field, text, limit, less, other in (
            ("round_trip_ratio", "refill round trip against a bare libuv echo", 1.3, True, "library_round_trip_ratio"),
            ("rate_ratio", "refills per second from 64 clients against the bare echo", 0.6, False, "cold_rate_ratio"),
            ("client_bytes", "daemon's resident bytes per attached client, of 1000", 16384, True, None)):
        note = f"{other.replace('_', ' ')} {rpc[other]:.2f}" if other in rpc else ""
        bars.append(bar(text, limit, rpc.get(field), less, note=note, why_not="not built or not asked for"))

    for group, why_not in (("trace", f"traces: {extra['no_traces']}"), ("larson", "not measured")):
        value, name = worst([(r["memory_ratio"], r["name"]) for r in rows if r["group"] == group])
        bars.append(bar(f"peak memory of {group} against mimalloc", 1.1, value, note=f"the worst: {name}",
                        why_not=why_not))

    value, name = worst([(r["best_ratio_with_daemon"], f"{r['name']}: {r['best_peer']}") for r in rows
                         if r["group"] == "trace"])
    bars.append(bar("recorded programs against the best peer, the daemon's CPU time added", 1.3, value,
                    note=f"the worst: {name}", why_not=f"traces: {extra['no_traces']}"))

    value, name = worst([(r["rpcs_per_100k"], r["name"]) for r in rows if r["group"] == "churn"])
    bars.append(bar("requests to the daemon per 100,000 operations of churn", 1.0, value, note=f"the worst: {name}"))
    return bars


def make(rows, extra, arguments, build_directory):
    summaries = [summarise(row) for row in rows if row.samples]
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": describe_machine(build_directory),
        "repetitions": arguments.repetitions,
        "rows": summaries,
        "instructions": extra["instructions"],
        "rpc": extra["rpc"],
        "bars": judge(summaries, extra),
    }


# --- output ---


def write(results, directory):
    with open(os.path.join(directory, "results.json"), "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1)
        file.write("\n")


def number(value, form="{:.2f}"):
    return "-" if value is None else form.format(value)


def bytes_text(value):
    return "-" if value is None else f"{value / 1048576:.1f}"


def table_lines(rows):
    columns = [*PEERS, "boost"]
    head = f"{'':34} {'goalloc':>9} | {'ratio of goalloc to':>20}{'':35} | {'with daemon':>11} | {'memory, MiB':>21}"
    names = f"{'row':34} {'ns/op':>9} | " + " ".join(f"{c:>8}" for c in columns)
    yield head
    yield f"{names} {'best':>10} | {'ns':>5} {'best':>5} | {'goalloc':>7} {'mimallo':>7} {'ratio':>5} {'RPCs':>6}"
    for r in rows:
        ours = r["allocators"].get("goalloc", {})
        best = f"{number(r['best_ratio'])}{' ' + r['best_peer'][:2] if r['best_peer'] else ''}"
        mark = "*" if (r["best_ratio"] or 0) > 1.5 else " "
        yield (f"{r['name']:34} {number(ours.get('ns_per_op'), '{:.1f}'):>9} | "
               + " ".join(f"{number(r['ratios'].get(c)):>8}" for c in columns)
               + f" {best:>9}{mark} | {number(r['daemon_ns'], '{:.1f}'):>5} {number(r['best_ratio_with_daemon']):>5}"
               + f" | {bytes_text(ours.get('peak_bytes')):>7}"
               + f" {bytes_text(r['allocators'].get('mimalloc', {}).get('peak_bytes')):>7}"
               + f" {number(r['memory_ratio']):>5} {number(ours.get('rpcs'), '{:.0f}'):>6}")


def show(results, directory):
    machine = results["machine"]
    print(f"machine: {machine['cpu']}, {machine['cores']} cores{', virtual' if machine['virtual'] else ''}, "
          f"{machine['memory_bytes'] / 2**30:.1f} GiB")
    print(f"system:  {machine['distribution']}, Linux {machine['kernel']}, transparent huge pages "
          f"{machine['thp_enabled']} (shared memory: {machine['thp_shmem_enabled']})")
    print(f"built:   {machine['compiler']}, {machine['flags']}")
    print(f"peers:   {', '.join(machine['versions']) or 'versions unknown'}")
    print(f"medians of {results['repetitions']} repetitions, interleaved; ratios are goalloc / peer, below 1 goalloc "
          "is better;\n* above 1.5 of the best peer (mi, je, tc, gl)\n")
    for line in table_lines(results["rows"]):
        print(line.rstrip())
    print()
    for name in PEERS:
        values = [r["ratios"][name] for r in results["rows"] if r["ratios"].get(name)]
        if values:
            print(f"geometric mean against {name:9} {geometric_mean(values):.2f} over {len(values)} rows")
    print("\nbars:")
    for b in results["bars"]:
        state = {True: "reached", False: "NOT REACHED", None: "-"}[b["reached"]]
        value = number(b["value"], "{:.0f}" if (b["value"] or 0) >= 1000 else "{:.2f}")
        limit = f"{'<=' if b['less'] else '>='} {b['limit']:g}"
        print(f"  {state:11} {value:>8} {limit:>9}  {b['name']}{' (' + b['note'] + ')' if b['note'] else ''}")
    for failure in results["failures"]:
        print(f"FAILED: {failure}")
    written = ["results.json"] + plots.draw(results, directory)
    print(f"\nwritten to {directory}: {', '.join(written)}")
