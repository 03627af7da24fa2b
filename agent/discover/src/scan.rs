//! Finds databases in a volume. What it finds is the truth; everything else is a hint.
//!
//! A pod owns what is scanned here and may have made it to do harm (KUBERNETES.md §6.4). So:
//! every name is resolved beneath the volume, no link and no mount point is followed, only
//! regular files with one link are opened, never a claimed one (L3), 100 bytes are read, and
//! depth, entries, headers and time are bounded (L12). No descriptor outlives a scan.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{self, AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::claims::Claims;
use crate::discover::Limits;
use crate::event::InodeKey;
use crate::header::{self, HEADER_BYTES, Head};
use crate::inventory::{Known, Sighting};
use crate::kubelet::{self, IN_VOLUME};
use crate::policy::Policy;

/// A name in a replica is one path component on NFS, as is a component on any Linux file system.
const COMPONENT_BYTES_MAX: usize = 255;
/// PATH_MAX is 4,096; the replica's root, namespace, app, volume and LTX names need their part.
const PATH_BYTES_MAX: usize = 2_048;
/// How many heads of files are remembered for one volume, at some 60 bytes each.
const HEADS_MAX: usize = 8_192;
/// How long a file must have rested before its status proves that its bytes are those we read:
/// timestamps tick in steps of up to 10 ms, and clocks may differ by more.
const REST: Duration = Duration::from_secs(1);
/// How many refusals of one scan are told.
pub(crate) const REFUSALS_MAX: usize = 64;
/// How often the clock is read while names go by.
const ENTRIES_PER_CLOCK_READ: usize = 64;

/// What lies at one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    /// Nothing.
    Absent,
    /// A directory.
    Directory,
    /// A database, or a claimed inode.
    File(Sighting),
    /// A file that may yet become a database.
    NothingYet,
    /// A file that is something else.
    Foreign,
    /// Something that is never looked into, and why.
    Refused(String),
    /// Something that could not be looked into this time, and why.
    Unreadable(String),
    /// The scan's budget of headers is used up.
    Skipped,
}

/// What one scan saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Databases and claimed files by path in the volume.
    pub(crate) files: BTreeMap<PathBuf, Sighting>,
    /// What is not looked into although it looks wanted, and why.
    pub(crate) refused: BTreeMap<PathBuf, String>,
    /// Directories that were read.
    pub(crate) dirs: BTreeSet<PathBuf>,
    /// Why it ended before everything was seen.
    pub(crate) cut: Option<String>,
}

/// Heads of files read before, by inode.
#[derive(Debug, Default)]
pub(crate) struct Heads {
    read: HashMap<InodeKey, Remembered>,
    /// Counts the scans, so that what was not met in a whole scan can be forgotten.
    round: u32,
}

#[derive(Clone, Copy, Debug)]
struct Remembered {
    bytes: i64,
    changed: (i64, u64),
    head: Head,
    round: u32,
}

/// Everything that a scan of one volume goes by.
#[derive(Debug)]
pub(crate) struct Scanner<'a> {
    /// What the pod asked for.
    pub(crate) policy: &'a Policy,
    /// What must not be opened.
    pub(crate) claims: &'a Claims,
    /// Bounds.
    pub(crate) limits: &'a Limits,
    /// What was read before.
    pub(crate) heads: &'a mut Heads,
    /// How many headers may still be read.
    pub(crate) headers_left: usize,
}

