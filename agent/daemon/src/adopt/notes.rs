//! What is wrong with a pod's annotations: shown with each of its databases.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sqlrep_discover::PodRef;

/// Notes by pod; clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notes(Arc<Mutex<BTreeMap<String, String>>>);

impl Notes {
    /// Replaces what is known of a pod.
    pub(crate) fn set(&self, pod: &PodRef) {
        let wrong: Vec<_> = pod
            .wrong
            .iter()
            .map(|bad| format!("{} is {:?}; accepted: {}", bad.key, bad.value, bad.accepted))
            .collect();
        let uid = pod.uid.to_string();
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
    }

    /// What is wrong with a pod, in one line.
    pub(crate) fn get(&self, pod_uid: &str) -> Option<String> {
        self.lock().get(pod_uid).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        // Each change is one call: a panic elsewhere leaves the map whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
