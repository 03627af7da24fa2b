//! What a pod may put into its volume to do harm, and what is found all the same.

use std::fs as std_fs;
use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use tempfile::TempDir;

use super::*;
use crate::event::Kind;
use crate::fixture::database;

/// A volume and all that a scan needs.
struct Volume {
    temp: TempDir,
    policy: Policy,
    claims: Claims,
    limits: Limits,
    heads: Heads,
}

impl Volume {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        std_fs::create_dir(temp.path().join("volume")).unwrap();
        std_fs::create_dir(temp.path().join("outside")).unwrap();
        std_fs::write(temp.path().join("outside/secret.db"), database(2)).unwrap();
        Self {
            temp,
            policy: Policy::default(),
            claims: Claims::new(),
            limits: Limits::default(),
            heads: Heads::default(),
        }
    }

    fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.temp.path().join("volume").join(path)
    }

    fn outside(&self) -> PathBuf {
        self.temp.path().join("outside")
    }

    fn write(&self, path: impl AsRef<Path>, bytes: &[u8]) {
        let path = self.path(path);
        std_fs::create_dir_all(path.parent().unwrap()).unwrap();
        std_fs::write(path, bytes).unwrap();
    }

    fn inode(&self, path: &str) -> InodeKey {
        let meta = std_fs::metadata(self.path(path)).unwrap();
        InodeKey {
            dev: meta.dev(),
            ino: meta.ino(),
        }
    }

    fn scan(&mut self) -> Seen {
        let volume = OwnedFd::from(File::open(self.path("")).unwrap());
        let mut scanner = Scanner {
            policy: &self.policy,
            claims: &self.claims,
            limits: &self.limits,
            heads: &mut self.heads,
            headers_left: self.limits.headers_max,
        };
        scanner.walk(&volume, Path::new(""), &mut |_, _| {})
    }

    fn found(&mut self) -> Vec<PathBuf> {
        self.scan().files.into_keys().collect()
    }
}

fn paths(paths: &[&str]) -> Vec<PathBuf> {
    paths.iter().map(PathBuf::from).collect()
}

