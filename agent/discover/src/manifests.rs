//! Pods from a directory of v1/Pod manifests: how the agent runs beside docker compose or on a
//! plain VM. What is half-written or broken is said, and what was known before stays.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use serde::Deserialize;

use crate::discover::Limits;
use crate::event::Event;
use crate::identity::PodUid;
use crate::pods::manifest::Manifest;
use crate::pods::{self, PodRef, Reading};
use crate::policy::BadValue;

/// How long a file may be away before its pods are: many editors move the old one aside first.
const AWAY: Duration = Duration::from_millis(50);
/// How long an empty file is taken for one that is about to be written.
const FRESH: Duration = Duration::from_secs(2);
/// A mounted ConfigMap changes all its files at once, by an exchange of this link.
const CONFIG_MAP_DATA: &str = "..data";
/// Pods in one file, and on one node: several times what a kubelet runs (L12).
const PODS_MAX: usize = 2_000;

/// The directory and what is known from each of its files.
#[derive(Debug)]
pub(crate) struct Manifests {
    dir: PathBuf,
    node_name: String,
    files_max: usize,
    file_bytes_max: u64,
    files: BTreeMap<OsString, Known>,
    /// Files to be read, and from when on.
    due: BTreeMap<OsString, Instant>,
    /// Whether everything may have changed at once.
    all_due: bool,
    /// What was said about the directory as a whole.
    said: BTreeSet<String>,
    /// What was said about the files taken together.
    said_together: BTreeSet<(PathBuf, String)>,
}

/// What is known from one file.
#[derive(Debug, Default)]
struct Known {
    /// As of the last read; `None` when it must be read again in any case.
    signature: Option<Signature>,
    pods: Vec<PodRef>,
    bad_labels: Vec<(PodUid, BadValue)>,
    said: BTreeSet<String>,
}

/// What changes whenever a file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Signature {
    ino: u64,
    bytes: u64,
    changed: (i64, i64),
}

/// All pods that are wanted here.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// By UID.
    pub(crate) pods: BTreeMap<PodUid, PodRef>,
    /// Pods that meant to opt in but did not.
    pub(crate) bad_labels: BTreeMap<PodUid, BadValue>,
    /// Pods that cannot be used, and why; what was known of them stays.
    pub(crate) unusable: BTreeMap<PodUid, String>,
    /// Pods of which not enough is known yet; what was known of them stays.
    pub(crate) undecided: BTreeSet<PodUid>,
}

impl Manifests {
    /// A directory that must be there now; later it may come and go.
    pub(crate) fn new(dir: &Path, node_name: &str, limits: &Limits) -> io::Result<Self> {
        fs::read_dir(dir)?;
        Ok(Self {
            dir: std::path::absolute(dir)?,
            node_name: node_name.to_owned(),
            files_max: limits.manifests_max,
            file_bytes_max: limits.manifest_bytes_max,
            files: BTreeMap::new(),
            due: BTreeMap::new(),
            all_due: false,
            said: BTreeSet::new(),
            said_together: BTreeSet::new(),
        })
    }

    /// The directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A file came or was written.
    pub(crate) fn came(&mut self, name: &OsStr, now: Instant) {
        if is_manifest(name) {
            self.due.insert(name.to_owned(), now);
        } else if name == CONFIG_MAP_DATA {
            self.all_due = true;
        }
    }

    /// A file went, perhaps to come back at once.
    pub(crate) fn went(&mut self, name: &OsStr, now: Instant) {
        if is_manifest(name) {
            self.due.insert(name.to_owned(), now + AWAY);
        }
    }

