"""The world of a test in Python: nodes, agents, pods, and apps whose every commit is known.

What the end-to-end suite has in Rust, for tests that run where Cargo does not (a guest of its own)
or for days. Both use the same writing app and oracle, `workload.py`.
"""

import json
import os
import pathlib
import random
import re
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import time
import urllib.request
import uuid

WORKLOAD = pathlib.Path(__file__).with_name("workload.py")
ORMLOAD = WORKLOAD.with_name("ormload.py")
ORM = pathlib.Path(os.environ.get("SQLREP_PEER_DIR", "target/peer")) / "sqlalchemy"
CLOCK = WORKLOAD.parent.with_name("clock.c")
PATIENCE = 60.0


class Failed(AssertionError):
    """What was to be shown is not so."""


def check(holds, words):
    if not holds:
        raise Failed(words() if callable(words) else words)


def wait(what, found, patience=PATIENCE, pause=0.1):
    """Asks until the answer is true, and returns it."""
    deadline = time.monotonic() + patience
    while True:
        answer = found()
        if answer:
            return answer
        check(time.monotonic() < deadline, f"{what}: not within {patience:.0f} s")
        time.sleep(pause)


class Said:
    """What a run of the client said."""

    def __init__(self, process):
        self.code, self.out, self.err = process.returncode, process.stdout, process.stderr
        self.args = process.args

    def done(self):
        check(self.code == 0, lambda: f"{self.args} exited with {self.code}: {self.err}")
        return self


