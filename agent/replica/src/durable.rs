//! The only module that links, renames, unlinks, fsyncs and sets times (L5).
//!
//! A file appears in a replica by [`publish`]: write a temp file, fsync it, give it the time of
//! its header, link it to its name, unlink the temp file, fsync the directory. Before the link
//! nobody sees it; after the link it is whole. `link` fails when the name exists, also between two
//! NFS clients, and so it decides who published. Small files of ours are exchanged by [`replace`].
//!
//! What nobody else reads may appear first and be made durable later: [`publish_unsettled`].
//!
//! Every step goes through [`Fs`], so that tests can stop the world before each of them.

mod dir;
mod early;
mod os;
mod place;
mod temp;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use early::Early;
use sqlrep_format::Timestamp;

pub use dir::Dir;
pub use early::begin_writeback;
pub use os::OsFs;
pub use place::{Base, Place};
pub use temp::{Temp, is_temp_name};

/// Buffer between an encoder and the file, for small pieces; larger ones go past it. The system puts
/// them together to what NFS or a disk likes.
const WRITE_BUFFER_BYTES: usize = 64 * 1024;
/// How far up a directory's ancestors are fsynced; replica paths are shallower.
const ANCESTORS_MAX: usize = 32;

/// The steps that decide what survives a crash.
///
/// The one real implementation is [`OsFs`]; tests put a recorder or an injector of faults around
/// it. All names are single parts within an open directory.
pub trait Fs: Send + Sync + fmt::Debug {
    /// Creates a directory; `AlreadyExists` when the name is taken.
    fn make_dir(&self, dir: &Dir, name: &OsStr) -> io::Result<()>;
    /// Creates a file for reading and writing; `AlreadyExists` when the name is taken.
    fn create(&self, dir: &Dir, name: &OsStr, mode: u32) -> io::Result<File>;
    /// Makes the content of a file durable. An error means that the file is lost (NFS.md).
    fn fsync(&self, dir: &Dir, name: &OsStr, file: &File) -> io::Result<()>;
    /// Sets the modification time, exact to the millisecond.
    fn set_modified(&self, dir: &Dir, name: &OsStr, file: &File, to: Timestamp) -> io::Result<()>;
    /// Gives a file a second name; `AlreadyExists` when that name is taken.
    fn link(&self, dir: &Dir, from: &OsStr, to: &OsStr) -> io::Result<()>;
    /// Gives a file the same name in another directory of the same file system as well;
    /// `AlreadyExists` when it is taken there.
    fn link_into(&self, from: &Dir, name: &OsStr, to: &Dir) -> io::Result<()>;
    /// How many names the file has, asked of the server and not of a cache.
    fn links(&self, dir: &Dir, name: &OsStr) -> io::Result<u64>;
    /// Renames over whatever stands there.
    fn rename(&self, dir: &Dir, from: &OsStr, to: &OsStr) -> io::Result<()>;
    /// Renames; `AlreadyExists` when the name is taken.
    fn rename_new(&self, dir: &Dir, from: &OsStr, to: &OsStr) -> io::Result<()>;
    /// Moves a directory, or a file, into another directory, where its new name must be free.
    fn move_dir(&self, from: &Dir, name: &OsStr, to: &Dir, new: &OsStr) -> io::Result<()>;
    /// Takes a name away.
    fn unlink(&self, dir: &Dir, name: &OsStr) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, dir: &Dir, name: &OsStr) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn fsync_dir(&self, dir: &Dir) -> io::Result<()>;
    /// What time it is where a directory lies: it gets that time, which does no harm to anybody, and no
    /// room is needed for it. On NFS it is the server's clock, for "now" is left to it.
    fn now_at(&self, dir: &Dir) -> io::Result<Timestamp>;
}

/// A step that failed: which, on what, and why.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} {}", path.display())]
pub struct Failure {
    /// What was attempted, as a verb.
    pub step: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl Failure {
    /// For `map_err`: names the step and the path.
    pub fn at(step: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self { step, path, source }
    }
}

/// What became of an attempt to publish under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The name is ours now, durably.
    Published,
    /// The name was taken before; nothing was changed.
    Taken,
}

/// What is known of a file before it is written.
#[derive(Clone, Copy, Debug, Default)]
pub struct About {
    /// Becomes its time, before anybody can see it.
    pub modified: Option<Timestamp>,
    /// About how long it will be; 0 when nobody knows. A long one is not written gently.
    pub bytes: u64,
}

