#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod app;
mod args;
mod client;
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
