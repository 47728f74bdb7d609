"""A daemon, its exporter and workers in a directory of the test's own, without a fixed port; all go at the end."""

import ctypes
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

PATIENCE_S = 60  # how long something that must happen may take on a busy machine
SKIPPED = 77


_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def die_with_the_test():
    """In a child process, before it becomes another program."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def skip(why):
    print(f"skipped: {why}")
    sys.exit(SKIPPED)


def wait_for(what, condition, step_s=0.05):
    """Wait until the condition holds. What it returned."""
    end = time.monotonic() + PATIENCE_S
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > end:
            raise AssertionError(f"it never came: {what}")
        time.sleep(step_s)


class Worker:
    def __init__(self, world, group="", limit=0):
        self.process = subprocess.Popen([world.programs["worker"], world.socket, group, str(limit)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        preexec_fn=die_with_the_test)
        world.processes.append(self.process)
        assert self.process.stdout.readline() == "ready\n"

    def do(self, line):
        """The errno."""
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline().split()[1])

    def kill(self):
        self.process.kill()
        self.process.wait()

    def detach(self):
        self.process.stdin.close()
        assert self.process.wait() == 0


class World:
    def __init__(self, programs, base):
        self.programs = programs
        self.base = base
        self.dir = tempfile.mkdtemp(prefix="metrics-", dir=os.environ.get("GOALLOC_TEST_DIR"))
        self.socket = os.path.join(self.dir, "s")
        self.processes = []
        self.daemon = None
        self.exporter = None
        self.address = None
        os.mkdir(os.path.join(self.dir, "state"), 0o700)

    def start_daemon(self, *options):
        log = open(os.path.join(self.dir, "daemon.log"), "ab")
        self.daemon = subprocess.Popen(
            [self.programs["goallocd"], "--socket", self.socket, "--state-dir", os.path.join(self.dir, "state"),
             "--base", self.base, "--on-stop", "drop", *options],
            stderr=log, stdout=log, preexec_fn=die_with_the_test)
        self.processes.append(self.daemon)
        wait_for("the daemon", self.daemon_answers)

    def daemon_answers(self):
        assert self.daemon.poll() is None, open(os.path.join(self.dir, "daemon.log"), encoding="utf-8").read()
        s = socket.socket(socket.AF_UNIX)
        try:
            s.connect(self.socket)
            return True
        except OSError:
            return False
        finally:
            s.close()

    def ctl(self, *arguments):
        subprocess.run([self.programs["goallocctl"], "--socket", self.socket, *arguments], check=True,
                       stdout=subprocess.DEVNULL)

    def start_exporter(self, *options, socket_path=None, uid=None, **popen):
        program = self.programs["exporter"]
        path = os.path.join(self.dir, "exporter.log")
        if "--timeout" not in options:
            options += ("--timeout", f"{PATIENCE_S}s")
        if uid is not None:  # who may not be able to get to where it was built
            program = shutil.copy(program, os.path.join(self.dir, "exporter"))
        log = open(path, "wb")

        def prepare():
            if uid is not None:
                os.setgroups([])
                os.setgid(uid)
                os.setuid(uid)
            die_with_the_test()

        self.exporter = subprocess.Popen(
            [program, "--socket", socket_path or self.socket, "--listen", "127.0.0.1:0", *options],
            stderr=log, preexec_fn=prepare, **popen)
        self.processes.append(self.exporter)

        def address():
            assert self.exporter.poll() is None, open(path, encoding="utf-8").read()
            return re.search(r"http://(127\.0\.0\.1):(\d+)/metrics", open(path, encoding="utf-8").read())

        found = wait_for("the exporter", address)
        self.address = (found.group(1), int(found.group(2)))

    def stop_exporter(self):
        self.exporter.send_signal(signal.SIGTERM)
        status = self.exporter.wait(PATIENCE_S)
        log = open(os.path.join(self.dir, "exporter.log"), encoding="utf-8").read()
        assert status == 0, f"the exporter ended with {status}: {log}"

    def request(self, method="GET", path="/metrics", headers=None, body=None):
        """(status, headers, text)"""
        connection = http.client.HTTPConnection(*self.address, timeout=PATIENCE_S)
        try:
            try:
                connection.request(method, path, body=body, headers=headers or {})
            except (BrokenPipeError, ConnectionResetError):
                pass  # it has been answered before it was sent
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read().decode()
        finally:
            connection.close()

    def is_refused(self, **request):
        """True if it is answered by a status that says so, or by the end of the connection."""
        try:
            return 400 <= self.request(**request)[0] < 500
        except (OSError, http.client.HTTPException):
            return True

    def can_be_reached_by_all(self):
        path = os.path.dirname(self.dir)
        while os.stat(path).st_mode & 0o001:
            if path == "/":
                return True
            path = os.path.dirname(path)
        return False

    def scrape(self):
        """Values by name with labels, as they stand there."""
        status, _, text = self.request()
        assert status == 200, status
        return values_of(text)

    def end(self):
        """Everything that was started is killed, the keeper too, which has the directory in its command line."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()
        subprocess.run([self.programs["goallocctl"], "keeper", "--state-dir", os.path.join(self.dir, "state"), "--end",
                        "--yes"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        shutil.rmtree(self.dir, ignore_errors=True)


def values_of(text):
    values = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            assert name not in values, f"twice: {name}"
            values[name] = float(value)
    return values


def programs_of(arguments):
    """From NAME=PATH... to a dict; `base` among them."""
    return dict(argument.split("=", 1) for argument in arguments)
