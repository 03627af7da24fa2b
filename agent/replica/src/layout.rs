//! Identities of databases, and the paths under which a replica keeps its files.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use sqlrep_format::TxidRange;
use sqlrep_format::ltx::{FileName, Level};

use crate::StoreError;
use crate::durable::{Dir, Place};

/// The directory below a replica that holds the levels (LITESTREAM.md §2.1).
pub const LTX_DIR: &str = "ltx";
/// The directory below a replica that holds what is ours and not Litestream's.
pub const META_DIR: &str = ".sqlrep";
/// The directory in [`META_DIR`] of files that were damaged, each named by when it was set aside, its
/// level and its name.
pub(crate) const DAMAGED_DIR: &str = "damaged";
/// The directory of branches in [`META_DIR`].
pub(crate) const BRANCHES_DIR: &str = "branches";

/// Longest DNS label (RFC 1123).
const LABEL_BYTES_MAX: usize = 63;
/// Longest DNS subdomain (RFC 1123).
const SUBDOMAIN_BYTES_MAX: usize = 253;
/// Longest name that Linux file systems and NFS store (`NAME_MAX`).
const NAME_BYTES_MAX: usize = 255;
/// Longest path of a database within its volume; leaves room below `PATH_MAX` for the root.
const PATH_BYTES_MAX: usize = 2048;

/// What a part of a path may keep as it is; the rest is percent-encoded.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'+')
    .remove(b'@')
    .remove(b'=');

/// Names that mean something inside a replica; a database path that uses one has it escaped,
/// so that a database called `a/ltx/0` cannot write among the files of database `a`.
/// `generations` would be taken for an old replica by Litestream (LITESTREAM.md §2.3).
const RESERVED: [&str; 2] = [LTX_DIR, "generations"];

/// What makes a database itself: namespace, app, volume and path within the volume.
///
/// ```
/// # use sqlrep_replica::DbId;
/// let id: DbId = "media/surmai/sqlite/data.db".parse()?;
/// assert_eq!(id.app(), "surmai");
/// assert_eq!(id.replica_path().to_str(), Some("media/surmai/sqlite/data.db"));
/// # Ok::<(), sqlrep_replica::IdError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DbId {
    namespace: String,
    app: String,
    volume: String,
    path: PathBuf,
}

/// A text or path that identifies no database.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// Fewer than four parts.
    #[error("{0:?} is no database: expected namespace/app/volume/path")]
    Parts(String),
    /// A part that Kubernetes would not accept as a name.
    #[error("{part} {text:?} is no DNS-1123 name: lower-case letters, digits and '-' are accepted")]
    Name {
        /// Which part.
        part: &'static str,
        /// Its text.
        text: String,
    },
    /// A path that does not stay inside the volume.
    #[error("path {0:?} is not a plain relative path")]
    Path(PathBuf),
    /// A path that no replica can store.
    #[error("path {0:?} is too long once encoded: 255 bytes a part, 2048 in all")]
    TooLong(PathBuf),
    /// A percent sign without two hex digits, or an escape that was not needed.
    #[error("{0:?} is not encoded the way sqlrep writes it")]
    Encoding(String),
}

impl DbId {
    /// Checks and joins the four parts.
    pub fn new(
        namespace: &str,
        app: &str,
        volume: &str,
        path: impl AsRef<Path>,
    ) -> Result<Self, IdError> {
        let path = path.as_ref();
        check_name("namespace", namespace, is_label(namespace.as_bytes()))?;
        check_name("app", app, is_subdomain(app.as_bytes()))?;
        check_name("volume", volume, is_label(volume.as_bytes()))?;
        check_path(path)?;
        let id = Self {
            namespace: namespace.to_owned(),
            app: app.to_owned(),
            volume: volume.to_owned(),
            path: path.to_owned(),
        };
        let encoded = id.encoded_parts();
        if encoded.iter().any(|part| part.len() > NAME_BYTES_MAX)
            || encoded.iter().map(|part| part.len() + 1).sum::<usize>() > PATH_BYTES_MAX
        {
            return Err(IdError::TooLong(path.to_owned()));
        }
        Ok(id)
    }

    /// The pod's namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The app: a name that outlives its pods.
    pub fn app(&self) -> &str {
        &self.app
    }

    /// The volume within the pod.
    pub fn volume(&self) -> &str {
        &self.volume
    }

    /// The file within the volume, relative.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the replica lives, relative to the replica root.
    pub fn replica_path(&self) -> PathBuf {
        let mut path = PathBuf::from(&self.namespace);
        path.push(&self.app);
        path.push(&self.volume);
        path.extend(self.encoded_parts());
        path
    }

    /// The path part alone, as it stands on disk: where the replica lives in a target volume.
    pub fn encoded_path(&self) -> String {
        self.encoded_parts().join("/")
    }

    /// The reverse of [`DbId::encoded_path`].
    pub fn from_encoded(
        namespace: &str,
        app: &str,
        volume: &str,
        encoded_path: &str,
    ) -> Result<Self, IdError> {
        let path: Vec<u8> = percent_decode_str(encoded_path).collect();
        let id = Self::new(namespace, app, volume, OsStr::from_bytes(&path))?;
        // One database has one spelling: else two texts would name one replica.
        if id.encoded_path() == encoded_path {
            Ok(id)
        } else {
            Err(IdError::Encoding(encoded_path.to_owned()))
        }
    }

    /// The reverse of [`DbId::replica_path`].
    pub fn from_replica_path(path: &Path) -> Result<Self, IdError> {
        let text = path
            .to_str()
            .ok_or_else(|| IdError::Path(path.to_owned()))?;
        text.parse()
    }

