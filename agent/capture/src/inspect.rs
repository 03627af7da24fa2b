//! What SQLite says of a database that a replica restores to: its `quick_check`.
//!
//! Checksums prove that a replica gives back what the app wrote; they do not know whether that makes
//! sense. Asking SQLite means to have it parse what a pod made, so it happens in a process of its own
//! (L13): the agent's program, spawned anew and thus without a lock, a connection or a descriptor of
//! the agent's (L3). It opens the file, which nobody changes, and then gives up everything else:
//! user, groups, root directory, the right to open, connect and start anything, and all but a little
//! memory and time. What it says is one word a line.

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::str::FromStr;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use rustix::process::{
    Resource, Rlimit, Signal, chdir, chroot, geteuid, nice, set_parent_process_death_signal,
    setrlimit,
};

use crate::confine::{Owner, become_user, give_up_capabilities};
use crate::{ffi, init};

/// Lines of `quick_check`: the first few say what is wrong, and a database can have any number.
const LINES_MAX: usize = 20;

/// Characters of a line.
const LINE_CHARS_MAX: usize = 1_000;

/// Memory that the process may have beside its code: a bit for each page of a terabyte, a small
/// cache, a schema. More would be the pod's to fill, in the agent's own cgroup.
const MEMORY_BYTES_MAX: u64 = 96 << 20;

/// Processor time for any database, and for each of these bytes of it one second more.
const SECONDS_MIN: u64 = 10;
const BYTES_PER_SECOND: u64 = 8 << 20;

/// A user and a group to whom nothing belongs.
const NOBODY: Owner = Owner {
    uid: 65_534,
    gid: 65_534,
};

/// An empty place that is there wherever the agent can start itself from /proc: it holds no file but
/// about descriptors, and is gone with the process.
const NOWHERE: &str = "/proc/self/fdinfo";

/// What the process says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Word {
    /// The database is open: its file needs no name any more.
    Ready,
    /// A line of what SQLite found; a sound database has one that says `ok`.
    Found(String),
    /// That was all of it.
    Done,
    /// It could not be found out, and why.
    Failed(String),
}

/// Checks a database file that nobody changes, and says what SQLite finds. Only in a process that
/// does nothing else and has one thread, for it gives up its rights for good.
pub fn quick_check(path: &Path, mut words: impl Write) -> io::Result<()> {
    let mut say = |word: Word| -> io::Result<()> {
        writeln!(words, "{word}")?;
        words.flush()
    };
    let connection = match prepared(path) {
        Ok(connection) => connection,
        Err(reason) => return say(Word::Failed(reason)),
    };
    say(Word::Ready)?;
    let last = match found(&connection, &mut say) {
        Ok(()) => Word::Done,
        Err(Trouble::Sqlite(error)) if is_about_the_database(&error) => {
            say(Word::Found(error.to_string()))?;
            Word::Done
        }
        Err(Trouble::Sqlite(error)) => Word::Failed(format!("SQLite says: {error}")),
        Err(Trouble::Nobody(error)) => return Err(error),
    };
    say(last)
}

/// Opens a database file beside which nothing is looked for, and nothing is left.
pub(crate) fn open_unchanging(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_URI
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(format!("file:{}?immutable=1", escaped(path)), flags)
}

/// A path as part of a URI (<https://www.sqlite.org/uri.html>).
fn escaped(path: &Path) -> String {
    let path = path.display().to_string().replace('%', "%25");
    path.replace('?', "%3f").replace('#', "%23")
}

fn prepared(path: &Path) -> Result<Connection, String> {
    let cannot = |what: &'static str| move |error: io::Error| format!("cannot {what}: {error}");
    ffi::close_inherited().map_err(cannot("close what it was started with"))?;
    yield_to_others();
    init().map_err(|error| error.to_string())?;
    let bytes = fs::metadata(path).map_err(cannot("find the restored database"))?;
    // Reads the header and no more: what is parsed is parsed without rights.
    let opened = open_unchanging(path).and_then(|connection| {
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        Ok(connection)
    });
    let connection =
        opened.map_err(|error| format!("cannot open the restored database: {error}"))?;
    give_up_rights(bytes.len()).map_err(|error| cannot("give up its rights")(error.into()))?;
    ffi::only_compute().map_err(cannot("give up its system calls"))?;
    Ok(connection)
}

/// Everybody else comes first, and when memory is short this process is the one to go. Where that
/// cannot be set, the limits hold all the same.
fn yield_to_others() {
    let _ = nice(19);
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
}

fn give_up_rights(bytes: u64) -> rustix::io::Result<()> {
    let seconds = SECONDS_MIN + bytes / BYTES_PER_SECOND;
    for (resource, most) in [
        (Resource::Cpu, seconds),
        (Resource::Data, MEMORY_BYTES_MAX),
        (Resource::Fsize, 0),
        (Resource::Core, 0), // it would hold the app's pages
        (Resource::Nproc, 0),
        (Resource::Nofile, 0),
    ] {
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        setrlimit(resource, limit)?;
    }
    if geteuid().is_root() {
        chroot(NOWHERE)?;
        chdir("/")?;
        become_user(NOBODY)?;
    }
    give_up_capabilities()?;
    // Another user's wish to go with its parent does not count, so it comes after that.
    set_parent_process_death_signal(Some(Signal::KILL))
}

enum Trouble {
    Sqlite(rusqlite::Error),
    /// The agent does not listen.
    Nobody(io::Error),
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

fn found(
    connection: &Connection,
    say: &mut impl FnMut(Word) -> io::Result<()>,
) -> Result<(), Trouble> {
    connection.execute_batch("PRAGMA cell_size_check=on; PRAGMA temp_store=memory")?;
    let mut statement = connection.prepare(&format!("PRAGMA quick_check({LINES_MAX})"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let line = row.get_ref(0)?.as_bytes().unwrap_or_default().to_vec();
        say(Word::Found(String::from_utf8_lossy(&line).into_owned())).map_err(Trouble::Nobody)?;
    }
    Ok(())
}

/// Whether an error says something of the database, and not of this process.
fn is_about_the_database(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
    )
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A word is one line and not a long one, whatever SQLite says.
        let line = |text: &str| -> String {
            let line = text.replace(['\n', '\r'], " ");
            line.chars().take(LINE_CHARS_MAX).collect()
        };
        match self {
            Self::Ready => f.write_str("ready"),
            Self::Found(text) => write!(f, "found {}", line(text)),
            Self::Done => f.write_str("done"),
            Self::Failed(reason) => write!(f, "failed {}", line(reason)),
        }
    }
}

impl FromStr for Word {
    type Err = io::Error;

    fn from_str(line: &str) -> io::Result<Self> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "ready" => Ok(Self::Ready),
            "found" => Ok(Self::Found(rest.to_owned())),
            "done" => Ok(Self::Done),
            "failed" => Ok(Self::Failed(rest.to_owned())),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{line:?} is no word of a check"),
            )),
        }
    }
}

#[cfg(test)]
mod tests;
