"""The writing app of `workload.py` on an ORM: the same verbs, the same oracle, other statements.

As many apps are written: an engine with a pool of connections, sessions, mapped classes, a unit of
work, savepoints, and threads that read through the same pool. It runs on the Python that has
SQLAlchemy. One writer, and the file is in WAL mode.
"""

import random
import sqlite3
import threading
import time

from sqlalchemy import LargeBinary, create_engine, delete, event, func, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import StaticPool

import workload

READERS = 2


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "note0"
    id: Mapped[int] = mapped_column(primary_key=True)
    word: Mapped[str]
    size: Mapped[int]


class Blob(Base):
    __tablename__ = "blob0"
    id: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[bytes] = mapped_column(LargeBinary)


class Progress(Base):
    __tablename__ = "progress"
    writer: Mapped[int] = mapped_column(primary_key=True)
    attempt: Mapped[int]
    commits: Mapped[int]


def engine_of(*args, **options):
    """An engine whose transactions SQLAlchemy begins itself, as its manual says for savepoints."""
    engine = create_engine(*args, **options)

    @event.listens_for(engine, "connect")
    def connected(connection, _):
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begun(connection):
        connection.exec_driver_sql("BEGIN")

    return engine


class Pool:
    """What the workload takes for its connection: one of its own, and a pool beside it."""

    def __init__(self, path, timeout):
        self.raw = sqlite3.connect(path, timeout=timeout, isolation_level=None)
        self.execute = self.raw.execute
        self.engine = engine_of(f"sqlite:///{path}", connect_args={"timeout": timeout})
        self.over, self.readers = threading.Event(), []

    def read(self, number):
        rng = random.Random(number)
        while not self.over.wait(rng.uniform(0, 1)):
            with Session(self.engine) as session:
                session.scalar(select(func.count()).select_from(Note))
                time.sleep(rng.uniform(0, 0.5))
                session.scalars(select(Blob).limit(20)).all()

    def session(self):
        while len(self.readers) < READERS:
            self.readers.append(threading.Thread(target=self.read, args=(len(self.readers),), daemon=True))
            self.readers[-1].start()
        return Session(self.engine)

    def close(self):
        self.over.set()
        for reader in self.readers:
            reader.join()
        self.engine.dispose()
        self.raw.close()


TWINS = {}


def session_of(db):
    """A session of the pool, or of the database in memory that an oracle makes."""
    if isinstance(db, Pool):
        return db.session()
    if id(db) not in TWINS:
        TWINS[id(db)] = engine_of("sqlite://", creator=lambda: db, poolclass=StaticPool)
    return Session(TWINS[id(db)])


def a_row(rng, kind, number):
    if kind is Note:
        return Note(id=number, word=" ".join(rng.choices(workload.WORDS, k=5)), size=rng.randrange(1000))
    return Blob(id=number, body=workload.body(rng))


def changes(session, rng):
    for _ in range(rng.randint(1, 4)):
        kind, what = rng.choice((Note, Blob)), rng.random()
        rows, top = session.execute(select(func.count(), func.coalesce(func.max(kind.id), 0)).select_from(kind)).one()
        low = rng.randint(0, top + 1)
        near = select(kind).where(kind.id.between(low, low + 5)).order_by(kind.id)
        if rows > workload.ROWS_MAX:
            session.execute(delete(kind).where(kind.id % 3 == rng.randrange(3)))
            session.expire_all()
        elif what < 0.6:
            session.add(a_row(rng, kind, top + 1))
            session.flush()
        elif what < 0.8:
            for row in session.scalars(near):
                if kind is Note:
                    row.size += 1
                else:
                    row.body = workload.body(rng)
        elif what < 0.9:
            for row in session.scalars(near):
                session.delete(row)
        else:
            with session.begin_nested() as savepoint:
                session.add(a_row(rng, kind, top + 1))
                session.flush()
                if rng.random() < 0.5:
                    savepoint.rollback()


def run(db, args, attempt):
    """One attempt; says whether it committed. Raises what SQLite raises."""
    rng, kind = workload.plan(args.seed, args.writer, attempt, 0)
    try:
        with session_of(db) as session:
            changes(session, rng)
            if kind == "rollback":
                session.rollback()
                return False
            session.execute(text("UPDATE clock SET n = n + 1"))
            progress = session.get(Progress, args.writer)
            progress.attempt, progress.commits = attempt, progress.commits + 1
            session.commit()
    except OperationalError as error:
        raise error.orig from error
    return True


workload.connect, workload.run = Pool, run
workload.main()