/// Publishes a file under a name that must be free.
///
/// When this returns an error the name may or may not have been taken (a reply can be lost): publish
/// again, and compare.
pub fn publish(
    fs: &dyn Fs,
    dir: &Dir,
    name: &OsStr,
    about: About,
    write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
) -> Result<Put, Failure> {
    let temp = Temp::create(fs, dir)?;
    fill_durably(&temp, about.bytes, write)?;
    let put = name_it(fs, dir, &temp, name, about.modified)?;
    // A temp file that stays does no harm and is swept later.
    drop(temp);
    // Also when taken: whoever published it may have died before this step, and the caller goes
    // on as if the file were there for good.
    fs.fsync_dir(dir)
        .map_err(Failure::at("fsync", dir.path()))?;
    Ok(put)
}

/// Publishes a file that a power failure may take again, whole or in part, until [`Unsettled::settle`]
/// has returned: for a directory of this node, whose reader proves what it finds after a failure. A
/// process that is killed takes nothing. `None`: the name was taken; nothing was changed.
pub fn publish_unsettled(
    fs: &dyn Fs,
    dir: &Dir,
    name: &OsStr,
    modified: Option<Timestamp>,
    write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
) -> Result<Option<Unsettled>, Failure> {
    let temp = Temp::create(fs, dir)?;
    fill(&temp, Early::new(temp.file()), write)?;
    let file = temp.file().try_clone();
    let file = file.map_err(Failure::at("look at", temp.path()))?;
    let put = name_it(fs, dir, &temp, name, modified)?;
    Ok((put == Put::Published).then(|| Unsettled {
        file,
        dir: dir.clone(),
        name: name.to_owned(),
    }))
}

/// A file that has its name, and may lose it and its content by a power failure.
#[derive(Debug)]
pub struct Unsettled {
    file: File,
    dir: Dir,
    name: OsString,
}

impl Unsettled {
    /// The file of that name in `dir`, of which nobody knows whether it would survive.
    pub fn found(dir: Dir, name: &OsStr) -> io::Result<Self> {
        Ok(Self {
            file: dir.open_file(name)?,
            dir,
            name: name.to_owned(),
        })
    }

    /// Makes its content and its name durable. After an error it must be taken for lost: the kernel
    /// reports a lost write once, and a second fsync would lie.
    pub fn settle(&self, fs: &dyn Fs) -> Result<(), Failure> {
        fs.fsync(&self.dir, &self.name, &self.file)
            .map_err(Failure::at("fsync", self.dir.path().join(&self.name)))?;
        fs.fsync_dir(&self.dir)
            .map_err(Failure::at("fsync", self.dir.path()))
    }
}

/// Gives a temp file its time and then its name, which must be free.
fn name_it(
    fs: &dyn Fs,
    dir: &Dir,
    temp: &Temp<'_>,
    name: &OsStr,
    modified: Option<Timestamp>,
) -> Result<Put, Failure> {
    if let Some(modified) = modified {
        fs.set_modified(dir, temp.name(), temp.file(), modified)
            .map_err(Failure::at("set the time of", temp.path()))?;
    }
    match fs.link(dir, temp.name(), name) {
        Ok(()) => Ok(Put::Published),
        // An NFS server may have done the link and lost the reply: the repeated request then
        // finds our own link. A second name on our file means that it was us.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let links = fs.links(dir, temp.name());
            match links.map_err(Failure::at("look at", temp.path()))? {
                2.. => Ok(Put::Published),
                _ => Ok(Put::Taken),
            }
        }
        Err(error) => Err(Failure::at("link", dir.path().join(name))(error)),
    }
}

/// Gives a file that is durable the same name in another directory as well, which must be free there;
/// durable when this returns. `None`, and nothing changed, where that is not to be had: directories of
/// two quotas, a file system without hard links, a policy against them. Who writes the file instead
/// hears of what else is wrong.
pub fn publish_again(
    fs: &dyn Fs,
    from: &Dir,
    name: &OsStr,
    to: &Dir,
) -> Result<Option<Put>, Failure> {
    let put = match fs.link_into(from, name, to) {
        Ok(()) => Put::Published,
        // Whose name it is does not matter, nor whether a lost reply hides that it is ours.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Put::Taken,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Failure::at("link", from.path().join(name))(error));
        }
        Err(error) => {
            tracing::debug!(file = %from.path().join(name).display(), err = %error, "no second name");
            return Ok(None);
        }
    };
    fs.fsync_dir(to).map_err(Failure::at("fsync", to.path()))?;
    Ok(Some(put))
}

