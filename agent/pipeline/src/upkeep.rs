//! When a replica is compacted, snapshotted, thinned out and read back: pure, time is an argument.
//!
//! What the replica holds is remembered from one listing and what was published since. From that
//! follows what is due next, and when. Nothing new means nothing due: an idle database wakes
//! nobody, but for the last steps of its last commits, and for being read back.

use std::time::Duration;

use sqlrep_format::ltx::Level;
use sqlrep_format::{Timestamp, Txid};
use sqlrep_replica::compact::{first_snapshot_plan, pending};
use sqlrep_replica::retain::{self, Policy};
use sqlrep_replica::{Listing, ReplicaFile};

use crate::clock::{ChainClock, Jumps, Reading, SET_MIN};
use crate::limits;

/// What single captures are merged into first.
const LEVEL_1: Level = match Level::new(1) {
    Some(level) => level,
    None => Level::SNAPSHOT,
};

/// One piece of upkeep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chore {
    /// Look what the replica holds.
    List,
    /// Merge a level into this one.
    Compact(Level),
    /// Write a snapshot; the first one keeps the oldest state.
    Snapshot,
    /// Remove what is not needed any more.
    Retain,
    /// Read the replica back.
    Verify,
    /// Remove branches and damaged files that are old.
    Prune,
}

impl Chore {
    /// Its name in the log.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Compact(_) => "compact",
            Self::Snapshot => "snapshot",
            Self::Retain => "retain",
            Self::Verify => "verify",
            Self::Prune => "prune",
        }
    }
}

/// How often and how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rhythm {
    /// The steps of the levels above level 0, finest first.
    pub(crate) levels: Vec<Duration>,
    /// How often a snapshot is written, when there is something new.
    pub(crate) snapshot: Duration,
    /// How often the replica is read back; `None`: never.
    pub(crate) verify: Option<Duration>,
    /// What is kept how long.
    pub(crate) policy: Policy,
}

impl Rhythm {
    /// The rhythm of one database.
    pub(crate) fn new(
        settings: crate::Settings,
        levels: &[Duration],
        l0_retention: Duration,
        verify: Option<Duration>,
    ) -> Self {
        // The last level has nothing above it but snapshots: it keeps the window.
        let inner = levels.split_last().map_or(&[][..], |(_, inner)| inner);
        let keep = |step: &Duration| step.saturating_mul(limits::LEVEL_STEPS);
        Self {
            levels: levels.to_vec(),
            snapshot: settings.snapshot_interval,
            verify,
            policy: Policy {
                l0: l0_retention,
                levels: inner.iter().map(keep).collect(),
                window: settings.retention,
                claims: Vec::new(),
            },
        }
    }

    /// The step that things are done in.
    fn tick(&self) -> Duration {
        self.levels.first().copied().unwrap_or(limits::RETRY_MAX)
    }
}

/// What is known of a replica's files, and what is due.
#[derive(Debug)]
pub(crate) struct Upkeep {
    rhythm: Rhythm,
    /// `None` until it was listed, and again when it surprised us.
    listing: Option<Listing>,
    /// What was published while there was no listing.
    fresh: Vec<ReplicaFile>,
    /// From when on the first look is due, and when the replica is read back the next time.
    look_at: Timestamp,
    verify_at: Option<Timestamp>,
    /// When something that lies beside the chain may be old.
    prune_at: Option<Timestamp>,
    /// The chore that is due next.
    next: Option<(Timestamp, Chore)>,
    /// Chores that failed in a row, and until when none is tried.
    failures: u32,
    /// What failed, the last of it last, until it works or is not wanted any more.
    failing: Vec<Chore>,
    pause_until: Timestamp,
    /// What time it is, and where that was set forward.
    clock: ChainClock,
    jumps: Jumps,
    /// Whether the clock of where the replica lies was heard.
    compared: bool,
}

impl Upkeep {
    /// Nothing is known yet. `spread`, between 0 and 1, is a database's own: those of a node do not
    /// all look, nor read back, at the same time.
    pub(crate) fn new(rhythm: Rhythm, spread: f64, now: Timestamp) -> Self {
        let look_at = now.later(limits::FIRST_LOOK.mul_f64(spread));
        let verify_at = rhythm.verify.map(|every| now.later(every.mul_f64(spread)));
        Self {
            rhythm,
            listing: None,
            fresh: Vec::new(),
            look_at,
            verify_at,
            prune_at: None,
            next: Some((look_at, Chore::List)),
            failures: 0,
            failing: Vec::new(),
            pause_until: now,
            clock: ChainClock::default(),
            jumps: Jumps::default(),
            compared: false,
        }
    }

