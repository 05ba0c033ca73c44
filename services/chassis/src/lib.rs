#![doc = include_str!("../README.md")]

pub mod bus;
pub mod config;
pub mod health;
pub mod http;
pub mod input;
#[cfg(test)]
mod logged;
pub mod metrics;
pub mod micro;
pub mod prefer;
pub mod problem;
pub mod rate;
pub mod requests;
pub mod supervise;
pub mod telemetry;
pub mod trace;
