//! Tests of publishing, claiming, fencing and branches.

use std::fs;
use std::sync::Arc;

use super::*;
use crate::plan::plan;
use crate::restore::{RestoreOptions, first_page, restore};
use crate::testing::CrashFs;
use crate::testing::chain::{History, encode, header, page, put, time, txid};
use crate::testing::scratch;
use crate::verify::verify;
use crate::{Destination, DirStore, Point};

const EEXIST: i32 = 17;

struct Spool {
    dir: tempfile::TempDir,
}

impl Spool {
    fn new() -> Self {
        Self { dir: scratch() }
    }

    /// A spooled file of a writer; `content` tells one writer's pages from another's.
    fn file(&self, writer: WriterId, id: u64, content: u64) -> SpoolFile {
        let header = Header {
            node_id: writer.get(),
            ..header(id, id, 2)
        };
        let pages = [(1, page(content, 1)), (2, page(content, 2))];
        let path = self.dir.path().join(format!("{id}-{writer}-{content}"));
        fs::write(&path, encode(&header, &pages)).unwrap();
        SpoolFile {
            txid: txid(id),
            timestamp: time(id),
            path,
            digest: None,
            content: None,
        }
    }
}

fn writers() -> (WriterId, WriterId) {
    (WriterId::new("a", "pod"), WriterId::new("b", "pod"))
}

#[test]
fn writers_have_ids() {
    let (a, b) = writers();
    assert_ne!(a, b);
    assert_eq!(a, WriterId::new("a", "pod"));
    assert_ne!(a.get(), 0);
    assert_eq!(a.to_string().parse(), Ok(a));
}

#[test]
fn a_file_is_published_once_and_again_is_the_same() {
    let (spool, dir) = (Spool::new(), scratch());
    let store = DirStore::new(dir.path());
    let (a, b) = writers();
    let file = spool.file(a, 1, 1);
    assert_eq!(publish_l0(&store, a, &file).unwrap(), Publish::Done);
    assert_eq!(publish_l0(&store, a, &file).unwrap(), Publish::AlreadyOurs);
    let other = spool.file(b, 1, 1);
    assert_eq!(
        publish_l0(&store, b, &other).unwrap(),
        Publish::Fenced { by: a.get() }
    );
    // The same writer with other content is no retry.
    let changed = spool.file(a, 1, 2);
    assert_eq!(
        publish_l0(&store, a, &changed).unwrap(),
        Publish::Fenced { by: a.get() }
    );
    let found = store.list().unwrap().files()[0].clone();
    assert_eq!(
        fs::read(store.path(&found)).unwrap(),
        fs::read(&file.path).unwrap()
    );
    assert_eq!(found.modified, time(1));
    assert_eq!(
        writer_of(&store, &store.list().unwrap(), txid(1)).unwrap(),
        a.get()
    );
    assert!(
        writer_of(&store, &store.list().unwrap(), txid(2))
            .unwrap_err()
            .is_missing()
    );
}

#[test]
fn a_lost_reply_is_found_out_at_the_next_attempt() {
    let (spool, dir) = (Spool::new(), scratch());
    let (a, _) = writers();
    let file = spool.file(a, 1, 1);
    for (errno, outcome) in [(EEXIST, Some(Publish::Done)), (5, None)] {
        let replica = dir.path().join(errno.to_string());
        let faults = Arc::new(CrashFs::new(dir.path()).unwrap());
        faults.fail("link", 0, errno, true);
        let store = DirStore::with_fs(replica, faults.clone());
        assert_eq!(publish_l0(&store, a, &file).ok(), outcome);
        assert!(faults.fired());
        assert_eq!(publish_l0(&store, a, &file).unwrap(), Publish::AlreadyOurs);
    }
}

