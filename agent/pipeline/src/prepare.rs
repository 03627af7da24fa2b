//! Restore before start: everything that must be true before a volume's app may run.

mod enter;

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use sqlrep_format::Txid;
use sqlrep_replica::owner::{self, WriterId};
use sqlrep_replica::{DbId, OwnerState, Store, rfc3339};
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::error::{PrepareError, StageError};
use crate::fleet::targets::Compared;
use crate::fleet::{Context, Fleet, note};
use crate::handover::{self, Holder, Verdict, verdict, why_here};
use crate::home::Home;
use crate::lane::{named, stage};
use crate::stage::capture::wall_now;
use crate::stage::elsewhere::{elsewhere, newer};
use crate::stage::restore::{Candidate, Claimant, RestoredDatabase, restore_and_claim};
use crate::stage::settle::{check_identity, check_name, retire};
use crate::stage::ship::{End, Target};
use crate::{Key, Medium, PodIdentity, RestorePolicy, State, Volume, limits};

/// What was found and done for a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prepared {
    /// Databases that were put back.
    pub restored: Vec<RestoredDatabase>,
    /// Databases that were there already and were left alone.
    pub present: Vec<DbId>,
    /// What earlier pods of this app took with them unread, told once.
    pub unread: Vec<(DbId, String)>,
}

impl Fleet {
    /// Puts back every database of a volume that its replica has and the volume has not.
    ///
    /// Returns only when the app may start. A transient error means "try again later"; the app
    /// must wait meanwhile (G3).
    pub async fn prepare(&self, volume: &Volume) -> Result<Prepared, PrepareError> {
        self.wait_ready().await;
        if !is_mounted(volume) {
            return Err(PrepareError::NotMounted {
                volume: volume.name.clone(),
                dir: volume.dir.clone(),
            });
        }
        if volume.restore == RestorePolicy::Never {
            return Ok(Prepared::default());
        }
        let home = self.context.home_of(volume);
        let home = home.map_err(|error| PrepareError::Target(Box::new(error)))?;
        if let Some(target) = home.target() {
            target.recalled().await;
            self.reach(volume, &home)
                .await
                .map_err(|error| unreachable(&home, error))?;
        }
        if let Some((id, pod)) = self.context.predecessor(volume) {
            // Its first file may not be on the replica yet: an empty listing would prove nothing.
            let why = "whose last commits are still on their way";
            let why = why_here(self.context.goes_away(&pod), why);
            let node = self.context.config.node.clone();
            let error = self.waiting(&id.to_string(), Waits { pod, node, why });
            self.stall(volume, &id, &error);
            return Err(error);
        }
        let found = self.enter(volume, &home).await?;
        self.look_elsewhere(volume, &home, &found).await?;
        if found.is_empty() && volume.restore == RestorePolicy::Required {
            let pod = &volume.pod;
            let place = home.place_of(&pod.namespace, &pod.app, &volume.name);
            return Err(PrepareError::NoReplica {
                volume: volume.name.clone(),
                dir: place.path().to_path_buf(),
            });
        }
        self.check_room(volume, &home, &found).await?;
        let mut prepared = Prepared::default();
        for candidate in found {
            let id = candidate.id.clone();
            match self.prepare_one(volume, &home, candidate).await? {
                Some(restored) => prepared.restored.push(restored),
                None => prepared.present.push(id),
            }
        }
        self.context.drop_waiting(volume);
        prepared.unread = self.context.take_unread(volume);
        Ok(prepared)
    }

    /// Refuses to start an app without what its replica has in the place that its pod named until
    /// now: on the agents' share, or in a volume.
    async fn look_elsewhere(
        &self,
        volume: &Volume,
        home: &Home,
        found: &[Candidate],
    ) -> Result<(), PrepareError> {
        let share = self.context.home.clone();
        let (looked, wanted) = (share.clone(), volume.clone());
        // A replica in a volume must not wait for a share that is away.
        let optional = home.target().is_some() && !found.is_empty();
        let patience = if optional {
            limits::LOOKUP_TIMEOUT
        } else {
            limits::LIST_TIMEOUT
        };
        let job = move || elsewhere(&looked, &wanted);
        let answer = share.bulk().run(patience, job).await;
        let mut there = match answer.map_err(StageError::from).and_then(|there| there) {
            Ok(there) => there,
            Err(error) if optional => {
                tracing::warn!(
                    pod = %volume.pod.name, err = %error.text(),
                    "not known whether the agents' share has a newer replica than the pod's volume"
                );
                return Ok(());
            }
            Err(error) => return Err(PrepareError::Root(Box::new(error))),
        };
        there.retain(|other| !is_present(volume, &other.id));
        let Some((other, head)) = newer(&there, found) else {
            return Ok(());
        };
        let error = PrepareError::Elsewhere {
            id: other.id.to_string(),
            why: other.words(volume, head),
        };
        self.stall(volume, &other.id, &error);
        Err(error)
    }

