//! A store whose reads go wrong on demand.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use sqlrep_format::ltx::Level;
use sqlrep_format::{Timestamp, TxidRange};

use super::hang::Hang;
use crate::{DirStore, Listing, Put, ReplicaFile, Store, StoreError};

/// What goes wrong with one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// It fails with this error number.
    Errno(i32),
    /// An opened file ends in the middle; a read in the middle of one ends in its own.
    Short,
    /// An opened file, or what one read of it gives, has a byte that is not its own.
    Flipped,
    /// A listing is older than the newest file of each level.
    Stale,
    /// It does not answer until it is let go.
    Hang,
}

/// A [`DirStore`] of which one call goes wrong.
#[derive(Debug)]
pub struct FaultyStore {
    store: DirStore,
    state: Mutex<State>,
    hang: Hang,
}

#[derive(Debug, Default)]
struct State {
    calls: Vec<&'static str>,
    fault: Option<(usize, Wrong)>,
    fired: bool,
}

impl FaultyStore {
    /// Nothing goes wrong yet.
    pub fn new(store: DirStore) -> Self {
        Self {
            store,
            state: Mutex::default(),
            hang: Hang::default(),
        }
    }

    /// The call of this number, from 0, goes wrong.
    pub fn fail(&self, call: usize, wrong: Wrong) {
        self.state().fault = Some((call, wrong));
    }

    /// The call of this number, from 0, does not answer until [`Hang::release`].
    pub fn hang_at(&self, call: usize) -> &Hang {
        self.fail(call, Wrong::Hang);
        &self.hang
    }

    /// The calls so far.
    pub fn calls(&self) -> Vec<&'static str> {
        self.state().calls.clone()
    }

    /// Whether it happened. A fault that does not fit its call does not.
    pub fn fired(&self) -> bool {
        self.state().fired
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What goes wrong with this call.
    fn call(&self, name: &'static str) -> Option<Wrong> {
        let mut state = self.state();
        let number = state.calls.len();
        state.calls.push(name);
        let wrong = state.fault.filter(|(call, _)| *call == number);
        let wrong = wrong.map(|(_, wrong)| wrong);
        let fits = match wrong {
            Some(Wrong::Errno(_) | Wrong::Hang) => true,
            Some(Wrong::Short | Wrong::Flipped) => name == "open" || name == "read",
            Some(Wrong::Stale) => name.starts_with("list") || name == "ranges",
            None => false,
        };
        state.fired |= fits;
        drop(state);
        if wrong == Some(Wrong::Hang) {
            self.hang.wait();
            return None;
        }
        wrong.filter(|_| fits)
    }

    fn refused(&self, action: &'static str, wrong: Option<Wrong>) -> Result<(), StoreError> {
        match wrong {
            Some(Wrong::Errno(errno)) => {
                let error = io::Error::from_raw_os_error(errno);
                Err(StoreError::io(action, self.dir())(error))
            }
            _ => Ok(()),
        }
    }
}

/// Without the newest of each level.
fn stale(listing: &Listing) -> Listing {
    let newest = Level::all().filter_map(|level| listing.level(level).next_back());
    newest.fold(listing.clone(), |listing, file| listing.without(file))
}

fn spoiled(mut file: File, wrong: Wrong) -> io::Result<File> {
    use std::io::{Read as _, Seek as _};
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let middle = bytes.len() / 2;
    match wrong {
        Wrong::Short => bytes.truncate(middle),
        _ => {
            if let Some(byte) = bytes.get_mut(middle) {
                *byte ^= 0x10;
            }
        }
    }
    // No name: it is gone with its descriptor.
    let path = std::env::temp_dir().join(format!(".sqlrep-faulty-{:016x}", fastrand::u64(..)));
    let options = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path);
    let mut copy = options?;
    std::fs::remove_file(path)?;
    copy.write_all(&bytes)?;
    copy.rewind()?;
    Ok(copy)
}

impl Store for FaultyStore {
    fn list(&self) -> Result<Listing, StoreError> {
        let wrong = self.call("list");
        self.refused("list", wrong)?;
        let listing = self.store.list()?;
        Ok(match wrong {
            Some(Wrong::Stale) => stale(&listing),
            _ => listing,
        })
    }

    fn list_level(&self, level: Level) -> Result<Vec<ReplicaFile>, StoreError> {
        let wrong = self.call("list_level");
        self.refused("list", wrong)?;
        let mut files = self.store.list_level(level)?;
        if wrong == Some(Wrong::Stale) {
            files.pop();
        }
        Ok(files)
    }

    fn ranges(&self, level: Level) -> Result<Vec<TxidRange>, StoreError> {
        let wrong = self.call("ranges");
        self.refused("list", wrong)?;
        let mut ranges = self.store.ranges(level)?;
        if wrong == Some(Wrong::Stale) {
            ranges.pop();
        }
        Ok(ranges)
    }

    fn open(&self, file: &ReplicaFile) -> Result<File, StoreError> {
        let path = self.path(file);
        match self.call("open") {
            Some(Wrong::Errno(errno)) => Err(StoreError::io("open", path)(
                io::Error::from_raw_os_error(errno),
            )),
            Some(wrong) => {
                let opened = self.store.open(file)?;
                spoiled(opened, wrong).map_err(StoreError::io("read", path))
            }
            None => self.store.open(file),
        }
    }

    fn read_exact_at(&self, opened: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let middle = buffer.len() / 2;
        match self.call("read") {
            Some(Wrong::Errno(errno)) => Err(io::Error::from_raw_os_error(errno)),
            Some(Wrong::Short) => {
                let half = buffer.get_mut(..middle).unwrap_or_default();
                opened.read_exact_at(half, offset)?;
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            Some(_) => {
                opened.read_exact_at(buffer, offset)?;
                if let Some(byte) = buffer.get_mut(middle) {
                    *byte ^= 0x10;
                }
                Ok(())
            }
            None => opened.read_exact_at(buffer, offset),
        }
    }

    fn put(
        &self,
        file: &ReplicaFile,
        write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Put, StoreError> {
        self.store.put(file, write)
    }

    fn remove(&self, file: &ReplicaFile) -> Result<(), StoreError> {
        self.store.remove(file)
    }

    fn set_aside(&self, file: &ReplicaFile, now: Timestamp) -> Result<(), StoreError> {
        self.store.set_aside(file, now)
    }

    fn path(&self, file: &ReplicaFile) -> PathBuf {
        self.store.path(file)
    }

    fn dir(&self) -> &Path {
        self.store.dir()
    }
}
