//! What can go wrong, how is it made to, and how is it known that it did?
//!
//! A [`Kind`] is a sort of trouble with the time that it lasts; a [`Fault`] is one case of it, drawn by the seed. It counts
//! only when [`Fault::bit`] can show that it did something. [`kinds`] lists them all.

pub mod clock;
pub mod edges;
mod nats;
pub mod network;
pub mod postgres;
mod process;
mod provider;

use std::time::Duration;

use futures::future::BoxFuture;

use self::network::Edge;
use crate::{
    installation::{Access, Installation, Wire},
    random::Random,
};

/// One case of trouble.
pub trait Fault: Send {
    /// What it is done to, such as `relay` or `nats`; two faults at once never have one in common.
    fn target(&self) -> String;

    /// The ways on which it has something stand; two faults at once have none of these in common either, since the end of one
    /// would be the end of the other.
    fn edges(&self) -> &[Edge] {
        &[]
    }

    /// Begins it.
    fn inject<'a>(&'a mut self, at: &'a mut Installation) -> BoxFuture<'a, anyhow::Result<()>>;

    /// Ends it: afterwards everything can work again. Called once after each `inject`, also where that failed.
    fn heal<'a>(&'a mut self, at: &'a mut Installation) -> BoxFuture<'a, anyhow::Result<()>>;

    /// Whether nothing else may go wrong meanwhile: for what promises to end well only where all else does.
    fn alone(&self) -> bool {
        false
    }

    /// After `heal`: what shows that it did something; `None` where nothing does.
    fn bit(&self) -> Option<String>;
}

/// Whether one of them may not be there while the other is.
#[must_use]
pub fn in_the_way(one: &dyn Fault, other: &dyn Fault) -> bool {
    one.alone()
        || other.alone()
        || one.target() == other.target()
        || one.edges().iter().any(|edge| other.edges().contains(edge))
}

/// A sort of trouble.
#[derive(Clone)]
pub struct Kind {
    /// Such as `kill`.
    pub name: &'static str,
    /// How long it lasts: at least and at most.
    pub lasts: (Duration, Duration),
    /// Why it cannot be had on this machine or in this installation.
    pub absent: fn(&Installation) -> Option<String>,
    /// Draws a case.
    pub draw: fn(&mut Random, &Targets) -> Box<dyn Fault>,
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kind")
            .field("name", &self.name)
            .field("lasts", &self.lasts)
            .finish_non_exhaustive()
    }
}

/// What a fault can be drawn for.
#[derive(Debug, Clone)]
pub struct Targets {
    /// Every process, the simulator and the shipment service too.
    pub processes: Vec<String>,
    pub access: Access,
}

impl Targets {
    #[must_use]
    pub fn of(installation: &Installation) -> Self {
        Self {
            processes: installation.names(),
            access: installation.access().clone(),
        }
    }

    /// Processes of ours, which the simulator is not.
    pub fn services(&self) -> Vec<String> {
        let ours = |name: &&String| *name != crate::installation::SIMULATOR;
        self.processes.iter().filter(ours).cloned().collect()
    }
}

/// What stands between processes and servers in an installation that faults are injected into.
#[must_use]
pub fn wire() -> Option<Wire> {
    Some(network::Network::wire())
}

/// Every kind there is; those absent here too.
#[must_use]
pub fn kinds() -> Vec<Kind> {
    [
        process::kinds(),
        edges::kinds(),
        postgres::kinds(),
        nats::kinds(),
        provider::kinds(),
        clock::kinds(),
    ]
    .concat()
}

/// In the place of a kind: no fault at all, on purpose.
pub const NONE: &str = "none";

/// The kinds of a run: those whose name begins with `only`, all where it is empty.
///
/// A clock that was wrong leaves moments that nobody can compare, and what hangs on those is not judged then. So clocks go
/// wrong where the seed is even, or where nothing else was asked for.
#[must_use]
pub fn kinds_of(seed: u64, only: &str) -> Vec<Kind> {
    let asked = |kind: &Kind| kind.name.starts_with(only);
    let clocks = seed.is_multiple_of(2) || kinds().iter().filter(|kind| asked(kind)).all(Kind::moves_clocks);
    let mut of_it = kinds();
    of_it.retain(|kind| asked(kind) && (clocks || !kind.moves_clocks()));
    of_it
}

impl Kind {
    /// Whether moments of a run that has it cannot be compared.
    #[must_use]
    pub fn moves_clocks(&self) -> bool {
        clock::moved_by(self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(seed: u64, only: &str) -> Vec<&'static str> {
        kinds_of(seed, only).iter().map(|kind| kind.name).collect()
    }

    #[test]
    fn clocks_go_wrong_in_every_other_run_and_where_nothing_else_is_asked_for() {
        let (odd, even) = (names(7, ""), names(8, ""));
        assert_eq!(even.len(), kinds().len());
        let apart: Vec<_> = even.iter().filter(|name| !odd.contains(name)).collect();
        assert_eq!(apart, [&"clock-of-one", &"clock-of-all"]);
        assert_eq!(names(7, "clock"), ["clock-of-one", "clock-of-all"]);
        assert_eq!(names(7, "clock-of-all"), ["clock-of-all"]);
        assert_eq!(names(7, NONE), Vec::<&str>::new());
    }
}
