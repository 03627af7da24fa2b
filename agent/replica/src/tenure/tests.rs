//! Tests of who has a volume.

use std::path::Path;
use std::sync::Barrier;
use std::{fs, thread};

use sqlrep_format::Timestamp;

use super::*;
use crate::OwnerState;
use crate::owner::WriterId;
use crate::testing::{CrashFs, Loss, scratch};

fn pod(uid: &str) -> Owner {
    Owner {
        pod: format!("surmai-{uid}"),
        pod_uid: uid.to_owned(),
        node: "n".to_owned(),
        writer: WriterId::new("n", uid),
        state: OwnerState::Active,
        since: Timestamp::from_millis(1_700_000_000_123),
    }
}

fn of(uid: &str) -> Tenure {
    Tenure::Of(Box::new(pod(uid)))
}

#[test]
fn a_volume_is_taken_once_and_given_back_by_who_has_it() {
    let dir = scratch();
    let volume = dir.path().join("media/surmai/sqlite/.sqlrep");
    assert_eq!(take(&volume, &pod("a"), None).unwrap(), Tenure::Taken);
    assert_eq!(take(&volume, &pod("a"), None).unwrap(), Tenure::Held);
    assert_eq!(take(&volume, &pod("b"), None).unwrap(), of("a"));
    give_back(&volume, "b").unwrap();
    assert_eq!(take(&volume, &pod("b"), None).unwrap(), of("a"));
    give_back(&volume, "a").unwrap();
    give_back(&volume, "a").unwrap();
    assert_eq!(take(&volume, &pod("b"), None).unwrap(), Tenure::Taken);
    assert_eq!(fs::read_dir(&volume).unwrap().count(), 1);
}

#[test]
fn it_is_taken_from_the_pod_that_was_judged_and_from_no_other() {
    let dir = scratch();
    take(dir.path(), &pod("a"), None).unwrap();
    assert_eq!(take(dir.path(), &pod("b"), Some("x")).unwrap(), of("a"));
    assert_eq!(
        take(dir.path(), &pod("b"), Some("a")).unwrap(),
        Tenure::Taken
    );
    assert_eq!(take(dir.path(), &pod("c"), Some("a")).unwrap(), of("b"));
    // the one before it is late
    give_back(dir.path(), "a").unwrap();
    assert_eq!(take(dir.path(), &pod("b"), None).unwrap(), Tenure::Held);
}

#[test]
fn of_many_that_take_it_at_once_one_has_it() {
    for _ in 0..20 {
        let dir = scratch();
        let start = Barrier::new(4);
        let taken: Vec<Tenure> = thread::scope(|scope| {
            let takers = ["a", "b", "c", "d"].map(|uid| {
                let (start, dir) = (&start, dir.path());
                scope.spawn(move || {
                    start.wait();
                    take(dir, &pod(uid), None).unwrap()
                })
            });
            takers.map(|taker| taker.join().unwrap()).into()
        });
        let won = |tenure: &&Tenure| **tenure == Tenure::Taken;
        assert_eq!(taken.iter().filter(won).count(), 1, "{taken:?}");
    }
}

/// Crashes at every step of `run`, which says whether it was done. Then the volume is `before` or
/// `after`, as told to somebody else who asks; and `after` alone if it was done.
fn crash_everywhere(
    begin: impl Fn(&Path),
    run: impl Fn(&CrashFs, &Place) -> bool,
    [before, after]: [&Tenure; 2],
) {
    for step in 0..100 {
        let dir = scratch();
        begin(dir.path());
        let crash = CrashFs::new(dir.path()).unwrap();
        crash.crash_at(step);
        let done = run(&crash, &Place::from(dir.path()));
        for loss in Loss::EACH {
            let left = scratch();
            crash.after_crash(loss, left.path()).unwrap();
            let found = take(left.path(), &pod("next"), None).unwrap();
            assert!(
                found == *after || (!done && found == *before),
                "step {step} {loss:?}: {found:?}"
            );
        }
        if !crash.fired() {
            return;
        }
    }
    panic!("it never ends");
}

#[test]
fn a_crash_leaves_the_whole_note_or_none() {
    let run = |crash: &CrashFs, place: &Place| take_with(crash, place, &pod("a"), None).is_ok();
    crash_everywhere(|_| (), run, [&Tenure::Taken, &of("a")]);
}

#[test]
fn what_is_taken_over_or_given_back_is_so_for_good() {
    let begin = |dir: &Path| {
        take(dir, &pod("a"), None).unwrap();
    };
    let over = |crash: &CrashFs, place: &Place| {
        let taken = take_with(crash, place, &pod("b"), Some("a"));
        taken.is_ok_and(|tenure| tenure == Tenure::Taken)
    };
    crash_everywhere(begin, over, [&of("a"), &of("b")]);
    let back = |crash: &CrashFs, place: &Place| give_back_with(crash, place, "a").is_ok();
    crash_everywhere(begin, back, [&of("a"), &Tenure::Taken]);
}

#[test]
fn what_is_no_note_is_told_and_stays() {
    let dir = scratch();
    let note = dir.path().join("owner.json");
    fs::write(&note, "{\"version\": 1}").unwrap();
    let error = take(dir.path(), &pod("a"), None).unwrap_err();
    assert!(error.to_string().contains("owner.json"), "{error}");
    give_back(dir.path(), "a").unwrap_err();
    assert_eq!(fs::read_to_string(&note).unwrap(), "{\"version\": 1}");
}