    /// When the next file is to be read.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.due.values().min().copied()
    }

    /// Looks through the whole directory and marks what changed. A directory that cannot be
    /// read says nothing about its files.
    pub(crate) fn look_through(&mut self, now: Instant, events: &mut Vec<Event>) {
        let names = match self.names() {
            Ok(names) => names,
            Err(error) => {
                let reason = format!("cannot be read: {error}; the pods known from it stay");
                return self.say(reason, events);
            }
        };
        if names.len() > self.files_max {
            let reason = format!(
                "holds {} manifests, {} are read",
                names.len(),
                self.files_max
            );
            self.say(reason, events);
        } else {
            self.said.clear();
        }
        for name in names.iter().take(self.files_max) {
            let signature = fs::metadata(self.dir.join(name))
                .ok()
                .map(|meta| signature(&meta));
            let known = self.files.get(name).and_then(|known| known.signature);
            if signature.is_none() || known != signature {
                self.due.entry(name.clone()).or_insert(now);
            }
        }
        for name in self.files.keys().filter(|name| !names.contains(*name)) {
            self.due.entry(name.clone()).or_insert(now + AWAY);
        }
    }

    /// Reads what is due; says whether anything may have changed.
    pub(crate) fn refresh(&mut self, now: Instant, events: &mut Vec<Event>) -> bool {
        let names: Vec<OsString> = self
            .due
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(name, _)| name.clone())
            .collect();
        for name in &names {
            self.due.remove(name);
            if self.files.len() < self.files_max || self.files.contains_key(name) {
                self.read_file(name, events);
            }
        }
        !names.is_empty()
    }

    /// Whether the whole directory is to be looked through now; asked once.
    pub(crate) fn take_all_due(&mut self) -> bool {
        std::mem::take(&mut self.all_due)
    }

    /// The pods of all files together. A UID belongs to the first file that names it.
    pub(crate) fn wanted(&mut self, events: &mut Vec<Event>) -> Wanted {
        let mut wanted = Wanted::default();
        let mut owners: BTreeMap<&PodUid, &OsStr> = BTreeMap::new();
        let mut faults = BTreeSet::new();
        for (name, known) in &self.files {
            for pod in &known.pods {
                if let Some(first) = owners.get(&pod.uid) {
                    let first = first.display();
                    let reason =
                        format!("pod UID {} is in {first} already; that one holds", pod.uid);
                    faults.insert((self.dir.join(name), reason));
                } else if wanted.pods.len() == PODS_MAX {
                    let reason = format!("more than {PODS_MAX} pods; the rest is left out");
                    faults.insert((self.dir.clone(), reason));
                } else {
                    owners.insert(&pod.uid, name);
                    wanted.pods.insert(pod.uid.clone(), pod.clone());
                }
            }
            wanted.bad_labels.extend(known.bad_labels.iter().cloned());
        }
        for (path, reason) in faults.difference(&self.said_together).cloned() {
            events.push(Event::BadManifest { path, reason });
        }
        self.said_together = faults;
        wanted
    }

    fn names(&self) -> io::Result<BTreeSet<OsString>> {
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            // One more than is read tells that there are too many.
            if is_manifest(&name) && names.len() <= self.files_max {
                names.insert(name);
            }
        }
        Ok(names)
    }

    /// Reads one file into what is known of it.
    fn read_file(&mut self, name: &OsStr, events: &mut Vec<Event>) {
        let path = self.dir.join(name);
        match open(&path, self.file_bytes_max) {
            Ok((signature, bytes)) => {
                let known = self.files.entry(name.to_owned()).or_default();
                known.take(signature, &bytes, &path, &self.node_name, events);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.files.remove(name);
            }
            Err(error) => {
                let known = self.files.entry(name.to_owned()).or_default();
                known.signature = None;
                known.say(&path, format!("{error}{}", known.what_stays()), events);
            }
        }
    }

    fn say(&mut self, reason: String, events: &mut Vec<Event>) {
        if self.said.insert(reason.clone()) {
            events.push(Event::BadManifest {
                path: self.dir.clone(),
                reason,
            });
        }
    }
}

