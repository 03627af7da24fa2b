//! Volumes of pods that hold replicas: opened for a pod, let go of when its tail is shipped.

use std::sync::Arc;

use sqlrep_format::Txid;
use sqlrep_replica::{DbId, Moved};
use sqlrep_spool::{DatabaseSpool, Held, VolumeNote};
use tokio::time::{Instant, sleep_until};

use super::{Context, Fleet, drain_all, lock};
use crate::database::Ask;
use crate::error::StageError;
use crate::home::Home;
use crate::stage::elsewhere::note;
use crate::status::{DatabaseStatus, State};
use crate::target::{TargetWatch, confirm};
use crate::{Key, Volume, limits};

/// Whether what lies on the agents' share was compared with what is in a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compared {
    /// It is not newer.
    Yes,
    /// Nobody looked.
    No,
}

impl Context {
    /// Leaves a note on the agents' share that a replica is kept in a volume, for the day on which
    /// its pod does not name that volume any more. A share that is away is not waited for.
    pub(crate) async fn note_moved(&self, home: &Home, id: &DbId, head: Txid, compared: Compared) {
        let target = home.target().map(TargetWatch::volume);
        let Some((volume, place)) = target.and_then(|at| Some((at, at.place.as_ref().ok()?)))
        else {
            return;
        };
        let mut moved = Moved::new(&volume.name, &place.key, &self.config.node);
        moved.head = Some(head);
        let (share, noted) = (self.home.clone(), id.clone());
        let job = move || note(&share, &noted, moved, compared == Compared::Yes);
        let done = self.home.bulk().run(limits::LOOKUP_TIMEOUT, job).await;
        if let Err(error) = done.map_err(StageError::from).and_then(|done| done) {
            tracing::warn!(
                db = %id, err = %error.text(),
                "the agents' share does not say yet that this replica is kept in a volume"
            );
        }
    }

    /// Where the replicas of a volume of a pod live.
    pub(crate) fn home_of(&self, volume: &Volume) -> Result<Home, StageError> {
        let Some(target) = &volume.target else {
            return Ok(self.home.clone());
        };
        let mut targets = lock(&self.targets);
        if let Some(home) = targets.get(&volume.pod.uid)
            && home.target().is_some_and(|watch| watch.volume() == target)
        {
            return Ok(home.clone());
        }
        let (spool, memory) = (Arc::clone(&self.spool), Arc::clone(&self.config.targets));
        let namespace = volume.pod.namespace.clone();
        let watch = TargetWatch::new(target.clone(), namespace, spool, memory);
        let home = Home::volume(watch, self.nfs.clone()).map_err(|source| StageError::Io {
            action: "start threads for",
            path: volume.dir.clone(),
            source,
        })?;
        tokio::spawn(confirm(home.downgrade()));
        targets.insert(volume.pod.uid.clone(), home.clone());
        Ok(home)
    }

    /// The volume of a pod that holds its replicas, as long as it is held.
    pub(crate) fn target_of(&self, pod_uid: &str) -> Option<Home> {
        lock(&self.targets).get(pod_uid).cloned()
    }

    /// Where the replica of a database lives, as far as this node knows.
    pub(crate) fn home_by(&self, id: &DbId) -> Home {
        let keys = self.board.keys_of(id);
        let target = keys.iter().find_map(|key| self.target_of(&key.pod_uid));
        target.unwrap_or_else(|| self.home.clone())
    }

    /// The tail of a database waits in the spool until a pod brings the volume back. An actor of it
    /// ends with this.
    pub(crate) fn leave(&self, key: &Key, id: &DbId, spool: &DatabaseSpool) {
        let pending = spool.pending_bytes();
        let first = spool.first_pending().map(|entry| entry.txid);
        let reason = match first {
            Some(txid) => format!(
                "TXID {txid} and what follows ({pending} bytes) were not shipped before the volume \
                 of the pod that holds the replica was let go of; they wait in the spool of node {}",
                self.config.node
            ),
            None => {
                "its pod is gone, and its replica with it, which has not been released".to_owned()
            }
        };
        tracing::error!(db = %id, "{reason}");
        let pod = spool.pod_note().map_or_else(String::new, |note| note.name);
        let mut row = DatabaseStatus::new(id.clone(), &pod, &key.pod_uid);
        row.in_volume = true;
        row.state = State::Stalled;
        row.pending_bytes = pending;
        row.txid = spool.position().map(|position| position.txid);
        row.reason = Some(reason);
        row.hint = Some(format!(
            "it goes out before the next pod on node {} that mounts that volume starts: have one of \
             this app scheduled there (onto a branch, if another pod went on without it); to give \
             it up, delete {} on that node and restart its agent",
            self.config.node,
            spool.dir().display()
        ));
        // At no moment is it neither followed nor left: whoever asks then would take it for shipped.
        lock(&self.left).insert(key.clone());
        self.actors().remove(key);
        self.board.put(key, row);
    }

    /// Whether that is so.
    pub(crate) fn is_left(&self, key: &Key) -> bool {
        lock(&self.left).contains(key)
    }

