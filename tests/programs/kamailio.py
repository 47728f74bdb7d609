#!/usr/bin/env python3
"""Kamailio with its shared memory in the heap, tested and compared with its own allocators: see --help."""

import argparse
import os
import random
import re
import select
import signal
import socket
import subprocess
import sys
import time

import world
from world import PATIENCE_S, children_of, cpu_s, free_port, median, wait_for

HERE = os.path.dirname(os.path.abspath(__file__))
MANAGERS = {"goalloc": "goalloc", "fm": "f_malloc", "qm": "q_malloc", "tlsf": "TLSF"}


class Kamailio:
    """A server; `manager` is whose its shared memory is, by Kamailio's names or "goalloc"."""

    def __init__(self, here, options, manager, workers=4, megabytes=256, keep_running=False):
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
        with open(os.path.join(HERE, "kamailio/kamailio.cfg"), encoding="utf-8") as source:
            text = source.read()
        for name, value in (("WORKERS", workers), ("PORT", self.port), ("BEHIND", self.behind),
                            ("MODULES", options.modules),
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

    def load(self, requests, at_once, make):
        """So many requests, so many of them at once, and all answers. make(number): method and headers."""
        sent = answered = 0
        while answered < requests:
            while sent < requests and sent - answered < at_once:
                self.send(*make(self.number))
                sent += 1
            assert self.receive(PATIENCE_S) is not None, "a request was not answered"
            answered += 1


def stores(number):
    """A request of 1000 stores."""
    size = (20, 90, 200, 500)[number % 4]
    return "OPTIONS", {"X-Times": 1000, "X-Key": number * 7919 % 262144, "X-Value": "v" * size}


def churn(_number):
    """A request of 10000 replacements."""
    return "PUBLISH", {}


class Calls:
    """
    Calls through the server, from one socket to another one behind it: INVITE, 180, 200, ACK, BYE, 200. What belongs to
    one call is relayed by whichever worker is free, so each next step waits for what it follows; what is lost is sent
    again after a second.
    """

    def __init__(self, server):
        self.server = server
        self.caller, self.callee = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        self.caller.bind(("127.0.0.1", 0))
        self.callee.bind(("127.0.0.1", server.behind))
        self.own = self.caller.getsockname()[1]
        self.number = 0
        self.calls = {}  # by Call-ID: what was sent last, and when

    def end(self):
        self.caller.close()
        self.callee.close()

    def request(self, method, call, to_tag):
        sequence = 2 if method == "BYE" else 1
        return (f"{method} sip:service@127.0.0.1:{self.server.port} SIP/2.0\r\n"
                f"Via: SIP/2.0/UDP 127.0.0.1:{self.own};branch=z9hG4bK-{call}-{method}\r\n"
                f"From: <sip:caller@127.0.0.1:{self.own}>;tag=a\r\nTo: <sip:service@127.0.0.1>{to_tag}\r\n"
                f"Call-ID: {call}\r\nCSeq: {sequence} {method}\r\nContact: <sip:caller@127.0.0.1:{self.own}>\r\n"
                f"Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n")

    def send(self, method, call, to_tag=""):
        text = self.request(method, call, to_tag)
        self.calls[call] = (text, time.monotonic())
        self.caller.sendto(text.encode(), ("127.0.0.1", self.server.port))

    def answer(self, text, status, address):
        """A reply to a request that has come to the callee."""
        lines = text.split("\r\n")
        kept = [line if not line.startswith("To:") or ";tag=" in line else line + ";tag=b"
                for line in lines if line.split(":", 1)[0] in ("Via", "From", "To", "Call-ID", "CSeq", "Record-Route")]
        reply = [f"SIP/2.0 {status}", *kept, f"Contact: <sip:service@127.0.0.1:{self.server.behind}>"]
        self.callee.sendto("\r\n".join([*reply, "Content-Length: 0", "", ""]).encode(), address)

    def callee_hears(self, text, address):
        method, call = text.split(" ", 1)[0], re.search(r"^Call-ID: *(\S+)", text, re.M).group(1)
        if method == "INVITE":
            self.answer(text, "180 Ringing", address)
            self.answer(text, "200 OK", address)
        elif method == "BYE":
            self.answer(text, "200 OK", address)
        elif method == "ACK" and call in self.calls and not self.calls[call][0].startswith("BYE"):
            self.send("BYE", call, ";tag=b")

    def caller_hears(self, text):
        """True: a call is over."""
        call = re.search(r"^Call-ID: *(\S+)", text, re.M).group(1)
        if not text.startswith("SIP/2.0 200") or call not in self.calls:
            assert text.startswith(("SIP/2.0 1", "SIP/2.0 200")), text
            return False
        if re.search(r"^CSeq: *\d+ BYE", text, re.M):
            del self.calls[call]
            return True
        if not self.calls[call][0].startswith("BYE"):
            self.send("ACK", call, ";tag=b")
        return False

    def make(self, number, at_once):
        """So many calls, so many of them at once; an AssertionError if they don't all come to their end."""
        begun = ended = 0
        end = time.monotonic() + PATIENCE_S + number / 10
        while ended < number:
            while begun < number and begun - ended < at_once:
                self.number += 1
                begun += 1
                self.send("INVITE", f"{self.number}-{self.own}")
            for one in select.select([self.caller, self.callee], [], [], 0.2)[0]:
                text, address = one.recvfrom(65536)
                if one is self.callee:
                    self.callee_hears(text.decode(), address)
                else:
                    ended += self.caller_hears(text.decode())
            now = time.monotonic()
            assert now < end, "calls that don't end"
            for call, (text, since) in list(self.calls.items()):
                if now - since > 1:
                    self.calls[call] = (text, now)
                    self.caller.sendto(text.encode(), ("127.0.0.1", self.server.port))


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
        server = Kamailio(here, options, "goalloc", megabytes=8)
        client = Client(server.port)
        before = server.memory_told()
        assert before["total"] == 8 << 20, before
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
            if i % 500 == 0 and server.memory_told()["used"] > (8 << 20) - 4096:
                break
        full = server.memory_told()
        assert (8 << 20) - 65536 < full["used"] <= 8 << 20, full
        assert "no " in server.log() and "bytes of shared memory" in server.log()
        assert client.value("k5") == "x" * 1000 and client.value("k99999999") is not None
        assert here.stats()["live_bytes"] <= 9 << 20, here.stats()
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


WORKS = {"calls": "{calls} calls through it (tm)", "stores": "{requests}000 stores from its script (htable)",
         "objects": "{requests}0000 objects replaced (its shm_malloc and shm_free alone)"}


def measure(options, file, runs, calls, requests):
    """Interleaved: each round runs all managers, in another order."""
    found = {}
    for run in range(runs):
        names = list(MANAGERS)
        random.Random(run).shuffle(names)
        for manager in names:
            for work in WORKS:
                found.setdefault((work, manager), []).append(measure_one(options, manager, work, calls, requests))
            print(f"kamailio: round {run + 1} of {runs}, {manager}", flush=True)
    for work, what in WORKS.items():
        medians = {manager: [median([one[i] for one in found[work, manager]]) for i in (0, 1)] for manager in MANAGERS}
        rows = [(name, f"{medians[manager][0]:.3g} us", f"{medians[manager][0] / medians['fm'][0]:.2f}",
                 f"{medians[manager][1]:.1f} MiB", f"{medians[manager][1] / medians['fm'][1]:.2f}")
                for manager, name in MANAGERS.items()]
        title = what.format(calls=calls, requests=requests)
        world.table(f"Kamailio: {title}, medians of {runs}",
                    ("shared memory of", "CPU each", "of f_malloc's", "memory", "of f_malloc's"), rows, file)


def measure_one(options, manager, work, calls, requests):
    """(microseconds of CPU each, MiB); the daemon counts, the callers don't."""
    with world.World(options.build) as here:
        if manager == "goalloc":
            here.start_daemon()
        server = Kamailio(here, options, manager)
        if options.prefer:
            world.prefer([server.process.pid])
        if work == "calls":
            through = Calls(server)
            times = calls
            warm = lambda: through.make(calls, 8)
            do = lambda: through.make(calls, 8)
        else:
            make, each = {"stores": (stores, 1000), "objects": (churn, 10000)}[work]
            client = Client(server.port)
            times = requests * each
            warm = lambda: client.load(400 if work == "stores" else 20, 4, make)
            do = lambda: client.load(requests, 8, make)
        warm()
        pids = server.pids() + (children_of(here.daemon.pid) if here.daemon else [])
        before = cpu_s(pids)
        do()
        result = (cpu_s(pids) - before) * 1e6 / times, here.memory_mib(pids)
        server.stop()
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
    parser.add_argument("--calls", type=int, default=6000, help="calls a round, and as many before (6000)")
    parser.add_argument("--requests", type=int, default=400,
                        help="requests a round, of 1000 stores or 10000 objects each (400)")
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
    test_kills(options, options.seconds, options.seed)
    if options.runs > 0:
        measure(options, options.table, options.runs, options.calls, options.requests)


if __name__ == "__main__":
    main()
