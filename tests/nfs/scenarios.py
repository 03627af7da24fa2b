"""What a real NFS does to a replica, and to the app that is replicated: nothing is lost.

Runs in the guest that `bed` boots, once over NFSv4.1 and once over NFSv3. Every scenario ends with
the same proof: what the server has on its disk restores to every commit that was acknowledged.
"""

import itertools
import os
import pathlib
import re
import sys
import threading
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support" / "py"))

import world as w  # noqa: E402
from server import Export, Server, poison, stuck  # noqa: E402
from world import Agent, App, Clock, Failed, Node, Pod, World, check, wait  # noqa: E402

SEED = int(os.environ.get("SQLREP_SEED", "1"))
OUTAGE = float(os.environ.get("SQLREP_NFS_OUTAGE", "60"))
# A writer of a hundred transactions a second or so: one CPU has to do for app, agent and server.
PACE = {"pause": 0.005}
# What waits for the share shows in no transaction of the app. The guest's only CPU may do something
# else for a while; a share that is away is away for longer.
STALL_MAX = 2.0
WAL_MAX = 32 << 20
ANSWER_MAX = 5.0
# Upkeep within seconds, and a window in which all of a test lies.
HASTE = ["--levels", "1s,3s,9s", "--l0-retention", "1s", "--snapshot-interval", "4s", "--retention", "20m"]
DAY = 24 * 3600
# A publish that has no answer for half a minute is said to be stalled.
TOLD_AFTER = 40
# An agent that is told to end gives the share this long, and a moment to come to its end.
END_MAX = 15.0

FSIDS = itertools.count(1)
SERVER = []


def server():
    if not SERVER:
        SERVER.append(Server())
    return SERVER[0]


def say(words):
    print(words, flush=True)


def calm(said):
    """The app noticed nothing."""
    check(said["busy"] == 0, f"the app was refused: {said}")
    check(said["stall"] < STALL_MAX, f"the app stood still: {said}")
    return said


def contiguous(replica):
    """No single capture is missing between two others."""
    files = w.files(replica, 0)
    for (_, high, _), (low, _, path) in itertools.pairwise(files):
        check(high + 1 == low, f"a hole before {path}")


def snapshots(replica):
    return [path.name for _, _, path in w.files(replica, 9)]


class Watch(threading.Thread):
    """Asks the agent again and again, as people and Prometheus do; remembers the worst answer."""

    def __init__(self, agent, pod):
        super().__init__(daemon=True)
        self.agent, self.pod, self.over = agent, pod, threading.Event()
        self.slowest = self.wal = self.spool = self.pending = 0
        self.error, self.states, self.stuck = None, set(), 0

    def run(self):
        wal = pathlib.Path(f"{self.pod.database}-wal")
        try:
            while not self.over.wait(0.5):
                begun = time.monotonic()
                row = self.agent.row(self.pod)
                self.states.add(row["state"].lower())
                self.spool = max(self.spool, self.agent.metric("sqlrep_spool_bytes"))
                self.slowest = max(self.slowest, time.monotonic() - begun)
                self.wal = max(self.wal, wal.stat().st_size)
                self.stuck = max(self.stuck, len(stuck(self.agent.process.pid)))
        except Exception as error:  # told by whoever ends the watch
            self.error = error

    def end(self):
        self.over.set()
        self.join(60)
        check(not self.error, f"nobody answered during the outage: {self.error!r}")
        check(self.slowest < ANSWER_MAX, f"an answer took {self.slowest:.1f} s")
        check(self.wal < WAL_MAX, f"the WAL grew to {self.wal} bytes")
        return self