impl Scanner<'_> {
    /// Scans from one directory of the volume downwards. `enter` is called with each directory
    /// before it is read, to be watched from before its names are seen.
    pub(crate) fn walk(
        &mut self,
        volume: &OwnedFd,
        from: &Path,
        enter: &mut dyn FnMut(&Path, BorrowedFd<'_>),
    ) -> Seen {
        let mut walk = Walk {
            seen: Seen::default(),
            queue: VecDeque::from([from.to_owned()]),
            entries_left: self.limits.entries_max,
            deadline: Instant::now() + self.limits.scan_time_max,
        };
        self.heads.round = self.heads.round.wrapping_add(1);
        while let Some(path) = walk.queue.pop_front() {
            match kubelet::open_dir(volume, &path) {
                Ok(dir) => {
                    enter(&path, dir.as_fd());
                    if self.read_dir(&mut walk, &path, &dir).is_break() {
                        break;
                    }
                    walk.seen.dirs.insert(path);
                }
                // Gone meanwhile, exchanged for a link or file, or a mount point.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => {}
                Err(errno) => walk.refuse(path, format!("the directory cannot be read: {errno}")),
            }
        }
        let whole = from.as_os_str().is_empty() && walk.seen.cut.is_none();
        if whole {
            let round = self.heads.round;
            self.heads
                .read
                .retain(|_, remembered| remembered.round == round);
        }
        walk.seen
    }

    /// One directory; breaks off when the walk's budget is used up.
    fn read_dir(
        &mut self,
        walk: &mut Walk,
        path: &Path,
        dir: &OwnedFd,
    ) -> std::ops::ControlFlow<()> {
        let entries = match Dir::read_from(dir) {
            Ok(entries) => entries,
            Err(errno) => {
                walk.refuse(
                    path.to_owned(),
                    format!("the directory cannot be read: {errno}"),
                );
                return std::ops::ControlFlow::Continue(());
            }
        };
        // A failed read ends the listing; what follows is seen by the next scan.
        for entry in entries.map_while(Result::ok) {
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            if walk.is_spent(self.limits) {
                return std::ops::ControlFlow::Break(());
            }
            if is_ours(name) {
                continue;
            }
            let child = path.join(name);
            match entry.file_type() {
                FileType::Directory => walk.descend(child, self.limits),
                _ if is_sidecar(name) || !self.policy.wants(&child) => {}
                FileType::RegularFile | FileType::Unknown => {
                    let sight = self.examine(dir, name, &child);
                    walk.note(self, child, sight);
                }
                _ if self.is_expected(&child) => {
                    let sight = self.examine(dir, name, &child);
                    walk.note(self, child, sight);
                }
                _ => {}
            }
        }
        std::ops::ControlFlow::Continue(())
    }

    /// Looks at one name of a directory.
    pub(crate) fn examine(&mut self, dir: impl AsFd, name: &OsStr, path: &Path) -> Sight {
        let dir = dir.as_fd();
        let stat = match fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT | Errno::NOTDIR) => return Sight::Absent,
            Err(errno) => return Sight::Unreadable(format!("cannot be looked at: {errno}")),
        };
        let inode = key(&stat);
        // First of all: a hard link made to a database under capture must not end its capture.
        if self.claims.is_claimed(inode) {
            return Sight::File(Sighting::Claimed(inode));
        }
        if let Some(sight) = by_type(&stat) {
            return sight;
        }
        if let Err(reason) = fits_replica(path) {
            return Sight::Refused(reason);
        }
        // Not worth a read: SQLite's first write is a whole page.
        if u64::try_from(stat.st_size).is_ok_and(|bytes| bytes < HEADER_BYTES as u64) {
            return Sight::NothingYet;
        }
        if let Some(head) = self.heads.recall(inode, &stat) {
            return sight_of(head, inode);
        }
        if self.headers_left == 0 {
            return Sight::Skipped;
        }
        self.headers_left -= 1;
        self.read_head(dir, name)
    }

    /// Opens and reads, unless the inode is claimed. The inode is pinned by a descriptor that
    /// cannot read before it is judged: closing such a one drops no lock, so what the pod puts
    /// at the name meanwhile does not matter.
    fn read_head(&mut self, dir: BorrowedFd<'_>, name: &OsStr) -> Sight {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let pinned = match fs::openat2(dir, name, flags, Mode::empty(), IN_VOLUME) {
            Ok(pinned) => pinned,
            Err(errno) => return unopened(errno),
        };
        let stat = match fs::fstat(&pinned) {
            Ok(stat) => stat,
            Err(errno) => return unopened(errno),
        };
        if let Some(sight) = by_type(&stat) {
            return sight;
        }
        let inode = key(&stat);
        let Some(pass) = self.claims.pass(inode) else {
            return Sight::File(Sighting::Claimed(inode));
        };
        let read = read_pinned(&pinned);
        drop(pass);
        match read {
            Ok((buffer, bytes)) => {
                let head = header::judge(&buffer[..bytes]);
                self.heads.remember(inode, &stat, head);
                sight_of(head, inode)
            }
            Err(errno) => unopened(errno),
        }
    }

    /// Whether silence about this path would puzzle its owner.
    pub(crate) fn is_expected(&self, path: &Path) -> bool {
        self.policy.names(path) || (looks_like_database(path) && self.policy.wants(path))
    }
}

