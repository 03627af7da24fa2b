//! What comes back after crashes, lost ledgers and damaged files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use sqlrep_replica::DirStore;

use super::*;
use crate::testing::{
    LIMITS, POD, append, assert_checksums, copy, damage, draft, files_of, id, open, ship, snapshot,
    txid, txids,
};
use crate::{DatabaseSpool, PodNote, Seed, Spool};

fn pages(commit: u32) -> BTreeMap<u32, u8> {
    (1..=commit).map(|page| (page, 1)).collect()
}

fn file(database: &DatabaseSpool, number: u64) -> PathBuf {
    files_of(database).path(txid(number))
}

fn pending(database: &DatabaseSpool) -> Vec<u64> {
    database
        .pending()
        .iter()
        .map(|entry| entry.txid.get())
        .collect()
}

fn aside(database: &DatabaseSpool) -> usize {
    fs::read_dir(database.dir().join(".sqlrep/aside")).map_or(0, Iterator::count)
}

/// Three files: a snapshot of 4 pages and two small ones.
fn three(dir: &Path) {
    let (_spool, database) = open(dir);
    snapshot(&database, 4);
    append(&database, 4, [(2, 2)]).unwrap();
    append(&database, 5, [(5, 3)]).unwrap();
}

/// The pages after those three files.
fn after_three() -> BTreeMap<u32, u8> {
    let mut pages = pages(5);
    pages.extend([(2, 2), (5, 3)]);
    pages
}

#[test]
fn files_that_the_ledger_has_not_seen_are_applied_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let (live, crashed) = (dir.path().join("live"), dir.path().join("crashed"));
    let (spool, database) = open(&live);
    snapshot(&database, 4);
    spool.flush().unwrap();
    // The ledger as it is now, with the files of later: the crash between file and ledger.
    copy(&live.join("ledger"), &crashed.join("ledger"));
    append(&database, 4, [(2, 2)]).unwrap();
    append(&database, 5, [(5, 3)]).unwrap();
    copy(&live.join("spool"), &crashed.join("spool"));
    let wanted = database.position().unwrap();
    drop((spool, database));

    let (_spool, database) = open(&crashed);
    assert_checksums(&database, &after_three());
    let found = database.position().unwrap();
    let (place, was) = (found.wal.unwrap(), wanted.wal.unwrap());
    assert_eq!(
        (place.salts, place.frames, place.checksum),
        (was.salts, was.frames, None)
    );
    assert_eq!(found.txid, wanted.txid);
    assert_eq!(pending(&database), [1, 2, 3]);
}

#[test]
fn a_clean_restart_keeps_everything() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, database) = open(dir.path());
    snapshot(&database, 4);
    append(&database, 4, [(2, 2)]).unwrap();
    database.ack(txid(1)).unwrap();
    let wanted = database.position();
    drop((spool, database));
    let (_spool, database) = open(dir.path());
    assert_eq!(database.position(), wanted);
    assert_eq!(pending(&database), [2]);
    assert_eq!(database.shipped(), Some(txid(1)));
}

#[test]
fn without_a_ledger_files_from_the_first_on_tell_everything() {
    let dir = tempfile::tempdir().unwrap();
    three(dir.path());
    fs::remove_dir_all(dir.path().join("ledger")).unwrap();
    let (_spool, database) = open(dir.path());
    assert_checksums(&database, &after_three());
    assert_eq!(pending(&database), [1, 2, 3]);
}

#[test]
fn without_a_ledger_position_and_files_come_from_the_files() {
    let dir = tempfile::tempdir().unwrap();
    three(dir.path());
    let (spool, database) = open(dir.path());
    database.ack(txid(1)).unwrap();
    spool.flush().unwrap();
    drop((spool, database));
    fs::remove_dir_all(dir.path().join("ledger")).unwrap();
    let (_spool, database) = open(dir.path());
    let position = database.position().unwrap();
    assert_eq!(
        (position.txid, position.commit.get(), position.checksum),
        (txid(3), 5, None)
    );
    assert_eq!(position.wal.unwrap().frames, 3);
    assert!(!database.page_checksums().is_known());
    assert_eq!(pending(&database), [2, 3]);
    // A file that holds every page makes them known again.
    append(&database, 5, [(1, 9)]).unwrap();
    assert!(!database.page_checksums().is_known());
    append(&database, 5, (1..=5).map(|page| (page, 4))).unwrap();
    assert_checksums(&database, &(1..=5).map(|page| (page, 4)).collect());
}

