//! The retain stage: what is not needed any more leaves the replica (L6).

use std::collections::BTreeSet;

use sqlrep_format::Timestamp;
use sqlrep_replica::ReplicaFile;
use sqlrep_replica::retain;

use super::upkeep::{Tend, Tended, refused};
use crate::error::StageError;

impl Tend {
    pub(super) fn retain(&self, now: Timestamp) -> Result<Tended, StageError> {
        // By its times a file may look older than it is: a clock was set.
        let aged = self.jumps.aged(&self.known);
        let removal = retain::retain(&aged, &self.policy, now).map_err(|error| refused(&error))?;
        let key = |file: &ReplicaFile| (file.level, file.range);
        let expired = removal.expired().iter().map(|expired| key(&expired.file));
        let expired: BTreeSet<_> = expired.collect();
        let goes = |file: &&ReplicaFile| expired.contains(&key(file));
        let gone: Vec<_> = self.known.files().iter().filter(goes).cloned().collect();
        if gone.is_empty() {
            return Ok(Tended::Nothing);
        }
        if let Some(stop) = self.look(&[])? {
            return Ok(stop);
        }
        removal.carry_out(&self.store)?;
        Ok(Tended::Removed(gone))
    }
}
