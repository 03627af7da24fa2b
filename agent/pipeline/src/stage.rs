//! The stages of the flow, one file each.

pub(crate) mod capture;
mod compact;
pub(crate) mod elsewhere;
pub(crate) mod restore;
mod retain;
pub(crate) mod scrub;
pub(crate) mod settle;
pub(crate) mod ship;
pub(crate) mod sign;
pub(crate) mod upkeep;
