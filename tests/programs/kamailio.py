#!/usr/bin/env python3
"""Kamailio with its shared memory in the heap, tested and compared with its own allocators: see --help."""

import argparse
import collections
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time

import world
from world import PATIENCE_S, children_of, cpu_s, free_port, wait_for

HERE = os.path.dirname(os.path.abspath(__file__))
MANAGERS = {"goalloc": "goalloc", "fm": "f_malloc", "qm": "q_malloc", "tlsf": "TLSF"}


class Kamailio:
    """A server; `manager` is whose its shared memory is, by Kamailio's names or "goalloc"."""

    def __init__(self, here, options, manager, workers=4, megabytes=256, keep_running=False,
                 remember_ms=50):
        self.here = here
        self.options = options
        self.manager = manager
        self.port = free_port(socket.SOCK_DGRAM)
        self.behind = free_port(socket.SOCK_DGRAM)
        self.control = here.path(f"control-{self.port}")
        self.log_name = f"kamailio-{self.port}.log"
        lines = []
        if manager == "goalloc":
            lines.append(f'loadmodule "{options.module}"')
            if keep_running:
                lines.append('modparam("goalloc", "keep_running", 1)')
        config = here.path(f"kamailio-{self.port}.cfg")
        gateways = here.path(f"gateways-{self.port}")
        with open(gateways, "w", encoding="utf-8") as out:
            for i in range(16):
                out.write(f"1 sip:127.0.0.{i + 1}:{self.behind} 0 0 weight=50;duid=gateway{i};location=rack{i % 4}\n")
        with open(os.path.join(HERE, "kamailio/kamailio.cfg"), encoding="utf-8") as source:
            text = source.read()
        for name, value in (("WORKERS", workers), ("PORT", self.port), ("BEHIND", self.behind),
                            ("MODULES", options.modules), ("GATEWAYS", gateways), ("REMEMBER_MS", remember_ms),
                            ("CHURN", os.path.join(os.path.dirname(options.module), "churn.so")),
                            ("CONTROL", self.control), ("MANAGER", "\n".join(lines))):
            text = text.replace(f"@{name}@", str(value))
        with open(config, "w", encoding="utf-8") as out:
            out.write(text)
        # Private memory is f_malloc's for all. With goalloc, so is what is allocated before the module is loaded.
        self.process = here.start(
            [options.kamailio, "-f", config, "-DD", "-E", "-m", str(megabytes), "-M", "8", "-X", "fm", "-x",
             "fm" if manager == "goalloc" else manager, "-Y", here.dir], self.log_name,
            env=options.environment(GOALLOC_SOCKET=here.socket), start_new_session=True)
        client = Client(self.port)
        wait_for("an answer of Kamailio", lambda: self.lives() and client.value("nothing", patience_s=0.2) is not None)
        client.close()

    def log(self):
        return self.here.log(self.log_name)

    def lives(self):
        assert self.process.poll() is None, f"Kamailio ended with {self.process.returncode}:\n{self.log()[-4000:]}"
        return True

    def pids(self):
        return children_of(self.process.pid)

    def workers(self):
        """Those that take requests."""
        found = []
        for pid in self.pids():
            if pid != self.process.pid and self.rank_of(pid) == "udp receiver":
                found.append(pid)
        return found

    def rank_of(self, pid):
        if not hasattr(self, "ranks"):
            text = self.command("core.psx")
            self.ranks = {int(one): rank for one, rank in
                          re.findall(r"PID: (\d+)[^}]*?DSC: (udp receiver|[^\n]*)", text, re.S)}
        return self.ranks.get(pid)

    def command(self, *words):
        return subprocess.run([self.options.kamcmd, "-s", f"unix:{self.control}", *words], check=True,
                              stdout=subprocess.PIPE, text=True, timeout=PATIENCE_S).stdout

    def memory_told(self):
        """What Kamailio says of it: total, used, max_used, ..."""
        return {key: int(value) for key, value in re.findall(r"(\w+): (\d+)", self.command("core.shmmem"))}

    def stop(self):
        self.process.terminate()
        self.process.wait(PATIENCE_S)
        self.here.processes.remove(self.process)

    def kill(self):
        """All of its processes at once."""
        for pid in self.pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()
        self.here.processes.remove(self.process)


class NoAnswer(Exception):
    """Nobody answers: a dead worker held a lock of Kamailio's own."""


