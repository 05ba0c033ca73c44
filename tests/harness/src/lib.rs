#![doc = include_str!("../README.md")]

pub mod chaos;
pub mod fault;
pub mod installation;
pub mod random;
pub mod shipment;
pub mod workload;