class Scenarios:
    """One export a scenario, mounted hard by the first client."""

    version = None

    def setUp(self):
        name = self.id().rsplit(".", 1)[1].removeprefix("test_")
        number = next(FSIDS)
        self.world = World(f"/run/bed/w{number}", SEED)
        self.export = Export(server(), f"e{number}", number, self.megabytes(name))
        self.root = server().mount(1, self.export, self.version)
        self.mounted = [self.root]
        self.one = Node(self.world, "n1")
        self.begun = time.monotonic()

    @staticmethod
    def megabytes(name):
        return 8 if "full" in name else 256

    def tearDown(self):
        server().mend()
        server().start()
        self.world.end()
        for where in self.mounted:
            server().unmount(where)
        self.export.unshare()
        say(f"  {self.id().rsplit('.', 1)[1]}: {time.monotonic() - self.begun:.0f} s")

    def second(self):
        """A second node, which mounts the same export as a client of its own."""
        where = server().mount(2, self.export, self.version)
        self.mounted.append(where)
        return Node(self.world, "n2"), where

    def followed(self, *flags, **habits):
        """An agent, and an app that writes under it."""
        agent = Agent(self.one, self.root, *flags)
        pod = Pod(self.one, "app").wait_ready()
        app = App(self.world, "app", **{**PACE, **habits}).create(pod.database)
        agent.wait_state(pod, "following")
        app.start(pod.database)
        return agent, pod, app

    def behind(self, pod):
        """The replica as it is on the server's own disk: no cache of any client is in between."""
        return pod.replica(self.export.path)

    def prove(self, agent, pod, app, patience=120):
        """Ends the app. Everything that it was told to be committed is on the server, and no more."""
        agent.wait_state(pod, "following", patience)
        said = app.pause()
        agent.sync(pod, patience)
        replica = self.behind(pod)
        restored = self.world.restore(replica)
        w.same(pod.database, restored)
        self.lost_none(app, restored)
        contiguous(replica)
        app.quit()
        return said

    @staticmethod
    def lost_none(app, restored):
        have, acknowledged = app.commits(restored), app.acknowledged()
        check(have >= acknowledged, f"{acknowledged - have} acknowledged commits are lost")

    def stalled(self, agent, pod, *words):
        agent.wait_state(pod, "stalled", 90)
        said = wait("it says why", lambda: agent.words(pod))
        check(any(word in said.lower() for word in words), f"it does not say {words}: {said}")
        return said

    # ---- the server is away ----

    def test_a_server_that_is_away_for_a_minute_costs_the_app_nothing(self):
        agent, pod, app = self.followed()
        time.sleep(min(OUTAGE, 10))
        before = calm(app.pause())
        app.resume()
        agent.sync(pod)
        snapshot = snapshots(self.behind(pod))
        watch = Watch(agent, pod)
        watch.start()
        server().stop()
        head = w.head(self.behind(pod))
        time.sleep(OUTAGE)
        during = calm(app.pause())
        app.resume()
        check(w.head(self.behind(pod)) == head, "something was shipped: no outage was had")
        begun = time.monotonic()
        server().start()
        after = calm(self.prove(agent, pod, app))
        back = time.monotonic() - begun
        watch.end()
        told = OUTAGE < TOLD_AFTER or "stalled" in watch.states
        check(told, f"the outage was not told: {watch.states}")
        check(watch.stuck, "no thread ever waited in the kernel: no outage was had")
        check(snapshots(self.behind(pod)) == snapshot, "a new snapshot was written")
        say(f"  NFSv{self.version}, away for {OUTAGE:.0f} s: transactions before {before}, during {during}, "
            f"after {after}; at most: WAL {watch.wal >> 10} KiB, spool {int(watch.spool) >> 10} KiB, answer "
            f"{watch.slowest:.2f} s, {watch.stuck} threads stuck; all of it shipped {back:.0f} s after; "
            f"memory {agent.memory()} KiB")

    def test_a_server_that_reboots_is_waited_for(self):
        agent, pod, app = self.followed()
        for _ in range(2):
            time.sleep(2)
            server().stop()
            time.sleep(2)
            server().start()  # for ten seconds it only takes back what its clients held
        calm(self.prove(agent, pod, app))

    def test_an_agent_that_is_killed_while_it_hangs_resumes_and_one_that_is_told_to_end_ends(self):
        agent, pod, app = self.followed()
        time.sleep(2)
        agent.sync(pod)
        snapshot = snapshots(self.behind(pod))
        server().cut(1)
        wait("a thread hangs", lambda: stuck(agent.process.pid))
        begun = time.monotonic()
        agent.kill()
        died = time.monotonic() - begun
        # The next one begins without the share: it serves, captures, and opens no gate.
        agent = Agent(self.one, self.root)
        watch = Watch(agent, pod)
        watch.start()
        beside = Pod(self.one, "beside")
        size = agent.row(pod).get("pending_bytes", 0)
        wait("it captures", lambda: int(agent.row(pod).get("pending_bytes", 0)) > int(size) + 50_000)
        time.sleep(5)
        check(beside.phase() != "ready", "a gate opened though the share is away")
        watch.end()
        ended = agent.terminate()
        check(ended < END_MAX, f"it took {ended:.1f} s to end")
        agent = Agent(self.one, self.root)
        server().mend(1)
        calm(self.prove(agent, pod, app))
        beside.wait_ready()
        check(snapshots(self.behind(pod)) == snapshot, "a new snapshot was written")
        say(f"  NFSv{self.version}: gone {died:.2f} s after SIGKILL, {ended:.2f} s after SIGTERM")

    def test_a_node_that_is_cut_off_disturbs_no_other(self):
        agent, pod, app = self.followed()
        node, root = self.second()
        other = Agent(node, root)
        there = Pod(node, "there").wait_ready()
        its = App(self.world, "there", **PACE).create(there.database)
        other.wait_state(there, "following")
        its.start(there.database)
        server().cut(1)
        wait("a thread hangs", lambda: stuck(agent.process.pid))
        for _ in range(5):
            other.sync(there, patience=20)
            time.sleep(1)
        calm(self.prove(other, there, its))
        server().mend(1)
        calm(self.prove(agent, pod, app))

    # ---- the server refuses ----

    def test_an_export_that_is_full_is_told_of_and_goes_on_when_there_is_room(self):
        agent, pod, app = self.followed(pause=0.02)
        time.sleep(1)
        agent.sync(pod)
        snapshot = snapshots(self.behind(pod))
        filler = self.export.path / "filler"
        with open(filler, "wb") as file:
            try:
                while True:
                    file.write(bytes(1 << 12))
                    file.flush()
            except OSError:
                pass  # it is full
        self.stalled(agent, pod, "space", "full")
        time.sleep(3)
        filler.unlink()
        calm(self.prove(agent, pod, app))
        check(snapshots(self.behind(pod)) == snapshot, "a new snapshot was written")

    def test_an_export_that_is_read_only_for_a_while_is_written_afterwards(self):
        agent, pod, app = self.followed()
        time.sleep(1)
        self.export.share("ro")
        said = self.stalled(agent, pod, "read-only", "read only")
        self.export.share()
        agent.wait_state(pod, "following")
        # The server keeps files open for a while that were written over v3.
        app.pause()
        remount = "mount -o remount,{} " + f"{self.export.path} 2>/dev/null"
        wait("the server's own mount is read-only", lambda: not os.system(remount.format("ro")))
        app.resume()
        self.stalled(agent, pod, "read-only", "read only")
        check(not os.system(remount.format("rw")), "the export is not writable again")
        calm(self.prove(agent, pod, app))
        say(f"  NFSv{self.version}: {said}")

    def test_stale_handles_heal(self):
        agent, pod, app = self.followed()
        time.sleep(1)
        self.export.unshare()
        said = self.stalled(agent, pod, "stale", "no such", "permission", "not permitted")
        self.export.share()
        calm(self.prove(agent, pod, app))
        say(f"  NFSv{self.version}: {said}")

    def test_an_export_that_was_exchanged_is_not_written_to(self):
        agent, pod, app = self.followed()
        time.sleep(1)
        agent.sync(pod)
        ours = self.export.swap(pathlib.Path(f"{self.export.image}.other"))
        said = self.stalled(agent, pod, "replicas", "marker", "root")
        waiting = Pod(self.one, "new")
        time.sleep(5)
        check(waiting.phase() != "ready", "a gate opened on an empty share")
        found = sorted(os.listdir(self.export.path))
        check(found in ([], ["lost+found"]), f"something was written to another file system: {found}")
        self.export.swap(ours)
        waiting.wait_ready()
        calm(self.prove(agent, pod, app))
        say(f"  NFSv{self.version}: {said}")

    def squash(self):
        """Root is nobody from now on, and the export somebody's."""
        self.export.options = self.export.options.replace("no_root_squash", "root_squash")
        self.export.share()
        os.chown(self.export.path, 1000, 1000)
        self.export.path.chmod(0o755)

    def test_a_share_that_squashes_root_takes_the_uid_that_it_is_given(self):
        self.squash()
        agent = Agent(self.one, self.root)
        pod = Pod(self.one, "app", gated=False)
        app = App(self.world, "app", **PACE).create(pod.database)
        self.stalled(agent, pod, "permission", "not permitted")
        agent.terminate()
        agent = Agent(self.one, self.root, "--replica-uid", "1000", "--replica-gid", "1000")
        app.start(pod.database)
        time.sleep(3)
        calm(self.prove(agent, pod, app))
        for path in self.export.path.rglob("*"):
            stat = path.stat()
            check((stat.st_uid, stat.st_gid) == (1000, 1000) or "lost+found" in path.parts, f"{path}: {stat}")

    # ---- the node's clock is wrong ----

    def a_clock_that_is_ahead(self, *flags):
        """An agent that begins a year ahead of the server finds that out, and takes nothing away."""
        clock, flags = Clock(self.world), [*HASTE, *flags]
        agent = Agent(self.one, self.root, *flags, clock=clock)
        pod = Pod(self.one, "app").wait_ready()
        app = App(self.world, "app", **PACE).create(pod.database)
        app.start(pod.database)

        def another():
            before = len(snapshots(self.behind(pod)))
            wait("another snapshot", lambda: len(snapshots(self.behind(pod))) > before)

        another()
        another()
        kept = snapshots(self.behind(pod))
        agent.kill()
        clock.set(400 * DAY)
        self.export.share("ro")
        agent = Agent(self.one, self.root, *flags, clock=clock)
        time.sleep(3)
        self.export.share()
        another()
        time.sleep(5)
        another()
        found = snapshots(self.behind(pod))
        check(found[:len(kept)] == kept, f"what was kept is gone: {kept}, now {found}")
        said = [line for line in agent.log.read_text().splitlines() if "clock is ahead of the one where" in line]
        ahead = [int(re.search(r"seconds\D*?(\d{4,})", line)[1]) for line in said]
        check(len(ahead) == 1 and abs(ahead[0] - 400 * DAY) < 60, f"how far it is ahead: {said}")
        calm(self.prove(agent, pod, app))

    def test_a_clock_that_is_ahead_of_the_server_takes_nothing(self):
        self.a_clock_that_is_ahead()

    def test_a_clock_that_is_ahead_of_a_server_that_squashes_root_takes_nothing(self):
        self.squash()
        self.a_clock_that_is_ahead("--replica-uid", "1000", "--replica-gid", "1000")

    # ---- two clients ----

    def test_of_two_nodes_that_race_one_wins_and_the_other_is_a_branch(self):
        node, root = self.second()
        agents = [Agent(self.one, self.root), Agent(node, root)]
        for number in range(4):
            name = f"raced{number}"
            pods = [Pod(at, name, gated=False, announce=False) for at in (self.one, node)]
            apps = [App(self.world, f"{name}{at}", **PACE) for at in range(2)]
            for pod, app in zip(pods, apps):
                app.create(pod.database).start(pod.database)
            time.sleep(0.5)
            for pod in pods:
                pod.announce()

            def states(pods=pods):
                return [agent.row(pod).get("state", "").lower() for agent, pod in zip(agents, pods)]

            wait("one wins", lambda: sorted(states()) == ["fenced", "following"])
            time.sleep(1)
            won = states().index("following")
            self.branch(agents[1 - won], pods[1 - won], apps[1 - won])
            self.prove(agents[won], pods[won], apps[won])
            wrote = set(w.writers(self.behind(pods[won])).values())
            check(len(wrote) == 1, f"{len(wrote)} writers extended one replica")

    def branch(self, agent, pod, app):
        """What a fenced app wrote is on its branch, all of it. Ends the app."""
        app.pause()
        agent.ctl("sync", f"{pod.app}/data/{pod.path}")
        branches = self.behind(pod) / ".sqlrep/branches"
        name = wait("the branch is there", lambda: next(iter(os.listdir(branches)), None))

        def equal():
            restored = self.world.restore(self.behind(pod), "--branch", name)
            try:
                w.same(pod.database, restored)
            except Failed:
                return None
            return restored

        self.lost_none(app, wait("the tail is on the branch", equal, pause=1))
        app.quit()

    def test_an_owner_that_hung_while_it_was_replaced_comes_back_fenced(self):
        agent, pod, app = self.followed()
        node, root = self.second()
        other = Agent(node, root, "--drain-timeout", "3s")
        time.sleep(1)
        agent.sync(pod)
        waiting = Pod(node, "app")
        wait("it waits", lambda: waiting.phase() == "waiting-handover")
        server().cut(1)
        wait("a thread hangs", lambda: stuck(agent.process.pid))
        other.ctl("takeover", "app/data/app.db", patience=150).done()
        waiting.wait_ready()
        other.wait_state(waiting, "following")
        claimed = w.head(self.behind(pod))
        its = App(self.world, "app", **PACE)
        its.start(waiting.database)
        time.sleep(3)
        server().mend(1)
        agent.wait_state(pod, "fenced", 120)
        self.branch(agent, pod, app)
        self.prove(other, waiting, its)
        wrote = w.writers(self.behind(pod))
        after = {writer for txid, writer in wrote.items() if txid >= claimed}
        check(len(after) == 1, f"{len(after)} writers after the claim at {claimed}: {wrote}")

    def test_the_next_node_gets_the_last_commit_however_old_its_caches_are(self):
        node, root = self.second()
        nodes, roots = [self.one, node], [self.root, root]
        agents = [Agent(at, where) for at, where in zip(nodes, roots)]
        app, took = App(self.world, "app", **PACE), []
        pod = Pod(nodes[0], "app").wait_ready()
        app.create(pod.database)
        for number in range(6):
            here, there = number % 2, 1 - number % 2
            agents[here].wait_state(pod, "following")
            app.start(pod.database)
            time.sleep(1)
            agents[here].sync(pod)
            # The other client looks, and remembers what is not there yet.
            replica, head = pod.replica(roots[there]), w.head(self.behind(pod))
            names = [f"{txid:016x}-{txid:016x}.ltx" for txid in range(head, head + 300)]
            poisoned = poison(replica / "ltx" / "0", names)
            time.sleep(1.5)
            app.quit()
            pod.delete()
            begun = time.monotonic()
            pod = Pod(nodes[there], "app").wait_ready()
            took.append(time.monotonic() - begun)
            self.lost_none(app, pod.database)
            check(w.head(self.behind(pod)) > head, "nothing was written after it had looked")
            check(time.monotonic() < poisoned + 25, "its caches were not old: too slow a machine")
        agents[0].wait_state(pod, "following")
        app.start(pod.database)
        self.prove(agents[0], pod, app)
        say(f"  NFSv{self.version}: until the gate opened: {', '.join(f'{t:.2f}' for t in took)} s")


