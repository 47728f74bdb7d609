"""The exporter: its formats, its figures, daemons that hang, lie or are away, and hostile visitors.

    test_exporter.py base=ADDRESS goallocd=PATH goallocctl=PATH exporter=PATH worker=PATH source=DIRECTORY unit=PATH

Prints a line for each test. Exit status 77: Debian's packages for it are missing.
"""

import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback

from world import PATIENCE_S, Worker, World, programs_of, skip, values_of, wait_for

try:
    from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
    from prometheus_client.parser import text_string_to_metric_families as parse_text
except ImportError:
    skip("there is no python3-prometheus-client")
if shutil.which("promtool") is None:
    skip("there is no promtool (package prometheus)")

PROGRAMS = programs_of(sys.argv[1:])
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
NASTY = 'we"ird\\ {na}\nme=1,\u00e9'
FAILURES = 'goallocd_exporter_query_failures_total{reason="%s"}'


def new_world():
    return World(PROGRAMS, PROGRAMS["base"])


# --- formats and figures ---

def formats_are_what_parsers_take(world):
    world.start_daemon("--reserve", "256M", "--memory-limit", "128M", "--max-memory", "192M")
    world.start_exporter("--cache", "60s")
    member = Worker(world, NASTY)
    assert member.do("fill 10 1000") == 0

    status, headers, text = world.request()
    assert status == 200 and headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8", headers
    lint = subprocess.run(["promtool", "check", "metrics"], input=text.encode(), capture_output=True, check=False)
    assert lint.returncode == 0 and not lint.stdout and not lint.stderr, lint
    families = {family.name: family for family in parse_text(text)}
    groups = {sample.labels["group"] for sample in families["goallocd_group_live_bytes"].samples}
    assert groups == {NASTY, "other"}, groups

    status, headers, text = world.request(headers={"Accept": OPENMETRICS})
    kind = "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert status == 200 and headers["Content-Type"] == kind, headers
    assert text.endswith("\n# EOF\n")
    strict = {family.name: family for family in parse_openmetrics(text)}
    assert strict["goallocd_build"].type == "info" and strict["goallocd_requests"].type == "counter"
    assert strict["goallocd_memory_bytes"].unit == strict["goallocd_scavenged_bytes"].unit == "bytes"
    assert strict["goallocd_start_time_seconds"].unit == "seconds"
    groups = {sample.labels["group"] for sample in strict["goallocd_group_live_bytes"].samples}
    assert groups == {NASTY, "other"}, groups

    def names(found):
        return {sample.name for family in found.values() for sample in family.samples}

    assert names(families) == names(strict), names(families) ^ names(strict)
    world.stop_exporter()


def figures_are_the_daemons(world):
    world.start_daemon("--reserve", "256M", "--uid-left-bytes", "0")
    world.start_exporter("--cache", "0", "--groups-max", "1")
    alone = Worker(world)
    limited = Worker(world, limit=1 << 20)
    assert alone.do("fill 1000 64") == 0
    assert limited.do("grow 8388608") != 0
    members = [Worker(world, name) for name in ("small", "large")]
    assert members[0].do("fill 10 100") == 0 and members[1].do("fill 100 100") == 0
    seen = world.scrape()
    assert seen["goallocd_up"] == 1
    assert seen['goallocd_sessions{state="open"}'] == 4  # the exporter has none
    assert seen["goallocd_live_objects"] == 1110, seen["goallocd_live_objects"]
    assert seen['goallocd_class_live_objects{size="64"}'] == 1000
    assert seen['goallocd_memory_refusals_total{reason="limit"}'] >= 1
    assert seen['goallocd_limit_refusals_total{limit="session-limit",scope="session"}'] >= 1
    assert seen['goallocd_limit_bytes{limit="session-limit",scope="session"}'] == 1 << 20
    assert seen["goallocd_groups"] == 2
    assert seen['goallocd_group_live_objects{group="large",uid="%d"}' % os.geteuid()] == 100
    assert seen['goallocd_group_live_objects{group="other",uid=""}'] == 10
    assert seen["goallocd_heap_taken_over"] == 0 and "goallocd_memory_limit_bytes" not in seen
    assert seen['goallocd_requests_total{request="attach"}'] == 4
    assert sum(value for name, value in seen.items() if name.startswith("goallocd_spans{")) > 0
    alone.kill()
    limited.detach()

    def has_ended():
        now = world.scrape()
        return now if now['goallocd_sessions_ended_total{cause="died"}'] == 1 and \
            now['goallocd_sessions_ended_total{cause="detached"}'] == 1 else None

    seen = wait_for("the ends of two sessions", has_ended)
    assert seen['goallocd_ended_sessions_left_objects{cause="died"}'] == 1000
    assert seen['goallocd_ended_sessions_left_bytes{cause="died"}'] == 64000
    assert seen['goallocd_sessions{state="open"}'] == 2
    world.stop_exporter()