impl Known {
    /// Takes the bytes of the file in, or leaves what is known as it is.
    fn take(
        &mut self,
        (signature, age): (Signature, Duration),
        bytes: &[u8],
        path: &Path,
        node_name: &str,
        events: &mut Vec<Event>,
    ) {
        // A file that has just changed may change again within one tick of its timestamps.
        self.signature = (age > FRESH).then_some(signature);
        let manifests = match parse(bytes, path) {
            Ok(manifests) if manifests.is_empty() => {
                if age > FRESH {
                    self.say(
                        path,
                        format!("holds no manifest{}", self.what_stays()),
                        events,
                    );
                }
                return;
            }
            Ok(manifests) => manifests,
            Err(error) => {
                return self.say(path, format!("{error}{}", self.what_stays()), events);
            }
        };
        self.pods.clear();
        self.bad_labels.clear();
        let mut said = BTreeSet::new();
        for manifest in &manifests {
            match pods::read(manifest, node_name) {
                Reading::Wanted(pod) => self.pods.push(*pod),
                Reading::NotOurs(fault) => self.bad_labels.extend(fault),
                Reading::Unusable(reason) => {
                    said.insert(reason);
                }
            }
        }
        for reason in said.difference(&self.said) {
            events.push(Event::BadManifest {
                path: path.to_owned(),
                reason: reason.clone(),
            });
        }
        self.said = said;
    }

    /// Said once, until the file is right again.
    fn say(&mut self, path: &Path, reason: String, events: &mut Vec<Event>) {
        if !self.said.contains(&reason) {
            // Only the latest is kept: a file that is being written has a new error each time.
            self.said = BTreeSet::from([reason.clone()]);
            events.push(Event::BadManifest {
                path: path.to_owned(),
                reason,
            });
        }
    }

    fn what_stays(&self) -> &'static str {
        if self.pods.is_empty() {
            ""
        } else {
            "; what it said before still holds"
        }
    }
}

/// Every manifest of a file: several documents, or a `List` as kubectl prints it.
fn parse(bytes: &[u8], path: &Path) -> Result<Vec<Manifest>, String> {
    let mut manifests = Vec::new();
    if path.extension() == Some(OsStr::new("json")) {
        for document in serde_json::Deserializer::from_slice(bytes).into_iter::<Manifest>() {
            manifests.push(document.map_err(|error| format!("is no valid JSON: {error}"))?);
        }
    } else {
        for document in serde_norway::Deserializer::from_slice(bytes) {
            let document = Option::<Manifest>::deserialize(document);
            manifests.extend(document.map_err(|error| format!("is no valid YAML: {error}"))?);
        }
    }
    let manifests: Vec<Manifest> = manifests
        .into_iter()
        .flat_map(Manifest::into_items)
        .collect();
    if manifests.len() > PODS_MAX {
        return Err(format!(
            "holds {} manifests, at most {PODS_MAX}",
            manifests.len()
        ));
    }
    Ok(manifests)
}

/// Opens and reads a file of bounded size. Symbolic links are followed: the directory is the
/// operator's, and a mounted ConfigMap is full of them.
fn open(path: &Path, bytes_max: u64) -> io::Result<((Signature, Duration), Vec<u8>)> {
    // A FIFO without a writer must not hold us up.
    let nonblock = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = File::options()
        .read(true)
        .custom_flags(nonblock)
        .open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("is no regular file"));
    }
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::other(format!(
            "is larger than {bytes_max} bytes"
        )));
    }
    let age = meta
        .modified()
        .ok()
        .and_then(|at| at.elapsed().ok())
        .unwrap_or_default();
    Ok(((signature(&meta), age), bytes))
}

fn signature(meta: &Metadata) -> Signature {
    let changed = (meta.ctime(), meta.ctime_nsec());
    Signature {
        ino: meta.ino(),
        bytes: meta.len(),
        changed,
    }
}

/// Hidden files are editors' and ConfigMaps' own affairs.
fn is_manifest(name: &OsStr) -> bool {
    let extension = Path::new(name).extension();
    !name.as_bytes().starts_with(b".")
        && ["yaml", "yml", "json"]
            .iter()
            .any(|known| extension == Some(OsStr::new(known)))
}

#[cfg(test)]
mod tests;
