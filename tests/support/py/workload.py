"""A writing app, and the oracle that knows what it must have written.

Every transaction is a function of (seed, writer, attempt), and a writer touches only its own
tables, so the exact content after any attempt can be made again in memory and compared with a
restored database: not "looks sane", but the state after one commit and no other.

  init    create the database and its tables
  write   write until told to stop; stdin takes: pause, resume, quit; end of input is quit
  read    hold read transactions open for a while, again and again, until the input ends
  check   compare a database with what the seed says; JSON on stdout

Only the standard library is used.
"""

import argparse
import array
import json
import os
import random
import select
import sqlite3
import struct
import sys
import time

# Enough to grow, shrink and re-use pages while a check by replay stays cheap.
ROWS_MAX = 400
TABLES = ("note", "blob")
# An hour at a hundred transactions a second.
TIMES_MAX = 360_000
WORDS = "the quick brown fox jumps over a lazy dog while nobody looks".split()


def connect(path, timeout):
    db = sqlite3.connect(path, timeout=timeout, isolation_level=None)
    return db


def create(db, page_size, writers, journal):
    db.execute(f"PRAGMA page_size = {page_size}")
    db.execute(f"PRAGMA journal_mode = {journal}")
    schema(db, writers)


def schema(db, writers):
    db.execute("BEGIN IMMEDIATE")
    db.execute("CREATE TABLE clock (n INTEGER NOT NULL)")
    db.execute("INSERT INTO clock VALUES (0)")
    db.execute(
        "CREATE TABLE progress (writer INTEGER PRIMARY KEY, attempt INTEGER NOT NULL,"
        " commits INTEGER NOT NULL)"
    )
    for w in range(writers):
        db.execute("INSERT INTO progress VALUES (?, 0, 0)", (w,))
        db.execute(f"CREATE TABLE note{w} (id INTEGER PRIMARY KEY, word TEXT, size INTEGER)")
        db.execute(f"CREATE INDEX note{w}_word ON note{w} (word, size)")
        db.execute(f"CREATE TABLE blob{w} (id INTEGER PRIMARY KEY, body BLOB)")
    db.execute("COMMIT")


def body(rng):
    """Half noise, half zeroes: pages that compress and pages that do not; some overflow."""
    size = rng.choice((16, 200, 900, 3000, 9000)) if rng.random() < 0.97 else 90_000
    return rng.randbytes(size) if rng.random() < 0.5 else bytes(size)


def changes(db, rng, w):
    """The statements of one transaction. What it reads is its own tables only."""
    for _ in range(rng.randint(1, 4)):
        table = f"{rng.choice(TABLES)}{w}"
        what = rng.random()
        rows, top = db.execute(f"SELECT count(*), coalesce(max(id), 0) FROM {table}").fetchone()
        if rows > ROWS_MAX:
            db.execute(f"DELETE FROM {table} WHERE id % 3 = ?", (rng.randrange(3),))
        elif what < 0.6:
            if table.startswith("note"):
                values = (top + 1, " ".join(rng.choices(WORDS, k=5)), rng.randrange(1000))
                db.execute(f"INSERT INTO {table} VALUES (?, ?, ?)", values)
            else:
                db.execute(f"INSERT INTO {table} VALUES (?, ?)", (top + 1, body(rng)))
        elif what < 0.85:
            low = rng.randint(0, top + 1)
            if table.startswith("note"):
                sql = f"UPDATE {table} SET word = ?, size = size + 1 WHERE id BETWEEN ? AND ?"
                db.execute(sql, (rng.choice(WORDS), low, low + 5))
            else:
                sql = f"UPDATE {table} SET body = ? WHERE id BETWEEN ? AND ?"
                db.execute(sql, (body(rng), low, low + 1))
        elif what < 0.97:
            low = rng.randint(0, top + 1)
            db.execute(f"DELETE FROM {table} WHERE id BETWEEN ? AND ?", (low, low + 9))
        else:
            have = db.execute(
                "SELECT count(*) FROM sqlite_master WHERE name = ?", (f"extra{w}",)
            ).fetchone()[0]
            if have:
                db.execute(f"DROP INDEX extra{w}")
            else:
                db.execute(f"CREATE INDEX extra{w} ON note{w} (size)")


