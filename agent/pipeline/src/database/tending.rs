//! The actor's part of upkeep: one chore at a time, on a lane of its own, and only as the owner of
//! the replica. What is due says [`Upkeep`].

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use sqlrep_format::ltx::Level;
use sqlrep_format::{Timestamp, Txid};
use sqlrep_replica::{DbId, Doubt, ReplicaFile, rfc3339};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::{Database, Ending, Place};
use crate::clock::Reading;
use crate::error::{CommandError, StageError};
use crate::fleet::Context;
use crate::inspect::{self, QuickCheck};
use crate::lane::stage;
use crate::limits;
use crate::stage::capture::wall_now;
use crate::stage::scrub::Damage;
use crate::stage::upkeep::{Look, Tend, Tended};
use crate::upkeep::{Chore, Rhythm, Upkeep};
use crate::{Settings, status::ReplicaStatus};

type Work = Pin<Box<dyn Future<Output = (Chore, Result<Tended, StageError>)> + Send>>;

type Checking = Pin<Box<dyn Future<Output = (Txid, QuickCheck)> + Send>>;

/// Answers with the TXID that the snapshot holds and its size.
pub(crate) type SnapshotReply = oneshot::Sender<Result<(Txid, u64), CommandError>>;

/// The upkeep of one database's replica.
pub(super) struct Tending {
    upkeep: Upkeep,
    /// The chore in flight.
    work: Option<Work>,
    /// SQLite's look at what a scrub has read; the next chores do not wait for it.
    checking: Option<Checking>,
    /// The state that it last had something to say of.
    checked: Option<Txid>,
    /// Who waits for a snapshot of at least this TXID.
    wanted: Vec<(Txid, SnapshotReply)>,
    /// A shipped file with every page of the live database, to mend with.
    full: Option<Txid>,
    /// When the live database was last asked for one.
    full_asked: Option<Timestamp>,
}

impl Tending {
    pub(super) fn new(context: &Context, id: &DbId, settings: Settings) -> Self {
        let config = &context.config;
        let (l0, verify) = (config.l0_retention, config.verify_interval);
        let rhythm = Rhythm::new(settings, &config.levels, l0, verify);
        Self {
            upkeep: Upkeep::new(rhythm, spread(id), wall_now()),
            work: None,
            checking: None,
            checked: None,
            wanted: Vec::new(),
            full: None,
            full_asked: None,
        }
    }

    /// The time by which things are due.
    fn time(&mut self) -> Timestamp {
        self.upkeep.time(Reading::take())
    }

    /// Whether a chore is in flight.
    pub(super) fn is_busy(&self) -> bool {
        self.work.is_some()
    }

    /// Waits for the chore or the look in flight, or for ever when there is none.
    pub(super) async fn next(&mut self) -> Event {
        tokio::select! {
            (chore, tended) = in_flight(&mut self.work) => {
                self.work = None;
                Event::Done(chore, tended)
            }
            (txid, check) = in_flight(&mut self.checking) => {
                self.checking = None;
                Event::Checked(txid, check)
            }
        }
    }
}

/// What came of a piece of upkeep.
pub(super) enum Event {
    /// A chore is done.
    Done(Chore, Result<Tended, StageError>),
    /// SQLite has looked at a state.
    Checked(Txid, QuickCheck),
}

