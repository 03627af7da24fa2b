//! Plans against a model that tries every road.

use std::collections::BTreeSet;

use proptest::prelude::*;
use sqlrep_format::TxidRange;
use sqlrep_format::ltx::Level;

use super::*;

fn txid(id: u64) -> Txid {
    Txid::new(id).unwrap()
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn file(level: u8, min: u64, max: u64, time: i64) -> ReplicaFile {
    ReplicaFile {
        level: Level::new(level).unwrap(),
        range: TxidRange::new(txid(min), txid(max)).unwrap(),
        bytes: 1000,
        modified: at(time),
    }
}

/// Time rises with the TXID: 10 ms each.
fn listing(files: &[(u8, u64, u64)]) -> Listing {
    let timed =
        |(level, min, max): &(u8, u64, u64)| file(*level, *min, *max, max.cast_signed() * 10);
    Listing::new(files.iter().map(timed).collect())
}

fn steps(plan: &Plan) -> Vec<(u8, u64, u64)> {
    plan.steps
        .iter()
        .map(|f| (f.level.get(), f.range.min().get(), f.range.max().get()))
        .collect()
}

#[test]
fn the_road_of_litestream_is_taken() {
    let files = listing(&[
        (9, 1, 1),
        (1, 2, 9),
        (0, 9, 9),
        (0, 10, 10),
        (0, 11, 11),
        (0, 12, 12),
    ]);
    let found = plan(&files, Point::Latest).unwrap();
    assert_eq!(
        steps(&found),
        [(9, 1, 1), (1, 2, 9), (0, 10, 10), (0, 11, 11), (0, 12, 12)]
    );
    assert_eq!(found.head(), Some(txid(12)));
    // Overlapping files, and the highest snapshot rather than the newest.
    let files = listing(&[(9, 1, 9), (9, 1, 5), (3, 5, 10), (2, 11, 14)]);
    assert_eq!(
        steps(&plan(&files, Point::Latest).unwrap()),
        [(9, 1, 9), (3, 5, 10), (2, 11, 14)]
    );
}

#[test]
fn a_later_file_from_the_first_txid_makes_earlier_ones_needless() {
    let files = listing(&[(9, 1, 3), (1, 1, 6), (0, 7, 7)]);
    assert_eq!(
        steps(&plan(&files, Point::Latest).unwrap()),
        [(1, 1, 6), (0, 7, 7)]
    );
}

#[test]
fn a_gap_is_an_error_for_every_kind_of_point() {
    let files = listing(&[(9, 1, 1), (0, 2, 2), (0, 4, 4), (0, 5, 5)]);
    let gap = Err(PlanError::Gap {
        have: txid(2),
        next: txid(4),
    });
    assert_eq!(plan(&files, Point::Latest), gap);
    assert_eq!(plan(&files, Point::Txid(txid(4))), gap);
    assert_eq!(plan(&files, Point::Txid(txid(3))), gap);
    assert_eq!(plan(&files, Point::Before(at(1000))), gap);
    // What lies before the gap is not hurt by it.
    assert_eq!(
        plan(&files, Point::Txid(txid(2))).unwrap().head(),
        Some(txid(2))
    );
    assert_eq!(
        plan(&files, Point::Before(at(30))).unwrap().head(),
        Some(txid(2))
    );
}

#[test]
fn a_replica_without_a_beginning_says_so() {
    let files = listing(&[(0, 2, 2), (0, 3, 3)]);
    for point in [Point::Latest, Point::Txid(txid(3)), Point::Before(at(1000))] {
        assert_eq!(
            plan(&files, point),
            Err(PlanError::NoStart { first: txid(2) }),
            "{point:?}"
        );
    }
    assert_eq!(
        plan(&Listing::default(), Point::Latest),
        Err(PlanError::Empty)
    );
}

#[test]
fn points_outside_are_answered_with_the_range() {
    let files = listing(&[(9, 1, 5), (0, 6, 6), (0, 7, 7)]);
    for point in [
        Point::Txid(txid(4)),
        Point::Txid(txid(8)),
        Point::Before(at(50)),
    ] {
        let error = plan(&files, point).unwrap_err();
        let PlanError::OutOfRange {
            wanted,
            oldest,
            newest,
        } = error
        else {
            panic!("{error:?}")
        };
        assert_eq!(wanted, point);
        assert_eq!((oldest.txid, newest.txid), (txid(5), txid(7)));
        assert!(
            error.to_string().contains("1970-01-01T00:00:00.050Z"),
            "{error}"
        );
    }
    // After the newest is the newest.
    assert_eq!(
        plan(&files, Point::Before(at(9999))).unwrap().head(),
        Some(txid(7))
    );
    // Strictly before.
    assert_eq!(
        plan(&files, Point::Before(at(70))).unwrap().head(),
        Some(txid(6))
    );
}

#[test]
fn a_compacted_txid_names_its_neighbours() {
    let files = listing(&[
        (9, 1, 10),
        (1, 11, 20),
        (1, 21, 30),
        (0, 25, 25),
        (0, 26, 26),
        (0, 27, 27),
        (0, 28, 28),
        (0, 29, 29),
        (0, 30, 30),
    ]);
    let wanted = txid(27);
    assert_eq!(
        plan(&files, Point::Txid(wanted)),
        Err(PlanError::NotAPoint {
            wanted,
            before: txid(20),
            after: txid(30)
        })
    );
    // By time the last state with a road is given, and what it leaves out is told.
    let found = plan(&files, Point::Before(at(275))).unwrap();
    assert_eq!(
        (found.head(), found.unreached),
        (Some(txid(20)), Some(txid(27)))
    );
    assert_eq!(
        plan(&files, Point::Before(at(205))).unwrap().unreached,
        None
    );
}

#[test]
fn a_stragglers_file_below_the_head_is_not_used() {
    // TXIDs 2 to 9 were compacted and their level-0 files removed; then a writer that had lost
    // its replica published its own idea of TXID 2.
    let files = listing(&[(9, 1, 1), (1, 2, 9), (0, 2, 2), (0, 10, 10), (0, 11, 11)]);
    assert!(matches!(
        plan(&files, Point::Txid(txid(2))),
        Err(PlanError::NotAPoint { .. })
    ));
    assert_eq!(
        plan(&files, Point::Before(at(25))).unwrap().head(),
        Some(txid(1))
    );
    assert_eq!(plan(&files, Point::Latest).unwrap().head(), Some(txid(11)));
}

#[test]
fn what_is_before_a_damaged_file_is_no_stragglers() {
    // TXIDs 2 to 4 are compacted and still lie in level 0; then TXID 6 was found damaged.
    let files = listing(&[
        (9, 1, 1),
        (1, 2, 4),
        (0, 2, 2),
        (0, 3, 3),
        (0, 4, 4),
        (0, 5, 5),
        (0, 6, 6),
        (0, 7, 7),
        (9, 1, 8),
        (0, 8, 8),
    ]);
    let bad = files.level(Level::L0).nth(4).unwrap();
    let left = files.without(bad);
    let ids: Vec<u64> = points(&left).iter().map(|point| point.txid.get()).collect();
    assert_eq!(ids, [1, 2, 3, 4, 5, 8]);
    assert!(stragglers(&left).is_empty());
    // The same of a replica that is listed, where a directory tells of what was taken out.
    let told = Listing::new(left.files().to_vec()).beside([bad.range]);
    assert_eq!(points(&told), points(&left));
    // A file that nobody took out leaves a hole that a straggler may lie below.
    let untold = Listing::new(left.files().to_vec());
    assert_eq!(stragglers(&untold).len(), 3);
}

#[test]
fn the_last_txid_overflows_nothing() {
    let files = listing(&[(9, 1, u64::MAX), (0, u64::MAX, u64::MAX)]);
    assert_eq!(
        steps(&plan(&files, Point::Latest).unwrap()),
        [(9, 1, u64::MAX)]
    );
    assert!(plan(&files, Point::Txid(txid(u64::MAX))).is_ok());
    assert_eq!(points(&files).len(), 1);
}

#[test]
fn a_plan_of_ones_own_must_follow() {
    let of = |files: &[(u8, u64, u64)]| Plan::of(listing(files).files().to_vec());
    assert!(of(&[(0, 5, 5), (0, 6, 6), (0, 7, 7)]).is_some());
    assert!(of(&[(0, 5, 5), (0, 7, 7)]).is_none());
    assert!(of(&[]).is_none());
}

// ---- the model ----

/// Every TXID that some sequence of files leads to, found by trying all.
fn reachable(files: &[ReplicaFile]) -> BTreeSet<u64> {
    let mut reached = BTreeSet::from([0]);
    loop {
        let found: BTreeSet<u64> = files
            .iter()
            .filter(|f| {
                let (min, max) = (f.range.min().get(), f.range.max().get());
                reached.iter().any(|at| min - 1 <= *at && *at < max)
            })
            .map(|f| f.range.max().get())
            .collect();
        let before = reached.len();
        reached.extend(found);
        if reached.len() == before {
            reached.remove(&0);
            return reached;
        }
    }
}

fn some_files() -> impl Strategy<Value = Vec<ReplicaFile>> {
    let compacted = (1u8..=8, 1u64..14, 0u64..6).prop_map(|(l, min, more)| (l, min, min + more));
    let snapshot = (1u64..14).prop_map(|max| (9u8, 1, max));
    // Level 0 is a run: what stragglers add is tested above.
    let run = (1u64..14, 0u64..8).prop_map(|(from, more)| (from, from + more));
    (
        proptest::collection::vec(compacted, 0..8),
        proptest::collection::vec(snapshot, 0..3),
        proptest::option::of(run),
    )
        .prop_map(|(mut files, snapshots, run)| {
            files.extend(snapshots);
            files.extend(
                run.into_iter()
                    .flat_map(|(from, to)| (from..=to).map(|n| (0, n, n))),
            );
            files.sort_unstable();
            files.dedup();
            listing(&files).files().to_vec()
        })
}

fn follows(plan: &Plan) -> bool {
    plan.steps
        .first()
        .is_some_and(|first| first.range.is_snapshot())
        && plan.steps.windows(2).all(|pair| {
            pair[1].range.min() <= pair[0].range.max().next()
                && pair[0].range.max() < pair[1].range.max()
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn latest_is_the_farthest_or_an_error(files in some_files()) {
        let reached = reachable(&files);
        let last = reached.last().copied().unwrap_or(0);
        let beyond = files.iter().any(|f| f.range.min().get() - 1 > last);
        match plan(&Listing::new(files), Point::Latest) {
            Ok(found) => {
                prop_assert!(follows(&found) && !beyond);
                prop_assert_eq!(found.head(), Txid::new(last));
            }
            Err(PlanError::Gap { have, .. }) => prop_assert!(beyond && have.get() == last),
            Err(PlanError::NoStart { .. } | PlanError::Empty) => prop_assert_eq!(last, 0),
            Err(other) => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn a_txid_has_a_plan_exactly_when_a_road_ends_there(files in some_files(), wanted in 1u64..22) {
        let reached = reachable(&files);
        match plan(&Listing::new(files), Point::Txid(txid(wanted))) {
            Ok(found) => {
                prop_assert!(follows(&found));
                prop_assert_eq!(found.head(), Some(txid(wanted)));
                prop_assert!(reached.contains(&wanted));
            }
            Err(error) => {
                prop_assert!(!reached.contains(&wanted), "{error}");
                if let PlanError::NotAPoint { before, after, .. } = error {
                    prop_assert_eq!(reached.range(..wanted).next_back(), Some(&before.get()));
                    prop_assert_eq!(reached.range(wanted..).next(), Some(&after.get()));
                }
            }
        }
    }

    #[test]
    fn a_time_has_the_farthest_plan_before_it(files in some_files(), wanted in 1u64..22) {
        let time = at(wanted.cast_signed() * 10);
        let within: Vec<_> = files.iter().filter(|f| f.modified < time).cloned().collect();
        let last = reachable(&within).last().copied();
        let newer = within.iter().any(|f| last.is_some_and(|last| f.range.min().get() - 1 > last));
        match plan(&Listing::new(files.clone()), Point::Before(time)) {
            Ok(found) => {
                prop_assert!(follows(&found) && found.steps.iter().all(|f| f.modified < time));
                prop_assert_eq!(found.head().map(Txid::get), last);
                prop_assert_eq!(found.unreached.is_some(), newer, "silence about newer files");
            }
            Err(PlanError::Gap { .. }) => prop_assert!(newer),
            Err(_) => prop_assert_eq!(last, None),
        }
    }

    #[test]
    fn points_are_what_can_be_reached(files in some_files()) {
        let reached = reachable(&files);
        let found: BTreeSet<u64> =
            points(&Listing::new(files)).iter().map(|point| point.txid.get()).collect();
        prop_assert_eq!(found, reached);
    }
}
