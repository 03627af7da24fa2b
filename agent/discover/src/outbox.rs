//! The way out of the discovery thread, with the receiver's pace as its limit.

use std::thread;
use std::time::Duration;

use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;
use tokio_util::sync::CancellationToken;

use crate::event::Event;

/// How often a full channel is tried again. Only ever waited for behind a slow receiver; what
/// happens on disk meanwhile collects in the kernel's queue and is merged there.
const RETRY: Duration = Duration::from_millis(2);

/// Nobody listens any more.
#[derive(Debug)]
pub(crate) struct Closed;

/// Sends events and waits while the channel is full.
#[derive(Debug)]
pub(crate) struct Outbox {
    sender: Sender<Event>,
    cancelled: CancellationToken,
}

impl Outbox {
    pub(crate) fn new(sender: Sender<Event>, cancelled: CancellationToken) -> Self {
        Self { sender, cancelled }
    }

    /// Sends, or says that discovery is over.
    pub(crate) fn send(&self, event: Event) -> Result<(), Closed> {
        let mut event = event;
        loop {
            if self.cancelled.is_cancelled() {
                return Err(Closed);
            }
            match self.sender.try_send(event) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Closed(_)) => return Err(Closed),
                Err(TrySendError::Full(back)) => event = back,
            }
            thread::sleep(RETRY);
        }
    }
}
