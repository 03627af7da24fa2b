//! What may leave a replica, and the proof that what stays restores every kept point (L6).
//!
//! Pure but for [`Removal::carry_out`]: a listing, a policy and a time give the files that are not
//! needed any more. Each rule alone says from when on a file may go; then all that stays is planned
//! anew, and if any kept point has lost its road, nothing goes at all.
//!
//! Whatever subset of a removal was carried out when the power failed, what is left holds more
//! than what was proven.

mod beside;
mod damage;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use sqlrep_format::ltx::Level;
use sqlrep_format::{Timestamp, Txid, TxidRange};

use crate::plan::{plan, points, stragglers};
use crate::{Listing, PlanError, Point, ReplicaFile, RestorePoint, Store, StoreError};

pub use beside::Beside;
pub use damage::{Condemned, condemn, lost};

/// Kept points that are planned one by one, beside the walk over all of them (L12).
const SAMPLES_MAX: usize = 8;

/// How long what is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Level-0 files, once they are compacted.
    pub l0: Duration,
    /// Files of level 1 and up, once they are compacted into the next level: by level from 1 on. A
    /// level that is not named keeps its files as long as the window.
    pub levels: Vec<Duration>,
    /// The window: any moment in it can be restored.
    pub window: Duration,
    /// Claims whose level-0 files stay: an owner that was replaced while it stood still publishes
    /// at the name of its successor's claim first, and must not find that name free again.
    pub claims: Vec<Txid>,
}

impl Policy {
    fn spares(&self, file: &ReplicaFile) -> bool {
        file.level == Level::L0 && self.claims.contains(&file.range.max())
    }
}

/// Why a file may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// A writer that had lost its replica left it below the head.
    Straggler,
    /// The next level holds its pages, and it is old enough.
    Compacted,
    /// A newer snapshot holds the oldest state of the window.
    OldSnapshot,
    /// It leads only to states before the window.
    BeforeWindow,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Straggler => "left by a writer that had lost its replica",
            Self::Compacted => "compacted into the next level",
            Self::OldSnapshot => "a newer snapshot begins the window",
            Self::BeforeWindow => "leads only to states before the window",
        })
    }
}

/// A file that may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expired {
    /// The file.
    pub file: ReplicaFile,
    /// Why.
    pub why: Why,
}

/// Files that may go, and what stays: only [`retain`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    expired: Vec<Expired>,
    rest: Listing,
}

/// Why nothing may go, although rules say so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unproven {
    /// The newest state has no road as it is.
    #[error("nothing is removed, for the replica has to be made whole first")]
    Broken(#[source] PlanError),
    /// Without the files a kept point could not be restored.
    #[error("nothing is removed: without the files that are due, TXID {0} could not be restored")]
    Point(Txid),
    /// Without the files the window would begin later.
    #[error("nothing is removed: the oldest state of the window would be lost")]
    Window,
    /// Without the files a level would end elsewhere.
    #[error("nothing is removed: level {0} would lose its newest file")]
    Newest(Level),
}

impl Removal {
    /// The files that may go, in the order in which they go.
    pub fn expired(&self) -> &[Expired] {
        &self.expired
    }

    /// What stays.
    pub fn rest(&self) -> &Listing {
        &self.rest
    }

    /// Unlinks the files. One that is gone already is no error; after an error what is left is
    /// still proven, and the rest is due again.
    pub fn carry_out(&self, store: &dyn Store) -> Result<(), StoreError> {
        for Expired { file, why } in &self.expired {
            tracing::debug!(file = %store.path(file).display(), %why, "removed");
            store.remove(file)?;
        }
        Ok(())
    }
}

/// Level-0 files that the owner of a replica has not published and never saw, below its head: a
/// writer that had lost the replica filled names which retention had freed. `found` are the names
/// that are there, `known` is what the owner knows of; nothing that it knows is touched, nor a
/// claim, and what it knows must restore its newest state without anything else.
pub fn strays(known: &Listing, found: &[TxidRange], policy: &Policy) -> Result<Removal, Unproven> {
    let road = plan(known, Point::Latest).map_err(Unproven::Broken)?;
    let head = road.head();
    let ours: BTreeSet<TxidRange> = known.level(Level::L0).map(|file| file.range).collect();
    let stray = |range: &&TxidRange| Some((**range).max()) < head && !ours.contains(range);
    let expired = found.iter().filter(stray).map(|range| Expired {
        file: ReplicaFile {
            level: Level::L0,
            range: *range,
            bytes: 0,
            modified: Timestamp::from_millis(0),
        },
        why: Why::Straggler,
    });
    let expired = expired.filter(|expired| !policy.spares(&expired.file));
    Ok(Removal {
        expired: expired.collect(),
        rest: known.clone(),
    })
}

