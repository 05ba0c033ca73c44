//! Which ports does an installation have? Chosen once, since who was killed comes back where it was.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher as _,
    net::{Ipv4Addr, SocketAddr, TcpListener},
};

use anyhow::bail;

/// Below those that the system hands out to whoever connects somewhere (from 32768 on): a port that is free for a moment,
/// because its owner was killed, is not taken by the next client that connects.
const FIRST: u16 = 18_000;
const COUNT: u16 = 14_000;
const TRIES_MAX: u64 = 1_000;

/// Listening, so that nobody else has them, until they are given away.
#[derive(Debug, Default)]
pub(super) struct Ports {
    held: Vec<TcpListener>,
}

impl Ports {
    pub(super) fn take(&mut self) -> anyhow::Result<SocketAddr> {
        let chance = RandomState::new();
        for attempt in 0..TRIES_MAX {
            let offset = u16::try_from(chance.hash_one(attempt) % u64::from(COUNT)).unwrap_or_default();
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, FIRST + offset));
            if let Ok(listener) = TcpListener::bind(address) {
                self.held.push(listener);
                return Ok(address);
            }
        }
        bail!("no free port between {FIRST} and {}", FIRST + COUNT)
    }
}
