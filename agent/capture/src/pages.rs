//! One database in rollback-journal mode under capture: a plain blocking object like
//! [`crate::Session`], for databases that have no WAL to read.
//!
//! A commit is noticed by the header's change counter. Then the pages are read under SQLite's
//! SHARED lock, in slices ([`scan`]), and those whose checksum is not the one in the ledger make
//! the next L0 file. Nothing is written to the volume, and no lock is held between two scans.

mod scan;

use std::time::{Duration, SystemTime};

use sqlrep_format::{JournalMode, PageCount, Pgno, Timestamp, ltx};
use sqlrep_spool::{Draft, Entry, PageSource};

use crate::cadence::Cadence;
use crate::live::{Journaled, Keeper, LiveFile, Stamp, Whereabouts, Writer};
use crate::pending::Pending;
use crate::{Error, Look, Options, Start, Step};
use scan::{Scan, State};
use sqlrep_spool::DatabaseSpool;

/// A file that was not written to for this long would show a later write by another time: the
/// clock of a file system ticks every 1 to 10 ms.
const REST_AGE: Duration = Duration::from_millis(20);

/// The same where a file system counts whole seconds, or every other one (ext3, ext4 with small inodes,
/// FAT), which a time without a fraction may be of.
const COARSE_REST_AGE: Duration = Duration::from_millis(2_100);

/// How long the app is left in peace for each byte that was read of its database: at 1 GB/s, which
/// a slow machine reaches, reading then takes a tenth of the time at most.
const PEACE_NANOS_PER_BYTE: u64 = 10;

/// After so many cuts in a row for which there was no lock, it is not one that passes.
const REFUSALS_MAX: u32 = 10;

/// The database as it lay there when nobody was at work on it.
#[derive(Clone, Copy, Debug)]
struct Rest {
    stamp: Stamp,
    written: SystemTime,
}

/// One database in rollback-journal mode.
#[derive(Debug)]
pub struct Pages {
    live: Journaled,
    spool: DatabaseSpool,
    options: Options,
    pending: Pending,
    /// The state that the newest L0 file makes.
    captured: Option<Stamp>,
    /// The state that the last look told of.
    noticed: Option<Stamp>,
    /// The last proof that what lies in the file is whole.
    rest: Option<Rest>,
    /// It is in WAL mode now: somebody else's to follow.
    switched: bool,
    read_bytes: u64,
    refusals: u32,
}

impl Pages {
    /// Attaches to a database in rollback-journal mode.
    pub fn open(file: &LiveFile, spool: DatabaseSpool, options: Options) -> Result<Self, Error> {
        let live = Journaled::open(file)?;
        let pending = Pending::new(live.page_size(), options.arena_bytes, &options.scratch_dir);
        Ok(Self {
            live,
            spool,
            options,
            pending,
            captured: None,
            noticed: None,
            rest: None,
            switched: false,
            read_bytes: 0,
            refusals: 0,
        })
    }

    /// Captures what differs from the spool: all pages the first time.
    pub fn start(&mut self, now: Timestamp) -> Result<Start, Error> {
        let full = self.spool.must_be_full();
        if let Some(position) = self.spool.position().filter(|_| !full)
            && position.page_size != self.live.page_size()
        {
            return Err(Error::PageSizeChanged {
                path: self.live.path(),
                chain: position.page_size,
                found: self.live.page_size(),
            });
        }
        let written = match self.read_and_write(now, full) {
            Err(Error::Busy { .. }) if self.refusals > 0 => return Err(self.exclusive()),
            other => other?,
        };
        let pages = written.map_or(0, |(_, pages)| pages);
        Ok(match (full, pages) {
            (true, pages) => Start::Snapshot { pages },
            (false, 0) => Start::Resumed,
            (false, pages) => Start::Resync { pages },
        })
    }

