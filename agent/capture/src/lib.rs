#![doc = include_str!("../README.md")]

mod cadence;
mod checkpoint;
mod code;
mod confine;
pub mod demo;
mod error;
mod ffi;
mod follower;
mod hold;
mod inspect;
mod live;
mod pages;
mod pending;
mod position;
mod rewind;
mod session;
mod setup;
mod snapshot;
mod tail;
#[cfg(test)]
mod testing;
mod window;

pub use cadence::Cadence;
pub use checkpoint::{Checkpoint, Mode};
pub use confine::act_as;
pub use error::Error;
pub use follower::Follower;
pub use inspect::{Word, quick_check};
pub use live::{Keeper, LiveFile, Probe, convert_to_wal, probe};
pub use pages::Pages;
pub use rewind::{Answer, Order, Prepared, Rewind};
pub use session::{Look, Options, Session, Start, Step};
pub use setup::{give_back_memory, init, sqlite_version};
