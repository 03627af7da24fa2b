"""The app of a measurement: writes as told and says what it saw, as JSON lines on stdout.

  fill DATABASE BYTES                 a database of about that size, in WAL mode
  full DATABASE SECONDS [WRITERS_ID]  commits at full speed; longest commit and rate at the end
  sparse DATABASE COUNT GAP           COUNT commits about GAP seconds apart, each with its time
  tail DATABASE COUNT GAP             COUNT commits exactly GAP apart, silently
  burst DATABASE...                   for each line of input one commit to each, then the time

Commits are numbered in table `clock`, so that a restored database shows how far it goes.
"""

import json
import os
import random
import sqlite3
import sys
import time

ROW_BYTES = 500
ROWS_PER_COMMIT = 6


def say(**facts):
    print(json.dumps(facts), flush=True)


def connect(path):
    db = sqlite3.connect(path, timeout=10, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, k INTEGER, v BLOB)")
    db.execute("CREATE INDEX IF NOT EXISTS t_k ON t (k)")
    db.execute("CREATE TABLE IF NOT EXISTS clock (n INTEGER NOT NULL)")
    if not db.execute("SELECT 1 FROM clock").fetchone():
        db.execute("INSERT INTO clock VALUES (0)")
    return db


def content(rng):
    # Half of it compresses, as text and numbers do.
    return rng.randbytes(ROW_BYTES // 2) + bytes(ROW_BYTES // 2)


def fill(path, size):
    rng = random.Random(1)
    db = connect(path)
    while (missing := size - os.path.getsize(path)) > 0:
        db.execute("BEGIN")
        for _ in range(min(20_000, missing // ROW_BYTES + 1)):
            db.execute(
                "INSERT INTO t (k, v) VALUES (?, ?)", (rng.randrange(1 << 30), content(rng))
            )
        db.execute("COMMIT")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()


def commit(db, rng, last):
    db.execute("BEGIN IMMEDIATE")
    for _ in range(ROWS_PER_COMMIT):
        if last and rng.random() < 0.5:
            change = (content(rng), rng.randint(1, last))
            db.execute("UPDATE t SET v = ? WHERE id = ?", change)
        else:
            # The database numbers them: other writers insert too.
            row = (rng.randrange(1 << 30), content(rng))
            last = db.execute("INSERT INTO t (k, v) VALUES (?, ?)", row).lastrowid
    db.execute("UPDATE clock SET n = n + 1")
    db.execute("COMMIT")
    return last


def full(path, seconds, seed):
    rng, db = random.Random(seed), connect(path)
    last = db.execute("SELECT coalesce(max(id), 0) FROM t").fetchone()[0]
    say(ready=True)
    sys.stdin.readline()
    begun, count, longest, busy = time.monotonic(), 0, 0.0, 0
    before = begun
    while before - begun < seconds:
        try:
            last = commit(db, rng, last)
            count += 1
        except sqlite3.OperationalError:
            busy += 1
            if db.in_transaction:
                db.execute("ROLLBACK")
        now = time.monotonic()
        longest, before = max(longest, now - before), now
    say(commits=count, seconds=before - begun, longest=longest, busy=busy)
    # The database stays open until it was measured: an app that is closed checkpoints.
    sys.stdin.readline()


def sparse(path, count, gap):
    rng, db = random.Random(3), connect(path)
    say(ready=True)
    sys.stdin.readline()
    for _ in range(count):
        time.sleep(gap * rng.uniform(0.7, 1.3))
        db.execute("UPDATE clock SET n = n + 1")
        say(at=time.time())
    sys.stdin.readline()


def tail(path, count, gap):
    rng, db = random.Random(4), connect(path)
    last = db.execute("SELECT coalesce(max(id), 0) FROM t").fetchone()[0]
    say(ready=True)
    sys.stdin.readline()
    for _ in range(count):
        last = commit(db, rng, last)
        time.sleep(gap)
    say(done=True)
    sys.stdin.readline()


def burst(paths):
    apps = [connect(path) for path in paths]
    say(ready=True)
    for _ in sys.stdin:
        for db in apps:
            db.execute("UPDATE clock SET n = n + 1")
        say(at=time.time())


def main(verb, *args):
    if verb == "fill":
        fill(args[0], int(args[1]))
    elif verb == "full":
        full(args[0], float(args[1]), int(args[2]) if len(args) > 2 else 2)
    elif verb == "sparse":
        sparse(args[0], int(args[1]), float(args[2]))
    elif verb == "tail":
        tail(args[0], int(args[1]), float(args[2]))
    elif verb == "burst":
        burst(args)
    else:
        sys.exit(f"writer.py: no such verb: {verb}")


main(*sys.argv[1:])
