//! Who extends a replica: a pure decision from what the spool, the replica and its manifest say.
//!
//! No clock and no lock takes part (G4). The decision only chooses how to begin; from then on the
//! names of L0 files are the fence: whoever links TXID n first owns it.

use sqlrep_format::{PageSize, Txid};

/// The newest file of the replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Its highest TXID.
    pub(crate) txid: Txid,
    /// The writer named in its header; 0 is Litestream.
    pub(crate) writer: u64,
    /// The page size of the chain.
    pub(crate) page_size: PageSize,
}

/// What the manifest says of the last owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LastOwner {
    /// Name of its pod.
    pub(crate) pod: String,
    /// UID of its pod.
    pub(crate) pod_uid: String,
    /// Its node.
    pub(crate) node: String,
    /// The id in the headers of its files.
    pub(crate) writer: u64,
}

/// What this node's spool says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Local {
    /// The newest TXID that was captured, restored or claimed here.
    pub(crate) txid: Txid,
    /// The oldest TXID that is not known to be on the replica.
    pub(crate) first_pending: Option<Txid>,
    /// The page size of its chain.
    pub(crate) page_size: PageSize,
}

/// Everything the decision depends on.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// UID of the pod whose database this is.
    pub(crate) pod_uid: String,
    /// This writer's id, as it stands in the headers of its files.
    pub(crate) writer: u64,
    /// The spool, if it knows this database.
    pub(crate) local: Option<Local>,
    /// The replica, if it has files.
    pub(crate) head: Option<Head>,
    /// The manifest, if there is one.
    pub(crate) owner: Option<LastOwner>,
    /// A person said that this database is the one to keep (`adopt`, `takeover`).
    pub(crate) insisted: bool,
}

/// How to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Nothing is anywhere: the first file holds every page.
    StartNew,
    /// The spool and the replica fit together: go on.
    Continue,
    /// The spool lost its state, the replica is ours: read the replica's page checksums, then
    /// ship what differs.
    Rebuild,
    /// The spool shipped files that the replica no longer has: retire what is left of the chain
    /// to a branch and begin a new one, so that nothing is built on a hole.
    NewChain {
        /// What was found, for the log.
        why: String,
    },
    /// The database has another page size than the chain, which is ours: retire it to a branch.
    /// What waits in the spool begins the next one.
    NextChain,
    /// Somebody else's data is there: keep this database's commits on a branch, loudly.
    Branch {
        /// Whose replica it is.
        owner: String,
    },
}

impl Decision {
    /// Whether carrying it out exchanges what the spool holds: nobody must be capturing then.
    pub(crate) const fn changes_spool(&self) -> bool {
        match self {
            Self::StartNew | Self::Continue | Self::NextChain => false,
            Self::Rebuild | Self::NewChain { .. } | Self::Branch { .. } => true,
        }
    }
}

/// Decides; see [`Facts`] and [`Decision`].
pub(crate) fn decide(facts: &Facts) -> Decision {
    match (facts.local, facts.head) {
        (None, None) => Decision::StartNew,
        (Some(local), None) => replica_is_empty(local),
        (None, Some(head)) => spool_is_empty(facts, head),
        (Some(local), Some(head)) => compare(facts, local, head),
    }
}

fn replica_is_empty(local: Local) -> Decision {
    if local.first_pending == Some(Txid::FIRST) {
        return Decision::Continue;
    }
    Decision::NewChain {
        why: format!(
            "the replica is empty although TXID {} was shipped to it",
            local.txid
        ),
    }
}

fn spool_is_empty(facts: &Facts, head: Head) -> Decision {
    if facts.insisted || is_ours(facts, head) {
        Decision::Rebuild
    } else {
        Decision::Branch {
            owner: owner_text(facts, head),
        }
    }
}

fn compare(facts: &Facts, local: Local, head: Head) -> Decision {
    let begins = local.first_pending == Some(Txid::FIRST);
    if begins && head.page_size != local.page_size {
        return if facts.insisted || is_ours(facts, head) {
            Decision::NextChain
        } else {
            Decision::Branch {
                owner: owner_text(facts, head),
            }
        };
    }
    if head.txid > local.txid {
        return spool_is_empty(facts, head);
    }
    // A file that we did not write stands where ours is to go, or above it. The names between may
    // be free again (retention), so that no link would tell.
    let passed = local.first_pending.is_some_and(|first| head.txid >= first);
    if passed && !is_ours(facts, head) && !facts.insisted {
        return Decision::Branch {
            owner: owner_text(facts, head),
        };
    }
    // Files below `first_pending` were acknowledged, so the replica must have all of them.
    let must_have = match local.first_pending {
        Some(first) => first.prev(),
        None => Some(local.txid),
    };
    if must_have.is_some_and(|txid| head.txid < txid) {
        return Decision::NewChain {
            why: format!(
                "the replica ends at TXID {} although {} was shipped to it",
                head.txid,
                must_have.unwrap_or(local.txid)
            ),
        };
    }
    Decision::Continue
}

/// Under this node's name of today, or under another that the manifest knows us by. A manifest in
/// our name is not enough: who claimed a moment ago may not have written his yet.
fn is_ours(facts: &Facts, head: Head) -> bool {
    head.writer == facts.writer
        || (head.writer != 0
            && facts
                .owner
                .as_ref()
                .is_some_and(|owner| owner.pod_uid == facts.pod_uid && owner.writer == head.writer))
}

