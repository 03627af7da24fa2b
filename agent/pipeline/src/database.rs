//! One actor per database: the state machine of the flow, and the owner of its stages.
//!
//! ```text
//! Found → Snapshotting → Following → Draining → Gone
//!             Stalled{reason} and Fenced{owner} from the middle ones
//! ```
//!
//! The actor owns no file and does no I/O: it starts a capture thread, sends work to the lanes,
//! and takes one decision at a time. At most one piece of lane work is in flight per database.

mod ending;
mod tending;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use sqlrep_capture::LiveFile;
use sqlrep_format::Txid;
use sqlrep_replica::owner::WriterId;
use sqlrep_replica::{DbId, Manifest, OwnerState, Ownership};
use sqlrep_spool::DatabaseSpool;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::decide::Decision;
use crate::error::{Class, CommandError, StageError};
use crate::fleet::Context;
use crate::home::Home;
use crate::lane::{LaneError, capturing, named, stage};
use crate::progress::{Phase, Progress};
use crate::remote::Remote;
use crate::stage::capture::{Capture, Job, wall_now};
use crate::stage::settle::{Settle, Settled};
use crate::stage::ship::{Batch, End, Target};
use crate::status::State;
use crate::{JournalPolicy, Key, Volume, limits};
use tending::{Event, Tending};

pub(crate) use tending::SnapshotReply;

/// What the fleet asks of an actor.
#[derive(Debug)]
pub(crate) enum Ask {
    /// Capture now and answer when everything is on the replica.
    Ship(oneshot::Sender<Result<Txid, CommandError>>),
    /// Write a snapshot to the replica.
    Snapshot(SnapshotReply),
    /// Somebody found something wrong with the replica: read it back now.
    Doubt,
    /// A person says that this database is the one to keep.
    Adopt(oneshot::Sender<Result<(), CommandError>>),
    /// The pod is gone: drain and end. Answers when every descriptor of the volume is closed.
    Release(oneshot::Sender<()>),
    /// The agent ends: read and cut what is there, let go, leave the rest in the spool.
    Shutdown(oneshot::Sender<()>),
}

/// The fleet's end of an actor.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    pub(crate) id: DbId,
    /// The directory of its volume.
    pub(crate) volume: PathBuf,
    /// Where its replica lives.
    pub(crate) home: Home,
    pub(crate) asks: mpsc::Sender<Ask>,
    pub(crate) capture: Option<Capture>,
}

/// Where the files go.
#[derive(Debug)]
enum Place {
    /// Not known yet.
    Undecided,
    /// Known, and this is it.
    Settled(Target),
}

/// What a piece of lane work came to.
enum Outcome {
    Decided(Result<Decision, StageError>),
    Settled(Result<Settled, StageError>),
    Shipped(Batch),
}

type Work = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// What the manifest says, as far as this actor knows.
#[derive(Debug, Default)]
struct Saying {
    /// What the last successful write said.
    said: Option<(OwnerState, Option<Ownership>)>,
    /// What the write in flight says.
    sending: Option<(OwnerState, Option<Ownership>)>,
}

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// The pod lives.
    No,
    /// The tail is in the spool and must reach the replica, then the replica is released.
    Released,
    /// The agent ends: ship what can be shipped until it is cut off.
    Shutdown,
}

/// Where a database comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It lives in a pod.
    Live,
    /// Its pod is gone, and left a tail in the spool.
    Orphan,
}

/// The actor.
pub(crate) struct Database {
    context: Arc<Context>,
    key: Key,
    id: DbId,
    volume: Volume,
    writer: WriterId,
    spool: DatabaseSpool,
    home: Home,
    main: Remote,
    progress: Arc<Progress>,
    capture: Option<Capture>,
    place: Place,
    branch: Option<(String, String)>,
    manifest: Saying,
    insisted: bool,
    asks: mpsc::Receiver<Ask>,
    waiting: Vec<(Txid, oneshot::Sender<Result<Txid, CommandError>>)>,
    work: Option<Work>,
    /// When the work in flight was begun, or that which failed.
    work_begun: Option<Instant>,
    retry_at: Option<Instant>,
    failures: u32,
    failing_since: Option<Instant>,
    ending: Ending,
    /// When the rest is left to the next agent.
    give_up_at: Option<Instant>,
    tending: Tending,
}