    /// Finds out whether there was a commit. Costs a stat and a read when there was none.
    pub fn look(&mut self) -> Result<Look, Error> {
        match self.live.whereabouts() {
            Whereabouts::Replaced => return Ok(Look::Replaced),
            Whereabouts::Unlinked => return Ok(Look::Unlinked),
            Whereabouts::Here | Whereabouts::Bare => {}
        }
        // Asked first: a commit that the header does not show by then begins after this look, and there is a
        // hint of it.
        let writer = self.live.writer()?;
        // Without the lock a header is a hint: it may be in the middle of being written.
        let Ok(facts) = self.live.facts() else {
            return Ok(Look::Uncommitted);
        };
        if facts.journal == JournalMode::Wal {
            self.switched = true;
            return Ok(Look::Replaced);
        }
        if self.noticed != Some(facts.stamp) {
            self.noticed = Some(facts.stamp);
            if self.captured != Some(facts.stamp) {
                return Ok(Look::New);
            }
        }
        if writer != Writer::None {
            return Ok(Look::Uncommitted);
        }
        self.note_rest()?;
        Ok(Look::Quiet)
    }

    /// Says whether there is something to cut. The pages are read by [`Pages::cut`]: once per
    /// file, however many commits it covers.
    pub fn step(&mut self) -> Result<Step, Error> {
        let changed = match self.live.facts() {
            Ok(facts) => self.captured != Some(facts.stamp),
            Err(_) => true, // the scan says what is wrong
        };
        Ok(Step {
            frames: u32::from(changed),
            pages: 0,
            bytes: 0,
        })
    }

    /// Reads the pages that differ and makes them an L0 file; `None` when none does.
    pub fn cut(&mut self, now: Timestamp) -> Result<Option<Entry>, Error> {
        if self.switched || (self.step()?.frames == 0 && !self.spool.must_be_full()) {
            return Ok(None);
        }
        let full = self.spool.must_be_full();
        match self.read_and_write(now, full) {
            Err(Error::Busy { .. }) if self.refusals >= REFUSALS_MAX => Err(self.exclusive()),
            other => Ok(other?.map(|(entry, _)| entry)),
        }
    }

    /// Captures the last commit while a process of our own keeps everybody else out.
    pub fn seal(&mut self, now: Timestamp, keeper: Keeper) -> Result<Option<Entry>, Error> {
        if self.switched {
            return Err(Error::ContinuityLost {
                path: self.live.path(),
                reason: "it is in WAL mode now",
            });
        }
        let full = self.spool.must_be_full();
        let written = self.read_kept_by(Some(keeper), now, full)?;
        Ok(written.map(|(entry, _)| entry))
    }

    /// Writes the whole database as the next L0 file.
    pub fn snapshot(&mut self, now: Timestamp) -> Result<Option<Entry>, Error> {
        Ok(self.read_and_write(now, true)?.map(|(entry, _)| entry))
    }

    /// Captures the last commit and lets go of everything. When the directory is gone already, the
    /// state in the file counts if it is known to be whole.
    pub fn drain(mut self, now: Timestamp) -> Result<Option<Entry>, Error> {
        self.spool.ending();
        self.cut(now)
    }

    /// How long a follower may wait before it looks again.
    pub fn pause(&self) -> Duration {
        Cadence::BUSY
    }

    /// How long the app is to be left in peace after the last cut.
    pub fn peace(&self) -> Duration {
        Duration::from_nanos(self.read_bytes.saturating_mul(PEACE_NANOS_PER_BYTE))
    }

    /// The size of the database after the last cut.
    pub fn size_bytes(&self) -> u64 {
        let pages = self.spool.position().map(|position| position.commit);
        pages.map_or(0, |pages| pages.file_bytes(self.live.page_size()))
    }

    /// The owner, the group and the permission bits of the database file.
    pub fn ownership(&self) -> (u32, u32, u32) {
        self.live.ownership()
    }

    /// How many names the database file has: one, unless somebody made a hard link to it.
    pub fn names(&self) -> u64 {
        self.live.names()
    }

    /// Gives back memory: for when looks and cuts have come to an end.
    pub fn relax(&mut self) {
        self.pending.relax();
    }
}

/// The parts of the calls above.
impl Pages {
    fn exclusive(&self) -> Error {
        Error::Unsupported {
            path: self.live.path(),
            mode: "delete, and another process keeps it locked",
            hint: "if the application sets PRAGMA locking_mode=EXCLUSIVE, set NORMAL there; if it \
                   is in one long transaction, nothing is to be done",
        }
    }

