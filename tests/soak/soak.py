"""A soak: apps of different habits write for minutes or days while everything breaks around them.

Two nodes with an agent each share one replica root. The dice of a seed decide which fault comes
when; every commit that an app was told of is kept outside of its pod, and every state that comes
back (a pod that moved, a restore of a replica at any moment) must be the exact state after some
commit, and the latest one where nothing may be missing. The last line is the account.

  tests/run soak [--minutes 10] [--seed N] [--apps 6]

As root the replica root is a file system of its own, which also gets full, read-only and frozen;
without, it only goes away. Whoever reads this for what is promised: agent/README.md.
"""

import argparse
import collections
import hashlib
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support" / "py"))

import world as w  # noqa: E402
from world import Agent, App, Clock, Failed, Node, Pod, World, check, wait  # noqa: E402

# What apps do to their databases. A pace of some ten commits a second keeps a check, which makes
# every transaction again, cheap.
HABITS = {
    "plain": {"pause": 0.02},
    "rollback": {"journal": "DELETE", "pause": 0.05},
    "vacuum": {"vacuum": 25, "pause": 0.03},
    "each-commit": {"autocheckpoint": 1, "pause": 0.03},
    "never": {"autocheckpoint": 0, "synchronous": "FULL", "pause": 0.02},
    "small-pages": {"page_size": 512, "pause": 0.02},
    "large-pages": {"page_size": 65536, "pause": 0.05},
    "persist": {"journal": "PERSIST", "vacuum": 40, "pause": 0.05},
    "checkpointed": {"pause": 0.02},  # by another process, each second
    "orm": {"orm": True, "pause": 0.3},
}
# An app that has made so many commits ends, is proven to its last one, and begins anew.
LIFE = 12_000
FLAGS = ["--spool-limit", "64Mi", "--l0-retention", "30s", "--levels", "5s,20s,60s",
         "--snapshot-interval", "2m", "--verify-interval", "3m", "--drain-timeout", "5s"]
SHARE_MEGABYTES = 1024
DAY = 24 * 3600
# By how much a node's clock is wrong.
CLOCKS = (-400 * DAY, -DAY, -3600, -20, 0, 0, 20, 3600, DAY, 400 * DAY)
PATIENCE = 180.0
CHECKPOINTER = """
import sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], timeout=2, isolation_level=None)
while True:
    for mode in ("TRUNCATE", "RESTART", "FULL"):
        time.sleep(1)
        try:
            db.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        except sqlite3.OperationalError:
            pass
"""


def say(words):
    print(f"{time.strftime('%H:%M:%S')} {words}", flush=True)


class Share:
    """The replica root, and what can become of it."""

    def __init__(self, path):
        self.path, self.fault, self.until = path / "share", None, 0.0
        self.image, self.filler = path / "share.ext4", self.path / "filler"
        self.path.mkdir()
        self.mounted = os.geteuid() == 0 and shutil.which("mkfs.ext4") and self.make()
        self.faults = ["full", "read-only", "frozen", "away"] if self.mounted else ["away"]

    def make(self):
        with open(self.image, "wb") as image:
            image.truncate(SHARE_MEGABYTES << 20)
        self.run("mkfs.ext4", "-q", "-F", "-m", "0", self.image)
        # One device for all mounts: what is mounted twice is one file system then.
        command = ["losetup", "--find", "--show", self.image]
        found = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        self.device = found.stdout.strip()
        return found.returncode == 0 and self.run("mount", self.device, self.path)

    @staticmethod
    def run(*command):
        return subprocess.run(list(map(str, command)), check=False).returncode == 0

    def begin(self, fault, seconds):
        self.fault, self.until = fault, time.monotonic() + seconds
        if fault == "full":
            try:
                with open(self.filler, "wb") as filler:
                    while True:
                        filler.write(bytes(1 << 16))
                        filler.flush()
            except OSError:
                pass  # it is full
        elif fault == "read-only":
            self.run("mount", "-o", "remount,ro", self.path)
        elif fault == "frozen":
            self.run("fsfreeze", "-f", self.path)
        elif self.mounted:
            # What is open stays open; the path leads to the empty directory beneath.
            self.run("umount", "-l", self.path)
        else:
            self.path.rename(f"{self.path}-away")
            self.path.mkdir()

    def end(self):
        fault, self.fault = self.fault, None
        if fault == "full":
            self.filler.unlink()
        elif fault == "read-only":
            self.run("mount", "-o", "remount,rw", self.path)
        elif fault == "frozen":
            self.run("fsfreeze", "-u", self.path)
        elif fault == "away" and self.mounted:
            wait("the share is back", lambda: self.run("mount", self.device, self.path))
        elif fault == "away":
            self.path.rmdir()
            pathlib.Path(f"{self.path}-away").rename(self.path)

    def close(self):
        if self.fault:
            self.end()
        if self.mounted:
            self.run("umount", "-l", self.path)
            self.run("losetup", "--detach", self.device)


