"""Writes the seeds of every fuzz target into DIR/<target>: golden files, and what the parts write.

    python3 tests/fuzz/seeds.py DIR
"""

import json
import pathlib
import random
import sys

HERE = pathlib.Path(__file__).resolve().parent
TESTS, ROOT = HERE.parent, HERE.parent.parent
POD = "3a873c51-a4a6-4c28-a969-0962b36a9862"
BOOT = "5f1c3ad1-0d5c-4b1b-8a52-9d2f3c1e7a40"
SEED_BYTES_MAX = 64 * 1024


def golden(pattern):
    files = sorted((TESTS / "golden").glob(pattern))
    return [file.read_bytes() for file in files if 0 < file.stat().st_size <= SEED_BYTES_MAX]


def chain(dice):
    """A replica as upkeep leaves it, eight bytes a file, and a policy before them."""
    files, head = [], dice.randrange(4, 60)
    for level, step in ((0, 1), (1, 3), (2, 9), (3, 27)):
        for low in range(1, head, step):
            if dice.random() < 0.8:
                last = low if level == 0 else min(low + step - 1, head)
                time = (last * 40000).to_bytes(3, "big")
                files.append(bytes([level, low - 1, last - low, 0]) + time + b"\x09")
    for last in range(1, head, 16):
        files.append(bytes([9, last - 1, 0, 0]) + (last * 40000).to_bytes(3, "big") + b"\x09")
    return bytes(dice.randrange(256) for _ in range(6)) + b"".join(files)


def status(phase, **more):
    whole = {"v": 1, "pod_uid": POD, "boot_id": BOOT, "phase": phase, **more}
    return json.dumps(whole).encode()


def manifests():
    owner = {"pod": "app-1", "pod_uid": POD, "node": "n1", "node_id": 7, "state": "active", "since_ms": 5}
    whole = {"version": 1, "id": "shop/app/data/app.db", "owner": owner, "page_size": 4096,
             "file": {"uid": 1000, "gid": 1000, "mode": 420}, "head": 9, "claims": [1, 5]}
    texts = [whole, {**whole, "owner": {**owner, "state": "released", "node_id": "0000000000000007"}}]
    moved = {"version": 1, "volume": "nas", "key": "pv-1", "node": "n1", "head": 9}
    texts = [json.dumps(text).encode() for text in [*texts, moved]]
    return texts + [b"shop/app/data/app.db", b"a/b/c/%2e%2e/x.db", b"a/b/c/d/e f%25.db"]


def pods():
    annotations = {"volumes": "data", "databases": "*.db,!x,**/a.{sqlite,db}", "exclude": "tmp/*",
                   "app": "shop", "sync-interval": "500ms", "snapshot-interval": "12h",
                   "retention": "7d", "journal-mode": "wal", "target-volume": "nas", "restore": "required"}
    claim = {"persistentVolumeClaim": {"claimName": "c"}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {
        "name": "shop-0", "namespace": "media", "uid": POD, "labels": {"sqlrep.io/replicate": "true"},
        "annotations": {f"sqlrep.io/{key}": value for key, value in annotations.items()},
        "ownerReferences": [{"kind": "ReplicaSet", "name": "shop-7d9f8", "uid": "u", "controller": True}]},
        "spec": {"nodeName": "node", "securityContext": {"runAsUser": 1000, "fsGroup": 1000},
                 "volumes": [{"name": "data", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}},
                             {"name": "nas", "nfs": {"server": "s", "path": "/x"}}, {"name": "c", **claim}],
                 "containers": [{"name": "a", "volumeMounts": [{"name": "data", "mountPath": "/d"}]}]},
        "status": {"phase": "Running"}}
    texts = [json.dumps(pod).encode(), json.dumps({"kind": "PodList", "items": [pod, pod]}).encode()]
    return texts + [file.read_bytes() for file in sorted((ROOT / "deploy").rglob("*.yaml"))]


def field(number, payload):
    return bytes([number << 3 | 2, len(payload)]) + payload


def requests():
    ident = b"".join(field(number, text) for number, text in enumerate((b"shop", b"app", b"data", b"app.db"), 1))
    point = field(1, b"\x08\x05") + b"\x10\x09"
    bodies = [b"", ident, field(1, ident), field(1, ident) + field(2, point), field(1, b"shop") + b"\x10\x01"]
    return [bytes([kind]) + body for kind in range(21) for body in bodies]


def main():
    out, dice = pathlib.Path(sys.argv[1]), random.Random(1)
    seeds = {
        "ltx_decode": golden("litestream/**/*.ltx"),
        "wal_read": golden("wal/*/wal") + golden("wal/*/shm"),
        "name_parse": [b"0000000000000001-00000000000000ff.ltx", b"0000000000000001", b"9"],
        "plan": [chain(dice) for _ in range(64)],
        "manifest": manifests(),
        "status_json": [status(phase, message="m", databases=[{"replica": "a/b/c/d", "txid": 7}])
                        for phase in ("waiting-handover", "restoring", "ready", "failed")] + [b"{}"],
        "annotations": pods(),
        "proto": requests(),
    }
    for target, files in seeds.items():
        assert files, f"{target} has no seed"
        (out / target).mkdir(parents=True, exist_ok=True)
        for number, content in enumerate(files):
            (out / target / f"seed-{number:03}").write_bytes(content)


main()
