"""An app with a Litestream sidecar on a claim of its own moves over with its history, and back."""
import os
import statistics
import time
import unittest

import cluster
from cluster import Place, apply, ctl, get, kubectl, run, wait

DELETES = int(os.environ.get("SQLREP_E2E_TARGET_DELETES", "10"))
COMPARED = int(os.environ.get("SQLREP_E2E_COMPARED", "12"))
PEER_IMAGE = os.environ.get("SQLREP_E2E_PEER_IMAGE", "docker.io/litestream/litestream:0.5.17")
# where the claim of the app leads: nfs:SERVER:/PATH, or local:/PATH on a node (an empty directory)
TARGET = os.environ.get("SQLREP_E2E_TARGET", "")


def setUpModule():
    """Installed once; an installation that is there already is applied again."""
    if not cluster.KUBECONFIG:
        raise unittest.SkipTest("SQLREP_E2E_KUBECONFIG names no cluster")
    if not TARGET:
        raise unittest.SkipTest("SQLREP_E2E_TARGET names no place for a claim")
    cluster.install()


def claim(place):
    """A claim in the namespace of a test, and the volume that it is bound to; says what it is called."""
    kind, _, rest = TARGET.partition(":")
    spec = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"],
        "persistentVolumeReclaimPolicy": "Retain",
        "storageClassName": "",
        "claimRef": {"namespace": place.name, "name": "replica"},
    }
    if kind == "nfs":
        server, _, path = rest.partition(":")
        spec["nfs"] = {"server": server, "path": path}
    else:
        node = get("nodes")["items"][0]["metadata"]["name"]
        term = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
        spec["local"] = {"path": rest}
        spec["nodeAffinity"] = {"required": {"nodeSelectorTerms": [{"matchExpressions": [term]}]}}
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"replica-{place.name}"},
        "spec": spec,
    }
    wanted = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "replica", "namespace": place.name},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "",
            "volumeName": volume["metadata"]["name"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    apply(volume, wanted)
    return volume["metadata"]["name"]


REPLICA = {"name": "replica", "persistentVolumeClaim": {"claimName": "replica"}}


def with_sidecar(template):
    """Litestream as most people run it: an init container that restores, a sidecar that ships."""
    del template["metadata"]["labels"]["sqlrep.io/replicate"]
    spec = template["spec"]
    mounts = [
        {"name": "data", "mountPath": "/data"},
        {"name": "replica", "mountPath": "/replica"},
        {"name": "config", "mountPath": "/etc/litestream.yml", "subPath": "litestream.yml"},
    ]
    peer = {"image": PEER_IMAGE, "volumeMounts": mounts, "securityContext": cluster.RESTRICTED}
    restore = ["restore", "-if-db-not-exists", "-if-replica-exists", "/data/app.db"]
    spec["initContainers"] = [
        {**peer, "name": "restore", "args": restore},
        {**peer, "name": "litestream", "args": ["replicate"], "restartPolicy": "Always"},
    ]
    spec["volumes"] += [REPLICA, {"name": "config", "configMap": {"name": "litestream"}}]


def without_sidecar(template):
    """The migration: the sidecar goes, label and annotation come, the claim stays."""
    template["metadata"]["annotations"]["sqlrep.io/target-volume"] = "replica"
    template["spec"]["volumes"].append(REPLICA)


class Target(unittest.TestCase):
    """In a namespace of its own, with a volume of its own."""

    def setUp(self):
        self.place = Place()
        self.volume = claim(self.place)
        self.configure("/replica/app.db")
        self.addCleanup(kubectl, "delete", "pv", self.volume, "--wait=false")
        self.addCleanup(self.place.gone)

    def configure(self, replica):
        """Tells the sidecar where its replica is."""
        text = f"dbs: [{{path: /data/app.db, replicas: [{{type: file, path: {replica}}}]}}]"
        config = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "litestream"},
            "data": {"litestream.yml": text},
        }
        apply(config, namespace=self.place.name)

    def stop(self):
        """Scales to nothing, and waits until nothing is left."""
        kubectl("-n", self.place.name, "scale", "deployment/writer", "--replicas=0")
        wait("the pod is gone", 90, lambda: not get("-n", self.place.name, "pods", "-l", "app=writer")["items"])

    def lost(self, known):
        """Rows that were told to be committed, and that a later life did not find."""
        for life in known["lives"][1:]:
            self.assertEqual((life["integrity"], life["torn"]), ("ok", []), life)
        return sum(life["lost"] for life in known["lives"][1:])

    def test_a_sidecars_claim_moves_over_and_back(self):
        name = self.place.name
        self.place.workload("writer", env={"PAUSE": "0.01"}, change=with_sidecar)
        self.place.lives("writer", 1)
        time.sleep(5)
        self.stop()

        self.place.workload("writer", change=without_sidecar)
        known = self.place.lives("writer", 2)
        self.assertEqual(self.lost(known), 0, known)
        spec = self.place.pod("writer")["spec"]["initContainers"][0]
        self.assertIn({"name": "replica", "mountPath": "/target", "readOnly": True}, spec["volumeMounts"])
        reference = f"{name}/writer/data/app.db"
        points = ctl("history", reference).stdout
        for turn in range(DELETES):
            self.place.lives("writer", turn + 2)
            time.sleep(0.5)
            pod = self.place.pod("writer")["metadata"]["name"]
            kubectl("-n", name, "delete", "pod", pod, "--wait=false")
        known = self.place.lives("writer", DELETES + 2)
        self.assertEqual(self.lost(known), 0, known)
        downs = [life["down"] for life in known["lives"][2:] if life["down"] is not None]
        rows = sum(known["acked"].values())
        print(f"\n{self.id()}: {DELETES} moves, {rows} rows, 0 lost, longest {max(downs):.2f} s", flush=True)
        ctl("verify", reference)
        self.assertTrue(points, "no history")

        self.stop()
        gone = ctl("history", reference, ok=(3,))
        self.assertIn("sqlrep.io/target-volume", gone.stderr)
        self.place.workload("writer", env={"PAUSE": "0.01"}, change=with_sidecar)
        known = self.place.lives("writer", DELETES + 3)
        self.assertEqual(self.lost(known), 0, known)

    def test_down_no_longer_than_a_second_more_than_with_the_sidecar(self):
        """Ordinary deletes of an app that writes as most do, first with the sidecar, then with us. The
        sidecar loses rows now and then; that is not judged here."""
        self.configure(f"/replica/{self.place.name}/app.db")
        apps = {"sidecar": with_sidecar, "label": None}
        downs = {app: self.downs(app, change) for app, change in apps.items()}
        middle = {app: statistics.median(found) for app, found in downs.items()}
        words = "; ".join(f"{app} p50 {middle[app]:.2f} s, {min(found):.2f} to {max(found):.2f} s"
                          for app, found in downs.items())
        print(f"\n{self.id()}: {COMPARED} deletes each: {words}", flush=True)
        self.assertLessEqual(middle["label"], middle["sidecar"] + 1, downs)

    def downs(self, app, change):
        """How long an app was down at each of its deletes."""
        self.place.workload(app, env={"PAUSE": "0.006"}, change=change)
        for turn in range(COMPARED):
            self.place.lives(app, turn + 1)
            time.sleep(2)
            pod = self.place.pod(app)["metadata"]["name"]
            kubectl("-n", self.place.name, "delete", "pod", pod, "--wait=false")
        known = self.place.lives(app, COMPARED + 1)
        kubectl("-n", self.place.name, "scale", f"deployment/{app}", "--replicas=0")
        if not change:
            self.assertEqual(self.lost(known), 0, known)
        return [life["down"] for life in known["lives"][1:]]


if __name__ == "__main__":
    unittest.main()
