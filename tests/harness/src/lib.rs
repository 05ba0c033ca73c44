#![doc = include_str!("../README.md")]

pub mod chaos;
pub mod fault;
pub mod installation;
pub mod proxy;
pub mod random;
pub mod shipment;
pub mod sweep;
pub mod workload;
