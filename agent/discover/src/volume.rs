//! One emptyDir: what is due in it, and the look at it.

mod touches;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::claims::Claims;
use crate::discover::Limits;
use crate::event::{Event, InodeKey};
use crate::identity::PodUid;
use crate::inventory::{Change, Inventory, Sighting};
use crate::kubelet::{self, Kubelet};
use crate::outbox::{Closed, Outbox};
use crate::policy::Policy;
use crate::scan::{self, Heads, REFUSALS_MAX, Scanner, Seen, Sight};
use crate::watch::{NotWatched, Place, Watches, What};
use touches::Touches;

/// How many single names are looked at in one go; past that a whole scan is cheaper.
const NAMES_MAX: usize = 512;
/// How many single names a volume may have looked at at once, and how many more each second. A
/// look costs some ten microseconds, so a pod that floods its volume with files costs the node
/// half a percent of a core, and waits for the next scan itself.
const LOOKS_BURST: u32 = 1_000;
const LOOKS_PER_SECOND: u32 = 500;
/// A volume rests this many times as long as its last scan took: five percent of a core at most.
const REST_FACTOR: u32 = 20;
/// How many foreign files are remembered.
const FOREIGN_MAX: usize = 2_048;
/// What a scan that was put off waits for at least.
const PUT_OFF: Duration = Duration::from_secs(1);

/// What a look needs from around it.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub(crate) kubelet: &'a Kubelet,
    pub(crate) claims: &'a Claims,
    pub(crate) limits: &'a Limits,
    pub(crate) policy: &'a Policy,
    pub(crate) watches: &'a mut Watches,
    pub(crate) outbox: &'a Outbox,
    /// Set to the reason when a watch was refused for want of room.
    pub(crate) limited: &'a mut Option<String>,
}

/// One emptyDir of a watched pod.
#[derive(Debug)]
pub(crate) struct Volume {
    pod: PodUid,
    name: String,
    /// The directory as last seen; `None` while there is none.
    root: Option<InodeKey>,
    inventory: Inventory,
    heads: Heads,
    /// Files that are something else than a database. Writes to them are passed over until the
    /// next scan, so that a busy log file costs nothing.
    foreign: BTreeSet<PathBuf>,
    /// What was said to be refused, and why.
    refused: BTreeMap<PathBuf, String>,
    /// Second names of databases, and the first ones.
    second_names: BTreeMap<PathBuf, PathBuf>,
    due: Due,
    touches: Touches,
    looks: Allowance,
    /// No whole scan before this.
    rest_until: Option<Instant>,
    /// Whether some directory is not watched, so that a timer must look.
    unwatched: bool,
    /// Whether its coming and going is not notified.
    way_unwatched: bool,
}

/// What is to be looked at.
#[derive(Debug, Default)]
struct Due {
    /// Everything, from this instant on.
    scan: Option<Instant>,
    /// The directory was seen to go away, though another may stand there by now.
    lost: bool,
    /// Whether the directory is there at all.
    presence: bool,
    names: BTreeSet<PathBuf>,
    dirs: BTreeSet<PathBuf>,
}

impl Volume {
    /// A volume that was never looked at; a scan is due.
    pub(crate) fn new(pod: &PodUid, name: &str, now: Instant) -> Self {
        Self {
            pod: pod.clone(),
            name: name.to_owned(),
            root: None,
            inventory: Inventory::default(),
            heads: Heads::default(),
            foreign: BTreeSet::new(),
            refused: BTreeMap::new(),
            second_names: BTreeMap::new(),
            due: Due {
                scan: Some(now),
                ..Due::default()
            },
            touches: Touches::default(),
            looks: Allowance {
                left: LOOKS_BURST,
                counted: now,
            },
            rest_until: None,
            unwatched: false,
            way_unwatched: false,
        }
    }

    /// Makes a whole scan due now, or when the volume has rested from the last one.
    pub(crate) fn want_scan(&mut self, now: Instant) {
        let at = self.rest_until.map_or(now, |rest| rest.max(now));
        self.due.scan = Some(self.due.scan.map_or(at, |due| due.min(at)));
    }

