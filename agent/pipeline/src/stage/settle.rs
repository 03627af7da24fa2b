//! The settle stage: finds out whose the replica is, and makes spool and replica fit together.
//!
//! Facts are read here, [`decide`] decides, and what follows from the
//! decision is done here. Blocking: only on a lane.

use sqlrep_format::Timestamp;
use sqlrep_replica::owner::{self, Claim, WriterId};
use sqlrep_replica::{DbId, Listing, Manifest, Point, Store, restore};
use sqlrep_spool::DatabaseSpool;

use crate::PodIdentity;
use crate::decide::{Decision, Facts, Head, LastOwner, Local, decide};
use crate::error::StageError;
use crate::home::Home;
use crate::remote::Remote;
use crate::stage::sign::{Signed, sign};

/// What the stage works on.
#[derive(Clone, Debug)]
pub(crate) struct Settle {
    pub(crate) store: Remote,
    pub(crate) spool: DatabaseSpool,
    pub(crate) home: Home,
    pub(crate) writer: WriterId,
    pub(crate) pod: PodIdentity,
    pub(crate) cluster_uid: Option<String>,
    /// What this pod's agent says of itself once it owns the replica.
    pub(crate) manifest: Manifest,
    pub(crate) insisted: bool,
}

/// Where the files of this database go from now on.
#[derive(Clone, Debug)]
pub(crate) enum Settled {
    /// To the replica itself.
    Main,
    /// To a branch, because the replica is somebody else's.
    Branch {
        store: Remote,
        name: String,
        owner: String,
    },
}

impl Settle {
    /// Reads the facts and decides; changes nothing.
    pub(crate) fn decide(&self) -> Result<Decision, StageError> {
        self.home.check()?;
        let manifest = self.store.load_manifest()?;
        check_identity(manifest.as_ref(), &self.pod, self.cluster_uid.as_deref())?;
        check_name(&self.home, manifest.as_ref(), &self.manifest.id)?;
        let head = self.head(&self.store.list()?)?;
        Ok(decide(&Facts {
            pod_uid: self.pod.uid.clone(),
            writer: self.writer.get(),
            local: self.local(),
            head,
            owner: manifest.map(|manifest| LastOwner {
                pod: manifest.owner.pod,
                pod_uid: manifest.owner.pod_uid,
                node: manifest.owner.node,
                writer: manifest.owner.writer.get(),
            }),
            insisted: self.insisted,
        }))
    }

    /// Does what the decision asks for. The capture thread must not be running if that changes the
    /// spool.
    pub(crate) fn carry_out(
        &self,
        decision: Decision,
        now: Timestamp,
    ) -> Result<Settled, StageError> {
        match decision {
            Decision::StartNew => Ok(Settled::Main),
            Decision::Continue => {
                self.know_checksums();
                Ok(Settled::Main)
            }
            Decision::Rebuild => {
                if self.insisted {
                    self.claim(now)?;
                }
                self.rebuild()?;
                Ok(Settled::Main)
            }
            Decision::NewChain { why } => {
                tracing::warn!(%why, "the old chain moves to a branch and a new one begins");
                retire(&self.store, "hole", now)?;
                // What waits here leans on files that are lost: the new chain begins with every
                // page of the live database, which is newer than all of it.
                self.ack_all()?;
                self.spool.restart()?;
                Ok(Settled::Main)
            }
            Decision::NextChain => {
                tracing::info!("the page size changed: the old chain moves to a branch");
                retire(&self.store, "page-size", now)?;
                Ok(Settled::Main)
            }
            // What waits in the spool goes to the branch, and so does what follows.
            Decision::Branch { owner } => self.branch(owner, now),
        }
    }

    /// Opens a branch for a writer that was fenced: its tail goes there, nothing is dropped.
    pub(crate) fn branch(&self, owner: String, now: Timestamp) -> Result<Settled, StageError> {
        let (name, store) = self
            .store
            .acting(|| owner::branch(self.store.place(), &self.pod.name, now))?;
        Ok(Settled::Branch {
            store: self.store.with(store),
            name,
            owner,
        })
    }

    /// Takes the replica's head as the place to go on from.
    fn rebuild(&self) -> Result<(), StageError> {
        // The replica is ours and ahead of the spool: what waits here was shipped long ago, and
        // only the note of that is lost.
        self.ack_all()?;
        self.spool.seed_from(&self.store)?;
        Ok(())
    }

    /// After a lost ledger: reads the page checksums back, so that a break in continuity ships
    /// what differs and not the whole database. Without them everything works, only dearer.
    fn know_checksums(&self) {
        if self
            .spool
            .position()
            .is_some_and(|position| position.checksum.is_none())
            && let Err(error) = self.spool.rebuild_from(&self.store)
        {
            tracing::warn!(err = %error, "page checksums stay unknown");
        }
    }

