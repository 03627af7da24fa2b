//! What is known of a volume's replicas in another place than the one that its pod names now.
//!
//! An annotation decides whether an app's replicas lie on the agents' share or in a volume of its
//! pods, and a replica does not move by itself when the annotation comes or goes. In the new place
//! there would be nothing, or what was there before: the app would start without its newest state
//! (G3). The share is always within reach; what is in a volume is not, so whoever writes there leaves
//! a note on the share ([`sqlrep_replica::moved`]). Blocking: only on the lanes of the share.

use std::path::PathBuf;

use sqlrep_format::Txid;
use sqlrep_replica::{DbId, META_DIR, Moved, Store as _, moved};

use crate::Volume;
use crate::error::StageError;
use crate::home::Home;
use crate::stage::restore::{Candidate, Listed, candidates, identify};

/// A replica in another place.
#[derive(Clone, Debug)]
pub(crate) struct Elsewhere {
    pub(crate) id: DbId,
    /// The newest TXID that is known to be in it.
    head: Option<Txid>,
    /// Whether it was compared with the replica that is used now, and was not newer.
    settled: bool,
    at: At,
}

/// Where it is.
#[derive(Clone, Debug)]
enum At {
    /// On the agents' share, in this directory.
    Share(PathBuf),
    /// In a volume of the app's pods; the place for it on the share is this directory.
    Volume { name: String, share: PathBuf },
}

/// The replicas of a volume that are not where its pod says that they are.
pub(crate) fn elsewhere(share: &Home, volume: &Volume) -> Result<Vec<Elsewhere>, StageError> {
    share.check()?;
    let key = key_of(volume);
    let mut found = Vec::new();
    if volume.target.is_some() {
        for Candidate { id, store, head } in candidates(share, volume, Listed::Cached)? {
            let note = store.load_moved()?.filter(|note| Some(&*note.key) == key);
            let at = At::Share(store.dir().to_path_buf());
            found.push(Elsewhere {
                id,
                head,
                settled: note.is_some_and(|note| head <= note.left),
                at,
            });
        }
    }
    let pod = &volume.pod;
    let place = share.place_of(&pod.namespace, &pod.app, &volume.name);
    let noted = share.acting(|| moved::below(&place));
    for below in noted? {
        let Ok(id) = identify(volume, &below) else {
            continue; // said when replicas were looked for
        };
        let store = share.remote(&id);
        if let Some(note) = store.load_moved()?
            && Some(&*note.key) != key
        {
            let (name, share) = (note.volume, store.dir().to_path_buf());
            found.push(Elsewhere {
                id,
                head: note.head,
                settled: false,
                at: At::Volume { name, share },
            });
        }
    }
    Ok(found)
}

/// The first that is newer than what is here.
pub(crate) fn newer<'a>(
    there: &'a [Elsewhere],
    here: &[Candidate],
) -> Option<(&'a Elsewhere, Option<Txid>)> {
    there.iter().find_map(|other| {
        let same = here.iter().find(|candidate| candidate.id == other.id);
        let head = same.and_then(|candidate| candidate.head);
        // One that is here and cannot be listed is not restored, and that says why.
        let older = head.is_some() && head < other.head && !other.settled;
        (same.is_none() || older).then_some((other, head))
    })
}

impl Elsewhere {
    /// What a person has to know, and can do.
    pub(crate) fn words(&self, volume: &Volume, here: Option<Txid>) -> String {
        let path = self.id.encoded_path();
        let reached = self.head.map_or_else(
            || "holds files".to_owned(),
            |head| format!("has reached TXID {head}"),
        );
        let here = here.map_or_else(
            || "has none of it".to_owned(),
            |head| format!("only has TXID {head}"),
        );
        let now = volume.target.as_ref().map(|target| &target.name);
        let now_in = now.map_or_else(
            || "the agents' share".to_owned(),
            |name| format!("volume {name} (sqlrep.io/target-volume)"),
        );
        match &self.at {
            At::Share(dir) => format!(
                "its replica on the agents' share, {dir}, {reached}, and {now_in} {here}: copy \
                 that directory to {path}/ in the volume while the app is scaled to 0, or take the \
                 annotation away again; if it is not wanted any more, move it away",
                dir = dir.display()
            ),
            At::Volume { name, share } => {
                let to = now.map_or_else(
                    || share.display().to_string(),
                    |name| format!("{path}/ in volume {name}"),
                );
                format!(
                    "its replica in volume {name} of its pods (sqlrep.io/target-volume) {reached}, \
                     and {now_in} {here}: copy {path}/ of that volume to {to} while the app is \
                     scaled to 0, or put the annotation back; if it is not wanted any more, remove \
                     {note}",
                    note = share.join(META_DIR).join(moved::NAME).display()
                )
            }
        }
    }
}

/// Notes on the share that the replica is in a volume, at least up to this TXID. `restored`: what is
/// on the share was compared with it, and is not newer.
pub(crate) fn note(
    share: &Home,
    id: &DbId,
    mut note: Moved,
    restored: bool,
) -> Result<(), StageError> {
    share.check()?;
    let store = share.remote(id);
    note.left = if restored {
        store.list()?.head()
    } else {
        let before = store.load_moved()?;
        before
            .filter(|before| before.key == note.key)
            .and_then(|before| before.left)
    };
    store.save_moved(&note)
}

fn key_of(volume: &Volume) -> Option<&str> {
    let place = &volume.target.as_ref()?.place;
    place.as_ref().ok().map(|place| &*place.key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::{Remote, Whose};
    use crate::timing::Meter;

    fn id() -> DbId {
        "media/surmai/data/x.db".parse().unwrap()
    }

    fn here(head: u64) -> [Candidate; 1] {
        [Candidate {
            id: id(),
            store: Remote::new(
                PathBuf::from("nowhere"),
                Whose::Given(None),
                Meter::default(),
            ),
            head: Txid::new(head),
        }]
    }

    fn there(head: u64) -> Elsewhere {
        Elsewhere {
            id: id(),
            head: Txid::new(head),
            settled: false,
            at: At::Share(PathBuf::from("share")),
        }
    }

    fn waits(there: &Elsewhere, here: &[Candidate]) -> bool {
        newer(std::slice::from_ref(there), here).is_some()
    }

    /// A TXID that cannot be read.
    const UNREAD: u64 = 0;

    #[test]
    fn an_app_waits_where_it_would_start_with_less() {
        assert!(waits(&there(1), &[]), "it would start empty");
        assert!(waits(&there(UNREAD), &[]), "files are there");
        assert!(waits(&there(5), &here(4)));
        assert!(!waits(&there(5), &here(5)), "a copy");
        assert!(!waits(&there(5), &here(6)), "it went on");
        assert!(
            !waits(&there(5), &here(UNREAD)),
            "the restore says what is wrong"
        );
    }

    #[test]
    fn what_was_compared_once_only_counts_where_nothing_is_left() {
        let settled = Elsewhere {
            settled: true,
            ..there(5)
        };
        assert!(!waits(&settled, &here(1)), "a new chain");
        assert!(waits(&settled, &[]), "an emptied volume");
    }
}
