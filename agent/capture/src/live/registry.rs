//! Which inodes this process holds: one session each, no more.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::Inode;
use crate::Error;

/// The inodes that are held now.
static HELD: Mutex<BTreeSet<Inode>> = Mutex::new(BTreeSet::new());

/// The right to open one inode.
#[derive(Debug)]
pub(super) struct Claim {
    inode: Inode,
}

impl Claim {
    /// Refuses when somebody in this process has it.
    pub(super) fn take(inode: Inode, path: &Path) -> Result<Self, Error> {
        let fresh = HELD
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(inode);
        if fresh {
            return Ok(Self { inode });
        }
        let Inode { device, number } = inode;
        Err(Error::Held {
            path: path.to_owned(),
            device,
            inode: number,
        })
    }

    pub(super) fn inode(&self) -> Inode {
        self.inode
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        HELD.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.inode);
    }
}