#[test]
fn with_the_ledger_and_all_shipped_files_gone_the_next_txid_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, database) = open(dir.path());
    snapshot(&database, 4);
    append(&database, 4, [(2, 2)]).unwrap();
    append(&database, 4, [(3, 2)]).unwrap();
    database.ack(txid(3)).unwrap();
    spool.flush().unwrap();
    let files = files_of(&database);
    assert_eq!(
        txids(&files.list().unwrap()),
        [3],
        "shipped files go, the newest stays"
    );
    drop((spool, database));
    fs::remove_dir_all(dir.path().join("ledger")).unwrap();
    let (_spool, database) = open(dir.path());
    assert_eq!(database.next_txid(), txid(4));
}

#[test]
fn shipped_files_stay_until_the_ledger_that_saw_them_is_on_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, database) = open(dir.path());
    snapshot(&database, 4);
    append(&database, 4, [(2, 2)]).unwrap();
    append(&database, 5, [(5, 3)]).unwrap();
    database.ack(txid(3)).unwrap();
    assert_eq!(txids(&files_of(&database).list().unwrap()), [1, 2, 3]);
    assert!(database.pending().is_empty());
    // Killed here, the ledger comes back behind them; they bring it to the position.
    let crashed = dir.path().join("crashed");
    copy(&dir.path().join("ledger"), &crashed.join("ledger"));
    copy(&dir.path().join("spool"), &crashed.join("spool"));
    drop((spool, database));
    let (_spool, database) = open(&crashed);
    assert_checksums(&database, &after_three());
}

#[test]
fn a_damaged_newest_file_is_moved_aside_and_the_position_falls_back() {
    let dir = tempfile::tempdir().unwrap();
    three(dir.path());
    let (spool, database) = open(dir.path());
    let path = file(&database, 3);
    drop((spool, database));
    damage(&path);
    let (_spool, database) = open(dir.path());
    let position = database.position().unwrap();
    assert_eq!((position.txid, position.checksum), (txid(2), None));
    assert_eq!(pending(&database), [1, 2]);
    assert_eq!(aside(&database), 1);
}

#[test]
fn a_damaged_newest_file_that_was_shipped_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    three(dir.path());
    let (spool, database) = open(dir.path());
    database.ack(txid(3)).unwrap();
    let path = file(&database, 3);
    drop((spool, database));
    damage(&path);
    let (_spool, database) = open(dir.path());
    assert_checksums(&database, &after_three());
    assert_eq!(database.next_txid(), txid(4));
    assert!(pending(&database).is_empty());
}

#[test]
fn the_position_does_not_fall_behind_what_was_shipped() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, database) = open(dir.path());
    snapshot(&database, 4);
    append(&database, 4, [(2, 2)]).unwrap();
    database.ack(txid(2)).unwrap();
    spool.flush().unwrap();
    append(&database, 5, [(5, 3)]).unwrap();
    let newest = file(&database, 3);
    database.inner.reap().unwrap(); // as with the next word of the shipper
    assert!(
        !file(&database, 2).exists(),
        "shipped, and not the newest any more"
    );
    drop((spool, database));
    damage(&newest);
    let (_spool, database) = open(dir.path());
    assert_eq!(database.next_txid(), txid(3));
    assert_eq!(database.position().unwrap().wal, None);
    // What the lost file held is only in the database now: the next file must hold all of it.
    assert!(database.must_be_full());
    let error = append(&database, 5, [(5, 3)]).unwrap_err();
    assert!(
        matches!(error, Error::MissingPages { missing: 4, .. }),
        "{error}"
    );
    append(&database, 5, (1..=5).map(|page| (page, 3))).unwrap();
    assert_checksums(&database, &(1..=5).map(|page| (page, 3)).collect());
    assert_eq!(pending(&database), [3]);
}

