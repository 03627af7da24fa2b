//! A pod that makes its volume to do harm: nothing outside of it is read, and nothing is claimed
//! that costs the node more than the pod (L13, G9). What needs root says so and proves nothing
//! without.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, RenameFlags, renameat_with};

use super::*;
use crate::confine::{Confined, Owner};

const OWNER: Owner = Owner {
    uid: 4711,
    gid: 4712,
};
const MARK: &str = "the secret of another pod";

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Another pod's volume with a database that has a mark in it; returns its path.
fn neighbour(bench: &Bench) -> PathBuf {
    let volume = bench.dir.path().join("neighbour");
    fs::create_dir(&volume).unwrap();
    let path = volume.join("data.db");
    let mut app = App::plain(&path);
    app.sql(&format!("CREATE TABLE secret AS SELECT '{MARK}' AS x"));
    app.checkpoint("TRUNCATE");
    app.kill();
    for path in [&volume, &path] {
        chown(path, Some(4713), Some(4713)).unwrap();
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// The pod's own volume, given to its user.
fn own(bench: &Bench) -> PathBuf {
    let volume = bench.dir.path().join("volume");
    fs::set_permissions(bench.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    chown(&volume, Some(OWNER.uid), Some(OWNER.gid)).unwrap();
    volume
}

/// Whether any page in the spool has the mark.
fn is_captured(bench: &Bench) -> bool {
    bench.spool.pending().iter().any(|entry| {
        let file = File::open(&entry.path).unwrap();
        let mut decoder = sqlrep_format::ltx::Decoder::new(file).unwrap();
        let mut page = vec![0; decoder.header().page_size.bytes()];
        let mut found = false;
        while decoder.next_page(&mut page).unwrap().is_some() {
            found |= page
                .windows(MARK.len())
                .any(|bytes| bytes == MARK.as_bytes());
        }
        found
    })
}

/// Paths and links by which a confined thread might come to what is not its own.
fn tricks(volume: &std::path::Path, theirs: &std::path::Path) -> Vec<String> {
    let up = "../".repeat(20);
    let targets = ["/etc/shadow", theirs.to_str().unwrap()];
    let mut tricks: Vec<String> = vec![
        "/own-but-roots".into(),
        ["/proc/self", "root", "etc/shadow"].join("/"),
    ];
    for (number, target) in targets.iter().enumerate() {
        // as they are, by every way up, through a link at every place of the way
        tricks.extend([
            (*target).to_owned(),
            format!("{up}{target}"),
            format!("/{up}{target}"),
        ]);
        symlink(target, volume.join(format!("link{number}"))).unwrap();
        symlink(format!("{up}{target}"), volume.join(format!("up{number}"))).unwrap();
        symlink(
            format!("/proc/self/root{target}"),
            volume.join(format!("magic{number}")),
        )
        .unwrap();
        symlink(
            format!("link{number}"),
            volume.join(format!("twice{number}")),
        )
        .unwrap();
        let dir = std::path::Path::new(target).parent().unwrap();
        symlink(dir, volume.join(format!("dir{number}"))).unwrap();
        let name = target.rsplit('/').next().unwrap();
        let links = [
            format!("link{number}"),
            format!("up{number}"),
            format!("magic{number}"),
        ];
        tricks.extend(links.map(|link| format!("/{link}")));
        tricks.extend([format!("/twice{number}"), format!("/dir{number}/{name}")]);
    }
    tricks
}

#[test]
fn a_confined_thread_opens_neither_shadow_nor_another_volume_by_any_trick() {
    if !is_root() {
        return; // an ordinary user cannot be confined further
    }
    let bench = Bench::new();
    let (volume, theirs) = (own(&bench), neighbour(&bench));
    let mut tricks = tricks(&volume, &theirs);
    // a second name for their file, and a file of root's in the pod's own volume
    rustix::fs::link(&theirs, volume.join("second-name")).unwrap();
    fs::write(volume.join("own-but-roots"), MARK).unwrap();
    fs::set_permissions(
        volume.join("own-but-roots"),
        fs::Permissions::from_mode(0o600),
    )
    .unwrap();
    tricks.push("/second-name".into());
    let fd = OwnedFd::from(File::open(&volume).unwrap());
    let outside: Vec<bool> = tricks.iter().map(|path| File::open(path).is_ok()).collect();
    assert!(
        outside.iter().any(|open| *open),
        "nothing was there to be refused"
    );
    let (opened, by_sqlite) = {
        let _confined = Confined::enter(&fd, &volume, OWNER).unwrap();
        let opened: Vec<&String> = tricks
            .iter()
            .filter(|path| File::open(path).is_ok())
            .collect();
        let by_sqlite: Vec<&String> = tricks
            .iter()
            .filter(|path| {
                let db = rusqlite::Connection::open_in_memory().unwrap();
                db.execute("ATTACH ? AS other", [path]).is_ok()
                    && db
                        .query_row("SELECT count(*) FROM other.sqlite_master", [], |_| Ok(()))
                        .is_ok()
            })
            .collect();
        (opened, by_sqlite)
    };
    assert!(opened.is_empty(), "opened: {opened:?}");
    assert!(by_sqlite.is_empty(), "opened by SQLite: {by_sqlite:?}");
    assert!(
        File::open("/etc/shadow").is_ok(),
        "the system's root is back"
    );
}

#[test]
fn names_that_are_exchanged_while_they_are_opened_lead_nowhere() {
    if !is_root() {
        return; // nobody else's file could be linked to
    }
    let mut bench = Bench::new();
    let (volume, theirs) = (own(&bench), neighbour(&bench));
    App::plain(&bench.path()).kill();
    let evil = volume.join("evil");
    fs::create_dir(&evil).unwrap();
    symlink(&theirs, evil.join("symlink")).unwrap();
    rustix::fs::link(&theirs, evil.join("hard-link")).unwrap();
    rustix::fs::mknodat(CWD, evil.join("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    symlink(theirs.parent().unwrap(), evil.join("dir")).unwrap();
    let over = AtomicBool::new(false);
    let mut opened = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // each in turn takes the place of the database, of its WAL, of its index
            let names = ["symlink", "hard-link", "fifo", "dir"].map(|name| evil.join(name));
            let places = ["", "-wal", "-shm"].map(|end| volume.join(format!("data.db{end}")));
            while !over.load(Ordering::Relaxed) {
                for name in &names {
                    for place in &places {
                        let swap = || renameat_with(CWD, place, CWD, name, RenameFlags::EXCHANGE);
                        if swap().is_ok() {
                            std::thread::yield_now();
                            swap().unwrap();
                        }
                    }
                }
            }
        });
        let begun = Instant::now();
        // On a busy machine SQLite waits for seconds for an index that is not one.
        let enough =
            |opened| begun.elapsed() > Duration::from_secs(if opened > 0 { 3 } else { 120 });
        while !enough(opened) {
            if let Ok(mut session) = bench.try_open()
                && session.start(bench.now()).is_ok()
            {
                opened += 1;
                drop(session.snapshot(bench.now()));
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(opened > 0, "the database itself was never opened");
    assert!(!is_captured(&bench), "what another pod has is in the spool");
    // and the mark would have been seen
    let mut app = App::open(&bench.path(), &[]);
    app.sql(&format!("CREATE TABLE own AS SELECT '{MARK}' AS x"));
    let mut session = bench.session();
    session.snapshot(bench.now()).unwrap();
    assert!(is_captured(&bench));
}

/// A database in WAL mode whose header and WAL say that it has so many pages.
fn claim_pages(bench: &Bench, pages: u32) {
    let mut app = App::plain(&bench.path());
    app.checkpoint("TRUNCATE");
    app.insert(1);
    // The size after the commit, in the last frame, with all checksums made anew.
    app.run(&format!(
        "import struct\n\
         p = '{}-wal'\n\
         wal = bytearray(open(p, 'rb').read())\n\
         order = '>' if struct.unpack('>I', wal[0:4])[0] & 1 else '<'\n\
         def add(s, data):\n\
        \x20   words = struct.unpack(order + 'I' * (len(data) // 4), data)\n\
        \x20   for a, b in zip(words[::2], words[1::2]):\n\
        \x20       s = ((s[0] + a + s[1]) & 0xffffffff, s[1])\n\
        \x20       s = (s[0], (s[1] + b + s[0]) & 0xffffffff)\n\
        \x20   return s\n\
         s = struct.unpack('>II', wal[24:32])\n\
         for at in range(32, len(wal) - 4119, 4120):\n\
        \x20   if struct.unpack('>I', wal[at + 4:at + 8])[0]:\n\
        \x20       wal[at + 4:at + 8] = struct.pack('>I', {pages})\n\
        \x20   s = add(add(s, wal[at:at + 8]), wal[at + 24:at + 4120])\n\
        \x20   wal[at + 16:at + 24] = struct.pack('>II', *s)\n\
         os.rename(p, p + '.old')\n\
         open(p, 'wb').write(wal)",
        bench.path().display()
    ));
    app.kill();
    fs::remove_file(bench.beside("-shm")).unwrap();
}

#[test]
fn a_wal_that_claims_four_billion_pages_is_refused_in_no_time() {
    let mut bench = Bench::new();
    claim_pages(&bench, 0xffff_fffe);
    let begun = Instant::now();
    let mut session = bench.try_open().unwrap();
    let error = session.start(bench.now()).unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert!(error.is_unsupported());
    assert!(begun.elapsed() < Duration::from_secs(5));
    // one that claims a little more than it has is believed
    let mut bench = Bench::new();
    claim_pages(&bench, 5000);
    let mut session = bench.try_open().unwrap();
    session.start(bench.now()).unwrap();
    assert_eq!(session.size_bytes(), 5000 * 4096);
}

#[test]
fn a_file_of_ten_terabytes_that_is_all_holes_is_refused_in_no_time() {
    for journal in ["wal", "delete"] {
        let mut bench = Bench::new();
        let mut app = App::plain(&bench.path());
        app.checkpoint("TRUNCATE");
        app.sql(&format!("PRAGMA journal_mode = {journal}"));
        app.run("db.close()");
        drop(app);
        let file = File::options().write(true).open(bench.path()).unwrap();
        let pages: u32 = 2_684_354_560;
        // in the header, valid for the change counter that is there
        file.write_all_at(&pages.to_be_bytes(), 28).unwrap();
        if file.set_len(u64::from(pages) * 4096).is_err() {
            return; // the file system cannot hold such a file
        }
        let begun = Instant::now();
        let now = bench.now();
        let opened =
            crate::Follower::open(&bench.file(), bench.spool.clone(), bench.options(), now);
        let error = opened
            .and_then(|mut follower| follower.start(bench.now()))
            .unwrap_err();
        assert!(matches!(error, Error::Refused { .. }), "{journal}: {error}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{journal}");
    }
}