class Client:
    """SIP requests over UDP that are answered at once, and their answers."""

    def __init__(self, port):
        self.port = port
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.own = self.socket.getsockname()[1]
        self.number = 0

    def close(self):
        self.socket.close()

    def send(self, method, headers):
        """The request's number."""
        self.number += 1
        more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.socket.send(
            f"{method} sip:test@127.0.0.1:{self.port} SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP 127.0.0.1:{self.own};branch=z9hG4bK-{self.own}-{self.number}\r\n"
            f"From: <sip:client@127.0.0.1:{self.own}>;tag={self.own}\r\nTo: <sip:test@127.0.0.1:{self.port}>\r\n"
            f"Call-ID: {self.number}-{self.own}\r\nCSeq: {self.number} {method}\r\nMax-Forwards: 10\r\n"
            f"{more}Content-Length: 0\r\n\r\n".encode())
        return self.number

    def receive(self, patience_s):
        """(number, reason) of the next answer; None if none comes in time, or nobody is there."""
        self.socket.settimeout(patience_s)
        try:
            text = self.socket.recv(65536).decode()
        except (TimeoutError, ConnectionRefusedError):
            return None
        number = re.search(r"^CSeq: *(\d+)", text, re.M)
        status, reason = text.split("\r\n", 1)[0].split(" ", 2)[1:]
        assert status == "200", text
        return int(number.group(1)), reason

    def ask(self, method, headers, patience_s=2.0):
        """The reason phrase of the answer; None: there is none in time."""
        number = self.send(method, headers)
        end = time.monotonic() + patience_s
        while (left := end - time.monotonic()) > 0:
            answer = self.receive(left)
            if answer is None:
                time.sleep(0.01)
            elif answer[0] == number:
                return answer[1]
        return None

    def insist(self, method, headers):
        """The same, or NoAnswer; asked again, since the first one may have been in the hands of a worker that died."""
        for _ in range(3):
            reason = self.ask(method, headers, 1.0)
            if reason is not None:
                return reason
        raise NoAnswer

    def value(self, key, patience_s=2.0):
        reason = self.ask("INFO", {"X-Key": key}, patience_s)
        return None if reason is None else reason.removeprefix("value ")

    def store(self, key, value, patience_s=2.0):
        return self.ask("MESSAGE", {"X-Key": key, "X-Value": value}, patience_s) is not None


# What the server is kept busy with, by kamailio/load: what, how many a round and before it, at once, more arguments,
# operations of each request. Of calls so many live at the same time as the number behind BEHIND says. What goes before
# a round is until the server has touched the memory that it needs, as one has that runs for days.
Load = collections.namedtuple("Load", "what count before at_once more each", defaults=(1,))
LOADS = {
    "calls": Load("calls through it (tm)", 20000, 30000, 64, ("BEHIND", 500, "service")),
    "dialogs": Load("calls whose state it keeps, 4000 live at once (dialog)", 20000, 30000, 64,
                    ("BEHIND", 4000, "dialog")),
    "gateways": Load("calls to one of 16 gateways (dispatcher)", 20000, 30000, 64, ("BEHIND", 500, "balanced")),
    "register": Load("registrations of 20000 users (usrloc)", 60000, 60000, 64, (20000,)),
    "stores": Load("stores from its script (htable)", 800, 400, 16, (), 1000),
    "objects": Load("objects replaced (its shm_malloc and shm_free alone)", 400, 40, 16, (), 10000),
}


def load_run(options, server, name, count):
    """So many requests or calls, and all answers."""
    load = LOADS[name]
    more = [server.behind if one == "BEHIND" else one for one in load.more]
    kind = "calls" if "BEHIND" in load.more else name
    program = os.path.join(os.path.dirname(options.module), "load")
    subprocess.run([program, kind, *(str(one) for one in (server.port, count, load.at_once, *more))], check=True,
                   timeout=PATIENCE_S + count / 10)