/// The files that may go at `now`, with the proof carried out.
pub fn retain(listing: &Listing, policy: &Policy, now: Timestamp) -> Result<Removal, Unproven> {
    let mut expired: Vec<Expired> = expiries(listing, policy)
        .into_iter()
        .filter(|expiry| expiry.at <= now)
        .map(|Expiry { file, why, .. }| Expired { file, why })
        .collect();
    // From the bottom: what is left of a level at any moment is one run up to its head.
    expired.sort_by_key(|expired| (expired.file.level, expired.file.range));
    if !expired.is_empty() {
        let rest = without(listing, &expired);
        prove(listing, &rest, now.earlier(policy.window))?;
    }
    // After the proof: a claim that is left alone is no road to anywhere.
    expired.retain(|expired| !policy.spares(&expired.file));
    let rest = without(listing, &expired);
    Ok(Removal { expired, rest })
}

fn without(listing: &Listing, expired: &[Expired]) -> Listing {
    let gone: BTreeSet<_> = expired.iter().map(|expired| key(&expired.file)).collect();
    let stays = |file: &&ReplicaFile| !gone.contains(&key(file));
    listing.of(listing.files().iter().filter(stays).cloned())
}

/// When the next file may go, if nothing else happens; `None`: never.
pub fn due(listing: &Listing, policy: &Policy) -> Option<Timestamp> {
    let goes = |expiry: &Expiry| !policy.spares(&expiry.file);
    expiries(listing, policy)
        .into_iter()
        .filter(goes)
        .map(|expiry| expiry.at)
        .min()
}

/// A file and from when on a rule lets it go.
struct Expiry {
    file: ReplicaFile,
    why: Why,
    at: Timestamp,
}

fn key(file: &ReplicaFile) -> (Level, Txid, Txid) {
    (file.level, file.range.min(), file.range.max())
}

/// Every file that some rule will let go, each with the first rule to do so.
fn expiries(listing: &Listing, policy: &Policy) -> Vec<Expiry> {
    let mut first: BTreeMap<(Level, Txid, Txid), Expiry> = BTreeMap::new();
    let mut add = |expiry: Expiry| {
        let known = first.get(&key(&expiry.file));
        if known.is_none_or(|known| expiry.at < known.at) {
            first.insert(key(&expiry.file), expiry);
        }
    };
    for file in stragglers(listing) {
        let at = Timestamp::from_millis(i64::MIN);
        add(Expiry {
            file,
            why: Why::Straggler,
            at,
        });
    }
    snapshots(listing, policy, &mut add);
    for level in Level::all().filter(|level| *level < Level::SNAPSHOT) {
        let files: Vec<_> = listing.level(level).collect();
        // The newest file of a level always stays.
        let older = files.split_last().map_or(&[][..], |(_, older)| older);
        before_window(listing, policy, older, &mut add);
        compacted(listing, policy, level, older, &mut add);
    }
    first.into_values().collect()
}

/// A snapshot goes when a newer one is as old as the window: that one holds its oldest state.
fn snapshots(listing: &Listing, policy: &Policy, add: &mut impl FnMut(Expiry)) {
    let snapshots: Vec<_> = listing.level(Level::SNAPSHOT).collect();
    for pair in snapshots.windows(2) {
        if let [file, newer] = pair {
            add(Expiry {
                file: (*file).clone(),
                why: Why::OldSnapshot,
                at: newer.modified.later(policy.window),
            });
        }
    }
}

/// A file goes when a snapshot of its newest state, or of a later one, is as old as the window.
fn before_window(
    listing: &Listing,
    policy: &Policy,
    files: &[&ReplicaFile],
    add: &mut impl FnMut(Expiry),
) {
    let whole = |file: &&ReplicaFile| file.range.is_snapshot();
    let snapshots: Vec<_> = listing.level(Level::SNAPSHOT).filter(whole).collect();
    for file in files {
        let from = snapshots.partition_point(|snapshot| snapshot.range.max() < file.range.max());
        if let Some(snapshot) = snapshots.get(from) {
            add(Expiry {
                file: (*file).clone(),
                why: Why::BeforeWindow,
                at: snapshot.modified.later(policy.window),
            });
        }
    }
}

