//! The capture stage: one OS thread per database that owns its session with SQLite.
//!
//! The thread knows the spool and nothing behind it (L4). It sleeps until it is touched, looks,
//! reads and rolls, cuts L0 files at the pace of [`Pace`], and tells its actor through
//! [`Progress`].

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant, SystemTime};

use sqlrep_capture::{Follower, Keeper, LiveFile, Look, Options};
use sqlrep_format::{Timestamp, Txid};
use sqlrep_replica::Ownership;
use sqlrep_spool::{DatabaseSpool, Entry};
use tokio::sync::oneshot;
use tracing::Span;

use crate::clock::{ChainClock, Reading};
use crate::error::{Class, StageError};
use crate::limits;
use crate::pace::Pace;
use crate::progress::{Phase, Progress};

/// For how long transient failures in a row are nobody's business.
const PASSING: Duration = Duration::from_secs(2);

/// How long an unlinked database is still looked at. Its pod is going and its app is dead, or the
/// file went to another name: then whoever follows that name waits until we let go.
const UNLINKED_GRACE: Duration = Duration::from_secs(2);

/// How long the files of a pod may be gone before it is known that the pod is.
const GOING: Duration = Duration::from_secs(5);

/// What a person or the actor asks of the thread.
#[derive(Debug)]
pub(crate) enum Command {
    /// Something may have been written.
    Touch,
    /// Read what is there and cut it now; answers with the newest TXID in the spool.
    Cut(oneshot::Sender<Result<Option<Txid>, StageError>>),
    /// Write every page of the database as the next file.
    Full,
    /// A process of ours keeps the app from committing: read and cut its last commit. Answers with
    /// the TXID of that.
    Seal(Keeper, oneshot::Sender<Result<Txid, StageError>>),
    /// The pod is gone: read the tail from the open descriptors, let go of everything, end.
    Drain(oneshot::Sender<Result<Option<Txid>, StageError>>),
    /// Let go of everything and end; the next thread resumes from the spool.
    Stop,
}

/// Everything a capture thread needs.
#[derive(Debug)]
pub(crate) struct Job {
    /// Name of the thread.
    pub(crate) name: String,
    /// What is logged on the thread says whose it is by this.
    pub(crate) span: Span,
    pub(crate) live: LiveFile,
    pub(crate) spool: DatabaseSpool,
    pub(crate) options: Options,
    pub(crate) sync_interval: Duration,
    pub(crate) convert: bool,
    pub(crate) progress: Arc<Progress>,
}

/// The actor's end of a capture thread.
#[derive(Clone, Debug)]
pub(crate) struct Capture {
    commands: SyncSender<Command>,
    progress: Arc<Progress>,
}

impl Capture {
    /// Starts the thread.
    pub(crate) fn start(job: Job) -> Result<Self, StageError> {
        let (commands, inbox) = sync_channel(limits::CAPTURE_QUEUE);
        let progress = Arc::clone(&job.progress);
        let path = job.live.full_path();
        let span = job.span.clone();
        std::thread::Builder::new()
            .name(job.name.clone())
            .stack_size(limits::CAPTURE_STACK_BYTES)
            .spawn(move || span.in_scope(|| live(&job, &inbox)))
            .map_err(|source| StageError::Io {
                action: "start a thread to capture",
                path,
                source,
            })?;
        Ok(Self { commands, progress })
    }

