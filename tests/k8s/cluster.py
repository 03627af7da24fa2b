"""A cluster, an installation of sqlrep on it, and apps with an oracle outside of their pods."""
import json
import os
import pathlib
import secrets
import shutil
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = pathlib.Path(__file__).resolve().parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
TOOLS = pathlib.Path(os.environ.get("SQLREP_TOOLS_DIR", TARGET / "tools"))
KUBECONFIG = os.environ.get("SQLREP_E2E_KUBECONFIG", "")
IMAGE = os.environ.get("SQLREP_E2E_IMAGE", "localhost/sqlrep:0.1.0")
APP_IMAGE = os.environ.get("SQLREP_E2E_APP_IMAGE", "docker.io/library/python:3.12-slim")
CTL = os.environ.get("SQLREP_CTL_BIN", str(TARGET / "debug/sqlrepctl"))
# where replicas lie: nfs:SERVER:/PATH, or dir:/PATH on the only node
REPLICAS = os.environ.get("SQLREP_E2E_REPLICAS", "")
SYSTEM = "sqlrep"

RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "runAsGroup": 1000,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


class Refused(Exception):
    """A command that did not end with 0."""


def run(*words, stdin=None, ok=(0,), timeout=180):
    """Runs a command; its output as text."""
    done = subprocess.run(
        [str(word) for word in words],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "KUBECONFIG": KUBECONFIG},
        check=False,
    )
    if done.returncode not in ok:
        raise Refused(f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def kubectl(*words, **more):
    """kubectl, and what it printed."""
    return run(TOOLS / "kubectl", *words, **more).stdout


def get(*words):
    """An object or a list, as JSON says it."""
    return json.loads(kubectl("get", *words, "-o", "json"))


def apply(*objects, namespace=None):
    """Applies objects."""
    where = ["-n", namespace] if namespace else []
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
    return run(TOOLS / "kubectl", *where, "apply", "-f", "-", stdin=text)


def ctl(*words, ok=(0,), kubeconfig=None):
    """sqlrepctl through the kubeconfig."""
    where = ["--kubeconfig", kubeconfig] if kubeconfig else []
    return run(CTL, *where, *words, ok=ok)


def wait(what, patience, look):
    """Looks until something is there; bounded, and says what did not come."""
    end = time.monotonic() + patience
    last = None
    while time.monotonic() < end:
        try:
            value = look()
            if value:
                return value
        except (Refused, KeyError, IndexError, TypeError) as error:
            last = error
        time.sleep(0.2)
    raise AssertionError(f"{what}: not within {patience} s; {last}")


def volume_source():
    """The volume behind the replica root, from SQLREP_E2E_REPLICAS."""
    kind, _, rest = REPLICAS.partition(":")
    if kind == "nfs":
        server, _, path = rest.partition(":")
        return {"nfs": {"server": server, "path": path}}
    if kind == "dir" and rest.startswith("/"):
        return {"hostPath": {"path": rest, "type": "DirectoryOrCreate"}}
    raise AssertionError("SQLREP_E2E_REPLICAS: give nfs:SERVER:/PATH or dir:/PATH")


def install():
    """As a newcomer does: a copy of deploy/, its marked lines changed, applied."""
    name, _, tag = IMAGE.rpartition(":")
    with tempfile.TemporaryDirectory() as made:
        copy = pathlib.Path(made) / "deploy"
        shutil.copytree(ROOT / "deploy", copy, symlinks=True)
        file = copy / "kustomization.yaml"
        text = file.read_text()
        text = text.replace("newName: localhost/sqlrep", f"newName: {name}")
        text = text.replace("newTag: 0.1.0", f"newTag: {tag}")
        source = volume_source()
        if "nfs" in source:
            text = text.replace("nas.example.com", source["nfs"]["server"])
            text = text.replace("/volume1/sqlrep", source["nfs"]["path"])
        else:
            volume = copy / "components/nfs/volume.yaml"
            head = volume.read_text().split("  mountOptions:")[0]
            path = source["hostPath"]["path"]
            volume.write_text(f"{head}  hostPath: {{path: {path}, type: DirectoryOrCreate}}\n")
            start = text.index("patches:")
            text = text[:start] + text[text.index("replacements:"):]
        file.write_text(text)
        kubectl("apply", "-k", copy)
    kubectl("-n", SYSTEM, "rollout", "status", "daemonset/sqlrep-agent", "--timeout=120s")
    wait("the policy fires", 60, lambda: "sqlrep-gate" in gate_of_a_dry_run())


def gate_of_a_dry_run():
    """The init containers that a labelled pod would get."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "try", "labels": {"sqlrep.io/replicate": "true"}},
        "spec": {"containers": [{"name": "a", "image": "a"}]},
    }
    words = ("-n", "default", "create", "--dry-run=server", "-o", "json", "-f", "-")
    made = json.loads(kubectl(*words, stdin=json.dumps(pod)))
    return [container["name"] for container in made["spec"].get("initContainers", [])]


class Place:
    """A namespace of one test, of level restricted, with an oracle in it."""

    def __init__(self, level="restricted"):
        self.name = f"e2e-{secrets.token_hex(3)}"
        labels = {"pod-security.kubernetes.io/enforce": level}
        apply({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": self.name, "labels": labels},
        })
        scripts = {name: (HERE / name).read_text() for name in ("app.py", "oracle.py")}
        config = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "scripts"},
            "data": scripts,
        }
        oracle = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "oracle"},
            "spec": {
                "automountServiceAccountToken": False,
                "containers": [self.python("oracle", ["/scripts/oracle.py"])],
                "volumes": [{"name": "scripts", "configMap": {"name": "scripts"}}],
            },
        }
        apply(config, oracle, namespace=self.name)
        kubectl("-n", self.name, "wait", "--for=condition=Ready", "pod/oracle", "--timeout=60s")
        self.oracle = get("-n", self.name, "pod", "oracle")["status"]["podIP"]

    def python(self, name, command, mounts=(), env=None):
        """A container that runs a script."""
        return {
            "name": name,
            "image": APP_IMAGE,
            "imagePullPolicy": "IfNotPresent",
            "command": ["python3", "-u", *command],
            "env": [{"name": key, "value": value} for key, value in (env or {}).items()],
            "securityContext": RESTRICTED,
            "volumeMounts": [{"name": "scripts", "mountPath": "/scripts"}, *mounts],
        }

    def workload(
        self, name, kind="Deployment", replicas=1, empty_dir=None, env=None, annotations=None, change=None
    ):
        """An app that writes at full speed, with the label and nothing else of sqlrep; `change` may
        alter the template of its pod."""
        mounts = [{"name": "data", "mountPath": "/data"}]
        identity = "$(HOSTNAME_OF_POD)" if kind == "StatefulSet" else name
        container = self.python(name, ["/scripts/app.py", "/data/app.db", self.oracle, identity], mounts, env)
        container["env"].append({
            "name": "HOSTNAME_OF_POD",
            "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}},
        })
        labels = {"app": name, "sqlrep.io/replicate": "true"}
        spec = {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": labels, "annotations": annotations or {}},
                "spec": {
                    "automountServiceAccountToken": False,
                    "terminationGracePeriodSeconds": 10,
                    "containers": [container],
                    "volumes": [
                        {"name": "scripts", "configMap": {"name": "scripts"}},
                        {"name": "data", "emptyDir": empty_dir or {}},
                    ],
                },
            },
        }
        if kind == "StatefulSet":
            spec["serviceName"] = name
            spec["podManagementPolicy"] = "Parallel"
        if change:
            change(spec["template"])
        made = {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}
        return apply(made, namespace=self.name)

    def report(self, app):
        """What the oracle knows of an app."""
        ask = (
            "import socket; s = socket.create_connection(('127.0.0.1', 7000)); s.sendall(b'report\\n');"
            "print(s.makefile().read())"
        )
        words = kubectl("-n", self.name, "exec", "oracle", "--", "python3", "-c", ask)
        return json.loads(words)[app]

    def lives(self, app, count, patience=120):
        """Waits until an app has begun to write for the count-th time; what it said."""
        def begun():
            known = self.report(app)
            done = [life for life in known["lives"] if life["first_ack"]]
            return known if len(done) >= count else None

        return wait(f"life {count} of {app}", patience, begun)

    def pods(self, app):
        """The pods of an app that are not on their way out."""
        pods = get("-n", self.name, "pods", "-l", f"app={app}")["items"]
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]

    def pod(self, app):
        """The one pod of an app."""
        return wait(f"a pod of {app}", 60, lambda: self.pods(app))[0]

    def gone(self):
        """Removes all of it, and does not wait."""
        kubectl("delete", "namespace", self.name, "--wait=false")