class TestNfs41(Scenarios, unittest.TestCase):
    version = "4.1"


class TestNfs3(Scenarios, unittest.TestCase):
    version = "3"


class TestHarness(Scenarios, unittest.TestCase):
    """The checks above fail when what they look for is there."""

    version = "4.1"

    def test_a_commit_that_is_not_on_the_server_is_seen(self):
        agent, pod, app = self.followed()
        time.sleep(1)
        app.pause()
        agent.sync(pod)
        restored = self.world.restore(self.behind(pod))
        self.lost_none(app, restored)
        app.resume()
        time.sleep(0.5)
        app.pause()
        with self.assertRaisesRegex(Failed, "acknowledged commits are lost"):
            self.lost_none(app, restored)
        with self.assertRaisesRegex(Failed, "is not"):
            w.same(pod.database, restored)

    def test_an_app_that_waits_for_the_share_is_seen(self):
        app = App(self.world, "on-the-share", journal="DELETE", **PACE).create(self.root / "app.db")
        app.start(self.root / "app.db")
        server().cut(1)
        time.sleep(5)
        server().mend(1)
        with self.assertRaisesRegex(Failed, "stood still"):
            calm(app.pause())

    def test_an_agent_that_does_not_answer_is_seen(self):
        agent, pod, _ = self.followed()
        watch = Watch(agent, pod)
        agent.process.send_signal(19)
        watch.start()
        time.sleep(ANSWER_MAX + 3)
        agent.process.send_signal(18)
        with self.assertRaises(Failed):
            watch.end()

    def test_a_hole_and_a_second_writer_are_seen(self):
        agent, pod, app = self.followed()
        time.sleep(1)
        self.prove(agent, pod, app)
        replica = self.behind(pod)
        files = w.files(replica, 0)
        check(len(files) > 3, "more is to be shipped for this")
        bytes_ = bytearray(files[1][2].read_bytes())
        bytes_[75] ^= 1
        files[1][2].write_bytes(bytes_)
        check(len(set(w.writers(replica).values())) == 2, "the second writer is not seen")
        files[1][2].unlink()
        with self.assertRaisesRegex(Failed, "a hole"):
            contiguous(replica)

    def test_a_share_that_hangs_has_threads_that_hang(self):
        agent, pod, _ = self.followed()
        check(not stuck(agent.process.pid), "a thread hangs and nothing was done")
        server().cut(1)
        wait("a thread hangs", lambda: stuck(agent.process.pid))


for inherited in [name for name in dir(Scenarios) if name.startswith("test_")]:
    setattr(TestHarness, inherited, None)

if __name__ == "__main__":
    say(f"SQLREP_SEED={SEED}")
    wanted = [flag for name in sys.argv[1:] for flag in ("-k", name)]
    unittest.main(argv=["scenarios", *wanted], verbosity=2, warnings="ignore")
