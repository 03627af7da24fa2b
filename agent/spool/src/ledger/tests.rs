//! The ledger alone: what it keeps, and what becomes of a damaged one.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const NAME: &str = "ns/app/vol/db\0pod";

fn ledger(dir: &Path) -> Ledger {
    Ledger::open(&dir.join("ledger")).unwrap()
}

fn aside(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("corrupt"))
        .collect();
    names.sort();
    names
}

fn put_chunks(ledger: &Ledger, slot: Slot, generation: u32, count: u32) {
    let mut batch = Batch::default();
    for chunk in 0..count {
        batch.chunk(slot, generation, chunk, &[u64::from(chunk); 3]);
    }
    ledger.apply(batch).unwrap();
}

#[test]
fn slots_are_kept_and_never_shared() {
    let dir = tempfile::tempdir().unwrap();
    let one = ledger(dir.path());
    let (a, b) = (one.slot("a"), one.slot("b"));
    assert_ne!(a, b);
    drop(one);
    let again = ledger(dir.path());
    assert_eq!(again.slot("a"), a);
    assert_ne!(again.slot("c"), b);
}

#[test]
fn a_purge_leaves_one_generation_and_other_databases_alone() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(dir.path());
    let (a, b) = (ledger.slot("a"), ledger.slot("b"));
    for generation in [1, 2, 3] {
        put_chunks(&ledger, a, generation, 2000);
        put_chunks(&ledger, b, generation, 1);
    }
    ledger.purge_chunks(a, Some(2)).unwrap();
    let mut sums = Vec::new();
    assert!(!ledger.chunk(a, 1, 0, &mut sums).unwrap());
    assert!(!ledger.chunk(a, 1, 1999, &mut sums).unwrap());
    assert!(!ledger.chunk(a, 3, 1999, &mut sums).unwrap());
    assert!(ledger.chunk(a, 2, 1999, &mut sums).unwrap());
    assert_eq!(sums, [1999; 3]);
    for generation in [1, 2, 3] {
        assert!(ledger.chunk(b, generation, 0, &mut sums).unwrap());
    }
    ledger.forget("a", a).unwrap();
    assert!(!ledger.chunk(a, 2, 0, &mut sums).unwrap());
    assert!(ledger.chunk(b, 2, 0, &mut sums).unwrap());
}

#[test]
fn a_foreign_ledger_is_moved_aside_and_one_of_those_stays() {
    let dir = tempfile::tempdir().unwrap();
    for round in 1..=3 {
        let mut config = sled::Config::new().path(dir.path().join("ledger"));
        if round > 1 {
            config = config.segment_size(open::SEGMENT_BYTES); // the first has sled's own
        }
        let foreign = config.open().unwrap();
        foreign.insert(b"v", b"another").unwrap();
        drop(foreign);
        let ledger = ledger(dir.path());
        assert_eq!(ledger.acked(ledger.slot(NAME), NAME).unwrap(), None);
        drop(ledger);
        assert_eq!(aside(dir.path()), [format!("ledger.corrupt-{round}")]);
    }
}

#[test]
fn junk_in_place_of_the_ledger_is_no_obstacle() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("ledger")).unwrap();
    fs::write(dir.path().join("ledger/conf"), b"junk").unwrap();
    fs::write(dir.path().join("ledger/db"), vec![0xa5; 100_000]).unwrap();
    // sled may refuse it, or take it for a log that was cut short at its very beginning.
    let ledger = ledger(dir.path());
    assert_eq!(ledger.acked(ledger.slot(NAME), NAME).unwrap(), None);
    ledger.flush().unwrap();
}

#[test]
fn a_file_in_place_of_the_directory_is_moved_aside() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("ledger"), b"junk").unwrap();
    ledger(dir.path());
}

#[test]
fn a_panic_breaks_the_ledger_and_the_next_start_replaces_it() {
    let dir = tempfile::tempdir().unwrap();
    let one = ledger(dir.path());
    let slot = one.slot(NAME);
    let mut batch = Batch::default();
    batch.acked(slot, NAME, Some(Txid::FIRST));
    one.apply(batch).unwrap();
    let error = one.call::<()>(|_| panic!("as sled does")).unwrap_err();
    assert!(matches!(error, LedgerError::Panicked));
    assert!(one.is_broken());
    assert!(matches!(one.acked(slot, NAME), Err(LedgerError::Broken)));
    assert!(matches!(one.flush(), Err(LedgerError::Broken)));
    drop(one);
    let two = ledger(dir.path());
    assert_eq!(two.acked(two.slot(NAME), NAME).unwrap(), None);
    assert_eq!(aside(dir.path()), ["ledger.corrupt-1"]);
    drop(two);
    ledger(dir.path());
    assert_eq!(aside(dir.path()), ["ledger.corrupt-1"]);
}

#[test]
fn a_flush_covers_what_was_applied_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(dir.path());
    let slot = ledger.slot(NAME);
    let mut batch = Batch::default();
    batch.acked(slot, NAME, Some(Txid::FIRST));
    let number = ledger.apply(batch).unwrap();
    assert!(ledger.flushed() < number);
    ledger.flush().unwrap();
    assert!(ledger.flushed() >= number);
}

