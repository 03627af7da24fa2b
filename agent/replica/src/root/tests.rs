//! Tests of the root's marker.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Barrier};

use super::*;
use crate::testing::scratch;
use crate::testing::{CrashFs, Loss};

#[test]
fn an_empty_root_that_nobody_remembers_is_marked_once() {
    let dir = scratch();
    fs::create_dir(dir.path().join("lost+found")).unwrap();
    fs::write(dir.path().join(".sqlrep-0123456789abcdef"), b"").unwrap();
    let id = check(dir.path(), None).unwrap();
    assert_eq!(check(dir.path(), None).unwrap(), id);
    assert_eq!(check(dir.path(), Some(&id)).unwrap(), id);
    assert_eq!(id.to_string().parse(), Ok(id));
    fs::create_dir(dir.path().join("media")).unwrap();
    assert_eq!(check(dir.path(), Some(&id)).unwrap(), id);
}

#[test]
fn an_empty_root_that_is_remembered_is_not_mounted() {
    let (dir, other) = (scratch(), scratch());
    let id = check(other.path(), None).unwrap();
    let error = check(dir.path(), Some(&id)).unwrap_err();
    assert!(matches!(error, RootError::Lost { expected, .. } if expected == id));
    assert!(error.to_string().contains("not mounted"), "{error}");
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        0,
        "and nothing was written"
    );
}

#[test]
fn another_root_is_not_ours() {
    let (dir, other) = (scratch(), scratch());
    let (here, there) = (
        check(dir.path(), None).unwrap(),
        check(other.path(), None).unwrap(),
    );
    assert_ne!(here, there);
    let error = check(dir.path(), Some(&there)).unwrap_err();
    assert!(
        matches!(error, RootError::Exchanged { expected, found, .. } if (expected, found) == (there, here))
    );
}

#[test]
fn a_root_with_other_things_in_it_is_not_marked() {
    let dir = scratch();
    fs::create_dir(dir.path().join("photos")).unwrap();
    let error = check(dir.path(), None).unwrap_err();
    assert!(matches!(error, RootError::Unmarked { .. }));
    assert!(error.to_string().contains("photos"), "{error}");
    assert!(!dir.path().join(NAME).exists());
}

/// Between the opening of a root and its marking the share may be unmounted, or mounted.
#[test]
fn a_root_is_marked_for_what_it_holds_and_not_what_its_path_leads_to() {
    let dir = scratch();
    let (path, away) = (dir.path().join("root"), dir.path().join("away"));
    fs::create_dir_all(path.join("photos")).unwrap();
    let root = open(&path).unwrap();
    rustix::fs::rename(&path, &away).unwrap();
    fs::create_dir_all(path.join("media/app/data/app.db/ltx")).unwrap();
    let error = check_open(&root, None).unwrap_err();
    assert!(matches!(error, RootError::Unmarked { .. }), "{error}");
    let root = open(&path).unwrap();
    rustix::fs::rename(path.join("media"), away.join("media")).unwrap();
    rustix::fs::rename(away.join("media"), path.join("media")).unwrap();
    check_open(&root, None).unwrap();
}

#[test]
fn a_root_that_is_none_says_what_it_is() {
    let dir = scratch();
    assert!(matches!(
        check(&dir.path().join("x"), None),
        Err(RootError::Missing { .. })
    ));
    fs::write(dir.path().join("f"), b"").unwrap();
    assert!(matches!(
        check(&dir.path().join("f"), None),
        Err(RootError::NotADirectory { .. })
    ));
    fs::create_dir(dir.path().join("r")).unwrap();
    for bad in ["", "{}", r#"{"version":1,"id":"xyz"}"#] {
        fs::write(dir.path().join("r").join(NAME), bad).unwrap();
        let error = check(&dir.path().join("r"), None).unwrap_err();
        assert!(
            matches!(error, RootError::Marker { .. }),
            "{bad:?}: {error}"
        );
    }
}

#[test]
fn a_root_that_may_not_be_written_is_not_used() {
    if rustix::process::geteuid().is_root() {
        return; // nothing is forbidden to root; see the read-only mount below
    }
    let dir = scratch();
    let id = check(dir.path(), None).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o555)).unwrap();
    assert!(matches!(
        check(dir.path(), Some(&id)),
        Err(RootError::Forbidden { .. })
    ));
}