def test_bad_start(options):
    """Without a daemon Kamailio says so and does not start; its configuration can be checked nevertheless."""
    with world.World(options.build) as here:
        config = here.path("few.cfg")
        with open(config, "w", encoding="utf-8") as out:
            out.write(f'disable_tcp=yes\nlisten=udp:127.0.0.1:{free_port(socket.SOCK_DGRAM)}\n'
                      f'loadmodule "{options.module}"\nrequest_route {{ exit; }}\n')
        command = [options.kamailio, "-f", config, "-DD", "-E", "-Y", here.dir]
        environment = options.environment(GOALLOC_SOCKET=here.path("nobody"))
        ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               timeout=PATIENCE_S, check=False)
        assert ended.returncode != 0 and "no shared heap" in ended.stdout and "nobody" in ended.stdout, ended.stdout
        ended = subprocess.run(command[:3] + ["-c"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               text=True, timeout=PATIENCE_S, check=False)
        assert ended.returncode == 0, ended.stdout


def test_sums_and_limit(options):
    """The sums by module are those of what lives; -m is the limit, and the server goes on behind it."""
    with world.World(options.build) as here:
        here.start_daemon()
        server = Kamailio(here, options, "goalloc", megabytes=16)
        client = Client(server.port)
        before = server.memory_told()
        assert before["total"] == 16 << 20, before
        wait_for("their labels", lambda: here.ctl("sessions").stdout.count("udp receiver child=") == 4)
        assert " kamaili" in here.ctl("sessions").stdout
        for i in range(100):
            assert client.store(f"k{i}", "x" * 1000)
        after = server.memory_told()
        grown = after["used"] - before["used"]
        assert 100 * 1000 < grown < 100 * 1300, (before, after)
        text = server.command("mod.stats", "htable", "shm")
        counted = re.search(r"ht_cell_new\(\d+\): (\d+)", text)
        assert counted and 100 * 1000 < int(counted.group(1)) < 100 * 1300, text
        # What does not fit is refused; then Kamailio answers all the same, and keeps what it has.
        for i in range(100, 20000):
            client.store(f"k{i}", "x" * 1000)
            if i % 500 == 0 and server.memory_told()["used"] > (16 << 20) - 4096:
                break
        full = server.memory_told()
        # Other processes have reserved up to 128 KiB each that they do not use.
        assert (16 << 20) - 4 * 131072 < full["used"] <= 16 << 20, full
        assert "no " in server.log() and "bytes of shared memory" in server.log()
        assert client.value("k5") == "x" * 1000 and client.value("k99999999") is not None
        assert here.stats()["live_bytes"] <= 17 << 20, here.stats()
        client.close()
        server.stop()
        here.expect_nothing_left()
        here.stop_daemon()


def test_calls(options):
    """All calls of the allocator do what they should; a module that frees twice, or writes before one, is told of."""
    with world.World(options.build) as here:
        here.start_daemon()
        server = Kamailio(here, options, "goalloc")
        client = Client(server.port)
        before = server.memory_told()
        for _ in range(8):
            assert client.ask("REFER", {}, PATIENCE_S) == "right", server.log()[-3000:]
        after = server.memory_told()
        assert after["used"] == before["used"] and after["fragments"] == before["fragments"], (before, after)
        assert "BUG" not in server.log(), server.log()[-3000:]
        assert client.ask("NOTIFY", {}) == "done"
        assert "is free already: churn" in server.log(), server.log()[-3000:]
        assert "is no object, or somebody has written before it: churn" in server.log(), server.log()[-3000:]
        assert client.store("key", "value") and client.value("key") == "value"
        client.close()
        server.stop()
        here.expect_nothing_left()
        here.stop_daemon()


def check_one(client, state, key):
    reason = client.insist("INFO", {"X-Key": key})
    assert reason == f"value {state[key]}", (key, state[key], reason)
    return 1


def test_kills(options, seconds, seed):
    """
    Workers are killed at random under load, and the daemon; what was acknowledged is there; a killed server leaves
    nothing. A killed worker may have held a lock of Kamailio's own, which nobody opens any more: then the server is
    killed as a whole, and a new one started, and that is counted.
    """
    chance = random.Random(seed)
    end = time.monotonic() + seconds
    servers = kills = stuck = daemons = checked = 0
    with world.World(options.build) as here:
        here.start_daemon()
        while time.monotonic() < end:
            server = Kamailio(here, options, "goalloc", workers=10, keep_running=True)
            servers += 1
            client = Client(server.port)
            load = here.start([sys.executable, os.path.abspath(__file__), "--noise", str(server.port), "--pause-ms",
                               str(chance.choice((0, 2, 10)))], "noise.log")
            state = {}
            alive = server.workers()
            chance.shuffle(alive)
            try:
                while len(alive) > 3 and time.monotonic() < end:
                    pause = time.monotonic() + chance.uniform(0.05, 0.3)
                    while time.monotonic() < pause:
                        key, value = f"s{chance.randrange(500)}", "%x" % chance.getrandbits(chance.randrange(8, 4000))
                        state.pop(key, None)  # the former or the new one, if there is no answer
                        client.insist("MESSAGE", {"X-Key": key, "X-Value": value})
                        state[key] = value
                        checked += check_one(client, state, chance.choice(list(state)))
                    server.lives()
                    if chance.random() < 0.2:
                        here.kill_daemon()
                        daemons += 1
                        time.sleep(chance.uniform(0, 0.3))
                        here.start_daemon()
                    os.kill(alive.pop(), signal.SIGKILL)
                    kills += 1
                for key in state:
                    checked += check_one(client, state, key)
            except NoAnswer:
                stuck += 1
            assert "BUG" not in server.log(), server.log()[-4000:]
            load.kill()
            load.wait()
            here.processes.remove(load)
            client.close()
            server.kill()
            here.expect_nothing_left()
        here.stop_daemon()
    print(f"kamailio: {servers} servers, {kills} workers and {daemons} daemons killed; {checked} values there; "
          f"{stuck} times a lock of Kamailio's own stayed with a dead worker")
    assert kills > 0 and checked > 0


def test_loads(options):
    """All loads of the comparison do what they should, and what was allocated for calls is free then."""
    with world.World(options.build) as here:
        here.start_daemon()
        server = Kamailio(here, options, "goalloc", workers=8)
        for name, load in LOADS.items():
            load_run(options, server, name, load.before // 40)
        wait_for("the end of all transactions and dialogs", lambda: not re.search(
            r"build_cell|build_new_dlg|xavp_new_value", server.command("mod.stats", "all", "shm")))
        counted = dict(re.findall(r"(\w+:\w+) = (\d+)", server.command("stats.get_statistics", "all")))
        assert int(counted["dialog:processed_dialogs"]) >= LOADS["dialogs"].before // 40, counted
        assert counted["dialog:active_dialogs"] == "0", counted
        assert int(counted["registrar:accepted_regs"]) >= LOADS["register"].before // 40, counted
        assert int(counted["usrloc:registered_users"]) > 0, counted
        assert "BUG" not in server.log(), server.log()[-3000:]
        server.stop()
        here.expect_nothing_left()
        here.stop_daemon()


def measure(options, file, runs, names):
    """A table of each load, with all managers."""
    for name in names:
        load = LOADS[name]
        found = world.medians(MANAGERS, runs, lambda manager, name=name: measure_one(options, manager, name))
        cpu_fm, memory_fm, _ = found["fm"]
        rows = [(MANAGERS[manager], f"{cpu:.3g} us", f"{cpu / cpu_fm:.2f}", f"{memory:.1f} MiB",
                 f"{memory / memory_fm:.2f}", f"{busy:.2f}")
                for manager, (cpu, memory, busy) in found.items()]
        world.table(f"Kamailio: {load.count * load.each} {load.what}, medians of {runs}",
                    ("shared memory of", "CPU each", "of f_malloc's", "memory", "of f_malloc's", "processors busy"),
                    rows, file)


def measure_one(options, manager, name):
    """(microseconds of CPU each, MiB, processors that the server had); the daemon counts, the callers don't."""
    load = LOADS[name]
    with world.World(options.build) as here:
        if manager == "goalloc":
            here.start_daemon()
        server = Kamailio(here, options, manager, workers=8, megabytes=1024, remember_ms=500)
        if options.prefer:
            world.prefer([server.process.pid])
        load_run(options, server, name, load.before)
        pids = server.pids() + (children_of(here.daemon.pid) if here.daemon else [])
        before, begun = cpu_s(pids), time.monotonic()
        load_run(options, server, name, load.count)
        used, elapsed = cpu_s(pids) - before, time.monotonic() - begun
        result = used * 1e6 / load.count / load.each, here.memory_mib(pids), used / elapsed
        server.kill()  # an orderly end under load can wait for ever for a lock that a worker had
        if manager == "goalloc":
            here.expect_nothing_left()
            here.stop_daemon()
    return result


def noise(port, pause_ms):
    """Load until it is killed: stores, whether they are answered or not."""
    client = Client(port)
    while True:
        value = "n" * (client.number % 300 + 1)
        client.send("OPTIONS", {"X-Times": 20, "X-Key": client.number % 262144, "X-Value": value})
        client.receive(0.02)
        time.sleep(pause_ms / 1000)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", help="a finished build of this project")
    parser.add_argument("--kamailio", help="Kamailio's program")
    parser.add_argument("--kamcmd", help="its program for commands")
    parser.add_argument("--modules", help="the directory of its modules")
    parser.add_argument("--module", help="the module of this directory")
    parser.add_argument("--table", help="the file to which tables are appended")
    parser.add_argument("--seconds", type=float, default=20, help="how long workers are killed (20)")
    parser.add_argument("--seed", type=int, default=int(os.environ.get("GOALLOC_TEST_SEED", time.time_ns() % 1000000)))
    parser.add_argument("--runs", type=int, default=5, help="rounds of the comparison; 0: none (5)")
    parser.add_argument("--loads", default=",".join(LOADS), help="what is compared, with commas between (all)")
    parser.add_argument("--prefer", action="store_true", help="compare with priority over other processes; root")
    parser.add_argument("--noise", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--pause-ms", type=float, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    # Kamailio is unpacked and not installed: its libraries stand beside the directory of its modules.
    options.environment = lambda **more: world.environment(LD_LIBRARY_PATH=os.path.dirname(options.modules), **more)
    if options.noise:
        noise(options.noise, options.pause_ms)
    print(f"kamailio: seed {options.seed}", flush=True)
    test_bad_start(options)
    test_sums_and_limit(options)
    test_calls(options)
    test_loads(options)
    test_kills(options, options.seconds, options.seed)
    if options.runs > 0:
        measure(options, options.table, options.runs, options.loads.split(","))


if __name__ == "__main__":
    main()
