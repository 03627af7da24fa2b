//! The one place with `unsafe`: SQLite's process-wide settings, open file description locks, the
//! file system identity of a thread, and what a process may ask of the kernel.

#![expect(
    unsafe_code,
    reason = "each call is one C function, with its contract stated beside it"
)]

mod filter;
mod opening;
mod waiting;

use std::ffi::c_int;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

use rusqlite::{Connection, ffi as sqlite};

pub(crate) use filter::only_compute;
pub(crate) use waiting::lock_within;

/// What is asked of a byte range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lock {
    /// Nobody may hold it exclusively.
    Shared,
    /// Let go of it.
    Release,
}

/// A range of lock bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bytes {
    pub(crate) start: i64,
    pub(crate) len: i64,
}

/// Locks or releases bytes for the open file behind `file` (not for the process): such a lock is
/// not dropped when some other descriptor of the file is closed, and conflicts with the POSIX
/// locks of SQLite in this process as in any other. `false`: somebody holds it exclusively.
pub(crate) fn lock(file: &File, bytes: Bytes, lock: Lock) -> io::Result<bool> {
    let kind = match lock {
        Lock::Shared => libc::F_RDLCK,
        Lock::Release => libc::F_UNLCK,
    };
    let request = flock(kind, bytes);
    // SAFETY: `request` lives through the call, the descriptor is open as `file` is borrowed, and
    // F_OFD_SETLK reads the structure only.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const request) };
    if result == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        _ => Err(error),
    }
}

/// Whether somebody else holds any of the bytes exclusively.
pub(crate) fn is_locked(file: &File, bytes: Bytes) -> io::Result<bool> {
    Ok(exclusive_holder(file, bytes)?.is_some())
}

/// Whether somebody else holds any of the bytes, exclusively or with others.
pub(crate) fn is_taken(file: &File, bytes: Bytes) -> io::Result<bool> {
    Ok(holder(file, bytes, libc::F_WRLCK)?.is_some())
}

/// The process that holds any of the bytes exclusively; -1 when it is a lock of an open file, which
/// is no process's own (`fcntl(2)`, `F_GETLK`).
pub(crate) fn exclusive_holder(file: &File, bytes: Bytes) -> io::Result<Option<libc::pid_t>> {
    holder(file, bytes, libc::F_RDLCK)
}