/// The state of one walk.
struct Walk {
    seen: Seen,
    queue: VecDeque<PathBuf>,
    entries_left: usize,
    deadline: Instant,
}

impl Walk {
    /// Counts one entry.
    fn is_spent(&mut self, limits: &Limits) -> bool {
        if self.entries_left == 0 {
            self.cut(format!(
                "more than {} files and directories: not all were looked at; \
                 keep databases in a volume of their own",
                limits.entries_max
            ));
            return true;
        }
        self.entries_left -= 1;
        let late = self.entries_left.is_multiple_of(ENTRIES_PER_CLOCK_READ)
            && Instant::now() >= self.deadline;
        if late {
            self.cut(format!(
                "the scan took longer than {} ms: not all files were looked at",
                limits.scan_time_max.as_millis()
            ));
        }
        late
    }

    fn descend(&mut self, path: PathBuf, limits: &Limits) {
        if path.components().count() > limits.depth_max {
            self.cut(format!(
                "directories deeper than {} are not looked into",
                limits.depth_max
            ));
        } else {
            self.queue.push_back(path);
        }
    }

    fn note(&mut self, scanner: &Scanner<'_>, path: PathBuf, sight: Sight) {
        match sight {
            Sight::Absent | Sight::NothingYet | Sight::Foreign => {}
            Sight::File(sighting) => {
                self.seen.files.insert(path, sighting);
            }
            Sight::Directory => self.descend(path, scanner.limits),
            Sight::Refused(reason) | Sight::Unreadable(reason) => {
                if scanner.is_expected(&path) {
                    self.refuse(path, reason);
                }
            }
            Sight::Skipped => self.cut(format!(
                "more than {} new files at once: some are looked at later",
                scanner.limits.headers_max
            )),
        }
    }

    fn refuse(&mut self, path: PathBuf, reason: String) {
        if self.seen.refused.len() < REFUSALS_MAX {
            self.seen.refused.insert(path, reason);
        }
    }

    /// The first reason stands.
    fn cut(&mut self, reason: String) {
        self.seen.cut.get_or_insert(reason);
    }
}

impl Heads {
    /// What the file's head said, if it has not changed since.
    fn recall(&mut self, inode: InodeKey, stat: &Stat) -> Option<Head> {
        let remembered = self.read.get_mut(&inode)?;
        if remembered.bytes != stat.st_size || remembered.changed != changed(stat) {
            return None;
        }
        remembered.round = self.round;
        Some(remembered.head)
    }

    /// Remembers a head, if the file's status can tell when it changes.
    fn remember(&mut self, inode: InodeKey, stat: &Stat, head: Head) {
        if !has_rested(stat) {
            self.read.remove(&inode);
            return;
        }
        if self.read.len() >= HEADS_MAX {
            self.read.clear();
        }
        let (bytes, changed, round) = (stat.st_size, changed(stat), self.round);
        self.read.insert(
            inode,
            Remembered {
                bytes,
                changed,
                head,
                round,
            },
        );
    }
}

/// Reads the header through `/proc`, which opens the pinned inode itself.
fn read_pinned(pinned: &OwnedFd) -> Result<([u8; HEADER_BYTES], usize), Errno> {
    let path = format!("/proc/self/fd/{}", pinned.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = fs::openat(CWD, path, flags, Mode::empty())?;
    let mut buffer = [0; HEADER_BYTES];
    let bytes = rustix::io::pread(&file, &mut buffer[..], 0)?;
    Ok((buffer, bytes))
}

/// What the file type alone decides.
fn by_type(stat: &Stat) -> Option<Sight> {
    let reason = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile if stat.st_nlink == 1 => return None,
        FileType::RegularFile if stat.st_nlink == 0 => return Some(Sight::Absent),
        FileType::RegularFile => {
            return Some(Sight::Refused(format!(
                "the file has {} hard links; a database must have one",
                stat.st_nlink
            )));
        }
        FileType::Directory => return Some(Sight::Directory),
        FileType::Symlink => "a symbolic link is not followed; put the database itself here",
        FileType::Fifo => "a FIFO is no database",
        FileType::Socket => "a socket is no database",
        _ => "a device is no database",
    };
    Some(Sight::Refused(reason.to_owned()))
}

