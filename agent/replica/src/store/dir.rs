//! A replica in a directory, laid out as in LITESTREAM.md §2.1.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sqlrep_format::ltx::{FileName, Level};
use sqlrep_format::{Timestamp, TxidRange};

use super::{Listing, Put, ReplicaFile, Store, StoreError};
use crate::calendar::compact;
use crate::durable::{self, About, Dir, Fs, OsFs, Place, Unsettled};
use crate::layout::{self, DAMAGED_DIR, LTX_DIR, META_DIR};

/// A replica in a directory; creates nothing until the first [`Store::put`]. Clones are cheap.
#[derive(Clone, Debug)]
pub struct DirStore {
    place: Place,
    fs: Arc<dyn Fs>,
    settled: Arc<Mutex<Settled>>,
    top: Option<PathBuf>,
}

/// Which directories are known to survive a crash, each found out once.
#[derive(Debug, Default)]
struct Settled {
    ancestors: bool,
    levels: [bool; 10],
}

/// The open directories on the way to a level.
struct Dirs {
    replica: Dir,
    ltx: Dir,
    level: Dir,
}

impl DirStore {
    /// The replica in a directory that need not exist.
    pub fn new(place: impl Into<Place>) -> Self {
        Self::with_fs(place, Arc::new(OsFs))
    }

    /// The same over another [`Fs`].
    pub fn with_fs(place: impl Into<Place>, fs: Arc<dyn Fs>) -> Self {
        Self {
            place: place.into(),
            fs,
            settled: Arc::default(),
            top: None,
        }
    }

    /// The same where what is above `top` is known to survive a power failure.
    #[must_use]
    pub fn below(mut self, top: impl Into<PathBuf>) -> Self {
        self.top = Some(top.into());
        self
    }

    /// Where it is.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The steps it writes by.
    pub fn fs(&self) -> &Arc<dyn Fs> {
        &self.fs
    }

    /// Unlinks temp files that nobody touched since `before`, in all levels; says how many. To be
    /// called when a replica is opened, with a time some hours ago.
    pub fn sweep(&self, before: Timestamp) -> Result<u32, StoreError> {
        let Some(ltx) = self.ltx()? else { return Ok(0) };
        let mut swept = 0;
        for level in Level::all() {
            if let Some(dir) = missing_is_none(&ltx, level)? {
                swept += durable::sweep(self.fs.as_ref(), &dir, before)?;
            }
        }
        Ok(swept)
    }

    /// What time it is where the replica lies: on a share, the server's clock says so. It is asked to
    /// note that the directory was changed now. `None`: nothing lies there.
    pub fn clock(&self) -> Result<Option<Timestamp>, StoreError> {
        let Some(ltx) = self.ltx()? else {
            return Ok(None);
        };
        let now = self.fs.now_at(&ltx);
        let now = now.map_err(StoreError::io("ask for the time by", ltx.path()))?;
        Ok(Some(now))
    }

    fn ltx(&self) -> Result<Option<Dir>, StoreError> {
        let opened = self
            .place
            .open()
            .and_then(|dir| dir.open_subdir(OsStr::new(LTX_DIR)));
        match opened {
            Ok(dir) => Ok(Some(dir)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("open", self.dir().join(LTX_DIR))(error)),
        }
    }