    /// Why nothing can be taken over of a database of which only a tail is left here, and what can be
    /// done; nothing where a pod of it waits.
    pub(crate) fn left_in_spool(&self, id: &DbId) -> Option<String> {
        let keys = self.board.keys_of(id);
        let (left, others): (Vec<_>, Vec<_>) = keys.iter().partition(|key| self.is_left(key));
        let row = left.first().and_then(|key| self.board.get(key));
        let row = row.filter(|_| others.is_empty())?;
        let words = [row.reason, row.hint].into_iter().flatten();
        Some(format!("{id}: {}", words.collect::<Vec<_>>().join("; ")))
    }

    /// It is on its way again.
    pub(super) fn take_up(&self, key: &Key) {
        lock(&self.left).remove(key);
    }

    /// Ships what was left to that volume in another pod that has it here. That pod may have come
    /// while the one that ended was still held on to, and nothing else would look again.
    pub(crate) fn ship_elsewhere(self: &Arc<Self>, id: &DbId, pod_uid: &str) {
        let Ok(spool) = self.spool.database(id, pod_uid) else {
            return; // why not is told when a pod brings the volume again
        };
        let Some(meant) = spool.pod_note().and_then(|note| note.target) else {
            return;
        };
        let targets = lock(&self.targets);
        let fits = |home: &&Home| {
            home.target().is_some_and(|watch| {
                watch.namespace() == id.namespace()
                    && watch.key() == Some(&*meant)
                    && !watch.is_let_go()
            })
        };
        let mut others = targets.iter().filter(|(uid, _)| *uid != pod_uid);
        let home = others
            .find_map(|(_, home)| Some(home).filter(fits))
            .cloned();
        drop(targets);
        if let Some(home) = home {
            self.ship_orphan_to(id, spool, home);
        }
    }

    /// A pod's volume is not its home any more. Another may stand there: a pod whose volume in memory
    /// came to rest and was written to.
    fn forget_target(&self, pod_uid: &str, home: &Home) {
        let mut targets = lock(&self.targets);
        if targets.get(pod_uid).is_some_and(|held| held.is(home)) {
            targets.remove(pod_uid);
        }
    }

    /// Whether something is on its way to this volume.
    fn is_used(&self, home: &Home) -> bool {
        self.actors().values().any(|handle| handle.home.is(home))
    }
}

impl Fleet {
    /// Has what earlier pods left in the spool for this volume shipped to it, now that a pod of theirs,
    /// or of another app that shares it, has brought it here again.
    pub(crate) fn ship_left(&self, volume: &Volume, home: &Home) {
        let key = home.target().and_then(TargetWatch::key);
        for Held { id, pod_uid, .. } in self.held() {
            let pod = &volume.pod;
            let same = id.namespace() == pod.namespace;
            if !same || pod_uid == pod.uid || self.context.lives(&pod_uid) {
                continue;
            }
            let Ok(spool) = self.context.spool.database(&id, &pod_uid) else {
                continue; // why not is told where it was left
            };
            let meant = spool.pod_note().and_then(|note| note.target);
            if meant.is_some() && meant.as_deref() == key {
                self.context.ship_orphan_to(&id, spool, home.clone());
            }
        }
    }

    /// Lets go of the volume that holds a pod's replicas as soon as nothing is on its way to it, at
    /// the latest after the drain timeout: until then the kubelet cannot unmount it. What other pods
    /// left for it waits on then.
    pub(super) fn let_go_of_target(&self, pod_uid: &str, had: Vec<VolumeNote>) {
        let Some(home) = self.context.target_of(pod_uid) else {
            return;
        };
        let (fleet, pod_uid) = (self.clone(), pod_uid.to_owned());
        let until = Instant::now() + self.context.config.drain_timeout;
        tokio::spawn(async move {
            let context = &fleet.context;
            let mut changes = context.board.changes();
            while context.is_used(&home) {
                tokio::select! {
                    _ = changes.changed() => {}
                    () = sleep_until(until) => break,
                }
            }
            context.forget_target(&pod_uid, &home);
            if !context.is_used(&home) {
                give_back(&home, had, until).await;
            }
            if let Some(watch) = home.target() {
                watch.let_go();
            }
            // From here on nobody begins with it; whoever still has it cannot get on.
            let mut users = fleet.handles(|_| true);
            users.retain(|handle| handle.home.is(&home));
            drain_all(&users, Ask::Release).await;
        });
    }
}

/// The pod's databases are on the volume that it leaves: its next pod need not wait for it.
async fn give_back(home: &Home, had: Vec<VolumeNote>, until: Instant) {
    for note in had {
        let (volume, uid) = (home.clone(), note.pod_uid.clone());
        let place = home.tenure_of(&note.namespace, &note.app, &note.volume);
        let job = move || volume.give_back(&place, &uid);
        let left = until.saturating_duration_since(Instant::now());
        let given = home.ship().run(left, job).await;
        if let Err(error) = given.map_err(StageError::from).and_then(|given| given) {
            tracing::warn!(
                pod_uid = note.pod_uid, err = %error.text(),
                "a volume still names a pod that is gone: its next one waits a while for it"
            );
        }
    }
}