fn owner_text(facts: &Facts, head: Head) -> String {
    match &facts.owner {
        Some(owner) => format!("pod {} on node {}", owner.pod, owner.node),
        None if head.writer == 0 => "a Litestream replica".to_owned(),
        None => format!("writer {:016x}", head.writer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn txid(id: u64) -> Txid {
        Txid::new(id).unwrap()
    }

    fn facts(local: Option<(u64, Option<u64>)>, head: Option<(u64, u64)>) -> Facts {
        Facts {
            pod_uid: "me".to_owned(),
            writer: 7,
            local: local.map(|(newest, pending)| Local {
                txid: txid(newest),
                first_pending: pending.map(txid),
                page_size: PageSize::MIN,
            }),
            head: head.map(|(newest, writer)| Head {
                txid: txid(newest),
                writer,
                page_size: PageSize::MIN,
            }),
            owner: None,
            insisted: false,
        }
    }

    fn owned_by(mut facts: Facts, pod_uid: &str) -> Facts {
        facts.owner = Some(LastOwner {
            pod: "p".to_owned(),
            pod_uid: pod_uid.to_owned(),
            node: "n".to_owned(),
            writer: 8,
        });
        facts
    }

    #[test]
    fn nothing_anywhere_starts_new() {
        assert_eq!(decide(&facts(None, None)), Decision::StartNew);
    }

    #[test]
    fn a_replica_that_is_behind_the_spool_is_continued() {
        assert_eq!(
            decide(&facts(Some((9, Some(5))), Some((4, 7)))),
            Decision::Continue
        );
        assert_eq!(
            decide(&facts(Some((9, Some(5))), Some((6, 7)))),
            Decision::Continue
        );
        assert_eq!(
            decide(&facts(Some((9, None)), Some((9, 7)))),
            Decision::Continue
        );
        assert_eq!(decide(&facts(Some((3, Some(1))), None)), Decision::Continue);
    }

    #[test]
    fn a_replica_with_a_hole_is_never_built_upon() {
        for lost in [
            facts(Some((9, Some(5))), Some((3, 7))),
            facts(Some((9, None)), Some((8, 7))),
            facts(Some((9, None)), None),
            facts(Some((9, Some(2))), None),
        ] {
            assert!(
                matches!(decide(&lost), Decision::NewChain { .. }),
                "{lost:?}"
            );
        }
    }

    #[test]
    fn a_lost_spool_is_rebuilt_from_our_own_replica_only() {
        assert_eq!(decide(&facts(None, Some((4, 7)))), Decision::Rebuild);
        assert_eq!(
            decide(&owned_by(facts(None, Some((4, 8))), "me")),
            Decision::Rebuild
        );
        for foreign in [
            facts(None, Some((4, 8))),
            owned_by(facts(None, Some((4, 8))), "other"),
            facts(None, Some((4, 0))),
            owned_by(facts(None, Some((4, 0))), "me"),
            // Claimed by writer 9, who has not written his manifest yet.
            owned_by(facts(None, Some((4, 9))), "me"),
        ] {
            assert!(
                matches!(decide(&foreign), Decision::Branch { .. }),
                "{foreign:?}"
            );
        }
    }

    #[test]
    fn a_replica_that_ran_ahead_fences_unless_it_was_us() {
        assert!(matches!(
            decide(&facts(Some((4, None)), Some((6, 8)))),
            Decision::Branch { .. }
        ));
        assert_eq!(
            decide(&facts(Some((4, None)), Some((6, 7)))),
            Decision::Rebuild
        );
    }

    #[test]
    fn a_foreign_file_where_ours_is_to_go_is_a_branch_even_if_its_name_is_free_again() {
        for (head, passed) in [((8, 9), true), ((5, 9), true), ((4, 9), false)] {
            let decided = decide(&facts(Some((9, Some(5))), Some(head)));
            assert_eq!(
                matches!(decided, Decision::Branch { .. }),
                passed,
                "{head:?}"
            );
        }
        // Ours, with the note of it lost.
        let ours = facts(Some((9, Some(5))), Some((8, 7)));
        assert_eq!(decide(&ours), Decision::Continue);
    }

    #[test]
    fn a_chain_of_another_page_size_is_retired_by_its_owner_only() {
        let meet = |local, head| {
            let mut facts = facts(Some(local), Some(head));
            if let Some(head) = &mut facts.head {
                head.page_size = PageSize::MAX;
            }
            facts
        };
        for local in [(1, Some(1)), (4, Some(1)), (9, Some(1))] {
            assert_eq!(decide(&meet(local, (5, 7))), Decision::NextChain);
            let foreign = meet(local, (5, 9));
            assert!(matches!(decide(&foreign), Decision::Branch { .. }));
            let mut insisted = foreign;
            insisted.insisted = true;
            assert_eq!(decide(&insisted), Decision::NextChain);
        }
        // A chain that goes on has its page size.
        assert_eq!(decide(&meet((9, Some(5)), (4, 7))), Decision::Continue);
    }

    #[test]
    fn a_person_may_insist() {
        let mut foreign = owned_by(facts(None, Some((4, 8))), "other");
        foreign.insisted = true;
        assert_eq!(decide(&foreign), Decision::Rebuild);
    }
}
