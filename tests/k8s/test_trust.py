"""Who may what, and what happens when the share is not the one that is known."""
import json
import os
import random
import statistics
import tempfile
import time
import unittest

import cluster
from cluster import SYSTEM, Place, apply, ctl, get, kubectl, run, wait

ROLLS = int(os.environ.get("SQLREP_E2E_ROLLS", "8"))
SEED = int(os.environ.get("SQLREP_SEED", random.randrange(1 << 30)))


def setUpModule():
    """Installed once; an installation that is there already is applied again."""
    if not cluster.KUBECONFIG:
        raise unittest.SkipTest("SQLREP_E2E_KUBECONFIG names no cluster")
    cluster.install()


def agents():
    """The agents' pods."""
    return get("-n", SYSTEM, "pods", "-l", "app.kubernetes.io/component=agent")["items"]


class Trust(unittest.TestCase):
    """Each test in a namespace of its own."""

    def setUp(self):
        self.place = Place()
        self.addCleanup(self.place.gone)

    def test_another_pod_reaches_metrics_but_not_grpc(self):
        """The metrics port proves that the pod is reachable at all."""
        address = agents()[0]["status"]["podIP"]
        script = (
            "import socket, sys\n"
            "for port in (9464, 7077):\n"
            "    try:\n"
            f"        socket.create_connection(('{address}', port), timeout=3).close()\n"
            "        print(port, 'open')\n"
            "    except OSError as error:\n"
            "        print(port, 'closed')\n"
        )
        words = kubectl("-n", self.place.name, "exec", "oracle", "--", "python3", "-c", script)
        self.assertEqual(words.split("\n")[:2], ["9464 open", "7077 closed"])

    def test_who_lacks_the_right_is_told_which(self):
        """A service account that may reach the agents and see replicas, and may not restore."""
        self.place.workload("writer")
        self.place.lives("writer", 1)
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "viewer"}}
        subject = {"kind": "ServiceAccount", "name": "viewer", "namespace": self.place.name}
        group = "rbac.authorization.k8s.io"
        view = {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "viewer"},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "sqlrep-view"},
            "subjects": [subject],
        }
        reach = {**view, "metadata": {"name": f"viewer-{self.place.name}"}}
        reach["roleRef"] = {"apiGroup": group, "kind": "Role", "name": "sqlrep-reach"}
        apply(account, view, namespace=self.place.name)
        apply(reach, namespace=SYSTEM)
        self.addCleanup(kubectl, "-n", SYSTEM, "delete", "rolebinding", f"viewer-{self.place.name}")
        with tempfile.TemporaryDirectory() as made:
            copy = os.path.join(made, "out.db")
            done = ctl(
                "restore", f"{self.place.name}/writer/data/app.db", "-o", copy,
                "--service-account", f"{self.place.name}/viewer", ok=(5,),
            )
            self.assertIn("replicas/restore", done.stderr)
            self.assertFalse(os.path.exists(copy))
            ctl("restore", f"{self.place.name}/writer/data/app.db", "-o", copy)
            self.assertTrue(os.path.exists(copy))

    def test_agents_that_are_rolled_while_apps_write(self):
        """Apps do not notice; what they wrote meanwhile is there after a move."""
        self.place.workload("writer")
        self.place.lives("writer", 1)
        for _ in range(3):
            kubectl("-n", SYSTEM, "rollout", "restart", "daemonset/sqlrep-agent")
            kubectl("-n", SYSTEM, "rollout", "status", "daemonset/sqlrep-agent", "--timeout=120s")
            time.sleep(2)
        name = self.place.pod("writer")["metadata"]["name"]
        kubectl("-n", self.place.name, "delete", "pod", name, "--wait=false")
        known = self.place.lives("writer", 2)
        self.assertEqual(known["lives"][1]["lost"], 0, known["lives"])
        self.assertEqual(known["lives"][1]["integrity"], "ok")

    def test_pods_that_are_deleted_while_agents_are_rolled(self):
        """Wherever in a rollout a deletion falls, some agent reads the pod to its end."""
        self.place.workload("writer")
        dice = random.Random(SEED)
        for turn in range(ROLLS):
            self.place.lives("writer", turn + 1)
            kubectl("-n", SYSTEM, "rollout", "restart", "daemonset/sqlrep-agent")
            time.sleep(dice.uniform(0, 6))
            name = self.place.pod("writer")["metadata"]["name"]
            kubectl("-n", self.place.name, "delete", "pod", name, "--wait=false")
            kubectl("-n", SYSTEM, "rollout", "status", "daemonset/sqlrep-agent", "--timeout=120s")
        known = self.place.lives("writer", ROLLS + 1)
        lost = [life["lost"] for life in known["lives"]]
        downs = [life["down"] for life in known["lives"][1:]]
        rows = sum(known["acked"].values())
        print(f"\n{self.id()}: seed {SEED}, {ROLLS} moves, {rows} rows, lost {lost}, "
              f"down p50 {statistics.median(downs):.2f} s, longest {max(downs):.2f} s", flush=True)
        self.assertEqual(sum(lost), 0, known["lives"])

    def test_an_agent_that_is_killed_while_a_gate_waits(self):
        """The gate stays shut until another agent has restored everything."""
        self.place.workload("writer", env={"PADDING": "4000"})
        wait("some megabytes", 120, lambda: sum(self.place.report("writer")["acked"].values()) > 20_000)
        name = self.place.pod("writer")["metadata"]["name"]
        kubectl("-n", self.place.name, "delete", "pod", name, "--wait=false")
        wait("a new pod", 60, lambda: self.place.pod("writer")["metadata"]["name"] != name)
        for agent in agents():
            kubectl("-n", SYSTEM, "delete", "pod", agent["metadata"]["name"], "--force", "--grace-period=0")
        known = self.place.lives("writer", 2)
        self.assertEqual(known["lives"][1]["lost"], 0, known["lives"])
        self.assertEqual(known["lives"][1]["integrity"], "ok")


