//! Appends, acks and refusals of one database.

use std::collections::BTreeMap;
use std::fs;
use std::thread;

use sqlrep_format::{PageSize, Timestamp};

use super::*;
use crate::testing::{
    LIMITS, POD, Pages, append, assert_checksums, decode, draft, files_of, id, open, snapshot,
    total, txid, txids,
};
use crate::{Limits, Spool};

#[test]
fn an_append_is_a_file_that_decodes_to_its_pages() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, database) = open(dir.path());
    assert!(database.must_be_full());
    let first = snapshot(&database, 4);
    assert_eq!(first.pages, 4);
    let second = append(&database, 5, [(2, 2), (5, 3)]).unwrap();
    let mut pages: BTreeMap<u32, u8> = (1..=4).map(|page| (page, 1)).collect();
    pages.extend([(2, 2), (5, 3)]);
    assert_eq!(
        second.pos,
        Some(Pos {
            txid: txid(2),
            checksum: total(&pages)
        })
    );
    assert_eq!(decode(&second.entry.path), (5, [(2, 2), (5, 3)].into()));
    assert_eq!(
        fs::metadata(&second.entry.path).unwrap().len(),
        second.entry.bytes
    );
    assert_eq!(
        database.pending(),
        [first.entry.clone(), second.entry.clone()]
    );
    assert_eq!(
        spool.pending_bytes(),
        first.entry.bytes + second.entry.bytes
    );
    database.ack(txid(1)).unwrap();
    database.ack(txid(1)).unwrap();
    assert_eq!(database.first_pending(), Some(second.entry.clone()));
    assert_eq!(spool.pending_bytes(), second.entry.bytes);
    // A smaller database forgets the pages beyond its end.
    append(&database, 2, [(1, 9)]).unwrap();
    assert_checksums(&database, &[(1, 9), (2, 2)].into());
}

#[test]
fn a_draft_that_does_not_follow_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (_spool, database) = open(dir.path());
    let refuse = |draft: &Draft| {
        database
            .append(draft, &mut Pages::of([(1, 1), (2, 1)]))
            .unwrap_err()
    };
    let mut bad = draft(&database, 2);
    bad.txid = txid(2);
    assert!(refuse(&bad).is_out_of_order());
    snapshot(&database, 2);
    let good = draft(&database, 2);
    for number in [1, 3] {
        assert!(
            refuse(&Draft {
                txid: txid(number),
                ..good
            })
            .is_out_of_order()
        );
    }
    let last = database.position().unwrap().timestamp;
    let late = Draft {
        timestamp: last,
        ..good
    };
    assert!(matches!(refuse(&late), Error::TimeStandsStill { .. }));
    let wide = Draft {
        page_size: PageSize::MAX,
        ..good
    };
    assert!(matches!(refuse(&wide), Error::PageSizeChanged { .. }));
    // Pages 3 and 4 are new; one of them is missing.
    let error = append(&database, 4, [(1, 1), (4, 1)]).unwrap_err();
    assert!(matches!(error, Error::MissingPages { missing: 1, .. }));
    let error = append(&database, 2, [(3, 1)]).unwrap_err();
    assert!(matches!(error, Error::Encode { .. }));
    assert_eq!(database.next_txid(), txid(2));
    assert_eq!(database.pending().len(), 1);
}

#[test]
fn a_first_file_must_hold_every_page() {
    let dir = tempfile::tempdir().unwrap();
    let (_spool, database) = open(dir.path());
    assert!(append(&database, 3, [(1, 1), (2, 1)]).is_err());
    assert!(append(&database, 3, [(1, 1), (3, 1)]).is_err());
    assert_eq!(database.position(), None);
    snapshot(&database, 3);
}

/// 36 MB of pages: compressed by a second thread.
const MANY: u32 = 70_000;

#[test]
fn a_snapshot_of_many_pages_holds_them_all() {
    let dir = tempfile::tempdir().unwrap();
    let (_spool, database) = open(dir.path());
    let byte = |page: u32| u8::try_from(page % 251).unwrap();
    let pages: BTreeMap<u32, u8> = (1..=MANY).map(|page| (page, byte(page))).collect();
    let first = append(&database, MANY, pages.clone()).unwrap();
    assert_eq!(first.pages, MANY);
    assert_eq!(decode(&first.entry.path), (MANY, pages.clone()));
    assert_checksums(&database, &pages);
}

#[test]
fn a_source_of_many_pages_that_fails_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, database) = open(dir.path());
    let mut source = Pages {
        fails: true,
        ..Pages::of((1..MANY).map(|page| (page, 1)))
    };
    let draft = draft(&database, MANY);
    let error = database.append(&draft, &mut source).unwrap_err();
    assert!(matches!(error, Error::Pages { .. }), "{error}");
    let error = append(&database, MANY, (1..MANY).map(|page| (page, 1))).unwrap_err();
    assert!(
        matches!(error, Error::MissingPages { missing: 1, .. }),
        "{error}"
    );
    assert_eq!((database.position(), spool.pending_bytes()), (None, 0));
    snapshot(&database, MANY);
}