class World:
    """A directory, a seed, and the programs under test."""

    def __init__(self, path, seed, agent=None, ctl=None):
        self.path = pathlib.Path(path)
        self.path.mkdir(parents=True, exist_ok=True)
        self.seed = seed
        self.agent_bin = agent or os.environ["SQLREP_AGENT_BIN"]
        self.ctl_bin = ctl or os.environ["SQLREP_CTL_BIN"]
        self.dice = random.Random(f"{seed}/world")
        self.processes = []
        self.number = 0

    def fresh(self, name):
        self.number += 1
        return self.path / f"{name}-{self.number}"

    def ctl(self, *args, agent=None, patience=PATIENCE):
        to = ["--agent", f"unix:{agent}"] if agent else []
        command = [self.ctl_bin, *to, *map(str, args)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=patience, check=False)
        return Said(run)

    def restore(self, replica, *point):
        """Restores from the directory of a replica, with nothing else alive; returns the file."""
        out = self.fresh("restored")
        self.ctl("restore", "--replica", replica, "-o", out, *point, patience=600).done()
        return out

    def end(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
        for process in self.processes:
            process.wait()


class Node:
    """A kubelet's tree, a directory of manifests, a state directory."""

    def __init__(self, world, name):
        self.world, self.name = world, name
        self.dir = world.path / name
        self.kubelet, self.pods, self.state = (self.dir / d for d in ("kubelet", "pods", "state"))
        (self.kubelet / "pods").mkdir(parents=True)
        self.pods.mkdir()


class Clock:
    """A wall clock that is set under the agents that have it; all else has the real one."""

    def __init__(self, world):
        self.library, self.offset = world.fresh("clock.so"), world.fresh("clock.offset")
        command = ["cc", "-shared", "-fPIC", "-O1", "-o", self.library, CLOCK]
        subprocess.run(list(map(str, command)), check=True)
        self.set(0)

    def set(self, ahead):
        """So many seconds ahead of the real one."""
        self.ahead = ahead
        draft = pathlib.Path(f"{self.offset}.draft")
        draft.write_text(str(ahead))
        draft.rename(self.offset)

    def environment(self):
        return {"LD_PRELOAD": str(self.library), "TEST_CLOCK": str(self.offset)}


class Agent:
    """The real agent as a process."""

    # Several worlds at once: each has some of its own.
    ports = iter(range(19100 + os.getpid() % 400 * 100, 65000))

    def __init__(self, node, root, *flags, ready=True, clock=None):
        self.world, self.node = node.world, node
        self.socket = node.dir / f"agent-{next(self.ports)}.sock"
        self.port = next(self.ports)
        self.log = node.dir / "agent.log"
        self.asked = None
        command = [self.world.agent_bin, "run", "--node-name", node.name, "--pods", f"dir:{node.pods}"]
        command += ["--kubelet-root", node.kubelet, "--replica-root", root, "--state-dir", node.state]
        command += ["--listen", f"unix:{self.socket}", "--metrics", f"127.0.0.1:{self.port}", *flags]
        environment = {**os.environ, **(clock.environment() if clock else {})}
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, env=environment)
        self.world.processes.append(self.process)
        if ready:
            self.answers()

    def answers(self, patience=PATIENCE):
        def probe():
            check(self.process.poll() is None, lambda: f"the agent ended:\n{self.tail()}")
            return self.ctl("list", "-o", "json").code == 0

        wait(f"the agent of {self.node.name} answers", probe, patience)

    def ctl(self, *args, patience=PATIENCE):
        return self.world.ctl(*args, agent=self.socket, patience=patience)

    def rows(self):
        listed = json.loads(self.ctl("list", "-o", "json").done().out)
        return listed["databases"] if isinstance(listed, dict) else listed

    def row(self, pod):
        """What `list` says of the database of a pod, or an empty row."""
        rows = [row for row in self.rows() if pod.uid in json.dumps(row) or row["app"] == pod.app]
        return next((row for row in rows if row["path"] == pod.path), {})

    def words(self, pod):
        row = self.row(pod)
        return "; ".join(str(row.get(key) or "") for key in ("reason", "hint", "last_error"))

    def wait_state(self, pod, state, patience=PATIENCE):
        last = {}

        def probe():
            last.update(self.row(pod))
            return last.get("state", "").lower() == state

        try:
            wait(f"{pod.app} is {state}", probe, patience)
        except Failed as failed:
            raise Failed(f"{failed}; last seen: {last}\n{self.tail()}") from None
        return last

    def sync(self, pod, patience=PATIENCE):
        self.ctl("sync", f"{pod.app}/data/{pod.path}", patience=patience).done()

    def metric(self, name):
        """The sum of a metric's samples."""
        url = f"http://127.0.0.1:{self.port}/metrics"
        with urllib.request.urlopen(url, timeout=5) as page:
            text = page.read().decode()
        return sum(float(v) for v in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.M))

    def memory(self):
        """VmHWM in KiB: the most memory that it has had."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1])

    def tail(self, lines=40):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def kill(self):
        self.process.kill()
        self.process.wait(30)

    def terminate(self, patience=90):
        """SIGTERM; returns the seconds until it had ended, well."""
        begun = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(patience)
        check(status == 0, lambda: f"the agent ended with {status} on SIGTERM:\n{self.tail()}")
        return time.monotonic() - begun


class Pod:
    """A pod with one emptyDir, `data`, as the kubelet makes it, and its manifest."""

    def __init__(self, node, app, gated=True, announce=True, path="app.db", annotations=()):
        self.node, self.app, self.gated, self.path = node, app, gated, path
        # from the world's dice: a uid says who comes first where two race
        self.uid = str(uuid.UUID(int=node.world.dice.getrandbits(128), version=4))
        self.dir = node.kubelet / "pods" / self.uid
        self.manifest = node.pods / f"{app}-{self.uid[:8]}.json"
        self.annotations = dict(annotations)
        self.database = self.volume("data") / path
        for volume in ["data"] + ["sqlrep-gate"] * gated:
            self.volume(volume).mkdir(parents=True)
            self.volume(volume).chmod(0o777)
            ready = self.dir / "plugins/kubernetes.io~empty-dir" / volume
            ready.mkdir(parents=True)
            (ready / "ready").touch()
        if announce:
            self.announce()

    def volume(self, name):
        return self.dir / "volumes/kubernetes.io~empty-dir" / name

    def announce(self):
        gate = ["sqlrep-gate"] * self.gated
        mounts = [{"name": "data", "mountPath": "/data"}]
        annotations = {f"sqlrep.io/{key}": value for key, value in self.annotations.items()}
        document = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{self.app}-{self.uid[:5]}",
                "namespace": "default",
                "uid": self.uid,
                "labels": {"sqlrep.io/replicate": "true"},
                "annotations": {"sqlrep.io/app": self.app, **annotations},
            },
            "spec": {
                "nodeName": self.node.name,
                "volumes": [{"name": name, "emptyDir": {}} for name in ["data", *gate]],
                "containers": [{"name": "app", "image": "app", "volumeMounts": mounts}],
                "initContainers": [
                    {"name": name, "image": "sqlrep", "args": ["gate"],
                     "volumeMounts": [{"name": name, "mountPath": "/sqlrep"}]}
                    for name in gate
                ],
            },
            "status": {"phase": "Running"},
        }
        draft = self.manifest.with_suffix(".draft")
        draft.write_text(json.dumps(document))
        draft.rename(self.manifest)

    def phase(self):
        status = self.volume("sqlrep-gate") / "status.json"
        try:
            return json.loads(status.read_text())["phase"]
        except FileNotFoundError:
            return ""

    def wait_ready(self, patience=PATIENCE):
        wait(f"the gate of {self.app} opens", lambda: self.phase() == "ready", patience)
        return self

    def replica(self, root):
        return pathlib.Path(root) / "default" / self.app / "data" / self.path

    def delete(self):
        """The data goes at once, as the kubelet does it; then the object."""
        shutil.rmtree(self.dir / "plugins")

        def gone():
            shutil.rmtree(self.dir, ignore_errors=True)
            return not self.dir.exists()

        wait(f"the directory of {self.app} goes", gone)
        self.manifest.unlink()


class App:
    """A writing app, and what SQLite acknowledged to it, kept outside of its pod."""

    def __init__(self, world, name, **habits):
        self.world = world
        self.habits = {"seed": f"{world.seed}/{name}", "journal": "WAL", "vacuum": 0, "timeout": 5}
        self.habits.update(habits)
        self.page_size = self.habits.pop("page_size", 4096)
        # On an ORM it runs on the Python that has one.
        orm = self.habits.pop("orm", False)
        self.program = [ORM / "bin/python", ORMLOAD] if orm else [sys.executable, WORKLOAD]
        self.pace = {key: self.habits.pop(key) for key in ("pause", "autocheckpoint", "synchronous")
                     if key in self.habits}
        self.oracle = world.fresh(f"oracle-{name}")
        self.process = None

    def command(self, verb, database, **options):
        command = [*self.program, verb, database]
        for key, value in {**self.habits, **options}.items():
            command += [f"--{key.replace('_', '-')}", value]
        return list(map(str, command))

    def create(self, database):
        subprocess.run(self.command("init", database, page_size=self.page_size), check=True)
        return self

    def start(self, database, close="yes"):
        command = self.command("write", database, oracle=self.oracle, close=close, **self.pace)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, text=True, **pipes)
        self.world.processes.append(self.process)
        self.hear("started")
        return self

    def hear(self, event):
        said = self.process.stdout.readline()
        check(said, f"the app ended where {event!r} was due")
        said = json.loads(said)
        check(said["event"] == event, f"the app said {said} where {event!r} was due")
        return said

    def tell(self, word, event):
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        return self.hear(event)

    def pause(self):
        return self.tell("pause", "paused")

    def resume(self):
        self.tell("resume", "resumed")

    def quit(self):
        """Ends it between two transactions; returns what it counted."""
        said = self.tell("quit", "stopped")
        self.process.wait(30)
        return said

    def kill(self):
        self.process.kill()
        self.process.wait(30)

    def acknowledged(self):
        try:
            told = self.oracle.read_bytes()
        except FileNotFoundError:
            told = b""
        return struct.unpack("<Q", told)[0] if told else 0  # empty before the first commit

    def commits(self, database):
        """Proves that a file is the exact state after some commit; returns how many are in it."""
        command = [*self.command("check", database), "--immutable"]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        check(run.stdout, lambda: f"check of {database}: {run.stderr}")
        said = json.loads(run.stdout)
        check(said["ok"], lambda: f"{database} is not what the seed says: {said}")
        return said["commits"][0]


def same(database, restored):
    """Both files are one content: the pages, outside of the counters that every true copy has
    otherwise. Nobody writes the database meanwhile."""
    scratch = pathlib.Path(f"{restored}.source")
    for end in ("", "-wal", "-journal"):
        if pathlib.Path(f"{database}{end}").exists():
            shutil.copyfile(f"{database}{end}", f"{scratch}{end}")
    connection = sqlite3.connect(scratch, isolation_level=None)
    if connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    ours, theirs = (bytearray(pathlib.Path(p).read_bytes()) for p in (scratch, restored))
    for image in (ours, theirs):
        image[24:28], image[92:100] = bytes(4), bytes(8)
    scratch.unlink()
    check(ours == theirs, f"{restored} is not {database}: {len(theirs)} and {len(ours)} bytes")


def files(replica, level):
    """The files of a level: (min, max, path), by name."""
    found = []
    for path in sorted((pathlib.Path(replica) / "ltx" / str(level)).glob("*.ltx")):
        low, high = path.stem.split("-")
        found.append((int(low, 16), int(high, 16), path))
    return found


def head(replica):
    return max((high for level in range(10) for _, high, _ in files(replica, level)), default=0)


def writers(replica):
    """The writer that the header of each single capture names, by TXID."""
    return {low: path.read_bytes()[72:80].hex() for low, _, path in files(replica, 0)}
