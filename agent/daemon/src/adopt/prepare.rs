//! Before a pod's app starts: its databases are put back, then the gate is told.
//!
//! One task per pod, which ends when the pod is ready or goes away. Nothing here gives up: what a
//! person must mend is told to the gate (`failed`) and tried again now and then.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use sqlrep_discover::PodRef;
use sqlrep_pipeline::{
    Class, Medium, PrepareError, RestoredDatabase as Restored, StageError, Volume,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::flow::Flow;
use super::signal::GatePlace;
use super::{Context, volume};
use crate::events::Reason;
use crate::gate::status::{Phase, RestoredDatabase, Status, VERSION};

/// First pause after a failure; it doubles.
const RETRY_MIN: Duration = Duration::from_millis(250);

/// Pause while the app's last pod on this node comes to its end: the next one is down for as long.
const RETRY_HERE: Duration = Duration::from_millis(100);

/// Longest pause while waiting helps by itself: a handover from elsewhere is noticed at most this
/// late.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// For as long a gate's volume that is not there is no news: the kubelet makes it after it has
/// mounted the others of the pod.
const GATE_LATE: Duration = Duration::from_secs(20);

/// A handover that takes longer is news: an app has half a minute to end (Kubernetes'
/// `terminationGracePeriodSeconds`, by default), and its last commits as much to reach the replica.
const HANDOVER_USUAL: Duration = Duration::from_mins(1);

/// Longest pause where somebody has to act first.
const RETRY_FAILED_MAX: Duration = Duration::from_secs(30);

/// A pod on its way to being ready.
#[derive(Debug)]
pub(super) struct Preparation<F> {
    pub(super) flow: F,
    pub(super) context: Arc<Context>,
    pub(super) pod: PodRef,
    pub(super) volumes: Vec<Volume>,
    /// Cancelled when the pod goes away or its manifest changes.
    pub(super) alive: CancellationToken,
}

/// What the last attempt on a volume came to.
#[derive(Debug)]
struct Obstacle {
    phase: Phase,
    /// What is said on the pod; nothing where it passes in a moment.
    reason: Option<Reason>,
    /// The longest pause before another attempt.
    pause_max: Duration,
    message: String,
}

impl From<PrepareError> for Obstacle {
    fn from(error: PrepareError) -> Self {
        let phase = match &error {
            PrepareError::WaitingForHandover { .. } => Phase::WaitingHandover,
            other if other.is_transient() => Phase::Restoring,
            _ => Phase::Failed,
        };
        let reason = match &error {
            PrepareError::NotMounted { .. } => None,
            // The kubelet is about to mount it.
            PrepareError::Target(source)
                if matches!(**source, StageError::TargetNotMounted { .. }) =>
            {
                None
            }
            PrepareError::WaitingForHandover { .. } => Some(Reason::WaitingForHandover),
            PrepareError::VolumeTooSmall { .. } => Some(Reason::VolumeTooSmall),
            PrepareError::Failed { source, .. } if source.class() == Class::Refused => {
                Some(Reason::ReplicaConflict)
            }
            _ => Some(Reason::RestoreFailed),
        };
        let pause_max = match &error {
            PrepareError::WaitingForHandover { here: true, .. } => RETRY_HERE,
            _ if phase == Phase::Failed => RETRY_FAILED_MAX,
            _ => RETRY_MAX,
        };
        Self {
            phase,
            reason,
            pause_max,
            message: error.text(),
        }
    }
}

impl<F: Flow> Preparation<F> {
    /// Works until the pod is ready, or goes away.
    pub(super) async fn run(self) {
        let alive = self.alive.clone();
        tokio::select! {
            () = alive.cancelled() => {}
            () = self.work() => {}
        }
    }

    async fn work(self) {
        let mut told = None;
        if let Some(obstacle) = self.uncertain() {
            tracing::warn!(pod = %self.pod.name, ns = %self.pod.namespace, err = %obstacle.message, "the pod stays shut");
            if let Some(reason) = obstacle.reason {
                self.say(reason, &obstacle.message);
            }
            // Only a change of the pod mends this, and a change begins a new preparation.
            self.tell(&mut told, Phase::Failed, &obstacle.message, &[])
                .await;
            return;
        }
        // Scans begin before the app does, so that its first commit is seen, and do not wait for
        // the NAS: what is in the volume already is captured all the same (G6). A restore is
        // published by one rename, so a scan never meets half of one.
        (self.context.watch)(&self.pod.uid);
        let restored = if self.may_restore() {
            self.restore(&mut told).await
        } else {
            Vec::new()
        };
        if self
            .volumes
            .iter()
            .any(|volume| volume.medium == Medium::Memory)
        {
            // Scans may have begun in the directory over which the memory was mounted since.
            (self.context.rescan)();
        }
        self.tell(&mut told, Phase::Ready, "", &restored).await;
        tracing::info!(
            pod = %self.pod.name, ns = %self.pod.namespace, restored = restored.len(), "pod is ready"
        );
    }

    /// A pod without a gate whose containers ran already makes its own files: too late.
    fn may_restore(&self) -> bool {
        self.pod.gate.is_some() || !self.pod.started
    }

    /// A wrong annotation that leaves open which replica is the pod's, or whether it needs one:
    /// its default could start the app empty beside its data (G3).
    fn uncertain(&self) -> Option<Obstacle> {
        let bad = self
            .pod
            .wrong
            .iter()
            .find(|bad| bad.leaves_restore_uncertain())?;
        (self.may_restore() && !self.pod.started).then(|| Obstacle {
            phase: Phase::Failed,
            reason: Some(Reason::BadAnnotation),
            pause_max: RETRY_FAILED_MAX,
            message: format!(
                "annotation {} is {:?}; accepted: {}; correct it on the pod",
                bad.key, bad.value, bad.accepted
            ),
        })
    }

    /// Restores volume after volume, again and again, until all are in place.
    async fn restore(&self, told: &mut Option<Status>) -> Vec<Restored> {
        let mut restored = Vec::new();
        let mut open: Vec<&Volume> = self.volumes.iter().collect();
        let mut pause = RETRY_MIN;
        let mut waits_since = None;
        if !open.is_empty() {
            self.tell(told, Phase::Restoring, "looking at the replica", &[])
                .await;
        }
        while !open.is_empty() {
            let mut obstacle: Option<Obstacle> = None;
            let mut left = Vec::new();
            for volume in open {
                match self.flow.prepare(volume).await {
                    Ok(prepared) => {
                        for one in &prepared.restored {
                            self.say_restored(one);
                        }
                        for (id, what) in &prepared.unread {
                            let note = format!(
                                "the database that this pod got lacks commits of {id}: {what}"
                            );
                            self.say(Reason::UnreadEnd, &note);
                        }
                        restored.extend(prepared.restored);
                    }
                    Err(error) => {
                        let found = Obstacle::from(error);
                        // Of several, the one that a person must act on is told.
                        if found.phase == Phase::Failed || obstacle.is_none() {
                            obstacle = Some(found);
                        }
                        left.push(volume);
                    }
                }
            }
            open = left;
            if let Some(Obstacle {
                phase,
                reason,
                pause_max,
                message,
            }) = obstacle
            {
                match reason {
                    Some(Reason::WaitingForHandover) => {
                        // What was restored before, of another volume, took its time too.
                        let since = *waits_since.get_or_insert_with(Instant::now);
                        let reason = if since.elapsed() >= HANDOVER_USUAL {
                            Reason::HandoverOverdue
                        } else {
                            Reason::WaitingForHandover
                        };
                        self.say(reason, &message);
                    }
                    Some(reason) => self.say(reason, &message),
                    None => {}
                }
                self.tell(told, phase, &message, &restored).await;
                tokio::time::sleep(pause.min(pause_max)).await;
                pause = (pause * 2).min(pause_max.max(RETRY_MIN));
            }
        }
        restored
    }

    /// On the pod, where a person looks; the same again is counted, not repeated.
    fn say(&self, reason: Reason, note: &str) {
        self.context.notices.say(&self.pod, reason, note);
    }

    fn say_restored(&self, one: &Restored) {
        let Restored {
            id, txid, bytes, ..
        } = one;
        let note = format!("restored {id} as of TXID {txid} ({bytes} bytes)");
        self.say(Reason::Restored, &note);
    }

    /// Tells the gate, if the pod has one, and does not return before it is told.
    async fn tell(
        &self,
        told: &mut Option<Status>,
        phase: Phase,
        message: &str,
        restored: &[Restored],
    ) {
        let status = self.status(phase, message, restored);
        if told.as_ref() == Some(&status) {
            return;
        }
        if !message.is_empty() {
            match phase {
                Phase::Restoring if told.is_none() => {
                    tracing::debug!(pod = %self.pod.name, phase = phase.as_str(), message);
                }
                Phase::Failed => {
                    tracing::error!(pod = %self.pod.name, phase = phase.as_str(), message, "gate");
                }
                Phase::WaitingHandover | Phase::Restoring | Phase::Ready => {
                    tracing::warn!(pod = %self.pod.name, phase = phase.as_str(), message, "gate");
                }
            }
        }
        if let Some(gate) = &self.pod.gate {
            self.write(gate, &status).await;
        }
        *told = Some(status);
    }

    /// A status that is not written is a gate that does not open: tried until it is.
    async fn write(&self, gate: &str, status: &Status) {
        let place = GatePlace {
            kubelet_root: self.context.kubelet_root.clone(),
            volume: volume::below_root(&self.pod.uid, gate),
        };
        let begun = Instant::now();
        let (mut pause, mut warned) = (RETRY_MIN, false);
        while let Err(error) = self
            .context
            .signals
            .write(&place, status.clone(), &self.alive)
            .await
        {
            let late = error.kind() != io::ErrorKind::NotFound || begun.elapsed() >= GATE_LATE;
            if late && !warned {
                warned = true;
                tracing::warn!(pod = %self.pod.name, err = %error, "cannot tell the gate; tried again");
            }
            tokio::time::sleep(pause).await;
            // The volume comes soon, and an app waits for it: no pause grows before it is late.
            if late {
                pause = (pause * 2).min(RETRY_MAX);
            }
        }
    }

    fn status(&self, phase: Phase, message: &str, restored: &[Restored]) -> Status {
        let databases = restored.iter().map(|database| RestoredDatabase {
            replica: database.id.to_string(),
            txid: database.txid.get(),
        });
        Status {
            v: VERSION,
            pod_uid: self.pod.uid.to_string(),
            boot_id: self.context.boot_id.clone(),
            phase,
            databases: databases.collect(),
            message: message.to_owned(),
        }
    }
}