#[test]
fn what_waits_never_has_a_gap() {
    for broken in [1, 2] {
        let dir = tempfile::tempdir().unwrap();
        three(dir.path());
        let (spool, database) = open(dir.path());
        let path = file(&database, broken);
        drop((spool, database));
        // Cut short: its ends no longer fit, so that opening notices.
        fs::write(&path, &fs::read(&path).unwrap()[..150]).unwrap();
        let (_spool, database) = open(dir.path());
        assert_eq!(pending(&database), (1..broken).collect::<Vec<_>>());
        assert_eq!(database.next_txid(), txid(broken));
        assert_eq!(aside(&database) as u64, 4 - broken);
    }
}

#[test]
fn a_file_that_replay_finds_damaged_ends_the_chain_there() {
    let dir = tempfile::tempdir().unwrap();
    let (live, crashed) = (dir.path().join("live"), dir.path().join("crashed"));
    let (spool, database) = open(&live);
    snapshot(&database, 4);
    spool.flush().unwrap();
    copy(&live.join("ledger"), &crashed.join("ledger"));
    append(&database, 4, [(2, 2)]).unwrap();
    append(&database, 5, [(5, 3)]).unwrap();
    damage(&file(&database, 2));
    copy(&live.join("spool"), &crashed.join("spool"));
    drop((spool, database));
    let (_spool, database) = open(&crashed);
    assert_checksums(&database, &pages(4));
    assert_eq!(pending(&database), [1]);
    assert_eq!(aside(&database), 2);
}

#[test]
fn a_ledger_of_another_history_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    three(&one);
    let (spool, database) = open(&two);
    snapshot(&database, 4);
    append(&database, 4, [(3, 7)]).unwrap();
    append(&database, 5, [(5, 8)]).unwrap();
    drop((spool, database));
    fs::remove_dir_all(two.join("ledger")).unwrap();
    copy(&one.join("ledger"), &two.join("ledger"));
    let (_spool, database) = open(&two);
    assert_eq!(database.position().unwrap().checksum, None);
    assert_eq!(database.next_txid(), txid(4));
}

#[test]
fn a_damaged_ledger_costs_no_file() {
    let dir = tempfile::tempdir().unwrap();
    three(dir.path());
    damage(&dir.path().join("ledger/db"));
    for entry in fs::read_dir(dir.path().join("ledger")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() && fs::metadata(&path).unwrap().len() > 2 {
            damage(&path);
        }
    }
    let (_spool, database) = open(dir.path());
    assert_eq!(pending(&database), [1, 2, 3]);
    assert_eq!(database.next_txid(), txid(4));
}

fn seed(database: &DatabaseSpool, number: u64, commit: u32) -> Result<(), Error> {
    let state = pages(commit);
    let sums: Vec<_> = state
        .iter()
        .map(|(page, byte)| {
            Ok((
                crate::testing::pgno(*page),
                crate::testing::sum(*page, *byte),
            ))
        })
        .collect();
    let at = draft(database, commit);
    database.seed(Seed {
        txid: txid(number),
        timestamp: at.timestamp,
        commit: at.commit,
        page_size: at.page_size,
        checksums: &mut sums.into_iter(),
    })
}

#[test]
fn a_seed_survives_the_loss_of_the_ledger() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, database) = open(dir.path());
    seed(&database, 41, 4).unwrap();
    assert_checksums(&database, &pages(4));
    drop((spool, database));
    let (spool, database) = open(dir.path());
    assert_checksums(&database, &pages(4));
    drop((spool, database));
    fs::remove_dir_all(dir.path().join("ledger")).unwrap();
    let (spool, database) = open(dir.path());
    assert_eq!(database.next_txid(), txid(42));
    assert_eq!(database.position().unwrap().checksum, None);
    append(&database, 4, [(1, 5)]).unwrap();
    assert_eq!(pending(&database), [42]);
    drop((spool, database));
    let (_spool, database) = open(dir.path());
    assert_eq!(database.next_txid(), txid(43));
}

