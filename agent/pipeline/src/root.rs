//! The watch over the replica root: is it there, is it ours, may we write?
//!
//! A NAS share that is not mounted looks like an empty directory, and an export can be swapped for
//! an empty file system without any error. So the root carries a marker with an id, the node
//! remembers the id, and nothing is written or restored while they do not agree (DESIGN §4.2).

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use sqlrep_replica::durable::{Base, Place};
use sqlrep_replica::root::{self, RootError, RootId};
use sqlrep_spool::Spool;

/// What was last seen of the root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RootHealth {
    /// The id, once it was seen.
    pub id: Option<String>,
    /// Why it cannot be used now.
    pub problem: Option<String>,
    /// Whether it can do what a replica needs, as last tried; `None` before that.
    pub probe: Option<Result<RootProbe, String>>,
}

/// What the last try on the root came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootProbe {
    /// How long it took to publish two files and to remove one.
    pub took: Duration,
    /// How far the root's clock is ahead of this node's.
    pub ahead_ms: i64,
}

/// What the cluster remembers of the root's id. It is the truth where there is one: a node that
/// never saw the root knows by it a share that is not mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootMemory {
    /// There is no cluster: the node's own memory is all there is.
    Node,
    /// It does not say, and why.
    Unknown(String),
    /// It remembers none.
    Nobody,
    /// It remembers this one.
    Id(RootId),
}

/// Checks the root; clones share what was seen.
#[derive(Clone, Debug)]
pub(crate) struct RootWatch {
    path: PathBuf,
    /// What was found to be it. A call that hung may go on when the path leads elsewhere.
    base: Base,
    spool: Arc<Spool>,
    seen: Arc<Mutex<RootHealth>>,
    cluster: Arc<Mutex<RootMemory>>,
}

impl RootWatch {
    pub(crate) fn new(path: PathBuf, spool: Arc<Spool>) -> Self {
        let seen = RootHealth {
            id: None,
            problem: Some("not checked yet".to_owned()),
            probe: None,
        };
        Self {
            base: Base::of_root(&path),
            path,
            spool,
            seen: Arc::new(Mutex::new(seen)),
            cluster: Arc::new(Mutex::new(RootMemory::Node)),
        }
    }

    /// From now on this is what the cluster remembers.
    pub(crate) fn set_cluster(&self, memory: RootMemory) {
        *self.cluster.lock().unwrap_or_else(PoisonError::into_inner) = memory;
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A directory in it, as it was found by the last check that found it.
    pub(crate) fn place(&self, below: impl AsRef<Path>) -> Place {
        Place::beneath(&self.base, below)
    }

    /// What the last check found.
    pub(crate) fn health(&self) -> RootHealth {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Reads the marker. Blocking: only on a lane.
    ///
    /// An empty root that nobody remembers is initialised; every other disagreement is an error.
    pub(crate) fn check(&self) -> Result<RootId, RootError> {
        let node = self.remembered();
        let checked = self.expected(node).and_then(|expected| {
            let dir = root::open(&self.path)?;
            let id = root::check_open(&dir, expected.as_ref())?;
            self.base.hold(dir);
            Ok(id)
        });
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match &checked {
            Ok(id) => {
                if node != Some(*id) {
                    self.remember(id);
                }
                (seen.id, seen.problem) = (Some(id.to_string()), None);
            }
            Err(error) => {
                let problem = error.to_string();
                if seen.problem.as_ref() != Some(&problem) {
                    tracing::warn!(root = %self.path.display(), err = %problem, "replica root");
                }
                seen.problem = Some(problem);
            }
        }
        checked
    }

    /// Tries whether the root can do what a replica needs. Blocking: only on a lane.
    pub(crate) fn probe(&self, node: &str) {
        let (before, begun) = (SystemTime::now(), Instant::now());
        // As everything else: what was found to be it, not what its path leads to by now.
        let held = self.base.dir().map_err(|source| RootError::Io {
            action: "open",
            path: self.path.clone(),
            source,
        });
        let probed = held.and_then(|dir| root::probe(&dir, node));
        let probed = probed.map(|modified| {
            let took = begun.elapsed();
            // The file was made some time between then and now.
            let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
            let ahead_ms = match modified.duration_since(before) {
                Ok(ahead) => millis(ahead.saturating_sub(took)),
                Err(behind) => -millis(behind.duration()),
            };
            RootProbe { took, ahead_ms }
        });
        if let Err(error) = &probed {
            tracing::warn!(root = %self.path.display(), err = %error, "replica root");
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.probe = Some(probed.map_err(|error| error.to_string()));
    }

    /// Which id the root must have; `None` where it may be any, or a new one.
    fn expected(&self, node: Option<RootId>) -> Result<Option<RootId>, RootError> {
        let cluster = self.cluster.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*cluster, node) {
            (RootMemory::Id(id), _) => Ok(Some(*id)),
            (RootMemory::Node | RootMemory::Nobody, node) => Ok(node),
            (RootMemory::Unknown(_), Some(id)) => Ok(Some(id)),
            (RootMemory::Unknown(reason), None) => Err(RootError::Unconfirmed {
                path: self.path.clone(),
                reason: reason.clone(),
            }),
        }
    }

    /// The id in the state directory. One that cannot be read is not the same as none: the root is
    /// then taken as it is, but never initialised (`root::check` with an id of its own).
    fn remembered(&self) -> Option<RootId> {
        self.spool.remembered_root().unwrap_or_else(|error| {
            tracing::warn!(err = %error, "the remembered id of the replica root cannot be read");
            None
        })
    }

    fn remember(&self, id: &RootId) {
        match self.spool.remember_root(id) {
            Ok(()) => {
                tracing::info!(root = %self.path.display(), id = %id, "replica root is known");
            }
            // The root works; only a swap while the agent is down would go unnoticed.
            Err(error) => tracing::warn!(err = %error, "cannot remember the replica root's id"),
        }
    }
}
