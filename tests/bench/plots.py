"""The benchmark suite's plots: data files and gnuplot scripts, and PNG files made of them. Called by report.py."""

import os
import shutil
import subprocess
import sys

COLOURS = {"goalloc": "#c0392b", "mimalloc": "#2980b9", "jemalloc": "#27ae60", "tcmalloc": "#8e44ad",
           "glibc": "#7f8c8d", "boost": "#d68910"}


def bars_script(title, axis, rows, columns, name):
    """Horizontal bars from 1 to the ratio, on a logarithmic axis: left is better."""
    height = 110 + 17 * len(rows)
    share = 0.8 / len(columns)
    ticks = ", ".join(f'"{row}" {-i}' for i, row in enumerate(rows))
    parts = []
    for k, (text, colour) in enumerate(columns):
        low = 0.4 - share * k
        parts.append(f'"{name}.dat" using (1):(-$0+{low:.3f}):(($%d<1)?$%d:1):(($%d<1)?1:$%d):(-$0+{low - share:.3f}):'
                     f'(-$0+{low:.3f}) with boxxyerror title "{text}" linecolor rgb "{colour}"'
                     % ((k + 1,) * 4))
    return f"""set terminal pngcairo size 1000,{height} font "sans,9"
set output "{name}.png"
set title "{title}"
set style fill solid 0.9 noborder
set logscale x 2
set xlabel "{axis}"
set ytics ({ticks})
set yrange [{-len(rows) + 0.4}:0.6]
set grid xtics
set key outside top center horizontal
set arrow from 1, graph 0 to 1, graph 1 nohead linewidth 2 front
set datafile missing "?"
plot {', '.join(parts)}
"""


def write_data(path, rows):
    with open(path, "w", encoding="utf-8") as file:
        for row in rows:
            file.write(" ".join("?" if v is None else f"{v:.4f}" for v in row) + "\n")


def plot_ratios(results, directory):
    rows = [r for r in results["rows"] if r["ratios"].get("mimalloc")]
    if not rows:
        return None
    write_data(os.path.join(directory, "ratios.dat"), [(r["ratios"]["mimalloc"], r["best_ratio"]) for r in rows])
    return bars_script("Time, goalloc / peer (" + results["machine"]["cpu"] + ")", "ratio: left of 1 goalloc is faster",
                       [r["name"] for r in rows],
                       [("to mimalloc", COLOURS["mimalloc"]), ("to the best peer", COLOURS["boost"])], "ratios")


def plot_memory(results, directory):
    rows = [r for r in results["rows"] if r["memory_ratio"]]
    if not rows:
        return None
    write_data(os.path.join(directory, "memory.dat"), [(r["memory_ratio"],) for r in rows])
    return bars_script("Peak memory, goalloc / mimalloc", "ratio: left of 1 goalloc is smaller",
                       [r["name"] for r in rows], [("to mimalloc", COLOURS["mimalloc"])], "memory")


def plot_sizes(results, directory):
    """ns of pairs and batches, one thread, by size."""
    panels = []
    for group in ("pairs", "batches"):
        rows = sorted((r for r in results["rows"] if r["group"] == group and r["way"] == "1t"), key=lambda r: r["size"])
        if len(rows) < 2:
            continue
        names = [a for a in COLOURS if any(a in r["allocators"] for r in rows)]
        write_data(os.path.join(directory, f"sizes-{group}.dat"),
                   [[r["size"]] + [r["allocators"].get(a, {}).get("ns_per_op") for a in names] for r in rows])
        lines = ", ".join(f'"sizes-{group}.dat" using 1:{i + 2} with linespoints title "{a}" linewidth '
                          f'{3 if a == "goalloc" else 1.5} linecolor rgb "{COLOURS[a]}"' for i, a in enumerate(names))
        panels.append(f'set title "{group}, 1 thread"\nplot {lines}')
    if not panels:
        return None
    body = "\n".join(panels)
    return f"""set terminal pngcairo size 1200,520 font "sans,10"
set output "sizes.png"
set multiplot layout 1,{len(panels)}
set logscale xy
set logscale x 2
set xlabel "bytes"
set ylabel "ns for malloc + free"
set grid
set key top left
set datafile missing "?"
{body}
unset multiplot
"""


def draw(results, directory):
    """Returns the names of the files written."""
    written = []
    for name, make in (("ratios", plot_ratios), ("memory", plot_memory), ("sizes", plot_sizes)):
        script = make(results, directory)
        if script is None:
            continue
        path = os.path.join(directory, name + ".gnuplot")
        with open(path, "w", encoding="utf-8") as file:
            file.write(script)
        if shutil.which("gnuplot") is None:
            print("gnuplot is not there: no plots", file=sys.stderr)
            return written
        done = subprocess.run(["gnuplot", name + ".gnuplot"], cwd=directory, capture_output=True, text=True,
                              check=False)
        if done.returncode == 0:
            written.append(name + ".png")
        else:
            print(f"gnuplot: {done.stderr.strip()[:500]}", file=sys.stderr)
    return written