#[test]
fn a_read_only_mount_is_told_from_the_rest() {
    // Every Linux has a read-only file system at hand.
    let Ok(dir) = Dir::open(Path::new("/proc/sys/../../sys/kernel")) else {
        return;
    };
    match rustix::fs::accessat(&dir, ".", Access::WRITE_OK, AtFlags::EACCESS) {
        Err(Errno::ROFS) => assert!(matches!(writable(&dir), Err(RootError::ReadOnly { .. }))),
        _ => assert!(matches!(
            refused(Path::new("/r"), "write to", Errno::ROFS.into()),
            RootError::ReadOnly { .. }
        )),
    }
}

#[test]
fn nodes_that_mark_a_root_at_once_agree() {
    for _ in 0..20 {
        let dir = scratch();
        let start = Arc::new(Barrier::new(4));
        let nodes: Vec<_> = (0..4)
            .map(|_| {
                let (path, start) = (dir.path().to_owned(), Arc::clone(&start));
                std::thread::spawn(move || {
                    start.wait();
                    check(&path, None).unwrap()
                })
            })
            .collect();
        let ids: Vec<_> = nodes.into_iter().map(|node| node.join().unwrap()).collect();
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    }
}

#[test]
fn a_marking_that_crashes_can_be_done_again() {
    for step in 0..100 {
        let dir = scratch();
        let crash = CrashFs::new(dir.path()).unwrap();
        crash.crash_at(step);
        let done = check_with(&crash, dir.path(), None).ok();
        for loss in Loss::EACH {
            let left = scratch();
            crash.after_crash(loss, left.path()).unwrap();
            assert!(
                check(left.path(), done.as_ref()).is_ok(),
                "step {step} {loss:?}"
            );
        }
        if !crash.fired() {
            return;
        }
    }
    panic!("the marking never ends");
}

/// A file system whose link replaces what is there.
#[derive(Debug)]
struct Overwrites;

impl Fs for Overwrites {
    fn make_dir(&self, dir: &Dir, name: &OsStr) -> io::Result<()> {
        OsFs.make_dir(dir, name)
    }

    fn create(&self, dir: &Dir, name: &OsStr, mode: u32) -> io::Result<fs::File> {
        OsFs.create(dir, name, mode)
    }

    fn fsync(&self, dir: &Dir, name: &OsStr, file: &fs::File) -> io::Result<()> {
        OsFs.fsync(dir, name, file)
    }

    fn set_modified(
        &self,
        dir: &Dir,
        name: &OsStr,
        file: &fs::File,
        to: sqlrep_format::Timestamp,
    ) -> io::Result<()> {
        OsFs.set_modified(dir, name, file, to)
    }

    fn link(&self, dir: &Dir, from: &OsStr, to: &OsStr) -> io::Result<()> {
        OsFs.unlink(dir, to).ok();
        OsFs.link(dir, from, to)
    }

    fn link_into(&self, from: &Dir, name: &OsStr, to: &Dir) -> io::Result<()> {
        OsFs.link_into(from, name, to)
    }

    fn links(&self, dir: &Dir, name: &OsStr) -> io::Result<u64> {
        OsFs.links(dir, name)
    }

    fn rename(&self, dir: &Dir, from: &OsStr, to: &OsStr) -> io::Result<()> {
        OsFs.rename(dir, from, to)
    }

    fn rename_new(&self, dir: &Dir, from: &OsStr, to: &OsStr) -> io::Result<()> {
        OsFs.rename_new(dir, from, to)
    }

    fn move_dir(&self, from: &Dir, name: &OsStr, to: &Dir, new: &OsStr) -> io::Result<()> {
        OsFs.move_dir(from, name, to, new)
    }

    fn unlink(&self, dir: &Dir, name: &OsStr) -> io::Result<()> {
        OsFs.unlink(dir, name)
    }

    fn remove_dir(&self, dir: &Dir, name: &OsStr) -> io::Result<()> {
        OsFs.remove_dir(dir, name)
    }

    fn fsync_dir(&self, dir: &Dir) -> io::Result<()> {
        OsFs.fsync_dir(dir)
    }

    fn now_at(&self, dir: &Dir) -> io::Result<sqlrep_format::Timestamp> {
        OsFs.now_at(dir)
    }
}

#[test]
fn a_probe_says_whether_names_are_exclusive_and_leaves_nothing() {
    let dir = scratch();
    fs::write(dir.path().join(".sqlrep-probe-node-1"), b"left by a crash").unwrap();
    let before = std::time::SystemTime::now() - std::time::Duration::from_secs(5);
    let root = open(dir.path()).unwrap();
    assert!(probe(&root, "node/1").unwrap() > before);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    let error = probe_with(&Overwrites, &root, "node-1").unwrap_err();
    assert!(matches!(error, RootError::NotExclusive { .. }), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    fs::remove_dir(dir.path()).unwrap();
    assert!(matches!(probe(&root, "n"), Err(RootError::Missing { .. })));
}
