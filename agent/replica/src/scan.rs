//! Reads the files of a plan once, on several threads, and hands each page of the final state to a
//! sink exactly once: the engine under restore and verify.
//!
//! A few threads open files ahead. One dispatcher walks them from the newest to the oldest and reads
//! their page indexes. It marks each page that it meets for the first time: the newest file that holds
//! a page owns it. A file's pages above the size of a later state are nobody's; if the database grew
//! again, newer files hold them. Workers read and decode ranges of pages, owned or not, so that every
//! byte of every file is proven. Memory is a bit for each page, a few megabytes for each thread, and
//! what is opened ahead.

mod ahead;
mod owned;
mod work;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::{io, thread};

use sqlrep_format::Crc64;
use sqlrep_format::ltx::Header;
use sqlrep_format::{PageSize, Pgno};

use crate::input::{INDEX_BUFFER_BYTES, IndexReader, Input, Proof};
use crate::{Plan, Progress, ReplicaFile, Store, StoreError};
use ahead::Ahead;
use owned::Owned;
use work::{Entry, Item, Part, Worker};

/// How much of a file one work item covers: large enough for a disk, small enough for memory.
const ITEM_BYTES: u64 = 1024 * 1024;
/// How many pages one work item has at most: bounds what well-compressed pages decode to.
const ITEM_PAGES: usize = 1024;
/// Batches that wait for each thread.
const QUEUE: usize = 2;
/// More threads than this only fight for the disk (L12).
const THREADS_MAX: usize = 16;

/// Takes the pages of the final state.
pub(crate) trait Sink: Sync {
    /// Called once, before any page: the header of the plan's last file.
    fn begin(&self, head: &Header) -> io::Result<()>;
    /// One or more pages that follow one another; each page comes once, in no order.
    fn pages(&self, first: Pgno, page_size: PageSize, bytes: &[u8]) -> io::Result<()>;
}

/// What was read.
#[derive(Debug)]
pub(crate) struct Scanned {
    /// The header of the newest file.
    pub(crate) head: Header,
    /// How many pages the sink got.
    pub(crate) pages: u32,
    /// The bytes of all files.
    pub(crate) bytes: u64,
}

/// Why a scan ended early.
#[derive(Debug)]
pub(crate) enum ScanError {
    /// One file is to blame.
    File {
        file: ReplicaFile,
        cause: StoreError,
    },
    /// The sink failed.
    Sink(io::Error),
    /// Nobody wants the result any more.
    Cancelled,
    /// The plan has no files.
    Nothing,
}

/// What one thread takes at once.
type Batch<'s> = Vec<Item<'s>>;

/// What all threads share.
pub(crate) struct Shared<'a> {
    sink: &'a dyn Sink,
    progress: &'a dyn Progress,
    /// Set with the first error: what is queued is dropped.
    stop: AtomicBool,
    error: Mutex<Option<ScanError>>,
    parts: Mutex<Vec<Part>>,
}

