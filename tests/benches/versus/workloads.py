"""The rows of the table: each function measures one system once and gives figures by name."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time

from measure import (
    Arrivals,
    Largest,
    cpu_seconds,
    cpu_seconds_fine,
    memory,
    percentile,
    tree_bytes,
)
from systems import HERE, files_at

# After this long without a change a replica is taken for caught up.
QUIET = 2.5

# Both compact level 0 at the multiples of this, by the wall clock.
TICK = 30


class App:
    """A writing process."""

    def __init__(self, *args):
        command = [sys.executable, str(HERE / "writer.py"), *[str(arg) for arg in args]]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def hear(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the writer ended: {self.process.wait()}")
        return json.loads(line)

    def go(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self):
        self.go()
        self.process.stdin.close()
        if self.process.wait(60) != 0:
            raise RuntimeError("the writer failed")


def app(*args):
    """Runs a writer that needs no watching to its end."""
    subprocess.run(
        [sys.executable, str(HERE / "writer.py"), *[str(arg) for arg in args]], check=True
    )


def tail(database, count, gap):
    """Small commits at a steady pace."""
    writer = App("tail", database, count, gap)
    writer.hear()
    writer.go()
    writer.hear()
    writer.end()


def wait_for(what, check, seconds=300):
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            raise RuntimeError(f"waited {seconds} s for {what}")
        time.sleep(0.02)


def wait_quiet(system, count=1):
    """Until nothing was added to the replicas for a while; the time of the last change."""
    if system.pid is None:
        return
    before, since = None, time.monotonic()
    while time.monotonic() - since < QUIET:
        now = [tree_bytes(system.replica(number)) for number in range(count)]
        if now != before or not all(files for files, _ in now):
            before, since = now, time.monotonic()
        if time.monotonic() - system.begun > 1200:
            raise RuntimeError(f"{system.name}: the replicas do not come to rest")
        time.sleep(0.1)


def until_tick_in(seconds):
    """Sleeps until the next compaction is due in so many seconds."""
    time.sleep((-time.time() - seconds) % TICK)


def sync_disks():
    os.sync()


def same(left, right):
    """Whether two databases hold the same rows."""
    db = sqlite3.connect(left)
    db.execute("ATTACH ? AS other", (str(right),))
    for table in ("t", "clock"):
        for one, two in (("main", "other"), ("other", "main")):
            query = f"SELECT count(*) FROM (SELECT * FROM {one}.{table} EXCEPT SELECT * FROM {two}.{table})"
            if db.execute(query).fetchone()[0]:
                return False
    return db.execute("SELECT (SELECT count(*) FROM t) = (SELECT count(*) FROM other.t)").fetchone()[0] == 1


def restored_equal(system, number):
    """Restores the latest state and compares it with the source."""
    output = system.folder / "restored.db"
    subprocess.run([str(part) for part in system.restore(number, output)], check=True, capture_output=True)
    equal = same(system.database(number), output)
    output.unlink()
    return equal


def sporadic(system, quick):
    """One commit now and then: from the commit to its file on the replica."""
    database = system.database(0)
    app("fill", database, 1 << 20)
    system.start(1)
    if system.pid is None:
        return {}
    wait_quiet(system)
    watch = Arrivals([system.replica(0) / "ltx" / "0"])
    writer = App("sparse", database, 12 if quick else 60, 1.7)
    writer.hear()
    writer.go()
    commits = [writer.hear()["at"] for _ in range(12 if quick else 60)]
    time.sleep(3)
    watch.close()
    writer.end()
    arrivals = [at for at, _ in watch.seen]
    lags = []
    for number, at in enumerate(commits):
        after = [seen for seen in arrivals if seen >= at]
        if after:
            lags.append(after[0] - at)
    equal = restored_equal(system, 0)
    system.stop()
    return {
        "lag_p50_ms": percentile(lags, 0.5) * 1e3,
        "lag_p99_ms": max(lags) * 1e3 if quick else percentile(lags, 0.99) * 1e3,
        "lag_commits": len(lags),
        "lag_equal": equal,
    }


def full_speed(system, quick, writers=1):
    """Writers without pauses for 12 s, and the compaction of what they wrote just after that: where it came
    in some rounds and not in others, that alone would make a third of the bytes."""
    database = system.database(0)
    app("fill", database, 8 << 20)
    system.start(1)
    wait_quiet(system)
    seconds = 4 if quick else 12
    apps = [App("full", database, seconds, 2 + number) for number in range(writers)]
    for writer in apps:
        writer.hear()
    if system.pid:
        until_tick_in(seconds + 1)
    cpu = cpu_seconds(system.pid) if system.pid else 0
    with Largest(f"{database}-wal") as wal:
        for writer in apps:
            writer.go()
        facts = [writer.hear() for writer in apps]
        wait_quiet(system)
    figures = {
        "full_commits_per_s": sum(fact["commits"] / fact["seconds"] for fact in facts),
        "full_longest_ms": max(fact["longest"] for fact in facts) * 1e3,
        "full_busy": sum(fact["busy"] for fact in facts),
        "full_wal_mb": wal.bytes / 1e6,
    }
    if system.pid:
        files, size = tree_bytes(system.replica(0))
        spent = cpu_seconds(system.pid) - cpu
        # An app that is slowed down gives its replicator less to do.
        commits = sum(fact["commits"] for fact in facts)
        figures |= {
            "full_cpu_s": spent,
            "full_cpu_us_per_commit": spent / commits * 1e6,
            "full_memory_mb": memory(system.pid)[1] / 1e6,
            "full_replica_mb": size / 1e6,
            "full_replica_kb_per_commit": size / commits / 1e3,
            "full_replica_files": files,
            "full_equal": restored_equal(system, 0),
        }
    for writer in apps:
        writer.end()
    system.stop()
    return figures


def idle(system, quick, count):
    """Many databases with an open connection and no writes."""
    for number in range(count):
        database = system.database(number)
        if number == 0:
            app("fill", database, 64 << 10)
        else:
            shutil.copy(system.database(0), database)
    apps = App("burst", *[system.database(number) for number in range(count)])
    apps.hear()
    system.start(count)
    begun = time.monotonic()
    wait_for("first files", lambda: all(files_at(system, number) for number in range(count)), 300)
    boot = time.monotonic() - begun
    wait_quiet(system, count)
    # What was just shipped is compacted at the next tick, once: that is not idleness.
    time.sleep(5 if quick else 100)
    seconds = 10 if quick else 60
    before = cpu_seconds_fine(system.pid)
    time.sleep(seconds)
    spent = cpu_seconds_fine(system.pid) - before
    figures = {
        f"idle_{count}_cpu_percent": spent / seconds * 100,
        f"idle_{count}_memory_mb": memory(system.pid)[0] / 1e6,
        f"boot_{count}_s": boot,
    }
    if count == 100:
        figures |= burst(system, count, apps)
    apps.end()
    system.stop()
    return figures


def burst(system, count, apps):
    """One commit to each of many databases, until all are on their replicas."""
    # The first commit of a WAL costs the app an fsync of its header: that one is not measured.
    apps.go()
    apps.hear()
    wait_quiet(system, count)
    watch = Arrivals([system.replica(number) / "ltx" / "0" for number in range(count)])
    begun = time.time()
    apps.go()
    done = apps.hear()["at"]
    wait_for("all files", lambda: len({folder for _, folder in watch.seen}) == count, 60)
    watch.close()
    first = {}
    for at, folder in watch.seen:
        first.setdefault(folder, at)
    return {
        f"burst_{count}_ms": (max(first.values()) - begun) * 1e3,
        f"burst_{count}_app_ms": (done - begun) * 1e3,
    }


def compaction(system, quick):
    """A steady writer over three ticks of compaction: what the replicator takes with all that it does."""
    database = system.database(0)
    app("fill", database, 32 << 20)
    system.start(1)
    if system.pid is None:
        return {}
    wait_quiet(system)
    before = cpu_seconds(system.pid)
    count, begun = (1600 if quick else 4400), time.monotonic()
    tail(database, count, 0.02)
    seconds = time.monotonic() - begun
    wait_quiet(system)
    spent = cpu_seconds(system.pid) - before
    files, size = tree_bytes(system.replica(0))
    figures = {
        "compaction_cpu_percent": spent / seconds * 100,
        "compaction_cpu_us_per_commit": spent / count * 1e6,
        "compaction_memory_mb": memory(system.pid)[1] / 1e6,
        "compaction_level_1_files": len(files_at(system, 0, level=1)),
        "compaction_files": files,
        "compaction_replica_mb": size / 1e6,
        "compaction_equal": restored_equal(system, 0),
    }
    system.stop()
    return figures


def snapshot(system, quick):
    """The first copy of a big database, beside `cp` and `sync`."""
    size = (128 << 20) if quick else (1 << 30)
    database = system.database(0)
    app("fill", database, size)
    copy = system.folder / "copy"
    sync_disks()
    begun = time.monotonic()
    subprocess.run(["sh", "-c", f"cp '{database}' '{copy}' && sync"], check=True)
    plain = time.monotonic() - begun
    copy.unlink()
    system.start(1)
    if system.pid is None:
        return {}
    wait_for("the first file", lambda: files_at(system, 0), 600)
    took = time.monotonic() - system.begun
    figures = {
        "snapshot_s": took,
        "snapshot_cp_s": plain,
        "snapshot_times_cp": took / plain,
        "snapshot_memory_mb": memory(system.pid)[1] / 1e6,
    }
    system.stop()
    return figures


def timed_restore(system, number):
    """One restore: seconds until it is on the disk, and the largest memory of the process."""
    output = system.folder / "restored.db"
    sync_disks()
    begun = time.monotonic()
    command = ["/usr/bin/time", "-f", "%M", *[str(part) for part in system.restore(number, output)]]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    took = time.monotonic() - begun
    return took, int(done.stderr.strip().splitlines()[-1]) / 1e3, output


def restore(system, quick):
    """A big database back from its replica, beside `cp` and `sync`."""
    figures = {}
    for label, size in (("205", 205 << 20), ("821", 821 << 20)):
        if quick and label == "821":
            break
        part = type(system)(system.folder / label, system.programs)
        database = part.database(0)
        app("fill", database, size)
        part.start(1)
        if part.pid is None:
            return {}
        wait_for("the first file", lambda: files_at(part, 0), 600)
        wait_quiet(part)
        tail(database, 30, 0.05)
        wait_quiet(part)
        part.stop()
        copy = part.folder / "copy"
        rounds = []
        for _ in range(1 if quick else 3):
            sync_disks()
            begun = time.monotonic()
            subprocess.run(["sh", "-c", f"cp '{database}' '{copy}' && sync"], check=True)
            plain = time.monotonic() - begun
            copy.unlink()
            took, peak, output = timed_restore(part, 0)
            rounds.append((took / plain, took, plain, peak))
            output.unlink()
        times, took, plain, peak = sorted(rounds)[len(rounds) // 2]
        figures |= {
            f"restore_{label}_s": took,
            f"restore_{label}_cp_s": plain,
            f"restore_{label}_times_cp": times,
            f"restore_{label}_memory_mb": peak,
        }
        shutil.rmtree(part.folder)
    return figures


def long_tail(system, quick):
    """A restore over many small level-0 files, then over what they were compacted to: of the smaller
    database of `restore`, and what each file adds to it."""
    count = 100 if quick else 1000
    database = system.database(0)
    app("fill", database, (64 << 20) if quick else (205 << 20))
    system.start(1, sync="50ms", level="24h")
    if system.pid is None:
        return {}
    wait_quiet(system)
    tail(database, count, 0.12)
    wait_quiet(system)
    files = files_at(system, 0)
    took, peak = fastest_restore(system)
    system.stop()
    system.start(1, level="2s")
    tail(database, 1, 0)  # what nobody writes to may be compacted later
    newest = max(name[17:] for name in files)
    wait_for("all is compacted", lambda: any(name[17:] >= newest for name in files_at(system, 0, level=1)))
    wait_quiet(system)
    compacted, _ = fastest_restore(system)
    system.stop()
    return {
        "tail_files": len(files),
        "tail_restore_s": took,
        "tail_compacted_s": compacted,
        "tail_times_compacted": took / compacted,
        "tail_us_per_file": (took - compacted) / len(files) * 1e6,
        "tail_memory_mb": peak,
    }


def fastest_restore(system):
    """The fastest of five: the disk of a machine that others share is the noise in it. And the memory."""
    rounds = []
    for _ in range(5):
        took, peak, output = timed_restore(system, 0)
        output.unlink()
        rounds.append((took, peak))
    return min(took for took, _ in rounds), max(peak for _, peak in rounds)
