"""An app on SQLAlchemy, as many are written: a pool of connections, sessions, an ORM.

Several threads write through the pool for as long as stdin is open; a connection that was checked
out at the beginning stays open, and answers what it sees. A line on stdin is one of:

  count   the number of rows, by the connection that is open since the beginning
  stop    stop between two transactions and say how many each thread made

It says "ready" first. Any error of the database ends it with that error, except that a row which
was there a moment ago may be gone: that is what a rewind does.
"""

import sys
import threading

from sqlalchemy import Integer, String, create_engine, func, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.orm.exc import StaleDataError

THREADS = 4


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "note"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    body: Mapped[str] = mapped_column(String)
    edits: Mapped[int] = mapped_column(Integer, default=0)


def work(engine, stop, done, errors):
    try:
        while not stop.is_set():
            with Session(engine) as session:
                session.add(Note(body="x" * 500))
                newest = session.scalars(select(Note).order_by(Note.id.desc()).limit(1)).first()
                if newest is not None:
                    newest.edits += 1
                try:
                    session.commit()
                    done.append(1)
                except StaleDataError:
                    session.rollback()
    except Exception as error:  # said to the test, which fails
        errors.append(repr(error))


def main():
    engine = create_engine(f"sqlite:///{sys.argv[1]}", connect_args={"timeout": 300})
    with engine.begin() as setup:
        setup.execute(text(f"PRAGMA journal_mode = {sys.argv[2]}"))
    Base.metadata.create_all(engine)
    stop, done, errors = threading.Event(), [], []
    threads = [
        threading.Thread(target=work, args=(engine, stop, done, errors)) for _ in range(THREADS)
    ]
    with engine.connect() as watching:
        for thread in threads:
            thread.start()
        print("ready", flush=True)
        for line in sys.stdin:
            if line.strip() == "stop":
                break
            rows = watching.execute(select(func.count()).select_from(Note)).scalar_one()
            watching.rollback()  # the next look is a new transaction
            print(f"{rows} {len(done)}", flush=True)
        stop.set()
        for thread in threads:
            thread.join()
    engine.dispose()
    print(errors[0] if errors else f"stopped {len(done)}", flush=True)


main()
