//! The app of `sqlrep-agent demo`: an ordinary program that uses SQLite in an ordinary way.
//!
//! It knows nothing of replication, and runs in a process of its own (L3).

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, OpenFlags};
use sqlrep_format::Crc64;

/// How long the app waits for a lock, like Python's sqlite3 does.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// What a database holds: two are equal when their digests are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    /// Rows in the table of notes.
    pub rows: u64,
    /// CRC-64 over all rows in the order of their ids.
    pub hash: u64,
}

/// Writes one row per transaction until told to stop; gives the number of rows in the table.
pub fn write(path: &Path, rows_per_second: u32, stop: &AtomicBool) -> rusqlite::Result<u64> {
    let app = Connection::open(path)?;
    app.busy_timeout(BUSY_TIMEOUT)?;
    app.pragma_update(None, "journal_mode", "wal")?;
    app.execute_batch(
        "CREATE TABLE IF NOT EXISTS notes(id INTEGER PRIMARY KEY, at TEXT, body TEXT);
         CREATE INDEX IF NOT EXISTS notes_at ON notes(at);",
    )?;
    let pause = Duration::from_secs(1) / rows_per_second.max(1);
    while !stop.load(Ordering::Relaxed) {
        let since = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        app.execute(
            "INSERT INTO notes(at, body) VALUES (?1, 'note ' || hex(randomblob(40)))",
            [format!("{}.{:06}", since.as_secs(), since.subsec_micros())],
        )?;
        std::thread::sleep(pause);
    }
    let rows: i64 = app.query_row("SELECT count(*) FROM notes", [], |row| row.get(0))?;
    Ok(rows.unsigned_abs())
}

/// Reads all rows of a database that nobody else has open.
pub fn digest(path: &Path) -> rusqlite::Result<Digest> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let reader = Connection::open_with_flags(path, flags)?;
    let mut rows = reader.prepare("SELECT id, at, body FROM notes ORDER BY id")?;
    let (mut digest, mut crc) = (Digest { rows: 0, hash: 0 }, Crc64::new());
    let mut cursor = rows.query([])?;
    while let Some(row) = cursor.next()? {
        let (id, at, body): (i64, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        crc.update(&id.to_be_bytes());
        crc.update(at.as_bytes());
        crc.update(body.as_bytes());
        digest.rows += 1;
    }
    digest.hash = crc.value();
    Ok(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_tell_one_row_from_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.db");
        let stop = AtomicBool::new(true);
        assert_eq!(write(&path, 100, &stop).unwrap(), 0);
        let app = Connection::open(&path).unwrap();
        app.execute("INSERT INTO notes(at, body) VALUES ('1', 'a')", [])
            .unwrap();
        let one = digest(&path).unwrap();
        app.execute("UPDATE notes SET body = 'b'", []).unwrap();
        let two = digest(&path).unwrap();
        assert_eq!((one.rows, two.rows), (1, 1));
        assert_ne!(one.hash, two.hash);
    }
}