def many_scrapes_are_one_query(world):
    world.start_daemon()
    world.start_exporter("--cache", "10min")
    results = []
    threads = [threading.Thread(target=lambda: results.append(world.scrape())) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(results) == 40 and all(seen["goallocd_up"] == 1 for seen in results)
    assert all(seen["goallocd_exporter_queries_total"] == 1 for seen in results)
    world.stop_exporter()


# --- daemons that are away, hang or lie ---

def is_down(seen, reason):
    others = [name for name in seen if not name.startswith("goallocd_exporter_") and name != "goallocd_up"]
    return seen["goallocd_up"] == 0 and not others and seen[FAILURES % reason] >= 1


def scrape_until_up(world):
    def scrape():
        seen = world.scrape()
        return seen if seen["goallocd_up"] else None

    return wait_for("the daemon's answer", scrape)


def daemon_that_is_away_is_said_to_be(world):
    world.start_exporter("--cache", "0")
    assert is_down(world.scrape(), "connect")
    world.start_daemon()
    assert world.scrape()["goallocd_up"] == 1
    world.daemon.kill()
    world.daemon.wait()
    assert is_down(world.scrape(), "connect")
    world.start_daemon()
    seen = world.scrape()
    assert seen["goallocd_up"] == 1 and seen["goallocd_heap_taken_over"] == 1
    world.stop_exporter()


def daemon_that_hangs_has_one_request_to_answer(world):
    world.start_daemon()
    world.start_exporter("--cache", "0", "--timeout", "200ms")
    before = scrape_until_up(world)
    world.daemon.send_signal(signal.SIGSTOP)
    for _ in range(20):
        seen = world.scrape()
        assert is_down(seen, "timeout"), seen
    assert seen["goallocd_exporter_queries_total"] == before["goallocd_exporter_queries_total"] + 1
    assert seen[FAILURES % "timeout"] == before[FAILURES % "timeout"] + 1
    world.daemon.send_signal(signal.SIGCONT)
    seen = scrape_until_up(world)
    # Whatever the daemon has been asked, this process has counted. The last query is not behind it yet.
    assert seen['goallocd_requests_total{request="stats"}'] < seen["goallocd_exporter_queries_total"] + 1
    world.stop_exporter()


def visitors_that_leave_while_the_daemon_hangs_are_forgotten(world):
    world.start_daemon()
    world.start_exporter("--cache", "0", "--timeout", "300ms")
    world.daemon.send_signal(signal.SIGSTOP)
    for _ in range(10):
        visitor = socket.create_connection(world.address)
        visitor.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        visitor.close()
    assert is_down(world.scrape(), "timeout")
    world.daemon.send_signal(signal.SIGCONT)
    wait_for("one visitor alone", lambda: world.scrape()["goallocd_exporter_connections"] == 1)
    world.stop_exporter()


def frame(payload):
    return struct.pack("<I", len(payload)) + payload


LIES = {  # what a daemon says, and why that is no answer
    "nothing, and closes": (b"", "closed"),
    "half a frame": (b"\x10\0\0\0abc", "closed"),
    "a frame too long": (struct.pack("<I", 65537) + b"x" * 70000, "not_understood"),
    "no message": (frame(b"\xff" * 100), "not_understood"),
    "an empty message": (frame(b""), "not_understood"),
    "an error": (frame(b"\x08\x01\x10\x26\x1a\x02no"), "not_understood"),
    "the answer to something else": (frame(b"\x08\x01\x62\x02\x08\x01"), "not_understood"),
    "another's answer": (frame(b"\x08\x09\x4a\x00"), "not_understood"),
    "one answer of three": (frame(b"\x08\x01\x4a\x00"), "closed"),
    "a message larger than memory for it": (frame(b"\x08\x01\x4a" + b"\xfc\xff\x03" + b"\xba\x01\x00" * 21844),
                                            "closed"),
}


def daemon_that_lies_is_not_believed(world):
    path = os.path.join(world.dir, "liar")
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(4)
    world.start_exporter("--cache", "0", socket_path=path)
    for what, (said, reason) in LIES.items():
        def lie(text=said):
            peer, _ = server.accept()
            try:
                peer.recv(4096)
                peer.sendall(text)
                peer.shutdown(socket.SHUT_WR)
                while peer.recv(4096):
                    pass
            except OSError:
                pass  # it has heard enough
            finally:
                peer.close()

        liar = threading.Thread(target=lie)
        liar.start()
        seen = world.scrape()
        liar.join(PATIENCE_S)
        assert is_down(seen, reason), (what, seen)
    server.close()
    world.stop_exporter()


def listener_without_room_is_tried_until_the_timeout(world):
    path = os.path.join(world.dir, "full")
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(0)
    others = []
    for _ in range(4):
        other = socket.socket(socket.AF_UNIX)
        other.setblocking(False)
        try:
            other.connect(path)
        except BlockingIOError:
            pass
        others.append(other)
    world.start_exporter("--cache", "0", "--timeout", "200ms", socket_path=path)
    assert is_down(world.scrape(), "timeout")
    assert world.scrape()[FAILURES % "timeout"] == 2  # nothing was asked, so it is tried again
    world.stop_exporter()


# --- visitors ---

def requests_other_than_the_two_are_refused(world):
    world.start_daemon()
    world.start_exporter()
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "BREW"):
        status, headers, _ = world.request(method, body="a=b" if method in ("POST", "PUT") else None)
        assert status == 405 and headers["Allow"] == "GET, HEAD", (method, status)
    assert world.request("GET", "/other")[0] == 404
    assert world.request("GET", "/metrics/")[0] == 404
    assert world.request("GET", "/metrics?name[]=up")[0] == 200
    assert world.request("GET", body="x")[0] == 400
    assert world.request("GET", headers={"Transfer-Encoding": "chunked"})[0] == 400
    status, headers, text = world.request("HEAD")
    assert status == 200 and text == "" and int(headers["Content-Length"]) > 1000
    status, headers, text = world.request("GET", "/")
    assert status == 200 and "/metrics" in text and headers["Content-Type"].startswith("text/html")
    assert world.is_refused(headers={"X-Long": "x" * 60000})
    assert world.is_refused(path="/" + "x" * 60000)
    assert world.request(headers={"Accept": "a" * 5000 + "," + OPENMETRICS})[0] == 200
    visitor = socket.create_connection(world.address)
    visitor.sendall(b"nonsense\r\n\r\n")
    visitor.settimeout(PATIENCE_S)
    assert b" 200 " not in visitor.recv(4096)
    visitor.close()
    assert world.scrape()["goallocd_up"] == 1
    world.stop_exporter()