impl Shared<'_> {
    fn fail(&self, error: ScanError) {
        let mut first = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(error);
        self.stop.store(true, Ordering::Release);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

/// One file after its index was read.
struct Indexed {
    file: ReplicaFile,
    commit: u32,
    /// Kept until the checksums of its parts are there; the file itself is closed by then.
    proof: Proof,
    tail_crc: u64,
    tail_bytes: u64,
}

/// Reads all files of a plan. Nothing the sink got is proven before this returns.
pub(crate) fn scan(
    store: &dyn Store,
    plan: &Plan,
    threads: usize,
    sink: &dyn Sink,
    progress: &dyn Progress,
) -> Result<Scanned, ScanError> {
    let shared = Shared {
        sink,
        progress,
        stop: AtomicBool::new(false),
        error: Mutex::default(),
        parts: Mutex::default(),
    };
    let threads = threads.clamp(1, THREADS_MAX);
    let dispatched = thread::scope(|scope| {
        let (send, receive) = mpsc::sync_channel(threads * QUEUE);
        // Only the workers hold the receiver: should all of them panic, sending fails.
        let receive = Arc::new(Mutex::new(receive));
        for _ in 0..threads {
            let (receive, shared) = (Arc::clone(&receive), &shared);
            scope.spawn(move || drain(&receive, shared));
        }
        drop(receive);
        Dispatcher {
            opened: Ahead::spawn(scope, store, &plan.steps),
            plan,
            shared: &shared,
            batch: Batch::default(),
            send,
        }
        .run()
    });
    let Shared { error, parts, .. } = shared;
    if let Some(error) = error.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let Dispatched { head, files, owned } = dispatched?;
    let parts = parts.into_inner().unwrap_or_else(PoisonError::into_inner);
    prove(&files, parts)?;
    let pages = head.commit.data_pages(head.page_size);
    if owned.count() != pages {
        return Err(missing(&head, &files, &owned));
    }
    let bytes = files
        .iter()
        .map(|file| file.file.bytes)
        .fold(0, u64::saturating_add);
    Ok(Scanned { head, pages, bytes })
}

/// A worker: takes items until there are no more.
fn drain(receive: &Mutex<Receiver<Batch<'_>>>, shared: &Shared<'_>) {
    let mut worker = Worker::default();
    loop {
        let batch = receive
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .recv();
        let Ok(batch) = batch else { return };
        for item in batch {
            // After an error the queue is emptied, so that the dispatcher never waits for ever.
            if !shared.stopped() {
                worker.work(&item, shared);
            }
        }
    }
}

struct Dispatcher<'a> {
    opened: Ahead<'a>,
    plan: &'a Plan,
    shared: &'a Shared<'a>,
    /// What is to be sent next.
    batch: Batch<'a>,
    send: SyncSender<Batch<'a>>,
}

struct Dispatched {
    head: Header,
    /// As in the plan, oldest first.
    files: Vec<Indexed>,
    owned: Owned,
}

impl<'a> Dispatcher<'a> {
    fn run(mut self) -> Result<Dispatched, ScanError> {
        let mut files = Vec::with_capacity(self.plan.steps.len());
        let mut steps = self.plan.steps.iter().enumerate().rev();
        let mut state: Option<(Header, Owned)> = None;
        // The size of the smallest state from here on: pages above it do not live to the end.
        let mut live = u32::MAX;
        while let Some(group) = self.opened.next() {
            for (opened, (place, file)) in group.into_iter().zip(&mut steps) {
                self.go_on()?;
                let failed = |cause| ScanError::File {
                    file: file.clone(),
                    cause,
                };
                let input = Arc::new(opened.map_err(failed)?);
                live = live.min(input.header.commit.get());
                let (head, owned) = match &mut state {
                    Some(state) => state,
                    None => state.insert(self.begin(&input)?),
                };
                same_page_size(head, &input).map_err(failed)?;
                files.push(self.index(place, &input, live, owned)?);
            }
            self.send()?;
        }
        if steps.next().is_some() {
            return Err(ScanError::Cancelled); // a panic among those who open is reported in its place
        }
        files.reverse();
        let (head, owned) = state.ok_or(ScanError::Nothing)?;
        Ok(Dispatched { head, files, owned })
    }

    /// The newest file says how large the result is; the files together, how large it can be.
    fn begin(&self, newest: &Input<'_>) -> Result<(Header, Owned), ScanError> {
        let head = newest.header;
        let owned = Owned::new(head.commit, self.plan.bytes()).ok_or_else(|| ScanError::File {
            file: newest.file.clone(),
            cause: newest.corrupt(format_args!(
                "it says that the database has {} pages, more than all files can hold",
                head.commit
            )),
        })?;
        self.shared.sink.begin(&head).map_err(ScanError::Sink)?;
        Ok((head, owned))
    }