    /// The TXIDs of the files that were taken out of level 0.
    fn aside(&self) -> Result<Vec<TxidRange>, StoreError> {
        let place = self.place.join(META_DIR).join(DAMAGED_DIR);
        let names = match place.open().and_then(|dir| dir.entries()) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(StoreError::io("list", place.path())(error)),
        };
        Ok(names.iter().filter_map(|name| taken_out(name)).collect())
    }

    /// Publishes a file like [`Store::put`], but it may be lost by a power failure until
    /// [`DirStore::settle`] has returned. `None`: the name is taken.
    pub fn put_unsettled(
        &self,
        level: Level,
        range: TxidRange,
        timestamp: Timestamp,
        write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Option<Unsettled>, StoreError> {
        let fs = self.fs.as_ref();
        let dir = self.level_dirs(level)?.level;
        let name = FileName(range).to_string();
        let name = OsStr::new(&name);
        let put = durable::publish_unsettled(fs, &dir, name, Some(timestamp), write)?;
        Ok(put)
    }

    /// A file that is there, of which nobody knows whether it would survive a power failure.
    pub fn unsettled(&self, file: &ReplicaFile) -> Result<Unsettled, StoreError> {
        let name = FileName(file.range).to_string();
        let found = self
            .level(file.level)
            .and_then(|dir| Unsettled::found(dir, OsStr::new(&name)));
        found.map_err(StoreError::io("open", self.path(file)))
    }

    /// Makes a file of this level durable. After an error it must be taken for lost.
    pub fn settle(&self, level: Level, file: &Unsettled) -> Result<(), StoreError> {
        file.settle(self.fs.as_ref())?;
        self.settle_dirs(level, &self.level_dirs(level)?)
    }

    /// The directory of a level, if it is there.
    fn level(&self, level: Level) -> io::Result<Dir> {
        self.place
            .open()
            .and_then(|dir| dir.open_subdir(OsStr::new(LTX_DIR)))
            .and_then(|ltx| ltx.open_subdir(OsStr::new(&level.to_string())))
    }

    /// The directory of a level, there and durable.
    fn durable_level(&self, level: Level) -> Result<Dir, StoreError> {
        let dirs = self.level_dirs(level)?;
        self.settle_dirs(level, &dirs)?;
        Ok(dirs.level)
    }

    /// The directory of a level and those it lies in, there.
    fn level_dirs(&self, level: Level) -> Result<Dirs, StoreError> {
        let fs = self.fs.as_ref();
        let (replica, made) = durable::make_dirs(fs, &self.place)?;
        let (ltx, made_ltx) = durable::make_subdir(fs, &replica, OsStr::new(LTX_DIR))?;
        let (opened, made_level) = durable::make_subdir(fs, &ltx, OsStr::new(&level.to_string()))?;
        let number = usize::from(level.get());
        // What was known of those that were here before says nothing about these.
        if made || made_ltx {
            *self.known() = Settled::default();
        } else if made_level {
            self.known().levels[number] = false;
        }
        Ok(Dirs {
            replica,
            ltx,
            level: opened,
        })
    }

    /// Makes it durable that they are there, each once.
    fn settle_dirs(&self, level: Level, dirs: &Dirs) -> Result<(), StoreError> {
        let fs = self.fs.as_ref();
        let (dir, ltx) = (&dirs.replica, &dirs.ltx);
        let settled = |settled: &mut Settled| {
            if !settled.ancestors {
                fs.fsync_dir(dir)
                    .map_err(durable::Failure::at("fsync", dir.path()))?;
                durable::settle(fs, &self.place, dir, self.top.as_deref())?;
                settled.ancestors = true;
            }
            let known = settled.levels.get_mut(usize::from(level.get()));
            if let Some(known @ false) = known {
                fs.fsync_dir(ltx)
                    .map_err(durable::Failure::at("fsync", ltx.path()))?;
                *known = true;
            }
            Ok::<(), durable::Failure>(())
        };
        settled(&mut self.known())?;
        Ok(())
    }

    fn known(&self) -> MutexGuard<'_, Settled> {
        // Poison says that a thread panicked between two marks; each mark is right by itself.
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for DirStore {
    fn list(&self) -> Result<Listing, StoreError> {
        let Some(ltx) = self.ltx()? else {
            return Ok(Listing::default());
        };
        let mut files = Vec::new();
        for level in Level::all() {
            files.extend(list_level(&ltx, level)?);
        }
        let listing = Listing::new(files);
        // A hole is rare: the directory that may explain it is not read without one.
        match listing.after_hole() {
            Some(_) => Ok(listing.beside(self.aside()?)),
            None => Ok(listing),
        }
    }

    fn list_level(&self, level: Level) -> Result<Vec<ReplicaFile>, StoreError> {
        let Some(ltx) = self.ltx()? else {
            return Ok(Vec::new());
        };
        let mut files = list_level(&ltx, level)?;
        files.sort_by_key(|file| file.range);
        Ok(files)
    }

    fn ranges(&self, level: Level) -> Result<Vec<TxidRange>, StoreError> {
        let Some(ltx) = self.ltx()? else {
            return Ok(Vec::new());
        };
        let Some(dir) = missing_is_none(&ltx, level)? else {
            return Ok(Vec::new());
        };
        let names = dir.entries().map_err(StoreError::io("list", dir.path()))?;
        let ranges = names.iter().filter_map(|name| range(name));
        let mut ranges: Vec<_> = ranges.collect();
        ranges.sort_unstable();
        Ok(ranges)
    }

    fn open(&self, file: &ReplicaFile) -> Result<File, StoreError> {
        self.place
            .open()
            .and_then(|dir| dir.open_beneath(&layout::file_path(file.level, file.range)))
            .map_err(StoreError::io("open", self.path(file)))
    }

    fn put(
        &self,
        file: &ReplicaFile,
        write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Put, StoreError> {
        let dir = self.durable_level(file.level)?;
        let name = FileName(file.range).to_string();
        let about = About {
            modified: Some(file.modified),
            bytes: file.bytes,
        };
        let name = OsStr::new(&name);
        Ok(durable::publish(
            self.fs.as_ref(),
            &dir,
            name,
            about,
            write,
        )?)
    }

    fn put_again(&self, file: &ReplicaFile, level: Level) -> Result<Option<Put>, StoreError> {
        let to = self.durable_level(level)?;
        let from = self
            .level(file.level)
            .map_err(StoreError::io("open", self.path(file)))?;
        let name = FileName(file.range).to_string();
        let put = durable::publish_again(self.fs.as_ref(), &from, OsStr::new(&name), &to);
        Ok(put?)
    }

    fn remove(&self, file: &ReplicaFile) -> Result<(), StoreError> {
        let name = FileName(file.range).to_string();
        let removed = match self.ltx()? {
            Some(ltx) => ltx
                .open_subdir(OsStr::new(&file.level.to_string()))
                .and_then(|dir| self.fs.unlink(&dir, OsStr::new(&name))),
            None => Ok(()),
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::io("unlink", self.path(file))(error))
            }
            _ => Ok(()),
        }
    }

    fn set_aside(&self, file: &ReplicaFile, now: Timestamp) -> Result<(), StoreError> {
        let (fs, level) = (self.fs.as_ref(), file.level.to_string());
        let from = match self.ltx()?.map(|ltx| ltx.open_subdir(OsStr::new(&level))) {
            Some(Ok(from)) => from,
            None => return Ok(()),
            Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Some(Err(error)) => return Err(StoreError::io("open", self.path(file))(error)),
        };
        let name = FileName(file.range).to_string();
        if !from
            .holds(OsStr::new(&name))
            .map_err(StoreError::io("look at", self.path(file)))?
        {
            return Ok(());
        }
        let dir = self
            .place
            .open()
            .map_err(StoreError::io("open", self.dir()))?;
        let meta = durable::ensure_subdir(fs, &dir, OsStr::new(META_DIR))?;
        let aside = durable::ensure_subdir(fs, &meta, OsStr::new(DAMAGED_DIR))?;
        let to = aside_name(now, file);
        Ok(durable::move_dir(
            fs,
            &from,
            OsStr::new(&name),
            &aside,
            OsStr::new(&to),
        )?)
    }

    fn path(&self, file: &ReplicaFile) -> PathBuf {
        self.dir().join(layout::file_path(file.level, file.range))
    }

    fn dir(&self) -> &Path {
        self.place.path()
    }
}

