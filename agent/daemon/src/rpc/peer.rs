//! Who is at the other end of a connection, and whether it is used.
//!
//! A connection has one of few places ([`super::CONNECTIONS_MAX`]), and answering pings keeps it open. So
//! who asks for nothing is sent away; clients connect anew when they want something. What counts as use
//! is a call that passed the door, for as long as somebody works on it: a watch with nothing to say for
//! days does, an answer that nobody takes does not, nor does what anybody may ask for (health, reflection).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tonic::Extensions;

/// How long a connection stays open that is not used. Calls that are no streams are shorter than that.
pub(super) const UNUSED: Duration = Duration::from_mins(10);
const _: () = assert!(UNUSED.as_secs() > 2 * super::CALL_TIMEOUT.as_secs());

/// Where calls come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A unix socket, which only root on the node opens.
    Node,
    /// A port.
    Network,
}

/// The other end of a connection; each of its calls has it among its extensions.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    origin: Origin,
    using: Arc<Mutex<Using>>,
}

#[derive(Debug)]
struct Using {
    /// Answers that are worked on.
    open: usize,
    /// When it was used last.
    last: Instant,
}

/// An answer that is worked on.
#[derive(Debug)]
pub(super) struct InUse(Peer);

impl Peer {
    /// One that has just connected.
    pub(crate) fn new(origin: Origin) -> Self {
        let (open, last) = (0, Instant::now());
        Self {
            origin,
            using: Arc::new(Mutex::new(Using { open, last })),
        }
    }

    /// Whoever made a call; `None`: it came by no connection of ours, as in tests.
    pub(crate) fn of(extensions: &Extensions) -> Option<&Self> {
        extensions.get()
    }

    /// Where it is.
    pub(crate) fn origin(&self) -> Origin {
        self.origin
    }

    /// A call of it passed the door.
    pub(super) fn called(&self) {
        self.using().last = Instant::now();
    }

    /// It is used until this is dropped.
    pub(super) fn in_use(&self) -> InUse {
        self.using().open += 1;
        InUse(self.clone())
    }

    /// When it will have been unused for too long, unless it is used again.
    pub(super) fn over_at(&self) -> Instant {
        let using = self.using();
        let last = if using.open > 0 {
            Instant::now()
        } else {
            using.last
        };
        last + UNUSED
    }

    fn using(&self) -> MutexGuard<'_, Using> {
        // Poison says that a thread panicked in here; a count and a time are never half of one.
        self.using.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut using = self.0.using();
        using.open = using.open.saturating_sub(1);
        using.last = Instant::now();
    }
}
