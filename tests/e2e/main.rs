//! The whole road, with the real programs: apps that write, the agent, the client, the peer.
//!
//! One file a scenario. Each test has a world of its own (`support/world.rs`), waits for facts with
//! a deadline, and prints the seed that replays it. `tests/README.md` says what proves what.

mod chains;
mod clocks;
mod damage;
mod demo;
mod discovery;
mod drain;
mod fleet;
mod golden;
mod habits;
mod handover;
mod harness;
mod history;
mod hostile;
mod inspect;
mod killed;
mod kube;
mod large;
mod life;
mod limits;
mod locks;
mod memory;
mod node;
mod outage;
mod race;
mod refusals;
mod rewind;
mod rollback;
mod scene;
mod secrets;
mod spine;
mod steps;
mod takeover;
mod target;
mod tls;
mod users;
mod vanish;
mod verbs;
mod wire;
mod workload;

use sqlrep_tests::Binaries;

/// The programs under test: shims in this package, for Cargo tells a suite only of those.
fn binaries() -> Binaries {
    Binaries::new(
        env!("CARGO_BIN_EXE_agent"),
        env!("CARGO_BIN_EXE_ctl"),
        env!("CARGO_TARGET_TMPDIR"),
    )
}