class Life:
    """One app, from its first commit to the proof of its last one, over as many pods as it takes."""

    def __init__(self, soak, habit, number):
        self.soak, self.habit = soak, habit
        self.name = f"{habit}-{number}"
        self.app = App(soak.world, self.name, **HABITS[habit])
        self.node = soak.dice.choice(soak.nodes)
        self.pod = Pod(self.node, self.name)
        self.state, self.helper = "new", None
        self.oldest = self.content = None

    def tick(self):
        """Goes on when its gate opens."""
        if self.state == "writing" or self.pod.phase() != "ready":
            return
        database = self.pod.database
        if self.state == "new":
            self.app.create(database)
        else:
            self.soak.compare(self, database, "moves")
        self.app.start(database, close=self.soak.dice.choice(("yes", "no")))
        if self.habit == "checkpointed":
            command = [sys.executable, "-c", CHECKPOINTER, database]
            self.helper = subprocess.Popen(list(map(str, command)), stderr=subprocess.DEVNULL)
        self.state = "writing"

    def stop(self, kindly):
        if self.helper:
            self.helper.kill()
            self.helper.wait()
            self.helper = None
        if kindly:
            self.app.quit()
        else:
            self.app.kill()

    def drained(self, pod):
        """Whether the agent has noted that it read a gone pod to its end."""
        notes = list(pod.node.state.glob(f"spool/**/{pod.uid}"))
        return all((note / ".sqlrep" / "end.json").exists() for note in notes)


