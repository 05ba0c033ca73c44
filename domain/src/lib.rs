#![doc = include_str!("../README.md")]

pub mod ids;
pub mod methods;
pub mod money;
pub mod order;
pub mod payment;
pub mod report;
pub mod safety;
