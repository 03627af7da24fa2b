//! The retain stage: what is not needed any more leaves the replica (L6).

use sqlrep_format::Timestamp;
use sqlrep_replica::ReplicaFile;
use sqlrep_replica::retain;

use super::upkeep::{Tend, Tended, refused};
use crate::error::StageError;

impl Tend {
    pub(super) fn retain(&self, now: Timestamp) -> Result<Tended, StageError> {
        let removal =
            retain::retain(&self.known, &self.policy, now).map_err(|error| refused(&error))?;
        let gone: Vec<ReplicaFile> = removal
            .expired()
            .iter()
            .map(|expired| expired.file.clone())
            .collect();
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
