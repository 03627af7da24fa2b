//! One database under capture: a plain blocking object that spawns nothing.

use std::path::PathBuf;
use std::time::Duration;

use sqlrep_format::wal::{Cursor, HEADER_BYTES};
use sqlrep_format::{PageCount, Pgno, Timestamp, ltx};
use sqlrep_spool::{DatabaseSpool, Draft, Entry, PageChecksums, PageSource};

use crate::cadence::Cadence;
use crate::checkpoint::{self, Bounds, Checkpoint, Need};
use crate::hold::Hold;
use crate::live::{Live, LiveFile, Published, Whereabouts};
use crate::pending::Pending;
use crate::snapshot::{Source, State};
use crate::{Error, init, position, snapshot, tail};

/// How often a half-written wal-index is looked at before the look is given up.
const TORN_TRIES: u32 = 4;

/// After so many looks in a row at a half-written wal-index its writer is taken for dead, and
/// SQLite is made to repair it. With the pauses of a follower they span some 100 ms.
const TORN_LOOKS: u32 = 8;

/// How often reading the whole state is tried when somebody breaks the rules meanwhile.
const STATE_TRIES: u32 = 3;

/// How often a step goes back for what was committed while it read.
const STEP_PASSES: u32 = 8;

/// After so many steps in a row that found something, the writer counts as busy.
const BUSY_STEPS: u32 = 3;

/// For so many looks in a row the application's checkpoint is waited for closely, once the WAL is
/// worth one: at [`Cadence::EBB`] some 60 ms. An application that does not checkpoint costs no more.
const EBB_LOOKS: u32 = 400;

/// How often a step looks again without a pause while the application's checkpoint is awaited. The
/// writer's next commit is some 300 µs away, and a look takes some 2.
const EBB_SPINS: u32 = 300;

/// While an L0 file is cut the WAL is looked at after so many bytes of pages: every 2 ms or so.
const TEND_BYTES: usize = 512 * 1024;

/// After so many quiet looks in a row the writer counts as quiet: a time to help, if need be.
const CALM_LOOKS: u32 = 4;

/// After so many quiet looks in a row the session gives back its memory and its connection.
const QUIET_LOOKS: u32 = 8;

/// How a session works.
#[derive(Clone, Debug)]
pub struct Options {
    /// The writer's id, for the headers of L0 files.
    pub writer: u64,
    /// How much memory pending pages may take; what is more goes to a scratch file.
    pub arena_bytes: usize,
    /// Where the scratch file is made (it has no name); on the node, not in the volume.
    pub scratch_dir: PathBuf,
    /// From this size of the WAL on, the agent checkpoints when the application does not.
    pub wal_soft_bytes: u64,
    /// From this size on it takes the write lock to do so, for milliseconds.
    pub wal_hard_bytes: u64,
}

impl Options {
    /// The measured defaults (see the crate's README).
    pub fn new(writer: u64, scratch_dir: impl Into<PathBuf>) -> Self {
        Self {
            writer,
            arena_bytes: 2 << 20,
            scratch_dir: scratch_dir.into(),
            wal_soft_bytes: 8 << 20,
            wal_hard_bytes: 256 << 20,
        }
    }
}

/// How a session began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Start {
    /// The WAL goes on where capture stopped.
    Resumed,
    /// The whole database went into the first L0 file, or into one that stands in for a lost one.
    Snapshot {
        /// How many pages that was.
        pages: u32,
    },
    /// Continuity was lost: the pages that differ went into one L0 file; none when none did.
    Resync {
        /// How many pages differed.
        pages: u32,
    },
}

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Nothing new.
    Quiet,
    /// Nothing new, but a writer is in the middle of a transaction: look again soon.
    Uncommitted,
    /// Commits that were not read yet: step.
    New,
    /// The path leads to another file: step and cut what is left here, then open that one.
    Replaced,
    /// The path leads nowhere: what is left here can still be read.
    Unlinked,
}

