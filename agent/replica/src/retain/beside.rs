//! What lies beside the chain and has an age of its own: branches, and damaged files.

use std::ffi::{OsStr, OsString};
use std::io;
use std::time::Duration;

use sqlrep_format::{Timestamp, Txid};

use crate::calendar::parse_compact;
use crate::durable::{self, Dir, Fs, Place};
use crate::layout::{BRANCHES_DIR, DAMAGED_DIR, META_DIR};
use crate::owner::{Branch, list_branches};
use crate::{Listing, StoreError};

/// A branch that is going has this before its name, so that nobody takes what is left for one.
const GOING: &str = "gone-";

/// `<branch>/ltx/<level>/<file>`.
const BRANCH_DEPTH: u32 = 2;

/// What may go from beside a chain, and when the next does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    branches: Vec<String>,
    damaged: Vec<OsString>,
    next: Option<Timestamp>,
}

impl Beside {
    /// Looks at the replica at `replica`, whose chain is `main`. A branch goes when nothing was
    /// written to it for as long as `keep`, a damaged file when it was set aside that long ago.
    pub fn look(
        replica: impl Into<Place>,
        main: &Listing,
        keep: Duration,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let (replica, mut beside) = (replica.into(), Self::default());
        for (branch, at) in expiries(list_branches(&replica)?, main, keep) {
            if beside.goes(at, now) {
                beside.branches.push(branch.name);
            }
        }
        for name in names(&meta(&replica, DAMAGED_DIR))? {
            let since = name.to_str().and_then(|name| name.split_once('-'));
            let since = since.and_then(|(since, _)| parse_compact(since));
            if let Some(since) = since
                && beside.goes(since.later(keep), now)
            {
                beside.damaged.push(name);
            }
        }
        Ok(beside)
    }

    fn goes(&mut self, at: Timestamp, now: Timestamp) -> bool {
        if at <= now {
            return true;
        }
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
        false
    }

    /// The names of the branches that go.
    pub fn branches(&self) -> &[String] {
        &self.branches
    }

    /// When the next branch or damaged file may go, if nothing else happens.
    pub fn next(&self) -> Option<Timestamp> {
        self.next
    }

    /// Removes them. A branch gets another name first: a part of one must not be taken for all of
    /// it. What a crash left of that is removed too.
    pub fn carry_out(&self, replica: impl Into<Place>, fs: &dyn Fs) -> Result<(), StoreError> {
        let replica = replica.into();
        if let Some(dir) = open(&meta(&replica, BRANCHES_DIR))? {
            for name in &self.branches {
                let going = OsString::from(format!("{GOING}{name}"));
                durable::move_dir(fs, &dir, OsStr::new(name), &dir, &going)?;
            }
            let entries = dir.entries().map_err(StoreError::io("list", dir.path()))?;
            let is_going = |name: &&OsString| name.as_encoded_bytes().starts_with(GOING.as_bytes());
            for name in entries.iter().filter(is_going) {
                durable::remove_tree(fs, &dir, name, BRANCH_DEPTH)?;
            }
        }
        let Some(dir) = open(&meta(&replica, DAMAGED_DIR))? else {
            return Ok(());
        };
        for name in &self.damaged {
            durable::unlink_if_there(fs, &dir, name)?;
        }
        Ok(())
    }
}

/// Each branch and from when on it may go. The newest whole chain stays while the replica has none:
/// it is what the replica held until it was retired.
fn expiries(
    branches: Vec<Branch>,
    main: &Listing,
    keep: Duration,
) -> impl Iterator<Item = (Branch, Timestamp)> {
    let whole = |branch: &&Branch| branch.from == Txid::FIRST;
    let last = branches.iter().rfind(whole).filter(|_| main.is_empty());
    let last = last.map(|branch| branch.name.clone());
    let goes = move |branch: &Branch| Some(&branch.name) != last.as_ref();
    let at = move |branch: Branch| {
        let at = branch.changed.later(keep);
        (branch, at)
    };
    branches.into_iter().filter(goes).map(at)
}

fn meta(replica: &Place, part: &str) -> Place {
    replica.join(META_DIR).join(part)
}

fn open(place: &Place) -> Result<Option<Dir>, StoreError> {
    match place.open() {
        Ok(dir) => Ok(Some(dir)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io("open", place.path())(error)),
    }
}

fn names(place: &Place) -> Result<Vec<OsString>, StoreError> {
    let Some(dir) = open(place)? else {
        return Ok(Vec::new());
    };
    dir.entries().map_err(StoreError::io("list", place.path()))
}

#[cfg(test)]
mod tests;
