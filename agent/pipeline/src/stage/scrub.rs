//! The scrub stage: reads a replica back, and mends what it can.
//!
//! What is damaged is made good from the nearest place that has the pages: the spool, other files of
//! the replica, at last the live database. Whatever happens, the newest state restores again before
//! anything is taken out of the chain, and what is lost is said.

use sqlrep_format::ltx::Level;
use sqlrep_format::{Timestamp, Txid};
use sqlrep_replica::compact::{self, CompactError, Compacted};
use sqlrep_replica::owner::{Publish, publish_l0};
use sqlrep_replica::retain;
use sqlrep_replica::verify::{Verified, VerifyError, verify_copying, verify_listing};
use sqlrep_replica::{
    Listing, PlanError, Point, ReplicaFile, RestorePoint, Store, StoreError, rfc3339,
};

use super::compact::failed;
use super::ship::to_publish;
use super::upkeep::{Look, Tend, Tended, refused};
use crate::error::{StageError, chain};
use crate::inspect::{Bench, Subject};
use crate::limits;

/// A damaged part of a replica, and what was done about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Damage {
    /// What is wrong.
    pub(crate) reason: String,
    /// Level-0 files that came back from the spool.
    pub(crate) put_back: usize,
    /// Files that lie beside the chain now.
    pub(crate) aside: usize,
    /// The snapshot of the live database that stands in for what is damaged.
    pub(crate) renewed: Option<Txid>,
    /// Whether the newest state restores.
    pub(crate) whole: bool,
    /// The kept points that cannot be restored any more.
    pub(crate) lost: Vec<RestorePoint>,
}

impl Damage {
    /// In words.
    pub(crate) fn text(&self) -> String {
        let mut parts = vec![self.reason.clone()];
        if self.put_back > 0 {
            parts.push(format!("{} came back from the spool", files(self.put_back)));
        }
        match (self.renewed, self.whole) {
            (Some(txid), _) => parts.push(format!(
                "nothing else held the pages: a new snapshot of the live database, TXID {txid}, \
                 stands in"
            )),
            (None, true) if self.aside > 0 => {
                parts.push("other files lead to the newest state".to_owned());
            }
            (None, true) => {}
            (None, false) => parts.push(
                "the newest state cannot be restored until a new snapshot of the live database \
                 stands in"
                    .to_owned(),
            ),
        }
        if self.aside > 0 {
            parts.push(format!("{} lie in .sqlrep/damaged", files(self.aside)));
        }
        parts.extend(self.loss());
        parts.join("; ")
    }

    /// What is lost, in words.
    fn loss(&self) -> Option<String> {
        let (Some(first), Some(last)) = (self.lost.first(), self.lost.last()) else {
            return self.whole.then(|| "no kept point is lost".to_owned());
        };
        let at = |point: &RestorePoint| format!("TXID {} ({})", point.txid, rfc3339(point.time));
        Some(match self.lost.len() {
            1 => format!("the kept point {} is lost", at(first)),
            many => format!(
                "{many} kept points from {} to {} are lost",
                at(first),
                at(last)
            ),
        })
    }
}

fn files(count: usize) -> String {
    match count {
        1 => "1 file".to_owned(),
        count => format!("{count} files"),
    }
}

impl Tend {
    pub(super) fn verify(&self, now: Timestamp) -> Result<Tended, StageError> {
        // Twice: what a share says once may be a bad moment of the network.
        let mut failure = None;
        for _ in 0..2 {
            let subject = self.subject();
            let copy = subject.as_ref().and_then(|subject| subject.as_ref().ok());
            let copy = copy.map(Subject::copy);
            match verify_copying(&self.store, Point::Latest, &(), copy) {
                Ok(verified) => match self.contradicted(&verified) {
                    None => {
                        self.store.clear_doubt();
                        return Ok(self.proven(verified, subject));
                    }
                    Some(reason) => return self.overwrite(reason, now),
                },
                Err(VerifyError::Plan(PlanError::Empty)) => return Ok(Tended::Nothing),
                Err(VerifyError::Store(cause)) => return Err(cause.into()),
                Err(VerifyError::File { cause, .. }) if passes(&cause) => return Err(cause.into()),
                Err(error) => failure = Some(error),
            }
        }
        let reason = failure.map_or_else(String::new, |error| chain(&error));
        self.mend(reason, Vec::new(), now)
    }

    /// Where the database goes to be looked at; `None` when it is known by what came of that.
    fn subject(&self) -> Option<Result<Subject, String>> {
        let head = self.known.head();
        let known = head.is_some() && head == self.checked;
        let bench = self.bench.clone();
        (!known).then(|| bench.map_or_else(|| Err("nobody asked".to_owned()), Bench::subject))
    }

    fn proven(&self, verified: Verified, subject: Option<Result<Subject, String>>) -> Tended {
        let look = match subject {
            Some(subject) => Look::Due(subject.and_then(|subject| subject.whole(&verified))),
            None if Some(verified.txid) == self.checked => Look::Known,
            None => Look::Due(Err("it changed meanwhile".to_owned())),
        };
        Tended::Verified(verified, look)
    }

    /// The spool knows the checksum over all pages at its position: another witness than the
    /// replica's own files.
    fn contradicted(&self, verified: &Verified) -> Option<String> {
        let position = self.spool.position();
        let position = position.filter(|position| position.txid == verified.txid);
        let expected = position.and_then(|position| position.checksum)?;
        (expected != verified.checksum).then(|| {
            format!(
                "the replica restores TXID {} with checksum {} over all pages; what was captured \
                 has {expected}",
                verified.txid, verified.checksum
            )
        })
    }

