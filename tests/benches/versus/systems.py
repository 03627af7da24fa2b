"""The two replicators, and none: started, stopped, asked to restore, all in the same way."""

import os
import pathlib
import subprocess
import time

HERE = pathlib.Path(__file__).resolve().parent


class System:
    """A replicator over the databases of one directory."""

    name = "none"

    def __init__(self, folder, programs):
        self.folder, self.programs = pathlib.Path(folder), programs
        self.folder.mkdir(parents=True)
        self.process = None
        self.begun = None

    def database(self, number):
        path = self.folder / "db" / f"{number:04}.db"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def replica(self, number):
        return self.folder / "replica" / f"{number:04}.db"

    def start(self, count, sync="1s", level=None):
        """Follows so many databases, cutting after `sync`; compacts each `level`, if not as by default."""

    def spawn(self, command, **options):
        self.begun = time.monotonic()
        log = open(self.folder / "log", "ab")
        self.process = subprocess.Popen(
            [str(part) for part in command], stdout=log, stderr=log, stdin=subprocess.DEVNULL, **options
        )

    @property
    def pid(self):
        return self.process.pid if self.process else None

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait(60)
            self.process = None

    def restore(self, number, output):
        raise NotImplementedError


class Litestream(System):
    """The peer: one process for all databases, a file replica for each, one second on each side."""

    name = "litestream"

    def start(self, count, sync="1s", level=None):
        config = ["levels:", f"  - interval: {level}"] if level else []
        config += ["dbs:"]
        for number in range(count):
            config += [
                f"  - path: {self.database(number)}",
                f"    monitor-interval: {sync}",
                "    replica:",
                "      type: file",
                f"      path: {self.replica(number)}",
                f"      sync-interval: {sync}",
            ]
        path = self.folder / "litestream.yml"
        path.write_text("\n".join(config) + "\n")
        self.spawn([self.programs.litestream, "replicate", "-config", path])

    def restore(self, number, output):
        url = f"file://{self.replica(number)}"
        return [self.programs.litestream, "restore", "-o", output, url]


class Sqlrep(System):
    """The agent: four databases to a pod."""

    name = "sqlrep"
    PER_POD = 4

    def pod(self, number):
        return f"bench-{number // self.PER_POD:04}"

    def volume(self, number):
        pod = self.pod(number)
        return self.folder / "kubelet" / "pods" / pod / "volumes/kubernetes.io~empty-dir/data"

    def database(self, number):
        folder = self.volume(number)
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{number:04}.db"

    def replica(self, number):
        return self.folder / "replica" / "bench" / self.pod(number) / "data" / f"{number:04}.db"

    def start(self, count, sync="1s", level=None):
        pods = self.folder / "pods"
        pods.mkdir(exist_ok=True)
        for number in range(0, count, self.PER_POD):
            name = self.pod(number)
            (pods / f"{name}.yaml").write_text(
                "apiVersion: v1\nkind: Pod\nmetadata:\n"
                f"  name: {name}\n  namespace: bench\n  uid: {name}\n"
                '  labels: {sqlrep.io/replicate: "true"}\n'
                "spec:\n  volumes: [{name: data, emptyDir: {}}]\n"
            )
        for part in ("kubelet", "replica", "state"):
            (self.folder / part).mkdir(exist_ok=True)
        self.spawn(
            [self.programs.agent, "run", "--node-name", "bench", "--pods", f"dir:{pods}"]
            + ["--kubelet-root", self.folder / "kubelet", "--replica-root", self.folder / "replica"]
            + ["--state-dir", self.folder / "state", "--listen", f"unix:{self.folder / 's'}"]
            + ["--sync-interval", sync]
            + (["--levels", level] if level else [])
        )

    def restore(self, number, output):
        return [self.programs.ctl, "restore", "--replica", self.replica(number), "-o", output]


def files_at(system, number, level=0):
    """The finished files of a level of a replica."""
    try:
        names = os.listdir(system.replica(number) / "ltx" / str(level))
    except FileNotFoundError:
        return set()
    return {name for name in names if name.endswith(".ltx") and len(name) == 37}