#[test]
fn a_damaged_spool_file_is_never_linked() {
    let (spool, dir) = (Spool::new(), scratch());
    let store = DirStore::new(dir.path());
    let (a, _) = writers();
    let file = spool.file(a, 1, 1);
    let whole = fs::read(&file.path).unwrap();
    let mut harmless = 0;
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 4;
        fs::write(&file.path, bytes).unwrap();
        if let Err(error) = publish_l0(&store, a, &file) {
            assert!(error.is_corrupt(), "byte {at}: {error}");
            assert!(error.to_string().contains(&file.path.display().to_string()));
            assert!(store.list().unwrap().is_empty(), "byte {at} was linked");
        } else {
            // Other bytes that decompress to the same page: all checksums hold, nothing is lost.
            assert!((100..whole.len() - 40).contains(&at), "byte {at}");
            verify(&store, Point::Latest, &()).unwrap();
            store.remove(&store.list().unwrap().files()[0]).unwrap();
            harmless += 1;
        }
    }
    assert!(harmless < whole.len() / 10);
    fs::write(&file.path, &whole[..whole.len() - 1]).unwrap();
    assert!(publish_l0(&store, a, &file).unwrap_err().is_corrupt());
    fs::write(&file.path, [&whole[..], &[0]].concat()).unwrap();
    assert!(publish_l0(&store, a, &file).unwrap_err().is_corrupt());
    fs::write(&file.path, &whole).unwrap();
    let wrong = SpoolFile {
        digest: Some(Checksum::EMPTY),
        ..file.clone()
    };
    assert!(publish_l0(&store, a, &wrong).unwrap_err().is_corrupt());
    let wrong = SpoolFile {
        txid: txid(2),
        ..file.clone()
    };
    assert!(publish_l0(&store, a, &wrong).unwrap_err().is_corrupt());
    assert!(store.list().unwrap().is_empty(), "nothing was linked");
    fs::remove_file(&file.path).unwrap();
    assert!(publish_l0(&store, a, &file).unwrap_err().is_missing());
}

#[test]
fn a_file_that_is_known_byte_for_byte_is_copied_and_no_other() {
    let (spool, dir) = (Spool::new(), scratch());
    let store = DirStore::new(dir.path());
    let (a, b) = writers();
    let file = spool.file(a, 1, 1);
    let whole = fs::read(&file.path).unwrap();
    let mut content = Crc64::new();
    content.update(&whole);
    let digest = parse_digest(&whole);
    let known = SpoolFile {
        digest: Some(digest),
        content: Some(content.value()),
        ..file.clone()
    };
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        fs::write(&file.path, &damaged).unwrap();
        let error = publish_l0(&store, a, &known).unwrap_err();
        assert!(error.is_corrupt(), "byte {at}: {error}");
    }
    for cut in [&whole[..whole.len() - 1], &[]] {
        fs::write(&file.path, cut).unwrap();
        assert!(publish_l0(&store, a, &known).unwrap_err().is_corrupt());
    }
    fs::write(&file.path, [&whole[..], &[0]].concat()).unwrap();
    assert!(publish_l0(&store, a, &known).unwrap_err().is_corrupt());
    assert!(store.list().unwrap().is_empty(), "nothing was linked");
    fs::write(&file.path, &whole).unwrap();
    assert_eq!(publish_l0(&store, a, &known).unwrap(), Publish::Done);
    assert_eq!(publish_l0(&store, a, &known).unwrap(), Publish::AlreadyOurs);
    assert_eq!(
        publish_l0(&store, b, &spool.file(b, 1, 1)).unwrap(),
        Publish::Fenced { by: a.get() }
    );
    let linked = store.path(&store.list().unwrap().files()[0]);
    assert_eq!(fs::read(linked).unwrap(), whole);
}

/// The file checksum in a file's trailer.
fn parse_digest(file: &[u8]) -> Checksum {
    let last = file.last_chunk().unwrap();
    Checksum::new(u64::from_be_bytes(*last)).unwrap()
}

#[test]
fn a_full_share_is_not_the_spools_fault() {
    let (spool, dir) = (Spool::new(), scratch());
    let faults = Arc::new(CrashFs::new(dir.path()).unwrap());
    faults.fail("fsync", 0, 28, true);
    let store = DirStore::with_fs(dir.path().join("r"), faults.clone());
    let (a, _) = writers();
    let file = spool.file(a, 1, 1);
    let error = publish_l0(&store, a, &file).unwrap_err();
    assert!(
        faults.fired() && error.is_full() && !error.is_corrupt(),
        "{error:?}"
    );
    assert_eq!(publish_l0(&store, a, &file).unwrap(), Publish::Done);
}

