//! The scrub stage: reads a replica back, and mends what it can.

use sqlrep_format::ltx::Level;
use sqlrep_replica::compact::{self, Compacted};
use sqlrep_replica::verify::{Verified, VerifyError, verify};
use sqlrep_replica::{PlanError, Point, Put, ReplicaFile, Store};

use super::compact::failed;
use super::upkeep::{Damage, Tend, Tended};
use crate::error::StageError;
use crate::limits;

impl Tend {
    pub(super) fn verify(&self) -> Result<Tended, StageError> {
        // Twice: what a share says once may be a bad moment of the network.
        let mut failure = None;
        for _ in 0..2 {
            match verify(&self.store, Point::Latest, &()) {
                Ok(verified) => return Ok(self.compare(verified)),
                Err(VerifyError::Plan(PlanError::Empty)) => return Ok(Tended::Nothing),
                Err(VerifyError::Store(error)) if !error.is_corrupt() => return Err(error.into()),
                Err(error) => failure = Some(error),
            }
        }
        let reason = failure.map_or_else(String::new, |error| crate::error::chain(&error));
        let healed = self.heal()?;
        Ok(Tended::Damaged(Damage { reason, healed }))
    }

    /// The spool knows the checksum over all pages at its position: another witness than the
    /// replica's own files.
    fn compare(&self, verified: Verified) -> Tended {
        let position = self.spool.position();
        let position = position.filter(|position| position.txid == verified.txid);
        let expected = position.and_then(|position| position.checksum);
        match expected.filter(|expected| *expected != verified.checksum) {
            None => Tended::Verified(verified),
            Some(expected) => Tended::Damaged(Damage {
                reason: format!(
                    "the replica restores TXID {} with checksum {} over all pages; what was \
                     captured has {expected}",
                    verified.txid, verified.checksum
                ),
                healed: None,
            }),
        }
    }

    /// Writes a snapshot of the newest state from files that are whole, the spool's included.
    fn heal(&self) -> Result<Option<ReplicaFile>, StageError> {
        let near = self.near();
        let mut listing = self.store.list()?;
        let head = listing.head();
        for _ in 0..limits::HEAL_ATTEMPTS {
            let plan = match compact::snapshot_plan(&listing) {
                Ok(Some(plan)) if plan.head() == head => plan,
                _ => return Ok(None),
            };
            match compact::compact(&near, &plan, Level::SNAPSHOT, &()) {
                Ok(Compacted {
                    put: Put::Taken, ..
                }) => return Ok(None),
                Ok(Compacted { file, .. }) => return Ok(Some(file)),
                Err(error) => match error.damaged() {
                    Some(file) => listing = listing.without(&file.clone()),
                    None => return Err(failed(error)),
                },
            }
        }
        Ok(None)
    }
}
