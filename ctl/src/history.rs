//! What a replica holds, and which of its states can be restored.

use std::collections::BTreeMap;

use sqlrep_format::ltx::Level;
use sqlrep_format::{Timestamp, Txid, TxidRange};
use sqlrep_replica::owner::branch_listing;
use sqlrep_replica::plan::plan;
use sqlrep_replica::{Listing, Plan, ReplicaFile, points};

/// An LTX file of a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    /// The branch that it belongs to; empty: the main chain.
    pub(crate) branch: String,
    /// 0 single captures, 1 to 8 compactions, 9 snapshots.
    pub(crate) level: u8,
    /// The TXIDs in it.
    pub(crate) range: TxidRange,
    /// When its last TXID was captured.
    pub(crate) time: Timestamp,
    /// Its size.
    pub(crate) bytes: u64,
}

impl File {
    /// As a replica lists it.
    fn listed(&self) -> Option<ReplicaFile> {
        let level = Level::new(self.level)?;
        Some(ReplicaFile {
            level,
            range: self.range,
            bytes: self.bytes,
            modified: self.time,
        })
    }
}

/// The unshipped tail of a writer that was fenced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Branch {
    /// Its name.
    pub(crate) name: String,
    /// Its first own TXID.
    pub(crate) from: Option<Txid>,
    /// Its last TXID.
    pub(crate) head: Option<Txid>,
}

/// Everything that a replica holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    /// Its branches.
    pub(crate) branches: Vec<Branch>,
    /// Its files, those of branches too.
    pub(crate) files: Vec<File>,
}

/// A file and whether the state that it leads to can be restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Point {
    /// The file.
    pub(crate) file: File,
    /// Whether a chain from a snapshot leads there.
    pub(crate) restorable: bool,
    /// What a restore of that state reads.
    pub(crate) cost: Option<Cost>,
}

/// What a restore reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cost {
    /// So many files.
    pub(crate) files: usize,
    /// Of so many bytes in all.
    pub(crate) bytes: u64,
}

impl Cost {
    fn of(plan: &Plan) -> Self {
        Self {
            files: plan.steps.len(),
            bytes: plan.bytes(),
        }
    }
}

impl History {
    /// All files: by branch, then by the state they lead to, then by level.
    pub(crate) fn points(&self) -> Vec<Point> {
        let mut names = vec![""];
        names.extend(self.branches.iter().map(|branch| branch.name.as_str()));
        // A file of a branch that was not announced must not vanish from the picture.
        for file in &self.files {
            if !names.contains(&file.branch.as_str()) {
                names.push(&file.branch);
            }
        }
        names
            .into_iter()
            .flat_map(|name| self.points_of(name))
            .collect()
    }

    fn points_of(&self, branch: &str) -> Vec<Point> {
        let chain = self.chain(branch);
        let reached: BTreeMap<Txid, Option<Cost>> = points(&chain)
            .into_iter()
            .map(|reached| {
                let wanted = sqlrep_replica::Point::Txid(reached.txid);
                let plan = plan(&chain, wanted).ok();
                (reached.txid, plan.as_ref().map(Cost::of))
            })
            .collect();
        let own = self.files.iter().filter(|file| file.branch == branch);
        let mut points: Vec<Point> = own
            .map(|file| {
                let reached = reached.get(&file.range.max());
                Point {
                    file: file.clone(),
                    restorable: reached.is_some(),
                    cost: reached.copied().flatten(),
                }
            })
            .collect();
        points.sort_by_key(|point| (point.file.range.max(), point.file.level, point.file.range));
        points
    }

    /// The files that a restore of the branch may use.
    fn chain(&self, branch: &str) -> Listing {
        let of = |name: &str| {
            let files = self.files.iter().filter(|file| file.branch == name);
            Listing::new(files.filter_map(File::listed).collect())
        };
        if branch.is_empty() {
            of("")
        } else {
            branch_listing(&of(""), &of(branch))
        }
    }

    /// The oldest and the newest state that can be restored, on the main chain.
    pub(crate) fn reach(&self) -> Option<(File, File)> {
        let points = self.points_of("");
        let mut restorable = points.into_iter().filter(|point| point.restorable);
        let first = restorable.next()?.file;
        let last = restorable
            .next_back()
            .map_or_else(|| first.clone(), |point| point.file);
        Some((first, last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(min: u64, max: u64) -> TxidRange {
        TxidRange::new(Txid::new(min).unwrap(), Txid::new(max).unwrap()).unwrap()
    }

    fn file(branch: &str, level: u8, min: u64, max: u64) -> File {
        let time = Timestamp::from_millis(0);
        File {
            branch: branch.to_owned(),
            level,
            range: range(min, max),
            time,
            bytes: 1,
        }
    }

    #[test]
    fn a_state_behind_a_gap_cannot_be_restored() {
        let files = vec![file("", 0, 1, 1), file("", 0, 2, 2), file("", 0, 4, 4)];
        let history = History {
            branches: Vec::new(),
            files,
        };
        let restorable: Vec<bool> = history
            .points()
            .iter()
            .map(|point| point.restorable)
            .collect();
        assert_eq!(restorable, [true, true, false]);
    }

    #[test]
    fn a_state_costs_what_its_restore_reads() {
        let files = vec![
            file("", 9, 1, 2),
            file("", 0, 3, 3),
            file("", 0, 4, 4),
            file("", 0, 6, 6),
        ];
        let branches = Vec::new();
        let history = History { branches, files };
        let costs: Vec<_> = history
            .points()
            .iter()
            .map(|point| {
                (
                    point.file.range.max().get(),
                    point.cost.map(|cost| cost.files),
                )
            })
            .collect();
        let expected = [(2, Some(1)), (3, Some(2)), (4, Some(3)), (6, None)];
        assert_eq!(costs, expected);
    }

    #[test]
    fn a_branch_stands_on_the_main_chain_below_it() {
        let branch = Branch {
            name: "b".to_owned(),
            from: Txid::new(3),
            head: None,
        };
        let history = History {
            branches: vec![branch],
            files: vec![
                file("", 0, 1, 1),
                file("", 0, 2, 2),
                file("", 0, 3, 3),
                file("b", 0, 3, 3),
                file("b", 0, 5, 5),
            ],
        };
        let points = history.points();
        let ends: Vec<_> = points
            .iter()
            .map(|p| {
                (
                    p.file.branch.as_str(),
                    p.file.range.max().get(),
                    p.restorable,
                )
            })
            .collect();
        let expected = [
            ("", 1, true),
            ("", 2, true),
            ("", 3, true),
            ("b", 3, true),
            ("b", 5, false),
        ];
        assert_eq!(ends, expected);
        let (first, last) = history.reach().unwrap();
        assert_eq!((first.range.max().get(), last.range.max().get()), (1, 3));
    }
}
