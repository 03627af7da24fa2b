//! Crash points and faults, for the tests of this crate and of those above it (feature `testing`).
//!
//! [`CrashFs`] does what it is asked on a real directory, counts the steps, and remembers what a
//! power loss would leave: the content of a file as of its last fsync, the names in a directory as
//! of that directory's last fsync. A test runs an operation, stops it at each step in turn,
//! writes out what is left, and looks whether that is a valid replica.

pub mod chain;
pub mod faulty;
pub mod hang;
pub mod peer;

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use sqlrep_format::Timestamp;

use crate::durable::{Dir, Fs, OsFs};
use hang::Hang;

/// A directory for a test whose fsyncs prove nothing (the real ones do so in `durable::tests`), and
/// of which there are thousands: in memory where there is such a place.
#[cfg(test)]
pub(crate) fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("tests can write")
}

/// What a crash takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The process died: all that was written is there.
    Process,
    /// The power failed after the file system had written all names, but only half of each file
    /// that was not fsynced.
    Data,
    /// The power failed, and only what was fsynced is there.
    All,
}

impl Loss {
    /// Every kind.
    pub const EACH: [Self; 3] = [Self::Process, Self::Data, Self::All];
}

/// When a step fails.
#[derive(Clone, Debug)]
enum Fault {
    /// From this step on nothing happens any more.
    Crash(u64),
    /// The step of this number does not answer until it is let go.
    Hang(u64),
    /// The step of this number fails, once.
    Step {
        number: u64,
        errno: Errno,
        done: bool,
    },
    /// Every step of this name fails.
    Always { step: &'static str, errno: Errno },
    /// The n-th step of this name fails, once; `done`: after it was done, as when a reply is lost.
    Error {
        step: &'static str,
        nth: u64,
        errno: Errno,
        done: bool,
    },
}

/// A file system that stops, fails and forgets on demand.
#[derive(Debug)]
pub struct CrashFs {
    root: PathBuf,
    state: Mutex<State>,
    hang: Hang,
}

#[derive(Debug, Default)]
struct State {
    fault: Option<Fault>,
    fired: bool,
    log: Vec<&'static str>,
    /// Content as of the last fsync, by inode.
    content: HashMap<u64, Vec<u8>>,
    /// Names as of the last fsync, by the directory's inode.
    names: HashMap<u64, BTreeMap<OsString, u64>>,
    /// Times set, which the file system's journal keeps in order with the names.
    times: HashMap<u64, Timestamp>,
    /// Every file that was created: an open file's inode number is not used again.
    held: Vec<File>,
}

impl CrashFs {
    /// Over a directory whose present content is durable.
    pub fn new(root: &Path) -> io::Result<Self> {
        let mut state = State::default();
        remember_tree(root, &mut state)?;
        Ok(Self {
            root: root.to_owned(),
            state: Mutex::new(state),
            hang: Hang::default(),
        })
    }

    /// The step of this number (from 0) does not answer until [`Hang::release`].
    pub fn hang_at(&self, step: u64) -> &Hang {
        self.state().fault = Some(Fault::Hang(step));
        &self.hang
    }

    /// From the step with this number on (from 0), nothing is done and everything fails.
    pub fn crash_at(&self, step: u64) {
        self.state().fault = Some(Fault::Crash(step));
    }

    /// Lets the step of this number (from 0), whatever it is, fail once. With `done` it is done all the
    /// same.
    pub fn fail_step(&self, number: u64, errno: i32, done: bool) {
        let errno = Errno::from_raw_os_error(errno);
        self.state().fault = Some(Fault::Step {
            number,
            errno,
            done,
        });
    }

    /// Lets the n-th step (from 0) of a name fail once: `make_dir`, `create`, `fsync`,
    /// `set_modified`, `link`, `link_into`, `links`, `rename`, `rename_new`, `move_dir`, `unlink`, `remove_dir`,
    /// `fsync_dir` or `now_at`. With `done` it is done all the same.
    pub fn fail(&self, step: &'static str, nth: u64, errno: i32, done: bool) {
        let errno = Errno::from_raw_os_error(errno);
        self.state().fault = Some(Fault::Error {
            step,
            nth,
            errno,
            done,
        });
    }

