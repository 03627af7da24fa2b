//! The manifest of a replica, written by whoever owns it.
//!
//! An owner that was replaced and does not know yet must not write over its successor's name: the
//! next pod would believe that the replica is free. A successor begins above everything that the
//! one before had published, so the greater head is the later owner. Blocking: only on a lane.

use sqlrep_format::Txid;
use sqlrep_replica::Manifest;

use crate::error::StageError;
use crate::remote::Remote;

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signed {
    /// It is there.
    Done,
    /// Somebody else owns the replica since.
    Fenced {
        /// The writer's id.
        by: u64,
    },
}

/// Writes the manifest. `wanted.head` is the newest TXID that this owner has published, `claim` the
/// one at which it became the owner, if that was just now.
pub(crate) fn sign(
    store: &Remote,
    mut wanted: Manifest,
    claim: Option<Txid>,
) -> Result<Signed, StageError> {
    if let Some(found) = store.load_manifest()? {
        let other = found.owner.writer != wanted.owner.writer;
        if other && found.head > wanted.head {
            return Ok(Signed::Fenced {
                by: found.owner.writer.get(),
            });
        }
        // What this owner has no better knowledge of stays.
        wanted.file = wanted.file.or(found.file);
        wanted.page_size = wanted.page_size.or(found.page_size);
        wanted.namespace_uid = wanted.namespace_uid.or(found.namespace_uid);
        wanted.claims = found.claims;
        if found.owner.pod_uid == wanted.owner.pod_uid {
            wanted.owner.pod = found.owner.pod;
        }
    }
    if let Some(claim) = claim {
        wanted.remember_claim(claim);
    }
    store.save_manifest(&wanted)?;
    Ok(Signed::Done)
}

#[cfg(test)]
mod tests {
    use sqlrep_format::Timestamp;
    use sqlrep_replica::owner::WriterId;
    use sqlrep_replica::{Owner, OwnerState, Ownership};

    use super::*;
    use crate::remote::Whose;
    use crate::timing::Meter;

    fn manifest(uid: &str, head: u64) -> Manifest {
        Manifest {
            version: Manifest::VERSION,
            id: "media/surmai/data/x.db".parse().unwrap(),
            cluster_uid: None,
            namespace_uid: None,
            owner: Owner {
                pod: format!("surmai-{uid}"),
                pod_uid: uid.to_owned(),
                node: "n".to_owned(),
                writer: WriterId::new("n", uid),
                state: OwnerState::Active,
                since: Timestamp::from_millis(1),
            },
            file: None,
            page_size: None,
            head: Txid::new(head),
            claims: Vec::new(),
        }
    }

    #[test]
    fn an_owner_that_was_replaced_does_not_write_over_its_successor() {
        let dir = tempfile::tempdir().unwrap();
        let store = Remote::new(dir.path(), Whose::Given(None), Meter::default());
        let claim = Txid::new(11);
        assert_eq!(
            sign(&store, manifest("old", 10), None).unwrap(),
            Signed::Done
        );
        assert_eq!(
            sign(&store, manifest("new", 11), claim).unwrap(),
            Signed::Done
        );
        for state in [OwnerState::Active, OwnerState::Released] {
            let mut late = manifest("old", 10);
            late.owner.state = state;
            let by = WriterId::new("n", "new").get();
            assert_eq!(sign(&store, late, None).unwrap(), Signed::Fenced { by });
        }
        let found = store.load_manifest().unwrap().unwrap();
        assert_eq!(found.owner.pod_uid, "new");
        assert_eq!(found.claims, [claim.unwrap()]);
    }

    #[test]
    fn what_an_owner_does_not_know_stays_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let store = Remote::new(dir.path(), Whose::Given(None), Meter::default());
        let file = Some(Ownership {
            uid: 1000,
            gid: 1000,
            mode: 0o640,
        });
        let mut first = manifest("old", 10);
        first.file = file;
        sign(&store, first, Txid::new(3)).unwrap();
        let mut tail = manifest("old", 12);
        tail.owner.pod = "gone-old".to_owned();
        tail.owner.state = OwnerState::Released;
        sign(&store, tail, None).unwrap();
        let found = store.load_manifest().unwrap().unwrap();
        assert_eq!((found.file, found.owner.pod.as_str()), (file, "surmai-old"));
        assert_eq!((found.head, found.claims.len()), (Txid::new(12), 1));
        assert_eq!(found.owner.state, OwnerState::Released);
    }
}