#[test]
fn a_seed_ends_what_was_before_even_when_it_is_interrupted() {
    let dir = tempfile::tempdir().unwrap();
    three(dir.path());
    let (spool, database) = open(dir.path());
    let error = seed(&database, 2, 4).unwrap_err();
    assert!(
        matches!(error, Error::Unshipped { files: 3, .. }),
        "{error}"
    );
    database.ack(txid(3)).unwrap();
    spool.flush().unwrap();
    // The crash: said that a lineage begins at 2, and the file 3 of the one before still there.
    let files = files_of(&database);
    let before = database.position().unwrap();
    let at = Position {
        txid: txid(2),
        ..before
    };
    memo::save(&files.seed_path(), &SeedFile::new(1, Some(&at))).unwrap();
    drop((spool, database));
    let (_spool, database) = open(dir.path());
    assert_eq!(database.next_txid(), txid(3));
    assert_eq!(txids(&files.list().unwrap()), [0_u64; 0]);
    assert_eq!(
        database.position().unwrap().checksum,
        None,
        "the old ledger is void"
    );
    append(&database, 5, [(1, 5)]).unwrap();
    assert_eq!(pending(&database), [3]);
}

#[test]
fn after_a_seed_that_failed_half_way_nothing_is_appended_until_it_succeeds() {
    let dir = tempfile::tempdir().unwrap();
    three(dir.path());
    let (_spool, database) = open(dir.path());
    database.ack(txid(3)).unwrap();
    let meta = database.dir().join(".sqlrep");
    fs::write(&meta, b"in the way").unwrap();
    assert!(seed(&database, 41, 4).is_err());
    let error = append(&database, 5, [(1, 5)]).unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error}");
    fs::remove_file(&meta).unwrap();
    seed(&database, 41, 4).unwrap();
    append(&database, 4, [(1, 5)]).unwrap();
    assert_eq!(pending(&database), [42]);
}

#[test]
fn a_restart_begins_at_one_also_without_the_ledger() {
    let dir = tempfile::tempdir().unwrap();
    three(dir.path());
    let (spool, database) = open(dir.path());
    assert!(database.restart().is_err());
    database.ack(txid(3)).unwrap();
    database.restart().unwrap();
    assert_eq!(database.position(), None);
    drop((spool, database));
    let (spool, database) = open(dir.path());
    assert_eq!(database.next_txid(), txid(1));
    snapshot(&database, 3);
    assert_checksums(&database, &pages(3));
    drop((spool, database));
    fs::remove_dir_all(dir.path().join("ledger")).unwrap();
    let (_spool, database) = open(dir.path());
    assert_eq!(pending(&database), [1]);
}

#[test]
fn a_damaged_seed_file_is_moved_aside() {
    let dir = tempfile::tempdir().unwrap();
    let (spool, database) = open(dir.path());
    seed(&database, 41, 4).unwrap();
    append(&database, 4, [(1, 5)]).unwrap();
    let path = files_of(&database).seed_path();
    drop((spool, database));
    fs::write(&path, b"{").unwrap();
    let (_spool, database) = open(dir.path());
    assert_eq!(database.next_txid(), txid(43));
    assert!(
        database.page_checksums().is_known(),
        "the ledger still knows"
    );
}

#[test]
fn checksums_are_rebuilt_from_replica_and_spool() {
    let dir = tempfile::tempdir().unwrap();
    let (state_dir, replica) = (dir.path().join("s"), DirStore::new(dir.path().join("r")));
    let (spool, database) = open(&state_dir);
    snapshot(&database, 4);
    append(&database, 4, [(2, 2)]).unwrap();
    ship(&database, &replica);
    append(&database, 5, [(5, 3)]).unwrap();
    spool.flush().unwrap();
    let wanted = database.position();
    drop((spool, database));
    fs::remove_dir_all(state_dir.join("ledger")).unwrap();

    let (spool, database) = open(&state_dir);
    let before = database.position().unwrap();
    assert_eq!(before.checksum, None);
    let rebuilt = database.rebuild_from(&replica).unwrap();
    assert_eq!(rebuilt, wanted.unwrap().checksum);
    assert_checksums(&database, &after_three());
    assert_eq!(database.position().unwrap().wal, before.wal);
    drop((spool, database));
    let (_spool, database) = open(&state_dir);
    assert_checksums(&database, &after_three());
    assert_eq!(pending(&database), [3]);
}