impl Database {
    /// An actor for a live database, or for the tail that a gone pod left.
    pub(crate) fn start(
        context: &Arc<Context>,
        volume: Volume,
        (id, spool): (DbId, DatabaseSpool),
        home: Home,
        origin: Origin,
    ) -> Handle {
        let live = origin == Origin::Live;
        let (sender, asks) = mpsc::channel(limits::CAPTURE_QUEUE);
        let key = Key::new(&volume, id.path());
        let dir = volume.dir.clone();
        let mut actor = Self {
            writer: context.writer(&volume.pod),
            main: home.remote(&id),
            tending: Tending::new(context, &id, volume.settings),
            progress: Arc::default(),
            capture: None,
            place: Place::Undecided,
            branch: None,
            manifest: Saying::default(),
            insisted: false,
            asks,
            waiting: Vec::new(),
            work: None,
            work_begun: None,
            retry_at: None,
            failures: 0,
            failing_since: None,
            ending: if live { Ending::No } else { Ending::Released },
            give_up_at: None,
            context: Arc::clone(context),
            key,
            id: id.clone(),
            volume,
            spool,
            home: home.clone(),
        };
        // What is known here is captured at once, whatever the NAS does (L4, G6), and so is what was
        // known to have no replica when its app was let go. Only where a lost ledger is to be made
        // whole first, or nobody looked, does capture wait for the replica.
        let known = match actor.spool.position() {
            Some(position) => position.checksum.is_some(),
            None => context.had_no_replica(&actor.key.pod_uid, &actor.id),
        };
        if live && known {
            // The caller holds the table of handles: the new one goes in with this capture.
            actor.capture = actor.spawn_capture();
        }
        let capture = actor.capture.clone();
        let span = named(&actor.id, &actor.volume.pod.name);
        context.tracker.spawn(actor.run().instrument(span));
        Handle {
            id,
            volume: dir,
            home,
            asks: sender,
            capture,
        }
    }

    async fn run(mut self) {
        loop {
            self.begin_work();
            if self.is_finished() {
                break;
            }
            self.begin_chore();
            let chore_at = self.chore_at();
            tokio::select! {
                ask = self.asks.recv() => match ask {
                    Some(ask) => self.answer(ask).await,
                    None => break,
                },
                () = self.progress.changed() => self.observe(),
                outcome = next(&mut self.work) => {
                    self.work = None;
                    self.conclude(outcome).await;
                }
                () = until(self.retry_at) => self.retry_at = None,
                () = until(self.give_up_at) => return self.give_up(),
                event = self.tending.next() => match event {
                    Event::Done(chore, tended) => self.tended(chore, tended),
                    Event::Checked(txid, check) => self.looked_at(txid, &check),
                },
                () = until(chore_at) => {}
            }
        }
        self.finish();
    }

    // ---- work ----

    /// Sends the next piece of work to a lane, if one is due and none is in flight.
    fn begin_work(&mut self) {
        if self.work.is_some() || self.retry_at.is_some() {
            return;
        }
        self.work = match &self.place {
            // What is being written belongs to the chain that may have to go.
            Place::Undecided if self.tending.is_busy() => None,
            Place::Undecided => Some(self.decide()),
            Place::Settled(target) if self.must_ship() => {
                let target = target.clone();
                Some(self.ship(target))
            }
            Place::Settled(_) => None,
        };
        self.work_begun = self.work.as_ref().map(|_| Instant::now());
    }

    fn must_ship(&self) -> bool {
        self.spool.first_pending().is_some()
            || (self.manifest_is_due() && self.spool.position().is_some())
    }

    /// Only the owner of a replica writes its manifest.
    fn manifest_is_due(&self) -> bool {
        self.branch.is_none() && self.manifest.said != Some(self.wanted_saying())
    }

    fn wanted_saying(&self) -> (OwnerState, Option<Ownership>) {
        let state = match self.ending {
            Ending::Released if self.spool.first_pending().is_none() => OwnerState::Released,
            _ => OwnerState::Active,
        };
        let said = self.manifest.said.as_ref().and_then(|(_, file)| *file);
        (state, self.progress.with(|facts| facts.ownership).or(said))
    }

