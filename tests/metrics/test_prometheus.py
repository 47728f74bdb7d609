"""A real prometheus scrapes the exporter; each query of the dashboard has data there; each alert fires when it should.

    test_prometheus.py base=ADDRESS goallocd=PATH goallocctl=PATH exporter=PATH worker=PATH source=DIRECTORY unit=PATH

Prints a line for each test. Exit status 77: Debian's package prometheus is missing.
"""

import glob
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import traceback
import urllib.parse
import urllib.request

from world import PATIENCE_S, Worker, World, die_with_the_test, programs_of, skip, wait_for

for program in ("prometheus", "promtool"):
    if shutil.which(program) is None:
        skip(f"there is no {program} (package prometheus)")

PROGRAMS = programs_of(sys.argv[1:])
SOURCE = PROGRAMS["source"]
DASHBOARD = os.path.join(SOURCE, "exporter", "grafana-dashboard.json")
README = os.path.join(SOURCE, "exporter", "README.md")
RULES = os.path.join(SOURCE, "exporter", "alerts.yml")
ALERT_TESTS = os.path.join(SOURCE, "tests", "metrics", "alerts")

# What Grafana puts in place of its variables.
VARIABLES = {"$__rate_interval": "30s", "$__interval": "30s", "$__range": "5m", "$instance": ".*"}

CONFIG = """
global:
  scrape_interval: 500ms
  scrape_timeout: 500ms
  evaluation_interval: 500ms
rule_files:
  - {rules}
scrape_configs:
  - job_name: goallocd
    static_configs:
      - targets: ["{host}:{port}"]
"""


class Prometheus:
    def __init__(self, world):
        config = os.path.join(world.dir, "prometheus.yml")
        self.log = os.path.join(world.dir, "prometheus.log")
        with open(config, "w", encoding="utf-8") as out:
            out.write(CONFIG.format(rules=RULES, host=world.address[0], port=world.address[1]))
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                ["prometheus", "--config.file", config, "--web.listen-address", "127.0.0.1:0", "--storage.tsdb.path",
                 os.path.join(world.dir, "tsdb")], stdout=log, stderr=log, preexec_fn=die_with_the_test)
        world.processes.append(self.process)
        found = wait_for("prometheus", self.address)
        self.url = f"http://{found.group(1)}"

    def address(self):
        text = open(self.log, encoding="utf-8").read()
        assert self.process.poll() is None, text
        return re.search(r'msg="?Listening on"? address=(127\.0\.0\.1:[1-9]\d*)', text)

    def get(self, path, **parameters):
        try:
            with urllib.request.urlopen(f"{self.url}{path}?{urllib.parse.urlencode(parameters)}",
                                        timeout=PATIENCE_S) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read()}") from error
        except OSError:
            return None  # it listens before it serves

    def query(self, expression):
        """Samples that have a value, which NaN is not."""
        data = self.get("/api/v1/query", query=expression)
        return [one for one in data["result"] if one["value"][1] != "NaN"] if data else []


def queries_of_the_dashboard():
    """(title, expression)"""
    with open(DASHBOARD, encoding="utf-8") as file:
        dashboard = json.load(file)
    found = [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel.get("targets", [])]
    found += [(one["name"], one["expr"]) for one in dashboard["annotations"]["list"]]
    assert len(found) > 20
    for title, expression in found:
        for variable, value in VARIABLES.items():
            expression = re.sub(re.escape(variable) + r"\b", value, expression)
        assert "$" not in expression, (title, expression)
        yield title, expression


def be_busy(world):
    """All that the dashboard shows has happened."""
    members = [Worker(world, name) for name in ("readers", 'wri"ters')]
    limited = Worker(world, limit=1 << 20)
    for worker in members:
        assert worker.do("fill 1000 500") == 0
        assert worker.do("churn 100000") == 0
    assert limited.do("grow 8388608") != 0
    doomed = Worker(world)
    assert doomed.do("fill 1000 64") == 0
    doomed.kill()
    return members


