"""What the programs of this directory share: a heap, processes with what they cost, free ports, tables.

Everything lies in one temporary directory, and all processes that are started here end with the test: World is a
context manager, and takes SIGTERM and SIGINT for an exception. If it is killed nevertheless, a guard does the rest:
this file as a program, which waits for the end of its standard input. Processes are found by a variable of their
environment.
"""

import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

MARK = "GOALLOC_PROGRAMS_WORLD"
PATIENCE_S = 60  # how long something that must happen may take on a busy machine


def wait_for(what, condition, patience_s=PATIENCE_S):
    """Wait until the condition holds. What it returned."""
    end = time.monotonic() + patience_s
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > end:
            raise AssertionError(f"it never came: {what}")
        time.sleep(0.02)


def free_port(kind):
    """A port of 127.0.0.1 that is free now; kind: socket.SOCK_DGRAM or SOCK_STREAM."""
    with socket.socket(socket.AF_INET, kind) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def children_of(pid):
    """All processes that descend from pid, and itself, as long as they live."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = open(f"/proc/{name}/stat", encoding="utf-8").read().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if fields[0] != "Z":
                parents[int(name)] = int(fields[1])
    found = [pid] if pid in parents else []
    for one in found:  # grows as it goes
        found += [child for child, parent in parents.items() if parent == one]
    return found


def cpu_s(pids):
    """Processor time that these have used, all threads, user and system: by the clock that each process has."""
    total = 0
    for pid in pids:
        try:
            total += time.clock_gettime(~pid << 3 | 2)
        except OSError:
            continue
    return total


def pss_mib(pids):
    """Memory of these processes, without what they have mapped of the heap: what several have mapped counts once."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps", encoding="utf-8") as lines:
                is_heap = False
                for line in lines:
                    if "-" in line.split(" ", 1)[0]:  # a mapping's first line
                        is_heap = any(f"/memfd:goalloc-{part}" in line for part in ("arena", "spans", "bitmap"))
                    elif line.startswith("Pss:") and not is_heap:
                        total += int(line.split()[1])
        except OSError:
            continue
    return total / 1024


def prefer(pids):
    """
    Give the sessions of these processes, and this one's, priority over all others: a lock for which two processes wait
    costs what it does only if both run. The kernel groups processes by session, so their own priorities say nothing.
    """
    for pid in [*pids, os.getpid()]:
        with open(f"/proc/{pid}/autogroup", "w", encoding="utf-8") as group:
            group.write("-19")


def kill_all_of(directory):
    """All processes that a world with this directory has started, and theirs; also those whose parents are gone."""
    mark = f"{MARK}={directory}".encode()
    for _ in range(50):  # until none is found: one may have forked meanwhile
        found = []
        for name in os.listdir("/proc"):
            try:
                with open(f"/proc/{name}/environ", "rb") as environ:
                    if mark in environ.read().split(b"\0"):
                        found.append(int(name))
            except (OSError, ValueError):
                continue
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if not found:
            return
        time.sleep(0.02)


def guard(directory):
    """Wait for the end of a world, and remove what it has left."""
    sys.stdin.read()
    kill_all_of(directory)
    shutil.rmtree(directory, ignore_errors=True)


def medians(names, runs, measure):
    """What measure(name) returns, some figures, of each name: their medians. Each round has all, in another order."""
    found = {name: [] for name in names}
    for run in range(runs):
        order = list(names)
        random.Random(run).shuffle(order)
        for name in order:
            found[name].append(measure(name))
            print(f"round {run + 1} of {runs}, {name}", flush=True)
    return {name: [statistics.median(figures) for figures in zip(*rounds)] for name, rounds in found.items()}


class World:
    """A temporary directory, and a goallocd with a keeper in it."""

    def __init__(self, build):
        self.build = build
        self.dir = tempfile.mkdtemp(prefix="programs-", dir=os.environ.get("GOALLOC_TEST_DIR"))
        self.socket = os.path.join(self.dir, "s")
        self.processes = []
        self.daemon = None
        os.mkdir(os.path.join(self.dir, "state"), 0o700)
        # In a session of its own, so that an interrupt from the terminal leaves it alone.
        self.guard = subprocess.Popen([sys.executable, "-B", os.path.abspath(__file__), self.dir],
                                      stdin=subprocess.PIPE, start_new_session=True)

    def __enter__(self):
        def leave(number, _frame):
            raise SystemExit(f"signal {number}")

        signal.signal(signal.SIGTERM, leave)
        return self

    def __exit__(self, *_):
        kill_all_of(self.dir)  # the keeper, too
        for process in self.processes:
            process.wait()
        self.guard.stdin.close()
        self.guard.wait()

    def path(self, name):
        return os.path.join(self.dir, name)

    def start(self, command, log, env=None, **popen):
        """A process that ends with the world; its output goes to a file."""
        env = {**(os.environ if env is None else env), MARK: self.dir}
        with open(self.path(log), "ab") as out:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                       cwd=self.dir, env=env, **popen)
        self.processes.append(process)
        return process

    def log(self, name):
        with open(self.path(name), encoding="utf-8", errors="replace") as lines:
            return lines.read()

    def start_daemon(self):
        self.daemon = self.start([os.path.join(self.build, "daemon/goallocd"), "--socket", self.socket, "--state-dir",
                                  self.path("state"), "--on-stop", "drop"], "daemon.log")
        wait_for("the daemon", self.daemon_answers)

    def daemon_answers(self):
        assert self.daemon.poll() is None, self.log("daemon.log")
        return self.ctl("ping", check=False).returncode == 0

    def kill_daemon(self):
        self.daemon.kill()
        self.daemon.wait()
        self.processes.remove(self.daemon)

    def stop_daemon(self):
        self.daemon.terminate()
        status = self.daemon.wait(PATIENCE_S)
        self.processes.remove(self.daemon)
        self.daemon = None
        assert status == 0, f"the daemon ended with {status}: {self.log('daemon.log')}"

    def ctl(self, *arguments, check=True):
        return subprocess.run([os.path.join(self.build, "client/ctl/goallocctl"), "--socket", self.socket, *arguments],
                              check=check, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def stats(self):
        return json.loads(self.ctl("--json", "stats").stdout)

    def memory_mib(self, pids):
        """Of these processes, and of the heap, if there is one: all that it has, touched or not."""
        heap = 0
        if self.daemon is not None:
            stats = self.stats()
            heap = (stats["committed_bytes"] + stats["metadata_bytes"]) / (1 << 20)
        return pss_mib(pids) + heap

    def expect_nothing_left(self):
        """All sessions have ended, and no object is left; the daemon's tables are right."""
        def is_empty():
            stats = self.stats()
            return stats["live_objects"] == 0 and stats["sessions"] == 0

        try:
            wait_for("an empty heap", is_empty)
        except AssertionError:
            print(self.ctl("stats").stdout, self.ctl("sessions").stdout)
            raise
        self.ctl("check")


def environment(**more):
    """This process's, for a child."""
    return {**os.environ, **more}


def machine():
    """A line about it, for the tables."""
    model = "?"
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return f"{os.cpu_count()} processors ({model}), Linux {os.uname().release}"


def table(title, head, rows, file):
    """Print a table in Markdown, and append it to the file."""
    lines = [f"### {title}", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    text = "\n".join(lines) + "\n\n"
    sys.stdout.write("\n" + text)
    sys.stdout.flush()
    with open(file, "a", encoding="utf-8") as out:
        out.write(text)


if __name__ == "__main__":
    guard(sys.argv[1])
