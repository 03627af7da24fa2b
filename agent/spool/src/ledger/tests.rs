//! The ledger alone: what it keeps, and what becomes of a damaged one.

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
            .map(|_| scope.spawn(|| ledger.apply(Batch::default())))
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
