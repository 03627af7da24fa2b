//! `.sqlrep/doubt.json`: that the replica was read back and found damaged, until it is mended.
//!
//! Whoever found it may end before it is mended, and the next owner may live on another node. The
//! note lies where the damage does, so that neither has to find it again by chance.

use std::ffi::OsStr;
use std::io;

use serde::{Deserialize, Serialize};
use sqlrep_format::Timestamp;

use crate::durable::{self, Failure, OsFs, Place};
use crate::layout::META_DIR;
use crate::manifest::{self, Manifest, ManifestError, millis};

/// The file's name in [`META_DIR`].
const NAME: &str = "doubt.json";
/// Bytes of a reason that are kept: it names a path, which is shorter.
const REASON_BYTES_MAX: usize = 8 * 1024;

/// What was found, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doubt {
    /// The layout of this file: that of the manifest.
    version: u32,
    /// What is wrong, in words.
    pub reason: String,
    /// When it was found.
    #[serde(rename = "found_ms", with = "millis")]
    pub found: Timestamp,
}

impl Doubt {
    /// For a reason that was found at this time.
    pub fn new(reason: &str, found: Timestamp) -> Self {
        Self {
            version: Manifest::VERSION,
            reason: reason[..reason.floor_char_boundary(REASON_BYTES_MAX)].to_owned(),
            found,
        }
    }
}

/// The note at the place of a replica; `None` when there is none.
pub fn load(place: impl Into<Place>) -> Result<Option<Doubt>, ManifestError> {
    manifest::read(&place.into(), NAME)
}

/// Exchanges it as a whole; creates the directory.
pub fn save(place: impl Into<Place>, doubt: &Doubt) -> Result<(), ManifestError> {
    manifest::write(&OsFs, &place.into(), NAME, doubt)
}

/// Takes it away, if there is one.
pub fn clear(place: impl Into<Place>) -> Result<(), ManifestError> {
    let place = place.into().join(META_DIR);
    match place.open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        opened => {
            let dir = opened.map_err(Failure::at("open", place.path()))?;
            Ok(durable::unlink_if_there(&OsFs, &dir, OsStr::new(NAME))?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doubt_is_found_again_until_it_is_cleared() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("a/b.db");
        clear(&place).unwrap();
        assert_eq!(load(&place).unwrap(), None);
        let first = Doubt::new("a file is corrupt", Timestamp::from_millis(7));
        let later = Doubt::new("another one is", Timestamp::from_millis(8));
        for doubt in [first, later] {
            save(&place, &doubt).unwrap();
            assert_eq!(load(&place).unwrap(), Some(doubt));
        }
        clear(&place).unwrap();
        assert_eq!(load(&place).unwrap(), None);
        clear(&place).unwrap();
    }

    #[test]
    fn a_reason_without_end_is_cut_and_stays_readable() {
        let dir = tempfile::tempdir().unwrap();
        let long = Doubt::new(&"é".repeat(1 << 20), Timestamp::from_millis(7));
        save(dir.path(), &long).unwrap();
        let found = load(dir.path()).unwrap().unwrap();
        assert!(found.reason.starts_with("éé") && found.reason.len() <= REASON_BYTES_MAX);
    }
}