    fn settle(&self) -> Settle {
        Settle {
            store: self.main.clone(),
            spool: self.spool.clone(),
            home: self.home.clone(),
            writer: self.writer,
            pod: self.volume.pod.clone(),
            cluster_uid: self.context.config.cluster_uid.clone(),
            manifest: self.manifest(OwnerState::Active, None),
            insisted: self.insisted,
        }
    }

    fn decide(&self) -> Work {
        let (lane, settle) = (self.home.bulk().clone(), self.settle());
        Box::pin(async move {
            let decided = lane
                .run(limits::LIST_TIMEOUT, move || settle.decide())
                .instrument(stage("decide"))
                .await;
            Outcome::Decided(
                decided
                    .map_err(StageError::from)
                    .and_then(|decided| decided),
            )
        })
    }

    fn carry_out(&self, decision: Decision) -> Work {
        let (lane, settle) = (self.home.bulk().clone(), self.settle());
        Box::pin(async move {
            let job = move || settle.carry_out(decision, wall_now());
            let settled = lane.run(limits::RESTORE_TIMEOUT, job);
            let settled = settled.instrument(stage("settle")).await;
            Outcome::Settled(
                settled
                    .map_err(StageError::from)
                    .and_then(|settled| settled),
            )
        })
    }

    fn open_branch(&self, owner: String) -> Work {
        let (lane, settle) = (self.home.bulk().clone(), self.settle());
        Box::pin(async move {
            let job = move || settle.branch(owner, wall_now());
            let settled = lane.run(limits::LIST_TIMEOUT, job);
            let settled = settled.instrument(stage("branch")).await;
            Outcome::Settled(
                settled
                    .map_err(StageError::from)
                    .and_then(|settled| settled),
            )
        })
    }

    fn ship(&mut self, target: Target) -> Work {
        let lane = self.home.ship().clone();
        let saying = self.manifest_is_due().then(|| self.wanted_saying());
        let manifest = saying.map(|(state, file)| self.manifest(state, file));
        self.manifest.sending = saying;
        Box::pin(async move {
            let shipped = lane.run(limits::SHIP_TIMEOUT, move || target.ship(manifest));
            let shipped = shipped.instrument(stage("ship"));
            Outcome::Shipped(shipped.await.unwrap_or_else(|error: LaneError| Batch {
                end: End::Failed(error.into()),
                ..Batch::default()
            }))
        })
    }

    fn manifest(&self, state: OwnerState, file: Option<Ownership>) -> Manifest {
        Manifest {
            file,
            page_size: self.spool.position().map(|position| position.page_size),
            ..self.context.manifest(&self.id, &self.volume.pod, state)
        }
    }

    // ---- outcomes ----