#[test]
fn a_claim_fences_the_old_owner() {
    let (spool, dir) = (Spool::new(), scratch());
    let store = DirStore::new(dir.path());
    let (a, b) = writers();
    publish_l0(&store, a, &spool.file(a, 1, 1)).unwrap();
    let (head, first) = first_page(&store, Point::Latest).unwrap();
    let now = Timestamp::from_millis(0);
    assert_eq!(
        claim(&store, b, txid(1), &first, &head, now).unwrap(),
        Claim::Won(txid(2))
    );
    // Again, because the reply was lost: still ours.
    assert_eq!(
        claim(&store, b, txid(1), &first, &head, now).unwrap(),
        Claim::Won(txid(2))
    );
    // The old owner finds the name taken, whatever its clock says.
    let next = spool.file(a, 2, 9);
    assert_eq!(
        publish_l0(&store, a, &next).unwrap(),
        Publish::Fenced { by: b.get() }
    );
    assert_eq!(
        claim(&store, a, txid(1), &first, &head, now).unwrap(),
        Claim::Lost { by: b.get() }
    );
    // The state is what it was, the chain goes on, times rise.
    let out = dir.path().join("db");
    let done = restore(
        &store,
        Point::Latest,
        &Destination::open(&out).unwrap(),
        &RestoreOptions::default(),
        &(),
    )
    .unwrap();
    assert_eq!(
        (done.txid, done.timestamp.millis()),
        (txid(2), time(1).millis() + 1)
    );
    assert_eq!(fs::read(&out).unwrap(), [page(1, 1), page(1, 2)].concat());
    assert_eq!(
        writer_of(&store, &store.list().unwrap(), txid(2)).unwrap(),
        b.get()
    );
}

#[test]
fn a_claim_that_comes_too_late_is_lost_to_itself_too() {
    // The same writer already went on from its claim: head + 1 is not this claim.
    let (spool, dir) = (Spool::new(), scratch());
    let store = DirStore::new(dir.path());
    let (a, _) = writers();
    publish_l0(&store, a, &spool.file(a, 1, 1)).unwrap();
    let (head, first) = first_page(&store, Point::Latest).unwrap();
    publish_l0(&store, a, &spool.file(a, 2, 2)).unwrap();
    let late = claim(&store, a, txid(1), &first, &head, time(9)).unwrap();
    assert_eq!(late, Claim::Lost { by: a.get() });
}

#[test]
fn of_many_racing_writers_each_step_has_one_winner() {
    let (spool, dir) = (Arc::new(Spool::new()), scratch());
    let store = Arc::new(DirStore::new(dir.path()));
    let racers: Vec<_> = (0..3)
        .map(|n| {
            let (spool, store) = (Arc::clone(&spool), Arc::clone(&store));
            std::thread::spawn(move || {
                let writer = WriterId::new(&n.to_string(), "pod");
                (1..=20)
                    .filter(|id| {
                        let file = spool.file(writer, *id, n + 100);
                        publish_l0(store.as_ref(), writer, &file).unwrap() == Publish::Done
                    })
                    .count()
            })
        })
        .collect();
    let won: usize = racers.into_iter().map(|racer| racer.join().unwrap()).sum();
    assert_eq!(won, 20);
    verify(store.as_ref(), Point::Latest, &()).unwrap();
}

