#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

mod bytes;
mod checksum;
mod database;
#[cfg(test)]
mod golden;
mod journal;
#[cfg(test)]
mod levels;
pub mod ltx;
mod page;
mod timestamp;
mod txid;
pub mod wal;

pub use checksum::{Checksum, Crc64, Join, page_checksum};
pub use database::{DatabaseHeader, HeaderError, JournalMode};
pub use journal::{JournalHeader, journal_record, names_super_journal};
pub use page::{InvalidPageSize, PageCount, PageSize, Pgno};
pub use timestamp::Timestamp;
pub use txid::{InvalidTxid, Pos, Txid, TxidRange};
