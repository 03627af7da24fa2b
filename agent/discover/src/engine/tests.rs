//! The whole of discovery on a node made of temporary directories.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::{self as fs_at, FlockOperation};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::fixture::{World, database, manifest, pod};
use crate::{InodeKey, Kind, Phase};

fn inode(path: impl AsRef<Path>) -> InodeKey {
    let meta = fs::metadata(path).unwrap();
    InodeKey {
        dev: meta.dev(),
        ino: meta.ino(),
    }
}

#[tokio::test]
async fn databases_are_found_only_after_the_volumes_are_watched() {
    let world = World::with_pod();
    fs::write(world.volume("p").join("app.db"), database(2)).unwrap();
    let mut running = world.start();
    let events = running.rest().await;
    assert!(
        matches!(&events[..], [Event::PodAppeared(_), Event::Ready]),
        "{events:?}"
    );
    running.discover.watch_volumes(&pod("p"));
    let event = running.appeared("app.db").await;
    let inode = inode(world.volume("p").join("app.db"));
    assert_eq!(
        event,
        Event::DatabaseAppeared {
            pod: pod("p"),
            volume: "data".into(),
            path: "app.db".into(),
            kind: Kind::Wal,
            inode
        }
    );
    assert_eq!(running.rest().await, []);
}

#[tokio::test]
async fn database_is_found_within_50_ms_of_its_first_page() {
    let world = World::with_pod();
    let mut running = world.watching().await;
    running.rest().await;
    let mut best = Duration::MAX;
    // The machine may be busy; the best of some tries tells what discovery itself takes.
    for number in 0..10 {
        let name = format!("{number}.db");
        let started = Instant::now();
        fs::write(world.volume("p").join(&name), database(2)).unwrap();
        running.appeared(&name).await;
        best = best.min(started.elapsed());
    }
    assert!(best < Duration::from_millis(50), "{best:?}");
}

#[tokio::test]
async fn empty_file_is_waited_for_and_the_switch_to_wal_is_told() {
    let world = World::with_pod();
    let mut running = world.watching().await;
    running.rest().await;
    let mut file = File::create(world.volume("p").join("app.db")).unwrap();
    assert_eq!(running.rest().await, []);
    file.write_all(&database(1)).unwrap();
    let event = running.appeared("app.db").await;
    assert!(matches!(
        event,
        Event::DatabaseAppeared {
            kind: Kind::Rollback,
            ..
        }
    ));
    rustix::io::pwrite(&file, &database(2), 0).unwrap();
    let event = running.changed("app.db").await;
    assert!(matches!(
        event,
        Event::DatabaseChanged {
            kind: Kind::Wal,
            ..
        }
    ));
}

#[tokio::test]
async fn writes_to_database_wal_and_journal_touch_the_database() {
    let world = World::with_pod();
    fs::write(world.volume("p").join("app.db"), database(2)).unwrap();
    let mut running = world.watching().await;
    running.appeared("app.db").await;
    for name in ["app.db-wal", "app.db-journal", "app.db"] {
        running.rest().await;
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(world.volume("p").join(name))
            .unwrap();
        file.write_all(b"frame").unwrap();
        let event = running.touched("app.db").await;
        assert!(matches!(event, Event::Touched { volume, .. } if volume == "data"));
    }
    running.rest().await;
    fs::write(world.volume("p").join("other.txt"), "no database of ours").unwrap();
    fs::write(world.volume("p").join("other.txt-wal"), "nor its companion").unwrap();
    assert_eq!(running.rest().await, []);
}

#[tokio::test]
async fn replaced_database_is_told_with_its_new_inode() {
    let world = World::with_pod();
    let (path, next) = (
        world.volume("p").join("app.db"),
        world.volume("p").join("next"),
    );
    fs::write(&path, database(2)).unwrap();
    let mut running = world.watching().await;
    running.appeared("app.db").await;
    fs::write(&next, database(2)).unwrap();
    fs_at::renameat(CWD, &next, CWD, &path).unwrap();
    let event = running.changed("app.db").await;
    let new = inode(&path);
    assert!(matches!(event, Event::DatabaseChanged { inode, .. } if inode == new));
}

