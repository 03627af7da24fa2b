//! Volumes on the agents' share that name a pod of this node: given back once the pod is gone and
//! nothing of it is on its way any more.

use std::sync::{Arc, Weak};

use sqlrep_replica::DbId;
use sqlrep_spool::VolumeNote;
use tokio::time::sleep;

use super::{Context, Fleet, lock};
use crate::error::StageError;
use crate::{Volume, limits};

/// How far a volume is on its way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    /// It is about to be given back.
    Soon,
    /// The share refused it.
    Refused,
}

impl Fleet {
    /// Gives those volumes back that are noted and `over`. Goes on by itself.
    pub(super) fn give_back_volumes(&self, over: impl Fn(&VolumeNote) -> bool) {
        let noted = self.context.spool.volumes().unwrap_or_else(|error| {
            tracing::error!(err = %error, "cannot look for volumes of pods that are gone");
            Vec::new()
        });
        for note in noted.into_iter().filter(over) {
            let before = lock(&self.context.leaving).insert(note.clone(), Leaving::Soon);
            if before.is_none() {
                tokio::spawn(give_back(Arc::downgrade(&self.context), note));
            }
        }
    }
}

impl Context {
    /// A pod has the volume from now on, in which these replicas were found.
    pub(crate) fn note_entered(&self, volume: &Volume, replicas: impl Iterator<Item = DbId>) {
        lock(&self.entered).insert(volume_note(volume), replicas.collect());
    }

    /// Whether there was no replica of a database when its pod came to have its volume. Nobody else
    /// has made one since, but who takes no notice of who has a volume.
    pub(crate) fn had_no_replica(&self, pod_uid: &str, id: &DbId) -> bool {
        let entered = lock(&self.entered);
        let mut replicas = entered
            .iter()
            .filter(|(note, _)| note.pod_uid == pod_uid && note.volume == id.volume());
        replicas
            .next()
            .is_some_and(|(_, replicas)| !replicas.contains(id))
    }

    /// The volumes that a pod has, which is gone.
    pub(super) fn take_entered(&self, pod_uid: &str) -> Vec<VolumeNote> {
        let mut entered = lock(&self.entered);
        let of_pod = entered.extract_if(|note, _| note.pod_uid == pod_uid);
        of_pod.map(|(note, _)| note).collect()
    }

    /// Whether a volume of a pod that is gone, of which nothing is on its way any more, is about to be
    /// given back.
    pub(super) fn is_giving_back(&self) -> bool {
        let leaving = lock(&self.leaving);
        let mut soon = leaving.iter().filter(|(_, at)| **at == Leaving::Soon);
        soon.any(|(note, _)| !self.is_under_way(note))
    }

    fn is_under_way(&self, note: &VolumeNote) -> bool {
        let of_it = |(uid, volume): (&str, &str)| (uid, volume) == (&note.pod_uid, &note.volume);
        self.actors()
            .keys()
            .any(|key| of_it((&key.pod_uid, &key.volume)))
    }

    async fn try_give_back(&self, note: &VolumeNote) -> Result<(), StageError> {
        let (home, note) = (self.home.clone(), note.clone());
        let job = move || {
            home.check()?;
            let place = home.tenure_of(&note.namespace, &note.app, &note.volume);
            home.give_back(&place, &note.pod_uid)
        };
        self.home.ship().run(limits::LIST_TIMEOUT, job).await?
    }

    /// Whether a volume of that pod is on its way back: its files are gone, though it may be known still.
    pub(crate) fn leaves_volumes(&self, pod_uid: &str) -> bool {
        let leaving = lock(&self.leaving);
        leaving.keys().any(|note| note.pod_uid == pod_uid)
    }
}

/// What is remembered of a volume.
pub(crate) fn volume_note(volume: &Volume) -> VolumeNote {
    let pod = &volume.pod;
    VolumeNote {
        namespace: pod.namespace.clone(),
        app: pod.app.clone(),
        volume: volume.name.clone(),
        pod_uid: pod.uid.clone(),
    }
}

/// Nothing of the agent is held while this waits.
async fn give_back(fleet: Weak<Context>, note: VolumeNote) {
    let Some(mut changes) = fleet.upgrade().map(|context| context.board.changes()) else {
        return;
    };
    let mut pause = limits::RETRY_MIN;
    while let Some(context) = fleet.upgrade() {
        if context.is_under_way(&note) {
            drop(context);
            if changes.changed().await.is_err() {
                return;
            }
            continue;
        }
        match context.try_give_back(&note).await {
            Ok(()) => {
                if let Err(error) = context.spool.forget_volume(&note) {
                    tracing::warn!(err = %error, "a volume will be given back once more");
                }
                lock(&context.leaving).remove(&note);
                return;
            }
            Err(error) => {
                let before = lock(&context.leaving).insert(note.clone(), Leaving::Refused);
                if before != Some(Leaving::Refused) {
                    tracing::warn!(
                        pod_uid = %note.pod_uid, ns = %note.namespace, app = %note.app,
                        volume = %note.volume, err = %error.text(),
                        "a volume still names a pod that is gone; tried again"
                    );
                }
                drop(context);
                sleep(pause).await;
                pause = (pause * 2).min(limits::RETRY_MAX);
            }
        }
    }
}
