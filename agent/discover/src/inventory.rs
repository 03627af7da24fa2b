//! Pure: what is wanted and seen → what to say. No file, clock or channel comes near it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::event::{InodeKey, Kind};
use crate::identity::PodUid;
use crate::pods::PodRef;

/// How many claimed inodes without a path are remembered, each a database that was renamed or
/// unlinked under capture.
const ORPHANS_MAX: usize = 256;

/// What was found at one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sighting {
    /// A database.
    Database(Known),
    /// An inode under capture, which is not opened to see what it holds.
    Claimed(InodeKey),
    /// Nothing, or nothing that is a database.
    Nothing,
}

/// A database as last reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    /// Its journal mode.
    pub(crate) kind: Kind,
    /// Its inode.
    pub(crate) inode: InodeKey,
}

/// What to say about one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// There is a database that was not there.
    Appeared(PathBuf, Known),
    /// The database is of another kind, or another inode.
    Changed(PathBuf, Known),
    /// There is no database any more.
    Gone(PathBuf),
}

/// The databases of one volume, as reported.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    known: BTreeMap<PathBuf, Known>,
    /// Claimed inodes whose path went away, so that they are known when they show up elsewhere.
    orphans: BTreeMap<InodeKey, Kind>,
}

impl Inventory {
    /// The database at a path, as last reported.
    pub(crate) fn get(&self, path: &Path) -> Option<Known> {
        self.known.get(path).copied()
    }

    /// Every reported path.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.known.keys()
    }

    /// How many databases are reported.
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    /// Forgets everything, as when the volume is gone.
    pub(crate) fn clear(&mut self) {
        self.known.clear();
        self.orphans.clear();
    }

    /// Takes in what was seen at some paths and says what changed. Paths not in `seen` stay as
    /// they are. What is there comes before what is gone, so that a database that was renamed
    /// under capture is known by its inode at its new path.
    pub(crate) fn see(
        &mut self,
        seen: &BTreeMap<PathBuf, Sighting>,
        claimed: impl Fn(InodeKey) -> bool,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        for (path, sighting) in seen {
            let now = match *sighting {
                Sighting::Database(known) => known,
                Sighting::Claimed(inode) => match self.kind_of(path, inode, seen) {
                    Some(kind) => Known { kind, inode },
                    None => continue,
                },
                Sighting::Nothing => continue,
            };
            self.orphans.remove(&now.inode);
            match self.known.insert(path.clone(), now) {
                None => changes.push(Change::Appeared(path.clone(), now)),
                Some(before) if before == now => {}
                Some(before) => {
                    self.orphan(before, &claimed);
                    changes.push(Change::Changed(path.clone(), now));
                }
            }
        }
        for (path, _) in seen
            .iter()
            .filter(|(_, sighting)| **sighting == Sighting::Nothing)
        {
            if let Some(before) = self.known.remove(path) {
                self.orphan(before, &claimed);
                changes.push(Change::Gone(path.clone()));
            }
        }
        self.orphans.retain(|inode, _| claimed(*inode));
        changes
    }

    /// Second names of databases under capture (hard links) among what was seen, and the first ones.
    pub(crate) fn second_names(
        &self,
        seen: &BTreeMap<PathBuf, Sighting>,
    ) -> BTreeMap<PathBuf, PathBuf> {
        let first = |path: &PathBuf, inode: InodeKey| {
            let known = self
                .known
                .get(path)
                .is_some_and(|known| known.inode == inode);
            let named = |(_, known): &(&PathBuf, &Known)| known.inode == inode;
            let first = self.known.iter().find(named).filter(|_| !known);
            first.map(|(first, _)| (path.clone(), first.clone()))
        };
        let names = seen.iter().filter_map(|(path, sighting)| match sighting {
            Sighting::Claimed(inode) => first(path, *inode),
            _ => None,
        });
        names.collect()
    }

    /// The kind of a claimed inode, which was seen before it was claimed: at this path, or at
    /// one that it left. A second name of a database that stays where it is is a hard link, and
    /// no database of its own.
    fn kind_of(
        &self,
        path: &Path,
        inode: InodeKey,
        seen: &BTreeMap<PathBuf, Sighting>,
    ) -> Option<Kind> {
        let here = self.known.get(path).filter(|known| known.inode == inode);
        let moved = || {
            let mut others = self.known.iter().filter(|(_, known)| known.inode == inode);
            others.find(|(other, _)| seen.get(*other) == Some(&Sighting::Nothing))
        };
        here.or_else(|| moved().map(|(_, known)| known))
            .map(|known| known.kind)
            .or_else(|| self.orphans.get(&inode).copied())
    }

    fn orphan(&mut self, lost: Known, claimed: impl Fn(InodeKey) -> bool) {
        if claimed(lost.inode) && self.orphans.len() < ORPHANS_MAX {
            self.orphans.insert(lost.inode, lost.kind);
        }
    }
}

/// What to say about one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PodChange {
    /// Gone, or no longer ours.
    Gone(PodUid),
    /// Began to end.
    Terminating(PodUid),
    /// New.
    Appeared(PodRef),
    /// Otherwise different.
    Changed(PodRef),
}

/// What changed between two states of the pods of this node: first those that make room, then
/// those that come.
pub(crate) fn diff_pods<'a>(
    known: impl Fn(&PodUid) -> Option<&'a PodRef>,
    known_uids: impl Iterator<Item = &'a PodUid>,
    wanted: &BTreeMap<PodUid, PodRef>,
) -> Vec<PodChange> {
    let gone = known_uids.filter(|uid| !wanted.contains_key(uid));
    let mut changes: Vec<PodChange> = gone.cloned().map(PodChange::Gone).collect();
    let mut coming = Vec::new();
    for (uid, pod) in wanted {
        let before = known(uid);
        let ends = pod.phase.is_ending() && !before.is_some_and(|old| old.phase.is_ending());
        match before {
            None => {
                coming.push(PodChange::Appeared(pod.clone()));
                if ends {
                    coming.push(PodChange::Terminating(uid.clone()));
                }
            }
            Some(_) if ends => changes.push(PodChange::Terminating(uid.clone())),
            Some(old) if old != pod => coming.push(PodChange::Changed(pod.clone())),
            Some(_) => {}
        }
    }
    changes.append(&mut coming);
    changes
}

#[cfg(test)]
mod tests;
