//! One database under capture: a plain blocking object that spawns nothing.

mod facts;
mod helping;
mod holding;
mod outgoing;
mod reading;
mod writing;

use std::time::{Duration, Instant};

use sqlrep_format::Timestamp;
use sqlrep_format::wal::{Cursor, HEADER_BYTES};
use sqlrep_spool::{DatabaseSpool, Entry};

use crate::cadence::Cadence;
use crate::checkpoint::{Checkpoint, Need};
use crate::hold::Hold;
use crate::live::{Live, LiveFile, Published, Whereabouts};
use crate::pending::Pending;
use crate::window::Window;
use crate::{Error, init, position, setup};

pub use facts::{Look, Options, Start, Step};
use outgoing::Outgoing;
use writing::Batch;

/// After so many looks in a row at a half-written wal-index its writer is taken for dead, and
/// SQLite is made to repair it. With the pauses of a follower they span some 100 ms.
const TORN_LOOKS: u32 = 8;

/// How often a step goes back for what was committed while it read.
const STEP_PASSES: u32 = 8;

/// After so many steps in a row that found something, the writer counts as busy.
const BUSY_STEPS: u32 = 3;

/// For so many looks in a row the application's checkpoint is waited for closely, once the WAL is
/// worth one: at [`Cadence::EBB`] some 60 ms. An application that does not checkpoint costs no more.
const EBB_LOOKS: u32 = 400;

/// A wait for its end that came to nothing counts as so many looks: a second of waiting is enough.
const TIMED_OUT_LOOKS: u32 = 8;

/// How long the end of a checkpoint of the application's is waited for at once: with a slow disk
/// commands and cuts have their turn in between.
const CHECKPOINT_PATIENCE: Duration = Duration::from_millis(20);

/// After so many quiet looks in a row, or one after [`Cadence::CALM`], the writer counts as quiet: a time
/// to help, if need be.
const CALM_LOOKS: u32 = 4;

/// One database under capture.
#[derive(Debug)]
pub struct Session {
    live: Live,
    spool: DatabaseSpool,
    hold: Hold,
    options: Options,
    pending: Pending,
    /// The end of what was read; `None` while no frame was.
    cursor: Option<Cursor>,
    /// Where in the WAL the next L0 file's span begins.
    span_from: u64,
    /// All frames were captured when the WAL could last be reset: new salts are a continuation.
    may_reset: bool,
    started: bool,
    /// A step failed half-way: the pending pages are of no commit until one succeeds.
    mixed: bool,
    window: Window,
    last_seen: Option<Published>,
    torn_looks: u32,
    quiet_looks: u32,
    /// When the last step that found something did.
    last_new: Option<Instant>,
    /// Steps in a row that found something.
    busy_steps: u32,
    /// Looks since the application's checkpoint could have run, or last moved on.
    ebb_looks: u32,
    ebb_backfilled: u32,
    /// Writers were held in vain, for a reader keeps the WAL as it is: from this size on they are again.
    hold_again_bytes: u64,
    /// A set whose pages are in a file: its memory is used again.
    spare: Option<Pending>,
    outgoing: Outgoing,
}

impl Session {
    /// Attaches to a database in WAL mode. From here on nothing is lost; [`Session::start`]
    /// decides what is to be captured first.
    pub fn open(
        file: &LiveFile,
        spool: DatabaseSpool,
        options: Options,
        _now: Timestamp,
    ) -> Result<Self, Error> {
        init()?;
        let live = Live::open(file)?;
        let pending = Pending::new(live.page_size(), options.arena_bytes, &options.scratch_dir);
        Ok(Self {
            live,
            spool,
            hold: Hold::default(),
            options,
            pending,
            cursor: None,
            span_from: HEADER_BYTES as u64,
            may_reset: false,
            started: false,
            mixed: false,
            window: Window::default(),
            last_seen: None,
            torn_looks: 0,
            quiet_looks: 0,
            last_new: None,
            busy_steps: 0,
            ebb_looks: 0,
            ebb_backfilled: 0,
            hold_again_bytes: 0,
            spare: None,
            outgoing: Outgoing::default(),
        })
    }

    /// Takes the hold and finds out what must be captured first: nothing if the WAL goes on where
    /// capture stopped, else all pages or those that differ, as one L0 file.
    pub fn start(&mut self, now: Timestamp) -> Result<Start, Error> {
        self.take_first_hold()?;
        if let Some(position) = self.spool.position()
            && !self.spool.must_be_full()
        {
            if position.page_size != self.live.page_size() {
                let (chain, found) = (position.page_size, self.live.page_size());
                return Err(Error::PageSizeChanged {
                    path: self.live.path(),
                    chain,
                    found,
                });
            }
            let published = self.published_or_repaired()?;
            if let Some(cursor) = position::resume(&self.live, &published, &position)? {
                self.begin_at(Some(cursor));
                self.settle(&published)?;
                return Ok(Start::Resumed);
            }
            let pages = self.capture_state(now, Some(self.spool.page_checksums()))?;
            return Ok(Start::Resync { pages });
        }
        let pages = self.capture_state(now, None)?;
        Ok(Start::Snapshot { pages })
    }

