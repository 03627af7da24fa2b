//! `.sqlrep/manifest.json`: whose replica this is, who extends it, and whom a restored file
//! belongs to. Readers of the LTX files need none of it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sqlrep_format::{PageSize, Timestamp, Txid};

use crate::DbId;
use crate::durable::{self, Failure, Fs, OsFs, Place};
use crate::layout::META_DIR;
use crate::owner::WriterId;

/// The file's name in [`META_DIR`].
const NAME: &str = "manifest.json";
/// A manifest is some hundred bytes; what is larger is none, and is not read.
const BYTES_MAX: u64 = 64 * 1024;
/// Claims that are remembered, for people who look into what happened.
const CLAIMS_MAX: usize = 64;

/// What is known of a replica besides its data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The layout of this file; see [`Manifest::VERSION`].
    pub version: u32,
    /// Which database it is of.
    pub id: DbId,
    /// The cluster it belongs to: the UID of the namespace `kube-system`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_uid: Option<String>,
    /// The namespace it belongs to: one of the same name created anew has another UID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_uid: Option<String>,
    /// Who extends it, or did last.
    pub owner: Owner,
    /// Owner and mode of the database file, for a restore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<Ownership>,
    /// The page size of the chain.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "page_size")]
    pub page_size: Option<PageSize>,
    /// The newest TXID that the owner had published when it wrote this. With `released` it is the
    /// last one: a reader whose listing ends before it looks at an old listing.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "txid")]
    pub head: Option<Txid>,
    /// The TXIDs at which owners claimed the replica, ascending: where the log changed hands.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "txids")]
    pub claims: Vec<Txid>,
}

/// The pod that extends a replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Its name.
    pub pod: String,
    /// Its UID.
    pub pod_uid: String,
    /// The node it runs on.
    pub node: String,
    /// The id in the headers of the files written for it.
    #[serde(rename = "node_id")]
    pub writer: WriterId,
    /// Whether it still does.
    pub state: OwnerState,
    /// Since when.
    #[serde(rename = "since_ms", with = "millis")]
    pub since: Timestamp,
}

/// Whether a replica has a writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OwnerState {
    /// It may still write.
    Active,
    /// Its last commit is in the replica, and it will write no more.
    Released,
}

/// Owner and mode of a database file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ownership {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

/// A manifest that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The file system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Not JSON, or not a manifest.
    #[error("{} is no manifest: restore it from a copy, or remove it to let the next owner write it anew", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// Too large to be a manifest.
    #[error("{} has more than {BYTES_MAX} bytes, which is no manifest", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Written by a newer sqlrep.
    #[error("{} has version {found}, this sqlrep knows {}: use the newer one", path.display(), Manifest::VERSION)]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
}

impl From<Failure> for ManifestError {
    fn from(Failure { step, path, source }: Failure) -> Self {
        Self::Io {
            action: step,
            path,
            source,
        }
    }
}

impl Manifest {
    /// The layout that this code writes. Readers ignore fields that they do not know; the version
    /// rises only when an older reader would do harm.
    pub const VERSION: u32 = 1;

    /// Remembers a claim; the oldest are forgotten.
    pub fn remember_claim(&mut self, txid: Txid) {
        self.claims.push(txid);
        self.claims.sort_unstable();
        self.claims.dedup();
        let surplus = self.claims.len().saturating_sub(CLAIMS_MAX);
        self.claims.drain(..surplus);
    }
}

/// Only what every version has.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// The manifest of the replica at `place`; `None` when there is none (a replica that Litestream
/// wrote has none).
pub fn load(place: impl Into<Place>) -> Result<Option<Manifest>, ManifestError> {
    read(&place.into(), NAME)
}

/// Exchanges the manifest of the replica at `place` as a whole; creates the directory.
pub fn save(place: impl Into<Place>, manifest: &Manifest) -> Result<(), ManifestError> {
    save_with(&OsFs, place, manifest)
}

/// The same over another [`Fs`].
pub fn save_with(
    fs: &dyn Fs,
    place: impl Into<Place>,
    manifest: &Manifest,
) -> Result<(), ManifestError> {
    write(fs, &place.into(), NAME, manifest)
}

