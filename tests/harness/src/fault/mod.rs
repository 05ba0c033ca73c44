//! What can go wrong, how is it made to, and how is it known that it did?
//!
//! A [`Kind`] is a sort of trouble with the time that it lasts; a [`Fault`] is one case of it, drawn by the seed. It counts
//! only when [`Fault::bit`] can show that it did something. [`kinds`] lists them all.

mod process;

use std::time::Duration;

use futures::future::BoxFuture;

use crate::{
    installation::{Access, Installation, Wire},
    random::Random,
};

/// One case of trouble.
pub trait Fault: Send {
    /// What it is done to, such as `relay` or `nats`; two faults at once never have one in common.
    fn target(&self) -> String;

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
    None
}

/// Every kind there is; those absent here too.
#[must_use]
pub fn kinds() -> Vec<Kind> {
    process::kinds()
}