#[test]
fn successor_skips_full_bytes() {
    assert_eq!(successor(&[1, 0xff, 0xff]), Some(vec![2]));
    assert_eq!(successor(&[0xff]), None);
}

#[test]
fn a_write_that_never_comes_back_breaks_the_ledger_and_holds_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    let db = try_open(&path).unwrap();
    let ledger = Ledger::over(db, &path, Duration::from_millis(200)).unwrap();
    let slot = ledger.slot(NAME);
    let (release, hold) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let one = &ledger;
        let first = scope.spawn(move || one.write(move |_| Ok(hold.recv().is_ok())));
        std::thread::sleep(Duration::from_millis(50));
        // More than would find room in any short queue.
        let others: Vec<_> = (0..40)
            .map(|_| scope.spawn(|| ledger.apply(Batch::default()).and_then(|_| ledger.flush())))
            .collect();
        assert!(matches!(first.join().unwrap(), Err(LedgerError::Sled(_))));
        for other in others {
            assert!(other.join().unwrap().is_err());
        }
    });
    assert!(ledger.is_broken());
    assert!(matches!(
        ledger.position(slot, NAME),
        Err(LedgerError::Broken)
    ));
    assert!(marker(&path).exists(), "the next start rebuilds it");
    drop(ledger); // and does not wait for the thread
    drop(release);
}

#[test]
fn a_write_that_fails_half_way_keeps_nobody_waiting_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = ledger(dir.path());
    let slot = ledger.slot(NAME);
    let mut batch = Batch::default();
    for chunk in 0..64 {
        batch.chunk(slot, 0, chunk, &[u64::from(chunk); CHUNK_PAGES as usize]);
    }
    ledger.apply(batch).unwrap();
    // sled puts what is large into files of their own, which have no place now.
    fs::remove_dir_all(dir.path().join("ledger/blobs")).unwrap();
    assert!(matches!(ledger.flush(), Err(LedgerError::Sled(_))));
    let (done, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        drop(ledger);
        done.send(())
    });
    end.recv_timeout(Duration::from_secs(20))
        .expect("it waits for ever");
}

/// What is done to a ledger.
#[derive(Clone, Debug)]
enum Act {
    /// Chunks are set to a value, in one batch, or removed.
    Put(u8, u32, std::ops::Range<u32>, Option<u64>),
    Purge(u8, Option<u32>),
    Ease,
    Flush,
    Reopen,
}

const CHUNKS: u32 = 400;

fn act() -> impl Strategy<Value = Act> {
    let chunks = (0..CHUNKS, 1..CHUNKS / 2);
    let put = (0..2_u8, 0..3_u32, chunks, any::<Option<u64>>());
    prop_oneof![
        8 => put.prop_map(|(slot, generation, (from, count), value)| {
            Act::Put(slot, generation, from..(from + count).min(CHUNKS), value)
        }),
        2 => (0..2_u8, prop::option::of(0..3_u32)).prop_map(|(slot, keep)| Act::Purge(slot, keep)),
        1 => Just(Act::Ease),
        1 => Just(Act::Flush),
        1 => Just(Act::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever sled was given of it, and when.
    #[test]
    fn what_was_applied_is_read(acts in prop::collection::vec(act(), 1..30)) {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Some(ledger(dir.path()));
        let mut model = BTreeMap::new();
        for act in acts {
            let now = ledger.as_ref().unwrap();
            let slots = [now.slot("a"), now.slot("b")];
            match act {
                Act::Put(slot, generation, chunks, value) => {
                    let (mut batch, at) = (Batch::default(), slots[usize::from(slot)]);
                    for chunk in chunks {
                        if let Some(value) = value {
                            batch.chunk(at, generation, chunk, &[value; CHUNK_PAGES as usize]);
                            model.insert((slot, generation, chunk), value);
                        } else {
                            batch.remove_chunk(at, generation, chunk);
                            model.remove(&(slot, generation, chunk));
                        }
                    }
                    now.apply(batch).unwrap();
                }
                Act::Purge(slot, keep) => {
                    now.purge_chunks(slots[usize::from(slot)], keep).unwrap();
                    model.retain(|(other, generation, _), _| *other != slot || Some(*generation) == keep);
                }
                Act::Ease => now.ease().unwrap(),
                Act::Flush => now.flush().unwrap(),
                Act::Reopen => {
                    drop(ledger.take());
                    ledger = Some(self::ledger(dir.path()));
                }
            }
            let now = ledger.as_ref().unwrap();
            let mut found = BTreeMap::new();
            let mut sums = vec![];
            for (slot, name) in [(0, "a"), (1, "b")] {
                let at = now.slot(name);
                for (generation, chunk) in (0..3).flat_map(|one| (0..CHUNKS).map(move |two| (one, two))) {
                    if now.chunk(at, generation, chunk, &mut sums).unwrap() {
                        found.insert((slot, generation, chunk), sums[0]);
                    }
                }
            }
            prop_assert_eq!(&found, &model);
        }
    }
}
