//! Walking from file to file: what can be reached, and what lies beyond.

use std::cmp::Reverse;

use sqlrep_format::ltx::Level;
use sqlrep_format::{Timestamp, Txid};

use super::{PlanError, RestorePoint};
use crate::{Listing, ReplicaFile};

/// The files that a plan may use, ascending by their first TXID.
///
/// A writer that lost its replica can still fill names below the head that retention took from
/// level 0. Retention takes from the bottom what a level holds, so what is left of level 0 is one run
/// up to the head: a level-0 file below a hole, in a range that a compacted file covers, is such a
/// straggler. Where a damaged file was taken out is no such hole, as long as the file lies beside the
/// chain; and a snapshot alone says so only of a beginning. So what is before the damage is as good as
/// ever.
pub(super) fn trusted(listing: &Listing) -> Vec<&ReplicaFile> {
    let (_, mut files) = told_apart(listing);
    files.sort_by_key(|file| (file.range, file.level));
    files
}

/// The stragglers and the files that a plan may use.
pub(super) fn told_apart(listing: &Listing) -> (Vec<&ReplicaFile>, Vec<&ReplicaFile>) {
    let hole = listing.after_hole();
    let covered = |file: &ReplicaFile| {
        listing.files().iter().any(|other| {
            other.level != Level::L0
                && (other.level != Level::SNAPSHOT || file.range.is_snapshot())
                && other.range.min() <= file.range.min()
                && file.range.max() <= other.range.max()
        })
    };
    listing.files().iter().partition(|file| {
        let suspect = file.level == Level::L0 && hole.is_some_and(|hole| file.range.max() < hole);
        suspect && covered(file)
    })
}

/// Walks as far as the files lead. `files` ascend by their first TXID.
///
/// The steps are those of Litestream, less what a later step makes needless: a file that begins at
/// TXID 1 holds every page, so nothing before it is read.
pub(super) fn walk<'a>(files: &[&'a ReplicaFile]) -> Result<Vec<&'a ReplicaFile>, PlanError> {
    let snapshot = files
        .iter()
        .copied()
        .filter(|file| file.level == Level::SNAPSHOT && file.range.is_snapshot())
        .max_by_key(|file| file.range.max());
    let mut steps: Vec<&ReplicaFile> = snapshot.into_iter().collect();
    // Files sorted by their first TXID: those that go on from the current place are a prefix, and
    // the best among a prefix is kept while it grows.
    let mut rest = files
        .iter()
        .copied()
        .filter(|file| file.level < Level::SNAPSHOT)
        .peekable();
    let mut best: Option<&ReplicaFile> = None;
    loop {
        let at = steps.last().map_or(0, |last| last.range.max().get());
        while let Some(file) = rest.next_if(|file| file.range.min().get() - 1 <= at) {
            if best.is_none_or(|best| rank(file) > rank(best)) {
                best = Some(file);
            }
        }
        match best {
            Some(file) if file.range.max().get() > at => {
                if file.range.is_snapshot() {
                    steps.clear();
                }
                steps.push(file);
            }
            _ => break,
        }
    }
    match (steps.is_empty(), files.first()) {
        (false, _) => Ok(steps),
        (true, Some(lowest)) => Err(PlanError::NoStart {
            first: lowest.range.min(),
        }),
        (true, None) => Err(PlanError::Empty),
    }
}

/// The farther a file reaches the better; then the one that begins lower, the higher level, the
/// older one.
fn rank(file: &ReplicaFile) -> (Txid, Reverse<Txid>, Level, Reverse<Timestamp>) {
    (
        file.range.max(),
        Reverse(file.range.min()),
        file.level,
        Reverse(file.modified),
    )
}

/// The lowest first TXID of the files that begin beyond the end of the road.
pub(super) fn beyond(files: &[&ReplicaFile], steps: &[&ReplicaFile]) -> Option<Txid> {
    let at = steps.last().map_or(0, |last| last.range.max().get());
    let starts = files
        .iter()
        .map(|file| file.range.min())
        .filter(|min| min.get() - 1 > at);
    starts.min()
}

/// Every TXID that some road ends at.
pub(super) fn points(files: &[&ReplicaFile]) -> Vec<RestorePoint> {
    let mut by_end = files.to_vec();
    by_end.sort_by_key(|file| (file.range.max(), file.modified));
    let mut points: Vec<RestorePoint> = Vec::new();
    for file in by_end {
        let (min, max) = (file.range.min().get(), file.range.max().get());
        // A place from which the file goes on: any point from min-1 up to max-1.
        let from = points.partition_point(|point| point.txid.get() < min - 1);
        let goes_on = points.get(from).is_some_and(|point| point.txid.get() < max);
        let known = points.last().is_some_and(|point| point.txid.get() == max);
        if !known && (min == 1 || goes_on) {
            points.push(RestorePoint {
                txid: file.range.max(),
                time: file.modified,
            });
        }
    }
    points
}