async fn in_flight<T>(work: &mut Option<Pin<Box<dyn Future<Output = T> + Send>>>) -> T {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

impl Database {
    /// When the actor must wake for upkeep; `None`: not by itself.
    pub(super) fn chore_at(&mut self) -> Option<Instant> {
        let (at, _) = self.tending.upkeep.next()?;
        let idle = self.tending.work.is_none() && self.may_tend();
        let now = self.tending.time();
        idle.then(|| Instant::now() + now.until(at).max(Duration::from_millis(1)))
    }

    /// Sends the next chore to the upkeep lane, if one is due and none is in flight.
    pub(super) fn begin_chore(&mut self) {
        if self.tending.work.is_some() || !self.may_tend() {
            return;
        }
        let now = self.tending.time();
        let wanted = !self.tending.wanted.is_empty();
        let chore = match self.tending.upkeep.next() {
            _ if wanted && self.tending.upkeep.listing().is_none() => Chore::List,
            _ if wanted => Chore::Snapshot,
            Some((at, chore)) if at <= now => chore,
            _ => return,
        };
        let bench = match chore {
            Chore::Verify => self.context.benches.free(),
            _ => None,
        };
        if chore == Chore::Verify && (bench.is_none() || self.tending.checking.is_some()) {
            // Other databases are being looked at, or this one still is.
            return self.tending.upkeep.verify_later(now);
        }
        let tend = Tend {
            store: self.main.clone(),
            spool: self.spool.clone(),
            home: self.home.clone(),
            writer: self.writer,
            policy: self.tending.upkeep.policy().clone(),
            keep_beside: self.context.config.branch_retention,
            full: self.tending.full,
            checked: self.tending.checked,
            bench,
            known: self.tending.upkeep.listing().cloned().unwrap_or_default(),
            jumps: self.tending.upkeep.jumps().clone(),
            compared: self.tending.upkeep.compared(),
        };
        let lane = self.home.upkeep().clone();
        self.tending.work = Some(Box::pin(async move {
            let job = move || tend.run(chore, now);
            let done = lane.run(limits::RESTORE_TIMEOUT, job);
            let done = done.instrument(stage(chore.as_str())).await;
            (chore, done.map_err(StageError::from).and_then(|done| done))
        }));
    }

    /// Only the owner of a replica tends it, and only while its pod lives.
    fn may_tend(&self) -> bool {
        let settled = matches!(self.place, Place::Settled(_));
        settled && self.branch.is_none() && self.ending == Ending::No
    }

    /// The replica is ours, from now on or again: what it holds is to be looked at.
    pub(super) fn tend_anew(&mut self) {
        let owner = self.branch.is_none();
        let shipped = self
            .spool
            .shipped()
            .or(self.spool.position().map(|at| at.txid));
        self.spool.keep_above(shipped.filter(|_| owner));
        let now = self.tending.time();
        self.tending.upkeep.moved(now);
        self.tending.checked = None;
        if !owner {
            self.refuse_snapshots(&CommandError::Refused(format!(
                "{} is not the owner of its replica",
                self.id
            )));
        }
    }

    pub(super) fn note_published(&mut self, files: &[ReplicaFile]) {
        if self.branch.is_none() {
            let upkeep = &mut self.tending.upkeep;
            let reading = Reading::take();
            upkeep.holds(files, reading);
            let now = upkeep.time(reading);
            upkeep.shipped(files, now);
        }
    }

    /// A person wants a snapshot of what was shipped.
    pub(super) fn snapshot_now(&mut self, reply: SnapshotReply) {
        let answer = match (self.spool.position(), self.may_tend()) {
            (Some(position), true) => {
                self.tending.wanted.push((position.txid, reply));
                return self.answer_snapshots();
            }
            (Some(position), false) if self.branch.is_some() => self.not_the_owner(position.txid),
            _ => CommandError::Unavailable(format!("{} has not been captured yet", self.id)),
        };
        drop(reply.send(Err(answer))); // a caller that gave up wants no answer
    }

    /// Takes in what a chore came to.
    pub(super) fn tended(&mut self, chore: Chore, outcome: Result<Tended, StageError>) {
        let now = self.tending.time();
        match outcome {
            Ok(tended) => {
                let nothing = matches!(tended, Tended::Nothing);
                self.answer_snapshots();
                self.take_in(chore, tended, now);
                self.answer_snapshots();
                if nothing {
                    // Else it would be tried again at once, and for ever.
                    self.refuse_snapshots(&CommandError::Unavailable(format!(
                        "the replica of {} holds nothing new to make a snapshot of",
                        self.id
                    )));
                }
            }
            Err(error) => {
                let text = error.text();
                let failures = self.tending.upkeep.failed(chore, now);
                if failures == 1 {
                    tracing::warn!(db = %self.id, stage = chore.as_str(), err = %text, "upkeep");
                }
                self.update_replica(|replica| replica.error = Some(text));
                self.refuse_snapshots(&error.into());
            }
        }
        self.show_replica();
    }

    fn take_in(&mut self, chore: Chore, tended: Tended, now: Timestamp) {
        match &tended {
            Tended::Listed(found) => {
                let (upkeep, reading) = (&mut self.tending.upkeep, Reading::take());
                upkeep.holds(found.listing.files(), reading);
                if let Some(there) = found.there {
                    self.compare_clocks(there);
                }
            }
            Tended::Heard(there) => self.compare_clocks(*there),
            _ => {}
        }
        let upkeep = &mut self.tending.upkeep;
        match tended {
            Tended::Listed(found) => {
                upkeep.listed(found.listing, found.claims, found.prune_at);
                self.doubted(found.doubt, now);
            }
            Tended::Wrote(file) => {
                let (level, max) = (file.level, file.range.max());
                upkeep.wrote(file);
                if Level::new(1) == Some(level) {
                    self.spool.keep_above(Some(max));
                }
                self.update_replica(|replica| replica.compactions += 1);
            }
            Tended::Removed(files) => {
                upkeep.removed(&files);
                self.update_replica(|replica| replica.removed += files.len() as u64);
            }
            Tended::Verified(verified, look) => {
                upkeep.verified(now);
                self.look_at(verified.txid, look);
                tracing::debug!(db = %self.id, txid = %verified.txid, "the replica restores");
                self.update_replica(|replica| replica.proven(verified.txid));
            }
            Tended::Damaged(damage) => {
                upkeep.verified(now);
                self.damaged(&damage, now);
            }
            Tended::Pruned(next) => upkeep.pruned(next),
            Tended::Heard(_) => upkeep.heard(),
            // A chore for which there is nothing to do is not due again at once.
            Tended::Nothing if chore == Chore::Verify => upkeep.verified(now),
            Tended::Nothing => drop(upkeep.failed(chore, now)),
            Tended::Surprised => upkeep.surprised(now),
            Tended::NotOurs { head } => {
                tracing::warn!(db = %self.id, txid = %head, "somebody else writes to the replica");
                upkeep.surprised(now);
                if self.work.is_none() {
                    self.place = Place::Undecided;
                }
            }
        }
    }

    fn compare_clocks(&mut self, there: Timestamp) {
        let ahead = self.tending.upkeep.compare(there, Reading::take());
        if let Some(ahead) = ahead {
            tracing::warn!(
                db = %self.id, seconds = ahead.as_secs(),
                "the node's clock is ahead of the one where the replica lies: what lies there counts as new"
            );
        }
    }

    /// Has SQLite look at a state that was read back, beside everything else.
    fn look_at(&mut self, txid: Txid, look: Look) {
        if let Look::Due(whole) = look {
            let check = async move { (txid, inspect::check(whole).await) };
            self.tending.checking = Some(Box::pin(check));
        }
    }

    /// Takes in what SQLite says.
    pub(super) fn looked_at(&mut self, txid: Txid, check: &QuickCheck) {
        match check {
            QuickCheck::Ok => self.tending.checked = Some(txid),
            QuickCheck::Damaged(lines) => {
                self.tending.checked = Some(txid);
                let found = lines.join("; ");
                tracing::error!(
                    db = %self.id, %txid, found,
                    "the app's database is damaged: its replica is whole, and holds it as it is"
                );
            }
            QuickCheck::NotChecked(reason) => {
                tracing::warn!(db = %self.id, %txid, reason, "SQLite was not asked about a replica");
            }
        }
        self.update_replica(|replica| replica.checked(txid, check));
    }

    /// The replica was found damaged, before this agent or beside it, and not mended: it is now.
    fn doubted(&mut self, doubt: Option<Doubt>, now: Timestamp) {
        let Some(Doubt { reason, found, .. }) = doubt else {
            return;
        };
        let mut known = true;
        self.update_replica(|replica| {
            known = replica.damage.is_some();
            let found = rfc3339(found);
            let text = || format!("{reason} (found {found}); the replica is read back to mend it");
            replica.damage.get_or_insert_with(text);
        });
        // What this agent has found, it is at.
        if !known {
            self.tending.upkeep.doubted(now);
        }
    }

    /// Always said, mended or not.
    fn damaged(&mut self, damage: &Damage, now: Timestamp) {
        let (text, lost) = (damage.text(), damage.lost.len() as u64);
        tracing::error!(db = %self.id, err = %text, "the replica is damaged");
        self.update_replica(|replica| replica.damaged(text, lost));
        if damage.whole {
            self.tending.full = None;
        } else {
            // What was asked for may have come while this was found out: it is for the next look.
            self.ask_for_full(now);
        }
        // What is in the replica now is another matter than before.
        self.tending.upkeep.surprised(now);
    }

    /// Nothing else has the pages: the live database does.
    fn ask_for_full(&mut self, now: Timestamp) {
        let asked = self.tending.full_asked;
        let lately = asked.is_some_and(|asked| asked.until(now) < limits::RENEW_PAUSE);
        match self.capture.as_ref().filter(|_| !lately) {
            Some(capture) if capture.full() => self.tending.full_asked = Some(now),
            // Its thread has its hands full.
            Some(_) => self.tending.upkeep.verify_later(now),
            None => {}
        }
    }

    /// Once the file with every page is on the replica, the replica is mended with it.
    pub(super) fn note_full(&mut self) {
        let Some(full) = self.progress.with(|facts| facts.full) else {
            return;
        };
        if self.spool.shipped() >= Some(full) {
            self.progress.with(|facts| facts.full = None);
            self.tending.full = Some(full);
            self.doubt();
        }
    }

    /// Somebody found something wrong with the replica.
    pub(super) fn doubt(&mut self) {
        let now = self.tending.time();
        self.tending.upkeep.doubted(now);
    }

    /// Answers whoever waits for a snapshot that is there now.
    fn answer_snapshots(&mut self) {
        let Some(listing) = self.tending.upkeep.listing() else {
            return;
        };
        let newest = listing.level(Level::SNAPSHOT).next_back();
        let Some((txid, bytes)) = newest.map(|file| (file.range.max(), file.bytes)) else {
            return;
        };
        let waiting = std::mem::take(&mut self.tending.wanted);
        for (want, reply) in waiting {
            if want <= txid {
                drop(reply.send(Ok((txid, bytes)))); // a caller that gave up wants no answer
            } else {
                self.tending.wanted.push((want, reply));
            }
        }
    }

    fn refuse_snapshots(&mut self, error: &CommandError) {
        for (_, reply) in self.tending.wanted.drain(..) {
            drop(reply.send(Err(error.clone()))); // a caller that gave up wants no answer
        }
    }

    fn update_replica(&self, change: impl FnOnce(&mut ReplicaStatus)) {
        self.context
            .board
            .update(&self.key, |row| change(&mut row.replica));
    }

    fn show_replica(&self) {
        let Some(listing) = self.tending.upkeep.listing() else {
            return;
        };
        let files = listing.files();
        let newest = listing.level(Level::SNAPSHOT).next_back();
        let snapshot_at = newest.map(|file| {
            let millis = file.modified.millis().max(0).unsigned_abs();
            SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
        });
        let fails = self.tending.upkeep.is_failing();
        self.update_replica(|replica| {
            replica.files = Some(files.len() as u64);
            replica.bytes = Some(files.iter().map(|file| file.bytes).sum());
            replica.snapshot_at = snapshot_at;
            if !fails {
                replica.error = None;
            }
        });
    }
}

/// A number between 0 and 1 that is a database's own.
fn spread(id: &DbId) -> f64 {
    let mut hash = sqlrep_format::Crc64::new();
    hash.update(id.to_string().as_bytes());
    let top = u32::try_from(hash.value() >> 32).unwrap_or(0);
    f64::from(top) / f64::from(u32::MAX)
}