def read_response(visitor, buffered=b""):
    """Read one response; what is behind it."""
    while b"\r\n\r\n" not in buffered:
        part = visitor.recv(65536)
        assert part, "the connection has ended"
        buffered += part
    head, rest = buffered.split(b"\r\n\r\n", 1)
    lines = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    length = int(lines[0].split(b":")[1])
    while len(rest) < length:
        part = visitor.recv(65536)
        assert part, "the connection has ended"
        rest += part
    assert head.startswith(b"HTTP/1.1 200 "), head
    return rest[length:]


def connection_serves_request_after_request(world):
    world.start_daemon()
    world.start_exporter()
    visitor = socket.create_connection(world.address)
    visitor.settimeout(PATIENCE_S)
    one = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    for _ in range(3):
        visitor.sendall(one)
        assert read_response(visitor) == b""
    visitor.sendall(one * 3)  # at once
    rest = b""
    for _ in range(3):
        rest = read_response(visitor, rest)
    visitor.close()
    world.stop_exporter()


def slow_visitors_keep_nobody_out(world):
    world.start_daemon()
    world.start_exporter("--connections", "8", "--connection-timeout", "10min")
    sitting = []
    for i in range(60):
        visitor = socket.create_connection(world.address)
        visitor.sendall(b"GET /metrics HTTP/1.1\r\n" if i % 2 else b"")
        sitting.append(visitor)
    for _ in range(5):
        seen = world.scrape()
        assert seen["goallocd_up"] == 1 and seen["goallocd_exporter_connections"] <= 8 + 32, seen
    wait_for("no more than there may be", lambda: world.scrape()["goallocd_exporter_connections"] <= 8)
    for visitor in sitting:
        visitor.close()
    world.stop_exporter()


