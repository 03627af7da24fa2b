//! A call that does not answer, as on a mount whose server is away.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Nothing in a test takes longer, unless it never comes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where one call hangs until it is let go.
#[derive(Debug, Default)]
pub struct Hang {
    at: Mutex<Stage>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    #[default]
    Before,
    Hangs,
    Released,
}

impl Hang {
    /// The call: returns when it is let go.
    pub(super) fn wait(&self) {
        self.reach(Stage::Hangs);
        let mut at = self.at();
        while *at < Stage::Released {
            at = self
                .changed
                .wait(at)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until the call hangs; whether it does.
    pub fn reached(&self) -> bool {
        let waits = |at: &mut Stage| *at < Stage::Hangs;
        let waited = self.changed.wait_timeout_while(self.at(), PATIENCE, waits);
        *waited.unwrap_or_else(PoisonError::into_inner).0 >= Stage::Hangs
    }

    /// Lets it go.
    pub fn release(&self) {
        self.reach(Stage::Released);
    }

    fn reach(&self, stage: Stage) {
        let mut at = self.at();
        *at = stage.max(*at);
        self.changed.notify_all();
    }

    fn at(&self) -> MutexGuard<'_, Stage> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
