"""How a part of tests/bench/languages that is a program of its own measures: in a process of its own, which prints JSON."""

import json
import subprocess
import sys


def run_itself(program, build, rounds):
    command = [sys.executable, "-B", program, "--build", build, "--rounds", str(rounds), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip()[-500:])
    return json.loads(done.stdout)
