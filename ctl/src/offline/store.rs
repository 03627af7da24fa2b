//! A replica or one of its branches, as a store to read from.

use sqlrep_replica::owner::{self, Branch, BranchStore};
use sqlrep_replica::{DirStore, Store};

use super::{Found, store_failure};
use crate::failure::{Failure, Result};
use crate::reference::Named as _;

/// The branches of a replica.
pub(super) fn branches(found: &Found) -> Result<Vec<Branch>> {
    owner::list_branches(&found.dir).map_err(store_failure)
}

/// The replica itself, or the branch of that name with what it stands on.
pub(super) fn open(found: &Found, branch: Option<&str>) -> Result<Box<dyn Store>> {
    let Some(wanted) = branch else {
        return Ok(Box::new(DirStore::new(&found.dir)));
    };
    let branches = branches(found)?;
    if branches.iter().any(|branch| branch.name == wanted) {
        return BranchStore::open(&found.dir, wanted)
            .map(|store| Box::new(store) as Box<dyn Store>)
            .map_err(store_failure);
    }
    let failure = Failure::not_found(format!("{} has no branch {wanted}", found.name()));
    let names: Vec<&str> = branches.iter().map(|branch| branch.name.as_str()).collect();
    Err(if names.is_empty() {
        failure.hint("it has no branches at all; leave --branch out")
    } else {
        failure.hint(format!("its branches: {}", names.join(", ")))
    })
}
