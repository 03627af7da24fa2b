//! What SQLite may open: a file that is none is refused, and never waited for.

use std::ffi::{c_char, c_int};

use rusqlite::ffi as sqlite;

type Open = unsafe extern "C" fn(*const c_char, c_int, c_int) -> c_int;
type SystemCall = unsafe extern "C" fn();

/// Has SQLite open files by [`open`] from now on, in the whole process. `false`: it opens them as
/// ever.
///
/// A pod may put a FIFO where a `-wal` was a moment ago: SQLite's own `open` waits for somebody to
/// write to it, for ever (L13).
pub(super) fn guard() -> bool {
    // SAFETY: a null name asks for the default VFS.
    let vfs = unsafe { sqlite::sqlite3_vfs_find(std::ptr::null()) };
    // SAFETY: it is null or lives as long as the process, and nobody changes it.
    let Some(set) = (unsafe { vfs.as_ref() }).and_then(|vfs| vfs.xSetSystemCall) else {
        return false;
    };
    // SAFETY: a pointer to a function as one to another function; SQLite calls it as what it is,
    // `int(const char*, int, int)` ("open" in the table of os_unix.c, `sqlite3_vfs.xSetSystemCall`).
    let call = unsafe { std::mem::transmute::<Open, SystemCall>(open) };
    // SAFETY: the VFS is the one that this method belongs to; the name is a C string.
    let code = unsafe { set(vfs, c"open".as_ptr(), Some(call)) };
    code == sqlite::SQLITE_OK
}

/// `open(2)` for regular files and directories.
unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: c_int) -> c_int {
    let flags = flags | libc::O_NONBLOCK | libc::O_NOCTTY;
    // SAFETY: SQLite gives a path that ends with a zero, as to the `open` that this stands for.
    let file = unsafe { libc::open(path, flags, mode) };
    if file < 0 || is_file(file) {
        return file;
    }
    // SAFETY: the descriptor is the one that was just opened, and nobody else's.
    unsafe { libc::close(file) };
    // SAFETY: takes nothing.
    let error = unsafe { libc::__errno_location() };
    // SAFETY: the place of this thread's error number is always valid.
    unsafe { error.write(libc::EINVAL) };
    -1
}

fn is_file(descriptor: c_int) -> bool {
    // SAFETY: all zeroes are a valid `stat`.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open, and `stat` lives through the call.
    let known = unsafe { libc::fstat(descriptor, &raw mut stat) } == 0;
    known && matches!(stat.st_mode & libc::S_IFMT, libc::S_IFREG | libc::S_IFDIR)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use rustix::fs::{CWD, FileType, Mode};

    #[test]
    fn a_fifo_is_refused_and_not_waited_for() {
        crate::init().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo.db");
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
        let (fifo, read_only) = (path.clone(), rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY);
        let opening = std::thread::spawn(move || {
            rusqlite::Connection::open_with_flags(&fifo, read_only).is_ok()
        });
        let end = Instant::now() + Duration::from_secs(20);
        while !opening.is_finished() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        let waits = !opening.is_finished();
        if waits {
            drop(std::fs::File::options().write(true).open(&path)); // ends the wait
        }
        assert!(!opening.join().unwrap(), "a FIFO was opened as a database");
        assert!(!waits, "SQLite waited for somebody to write to a FIFO");
    }

    #[test]
    fn databases_are_opened_as_ever() {
        crate::init().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let open = || rusqlite::Connection::open(dir.path().join("a.db")).unwrap();
        open()
            .execute_batch("PRAGMA journal_mode=wal; CREATE TABLE t(x); INSERT INTO t VALUES(7)")
            .unwrap();
        let x: i64 = open()
            .query_row("SELECT x FROM t", [], |row| row.get(0))
            .unwrap();
        assert_eq!(x, 7);
    }
}