#[tokio::test]
async fn database_renamed_under_capture_is_known_at_its_new_path() {
    let world = World::with_pod();
    let (old, new) = (
        world.volume("p").join("old.db"),
        world.volume("p").join("new.db"),
    );
    fs::write(&old, database(2)).unwrap();
    let mut running = world.watching().await;
    running.appeared("old.db").await;
    world.claims.claim(inode(&old));
    fs_at::renameat(CWD, &old, CWD, &new).unwrap();
    let mut events = running.rest().await;
    events.retain(|event| !matches!(event, Event::Touched { .. }));
    assert!(
        matches!(
            &events[..],
            [Event::DatabaseAppeared { path, kind: Kind::Wal, .. }, Event::DatabaseGone { .. }]
                if path.as_os_str() == "new.db"
        ),
        "{events:?}"
    );
}

#[tokio::test]
async fn hard_link_to_a_database_under_capture_ends_nothing() {
    let world = World::with_pod();
    let path = world.volume("p").join("app.db");
    fs::write(&path, database(2)).unwrap();
    let mut running = world.watching().await;
    running.appeared("app.db").await;
    world.claims.claim(inode(&path));
    let copy = world.volume("p").join("copy.db");
    for _ in 0..2 {
        fs_at::linkat(CWD, &path, CWD, &copy, fs_at::AtFlags::empty()).unwrap();
        // It is said, and who captures the database hears of it.
        let reason = running.refused("copy.db").await;
        assert!(
            reason.contains("second name (hard link) of app.db"),
            "{reason}"
        );
        running.touched("app.db").await;
        running.discover.rescan();
        assert_eq!(running.rest().await, [], "once");
        fs::remove_file(&copy).unwrap();
        running.touched("app.db").await;
        assert_eq!(running.rest().await, []);
    }
}

#[tokio::test]
async fn database_in_a_directory_made_later_is_found_and_lost_with_it() {
    let world = World::with_pod();
    let mut running = world.watching().await;
    running.rest().await;
    let deep = world.volume("p").join("a/b/c");
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("app.db"), database(2)).unwrap();
    running.appeared("a/b/c/app.db").await;
    let volume = world.volume("p");
    fs_at::renameat(CWD, volume.join("a"), CWD, volume.join("z")).unwrap();
    let events = running.rest().await;
    let appeared = |event: &Event| matches!(event, Event::DatabaseAppeared { path, .. } if path.starts_with("z/b/c"));
    let gone =
        |event: &Event| matches!(event, Event::DatabaseGone { path, .. } if path.starts_with("a"));
    assert!(
        events.iter().any(appeared) && events.iter().any(gone),
        "{events:?}"
    );
    // The watch moved along: writes are told under the new name.
    File::options()
        .append(true)
        .open(volume.join("z/b/c/app.db"))
        .unwrap()
        .write_all(b"x")
        .unwrap();
    running.touched("z/b/c/app.db").await;
    fs::remove_dir_all(volume.join("z")).unwrap();
    running.gone("z/b/c/app.db").await;
}

#[tokio::test]
async fn volume_that_vanishes_is_told_at_once_and_found_again() {
    let world = World::with_pod();
    fs::write(world.volume("p").join("app.db"), database(2)).unwrap();
    let mut running = world.watching().await;
    running.appeared("app.db").await;
    fs::remove_dir_all(world.volume("p")).unwrap();
    let gone = Event::VolumeGone {
        pod: pod("p"),
        volume: "data".into(),
    };
    running.until("volume goes", |event| *event == gone).await;
    assert_eq!(running.rest().await, []);
    fs::create_dir_all(world.volume("p")).unwrap();
    fs::write(world.volume("p").join("app.db"), database(2)).unwrap();
    running.appeared("app.db").await;
    fs::remove_dir_all(world.kubelet().join("pods")).unwrap();
    running
        .until("volume goes again", |event| *event == gone)
        .await;
}

#[tokio::test]
async fn volume_held_open_by_others_is_told_gone_all_the_same() {
    let world = World::with_pod();
    let mut running = world.watching().await;
    fs::write(world.volume("p").join("app.db"), database(2)).unwrap();
    running.appeared("app.db").await;
    let held = File::open(world.volume("p")).unwrap();
    fs::remove_dir_all(world.volume("p")).unwrap();
    running
        .until("volume goes", |event| {
            matches!(event, Event::VolumeGone { .. })
        })
        .await;
    drop(held);
}

