#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod calendar;
pub mod compact;
pub mod doubt;
pub mod durable;
#[cfg(test)]
mod faults;
mod input;
mod layout;
pub mod manifest;
pub mod merge;
pub mod moved;
pub mod owner;
pub mod plan;
mod progress;
pub mod restore;
pub mod retain;
pub mod root;
mod scan;
mod store;
pub mod tenure;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod verify;

pub use calendar::rfc3339;
pub use doubt::Doubt;
pub use layout::{DbId, IdError, LTX_DIR, META_DIR, file_path, level_dir, replicas_below};
pub use manifest::{Manifest, ManifestError, Owner, OwnerState, Ownership};
pub use merge::{Merge, MergeError};
pub use moved::Moved;
pub use plan::{Plan, PlanError, Point, RestorePoint, points};
pub use progress::Progress;
pub use restore::{Destination, Note, Replanned, RestoreError, RestoreOptions, Restored, Staged};
pub use store::{DirStore, Listing, Put, ReplicaFile, Store, StoreError};
pub use tenure::Tenure;
pub use verify::{Verified, VerifyError};
