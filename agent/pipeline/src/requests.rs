//! What people ask of a replica: its history, a proof that it restores, the database itself.
//!
//! All of it reads the replica only, on the bulk lane, and works for databases that no pod has
//! any more.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sqlrep_format::{Crc64, PageSize, Timestamp, Txid};
use sqlrep_replica::owner::{self, Branch, BranchStore};
use sqlrep_replica::{
    DbId, Destination, Listing, Manifest, OwnerState, Ownership, Point, RestoreError,
    RestoreOptions, Store, VerifyError, restore, verify,
};
use tokio::sync::{mpsc, watch};

use crate::database::Ask;
use crate::error::{CommandError, StageError, chain};
use crate::fleet::{Context, Fleet};
use crate::home::Home;
use crate::inspect::{self, Bench, Proof, Scratch, Subject};
use crate::limits;
use crate::remote::Remote;
use crate::stage::capture::wall_now;
use crate::stage::scrub::is_damage;

/// One LTX file of a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSummary {
    /// The branch it is on; `None` is the replica itself.
    pub branch: Option<String>,
    /// Its level, 0 to 9.
    pub level: u8,
    /// The lowest TXID in it.
    pub min: Txid,
    /// The highest TXID in it.
    pub max: Txid,
    /// When its newest state was captured.
    pub time: Timestamp,
    /// Its size.
    pub bytes: u64,
}

/// A branch of a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchSummary {
    /// Its name, as `--branch` takes it.
    pub name: String,
    /// The first TXID that is its own.
    pub from: Option<Txid>,
    /// Its newest TXID.
    pub head: Option<Txid>,
}

/// Everything that a replica holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// The branches.
    pub branches: Vec<BranchSummary>,
    /// The files, the replica's own first, then branch by branch.
    pub files: Vec<FileSummary>,
}

/// One replica on the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaSummary {
    /// Its identity.
    pub id: DbId,
    /// Its newest TXID.
    pub head: Option<Txid>,
    /// When that was captured.
    pub time: Option<Timestamp>,
    /// How many files it has, branches not counted.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// The last owner's pod, node, and whether it let go.
    pub owner: Option<(String, String, bool)>,
}

/// How far a long read is: bytes done and bytes in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadProgress {
    /// Bytes read so far.
    pub done: u64,
    /// Bytes to read; 0 while unknown.
    pub total: u64,
}

/// What a stream of a restored database begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreInfo {
    /// Size of the database file.
    pub bytes: u64,
    /// The TXID it holds.
    pub txid: Txid,
    /// When that was captured.
    pub timestamp: Timestamp,
    /// Its page size.
    pub page_size: PageSize,
    /// Owner and mode of the live file.
    pub ownership: Option<Ownership>,
    /// What was worked around.
    pub warnings: Vec<String>,
}

/// One piece of a restored database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestorePart {
    /// The next bytes.
    Chunk(Vec<u8>),
    /// The end, with the number of bytes and their CRC-64/GO-ISO.
    End {
        /// Bytes sent.
        bytes: u64,
        /// Checksum of those bytes.
        crc64: u64,
    },
}

/// A restored database as it is read.
#[derive(Debug)]
pub struct RestoreStream {
    /// What it is.
    pub info: RestoreInfo,
    /// Its bytes; ends with [`RestorePart::End`], or early with an error.
    pub parts: mpsc::Receiver<Result<RestorePart, CommandError>>,
}

impl Fleet {
    /// What the replica of a database holds.
    pub async fn history(&self, id: &DbId) -> Result<History, CommandError> {
        self.read(id, |store| {
            let mut history = History::default();
            add_files(&mut history.files, None, &store.list()?);
            for branch in store.acting(|| owner::list_branches(store.place()))? {
                let all =
                    store.acting(|| BranchStore::open(store.place(), &branch.name)?.list())?;
                let own = all
                    .files()
                    .iter()
                    .filter(|file| file.range.max() >= branch.from);
                let own = all.of(own.cloned());
                add_files(&mut history.files, Some(&branch.name), &own);
                history.branches.push(BranchSummary {
                    name: branch.name,
                    from: Some(branch.from),
                    head: Some(branch.head),
                });
            }
            Ok(history)
        })
        .await
    }

