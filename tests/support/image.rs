//! Database images: what a live database really holds, and whether two are the same.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rusqlite::{Connection, OpenFlags};
use tempfile::TempDir;

/// Bytes of page 1 that two true copies may differ in: the change counter, and the pair that says
/// which counter the stored size is valid for (<https://www.sqlite.org/fileformat.html#the_database_header>).
const COUNTERS: [std::ops::Range<usize>; 2] = [24..28, 92..100];

/// The image of a live database whose writers stand still: the file with its WAL put in, or its
/// hot journal played back, by SQLite itself, on a copy.
pub fn settled(db: &Path) -> Result<Vec<u8>> {
    let dir = TempDir::new()?;
    let copy = dir.path().join("copy.db");
    // In this order: a checkpoint in between only moves what the WAL still holds.
    fs::copy(db, &copy).with_context(|| format!("copy {}", db.display()))?;
    for end in ["-wal", "-journal"] {
        let from = beside(db, end);
        match fs::copy(&from, beside(&copy, end)) {
            Ok(_) => {}
            Err(err) if err.kind() == ErrorKind::NotFound => {}
            Err(err) => return Err(err).with_context(|| format!("copy {}", from.display())),
        }
    }
    let connection = Connection::open(&copy)?;
    // The first read plays a hot journal back.
    connection.query_row("SELECT count(*) FROM sqlite_master", [], |_| Ok(()))?;
    let busy: i64 =
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    ensure!(busy == 0, "a copy that nobody else has open is busy");
    drop(connection);
    Ok(fs::read(&copy)?)
}

/// `<db>-wal` and the like.
pub fn beside(db: &Path, end: &str) -> PathBuf {
    let mut name = db.as_os_str().to_os_string();
    name.push(end);
    name.into()
}

/// Fails, with the first page that differs, unless both images are equal outside the counters.
pub fn same(what: &str, left: &[u8], right: &[u8]) -> Result<()> {
    let page_size = page_size(left).context(what.to_string())?;
    ensure!(
        left.len() == right.len(),
        "{what}: {} bytes and {} bytes",
        left.len(),
        right.len()
    );
    let counted = |at: usize| COUNTERS.iter().any(|range| range.contains(&at));
    let differs = left.iter().zip(right).enumerate();
    let differs: Vec<usize> = differs
        .filter(|(at, (a, b))| a != b && !counted(*at))
        .map(|(at, _)| at / page_size + 1)
        .collect();
    if let Some(first) = differs.first() {
        let mut pages = differs.clone();
        pages.dedup();
        bail!(
            "{what}: page {first} and {} more differ: {pages:.10?}",
            pages.len() - 1
        );
    }
    Ok(())
}

/// The same for files.
pub fn same_files(what: &str, left: &Path, right: &Path) -> Result<()> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("read {}", path.display()));
    same(what, &read(left)?, &read(right)?)
}

/// The page size in an image's header.
pub fn page_size(image: &[u8]) -> Result<usize> {
    ensure!(
        image.starts_with(b"SQLite format 3\0") && image.len() >= 100,
        "no SQLite header"
    );
    let size = u16::from_be_bytes([image[16], image[17]]);
    Ok(if size == 1 { 65536 } else { usize::from(size) })
}

/// `PRAGMA integrity_check` on a file that nobody writes; nothing is left beside it.
pub fn integrity(db: &Path) -> Result<()> {
    let uri = format!("file:{}?immutable=1", db.display());
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(uri, flags)?;
    let said: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    ensure!(said == "ok", "{}: integrity_check: {said}", db.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(dir: &Path) -> Vec<u8> {
        let db = dir.join("a.db");
        let connection = Connection::open(&db).unwrap();
        connection
            .execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES (zeroblob(9000))")
            .unwrap();
        drop(connection);
        fs::read(db).unwrap()
    }

    #[test]
    fn only_the_counters_may_differ() {
        let dir = TempDir::new().unwrap();
        let left = image(dir.path());
        let mut right = left.clone();
        right[24] ^= 1;
        right[99] ^= 1;
        same("counters", &left, &right).unwrap();
        right[28] ^= 1;
        assert!(same("the size in the header", &left, &right).is_err());
        let mut right = left.clone();
        *right.last_mut().unwrap() ^= 1;
        let err = same("the last byte", &left, &right)
            .unwrap_err()
            .to_string();
        assert!(
            err.contains(&format!("page {}", left.len() / 4096)),
            "{err}"
        );
        assert!(same("a page less", &left, &left[..left.len() - 4096]).is_err());
    }

    #[test]
    fn a_settled_image_holds_what_only_the_wal_holds() {
        let dir = TempDir::new().unwrap();
        let db = dir.path().join("a.db");
        let connection = Connection::open(&db).unwrap();
        let sql = "PRAGMA journal_mode = WAL; CREATE TABLE t (x); INSERT INTO t VALUES (7)";
        connection.execute_batch(sql).unwrap();
        assert_eq!(
            fs::metadata(&db).unwrap().len(),
            4096,
            "the table is in the WAL only"
        );
        let whole = settled(&db).unwrap();
        assert_eq!(whole.len(), 8192);
        assert_eq!(
            fs::metadata(&db).unwrap().len(),
            4096,
            "the source is left alone"
        );
    }

    #[test]
    fn damage_is_seen() {
        let dir = TempDir::new().unwrap();
        let mut bytes = image(dir.path());
        let db = dir.path().join("b.db");
        fs::write(&db, &bytes).unwrap();
        integrity(&db).unwrap();
        bytes[4096] = 0x77;
        fs::write(&db, &bytes).unwrap();
        assert!(integrity(&db).is_err());
    }
}
