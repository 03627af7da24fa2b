"""Pods that are deleted, rolled, evicted and drained while they write at full speed."""
import os
import statistics
import time
import unittest

import cluster
from cluster import Place, ctl, get, kubectl, wait

DELETES = int(os.environ.get("SQLREP_E2E_DELETES", "50"))
ROLLOUTS = int(os.environ.get("SQLREP_E2E_ROLLOUTS", "20"))


def setUpModule():
    """Installed once; an installation that is there already is applied again."""
    if not cluster.KUBECONFIG:
        raise unittest.SkipTest("SQLREP_E2E_KUBECONFIG names no cluster")
    cluster.install()


class Moves(unittest.TestCase):
    """Each test in a namespace of its own."""

    def setUp(self):
        self.place = Place()
        self.addCleanup(self.place.gone)

    def nothing_lost(self, app, lives, lost_at_most=0):
        """The last report of an app: sound, and no row lost that was told to be committed."""
        known = self.place.lives(app, lives)
        judged = known["lives"][1:]
        for life in judged:
            self.assertEqual(life["integrity"], "ok", life)
            self.assertEqual(life["torn"], [], life)
            self.assertGreater(life["rows_found"], 0, life)
        lost = sum(life["lost"] for life in judged)
        rows = sum(known["acked"].values())
        downs = [life["down"] for life in judged if life["down"] is not None]
        print(f"\n{self.id()}: {len(judged)} moves, {rows} rows, {lost} lost, "
              f"down p50 {statistics.median(downs):.2f} s, longest {max(downs):.2f} s", flush=True)
        self.assertLessEqual(max(life["lost"] for life in judged), lost_at_most, judged)
        return known

    def move(self, app, count, step):
        """Does something to the pod of an app, again and again, each time when it writes."""
        self.place.lives(app, 1)
        for turn in range(count):
            self.place.lives(app, turn + 1)
            time.sleep(0.5)
            step(self.place.pod(app)["metadata"]["name"])
        return self.place.lives(app, count + 1)

    def delete(self, name):
        """An ordinary deletion."""
        kubectl("-n", self.place.name, "delete", "pod", name, "--wait=false")

    def test_the_label_alone_is_enough(self):
        """The gate is first, the surge is gone, the database is listed with its lag."""
        self.place.workload("writer")
        self.place.lives("writer", 1)
        spec = self.place.pod("writer")["spec"]
        self.assertEqual(spec["initContainers"][0]["name"], "sqlrep-gate")
        strategy = get("-n", self.place.name, "deployment", "writer")["spec"]["strategy"]
        self.assertEqual(strategy, {"type": "Recreate"})
        listed = wait("it is listed", 30, lambda: ctl("list", "-A").stdout.count("app.db"))
        self.assertGreaterEqual(listed, 1)

    def test_fifty_deletes_at_full_speed(self):
        self.place.workload("writer")
        self.move("writer", DELETES, self.delete)
        self.nothing_lost("writer", DELETES + 1)

    def test_rollout_restarts(self):
        self.place.workload("writer")
        restart = ("-n", self.place.name, "rollout", "restart", "deployment/writer")
        self.move("writer", ROLLOUTS, lambda _: kubectl(*restart))
        self.nothing_lost("writer", ROLLOUTS + 1)

    def test_forced_deletion(self):
        """The object is gone at once; rows younger than the lag may be lost."""
        self.place.workload("writer", env={"PAUSE": "0.005"})
        force = ("-n", self.place.name, "delete", "pod", "--force", "--grace-period=0")
        self.move("writer", 6, lambda name: kubectl(*force, name))
        self.nothing_lost("writer", 7, lost_at_most=400)

    def test_drain(self):
        self.place.workload("writer")
        self.place.lives("writer", 1)
        node = self.place.pod("writer")["spec"]["nodeName"]
        self.addCleanup(kubectl, "uncordon", node)
        selector = "--pod-selector=sqlrep.io/replicate=true"
        kubectl("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", selector)
        kubectl("uncordon", node)
        self.nothing_lost("writer", 2)

    def test_a_stateful_set_of_three(self):
        self.place.workload("writer", kind="StatefulSet", replicas=3)
        for ordinal in range(3):
            self.place.lives(f"writer-{ordinal}", 1)
        for turn in range(3):
            for ordinal in range(3):
                self.delete(f"writer-{ordinal}")
            for ordinal in range(3):
                self.place.lives(f"writer-{ordinal}", turn + 2)
        for ordinal in range(3):
            self.nothing_lost(f"writer-{ordinal}", 4)

    def test_eviction_by_size_limit(self):
        """Killed within a second; the new pod has what the old one had."""
        self.place.workload("writer", empty_dir={"sizeLimit": "64Mi"}, env={"PAUSE": "0.01"})
        self.place.lives("writer", 1)
        pod = self.place.pod("writer")["metadata"]["name"]
        fill = "f = open('/data/filler', 'wb'); [f.write(b'x' * (1 << 20)) for _ in range(100)]"
        kubectl("-n", self.place.name, "exec", pod, "--", "python3", "-c", fill)
        self.nothing_lost("writer", 2)

    def test_a_memory_volume(self):
        """The pod is gone within its grace and five seconds; its rows are in the next."""
        self.place.workload("writer", empty_dir={"medium": "Memory", "sizeLimit": "256Mi"})
        self.place.lives("writer", 1)
        name = self.place.pod("writer")["metadata"]["name"]
        begun = time.monotonic()
        kubectl("-n", self.place.name, "delete", "pod", name, "--timeout=60s")
        took = time.monotonic() - begun
        print(f"\n{self.id()}: gone after {took:.1f} s", flush=True)
        self.assertLess(took, 10 + 5)
        self.nothing_lost("writer", 2)

    def test_owner_and_mode_come_back(self):
        """An app of uid 1000 with a read-only root: the file is as it was."""
        self.place.workload("writer")
        self.move("writer", 1, self.delete)
        first, second = self.nothing_lost("writer", 2)["lives"]
        self.assertEqual(first["owner"], second["owner"])
        self.assertEqual(second["owner"][:2], [1000, 1000])


if __name__ == "__main__":
    unittest.main()
