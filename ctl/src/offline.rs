//! Replicas in a directory, with no agent and no cluster alive (L11).

mod search;
mod store;

use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use sqlrep_format::{Timestamp, Txid};
use sqlrep_replica::owner::BranchStore;
use sqlrep_replica::plan::plan;
use sqlrep_replica::restore::stage;
use sqlrep_replica::{
    Destination, DirStore, Note, OwnerState, PlanError, Point, Progress, ReplicaFile, RestoreError,
    RestoreOptions, Store, StoreError, VerifyError, manifest, verify as read_back,
};

pub(crate) use self::search::{Found, find, one};
use self::store::open;
use crate::client::{QuickCheck, Verified};
use crate::database::{Replica, Wanted, short};
use crate::failure::{Exit, Failure, Result};
use crate::history::{Branch, File, History};
use crate::landing::{Existing, Landing, not_given};
use crate::output::Bar;
use crate::reference::Named as _;

/// More threads than this only fight for the disk or the share.
const THREADS_MAX: usize = 8;

/// Agents have it, and parse what pods made in a process without rights; a client has neither.
const NO_SQLITE: &str = "without an agent nobody asks SQLite: restore it to a file and run sqlite3 \
     FILE 'PRAGMA quick_check'";

/// What a restore from a directory did.
#[derive(Debug)]
pub(crate) struct Restored {
    /// The state.
    pub(crate) txid: Txid,
    /// When it was captured.
    pub(crate) time: Timestamp,
    /// Size of the file.
    pub(crate) bytes: u64,
    /// Its page size.
    pub(crate) page_size: u32,
    /// What somebody should know.
    pub(crate) warnings: Vec<String>,
}

/// A replica in a line.
pub(crate) fn summary(found: &Found) -> Replica {
    let mut replica = Replica {
        name: found.name(),
        owner_pod: String::new(),
        owner_node: String::new(),
        released: false,
        txid: None,
        time: None,
        files: 0,
        bytes: 0,
        problem: String::new(),
    };
    match DirStore::new(&found.dir).list() {
        Ok(listing) => {
            let newest = listing.files().iter().max_by_key(|file| file.range.max());
            replica.txid = newest.map(|file| file.range.max());
            replica.time = newest.map(|file| file.modified);
            replica.files = listing.files().len() as u64;
            replica.bytes = listing.files().iter().fold(0, |sum, file| sum + file.bytes);
            if let Err(error) = plan(&listing, Point::Latest) {
                replica.problem = error.to_string();
            }
        }
        Err(error) => replica.problem = store_failure(error).to_string(),
    }
    match manifest::load(&found.dir) {
        Ok(Some(manifest)) => {
            replica.released = manifest.owner.state == OwnerState::Released;
            replica.owner_pod = manifest.owner.pod;
            replica.owner_node = manifest.owner.node;
        }
        Err(error) if replica.problem.is_empty() => {
            replica.problem = Failure::failed("its manifest cannot be read")
                .caused_by(error)
                .to_string();
        }
        // Litestream wrote it, or there is a worse problem.
        Ok(None) | Err(_) => {}
    }
    replica
}

/// What a replica holds.
pub(crate) fn history(found: &Found) -> Result<History> {
    let mut history = History::default();
    let main = DirStore::new(&found.dir).list().map_err(store_failure)?;
    history
        .files
        .extend(main.files().iter().map(|file| described("", file)));
    for branch in store::branches(found)? {
        let store = BranchStore::open(&found.dir, &branch.name).map_err(store_failure)?;
        let chain = store.list().map_err(store_failure)?;
        // Below the branch stands the main chain, which is listed already.
        let own = chain
            .files()
            .iter()
            .filter(|file| file.range.max() >= branch.from);
        history
            .files
            .extend(own.map(|file| described(&branch.name, file)));
        let (from, head) = (Some(branch.from), Some(branch.head));
        history.branches.push(Branch {
            name: branch.name,
            from,
            head,
        });
    }
    Ok(history)
}

fn described(branch: &str, file: &ReplicaFile) -> File {
    File {
        branch: branch.to_owned(),
        level: file.level.get(),
        range: file.range,
        time: file.modified,
        bytes: file.bytes,
    }
}

