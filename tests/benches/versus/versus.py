"""sqlrep beside Litestream: the same workloads on the same machine in one run (figures:
tests/benches/README.md). Prints a table with both figures, their ratio, and what must be reached;
it never judges by itself: machines are noisy.

Called by ./run, which builds and fetches what is needed.
"""

import argparse
import json
import os
import pathlib
import platform
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import workloads  # noqa: E402
from systems import Litestream, Sqlrep, System  # noqa: E402


@dataclass
class Programs:
    agent: pathlib.Path
    ctl: pathlib.Path
    litestream: pathlib.Path


# Name → what runs, on which systems; in the order of the table.
WORKLOADS = {
    "sporadic": (workloads.sporadic, (Litestream, Sqlrep)),
    "full": (workloads.full_speed, (System, Litestream, Sqlrep)),
    "full4": (lambda system, quick: workloads.full_speed(system, quick, 4), (System, Litestream, Sqlrep)),
    "compaction": (workloads.compaction, (Litestream, Sqlrep)),
    "idle100": (lambda system, quick: workloads.idle(system, quick, 100), (Litestream, Sqlrep)),
    "idle1000": (lambda system, quick: workloads.idle(system, quick, 1000), (Litestream, Sqlrep)),
    "snapshot": (workloads.snapshot, (Litestream, Sqlrep)),
    "restore": (workloads.restore, (Litestream, Sqlrep)),
    "tail": (workloads.long_tail, (Litestream, Sqlrep)),
}

# Workload → figure → what must be reached, as a text for the reader. CPU and bytes stand there in all and
# per commit: what an app writes in a given time depends on its replicator (agent/README.md, D65).
BOUNDS = {
    "sporadic": {"lag_p50_ms": "<= 25", "lag_p99_ms": "<= 100"},
    "full": {
        "full_commits_per_s": ">= 0.95 x none",
        "full_longest_ms": "<= 50",
        "full_wal_mb": "<= 32",
        "full_cpu_s": "<= 1/3",
        "full_cpu_us_per_commit": "<= 1/3",
        "full_memory_mb": "<= 24",
        "full_replica_mb": "no more",
        "full_replica_kb_per_commit": "no more",
        "full_replica_files": "no more",
    },
    "full4": {"full_commits_per_s": ">= 0.95 x none"},
    "idle100": {
        "idle_100_cpu_percent": "<= 0.05",
        "idle_100_memory_mb": "<= 30",
        "burst_100_ms": "<= 300",
    },
    "idle1000": {
        "idle_1000_cpu_percent": "<= 0.2",
        "idle_1000_memory_mb": "<= 120",
        "boot_1000_s": "<= 10",
    },
    "snapshot": {"snapshot_times_cp": "<= 1.5"},
    "restore": {
        "restore_205_times_cp": "<= 1.5",
        "restore_821_times_cp": "<= 1.3",
        "restore_821_memory_mb": "<= 64",
    },
    "tail": {"tail_times_compacted": "<= 1.2"},
}


def middle(values):
    """The median of numbers; what is no number must be the same in all rounds."""
    if all(isinstance(value, bool) for value in values):
        return all(values)
    return statistics.median(values)


def rounds(name, count, args, programs, scratch):
    """Runs a workload on its systems in turn, `count` times; figures by system, and ours as a multiple of
    the others'. The peer may fail, and is told of; we may not."""
    measure, systems = WORKLOADS[name]
    systems = [kind for kind in systems if args.only in (None, kind.name)]
    found = {kind.name: [] for kind in systems}
    for number in range(count):
        for kind in systems:
            folder = pathlib.Path(scratch) / f"{name}-{number}-{kind.name}"
            system = kind(folder, programs)
            print(f"{name} {kind.name} {number + 1}/{count}", file=sys.stderr, flush=True)
            try:
                figures = measure(system, args.quick)
                print(f"  {json.dumps(figures)}", file=sys.stderr, flush=True)
                found[kind.name].append(figures)
            except Exception as error:
                if kind is Sqlrep:
                    raise
                found[kind.name].append(None)
                print(f"  {kind.name} failed: {error}", file=sys.stderr, flush=True)
            finally:
                system.stop()
                shutil.rmtree(folder, ignore_errors=True)
                settle_disk()
    by_system = {system: middles(figures) for system, figures in found.items() if any(figures)}
    ours = found.get("sqlrep", [])
    for other in by_system.keys() - {"sqlrep"}:
        by_system[f"times {other}"] = multiples(ours, found[other])
    return by_system


def middles(rounds):
    """The median of each figure."""
    rounds = [figures for figures in rounds if figures]
    return {key: middle([figures[key] for figures in rounds]) for key in rounds[0]}


def multiples(ours, others):
    """The median of what each round says: machines change from round to round, and both with them."""
    pairs = [(one, other) for one, other in zip(ours, others) if one and other]
    keys = [key for key, value in ours[0].items() if is_number(value)] if ours else []
    ratios = {key: [one[key] / other[key] for one, other in pairs if other.get(key)] for key in keys}
    return {key: statistics.median(values) for key, values in ratios.items() if values}


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def settle_disk():
    """What one system left is written, and the blocks of what it deleted are given back, before the
    next one is measured."""
    os.sync()
    time.sleep(3)


def text(value):
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def table(results):
    yield "| workload | figure | none | Litestream | sqlrep | x none | x Litestream | must |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    columns = ("none", "litestream", "sqlrep", "times none", "times litestream")
    for name, by_system in results.items():
        bounds = BOUNDS.get(name, {})
        for key in by_system.get("sqlrep", {}):
            cells = [text(by_system.get(column, {}).get(key)) for column in columns]
            yield "| " + " | ".join([name, key, *cells, bounds.get(key, "")]) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--agent", type=pathlib.Path, required=True)
    parser.add_argument("--ctl", type=pathlib.Path, required=True)
    parser.add_argument("--litestream", type=pathlib.Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["none", "litestream", "sqlrep"], help="one system alone")
    parser.add_argument("--quick", action="store_true", help="small sizes, one round: does it run?")
    parser.add_argument("--json", type=pathlib.Path, help="also write the figures here")
    parser.add_argument("workload", nargs="*", help="one of: " + " ".join(WORKLOADS))
    args = parser.parse_args()
    wanted = args.workload or list(WORKLOADS)
    unknown = [name for name in wanted if name not in WORKLOADS]
    if unknown:
        parser.error(f"no workload {unknown[0]}; there are: {' '.join(WORKLOADS)}")
    programs = Programs(args.agent, args.ctl, args.litestream)
    count = 1 if args.quick else args.rounds
    begun, results = time.time(), {}
    with tempfile.TemporaryDirectory(prefix="versus-") as scratch:
        for name in wanted:
            results[name] = rounds(name, count, args, programs, scratch)
    print(f"{time.strftime('%Y-%m-%d', time.gmtime(begun))}, {platform.machine()}, {platform.release()}, median of {count}\n")
    print("\n".join(table(results)))
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")
    wrong = [
        f"{name}: {system}: {key}"
        for name, by_system in results.items()
        for system, figures in by_system.items()
        for key, value in figures.items()
        if value is False
    ]
    if wrong:
        sys.exit("NOT EQUAL: " + "; ".join(wrong))


main()
