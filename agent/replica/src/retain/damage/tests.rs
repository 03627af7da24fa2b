//! What leaves a chain because it is damaged, and what that costs.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::compact::{CompactError, compact, pending, renew};
use crate::durable::Fs;
use crate::testing::chain::{History, put, time, txid};
use crate::testing::{CrashFs, Loss, scratch};
use crate::{DirStore, MergeError, Plan, Put};
use sqlrep_format::TxidRange;
use sqlrep_format::ltx::Level;

fn policy(claims: &[u64]) -> Policy {
    Policy {
        l0: Duration::from_secs(1),
        levels: Vec::new(),
        window: Duration::from_secs(100),
        claims: claims.iter().copied().map(txid).collect(),
    }
}

/// TXIDs 1 to 9 of which 6 holds every page.
fn chain(store: &DirStore) -> History {
    let all: Vec<u32> = (1..=4).collect();
    let steps: Vec<(u32, Vec<u32>)> = (1..=9)
        .map(|id| {
            (
                4,
                if id == 6 {
                    all.clone()
                } else {
                    vec![id % 4 + 1]
                },
            )
        })
        .collect();
    let history = History::new(&steps);
    let (header, pages) = history.covering(1, 1);
    put(store, 9, &header, &pages).unwrap();
    for id in 1..=9 {
        let (header, pages) = history.covering(id, id);
        put(store, 0, &header, &pages).unwrap();
    }
    history
}

fn l0(store: &DirStore, id: u64) -> ReplicaFile {
    let listing = store.list().unwrap();
    let found = listing
        .level(Level::L0)
        .find(|file| file.range.max() == txid(id));
    found.unwrap().clone()
}

fn newest(store: &DirStore) -> Vec<u8> {
    let dir = scratch();
    let path = dir.path().join("db");
    let destination = crate::Destination::open(&path).unwrap();
    let options = crate::RestoreOptions::default();
    crate::restore::restore(store, Point::Latest, &destination, &options, &()).unwrap();
    fs::read(path).unwrap()
}

#[test]
fn a_file_with_every_page_is_a_beginning_and_no_other_is() {
    let dir = scratch();
    let store = DirStore::new(dir.path());
    let history = chain(&store);
    let renewed = renew(&store, &l0(&store, 6), &()).unwrap();
    assert_eq!(renewed.put, Put::Published);
    assert_eq!(renewed.file.range, TxidRange::snapshot(txid(6)));
    assert_eq!(
        (renewed.file.level, renewed.file.modified),
        (Level::SNAPSHOT, time(6))
    );
    // It leans on nothing before it.
    for id in 1..=6 {
        store.remove(&l0(&store, id)).unwrap();
    }
    assert_eq!(newest(&store), history.file(9));
    let refused = renew(&store, &l0(&store, 7), &());
    assert!(
        matches!(
            refused,
            Err(CompactError::Merge(MergeError::Missing { .. }))
        ),
        "{refused:?}"
    );
}

#[test]
fn nothing_leaves_before_the_newest_state_has_another_road() {
    let dir = scratch();
    let store = DirStore::new(dir.path());
    chain(&store);
    let bad = l0(&store, 3);
    let refused = condemn(
        &store.list().unwrap(),
        std::slice::from_ref(&bad),
        &policy(&[]),
    );
    assert!(refused.is_err(), "{refused:?}");
    renew(&store, &l0(&store, 6), &()).unwrap();
    let listing = store.list().unwrap();
    let condemned = condemn(&listing, std::slice::from_ref(&bad), &policy(&[])).unwrap();
    assert_eq!(condemned.files(), std::slice::from_ref(&bad));
    let lost: Vec<u64> = lost(&listing, &listing.without(&bad))
        .iter()
        .map(|point| point.txid.get())
        .collect();
    assert_eq!(lost, [3, 4, 5], "what led from 3 to 6");
    // A claim keeps its name, damaged or not.
    let spared = condemn(&listing, &[bad], &policy(&[3])).unwrap();
    assert!(spared.files().is_empty());
}

#[test]
fn compaction_goes_on_beside_the_hole() {
    let dir = scratch();
    let store = DirStore::new(dir.path());
    let history = chain(&store);
    renew(&store, &l0(&store, 6), &()).unwrap();
    let condemned = condemn(&store.list().unwrap(), &[l0(&store, 3)], &policy(&[])).unwrap();
    condemned.carry_out(&store, time(9)).unwrap();
    let one = Level::new(1).unwrap();
    let mut made = Vec::new();
    while let Some(plan) = Plan::of(pending(&store.list().unwrap(), one)) {
        made.push(compact(&store, &plan, one, &()).unwrap().file.range);
    }
    let range = |min, max| TxidRange::new(txid(min), txid(max)).unwrap();
    // TXID 1 has a snapshot of its own, and is not compacted once more.
    assert_eq!(made, [range(2, 2), range(4, 9)]);
    assert_eq!(newest(&store), history.file(9));
}

#[test]
fn a_crash_at_any_step_of_setting_aside_loses_nothing_and_is_made_good() {
    let steps = {
        let dir = scratch();
        chain(&DirStore::new(dir.path()));
        let watch = Arc::new(CrashFs::new(dir.path()).unwrap());
        let store = DirStore::with_fs(dir.path(), Arc::clone(&watch) as Arc<dyn Fs>);
        mend(&store).unwrap();
        watch.log().len() as u64
    };
    assert!(steps > 8, "{steps}");
    for step in 0..steps {
        let dir = scratch();
        let history = chain(&DirStore::new(dir.path()));
        let fs = Arc::new(CrashFs::new(dir.path()).unwrap());
        fs.crash_at(step);
        let store = DirStore::with_fs(dir.path(), Arc::clone(&fs) as Arc<dyn Fs>);
        let ended = mend(&store);
        assert!(fs.fired(), "step {step}: {ended:?}");
        for loss in Loss::EACH {
            let left = scratch();
            fs.after_crash(loss, left.path()).unwrap();
            let store = DirStore::new(left.path());
            mend(&store).unwrap();
            assert_eq!(newest(&store), history.file(9), "step {step}, {loss:?}");
            let aside = fs::read_dir(left.path().join(".sqlrep/damaged")).unwrap();
            let aside: Vec<_> = aside.map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(aside.len(), 1, "step {step}, {loss:?}: {aside:?}");
        }
    }
}

/// All of it: what stands in, then out with what is damaged, which is TXID 3.
fn mend(store: &DirStore) -> Result<(), Box<dyn std::error::Error>> {
    let listing = store.list()?;
    let full = listing
        .level(Level::L0)
        .find(|file| file.range.max() == txid(6));
    renew(store, full.ok_or("it is there")?, &())?;
    let listing = store.list()?;
    let bad = listing
        .level(Level::L0)
        .find(|file| file.range.max() == txid(3));
    let bad: Vec<ReplicaFile> = bad.into_iter().cloned().collect();
    condemn(&listing, &bad, &policy(&[]))?.carry_out(store, time(9))?;
    Ok(())
}