    fn encoded_parts(&self) -> Vec<String> {
        self.path.iter().map(encode_part).collect()
    }
}

impl fmt::Display for DbId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.namespace, self.app, self.volume)?;
        self.encoded_parts()
            .iter()
            .try_for_each(|part| write!(f, "/{part}"))
    }
}

impl fmt::Debug for DbId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DbId({self})")
    }
}

impl FromStr for DbId {
    type Err = IdError;

    /// Reads what `Display` writes.
    fn from_str(text: &str) -> Result<Self, IdError> {
        let mut parts = text.splitn(4, '/');
        let (Some(namespace), Some(app), Some(volume), Some(path)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(IdError::Parts(text.to_owned()));
        };
        Self::from_encoded(namespace, app, volume, path)
    }
}

impl serde::Serialize for DbId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for DbId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Replicas nest no deeper: three names and the parts of a path.
const REPLICA_DEPTH_MAX: usize = 64;
/// Directories looked into in one walk; a root with more wants to be asked by namespace (L12).
const REPLICA_DIRS_MAX: usize = 200_000;

/// The replicas at or below a directory, relative to it and sorted: every directory that holds
/// `ltx/`. Links are not followed; a directory that does not exist holds none.
pub fn replicas_below(place: impl Into<Place>) -> Result<Vec<PathBuf>, StoreError> {
    dirs_below(&place.into(), |_, names| {
        Ok(names.iter().any(|name| name == LTX_DIR))
    })
}

/// The directories of databases at or below one, of which `wanted` holds, given the names of the
/// directories in them; relative and sorted.
pub(crate) fn dirs_below(
    place: &Place,
    wanted: impl Fn(&Dir, &[OsString]) -> io::Result<bool>,
) -> Result<Vec<PathBuf>, StoreError> {
    let mut found = Vec::new();
    let mut looked = 0;
    match place.open() {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(StoreError::io("open", place.path())(error)),
    }
    let mut waiting = vec![(PathBuf::new(), 0)];
    while let Some((relative, depth)) = waiting.pop() {
        looked += 1;
        if looked > REPLICA_DIRS_MAX || depth > REPLICA_DEPTH_MAX {
            let text = format!(
                "more than {REPLICA_DIRS_MAX} directories, or deeper than {REPLICA_DEPTH_MAX}"
            );
            return Err(StoreError::io("look for replicas in", place.path())(
                io::Error::other(text),
            ));
        }
        let inner = place.join(&relative);
        let looked_into = inner.open().and_then(|dir| {
            let names = dir.subdirs()?;
            Ok((wanted(&dir, &names)?, names))
        });
        let (is_wanted, names) = match looked_into {
            Ok(looked_into) => looked_into,
            // Gone between two looks.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(StoreError::io("list", inner.path())(error)),
        };
        let inner = names
            .iter()
            .filter(|name| *name != LTX_DIR && *name != META_DIR);
        waiting.extend(inner.map(|name| (relative.join(name), depth + 1)));
        if is_wanted {
            found.push(relative);
        }
    }
    found.sort();
    Ok(found)
}

/// The directory of one level, relative to the replica.
pub fn level_dir(level: Level) -> PathBuf {
    let mut path = PathBuf::from(LTX_DIR);
    path.push(level.to_string());
    path
}

/// The path of one LTX file, relative to the replica.
pub fn file_path(level: Level, range: TxidRange) -> PathBuf {
    level_dir(level).join(FileName(range).to_string())
}

fn check_name(part: &'static str, text: &str, good: bool) -> Result<(), IdError> {
    if good {
        Ok(())
    } else {
        Err(IdError::Name {
            part,
            text: text.to_owned(),
        })
    }
}

fn is_label(text: &[u8]) -> bool {
    let edge = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.len() <= LABEL_BYTES_MAX
        && text.first().is_some_and(edge)
        && text.last().is_some_and(edge)
        && text.iter().all(|byte| edge(byte) || *byte == b'-')
}

fn is_subdomain(text: &[u8]) -> bool {
    // The parts of a subdomain may be longer than 63 bytes: Kubernetes limits the whole only.
    let part = |part: &[u8]| {
        let edge = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        part.first().is_some_and(edge)
            && part.last().is_some_and(edge)
            && part.iter().all(|byte| edge(byte) || *byte == b'-')
    };
    text.len() <= SUBDOMAIN_BYTES_MAX && text.split(|byte| *byte == b'.').all(part)
}

/// Only plain parts, spelled the plain way: `a//b`, `./a` and `a/` name what `a/b` and `a` name.
fn check_path(path: &Path) -> Result<(), IdError> {
    let plain = path
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    let respelled: PathBuf = path.components().collect();
    let bytes = path.as_os_str().as_bytes();
    let good = plain
        && !bytes.is_empty()
        && !bytes.contains(&0)
        && respelled.as_os_str() == path.as_os_str();
    if good {
        Ok(())
    } else {
        Err(IdError::Path(path.to_owned()))
    }
}

pub(crate) fn encode_part(part: &OsStr) -> String {
    let bytes = part.as_bytes();
    let reserved = RESERVED.iter().any(|name| name.as_bytes() == bytes)
        || bytes.starts_with(META_DIR.as_bytes());
    match bytes.split_first() {
        Some((first, rest)) if reserved => {
            format!("%{first:02X}{}", percent_encode(rest, KEPT))
        }
        _ => percent_encode(bytes, KEPT).to_string(),
    }
}

#[cfg(test)]
mod tests;
