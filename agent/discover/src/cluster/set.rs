//! The pods of this node as the server told them, and what they come to with what was looked up.

use std::collections::{BTreeMap, BTreeSet};

use super::lookups::{Lookups, Question};
use crate::identity::{self, PodUid};
use crate::manifests::Wanted;
use crate::pods::manifest::Manifest;
use crate::pods::{self, Reading};
use crate::{policy, target};

/// Pods that are kept; several times what a kubelet runs (L12).
const PODS_MAX: usize = 2_000;

/// Pods by their UID.
type Pods = BTreeMap<String, Manifest>;

/// The pods, and a list of them that is on its way.
#[derive(Debug)]
pub(super) struct PodSet {
    node_name: String,
    pods: Pods,
    list: Option<Pods>,
    /// Whether a list was ever whole.
    complete: bool,
    /// Whether a whole set was ever handed over.
    handed_over: bool,
}

impl PodSet {
    pub(super) fn new(node_name: String) -> Self {
        Self {
            node_name,
            pods: Pods::new(),
            list: None,
            complete: false,
            handed_over: false,
        }
    }

    /// A list begins; one that did not end is worth nothing.
    pub(super) fn begin_list(&mut self) {
        self.list = Some(Pods::new());
    }

    /// A pod of the list.
    pub(super) fn listed(&mut self, pod: Manifest) {
        insert(self.list.get_or_insert_default(), pod);
    }

    /// The list is whole: who is not in it is gone. Gives what may still be known of those that
    /// stay: whoever came anew may stand under another object of an old name.
    pub(super) fn end_list(&mut self) -> BTreeSet<Question> {
        let before = std::mem::replace(&mut self.pods, self.list.take().unwrap_or_default());
        self.complete = true;
        let stayed = before
            .iter()
            .filter(|(uid, _)| self.pods.contains_key(*uid));
        stayed.flat_map(|(_, pod)| Question::all(pod)).collect()
    }

    /// A pod came or changed.
    pub(super) fn changed(&mut self, pod: Manifest) {
        insert(&mut self.pods, pod);
    }

    /// A pod is gone.
    pub(super) fn deleted(&mut self, uid: &str) {
        self.pods.remove(uid);
    }

    /// What the pods mean to this node; asks for what is missing to know it. `None` before the
    /// first list is whole and everything about its pods is known: who is not told by then is
    /// taken for gone.
    pub(super) fn wanted(&mut self, lookups: &mut Lookups) -> Option<Wanted> {
        if !self.complete {
            return None;
        }
        let mut wanted = Wanted::default();
        let (mut open, mut needed) = (false, BTreeSet::new());
        for pod in self.pods.values() {
            let questions = Question::all(pod);
            // Each is asked, also after one that is open.
            let missing = questions
                .iter()
                .filter(|question| !lookups.is_answered_or_asks(question))
                .count();
            needed.extend(questions);
            if missing == 0 {
                self.read(pod, lookups, &mut wanted);
            } else {
                open = true;
                wanted.undecided.extend(PodUid::new(&pod.metadata.uid));
            }
        }
        lookups.forget_all_but(&needed);
        self.handed_over |= !open;
        self.handed_over.then_some(wanted)
    }

    fn read(&self, pod: &Manifest, lookups: &Lookups, wanted: &mut Wanted) {
        let mut pod = pod.clone();
        pod.metadata.looked_up = lookups.of(&pod);
        match pods::read(&pod, &self.node_name) {
            Reading::Wanted(pod) => {
                wanted.pods.insert(pod.uid.clone(), *pod);
            }
            Reading::NotOurs(fault) => wanted.bad_labels.extend(fault),
            Reading::Unusable(reason) => {
                let uid = PodUid::new(&pod.metadata.uid);
                wanted.unusable.extend(uid.map(|uid| (uid, reason)));
            }
        }
    }
}

impl Question {
    /// What a pod's identity asks for beyond the pod.
    pub(super) fn all(pod: &Manifest) -> Vec<Self> {
        let metadata = &pod.metadata;
        let label = metadata.labels.get(policy::REPLICATE).map(String::as_str);
        if policy::opted_in(label).ok() != Some(true) {
            return Vec::new();
        }
        let namespace = Self::Namespace(metadata.namespace.clone());
        let owner = identity::owner_to_look_up(metadata).map(|owner| Self::Owner {
            kind: owner.kind.clone(),
            namespace: metadata.namespace.clone(),
            name: owner.name.clone(),
            uid: owner.uid.clone(),
        });
        let claim = target::claim_of(pod).map(|name| Self::Claim {
            namespace: metadata.namespace.clone(),
            name: name.to_owned(),
        });
        [namespace].into_iter().chain(owner).chain(claim).collect()
    }
}

fn insert(pods: &mut Pods, pod: Manifest) {
    let uid = &pod.metadata.uid;
    if pods.len() >= PODS_MAX && !pods.contains_key(uid) {
        tracing::error!(
            uid,
            "more than {PODS_MAX} pods on this node; this one is left out"
        );
        return;
    }
    pods.insert(uid.clone(), pod);
}

#[cfg(test)]
mod tests;
