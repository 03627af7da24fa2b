"""Counts what one agent asks of its share while some of its databases are written to, once per
interval each; prints it beside the model, and the model for whole fleets (agent/README.md).

Called by ./run, which builds what is needed.
"""

import argparse
import pathlib
import shutil
import socket
import sqlite3
import sys
import tempfile
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "versus")]

import model  # noqa: E402
from measure import cpu_seconds, memory  # noqa: E402
from systems import Sqlrep  # noqa: E402

COUNT = "sqlrep_nfs_op_duration_seconds_count"


class Metered(Sqlrep):
    """An agent that shows its metrics."""

    def spawn(self, command, **options):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        # A short retention, so that files go as well as come while it is counted.
        more = ["--metrics", f"127.0.0.1:{self.port}", "--l0-retention", "1m"]
        super().spawn([*command, *more], **options)

    def metrics(self):
        """Series → value."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as page:
            lines = page.read().decode().splitlines()
        return {
            series: float(value)
            for series, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        }

    def calls(self):
        """Operation → how often so far."""
        return {
            series.split('op="')[1].split('"')[0]: value
            for series, value in self.metrics().items()
            if series.startswith(COUNT + "{")
        }


def databases(system, count):
    """Open connections to as many databases, a small table in each."""
    opened = []
    for number in range(count):
        db = sqlite3.connect(system.database(number), timeout=10, isolation_level=None)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v BLOB)")
        db.execute("INSERT INTO t (v) VALUES (zeroblob(20000))")
        opened.append(db)
    return opened


def write(opened, seconds):
    """One commit per second to each, spread over the second."""
    end = time.monotonic() + seconds
    turn = 0
    while time.monotonic() < end:
        begun = time.monotonic()
        for number, db in enumerate(opened):
            pause = begun + number / len(opened) - time.monotonic()
            time.sleep(max(0.0, pause))
            db.execute("INSERT INTO t (v) VALUES (zeroblob(300))")
        turn += 1
        time.sleep(max(0.0, begun + 1 - time.monotonic()))
    return turn


def all_follow(system, count):
    """Waits until each is on the replica."""
    for _ in range(600):
        try:
            metrics = system.metrics()
        except OSError:
            metrics = {}
        if metrics.get('sqlrep_databases{state="following"}') == count:
            return
        time.sleep(0.1)
    raise RuntimeError("the databases are not all followed after a minute")


def row(*cells):
    print("| " + " | ".join(str(cell) for cell in cells) + " |")


def count(args, folder):
    programs = argparse.Namespace(agent=args.agent, ctl=args.ctl)
    system = Metered(folder, programs)
    opened = databases(system, args.databases)
    system.start(args.databases)
    try:
        all_follow(system, args.databases)
        # The levels come into their step.
        write(opened[: args.active], args.warm_up)
        before, cpu = system.calls(), cpu_seconds(system.pid)
        shipped = system.metrics()
        begun = time.monotonic()
        turns = write(opened[: args.active], args.seconds)
        took = time.monotonic() - begun
        calls, cpu = system.calls(), cpu_seconds(system.pid) - cpu
        bytes_out = sum(
            value - shipped.get(series, 0)
            for series, value in system.metrics().items()
            if series.startswith("sqlrep_ship_bytes_total")
        )
        largest = memory(system.pid)[1]
    finally:
        system.stop()
    rates = {op: (value - before.get(op, 0)) / took for op, value in calls.items()}
    commits = turns * args.active / took
    print(f"one agent, {args.databases} databases, {commits:.1f} commits/s over {took:.0f} s: ", end="")
    print(f"CPU {100 * cpu / took:.2f} %, at most {largest / 1e6:.0f} MB, {bytes_out / took / 1e3:.0f} kB/s shipped\n")
    # The model is asked for the rate that the writer kept up with.
    constants = model.Constants(interval=args.active / commits if commits else 1.0)
    expected = model.fleet(1, args.databases, args.active / args.databases, constants)
    if args.warm_up + args.seconds <= model.FIRST_LOOK:
        for op, rate in model.begun(args.databases - args.active).items():
            expected[op] += rate
    row("calls/s", "counted", "model")
    row("---", "---", "---")
    for op in sorted({*rates, *expected}):
        row(op, f"{rates.get(op, 0.0):.3g}", f"{expected.get(op, 0.0):.3g}")
    return bytes_out / took / max(commits, 1e-9)


def scale(bytes_per_commit):
    print("\nfleets of 20 databases a node, a tenth of them with a commit per second:\n")
    row("nodes", "databases", "files/s", "calls/s in all", "MB/s", "watches", "agents per caller of list")
    row(*["---"] * 7)
    for nodes in (1, 100, 1000, 5000):
        rates = model.fleet(nodes, 20, 0.1)
        busy = nodes * 2
        row(
            f"{nodes:,}", f"{nodes * 20:,}", f"{rates['put']:,.0f}", f"{sum(rates.values()):,.0f}",
            f"{busy * bytes_per_commit / 1e6:,.2f}", f"{nodes:,}", f"{-(-nodes // model.CALLERS):,}",
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--agent", type=pathlib.Path, required=True)
    parser.add_argument("--ctl", type=pathlib.Path, required=True)
    parser.add_argument("--databases", type=int, default=200)
    parser.add_argument("--active", type=int, default=20)
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--warm-up", type=int, default=100)
    args = parser.parse_args()
    if not 0 < args.active <= args.databases:
        parser.error("--active must be at least 1, and at most --databases")
    with tempfile.TemporaryDirectory(prefix="fleet-") as scratch:
        folder = pathlib.Path(scratch) / "one"
        per_commit = count(args, folder)
        shutil.rmtree(folder, ignore_errors=True)
    scale(per_commit)


if __name__ == "__main__":
    main()