/// Why a name could not be opened.
fn unopened(errno: Errno) -> Sight {
    match errno {
        Errno::NOENT | Errno::NOTDIR => Sight::Absent,
        // The name was a file a moment ago.
        Errno::LOOP => Sight::Refused("a symbolic link is not followed".into()),
        Errno::XDEV => Sight::Refused("it lies outside the volume, behind a mount".into()),
        errno => Sight::Unreadable(format!("cannot be read: {errno}")),
    }
}

fn sight_of(head: Head, inode: InodeKey) -> Sight {
    match head {
        Head::NothingYet => Sight::NothingYet,
        Head::NotADatabase => Sight::Foreign,
        Head::Database(kind) => Sight::File(Sighting::Database(Known { kind, inode })),
        Head::UnknownVersion(version) => Sight::Refused(format!(
            "a SQLite file of read version {version}; versions 1 and 2 are known"
        )),
    }
}

fn key(stat: &Stat) -> InodeKey {
    InodeKey {
        dev: stat.st_dev,
        ino: stat.st_ino,
    }
}

/// The change time: unlike the modification time a program cannot set it back.
fn changed(stat: &Stat) -> (i64, u64) {
    (stat.st_ctime, stat.st_ctime_nsec)
}

fn has_rested(stat: &Stat) -> bool {
    let Ok(seconds) = u64::try_from(stat.st_ctime) else {
        return false;
    };
    SystemTime::UNIX_EPOCH
        .checked_add(Duration::from_secs(seconds))
        .and_then(|changed| SystemTime::now().duration_since(changed).ok())
        .is_some_and(|age| age > REST + Duration::from_secs(1))
}

/// Whether the name is our own: what restore stages in a volume.
pub(crate) fn is_ours(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b".sqlrep-")
}

/// SQLite's companions of a database.
const SIDECARS: [&[u8]; 3] = [b"-wal", b"-shm", b"-journal"];

fn is_sidecar(name: &OsStr) -> bool {
    database_of_sidecar(name).is_some()
}

/// The name of the database that a companion belongs to.
pub(crate) fn database_of_sidecar(name: &OsStr) -> Option<OsString> {
    let base = SIDECARS
        .iter()
        .find_map(|suffix| name.as_bytes().strip_suffix(*suffix))?;
    (!base.is_empty()).then(|| OsString::from_vec(base.to_vec()))
}

/// Extensions that say "SQLite" to a reader.
fn looks_like_database(path: &Path) -> bool {
    const EXTENSIONS: [&str; 7] = ["db", "db3", "sqlite", "sqlite3", "sqlitedb", "sdb", "s3db"];
    path.extension().is_some_and(|extension| {
        EXTENSIONS
            .iter()
            .any(|known| extension.eq_ignore_ascii_case(known))
    })
}

/// Whether the replica's layout can hold the path: there each component is percent-encoded.
fn fits_replica(path: &Path) -> Result<(), String> {
    let mut whole = 0;
    for component in path.components() {
        let bytes: usize = component
            .as_os_str()
            .as_bytes()
            .iter()
            .copied()
            .map(encoded_bytes)
            .sum();
        if bytes > COMPONENT_BYTES_MAX {
            return Err(format!(
                "the name takes {bytes} bytes when percent-encoded for the replica, \
                 {COMPONENT_BYTES_MAX} at most; give it a shorter one"
            ));
        }
        whole += bytes + 1;
    }
    if whole > PATH_BYTES_MAX {
        return Err(format!(
            "the path takes {whole} bytes when percent-encoded for the replica, \
             {PATH_BYTES_MAX} at most; give it a shorter one"
        ));
    }
    Ok(())
}

fn encoded_bytes(byte: u8) -> usize {
    let plain =
        byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'+' | b'@' | b'=');
    if plain { 1 } else { 3 }
}

#[cfg(test)]
mod tests;