/// Exchanges a small file as a whole: afterwards it holds `bytes`, or after an error what it held.
pub fn replace(fs: &dyn Fs, dir: &Dir, name: &OsStr, bytes: &[u8]) -> Result<(), Failure> {
    let mut temp = Temp::create(fs, dir)?;
    fill_durably(&temp, bytes.len() as u64, &mut |file| file.write_all(bytes))?;
    fs.rename(dir, temp.name(), name)
        .map_err(Failure::at("rename to", dir.path().join(name)))?;
    temp.disarm();
    fs.fsync_dir(dir).map_err(Failure::at("fsync", dir.path()))
}

/// Publishes a file that somebody else wrote, in the same directory: fsync, rename to a name that
/// must be free, fsync the directory. `AlreadyExists`, and nothing changed, when it is taken.
pub fn publish_file(temp: &Path, to: &Path) -> io::Result<()> {
    let (dir, from, to) = fsynced(temp, to)?;
    OsFs.rename_new(&dir, &from, &to)?;
    OsFs.fsync_dir(&dir)
}

/// The same over whatever has the name: only for a person who asked for just that.
pub fn replace_file(temp: &Path, to: &Path) -> io::Result<()> {
    let (dir, from, to) = fsynced(temp, to)?;
    OsFs.rename(&dir, &from, &to)?;
    OsFs.fsync_dir(&dir)
}

fn fsynced(temp: &Path, to: &Path) -> io::Result<(Dir, OsString, OsString)> {
    let parent = |path: &Path| match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let (Some(from), Some(name)) = (temp.file_name(), to.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    if parent(temp) != parent(to) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not in the same directory",
        ));
    }
    let dir = Dir::open(&parent(to))?;
    OsFs.fsync(&dir, from, &dir.open_file(from)?)?;
    Ok((dir, from.to_owned(), name.to_owned()))
}

/// Moves a directory with all that is in it, or a file; durable in both places.
pub fn move_dir(
    fs: &dyn Fs,
    from: &Dir,
    name: &OsStr,
    to: &Dir,
    new: &OsStr,
) -> Result<(), Failure> {
    fs.move_dir(from, name, to, new)
        .map_err(Failure::at("move", from.path().join(name)))?;
    // The new place first: should the machine die in between, two places are better than none.
    fs.fsync_dir(to).map_err(Failure::at("fsync", to.path()))?;
    fs.fsync_dir(from)
        .map_err(Failure::at("fsync", from.path()))
}

/// Writes and fsyncs a temp file. After a failed fsync the file is thrown away with the `Temp`:
/// the kernel reports a lost write once, and a second fsync would lie.
fn fill_durably(
    temp: &Temp<'_>,
    bytes: u64,
    write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
) -> Result<(), Failure> {
    fill(temp, Early::gently(temp.file(), bytes), write)?;
    temp.fsync()
}

/// Writes a temp file; a long one goes to the disk meanwhile.
fn fill(
    temp: &Temp<'_>,
    early: Early<'_>,
    write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
) -> Result<(), Failure> {
    let mut buffer = BufWriter::with_capacity(WRITE_BUFFER_BYTES, early);
    write(&mut buffer)
        .and_then(|()| buffer.flush())
        .map_err(Failure::at("write", temp.path()))
}

/// Opens a directory, and creates it and its parents where they are missing; durable once it is
/// settled ([`settle`]), in one go. Says whether anything was missing.
pub fn make_dirs(fs: &dyn Fs, place: &Place) -> Result<(Dir, bool), Failure> {
    let path = place.path();
    match place.open() {
        Ok(dir) => return Ok((dir, false)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(Failure::at("open", path)(error)),
    }
    let (Some(parent), Some(name)) = (place.parent(), path.file_name()) else {
        return Err(Failure::at("create", path)(
            io::ErrorKind::InvalidInput.into(),
        ));
    };
    let (parent, _) = make_dirs(fs, &parent)?;
    make(fs, &parent, name)?;
    let made = place.open().map_err(Failure::at("open", path))?;
    Ok((made, true))
}

/// Opens a directory within another, never through a symbolic link, and creates it where it is
/// missing; durable when the other is fsynced. Says whether it was missing.
pub fn make_subdir(fs: &dyn Fs, dir: &Dir, name: &OsStr) -> Result<(Dir, bool), Failure> {
    let failed = || Failure::at("open", dir.path().join(name));
    match dir.open_subdir(name) {
        Ok(opened) => return Ok((opened, false)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed()(error)),
    }
    make(fs, dir, name)?;
    let made = dir.open_subdir(name).map_err(failed())?;
    Ok((made, true))
}

fn make(fs: &dyn Fs, dir: &Dir, name: &OsStr) -> Result<(), Failure> {
    match fs.make_dir(dir, name) {
        // Somebody else was faster.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(Failure::at("create", dir.path().join(name))(error))
        }
        _ => Ok(()),
    }
}