    /// Shows why a database is not there yet.
    fn stall(&self, volume: &Volume, id: &DbId, error: &PrepareError) {
        let key = self.row(volume, id);
        self.context.board.update(&key, |row| {
            row.state = State::Stalled;
            (row.reason, row.hint) = (Some(error.text()), Some(hint(error, id)));
        });
    }

    /// Makes sure that a target volume is there, and has what earlier pods left in the spool for it
    /// shipped: until that is done they are predecessors.
    async fn reach(&self, volume: &Volume, home: &Home) -> Result<(), StageError> {
        let looked = home.clone();
        let check = move || looked.check();
        home.bulk().run(limits::LIST_TIMEOUT, check).await??;
        self.ship_left(volume, home);
        Ok(())
    }

    /// Refuses before the first byte: a volume that is too small gets its pod evicted, and the
    /// next one would be filled and evicted again.
    async fn check_room(
        &self,
        volume: &Volume,
        home: &Home,
        found: &[Candidate],
    ) -> Result<(), PrepareError> {
        let Some(limit) = volume.bytes_max else {
            return Ok(());
        };
        let missing = found
            .iter()
            .filter(|candidate| !is_present(volume, &candidate.id));
        let missing: Vec<Candidate> = missing.cloned().collect();
        let job = move || missing.iter().map(Candidate::bytes).sum::<u64>();
        let needed = home.bulk().run(limits::LIST_TIMEOUT, job).await;
        let needed = needed.map_err(|error| unreachable(home, error.into()))?;
        if needed > limit {
            let volume = volume.name.clone();
            return Err(PrepareError::VolumeTooSmall {
                volume,
                needed,
                limit,
            });
        }
        Ok(())
    }

    async fn prepare_one(
        &self,
        volume: &Volume,
        home: &Home,
        candidate: Candidate,
    ) -> Result<Option<RestoredDatabase>, PrepareError> {
        let id = candidate.id.clone();
        if is_present(volume, &candidate.id) {
            return Ok(None);
        }
        let restored = match self.wait_turn(volume, home, &candidate).await {
            Ok(()) => {
                let begun = Instant::now();
                let restored = self.restore(volume, home, candidate).await;
                if restored.is_ok() {
                    self.context.restores.record(begun.elapsed());
                }
                restored
            }
            Err(error) => Err(error),
        };
        let key = self.row(volume, &id);
        self.context.board.update(&key, |row| match &restored {
            Ok(restored) => {
                row.counters.restores += 1;
                // A scan may have found it already: then its actor says how it stands.
                if row.state == State::Restoring {
                    row.state = State::Found;
                    row.size_bytes = restored.bytes;
                    row.txid = Some(restored.txid);
                }
            }
            Err(error) => {
                row.state = State::Stalled;
                row.reason = Some(error.text());
                row.hint = Some(hint(error, &id));
            }
        });
        if restored.is_ok() {
            self.context.patience().forget(&id.to_string());
        }
        restored.map(Some)
    }

    /// The key of a database that is not there yet, with a row on the board.
    fn row(&self, volume: &Volume, id: &DbId) -> Key {
        let key = Key::new(volume, id.path());
        self.context.board.insert(&key, volume.row(id.clone()));
        key
    }

    async fn restore(
        &self,
        volume: &Volume,
        home: &Home,
        candidate: Candidate,
    ) -> Result<RestoredDatabase, PrepareError> {
        let key = self.row(volume, &candidate.id);
        self.context.board.update(&key, |row| {
            row.state = State::Restoring;
            (row.reason, row.hint) = (None, None);
        });
        let id = candidate.id.clone();
        let span = named(&id, &volume.pod.name);
        let (context, volume) = (Arc::clone(&self.context), volume.clone());
        let place = home.clone();
        let job = move || restore_one(&context, &place, &volume, &candidate);
        let restored = home.bulk().run(limits::RESTORE_TIMEOUT, job);
        let restored = restored.instrument(stage("restore")).instrument(span).await;
        let restored = restored
            .map_err(StageError::from)
            .and_then(|restored| restored)
            .map_err(|source| PrepareError::Failed {
                id: id.to_string(),
                source: Box::new(source),
            })?;
        self.context
            .note_moved(home, &id, restored.txid, Compared::Yes)
            .await;
        Ok(restored)
    }

