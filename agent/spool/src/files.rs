//! The L0 files of one database as they lie on the disk: what they say, whether they are whole,
//! and where a damaged one goes.

use std::fs::{self, File};
use std::io::{self, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sqlrep_format::{Checksum, Pgno, Timestamp, Txid, TxidRange, ltx, page_checksum};
use sqlrep_replica::durable::{self, Fs, Unsettled};
use sqlrep_replica::{DirStore, ReplicaFile, Store};

use crate::Error;
use crate::memo::failed;

/// Damaged files kept for whoever wants to look at them (L12); the oldest goes first.
const ASIDE_FILES_MAX: usize = 64;

/// Read at once while a file is decoded.
const READ_BYTES: usize = 128 << 10;

/// What is remembered of a file while it is in the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileFact {
    /// Its TXID.
    pub(crate) txid: Txid,
    /// Its header's timestamp.
    pub(crate) timestamp: Timestamp,
    /// Its size.
    pub(crate) bytes: u64,
    /// Its file checksum.
    pub(crate) digest: Checksum,
    /// The CRC-64 of all its bytes, if they were written since the spool was opened.
    pub(crate) content: Option<u64>,
}

/// Where a database's files are.
#[derive(Debug)]
pub(crate) struct Files {
    dir: PathBuf,
    store: DirStore,
}

impl Files {
    /// Files below `dir`, which need not exist; what is above `top` survives a power failure.
    pub(crate) fn new(dir: PathBuf, top: &Path, fs: Arc<dyn Fs>) -> Self {
        Self {
            store: DirStore::with_fs(&dir, fs).below(top),
            dir,
        }
    }

    /// The steps they are written by.
    pub(crate) fn fs(&self) -> &dyn Fs {
        self.store.fs().as_ref()
    }

    /// The store over them.
    pub(crate) fn store(&self) -> &DirStore {
        &self.store
    }

    /// The database's directory in the spool.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file that says where the lineage began.
    pub(crate) fn seed_path(&self) -> PathBuf {
        self.dir.join(".sqlrep").join("seed.json")
    }

    /// The note whose database it is.
    pub(crate) fn pod_path(&self) -> PathBuf {
        self.dir.join(".sqlrep").join("pod.json")
    }

