//! Who holds a replica, and for how long a new pod waits for it.
//!
//! Two steps, both pure. [`holder`] judges from what the replica and this node say by themselves;
//! where that does not settle it, the cluster is asked ([`PodLookup`]) and [`verdict`] judges the
//! answer. Neither is the fence: that is the claim at head + 1. Waiting only keeps two living pods
//! from fencing each other, and lets the tail of the old one arrive first.
//!
//! Nobody's clock but our own takes part: an owner that is gone is given the drain time from the
//! moment at which *this* agent first saw that it is, and anew with each file that still arrives.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use sqlrep_format::{Timestamp, Txid};
use sqlrep_replica::owner::WriterId;
use sqlrep_replica::{Manifest, Owner, OwnerState};
use tokio::time::Instant;

use crate::{PodIdentity, limits};

/// A pod that a manifest names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodHandle {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID: a pod of that name with another one is another pod, and this one is gone.
    pub uid: String,
    /// The node it was on.
    pub node: String,
}

/// What is known of a pod elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodLife {
    /// It is there, and nobody is deleting it.
    Alive,
    /// It is being deleted: its app may still commit.
    Terminating,
    /// There is no such pod any more, or it has finished: no app of it writes. Its agent may still
    /// be shipping.
    Gone,
    /// Its node does not answer, so that nobody knows whether it writes.
    NodeLost {
        /// What the cluster says of the node.
        reason: String,
    },
    /// Its node carries the taint `node.kubernetes.io/out-of-service`: somebody vouches that
    /// nothing runs there.
    OutOfService,
    /// It could not be found out.
    Unknown {
        /// Why not.
        reason: String,
    },
}

/// The answer of a [`PodLookup`].
pub type PodAnswer = Pin<Box<dyn Future<Output = PodLife> + Send>>;

/// Knows about pods of other nodes.
///
/// An answer that takes longer than [`limits::LOOKUP_TIMEOUT`] counts as [`PodLife::Unknown`].
/// [`PodLife::Gone`] must come from whoever decides, never from a cache that may be behind.
pub trait PodLookup: fmt::Debug + Send + Sync {
    /// What is known of this pod now.
    fn life(&self, pod: PodHandle) -> PodAnswer;
}

/// Nobody to ask, as with `--pods dir:`. Every owner elsewhere may be alive.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoLookup;

impl PodLookup for NoLookup {
    fn life(&self, _: PodHandle) -> PodAnswer {
        let reason = "this agent has nobody to ask".to_owned();
        Box::pin(std::future::ready(PodLife::Unknown { reason }))
    }
}

/// Asks, within the bound.
pub(crate) async fn ask(lookup: &dyn PodLookup, pod: PodHandle) -> PodLife {
    let answer = tokio::time::timeout(limits::LOOKUP_TIMEOUT, lookup.life(pod));
    answer.await.unwrap_or_else(|_| PodLife::Unknown {
        reason: "the cluster does not answer".to_owned(),
    })
}

/// What the first step depends on.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) manifest: Option<&'a Manifest>,
    /// The writer in the header of the newest file.
    pub(crate) head_writer: Option<u64>,
    pub(crate) me: &'a PodIdentity,
    pub(crate) my_node: &'a str,
    pub(crate) my_writer: WriterId,
}

/// Who holds a replica, as far as it and this node tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// Nobody, or somebody who is surely gone, or this very pod.
    Nobody,
    /// A pod of this node whose databases are not drained yet.
    Here(PodHandle),
    /// A pod of another node.
    Elsewhere(PodHandle),
    /// Somebody published the newest file and has not said who he is. Between a claim and its
    /// manifest lie milliseconds; more only when the claimer died there.
    Unnamed(u64),
}

/// The first step. `lives` says whether a pod UID is known on this node, or has a tail here.
pub(crate) fn holder(facts: &Facts<'_>, lives: impl Fn(&str) -> bool) -> Holder {
    let owner = facts.manifest.map(|manifest| &manifest.owner);
    if let Some(writer) = facts.head_writer.filter(|writer| {
        // 0 is Litestream, which says nothing of itself and is run by people who know.
        *writer != 0
            && *writer != facts.my_writer.get()
            && owner.is_none_or(|owner| owner.writer.get() != *writer)
    }) {
        return Holder::Unnamed(writer);
    }
    owner.map_or(Holder::Nobody, |owner| {
        holder_of(owner, facts.me, facts.my_node, lives)
    })
}