    /// Remembers that the file is whole, if nobody is at work on it and has not been for a while.
    fn note_rest(&mut self) -> Result<(), Error> {
        let (written, age) = self.live.last_write()?;
        if age < rest_age(written) || self.rest.is_some_and(|rest| rest.written == written) {
            return Ok(());
        }
        let Some(_hold) = self.live.hold()? else {
            return Ok(());
        };
        if self.live.writer()? != Writer::None || self.live.hot_journal()?.is_some() {
            return Ok(());
        }
        let facts = self.live.facts()?;
        if self.live.last_write()?.0 == written {
            self.rest = Some(Rest {
                stamp: facts.stamp,
                written,
            });
        }
        Ok(())
    }

    /// Whether the path leads to the file, or else its content is known to be whole. The journal
    /// that would tell goes with the directory.
    fn is_vouched_for(&self) -> Result<bool, Error> {
        if self.live.whereabouts() == Whereabouts::Here {
            return Ok(true);
        }
        let written = self.live.last_write()?.0;
        let stamp = self.live.facts()?.stamp;
        let is_whole = |rest: Rest| rest.written == written && rest.stamp == stamp;
        Ok(self.rest.is_some_and(is_whole))
    }

    /// One scan, and the L0 file of what it found; the file, and how many pages it holds.
    fn read_and_write(
        &mut self,
        now: Timestamp,
        full: bool,
    ) -> Result<Option<(Entry, u32)>, Error> {
        self.read_kept_by(None, now, full)
    }

    fn read_kept_by(
        &mut self,
        keeper: Option<Keeper>,
        now: Timestamp,
        full: bool,
    ) -> Result<Option<(Entry, u32)>, Error> {
        self.noticed = None; // if this comes to nothing, the next look says so again
        if !self.is_vouched_for()? {
            tracing::warn!(
                path = %self.live.path().display(),
                "the directory went before the last commit was seen to be whole: what came after \
                 the last file is not captured"
            );
            return Ok(None);
        }
        let known = (!full).then(|| self.spool.page_checksums());
        let scanned = Scan::new(&self.live, &mut self.pending, known).run(keeper);
        self.read_bytes = scanned.read_bytes;
        let state = match scanned.state {
            Ok(state) => state,
            Err(error) => {
                self.refusals = self.refusals.saturating_add(u32::from(scanned.refused));
                return Err(error);
            }
        };
        self.refusals = 0;
        // A journal that was removed with the directory looks like one that was never there.
        if !self.is_vouched_for()? {
            return Ok(None);
        }
        self.write(now, &state)
    }

    fn write(&mut self, now: Timestamp, state: &State) -> Result<Option<(Entry, u32)>, Error> {
        let position = self.spool.position();
        let same_size = position.is_some_and(|position| position.commit == state.commit);
        let mut written = None;
        if self.pending.pages() > 0 || !same_size {
            let draft = self.draft(now, state.commit);
            let mut source = Sorted {
                pages: self.pending.sorted().into_iter(),
                pending: &self.pending,
            };
            let appended = self.spool.append(&draft, &mut source);
            let appended = appended.map_err(|source| Error::Spool {
                path: self.live.path(),
                source,
            });
            let appended = appended?;
            written = Some((appended.entry, appended.pages));
        }
        self.pending.clear();
        self.captured = Some(state.stamp);
        self.noticed = Some(state.stamp);
        Ok(written)
    }

    fn draft(&self, now: Timestamp, commit: PageCount) -> Draft {
        let position = self.spool.position();
        Draft {
            txid: self.spool.next_txid(),
            timestamp: position.map_or(now, |at| at.timestamp.after(now)),
            page_size: self.live.page_size(),
            commit,
            wal: ltx::WalSpan::CLAIM,
            place: None,
            node_id: self.options.writer,
        }
    }
}

/// After how long a later write would show by another time.
fn rest_age(written: SystemTime) -> Duration {
    let since = written.duration_since(SystemTime::UNIX_EPOCH);
    match since.unwrap_or_default().subsec_nanos() {
        0 => COARSE_REST_AGE,
        _ => REST_AGE,
    }
}

/// The pending pages, ascending.
struct Sorted<'a> {
    pages: std::vec::IntoIter<Pgno>,
    pending: &'a Pending,
}

impl PageSource for Sorted<'_> {
    fn next(&mut self, page: &mut [u8]) -> std::io::Result<Option<Pgno>> {
        let Some(pgno) = self.pages.next() else {
            return Ok(None);
        };
        self.pending.read(pgno, page)?;
        Ok(Some(pgno))
    }
}

#[cfg(test)]
mod tests;