class Root(unittest.TestCase):
    """The replica root is exchanged; needs replicas in a directory of the only node."""

    def setUp(self):
        kind, _, self.path = cluster.REPLICAS.partition(":")
        if kind != "dir":
            self.skipTest("needs SQLREP_E2E_REPLICAS=dir:/PATH")
        self.place = Place(level="privileged")
        self.addCleanup(self.place.gone)

    def on_the_node(self, script):
        """Runs a script where the replicas lie, as root."""
        parent = os.path.dirname(self.path)
        overrides = {
            "spec": {
                "restartPolicy": "Never",
                "containers": [{
                    "name": "nas",
                    "image": cluster.APP_IMAGE,
                    "command": ["python3", "-c", script, parent],
                    "securityContext": {"runAsUser": 0},
                    "volumeMounts": [{"name": "parent", "mountPath": parent}],
                }],
                "volumes": [{"name": "parent", "hostPath": {"path": parent}}],
            },
        }
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "nas-"}, **overrides}
        words = ("-n", self.place.name, "create", "-o", "name", "-f", "-")
        name = run(cluster.TOOLS / "kubectl", *words, stdin=json.dumps(pod)).stdout.strip()

        def ended():
            return get("-n", self.place.name, name)["status"]["phase"] == "Succeeded"

        wait(f"{script} is done", 60, ended)

    def restart_agents(self):
        """New agents see what is mounted now; not all of them become ready."""
        kubectl("-n", SYSTEM, "delete", "pod", "-l", "app.kubernetes.io/component=agent")

    def test_an_empty_directory_in_its_place_opens_no_gate(self):
        """Nothing is written there; put back, all goes on."""
        self.place.workload("writer")
        self.place.lives("writer", 1)
        away = f"{self.path}.away"
        self.on_the_node(f"import os; os.rename('{self.path}', '{away}'); os.mkdir('{self.path}')")
        try:
            self.restart_agents()
            name = self.place.pod("writer")["metadata"]["name"]
            kubectl("-n", self.place.name, "delete", "pod", name, "--wait=false")
            wait("a new pod", 60, lambda: self.place.pod("writer")["metadata"]["name"] != name)
            time.sleep(15)
            self.assertEqual(len(self.place.report("writer")["lives"]), 1, "the gate opened")
            ready = [status["ready"] for agent in agents() for status in agent["status"]["containerStatuses"]]
            self.assertNotIn(True, ready)
            self.on_the_node(f"import os; assert os.listdir('{self.path}') == []")
        finally:
            self.on_the_node(f"import os; os.rmdir('{self.path}'); os.rename('{away}', '{self.path}')")
            self.restart_agents()
        known = self.place.lives("writer", 2)
        self.assertEqual(known["lives"][1]["lost"], 0, known["lives"])


if __name__ == "__main__":
    unittest.main()
