"""An app that moves between nodes, and one whose node is lost and still runs."""
import os
import subprocess
import time
import unittest

import cluster
from cluster import Place, ctl, get, kubectl, wait

MOVES = int(os.environ.get("SQLREP_E2E_MOVES", "10"))
# a node that may be cut off from the cluster, and the programs that do it and bring it back
LOST = os.environ.get("SQLREP_E2E_LOST_NODE", "")
LOSE = os.environ.get("SQLREP_E2E_LOSE", "")
BRING = os.environ.get("SQLREP_E2E_BRING", "")


def nodes():
    """The names of nodes that take pods."""
    items = get("nodes")["items"]
    return [node["metadata"]["name"] for node in items if not node["spec"].get("unschedulable")]


def setUpModule():
    """Installed once; an installation that is there already is applied again."""
    if not cluster.KUBECONFIG:
        raise unittest.SkipTest("SQLREP_E2E_KUBECONFIG names no cluster")
    if len(nodes()) < 2:
        raise unittest.SkipTest("the cluster has one node")
    cluster.install()


class Nodes(unittest.TestCase):
    """In a namespace of its own; the oracle stays where it is."""

    def setUp(self):
        self.place = Place()
        self.addCleanup(self.place.gone)

    def cordon(self, node):
        """No new pod there, until the test is over at the latest."""
        kubectl("cordon", node)
        self.addCleanup(kubectl, "uncordon", node)

    def judge(self, known, what, lost_at_most=0):
        """No row lost that was told to be committed, or only what is younger than the lag."""
        judged = known["lives"][1:]
        for life in judged:
            self.assertEqual((life["integrity"], life["torn"]), ("ok", []), life)
            self.assertGreater(life["rows_found"], 0, life)
        downs = sorted(life["down"] for life in judged if life["down"] is not None)
        lost, rows = sum(life["lost"] for life in judged), sum(known["acked"].values())
        print(f"\n{self.id()}: {what}, {rows} rows, {lost} lost, down p50 {downs[len(downs) // 2]:.2f} s, "
              f"longest {downs[-1]:.2f} s", flush=True)
        self.assertLessEqual(lost, lost_at_most, judged)

    def test_an_app_moves_between_nodes(self):
        self.place.workload("writer")
        for turn in range(MOVES):
            self.place.lives("writer", turn + 1)
            pod = self.place.pod("writer")
            self.cordon(pod["spec"]["nodeName"])
            time.sleep(0.5)
            kubectl("-n", self.place.name, "delete", "pod", pod["metadata"]["name"], "--wait=false")
            self.place.lives("writer", turn + 2)
            kubectl("uncordon", pod["spec"]["nodeName"])
        self.judge(self.place.lives("writer", MOVES + 1), f"{MOVES} moves")

    @unittest.skipUnless(LOST and LOSE and BRING, "SQLREP_E2E_LOST_NODE, _LOSE and _BRING say nothing")
    def test_a_lost_node_is_waited_for_until_a_person_says_so(self):
        """The node is cut off, and its agent and app run on: the worst kind of lost."""
        self.cordon(LOST)
        self.place = Place()  # so the oracle is elsewhere
        self.addCleanup(self.place.gone)
        kubectl("uncordon", LOST)
        others = [node for node in nodes() if node != LOST]
        for node in others:
            self.cordon(node)
        self.place.workload("writer", env={"PAUSE": "0.005"})
        self.place.lives("writer", 1)
        for node in others:
            kubectl("uncordon", node)
        time.sleep(3)
        known = len(self.place.report("writer")["lives"])
        old = self.place.pod("writer")
        node, name = old["spec"]["nodeName"], self.place.name
        self.assertEqual(node, LOST)
        subprocess.run([LOSE, node], check=True)
        self.addCleanup(subprocess.run, [BRING, node], check=True)
        wait("the node is seen to be lost", 120, lambda: self.is_lost(node))
        kubectl("-n", name, "delete", "pod", old["metadata"]["name"], "--wait=false")
        new = wait("a new pod elsewhere", 60, lambda: self.elsewhere(node))
        said = ("-n", name, "logs", new, "-c", "sqlrep-gate")
        wait("the gate says whom it waits for", 60, lambda: node in kubectl(*said) and "lost" in kubectl(*said))
        print("\n" + kubectl(*said), flush=True)
        time.sleep(10)
        self.assertEqual(len(self.place.report("writer")["lives"]), known, "it started beside a lost node")
        listed = ctl("list", "-A", ok=(0, 1, 4))
        print(listed.stdout + listed.stderr, flush=True)
        self.assertIn("takeover", listed.stdout + listed.stderr)
        taken = ctl("takeover", f"{name}/writer/data/app.db", ok=(0, 4))
        print(taken.stdout + taken.stderr, flush=True)
        self.judge(self.place.lives("writer", known + 1), "a node lost, taken over", 400)
        subprocess.run([BRING, node], check=True)
        wait("the old pod is gone", 180, lambda: old["metadata"]["name"] not in kubectl("-n", name, "get", "pods"))
        # what the old one wrote after that is on a branch
        history = ctl("history", f"{name}/writer/data/app.db")
        print(history.stdout, flush=True)
        ctl("verify", f"{name}/writer/data/app.db")

    def is_lost(self, node):
        """Whether the cluster thinks so."""
        conditions = get("node", node)["status"]["conditions"]
        return any(one["type"] == "Ready" and one["status"] != "True" for one in conditions)

    def elsewhere(self, node):
        """The name of the app's pod that is on another node."""
        pods = self.place.pods("writer")
        return next((pod["metadata"]["name"] for pod in pods if pod["spec"].get("nodeName", node) != node), None)


if __name__ == "__main__":
    unittest.main()
