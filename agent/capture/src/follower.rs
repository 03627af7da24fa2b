//! A database under capture, whatever its journal mode.

use std::time::Duration;

use sqlrep_format::Timestamp;
use sqlrep_spool::{DatabaseSpool, Entry};

use crate::checkpoint::Checkpoint;
use crate::live::{Keeper, LiveFile, Probe, probe};
use crate::pages::Pages;
use crate::session::{Look, Options, Session, Start, Step};
use crate::{Error, init};

/// Follows one database in the way that its journal mode asks for. When that changes the look says
/// [`Look::Replaced`]: open another one.
#[derive(Debug)]
pub enum Follower {
    /// By its WAL.
    Wal(Box<Session>),
    /// By its pages.
    Pages(Box<Pages>),
}

impl Follower {
    /// Attaches to a database in any journal mode.
    pub fn open(
        file: &LiveFile,
        spool: DatabaseSpool,
        options: Options,
        now: Timestamp,
    ) -> Result<Self, Error> {
        init()?;
        // Where it changes in between, both refuse, and the caller tries again.
        Ok(match probe(file)? {
            Probe::Rollback { .. } => Self::Pages(Box::new(Pages::open(file, spool, options)?)),
            _ => Self::Wal(Box::new(Session::open(file, spool, options, now)?)),
        })
    }

    /// See [`Session::start`].
    pub fn start(&mut self, now: Timestamp) -> Result<Start, Error> {
        match self {
            Self::Wal(session) => session.start(now),
            Self::Pages(pages) => pages.start(now),
        }
    }

    /// See [`Session::look`].
    pub fn look(&mut self) -> Result<Look, Error> {
        match self {
            Self::Wal(session) => session.look(),
            Self::Pages(pages) => pages.look(),
        }
    }

    /// See [`Session::step`].
    pub fn step(&mut self) -> Result<Step, Error> {
        match self {
            Self::Wal(session) => session.step(),
            Self::Pages(pages) => pages.step(),
        }
    }

    /// See [`Session::pause`].
    pub fn pause(&self) -> Duration {
        match self {
            Self::Wal(session) => session.pause(),
            Self::Pages(pages) => pages.pause(),
        }
    }

    /// How long the next cut has to wait, for the app to be left in peace.
    pub fn peace(&self) -> Duration {
        match self {
            Self::Wal(_) => Duration::ZERO,
            Self::Pages(pages) => pages.peace(),
        }
    }

    /// Whether pages that were read wait to be cut.
    pub fn has_pending(&self) -> bool {
        match self {
            Self::Wal(session) => session.pending_pages() > 0,
            Self::Pages(_) => false, // they are read when they are cut
        }
    }

    /// See [`Session::cut`].
    pub fn cut(&mut self, now: Timestamp) -> Result<Option<Entry>, Error> {
        match self {
            Self::Wal(session) => session.cut(now),
            Self::Pages(pages) => pages.cut(now),
        }
    }

    /// Cuts the last commit while a process of our own keeps everybody else from committing,
    /// after a step. `None`: it was on record already.
    pub fn seal(&mut self, now: Timestamp, keeper: Keeper) -> Result<Option<Entry>, Error> {
        match self {
            // What a WAL holds is read beside any lock.
            Self::Wal(session) => session.cut(now),
            Self::Pages(pages) => pages.seal(now, keeper),
        }
    }

    /// See [`Session::snapshot`].
    pub fn snapshot(&mut self, now: Timestamp) -> Result<Option<Entry>, Error> {
        match self {
            Self::Wal(session) => session.snapshot(now),
            Self::Pages(pages) => pages.snapshot(now),
        }
    }

    /// See [`Session::checkpoint`]; without a WAL there is none.
    pub fn checkpoint(&mut self) -> Result<Option<Checkpoint>, Error> {
        match self {
            Self::Wal(session) => session.checkpoint(),
            Self::Pages(_) => Ok(None),
        }
    }

    /// See [`Session::relax`].
    pub fn relax(&mut self) {
        match self {
            Self::Wal(session) => session.relax(),
            Self::Pages(pages) => pages.relax(),
        }
    }

    /// See [`Session::drain`].
    pub fn drain(self, now: Timestamp) -> Result<Option<Entry>, Error> {
        match self {
            Self::Wal(session) => session.drain(now),
            Self::Pages(pages) => pages.drain(now),
        }
    }

    /// See [`Session::size_bytes`].
    pub fn size_bytes(&self) -> u64 {
        match self {
            Self::Wal(session) => session.size_bytes(),
            Self::Pages(pages) => pages.size_bytes(),
        }
    }

    /// See [`Session::wal_bytes`]; without a WAL it has none.
    pub fn wal_bytes(&self) -> u64 {
        match self {
            Self::Wal(session) => session.wal_bytes(),
            Self::Pages(_) => 0,
        }
    }

    /// See [`Session::names`].
    pub fn names(&self) -> u64 {
        match self {
            Self::Wal(session) => session.names(),
            Self::Pages(pages) => pages.names(),
        }
    }

    /// See [`Session::ownership`].
    pub fn ownership(&self) -> (u32, u32, u32) {
        match self {
            Self::Wal(session) => session.ownership(),
            Self::Pages(pages) => pages.ownership(),
        }
    }
}
