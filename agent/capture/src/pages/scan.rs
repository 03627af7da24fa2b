//! Reading all pages of one commit, without being in the app's way.
//!
//! The SHARED lock is held for a slice at a time. What was read in several slices is one state if
//! the stamp was the same in each: by this rule SQLite itself keeps its cache between two locks.
//! Else the scan begins anew. A slice begins when nobody writes, and ends as soon as somebody
//! begins to: an app without a busy timeout then finds the database free when it commits. Who
//! writes without a pause would never let a scan finish, so patience ends step by step, and the
//! last try is one hold from the first page to the last.

use std::time::Duration;

use sqlrep_format::{JournalMode, PageCount, PageSize, Pgno, page_checksum};
use sqlrep_spool::PageChecksums;

use crate::Error;
use crate::live::{Hot, Journaled, Keeper, Stamp, Writer};
use crate::pending::Pending;

/// What is read in one slice: some 4 ms.
const SLICE_BYTES: u64 = 8 << 20;

/// After so much a slice looks for a writer: some 30 µs, while a transaction takes longer than
/// that from its first change to its commit.
const CHUNK_BYTES: u64 = 64 << 10;

/// Pause between two tries to begin, and between two slices.
const PAUSE: Duration = Duration::from_micros(500);

/// So many tries wait for a moment in which nobody writes: 50 ms and more.
const POLITE_TRIES: u32 = 100;

/// So many tries wait for the lock at all: two seconds and more. Longer than a commit takes, and
/// than any app waits by default for another one.
const TRIES: u32 = 4000;

/// How often a scan that a writer interrupts begins anew, or makes way, before it insists.
const RESTARTS: u32 = 3;
const WAYS_MADE: u32 = 20;

const _: () = assert!(CHUNK_BYTES >= PageSize::MAX.get() as u64);

/// A state that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) stamp: Stamp,
    pub(super) commit: PageCount,
}

/// What became of a scan.
pub(super) struct Scanned {
    pub(super) state: Result<State, Error>,
    /// There was no lock to be had.
    pub(super) refused: bool,
    /// How much was read, in vain or not.
    pub(super) read_bytes: u64,
}

/// How much the app goes before us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// Nobody may be writing.
    Polite,
    /// A transaction may be under way; the one that commits goes first.
    Firm,
    /// One hold to the end.
    Insistent,
}

/// How a slice ended.
enum Slice {
    Done(State),
    /// It was long enough.
    Over,
    /// A writer came.
    MadeWay,
    /// It did not begin: somebody writes.
    Waits,
}

/// One scan.
pub(super) struct Scan<'a> {
    live: &'a Journaled,
    pending: &'a mut Pending,
    known: Option<PageChecksums>,
    page: Vec<u8>,
    state: Option<State>,
    next: Option<Pgno>,
    restarts: u32,
    ways_made: u32,
    tries: u32,
    read_bytes: u64,
}

impl<'a> Scan<'a> {
    /// Puts the pages that are not as `known` into `pending`; all when nothing is known.
    pub(super) fn new(
        live: &'a Journaled,
        pending: &'a mut Pending,
        known: Option<PageChecksums>,
    ) -> Self {
        pending.clear();
        Self {
            live,
            pending,
            known,
            page: vec![0; live.page_size().bytes()],
            state: None,
            next: Some(Pgno::FIRST),
            restarts: 0,
            ways_made: 0,
            tries: 0,
            read_bytes: 0,
        }
    }

    /// With a keeper it is all read in one go, without a lock of our own.
    pub(super) fn run(mut self, keeper: Option<Keeper>) -> Scanned {
        let (state, refused) = match keeper {
            Some(keeper) => (self.all_kept_by(keeper), false),
            None => self.all_slices(),
        };
        if state.is_err() {
            self.pending.clear();
        }
        Scanned {
            state,
            refused,
            read_bytes: self.read_bytes,
        }
    }