/// The same where all that is known is who said that he holds it: a replica, or a volume.
pub(crate) fn holder_of(
    owner: &Owner,
    me: &PodIdentity,
    my_node: &str,
    lives: impl Fn(&str) -> bool,
) -> Holder {
    let handle = PodHandle {
        namespace: me.namespace.clone(),
        name: owner.pod.clone(),
        uid: owner.pod_uid.clone(),
        node: owner.node.clone(),
    };
    if owner.state == OwnerState::Released || owner.pod_uid == me.uid {
        Holder::Nobody
    } else if owner.node != my_node {
        Holder::Elsewhere(handle)
    } else if lives(&owner.pod_uid) {
        Holder::Here(handle)
    } else {
        // Its volume went with it, and what this node's spool had of it has been shipped.
        Holder::Nobody
    }
}

/// What the second step comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The replica may be claimed.
    Go,
    /// It may not, until something changes.
    Wait(String),
    /// It may once the drain time has passed without a word from its owner.
    AfterDrain(String),
}

/// What to do where the owner is not being deleted at all: without the policies a Deployment surges.
const STAYS: &str = "in a rollout it ends only once this pod is ready, so give its Deployment \
    `strategy: {type: Recreate}`, and `replicas: 1`";

/// Why a pod of this node is waited for: `why`, if it is going.
pub(crate) fn why_here(is_going: bool, why: &str) -> String {
    if is_going {
        why.to_owned()
    } else {
        format!("which is on this node and is not being deleted: {STAYS}")
    }
}

/// The second step, for a pod elsewhere.
pub(crate) fn verdict(life: &PodLife, node: &str) -> Verdict {
    match life {
        PodLife::Alive => Verdict::Wait(format!("which is alive: {STAYS}")),
        PodLife::Terminating => Verdict::Wait("which is being deleted".to_owned()),
        PodLife::NodeLost { reason } => Verdict::Wait(format!(
            "whose node is lost ({reason}): it may still write; if it is off for good, taint it \
             with `kubectl taint node {node} node.kubernetes.io/out-of-service=:NoExecute`"
        )),
        PodLife::Unknown { reason } => {
            Verdict::Wait(format!("and whether it lives is not known: {reason}"))
        }
        PodLife::OutOfService => Verdict::Go,
        PodLife::Gone => Verdict::AfterDrain("which is gone, but has not let go of it".to_owned()),
    }
}

/// Who has been waited for, and since when.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    /// By what is waited for: a replica, or a volume.
    waits: HashMap<String, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    /// Whoever holds it: a pod's UID, or a writer's id.
    who: String,
    /// Since when, for people.
    since: Timestamp,
    /// Since when it is gone with this head.
    gone: Option<(Option<Txid>, Instant)>,
}

impl Patience {
    /// Notes that a replica or a volume is waited for; since when it is.
    pub(crate) fn waits(&mut self, id: &str, who: &str, now: Timestamp) -> Timestamp {
        self.entry(id, who, now).since
    }

    /// Notes that the holder is gone; how long nothing has come from it.
    pub(crate) fn silent(
        &mut self,
        id: &str,
        who: &str,
        head: Option<Txid>,
        (time, now): (Timestamp, Instant),
    ) -> Duration {
        let waiting = self.entry(id, who, time);
        match waiting.gone {
            Some((seen, since)) if seen == head => now.saturating_duration_since(since),
            _ => {
                waiting.gone = Some((head, now));
                Duration::ZERO
            }
        }
    }

    /// The holder is not gone after all.
    pub(crate) fn heard(&mut self, id: &str) {
        if let Some(waiting) = self.waits.get_mut(id) {
            waiting.gone = None;
        }
    }

    /// The wait is over.
    pub(crate) fn forget(&mut self, id: &str) {
        self.waits.remove(id);
    }

    fn entry(&mut self, id: &str, who: &str, now: Timestamp) -> &mut Waiting {
        if self.waits.len() >= limits::DATABASES_MAX && !self.waits.contains_key(id) {
            // Left behind by pods that went away while they waited; who still waits begins anew.
            self.waits.clear();
        }
        let new = || Waiting {
            who: who.to_owned(),
            since: now,
            gone: None,
        };
        let waiting = self.waits.entry(id.to_owned()).or_insert_with(new);
        if waiting.who != who {
            *waiting = new();
        }
        waiting
    }
}

#[cfg(test)]
mod tests;
