//! The restore stage: puts a volume's databases back before their app starts.
//!
//! Blocking: only on a lane. Order, so that a crash between any two steps is harmless: stage the
//! database beside its place → claim the replica at head + 1 → remember the position → publish by
//! rename without replace. Until the last step the app sees nothing; from the claim on the old
//! owner is fenced.

use std::path::{Path, PathBuf};

use sqlrep_format::{Pgno, Timestamp, Txid, page_checksum};
use sqlrep_replica::owner::{self, Claim, WriterId};
use sqlrep_replica::{
    DbId, Destination, Manifest, OwnerState, Point, RestoreOptions, Staged, Store, restore,
};
use sqlrep_spool::{DatabaseSpool, Seed};

use crate::error::StageError;
use crate::remote::Remote;
use crate::{PodIdentity, Volume};

/// Threads that decode one restore.
const RESTORE_THREADS: usize = 4;

/// Heads that are claimed before giving up: each lost claim means that the old owner was still
/// publishing.
const CLAIMS_MAX: u32 = 16;

/// One database that a volume's replica holds.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) id: DbId,
    pub(crate) store: Remote,
}

/// Who holds the replica, and whether it may be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Handover {
    /// Nobody, or somebody who is surely gone.
    Free,
    /// Somebody who may still write.
    Held { pod: String, node: String },
}

/// Judges the last owner (KUBERNETES.md §3.3, as far as one node can know). Pure.
///
/// `lives` says whether a pod UID is known on this node or still has an unshipped tail here.
pub(crate) fn handover(
    manifest: Option<&Manifest>,
    me: &PodIdentity,
    my_node: &str,
    lives: impl Fn(&str) -> bool,
) -> Handover {
    let Some(manifest) = manifest else {
        return Handover::Free;
    };
    let owner = &manifest.owner;
    let held = Handover::Held {
        pod: owner.pod.clone(),
        node: owner.node.clone(),
    };
    match owner.state {
        OwnerState::Released => Handover::Free,
        OwnerState::Active if owner.pod_uid == me.uid => Handover::Free,
        OwnerState::Active if owner.node == my_node && !lives(&owner.pod_uid) => Handover::Free,
        OwnerState::Active => held,
    }
}

/// What was put back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoredDatabase {
    /// Identity of the replica.
    pub id: DbId,
    /// The TXID that was restored.
    pub txid: Txid,
    /// Bytes of the database.
    pub bytes: u64,
    /// Files that were read.
    pub files: usize,
}

/// Restores one database and makes this node its owner.
pub(crate) fn restore_and_claim(
    candidate: &Candidate,
    volume: &Volume,
    writer: WriterId,
    spool: &DatabaseSpool,
    now: Timestamp,
) -> Result<RestoredDatabase, StageError> {
    for _ in 0..CLAIMS_MAX {
        let staged = stage(candidate, volume)?;
        let page = staged.page(Pgno::FIRST).map_err(|source| StageError::Io {
            action: "read back the first page of",
            path: volume.dir.join(candidate.id.path()),
            source,
        })?;
        let claim = owner::claim(
            &candidate.store,
            writer,
            staged.txid(),
            &page,
            staged.header(),
            now,
        )?;
        match claim {
            Claim::Won(txid) => return publish(candidate, staged, spool, txid, now),
            Claim::Lost { by } => {
                tracing::info!(db = %candidate.id, by, "the old owner published meanwhile");
            }
        }
    }
    Err(StageError::Refused {
        reason: format!("somebody keeps writing to the replica of {}", candidate.id),
    })
}

fn stage(candidate: &Candidate, volume: &Volume) -> Result<Staged, StageError> {
    let manifest = candidate.store.load_manifest()?;
    let options = RestoreOptions {
        threads: RESTORE_THREADS,
        ownership: manifest.and_then(|manifest| manifest.file),
    };
    let destination = Destination::in_volume(&volume.dir, candidate.id.path())?;
    Ok(restore::stage(
        &candidate.store,
        Point::Latest,
        &destination,
        &options,
        &(),
    )?)
}

fn publish(
    candidate: &Candidate,
    staged: Staged,
    spool: &DatabaseSpool,
    claimed: Txid,
    now: Timestamp,
) -> Result<RestoredDatabase, StageError> {
    let header = *staged.header();
    let pages = header.commit.pages(header.page_size);
    let mut checksums = pages.map(|pgno| {
        staged
            .page(pgno)
            .map(|page| (pgno, page_checksum(pgno, &page)))
    });
    spool.seed(Seed {
        txid: claimed,
        timestamp: header.timestamp.after(now),
        commit: header.commit,
        page_size: header.page_size,
        checksums: &mut checksums,
    })?;
    let restored = staged.publish()?;
    Ok(RestoredDatabase {
        id: candidate.id.clone(),
        txid: restored.txid,
        bytes: restored.bytes,
        files: restored.files,
    })
}

/// The databases that the replica root holds for a volume, from a bounded walk.
pub(crate) fn candidates(
    root: &Path,
    volume: &Volume,
    open: impl Fn(PathBuf) -> Remote,
) -> Result<Vec<Candidate>, StageError> {
    let pod = &volume.pod;
    let base = root.join(&pod.namespace).join(&pod.app).join(&volume.name);
    let mut found = Vec::new();
    for below in sqlrep_replica::replicas_below(&base)? {
        let dir = base.join(&below);
        let relative = dir.strip_prefix(root).unwrap_or(&dir).to_path_buf();
        match DbId::from_replica_path(&relative) {
            Ok(id) => found.push(Candidate {
                id,
                store: open(dir),
            }),
            Err(error) => {
                tracing::warn!(path = %dir.display(), err = %error, "not a replica of ours");
            }
        }
    }
    found.retain(|candidate| match candidate.store.list() {
        Ok(listing) => listing.head().is_some(),
        // An unreadable replica is not an empty one: the restore will say why it fails.
        Err(_) => true,
    });
    Ok(found)
}
