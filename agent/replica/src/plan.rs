//! Which files lead to a wanted point: pure, from a listing alone.
//!
//! The choice is that of Litestream (LITESTREAM.md §2.4): the highest snapshot, then again and
//! again the file that goes on from there and reaches farthest. It differs where Litestream loses
//! data silently: a gap is an error for every kind of point, never the end of the road.

mod error;
mod road;

use sqlrep_format::{Timestamp, Txid};

use crate::{Listing, ReplicaFile};

pub use error::{PlanError, RestorePoint};

/// The state that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// The newest.
    Latest,
    /// Exactly the state after this TXID.
    Txid(Txid),
    /// The newest state captured strictly before this time (LITESTREAM.md §2.4).
    Before(Timestamp),
}

/// Files that, applied in order, give the wanted state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The files, oldest first. The first holds every page when the plan is one for a restore.
    pub steps: Vec<ReplicaFile>,
    /// For [`Point::Before`]: a newer TXID was captured before the wanted time, but compaction
    /// left it no road of its own; the plan ends at the last one that has a road.
    pub unreached: Option<Txid>,
}

impl Plan {
    /// A plan of the caller's own, such as the files of one compaction. `None` when the files do
    /// not follow on one another.
    pub fn of(steps: Vec<ReplicaFile>) -> Option<Self> {
        let follows = steps.windows(2).all(|pair| match pair {
            [one, two] => {
                one.range.max() < two.range.max() && two.range.min() <= one.range.max().next()
            }
            _ => true,
        });
        (follows && !steps.is_empty()).then_some(Self {
            steps,
            unreached: None,
        })
    }

    /// The TXID at which the plan ends.
    pub fn head(&self) -> Option<Txid> {
        self.steps.last().map(|file| file.range.max())
    }

    /// The bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.steps
            .iter()
            .map(|file| file.bytes)
            .fold(0, u64::saturating_add)
    }
}

/// Finds the files that lead to `point`.
pub fn plan(listing: &Listing, point: Point) -> Result<Plan, PlanError> {
    if listing.is_empty() {
        return Err(PlanError::Empty);
    }
    let files = road::trusted(listing);
    match point {
        Point::Latest => latest(&files),
        Point::Txid(txid) => exactly(&files, txid),
        Point::Before(time) => before(&files, time),
    }
}

/// Every point that a plan exists for, ascending; of each the earliest time known.
pub fn points(listing: &Listing) -> Vec<RestorePoint> {
    road::points(&road::trusted(listing))
}

/// Level-0 files that no plan uses: a writer that had lost its replica left them.
pub(crate) fn stragglers(listing: &Listing) -> Vec<ReplicaFile> {
    let (stragglers, _) = road::told_apart(listing);
    stragglers.into_iter().cloned().collect()
}

fn latest(files: &[&ReplicaFile]) -> Result<Plan, PlanError> {
    let steps = road::walk(files)?;
    match road::beyond(files, &steps) {
        Some(next) => Err(gap(&steps, next)),
        None => Ok(finished(steps, None)),
    }
}

fn exactly(files: &[&ReplicaFile], wanted: Txid) -> Result<Plan, PlanError> {
    let within: Vec<_> = files
        .iter()
        .copied()
        .filter(|file| file.range.max() <= wanted)
        .collect();
    let steps = road::walk(&within).unwrap_or_default();
    if steps.last().is_some_and(|last| last.range.max() == wanted) {
        return Ok(finished(steps, None));
    }
    // No road ends there. Why? Because nothing was ever captured there, because files are
    // missing, or because compaction has left only coarser steps.
    let all = road::walk(files)?;
    let points = road::points(files);
    let (Some(oldest), Some(newest)) = (points.first(), points.last()) else {
        return Err(PlanError::Empty);
    };
    let out_of_range = PlanError::OutOfRange {
        wanted: Point::Txid(wanted),
        oldest: *oldest,
        newest: *newest,
    };
    if wanted < oldest.txid {
        return Err(out_of_range);
    }
    if wanted > newest.txid {
        return Err(match road::beyond(files, &all) {
            Some(next) if files.iter().any(|file| wanted <= file.range.max()) => gap(&all, next),
            _ => out_of_range,
        });
    }
    let before = points
        .iter()
        .rfind(|point| point.txid < wanted)
        .unwrap_or(oldest);
    let after = points
        .iter()
        .find(|point| point.txid > wanted)
        .unwrap_or(newest);
    Err(PlanError::NotAPoint {
        wanted,
        before: before.txid,
        after: after.txid,
    })
}

fn before(files: &[&ReplicaFile], time: Timestamp) -> Result<Plan, PlanError> {
    let within: Vec<_> = files
        .iter()
        .copied()
        .filter(|file| file.modified < time)
        .collect();
    let Ok(steps) = road::walk(&within) else {
        road::walk(files)?;
        let points = road::points(files);
        return Err(match (points.first(), points.last()) {
            (Some(oldest), Some(newest)) => PlanError::OutOfRange {
                wanted: Point::Before(time),
                oldest: *oldest,
                newest: *newest,
            },
            _ => PlanError::Empty,
        });
    };
    let Some(next) = road::beyond(&within, &steps) else {
        return Ok(finished(steps, None));
    };
    // Newer files qualify, and no road leads to them: a gap, unless a later compaction bridges it.
    let all = road::walk(files)?;
    match road::beyond(files, &all) {
        Some(missing) if missing <= next => Err(gap(&all, missing)),
        _ => {
            let unreached = within.iter().map(|file| file.range.max()).max();
            Ok(finished(steps, unreached))
        }
    }
}

fn gap(steps: &[&ReplicaFile], next: Txid) -> PlanError {
    match steps.last() {
        Some(last) => PlanError::Gap {
            have: last.range.max(),
            next,
        },
        None => PlanError::NoStart { first: next },
    }
}

fn finished(steps: Vec<&ReplicaFile>, unreached: Option<Txid>) -> Plan {
    Plan {
        steps: steps.into_iter().cloned().collect(),
        unreached,
    }
}

#[cfg(test)]
mod tests;
