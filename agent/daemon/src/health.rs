//! Whether the agent is alive, and whether it is ready.
//!
//! Alive is an internal matter: a NAS that hangs must not get the agent killed. Ready means that it
//! has what it needs to do its work, once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A loop that has not shown itself for this long hangs: six of its pulses.
const PULSE_AGE_MAX: Duration = Duration::from_secs(30);

/// The pulse of the agent's main loop; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Pulse {
    start: Instant,
    /// Milliseconds after `start`.
    last: Arc<AtomicU64>,
    root_seen: Arc<AtomicBool>,
    pods_seen: Arc<AtomicBool>,
    stands_by: Arc<AtomicBool>,
}

impl Pulse {
    /// Beats now for the first time.
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            last: Arc::default(),
            root_seen: Arc::default(),
            pods_seen: Arc::default(),
            stands_by: Arc::default(),
        }
    }

    /// The loop lives.
    pub(crate) fn beat(&self) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    /// Whether the loop has shown itself lately.
    pub(crate) fn is_alive(&self) -> bool {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        self.start.elapsed().saturating_sub(last) < PULSE_AGE_MAX
    }

    /// The pods were read.
    pub(crate) fn pods_were_read(&self) {
        self.pods_seen.store(true, Ordering::Relaxed);
    }

    /// The replica root was usable.
    pub(crate) fn root_was_usable(&self) {
        self.root_seen.store(true, Ordering::Relaxed);
    }

    /// Whether it waits for the agent before it on this node.
    pub(crate) fn stands_by(&self, waits: bool) {
        self.stands_by.store(waits, Ordering::Relaxed);
    }

    /// What is missing before the agent is ready. One that stands by is: the rollout ends the one
    /// before it only when it is.
    pub(crate) fn missing(&self) -> Option<&'static str> {
        if self.stands_by.load(Ordering::Relaxed) {
            None
        } else if !self.pods_seen.load(Ordering::Relaxed) {
            Some("the pods have not been read yet")
        } else if !self.root_seen.load(Ordering::Relaxed) {
            Some("the replica root has not been usable yet")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_needs_pods_and_root_once() {
        let pulse = Pulse::new();
        assert!(pulse.is_alive());
        assert!(pulse.missing().unwrap().contains("pods"));
        pulse.pods_were_read();
        assert!(pulse.missing().unwrap().contains("root"));
        pulse.root_was_usable();
        assert_eq!(pulse.missing(), None);
    }

    #[test]
    fn an_agent_that_stands_by_is_ready_for_as_long() {
        let pulse = Pulse::new();
        pulse.stands_by(true);
        assert_eq!(pulse.missing(), None);
        pulse.stands_by(false);
        assert!(pulse.missing().is_some());
    }

    #[test]
    fn a_loop_that_is_silent_for_long_is_not_alive() {
        let mut pulse = Pulse::new();
        let Some(start) = pulse.start.checked_sub(PULSE_AGE_MAX * 2) else {
            return;
        };
        pulse.start = start;
        assert!(!pulse.is_alive());
        pulse.beat();
        assert!(pulse.is_alive());
    }
}