    /// Cuts one file into work items.
    fn index(
        &mut self,
        place: usize,
        input: &Arc<Input<'a>>,
        live: u32,
        owned: &mut Owned,
    ) -> Result<Indexed, ScanError> {
        let failed = |cause| ScanError::File {
            file: input.file.clone(),
            cause,
        };
        let mut index = IndexReader::new(Arc::clone(input), INDEX_BUFFER_BYTES).map_err(failed)?;
        let mut seq = 0;
        let mut item = Item::new(place, seq, Arc::clone(input));
        while let Some(entry) = index.next_entry().map_err(failed)? {
            let wanted = entry.pgno.get() <= live && owned.claim(entry.pgno);
            item.push(
                Entry {
                    pgno: entry.pgno,
                    bytes: entry.bytes,
                    wanted,
                },
                entry.offset,
            );
            if item.bytes >= ITEM_BYTES || item.entries.len() >= ITEM_PAGES {
                seq += 1;
                let full = std::mem::replace(&mut item, Item::new(place, seq, Arc::clone(input)));
                self.batch.push(full);
                self.send()?;
                self.go_on()?;
            }
        }
        if !item.entries.is_empty() {
            self.batch.push(item);
        }
        let (tail_crc, tail_bytes) = index.crc();
        let (file, commit) = (input.file.clone(), input.header.commit.get());
        Ok(Indexed {
            file,
            commit,
            proof: input.proof(),
            tail_crc,
            tail_bytes,
        })
    }

    fn send(&mut self) -> Result<(), ScanError> {
        let batch = std::mem::take(&mut self.batch);
        // A panic among those who take it is reported in place of this.
        let sent = self.send.send(batch);
        sent.map_err(|_| ScanError::Cancelled)
    }

    /// Whether anybody still wants the rest.
    fn go_on(&self) -> Result<(), ScanError> {
        if self.shared.progress.cancelled() {
            self.shared.fail(ScanError::Cancelled);
        }
        // What stopped the others is reported in place of this.
        if self.shared.stopped() {
            return Err(ScanError::Cancelled);
        }
        Ok(())
    }
}

fn same_page_size(head: &Header, input: &Input<'_>) -> Result<(), StoreError> {
    let (newer, here) = (head.page_size, input.header.page_size);
    if newer == here {
        return Ok(());
    }
    let reason = format!("its pages have {here} bytes, those of the files after it {newer}");
    Err(input.corrupt(reason))
}

/// Puts the checksums of the parts together and compares them with what the files say.
fn prove(files: &[Indexed], mut parts: Vec<Part>) -> Result<(), ScanError> {
    parts.sort_unstable_by_key(|part| (part.place, part.seq));
    let mut parts = parts.into_iter().peekable();
    for (place, file) in files.iter().enumerate() {
        let mut crc = file.proof.header_crc;
        while let Some(part) = parts.next_if(|part| part.place == place) {
            crc = Crc64::combine(crc, part.crc, part.bytes);
        }
        let crc = Crc64::combine(crc, file.tail_crc, file.tail_bytes);
        file.proof.check(crc).map_err(|cause| ScanError::File {
            file: file.file.clone(),
            cause,
        })?;
    }
    Ok(())
}

/// Names the first page that no file holds, and the file that should: the last one that grew the
/// database past it.
fn missing(head: &Header, files: &[Indexed], owned: &Owned) -> ScanError {
    let lost = head
        .commit
        .pages(head.page_size)
        .find(|pgno| !owned.holds(*pgno));
    let pgno = lost.map_or(0, Pgno::get);
    let grown = files.windows(2).rposition(|pair| match pair {
        [one, two] => one.commit < pgno && pgno <= two.commit,
        _ => false,
    });
    let Some(file) = files.get(grown.map_or(0, |place| place + 1)) else {
        return ScanError::Nothing;
    };
    let reason = format!(
        "it grew the database to {} pages, but page {pgno} is neither in it nor in a later file",
        file.commit
    );
    ScanError::File {
        file: file.file.clone(),
        cause: file.proof.corrupt(reason),
    }
}

#[cfg(test)]
mod tests;