    /// Says that something may have been written. Never blocks: a full queue wakes the thread
    /// just as well.
    pub(crate) fn touch(&self) {
        match self.commands.try_send(Command::Touch) {
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }

    /// Asks for a file with every page of the database; `false`: not now. Progress names it.
    pub(crate) fn full(&self) -> bool {
        self.commands.try_send(Command::Full).is_ok()
    }

    /// The pod terminates: from now on SQLite, which might create files, is not asked for help.
    pub(crate) fn ending(&self) {
        self.progress.with(|facts| facts.ending = true);
    }

    /// Reads and cuts now.
    pub(crate) async fn cut(&self) -> Result<Option<Txid>, StageError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Command::Cut(reply), answer).await
    }

    /// Reads and cuts the last commit while a process of ours keeps everybody from making another
    /// one.
    pub(crate) async fn seal(&self, keeper: Keeper) -> Result<Txid, StageError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Command::Seal(keeper, reply), answer).await
    }

    /// Reads the tail and ends the thread.
    pub(crate) async fn drain(&self) -> Result<Option<Txid>, StageError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Command::Drain(reply), answer).await
    }

    /// Ends the thread without a last look, and waits until it let go.
    pub(crate) async fn stop(&self) {
        self.send(Command::Stop).await;
        while self.progress.with(|facts| facts.phase) != Phase::Ended {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn ask<T>(
        &self,
        command: Command,
        answer: oneshot::Receiver<Result<T, StageError>>,
    ) -> Result<T, StageError> {
        self.send(command).await;
        answer.await.unwrap_or_else(|_| Err(self.ended()))
    }

    async fn send(&self, mut command: Command) {
        // The queue is full only for as long as the thread is inside one step.
        loop {
            match self.commands.try_send(command) {
                Ok(()) | Err(TrySendError::Disconnected(_)) => return,
                Err(TrySendError::Full(back)) => command = back,
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn ended(&self) -> StageError {
        let reason = self
            .progress
            .with(|facts| facts.error.as_ref().map(|(_, text)| text.clone()));
        StageError::Ended {
            reason: reason.unwrap_or_else(|| "no reason was left".to_owned()),
        }
    }
}

/// The life of the thread: sessions, one after another, until a command ends it.
///
/// A panic is a bug: the session is begun again from disk once, then the database stays failed.
fn live(job: &Job, inbox: &Receiver<Command>) {
    let mut panics = 0;
    let mut thread = Thread {
        job,
        inbox,
        pace: Pace::new(job.sync_interval),
        failing: None,
        gone_at: None,
        unlinked_at: None,
        clock: ChainClock::default(),
    };
    loop {
        match catch_unwind(AssertUnwindSafe(|| thread.run())) {
            Ok(()) => break,
            Err(_) if panics == 0 => {
                panics += 1;
                tracing::error!("the capture thread panicked; it begins again from disk");
            }
            Err(_) => {
                let text = "the capture thread panicked twice".to_owned();
                tracing::error!("{text}; this database is not followed any more");
                job.progress
                    .update(|facts| facts.error = Some((Class::Internal, text)));
                break;
            }
        }
    }
    // Whoever goes on finds nothing that a power failure might take.
    settle_last(&job.spool);
    job.progress.update(|facts| facts.phase = Phase::Ended);
}

/// Why a session ended.
enum After {
    /// A command ended the thread.
    End,
    /// The database is another one now: attach anew.
    Reopen,
}

/// What goes wrong since the last turn that went well.
#[derive(Debug)]
struct Failing {
    since: Instant,
    times: u32,
    /// Whether a person has been told.
    told: bool,
    class: Class,
    text: String,
}

struct Thread<'a> {
    job: &'a Job,
    inbox: &'a Receiver<Command>,
    pace: Pace,
    failing: Option<Failing>,
    /// Since when there is no file to attach to, although its pod seemed to stay.
    gone_at: Option<Instant>,
    /// Since when the path leads nowhere.
    unlinked_at: Option<Instant>,
    clock: ChainClock,
}

impl Thread<'_> {
    /// The time that the next state has.
    fn time(&mut self) -> Timestamp {
        let reading = Reading::take();
        if let Some(position) = self.job.spool.position() {
            self.clock.holds(position.timestamp, reading);
        }
        self.clock.now(reading)
    }

    fn run(&mut self) {
        loop {
            match self.attach() {
                Ok(session) => match self.follow(session) {
                    After::End => return,
                    // It may be a while until something follows.
                    After::Reopen => settle_last(&self.job.spool),
                },
                Err(error) => {
                    let removed = is_missing(&error);
                    if removed {
                        self.job.progress.update(|facts| facts.removed = true);
                        if !self.is_ending() {
                            self.gone_at.get_or_insert_with(Instant::now);
                        }
                    } else {
                        self.report(&error);
                    }
                    if self.wait_detached(removed) {
                        return;
                    }
                }
            }
        }
    }

    fn attach(&mut self) -> Result<Follower, StageError> {
        self.job
            .progress
            .update(|facts| facts.phase = Phase::Opening);
        if self.job.convert && !self.is_ending() {
            sqlrep_capture::convert_to_wal(&self.job.live)?;
        }
        let now = self.time();
        let spool = self.job.spool.clone();
        let mut session = Follower::open(&self.job.live, spool, self.job.options.clone(), now)?;
        self.job
            .progress
            .update(|facts| facts.phase = Phase::Snapshotting);
        let before = self.job.spool.position().map(|position| position.txid);
        let begun = Instant::now();
        let start = match session.start(self.time()) {
            Err(error) if error.ends_chain() => {
                tracing::info!(reason = %error, "the chain ends");
                // Not while files of it wait to be shipped: then this fails, and is tried again.
                self.job.spool.restart()?;
                session.start(self.time())?
            }
            other => other?,
        };
        tracing::debug!(?start, "attached");
        let after = self.job.spool.position().map(|position| position.txid);
        let first_bytes = self.newest_bytes(after);
        self.failing = None;
        self.gone_at = None;
        self.unlinked_at = None;
        let (uid, gid, mode) = session.ownership();
        self.job.progress.update(|facts| {
            facts.phase = Phase::Following;
            facts.error = None;
            facts.removed = false;
            facts.ownership = Some(Ownership { uid, gid, mode });
            facts.txid = after;
            if let Some(txid) = after.filter(|_| after != before) {
                facts.dirty_since = Some(begun);
                facts.record_cut(txid, first_bytes, begun);
            }
        });
        self.measure(&session);
        self.pace = Pace::new(self.job.sync_interval);
        self.pace.touched(Instant::now());
        self.pace.wrote(Instant::now());
        Ok(session)
    }

    /// Follows until the thread is told to end or the database is another one.
    fn follow(&mut self, mut session: Follower) -> After {
        loop {
            match self.next_command() {
                Some(Command::Touch) => self.pace.touched(Instant::now()),
                Some(Command::Cut(reply)) => {
                    let cut = self.read_and_cut(&mut session);
                    drop(reply.send(cut)); // a caller that gave up wants no answer
                }
                Some(Command::Full) => {
                    if let Err(error) = self.full(&mut session) {
                        self.report(&error);
                    }
                }
                Some(Command::Seal(keeper, reply)) => {
                    let sealed = self.seal(&mut session, keeper);
                    drop(reply.send(sealed)); // a caller that gave up wants no answer
                }
                Some(Command::Drain(reply)) => {
                    drop(reply.send(self.drain(session)));
                    return After::End;
                }
                Some(Command::Stop) => return After::End,
                None => {}
            }
            match self.work(&mut session) {
                Ok(true) => self.recovered(),
                Ok(false) => return After::Reopen,
                Err(error) => {
                    self.report(&error);
                    if must_reattach(&error) {
                        drop(session);
                        return if self.wait_detached(false) {
                            After::End
                        } else {
                            After::Reopen
                        };
                    }
                    self.pace.failed(Instant::now());
                }
            }
        }
    }

    /// One turn: look, read, cut, checkpoint, each if it is due. `false`: attach anew.
    fn work(&mut self, session: &mut Follower) -> Result<bool, StageError> {
        if self.pace.look_due(Instant::now()) {
            match self.look(session)? {
                Look::New => {
                    let bytes = self.step(session)?;
                    // Before all that may fail: what was read is cut in its time.
                    self.pace.stepped(Instant::now(), bytes, session.pause());
                    self.checkpoint(session)?;
                }
                Look::Uncommitted => self.pace.uncommitted(Instant::now(), session.pause()),
                Look::Quiet => {
                    self.checkpoint(session)?;
                    self.pace.quiet(Instant::now(), session.pause());
                }
                Look::Unlinked => {
                    // The tail is safe in our descriptors: take it before anything else.
                    self.read_and_cut(session)?;
                    self.job.progress.update(|facts| facts.removed = true);
                    let now = Instant::now();
                    if now - *self.unlinked_at.get_or_insert(now) >= UNLINKED_GRACE {
                        return Ok(false);
                    }
                    self.pace.failed(now);
                }
                Look::Replaced => {
                    self.read_and_cut(session)?;
                    return Ok(false);
                }
                // Files are made anew then, which is not done where a pod is on its way out (L15).
                Look::Closed if self.is_ending() => self.pace.failed(Instant::now()),
                Look::Closed => {
                    self.cut(session)?;
                    return Ok(false);
                }
            }
        }
        if self.pace.cut_due(Instant::now()) {
            self.cut(session)?;
        }
        if self.pace.settle_due(Instant::now()) {
            self.job.spool.settle()?;
            self.pace.settled();
        }
        if self.pace.comes_to_rest() {
            self.note_names(session);
            session.relax();
        }
        Ok(true)
    }

    /// Looks. What was read before is whole whatever a look meets, and must not wait for it.
    fn look(&mut self, session: &mut Follower) -> Result<Look, StageError> {
        let look = session.look();
        if look.is_err() && session.has_pending() {
            self.cut(session)?;
        }
        Ok(look?)
    }

    /// Reads what was committed; says how many bytes of the WAL that were.
    fn step(&mut self, session: &mut Follower) -> Result<u64, StageError> {
        let seen = Instant::now();
        let step = session.step();
        if step.is_err() {
            self.note_read(session); // one pass may have read what the next one failed after
        }
        let step = step?;
        self.job.progress.note(|facts| {
            facts.frames += u64::from(step.frames);
            step.frames > 0 && facts.record_dirty(seen)
        });
        Ok(step.bytes)
    }

    fn cut(&mut self, session: &mut Follower) -> Result<(), StageError> {
        let entry = session.cut(self.time())?;
        self.record(session, entry.as_ref());
        Ok(())
    }

    fn record(&mut self, session: &Follower, entry: Option<&Entry>) {
        let now = Instant::now();
        self.pace.cut(now);
        self.pace.rest_until(now + session.peace());
        self.job.progress.update(|facts| {
            match entry {
                Some(entry) => facts.record_cut(entry.txid, entry.bytes, now),
                // What was noticed came to nothing: a transaction that was undone.
                None => facts.dirty_since = None,
            }
        });
        self.note_read(session);
        self.measure(session);
    }

    fn read_and_cut(&mut self, session: &mut Follower) -> Result<Option<Txid>, StageError> {
        self.step(session)?;
        self.cut(session)?;
        Ok(self.job.spool.position().map(|position| position.txid))
    }

    fn full(&mut self, session: &mut Follower) -> Result<(), StageError> {
        let (begun, before) = (Instant::now(), self.job.spool.position());
        session.snapshot(self.time())?;
        let position = self.job.spool.position();
        let txid = position.map(|position| position.txid);
        if let Some(txid) = txid.filter(|txid| before.is_none_or(|before| *txid > before.txid)) {
            self.job.spool.promise(txid);
            let bytes = self.newest_bytes(Some(txid));
            self.job.progress.update(|facts| {
                facts.dirty_since.get_or_insert(begun);
                facts.record_cut(txid, bytes, begun);
                facts.full = Some(txid);
            });
            self.pace.wrote(Instant::now());
        }
        self.measure(session);
        Ok(())
    }

    /// The size of the file of a TXID that was written last.
    fn newest_bytes(&self, txid: Option<Txid>) -> u64 {
        let newest = self.job.spool.newest();
        newest
            .filter(|entry| Some(entry.txid) == txid)
            .map_or(0, |entry| entry.bytes)
    }

    fn seal(&mut self, session: &mut Follower, keeper: Keeper) -> Result<Txid, StageError> {
        self.step(session)?;
        let entry = session.seal(self.time(), keeper)?;
        self.record(session, entry.as_ref());
        // What the app holds is about to be replaced.
        self.job.spool.settle()?;
        let position = self.job.spool.position();
        let txid = position.map(|position| position.txid).ok_or_else(|| {
            let reason = "it has never been captured";
            StageError::Ended {
                reason: reason.to_owned(),
            }
        })?;
        self.job.spool.promise(txid);
        Ok(txid)
    }

    fn drain(&mut self, session: Follower) -> Result<Option<Txid>, StageError> {
        self.measure(&session);
        let entry = session.drain(self.time())?;
        // What the app held is gone.
        settle_last(&self.job.spool);
        if let Some(entry) = entry {
            let now = Instant::now();
            self.job
                .progress
                .update(|facts| facts.record_cut(entry.txid, entry.bytes, now));
        }
        Ok(self.job.spool.position().map(|position| position.txid))
    }

    fn is_ending(&self) -> bool {
        self.job.progress.with(|facts| facts.ending)
    }

    fn checkpoint(&mut self, session: &mut Follower) -> Result<(), StageError> {
        if self.is_ending() {
            return Ok(());
        }
        let done = session.checkpoint();
        // It reads what was committed since the look, and may fail after that.
        self.note_read(session);
        if done?.is_some() {
            self.job.progress.update(|facts| facts.checkpoints += 1);
            self.measure(session);
        }
        Ok(())
    }

    /// What was read beside a look is to be cut like the rest.
    fn note_read(&mut self, session: &Follower) {
        if session.has_pending() {
            let now = Instant::now();
            self.pace.holds(now);
            self.job.progress.note(|facts| facts.record_dirty(now));
        }
    }

    fn measure(&self, session: &Follower) {
        let (size, wal) = (session.size_bytes(), session.wal_bytes());
        let (uid, gid, mode) = session.ownership();
        self.job.progress.update(|facts| {
            facts.ownership = Some(Ownership { uid, gid, mode });
            facts.size_bytes = size;
            facts.wal_bytes = wal;
        });
        self.note_names(session);
    }

    /// What a hard link leads to stays what it is; but who opens a database by another name has other
    /// files beside it, and so it is said as long as there is one.
    fn note_names(&self, session: &Follower) {
        let names = session.names();
        if self.job.progress.with(|facts| facts.names != names) {
            self.job.progress.update(|facts| facts.names = names);
        }
    }

    /// A turn without an error, after one with.
    fn recovered(&mut self) {
        if self.failing.take().is_some() {
            self.job.progress.update(|facts| {
                facts.phase = Phase::Following;
                facts.error = None;
            });
        }
    }

    fn report(&mut self, error: &StageError) {
        let (class, text) = (error.class(), error.text());
        let now = Instant::now();
        let before = self.failing.take();
        let since = before.as_ref().map_or(now, |before| before.since);
        // An app that opens its database locks it for a moment: not worth a person's attention.
        let passing = class == Class::Transient && now - since < PASSING;
        let told = before.as_ref().is_some_and(|before| before.told);
        let times = before.map_or(0, |before| before.times).saturating_add(1);
        if passing || told {
            tracing::debug!(err = %text, attempt = times, "capture");
        } else {
            tracing::warn!(err = %text, "capture");
        }
        self.failing = Some(Failing {
            since,
            times,
            told: told || !passing,
            class,
            text: text.clone(),
        });
        self.job.progress.update(|facts| {
            facts.errors += 1;
            if !passing {
                facts.phase = Phase::Failed;
                facts.error = Some((class, text));
            }
        });
    }

    /// Waits while not attached: for a while after a failure, and for a touch where the file is
    /// gone. `true` when the thread must end.
    fn wait_detached(&mut self, removed: bool) -> bool {
        let until = Instant::now() + attach_pause(self.failing.as_ref().map_or(1, |now| now.times));
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let command = if removed {
                self.inbox
                    .recv()
                    .map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                self.inbox.recv_timeout(left)
            };
            match command {
                Ok(Command::Touch) if removed => return false,
                Ok(Command::Touch | Command::Full) => {}
                Ok(Command::Cut(reply)) => drop(reply.send(Err(self.not_attached()))),
                Ok(Command::Seal(_, reply)) => drop(reply.send(Err(self.not_attached()))),
                Ok(Command::Drain(reply)) => {
                    drop(reply.send(self.drain_detached()));
                    return true;
                }
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => return true,
                Err(RecvTimeoutError::Timeout) => return false,
            }
        }
    }

    /// The pod goes while we are not attached: one last try, from the start. A file that is gone
    /// was read to its end before, unless something kept us from it.
    fn drain_detached(&mut self) -> Result<Option<Txid>, StageError> {
        match self.attach() {
            Ok(session) => self.drain(session),
            Err(error) if is_missing(&error) => match self.failing.take() {
                Some(failing)
                    if failing.class != Class::Unsupported && self.went_with_its_pod() =>
                {
                    Err(StageError::Ended {
                        reason: format!(
                            "its files went before they could be read: {}",
                            failing.text
                        ),
                    })
                }
                _ => Ok(self.job.spool.position().map(|position| position.txid)),
            },
            Err(error) => Err(error),
        }
    }

    /// Whether the file was not deleted by its app, which would miss nothing of it.
    fn went_with_its_pod(&self) -> bool {
        self.gone_at.is_none_or(|at| at.elapsed() < GOING)
    }

    fn not_attached(&self) -> StageError {
        let reason = self
            .job
            .progress
            .with(|facts| facts.error.clone().map(|(_, text)| text));
        StageError::Ended {
            reason: reason.unwrap_or_else(|| "not attached".to_owned()),
        }
    }

    fn next_command(&self) -> Option<Command> {
        let Some(at) = self.pace.wake_at() else {
            // Disconnected: nobody can tell us anything any more.
            return Some(self.inbox.recv().unwrap_or(Command::Stop));
        };
        match self
            .inbox
            .recv_timeout(at.saturating_duration_since(Instant::now()))
        {
            Ok(command) => Some(command),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Command::Stop),
        }
    }
}

