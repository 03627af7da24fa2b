//! How an agent ends, and what it finds that one before it left.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sqlrep_replica::DbId;
use sqlrep_spool::{DatabaseSpool, Held, PodNote};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::{Context, Fleet, drain_all, lock};
use crate::database::{Ask, Database, Handle, Origin};
use crate::home::Home;
use crate::status::{DatabaseStatus, State};
use crate::target::TargetWatch;
use crate::{Key, Medium, PodIdentity, RestorePolicy, Settings, Volume, limits};

/// What a shutdown left behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DrainReport {
    /// Databases that are fully on the replica.
    pub drained: usize,
    /// Databases whose tail waits in the spool; it is shipped at the next start.
    pub left: Vec<DbId>,
}

impl Fleet {
    /// Comes to rest, for an agent that is about to end; captures go on meanwhile. Pods that
    /// terminate are followed to their end, within `endings`, because the next agent may come too
    /// late for them. Then their tails are shipped, within the drain timeout, and what living pods
    /// have committed so far.
    pub async fn settle(&self, endings: Duration) {
        let drain_timeout = self.context.config.drain_timeout;
        let over = wait_until(|| lock(&self.context.endings).is_empty());
        if timeout(endings.min(drain_timeout), over).await.is_err() {
            tracing::warn!("pods that terminate are left to the next agent of this node");
        }
        let gone = wait_until(|| {
            !self.context.board.list().iter().any(is_draining) && !self.context.is_giving_back()
        });
        let handles = self.handles(|_| true);
        let living = ship_all(&handles);
        let shipped = tokio::join!(
            timeout(drain_timeout, gone),
            timeout(limits::SHUTDOWN_SHIP.min(drain_timeout), living)
        );
        if shipped.0.is_err() {
            tracing::warn!("drain timeout: what is left ships at the next start");
        }
    }

    /// Ends: captures every tail, ships for a moment, and leaves the rest in the spool for the next
    /// start.
    pub async fn shutdown(self) -> DrainReport {
        let drain_timeout = self.context.config.drain_timeout;
        let handles = self.handles(|_| true);
        self.context.tracker.close();
        let ended = async {
            drain_all(&handles, Ask::Shutdown).await;
            self.context.tracker.wait().await;
        };
        if timeout(drain_timeout, ended).await.is_err() {
            tracing::error!("a disk of this node hangs: tails were not captured");
        }
        // What is not given back by then is by the next agent.
        let given = wait_until(|| !self.context.is_giving_back());
        drop(timeout(limits::LOOKUP_TIMEOUT, given).await);
        let left: Vec<DbId> = self
            .context
            .actors()
            .values()
            .map(|handle| handle.id.clone())
            .collect();
        DrainReport {
            drained: handles.len().saturating_sub(left.len()),
            left,
        }
    }

    /// Tails in the spool whose pods are gone: they are shipped and their replicas released.
    pub(super) fn ship_orphans(&self) {
        for Held { id, pod_uid, .. } in self.held() {
            if !self.context.lives(&pod_uid) && self.holds_something(&id, &pod_uid) {
                self.ship_orphan(&id, &pod_uid);
            }
        }
    }

    /// The same for a pod that this agent knew, and whose files were gone before they were found:
    /// what the agent before this one captured of it.
    pub(super) fn ship_left_behind(&self, pod_uid: &str) {
        for Held { id, .. } in self
            .held()
            .into_iter()
            .filter(|held| held.pod_uid == pod_uid)
        {
            let of_it = |key: &Key| {
                (
                    key.pod_uid.as_str(),
                    key.volume.as_str(),
                    key.path.as_path(),
                ) == (pod_uid, id.volume(), id.path())
            };
            let known = self.context.was_restored(pod_uid, &id)
                || !self.handles(of_it).is_empty()
                || self.context.is_left(&left_key(&id, pod_uid));
            if !known && self.holds_something(&id, pod_uid) {
                self.ship_orphan(&id, pod_uid);
            }
        }
    }

    pub(super) fn held(&self) -> Vec<Held> {
        self.context.spool.databases().unwrap_or_else(|error| {
            tracing::error!(err = %error, "cannot look for tails of pods that are gone");
            Vec::new()
        })
    }

