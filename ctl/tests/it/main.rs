//! The real binary: without an agent on golden replicas, and against an agent of its own making.

mod agent;
mod fake;
mod offline;
mod support;
mod usage;
