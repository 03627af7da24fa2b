#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod append;
mod budget;
mod checksums;
mod database;
mod draft;
mod error;
mod files;
mod fold;
mod ledger;
mod lineage;
mod lock;
mod memo;
mod position;
mod rebuild;
mod recover;
mod settle;
mod spool;
mod tenure;
#[cfg(test)]
mod testing;

pub use checksums::PageChecksums;
pub use database::DatabaseSpool;
pub use draft::{Appended, Draft, Entry, PageSource};
pub use error::Error;
pub use memo::PodNote;
pub use position::{Position, Seed, WalPlace};
pub use spool::{Held, Limits, Spool};
pub use tenure::VolumeNote;
