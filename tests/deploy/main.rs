//! What `deploy/` holds, rendered by the tools that people render it with: kubectl and helm.
//!
//! Nothing here needs a cluster. `tests/run setup` fetches both tools; without them these tests
//! fail and say so.

mod admission;
mod chart;
mod image;
mod monitoring;
mod objects;
mod rights;
mod tools;
