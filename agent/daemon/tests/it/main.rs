//! The real binary, and callers that are no clients.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot set its stage has failed"
)]

mod agent;
mod caller;
mod contract;
mod log;
mod wire;