    /// Lets every step of a name fail.
    pub fn fail_always(&self, step: &'static str, errno: i32) {
        let errno = Errno::from_raw_os_error(errno);
        self.state().fault = Some(Fault::Always { step, errno });
    }

    /// Whether the fault happened. A test of faults that never happen proves nothing.
    pub fn fired(&self) -> bool {
        self.state().fired
    }

    /// The steps so far, those that failed included.
    pub fn log(&self) -> Vec<&'static str> {
        self.state().log.clone()
    }

    /// Writes what a crash would leave to another, empty directory.
    pub fn after_crash(&self, loss: Loss, into: &Path) -> io::Result<()> {
        let state = self.state();
        let root = fs::metadata(&self.root)?.ino();
        let mut present = HashMap::new();
        present_inodes(&self.root, &mut present)?;
        state.write_out(root, loss, &self.root, into, &present)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a step, and lets it fail when its turn has come.
    fn step<T>(&self, name: &'static str, run: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let (number, nth) = {
            let mut state = self.state();
            let nth = state.log.iter().filter(|step| **step == name).count() as u64;
            state.log.push(name);
            (state.log.len() as u64 - 1, nth)
        };
        let fault = self.state().fault.clone();
        match fault {
            Some(Fault::Crash(at)) if number >= at => {
                self.state().fired = true;
                Err(Errno::IO.into())
            }
            Some(Fault::Hang(at)) if number == at => {
                self.state().fired = true;
                self.hang.wait();
                run()
            }
            Some(Fault::Step {
                number: wanted,
                errno,
                done,
            }) if number == wanted => {
                self.state().fired = true;
                if done {
                    run()?;
                }
                Err(errno.into())
            }
            Some(Fault::Always { step, errno }) if step == name => {
                self.state().fired = true;
                Err(errno.into())
            }
            Some(Fault::Error {
                step,
                nth: wanted,
                errno,
                done,
            }) if step == name && nth == wanted => {
                self.state().fired = true;
                if done {
                    run()?;
                }
                Err(errno.into())
            }
            _ => run(),
        }
    }
}

impl State {
    fn write_out(
        &self,
        dir: u64,
        loss: Loss,
        from: &Path,
        into: &Path,
        present: &HashMap<u64, PathBuf>,
    ) -> io::Result<()> {
        let names = match loss {
            Loss::All => self.names.get(&dir).cloned().unwrap_or_default(),
            Loss::Process | Loss::Data => read_names(from)?,
        };
        for (name, inode) in names {
            let Some(path) = present.get(&inode) else {
                // Unlinked since, but the unlink was never made durable: the file is still there.
                self.write_file(inode, loss, None, &into.join(name))?;
                continue;
            };
            if path.is_dir() {
                fs::create_dir(into.join(&name))?;
                self.write_out(inode, loss, path, &into.join(&name), present)?;
            } else {
                self.write_file(inode, loss, Some(path), &into.join(name))?;
            }
        }
        Ok(())
    }

    fn write_file(&self, inode: u64, loss: Loss, now: Option<&Path>, to: &Path) -> io::Result<()> {
        let fsynced = self.content.get(&inode).cloned();
        let bytes = match (loss, now, fsynced) {
            (Loss::Process, Some(now), _) => fs::read(now)?,
            (_, _, Some(fsynced)) => fsynced,
            (_, Some(now), None) => {
                let bytes = fs::read(now)?;
                bytes.get(..bytes.len() / 2).unwrap_or_default().to_vec()
            }
            (_, None, None) => Vec::new(),
        };
        fs::write(to, bytes)?;
        if let Some(time) = self.times.get(&inode) {
            set_time(to, *time)?;
        }
        Ok(())
    }
}

impl Fs for CrashFs {
    fn make_dir(&self, dir: &Dir, name: &OsStr) -> io::Result<()> {
        self.step("make_dir", || OsFs.make_dir(dir, name))
    }

    fn create(&self, dir: &Dir, name: &OsStr, mode: u32) -> io::Result<File> {
        let file = self.step("create", || OsFs.create(dir, name, mode))?;
        self.state().held.push(file.try_clone()?);
        Ok(file)
    }

