//! A small world to prove things in: a kubelet's tree, pods as manifests, apps that write, the real
//! agent and the real client as processes, and the peer.
//!
//! Nothing here shares code with what is under test: the databases are written by Python and by
//! the sqlite3 program, images are compared byte by byte, LTX files are read by a reader of our
//! own ([`ltx`]), and Litestream restores what we wrote.
#![forbid(unsafe_code)]

pub mod agent;
pub mod api;
pub mod app;
pub mod between;
pub mod clock;
pub mod ctl;
pub mod image;
pub mod locks;
pub mod ltx;
pub mod orm;
pub mod peer;
pub mod pod;
pub mod process;
pub mod wait;
pub mod world;

pub use agent::{Agent, AgentOptions};
pub use api::{ApiServer, Trouble};
pub use app::{Reader, Sqlite, Workload, Writer};
pub use between::Between;
pub use ctl::{Ctl, Said};
pub use orm::Orm;
pub use peer::Peer;
pub use pod::{Pod, PodOptions};
pub use wait::{poll, wait};
pub use world::{Binaries, World, say, scenario};