    fn all_slices(&mut self) -> (Result<State, Error>, bool) {
        loop {
            match self.slice(self.manner()) {
                Err(error) => return (Err(error), false),
                Ok(Slice::Done(state)) => return (Ok(state), false),
                Ok(Slice::Over) => {}
                Ok(Slice::MadeWay) => self.ways_made = self.ways_made.saturating_add(1),
                Ok(Slice::Waits) => {
                    self.tries = self.tries.saturating_add(1);
                    if self.tries >= TRIES {
                        let path = self.live.path();
                        let what = "another process keeps it locked; it is tried again";
                        return (Err(Error::Busy { path, what }), true);
                    }
                }
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// SQLite has the file as of the last commit when it gives the lock: a hot journal is undone
    /// before (<https://www.sqlite.org/lockingv3.html>, section 4.2).
    fn all_kept_by(&mut self, keeper: Keeper) -> Result<State, Error> {
        self.must_be_kept_by(keeper)?;
        let state = self.state_now(None)?;
        while self.chunk(state.commit, None)? {}
        self.must_be_kept_by(keeper)?;
        self.pending.commit_at(state.commit);
        Ok(state)
    }

    fn must_be_kept_by(&self, keeper: Keeper) -> Result<(), Error> {
        if self.live.is_kept_by(keeper)? {
            return Ok(());
        }
        Err(Error::Busy {
            path: self.live.path(),
            what: "the process that kept everybody else out does so no more",
        })
    }

    fn manner(&self) -> Manner {
        if self.restarts >= RESTARTS || self.ways_made >= WAYS_MADE {
            Manner::Insistent
        } else if self.tries >= POLITE_TRIES {
            Manner::Firm
        } else {
            Manner::Polite
        }
    }

    fn slice(&mut self, manner: Manner) -> Result<Slice, Error> {
        let live = self.live;
        if self.comes_first(manner)? {
            return Ok(Slice::Waits);
        }
        let Some(_hold) = live.hold()? else {
            return Ok(Slice::Waits);
        };
        let hot = live.hot_journal()?;
        let state = self.state_now(hot.as_ref())?;
        if self.state != Some(state) {
            if self.state.is_some() {
                self.restarts = self.restarts.saturating_add(1);
            }
            self.pending.clear();
            self.state = Some(state);
            self.next = Some(Pgno::FIRST);
        }
        let begun = self.read_bytes;
        loop {
            if !self.chunk(state.commit, hot.as_ref())? {
                self.pending.commit_at(state.commit);
                return Ok(Slice::Done(state));
            }
            if manner != Manner::Insistent {
                if self.comes_first(manner)? {
                    return Ok(Slice::MadeWay);
                }
                if self.read_bytes.saturating_sub(begun) >= SLICE_BYTES {
                    return Ok(Slice::Over);
                }
            }
        }
    }

    /// Whether a writer is to have the database now.
    fn comes_first(&self, manner: Manner) -> Result<bool, Error> {
        Ok(match manner {
            Manner::Polite => self.live.writer()? != Writer::None,
            Manner::Firm => self.live.writer()? == Writer::Pending,
            Manner::Insistent => false,
        })
    }

    /// The state under the lock.
    fn state_now(&mut self, hot: Option<&Hot>) -> Result<State, Error> {
        let live = self.live;
        let mut page = std::mem::take(&mut self.page);
        let read = read_page(live, hot, Pgno::FIRST, &mut page);
        let facts = read
            .map_err(Error::io("read", live.path()))
            .and_then(|()| live.parse(&page));
        self.page = page;
        let facts = facts?;
        if facts.journal == JournalMode::Wal {
            return Err(Error::ContinuityLost {
                path: live.path(),
                reason: "it is in WAL mode now",
            });
        }
        if facts.page_size != live.page_size() {
            return Err(Error::PageSizeChanged {
                path: live.path(),
                chain: live.page_size(),
                found: facts.page_size,
            });
        }
        let held = live.file_pages()?;
        let commit = hot.map(Hot::pages_before).or(facts.pages).or(held);
        let damaged = |reason: &str| Error::NotADatabase {
            path: live.path(),
            reason: reason.to_owned(),
        };
        let commit = commit.ok_or_else(|| damaged("it has no pages"))?;
        live.check_extent(commit)?;
        if hot.is_none() && held.is_none_or(|held| held < commit) {
            return Err(damaged(
                "it is damaged: its header counts more pages than the file holds; \
                 restore it with sqlrepctl, or check it with PRAGMA integrity_check",
            ));
        }
        Ok(State {
            stamp: facts.stamp,
            commit,
        })
    }

    /// Reads some pages. `false`: there are no more.
    fn chunk(&mut self, commit: PageCount, hot: Option<&Hot>) -> Result<bool, Error> {
        let page_bytes = u64::from(self.live.page_size().get());
        let lock_page = self.live.page_size().lock_page();
        let failed = || Error::io("read the pages of", self.live.path());
        let mut read = 0;
        while read < CHUNK_BYTES {
            let Some(pgno) = self.next.filter(|pgno| commit.contains(*pgno)) else {
                return Ok(false);
            };
            if pgno != lock_page {
                read_page(self.live, hot, pgno, &mut self.page).map_err(failed())?;
                let known = self.known.as_mut().and_then(|known| known.get(pgno));
                if known.is_none_or(|known| known != page_checksum(pgno, &self.page)) {
                    let page = &self.page;
                    let put = self.pending.put(pgno, |slot| {
                        slot.copy_from_slice(page);
                        Ok(())
                    });
                    put.map_err(failed())?;
                }
            }
            self.next = pgno.next();
            read += page_bytes;
            self.read_bytes = self.read_bytes.saturating_add(page_bytes);
        }
        Ok(true)
    }
}

/// Reads a page as of the last commit.
fn read_page(
    live: &Journaled,
    hot: Option<&Hot>,
    pgno: Pgno,
    page: &mut [u8],
) -> std::io::Result<()> {
    match hot {
        Some(hot) if hot.read_page(pgno, page)? => Ok(()),
        _ => live.read_page(pgno, page),
    }
}