    fn fsync(&self, dir: &Dir, name: &OsStr, file: &File) -> io::Result<()> {
        self.step("fsync", || {
            let bytes = fs::read(dir.path().join(name))?;
            let inode = file.metadata()?.ino();
            self.state().content.insert(inode, bytes);
            Ok(())
        })
    }

    fn set_modified(&self, dir: &Dir, name: &OsStr, file: &File, to: Timestamp) -> io::Result<()> {
        self.step("set_modified", || {
            OsFs.set_modified(dir, name, file, to)?;
            let inode = file.metadata()?.ino();
            self.state().times.insert(inode, to);
            Ok(())
        })
    }

    fn link(&self, dir: &Dir, from: &OsStr, to: &OsStr) -> io::Result<()> {
        self.step("link", || OsFs.link(dir, from, to))
    }

    fn link_into(&self, from: &Dir, name: &OsStr, to: &Dir) -> io::Result<()> {
        self.step("link_into", || OsFs.link_into(from, name, to))
    }

    fn links(&self, dir: &Dir, name: &OsStr) -> io::Result<u64> {
        self.step("links", || OsFs.links(dir, name))
    }

    fn rename(&self, dir: &Dir, from: &OsStr, to: &OsStr) -> io::Result<()> {
        self.step("rename", || OsFs.rename(dir, from, to))
    }

    fn rename_new(&self, dir: &Dir, from: &OsStr, to: &OsStr) -> io::Result<()> {
        self.step("rename_new", || OsFs.rename_new(dir, from, to))
    }

    fn move_dir(&self, from: &Dir, name: &OsStr, to: &Dir, new: &OsStr) -> io::Result<()> {
        self.step("move_dir", || OsFs.move_dir(from, name, to, new))
    }

    fn unlink(&self, dir: &Dir, name: &OsStr) -> io::Result<()> {
        self.step("unlink", || OsFs.unlink(dir, name))
    }

    fn remove_dir(&self, dir: &Dir, name: &OsStr) -> io::Result<()> {
        self.step("remove_dir", || OsFs.remove_dir(dir, name))
    }

    fn fsync_dir(&self, dir: &Dir) -> io::Result<()> {
        self.step("fsync_dir", || {
            let names = read_names(dir.path())?;
            let inode = fs::metadata(dir.path())?.ino();
            self.state().names.insert(inode, names);
            Ok(())
        })
    }

    fn now_at(&self, dir: &Dir) -> io::Result<Timestamp> {
        self.step("now_at", || OsFs.now_at(dir))
    }
}

fn read_names(dir: &Path) -> io::Result<BTreeMap<OsString, u64>> {
    let mut names = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        match entry.metadata() {
            Ok(facts) => drop(names.insert(entry.file_name(), facts.ino())),
            // Above the directory of this test others come and go.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(names)
}

/// What is there before the test is durable.
fn remember_tree(dir: &Path, state: &mut State) -> io::Result<()> {
    let names = read_names(dir)?;
    for (name, inode) in &names {
        let path = dir.join(name);
        if path.is_dir() {
            remember_tree(&path, state)?;
        } else {
            state.content.insert(*inode, fs::read(&path)?);
            state.held.push(File::open(&path)?);
            let time = fs::metadata(&path)?;
            let millis = time.mtime() * 1000 + time.mtime_nsec() / 1_000_000;
            state.times.insert(*inode, Timestamp::from_millis(millis));
        }
    }
    state.names.insert(fs::metadata(dir)?.ino(), names);
    Ok(())
}

fn present_inodes(dir: &Path, into: &mut HashMap<u64, PathBuf>) -> io::Result<()> {
    for (name, inode) in read_names(dir)? {
        let path = dir.join(name);
        if path.is_dir() {
            present_inodes(&path, into)?;
        }
        into.insert(inode, path);
    }
    Ok(())
}

fn set_time(path: &Path, time: Timestamp) -> io::Result<()> {
    let parent = Dir::open(path.parent().unwrap_or(Path::new(".")))?;
    let file = File::options().write(true).open(path)?;
    OsFs.set_modified(&parent, path.file_name().unwrap_or_default(), &file, time)
}