def dashboard_has_data_in_every_panel(world):
    options = ("--reserve", "256M", "--memory-limit", "128M", "--max-memory", "192M")
    world.start_daemon(*options)
    world.start_exporter("--cache", "100ms")
    prometheus = Prometheus(world)
    members = be_busy(world)
    wait_for("a scrape with two groups", lambda: len(prometheus.query("goallocd_group_live_bytes")) == 3)
    wait_for("the target to be up", lambda: [target["health"] for target in
                                             prometheus.get("/api/v1/targets")["activeTargets"]] == ["up"])
    world.daemon.send_signal(signal.SIGKILL)
    world.daemon.wait()
    wait_for("a scrape without the daemon", lambda: prometheus.query("goallocd_up == 0"))
    world.start_daemon(*options)
    members[0].do("churn 100000")
    be_busy(world)
    wait_for("a restart to be seen", lambda: prometheus.query("changes(goallocd_start_time_seconds[5m]) > 0"))
    assert Worker(world, limit=1 << 20).do("grow 8388608") != 0  # a counter that has been scraped goes on
    for title, expression in queries_of_the_dashboard():
        wait_for(f"data for '{title}': {expression}", lambda e=expression: prometheus.query(e))
    # Rules are evaluated there, and none of them is wrong.
    groups = prometheus.get("/api/v1/rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert rules and all(rule["health"] != "err" for rule in rules), rules

    def fire():
        alerts = prometheus.get("/api/v1/alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"} or None

    wait_for("the alerts of what has happened", lambda: (fire() or set()) >= {"GoallocdRestarted",
                                                                              "GoallocdGrowthRefused"})
    assert "GoallocdHeapReplaced" not in fire()
    world.stop_exporter()


def rules_are_right_and_each_has_its_test(world):
    del world
    subprocess.run(["promtool", "check", "rules", RULES], check=True, stdout=subprocess.DEVNULL)
    with open(RULES, encoding="utf-8") as file:
        names = set(re.findall(r"^ +- alert: (\w+)$", file.read(), re.MULTILINE))
    files = {os.path.basename(path)[:-len(".yml")]: path for path in glob.glob(os.path.join(ALERT_TESTS, "*.yml"))}
    assert names == set(files), names ^ set(files)
    for name, path in files.items():
        with open(path, encoding="utf-8") as file:
            text = file.read()
        assert set(re.findall(r"alertname: (\w+)", text)) == {name}
        assert "exp_alerts: []" in text and "exp_alerts:\n" in text, f"{name} has to fire, and not to fire"
    subprocess.run(["promtool", "test", "rules", *files.values()], check=True, stdout=subprocess.DEVNULL)


def metrics_that_rules_panels_and_the_readme_name_exist(world):
    """A query for a metric that nobody serves would be silent for ever."""
    world.start_daemon("--memory-limit", "1G", "--max-memory", "2G")
    world.start_exporter()
    assert Worker(world).do("fill 1 1") == 0
    served = {re.split(r"[{ ]", name)[0] for name in world.scrape()}
    for path in (DASHBOARD, RULES):
        with open(path, encoding="utf-8") as file:
            named = set(re.findall(r"\bgoallocd_[a-z_]+", file.read()))
        assert named <= served, (path, named - served)
    with open(README, encoding="utf-8") as file:
        listed = re.findall(r"^\| (goallocd_[a-z_]+) \|", file.read(), re.MULTILINE)
    assert set(listed) == served and len(listed) == len(served), set(listed) ^ served
    world.stop_exporter()


TESTS = [
    rules_are_right_and_each_has_its_test,
    metrics_that_rules_panels_and_the_readme_name_exist,
    dashboard_has_data_in_every_panel,
]


def main():
    failed = 0
    for test in TESTS:
        world = World(PROGRAMS, PROGRAMS["base"])
        try:
            test(world)
            print(f"ok: {test.__name__}", flush=True)
        except Exception:  # whatever it is, the other tests go on
            traceback.print_exc()
            for name in ("daemon.log", "exporter.log", "prometheus.log"):
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