class Soak:
    """The run."""

    def __init__(self, args, path):
        self.world = World(path, args.seed)
        self.dice = random.Random(f"{args.seed}/soak")
        self.share = Share(self.world.path)
        self.nodes = [Node(self.world, name) for name in ("n1", "n2")]
        self.clocks = {node.name: Clock(self.world) for node in self.nodes}
        self.agents = {}
        self.counts, self.faults = collections.Counter(), collections.Counter()
        self.refused, self.longest = 0, 0.0
        for node in self.nodes:
            self.start(node)
        habits = list(HABITS)
        self.dice.shuffle(habits)
        self.lives = [Life(self, habits[n % len(habits)], n) for n in range(args.apps)]
        self.born = args.apps

    def start(self, node, patience=90):
        agent = self.agents[node.name] = Agent(
            node, self.share.path, *FLAGS, ready=False, clock=self.clocks[node.name])
        agent.answers(patience)

    def agent(self, life):
        return self.agents[life.node.name]

    # ---- what must hold ----

    def compare(self, life, database, what):
        """A file must be the state after a commit, and no acknowledged one may be missing."""
        have, told = life.app.commits(database), life.app.acknowledged()
        self.counts[what] += 1
        if have < told:
            self.counts["lost"] += told - have
            raise Failed(f"{life.name}: {told - have} of {told} acknowledged commits are lost ({what})")

    def restore_any(self):
        """A replica as it is now restores to the state after some commit."""
        lives = [life for life in self.lives if life.pod.replica(self.share.path).is_dir()]
        if self.share.fault in ("away", "frozen") or not lives:
            return
        life = self.dice.choice(lives)
        replica = life.pod.replica(self.share.path)
        if not w.head(replica):
            return
        restored = self.world.restore(replica)
        life.app.commits(restored)
        restored.unlink()
        self.counts["restores at random moments"] += 1
        self.restore_oldest(life, replica)

    def restore_oldest(self, life, replica):
        """The window is a week, by whatever clock: nothing that was ever there is too old."""
        snapshots = [high for _, high, _ in w.files(replica, 9)]
        if not snapshots:
            return
        life.oldest = life.oldest or snapshots[0]
        if life.oldest != snapshots[0]:
            self.counts["lost"] += 1
            raise Failed(f"{life.name}: the state of TXID {life.oldest} is gone: {snapshots}")
        restored = self.world.restore(replica, "--txid", f"{life.oldest:x}")
        content = hashlib.sha256(restored.read_bytes()).hexdigest()
        restored.unlink()
        life.content = life.content or content
        check(content == life.content, f"{life.name}: the state of TXID {life.oldest} is another one now")
        self.counts["restores of the oldest state"] += 1

    def prove(self, life):
        """Ends an app; every commit of it must be on the share."""
        agent = self.agent(life)
        agent.wait_state(life.pod, "following", PATIENCE)
        told = life.app.pause()
        self.refused += told["busy"]
        agent.sync(life.pod, PATIENCE)
        replica = life.pod.replica(self.share.path)
        restored = self.world.restore(replica)
        w.same(life.pod.database, restored)
        self.compare(life, restored, "proofs to the last commit")
        agent.ctl("verify", f"{life.name}/data/app.db", patience=600).done()
        restored.unlink()
        life.stop(kindly=True)
        life.pod.delete()
        self.counts["commits"] += life.app.acknowledged()

    # ---- what happens ----

    def kill(self):
        node = self.dice.choice(self.nodes)
        if self.share.fault == "frozen":
            return False  # here a process that writes to it ends no sooner than the frost
        self.agents[node.name].kill()
        time.sleep(self.dice.uniform(0, 3))
        self.start(node)
        return True

    def terminate(self):
        node = self.dice.choice(self.nodes)
        if self.share.fault == "frozen":
            return False
        self.agents[node.name].terminate()
        time.sleep(self.dice.uniform(0, 2))
        self.start(node)
        return True

    def stand_still(self):
        agent = self.agents[self.dice.choice(self.nodes).name]
        agent.process.send_signal(signal.SIGSTOP)
        time.sleep(self.dice.uniform(0.5, 6))
        agent.process.send_signal(signal.SIGCONT)
        return True

    def forget(self):
        """The state directory of a node goes, while nothing of a pod that is gone is in it."""
        node = self.dice.choice(self.nodes)
        moving = any(life.state != "writing" for life in self.lives)
        if moving or self.share.fault or any(node.state.glob("spool/**/end.json")):
            return False
        self.agents[node.name].kill()
        shutil.rmtree(node.state)
        self.start(node)
        return True

    def move(self):
        lives = [life for life in self.lives if life.state == "writing"]
        if not lives:
            return False
        life = self.dice.choice(lives)
        row = self.agent(life).row(life.pod)
        if row.get("state", "").lower() not in ("following", "stalled") or not row.get("txid"):
            return False
        life.stop(kindly=self.dice.random() < 0.5)
        if life.app.habits["journal"] != "WAL":
            # A kubelet takes that long. Without a WAL the last commit is known to be whole by its
            # journal only, which is a file of its own and goes with the directory.
            time.sleep(2)
        left = life.pod
        left.delete()
        wait(f"{life.name} is read to its end", lambda: life.drained(left), PATIENCE)
        life.state = "moving"
        life.node = self.dice.choice(self.nodes)
        life.pod = Pod(life.node, life.name)
        return True

    def crash_app(self):
        lives = [life for life in self.lives if life.state == "writing"]
        if not lives:
            return False
        life = self.dice.choice(lives)
        life.stop(kindly=False)
        life.app.start(life.pod.database)
        if life.habit == "checkpointed":
            command = [sys.executable, "-c", CHECKPOINTER, life.pod.database]
            life.helper = subprocess.Popen(list(map(str, command)), stderr=subprocess.DEVNULL)
        return True

    def break_share(self):
        if self.share.fault:
            return False
        fault = self.dice.choice(self.share.faults)
        self.share.begin(fault, self.dice.uniform(3, 40))
        return f"share {fault}"

    def set_clock(self):
        node, ahead = self.dice.choice(self.nodes), self.dice.choice(CLOCKS)
        self.clocks[node.name].set(ahead)
        return True

    FAULTS = {
        "kill -9 of an agent": (kill, 4),
        "SIGTERM of an agent": (terminate, 2),
        "an agent stands still": (stand_still, 2),
        "state directory deleted": (forget, 1),
        "pod moved": (move, 8),
        "kill -9 of an app": (crash_app, 3),
        "share": (break_share, 4),
        "clock set": (set_clock, 3),
    }

    def step(self):
        if self.share.fault and time.monotonic() > self.share.until:
            self.share.end()
        for life in self.lives:
            life.tick()
        for agent in self.agents.values():
            check(agent.process.poll() is None, lambda agent=agent: f"an agent ended:\n{agent.tail()}")
            self.longest = max(self.longest, agent.memory())
        name = self.dice.choices(list(self.FAULTS), [weight for _, weight in self.FAULTS.values()])[0]
        done = self.FAULTS[name][0](self)
        if done:
            name = done if isinstance(done, str) else name
            self.faults[name] += 1
            say(name)
        if self.dice.random() < 0.3:
            self.restore_any()
        for number, life in enumerate(self.lives):
            settled = life.state == "writing" and not self.share.fault
            if settled and life.app.acknowledged() > LIFE:
                self.prove(life)
                self.lives[number] = Life(self, life.habit, self.born)
                self.born += 1
        time.sleep(self.dice.uniform(0.2, 2.5))

    def finish(self):
        """Everything is mended; every app is proven to its last commit."""
        if self.share.fault:
            self.share.end()
        for life in self.lives:
            wait(f"{life.name} writes", lambda life=life: life.tick() or life.state == "writing", PATIENCE)
        for life in self.lives:
            self.prove(life)
        for agent in self.agents.values():
            unread = agent.metric("sqlrep_unread_ends_total")
            check(unread == 0, f"{unread:.0f} pods were not read to their end")

    def account(self, begun):
        told = sum(life.app.acknowledged() for life in self.lives)
        commits = max(self.counts["commits"], told)
        faults = ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))
        checks = ", ".join(f"{name} {count}" for name, count in sorted(self.counts.items())
                           if name not in ("lost", "commits"))
        say(f"{time.monotonic() - begun:.0f} s, {self.born} apps, commits {commits}, refused {self.refused}")
        say(f"faults {sum(self.faults.values())}: {faults}")
        say(f"states compared: {checks}")
        say(f"an agent's memory at its largest: {self.longest} KiB")
        say(f"commits lost: {self.counts['lost']}")


