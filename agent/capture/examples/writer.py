"""Writes to a SQLite database for a while and says how that went.

usage: writer.py DATABASE SECONDS PAUSE_MS [key=value ...]
keys: synchronous (NORMAL), autocheckpoint (1000), rows (6), blob (700)
One line of numbers at the end; with a pause, one line "commit <unix time>" per commit.
"""

import os
import random
import sqlite3
import sys
import time

path, seconds, pause = sys.argv[1], float(sys.argv[2]), float(sys.argv[3]) / 1000
options = dict(item.split("=") for item in sys.argv[4:])
rows, blob = int(options.get("rows", 6)), int(options.get("blob", 700))
random.seed(int(options.get("seed", 1)))
db = sqlite3.connect(path, isolation_level=None, timeout=10)
db.execute("PRAGMA journal_mode=wal")
db.execute("PRAGMA synchronous=" + options.get("synchronous", "NORMAL"))
db.execute("PRAGMA wal_autocheckpoint=" + options.get("autocheckpoint", "1000"))
db.execute("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, k INTEGER, v BLOB)")
db.execute("CREATE INDEX IF NOT EXISTS t_k ON t(k)")
print("ready", flush=True)
times, busy = [], 0
last = db.execute("SELECT coalesce(max(id), 0) FROM t").fetchone()[0]
begun = time.monotonic()
while time.monotonic() - begun < seconds:
    before = time.monotonic()
    try:
        db.execute("BEGIN IMMEDIATE")
        for _ in range(rows):
            k = random.randrange(1 << 30)
            if last and random.random() < 0.5:
                db.execute("UPDATE t SET v=? WHERE id=?", (os.urandom(blob // 2).hex(), random.randint(1, last)))
            else:
                last += 1
                db.execute("INSERT INTO t VALUES(?,?,?)", (last, k, os.urandom(blob // 2).hex()))
        db.execute("COMMIT")
    except sqlite3.OperationalError:
        busy += 1
        if db.in_transaction:
            db.execute("ROLLBACK")
    took = time.monotonic() - before
    times.append(took)
    if pause:
        print("commit %.6f" % time.time(), flush=True)
        time.sleep(pause * random.uniform(0.5, 1.5))
took = time.monotonic() - begun
times.sort()
share = lambda part: round(times[int(len(times) * part)] * 1e6)
print(
    "%d commits/s, %d us at p50, %d at p90, %d at p99, longest %.1f ms, %d over 50 ms, %d busy"
    % (len(times) / took, share(0.5), share(0.9), share(0.99), times[-1] * 1e3, sum(t > 0.05 for t in times), busy),
    flush=True,
)