#[test]
fn databases_are_found_by_their_header_whatever_their_name() {
    let mut volume = Volume::new();
    volume.write("app.db", &database(2));
    volume.write("a/b/no extension", &database(1));
    volume.write(
        "text.db",
        b"not a database, though long enough to be read"
            .repeat(9)
            .as_slice(),
    );
    volume.write("empty.db", b"");
    volume.write("short.db", &database(2)[..50]);
    let seen = volume.scan();
    let kinds: Vec<_> = seen
        .files
        .iter()
        .map(|(path, sighting)| match sighting {
            Sighting::Database(known) => (path.to_str().unwrap(), known.kind),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        kinds,
        [("a/b/no extension", Kind::Rollback), ("app.db", Kind::Wal)]
    );
    assert_eq!(seen.refused, BTreeMap::new());
    assert_eq!(
        seen.dirs,
        ["", "a", "a/b"].iter().map(PathBuf::from).collect()
    );
}

#[test]
fn companions_and_our_own_files_are_passed_over() {
    let mut volume = Volume::new();
    for name in [
        "x.db-wal",
        "x.db-shm",
        "x.db-journal",
        ".sqlrep-1234",
        ".sqlrep-dir/app.db",
    ] {
        volume.write(name, &database(2));
    }
    volume.write("-wal", &database(2));
    assert_eq!(volume.found(), paths(&["-wal"]));
}

#[test]
fn links_are_not_followed_at_any_place() {
    let mut volume = Volume::new();
    let outside = volume.outside();
    symlink(outside.join("secret.db"), volume.path("link.db")).unwrap();
    symlink(&outside, volume.path("dir")).unwrap();
    symlink("../outside", volume.path("up")).unwrap();
    symlink("/", volume.path("root")).unwrap();
    symlink("loop", volume.path("loop")).unwrap();
    symlink("inside.db", volume.path("alias.db")).unwrap();
    volume.write("inside.db", &database(2));
    let seen = volume.scan();
    assert_eq!(
        seen.files.into_keys().collect::<Vec<_>>(),
        paths(&["inside.db"])
    );
    assert_eq!(
        seen.refused.into_keys().collect::<Vec<_>>(),
        paths(&["alias.db", "link.db"]),
        "told where it looks like a database, silent elsewhere"
    );
    // Asked for directly, as a hint would.
    let dir = OwnedFd::from(File::open(volume.path("")).unwrap());
    for path in ["dir", "up", "root", "loop", "..", "dir/../.."] {
        assert!(kubelet::open_dir(&dir, Path::new(path)).is_err(), "{path}");
    }
    std_fs::create_dir_all(volume.path("real/sub")).unwrap();
    symlink("real", volume.path("inner")).unwrap();
    let inner = kubelet::open_dir(&dir, Path::new("inner/sub"));
    assert_eq!(
        inner.unwrap_err(),
        Errno::LOOP,
        "also where it stays within the volume"
    );
    let absolute = kubelet::open_dir(&dir, &outside);
    assert_eq!(absolute.unwrap_err(), Errno::XDEV);
}

#[test]
fn special_files_are_refused_and_hold_nobody_up() {
    let mut volume = Volume::new();
    fs::mkfifoat(CWD, volume.path("fifo.db"), Mode::RUSR).unwrap();
    let _socket = UnixListener::bind(volume.path("socket.db")).unwrap();
    let refused = volume.scan().refused;
    assert!(refused[Path::new("fifo.db")].contains("FIFO"));
    assert!(refused[Path::new("socket.db")].contains("socket"));
}

#[test]
fn hard_link_is_refused() {
    let mut volume = Volume::new();
    let (cwd, flags) = (CWD, AtFlags::empty());
    let secret = volume.outside().join("secret.db");
    fs::linkat(cwd, secret, cwd, volume.path("mine.db"), flags).unwrap();
    let seen = volume.scan();
    assert_eq!(seen.files, BTreeMap::new());
    assert!(seen.refused[Path::new("mine.db")].contains("2 hard links"));
}

#[test]
fn strange_names_are_carried_as_they_are() {
    let mut volume = Volume::new();
    let mut names: Vec<PathBuf> = [
        &b"new\nline.db"[..],
        b"\x01control\x7f.db",
        b"not utf-8 \xff\xfe.db",
        b"-rf *.db",
        b"%2e%2e.db",
        b"...",
        b"dir \xc3(/app.db",
    ]
    .iter()
    .map(|name| PathBuf::from(OsStr::from_bytes(name)))
    .collect();
    for name in &names {
        volume.write(name, &database(2));
    }
    names.sort();
    assert_eq!(volume.found(), names);
}

#[test]
fn name_that_the_replica_cannot_hold_is_refused() {
    let mut volume = Volume::new();
    let long = format!("{}.db", "ä".repeat(50));
    volume.write(&long, &database(2));
    volume.write(format!("{}.db", "a".repeat(250)), &database(2));
    let seen = volume.scan();
    assert_eq!(seen.files.len(), 1);
    assert!(
        seen.refused[Path::new(&long)].contains("303 bytes"),
        "{:?}",
        seen.refused
    );
    assert!(fits_replica(Path::new(&vec!["a".repeat(200); 11].join("/"))).is_err());
}

#[test]
fn depth_is_bounded() {
    let mut volume = Volume::new();
    volume.limits.depth_max = 3;
    volume.write("1/2/3/app.db", &database(2));
    volume.write("1/2/3/4/app.db", &database(2));
    let deep: PathBuf = std::iter::repeat_n("d", 200).collect();
    volume.write(deep.join("app.db"), &database(2));
    let seen = volume.scan();
    assert_eq!(
        seen.files.into_keys().collect::<Vec<_>>(),
        paths(&["1/2/3/app.db"])
    );
    assert!(seen.cut.unwrap().contains("deeper than 3"));
    assert!(seen.dirs.iter().all(|dir| dir.components().count() <= 3));
}

#[test]
fn number_of_entries_is_bounded() {
    let mut volume = Volume::new();
    volume.limits.entries_max = 500;
    volume.write("app.db", &database(2));
    for number in 0..2_000 {
        volume.write(format!("flood/{number}"), b"");
    }
    let seen = volume.scan();
    assert_eq!(
        seen.files.into_keys().collect::<Vec<_>>(),
        paths(&["app.db"])
    );
    assert!(seen.cut.unwrap().contains("more than 500 files"));
    assert!(
        !seen.dirs.contains(Path::new("flood")),
        "not read to its end"
    );
}

#[test]
fn number_of_headers_is_bounded_and_the_next_scan_reads_on() {
    let mut volume = Volume::new();
    volume.limits.headers_max = 10;
    for number in 0..25 {
        volume.write(format!("{number:02}.db"), &database(2));
    }
    age(&volume);
    for wanted in [10, 20, 25] {
        let seen = volume.scan();
        assert_eq!(seen.files.len(), wanted);
        assert_eq!(seen.cut.is_some(), wanted < 25);
    }
}

#[test]
fn time_is_bounded() {
    let mut volume = Volume::new();
    volume.limits.scan_time_max = Duration::ZERO;
    for number in 0..1_000 {
        volume.write(format!("{number}"), b"");
    }
    assert!(volume.scan().cut.unwrap().contains("longer than 0 ms"));
}

#[test]
fn sparse_file_costs_one_header() {
    let mut volume = Volume::new();
    File::create(volume.path("huge.db"))
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    let seen = volume.scan();
    assert_eq!((seen.files.len(), seen.cut), (0, None));
}

#[test]
fn unreadable_directory_and_file_are_told() {
    if rustix::process::geteuid().is_root() {
        // Nothing is unreadable to root; the words are still the same code.
        return;
    }
    let mut volume = Volume::new();
    volume.write("locked/app.db", &database(2));
    volume.write("locked.db", &database(2));
    let none = std_fs::Permissions::from_mode(0o000);
    std_fs::set_permissions(volume.path("locked"), none.clone()).unwrap();
    std_fs::set_permissions(volume.path("locked.db"), none).unwrap();
    assert_eq!(volume.scan().refused.len(), 2);
}

#[test]
fn claimed_file_is_seen_but_not_read() {
    let mut volume = Volume::new();
    volume.write("app.db", &database(2));
    let inode = volume.inode("app.db");
    volume.claims.claim(inode);
    let claimed = BTreeMap::from([("app.db".into(), Sighting::Claimed(inode))]);
    assert_eq!(volume.scan().files, claimed);
    volume.claims.release(inode);
    let known = Known {
        kind: Kind::Wal,
        inode,
    };
    let read = BTreeMap::from([("app.db".into(), Sighting::Database(known))]);
    assert_eq!(volume.scan().files, read);
}

#[test]
fn head_that_rests_is_read_once_and_a_changed_one_again() {
    let mut volume = Volume::new();
    volume.write("app.db", &database(1));
    age(&volume);
    assert_eq!(volume.found().len(), 1);
    // Without leave to read a header the same answer comes from memory.
    volume.limits.headers_max = 0;
    let seen = volume.scan();
    assert_eq!((seen.files.len(), seen.cut), (1, None));
    volume.write("app.db", &database(2));
    assert!(
        volume.scan().cut.is_some(),
        "it changed, so it must be read"
    );
    volume.limits.headers_max = 1;
    let seen = volume.scan();
    let is_wal = |sighting: &Sighting| matches!(sighting, Sighting::Database(known) if known.kind == Kind::Wal);
    assert!(seen.files.values().all(is_wal));
}

#[test]
fn files_that_are_gone_are_forgotten() {
    let mut volume = Volume::new();
    volume.write("app.db", &database(2));
    age(&volume);
    volume.scan();
    assert_eq!(volume.heads.read.len(), 1);
    std_fs::remove_file(volume.path("app.db")).unwrap();
    volume.scan();
    assert_eq!(volume.heads.read.len(), 0);
}

#[test]
fn name_is_judged_after_it_is_pinned() {
    // Between the look at the name and the open the pod may put anything there: what is opened
    // is judged again, whatever it is.
    let mut volume = Volume::new();
    volume.write("app.db", &database(2));
    let inode = volume.inode("app.db");
    symlink("app.db", volume.path("link.db")).unwrap();
    fs::mkfifoat(CWD, volume.path("fifo.db"), Mode::RUSR).unwrap();
    volume.claims.claim(inode);
    let dir = OwnedFd::from(File::open(volume.path("")).unwrap());
    let mut scanner = Scanner {
        policy: &volume.policy,
        claims: &volume.claims,
        limits: &volume.limits,
        heads: &mut volume.heads,
        headers_left: 1,
    };
    let mut read = |name: &str| scanner.read_head(dir.as_fd(), OsStr::new(name));
    assert_eq!(read("app.db"), Sight::File(Sighting::Claimed(inode)));
    assert!(matches!(read("link.db"), Sight::Refused(_)));
    assert!(matches!(read("fifo.db"), Sight::Refused(_)));
    assert!(matches!(read("../outside/secret.db"), Sight::Refused(_)));
    assert_eq!(read("none"), Sight::Absent);
}

/// Waits until the newest file has rested, as the status of a file that has just changed does
/// not prove anything. Change times cannot be set, so this takes its time.
fn age(volume: &Volume) {
    let newest = || {
        std_fs::read_dir(volume.path(""))
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().ctime())
            .max()
            .unwrap()
    };
    let rested = newest() + 3;
    while i64::try_from(
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap()
            .as_secs(),
    )
    .unwrap()
        < rested
    {
        std::thread::sleep(Duration::from_millis(50));
    }
}
