//! Finds the replicas in a directory: one itself, or a root with many.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result};
use crate::reference::{Named, Reference, ambiguous};

/// Deeper than any path that a pod can make: namespace, app, volume and 4096 letters of path.
const DEPTH_MAX: usize = 64;
/// Directories looked into (L12): a root with a hundred thousand databases stays below.
const DIRECTORIES_MAX: usize = 2_000_000;
/// Marks a directory as a root of replicas.
const ROOT_MARKER: &str = ".sqlrep-root.json";
/// Parts of a name on a root before the path begins: namespace, app and volume.
const PARTS_BEFORE_PATH: usize = 3;

/// A replica in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    name: String,
    /// Where it lies.
    pub(crate) dir: PathBuf,
}

impl Named for Found {
    fn name(&self) -> String {
        self.name.clone()
    }
}

/// All replicas in a directory, by name; at least one.
pub(crate) fn find(dir: &Path) -> Result<Vec<Found>> {
    let whole = dir.canonicalize().map_err(|error| unreadable(dir, error))?;
    if !whole.is_dir() {
        return Err(
            Failure::not_found(format!("{} is not a directory", dir.display()))
                .hint("name a replica's directory or a root of replicas, not a file in it"),
        );
    }
    let marked = whole.join(ROOT_MARKER).is_file();
    if !marked && is_replica(&whole)? {
        return Ok(vec![Found {
            name: whole.display().to_string(),
            dir: whole,
        }]);
    }
    let mut found = Vec::new();
    let mut waiting = vec![(whole, Vec::<String>::new())];
    let mut looked = 0_usize;
    while let Some((dir, parts)) = waiting.pop() {
        looked += 1;
        if looked > DIRECTORIES_MAX {
            return Err(Failure::failed(format!("{} has no end", dir.display()))
                .hint("name a directory further down"));
        }
        let nameable = !parts.is_empty() && (!marked || parts.len() > PARTS_BEFORE_PATH);
        let replica = nameable && is_replica(&dir)?;
        if replica {
            found.push(Found {
                name: parts.join("/"),
                dir: dir.clone(),
            });
        }
        if parts.len() < DEPTH_MAX {
            let below = subdirectories(&dir).map_err(|error| unreadable(&dir, error))?;
            waiting.extend(
                below
                    .into_iter()
                    .filter(|part| !(replica && part == "ltx"))
                    .map(|part| {
                        let mut parts = parts.clone();
                        parts.push(part.clone());
                        (dir.join(part), parts)
                    }),
            );
        }
    }
    if found.is_empty() {
        return Err(
            Failure::not_found(format!("there is no replica in {}", dir.display())).hint(
                "neither it nor a directory below holds ltx/0 to ltx/9; is the share mounted?",
            ),
        );
    }
    found.sort_by(|one, two| one.name.cmp(&two.name));
    Ok(found)
}

/// The one replica that is meant.
pub(crate) fn one<'a>(
    dir: &Path,
    found: &'a [Found],
    reference: Option<&Reference>,
) -> Result<&'a Found> {
    match (reference, found) {
        (Some(reference), _) => reference.one(found),
        (None, [only]) => Ok(only),
        (None, several) => Err(ambiguous(
            &format!("{} holds {} replicas", dir.display(), several.len()),
            &several.iter().collect::<Vec<_>>(),
        )),
    }
}

/// A replica has levels: `ltx/0` to `ltx/9`. A database that is called `ltx` has not.
fn is_replica(dir: &Path) -> Result<bool> {
    let ltx = dir.join("ltx");
    match subdirectories(&ltx) {
        Ok(names) => Ok(names
            .iter()
            .any(|name| name.len() == 1 && name.bytes().all(|byte| byte.is_ascii_digit()))),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(false)
        }
        Err(error) => Err(unreadable(&ltx, error)),
    }
}

/// Names of directories, links not followed: what lies elsewhere is not part of this root. Names
/// that are no UTF-8 are none of ours: ours are percent-encoded.
fn subdirectories(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir()
            && let Ok(name) = entry.file_name().into_string()
            && name != ".sqlrep"
        {
            names.push(name);
        }
    }
    Ok(names)
}

fn unreadable(dir: &Path, error: io::Error) -> Failure {
    let failure = match error.kind() {
        io::ErrorKind::NotFound => {
            return Failure::not_found(format!("there is no directory {}", dir.display()))
                .hint("is the share mounted?");
        }
        io::ErrorKind::PermissionDenied => {
            Failure::failed(format!("cannot read {}", dir.display()))
                .hint("run as a user that may read it, such as the owner of the replicas or root")
        }
        _ => Failure::failed(format!("cannot read {}", dir.display())),
    };
    failure.caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    fn tree(paths: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for path in paths {
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        dir
    }

    fn names(dir: &Path) -> Vec<String> {
        find(dir).unwrap().iter().map(Named::name).collect()
    }

    #[test]
    fn a_replica_is_found_as_itself() {
        let dir = tree(&["ltx/0", "ltx/9", ".sqlrep/branches/x/ltx/0"]);
        let found = find(dir.path()).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].dir, dir.path().canonicalize().unwrap());
        assert!(one(dir.path(), &found, None).is_ok());
    }

    #[test]
    fn a_root_holds_many_also_below_one_another() {
        let dir = tree(&[
            "media/surmai/sqlite/data.db/ltx/0",
            "media/surmai/sqlite/data.db/.sqlrep/branches/b/ltx/0",
            "media/surmai/sqlite/data.db/older/ltx/9",
            "home/mealie/data/a/b/mealie.db/ltx/1",
            "home/empty/data",
        ]);
        assert_eq!(
            names(dir.path()),
            [
                "home/mealie/data/a/b/mealie.db",
                "media/surmai/sqlite/data.db",
                "media/surmai/sqlite/data.db/older"
            ]
        );
        let found = find(dir.path()).unwrap();
        let reference = Reference::parse("mealie.db").unwrap();
        assert!(one(dir.path(), &found, Some(&reference)).is_ok());
        assert_eq!(
            one(dir.path(), &found, None).unwrap_err().exit,
            Exit::Refused
        );
    }

    #[test]
    fn on_a_marked_root_a_name_has_four_parts() {
        // A database called "0" in a volume called "ltx" makes its app look like a replica.
        let dir = tree(&["ns/app/ltx/0/ltx/3"]);
        fs::write(dir.path().join(ROOT_MARKER), "{}").unwrap();
        assert_eq!(names(dir.path()), ["ns/app/ltx/0"]);
    }

    #[test]
    fn nothing_is_said_with_what_to_do() {
        let dir = tree(&["a/b/c"]);
        let empty = find(dir.path()).unwrap_err();
        assert_eq!(empty.exit, Exit::NotFound);
        assert!(empty.next_step().unwrap().contains("mounted"));
        assert_eq!(
            find(&dir.path().join("nowhere")).unwrap_err().exit,
            Exit::NotFound
        );
        fs::write(dir.path().join("file"), "").unwrap();
        assert_eq!(
            find(&dir.path().join("file")).unwrap_err().exit,
            Exit::NotFound
        );
    }

    #[test]
    fn links_lead_nowhere() {
        let other = tree(&["ltx/0"]);
        let dir = tree(&["a/b"]);
        std::os::unix::fs::symlink(other.path(), dir.path().join("a/b/link")).unwrap();
        assert_eq!(find(dir.path()).unwrap_err().exit, Exit::NotFound);
    }
}