    /// Returns when the replica may be claimed; else says who is waited for.
    async fn wait_turn(
        &self,
        volume: &Volume,
        home: &Home,
        candidate: &Candidate,
    ) -> Result<(), PrepareError> {
        let id = &candidate.id;
        let (context, pod, looked_at) = (
            Arc::clone(&self.context),
            volume.pod.clone(),
            candidate.clone(),
        );
        let place = home.clone();
        let job = move || look(&context, &place, &pod, &looked_at);
        let looked = home.bulk().run(limits::LIST_TIMEOUT, job).await;
        let seen = looked
            .map_err(StageError::from)
            .and_then(|seen| seen)
            .map_err(|source| PrepareError::Failed {
                id: id.to_string(),
                source: Box::new(source),
            })?;
        let waits = self.outwait(&id.to_string(), seen.holder, seen.head).await;
        let Some(waits) = waits.filter(|_| !self.context.take_insistence(id)) else {
            return Ok(());
        };
        Err(self.waiting(&id.to_string(), waits))
    }

    /// For whom has to be waited, who holds what is called `what`, with this head; nothing where it
    /// may be taken.
    async fn outwait(&self, what: &str, holder: Holder, head: Option<Txid>) -> Option<Waits> {
        let unnamed = "which claimed it and has not said whose it is";
        let (pod, node, judged) = match holder {
            Holder::Nobody => return None,
            Holder::Here(pod) => {
                let why = "which is on this node and has not ended yet";
                let goes =
                    self.context.goes_away(&pod.uid) || self.context.leaves_volumes(&pod.uid);
                let why = why_here(goes, why);
                (pod.name, pod.node, Verdict::Wait(why))
            }
            Holder::Unnamed(writer) => (
                format!("of writer {writer:016x}"),
                "(unknown)".to_owned(),
                Verdict::AfterDrain(unnamed.to_owned()),
            ),
            Holder::Elsewhere(pod) => {
                let life = handover::ask(&*self.context.config.lookup, pod.clone()).await;
                let judged = verdict(&life, &pod.node);
                (pod.name, pod.node, judged)
            }
        };
        let why = match judged {
            Verdict::Go => return None,
            Verdict::Wait(why) => {
                self.context.patience().heard(what);
                why
            }
            Verdict::AfterDrain(why) => {
                let now = (wall_now(), Instant::now());
                let drain = self.context.config.drain_timeout;
                if self.context.patience().silent(what, &pod, head, now) >= drain {
                    tracing::warn!(of = what, owner = %pod, %node, "taken from an owner that is gone");
                    return None;
                }
                format!("{why}; it is taken after {drain:?} without a file from it")
            }
        };
        Some(Waits { pod, node, why })
    }

    fn waiting(&self, what: &str, Waits { pod, node, why }: Waits) -> PrepareError {
        let since = self.context.patience().waits(what, &pod, wall_now());
        PrepareError::WaitingForHandover {
            id: what.to_owned(),
            pod,
            here: node == self.context.config.node,
            node,
            why,
            since: rfc3339(since).into(),
        }
    }
}

fn unreachable(home: &Home, error: StageError) -> PrepareError {
    let error = Box::new(error);
    match home.target() {
        Some(_) => PrepareError::Target(error),
        None => PrepareError::Root(error),
    }
}

/// Whether what is put into a volume is what its app will find there.
fn is_mounted(volume: &Volume) -> bool {
    let device = |dir: &Path| dir.symlink_metadata().ok().map(|meta| meta.dev());
    let above = volume.dir.parent().and_then(device);
    volume.medium == Medium::Disk || device(&volume.dir).is_some_and(|dev| Some(dev) != above)
}

/// Whether the file is there; its name is only looked at, never followed (L3, L13).
fn is_present(volume: &Volume, id: &DbId) -> bool {
    volume.dir.join(id.path()).symlink_metadata().is_ok()
}