def plan(seed, w, attempt, vacuum):
    """What attempt number `attempt` of writer `w` is: its dice, and its kind."""
    rng = random.Random(f"{seed}/{w}/{attempt}")
    dice = rng.random()
    if vacuum and dice < 1 / vacuum:
        return rng, "vacuum"
    return rng, "rollback" if dice > 0.92 else "commit"


def run(db, args, attempt):
    """One attempt; says whether it committed. Raises what SQLite raises."""
    rng, kind = plan(args.seed, args.writer, attempt, args.vacuum)
    if kind == "vacuum":
        db.execute("VACUUM")
        return False
    db.execute("BEGIN IMMEDIATE")
    try:
        changes(db, rng, args.writer)
        if kind == "rollback":
            db.execute("ROLLBACK")
            return False
        db.execute("UPDATE clock SET n = n + 1")
        db.execute(
            "UPDATE progress SET attempt = ?, commits = commits + 1 WHERE writer = ?",
            (attempt, args.writer),
        )
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    return True


def say(**facts):
    print(json.dumps(facts), flush=True)


def commands(timeout):
    """Whole lines that stand ready on stdin; None at its end."""
    if not select.select([sys.stdin], [], [], timeout)[0]:
        return []
    data = os.read(sys.stdin.fileno(), 4096)
    return data.decode().split() if data else None