#[tokio::test]
async fn volume_made_after_its_pod_is_found_however_late_its_directories_come() {
    let world = World::new();
    world.write_manifest("p.yaml", &manifest("p", ""));
    let mut running = world.watching().await;
    let mut dir = world.kubelet();
    for part in ["pods", "p", "volumes", "kubernetes.io~empty-dir", "data"] {
        running.rest().await;
        dir.push(part);
        fs::create_dir(&dir).unwrap();
    }
    fs::write(dir.join("app.db"), database(2)).unwrap();
    running.appeared("app.db").await;
}

#[tokio::test]
async fn symbolic_link_in_place_of_a_volume_is_refused() {
    let world = World::with_pod();
    let outside = world.outside("secret");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("app.db"), database(2)).unwrap();
    fs::remove_dir(world.volume("p")).unwrap();
    symlink(&outside, world.volume("p")).unwrap();
    let mut running = world.watching().await;
    assert!(running.refused("").await.contains("symbolic link"));
    assert_eq!(running.rest().await, []);
}

#[tokio::test]
async fn claimed_database_is_never_opened_so_its_locks_hold() {
    let world = World::with_pod();
    let path = world.volume("p").join("app.db");
    fs::write(&path, database(2)).unwrap();
    let mut running = world.watching().await;
    running.appeared("app.db").await;
    world.claims.claim(inode(&path));
    let ours = File::options().read(true).write(true).open(&path).unwrap();
    fs_at::fcntl_lock(&ours, FlockOperation::NonBlockingLockShared).unwrap();
    let number = inode(&path).ino;
    let held = || {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        let own = std::process::id().to_string();
        locks.lines().any(|line| {
            let mut words = line.split_whitespace();
            line.contains("POSIX")
                && words.clone().any(|word| word == own)
                && words.any(|word| word.ends_with(&format!(":{number}")))
        })
    };
    assert!(held(), "the lock itself shows in /proc/locks");
    // Everything that makes discovery look: writes, a scan, a rename away and back.
    rustix::io::pwrite(&ours, &database(1), 0).unwrap();
    running.touched("app.db").await;
    running.discover.rescan();
    let away = world.volume("p").join("away.db");
    fs_at::renameat(CWD, &path, CWD, &away).unwrap();
    running.gone("app.db").await;
    fs_at::renameat(CWD, &away, CWD, &path).unwrap();
    running.gone("away.db").await;
    running.rest().await;
    assert!(
        held(),
        "a descriptor of the claimed inode was opened and closed"
    );
    // The lock is lost when such a descriptor is closed: the check above can fail.
    world.claims.release(inode(&path));
    rustix::io::pwrite(&ours, &database(1), 0).unwrap();
    running.changed("app.db").await;
    assert!(!held());
}

#[tokio::test]
async fn pods_appear_change_and_go_with_their_manifests() {
    let world = World::new();
    let mut running = world.start();
    assert_eq!(running.until("ready", |_| true).await, Event::Ready);
    world.write_manifest("p.yaml", &manifest("p", ""));
    let event = running.until("pod", |_| true).await;
    assert!(
        matches!(&event, Event::PodAppeared(pod) if pod.app == "p" && pod.phase == Phase::Pending)
    );
    world.write_manifest(
        "p.yaml",
        &manifest("p", "  annotations: {sqlrep.io/sync-interval: 2s}\n"),
    );
    let event = running.until("change", |_| true).await;
    let two = Some(Duration::from_secs(2));
    assert!(matches!(event, Event::PodChanged(pod) if pod.policy.sync_interval == two));
    world.write_manifest(
        "p.yaml",
        &manifest("p", "  deletionTimestamp: \"2026-01-01T00:00:00Z\"\n"),
    );
    assert_eq!(
        running.until("ends", |_| true).await,
        Event::PodTerminating(pod("p"))
    );
    fs::remove_file(world.manifests().join("p.yaml")).unwrap();
    assert_eq!(
        running.until("goes", |_| true).await,
        Event::PodGone(pod("p"))
    );
}

