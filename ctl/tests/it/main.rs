//! The real binary: without an agent on golden replicas, and against an agent of its own making.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot set its stage has failed"
)]

mod agent;
mod cluster;
mod fake;
mod offline;
mod support;
mod usage;
