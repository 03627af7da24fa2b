//! `<state>/volumes/`: the volumes that this node has on the share for its pods, remembered so that the
//! next agent gives back those of pods that ended meanwhile.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Error, memo};

/// A volume of a pod, in the agents' root.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VolumeNote {
    /// The pod's namespace.
    pub namespace: String,
    /// Its app.
    pub app: String,
    /// The volume in the pod.
    pub volume: String,
    /// The pod's UID.
    pub pod_uid: String,
}

impl VolumeNote {
    /// Neither a name of a volume nor a UID can lead out of the directory: the one is a DNS label, the
    /// other is checked.
    fn path(&self, dir: &Path) -> Result<PathBuf, Error> {
        check_uid(&self.pod_uid)?;
        Ok(dir.join(format!("{}.{}.json", self.pod_uid, self.volume)))
    }
}

/// Refuses what cannot be the name of a directory of ours.
pub(crate) fn check_uid(pod_uid: &str) -> Result<(), Error> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if !(1..=128).contains(&pod_uid.len())
        || !pod_uid.bytes().all(good)
        || pod_uid.starts_with('.')
        || pod_uid == sqlrep_replica::LTX_DIR
    {
        return Err(Error::BadPodUid {
            uid: pod_uid.to_owned(),
        });
    }
    Ok(())
}

/// Remembers a volume, durably; costs nothing when it is known.
pub(crate) fn note(dir: &Path, note: &VolumeNote) -> Result<(), Error> {
    let path = note.path(dir)?;
    if memo::load::<VolumeNote>(&path).ok().flatten().as_ref() == Some(note) {
        return Ok(());
    }
    memo::save(&path, note)
}

/// All that are remembered. What cannot be read is told, and is of no use to anybody.
pub(crate) fn all(dir: &Path) -> Result<Vec<VolumeNote>, Error> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("list", dir)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::io("list", dir))?.path();
        if path.extension().is_none_or(|end| end != "json") {
            continue; // a temp file of a process that was killed
        }
        match memo::load(&path) {
            Ok(note) => found.extend(note),
            Err(error) => tracing::warn!(%error, "a note of a volume is left out"),
        }
    }
    Ok(found)
}

/// Forgets a volume. One that comes back after a power failure is given back a second time, which
/// does no harm.
pub(crate) fn forget(dir: &Path, note: &VolumeNote) -> Result<(), Error> {
    let path = note.path(dir)?;
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(uid: &str, volume: &str) -> VolumeNote {
        VolumeNote {
            namespace: "media".to_owned(),
            app: "surmai".to_owned(),
            volume: volume.to_owned(),
            pod_uid: uid.to_owned(),
        }
    }

    #[test]
    fn what_is_noted_is_known_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("volumes");
        assert_eq!(all(&dir).unwrap(), []);
        let (one, two) = (of("u-1.x", "data"), of("u-1.x", "cache"));
        for _ in 0..2 {
            note(&dir, &one).unwrap();
            note(&dir, &two).unwrap();
        }
        let moved = VolumeNote {
            app: "other".to_owned(),
            ..two.clone()
        };
        note(&dir, &moved).unwrap();
        forget(&dir, &one).unwrap();
        forget(&dir, &one).unwrap();
        fs::write(dir.join("bad.data.json"), "no JSON").unwrap();
        fs::write(dir.join(".sqlrep-0123456789abcdef"), "half of one").unwrap();
        assert_eq!(all(&dir).unwrap(), [moved]);
    }

    #[test]
    fn no_uid_leads_out_of_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        for bad in ["", "..", "../x", "a/b", ".x"] {
            let noted = note(dir.path(), &of(bad, "data"));
            assert!(matches!(noted, Err(Error::BadPodUid { .. })), "{bad:?}");
        }
    }
}