def run(begin, goes_on, seed):
    """Runs until it has enough, proves all, and gives the account; what a process exits with."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="sqlrep-soak-"))
    path.chmod(0o755)
    begun, good, soak = time.monotonic(), False, None
    try:
        soak = begin(path)
        while goes_on(soak):
            soak.step()
        soak.finish()
        good = True
    except (Failed, subprocess.TimeoutExpired) as failed:
        say(f"FAILED, SQLREP_SEED={seed}: {failed}")
        for agent in soak.agents.values() if soak else ():
            say(f"the end of {agent.log}:\n{agent.tail()}")
    finally:
        if soak:
            soak.account(begun)
            for life in soak.lives:
                if life.helper:
                    life.helper.kill()
            if soak.share.fault == "frozen":
                soak.share.end()  # or a process that hangs in it would never end
            soak.world.end()
            soak.share.close()
    if good:
        shutil.rmtree(path, ignore_errors=True)
    else:
        say(f"kept: {path}")
    return 0 if good else 1


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SQLREP_SEED", 0)))
    parser.add_argument("--apps", type=int, default=6)
    args = parser.parse_args()
    args.seed = args.seed or random.randrange(1, 1 << 30)
    say(f"SQLREP_SEED={args.seed}, {args.minutes:g} minutes, {args.apps} apps")
    end = time.monotonic() + args.minutes * 60
    sys.exit(run(lambda path: Soak(args, path), lambda _: time.monotonic() < end, args.seed))


if __name__ == "__main__":
    main()