/// A file goes when the next level holds it and what holds it is old enough, and so for all before
/// it.
fn compacted(
    listing: &Listing,
    policy: &Policy,
    level: Level,
    files: &[&ReplicaFile],
    add: &mut impl FnMut(Expiry),
) {
    let keep = match usize::from(level.get()).checked_sub(1) {
        None => Some(policy.l0),
        Some(place) => policy.levels.get(place).copied(),
    };
    let (Some(keep), Some(above)) = (keep, Level::new(level.get() + 1)) else {
        return;
    };
    let above: Vec<_> = listing.level(above).collect();
    let whole = |file: &&ReplicaFile| file.range.is_snapshot();
    let snapshots = listing.level(Level::SNAPSHOT).filter(whole);
    let oldest = snapshots.map(|snapshot| snapshot.range.max()).min();
    let mut at = Timestamp::from_millis(i64::MIN);
    for file in files {
        let from = above.partition_point(|wide| wide.range.max() < file.range.max());
        let holds = |wide: &&ReplicaFile| wide.range.min() <= file.range.min();
        // Within a step of the level above, the files are of use together only: they go together,
        // when the last of them is old enough.
        let wide = above.get(from).copied().filter(holds);
        let covered = wide.is_some();
        let goes = match (file.range.is_snapshot(), oldest) {
            (false, _) => covered,
            // It may be what the oldest state of all stands on: then only a snapshot of the very
            // same replaces it.
            (true, None) => false,
            (true, Some(oldest)) => {
                oldest == file.range.max() || (covered && oldest < file.range.max())
            }
        };
        if !goes {
            break;
        }
        let newest = wide.map_or(file.modified, |wide| wide.modified.max(file.modified));
        at = at.max(newest.later(keep));
        add(Expiry {
            file: (*file).clone(),
            why: Why::Compacted,
            at,
        });
    }
}

/// Proves that `rest` restores what is kept of `listing`: the newest state, every state that a
/// kept file ends at, one at or before the beginning of the window if there was one, and that no
/// level ends elsewhere.
fn prove(listing: &Listing, rest: &Listing, window: Timestamp) -> Result<(), Unproven> {
    let wanted = plan(listing, Point::Latest).map_err(Unproven::Broken)?;
    let head = wanted.head();
    let found = plan(rest, Point::Latest).ok().and_then(|plan| plan.head());
    if let Some(head) = head.filter(|_| found != head) {
        return Err(Unproven::Point(head));
    }
    for level in Level::all() {
        if listing.level(level).next_back() != rest.level(level).next_back() {
            return Err(Unproven::Newest(level));
        }
    }
    let (before, after) = (points(listing), points(rest));
    let begins = |points: &[RestorePoint]| points.iter().any(|point| point.time <= window);
    if begins(&before) && !begins(&after) {
        return Err(Unproven::Window);
    }
    let after: BTreeSet<Txid> = after.iter().map(|point| point.txid).collect();
    // What begins the window begins what is kept, or the oldest snapshot that stays; below it
    // nothing is promised, though the newest file of a level stays there as well.
    let floor = oldest(rest).max(begin(rest, window));
    let ends: BTreeSet<Txid> = rest.files().iter().map(|file| file.range.max()).collect();
    let kept: Vec<Txid> = before
        .iter()
        .map(|point| point.txid)
        .filter(|txid| Some(*txid) >= floor && ends.contains(txid))
        .collect();
    if let Some(lost) = kept.iter().find(|txid| !after.contains(txid)) {
        return Err(Unproven::Point(*lost));
    }
    // The walk over all points and the planner are two programs: they must agree.
    let step = kept.len().div_ceil(SAMPLES_MAX).max(1);
    for txid in kept.iter().step_by(step).chain(kept.last()) {
        let planned = plan(rest, Point::Txid(*txid))
            .ok()
            .and_then(|plan| plan.head());
        if planned != Some(*txid) {
            return Err(Unproven::Point(*txid));
        }
    }
    Ok(())
}

/// The oldest state that a file which holds every page leads to.
fn oldest(listing: &Listing) -> Option<Txid> {
    let whole = |file: &&ReplicaFile| file.range.is_snapshot();
    let whole = listing.files().iter().filter(whole);
    whole.map(|file| file.range.max()).min()
}

/// The newest state before the window that a file which holds every page leads to.
fn begin(listing: &Listing, window: Timestamp) -> Option<Txid> {
    let whole = |file: &&ReplicaFile| file.range.is_snapshot() && file.modified <= window;
    let whole = listing.files().iter().filter(whole);
    whole.map(|file| file.range.max()).max()
}

#[cfg(test)]
mod tests;