    /// The time by which things are due. When the clock was set forward, what waits for time to pass
    /// waits on: else all databases of a node would be read back at once.
    pub(crate) fn time(&mut self, reading: Reading) -> Timestamp {
        let (now, gain) = self.clock.now_and_gain(reading);
        if let Some(gain) = gain {
            self.set_forward(now, gain);
        }
        now
    }

    /// The replica holds states of these times.
    pub(crate) fn holds(&mut self, files: &[ReplicaFile], reading: Reading) {
        let newest = files.iter().map(|file| file.modified).max();
        if let Some(newest) = newest
            && let Some(gain) = self.clock.holds(newest, reading)
        {
            self.set_forward(newest, gain);
        }
    }

    /// Where the replica lies it is this time. Of a clock that was wrong before this process began
    /// nothing else tells; later ones are not needed. Says how far the node's is ahead.
    pub(crate) fn compare(&mut self, there: Timestamp, reading: Reading) -> Option<Duration> {
        let (ahead, now) = (there.until(reading.wall), self.time(reading));
        if std::mem::replace(&mut self.compared, true) || ahead < SET_MIN {
            return None;
        }
        self.jumps.note(now, ahead);
        Some(ahead)
    }

    /// Whether it was asked what time it is where the replica lies. Before that nothing goes.
    pub(crate) fn compared(&self) -> bool {
        self.compared
    }

    /// The time there was heard: what was due by another one may not be.
    pub(crate) fn heard(&mut self) {
        self.plan();
    }

    /// Where the time was set forward.
    pub(crate) fn jumps(&self) -> &Jumps {
        &self.jumps
    }

    /// How long what is kept.
    pub(crate) fn policy(&self) -> &Policy {
        &self.rhythm.policy
    }

    /// What the replica holds, as far as that is known.
    pub(crate) fn listing(&self) -> Option<&Listing> {
        self.listing.as_ref()
    }

    /// The next chore and when it is due; `None`: nothing, until something happens.
    pub(crate) fn next(&self) -> Option<(Timestamp, Chore)> {
        let (at, chore) = self.next?;
        Some((at.max(self.pause_until), chore))
    }

    /// Files were published at level 0. Cheap, for it happens with every commit.
    pub(crate) fn shipped(&mut self, files: &[ReplicaFile], now: Timestamp) {
        let Some(first) = files.first() else { return };
        let Some(listing) = &mut self.listing else {
            // There is something to do, so look.
            self.look_at = self.look_at.min(now);
            self.fresh.extend_from_slice(files);
            self.plan();
            return;
        };
        for file in files {
            listing.add(file.clone());
        }
        let merge = tick_after(first.modified, self.rhythm.tick());
        let merge = (merge, Chore::Compact(LEVEL_1));
        if self.next.is_none_or(|(at, _)| merge.0 < at) {
            self.next = Some(merge);
        }
    }

    /// The replica was listed, and its manifest knows of these claims.
    /// Something beside the chain is old at `prune_at`.
    pub(crate) fn listed(
        &mut self,
        mut listing: Listing,
        claims: Vec<Txid>,
        prune_at: Option<Timestamp>,
    ) {
        self.rhythm.policy.claims = claims;
        // What was shipped while the listing was made may be in it or not.
        for file in self.fresh.drain(..) {
            listing.add(file);
        }
        self.listing = Some(listing);
        self.prune_at = prune_at;
        self.worked(Chore::List);
    }

    /// What was old beside the chain is gone; when the next of it is old.
    pub(crate) fn pruned(&mut self, next: Option<Timestamp>) {
        self.prune_at = next;
        self.worked(Chore::Prune);
    }

    /// The replica is to be read back now: something is wrong with it, or what mends it is there.
    pub(crate) fn doubted(&mut self, now: Timestamp) {
        self.verify_at = Some(now);
        self.plan();
    }

    /// A file was compacted, or a snapshot written.
    pub(crate) fn wrote(&mut self, file: ReplicaFile) {
        let chore = match file.level {
            Level::SNAPSHOT => Chore::Snapshot,
            level => Chore::Compact(level),
        };
        if let Some(listing) = &mut self.listing {
            listing.add(file);
        }
        self.worked(chore);
    }

    /// Files were removed.
    pub(crate) fn removed(&mut self, files: &[ReplicaFile]) {
        if let Some(listing) = &mut self.listing {
            let gone = |file: &&ReplicaFile| !files.contains(file);
            *listing = listing.of(listing.files().iter().filter(gone).cloned());
        }
        self.worked(Chore::Retain);
    }

    /// The replica was read back, whatever came of it.
    pub(crate) fn verified(&mut self, now: Timestamp) {
        self.verify_at = self.rhythm.verify.map(|every| now.later(every));
        self.worked(Chore::Verify);
    }