/// A small JSON file in the [`META_DIR`] of a replica; `None` when there is none.
pub(crate) fn read<T: DeserializeOwned>(
    place: &Place,
    name: &str,
) -> Result<Option<T>, ManifestError> {
    let path = place.path().join(META_DIR).join(name);
    let opened = place
        .open()
        .and_then(|dir| dir.open_subdir(OsStr::new(META_DIR)))
        .and_then(|meta| meta.open_file(OsStr::new(name)));
    parse(opened, path)
}

/// What an opened file of that kind holds; `None` when there is none.
pub(crate) fn parse<T: DeserializeOwned>(
    opened: io::Result<File>,
    path: PathBuf,
) -> Result<Option<T>, ManifestError> {
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(ManifestError::Io {
                action: "open",
                path,
                source,
            });
        }
    };
    let mut bytes = Vec::new();
    if let Err(source) = file.take(BYTES_MAX + 1).read_to_end(&mut bytes) {
        return Err(ManifestError::Io {
            action: "read",
            path,
            source,
        });
    }
    if bytes.len() as u64 > BYTES_MAX {
        return Err(ManifestError::TooLarge { path });
    }
    let malformed = |source| ManifestError::Malformed {
        path: path.clone(),
        source,
    };
    let Versioned { version } = serde_json::from_slice(&bytes).map_err(malformed)?;
    if version > Manifest::VERSION {
        return Err(ManifestError::Version {
            path,
            found: version,
        });
    }
    serde_json::from_slice(&bytes).map(Some).map_err(malformed)
}

/// Exchanges such a file as a whole; creates the directory.
pub(crate) fn write(
    fs: &dyn Fs,
    place: &Place,
    name: &str,
    content: &impl Serialize,
) -> Result<(), ManifestError> {
    let bytes = encoded(place.path().join(META_DIR).join(name), content)?;
    let saved = durable::ensure_dir(fs, place)
        .and_then(|dir| durable::ensure_subdir(fs, &dir, OsStr::new(META_DIR)))
        .and_then(|meta| durable::replace(fs, &meta, OsStr::new(name), &bytes));
    Ok(saved?)
}

/// The bytes of such a file.
pub(crate) fn encoded(path: PathBuf, content: &impl Serialize) -> Result<Vec<u8>, ManifestError> {
    let mut bytes = serde_json::to_vec_pretty(content)
        .map_err(|source| ManifestError::Malformed { path, source })?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// A [`Timestamp`] as a number of milliseconds.
pub(crate) mod millis {
    use super::{Deserialize, Deserializer, Serializer, Timestamp};

    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "the signature that serde calls"
    )]
    pub(crate) fn serialize<S: Serializer>(time: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_i64(time.millis())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        i64::deserialize(from).map(Timestamp::from_millis)
    }
}

/// A [`Txid`] as in the names of files.
pub(crate) mod txid {
    use super::{Deserialize, Deserializer, Serializer, Txid};

    #[expect(
        clippy::ref_option,
        clippy::trivially_copy_pass_by_ref,
        reason = "the signature that serde calls"
    )]
    pub(crate) fn serialize<S: Serializer>(txid: &Option<Txid>, to: S) -> Result<S::Ok, S::Error> {
        match txid {
            Some(txid) => to.collect_str(txid),
            None => to.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Txid>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| text.parse())
            .transpose()
            .map_err(serde::de::Error::custom)
    }
}

/// The same for several.
mod txids {
    use super::{Deserialize, Deserializer, Serializer, Txid};

    pub(super) fn serialize<S: Serializer>(txids: &[Txid], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(txids.iter().map(Txid::to_string))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Txid>, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        texts
            .iter()
            .map(|text| text.parse())
            .collect::<Result<_, _>>()
            .map_err(serde::de::Error::custom)
    }
}

/// A [`PageSize`] as a number of bytes.
mod page_size {
    use super::{Deserialize, Deserializer, PageSize, Serialize, Serializer};

    #[expect(
        clippy::ref_option,
        clippy::trivially_copy_pass_by_ref,
        reason = "the signature that serde calls"
    )]
    pub(super) fn serialize<S: Serializer>(
        size: &Option<PageSize>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        size.map(PageSize::get).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<PageSize>, D::Error> {
        let bytes = Option::<u32>::deserialize(from)?;
        bytes
            .map(PageSize::new)
            .transpose()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