    async fn conclude(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Decided(Ok(decision)) => {
                if decision.changes_spool() {
                    self.stop_capture().await;
                }
                self.work = Some(self.carry_out(decision));
            }
            Outcome::Settled(Ok(settled)) => self.settled(settled),
            Outcome::Shipped(batch) => {
                if let Some(reason) = self.shipped(batch) {
                    self.capture_anew(&reason).await;
                }
            }
            Outcome::Decided(Err(error)) | Outcome::Settled(Err(error)) => self.failed(&error),
        }
    }

    fn settled(&mut self, settled: Settled) {
        self.recovered();
        let store = match settled {
            Settled::Main => {
                self.branch = None;
                self.insisted = false;
                self.main.clone()
            }
            Settled::Branch { store, name, owner } => {
                tracing::error!(
                    db = %self.id, pod = %self.volume.pod.name, %owner, branch = %name,
                    "the replica is somebody else's: this database's commits go to a branch"
                );
                self.branch = Some((name, owner));
                store
            }
        };
        self.place = Place::Settled(Target {
            store,
            writer: self.writer,
            spool: self.spool.clone(),
            home: self.home.clone(),
        });
        if self.capture.is_none() && self.ending == Ending::No {
            self.start_capture();
        }
        self.tend_anew();
        self.observe();
    }

    /// Takes in what was shipped. Says why something must be captured anew, if it must.
    fn shipped(&mut self, batch: Batch) -> Option<String> {
        if let Some(txid) = batch.shipped {
            self.note_shipped(txid, &batch);
        }
        match batch.end {
            End::Done => {
                self.recovered();
                if let Some(saying) = self.manifest.sending.take() {
                    self.manifest.said = Some(saying);
                    self.note_moved();
                }
                self.observe();
            }
            End::Fenced { by } => {
                let owner = format!("writer {by:016x}");
                self.place = Place::Undecided;
                self.work = Some(self.open_branch(owner));
            }
            End::OtherChain { .. } => {
                self.manifest.said = None;
                self.place = Place::Undecided;
            }
            End::Rejected { txid, reason } => {
                return Some(format!(
                    "the spooled file of TXID {txid} went bad: {reason}"
                ));
            }
            End::Failed(error) => self.failed(&error),
        }
        None
    }

    /// Files of the spool are lost that were not shipped: the live database has what was in them.
    async fn capture_anew(&mut self, reason: &str) {
        tracing::error!(db = %self.id, reason, "what was not shipped is captured anew");
        if self.ending == Ending::No {
            self.stop_capture().await;
            self.start_capture();
        } else {
            self.context.note_unread_end(&self.id, reason);
        }
        self.observe();
    }

    fn note_shipped(&mut self, txid: Txid, batch: &Batch) {
        self.note_published(&batch.published);
        let since = self.progress.with(|facts| facts.shipped(txid));
        let lag = since.map(|since| since.elapsed());
        self.context.board.update(&self.key, |row| {
            row.shipped = Some(txid);
            row.shipped_at = Some(SystemTime::now());
            row.last_lag = lag.or(row.last_lag);
            row.counters.shipped_files += batch.files;
            row.counters.shipped_bytes += batch.bytes;
        });
        let (done, waiting) = self.waiting.drain(..).partition(|(want, _)| *want <= txid);
        self.waiting = waiting;
        let done: Vec<_> = done;
        for (want, reply) in done {
            let refused = self.branch.is_some().then(|| self.not_the_owner(want));
            drop(reply.send(refused.map_or(Ok(want), Err))); // a caller that gave up wants none
        }
    }

    fn not_the_owner(&self, txid: Txid) -> CommandError {
        let (name, owner) = self
            .branch
            .as_ref()
            .map_or(("", ""), |(name, owner)| (name, owner));
        CommandError::Refused(format!(
            "{} is not the owner of its replica, {owner} is: everything up to TXID {txid} is on \
             branch {name} (restore --branch {name}); to keep this database instead: sqlrepctl \
             adopt {}",
            self.id, self.id
        ))
    }

    fn failed(&mut self, error: &StageError) {
        let now = Instant::now();
        // One that had no answer within its deadline failed from its beginning on.
        let begun = self.work_begun.take().unwrap_or(now);
        let since = *self.failing_since.get_or_insert(begun);
        self.failures = self.failures.saturating_add(1);
        let pause = limits::RETRY_MIN * 2_u32.saturating_pow(self.failures.min(10) - 1);
        self.retry_at = Some(now + pause.min(limits::RETRY_MAX));
        let (class, text) = (error.class(), error.text());
        if self.failures == 1 {
            tracing::warn!(db = %self.id, err = %text, class = class.as_str(), "ship");
        }
        let undecided = matches!(self.place, Place::Undecided);
        self.context.board.update(&self.key, |row| {
            row.counters.errors += 1;
            row.last_error = Some(text.clone());
            if undecided || now.duration_since(since) >= limits::STALLED_AFTER {
                row.state = State::Stalled;
                row.reason = Some(text);
                row.hint = Some(error.hint().to_owned());
            }
        });
    }

    fn recovered(&mut self) {
        if self.failures > 0 {
            tracing::info!(db = %self.id, attempts = self.failures, "works again");
        }
        self.failures = 0;
        self.failing_since = None;
    }

    // ---- asks ----

    async fn answer(&mut self, ask: Ask) {
        match ask {
            Ask::Ship(reply) => self.ship_now(reply).await,
            Ask::Snapshot(reply) => self.snapshot_now(reply),
            Ask::Doubt => self.doubt(),
            Ask::Adopt(reply) => self.adopt(reply).await,
            Ask::Release(done) => self.drain(Ending::Released, done).await,
            Ask::Shutdown(done) => self.drain(Ending::Shutdown, done).await,
        }
    }

    async fn ship_now(&mut self, reply: oneshot::Sender<Result<Txid, CommandError>>) {
        let cut = match &self.capture {
            Some(capture) => capture.cut().await,
            None => Ok(self.spool.position().map(|position| position.txid)),
        };
        let answer = match cut {
            Ok(Some(txid)) if self.spool.first_pending().is_none() && self.branch.is_some() => {
                Err(self.not_the_owner(txid))
            }
            Ok(Some(txid)) if self.spool.first_pending().is_none() => Ok(txid),
            Ok(Some(txid)) => return self.waiting.push((txid, reply)),
            Ok(None) => Err(CommandError::Unavailable(format!(
                "{} has not been captured yet: {}",
                self.id,
                self.reason()
            ))),
            Err(error) => Err(error.into()),
        };
        drop(reply.send(answer)); // a caller that gave up wants no answer
    }

    async fn adopt(&mut self, reply: oneshot::Sender<Result<(), CommandError>>) {
        if self.branch.is_none() && matches!(self.place, Place::Settled(_)) {
            drop(reply.send(Err(CommandError::Refused(format!(
                "{} is the owner of its replica already: nothing to adopt",
                self.id
            )))));
            return;
        }
        tracing::info!(db = %self.id, "told to take the replica over");
        // Whatever was captured so far stays on the branch; the spool follows the replica now.
        self.stop_capture().await;
        let cleared = self
            .spool
            .restart()
            .map_err(|error| StageError::from(error).into());
        if cleared.is_err() {
            self.start_capture();
        } else {
            self.insisted = true;
            self.manifest.said = None;
            self.place = Place::Undecided;
            self.work = None;
            self.retry_at = None;
        }
        drop(reply.send(cleared)); // a caller that gave up wants no answer
    }

    async fn drain(&mut self, ending: Ending, done: oneshot::Sender<()>) {
        if self.ending != Ending::No {
            self.give_up_when(ending);
            return;
        }
        self.ending = ending;
        self.context
            .board
            .update(&self.key, |row| row.state = State::Draining);
        let tail = match self.capture.take() {
            Some(capture) => capture.drain().await,
            None => Err(StageError::Ended {
                reason: "it was not followed yet".to_owned(),
            }),
        };
        self.tail_read(tail);
        self.give_up_when(ending);
        // Whoever asked may be gone.
        let _gone = done.send(());
        self.observe();
    }

    fn tail_read(&self, tail: Result<Option<Txid>, StageError>) {
        match tail {
            Ok(txid) => {
                tracing::debug!(db = %self.id, ?txid, "tail captured");
                if self.ending == Ending::Released
                    && let Err(error) = self.spool.note_end()
                {
                    tracing::warn!(db = %self.id, err = %error, "not noted as read to the end");
                }
            }
            // The next agent reads on where this one stopped; what is not supported was never read.
            Err(error)
                if self.ending == Ending::Shutdown || error.class() == Class::Unsupported =>
            {
                tracing::warn!(db = %self.id, err = %error.text(), "the tail was not captured");
            }
            Err(error) => self.context.note_unread_end(&self.id, &error.text()),
        }
    }

    /// An agent that ends leaves what is not shipped in a moment to the next one, and what the share
    /// refuses at once. A volume of the pod keeps the pod from going for as long as it is held.
    fn give_up_when(&mut self, ending: Ending) {
        if let (Ending::Released, Some(watch)) = (ending, self.home.target()) {
            let until = Instant::now() + self.context.config.drain_timeout;
            let until = *self.give_up_at.get_or_insert(until);
            if watch.is_let_go() {
                self.give_up_at = Some(until.min(Instant::now()));
            }
        }
        if ending == Ending::Shutdown {
            let now = Instant::now();
            let refused = self.failures > 0;
            self.give_up_at = Some(if refused {
                now
            } else {
                now + limits::SHUTDOWN_TAIL
            });
        }
    }

    // ---- capture thread ----

    fn start_capture(&mut self) {
        self.capture = self.spawn_capture();
        if let Some(capture) = &self.capture {
            self.context.attach(&self.key, capture.clone());
        }
    }

    fn spawn_capture(&mut self) -> Option<Capture> {
        self.progress.with(|facts| facts.phase = Phase::Opening);
        match self.capture_job().and_then(Capture::start) {
            Ok(capture) => Some(capture),
            Err(error) => {
                self.failed(&error);
                None
            }
        }
    }

    fn capture_job(&self) -> Result<Job, StageError> {
        Ok(Job {
            name: format!("cap-{}", short(&self.id)),
            span: capturing(&self.id, &self.volume.pod.name),
            live: LiveFile::new(&self.volume.dir, self.id.path())?,
            spool: self.spool.clone(),
            options: self.context.capture_options(self.writer.get()),
            sync_interval: self.volume.settings.sync_interval,
            convert: self.volume.journal == JournalPolicy::Wal,
            progress: Arc::clone(&self.progress),
        })
    }

    async fn stop_capture(&mut self) {
        if let Some(capture) = self.capture.take() {
            capture.stop().await;
        }
        self.context.detach(&self.key);
    }

    // ---- status ----

    /// Copies what the capture thread and the spool say onto the board.
    fn observe(&mut self) {
        self.note_full();
        let facts = self.progress.with(|facts| facts.clone());
        let pending_bytes = self.spool.pending_bytes();
        self.wait_for_less();
        let (state, reason, hint) = self.state(&facts);
        let failing = self.failures > 0;
        self.context.board.update(&self.key, |row| {
            row.txid = facts.txid.or(row.txid);
            row.size_bytes = facts.size_bytes;
            row.wal_bytes = facts.wal_bytes;
            row.names = facts.names;
            row.pending_bytes = pending_bytes;
            row.behind_since = facts.behind_since();
            row.branch = self.branch.as_ref().map(|(name, _)| name.clone());
            row.counters.frames = facts.frames;
            row.counters.captured_files = facts.files;
            row.counters.captured_bytes = facts.bytes;
            row.counters.checkpoints = facts.checkpoints;
            if let Some((_, text)) = &facts.error {
                row.last_error = Some(text.clone());
            } else if !failing {
                row.last_error = None;
            }
            let stays_stalled = failing && row.state == State::Stalled;
            if !stays_stalled {
                (row.state, row.reason, row.hint) = (state, reason, hint);
            }
        });
    }

    /// What waits in the spool may have been folded: then the newest TXID holds what a larger one
    /// held before.
    fn wait_for_less(&mut self) {
        let newest = self.spool.position().map(|position| position.txid);
        for (want, _) in &mut self.waiting {
            *want = newest.map_or(*want, |newest| newest.min(*want));
        }
    }

    fn state(&self, facts: &crate::progress::Facts) -> (State, Option<String>, Option<String>) {
        if self.ending != Ending::No {
            return (State::Draining, None, None);
        }
        if let (Phase::Failed | Phase::Ended, Some((class, text))) = (facts.phase, &facts.error) {
            let unsupported = *class == Class::Unsupported;
            let state = if unsupported {
                State::Unsupported
            } else {
                State::Stalled
            };
            return (state, Some(text.clone()), Some(class.hint().to_owned()));
        }
        if facts.removed {
            let reason = "the file was removed from the volume; its replica stays as it is";
            return (State::Gone, Some(reason.to_owned()), None);
        }
        if let Some((name, owner)) = &self.branch {
            let reason = format!("the replica belongs to {owner}; commits go to branch {name}");
            let hint = format!("to keep this database instead: sqlrepctl adopt {}", self.id);
            return (State::Fenced, Some(reason), Some(hint));
        }
        let state = match (&self.place, facts.phase) {
            (Place::Undecided, _) => State::Found,
            (_, Phase::Opening | Phase::Snapshotting) => State::Snapshotting,
            (_, Phase::Following | Phase::Failed | Phase::Ended) => State::Following,
        };
        if facts.names > 1 {
            let reason = format!("the file has {} names (hard links)", facts.names);
            let hint = "followed by the one that it had first; remove the others: an app that opens a \
                        database by two names damages it, and after a restart the agent refuses it";
            return (state, Some(reason), Some(hint.to_owned()));
        }
        (state, None, None)
    }

    fn reason(&self) -> String {
        let row = self.context.board.get(&self.key);
        row.and_then(|row| row.reason.or(row.last_error))
            .unwrap_or_else(|| "it was only just found".to_owned())
    }
}

/// Waits for the work in flight, or for ever when there is none.
async fn next(work: &mut Option<Work>) -> Outcome {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Eight characters that tell a database's thread from others in `top`.
fn short(id: &DbId) -> String {
    let hash = id
        .to_string()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    format!("{:08x}", hash >> 32)
}
