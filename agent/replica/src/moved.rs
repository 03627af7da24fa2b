//! `.sqlrep/moved.json`: that the replica of this place is kept in another one, a volume of the app's
//! pods.
//!
//! Nothing else in the agents' root says so, and a pod that names that volume no more would start as
//! if there never was a replica. So whoever claims one in a volume leaves this note in the root.

use std::ffi::OsStr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sqlrep_format::Txid;

use crate::durable::{OsFs, Place};
use crate::layout::{META_DIR, dirs_below};
use crate::manifest::{self, Manifest};
use crate::{ManifestError, StoreError};

/// The file's name in [`META_DIR`].
pub const NAME: &str = "moved.json";

/// Where a replica is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// The layout of this file: that of the manifest.
    version: u32,
    /// The volume's name in its pods.
    pub volume: String,
    /// What the volume is known by, whatever pod mounts it.
    pub key: String,
    /// The TXID that the replica there had reached when this was written; it went on since.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "manifest::txid"
    )]
    pub head: Option<Txid>,
    /// The TXID of the replica that stayed here, when the one there was found to be as new.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "manifest::txid"
    )]
    pub left: Option<Txid>,
    /// The node from which it was written last.
    pub node: String,
}

impl Moved {
    /// To a volume, from a node.
    pub fn new(volume: &str, key: &str, node: &str) -> Self {
        Self {
            version: Manifest::VERSION,
            volume: volume.to_owned(),
            key: key.to_owned(),
            head: None,
            left: None,
            node: node.to_owned(),
        }
    }
}

/// The note at the place of a replica.
pub fn load(place: impl Into<Place>) -> Result<Option<Moved>, ManifestError> {
    manifest::read(&place.into(), NAME)
}

/// Exchanges it as a whole; creates the directory.
pub fn save(place: impl Into<Place>, moved: &Moved) -> Result<(), ManifestError> {
    manifest::write(&OsFs, &place.into(), NAME, moved)
}

/// The places with such a note at or below a directory, relative to it and sorted; bounded as
/// [`crate::replicas_below`].
pub fn below(place: impl Into<Place>) -> Result<Vec<PathBuf>, StoreError> {
    dirs_below(&place.into(), |dir, names| {
        let has_notes = names.iter().any(|name| name == META_DIR);
        Ok(has_notes
            && dir
                .open_subdir(OsStr::new(META_DIR))?
                .holds(OsStr::new(NAME))?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_found_again_and_is_no_replica() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("a/b.db");
        assert_eq!(load(&place).unwrap(), None);
        let mut moved = Moved::new("nas", "uid-1", "n1");
        moved.head = Txid::new(7);
        save(&place, &moved).unwrap();
        std::fs::create_dir_all(dir.path().join("c.db/ltx/0")).unwrap();
        std::fs::create_dir_all(dir.path().join("d.db/.sqlrep/branches")).unwrap();
        assert_eq!(load(&place).unwrap(), Some(moved));
        assert_eq!(below(dir.path()).unwrap(), [PathBuf::from("a/b.db")]);
        let replicas = crate::replicas_below(dir.path()).unwrap();
        assert_eq!(replicas, [PathBuf::from("c.db")]);
    }
}