/// Opens a directory, and creates it and its parents durably where they are missing.
pub fn ensure_dir(fs: &dyn Fs, place: impl Into<Place>) -> Result<Dir, Failure> {
    let place = place.into();
    let path = place.path();
    match place.open() {
        Ok(dir) => return Ok(dir),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(Failure::at("open", path)(error)),
    }
    let (Some(parent), Some(name)) = (place.parent(), path.file_name()) else {
        return Err(Failure::at("create", path)(
            io::ErrorKind::InvalidInput.into(),
        ));
    };
    let parent = ensure_dir(fs, parent)?;
    make_durable(fs, &parent, name)?;
    place.open().map_err(Failure::at("open", path))
}

/// Opens a directory within another, never through a symbolic link, and creates it durably where
/// it is missing.
pub fn ensure_subdir(fs: &dyn Fs, dir: &Dir, name: &OsStr) -> Result<Dir, Failure> {
    let open = || dir.open_subdir(name);
    match open() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened.map_err(Failure::at("open", dir.path().join(name))),
    }
    make_durable(fs, dir, name)?;
    open().map_err(Failure::at("open", dir.path().join(name)))
}

fn make_durable(fs: &dyn Fs, dir: &Dir, name: &OsStr) -> Result<(), Failure> {
    make(fs, dir, name)?;
    // Also when somebody else was faster.
    fs.fsync_dir(dir).map_err(Failure::at("fsync", dir.path()))
}

/// Makes a directory's own name durable, and those of its ancestors on the same file system: a
/// predecessor may have created them and died before it could fsync.
///
/// Ancestors that may not be read are left out, and those above a replica root or a volume, or above
/// `top`: who made them was somebody else.
pub fn settle(fs: &dyn Fs, place: &Place, dir: &Dir, top: Option<&Path>) -> Result<(), Failure> {
    let Ok(device) = dir.device() else {
        return Ok(());
    };
    let ancestors = std::iter::successors(place.parent(), Place::parent);
    for ancestor in ancestors.take(ANCESTORS_MAX) {
        match ancestor.open() {
            Ok(opened) if opened.device().is_ok_and(|found| found == device) => {
                fs.fsync_dir(&opened)
                    .map_err(Failure::at("fsync", ancestor.path()))?;
            }
            _ => break,
        }
        if ancestor.is_top() || Some(ancestor.path()) == top {
            break;
        }
    }
    Ok(())
}

/// Takes a name away; that there is none is as good.
pub fn unlink_if_there(fs: &dyn Fs, dir: &Dir, name: &OsStr) -> Result<(), Failure> {
    match fs.unlink(dir, name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Failure::at("unlink", dir.path().join(name))(error))
        }
        _ => Ok(()),
    }
}

/// Removes a directory of ours with its files, at most `depth` directories deep. What somebody else
/// put there, or an NFS server keeps for who has it open, stays; then so does the directory.
pub fn remove_tree(fs: &dyn Fs, dir: &Dir, name: &OsStr, depth: u32) -> Result<(), Failure> {
    let tree = match dir.open_subdir(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(Failure::at("open", dir.path().join(name)))?,
    };
    for entry in tree.entries().map_err(Failure::at("list", tree.path()))? {
        if tree.open_subdir(&entry).is_ok() {
            if let Some(depth) = depth.checked_sub(1) {
                remove_tree(fs, &tree, &entry, depth)?;
            }
            continue;
        }
        unlink_if_there(fs, &tree, &entry)?;
    }
    drop(tree);
    match fs.remove_dir(dir, name) {
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
            ) =>
        {
            Err(Failure::at("remove", dir.path().join(name))(error))
        }
        _ => Ok(()),
    }
}

/// Unlinks temp files that nobody touched since `before`: a crash left them. Says how many.
///
/// The age is that of the last change of the inode (ctime), not the modification time: a temp file
/// that is about to be published carries the time of its header, which may be long ago.
pub fn sweep(fs: &dyn Fs, dir: &Dir, before: Timestamp) -> Result<u32, Failure> {
    let mut swept = 0;
    for entry in dir.entries().map_err(Failure::at("list", dir.path()))? {
        if is_temp_name(&entry) && dir.changed(&entry).is_ok_and(|changed| changed < before) {
            match fs.unlink(dir, &entry) {
                Ok(()) => swept += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Failure::at("unlink", dir.path().join(&entry))(error)),
            }
        }
    }
    Ok(swept)
}

#[cfg(test)]
mod tests;