def ends(visitor, trickle):
    """True if it is disconnected though it goes on sending."""
    try:
        visitor.settimeout(0.05)
        if trickle:
            visitor.send(b"x")
        return visitor.recv(4096) == b""
    except socket.timeout:
        return False
    except OSError:
        return True


def ask_once(address):
    """A connection that has had its answer; None: it was not fast enough."""
    visitor = socket.create_connection(address)
    visitor.settimeout(PATIENCE_S)
    try:
        visitor.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        return visitor if read_response(visitor) == b"" else None
    except (OSError, AssertionError):
        return None


def byte_now_and_then_does_not_prolong_a_connection(world):
    world.start_daemon()
    world.start_exporter("--connection-timeout", "500ms")
    silent = socket.create_connection(world.address)
    slow = socket.create_connection(world.address)
    slow.sendall(b"GET /metrics HTTP/1.1\r\nX-Slow: ")
    odd = socket.create_connection(world.address)
    odd.sendall(b"\0\xff nonsense\r\n\r\n")
    wait_for("the end of a slow request", lambda: ends(slow, True))
    wait_for("the end of a connection without one", lambda: ends(silent, False))
    wait_for("the end of nonsense", lambda: ends(odd, False))
    idle = wait_for("a request in time", lambda: ask_once(world.address))
    wait_for("the end of an idle connection", lambda: ends(idle, False))
    world.stop_exporter()


# --- the process ---

def exporter_has_few_privileges_and_says_when_it_is_ready(world):
    world.start_daemon()
    path = os.path.join(world.dir, "notify")
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(path)
    notify.settimeout(PATIENCE_S)
    world.start_exporter("--cache", "0", env={**os.environ, "NOTIFY_SOCKET": path})
    assert notify.recv(100) == b"READY=1"
    with open(f"/proc/{world.exporter.pid}/status", encoding="utf-8") as status:
        lines = dict(line.rstrip("\n").split(":\t", 1) for line in status if ":\t" in line)
    assert lines["NoNewPrivs"].strip() == "1"
    assert int(lines["CapEff"], 16) & ~(1 << 1) == 0, lines["CapEff"]  # CAP_DAC_OVERRIDE, as root
    assert lines["Threads"].strip() == "1"
    assert len(os.listdir(f"/proc/{world.exporter.pid}/fd")) < 12
    assert world.scrape()["goallocd_up"] == 1
    with open(f"/proc/{world.exporter.pid}/maps", encoding="utf-8") as maps:
        assert "memfd:" not in maps.read(), "it has something of the heap mapped"
    world.stop_exporter()
    assert notify.recv(100) == b"STOPPING=1"


