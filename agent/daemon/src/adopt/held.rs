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
    found: BTreeMap<Place, Found>,

    /// Inodes of replaced files, and when their claims end; in that order.
    replaced: Vec<(Instant, InodeKey)>,
}

impl Held {
    pub(super) fn new(claims: Claims) -> Self {
        Self {
            claims,
            found: BTreeMap::new(),
            replaced: Vec::new(),
        }
    }

    /// Claims the inode for this place; the one before stays claimed for a while.
    pub(super) fn claim(&mut self, place: &Place, found: Found, now: Instant) {
        self.claims.claim(found.inode);
        if let Some(before) = self.found.insert(place.clone(), found) {
            self.replaced.push((now + REPLACED, before.inode));
        }
    }

    /// The journal mode of a claimed database changed.
    pub(super) fn note_kind(&mut self, place: &Place, kind: Kind) {
        if let Some(found) = self.found.get_mut(place) {
            found.kind = kind;
        }
    }

    /// The inode that is claimed for this place.
    pub(super) fn inode(&self, place: &Place) -> Option<InodeKey> {
        self.found.get(place).map(|found| found.inode)
    }

    /// The databases of a pod that are claimed.
    pub(super) fn of_pod(&self, pod_uid: &str) -> impl Iterator<Item = (&Place, Kind)> {
        let of_pod = move |(place, _): &(&Place, &Found)| place.pod_uid == pod_uid;
        let found = self.found.iter().filter(of_pod);
        found.map(|(place, found)| (place, found.kind))
    }

    /// Ends the claims of a pod whose descriptors are all closed; how many there were.
    pub(super) fn free_pod(&mut self, pod_uid: &str) -> usize {
        let before = self.found.len();
        let claims = &self.claims;
        self.found.retain(|place, found| {
            let stays = place.pod_uid != pod_uid;
            if !stays {
                claims.release(found.inode);
            }
            stays
        });
        before - self.found.len()
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
