//! Any listing: what is planned follows on, all points that are promised have a plan, and retention
//! takes nothing that the newest state stands on.

#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use sqlrep_format::ltx::Level;
use sqlrep_format::{Timestamp, Txid, TxidRange};
use sqlrep_replica::plan::plan;
use sqlrep_replica::retain::{self, Policy};
use sqlrep_replica::{Listing, Plan, Point, ReplicaFile, compact, points};

/// Eight bytes are one file: level, first TXID, how many, time, size.
const FILE_BYTES: usize = 8;
const FILES_MAX: usize = 200;

fn file(bytes: &[u8]) -> Option<ReplicaFile> {
    let [level, min, more, most, time @ .., size] = bytes else {
        return None;
    };
    let min = Txid::new(u64::from(*min % 64) + 1)?;
    let more = if most % 4 == 0 { *more % 64 } else { *more % 4 };
    let level = Level::new(level % 10)?;
    // Level 0 has one TXID a file, a snapshot begins at the first.
    let range = match level {
        Level::L0 => TxidRange::single(min),
        Level::SNAPSHOT => TxidRange::new(Txid::FIRST, min)?,
        _ => TxidRange::new(min, Txid::new(min.get() + u64::from(more))?)?,
    };
    let time = time
        .iter()
        .fold(0_i64, |time, byte| time << 8 | i64::from(*byte));
    Some(ReplicaFile {
        level,
        range,
        bytes: u64::from(*size),
        modified: Timestamp::from_millis(time),
    })
}

fn follows(plan: &Plan) {
    assert!(
        plan.steps
            .first()
            .is_some_and(|file| file.range.is_snapshot())
    );
    for pair in plan.steps.windows(2) {
        let [one, next] = pair else { continue };
        assert!(next.range.min() <= one.range.max().next());
        assert!(next.range.max() > one.range.max());
    }
}

fn planned(listing: &Listing) {
    for point in [
        Point::Latest,
        Point::Before(Timestamp::from_millis(1 << 20)),
    ] {
        if let Ok(plan) = plan(listing, point) {
            follows(&plan);
        }
    }
    for point in points(listing) {
        let plan = plan(listing, Point::Txid(point.txid)).expect("a point has a plan");
        follows(&plan);
        assert_eq!(plan.head(), Some(point.txid));
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((policy, files)) = bytes.split_first_chunk::<6>() else {
        return;
    };
    let mut listing = Listing::default();
    for bytes in files.chunks(FILE_BYTES).take(FILES_MAX) {
        if let Some(file) = file(bytes) {
            listing.add(file);
        }
    }
    planned(&listing);
    for level in Level::all() {
        let _: Option<Plan> = Plan::of(compact::pending(&listing, level));
    }
    let _: Option<Plan> = compact::first_snapshot_plan(&listing);
    let _: Result<_, _> = compact::snapshot_plan(&listing);
    let [l0, one, two, window, now, claim] = policy.map(u64::from);
    let millis = |unit: u64| Duration::from_millis(unit << 14);
    let policy = Policy {
        l0: millis(l0),
        levels: vec![millis(one), millis(two)],
        window: millis(window),
        claims: Txid::new(claim).into_iter().collect(),
    };
    let now = Timestamp::from_millis(i64::try_from(now << 17).expect("small"));
    let _: Option<Timestamp> = retain::due(&listing, &policy);
    let Ok(removal) = retain::retain(&listing, &policy, now) else {
        return;
    };
    let newest = plan(&listing, Point::Latest)
        .ok()
        .and_then(|plan| plan.head());
    if !removal.expired().is_empty() {
        let left = plan(removal.rest(), Point::Latest).expect("the newest state stays");
        assert_eq!(left.head(), newest);
    }
    let all = removal.expired().len() + removal.rest().files().len();
    assert_eq!(all, listing.files().len());
    planned(removal.rest());
});