/// What a step read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// How many frames.
    pub frames: u32,
    /// How many pages they put into the pending set.
    pub pages: u32,
}

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
    buffer: Vec<u8>,
    last_seen: Option<Published>,
    torn_looks: u32,
    quiet_looks: u32,
    /// Steps in a row that found something.
    busy_steps: u32,
    /// Looks since the application's checkpoint could have run, or last moved on.
    ebb_looks: u32,
    ebb_backfilled: u32,
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
            buffer: Vec::new(),
            last_seen: None,
            torn_looks: 0,
            quiet_looks: 0,
            busy_steps: 0,
            ebb_looks: 0,
            ebb_backfilled: 0,
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
            if let Some(cursor) = position::resume(&mut self.live, &published, &position)? {
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

    /// Finds out whether there is something to read. Costs two system calls when there is not.
    /// Also lets the application reset its WAL as soon as that loses nothing.
    pub fn look(&mut self) -> Result<Look, Error> {
        self.must_be_started()?;
        let whereabouts = self.live.whereabouts();
        let Some(published) = self.published()? else {
            self.torn_looks += 1;
            if self.torn_looks > TORN_LOOKS && whereabouts == Whereabouts::Here {
                self.published_or_repaired()?;
            }
            return Ok(Look::Uncommitted);
        };
        self.torn_looks = 0;
        match whereabouts {
            Whereabouts::Replaced => return Ok(Look::Replaced),
            Whereabouts::Unlinked => return Ok(Look::Unlinked),
            Whereabouts::Here => {}
        }
        self.count_ebb(&published);
        if self.is_new(&published) {
            self.quiet_looks = 0;
            return Ok(Look::New);
        }
        let look = if self.live.is_being_written()? {
            Look::Uncommitted
        } else {
            Look::Quiet
        };
        if look == Look::Quiet {
            self.quiet_looks = self.quiet_looks.saturating_add(1);
            if self.quiet_looks >= CALM_LOOKS {
                self.busy_steps = 0;
            }
        }
        self.settle(&published)?;
        if look == Look::Quiet && self.quiet_looks == QUIET_LOOKS {
            self.relax();
        }
        Ok(look)
    }

    /// Reads committed frames to the end into the pending set, then lets go of what it read.
    pub fn step(&mut self) -> Result<Step, Error> {
        self.must_be_started()?;
        let mut step = Step::default();
        let mut spins = EBB_SPINS;
        for _ in 0..STEP_PASSES {
            let Some(published) = self.look_for_new(&mut spins)? else {
                break;
            };
            let batch = self.advance(&published)?;
            step.frames = step.frames.saturating_add(batch.frames);
            step.pages = step.pages.saturating_add(batch.pages);
            self.settle(&published)?;
        }
        if step.frames > 0 {
            self.busy_steps = self.busy_steps.saturating_add(1);
        }
        Ok(step)
    }

    /// How long a follower may wait before it looks again, while commits keep coming.
    pub fn pause(&self) -> Duration {
        if self.is_ebbing() && self.ebb_looks < EBB_LOOKS {
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
        let empty = self.empty_set();
        let batch = std::mem::replace(&mut self.pending, empty);
        self.span_from = self.cursor.map_or(self.span_from, |cursor| cursor.offset());
        let spool = self.spool.clone();
        let mut source = Batch::new(&batch, self);
        match spool.append(&draft, &mut source) {
            Ok(appended) => {
                if self.pending.pages() == 0 {
                    let commit = self.pending.commit();
                    self.pending = batch.emptied(commit); // its memory is used again
                }
                Ok(Some(appended.entry))
            }
            Err(source) => {
                self.span_from = draft.wal.offset;
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
        let done = checkpoint::run(&mut self.live, &published, need)?;
        if done.is_some() {
            self.step()?;
        }
        Ok(done)
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
        match self.published()? {
            Some(_) => {
                self.step()?;
            }
            // A writer died while it published: go by what the WAL itself proves.
            None => self.read_unpublished()?,
        }
        self.cut(now)
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

    /// The spool that is written to.
    pub fn spool(&self) -> &DatabaseSpool {
        &self.spool
    }

    /// Gives back memory and the connection to SQLite; they come back when they are needed.
    pub fn relax(&mut self) {
        self.live.unlink();
        self.pending.relax();
        self.buffer = Vec::new();
    }
}

/// The parts of the calls above.
impl Session {
    fn must_be_started(&self) -> Result<(), Error> {
        if self.started {
            Ok(())
        } else {
            Err(Error::NotStarted {
                path: self.live.path(),
            })
        }
    }

    /// The published state; `None` when it stays half-written for the moment.
    fn published(&mut self) -> Result<Option<Published>, Error> {
        for _ in 0..TORN_TRIES {
            if let Some(published) = self.live.published()? {
                self.last_seen = Some(published);
                return Ok(Some(published));
            }
            std::thread::yield_now();
        }
        Ok(None)
    }

    /// The published state if it has something new; settles if it has not. While a busy writer's
    /// checkpoint is awaited it looks on for a moment, for then every commit that finds the WAL
    /// pinned costs the writer a checkpoint.
    fn look_for_new(&mut self, spins: &mut u32) -> Result<Option<Published>, Error> {
        loop {
            let Some(published) = self.published()? else {
                return Ok(None);
            };
            if self.is_new(&published) {
                return Ok(Some(published));
            }
            self.settle(&published)?;
            if *spins == 0 || self.hold.is_resting() || !self.is_ebbing() {
                return Ok(None);
            }
            *spins -= 1;
            std::hint::spin_loop();
        }
    }

    /// The published state; SQLite repairs one that stays half-written.
    fn published_or_repaired(&mut self) -> Result<Published, Error> {
        if let Some(published) = self.published()? {
            return Ok(published);
        }
        // A read transaction recovers the wal-index when its header is broken and no writer is at
        // work on it. Our locks are no obstacle: recovery locks bytes 121 and 122.
        let link = self.live.link()?;
        link.begin()?;
        link.end()?;
        self.torn_looks = 0;
        self.published()?.ok_or_else(|| Error::Torn {
            path: self.live.path(),
        })
    }

    /// Before the first hold nothing is known, so either of the two will do.
    fn take_first_hold(&mut self) -> Result<(), Error> {
        self.published_or_repaired()?;
        if self.pin()? {
            return Ok(());
        }
        let io = Error::io("lock the -shm of", self.live.path());
        if self.hold.is_none() && !self.hold.rest_blindly(self.live.shm()).map_err(io)? {
            let what = "all marks of its wal-index are being changed; try again";
            return Err(Error::Busy {
                path: self.live.path(),
                what,
            });
        }
        Ok(())
    }

    fn pin(&mut self) -> Result<bool, Error> {
        let live = &self.live;
        let look = || live.published().map_err(std::io::Error::other);
        let pinned = self.hold.pin(live.shm(), look);
        pinned.map_err(Error::io("lock the -shm of", live.path()))
    }

    /// Brings the hold in line with what was read: rest when the WAL is captured and copied, pin
    /// it when there are frames that are not copied, so that the application may copy them.
    fn settle(&mut self, published: &Published) -> Result<(), Error> {
        if self.is_new(published) {
            return Ok(());
        }
        if !published.is_backfilled() {
            self.pin()?;
            return self.set_brake(published);
        }
        if !self.hold.is_resting() {
            let live = &self.live;
            let look = || live.published().map_err(std::io::Error::other);
            let rest = self.hold.rest(live.shm(), published, look);
            rest.map_err(Error::io("lock the -shm of", live.path()))?;
        }
        self.may_reset = self.hold.is_resting() || published.mx_frame == 0;
        Ok(())
    }

    /// Brakes the checkpoints of a busy writer until its WAL is worth one.
    fn set_brake(&mut self, published: &Published) -> Result<(), Error> {
        let rising = self.busy_steps >= BUSY_STEPS && !self.is_worth_a_checkpoint(published);
        let shm = self.live.shm();
        let set = if rising {
            self.hold.brake(shm, published)
        } else {
            self.hold.release_brake(shm)
        };
        set.map_err(Error::io("lock the -shm of", self.live.path()))
    }

    fn is_worth_a_checkpoint(&self, published: &Published) -> bool {
        self.bytes_of(published.mx_frame) >= self.options.wal_soft_bytes
    }

    /// Whether a busy writer is about to checkpoint: the moment after it must not be missed.
    fn is_ebbing(&self) -> bool {
        self.busy_steps >= BUSY_STEPS
            && !self.hold.is_braked()
            && self
                .last_seen
                .is_some_and(|seen| self.is_worth_a_checkpoint(&seen))
    }

    fn count_ebb(&mut self, published: &Published) {
        if self.is_ebbing() && published.backfilled == self.ebb_backfilled {
            self.ebb_looks = self.ebb_looks.saturating_add(1);
        } else {
            self.ebb_looks = 0;
            self.ebb_backfilled = published.backfilled;
        }
    }

    /// Whether frames are published that were not read.
    fn is_new(&self, published: &Published) -> bool {
        published.mx_frame > 0
            && self.cursor.as_ref().is_none_or(|cursor| {
                cursor.salts() != published.salts || cursor.frames() != published.mx_frame
            })
    }

    /// Reads from the cursor to the end of what is published.
    fn advance(&mut self, published: &Published) -> Result<tail::Batch, Error> {
        let (cursor, span_from) = self.cursor_for(published)?;
        let scan = tail::scan(&self.live, cursor, published, &mut self.buffer)?;
        self.take(&scan, span_from)
    }

    /// Puts the pages of a scan into the pending set; only then does the cursor move.
    fn take(&mut self, scan: &tail::Scan, span_from: u64) -> Result<tail::Batch, Error> {
        let before = self.cursor.filter(|c| c.salts() == scan.cursor.salts());
        self.mixed = true;
        let pages = tail::collect(&self.live, scan, &mut self.pending)?;
        self.mixed = false;
        self.cursor = Some(scan.cursor);
        self.span_from = span_from;
        self.may_reset = false;
        let frames = scan.cursor.frames() - before.map_or(0, |cursor| cursor.frames());
        Ok(tail::Batch { frames, pages })
    }

    /// The cursor from which to read, and where the span of the next L0 file begins.
    fn cursor_for(&mut self, published: &Published) -> Result<(Cursor, u64), Error> {
        let lost = |reason| Error::ContinuityLost {
            path: self.live.path(),
            reason,
        };
        match self.cursor {
            Some(cursor) if cursor.salts() == published.salts => {
                if cursor.frames() > published.mx_frame {
                    return Err(lost("it is shorter than what was read of it"));
                }
                Ok((cursor, self.span_from))
            }
            _ if !self.may_reset => Err(lost("it was reset although it was held")),
            _ => {
                let header = tail::header(&mut self.live, published)?;
                let cursor = Cursor::start(&header);
                Ok((cursor, cursor.offset()))
            }
        }
    }

    /// For a wal-index that stays half-written while no writer is alive.
    fn read_unpublished(&mut self) -> Result<(), Error> {
        let Some(header) = tail::read_header(&self.live)? else {
            return Ok(());
        };
        let (cursor, span_from) = match self.cursor {
            Some(cursor) if cursor.salts() == header.salts => (cursor, self.span_from),
            Some(_) if !self.may_reset => return Ok(()), // the old generation, all read
            _ => (Cursor::start(&header), HEADER_BYTES as u64),
        };
        let scan = tail::scan_to_last_commit(&self.live, cursor, &mut self.buffer)?;
        if scan.commit.is_some() {
            self.take(&scan, span_from)?;
        }
        Ok(())
    }

    /// Captures the whole state, or what of it differs, as one L0 file; gives the number of pages.
    fn capture_state(
        &mut self,
        now: Timestamp,
        mut captured: Option<PageChecksums>,
    ) -> Result<u32, Error> {
        let mut tries = 0;
        loop {
            tries += 1;
            self.pin()?;
            self.live.link()?.begin()?;
            let done = self.capture_marked_state(now, captured.as_mut());
            let ended = self.live.link().and_then(crate::live::Link::end);
            match done {
                Err(Error::Spool {
                    source: sqlrep_spool::Error::Pages { .. },
                    ..
                }) if tries < STATE_TRIES => {}
                Err(error) => return Err(error),
                Ok(pages) => {
                    ended?;
                    let published = self.published_or_repaired()?;
                    self.settle(&published)?;
                    return Ok(pages);
                }
            }
        }
    }

    /// The inside of [`Session::capture_state`], while the read transaction marks the state.
    fn capture_marked_state(
        &mut self,
        now: Timestamp,
        captured: Option<&mut PageChecksums>,
    ) -> Result<u32, Error> {
        let published = self.published_or_repaired()?;
        let state = State::read(&mut self.live, published, &mut self.buffer)?;
        let mut from = Pgno::FIRST;
        let mut captured = captured;
        if let (Some(sums), Some(position)) = (captured.as_deref_mut(), self.spool.position()) {
            let mut page = vec![0; self.live.page_size().bytes()];
            let mut source = Source::new(&self.live, &state, Some(sums));
            let first = source
                .next(&mut page)
                .map_err(Error::io("read the pages of", self.live.path()))?;
            if first.is_none() && state.commit == position.commit {
                self.spool
                    .set_place(state.cursor.as_ref().map(position::place));
                self.begin_at(state.cursor);
                return Ok(0);
            }
            from = first.unwrap_or(Pgno::FIRST);
        }
        self.span_from = HEADER_BYTES as u64;
        let draft = self.draft(now, state.commit, state.cursor.as_ref());
        let mut source = Source::new(&self.live, &state, captured).from(from);
        let appended = self
            .spool
            .append(&draft, &mut source)
            .map_err(|e| self.spool_failed(e))?;
        drop(source);
        self.pending.clear();
        self.begin_at(state.cursor);
        Ok(appended.pages)
    }

    /// Following begins here: everything before it is captured.
    fn begin_at(&mut self, cursor: Option<Cursor>) {
        self.cursor = cursor;
        self.span_from = cursor.map_or(HEADER_BYTES as u64, |cursor| cursor.offset());
        // Without frames the first ones may come with any salts.
        self.may_reset = cursor.is_none();
        self.started = true;
        self.mixed = false;
    }

    /// Pages by which the database grew and that no frame holds (SQLite does not write free pages):
    /// what a reader of the database would see.
    fn fill_growth(&mut self, before: PageCount, after: PageCount) -> Result<(), Error> {
        let lock_page = self.live.page_size().lock_page();
        let missing: Vec<Pgno> = position::growth(before, after)
            .filter(|pgno| *pgno != lock_page && !self.pending.contains(*pgno))
            .collect();
        for pgno in missing {
            let Self { live, pending, .. } = self;
            pending
                .put(pgno, |page| snapshot::read_from_file(live, pgno, page))
                .map_err(Error::io("read new pages of", live.path()))?;
        }
        Ok(())
    }

    fn draft(&self, now: Timestamp, commit: PageCount, cursor: Option<&Cursor>) -> Draft {
        let timestamp = self
            .spool
            .position()
            .map_or(now, |at| at.timestamp.after(now));
        let wal = cursor.map_or(ltx::WalSpan::CLAIM, |cursor| ltx::WalSpan {
            offset: self.span_from,
            size: cursor.offset().saturating_sub(self.span_from),
            salts: cursor.salts(),
        });
        Draft {
            txid: self.spool.next_txid(),
            timestamp,
            page_size: self.live.page_size(),
            commit,
            wal,
            place: cursor.map(position::place),
            node_id: self.options.writer,
        }
    }

    fn empty_set(&self) -> Pending {
        let Options {
            arena_bytes,
            scratch_dir,
            ..
        } = &self.options;
        Pending::new(self.live.page_size(), *arena_bytes, scratch_dir)
    }

    /// Puts the pages of a batch that was not written beneath what was read since.
    fn take_back(&mut self, batch: &Pending) -> Result<(), Error> {
        self.pending
            .put_beneath(batch)
            .map_err(Error::io("keep the pending pages of", self.live.path()))
    }

    fn newest_entry(&self) -> Option<Entry> {
        self.spool.pending().pop()
    }

    fn spool_failed(&self, source: sqlrep_spool::Error) -> Error {
        Error::Spool {
            path: self.live.path(),
            source,
        }
    }

    fn need(&self, published: &Published) -> Option<Need> {
        let Options {
            wal_soft_bytes,
            wal_hard_bytes,
            ..
        } = self.options;
        let bounds = Bounds {
            soft_bytes: wal_soft_bytes,
            hard_bytes: wal_hard_bytes,
        };
        let lagging = published.mx_frame.saturating_sub(published.backfilled);
        let (live, lagging) = (self.bytes_of(published.mx_frame), self.bytes_of(lagging));
        let lagging = if published.is_backfilled() {
            0
        } else {
            lagging
        };
        match bounds.need(live, lagging, self.quiet_looks >= CALM_LOOKS) {
            Need::Nothing => None,
            need => Some(need),
        }
    }

    /// The size of a WAL with so many frames.
    fn bytes_of(&self, frames: u32) -> u64 {
        let frame_bytes = u64::from(self.live.page_size().get()) + 24;
        u64::from(frames) * frame_bytes + HEADER_BYTES as u64
    }
}

/// The pages of a batch, ascending. Between them the session goes on reading the WAL.
struct Batch<'a> {
    batch: &'a Pending,
    pages: std::vec::IntoIter<Pgno>,
    session: &'a mut Session,
    given: usize,
}

impl<'a> Batch<'a> {
    fn new(batch: &'a Pending, session: &'a mut Session) -> Self {
        Self {
            batch,
            pages: batch.sorted().into_iter(),
            session,
            given: 0,
        }
    }
}

impl PageSource for Batch<'_> {
    fn next(&mut self, page: &mut [u8]) -> std::io::Result<Option<Pgno>> {
        let Some(pgno) = self.pages.next() else {
            return Ok(None);
        };
        self.given += page.len();
        if self.given >= TEND_BYTES {
            self.given = 0;
            // Whatever is wrong with the WAL now, the next look tells; this batch is proven.
            if let Err(error) = self.session.step() {
                tracing::debug!(%error, "the WAL could not be read while a file was cut");
            }
        }
        self.batch.read(pgno, page)?;
        Ok(Some(pgno))
    }
}

#[cfg(test)]
mod tests;