#[tokio::test]
async fn ready_is_told_once_after_every_pod_of_the_first_read() {
    let world = World::new();
    for number in 0..20 {
        world.write_manifest(
            &format!("{number}.yaml"),
            &manifest(&format!("p{number}"), ""),
        );
    }
    world.write_manifest("broken.yaml", "kind: [");
    let mut running = world.start();
    running.discover.rescan();
    let events = running.rest().await;
    let ready: Vec<usize> = (0..events.len())
        .filter(|at| events[*at] == Event::Ready)
        .collect();
    let pods = events
        .iter()
        .filter(|event| matches!(event, Event::PodAppeared(_)))
        .count();
    assert_eq!((pods, ready), (20, vec![events.len() - 1]));
}

#[tokio::test]
async fn manifests_of_a_mounted_config_map_change_with_its_link() {
    let world = World::new();
    let dir = world.manifests();
    for version in ["..1", "..2"] {
        fs::create_dir(dir.join(version)).unwrap();
        let text = manifest("p", "").replace("media", &version.replace("..", "ns-"));
        fs::write(dir.join(version).join("p.yaml"), text).unwrap();
    }
    symlink("..1", dir.join("..data")).unwrap();
    symlink("..data/p.yaml", dir.join("p.yaml")).unwrap();
    let mut running = world.start();
    let event = running.until("pod", |_| true).await;
    assert!(matches!(event, Event::PodAppeared(pod) if pod.namespace == "ns-1"));
    symlink("..2", dir.join("..data_tmp")).unwrap();
    fs_at::renameat(CWD, dir.join("..data_tmp"), CWD, dir.join("..data")).unwrap();
    assert_eq!(running.until("ready", |_| true).await, Event::Ready);
    let event = running.until("change", |_| true).await;
    assert!(matches!(event, Event::PodChanged(pod) if pod.namespace == "ns-2"));
}

#[tokio::test]
async fn wrong_annotation_is_told_once_and_the_pod_goes_on() {
    let world = World::with_pod();
    let extra = "  annotations: {sqlrep.io/sync-interval: soon, sqlrep.io/retention: 7d}\n";
    world.write_manifest("p.yaml", &manifest("p", extra));
    let mut running = world.start();
    let event = running
        .until("complaint", |event| {
            matches!(event, Event::BadAnnotation { .. })
        })
        .await;
    let Event::BadAnnotation {
        key,
        value,
        accepted,
        ..
    } = event
    else {
        unreachable!()
    };
    assert_eq!(
        (key.as_str(), value.as_str()),
        ("sqlrep.io/sync-interval", "soon")
    );
    assert!(accepted.contains("1s"), "{accepted}");
    running.discover.watch_volumes(&pod("p"));
    world.write_manifest("p.yaml", &manifest("p", &extra.replace("7d", "8d")));
    fs::write(world.volume("p").join("app.db"), database(2)).unwrap();
    running.appeared("app.db").await;
    let complaints = running.rest().await;
    assert!(
        !complaints
            .iter()
            .any(|event| matches!(event, Event::BadAnnotation { .. }))
    );
}

#[tokio::test]
async fn changed_globs_and_volumes_take_effect() {
    let world = World::with_pod();
    fs::write(world.volume("p").join("app.db"), database(2)).unwrap();
    fs::write(world.volume("p").join("cache.db"), database(2)).unwrap();
    let mut running = world.watching().await;
    running.appeared("cache.db").await;
    world.write_manifest(
        "p.yaml",
        &manifest("p", "  annotations: {sqlrep.io/exclude: \"cache.*\"}\n"),
    );
    running.gone("cache.db").await;
    world.write_manifest(
        "p.yaml",
        &manifest("p", "  annotations: {sqlrep.io/volumes: none}\n"),
    );
    running.gone("app.db").await;
}

#[tokio::test]
async fn pod_of_another_node_is_passed_over_and_a_known_one_that_moves_is_gone() {
    let world = World::with_pod();
    let mut running = world.watching().await;
    let moved = manifest("p", "").replace("node-a", "node-b");
    world.write_manifest("p.yaml", &moved);
    let gone = |event: &Event| *event == Event::PodGone(pod("p"));
    running.until("pod goes", gone).await;
    fs::write(world.volume("p").join("app.db"), database(2)).unwrap();
    assert_eq!(running.rest().await, []);
}

