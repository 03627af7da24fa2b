//! Whether a root can do what a replica stands on, tried with a file that is taken away again.

use std::ffi::OsStr;
use std::time::SystemTime;

use super::{RootError, refused};
use crate::durable::{self, About, Dir, Failure, Fs, OsFs, Put};

/// Publishes a name and publishes it again: the second time the name must be refused, because that
/// is what keeps two writers apart (L5). Gives the time that the root gave to the file, which on a
/// share is the server's.
///
/// The root is open: what is tried is what was checked, wherever its path leads by now.
pub fn probe(root: &Dir, node: &str) -> Result<SystemTime, RootError> {
    probe_with(&OsFs, root, node)
}

/// The same over another [`Fs`].
pub fn probe_with(fs: &dyn Fs, dir: &Dir, node: &str) -> Result<SystemTime, RootError> {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let name: String = node.chars().map(plain).collect();
    let name = format!(".sqlrep-probe-{name}");
    let name = OsStr::new(&name);
    // One that was left by an agent that died.
    let left = fs.unlink(dir, name);
    drop(left);
    let publish = || {
        let write = &mut |file: &mut dyn std::io::Write| file.write_all(b"sqlrep\n");
        durable::publish(fs, dir, name, About::default(), write)
            .map_err(|Failure { step, path, source }| refused(&path, step, source))
    };
    let (first, second) = (publish()?, publish()?);
    let path = dir.path().join(name);
    let modified = dir
        .open_file(name)
        .and_then(|file| file.metadata()?.modified())
        .map_err(|source| refused(&path, "look at", source))?;
    fs.unlink(dir, name)
        .map_err(|source| refused(&path, "remove", source))?;
    match (first, second) {
        (Put::Published, Put::Taken) => Ok(modified),
        _ => Err(RootError::NotExclusive {
            path: dir.path().to_owned(),
        }),
    }
}