    /// When something is due next.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        [self.due.scan, self.touches.next_due()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether a timer must look because notification does not cover it.
    pub(crate) fn is_unwatched(&self) -> bool {
        self.unwatched || self.way_unwatched
    }

    /// The way to the volume may have changed: is it still there, is it there now? `blind` says
    /// that the way could not be watched.
    pub(crate) fn check_presence(&mut self, now: Instant, blind: bool) {
        self.due.presence = true;
        self.way_unwatched = blind;
        if self.root.is_none() {
            self.due.scan = Some(now);
        }
    }

    /// Takes a hint in.
    pub(crate) fn hint(
        &mut self,
        dir: &Path,
        what: What<'_>,
        cx: (&Policy, &Claims),
        now: Instant,
    ) {
        match what {
            What::SelfGone if dir.as_os_str().is_empty() => {
                self.due.lost = true;
                self.due.scan = Some(now);
            }
            What::SelfGone => {
                self.due.dirs.insert(dir.to_owned());
            }
            What::Directory(name) => {
                self.due.dirs.insert(dir.join(name));
            }
            What::Written(name) => self.file_hint(dir, name, Write::Bytes, cx),
            What::Came(name) | What::Went(name) => self.file_hint(dir, name, Write::Name, cx),
        }
        if self.due.names.len() > NAMES_MAX || self.due.dirs.len() > NAMES_MAX {
            self.put_off(now);
        }
    }

    fn file_hint(&mut self, dir: &Path, name: &OsStr, write: Write, cx: (&Policy, &Claims)) {
        let (policy, claims) = cx;
        if scan::is_ours(name) {
            return;
        }
        if let Some(database) = scan::database_of_sidecar(name) {
            let path = dir.join(database);
            if self.inventory.get(&path).is_some() {
                self.touched(path, write);
            }
            return;
        }
        let path = dir.join(name);
        if self.inventory.get(&path).is_some() {
            self.touched(path.clone(), write);
        }
        let known = self.inventory.get(&path);
        // Bytes written to a database under capture are capture's business alone.
        let captured = || known.is_some_and(|known| claims.is_claimed(known.inode));
        match write {
            Write::Bytes if self.foreign.contains(&path) || captured() => {}
            _ if !policy.wants(&path) => {}
            _ => {
                self.foreign.remove(&path);
                self.due.names.insert(path);
            }
        }
    }