fn hint(error: &PrepareError, id: &DbId) -> String {
    match error {
        PrepareError::WaitingForHandover { .. } => {
            format!(
                "ends by itself when that pod is gone; if its node is lost: sqlrepctl takeover {id}"
            )
        }
        PrepareError::Root(source)
        | PrepareError::Target(source)
        | PrepareError::Failed { source, .. } => source.hint().to_owned(),
        PrepareError::Elsewhere { .. } => {
            "the app waits; its data is where the reason says, and nothing was written".to_owned()
        }
        PrepareError::NoReplica { .. } => {
            "remove sqlrep.io/restore: required for the first start".to_owned()
        }
        PrepareError::VolumeTooSmall { .. } => "raise the volume's sizeLimit".to_owned(),
        PrepareError::NotMounted { .. } => "the kubelet mounts it in a moment".to_owned(),
    }
}

/// Who is waited for, and why.
#[derive(Debug)]
struct Waits {
    pod: String,
    node: String,
    why: String,
}

/// A replica before it is claimed.
struct Seen {
    holder: Holder,
    head: Option<Txid>,
}

/// Reads who holds a replica. Blocking: only on a lane.
fn look(
    context: &Context,
    home: &Home,
    pod: &PodIdentity,
    candidate: &Candidate,
) -> Result<Seen, StageError> {
    let store = &candidate.store;
    let manifest = store.load_manifest()?;
    check_identity(
        manifest.as_ref(),
        pod,
        context.config.cluster_uid.as_deref(),
    )?;
    check_name(home, manifest.as_ref(), &candidate.id)?;
    let listing = store.list()?;
    let head = listing.head();
    let head_writer = head
        .map(|head| owner::writer_of(store, &listing, head))
        .transpose()?;
    let facts = handover::Facts {
        manifest: manifest.as_ref(),
        head_writer,
        me: pod,
        my_node: &context.config.node,
        my_writer: context.writer(pod),
    };
    let holder = handover::holder(&facts, |uid| context.lives(uid));
    Ok(Seen { holder, head })
}

/// Blocking: only on a lane.
fn restore_one(
    context: &Context,
    home: &Home,
    volume: &Volume,
    candidate: &Candidate,
) -> Result<RestoredDatabase, StageError> {
    let goes_away = || context.goes_away(&volume.pod.uid);
    let claimant = Claimant {
        writer: context.writer(&volume.pod),
        spool: context.spool.database(&candidate.id, &volume.pod.uid)?,
        manifest: context.manifest(&candidate.id, &volume.pod, OwnerState::Active),
        goes_away: &goes_away,
        since: context.since,
    };
    if volume.target.is_some() {
        // What this pod leaves in the spool must not be taken for something of the root's.
        claimant.spool.note_pod(&note(volume))?;
    }
    // A tail that this very pod left here (its volume was emptied by a reboot) goes first.
    ship_tail(context, home, candidate, &claimant.spool, claimant.writer)?;
    let restored = restore_and_claim(candidate, volume, &claimant, wall_now());
    if restored.is_ok() {
        context.note_restored(&volume.pod.uid, &candidate.id);
    }
    // Who releases the pod's databases may have been here already: then nobody comes back to this
    // one, and the next pod must not wait for one that never began.
    let noted = || context.forget_restored(&volume.pod.uid, &candidate.id);
    if goes_away() && (restored.is_err() || noted()) {
        claimant.let_go(&candidate.store)?;
    }
    restored
}

fn ship_tail(
    context: &Context,
    home: &Home,
    candidate: &Candidate,
    spool: &sqlrep_spool::DatabaseSpool,
    writer: WriterId,
) -> Result<(), StageError> {
    let target = Target {
        store: candidate.store.clone(),
        writer,
        spool: spool.clone(),
        home: home.clone(),
    };
    while spool.first_pending().is_some() {
        match target.ship(None).end {
            End::Done => {}
            // The volume is empty: what was in it is nowhere any more. What came before is.
            End::Rejected { reason, .. } => context.note_unread_end(&candidate.id, &reason),
            End::Failed(error) => return Err(error),
            End::OtherChain { by } if by == writer.get() => {
                retire(&target.store, "page-size", wall_now())?;
            }
            End::Fenced { by } | End::OtherChain { by } => {
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

#[cfg(test)]
mod tests;
