//! The schedule of upkeep.

use sqlrep_format::{Txid, TxidRange};

use super::*;

const MINUTE: i64 = 60_000;

fn rhythm() -> Rhythm {
    let settings = crate::Settings {
        sync_interval: Duration::from_secs(1),
        snapshot_interval: Duration::from_hours(24),
        retention: Duration::from_hours(7 * 24),
    };
    let levels = [30, 300, 3600].map(Duration::from_secs);
    Rhythm::new(settings, &levels, Duration::from_mins(5), None)
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn file(level: u8, min: u64, max: u64, millis: i64) -> ReplicaFile {
    let range = TxidRange::new(Txid::new(min).unwrap(), Txid::new(max).unwrap()).unwrap();
    ReplicaFile {
        level: Level::new(level).unwrap(),
        range,
        bytes: 1,
        modified: at(millis),
    }
}

fn compact(level: u8) -> Chore {
    Chore::Compact(Level::new(level).unwrap())
}

#[test]
fn an_idle_database_is_looked_at_once_and_then_left_alone() {
    let mut upkeep = Upkeep::new(rhythm(), 0.5, at(0));
    assert_eq!(upkeep.next(), Some((at(5 * MINUTE), Chore::List)));
    upkeep.listed(
        Listing::new(vec![file(9, 1, 1, 0), file(0, 1, 1, 0)]),
        Vec::new(),
        None,
    );
    assert_eq!(upkeep.next(), None, "no timer at all");
}

#[test]
fn the_first_snapshot_is_due_at_once_and_levels_at_ticks_of_the_clock() {
    let mut upkeep = Upkeep::new(rhythm(), 0.0, at(0));
    upkeep.listed(Listing::new(vec![file(0, 1, 1, 1_000)]), Vec::new(), None);
    assert_eq!(upkeep.next(), Some((at(0), Chore::Snapshot)));
    upkeep.wrote(file(9, 1, 1, 1_000));
    upkeep.shipped(&[file(0, 2, 2, 31_000), file(0, 3, 3, 32_000)], at(32_000));
    assert_eq!(upkeep.next(), Some((at(MINUTE), compact(1))));
    upkeep.shipped(&[file(0, 4, 4, 59_000)], at(59_000));
    assert_eq!(upkeep.next(), Some((at(MINUTE), compact(1))));
    upkeep.wrote(file(1, 2, 4, 59_000));
    assert_eq!(upkeep.next(), Some((at(5 * MINUTE), compact(2))));
    upkeep.shipped(&[file(0, 5, 5, 2 * MINUTE)], at(2 * MINUTE));
    let half = 2 * MINUTE + MINUTE / 2;
    assert_eq!(upkeep.next(), Some((at(half), compact(1))));
}

#[test]
fn what_is_shipped_while_the_replica_is_listed_is_not_forgotten() {
    let mut upkeep = Upkeep::new(rhythm(), 0.0, at(0));
    upkeep.shipped(&[file(0, 2, 2, 10)], at(10));
    assert_eq!(
        upkeep.next(),
        Some((at(0), Chore::List)),
        "there is something to do"
    );
    // The listing was made before the file was published.
    upkeep.listed(Listing::new(vec![file(0, 1, 1, 0)]), Vec::new(), None);
    assert_eq!(upkeep.listing().unwrap().head(), Txid::new(2));
}

#[test]
fn after_a_failure_it_looks_anew_and_not_at_once() {
    let mut upkeep = Upkeep::new(rhythm(), 0.0, at(0));
    upkeep.listed(Listing::new(vec![file(0, 1, 1, 0)]), Vec::new(), None);
    let mut waits = Vec::new();
    for _ in 0..20 {
        upkeep.failed(Chore::List, at(1_000));
        let (when, chore) = upkeep.next().unwrap();
        assert_eq!(chore, Chore::List);
        waits.push(at(1_000).until(when));
    }
    assert_eq!(waits[..3], [5, 10, 20].map(Duration::from_secs));
    assert_eq!(waits[19], limits::UPKEEP_RETRY_MAX);
    upkeep.listed(Listing::new(vec![file(0, 1, 1, 0)]), Vec::new(), None);
    upkeep.failed(Chore::List, at(1_000));
    assert_eq!(upkeep.next().unwrap().0, at(6_000), "it worked in between");
}

#[test]
fn a_share_that_can_be_looked_at_and_not_written_to_is_tried_less_and_less() {
    let mut upkeep = Upkeep::new(rhythm(), 0.0, at(0));
    let mut now = at(MINUTE);
    let held = || vec![file(9, 1, 1, 0), file(0, 2, 2, 1_000)];
    let mut waits = Vec::new();
    for failures in 1..=20 {
        upkeep.listed(Listing::new(held()), Vec::new(), None);
        let (due, chore) = upkeep.next().unwrap();
        assert_eq!(chore, compact(1));
        now = now.max(due);
        assert_eq!(upkeep.failed(chore, now), failures);
        assert!(upkeep.is_failing());
        waits.push(now.until(upkeep.next().unwrap().0));
    }
    assert_eq!(waits[..3], [5, 10, 20].map(Duration::from_secs));
    assert_eq!(waits[19], limits::UPKEEP_RETRY_MAX);
    upkeep.listed(Listing::new(held()), Vec::new(), None);
    upkeep.wrote(file(1, 2, 2, 1_000));
    assert!(!upkeep.is_failing());
}

#[test]
fn what_is_not_wanted_any_more_fails_no_more() {
    let mut upkeep = Upkeep::new(rhythm(), 0.0, at(0));
    upkeep.failed(compact(1), at(MINUTE));
    upkeep.listed(
        Listing::new(vec![file(9, 1, 1, 0), file(0, 1, 1, 0)]),
        Vec::new(),
        None,
    );
    assert!(!upkeep.is_failing(), "somebody else did it");
}

#[test]
fn a_compaction_that_fails_does_not_keep_retention_waiting() {
    let mut upkeep = Upkeep::new(rhythm(), 0.0, at(0));
    // Level 1 has what went before, so those at level 0 go after their time; the last is unmerged.
    let held = || {
        vec![
            file(9, 1, 1, 0),
            file(1, 2, 2, 1_000),
            file(0, 1, 1, 0),
            file(0, 2, 2, 1_000),
            file(0, 3, 3, MINUTE),
        ]
    };
    upkeep.listed(Listing::new(held()), Vec::new(), None);
    let later = at(60 * MINUTE);
    let mut chores = Vec::new();
    for _ in 0..6 {
        let (_, chore) = upkeep.next().unwrap();
        chores.push(chore);
        upkeep.failed(chore, later);
        upkeep.listed(Listing::new(held()), Vec::new(), None);
    }
    assert!(chores.contains(&Chore::Retain), "{chores:?}");
}

#[test]
fn a_replica_is_read_back_even_when_nothing_is_new() {
    let verify = Some(Duration::from_hours(24));
    let mut upkeep = Upkeep::new(Rhythm { verify, ..rhythm() }, 0.25, at(0));
    upkeep.listed(
        Listing::new(vec![file(9, 1, 1, 0), file(0, 1, 1, 0)]),
        Vec::new(),
        None,
    );
    assert_eq!(upkeep.next(), Some((at(360 * MINUTE), Chore::Verify)));
    upkeep.verified(at(361 * MINUTE));
    assert_eq!(upkeep.next(), Some((at(1801 * MINUTE), Chore::Verify)));
}
