#![doc = include_str!("../README.md")]

pub mod args;
pub mod chaos;
pub mod fault;
pub mod installation;
pub mod proxy;
pub mod quiet;
pub mod random;
pub mod run;
pub mod schedule;
pub mod shipment;
pub mod sweep;
pub mod verdict;
pub mod workload;
