#!/usr/bin/env python3
"""bench-dsa: one workload of the suite with PostgreSQL's dynamic shared areas; prints one line of JSON, as all others.

    bench-dsa WORKLOAD [--threads 1 | --processes N] [--size BYTES] [--ops N]

Called by suite.py. Starts a PostgreSQL server of its own in a temporary directory, without network, and has it load
bench_postgres.so, which lies beside this file; a worker is a connection, and so a process of the server. PostgreSQL
does not run as root: then it gets the user postgres of Debian's package.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile

BIN = os.environ.get("BENCH_POSTGRES_BIN", "@POSTGRES_BIN@")
CREATE = """
CREATE FUNCTION bench_create() RETURNS text AS '{so}' LANGUAGE C;
CREATE FUNCTION bench_run(text, int, int, bigint, bigint, bigint, bigint) RETURNS text AS '{so}' LANGUAGE C STRICT;
SELECT bench_create();
"""


class Server:
    def __init__(self, directory):
        self.directory = directory
        self.as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"] if os.geteuid() == 0 else []
        self.data = os.path.join(directory, "data")

    def run(self, program, *arguments):
        done = subprocess.run([*self.as_user, os.path.join(BIN, program), *arguments], cwd=self.directory,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{program}: {done.stderr.strip()[-500:]}")
        return done.stdout

    def __enter__(self):
        if self.as_user:
            shutil.chown(self.directory, "postgres", "postgres")
        self.run("initdb", "-D", self.data, "--no-sync", "-A", "trust", "-U", "bench")
        self.run("pg_ctl", "-D", self.data, "-w", "-l", os.path.join(self.directory, "log"), "-o",
                 f"-c listen_addresses= -c unix_socket_directories={self.directory} -c fsync=off -c autovacuum=off "
                 "-c shared_buffers=16MB", "start")
        return self

    def __exit__(self, *_):
        self.run("pg_ctl", "-D", self.data, "-m", "immediate", "stop")

    def connection(self, sql):
        return subprocess.Popen([os.path.join(BIN, "psql"), "-h", self.directory, "-U", "bench", "-d", "postgres",
                                 "-AtqX", "-v", "ON_ERROR_STOP=1", "-c", sql],
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def answer(connection):
    out, err = connection.communicate()
    if connection.returncode != 0:
        raise RuntimeError(err.strip())
    return out.split()


def main():
    parser = argparse.ArgumentParser(prog="bench-dsa")
    parser.add_argument("workload", choices=["pairs", "batches", "prodcons"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--processes", type=int, default=0)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--ops", type=int, default=200000)
    arguments = parser.parse_args()
    n = max(arguments.processes, 1)
    if arguments.threads > 1 or (arguments.workload == "prodcons" and n % 2 != 0):
        sys.exit("bench-dsa: not with that many workers")
    with tempfile.TemporaryDirectory(prefix="goalloc-dsa-", dir="/tmp") as directory:
        so = os.path.join(directory, "bench_postgres.so")
        shutil.copy(os.path.join(os.path.dirname(os.path.abspath(__file__)), "bench_postgres.so"), so)
        os.chmod(so, 0o644)
        with Server(directory) as server:
            handle, ring = answer(server.connection(CREATE.format(so=so)))
            workers = [server.connection(f"SELECT bench_run('{arguments.workload}', {i}, {n}, {handle}, {ring}, "
                                         f"{arguments.size}, {arguments.ops})") for i in range(n)]
            results = [answer(worker) for worker in workers]
    ns = sum(float(r[0]) for r in results)
    ops = sum(int(r[1]) for r in results)
    checksum = sum(int(r[2]) for r in results)
    print(json.dumps({"allocator": "dsa", "workload": arguments.workload, "threads": 1, "processes": n,
                      "size": arguments.size, "ops": ops, "ns_per_op": ns / ops, "peak_bytes": 0, "rpcs": 0,
                      "checksum": f"{checksum:016x}"}))


if __name__ == "__main__":
    try:
        main()
    except RuntimeError as error:
        sys.exit(f"bench-dsa: {error}")
