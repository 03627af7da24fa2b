//! Which inodes are claimed for which databases, and until when (L3).
//!
//! A claim must outlive every descriptor that the capture of a database has open, and must not
//! outlive them by much: the file system gives the number of a deleted inode to the next file,
//! and a claimed inode is never looked into.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use sqlrep_discover::{Claims, InodeKey, Kind};
use tokio::time::Instant;

/// How long the inode of a replaced file stays claimed: its capture reads the tail and closes it
/// within milliseconds, once it was told.
const REPLACED: Duration = Duration::from_secs(10);

/// A live database: pod, volume, path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) pod_uid: String,
    pub(super) volume: String,
    pub(super) path: PathBuf,
}

/// A database that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) kind: Kind,
    pub(super) inode: InodeKey,
}

/// The claims that adoption holds.
#[derive(Debug)]
pub(super) struct Held {
    claims: Claims,
    inodes: BTreeMap<Place, InodeKey>,
    /// Inodes of replaced files, and when their claims end; in that order.
    replaced: Vec<(Instant, InodeKey)>,
}

impl Held {
    pub(super) fn new(claims: Claims) -> Self {
        Self {
            claims,
            inodes: BTreeMap::new(),
            replaced: Vec::new(),
        }
    }

    /// Claims the inode for this place; the one before stays claimed for a while.
    pub(super) fn claim(&mut self, place: &Place, inode: InodeKey, now: Instant) {
        self.claims.claim(inode);
        if let Some(before) = self.inodes.insert(place.clone(), inode) {
            self.replaced.push((now + REPLACED, before));
        }
    }

    /// The inode that is claimed for this place.
    pub(super) fn inode(&self, place: &Place) -> Option<InodeKey> {
        self.inodes.get(place).copied()
    }

    /// Whether the pod has any claim.
    pub(super) fn of_pod(&self, pod_uid: &str) -> impl Iterator<Item = &Place> {
        self.inodes
            .keys()
            .filter(move |place| place.pod_uid == pod_uid)
    }

    /// Ends the claims of a pod whose descriptors are all closed; how many there were.
    pub(super) fn free_pod(&mut self, pod_uid: &str) -> usize {
        let before = self.inodes.len();
        let claims = &self.claims;
        self.inodes.retain(|place, inode| {
            let stays = place.pod_uid != pod_uid;
            if !stays {
                claims.release(*inode);
            }
            stays
        });
        before - self.inodes.len()
    }

    /// When the next claim on a replaced file ends.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.replaced.first().map(|(at, _)| *at)
    }

    /// Ends the claims on replaced files that are due; how many there were.
    pub(super) fn free_replaced(&mut self, now: Instant) -> usize {
        let due = self
            .replaced
            .iter()
            .take_while(|(at, _)| *at <= now)
            .count();
        for (_, inode) in self.replaced.drain(..due) {
            self.claims.release(inode);
        }
        due
    }
}
