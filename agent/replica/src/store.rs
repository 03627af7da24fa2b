//! Where the LTX files of one replica are kept: listed, opened, published, removed.

mod dir;
mod error;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use sqlrep_format::ltx::Level;
use sqlrep_format::{Timestamp, Txid, TxidRange};

pub use crate::durable::Put;
pub use dir::DirStore;
pub use error::StoreError;

/// One LTX file as a listing shows it: what its name and the file system say, unread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaFile {
    /// The level it lies in.
    pub level: Level,
    /// The TXIDs that its name claims.
    pub range: TxidRange,
    /// Its size.
    pub bytes: u64,
    /// Its modification time, which is the time of its header unless a copy lost it.
    pub modified: Timestamp,
}

/// All LTX files of a replica, by level and TXID.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    files: Vec<ReplicaFile>,
    /// What was taken out of level 0, damaged, from its last TXID to its first: those holes say
    /// nothing about what is below them.
    aside: BTreeMap<Txid, Txid>,
}

impl Listing {
    /// Sorts the files.
    pub fn new(mut files: Vec<ReplicaFile>) -> Self {
        files.sort_by_key(|file| (file.level, file.range));
        Self {
            files,
            aside: BTreeMap::new(),
        }
    }

    /// The same files beside what was taken out of level 0, damaged.
    #[must_use]
    pub fn beside(mut self, aside: impl IntoIterator<Item = TxidRange>) -> Self {
        let ends = aside.into_iter().map(|range| (range.max(), range.min()));
        self.aside.extend(ends);
        self
    }

    /// Other files, or the same with other times, where the same was taken out.
    #[must_use]
    pub fn of(&self, files: impl IntoIterator<Item = ReplicaFile>) -> Self {
        let aside = self.aside.clone();
        Self {
            aside,
            ..Self::new(files.into_iter().collect())
        }
    }

    /// The files by level and TXID.
    pub fn files(&self) -> &[ReplicaFile] {
        &self.files
    }

    /// The files of one level by TXID.
    pub fn level(&self, level: Level) -> impl DoubleEndedIterator<Item = &ReplicaFile> {
        self.files.iter().filter(move |file| file.level == level)
    }

    /// Whether there is no LTX file at all.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The highest TXID that any name claims.
    pub fn head(&self) -> Option<Txid> {
        self.files.iter().map(|file| file.range.max()).max()
    }

    /// The first TXID of level 0 after its last hole, what was taken out as damaged being none;
    /// `None` without a hole.
    pub(crate) fn after_hole(&self) -> Option<Txid> {
        let mut run: Option<Txid> = None;
        for file in self.level(Level::L0).rev() {
            let start = run.map(|start| self.down(start, file.range.max()));
            match start {
                Some(start) if file.range.max().next() < start => return run,
                Some(start) => run = Some(start.min(file.range.min())),
                None => run = Some(file.range.min()),
            }
        }
        None
    }

    /// How far down from the start of a run what was taken out leads, to a file's end at most.
    fn down(&self, mut start: Txid, end: Txid) -> Txid {
        while end.next() < start {
            // Names that anybody may have made: each step leads down, and finds its next at once.
            match start.prev().and_then(|last| self.aside.get(&last)) {
                Some(first) => start = *first,
                None => break,
            }
        }
        start
    }

    /// Notes a file that was published since; one that is known keeps its place.
    pub fn add(&mut self, file: ReplicaFile) {
        let key = |file: &ReplicaFile| (file.level, file.range);
        match self.files.binary_search_by_key(&key(&file), key) {
            Ok(place) => self.files.splice(place..=place, [file]).for_each(drop),
            Err(place) => self.files.insert(place, file),
        }
    }

    /// The same listing without one file that is damaged: to plan around it.
    #[must_use]
    pub fn without(&self, gone: &ReplicaFile) -> Self {
        let stays = |file: &&ReplicaFile| (file.level, file.range) != (gone.level, gone.range);
        let aside = (gone.level == Level::L0).then_some(gone.range);
        self.of(self.files.iter().filter(stays).cloned())
            .beside(aside)
    }
}

/// The LTX files of one replica.
///
/// Every call blocks, for ever if an NFS server does: call from a lane's thread (L14).
pub trait Store: Send + Sync + Debug {
    /// All files of all levels. A replica that does not exist is empty; one that cannot be read
    /// is an error.
    fn list(&self) -> Result<Listing, StoreError>;
    /// The files of one level by TXID.
    fn list_level(&self, level: Level) -> Result<Vec<ReplicaFile>, StoreError>;
    /// The TXIDs that the names of one level claim, ascending: a listing without a look at each
    /// file.
    fn ranges(&self, level: Level) -> Result<Vec<TxidRange>, StoreError> {
        let files = self.list_level(level)?;
        Ok(files.iter().map(|file| file.range).collect())
    }
    /// Opens a file for reading.
    fn open(&self, file: &ReplicaFile) -> Result<File, StoreError>;
    /// Fills `buffer` from an offset of a file that was opened here. A method, so that a test can let
    /// one read in the middle of a file go wrong.
    fn read_exact_at(&self, opened: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        opened.read_exact_at(buffer, offset)
    }
    /// Publishes a file whole, or not at all, under a name that must be free. Its time is that of its
    /// header; how many bytes it will have is a guess that decides about the pace alone. After an
    /// error the name may have been taken all the same: put again.
    fn put(
        &self,
        file: &ReplicaFile,
        write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
    ) -> Result<Put, StoreError>;
    /// Gives a file the same TXIDs at another level too, without writing it again: what is removed
    /// at one level stays at the other. `None` where that is not to be had.
    fn put_again(&self, _file: &ReplicaFile, _level: Level) -> Result<Option<Put>, StoreError> {
        Ok(None)
    }
    /// Unlinks a file; one that is gone already is no error. For `retain` alone (L6).
    fn remove(&self, file: &ReplicaFile) -> Result<(), StoreError>;
    /// Takes a damaged file out of the chain and keeps it beside it, in `.sqlrep/damaged/`; one that
    /// is gone already is no error. For `retain` alone (L6).
    fn set_aside(&self, file: &ReplicaFile, now: Timestamp) -> Result<(), StoreError>;
    /// Where a file lies, for messages.
    fn path(&self, file: &ReplicaFile) -> PathBuf;
    /// The replica's directory.
    fn dir(&self) -> &Path;
}