def quantiles(times):
    """Of the transactions since the last word of it, in seconds: the median, and 99 in 100."""
    times = sorted(times) or [0.0]
    return {f"p{q}": round(times[min(len(times) * q // 100, len(times) - 1)], 5) for q in (50, 99)}


def write(args):
    db = connect(args.db, args.timeout)
    if args.journal != "WAL":
        # only WAL is remembered by the file
        db.execute(f"PRAGMA journal_mode = {args.journal}")
    db.execute(f"PRAGMA synchronous = {args.synchronous}")
    db.execute(f"PRAGMA wal_autocheckpoint = {args.autocheckpoint}")
    attempt, commits = db.execute(
        "SELECT attempt, commits FROM progress WHERE writer = ?", (args.writer,)
    ).fetchone()
    oracle = os.open(args.oracle, os.O_RDWR | os.O_CREAT, 0o644)
    busy = 0
    stall = 0.0
    last = 0.0
    times = array.array("d")
    say(event="started", commits=commits)
    deadline = time.monotonic() + args.seconds
    done = 0
    paused = False
    while True:
        if paused or done % 16 == 0 or args.pause:
            words = commands(0.2 if paused else args.pause)
            if words is None or "quit" in words:
                break
            for word in words:
                paused = word == "pause" or (paused and word != "resume")
                if word == "pause":
                    facts = {"commits": commits, "busy": busy, "stall": round(stall, 4)}
                    say(event="paused", **facts, **quantiles(times))
                    del times[:]
                    stall = 0.0
                elif word == "resume":
                    say(event="resumed")
        if paused:
            continue
        if time.monotonic() > deadline or (args.commits and done >= args.commits):
            break
        begun = time.monotonic()
        try:
            committed = run(db, args, attempt + 1)
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) and "busy" not in str(error):
                raise
            busy += 1
            done += 1
            continue
        took = time.monotonic() - begun
        stall = max(stall, took)
        if len(times) < TIMES_MAX:
            times.append(took)
        attempt += 1
        if committed:
            commits += 1
            # what is acknowledged, kept outside the pod: eight bytes, one call
            os.pwrite(oracle, struct.pack("<Q", commits), 0)
            last = time.time()
        done += 1
    if args.close == "yes":
        db.close()
    facts = {"commits": commits, "attempt": attempt, "busy": busy, "stall": round(stall, 4)}
    say(event="stopped", **facts, last=last, **quantiles(times))
    # else: leave as a killed app does, without the checkpoint of a last close
    sys.stdout.flush()
    os._exit(0)


def read(args):
    rng = random.Random(f"{args.seed}/reader")
    db = connect(args.db, args.timeout)
    say(event="started")
    while True:
        db.execute("BEGIN")
        db.execute("SELECT count(*) FROM progress").fetchone()
        words = commands(rng.uniform(0.1, args.hold))
        db.execute("SELECT n FROM clock").fetchone()
        db.execute("COMMIT")
        if words is None or "quit" in words:
            break
    say(event="stopped")


def objects(db):
    # Litestream keeps two tables in every database it replicates; a replica of its has them
    rows = db.execute(
        "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE name NOT LIKE '$_litestream$_%'"
        " ESCAPE '$'"
    )
    return sorted(tuple(row) for row in rows)


def check(args):
    if args.immutable:
        db = sqlite3.connect(f"file:{args.db}?immutable=1", uri=True)
    else:
        db = connect(args.db, 10)
    wrong = []
    integrity = [row[0] for row in db.execute("PRAGMA integrity_check(5)")]
    if integrity != ["ok"]:
        wrong.append(f"integrity_check: {integrity}")
    db.execute("BEGIN")
    progress = db.execute("SELECT writer, attempt, commits FROM progress ORDER BY writer").fetchall()
    clock = db.execute("SELECT n FROM clock").fetchone()[0]
    if clock != sum(row[2] for row in progress):
        wrong.append(f"clock {clock} is not the sum of {progress}: torn between writers")
    twin = sqlite3.connect(":memory:", isolation_level=None)
    schema(twin, len(progress))
    for w, attempts, commits in progress:
        made = argparse.Namespace(seed=args.seed, writer=w, vacuum=args.vacuum)
        count = 0
        for attempt in range(1, attempts + 1):
            if plan(args.seed, w, attempt, args.vacuum)[1] == "commit":
                count += run(twin, made, attempt)
        if count != commits:
            wrong.append(f"writer {w}: {commits} commits at attempt {attempts}, not {count}")
        for table in TABLES:
            sql = f"SELECT * FROM {table}{w} ORDER BY id"
            for have, want in zip_longest(db.execute(sql), twin.execute(sql)):
                if have != want:
                    key = (have or want)[0]
                    wrong.append(f"{table}{w}: row {key} differs from what attempt {attempts} left")
                    break
    if objects(db) != objects(twin):
        ours = set(objects(db)) ^ set(objects(twin))
        wrong.append(f"schema differs: {sorted(ours)[:4]}")
    say(ok=not wrong, wrong=wrong, commits=[row[2] for row in progress], clock=clock)
    sys.exit(1 if wrong else 0)


def zip_longest(a, b):
    a, b = iter(a), iter(b)
    while True:
        left, right = next(a, None), next(b, None)
        if left is None and right is None:
            return
        yield left, right


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=("init", "write", "read", "check"))
    parser.add_argument("db")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--writer", type=int, default=0)
    parser.add_argument("--writers", type=int, default=1)
    parser.add_argument("--page-size", type=int, default=4096)
    parser.add_argument("--journal", default="WAL")
    parser.add_argument("--autocheckpoint", type=int, default=1000)
    parser.add_argument("--synchronous", default="NORMAL")
    parser.add_argument("--timeout", type=float, default=0.0, help="busy timeout in seconds")
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--commits", type=int, default=0, help="stop after so many attempts")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between transactions")
    parser.add_argument("--vacuum", type=int, default=0, help="one attempt in so many is VACUUM")
    parser.add_argument("--hold", type=float, default=2.0, help="longest read transaction")
    parser.add_argument("--oracle", default=os.devnull)
    parser.add_argument("--close", choices=("yes", "no"), default="yes")
    parser.add_argument("--immutable", action="store_true")
    args = parser.parse_args()
    if args.verb == "init":
        # setting up is not what is tested: a recovery of the WAL-index is waited for
        db = connect(args.db, max(args.timeout, 30))
        create(db, args.page_size, args.writers, args.journal)
        db.close()
    else:
        {"write": write, "read": read, "check": check}[args.verb](args)


if __name__ == "__main__":
    main()
