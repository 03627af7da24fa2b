//! How far a long read has come.

use crate::{ReplicaFile, StoreError};

/// Told about a restore or a verification while it runs; called from several threads.
pub trait Progress: Sync {
    /// A plan was made: so many files and bytes are to be read. Again after each re-plan.
    fn planned(&self, files: usize, bytes: u64) {
        let _ = (files, bytes);
    }
    /// So many more bytes were read and decoded.
    fn read(&self, bytes: u64) {
        let _ = bytes;
    }
    /// A file could not be used; the work begins anew without it.
    fn replanned(&self, file: &ReplicaFile, cause: &StoreError) {
        let _ = (file, cause);
    }
    /// Whether to give up.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Nobody listens.
impl Progress for () {}