    /// That note, if it is there, which a predecessor may not have made durable.
    pub(crate) fn unsettled_note(&self) -> Result<Option<Unsettled>, Error> {
        let path = self.pod_path();
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return Ok(None);
        };
        match durable::Dir::open(dir).and_then(|dir| Unsettled::found(dir, name)) {
            Ok(note) => Ok(Some(note)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("open", &path)(error)),
        }
    }

    /// The note that how its pod ended is known.
    pub(crate) fn end_path(&self) -> PathBuf {
        self.dir.join(".sqlrep").join("end.json")
    }

    /// The path of an L0 file.
    pub(crate) fn path(&self, txid: Txid) -> PathBuf {
        self.store.path(&Self::file(txid, 0))
    }

    /// A file's name as the store takes it.
    fn file(txid: Txid, bytes: u64) -> ReplicaFile {
        ReplicaFile {
            level: ltx::Level::L0,
            range: TxidRange::single(txid),
            bytes,
            modified: Timestamp::from_millis(0),
        }
    }

    /// All L0 files, ascending.
    pub(crate) fn list(&self) -> Result<Vec<ReplicaFile>, Error> {
        let mut files = self
            .store
            .list_level(ltx::Level::L0)
            .map_err(Error::store("listing the spool"))?;
        files.sort_by_key(|file| file.range);
        Ok(files)
    }

    /// Removes a file, if it is there.
    pub(crate) fn remove(&self, txid: Txid) -> Result<(), Error> {
        match self.store.remove(&Self::file(txid, 0)) {
            Err(error) if !error.is_missing() => {
                Err(Error::store("removing a file of the spool")(error))
            }
            _ => Ok(()),
        }
    }

    /// Makes it durable that files were removed.
    pub(crate) fn settle_removals(&self) -> Result<(), Error> {
        let path = self.dir.join(sqlrep_replica::level_dir(ltx::Level::L0));
        match durable::Dir::open(&path).and_then(|dir| self.fs().fsync_dir(&dir)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("fsync", path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Whether there is a file of this TXID.
    pub(crate) fn holds(&self, txid: Txid) -> Result<bool, Error> {
        let path = self.path(txid);
        path.try_exists().map_err(Error::io("look for", &path))
    }

    /// Reads both ends of a file. `Err` of the inner kind when the file is not what its name says.
    pub(crate) fn facts(&self, file: &ReplicaFile) -> Result<(FileFact, ltx::Header), Error> {
        let path = self.store.path(file);
        let opened = self.open(file)?;
        let mut head = [0; ltx::HEADER_BYTES];
        let mut tail = [0; ltx::TAIL_BYTES];
        let tail_at = file.bytes.checked_sub((head.len() + tail.len()) as u64);
        let Some(tail_at) = tail_at.map(|at| at + head.len() as u64) else {
            return Err(Error::Corrupt {
                path,
                reason: "it is shorter than its header".to_owned(),
            });
        };
        opened
            .read_exact_at(&mut head, 0)
            .map_err(Error::io("read", &path))?;
        opened
            .read_exact_at(&mut tail, tail_at)
            .map_err(Error::io("read", &path))?;
        let damaged = |source| Error::Damaged {
            path: path.clone(),
            source,
        };
        let header = ltx::Header::decode(&head).map_err(damaged)?;
        let tail = ltx::parse_tail(&tail, file.bytes).map_err(damaged)?;
        let fact = fact(file, &header, tail.trailer.file, path)?;
        Ok((fact, header))
    }

    /// Reads a whole file and proves it, handing out the checksum of each page.
    pub(crate) fn prove(
        &self,
        file: &ReplicaFile,
        page: &mut dyn FnMut(&ltx::Header, Pgno, Checksum),
    ) -> Result<(FileFact, ltx::Header), Error> {
        let path = self.store.path(file);
        let damaged = |source: ltx::DecodeError| match source {
            ltx::DecodeError::Io { source, .. } => Error::io("read", &path)(source),
            source => Error::Damaged {
                path: path.clone(),
                source,
            },
        };
        let reader = BufReader::with_capacity(READ_BYTES, self.open(file)?);
        let mut decoder = ltx::Decoder::new(reader).map_err(damaged)?;
        let header = *decoder.header();
        let mut buffer = vec![0; header.page_size.bytes()];
        while let Some(pgno) = decoder.next_page(&mut buffer).map_err(damaged)? {
            page(&header, pgno, page_checksum(pgno, &buffer));
        }
        let trailer = decoder.finish().map_err(damaged)?;
        let fact = fact(file, &header, trailer.file, path.clone())?;
        Ok((fact, header))
    }

    /// Proves a file and puts a durable copy in its place, with the same time.
    pub(crate) fn write_again(&self, fact: &FileFact) -> Result<(), Error> {
        let (proven, _) = self.prove(&Self::listed(fact), &mut |_, _, _| {})?;
        let path = self.path(fact.txid);
        let damaged = || Error::Corrupt {
            path: path.clone(),
            reason: "it is not what was written".to_owned(),
        };
        let whole = proven.digest == fact.digest && proven.bytes == fact.bytes;
        let (Some(dir), Some(name), true) = (path.parent(), path.file_name(), whole) else {
            return Err(damaged());
        };
        let dir = durable::Dir::open(dir).map_err(Error::io("open", dir))?;
        let mut from = self.open(&Self::listed(fact))?;
        let temp = durable::Temp::create(self.fs(), &dir).map_err(failed)?;
        io::copy(&mut from, &mut temp.file()).map_err(Error::io("write", temp.path()))?;
        temp.fsync().map_err(failed)?;
        self.fs()
            .set_modified(&dir, temp.name(), temp.file(), fact.timestamp)
            .map_err(Error::io("set the time of", temp.path()))?;
        temp.rename_over(name).map_err(failed)?;
        let file = self.unsettled(fact)?;
        self.settle(&file)
    }

    /// The listed file of a TXID.
    pub(crate) fn listed(fact: &FileFact) -> ReplicaFile {
        Self::file(fact.txid, fact.bytes)
    }

    fn open(&self, file: &ReplicaFile) -> Result<File, Error> {
        self.store
            .open(file)
            .map_err(Error::store("opening a file of the spool"))
    }

    /// Moves a file out of the chain, into `.sqlrep/aside`.
    pub(crate) fn set_aside(&self, file: &ReplicaFile, reason: &str) -> Result<(), Error> {
        let from = self.store.path(file);
        let aside = self.dir.join(".sqlrep").join("aside");
        fs::create_dir_all(&aside).map_err(Error::io("create", &aside))?;
        let to = aside.join(from.file_name().unwrap_or_default());
        rustix::fs::rename(&from, &to)
            .map_err(io::Error::from)
            .map_err(Error::io("move aside", &from))?;
        tracing::warn!(
            file = %from.display(), aside = %to.display(), err = reason,
            "a file of the spool is out of its chain and was moved aside"
        );
        thin_aside(&aside)
    }

    /// Moves an unusable seed file aside.
    pub(crate) fn set_seed_aside(&self) -> Result<(), Error> {
        let from = self.seed_path();
        let to = from.with_extension("json.corrupt");
        rustix::fs::rename(&from, &to)
            .map_err(io::Error::from)
            .map_err(Error::io("move aside", &from))
    }
}

/// Keeps the newest of what was moved aside.
fn thin_aside(aside: &Path) -> Result<(), Error> {
    let mut paths = fs::read_dir(aside)
        .and_then(|entries| {
            entries
                .map(|entry| entry.map(|entry| entry.path()))
                .collect::<io::Result<Vec<_>>>()
        })
        .map_err(Error::io("list", aside))?;
    paths.sort();
    let surplus = paths.len().saturating_sub(ASIDE_FILES_MAX);
    for path in paths.into_iter().take(surplus) {
        tracing::warn!(file = %path.display(), "too many files moved aside; the oldest goes");
        fs::remove_file(&path).map_err(Error::io("remove", &path))?;
    }
    Ok(())
}

/// Name and header must say the same: the planner trusts the one, the decoder the other.
fn fact(
    file: &ReplicaFile,
    header: &ltx::Header,
    digest: Checksum,
    path: PathBuf,
) -> Result<FileFact, Error> {
    if header.range != file.range || !header.range.is_single() {
        let reason = format!(
            "its header says {}, an L0 file has one TXID, its name's",
            header.range
        );
        return Err(Error::Corrupt { path, reason });
    }
    Ok(FileFact {
        txid: header.range.max(),
        timestamp: header.timestamp,
        bytes: file.bytes,
        digest,
        content: None,
    })
}