#[tokio::test]
async fn overflow_of_the_kernels_queue_leads_to_a_full_scan() {
    let mut world = World::with_pod();
    world.limits.events_max = 1;
    let mut running = world.watching().await;
    running.rest().await;
    let volume = world.volume("p");
    // Two events for a channel that holds one: discovery stands still until they are taken.
    for name in ["1.db", "2.db", "3.db"] {
        fs::write(volume.join(name), database(2)).unwrap();
    }
    let queue = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let queue: usize = queue.trim().parse().unwrap();
    for number in 0..queue {
        let name = volume.join(format!("{}.txt", number % 7));
        File::create(&name).unwrap();
        fs::remove_file(name).unwrap();
    }
    fs::write(volume.join("behind.db"), database(2)).unwrap();
    running
        .until("overflow", |event| *event == Event::Overflow)
        .await;
    running.appeared("behind.db").await;
}

#[tokio::test]
async fn exhausted_watches_are_told_once_and_a_timer_takes_over() {
    let mut world = World::with_pod();
    // One for the manifests, one for the way to the volumes: none is left for the volume.
    world.limits.watches_max = 2;
    world.limits.poll_interval = Duration::from_millis(200);
    let mut running = world.watching().await;
    let limited = |event: &Event| matches!(event, Event::WatchesLimited { .. });
    running.until("limit", limited).await;
    fs::write(world.volume("p").join("app.db"), database(2)).unwrap();
    running.appeared("app.db").await;
    fs::create_dir(world.volume("p").join("sub")).unwrap();
    fs::write(world.volume("p").join("sub/app.db"), database(2)).unwrap();
    running.appeared("sub/app.db").await;
    assert!(!running.rest().await.iter().any(limited));
}

#[tokio::test]
async fn full_channel_holds_discovery_up_and_loses_nothing() {
    let mut world = World::with_pod();
    world.limits.events_max = 1;
    for number in 0..50 {
        fs::write(
            world.volume("p").join(format!("{number:02}.db")),
            database(2),
        )
        .unwrap();
    }
    let mut running = world.watching().await;
    for number in 0..50 {
        running.appeared(format!("{number:02}.db")).await;
    }
}

#[tokio::test]
async fn discovery_ends_with_its_token_its_handle_or_its_receiver() {
    let world = World::with_pod();
    let mut running = world.watching().await;
    running.cancel.cancel();
    while running.events.recv().await.is_some() {}
    let mut running = world.watching().await;
    drop(running.discover);
    while running.events.recv().await.is_some() {}
    assert!(!running.cancel.is_cancelled());
}

#[tokio::test]
async fn idle_discovery_sleeps() {
    let world = World::with_pod();
    fs::write(world.volume("p").join("app.db"), database(2)).unwrap();
    let config = Config::new(PodSource::Dir(world.manifests()), world.kubelet(), "node-a");
    let (sender, mut events) = mpsc::channel(16);
    let outbox = Outbox::new(sender, CancellationToken::new());
    let requests = Arc::new(Requests::new().unwrap());
    let mut engine =
        Engine::new(config, world.claims.clone(), outbox, Arc::clone(&requests)).unwrap();
    // A name of its own, to be found among the threads of other tests.
    let thread = thread::Builder::new().name("idle-probe".into());
    let thread = thread.spawn(move || engine.run()).unwrap();
    assert!(matches!(events.recv().await, Some(Event::PodAppeared(_))));
    assert_eq!(events.recv().await, Some(Event::Ready));
    requests.watch(&pod("p"));
    assert!(matches!(
        events.recv().await,
        Some(Event::DatabaseAppeared { .. })
    ));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = waits_of("idle-probe");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        waits_of("idle-probe"),
        before,
        "it woke while nothing happened"
    );
    requests.stop();
    thread.join().unwrap();
}

/// How often a thread of this process has gone to sleep.
fn waits_of(name: &str) -> u64 {
    let is = |task: &PathBuf| fs::read_to_string(task.join("comm")).is_ok_and(|n| n.trim() == name);
    let mut tasks = fs::read_dir("/proc/self/task")
        .unwrap()
        .map(|task| task.unwrap().path());
    let status = fs::read_to_string(tasks.find(is).unwrap().join("status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("voluntary_ctxt"))
        .unwrap();
    line.split_whitespace().last().unwrap().parse().unwrap()
}
