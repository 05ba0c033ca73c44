#![doc = include_str!("../README.md")]

mod admin;
mod bus_view;
mod cli;
mod demo;
mod exit;
mod host;
mod orders;
mod replay;
mod roles;
mod serve;
mod sim;

pub use cli::main;
pub use roles::{Role, Running};