#[test]
fn a_source_that_fails_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, database) = open(dir.path());
    snapshot(&database, 3);
    let (position, bytes) = (database.position(), spool.pending_bytes());
    let mut source = Pages {
        fails: true,
        ..Pages::of([(1, 7)])
    };
    let error = database
        .append(&draft(&database, 3), &mut source)
        .unwrap_err();
    let Error::Pages { source, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(source.to_string(), "the WAL was reset");
    assert_eq!(
        (database.position(), spool.pending_bytes()),
        (position, bytes)
    );
    assert_eq!(
        fs::read_dir(database.dir().join("ltx/0")).unwrap().count(),
        1
    );
    append(&database, 3, [(1, 8)]).unwrap();
    assert_checksums(&database, &[(1, 8), (2, 1), (3, 1)].into());
}

#[test]
fn at_the_limit_appends_are_refused_until_something_is_shipped() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), Limits { bytes_max: 100 }).unwrap();
    let database = spool.database(&id(), POD).unwrap();
    snapshot(&database, 3);
    assert!(spool.is_over_limit());
    let error = append(&database, 3, [(1, 2)]).unwrap_err();
    assert!(error.is_full() && error.is_transient());
    assert!(
        error.to_string().contains("its limit is 100")
            && error.to_string().contains("--spool-limit")
    );
    database.ack(txid(1)).unwrap();
    assert_eq!(spool.pending_bytes(), 0);
    append(&database, 3, [(1, 2)]).unwrap();
}

#[test]
fn the_file_of_an_append_that_failed_late_does_not_take_its_txid() {
    let dir = tempfile::tempdir().unwrap();
    let (_spool, database) = open(dir.path());
    snapshot(&database, 3);
    let orphan = append(&database, 3, [(1, 2)]).unwrap().entry.path;
    // As if the link was done and the fsync of the directory failed: the spool was told nothing.
    let next = dir.path().join("next");
    fs::copy(&orphan, &next).unwrap();
    let name = "0000000000000003-0000000000000003.ltx";
    fs::copy(&next, orphan.with_file_name(name)).unwrap();
    let appended = append(&database, 3, [(1, 5)]).unwrap();
    assert_eq!(decode(&appended.entry.path), (3, [(1, 5)].into()));
}

#[test]
fn an_ack_beyond_the_newest_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (_spool, database) = open(dir.path());
    snapshot(&database, 3);
    let error = database.ack(txid(2)).unwrap_err();
    assert!(matches!(error, Error::Unknown { newest, .. } if newest == Some(txid(1))));
    assert_eq!(database.pending().len(), 1);
}

#[test]
fn many_acks_keep_few_files() {
    let dir = tempfile::tempdir().unwrap();
    let (_spool, database) = open(dir.path());
    snapshot(&database, 3);
    for byte in 0..200 {
        append(&database, 3, [(2, byte)]).unwrap();
        database.ack(database.position().unwrap().txid).unwrap();
    }
    let files = files_of(&database).list().unwrap();
    assert!(files.len() <= 70, "{}", files.len());
    assert_eq!(txids(&files).last(), Some(&201));
}

#[test]
fn who_appends_leaves_the_flush_to_who_ships_and_sees_to_it_when_nobody_does() {
    let dir = tempfile::tempdir().unwrap();
    let (_spool, database) = open(dir.path());
    snapshot(&database, 3);
    let flushed = || database.inner.ledger().flushed();
    let appends = |count: u64| {
        let before = flushed();
        for number in 0..count {
            append(&database, 3, [(2, u8::try_from(number % 251).unwrap())]).unwrap();
        }
        flushed() > before
    };
    assert!(!appends(100), "it has a WAL to tend");
    let before = flushed();
    database.ack(txid(50)).unwrap();
    assert!(flushed() > before);
    assert!(!appends(200));
    assert!(appends(100), "nothing is shipped");
}

#[test]
fn what_waits_for_a_compaction_stays_and_goes_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, database) = open(dir.path());
    let held =
        |database: &DatabaseSpool| -> Vec<u64> { txids(&files_of(database).list().unwrap()) };
    snapshot(&database, 3);
    database.keep_above(Some(txid(1)));
    for byte in 0..100 {
        append(&database, 3, [(2, byte)]).unwrap();
        database.ack(database.position().unwrap().txid).unwrap();
    }
    spool.flush().unwrap();
    assert_eq!(held(&database), (2..=101).collect::<Vec<_>>());
    assert_eq!(
        spool.pending_bytes(),
        0,
        "what is kept does not count as waiting"
    );
    let kept = database.kept(txid(50)).unwrap();
    assert_eq!(decode(&kept.path), (3, [(2, 48)].into()));
    assert_eq!(database.kept(txid(1)), None);
    append(&database, 3, [(2, 200)]).unwrap();
    assert_eq!(database.kept(txid(102)), None, "it is not shipped");
    database.keep_above(Some(txid(90)));
    assert_eq!(held(&database), (91..=102).collect::<Vec<_>>());
    database.keep_above(None);
    spool.flush().unwrap();
    assert_eq!(held(&database), [102]);
}