#[test]
fn a_replica_of_another_writer_is_no_source_of_checksums() {
    let dir = tempfile::tempdir().unwrap();
    let (state_dir, replica) = (dir.path().join("s"), DirStore::new(dir.path().join("r")));
    let (other_spool, other) = open(&dir.path().join("o"));
    snapshot(&other, 4);
    append(&other, 4, [(2, 9)]).unwrap();
    ship(&other, &replica);
    let (spool, database) = open(&state_dir);
    snapshot(&database, 4);
    append(&database, 4, [(2, 2)]).unwrap();
    database.ack(txid(1)).unwrap();
    spool.flush().unwrap();
    drop((spool, database));
    fs::remove_dir_all(state_dir.join("ledger")).unwrap();
    let (_spool, database) = open(&state_dir);
    let error = database.rebuild_from(&replica).unwrap_err();
    assert!(error.to_string().contains("another writer"), "{error}");
    append(&other, 4, [(1, 1)]).unwrap();
    ship(&other, &replica);
    let error = database.rebuild_from(&replica).unwrap_err();
    assert!(error.to_string().contains("seed"), "{error}");
    drop(other_spool);
}

#[test]
fn a_head_is_taken_over_from_the_replica() {
    let dir = tempfile::tempdir().unwrap();
    let replica = DirStore::new(dir.path().join("r"));
    let (_other_spool, other) = open(&dir.path().join("o"));
    snapshot(&other, 4);
    append(&other, 4, [(2, 2)]).unwrap();
    append(&other, 5, [(5, 3)]).unwrap();
    ship(&other, &replica);
    let (_spool, database) = open(&dir.path().join("s"));
    let position = database.seed_from(&replica).unwrap();
    assert_eq!(position.txid, txid(3));
    assert_checksums(&database, &after_three());
    append(&database, 5, [(4, 4)]).unwrap();
    assert_eq!(pending(&database), [4]);
}

#[test]
fn files_of_databases_that_nobody_opened_are_listed_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    three(dir.path());
    let spool = Spool::open(dir.path(), LIMITS).unwrap();
    let held = spool.databases().unwrap();
    assert_eq!(held.len(), 1);
    assert_eq!((&held[0].id, held[0].pod_uid.as_str()), (&id(), POD));
    assert_eq!(spool.pending_bytes(), held[0].bytes);
    let database = spool.database(&id(), POD).unwrap();
    assert_eq!(spool.pending_bytes(), database.pending_bytes());
    database.ack(txid(2)).unwrap();
    assert_eq!(spool.pending_bytes(), database.pending_bytes());
    let left = database.pending_bytes();
    drop(database);
    assert_eq!(spool.pending_bytes(), left);
    let database = spool.database(&id(), POD).unwrap();
    assert_eq!(spool.pending_bytes(), left);
    database.ack(txid(3)).unwrap();
    assert_eq!(spool.pending_bytes(), 0);
    database.retire().unwrap();
    assert_eq!(spool.databases().unwrap(), []);
    assert!(!dir.path().join("spool/media").exists());
}

#[test]
fn notes_about_a_pod_outlive_the_agent_and_go_with_the_spool() {
    let dir = tempfile::tempdir().unwrap();
    let note = PodNote {
        name: "surmai-1".to_owned(),
        namespace_uid: Some("a namespace".to_owned()),
        target: None,
    };
    let spool = Spool::open(dir.path(), LIMITS).unwrap();
    let database = spool.database(&id(), POD).unwrap();
    assert_eq!(database.pod_note(), None);
    database.note_pod(&note).unwrap();
    assert!(!database.end_is_known());
    database.note_end().unwrap();
    drop((database, spool));
    // also without a file: whose it was must be known of a database that was never captured
    let spool = Spool::open(dir.path(), LIMITS).unwrap();
    let held = spool.databases().unwrap();
    assert_eq!((held.len(), held[0].bytes), (1, 0));
    let database = spool.database(&held[0].id, &held[0].pod_uid).unwrap();
    assert_eq!(database.pod_note(), Some(note));
    assert!(database.end_is_known());
    database.retire().unwrap();
    assert_eq!(spool.databases().unwrap(), []);
    assert!(!spool.database(&id(), POD).unwrap().end_is_known());
}

#[test]
fn a_database_with_files_and_notes_is_listed_once() {
    let dir = tempfile::tempdir().unwrap();
    three(dir.path());
    let spool = Spool::open(dir.path(), LIMITS).unwrap();
    let note = PodNote {
        name: "surmai-1".to_owned(),
        namespace_uid: None,
        target: None,
    };
    let database = spool.database(&id(), POD).unwrap();
    database.note_pod(&note).unwrap();
    assert_eq!(spool.databases().unwrap().len(), 1);
}
