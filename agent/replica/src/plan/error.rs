//! Why there is no plan, in words that say what to do.

use sqlrep_format::{Timestamp, Txid};

use super::Point;
use crate::calendar::rfc3339;

/// A state that can be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestorePoint {
    /// Its TXID.
    pub txid: Txid,
    /// When it was captured.
    pub time: Timestamp,
}

/// Why no files lead to the wanted point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// No LTX files.
    #[error("the replica holds no LTX files")]
    Empty,
    /// No file that holds every page.
    #[error(
        "the replica has no beginning: its lowest file starts at TXID {first}, and no snapshot or \
         file from TXID 1 on is there"
    )]
    NoStart {
        /// Where the lowest file starts.
        first: Txid,
    },
    /// Files are missing in the middle.
    #[error(
        "the replica has a gap: its files lead to TXID {have}, the next one starts at TXID {next}; \
         bring the missing files back, or restore TXID {have} if that will do"
    )]
    Gap {
        /// The last TXID before the gap.
        have: Txid,
        /// The first TXID after it.
        next: Txid,
    },
    /// The wanted point lies outside of what the replica covers.
    #[error(
        "{} lies outside of the replica, which covers TXID {} ({}) to {} ({})", 
        wanted_text(*wanted), oldest.txid, rfc3339(oldest.time), newest.txid, rfc3339(newest.time)
    )]
    OutOfRange {
        /// What was wanted.
        wanted: Point,
        /// The oldest point there is.
        oldest: RestorePoint,
        /// The newest point there is.
        newest: RestorePoint,
    },
    /// The wanted TXID was compacted into a larger step.
    #[error(
        "TXID {wanted} is no longer a point of its own: its files were compacted; the nearest are \
         TXID {before} and TXID {after}"
    )]
    NotAPoint {
        /// What was wanted.
        wanted: Txid,
        /// The nearest point before.
        before: Txid,
        /// The nearest point after.
        after: Txid,
    },
}

impl PlanError {
    /// Nothing was ever captured here, as far as one can see: an app may start empty.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    /// The wish was wrong, not the replica.
    pub fn is_out_of_range(&self) -> bool {
        matches!(self, Self::OutOfRange { .. } | Self::NotAPoint { .. })
    }
}

fn wanted_text(point: Point) -> String {
    match point {
        Point::Latest => "the latest state".to_owned(),
        Point::Txid(txid) => format!("TXID {txid}"),
        Point::Before(time) => format!("a state before {}", rfc3339(time)),
    }
}