fn missing_is_none(ltx: &Dir, level: Level) -> Result<Option<Dir>, StoreError> {
    let name = level.to_string();
    match ltx.open_subdir(OsStr::new(&name)) {
        Ok(dir) => Ok(Some(dir)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io("open", ltx.path().join(name))(error)),
    }
}

/// The name of a damaged file beside the chain.
fn aside_name(now: Timestamp, file: &ReplicaFile) -> String {
    format!("{}-{}-{}", compact(now), file.level, FileName(file.range))
}

/// The TXIDs of a damaged file of level 0, by its name beside the chain.
fn taken_out(name: &OsStr) -> Option<TxidRange> {
    let (_, rest) = name.to_str()?.split_once('-')?;
    let (level, name) = rest.split_once('-')?;
    (level == Level::L0.to_string()).then(|| range(OsStr::new(name)))?
}

fn range(name: &OsStr) -> Option<TxidRange> {
    let name: FileName = name.to_str()?.parse().ok()?;
    Some(name.0)
}

fn list_level(ltx: &Dir, level: Level) -> Result<Vec<ReplicaFile>, StoreError> {
    let Some(dir) = missing_is_none(ltx, level)? else {
        return Ok(Vec::new());
    };
    let mut files = Vec::new();
    for name in dir.entries().map_err(StoreError::io("list", dir.path()))? {
        // Other names are left alone: temp files, notes, what a NAS puts there.
        let Some(range) = range(&name) else {
            continue;
        };
        match dir.stat_file(&name) {
            Ok(Some((bytes, modified))) => {
                files.push(ReplicaFile {
                    level,
                    range,
                    bytes,
                    modified,
                });
            }
            Ok(None) => {}
            // Retention was here between the two looks.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::io("look at", dir.path().join(&name))(error)),
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests;
