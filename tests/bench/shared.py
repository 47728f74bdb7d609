"""Other allocators in shared memory: the rows and the table of tests/bench/run --shared.

Called by suite.py. Each does the same operations; who works in several processes has one segment (goalloc: one heap)
for all of them. A peer that was not built is left out.
"""

import statistics

PEERS = {
    "boost": "Boost.Interprocess",
    "dsa": "PostgreSQL's DSA",
    "rmm": "APR, apr_rmm",
    "kamailio-fm": "Kamailio, f_malloc",
    "kamailio-qm": "Kamailio, q_malloc",
    "kamailio-tlsf": "Kamailio, TLSF",
}
OPERATIONS = 100000
SIZES = [64, 1024]


def make_rows(row, quick):
    """row makes one, as suite.Row does."""
    rows = []
    for group, ways in (("pairs", ("1t", "2p")), ("batches", ("1t", "2p")), ("prodcons", ("2p",))):
        for way in ways:
            for size in SIZES[:1] if quick else SIZES:
                rows.append(row(group, way, ["--size", str(size), "--ops", str(OPERATIONS)], f"{size} B",
                                ("goalloc", *PEERS), size=size))
    return rows


def show(rows):
    who = [a for a in PEERS if any(a in row.samples for row in rows)]
    width = max(len(row.name) for row in rows)
    print("Allocators in shared memory: ns an operation of one worker, medians; and that divided by goalloc's.")
    print(f"{'':{width}} {'goalloc':>9}" + "".join(f"{a:>20}" for a in who))
    for row in rows:
        medians = {a: statistics.median(s["ns_per_op"] for s in samples) for a, samples in row.samples.items()}
        ours = medians.get("goalloc")
        line = f"{row.name:{width}} " + (f"{ours:9.1f}" if ours else f"{'-':>9}")
        for a in who:
            line += f"{medians[a]:11.1f} {medians[a] / ours:7.1f}x" if ours and a in medians else f"{'-':>20}"
        print(line)
    print("; ".join(f"{a}: {PEERS[a]}" for a in who))
    for a in PEERS:
        if a not in who:
            print(f"{a} is not there; it is left out")


def results(rows):
    return [{"name": row.name, "samples": {a: [s["ns_per_op"] for s in samples] for a, samples in row.samples.items()}}
            for row in rows]