    /// Files that are whole and wrong: which of them says nothing. The live database stands in.
    fn overwrite(&self, reason: String, now: Timestamp) -> Result<Tended, StageError> {
        self.store.note_doubt(&reason, now);
        let renewed = self.renew()?;
        if renewed.is_some() {
            self.store.clear_doubt();
        }
        Ok(Tended::Damaged(Damage {
            reason,
            renewed,
            whole: renewed.is_some(),
            ..Damage::default()
        }))
    }

    /// Makes the newest state restorable again, and takes out of the chain what is damaged; `known`
    /// is what was found to be.
    pub(super) fn mend(
        &self,
        reason: String,
        known: Vec<ReplicaFile>,
        now: Timestamp,
    ) -> Result<Tended, StageError> {
        if let Some(stop) = self.stranger(&self.store.ranges(Level::L0)?) {
            return Ok(stop);
        }
        self.store.note_doubt(&reason, now);
        let before = self.store.list()?;
        let mut mending = Mending {
            tend: self,
            now,
            damaged: Vec::new(),
            put_back: 0,
        };
        for file in known {
            mending.found(file)?;
        }
        let mut whole = mending.road()?;
        let mut renewed = None;
        if !whole {
            renewed = self.renew()?;
            whole = renewed.is_some();
        }
        let Mending {
            damaged, put_back, ..
        } = mending;
        let mut damage = Damage {
            reason,
            put_back,
            renewed,
            whole,
            ..Damage::default()
        };
        if whole {
            let listing = self.store.list()?;
            let condemned = retain::condemn(&listing, &damaged, &self.policy);
            let condemned = condemned.map_err(|error| refused(&error))?;
            condemned.carry_out(&self.store, now)?;
            damage.aside = condemned.files().len();
            damage.lost = retain::lost(&before, &self.store.list()?);
            self.store.clear_doubt();
        }
        Ok(Tended::Damaged(damage))
    }

    /// Makes the shipped file with every page, if there is one, a snapshot; says of which TXID.
    fn renew(&self) -> Result<Option<Txid>, StageError> {
        let Some(full) = self.full else {
            return Ok(None);
        };
        let listing = self.store.list_level(Level::L0)?;
        let Some(file) = listing.iter().find(|file| file.range.max() == full) else {
            return Ok(None);
        };
        match compact::renew(&self.near(), file, &()) {
            Ok(Compacted { file, .. }) => Ok(Some(file.range.max())),
            // Then another one has to be captured.
            Err(CompactError::Merge(_)) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }
}

/// Whether it is the replica that is at fault, and not the moment or the caller.
pub(crate) fn is_damage(error: &VerifyError) -> bool {
    match error {
        VerifyError::File { cause, .. } => !passes(cause),
        VerifyError::Plan(error) => {
            matches!(error, PlanError::Gap { .. } | PlanError::NoStart { .. })
        }
        _ => false,
    }
}

/// It may be otherwise the next time.
fn passes(cause: &StoreError) -> bool {
    cause.is_transient() || cause.is_missing()
}

/// What has been found and done so far.
struct Mending<'a> {
    tend: &'a Tend,
    now: Timestamp,
    damaged: Vec<ReplicaFile>,
    put_back: usize,
}

impl Mending<'_> {
    /// Looks for whole files that lead to the newest state; what is damaged on the way is noted.
    fn road(&mut self) -> Result<bool, StageError> {
        let store = &self.tend.store;
        for _ in 0..limits::HEAL_ATTEMPTS {
            let listing = store.list()?;
            let sound = |listing: Listing, file| listing.without(file);
            let sound = self.damaged.iter().fold(listing.clone(), sound);
            match verify_listing(store, &sound, Point::Latest, &()) {
                Ok(verified) => return Ok(Some(verified.txid) == listing.head()),
                Err(VerifyError::File { cause, .. }) if passes(&cause) => return Err(cause.into()),
                Err(VerifyError::File { file, .. }) => self.found(*file)?,
                Err(VerifyError::Plan(PlanError::Gap { have, next })) => {
                    if !self.fill(have, next)? {
                        return Ok(false);
                    }
                }
                Err(VerifyError::Store(cause)) => return Err(cause.into()),
                Err(_) => return Ok(false),
            }
        }
        Ok(false)
    }

    /// A damaged file: the spool's copy takes its place, if that has one.
    fn found(&mut self, file: ReplicaFile) -> Result<(), StageError> {
        let claim = self.tend.policy.claims.contains(&file.range.max());
        let kept = self.tend.near().kept(&file).filter(|_| !claim);
        // The name must be free before the copy can have it.
        if kept.is_some_and(|kept| kept.path.exists()) {
            self.tend.store.set_aside(&file, self.now)?;
            if self.publish(file.range.max())? {
                return Ok(());
            }
        }
        self.damaged.push(file);
        Ok(())
    }

    /// Publishes the spool's copies of the TXIDs between two; `false` when it has not all of them.
    fn fill(&mut self, have: Txid, next: Txid) -> Result<bool, StageError> {
        let mut txid = have.next();
        while txid < next {
            if !self.publish(txid)? {
                return Ok(false);
            }
            txid = txid.next();
        }
        Ok(true)
    }

    fn publish(&mut self, txid: Txid) -> Result<bool, StageError> {
        let Some(kept) = self.tend.spool.kept(txid) else {
            return Ok(false);
        };
        match publish_l0(&self.tend.store, self.tend.writer, &to_publish(&kept)) {
            Ok(Publish::Done | Publish::AlreadyOurs) => {
                self.put_back += 1;
                Ok(true)
            }
            Ok(Publish::Fenced { .. }) => Ok(false),
            // A copy that went, or went bad, is none.
            Err(error) if error.is_corrupt() || error.is_missing() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