def exporter_runs_as_any_user_that_may_connect(world):
    if os.geteuid() != 0 or not world.can_be_reached_by_all():
        return
    world.start_daemon()
    os.chmod(world.dir, 0o755)
    os.chmod(world.socket, 0o666)
    world.start_exporter("--cache", "0", uid=65534)
    seen = world.scrape()
    assert seen["goallocd_up"] == 1 and seen['goallocd_sessions{state="open"}'] == 0
    os.chmod(world.socket, 0o600)
    assert is_down(world.scrape(), "connect")
    world.stop_exporter()


def stop_while_a_scrape_waits_is_clean(world):
    world.start_daemon()
    world.start_exporter("--timeout", "10min")
    world.daemon.send_signal(signal.SIGSTOP)
    visitor = socket.create_connection(world.address)
    visitor.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    world.request("GET", "/")  # it came after that one
    world.stop_exporter()
    visitor.close()


def unit_is_confined(world):
    """Its exposure, of 10; the rest is that it speaks TCP."""
    del world
    analyze = shutil.which("systemd-analyze")
    if analyze is None or "--offline" not in subprocess.run([analyze, "--help"], capture_output=True, text=True,
                                                           check=False).stdout:
        return
    said = subprocess.run([analyze, "security", "--offline=yes", "--threshold=10", PROGRAMS["unit"]],
                          capture_output=True, text=True, check=False)
    assert said.returncode == 0, said


def wrong_command_lines_are_refused(world):
    def run(*options):
        return subprocess.run([PROGRAMS["exporter"], *options], capture_output=True, timeout=PATIENCE_S,
                              check=False).returncode

    for options in (["x"], ["--cache", "x"], ["--cache", "-1"], ["--timeout", "0"], ["--connections", "0"],
                    ["--groups-max", "33"], ["--groups-max", "x"], ["--connection-timeout", "1h"], ["--no"]):
        assert run(*options) == 2, options
    for listen in ("", "127.0.0.1", ":19846", "localhost:0", "127.0.0.1:65536", "127.0.0.1:x", "[::1:0",
                   "::1:0", "[]:0"):
        assert run("--listen", listen) == 2, listen
    taken = socket.create_server(("127.0.0.1", 0))
    assert run("--listen", "127.0.0.1:%d" % taken.getsockname()[1]) == 1
    taken.close()
    assert run("--version") == run("--help") == 0
    del world


TESTS = [
    formats_are_what_parsers_take,
    figures_are_the_daemons,
    many_scrapes_are_one_query,
    daemon_that_is_away_is_said_to_be,
    daemon_that_hangs_has_one_request_to_answer,
    visitors_that_leave_while_the_daemon_hangs_are_forgotten,
    daemon_that_lies_is_not_believed,
    listener_without_room_is_tried_until_the_timeout,
    requests_other_than_the_two_are_refused,
    connection_serves_request_after_request,
    slow_visitors_keep_nobody_out,
    byte_now_and_then_does_not_prolong_a_connection,
    exporter_has_few_privileges_and_says_when_it_is_ready,
    exporter_runs_as_any_user_that_may_connect,
    stop_while_a_scrape_waits_is_clean,
    unit_is_confined,
    wrong_command_lines_are_refused,
]


def main():
    failed = 0
    for test in TESTS:
        world = new_world()
        began = time.monotonic()
        try:
            test(world)
            print(f"ok: {test.__name__} ({time.monotonic() - began:.1f} s)", flush=True)
        except Exception:  # whatever it is, the other tests go on
            traceback.print_exc()
            for name in ("daemon.log", "exporter.log"):
                path = os.path.join(world.dir, name)
                if os.path.exists(path):
                    print(f"{name}: {open(path, encoding='utf-8').read()}", file=sys.stderr)
            print(f"FAILED: {test.__name__}", flush=True)
            failed += 1
        finally:
            world.end()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
