//! Damaged files leave the chain, so that no reader plans with them; and what is lost by that.

use std::collections::BTreeSet;

use sqlrep_format::{Timestamp, Txid};

use super::{Policy, Unproven};
use crate::plan::{plan, points};
use crate::{Listing, Point, ReplicaFile, RestorePoint, Store, StoreError};

/// Damaged files that may leave the chain: only [`condemn`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condemned(Vec<ReplicaFile>);

/// Proves that damaged files may go: refused unless the newest state restores without them. What
/// stands in for them comes first.
///
/// The file of a claim stays where it is: its name must stay taken.
pub fn condemn(
    listing: &Listing,
    damaged: &[ReplicaFile],
    policy: &Policy,
) -> Result<Condemned, Unproven> {
    let files = damaged.iter().filter(|file| !policy.spares(file)).cloned();
    let files: Vec<ReplicaFile> = files.collect();
    let gone = |listing: Listing, file| listing.without(file);
    let rest = files.iter().fold(listing.clone(), gone);
    let road = plan(&rest, Point::Latest).map_err(Unproven::Broken)?;
    if let Some(head) = listing.head().filter(|head| road.head() != Some(*head)) {
        return Err(Unproven::Point(head));
    }
    Ok(Condemned(files))
}

/// The points that a replica had and has no more, ascending.
pub fn lost(before: &Listing, after: &Listing) -> Vec<RestorePoint> {
    let left: BTreeSet<Txid> = points(after).iter().map(|point| point.txid).collect();
    let gone = |point: &RestorePoint| !left.contains(&point.txid);
    points(before).into_iter().filter(gone).collect()
}

impl Condemned {
    /// The files.
    pub fn files(&self) -> &[ReplicaFile] {
        &self.0
    }

    /// Moves the files aside; after an error the rest is still there.
    pub fn carry_out(&self, store: &dyn Store, now: Timestamp) -> Result<(), StoreError> {
        self.0
            .iter()
            .try_for_each(|file| store.set_aside(file, now))
    }
}

#[cfg(test)]
mod tests;