/// The process that keeps us from a lock of this kind, which is not taken.
fn holder(file: &File, bytes: Bytes, kind: c_int) -> io::Result<Option<libc::pid_t>> {
    let mut request = flock(kind, bytes);
    // SAFETY: `request` lives through the call, which writes a valid structure into it; the
    // descriptor is open as `file` is borrowed.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut request) };
    if result == 0 {
        let held = c_int::from(request.l_type) != libc::F_UNLCK;
        Ok(held.then_some(request.l_pid))
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The structure of `fcntl` locks; `l_pid` must be 0 for locks of open files.
fn flock(kind: c_int, bytes: Bytes) -> libc::flock {
    libc::flock {
        l_type: libc::c_short::try_from(kind).expect("lock kinds are 0, 1 and 2"),
        l_whence: 0, // SEEK_SET
        l_start: bytes.start,
        l_len: bytes.len,
        l_pid: 0,
    }
}

/// Has the system begin to write a part of a file out, and does not wait for that. Unlike the advice
/// that the part is not needed it drops nothing from memory; and a write that fails is told of at the
/// next fsync of whoever has the file open, as it would have been (`sync_file_range(2)`).
pub(crate) fn begin_write_out(file: &File, part: Range<u64>) -> io::Result<()> {
    let offset = |at: u64| libc::off64_t::try_from(at).map_err(io::Error::other);
    let (from, bytes) = (offset(part.start)?, offset(part.end - part.start)?);
    // SAFETY: the descriptor is open as `file` is borrowed, and no memory of ours is touched.
    let result = unsafe {
        libc::sync_file_range(file.as_raw_fd(), from, bytes, libc::SYNC_FILE_RANGE_WRITE)
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets the user and group by which this thread's file accesses are judged, and by which its new
/// files are owned. Gives back those that held before.
pub(crate) fn set_file_identity(uid: u32, gid: u32) -> (u32, u32) {
    // The group first: once the user is not root any more, the group could not be changed.
    // SAFETY: setfsgid changes credentials of this thread only and touches no memory of ours.
    let old_gid = unsafe { libc::setfsgid(gid) };
    // SAFETY: as above.
    let old_uid = unsafe { libc::setfsuid(uid) };
    (old_uid.cast_unsigned(), old_gid.cast_unsigned())
}

/// Like [`set_file_identity`], for the way back: the user first, for only root may change groups.
pub(crate) fn restore_file_identity(uid: u32, gid: u32) {
    // SAFETY: setfsuid changes credentials of this thread only and touches no memory of ours.
    unsafe { libc::setfsuid(uid) };
    // SAFETY: as above.
    unsafe { libc::setfsgid(gid) };
}

/// Gives this thread a root and working directory of its own.
pub(crate) fn unshare_root() -> io::Result<()> {
    // SAFETY: only CLONE_FS is unshared; descriptors stay shared between the threads.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) }?;
    Ok(())
}

/// Closes every descriptor but standard input, output and error. Only at the start of a process,
/// before anything in it believes to have one.
pub(crate) fn close_inherited() -> io::Result<()> {
    // SAFETY: the call touches no memory; nothing in this process owns a descriptor yet.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) };
    if closed == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Makes SQLite lean: no page cache set aside per connection, no statistics, no lookaside.
/// `false`: SQLite was in use already and kept its settings.
pub(crate) fn configure_sqlite() -> bool {
    let none = std::ptr::null_mut::<std::ffi::c_void>();
    // SAFETY: SQLITE_CONFIG_PAGECACHE takes a pointer and two ints; null means no memory of ours.
    let cache = unsafe {
        sqlite::sqlite3_config(
            sqlite::SQLITE_CONFIG_PAGECACHE,
            none,
            0 as c_int,
            0 as c_int,
        )
    };
    // SAFETY: SQLITE_CONFIG_MEMSTATUS takes one int.
    let status = unsafe { sqlite::sqlite3_config(sqlite::SQLITE_CONFIG_MEMSTATUS, 0 as c_int) };
    // SAFETY: SQLITE_CONFIG_LOOKASIDE takes two ints.
    let lookaside =
        unsafe { sqlite::sqlite3_config(sqlite::SQLITE_CONFIG_LOOKASIDE, 0 as c_int, 0 as c_int) };
    let mut seed = 0_u8;
    // SAFETY: one byte is written to `seed`, which lives through the call. It makes SQLite read
    // its random seed now, while this thread still sees the system's root directory.
    unsafe { sqlite::sqlite3_randomness(1, (&raw mut seed).cast()) };
    // After that: the seed comes from a device.
    if !opening::guard() {
        tracing::warn!("SQLite opens what is no file, and may wait for it");
    }
    [cache, status, lookaside]
        .iter()
        .all(|code| *code == sqlite::SQLITE_OK)
}

/// Makes glibc's allocator lean: without this each of many threads gets an arena of its own, of
/// which every one keeps its largest past. Two are enough for threads that mostly sleep. Other C
/// libraries have no such arenas.
pub(crate) fn configure_allocator() {
    #[cfg(target_env = "gnu")]
    {
        const ARENAS: c_int = 2;
        // SAFETY: M_ARENA_MAX takes an int; the call changes only how later arenas are made.
        let set = unsafe { libc::mallopt(libc::M_ARENA_MAX, ARENAS) };
        if set == 0 {
            tracing::debug!("the allocator keeps its arenas: the agent takes more memory");
        }
    }
}

/// Gives freed memory back to the system. Takes the allocator's locks for about a millisecond.
pub(crate) fn trim_allocator() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer; it only returns pages that no allocation uses.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Lets go of the pages of a mapping of the program's file that nobody wrote to.
pub(crate) fn let_go_of_code(range: &Range<usize>) {
    let from = std::ptr::without_provenance_mut(range.start);
    // SAFETY: the range is a private mapping of a file, and unwritten: whoever touches a page of it
    // next gets the same bytes from the file. Nothing is read or written through the pointer.
    let done = unsafe { libc::madvise(from, range.len(), libc::MADV_DONTNEED) };
    if done != 0 {
        tracing::debug!("the program's code stays in memory");
    }
}

/// Runs a passive checkpoint of the main database. Gives the frames in the WAL and those of them
/// that are in the database file. Unlike `PRAGMA wal_checkpoint` it does not parse the schema.
pub(crate) fn checkpoint(connection: &Connection) -> rusqlite::Result<(c_int, c_int)> {
    let (mut log, mut done) = (0, 0);
    // SAFETY: the handle is used for this call only, during which the connection is borrowed.
    let handle = unsafe { connection.handle() };
    // SAFETY: the name is a C string, and both results live through the call.
    let code = unsafe {
        sqlite::sqlite3_wal_checkpoint_v2(
            handle,
            c"main".as_ptr(),
            sqlite::SQLITE_CHECKPOINT_PASSIVE,
            &raw mut log,
            &raw mut done,
        )
    };
    if code == sqlite::SQLITE_OK {
        Ok((log, done))
    } else {
        Err(rusqlite::Error::SqliteFailure(
            sqlite::Error::new(code),
            None,
        ))
    }
}
