//! What does the store do when the database, a neighbour or an operator misbehaves? The append's own cases, one by one,
//! are with the whole-system tests.

mod faults;
mod hopes;
mod schema;
mod server;
