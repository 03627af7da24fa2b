"""A cluster without the policies that mend things: what is said, and to whom."""
import json
import unittest

import cluster
from cluster import Place, kubectl, wait

# what the component `admission` adds to a pod; without it a person does (deploy/README.md)
GATE = {
    "name": "sqlrep-gate",
    "image": cluster.IMAGE,
    "imagePullPolicy": "IfNotPresent",
    "command": ["/usr/local/bin/sqlrep-agent", "gate"],
    "env": [
        {"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
        {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
    ],
    "securityContext": {**cluster.RESTRICTED, "runAsUser": 65532, "runAsGroup": 65532},
    "volumeMounts": [{"name": "sqlrep-gate", "mountPath": "/sqlrep", "readOnly": True}],
}
MENDING = ("gate", "rollout")


def setUpModule():
    """Installed, and the policies that change objects taken away."""
    if not cluster.KUBECONFIG:
        raise unittest.SkipTest("SQLREP_E2E_KUBECONFIG names no cluster")
    cluster.install()
    unittest.addModuleCleanup(cluster.install)
    for name in MENDING:
        kubectl("delete", "mutatingadmissionpolicybinding", f"{name}.sqlrep.io")
    wait("the policies are gone", 60, lambda: not cluster.gate_of_a_dry_run())


def by_hand(template):
    """Writes the gate into a pod template, as deploy/README.md says."""
    template["spec"]["initContainers"] = [GATE]
    template["spec"]["volumes"].append({"name": "sqlrep-gate", "emptyDir": {"sizeLimit": "4Mi"}})


class WithoutPolicies(unittest.TestCase):
    """In a namespace of its own."""

    def setUp(self):
        self.place = Place()
        self.addCleanup(self.place.gone)

    def waiting(self):
        """The log of the gate of the pod that waits."""
        for pod in self.place.pods("writer"):
            states = pod["status"].get("initContainerStatuses", [])
            if states and "running" in states[0]["state"]:
                return kubectl("-n", self.place.name, "logs", pod["metadata"]["name"], "-c", "sqlrep-gate")
        return ""

    def test_a_rollout_that_surges_is_warned_of_and_its_gate_says_what_to_change(self):
        said = self.place.workload("writer", change=by_hand).stderr
        self.assertIn("set strategy Recreate", said)
        self.place.lives("writer", 1)
        kubectl("-n", self.place.name, "rollout", "restart", "deployment/writer")
        log = wait("the gate says it", 60, lambda: "Recreate" in self.waiting() and self.waiting())
        print(f"\n{said.strip()}\n{log.strip()}", flush=True)
        strategy = {"spec": {"strategy": {"type": "Recreate", "rollingUpdate": None}}}
        kubectl("-n", self.place.name, "patch", "deployment", "writer", "-p", json.dumps(strategy))
        known = self.place.lives("writer", 2)
        life = known["lives"][1]
        self.assertEqual((life["lost"], life["integrity"]), (0, "ok"), life)
        self.assertGreater(life["rows_found"], 0)


if __name__ == "__main__":
    unittest.main()
