//! Which databases to replicate: the front page is the README.

#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod claims;
mod cluster;
mod discover;
mod engine;
mod error;
mod event;
#[cfg(test)]
mod fixture;
mod header;
mod identity;
mod inventory;
mod kubelet;
mod manifests;
mod outbox;
mod pods;
mod policy;
mod scan;
mod target;
mod volume;
mod watch;

pub use claims::Claims;
pub use cluster::ApiServer;
pub use discover::{Config, Discover, Limits, PodSource};
pub use error::Error;
pub use event::{Event, InodeKey, Kind};
pub use identity::PodUid;
pub use kubelet::volume_dir;
pub use pods::{EmptyDir, Medium, Phase, PodRef};
pub use policy::{BadValue, Globs, Journal, Policy, Restore};
pub use target::{TargetPlace, TargetVolume};