    /// Does what is due.
    pub(crate) fn work(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<(), Closed> {
        let scan_due = self.due.scan.is_some_and(|at| at <= now);
        let due = &self.due;
        let due = scan_due || due.presence || !due.names.is_empty() || !due.dirs.is_empty();
        if due && let Some(root) = self.enter(cx, now)? {
            if self.due.scan.is_some_and(|at| at <= now) {
                self.scan(&root, cx, now)?;
            } else {
                self.look(&root, cx, now)?;
            }
        }
        self.tell_touched(cx, now)
    }

    /// A database may have been written to. That a name of its came or went is told at once.
    fn touched(&mut self, path: PathBuf, write: Write) {
        match write {
            Write::Name => self.touches.add_at_once(path),
            Write::Bytes => self.touches.add(path),
        }
    }

    /// Says which databases may have been written to; those that were told of just now have to wait.
    fn tell_touched(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<(), Closed> {
        let followed = |path: &Path| self.inventory.get(path).is_some();
        for path in self.touches.take(now, followed) {
            let (pod, volume) = (self.pod.clone(), self.name.clone());
            cx.outbox.send(Event::Touched { pod, volume, path })?;
        }
        Ok(())
    }

    /// Opens the volume; `None` when there is nothing to look into, which has been said.
    fn enter(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<Option<OwnedFd>, Closed> {
        if std::mem::take(&mut self.due.lost) {
            self.lose(cx)?;
        }
        self.due.presence = false;
        let opened = cx.kubelet.open_volume(&self.pod, &self.name);
        let errno = match opened.and_then(|dir| Ok((kubelet::inode_of(&dir)?, dir))) {
            Ok((inode, dir)) => {
                if self.root.is_some_and(|before| before != inode) {
                    self.lose(cx)?;
                }
                if self.root.replace(inode).is_none() {
                    self.due.scan = Some(now);
                }
                return Ok(Some(dir));
            }
            Err(errno) => errno,
        };
        // Until the directory can be entered there is nothing to see; then a scan sees it all.
        self.due = Due::default();
        match errno {
            Errno::NOENT => self.lose(cx)?,
            Errno::NOTDIR | Errno::LOOP => {
                self.lose(cx)?;
                let reason = "a symbolic link or a file stands where its directory should be";
                self.refuse_whole(reason.into(), cx)?;
            }
            errno => {
                self.due.scan = Some(now + cx.limits.poll_interval);
                self.refuse_whole(format!("cannot be entered: {errno}"), cx)?;
            }
        }
        Ok(None)
    }

    /// Nothing of the volume is looked into.
    fn refuse_whole(&mut self, reason: String, cx: &Context<'_>) -> Result<(), Closed> {
        self.refuse(BTreeMap::from([(PathBuf::new(), reason)]), |_| true, cx)
    }

    /// The directory is gone, or another one stands in its place.
    fn lose(&mut self, cx: &mut Context<'_>) -> Result<(), Closed> {
        if self.root.take().is_none() {
            return Ok(());
        }
        cx.watches
            .drop_dirs(&self.pod, &self.name, Path::new(""), &BTreeSet::new());
        self.inventory.clear();
        self.refused.clear();
        self.second_names.clear();
        self.foreign.clear();
        self.heads = Heads::default();
        let (pod, volume) = (self.pod.clone(), self.name.clone());
        cx.outbox.send(Event::VolumeGone { pod, volume })
    }

    /// The whole volume.
    fn scan(&mut self, root: &OwnedFd, cx: &mut Context<'_>, now: Instant) -> Result<(), Closed> {
        self.due.scan = None;
        self.due.names.clear();
        self.due.dirs.clear();
        self.foreign.clear();
        self.unwatched = cx.watches.fd().is_none();
        let mut seen = self.walk(root, Path::new(""), cx);
        if seen.cut.is_none() {
            cx.watches
                .drop_dirs(&self.pod, &self.name, Path::new(""), &seen.dirs);
        }
        let missing = self
            .inventory
            .paths()
            .filter(|path| !seen.files.contains_key(*path));
        let missing: Vec<PathBuf> = missing.cloned().collect();
        self.look_at(root, missing, &mut seen, cx);
        self.rest(now);
        self.conclude(seen, |_| true, cx)
    }

    /// After a scan that began at `since`: the next one waits in proportion to what it took.
    fn rest(&mut self, since: Instant) {
        let now = Instant::now();
        self.rest_until = Some(now + now.saturating_duration_since(since) * REST_FACTOR);
    }

    /// Single names, and directories that came or went.
    fn look(&mut self, root: &OwnedFd, cx: &mut Context<'_>, now: Instant) -> Result<(), Closed> {
        let mut seen = Seen::default();
        let mut dirs = std::mem::take(&mut self.due.dirs);
        let mut names = std::mem::take(&mut self.due.names);
        if !dirs.is_empty() && self.rest_until.is_some_and(|rest| rest > now) {
            // A directory may hold as much as the volume, so it waits like the volume does.
            dirs.clear();
            self.want_scan(now);
        }
        if !self.looks.take(names.len() + dirs.len(), now) {
            self.put_off(now);
            return Ok(());
        }
        for dir in &dirs {
            let below = self.walk(root, dir, cx);
            if below.cut.is_none() {
                cx.watches
                    .drop_dirs(&self.pod, &self.name, dir, &below.dirs);
            }
            names.extend(
                self.inventory
                    .paths()
                    .filter(|path| path.starts_with(dir))
                    .cloned(),
            );
            seen.files.extend(below.files);
            seen.refused.extend(below.refused);
            seen.cut = seen.cut.or(below.cut);
        }
        if !dirs.is_empty() {
            self.rest(now);
        }
        names.retain(|path| !seen.files.contains_key(path));
        let looked: BTreeSet<PathBuf> = names.clone();
        self.look_at(root, names, &mut seen, cx);
        let within =
            |path: &Path| looked.contains(path) || dirs.iter().any(|dir| path.starts_with(dir));
        self.conclude(seen, within, cx)
    }

    /// Adds what lies at each of these paths.
    fn look_at(
        &mut self,
        root: &OwnedFd,
        paths: impl IntoIterator<Item = PathBuf>,
        seen: &mut Seen,
        cx: &mut Context<'_>,
    ) {
        let mut scanner = Scanner {
            policy: cx.policy,
            claims: cx.claims,
            limits: cx.limits,
            heads: &mut self.heads,
            headers_left: cx.limits.headers_max,
        };
        let mut open: Option<(PathBuf, OwnedFd)> = None;
        for path in paths {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
                continue;
            };
            if open.as_ref().is_none_or(|(dir, _)| dir != parent) {
                open = match kubelet::open_dir(root, parent) {
                    Ok(fd) => Some((parent.to_owned(), fd)),
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => None,
                    // Not to be entered this time, which says nothing about what is inside.
                    Err(_) => continue,
                };
            }
            let sight = match &open {
                Some((_, dir)) if scanner.policy.wants(&path) => scanner.examine(dir, name, &path),
                _ => Sight::Absent,
            };
            let (sighting, reason) = match sight {
                Sight::File(sighting) => (sighting, None),
                Sight::Absent | Sight::Directory | Sight::NothingYet => (Sighting::Nothing, None),
                Sight::Foreign => {
                    if self.foreign.len() < FOREIGN_MAX {
                        self.foreign.insert(path.clone());
                    }
                    (Sighting::Nothing, None)
                }
                Sight::Refused(reason) => (Sighting::Nothing, Some(reason)),
                Sight::Unreadable(reason) => {
                    if scanner.is_expected(&path) {
                        seen.refused.insert(path, reason);
                    }
                    continue;
                }
                Sight::Skipped => continue,
            };
            if let Some(reason) = reason.filter(|_| scanner.is_expected(&path)) {
                seen.refused.insert(path.clone(), reason);
            }
            seen.files.insert(path, sighting);
        }
    }

    /// Walks and watches.
    fn walk(&mut self, root: &OwnedFd, from: &Path, cx: &mut Context<'_>) -> Seen {
        let (pod, name) = (&self.pod, &self.name);
        let unwatched = &mut self.unwatched;
        let mut watched = cx.watches.count_dirs(pod, name);
        let (watches, limited) = (&mut *cx.watches, &mut *cx.limited);
        let max = cx.limits.volume_watches_max;
        let mut enter = |path: &Path, dir: BorrowedFd<'_>| {
            let place = Place::Dir(pod.clone(), name.clone(), path.to_owned());
            let new = !watches.has(&place);
            if new && watched >= max {
                *unwatched = true;
                return;
            }
            match watches.set(place, dir) {
                Ok(()) => watched += usize::from(new),
                Err(NotWatched::Limit(reason)) => {
                    *unwatched = true;
                    limited.get_or_insert(reason);
                }
                Err(NotWatched::Failed) => *unwatched = true,
            }
        };
        let mut scanner = Scanner {
            policy: cx.policy,
            claims: cx.claims,
            limits: cx.limits,
            heads: &mut self.heads,
            headers_left: cx.limits.headers_max,
        };
        scanner.walk(root, from, &mut enter)
    }

    /// Says what changed, and what is refused where `within` holds.
    fn conclude(
        &mut self,
        mut seen: Seen,
        within: impl Fn(&Path) -> bool,
        cx: &mut Context<'_>,
    ) -> Result<(), Closed> {
        self.bound(&mut seen, cx.limits.databases_max);
        if let Some(reason) = seen.cut.take() {
            seen.refused.insert(PathBuf::new(), reason);
        }
        let changes = self
            .inventory
            .see(&seen.files, |inode| cx.claims.is_claimed(inode));
        for change in changes {
            let (pod, volume) = (self.pod.clone(), self.name.clone());
            cx.outbox.send(match change {
                Change::Appeared(path, known) => Event::DatabaseAppeared {
                    pod,
                    volume,
                    path,
                    kind: known.kind,
                    inode: known.inode,
                },
                Change::Changed(path, known) => Event::DatabaseChanged {
                    pod,
                    volume,
                    path,
                    kind: known.kind,
                    inode: known.inode,
                },
                Change::Gone(path) => Event::DatabaseGone { pod, volume, path },
            })?;
        }
        self.note_second_names(&mut seen, &within);
        self.refuse(seen.refused, within, cx)
    }

    /// A database under capture that has another name from now on, or has it no more, is to be looked
    /// at by whoever captures it.
    fn note_second_names(&mut self, seen: &mut Seen, within: impl Fn(&Path) -> bool) {
        let found = self.inventory.second_names(&seen.files);
        for (second, first) in &found {
            if seen.refused.len() < REFUSALS_MAX {
                seen.refused.insert(
                    second.clone(),
                    format!(
                        "it is a second name (hard link) of {}, which is followed; an app that opens \
                         a database by two names damages it",
                        first.display()
                    ),
                );
            }
        }
        let before = std::mem::take(&mut self.second_names);
        let (gone, mut stay): (BTreeMap<_, _>, BTreeMap<_, _>) = before
            .into_iter()
            .partition(|(second, _)| within(second) && !found.contains_key(second));
        for first in gone.into_values() {
            self.touches.add(first);
        }
        for (second, first) in found {
            if stay.len() < REFUSALS_MAX && stay.insert(second, first.clone()).is_none() {
                self.touches.add(first);
            }
        }
        self.second_names = stay;
    }

    /// Holds the number of databases down: those known already go before new ones.
    fn bound(&self, seen: &mut Seen, databases_max: usize) {
        let mut room = databases_max.saturating_sub(self.inventory.len());
        let mut over = 0_usize;
        seen.files.retain(|path, sighting| {
            if *sighting == Sighting::Nothing || self.inventory.get(path).is_some() {
                return true;
            }
            let fits = room > 0;
            room = room.saturating_sub(1);
            over += usize::from(!fits);
            fits
        });
        if over > 0 {
            seen.cut = Some(format!(
                "{over} databases more than the {databases_max} that are followed in one volume"
            ));
        }
    }

    /// Says new refusals, and forgets those that no longer hold.
    fn refuse(
        &mut self,
        refused: BTreeMap<PathBuf, String>,
        within: impl Fn(&Path) -> bool,
        cx: &Context<'_>,
    ) -> Result<(), Closed> {
        self.refused
            .retain(|path, _| refused.contains_key(path) || !within(path));
        for (path, reason) in refused {
            let said = self.refused.insert(path.clone(), reason.clone());
            if said.as_ref() != Some(&reason) {
                let (pod, volume) = (self.pod.clone(), self.name.clone());
                cx.outbox.send(Event::Refused {
                    pod,
                    volume,
                    path,
                    reason,
                })?;
            }
        }
        Ok(())
    }

    /// Ends everything about this volume: it is no longer wanted, or its pod is gone.
    pub(crate) fn leave(&mut self, cx: &mut Context<'_>) -> Result<(), Closed> {
        cx.watches
            .drop_dirs(&self.pod, &self.name, Path::new(""), &BTreeSet::new());
        let paths: Vec<PathBuf> = self.inventory.paths().cloned().collect();
        self.inventory.clear();
        for path in paths {
            let (pod, volume) = (self.pod.clone(), self.name.clone());
            cx.outbox.send(Event::DatabaseGone { pod, volume, path })?;
        }
        Ok(())
    }

    /// Trades single looks for a scan a little later.
    fn put_off(&mut self, now: Instant) {
        self.due.names.clear();
        self.due.dirs.clear();
        let at = self
            .rest_until
            .map_or(now, |rest| rest.max(now))
            .max(now + PUT_OFF);
        self.due.scan = Some(self.due.scan.map_or(at, |due| due.min(at)));
    }
}

/// What a hint about a file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Write {
    /// Its bytes changed.
    Bytes,
    /// Another file may stand at the name.
    Name,
}

/// A token bucket of single looks.
#[derive(Debug)]
struct Allowance {
    left: u32,
    counted: Instant,
}

impl Allowance {
    fn take(&mut self, looks: usize, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.counted).as_millis()
            * u128::from(LOOKS_PER_SECOND)
            / 1_000;
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(earned).min(LOOKS_BURST);
            self.counted = now;
        }
        let looks = u32::try_from(looks).unwrap_or(u32::MAX);
        let enough = looks <= self.left;
        self.left = self.left.saturating_sub(looks);
        enough
    }
}

#[cfg(test)]
mod tests;