    /// Reads back every file that a restore of this point would use, proves all checksums, and has
    /// SQLite look at the database that comes of it.
    pub async fn verify(
        &self,
        id: &DbId,
        point: Point,
        branch: Option<String>,
        progress: watch::Sender<ReadProgress>,
    ) -> Result<Proof, CommandError> {
        let (database, newest) = (id, point == Point::Latest && branch.is_none());
        let bench = self.context.benches.wait().await;
        let subject = bench.ok_or_else(|| "the agent ends".to_owned());
        let (home, id) = (self.context.home_by(id), id.clone());
        let reading = Reading {
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
            sender: progress,
        };
        let place = home.clone();
        let verified = self.bulk(&home, move |_| {
            let (store, main) = open(&place, &id, branch.as_deref())?;
            let subject = subject.and_then(Bench::subject);
            let copy = subject.as_ref().ok().map(Subject::copy);
            let verified = verify::verify_copying(store.as_ref(), point, &reading, copy);
            if let Err(error) = &verified
                && newest
                && is_damage(error)
            {
                // For its owner, whoever that is by then: who asked has been told, and may end us.
                main.note_doubt(&chain(error), wall_now());
            }
            let verified = verified.map_err(|error| match error {
                VerifyError::Plan(error) => CommandError::NotFound(chain(&error)),
                VerifyError::Store(cause) | VerifyError::File { cause, .. } => {
                    StageError::from(cause).into()
                }
                error => CommandError::Failed(chain(&error)),
            })?;
            let whole = subject.and_then(|subject| subject.whole(&verified));
            Ok((verified, whole))
        });
        let (verified, whole) = match verified.await {
            Ok(verified) => verified,
            Err(error) => {
                if newest {
                    self.doubt(database);
                }
                return Err(error);
            }
        };
        let check = inspect::check(whole).await;
        if newest && let Some((key, _)) = self.live_handle(database) {
            let board = &self.context.board;
            board.update(&key, |row| {
                row.replica.proven(verified.txid);
                row.replica.checked(verified.txid, &check);
            });
        }
        Ok(Proof { verified, check })
    }

    /// What somebody found wrong with a replica is looked at by its owner at once, and mended.
    fn doubt(&self, id: &DbId) {
        if let Some((_, handle)) = self.live_handle(id) {
            // One that has a queue of asks will read its replica back when its time comes.
            drop(handle.asks.try_send(Ask::Doubt));
        }
    }

    /// Restores into a scratch file of the node and streams it.
    pub async fn restore_stream(
        &self,
        id: &DbId,
        point: Point,
        branch: Option<String>,
    ) -> Result<RestoreStream, CommandError> {
        let (scratch, info) = self.restore_scratch(id, point, branch).await?;
        let file = scratch.open().map_err(|source| StageError::Io {
            action: "open the scratch file",
            path: scratch.path().to_owned(),
            source,
        })?;
        let (sender, parts) = mpsc::channel(limits::STREAM_CHUNKS);
        // A slow client must not hold a lane's thread: the file is local by now.
        std::thread::Builder::new()
            .name("restore-stream".to_owned())
            .spawn(move || send_file(file, &sender))
            .map_err(|error| CommandError::Failed(format!("cannot start a thread: {error}")))?;
        Ok(RestoreStream { info, parts })
    }

    /// Restores into a scratch file of the node.
    pub(crate) async fn restore_scratch(
        &self,
        id: &DbId,
        point: Point,
        branch: Option<String>,
    ) -> Result<(Scratch, RestoreInfo), CommandError> {
        let (home, id) = (self.context.home_by(id), id.clone());
        let place = home.clone();
        self.bulk(&home, move |context| {
            let (store, main) = open(&place, &id, branch.as_deref())?;
            let ownership = main.load_manifest().ok().flatten();
            let ownership = ownership.and_then(|manifest| manifest.file);
            restore_to_scratch(context, store.as_ref(), point, ownership)
        })
        .await
    }

    /// The replicas on the root, with or without a pod. Those in volumes of pods are known with them.
    pub async fn replicas(&self) -> Result<Vec<ReplicaSummary>, CommandError> {
        let root = self.context.home.clone();
        self.bulk(&root, |context| {
            context.home.check()?;
            let root = context.root.place("");
            let below = context.home.acting(|| sqlrep_replica::replicas_below(root));
            let below = below.map_err(StageError::from)?;
            let ids = below
                .iter()
                .filter_map(|path| DbId::from_replica_path(path).ok());
            ids.map(|id| summary(&context.home, id)).collect()
        })
        .await
    }

    async fn read<T: Send + 'static>(
        &self,
        id: &DbId,
        job: impl FnOnce(&Remote) -> Result<T, StageError> + Send + 'static,
    ) -> Result<T, CommandError> {
        let (home, id) = (self.context.home_by(id), id.clone());
        let place = home.clone();
        self.bulk(&home, move |_| {
            let (_, store) = open(&place, &id, None)?;
            job(&store).map_err(CommandError::from)
        })
        .await
    }

    async fn bulk<T: Send + 'static>(
        &self,
        home: &Home,
        job: impl FnOnce(&Context) -> Result<T, CommandError> + Send + 'static,
    ) -> Result<T, CommandError> {
        let context = Arc::clone(&self.context);
        let work = move || job(&context);
        let done = home.bulk().run(limits::RESTORE_TIMEOUT, work).await;
        done.map_err(StageError::from)?
    }
}

