//! What is wrong with a pod's annotations, shown with each of its databases; and whether it has a
//! gate.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sqlrep_discover::PodRef;

/// Notes by pod; clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notes {
    wrong: Arc<Mutex<BTreeMap<String, String>>>,
    ungated: Arc<Mutex<BTreeSet<String>>>,
}

impl Notes {
    /// Replaces what is known of a pod.
    pub(crate) fn set(&self, pod: &PodRef) {
        let wrong: Vec<_> = pod
            .wrong
            .iter()
            .map(|bad| format!("{} is {:?}; accepted: {}", bad.key, bad.value, bad.accepted))
            .collect();
        let uid = pod.uid.to_string();
        if pod.gate.is_some() {
            self.ungated().remove(&uid);
        } else {
            self.ungated().insert(uid.clone());
        }
        if wrong.is_empty() {
            self.lock().remove(&uid);
        } else {
            self.lock()
                .insert(uid, format!("annotation {}", wrong.join("; annotation ")));
        }
    }

    /// Forgets a pod.
    pub(crate) fn remove(&self, pod_uid: &str) {
        self.lock().remove(pod_uid);
        self.ungated().remove(pod_uid);
    }

    /// Whether a pod's app starts without waiting for us.
    pub(crate) fn is_ungated(&self, pod_uid: &str) -> bool {
        self.ungated().contains(pod_uid)
    }

    /// What is wrong with a pod, in one line.
    pub(crate) fn get(&self, pod_uid: &str) -> Option<String> {
        self.lock().get(pod_uid).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        // Each change is one call: a panic elsewhere leaves the map whole.
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ungated(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.ungated.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
