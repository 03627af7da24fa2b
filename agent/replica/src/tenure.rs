//! `.sqlrep/owner.json` of a volume's directory (`.sqlrep/apps/<namespace>/<app>/<volume>/owner.json` where
//! several apps may keep their replicas): the pod that has the volume, from before its app starts
//! until its last commit is in the replicas.
//!
//! A manifest says whose a replica is, once its first file is on the share. Before that nothing there
//! tells of a database, and an empty listing would let the app's next pod start without what waits in the
//! spool of another node. So whoever opens a gate leaves this note first. It is no fence: that is the
//! claim of each replica.

use std::ffi::OsStr;
use std::io;

use serde::{Deserialize, Serialize};

use crate::ManifestError;
use crate::durable::{self, About, Failure, Fs, OsFs, Place, Put};
use crate::manifest::{self, Manifest, Owner};

/// The file's name.
pub const NAME: &str = "owner.json";
/// Names that are found taken, and then free, before giving up.
const ATTEMPTS_MAX: u32 = 8;

/// What the file holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Note {
    /// The layout of this file: that of the manifest.
    version: u32,
    owner: Owner,
}

/// Who has a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tenure {
    /// Whoever asked, from now on.
    Taken,
    /// Whoever asked, for a while already.
    Held,
    /// Somebody else.
    Of(Box<Owner>),
}

/// Takes the volume whose note lies in `place` for a pod, where nobody has it, or the pod with the UID `from`. Durable
/// when it returns; made by a link to a free name, so that a note which a cache of the share does not
/// show yet is found.
pub fn take(
    place: impl Into<Place>,
    owner: &Owner,
    from: Option<&str>,
) -> Result<Tenure, ManifestError> {
    take_with(&OsFs, &place.into(), owner, from)
}

/// The same over another [`Fs`].
pub(crate) fn take_with(
    fs: &dyn Fs,
    place: &Place,
    owner: &Owner,
    from: Option<&str>,
) -> Result<Tenure, ManifestError> {
    let note = Note {
        version: Manifest::VERSION,
        owner: owner.clone(),
    };
    for _ in 0..ATTEMPTS_MAX {
        match read(place)? {
            Some(found) if found.pod_uid == owner.pod_uid => return Ok(Tenure::Held),
            Some(found) if from == Some(found.pod_uid.as_str()) => {
                let bytes = manifest::encoded(place.path().join(NAME), &note)?;
                let dir = place.open().map_err(Failure::at("open", place.path()))?;
                durable::replace(fs, &dir, OsStr::new(NAME), &bytes)?;
                return Ok(Tenure::Taken);
            }
            Some(found) => return Ok(Tenure::Of(Box::new(found))),
            None if publish(fs, place, &note)? == Put::Published => return Ok(Tenure::Taken),
            // Somebody was quicker.
            None => {}
        }
    }
    let taken = io::ErrorKind::ResourceBusy.into();
    Err(Failure::at("take", place.path().join(NAME))(taken).into())
}

/// Gives the volume whose note lies in `place` back, if the pod with this UID has it: all it committed is in the
/// replicas. Durable when it returns.
pub fn give_back(place: impl Into<Place>, pod_uid: &str) -> Result<(), ManifestError> {
    give_back_with(&OsFs, &place.into(), pod_uid)
}

/// The same over another [`Fs`].
pub(crate) fn give_back_with(
    fs: &dyn Fs,
    place: &Place,
    pod_uid: &str,
) -> Result<(), ManifestError> {
    if read(place)?.is_none_or(|found| found.pod_uid != pod_uid) {
        return Ok(());
    }
    let dir = place.open().map_err(Failure::at("open", place.path()))?;
    match fs.unlink(&dir, OsStr::new(NAME)) {
        // A repeated request may find its own work done.
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Failure::at("remove", place.path().join(NAME))(error).into())
        }
        _ => Ok(fs
            .fsync_dir(&dir)
            .map_err(Failure::at("fsync", place.path()))?),
    }
}

fn read(place: &Place) -> Result<Option<Owner>, ManifestError> {
    let opened = place.open().and_then(|dir| dir.open_file(OsStr::new(NAME)));
    let note = manifest::parse::<Note>(opened, place.path().join(NAME))?;
    Ok(note.map(|note| note.owner))
}

fn publish(fs: &dyn Fs, place: &Place, note: &Note) -> Result<Put, ManifestError> {
    let bytes = manifest::encoded(place.path().join(NAME), note)?;
    let dir = durable::ensure_dir(fs, place)?;
    let write = &mut |file: &mut dyn io::Write| file.write_all(&bytes);
    Ok(durable::publish(
        fs,
        &dir,
        OsStr::new(NAME),
        About::default(),
        write,
    )?)
}

#[cfg(test)]
mod tests;
