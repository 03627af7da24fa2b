"""An app that commits one row after the other, as fast as it can, and tells the oracle of each.

A row is told after its commit, so the oracle never knows of a row that was not committed. When it
starts it tells first what it found. It runs in a pod; nothing of the project is imported here.
"""
import os
import signal
import socket
import sqlite3
import sys
import time
import uuid


def found(db):
    """What an earlier life left: for each writer its last row and how many there are."""
    rows = db.execute("SELECT writer, max(row), count(*) FROM acked GROUP BY writer").fetchall()
    return [list(row) for row in rows]


def oracle(host):
    """The oracle may come up after us."""
    while True:
        try:
            return socket.create_connection((host, 7000), timeout=5)
        except OSError:
            time.sleep(0.2)


def main():
    path, host, app = sys.argv[1:4]
    pause = float(os.environ.get("PAUSE", "0"))
    padding = "x" * int(os.environ.get("PADDING", "100"))
    signal.signal(signal.SIGTERM, lambda *_: stop())
    db = sqlite3.connect(path, timeout=30, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("PRAGMA temp_store = MEMORY")  # the root file system is read-only
    db.execute("CREATE TABLE IF NOT EXISTS acked (writer TEXT, row INTEGER, padding TEXT)")
    check = db.execute("PRAGMA integrity_check").fetchone()[0]
    stat = os.stat(path)
    link = oracle(host)
    import json

    hello = {
        "app": app,
        "writer": str(uuid.uuid4()),
        "pod": os.environ.get("HOSTNAME", "?"),
        "found": found(db),
        "integrity": check,
        "owner": [stat.st_uid, stat.st_gid, stat.st_mode & 0o7777],
    }
    link.sendall((json.dumps(hello) + "\n").encode())
    print(json.dumps(hello), flush=True)
    row = 0
    while True:
        row += 1
        db.execute("INSERT INTO acked VALUES (?, ?, ?)", (hello["writer"], row, padding))
        link.sendall(b"%d\n" % row)
        if pause:
            time.sleep(pause)


def stop():
    """Leaves as a process that is killed does: no checkpoint, no close."""
    os._exit(0)


if __name__ == "__main__":
    main()
