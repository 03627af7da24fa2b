//! Small files that are not in the ledger, because they must survive it (L8): the replica root
//! that this node remembers, the replica's head that a database was seeded with, and of a pod its
//! name and that its end is known.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sqlrep_format::{PageCount, PageSize, Timestamp, Txid};
use sqlrep_replica::durable::{self, Fs, OsFs};

use crate::{Error, Position};

/// More than any of these files needs; a larger one is not ours.
const BYTES_MAX: u64 = 64 << 10;

/// Reads a file; `None` when there is none.
pub(crate) fn load<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("open", path)(error)),
    };
    let mut bytes = Vec::new();
    file.take(BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(Error::io("read", path))?;
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| Error::Corrupt {
            path: path.to_owned(),
            reason: format!("it is no JSON of ours: {error}"),
        })
}

/// Writes a file durably and as a whole.
pub(crate) fn save<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let (dir, name) = parts(path)?;
    let dir = durable::ensure_dir(&OsFs, dir).map_err(failed)?;
    durable::replace(&OsFs, &dir, name, &encoded(path, value)?).map_err(failed)
}

/// Writes a file that is not there yet. It may be lost by a power failure, whole or in part, until it
/// and the directories on the way to it are settled.
pub(crate) fn begin<T: Serialize>(fs: &dyn Fs, path: &Path, value: &T) -> Result<(), Error> {
    let (dir, name) = parts(path)?;
    let (dir, _) = durable::make_dirs(fs, &dir.into()).map_err(failed)?;
    let bytes = encoded(path, value)?;
    let put = durable::publish_unsettled(fs, &dir, name, None, &mut |file| file.write_all(&bytes));
    match put.map_err(failed)? {
        Some(_) => Ok(()),
        None => Err(Error::io("write", path)(
            io::ErrorKind::AlreadyExists.into(),
        )),
    }
}

fn parts(path: &Path) -> Result<(&Path, &OsStr), Error> {
    let parts = path.parent().zip(path.file_name());
    parts.ok_or_else(|| Error::io("write", path)(io::ErrorKind::InvalidInput.into()))
}

fn encoded<T: Serialize>(path: &Path, value: &T) -> Result<Vec<u8>, Error> {
    let mut bytes = serde_json::to_vec_pretty(value)
        .map_err(|error| Error::io("encode", path)(error.into()))?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// A step on the disk that failed.
pub(crate) fn failed(failure: durable::Failure) -> Error {
    Error::Io {
        attempt: failure.step,
        path: failure.path,
        source: failure.source,
    }
}

/// `<database>/.sqlrep/seed.json`: which lineage the spool follows, and where it began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SeedFile {
    /// The layout of this file.
    version: u32,
    /// Counts lineages. What the ledger says of an older one is void.
    pub(crate) epoch: u64,
    /// The L0 files of the lineage before are not all removed yet: no file counts until they are.
    pub(crate) clearing: bool,
    /// Where the lineage began; `None` for a chain that begins at the first TXID.
    head: Option<Head>,
}

/// `<database>/.sqlrep/pod.json`: whose database it is, for an agent that finds it after its pod is
/// gone and nobody can be asked any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodNote {
    /// The pod's name.
    pub name: String,
    /// The UID of its namespace, where there is a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_uid: Option<String>,
    /// The key of the volume of that pod which holds its replicas; `None`: the root does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// `<database>/.sqlrep/end.json`: how its pod ended is known.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct End {
    /// The layout of this file.
    pub(crate) version: u32,
}

/// A position without page checksums, in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    txid: String,
    timestamp_ms: i64,
    commit: u32,
    page_size: u32,
}

impl SeedFile {
    /// A new lineage that begins at `position`; its predecessor's files are still there.
    pub(crate) fn new(epoch: u64, position: Option<&Position>) -> Self {
        let head = position.map(|position| Head {
            txid: position.txid.to_string(),
            timestamp_ms: position.timestamp.millis(),
            commit: position.commit.get(),
            page_size: position.page_size.get(),
        });
        Self {
            version: 1,
            epoch,
            clearing: true,
            head,
        }
    }

    /// Checks what `load` gave.
    pub(crate) fn check(self, path: &Path) -> Result<Self, Error> {
        if self.version == 1 && (self.head.is_none() || self.position().is_some()) {
            return Ok(self);
        }
        Err(Error::Corrupt {
            path: path.to_owned(),
            reason: "its version or its position is not one of ours".to_owned(),
        })
    }

    /// Where the lineage began.
    pub(crate) fn position(&self) -> Option<Position> {
        let head = self.head.as_ref()?;
        Some(Position {
            txid: head.txid.parse::<Txid>().ok()?,
            timestamp: Timestamp::from_millis(head.timestamp_ms),
            commit: PageCount::new(head.commit)?,
            page_size: PageSize::new(head.page_size).ok()?,
            wal: None,
            checksum: None,
        })
    }
}
