//! How Litestream chooses the files of a restore (LITESTREAM.md §2.4), for tests that compare: our
//! planner must agree where it is right, and what we keep must be enough for it.

use std::cmp::Reverse;

use sqlrep_format::Txid;
use sqlrep_format::ltx::Level;

use crate::{Listing, Point, ReplicaFile};

/// The TXID that a restore by Litestream would end at; `None` when it refuses.
pub fn restores(listing: &Listing, point: Point) -> Option<Txid> {
    let within = |file: &&ReplicaFile| match point {
        Point::Latest => true,
        Point::Txid(txid) => file.range.max() <= txid,
        Point::Before(time) => file.modified < time,
    };
    let snapshot = listing.level(Level::SNAPSHOT).rfind(within);
    let mut at = snapshot.map_or(0, |file| file.range.max().get());
    let lower = |file: &&ReplicaFile| file.level < Level::SNAPSHOT;
    loop {
        let next = listing
            .files()
            .iter()
            .filter(within)
            .filter(lower)
            .filter(|file| file.range.min().get() <= at + 1 && file.range.max().get() > at)
            .max_by_key(|file| {
                let (min, max) = (file.range.min(), file.range.max());
                (max, Reverse(min), file.level, Reverse(file.modified))
            });
        match next {
            Some(file) => at = file.range.max().get(),
            None => break,
        }
    }
    let gap = listing
        .files()
        .iter()
        .any(|file| file.range.min().get() > at + 1);
    let wrong = match point {
        Point::Latest => gap,
        Point::Txid(txid) => at < txid.get(),
        Point::Before(_) => false,
    };
    Txid::new(at).filter(|_| !wrong)
}
