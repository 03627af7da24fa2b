//! Whether the files' modification times are still those of their headers.
//!
//! A point in time is found by modification times, as Litestream does, without opening files. A
//! copy of a replica that lost them (`cp` without `-p`) would silently give another point; so a
//! few headers are compared, and when one disagrees all are read.

use sqlrep_format::ltx::{HEADER_BYTES, Header, Level};

use crate::plan::plan;
use crate::{Listing, Point, ReplicaFile, Store, StoreError};

/// The replica's files, and whether their times were taken from the headers.
pub(super) fn listing(store: &dyn Store, point: Point) -> Result<(Listing, bool), StoreError> {
    let listing = store.list()?;
    let Point::Before(_) = point else {
        return Ok((listing, false));
    };
    if rises(&listing)
        && sample(&listing, point)
            .into_iter()
            .all(|file| agrees(store, file))
    {
        return Ok((listing, false));
    }
    let with_header_time = |file: &ReplicaFile| ReplicaFile {
        // Of an unreadable file the time matters little: the restore will say what is wrong.
        modified: header(store, file).map_or(file.modified, |header| header.timestamp),
        ..file.clone()
    };
    Ok((
        listing.of(listing.files().iter().map(with_header_time)),
        true,
    ))
}

/// Within a level, later files have later times.
fn rises(listing: &Listing) -> bool {
    Level::all().all(|level| {
        let times: Vec<_> = listing.level(level).map(|file| file.modified).collect();
        times.is_sorted()
    })
}

/// The files whose times decide: those of the plan, and in each level the ends and the two on
/// either side of the wanted time.
fn sample(listing: &Listing, point: Point) -> Vec<&ReplicaFile> {
    let Point::Before(time) = point else {
        return Vec::new();
    };
    let planned = plan(listing, point)
        .map(|plan| plan.steps)
        .unwrap_or_default();
    let chosen = |file: &&ReplicaFile| planned.contains(file);
    let mut files: Vec<&ReplicaFile> = listing.files().iter().filter(chosen).collect();
    for level in Level::all() {
        let before = listing.level(level).rfind(|file| file.modified < time);
        let after = listing.level(level).find(|file| file.modified >= time);
        let ends = [
            listing.level(level).next(),
            listing.level(level).next_back(),
        ];
        files.extend(ends.into_iter().chain([before, after]).flatten());
    }
    files.dedup();
    files
}

fn agrees(store: &dyn Store, file: &ReplicaFile) -> bool {
    header(store, file).is_none_or(|header| header.timestamp == file.modified)
}

fn header(store: &dyn Store, file: &ReplicaFile) -> Option<Header> {
    let mut bytes = [0; HEADER_BYTES];
    let opened = store.open(file).ok()?;
    store.read_exact_at(&opened, &mut bytes, 0).ok()?;
    Header::decode(&bytes).ok()
}
