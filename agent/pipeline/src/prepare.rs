//! Restore before start: everything that must be true before a volume's app may run.

use std::sync::Arc;

use sqlrep_replica::owner::WriterId;
use sqlrep_replica::{DbId, Store};

use crate::error::{PrepareError, StageError};
use crate::fleet::{Context, Fleet};
use crate::stage::capture::timestamp_now;
use crate::stage::restore::{
    Candidate, Handover, RestoredDatabase, candidates, handover, restore_and_claim,
};
use crate::stage::settle::check_identity;
use crate::stage::ship::{End, Target};
use crate::{Key, RestorePolicy, State, Volume, limits};

/// What was found and done for a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prepared {
    /// Databases that were put back.
    pub restored: Vec<RestoredDatabase>,
    /// Databases that were there already and were left alone.
    pub present: Vec<DbId>,
}

impl Fleet {
    /// Puts back every database of a volume that its replica has and the volume has not.
    ///
    /// Returns only when the app may start. A transient error means "try again later"; the app
    /// must wait meanwhile (G3).
    pub async fn prepare(&self, volume: &Volume) -> Result<Prepared, PrepareError> {
        self.wait_ready().await;
        if volume.restore == RestorePolicy::Never {
            return Ok(Prepared::default());
        }
        if let Some((id, pod)) = self.context.predecessor(volume) {
            // Its first file may not be on the replica yet: an empty listing would prove nothing.
            let (id, node) = (id.to_string(), self.context.config.node.clone());
            return Err(PrepareError::WaitingForHandover { id, pod, node });
        }
        let found = self
            .find(volume)
            .await
            .map_err(|error| PrepareError::Root(Box::new(error)))?;
        if found.is_empty() && volume.restore == RestorePolicy::Required {
            let pod = &volume.pod;
            let dir = self
                .context
                .config
                .replica_root
                .join(&pod.namespace)
                .join(&pod.app);
            return Err(PrepareError::NoReplica {
                volume: volume.name.clone(),
                dir: dir.join(&volume.name),
            });
        }
        let mut prepared = Prepared::default();
        for candidate in found {
            let id = candidate.id.clone();
            match self.prepare_one(volume, candidate).await? {
                Some(restored) => prepared.restored.push(restored),
                None => prepared.present.push(id),
            }
        }
        Ok(prepared)
    }

    async fn find(&self, volume: &Volume) -> Result<Vec<Candidate>, StageError> {
        let (context, volume) = (Arc::clone(&self.context), volume.clone());
        let job = move || {
            crate::lane::acting(context.config.replica_owner, || {
                context.root.check()?;
                candidates(context.root.path(), &volume, |dir| context.remote_at(dir))
            })
        };
        self.context.bulk.run(limits::LIST_TIMEOUT, job).await?
    }

    async fn prepare_one(
        &self,
        volume: &Volume,
        candidate: Candidate,
    ) -> Result<Option<RestoredDatabase>, PrepareError> {
        let id = candidate.id.clone();
        if is_present(volume, &candidate) {
            return Ok(None);
        }
        let key = Key::new(volume, id.path());
        let row = crate::DatabaseStatus::new(id.clone(), &volume.pod.name, &volume.pod.uid);
        self.context.board.insert(&key, row);
        self.context
            .board
            .update(&key, |row| row.state = State::Restoring);
        let (context, volume) = (Arc::clone(&self.context), volume.clone());
        let job = move || restore_one(&context, &volume, &candidate);
        let restored = match self.context.bulk.run(limits::RESTORE_TIMEOUT, job).await {
            Ok(restored) => restored,
            Err(error) => Err(PrepareError::Failed {
                id: id.to_string(),
                source: Box::new(error.into()),
            }),
        };
        self.context.board.update(&key, |row| match &restored {
            Ok(restored) => {
                (row.reason, row.hint) = (None, None);
                row.state = State::Found;
                row.counters.restores += 1;
                row.size_bytes = restored.bytes;
                row.txid = Some(restored.txid);
            }
            Err(error) => {
                row.state = State::Stalled;
                row.reason = Some(error.text());
                row.hint = Some(hint(error, &id));
            }
        });
        restored.map(Some)
    }
}

/// Whether the file is there; its name is only looked at, never followed (L3, L13).
fn is_present(volume: &Volume, candidate: &Candidate) -> bool {
    volume
        .dir
        .join(candidate.id.path())
        .symlink_metadata()
        .is_ok()
}

fn hint(error: &PrepareError, id: &DbId) -> String {
    match error {
        PrepareError::WaitingForHandover { .. } => {
            format!(
                "ends by itself when that pod is gone; if its node is lost: sqlrepctl takeover {id}"
            )
        }
        PrepareError::Root(source) | PrepareError::Failed { source, .. } => {
            source.class().hint().to_owned()
        }
        PrepareError::NoReplica { .. } => {
            "remove sqlrep.io/restore: required for the first start".to_owned()
        }
    }
}

/// Blocking: only on a lane.
fn restore_one(
    context: &Context,
    volume: &Volume,
    candidate: &Candidate,
) -> Result<RestoredDatabase, PrepareError> {
    let failed = |source: StageError| PrepareError::Failed {
        id: candidate.id.to_string(),
        source: Box::new(source),
    };
    let manifest = candidate.store.load_manifest().map_err(failed)?;
    check_identity(
        manifest.as_ref(),
        &volume.pod,
        context.config.cluster_uid.as_deref(),
    )
    .map_err(failed)?;
    let judged = handover(
        manifest.as_ref(),
        &volume.pod,
        &context.config.node,
        |uid| context.lives(uid),
    );
    if let Handover::Held { pod, node } = judged
        && !context.take_insistence(&candidate.id)
    {
        return Err(PrepareError::WaitingForHandover {
            id: candidate.id.to_string(),
            pod,
            node,
        });
    }
    let spool = context
        .spool
        .database(&candidate.id, &volume.pod.uid)
        .map_err(|error| failed(error.into()))?;
    let writer = WriterId::new(&context.config.node, &volume.pod.uid);
    // A tail that this very pod left here (its volume was emptied by a reboot) goes first.
    ship_tail(context, candidate, &spool, writer).map_err(failed)?;
    restore_and_claim(candidate, volume, writer, &spool, timestamp_now()).map_err(failed)
}

fn ship_tail(
    context: &Context,
    candidate: &Candidate,
    spool: &sqlrep_spool::DatabaseSpool,
    writer: WriterId,
) -> Result<(), StageError> {
    let target = Target {
        store: candidate.store.clone(),
        writer,
        spool: spool.clone(),
        root: context.root.clone(),
    };
    while spool.first_pending().is_some() {
        match target.ship(None).end {
            End::Done => {}
            End::Failed(error) => return Err(error),
            End::Fenced { by } => {
                return Err(StageError::Refused {
                    reason: format!(
                        "this node still holds unshipped commits of {} and writer {by:016x} went \
                         on without them: {}",
                        candidate.id,
                        candidate.store.dir().display()
                    ),
                });
            }
        }
    }
    Ok(())
}