    /// There is no place to look at what is read back: again soon.
    pub(crate) fn verify_later(&mut self, now: Timestamp) {
        self.verify_at = Some(now.later(limits::CHECK_PAUSE));
        self.plan();
    }

    /// The replica became ours, or another one: look when its turn comes.
    pub(crate) fn moved(&mut self, now: Timestamp) {
        let at = self.listing.as_ref().map_or(self.look_at, |_| now);
        (self.listing, self.look_at) = (None, at);
        self.fresh.clear();
        self.plan();
    }

    /// The replica is not what it was taken for: look again.
    pub(crate) fn surprised(&mut self, now: Timestamp) {
        self.listing = None;
        self.look_at = now;
        self.plan();
    }

    fn set_forward(&mut self, to: Timestamp, by: Duration) {
        self.jumps.note(to, by);
        self.look_at = self.look_at.later(by);
        self.pause_until = self.pause_until.later(by);
        self.verify_at = self.verify_at.map(|at| at.later(by));
        self.plan();
    }

    /// Whether something failed and has not worked since.
    pub(crate) fn is_failing(&self) -> bool {
        !self.failing.is_empty()
    }

    /// A chore failed; says how often in a row, whatever worked beside it.
    pub(crate) fn failed(&mut self, chore: Chore, now: Timestamp) -> u32 {
        let doubled = limits::UPKEEP_RETRY_MIN * 2_u32.saturating_pow(self.failures.min(10));
        self.pause_until = now.later(doubled.min(limits::UPKEEP_RETRY_MAX));
        self.failures = self.failures.saturating_add(1);
        self.failing.retain(|other| *other != chore);
        self.failing.push(chore);
        // Whatever was the matter: what is there now is the place to go on from.
        self.surprised(now);
        self.failures
    }

    /// Looking works on a share that refuses each write: only what failed shows that it works again.
    fn worked(&mut self, chore: Chore) {
        self.fails_only_if(|failing| *failing != chore);
        self.plan();
    }

    fn fails_only_if(&mut self, still: impl FnMut(&Chore) -> bool) {
        self.failing.retain(still);
        if self.failing.is_empty() {
            self.failures = 0;
        }
    }

    fn plan(&mut self) {
        let Some(listing) = &self.listing else {
            self.next = Some((self.look_at, Chore::List));
            return;
        };
        let due = self.due(&self.jumps.aged(listing));
        self.fails_only_if(|failing| due.iter().any(|(_, chore)| chore == failing));
        // What makes room on a full share is not kept waiting by what needs some.
        let turn = |(at, chore): (Timestamp, Chore)| match self
            .failing
            .iter()
            .position(|failing| *failing == chore)
        {
            Some(place) => (at.max(self.pause_until), place + 1, chore),
            None => (at, 0, chore),
        };
        let first = due
            .into_iter()
            .map(turn)
            .min_by_key(|(at, place, _)| (*at, *place));
        self.next = first.map(|(at, _, chore)| (at, chore));
    }

    /// Everything that will be due, the more urgent first among equals.
    fn due(&self, listing: &Listing) -> Vec<(Timestamp, Chore)> {
        let mut due = Vec::new();
        if first_snapshot_plan(listing).is_some() {
            due.push((Timestamp::from_millis(0), Chore::Snapshot));
        }
        for (place, step) in (1..).zip(&self.rhythm.levels) {
            let level = Level::new(place);
            if let Some(level) = level
                && let Some(first) = pending(listing, level).first()
            {
                due.push((tick_after(first.modified, *step), Chore::Compact(level)));
            }
        }
        let newest = listing.level(Level::SNAPSHOT).next_back();
        if let Some(newest) = newest
            && Some(newest.range.max()) < listing.head()
        {
            let at = newest.modified.later(self.rhythm.snapshot);
            due.push((at, Chore::Snapshot));
        }
        if let Some(at) = retain::due(listing, &self.rhythm.policy) {
            // Step by step, not file by file.
            due.push((tick_after(at, self.rhythm.tick()), Chore::Retain));
        }
        if let Some(at) = self.verify_at.filter(|_| !listing.is_empty()) {
            due.push((at, Chore::Verify));
        }
        if let Some(at) = self.prune_at {
            due.push((at, Chore::Prune));
        }
        due
    }
}

/// The first tick of the wall clock after a time.
fn tick_after(time: Timestamp, interval: Duration) -> Timestamp {
    let step = i64::try_from(interval.as_millis())
        .unwrap_or(i64::MAX)
        .max(1);
    let ticks = time.millis().div_euclid(step).saturating_add(1);
    Timestamp::from_millis(ticks.saturating_mul(step))
}

#[cfg(test)]
mod tests;
