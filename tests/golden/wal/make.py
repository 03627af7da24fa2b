#!/usr/bin/env python3
"""Makes the cases beside it with the SQLite that Python is linked to, and says what is in them.

Usage: make.py DIR. Every run gives other salts; what is committed was made once (see MANIFEST).
The expectations come from the small WAL reader below and are compared with what SQLite itself
says of the same files, so that no line of sqlrep takes part.
"""
import json, os, shutil, sqlite3, struct, sys, tempfile

M32 = 0xFFFFFFFF


def checksum(data, order, state):
    s0, s1 = state
    words = struct.unpack(("<" if order == "little" else ">") + "%dI" % (len(data) // 4), data)
    for i in range(0, len(words), 2):
        s0 = (s0 + words[i] + s1) & M32
        s1 = (s1 + words[i + 1] + s0) & M32
    return s0, s1


def read(wal):
    """Header facts, the valid frames, and why the next one is not valid."""
    magic, version, page_size, sequence, salt1, salt2, c0, c1 = struct.unpack(">8I", wal[:32])
    assert magic & ~1 == 0x377F0682 and version == 3007000
    order = "big" if magic & 1 else "little"
    state = checksum(wal[:24], order, (0, 0))
    assert state == (c0, c1)
    frames, at, end = [], 32, "end of file"
    while at < len(wal):
        frame = wal[at:at + 24 + page_size]
        if len(frame) < 24 + page_size:
            end = "length"
            break
        pgno, commit, f1, f2, k0, k1 = struct.unpack(">6I", frame[:24])
        if (f1, f2) != (salt1, salt2):
            end = "salts"
            break
        following = checksum(frame[24:], order, checksum(frame[:8], order, state))
        if following != (k0, k1):
            end = "checksum"
            break
        frames.append([pgno, commit])
        state, at = following, at + len(frame)
    return dict(order=order, page_size=page_size, sequence=sequence, salts=[salt1, salt2],
                frames=frames, checksum=list(state), end=end)


def rewrite_big_endian(wal):
    """The same frames with checksums as a big-endian machine writes them."""
    out = bytearray(wal)
    struct.pack_into(">I", out, 0, 0x377F0683)
    page_size = struct.unpack(">I", wal[8:12])[0]
    state = checksum(bytes(out[:24]), "big", (0, 0))
    struct.pack_into(">2I", out, 24, *state)
    for at in range(32, len(out), 24 + page_size):
        state = checksum(bytes(out[at:at + 8]), "big", state)
        state = checksum(bytes(out[at + 24:at + 24 + page_size]), "big", state)
        struct.pack_into(">2I", out, at + 16, *state)
    return bytes(out)


def open_db(path, page_size=1024):
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("pragma page_size=%d" % page_size)
    assert db.execute("pragma journal_mode=wal").fetchone() == ("wal",)
    db.execute("pragma wal_autocheckpoint=0")
    return db


def insert(db, count, seed):
    db.execute("begin")
    db.execute("create table if not exists t (id integer primary key, v blob)")
    for i in range(count):
        db.execute("insert into t (v) values (?)", (bytes((seed + i * 7 + k) % 251 for k in range(300)),))
    db.execute("commit")


class Case:
    def __init__(self, out, name):
        self.dir = os.path.join(out, name)
        os.makedirs(self.dir)

    def save(self, path=None, wal=None, name="wal", sqlite_frames=None, shm=False, note=""):
        wal = wal if wal is not None else open(path + "-wal", "rb").read()
        open(os.path.join(self.dir, name), "wb").write(wal)
        expected = read(wal)
        committed = max((i + 1 for i, f in enumerate(expected["frames"]) if f[1]), default=0)
        expected["committed_frames"] = committed
        if sqlite_frames is not None:
            assert committed == sqlite_frames, (committed, sqlite_frames)
        if shm:
            head = open(path + "-shm", "rb").read(136)
            open(os.path.join(self.dir, name.replace("wal", "shm")), "wb").write(head)
        if note:
            expected["note"] = note
        with open(os.path.join(self.dir, name + ".json"), "w") as file:
            file.write(json.dumps(expected) + "\n")
        return expected


def log_frames(db):
    """Frames that count, as SQLite says; copies nothing while another connection writes."""
    return db.execute("pragma wal_checkpoint(passive)").fetchone()[1]


def recovered_frames(wal, page_size):
    """How many frames SQLite finds in a WAL that it meets after a crash."""
    with tempfile.TemporaryDirectory() as tmp:
        path = os.path.join(tmp, "db")
        db = open_db(path, page_size)
        db.execute("create table t (id integer primary key, v blob)")
        db.close()
        open(path + "-wal", "wb").write(wal)
        db = sqlite3.connect(path, isolation_level=None)
        return log_frames(db)


def main(out):
    os.makedirs(out, exist_ok=True)
    tmp = tempfile.mkdtemp()
    path = lambda name: os.path.join(tmp, name)

    for name, size, rows in [("ok-512", 512, 3), ("ok-1024", 1024, 6), ("ok-65536", 65536, 1)]:
        db = open_db(path(name), size)
        for seed in range(3 if size < 65536 else 1):
            insert(db, rows, seed)
        case = Case(out, name)
        wal = open(path(name) + "-wal", "rb").read()
        case.save(path(name), sqlite_frames=recovered_frames(wal, size), shm=True)
        if name == "ok-1024":
            ok = wal
        db.close()

    # Frames of a transaction that is not committed: the cache was too small and spilled.
    db = open_db(path("uncommitted"))
    insert(db, 4, 1)
    db.execute("pragma cache_size=2")
    db.execute("begin")
    for i in range(40):
        db.execute("insert into t (v) values (?)", (bytes([i]) * 900,))
    wal = open(path("uncommitted") + "-wal", "rb").read()
    expected = Case(out, "uncommitted").save(path("uncommitted"), shm=True,
                                             sqlite_frames=recovered_frames(wal, 1024))
    assert len(expected["frames"]) > expected["committed_frames"]
    db.execute("rollback")
    db.close()

    # A reset leaves the frames of the round before behind the new ones.
    db = open_db(path("salt-mismatch"))
    insert(db, 20, 3)
    db.execute("pragma wal_checkpoint(passive)")
    insert(db, 2, 4)
    wal = open(path("salt-mismatch") + "-wal", "rb").read()
    expected = Case(out, "salt-mismatch").save(path("salt-mismatch"), shm=True,
                                               sqlite_frames=recovered_frames(wal, 1024))
    assert expected["end"] == "salts" and expected["sequence"] == 1
    db.close()

    # Two rounds of one WAL, of equal size: only the salts tell them apart.
    db = open_db(path("reset"))
    insert(db, 1, 5)
    db.execute("pragma wal_checkpoint(passive)")
    case = Case(out, "reset-equal-size")
    sizes = []
    for name, seed in [("before.wal", 6), ("after.wal", 7)]:
        db.execute("begin")
        db.execute("update t set v = ?", (bytes([seed]) * 300,))
        db.execute("pragma user_version = %d" % seed)
        db.execute("commit")
        wal = open(path("reset") + "-wal", "rb").read()
        expected = case.save(path("reset"), name=name, shm=True,
                             sqlite_frames=recovered_frames(wal, 1024))
        assert expected["end"] == "end of file" and len(expected["frames"]) == 2
        sizes.append((len(wal), wal[16:24]))
        db.execute("pragma wal_checkpoint(passive)")
    assert sizes[0][0] == sizes[1][0] and sizes[0][1] != sizes[1][1]
    db.close()

    # Damage: a bit of a page in the seventh frame; half a frame cut off.
    bad = bytearray(ok)
    bad[32 + 6 * (24 + 1024) + 24 + 500] ^= 0x10
    expected = Case(out, "frame-checksum-mismatch").save(
        wal=bytes(bad), sqlite_frames=recovered_frames(bytes(bad), 1024))
    assert expected["end"] == "checksum" and len(expected["frames"]) == 6
    cut = ok[:-700]
    expected = Case(out, "truncated").save(wal=cut, sqlite_frames=recovered_frames(cut, 1024))
    assert expected["end"] == "length"

    # Checksums of a big-endian machine. SQLite proves them when it recovers the WAL after a crash,
    # and appends in the same order: the last frames are its own.
    source, target = path("big-source"), path("big-endian")
    db = open_db(source)
    insert(db, 3, 8)
    shutil.copy(source, target)
    open(target + "-wal", "wb").write(rewrite_big_endian(open(source + "-wal", "rb").read()))
    db.close()
    db = sqlite3.connect(target, isolation_level=None)
    db.execute("pragma wal_autocheckpoint=0")
    assert db.execute("select count(*) from t").fetchone() == (3,)
    before = len(read(open(target + "-wal", "rb").read())["frames"])
    insert(db, 2, 9)
    wal = open(target + "-wal", "rb").read()
    expected = Case(out, "big-endian").save(target, shm=True, sqlite_frames=recovered_frames(wal, 1024))
    assert expected["order"] == "big" and len(expected["frames"]) > before
    db.close()
    shutil.rmtree(tmp)
    print("made with SQLite", sqlite3.sqlite_version)


if __name__ == "__main__":
    main(sys.argv[1])
