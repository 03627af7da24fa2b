//! Rewinding a live database: another state of it, written over it by SQLite as one transaction.
//!
//! To the app and to capture that is a commit like any other: open connections see the old rows and
//! the old schema at their next read, and what was there before can be had back in the same way.
//!
//! SQLite parses here what a pod made, so it happens in a process of its own (L13): the agent's
//! program, spawned anew and thus without a lock, a connection or a descriptor of the agent's
//! (L3). It takes orders on one stream and answers on another, a line each, and does what it is
//! told step by step, so that the agent can capture the last commit before the rewind while nobody
//! can write. When its orders end it ends, and what it has not committed was never there.

use std::cell::Cell;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, Write};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use crate::inspect::open_unchanging;
use crate::live::{LiveFile, Probe, Site, probe, read_header};
use crate::{Error, init};

/// How long the app may keep the database locked before a rewind is given up: longer than the
/// transactions of apps take, and than they wait for each other by default.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// How often it is asked for meanwhile. SQLite's own waiting, up to 100 ms between two tries, comes
/// too late nearly each time when several threads of an app write without a pause: they leave the
/// lock alone for some 100 µs now and then.
const LOCK_PAUSE: Duration = Duration::from_millis(1);

/// Pages between two words about progress: 4 MiB of the usual size.
const PAGES_PER_STEP: i32 = 1024;

/// What the process is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Take the write lock: from now on nobody commits.
    Lock,
    /// Write the other state, commit, and end.
    Write,
}

/// What the process says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// Both databases are open, and fit.
    Ready,
    /// It has the lock.
    Locked,
    /// It did not get the lock in time.
    Busy,
    /// So many pages of so many are written.
    Wrote {
        /// Pages done.
        pages: u32,
        /// Pages in all.
        of: u32,
    },
    /// It is committed.
    Done,
    /// It will not be done; why, and what would do. The database was not touched.
    Refused(String),
    /// It did not work. The database is as it was.
    Failed(String),
}

/// Which state is to be written over which database.
#[derive(Clone, Debug)]
pub struct Rewind {
    /// The database file with the wanted state, which nobody changes.
    pub source: PathBuf,
    /// The volume of the live database.
    pub volume: PathBuf,
    /// Its path there.
    pub path: PathBuf,
}

impl Rewind {
    /// Opens the wanted state, and the live database from within its volume. Only in a process
    /// that does nothing else and has one thread, for it is confined for good.
    pub fn prepare(&self) -> Result<Prepared, Error> {
        init()?;
        let file = LiveFile::new(&self.volume, &self.path)?;
        // No connection is open yet in this process, so a header may be read (L3).
        self.must_fit(&file)?;
        let site = Site::of(&file)?;
        let source = self.open_source()?;
        let live = site.enter()?;
        Ok(Prepared {
            source,
            live,
            patience: LOCK_PATIENCE,
        })
    }

    /// A database keeps its page size and its journal mode; SQLite would change them halfway.
    fn must_fit(&self, file: &LiveFile) -> Result<(), Error> {
        let (now, wanted) = (probe(file)?, self.wanted()?);
        if now == wanted {
            return Ok(());
        }
        Err(Error::Unfit {
            path: file.full_path(),
            now: kind(&now),
            wanted: kind(&wanted),
        })
    }

    fn wanted(&self) -> Result<Probe, Error> {
        let file =
            File::open(&self.source).map_err(Error::io("read the wanted state", &self.source))?;
        let path = self.source.clone();
        match read_header(&file, &path)? {
            Probe::NotADatabase { reason } => Err(Error::NotADatabase { path, reason }),
            Probe::Empty => Err(Error::NotADatabase {
                path,
                reason: "it is empty".to_owned(),
            }),
            found => Ok(found),
        }
    }

    /// Nothing is looked for beside it, and nothing is left there.
    fn open_source(&self) -> Result<Connection, Error> {
        let open = || -> rusqlite::Result<Connection> {
            let source = open_unchanging(&self.source)?;
            // Opens the file itself, which this process cannot do any more when it is confined.
            source.query_row("PRAGMA user_version", [], |_| Ok(()))?;
            Ok(source)
        };
        open().map_err(|source| Error::Sqlite {
            attempt: "open the wanted state",
            path: self.source.clone(),
            source,
        })
    }
}

fn kind(probe: &Probe) -> String {
    match probe {
        Probe::Wal { page_size } => format!("{page_size} bytes a page, with a WAL"),
        Probe::Rollback { page_size } => format!("{page_size} bytes a page, without a WAL"),
        Probe::Empty => "empty".to_owned(),
        Probe::NotADatabase { .. } => "no database".to_owned(),
    }
}

/// The two streams.
struct Talk<R, W> {
    orders: R,
    answers: W,
}

impl<R: BufRead, W: Write> Talk<R, W> {
    fn say(&mut self, answer: &Answer) -> io::Result<()> {
        writeln!(self.answers, "{answer}")?;
        self.answers.flush()
    }

    /// The next order; `None` when there will be none.
    fn next(&mut self) -> io::Result<Option<Order>> {
        let mut line = String::new();
        if self.orders.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        line.trim_end().parse().map(Some)
    }
}

