#![doc = include_str!("../README.md")]

mod admin;
mod ask;
mod bus_view;
mod cli;
mod demo;
mod dlq;
mod doctor;
mod exit;
mod export;
mod host;
mod keys;
mod listen;
mod nats_login;
mod nats_setup;
mod orders;
mod otlp;
mod output;
mod projections;
mod replay;
mod roles;
mod serve;
mod settings;
mod shell;
mod sim;
mod verify;

pub use cli::main;
pub use roles::{Bound, Role, Running};