    /// Whether a gone pod left something to ship. Commits are missing unless it had been read to
    /// the end before it went.
    fn holds_something(&self, id: &DbId, pod_uid: &str) -> bool {
        let Ok(spool) = self.context.spool.database(id, pod_uid) else {
            return true; // and why not is told when that is tried
        };
        let read = spool.position().map(|position| position.txid.to_string());
        let holds = read.is_some();
        if !spool.end_is_known() {
            let read = read.unwrap_or_else(|| "0".to_owned());
            let what = format!(
                "pod {pod_uid} ended while no agent followed it; what it may have committed after \
                 TXID {read} is lost"
            );
            self.context.note_unread_end(id, &what);
            if let Err(error) = spool.note_end() {
                tracing::warn!(db = %id, err = %error, "the next agent will say it again");
            }
        }
        if !holds && let Err(error) = spool.retire() {
            tracing::warn!(db = %id, err = %error, "cannot clear the spool of a gone pod");
        }
        holds
    }

    /// The spool of a pod that is gone is emptied into its replica, if that can be reached.
    pub(super) fn ship_orphan(&self, id: &DbId, pod_uid: &str) {
        let spool = match self.context.spool.database(id, pod_uid) {
            Ok(spool) => spool,
            Err(error) => {
                tracing::error!(db = %id, err = %error, "cannot open the spool of a gone pod");
                return;
            }
        };
        let in_target = spool.pod_note().is_some_and(|note| note.target.is_some());
        let home = if in_target {
            self.context.target_of(pod_uid)
        } else {
            Some(self.context.home.clone())
        };
        match home {
            Some(home) => self.context.ship_orphan_to(id, spool, home),
            None => self.context.leave(&left_key(id, pod_uid), id, &spool),
        }
    }
}

impl Context {
    pub(super) fn ship_orphan_to(self: &Arc<Self>, id: &DbId, spool: DatabaseSpool, home: Home) {
        let volume = orphan(id, &spool, self.config.defaults);
        let (key, pod_uid) = (Key::new(&volume, id.path()), volume.pod.uid.clone());
        let mut actors = self.actors();
        let gone = home.target().is_some_and(TargetWatch::is_let_go);
        if gone || actors.contains_key(&key) {
            return;
        }
        let pod = &volume.pod.name;
        tracing::info!(db = %id, %pod, pod_uid, "a pod that is gone left a replica to release");
        self.board
            .put(&key, DatabaseStatus::new(id.clone(), pod, &pod_uid));
        let actor = Database::start(self, volume, (id.clone(), spool), home, Origin::Orphan);
        actors.insert(key.clone(), actor);
        self.take_up(&key);
    }
}

/// The key of a database that only exists in the spool any more.
pub(super) fn left_key(id: &DbId, pod_uid: &str) -> Key {
    Key {
        pod_uid: pod_uid.to_owned(),
        volume: id.volume().to_owned(),
        path: id.path().to_path_buf(),
    }
}

async fn wait_until(is_so: impl Fn() -> bool) {
    while !is_so() {
        sleep(limits::ENDINGS_LOOK).await;
    }
}

/// Its pod is gone, and its tail on the way; one that the share refuses is stalled instead.
fn is_draining(row: &DatabaseStatus) -> bool {
    row.state == State::Draining
}

/// Asks all at once, then waits until what was committed by then is on the replica.
async fn ship_all(handles: &[Handle]) {
    let mut shipped = Vec::with_capacity(handles.len());
    for handle in handles {
        let (reply, done) = oneshot::channel();
        // An actor that has ended has nothing to ship.
        drop(handle.asks.send(Ask::Ship(reply)).await);
        shipped.push(done);
    }
    for done in shipped {
        // What cannot be shipped is left to the next agent.
        drop(done.await);
    }
}

/// A volume that only exists in the spool any more.
fn orphan(id: &DbId, spool: &DatabaseSpool, settings: Settings) -> Volume {
    let pod_uid = spool.pod_uid();
    let note = spool.pod_note().unwrap_or_else(|| PodNote {
        name: format!("gone-{pod_uid}"),
        namespace_uid: None,
        target: None,
    });
    Volume {
        pod: PodIdentity {
            namespace: id.namespace().to_owned(),
            app: id.app().to_owned(),
            name: note.name,
            uid: pod_uid.to_owned(),
            namespace_uid: note.namespace_uid,
        },
        name: id.volume().to_owned(),
        dir: PathBuf::new(),
        medium: Medium::Disk,
        settings,
        bytes_max: None,
        restore: RestorePolicy::Never,
        journal: crate::JournalPolicy::Keep,
        user: None,
        target: None,
    }
}
