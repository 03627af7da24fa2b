//! inotify: a hint that something is due, and nothing more. A watch does not pin what it
//! watches, so it may stand on a memory-medium volume for as long as it likes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};

use crate::identity::PodUid;

/// One read takes at least 200 events of the longest names, thousands of usual ones.
const BUFFER_BYTES: usize = 64 << 10;
/// How many reads make a batch; the kernel's queue holds 16,384 events and is then empty or
/// has overflowed.
const READS_MAX: usize = 16;

/// For manifests: whole files, not each write.
const MANIFESTS: WatchMask = WatchMask::CLOSE_WRITE.union(NAMES);
/// For a volume: also each write, which the kernel merges while nobody reads.
const VOLUME: WatchMask = WatchMask::MODIFY.union(NAMES);
/// Names that come and go. Shared watches only ever gain bits.
const NAMES: WatchMask = WatchMask::CREATE
    .union(WatchMask::DELETE)
    .union(WatchMask::MOVE)
    .union(WatchMask::DELETE_SELF)
    .union(WatchMask::MOVE_SELF)
    .union(WatchMask::EXCL_UNLINK)
    .union(WatchMask::ONLYDIR)
    .union(WatchMask::MASK_ADD);

/// Why a directory is watched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// The directory of manifests.
    Manifests,
    /// The directory that holds a pod's emptyDirs, or the nearest that exists above it.
    Way(PodUid),
    /// A directory of a volume; the volume itself has an empty path.
    Dir(PodUid, String, PathBuf),
}

/// What may have happened.
#[derive(Debug)]
pub(crate) enum Hint<'a> {
    /// Something, anywhere.
    Overflow,
    /// Something in a watched directory.
    At(&'a Place, What<'a>),
}

