//! The actor's end: when it is over, and what it leaves behind.

use std::sync::Arc;

use super::{Database, Ending, Place};
use crate::error::CommandError;
use crate::fleet::targets::Compared;
use crate::status::State;

impl Database {
    pub(super) fn is_finished(&self) -> bool {
        if self.ending == Ending::No || self.work.is_some() || self.capture.is_some() {
            return false;
        }
        let nothing_left = self.spool.first_pending().is_none();
        match self.ending {
            Ending::No => false,
            Ending::Shutdown => nothing_left,
            // "Released" must be said, unless there is nothing to release.
            Ending::Released => {
                nothing_left
                    && matches!(self.place, Place::Settled(_))
                    && (self.spool.position().is_none() || !self.manifest_is_due())
            }
        }
    }

    /// The agents' share is told, whenever the manifest is, that this replica is kept in a volume.
    pub(super) fn note_moved(&self) {
        let newest = self.spool.position().map(|position| position.txid);
        let first = self.spool.first_pending();
        let head = first.map_or(newest, |first| first.txid.prev());
        if let Some(head) = head.filter(|_| self.home.target().is_some()) {
            let (context, home) = (Arc::clone(&self.context), self.home.clone());
            let id = self.id.clone();
            tokio::spawn(async move { context.note_moved(&home, &id, head, Compared::No).await });
        }
    }

    /// What is not shipped waits in the spool.
    pub(super) fn give_up(self) {
        // Left by an agent that ends it stays in the table.
        if self.ending == Ending::Released {
            self.context.leave(&self.key, &self.id, &self.spool);
            let Self {
                context,
                key,
                id,
                spool,
                ..
            } = self;
            drop(spool);
            context.ship_elsewhere(&id, &key.pod_uid);
        }
    }

    pub(super) fn finish(self) {
        for (_, reply) in self.waiting {
            // A caller that gave up wants no answer.
            drop(reply.send(Err(CommandError::Unavailable("the pod is gone".to_owned()))));
        }
        if self.ending == Ending::Released {
            self.context
                .board
                .update(&self.key, |row| row.state = State::Gone);
            if let Err(error) = self.spool.retire() {
                tracing::warn!(db = %self.id, err = %error, "cannot clear the spool of a gone pod");
            }
        }
        self.context.forget(&self.key);
    }
}