    /// Finds out whether there is something to read. Costs a few system calls when there is not.
    /// Also lets the application reset its WAL as soon as that loses nothing.
    pub fn look(&mut self) -> Result<Look, Error> {
        self.must_be_started()?;
        let whereabouts = self.live.whereabouts();
        match whereabouts {
            Whereabouts::Replaced => return Ok(Look::Replaced),
            Whereabouts::Unlinked => return Ok(Look::Unlinked),
            Whereabouts::Here | Whereabouts::Bare => {}
        }
        let Some(published) = self.published()? else {
            self.torn_looks += 1;
            if self.torn_looks > TORN_LOOKS && whereabouts == Whereabouts::Here {
                self.published_or_repaired()?;
            }
            return Ok(Look::Uncommitted);
        };
        self.torn_looks = 0;
        self.count_ebb(&published);
        if self.is_new(&published) {
            return Ok(self.found_new());
        }
        if whereabouts == Whereabouts::Bare {
            return self.look_bare(&published);
        }
        let look = self.look_for_work()?;
        if look == Look::New {
            return Ok(self.found_new());
        }
        // Looks that follow each other this closely say nothing about the writer.
        if look == Look::Quiet && self.pause() == Cadence::BUSY {
            self.quiet_looks = self.quiet_looks.saturating_add(1);
            if self.is_quiet() {
                self.busy_steps = 0;
            }
        }
        self.settle(&published)?;
        self.outwait_checkpoint()?;
        Ok(look)
    }

    fn found_new(&mut self) -> Look {
        self.quiet_looks = 0;
        if self.is_long_ago() {
            self.busy_steps = 0;
        }
        Look::New
    }

    /// Nothing new was published: whether there may be in a moment, or is by now.
    fn look_for_work(&mut self) -> Result<Look, Error> {
        if self.live.is_at_work()? {
            if self.live.is_checkpoint_waited_for()? {
                // It waits for our brake, and everybody who writes for it.
                self.busy_steps = 0;
            }
            return Ok(Look::Uncommitted);
        }
        // Whoever was at work has published before it let go. Who begins after that writes to the WAL first,
        // of which there is a hint: after a quiet look none is owed.
        Ok(match self.published()? {
            None => Look::Uncommitted,
            Some(published) if self.is_new(&published) => Look::New,
            Some(_) => Look::Quiet,
        })
    }

    /// Reads what was committed before the call into the pending set, then lets go of what it read.
    /// Goes back for what is committed meanwhile only when the WAL could be let go of by that: else
    /// it has its turn, and many commits are read at less cost at once.
    pub fn step(&mut self) -> Result<Step, Error> {
        self.must_be_started()?;
        let mut step = Step::default();
        for _ in 0..STEP_PASSES {
            let Some(published) = self.look_for_new()? else {
                break;
            };
            let batch = self.advance(&published)?;
            step.frames = step.frames.saturating_add(batch.frames);
            step.pages = step.pages.saturating_add(batch.pages);
            self.settle(&published)?;
            if !published.is_backfilled() && !self.awaits_checkpoint() {
                break;
            }
        }
        step.bytes = u64::from(step.frames) * self.frame_bytes();
        if step.frames > 0 {
            self.busy_steps = self.busy_steps.saturating_add(1);
            self.last_new = Some(Instant::now());
        }
        Ok(step)
    }

    /// How long a follower may wait before it looks again, while commits keep coming.
    pub fn pause(&self) -> Duration {
        if self.awaits_checkpoint() {
            Cadence::EBB
        } else {
            Cadence::BUSY
        }
    }

    /// Makes the pending pages an L0 file in the spool; `None` when nothing is pending. After an
    /// error they stay pending.
    pub fn cut(&mut self, now: Timestamp) -> Result<Option<Entry>, Error> {
        self.must_be_started()?;
        if self.mixed {
            self.step()?; // what failed then must succeed first
        }
        let Some(commit) = self.pending.commit() else {
            return Ok(None);
        };
        if self.spool.must_be_full() {
            self.capture_state(now, None)?;
            return Ok(self.newest_entry());
        }
        let Some(position) = self.spool.position() else {
            return Ok(None);
        };
        self.fill_growth(position.commit, commit)?;
        let draft = self.draft(now, commit, self.cursor.as_ref());
        // What is committed meanwhile goes into a set of its own: the WAL must not wait for us.
        let empty = self.spare.take().unwrap_or_else(|| self.empty_set());
        let batch = std::mem::replace(&mut self.pending, empty);
        self.span_from = self.cursor.map_or(self.span_from, |cursor| cursor.offset());
        let spool = self.spool.clone();
        let mut source = Batch::new(&batch, self);
        match spool.append(&draft, &mut source) {
            Ok(appended) => {
                // Neither of the two is done in no time, with a file of many pages.
                self.tend(|session| session.step().map(|_| ()));
                self.spare = Some(batch.emptied());
                Ok(Some(appended.entry))
            }
            Err(source) => {
                if self
                    .cursor
                    .is_some_and(|cursor| cursor.salts() == draft.wal.salts)
                {
                    self.span_from = draft.wal.offset;
                }
                self.take_back(&batch)?;
                Err(self.spool_failed(source))
            }
        }
    }

