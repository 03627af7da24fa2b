//! The node agent `sqlrep-agent`: the front page is the README.

#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod adopt;
mod app;
mod args;
mod auth;
mod cli;
mod cluster;
mod config;
mod demo;
mod events;
mod gate;
mod health;
mod http;
mod listen;
mod metrics;
mod root;
mod rpc;
mod shutdown;
mod standby;
mod telemetry;
mod units;

pub use cli::run;