/// See [`Hint::At`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What<'a> {
    /// The directory itself went away.
    SelfGone,
    /// A directory in it came or went.
    Directory(&'a OsStr),
    /// A file in it was written.
    Written(&'a OsStr),
    /// A file in it came.
    Came(&'a OsStr),
    /// A file in it went.
    Went(&'a OsStr),
}

/// A directory could not be watched.
#[derive(Debug)]
pub(crate) enum NotWatched {
    /// A limit is reached, ours or the kernel's; the words say which setting to raise.
    Limit(String),
    /// It vanished, or something else that a later look sorts out.
    Failed,
}

/// Every watch.
#[derive(Debug)]
pub(crate) struct Watches {
    inotify: Option<Inotify>,
    by_id: HashMap<i32, Watch>,
    by_place: BTreeMap<Arc<Place>, i32>,
    /// How many watches there may be.
    room: usize,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Watch {
    descriptor: WatchDescriptor,
    /// Several when pods wait at one directory, or while a directory is being renamed.
    places: Vec<Arc<Place>>,
}

impl Watches {
    /// Sets inotify up; without it, everything is looked at by a timer, and the reason is given.
    pub(crate) fn new(watches_max: usize) -> (Self, Option<String>) {
        let (inotify, reason) = match Inotify::init() {
            Ok(inotify) => (Some(inotify), None),
            Err(error) => (None, Some(refused_instance(&error))),
        };
        let watches = Self {
            inotify,
            by_id: HashMap::new(),
            by_place: BTreeMap::new(),
            room: watches_max,
            buffer: vec![0; BUFFER_BYTES],
        };
        (watches, reason)
    }

    /// What becomes readable when there are hints.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(AsFd::as_fd)
    }

    /// Whether this very place is watched.
    pub(crate) fn has(&self, place: &Place) -> bool {
        self.by_place.contains_key(place)
    }

    /// Watches an open directory as this place, instead of what the place was before. The
    /// descriptor may be closed afterwards.
    pub(crate) fn set(&mut self, place: Place, dir: BorrowedFd<'_>) -> Result<(), NotWatched> {
        let Some(inotify) = &self.inotify else {
            return Err(NotWatched::Failed);
        };
        if self.by_id.len() >= self.room && !self.has(&place) {
            return Err(NotWatched::Limit(format!(
                "{} directories are watched, the most that is allowed here",
                self.room
            )));
        }
        let mask = match place {
            Place::Manifests => MANIFESTS,
            Place::Way(_) => NAMES,
            Place::Dir(..) => VOLUME,
        };
        // Through /proc it is the open directory itself that is watched, whatever its name now is.
        let path = format!("/proc/self/fd/{}", dir.as_raw_fd());
        let descriptor = inotify
            .watches()
            .add(path, mask)
            .map_err(|error| not_watched(&error))?;
        let id = descriptor.get_watch_descriptor_id();
        if self.by_place.get(&place) == Some(&id) {
            return Ok(());
        }
        self.drop_place(&place);
        let place = Arc::new(place);
        let watch = self.by_id.entry(id).or_insert_with(|| Watch {
            descriptor,
            places: vec![],
        });
        watch.places.push(Arc::clone(&place));
        self.by_place.insert(place, id);
        Ok(())
    }

    /// Ends the watch of a place.
    pub(crate) fn drop_place(&mut self, place: &Place) {
        let Some(id) = self.by_place.remove(place) else {
            return;
        };
        let Some(watch) = self.by_id.get_mut(&id) else {
            return;
        };
        watch.places.retain(|other| **other != *place);
        if watch.places.is_empty()
            && let Some(watch) = self.by_id.remove(&id)
            && let Some(inotify) = &self.inotify
        {
            // It fails when the kernel has dropped the watch already, which is as good.
            let _gone_already = inotify.watches().remove(watch.descriptor);
        }
    }

    /// Ends the watches of a volume at and below `path`, but for the directories in `keep`.
    pub(crate) fn drop_dirs(
        &mut self,
        pod: &PodUid,
        volume: &str,
        path: &Path,
        keep: &BTreeSet<PathBuf>,
    ) {
        let stale: Vec<Place> = self
            .dirs(pod, volume, path)
            .filter(|dir| !keep.contains(*dir))
            .map(|dir| Place::Dir(pod.clone(), volume.to_owned(), dir.clone()))
            .collect();
        for place in stale {
            self.drop_place(&place);
        }
    }

    /// Ends every watch within a pod's volumes.
    pub(crate) fn drop_pod(&mut self, pod: &PodUid) {
        let first = Place::Dir(pod.clone(), String::new(), PathBuf::new());
        let places = self
            .by_place
            .range(first..)
            .map(|(place, _)| Place::clone(place));
        let stale: Vec<Place> = places
            .take_while(|place| matches!(place, Place::Dir(other, ..) if other == pod))
            .collect();
        for place in stale {
            self.drop_place(&place);
        }
    }

    /// How many directories of a volume are watched.
    pub(crate) fn count_dirs(&self, pod: &PodUid, volume: &str) -> usize {
        self.dirs(pod, volume, Path::new("")).count()
    }

    fn dirs<'a>(
        &'a self,
        pod: &'a PodUid,
        volume: &'a str,
        path: &'a Path,
    ) -> impl Iterator<Item = &'a PathBuf> {
        let first = Place::Dir(pod.clone(), volume.to_owned(), path.to_owned());
        // Paths compare by component, so what lies below a directory follows it without a gap.
        self.by_place
            .range(first..)
            .map_while(move |(place, _)| match &**place {
                Place::Dir(other, name, dir)
                    if other == pod && name == volume && dir.starts_with(path) =>
                {
                    Some(dir)
                }
                _ => None,
            })
    }

    /// Takes a batch of hints; says whether there were any.
    pub(crate) fn drain(&mut self, mut take: impl FnMut(Hint<'_>)) -> bool {
        let mut any = false;
        for _ in 0..READS_MAX {
            let Some(inotify) = &mut self.inotify else {
                break;
            };
            let events = match inotify.read_events(&mut self.buffer) {
                Ok(events) => events,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // Nothing left; no other error is known for a descriptor of our own.
                Err(_) => break,
            };
            for event in events {
                any = true;
                if event.mask.contains(EventMask::Q_OVERFLOW) {
                    take(Hint::Overflow);
                    continue;
                }
                let id = event.wd.get_watch_descriptor_id();
                let Some(watch) = self.by_id.get(&id) else {
                    continue;
                };
                if let Some(what) = what(event.mask, event.name) {
                    for place in &watch.places {
                        take(Hint::At(place, what));
                    }
                }
                if event.mask.contains(EventMask::IGNORED)
                    && let Some(watch) = self.by_id.remove(&id)
                {
                    for place in watch.places {
                        self.by_place.remove(&place);
                    }
                }
            }
        }
        any
    }
}

fn what(mask: EventMask, name: Option<&OsStr>) -> Option<What<'_>> {
    let gone = EventMask::DELETE_SELF
        .union(EventMask::MOVE_SELF)
        .union(EventMask::UNMOUNT)
        .union(EventMask::IGNORED);
    if mask.intersects(gone) {
        return Some(What::SelfGone);
    }
    let name = name?;
    if mask.contains(EventMask::ISDIR) {
        Some(What::Directory(name))
    } else if mask.contains(EventMask::MODIFY) {
        Some(What::Written(name))
    } else if mask.intersects(EventMask::DELETE.union(EventMask::MOVED_FROM)) {
        Some(What::Went(name))
    } else {
        Some(What::Came(name))
    }
}

fn not_watched(error: &io::Error) -> NotWatched {
    if error.kind() == io::ErrorKind::StorageFull {
        NotWatched::Limit(
            "the kernel allows no more inotify watches; raise fs.inotify.max_user_watches".into(),
        )
    } else {
        NotWatched::Failed
    }
}

fn refused_instance(error: &io::Error) -> String {
    format!(
        "inotify is not to be had ({error}); raise fs.inotify.max_user_instances and start again"
    )
}

#[cfg(test)]
mod tests;
