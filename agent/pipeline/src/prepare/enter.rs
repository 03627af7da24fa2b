//! The first step into a volume: its pod has it, or whoever has it is waited for.
//!
//! What another node captured of the volume may not be on the share yet, not even its first file, and
//! then no listing tells of it. So the volume is taken first ([`tenure`]), and listed after that.
//!
//! [`tenure`]: sqlrep_replica::tenure

use std::sync::Arc;

use sqlrep_replica::{Owner, OwnerState, Tenure, tenure};

use super::{Waits, is_present, unreachable};
use crate::error::{PrepareError, StageError};
use crate::fleet::tenure::volume_note;
use crate::fleet::{Context, Fleet};
use crate::handover;
use crate::home::Home;
use crate::stage::restore::{Candidate, Listed, candidates};
use crate::{Volume, limits};

/// A volume as it was found.
struct Found {
    tenure: Tenure,
    candidates: Vec<Candidate>,
}

impl Fleet {
    /// Takes the volume for its pod; then says what its replicas hold.
    pub(super) async fn enter(
        &self,
        volume: &Volume,
        home: &Home,
    ) -> Result<Vec<Candidate>, PrepareError> {
        let found = self.look_in(volume, home, None).await?;
        let Tenure::Of(owner) = found.tenure else {
            return Ok(self.entered(volume, found.candidates));
        };
        if let Some(error) = self
            .outwait_owner(volume, home, &owner, &found.candidates)
            .await
        {
            return Err(error);
        }
        let found = self.look_in(volume, home, Some(owner.pod_uid)).await?;
        match found.tenure {
            Tenure::Of(other) => {
                let waits = Waits {
                    pod: other.pod,
                    node: other.node,
                    why: "which has just taken it".to_owned(),
                };
                Err(self.waiting(&volume_name(volume), waits))
            }
            Tenure::Taken | Tenure::Held => Ok(self.entered(volume, found.candidates)),
        }
    }

    fn entered(&self, volume: &Volume, candidates: Vec<Candidate>) -> Vec<Candidate> {
        self.context.patience().forget(&volume_name(volume));
        let ids = candidates.iter().map(|candidate| candidate.id.clone());
        self.context.note_entered(volume, ids);
        candidates
    }

    async fn look_in(
        &self,
        volume: &Volume,
        home: &Home,
        from: Option<String>,
    ) -> Result<Found, PrepareError> {
        let (context, wanted) = (Arc::clone(&self.context), volume.clone());
        let place = home.clone();
        let job = move || look_in(&context, &place, &wanted, from.as_deref());
        let found = home.bulk().run(limits::LIST_TIMEOUT, job).await;
        let found = found.map_err(StageError::from).and_then(|found| found);
        found.map_err(|error| unreachable(home, error))
    }

    /// Why its owner has to be waited for; nothing where the volume may be taken from him.
    async fn outwait_owner(
        &self,
        volume: &Volume,
        home: &Home,
        owner: &Owner,
        candidates: &[Candidate],
    ) -> Option<PrepareError> {
        let missing = candidates
            .iter()
            .filter(|found| !is_present(volume, &found.id));
        let missing: Vec<&Candidate> = missing.collect();
        if self.context.is_insisted(volume) {
            return None;
        }
        // The replicas first: the time for which each of them is silent passes meanwhile, and where
        // one says itself why it waits, that is told.
        let mut told = None;
        for candidate in &missing {
            if let Err(error) = self.wait_turn(volume, home, candidate).await {
                self.stall(volume, &candidate.id, &error);
                told.get_or_insert(error);
            }
        }
        let (pod, node) = (&volume.pod, &self.context.config.node);
        let holder = handover::holder_of(owner, pod, node, |uid| self.context.lives(uid));
        let head = missing.iter().filter_map(|candidate| candidate.head).max();
        let mut waits = self.outwait(&volume_name(volume), holder, head).await?;
        if told.is_some() {
            return told;
        }
        if missing.is_empty() {
            waits.why += &way_out(volume, home);
        }
        let error = self.waiting(&volume_name(volume), waits);
        if let Some(candidate) = missing.first() {
            self.stall(volume, &candidate.id, &error);
        }
        Some(error)
    }
}

/// What a person can do where nothing of the volume is listed, so that there is nothing to take over.
fn way_out(volume: &Volume, home: &Home) -> String {
    let pod = &volume.pod;
    let place = home.tenure_of(&pod.namespace, &pod.app, &volume.name);
    let note = place.path().join(tenure::NAME);
    format!(
        "; a database of it that is not on the share yet may still come from there; if that pod is \
         gone for good, remove {}",
        note.display()
    )
}

/// The first three parts of the identity of each database in it.
fn volume_name(volume: &Volume) -> String {
    let pod = &volume.pod;
    format!("{}/{}/{}", pod.namespace, pod.app, volume.name)
}

/// Blocking: only on a lane.
fn look_in(
    context: &Context,
    home: &Home,
    volume: &Volume,
    from: Option<&str>,
) -> Result<Found, StageError> {
    home.check()?;
    let pod = &volume.pod;
    let place = home.tenure_of(&pod.namespace, &pod.app, &volume.name);
    if home.target().is_none() {
        // First: who is killed after the next step has to know of it.
        context.spool.note_volume(&volume_note(volume))?;
    }
    let owner = context.owner(pod, OwnerState::Active);
    let tenure = home.take(&place, &owner, from)?;
    let is_new = tenure == Tenure::Taken;
    if is_new && context.goes_away(&pod.uid) {
        // Who gives back the volumes of that pod may have been here already.
        home.give_back(&place, &pod.uid)?;
    }
    // What the owner before published last is in no listing that is older than this.
    let listed = if is_new || home.target().is_some() {
        Listed::Fresh
    } else {
        Listed::Cached
    };
    let candidates = candidates(home, volume, listed)?;
    Ok(Found { tenure, candidates })
}

#[cfg(test)]
mod tests;