    fn ack_all(&self) -> Result<(), StageError> {
        if let Some(newest) = self.spool.pending().last() {
            self.spool.ack(newest.txid)?;
        }
        Ok(())
    }

    /// Publishes one unchanged page at head + 1, which fences whoever wrote the head.
    fn claim(&self, now: Timestamp) -> Result<(), StageError> {
        loop {
            let listing = self.store.list()?;
            let Some(head) = listing.head() else {
                return Ok(());
            };
            let (header, page) = restore::first_page(&self.store, Point::Latest)?;
            match owner::claim(&self.store, self.writer, head, &page, &header, now)? {
                Claim::Won(txid) => {
                    tracing::info!(%txid, "claimed the replica");
                    let manifest = Manifest {
                        head: Some(txid),
                        ..self.manifest.clone()
                    };
                    return match sign(&self.store, manifest, Some(txid))? {
                        Signed::Done => Ok(()),
                        Signed::Fenced { by } => Err(StageError::Overtaken {
                            dir: self.store.dir().to_path_buf(),
                            by,
                        }),
                    };
                }
                // The old owner was a moment faster: the next head is claimed instead.
                Claim::Lost { .. } => {}
            }
        }
    }

    fn local(&self) -> Option<Local> {
        let position = self.spool.position()?;
        let first_pending = self.spool.first_pending().map(|entry| entry.txid);
        Some(Local {
            txid: position.txid,
            first_pending,
            page_size: position.page_size,
        })
    }

    fn head(&self, listing: &Listing) -> Result<Option<Head>, StageError> {
        let Some(txid) = listing.head() else {
            return Ok(None);
        };
        let header = owner::header_at(&self.store, listing, txid)?;
        Ok(Some(Head {
            txid,
            writer: header.node_id,
            page_size: header.page_size,
        }))
    }
}

/// Moves the whole chain to a branch. What the manifest says of its TXIDs goes first: a reader
/// would look for them in the new chain for ever.
pub(crate) fn retire(store: &Remote, label: &str, now: Timestamp) -> Result<(), StageError> {
    if store.list()?.head().is_some() {
        if let Some(mut manifest) = store.load_manifest()? {
            (manifest.head, manifest.claims) = (None, Vec::new());
            store.save_manifest(&manifest)?;
        }
        store.acting(|| owner::retire_chain(store.place(), label, now))?;
    }
    Ok(())
}

/// Refuses a replica of another cluster or namespace.
pub(crate) fn check_identity(
    manifest: Option<&Manifest>,
    pod: &PodIdentity,
    cluster_uid: Option<&str>,
) -> Result<(), StageError> {
    let Some(manifest) = manifest else {
        return Ok(());
    };
    foreign("cluster", manifest.cluster_uid.as_deref(), cluster_uid)?;
    // The tail of a pod that is gone: nobody knows its namespace any more, and it was judged when
    // this very pod became the owner.
    if pod.namespace_uid.is_none() && manifest.owner.pod_uid == pod.uid {
        return Ok(());
    }
    foreign(
        "namespace",
        manifest.namespace_uid.as_deref(),
        pod.namespace_uid.as_deref(),
    )
}

/// A volume of pods knows a replica by its path alone: two apps that name one volume must not share
/// the replica in it.
pub(crate) fn check_name(
    home: &Home,
    manifest: Option<&Manifest>,
    id: &DbId,
) -> Result<(), StageError> {
    let theirs = manifest.map(|manifest| &manifest.id);
    match theirs.filter(|theirs| home.target().is_some() && *theirs != id) {
        None => Ok(()),
        Some(theirs) => Err(StageError::Refused {
            reason: format!(
                "the replica {} in that volume is of {theirs}, and this database is {id}: two apps \
                 must not share a replica; give this one another volume, or, if it is the same app \
                 under a new name, remove .sqlrep/manifest.json from the replica",
                home.path().join(id.encoded_path()).display()
            ),
        }),
    }
}

/// Same path, other cluster or namespace: two apps must never share a replica (DESIGN §4.2).
fn foreign(what: &str, recorded: Option<&str>, ours: Option<&str>) -> Result<(), StageError> {
    let Some(recorded) = recorded else {
        return Ok(());
    };
    if ours == Some(recorded) {
        return Ok(());
    }
    let ours = ours.map_or_else(|| "has none".to_owned(), |uid| format!("is {uid}"));
    Err(StageError::Refused {
        reason: format!(
            "the replica belongs to {what} {recorded}, and this agent's {what} {ours}: \
             two apps must not share a replica; move the replica away, or remove {what}_uid from \
             .sqlrep/manifest.json if it really is the same app"
        ),
    })
}

#[cfg(test)]
mod tests;
