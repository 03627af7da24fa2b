//! The stages of the flow, one file each.

pub(crate) mod capture;
pub(crate) mod restore;
pub(crate) mod settle;
pub(crate) mod ship;