#[test]
fn nothing_is_kept_when_the_spool_is_needed_for_what_waits() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), Limits { bytes_max: 100 }).unwrap();
    let database = spool.database(&id(), POD).unwrap();
    snapshot(&database, 3);
    database.ack(txid(1)).unwrap();
    database.keep_above(Some(txid(1)));
    append(&database, 3, [(2, 2)]).unwrap();
    database.ack(txid(2)).unwrap();
    append(&database, 3, [(2, 3)]).unwrap();
    assert!(spool.is_over_limit());
    spool.flush().unwrap();
    let files = files_of(&database).list().unwrap();
    assert_eq!(txids(&files), [3]);
}

#[test]
fn a_rejected_file_takes_those_after_it_along() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, database) = open(dir.path());
    snapshot(&database, 3);
    append(&database, 3, [(2, 2)]).unwrap();
    append(&database, 3, [(2, 3)]).unwrap();
    database.ack(txid(1)).unwrap();
    assert!(database.reject(txid(1), "shipped").is_err());
    let stale = draft(&database, 3);
    database.reject(txid(2), "damaged").unwrap();
    assert!(database.pending().is_empty());
    assert_eq!(spool.pending_bytes(), 0);
    assert_eq!(database.next_txid(), txid(2));
    let error = database
        .append(&stale, &mut Pages::of([(1, 1)]))
        .unwrap_err();
    assert!(error.is_out_of_order());
    assert!(!database.page_checksums().is_known());
}

#[test]
fn the_place_in_the_wal_moves_without_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, database) = open(dir.path());
    snapshot(&database, 3);
    let place = WalPlace {
        frames: 77,
        ..database.position().unwrap().wal.unwrap()
    };
    database.set_place(Some(place));
    drop((spool, database));
    let (_spool, database) = open(dir.path());
    assert_eq!(database.position().unwrap().wal, Some(place));
    assert_eq!(database.next_txid(), txid(2));
}

#[test]
fn a_ledger_that_breaks_stops_neither_capture_nor_shipping() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, database) = open(dir.path());
    snapshot(&database, 3);
    database.inner.ledger().break_now();
    let appended = append(&database, 3, [(2, 2)]).unwrap();
    assert_eq!(appended.pos, None);
    assert!(!database.page_checksums().is_known());
    append(&database, 3, [(2, 3)]).unwrap();
    database.ack(txid(2)).unwrap();
    assert_eq!(database.first_pending().unwrap().txid, txid(3));
    drop((spool, database));
    let (_spool, database) = open(dir.path());
    assert_eq!(database.next_txid(), txid(4));
    assert!(database.pending().iter().any(|entry| entry.txid == txid(3)));
}

#[test]
fn capture_and_shipper_work_at_the_same_time() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, database) = open(dir.path());
    snapshot(&database, 8);
    let shipper = database.clone();
    let shipping = thread::spawn(move || {
        let mut next = Txid::FIRST;
        while next <= txid(150) {
            let Some(entry) = shipper.first_pending() else {
                thread::yield_now();
                continue;
            };
            assert_eq!(entry.txid, next);
            decode(&entry.path);
            shipper.ack(entry.txid).unwrap();
            next = next.next();
        }
    });
    let mut pages: BTreeMap<u32, u8> = (1..=8).map(|page| (page, 1)).collect();
    for step in 2..=150_u8 {
        let page = u32::from(step % 8) + 1;
        append(&database, 8, [(page, step)]).unwrap();
        pages.insert(page, step);
    }
    shipping.join().unwrap();
    assert_checksums(&database, &pages);
    assert_eq!(spool.pending_bytes(), 0);
}

#[test]
fn two_handles_are_the_same_spool_and_bad_pod_uids_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, database) = open(dir.path());
    let again = spool.database(&id(), POD).unwrap();
    snapshot(&database, 3);
    assert_eq!(again.position(), database.position());
    let other = spool.database(&id(), "another-pod").unwrap();
    assert_eq!(other.position(), None);
    for bad in ["", "..", "a/b", "ltx", ".sqlrep", &"a".repeat(129)] {
        assert!(
            matches!(spool.database(&id(), bad), Err(Error::BadPodUid { .. })),
            "{bad:?}"
        );
    }
}

#[test]
fn a_locked_state_directory_names_its_holder() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, database) = open(dir.path());
    let error = Spool::open(dir.path(), LIMITS).unwrap_err();
    assert!(matches!(error, Error::Locked { holder: Some(pid), .. } if pid == std::process::id()));
    assert!(error.to_string().contains("--state-dir"), "{error}");
    drop(spool);
    assert!(
        Spool::open(dir.path(), LIMITS).is_err(),
        "a database is still open"
    );
    drop(database);
    Spool::open(dir.path(), LIMITS).unwrap();
}

#[test]
fn times_of_files_are_those_of_their_headers() {
    let dir = tempfile::tempdir().unwrap();
    let (_spool, database) = open(dir.path());
    let entry = snapshot(&database, 3).entry;
    let listed = files_of(&database).list().unwrap();
    assert_eq!(listed[0].modified, entry.timestamp);
    assert!(entry.timestamp > Timestamp::from_millis(0));
}