#[test]
fn a_fenced_tail_is_kept_on_a_branch_that_restores() {
    let dir = scratch();
    let main = DirStore::new(dir.path());
    let ours = History::new(&[(3, vec![]), (3, vec![1]), (4, vec![2]), (4, vec![3])]);
    for id in 1..=2 {
        let (header, pages) = ours.covering(id, id);
        put(&main, 0, &header, &pages).unwrap();
    }
    // Another writer goes on from TXID 2, our own 3 and 4 go to a branch.
    for id in 3..=5 {
        put(&main, 0, &header(id, id, 3), &[(1, page(id + 50, 1))]).unwrap();
    }
    assert_eq!(list_branches(dir.path()).unwrap(), []);
    let (name, store) = branch(dir.path(), "surmai-0", time(1)).unwrap();
    assert_eq!(name, "19700101T000001123Z-surmai-0");
    assert_eq!(
        list_branches(dir.path()).unwrap(),
        [],
        "a branch begins with its first file"
    );
    for id in 3..=4 {
        let (header, pages) = ours.covering(id, id);
        put(&store, 0, &header, &pages).unwrap();
    }
    let branches = list_branches(dir.path()).unwrap();
    assert_eq!(branches.len(), 1);
    assert_eq!((branches[0].from, branches[0].head), (txid(3), txid(4)));
    assert_eq!(
        (branches[0].label.as_str(), branches[0].created),
        ("surmai-0", time(1))
    );

    let branched = BranchStore::open(dir.path(), &name).unwrap();
    let out = dir.path().join("db");
    let destination = Destination::open(&out).unwrap();
    restore(
        &branched,
        Point::Latest,
        &destination,
        &RestoreOptions::default(),
        &(),
    )
    .unwrap();
    assert_eq!(fs::read(&out).unwrap(), ours.file(4));
    verify(&branched, Point::Latest, &()).unwrap();
    // The main chain does not know of it.
    assert_eq!(main.list().unwrap().head(), Some(txid(5)));
    assert_eq!(crate::replicas_below(dir.path()).unwrap(), [PathBuf::new()]);
}

#[test]
fn the_name_of_a_branch_cannot_lead_elsewhere() {
    let dir = scratch();
    for bad in [
        "..",
        "../..",
        "",
        "x",
        "19700101T000001123Z-",
        "19700101T000001123Z-a/../..",
        "19700101T000001123Z-a",
    ] {
        assert!(
            BranchStore::open(dir.path(), bad).unwrap_err().is_missing(),
            "{bad}"
        );
    }
    let (name, _) = branch(dir.path(), "../../x", time(1)).unwrap();
    assert!(!name.contains('/'), "{name}");
    assert!(
        branch(dir.path(), &"x".repeat(300), time(1))
            .unwrap()
            .0
            .len()
            <= 255
    );
}

#[test]
fn a_retired_chain_makes_room_and_stays_restorable() {
    let dir = scratch();
    let main = DirStore::new(dir.path());
    let old = History::new(&[(3, vec![]), (3, vec![1])]);
    for id in 1..=2 {
        let (header, pages) = old.covering(id, id);
        put(&main, 0, &header, &pages).unwrap();
    }
    let name = retire_chain(dir.path(), "page-size", time(2)).unwrap();
    assert!(main.list().unwrap().is_empty());
    put(&main, 0, &header(1, 1, 1), &[(1, page(77, 1))]).unwrap();
    let retired = BranchStore::open(dir.path(), &name).unwrap();
    let found = plan(&retired.list().unwrap(), Point::Latest).unwrap();
    assert_eq!((found.head(), found.steps.len()), (Some(txid(2)), 2));
    verify(&retired, Point::Latest, &()).unwrap();
    assert_eq!(list_branches(dir.path()).unwrap()[0].from, txid(1));
    assert!(
        retire_chain(dir.path().join("nowhere"), "x", time(3))
            .unwrap_err()
            .is_missing()
    );
}

#[test]
fn a_page_of_an_older_state_is_never_claimed_with() {
    let dir = scratch();
    let store = DirStore::new(dir.path());
    let history = History::new(&[(3, vec![]), (3, vec![1]), (3, vec![1])]);
    for id in 1..=3 {
        let (header, pages) = history.covering(id, id);
        put(&store, 0, &header, &pages).unwrap();
    }
    // The page comes from a listing that ended before the one that gave the head.
    let (header, _) = history.covering(2, 2);
    let writer = WriterId::new("n", "next");
    let refused = claim(&store, writer, txid(3), &page(2, 1), &header, time(9));
    let error = refused.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert_eq!(store.list().unwrap().head(), Some(txid(3)));
}
