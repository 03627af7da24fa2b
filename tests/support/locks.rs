//! Locks as the kernel has them: those of a process (`/proc/locks`), and those of its open files
//! (open file description locks, which `/proc/locks` lists without an owner and
//! `/proc/<pid>/fdinfo` with one).

use std::fs;
use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context, Result};

/// The bytes of a `-shm` file that read marks are locked by: WAL_READ_LOCK(0) to (4)
/// (<https://www.sqlite.org/walformat.html#wal_locks>).
const READ_MARKS: RangeInclusive<u64> = 123..=127;

/// One lock of one process on one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// `READ` or `WRITE`.
    pub kind: String,
    /// The bytes it covers.
    pub bytes: RangeInclusive<u64>,
}

/// The locks that a process, or one of its open files, holds on a file.
pub fn held(pid: u32, path: &Path) -> Result<Vec<Lock>> {
    let inode = fs::metadata(path)
        .with_context(|| path.display().to_string())?
        .ino();
    let mut locks = parse(&fs::read_to_string("/proc/locks")?, &["POSIX"], pid, inode);
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // A descriptor that was closed meanwhile holds nothing.
        let facts = entry
            .and_then(|entry| fs::read_to_string(entry.path()))
            .unwrap_or_default();
        let lines: Vec<&str> = facts
            .lines()
            .filter_map(|line| line.strip_prefix("lock:"))
            .collect();
        locks.extend(parse(&lines.join("\n"), &["OFDLCK"], pid, inode));
    }
    Ok(locks)
}

/// Whether a process holds a read mark of this database: then nobody can reset its WAL.
pub fn holds_read_mark(pid: u32, db: &Path) -> Result<bool> {
    let locks = held(pid, &crate::image::beside(db, "-shm"))?;
    Ok(locks
        .iter()
        .any(|lock| READ_MARKS.contains(lock.bytes.start())))
}

/// `1: POSIX  ADVISORY  READ 1234 fd:01:5678 124 124`; device numbers are left out of it, for some
/// file systems show another one here than `stat` does.
fn parse(table: &str, kinds: &[&str], pid: u32, inode: u64) -> Vec<Lock> {
    let mut locks = Vec::new();
    for line in table.lines().filter(|line| !line.contains("->")) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, class, _, kind, owner, file, from, to] = fields[..] else {
            continue;
        };
        if !kinds.contains(&class) {
            continue;
        }
        let same_file = file.rsplit(':').next() == Some(inode.to_string().as_str());
        // A lock of an open file has no process for an owner.
        let ours = class == "OFDLCK" || owner == pid.to_string();
        if !ours || !same_file {
            continue;
        }
        let Ok(from) = from.parse() else { continue };
        let to = to.parse().unwrap_or(u64::MAX);
        locks.push(Lock {
            kind: kind.into(),
            bytes: from..=to,
        });
    }
    locks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_table_is_understood() {
        let table = "1: POSIX  ADVISORY  READ 77 fd:01:5678 124 124\n\
                     2: POSIX  ADVISORY  READ 78 fd:01:5678 124 124\n\
                     2: -> POSIX  ADVISORY  WRITE 77 fd:01:5678 120 120\n\
                     3: FLOCK  ADVISORY  WRITE 77 fd:01:5678 0 EOF\n";
        assert_eq!(
            parse(table, &["POSIX"], 77, 5678),
            [Lock {
                kind: "READ".into(),
                bytes: 124..=124
            }]
        );
        assert_eq!(parse(table, &["POSIX"], 77, 5679), []);
    }
}
