//! How a volume behaves under a flood, and what its budget is.

use std::fs;
use std::time::{Duration, Instant};

use super::*;
use crate::fixture::{World, database};

#[test]
fn allowance_is_spent_and_earned() {
    let start = Instant::now();
    let mut looks = Allowance {
        left: LOOKS_BURST,
        counted: start,
    };
    assert!(looks.take(1_000, start));
    assert!(!looks.take(1, start));
    assert!(looks.take(500, start + Duration::from_secs(1)));
    assert!(!looks.take(LOOKS_BURST as usize + 1, start + Duration::from_hours(1)));
    assert!(!looks.take(usize::MAX, start + Duration::from_hours(9_999)));
}

#[tokio::test]
async fn database_made_in_a_flood_of_files_is_found() {
    let world = World::with_pod();
    let mut running = world.watching().await;
    running.rest().await;
    for number in 0..5_000 {
        fs::write(world.volume("p").join(format!("{number}.tmp")), "x").unwrap();
    }
    fs::write(world.volume("p").join("app.db"), database(2)).unwrap();
    running.appeared("app.db").await;
}

#[tokio::test]
async fn databases_past_the_limit_are_told_and_known_ones_stay() {
    let mut world = World::with_pod();
    world.limits.databases_max = 2;
    for name in ["m.db", "n.db"] {
        fs::write(world.volume("p").join(name), database(2)).unwrap();
    }
    let mut running = world.watching().await;
    running.appeared("m.db").await;
    running.appeared("n.db").await;
    fs::write(world.volume("p").join("a.db"), database(2)).unwrap();
    assert!(
        running
            .refused("")
            .await
            .contains("1 databases more than the 2")
    );
    fs::remove_file(world.volume("p").join("m.db")).unwrap();
    running.gone("m.db").await;
    running.discover.rescan();
    running.appeared("a.db").await;
}

#[tokio::test]
async fn scan_that_is_cut_short_takes_no_known_database_for_gone() {
    let mut world = World::with_pod();
    world.limits.entries_max = 20;
    fs::write(world.volume("p").join("app.db"), database(2)).unwrap();
    let mut running = world.watching().await;
    running.appeared("app.db").await;
    for number in 0..200 {
        fs::write(world.volume("p").join(format!("{number}")), "x").unwrap();
    }
    running.discover.rescan();
    running.refused("").await;
    running.discover.rescan();
    let events = running.rest().await;
    assert!(
        !events
            .iter()
            .any(|event| matches!(event, Event::DatabaseGone { .. })),
        "{events:?}"
    );
}

#[tokio::test]
async fn refusals_are_told_once_and_forgotten_when_mended() {
    let world = World::with_pod();
    let path = world.volume("p").join("app.db");
    std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
    let mut running = world.watching().await;
    assert!(running.refused("app.db").await.contains("symbolic link"));
    running.discover.rescan();
    assert_eq!(running.rest().await, []);
    fs::remove_file(&path).unwrap();
    fs::write(&path, database(2)).unwrap();
    running.appeared("app.db").await;
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
    running.refused("app.db").await;
}

#[tokio::test]
async fn file_written_from_behind_and_file_that_changes_its_nature_are_found() {
    let world = World::with_pod();
    let mut running = world.watching().await;
    running.rest().await;
    // As the backup API does: the first page comes last.
    let file = fs::File::create(world.volume("p").join("copy.db")).unwrap();
    rustix::io::pwrite(&file, &[1; 4096], 4096).unwrap();
    running.rest().await;
    rustix::io::pwrite(&file, &database(2), 0).unwrap();
    running.appeared("copy.db").await;
    // A file of another kind is passed over at each write, but not by the next scan.
    let file = fs::File::create(world.volume("p").join("log")).unwrap();
    rustix::io::pwrite(&file, &[b'x'; 4096], 0).unwrap();
    running.rest().await;
    rustix::io::pwrite(&file, &database(2), 0).unwrap();
    running.rest().await;
    running.discover.rescan();
    running.appeared("log").await;
}

#[tokio::test]
async fn directories_past_the_watch_limit_of_a_volume_are_looked_at_by_the_timer() {
    let mut world = World::with_pod();
    world.limits.volume_watches_max = 2;
    world.limits.poll_interval = Duration::from_millis(200);
    for number in 0..10 {
        fs::create_dir(world.volume("p").join(number.to_string())).unwrap();
    }
    let mut running = world.watching().await;
    running.rest().await;
    for number in 0..10 {
        fs::write(
            world.volume("p").join(format!("{number}/app.db")),
            database(2),
        )
        .unwrap();
    }
    let mut missing: BTreeSet<PathBuf> = (0..10)
        .map(|number| PathBuf::from(format!("{number}/app.db")))
        .collect();
    while !missing.is_empty() {
        let is = |event: &Event| matches!(event, Event::DatabaseAppeared { .. });
        if let Event::DatabaseAppeared { path, .. } = running.until("the rest", is).await {
            assert!(missing.remove(&path), "{path:?} appeared twice");
        }
    }
}

#[tokio::test]
async fn who_writes_without_a_pause_is_told_of_now_and_then_and_after_the_last_write() {
    let world = World::with_pod();
    let path = world.volume("p").join("app.db");
    fs::write(&path, database(2)).unwrap();
    let mut running = world.watching().await;
    running.appeared("app.db").await;
    running.rest().await;
    let wal = world.volume("p").join("app.db-wal");
    fs::write(&wal, "frame").unwrap();
    running.touched("app.db").await;
    let begun = Instant::now();
    let mut told = 0;
    while begun.elapsed() < Duration::from_secs(1) {
        fs::write(&wal, "frame").unwrap();
        tokio::time::sleep(Duration::from_millis(3)).await;
        while running.events.try_recv().is_ok() {
            told += 1;
        }
    }
    let most = begun.elapsed().div_duration_f64(touches::REST) + 2.0;
    assert!(told >= 1 && f64::from(told) <= most, "{told} times");
    // What came after the last word is not forgotten.
    running.rest().await;
    fs::write(&wal, "frame").unwrap();
    running.touched("app.db").await;
    fs::write(&wal, "frames").unwrap();
    running.touched("app.db").await;
}