/// Whether there is more to talk about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    GoOn,
    End,
}

/// A rewind that can begin.
#[derive(Debug)]
pub struct Prepared {
    source: Connection,
    live: Connection,
    patience: Duration,
}

impl Prepared {
    /// Does as it is told.
    pub fn obey(mut self, orders: impl BufRead, answers: impl Write) -> io::Result<()> {
        let mut talk = Talk { orders, answers };
        talk.say(&Answer::Ready)?;
        loop {
            let next = match talk.next()? {
                Some(Order::Lock) => {
                    wait_at_most(&mut self.live, self.patience).map_err(io::Error::other)?;
                    under_lock(&self.source, &mut self.live, &mut talk)?
                }
                Some(Order::Write) => {
                    talk.say(&Answer::Refused("the lock comes first".to_owned()))?;
                    Next::End
                }
                None => Next::End,
            };
            if next == Next::End {
                return Ok(());
            }
        }
    }
}

thread_local! {
    /// Until when a lock is waited for.
    static PATIENT_UNTIL: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// From now on, for so long, a lock that somebody has is asked for again.
fn wait_at_most(live: &mut Connection, patience: Duration) -> rusqlite::Result<()> {
    PATIENT_UNTIL.set(Instant::now().checked_add(patience));
    live.busy_handler(Some(|_| {
        let goes_on = PATIENT_UNTIL
            .get()
            .is_some_and(|until| Instant::now() < until);
        if goes_on {
            std::thread::sleep(LOCK_PAUSE);
        }
        goes_on
    }))
}

/// Takes the lock and keeps it until it is told what to do.
fn under_lock<R: BufRead, W: Write>(
    source: &Connection,
    live: &mut Connection,
    talk: &mut Talk<R, W>,
) -> io::Result<Next> {
    // A step of no pages takes the lock, and the next ones keep it.
    let locked = Backup::new(source, live).and_then(|backup| Ok((backup.step(0)?, backup)));
    let backup = match locked {
        Ok((StepResult::Busy | StepResult::Locked, _)) => {
            talk.say(&Answer::Busy)?;
            return Ok(Next::GoOn);
        }
        Ok((_, backup)) => backup,
        Err(error) => {
            talk.say(&Answer::Failed(error.to_string()))?;
            return Ok(Next::End);
        }
    };
    talk.say(&Answer::Locked)?;
    match talk.next()? {
        Some(Order::Write) => {
            write(&backup, talk)?;
            Ok(Next::End)
        }
        Some(Order::Lock) => {
            talk.say(&Answer::Refused("it has the lock".to_owned()))?;
            Ok(Next::End)
        }
        None => Ok(Next::End),
    }
}

fn write<R: BufRead, W: Write>(backup: &Backup<'_, '_>, talk: &mut Talk<R, W>) -> io::Result<()> {
    loop {
        let answer = match backup.step(PAGES_PER_STEP) {
            Ok(StepResult::Done) => Answer::Done,
            Ok(StepResult::More) => {
                let at = backup.progress();
                let count = |pages: i32| u32::try_from(pages).unwrap_or(0);
                Answer::Wrote {
                    pages: count(at.pagecount - at.remaining),
                    of: count(at.pagecount),
                }
            }
            Ok(_) => Answer::Failed("SQLite lost a lock that it had".to_owned()),
            Err(error) => Answer::Failed(error.to_string()),
        };
        talk.say(&answer)?;
        if !matches!(answer, Answer::Wrote { .. }) {
            return Ok(());
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lock => "lock",
            Self::Write => "write",
        })
    }
}

impl FromStr for Order {
    type Err = io::Error;

    fn from_str(line: &str) -> io::Result<Self> {
        match line {
            "lock" => Ok(Self::Lock),
            "write" => Ok(Self::Write),
            _ => Err(not_understood(line)),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // An answer is one line, whatever SQLite says.
        let line = |text: &str| text.replace(['\n', '\r'], " ");
        match self {
            Self::Ready => f.write_str("ready"),
            Self::Locked => f.write_str("locked"),
            Self::Busy => f.write_str("busy"),
            Self::Wrote { pages, of } => write!(f, "wrote {pages} {of}"),
            Self::Done => f.write_str("done"),
            Self::Refused(reason) => write!(f, "refused {}", line(reason)),
            Self::Failed(reason) => write!(f, "failed {}", line(reason)),
        }
    }
}

impl FromStr for Answer {
    type Err = io::Error;

    fn from_str(line: &str) -> io::Result<Self> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        Ok(match word {
            "ready" => Self::Ready,
            "locked" => Self::Locked,
            "busy" => Self::Busy,
            "wrote" => {
                let numbers = rest
                    .split_once(' ')
                    .and_then(|(pages, of)| Some((pages.parse().ok()?, of.parse().ok()?)));
                let (pages, of) = numbers.ok_or_else(|| not_understood(line))?;
                Self::Wrote { pages, of }
            }
            "done" => Self::Done,
            "refused" => Self::Refused(rest.to_owned()),
            "failed" => Self::Failed(rest.to_owned()),
            _ => return Err(not_understood(line)),
        })
    }
}

fn not_understood(line: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{line:?} is no word of a rewind"),
    )
}

#[cfg(test)]
mod tests;
