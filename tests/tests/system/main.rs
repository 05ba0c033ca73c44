//! The whole system, on real servers: what happens in each scenario, under each fault, with each wrong input?
//!
//! One pair of servers for this binary; a database and a NATS account for each test.

mod architecture;
mod bad_input;
mod chaos;
mod command_line;
mod crashes;
mod decisions;
mod demo;
mod doctor;
mod endings;
mod four_ways;
mod guards;
mod hooks;
mod http_api;
mod inbox;
mod mutations;
mod nats_faults;
mod permissions;
mod planted;
mod postgres_es;
mod postgres_faults;
mod provider;
mod read_models;
mod replay;
mod scenarios;
mod shipments;
mod simulator;
mod stage;
mod store;
mod sweep;
mod telemetry;
mod verify;
mod world;
