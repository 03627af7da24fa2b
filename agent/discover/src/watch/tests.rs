//! Watches and the places they stand for.

use std::fs::{self, File};

use super::*;

fn dir(path: &str) -> Place {
    Place::Dir(PodUid::new("p").unwrap(), "data".into(), path.into())
}

fn hints(watches: &mut Watches) -> Vec<String> {
    let mut hints = Vec::new();
    watches.drain(|hint| hints.push(format!("{hint:?}")));
    hints
}

#[test]
fn names_and_writes_in_a_watched_directory_are_hinted() {
    let temp = tempfile::tempdir().unwrap();
    let (mut watches, refused) = Watches::new(10);
    assert_eq!(refused, None);
    watches
        .set(dir(""), File::open(temp.path()).unwrap().as_fd())
        .unwrap();
    fs::write(temp.path().join("file"), "x").unwrap();
    fs::create_dir(temp.path().join("sub")).unwrap();
    fs::remove_file(temp.path().join("file")).unwrap();
    let mut seen = Vec::new();
    watches.drain(|hint| {
        let Hint::At(place, what) = hint else {
            panic!("{hint:?}")
        };
        assert_eq!(*place, dir(""));
        seen.push(format!("{what:?}"));
    });
    assert_eq!(
        seen,
        [
            r#"Came("file")"#,
            r#"Written("file")"#,
            r#"Directory("sub")"#,
            r#"Went("file")"#
        ]
    );
}

#[test]
fn directory_that_goes_takes_its_watch_along() {
    let temp = tempfile::tempdir().unwrap();
    let (mut watches, _) = Watches::new(10);
    let path = temp.path().join("sub");
    fs::create_dir(&path).unwrap();
    watches
        .set(dir("sub"), File::open(&path).unwrap().as_fd())
        .unwrap();
    fs::remove_dir(&path).unwrap();
    assert!(
        hints(&mut watches)
            .iter()
            .all(|hint| hint.contains("SelfGone"))
    );
    assert!(!watches.has(&dir("sub")));
    assert!(watches.by_id.is_empty());
}

#[test]
fn renamed_directory_keeps_one_watch_under_its_new_name() {
    let temp = tempfile::tempdir().unwrap();
    let (mut watches, _) = Watches::new(10);
    let open = File::open(temp.path()).unwrap();
    watches.set(dir("old"), open.as_fd()).unwrap();
    watches.set(dir("new"), open.as_fd()).unwrap();
    assert_eq!(watches.by_id.len(), 1);
    let pod = PodUid::new("p").unwrap();
    watches.drop_dirs(&pod, "data", Path::new("old"), &BTreeSet::new());
    fs::write(temp.path().join("file"), "").unwrap();
    assert!(hints(&mut watches)[0].contains("\"new\""));
    watches.drop_pod(&pod);
    assert!(watches.by_id.is_empty() && watches.by_place.is_empty());
}

#[test]
fn dropping_below_a_directory_leaves_its_neighbours() {
    let temp = tempfile::tempdir().unwrap();
    let (mut watches, _) = Watches::new(10);
    for path in ["", "a", "a/b", "a-b", "a.b", "b"] {
        let full = temp.path().join(path);
        fs::create_dir_all(&full).unwrap();
        watches
            .set(dir(path), File::open(full).unwrap().as_fd())
            .unwrap();
    }
    let pod = PodUid::new("p").unwrap();
    watches.drop_dirs(&pod, "data", Path::new("a"), &BTreeSet::from(["a".into()]));
    assert_eq!(watches.count_dirs(&pod, "data"), 5);
    assert!(!watches.has(&dir("a/b")));
    watches.drop_dirs(&pod, "data", Path::new(""), &BTreeSet::from(["b".into()]));
    assert_eq!(watches.count_dirs(&pod, "data"), 1);
}

#[test]
fn limits_say_which_setting_to_raise() {
    let temp = tempfile::tempdir().unwrap();
    let (mut watches, _) = Watches::new(1);
    watches
        .set(dir(""), File::open(temp.path()).unwrap().as_fd())
        .unwrap();
    let sub = temp.path().join("sub");
    fs::create_dir(&sub).unwrap();
    let refused = watches.set(dir("sub"), File::open(sub).unwrap().as_fd());
    assert!(matches!(refused, Err(NotWatched::Limit(_))));
    let kernel = not_watched(&io::Error::from_raw_os_error(28));
    assert!(matches!(kernel, NotWatched::Limit(reason) if reason.contains("max_user_watches")));
    assert!(refused_instance(&io::Error::from_raw_os_error(24)).contains("max_user_instances"));
}
