#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod agents;
mod app;
mod args;
mod client;
mod cluster;
mod cmd;
mod database;
mod failure;
mod history;
mod landing;
mod offline;
mod options;
mod output;
mod reference;
mod when;

pub use app::run;
