//! Restored files in directories that are not empty.

use std::io::Write as _;

use super::*;
use crate::failure::Exit;

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(dir.path().join(name), content).unwrap();
        }
        Self { dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("data.db")
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn land(&self, existing: Existing) -> Result<()> {
        let landing = Landing::prepare(&self.path(), existing)?;
        let temp = landing.temp()?;
        temp.file().write_all(b"new").unwrap();
        landing.land(temp)
    }
}

#[test]
fn a_new_file_takes_its_place_and_nothing_else_stays() {
    let place = Place::new(&[]);
    place.land(Existing::Keep).unwrap();
    assert_eq!(place.names(), ["data.db"]);
    assert_eq!(fs::read(place.path()).unwrap(), b"new");
}

#[test]
fn a_file_that_exists_is_left_alone() {
    let place = Place::new(&[("data.db", "old")]);
    let failure = place.land(Existing::Keep).unwrap_err();
    assert_eq!(failure.exit, Exit::Refused);
    assert_eq!(fs::read(place.path()).unwrap(), b"old");
    assert_eq!(place.names(), ["data.db"]);
}

#[test]
fn a_file_that_appears_meanwhile_is_left_alone_too() {
    let place = Place::new(&[]);
    let landing = Landing::prepare(&place.path(), Existing::Keep).unwrap();
    let temp = landing.temp().unwrap();
    fs::write(place.path(), "theirs").unwrap();
    assert_eq!(landing.land(temp).unwrap_err().exit, Exit::Refused);
    assert_eq!(fs::read(place.path()).unwrap(), b"theirs");
    assert_eq!(place.names(), ["data.db"]);
}

#[test]
fn a_log_is_never_played_into_a_restored_file() {
    for log in ["data.db-wal", "data.db-journal", "data.db-shm"] {
        let place = Place::new(&[(log, "stale")]);
        assert_eq!(
            place.land(Existing::Keep).unwrap_err().exit,
            Exit::Refused,
            "{log}"
        );
        assert_eq!(place.names(), [log]);
        place.land(Existing::Replace).unwrap();
        assert_eq!(place.names(), ["data.db"], "{log} is gone");
    }
}

#[test]
fn force_replaces_the_file_and_its_logs() {
    let place = Place::new(&[
        ("data.db", "old"),
        ("data.db-wal", "w"),
        ("data.db-shm", "s"),
    ]);
    place.land(Existing::Replace).unwrap();
    assert_eq!(place.names(), ["data.db"]);
    assert_eq!(fs::read(place.path()).unwrap(), b"new");
}

#[test]
fn what_is_no_regular_file_is_refused_even_with_force() {
    let place = Place::new(&[("other", "x")]);
    std::os::unix::fs::symlink("other", place.path()).unwrap();
    assert_eq!(
        place.land(Existing::Replace).unwrap_err().exit,
        Exit::Refused
    );
    let directory = Landing::prepare(place.dir.path(), Existing::Replace).unwrap_err();
    assert_eq!(directory.exit, Exit::Refused);
    assert_eq!(
        Landing::prepare(Path::new("-"), Existing::Keep)
            .unwrap_err()
            .exit,
        Exit::Usage
    );
    let nowhere = place.dir.path().join("no/such/data.db");
    assert_eq!(
        Landing::prepare(&nowhere, Existing::Keep).unwrap_err().exit,
        Exit::Failed
    );
}

#[test]
fn a_temp_file_that_does_not_land_is_gone() {
    let place = Place::new(&[]);
    let landing = Landing::prepare(&place.path(), Existing::Keep).unwrap();
    drop(landing.temp().unwrap());
    assert!(place.names().is_empty());
}