/// How long nobody is attached after so many failures. Until then nothing holds the files of a
/// database: whatever is removed is lost, and an app's locks are short.
fn attach_pause(failures: u32) -> Duration {
    let doubled =
        limits::ATTACH_RETRY_MIN * 2_u32.saturating_pow(failures.saturating_sub(1).min(16));
    doubled.min(limits::RETRY_MAX)
}

/// At the end; what cannot be made durable is there all the same, and is shipped.
fn settle_last(spool: &DatabaseSpool) {
    if let Err(err) = spool.settle() {
        tracing::warn!(%err, "the newest file of the spool is not durable");
    }
}

/// Whether the database file is not there.
fn is_missing(error: &StageError) -> bool {
    matches!(error, StageError::Capture(error) if error.is_missing())
}

/// Whether the session is of no use after this error.
fn must_reattach(error: &StageError) -> bool {
    match error {
        StageError::Capture(error) => error.needs_reopen(),
        _ => false,
    }
}

/// The wall clock in the resolution of an LTX header.
pub(crate) fn wall_now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_cannot_attach_tries_again_soon_and_then_less_often() {
        let pauses: Vec<_> = (1..=40).map(attach_pause).collect();
        let soon: Duration = pauses[..4].iter().sum();
        assert!(soon < Duration::from_millis(100), "{soon:?}");
        assert!(pauses.is_sorted() && pauses[0] > Duration::ZERO);
        assert_eq!(pauses.last(), Some(&limits::RETRY_MAX));
    }
}