/// Reads a replica back.
pub(crate) fn verify(
    found: &Found,
    wanted: Wanted,
    branch: Option<&str>,
    bar: &Bar,
) -> Result<Verified> {
    let store = open(found, branch)?;
    let meter = Meter::new(bar);
    let verified = read_back::verify(store.as_ref(), point(wanted), &meter);
    let verified = verified.map_err(|error| match error {
        VerifyError::Plan(error) => plan_failure(error),
        VerifyError::Store(cause) | VerifyError::File { cause, .. } => store_failure(cause),
        error => Failure::failed("cannot verify").caused_by(error),
    })?;
    Ok(Verified {
        txid: verified.txid,
        files: verified.files as u64,
        pages: u64::from(verified.pages),
        bytes: verified.bytes,
        checksum: verified.checksum.get(),
        check: QuickCheck::NotChecked(vec![NO_SQLITE.to_owned()]),
    })
}

/// Restores a state to a file.
pub(crate) fn restore(
    found: &Found,
    wanted: Wanted,
    branch: Option<&str>,
    landing: &Landing,
    bar: &Bar,
) -> Result<Restored> {
    let store = open(found, branch)?;
    let ownership = manifest::load(&found.dir)
        .ok()
        .flatten()
        .and_then(|manifest| manifest.file);
    let threads = thread::available_parallelism()
        .map_or(1, NonZero::get)
        .min(THREADS_MAX);
    let options = RestoreOptions { threads, ownership };
    let aside = match landing.existing() {
        Existing::Keep => None,
        // Whole and proven under another name first; then it takes the old one's place.
        Existing::Replace => Some(landing.aside()?),
    };
    let path = aside
        .as_ref()
        .map_or_else(|| landing.path(), |name| landing.dir().path().join(name));
    let destination = Destination::open(&path).map_err(restore_failure)?;
    let meter = Meter::new(bar);
    let staged = stage(
        store.as_ref(),
        point(wanted),
        &destination,
        &options,
        &meter,
    )
    .map_err(restore_failure)?;
    let page_size = staged.header().page_size.get();
    let restored = staged.publish().map_err(restore_failure)?;
    if let Some(name) = aside
        && let Err(failure) = landing.replace_by(&name)
    {
        landing.discard(&name);
        return Err(failure);
    }
    let mut warnings: Vec<String> = restored
        .replanned
        .iter()
        .map(|replanned| format!("went around a damaged file: {}", replanned.reason))
        .collect();
    warnings.extend(restored.notes.iter().filter_map(words));
    Ok(Restored {
        txid: restored.txid,
        time: restored.timestamp,
        bytes: restored.bytes,
        page_size,
        warnings,
    })
}

fn words(note: &Note) -> Option<String> {
    match note {
        Note::TimesFromHeaders => Some(
            "the files of the replica have lost their times, as a copy without them does; the \
             times written inside were used"
                .to_owned(),
        ),
        Note::Unreached(txid) => Some(format!(
            "TXID {} is from before that time too, but was compacted into a later state",
            short(*txid)
        )),
        Note::OwnerKept { wanted } => Some(not_given(wanted.uid, wanted.gid)),
        _ => None,
    }
}

fn point(wanted: Wanted) -> Point {
    match wanted {
        Wanted::Latest => Point::Latest,
        Wanted::Txid(txid) => Point::Txid(txid),
        Wanted::Before(time) => Point::Before(time),
    }
}

fn plan_failure(error: PlanError) -> Failure {
    let exit = if error.is_empty() || error.is_out_of_range() {
        Exit::NotFound
    } else {
        Exit::Failed
    };
    let failure = Failure::new(exit, error.to_string());
    if error.is_out_of_range() {
        failure.hint("`sqlrepctl history` shows what can be restored")
    } else {
        failure
    }
}

fn store_failure(error: StoreError) -> Failure {
    let lost = error.is_transient();
    let failure = Failure::failed("the replica cannot be used").caused_by(error);
    if lost {
        failure.hint("is the share still there?")
    } else {
        failure
    }
}

fn restore_failure(error: RestoreError) -> Failure {
    match error {
        RestoreError::Plan(error) => plan_failure(error),
        RestoreError::Store(error) => store_failure(error),
        error if error.is_refused() => Failure::refused(error.to_string())
            .hint("name another file, or overwrite it with --force"),
        error => Failure::failed("cannot restore").caused_by(error),
    }
}

/// Turns what the reader tells into a bar.
#[derive(Debug)]
struct Meter<'a> {
    bar: &'a Bar,
    done: AtomicU64,
    total: AtomicU64,
}

impl<'a> Meter<'a> {
    fn new(bar: &'a Bar) -> Self {
        Self {
            bar,
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
        }
    }
}

impl Progress for Meter<'_> {
    fn planned(&self, _: usize, bytes: u64) {
        self.total.store(bytes, Ordering::Relaxed);
        self.done.store(0, Ordering::Relaxed);
        self.bar.at(0, bytes);
    }

    fn read(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.bar.at(done, self.total.load(Ordering::Relaxed));
    }
}