/// The store of a replica or of one of its branches, and the replica itself; an unknown name lists
/// the ones there are.
fn open(
    home: &Home,
    id: &DbId,
    branch: Option<&str>,
) -> Result<(Box<dyn Store>, Remote), CommandError> {
    let main = home.remote(id);
    home.check()?;
    if branch.is_none() && main.list().map_err(StageError::from)?.is_empty() {
        let elsewhere = match home.target() {
            Some(_) => "",
            None => {
                "; one in a volume of its pod (sqlrep.io/target-volume) can be reached while that pod \
                 is on this node: start it, or use --replica DIR where that volume is mounted"
            }
        };
        return Err(CommandError::NotFound(format!(
            "there is no replica of {id} under {}{elsewhere}",
            main.dir().display()
        )));
    }
    let Some(name) = branch else {
        return Ok((Box::new(main.clone()), main));
    };
    let branches = main
        .acting(|| owner::list_branches(main.place()))
        .map_err(StageError::from)?;
    match branches.iter().find(|branch| branch.name == name) {
        Some(branch) => {
            let opened = main.acting(|| BranchStore::open(main.place(), &branch.name));
            Ok((Box::new(opened.map_err(StageError::from)?), main))
        }
        None => Err(CommandError::NotFound(unknown_branch(id, name, &branches))),
    }
}

fn unknown_branch(id: &DbId, name: &str, branches: &[Branch]) -> String {
    if branches.is_empty() {
        return format!("{id} has no branch {name}: it has no branches");
    }
    let names: Vec<_> = branches.iter().map(|branch| branch.name.as_str()).collect();
    format!("{id} has no branch {name}; there are: {}", names.join(", "))
}

fn summary(home: &Home, id: DbId) -> Result<ReplicaSummary, CommandError> {
    let store = home.remote(&id);
    let listing = store.list().map_err(StageError::from)?;
    let manifest: Option<Manifest> = store.load_manifest()?;
    let newest = listing.files().iter().max_by_key(|file| file.range.max());
    Ok(ReplicaSummary {
        id,
        head: listing.head(),
        time: newest.map(|file| file.modified),
        files: listing.files().len(),
        bytes: listing.files().iter().map(|file| file.bytes).sum(),
        owner: manifest.map(|manifest| {
            let released = manifest.owner.state == OwnerState::Released;
            (manifest.owner.pod, manifest.owner.node, released)
        }),
    })
}

fn add_files(files: &mut Vec<FileSummary>, branch: Option<&str>, listing: &Listing) {
    files.extend(listing.files().iter().map(|file| FileSummary {
        branch: branch.map(str::to_owned),
        level: file.level.get(),
        min: file.range.min(),
        max: file.range.max(),
        time: file.modified,
        bytes: file.bytes,
    }));
}

fn restore_to_scratch(
    context: &Context,
    store: &dyn Store,
    point: Point,
    ownership: Option<Ownership>,
) -> Result<(Scratch, RestoreInfo), CommandError> {
    let scratch = Scratch::new(&context.config.scratch_dir());
    let options = RestoreOptions {
        ownership: None,
        ..RestoreOptions::default()
    };
    let destination = Destination::open(scratch.path()).map_err(StageError::from)?;
    let restored =
        restore::restore(store, point, &destination, &options, &()).map_err(restore_failed)?;
    let info = RestoreInfo {
        bytes: restored.bytes,
        txid: restored.txid,
        timestamp: restored.timestamp,
        page_size: page_size_of(restored.bytes, restored.pages),
        ownership,
        warnings: restored
            .replanned
            .into_iter()
            .map(|replanned| replanned.reason)
            .collect(),
    };
    Ok((scratch, info))
}

fn page_size_of(bytes: u64, pages: u32) -> PageSize {
    let size = bytes / u64::from(pages.max(1));
    u32::try_from(size)
        .ok()
        .and_then(|size| PageSize::new(size).ok())
        .unwrap_or(PageSize::MIN)
}

fn restore_failed(error: RestoreError) -> CommandError {
    match error {
        RestoreError::Plan(error) => CommandError::NotFound(chain(&error)),
        error => StageError::from(error).into(),
    }
}

/// Sends the file in chunks; ends early when the client goes away.
fn send_file(mut file: File, sender: &mpsc::Sender<Result<RestorePart, CommandError>>) {
    let (mut crc, mut bytes) = (Crc64::new(), 0_u64);
    loop {
        let mut chunk = vec![0; limits::STREAM_CHUNK_BYTES];
        let part = match file.read(&mut chunk) {
            Ok(0) => Ok(RestorePart::End {
                bytes,
                crc64: crc.value(),
            }),
            Ok(read) => {
                chunk.truncate(read);
                crc.update(&chunk);
                bytes += read as u64;
                Ok(RestorePart::Chunk(chunk))
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(CommandError::Failed(format!(
                "cannot read back the restore: {error}"
            ))),
        };
        let last = !matches!(part, Ok(RestorePart::Chunk(_)));
        if sender.blocking_send(part).is_err() || last {
            return;
        }
    }
}

/// Passes progress on to whoever watches, and gives up when nobody does.
struct Reading {
    done: AtomicU64,
    total: AtomicU64,
    sender: watch::Sender<ReadProgress>,
}

impl sqlrep_replica::Progress for Reading {
    fn planned(&self, _: usize, bytes: u64) {
        self.total.store(bytes, Ordering::Relaxed);
        self.read(0);
    }

    fn read(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let total = self.total.load(Ordering::Relaxed);
        self.sender.send_replace(ReadProgress { done, total });
    }

    fn cancelled(&self) -> bool {
        self.sender.is_closed()
    }
}
