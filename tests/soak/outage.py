"""An outage: the share is away for minutes or hours of real time while an app writes.

What an app notices of it is told for each stretch of time beside the time before: commits, how long
they took, the largest WAL; and what the agent takes for it: bytes in the spool, memory. When the share
is back all of it has to be on the replica, with no other file of all pages than the first.

  tests/run outage [--minutes 60] [--fault away|frozen|read-only|full] [--spool-limit 64Mi] [--seed N]

`away` is what an export is that is gone, `frozen` one that hangs; those take root, but for `away`.
"""

import argparse
import os
import pathlib
import random
import shutil
import sys
import tempfile
import time

import soak as s
from world import Agent, App, Failed, Node, Pod, World, check

# The time before, and each stretch that is told: long enough for a percentile of a hundred.
STRETCH = 300.0


class Outage:
    """One app on one node."""

    def __init__(self, args, path):
        self.world = World(path, args.seed)
        self.share = s.Share(self.world.path)
        check(args.fault in self.share.faults, f"{args.fault} takes root, and mkfs.ext4")
        node = Node(self.world, "n1")
        self.agent = Agent(node, self.share.path, "--spool-limit", args.spool_limit)
        self.pod = Pod(node, "app").wait_ready()
        self.app = App(self.world, "app", pause=0.01).create(self.pod.database)
        self.app.start(self.pod.database)
        self.agent.wait_state(self.pod, "following")
        self.agent.sync(self.pod)
        self.commits = 0

    def stretch(self, name, seconds):
        """Lets the app write for so long; tells what it noticed."""
        end, wal, spool = time.monotonic() + seconds, 0, 0
        self.app.resume()
        while time.monotonic() < end:
            wal = max(wal, pathlib.Path(f"{self.pod.database}-wal").stat().st_size)
            spool = max(spool, self.agent.metric("sqlrep_spool_bytes"))
            time.sleep(0.5)
        told = self.app.pause()
        commits, self.commits = told["commits"] - self.commits, told["commits"]
        check(told["busy"] == 0, lambda: f"{told['busy']} commits were refused")
        s.say(f"{name}: {commits} commits, half within {told['p50'] * 1e6:.0f} µs, 99 of 100 within "
              f"{told['p99'] * 1e6:.0f} µs, longest {told['stall'] * 1e3:.1f} ms; WAL {wal >> 10} KiB; "
              f"spool {int(spool) >> 10} KiB, memory {self.agent.memory()} KiB")

    def back(self):
        """All of it follows, and restores to what the app has."""
        begun, before = time.monotonic(), self.agent.metric("sqlrep_ship_bytes_total")
        self.agent.sync(self.pod, 900)
        s.say(f"all of it is on the share {time.monotonic() - begun:.1f} s after it is back")
        restored = self.world.restore(self.pod.replica(self.share.path))
        s.w.same(self.pod.database, restored)
        check(self.agent.log.read_text().count("to=snapshotting") == 1, "captured anew")
        shipped = int(self.agent.metric("sqlrep_ship_bytes_total") - before)
        s.say(f"{self.commits} commits in all, {shipped >> 10} KiB of them shipped since then; restored equal")

    def end(self):
        if self.share.fault:
            self.share.end()
        self.world.end()
        self.share.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--fault", default="away", choices=["away", "frozen", "read-only", "full"])
    parser.add_argument("--spool-limit", default="64Mi")
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SQLREP_SEED", 0)))
    args = parser.parse_args()
    args.seed = args.seed or random.randrange(1, 1 << 30)
    s.say(f"SQLREP_SEED={args.seed}, {args.fault} for {args.minutes:g} minutes")
    path = pathlib.Path(tempfile.mkdtemp(prefix="sqlrep-outage-"))
    path.chmod(0o755)
    run, good = None, False
    try:
        run = Outage(args, path)
        run.app.pause()
        seconds = args.minutes * 60
        run.stretch("before", min(STRETCH, seconds))
        run.share.begin(args.fault, seconds)
        while seconds > 0:
            run.stretch(args.fault, min(STRETCH, seconds))
            seconds -= STRETCH
        run.share.end()
        run.back()
        run.stretch("after", min(STRETCH, args.minutes * 60))
        good = True
    except Failed as failed:
        s.say(f"FAILED, SQLREP_SEED={args.seed}: {failed}")
        if run:
            s.say(f"the end of {run.agent.log}:\n{run.agent.tail()}")
    finally:
        if run:
            run.end()
    if good:
        shutil.rmtree(path, ignore_errors=True)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