    /// Checkpoints if the WAL has grown past the bounds and the application does not do so itself.
    /// For after a look that was quiet, and from time to time under load.
    pub fn checkpoint(&mut self) -> Result<Option<Checkpoint>, Error> {
        self.must_be_started()?;
        let Some(published) = self.published()? else {
            return Ok(None);
        };
        let Some(need) = self.need(&published) else {
            return Ok(None);
        };
        if !self.pin()? {
            return Ok(None);
        }
        let few = self.extent(&published).lagging < self.options.wal_soft_bytes;
        if need == Need::Full && few {
            return self.full_checkpoint();
        }
        self.release_brake()?;
        // `None`: behind somebody else's checkpoint there will be less to hold the writers for.
        let bulk = self.passive_checkpoint()?;
        if need == Need::Full && bulk.is_some() && !self.hold.is_resting() {
            return Ok(self.full_checkpoint()?.or(bulk));
        }
        Ok(bulk)
    }

    /// Writes the whole database as the next L0 file: for a chain that must not lean on what is
    /// before it.
    pub fn snapshot(&mut self, now: Timestamp) -> Result<Option<Entry>, Error> {
        self.must_be_started()?;
        self.capture_state(now, None)?;
        Ok(self.newest_entry())
    }

    /// Reads what is left from the open descriptors, cuts it, and lets go of everything. The
    /// volume's directory may be gone, and no process of the application may be alive.
    pub fn drain(mut self, now: Timestamp) -> Result<Option<Entry>, Error> {
        self.must_be_started()?;
        let read = match self.published() {
            Ok(Some(_)) => self.read_to_the_end(),
            // A writer died while it published: go by what the WAL itself proves.
            Ok(None) => self.read_unpublished(),
            Err(error) => Err(error),
        };
        self.spool.ending();
        // What was read before is whole, whatever is wrong with the rest.
        let entry = self.cut(now);
        read?;
        entry
    }

    /// The size of the database in bytes: after the last commit read, or cut.
    pub fn size_bytes(&self) -> u64 {
        let cut = || self.spool.position().map(|position| position.commit);
        let pages = self.pending.commit().or_else(cut);
        pages.map_or(0, |pages| pages.file_bytes(self.live.page_size()))
    }

    /// The size of the part of the WAL that counts, as of the last look.
    pub fn wal_bytes(&self) -> u64 {
        self.last_seen
            .map_or(0, |seen| self.bytes_of(seen.mx_frame))
    }

    /// The size of the WAL file; SQLite keeps it at its largest.
    pub fn wal_file_bytes(&self) -> u64 {
        self.live.wal_file_bytes().unwrap_or(0)
    }

    /// How many pages wait to be cut.
    pub fn pending_pages(&self) -> usize {
        self.pending.pages()
    }

    /// The owner, the group and the permission bits of the database file.
    pub fn ownership(&self) -> (u32, u32, u32) {
        self.live.ownership()
    }

    /// How many names the database file has: one, unless somebody made a hard link to it.
    pub fn names(&self) -> u64 {
        self.live.names()
    }

    /// The spool that is written to.
    pub fn spool(&self) -> &DatabaseSpool {
        &self.spool
    }

    /// Gives back memory and the connection to SQLite; they come back when they are needed. For when
    /// looks and cuts have come to an end, which only their caller knows.
    pub fn relax(&mut self) {
        self.live.unlink();
        self.spare = None;
        self.pending.relax();
        self.window.relax();
        setup::note_freed();
    }
}

/// The parts of the calls above.
impl Session {
    /// Nothing new in a WAL that was deleted.
    fn look_bare(&mut self, published: &Published) -> Result<Look, Error> {
        self.live.disown()?;
        if !self.live.is_wal()? {
            return Ok(Look::Replaced); // by itself, in another journal mode
        }
        // Of an app that was killed before it copied its WAL the file is an older state.
        if published.is_backfilled() && !self.live.is_open()? {
            return Ok(Look::Closed);
        }
        Err(Error::Bare {
            path: self.live.path(),
        })
    }

    fn must_be_started(&self) -> Result<(), Error> {
        if self.started {
            Ok(())
        } else {
            Err(Error::NotStarted {
                path: self.live.path(),
            })
        }
    }

    /// The size of a WAL with so many frames.
    fn bytes_of(&self, frames: u32) -> u64 {
        u64::from(frames) * self.frame_bytes() + HEADER_BYTES as u64
    }

    /// A page in the WAL, with its header.
    fn frame_bytes(&self) -> u64 {
        u64::from(self.live.page_size().get()) + 24
    }
}

#[cfg(test)]
mod tests;
