//! Which proxies stand in an installation, and what can be wrong on them for a while?

use std::{
    any::Any,
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use futures::{FutureExt as _, future::BoxFuture};

use super::{Fault, Kind, Targets};
use crate::{
    installation::{Direct, Edges, Installation, Wire},
    proxy::{Counts, Cut, Proxy, Trap, Upstream, Weather},
    random::Random,
};

/// A way from one program to another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Edge {
    /// From this process to PostgreSQL.
    Postgres(String),
    /// From this process to nats-server.
    Nats(String),
    /// From the gateways to CM, which has one public address.
    Cm,
    /// From CM to where we hear notifications.
    Hooks,
}

impl Edge {
    /// Whether it begins at a process.
    #[must_use]
    pub fn is_of(&self, process: &str) -> bool {
        match self {
            Self::Postgres(name) | Self::Nats(name) => name == process,
            Self::Cm => process == "all" || process.starts_with("cm-gateway"),
            Self::Hooks => false,
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Postgres(name) => format!("{name}>postgres"),
            Self::Nats(name) => format!("{name}>nats"),
            Self::Cm => "gateway>cm".to_owned(),
            Self::Hooks => "cm>hooks".to_owned(),
        }
    }
}

/// A proxy on every edge of an installation, made when its address is first asked for.
#[derive(Debug, Default)]
pub struct Network {
    proxies: Mutex<BTreeMap<Edge, Arc<Proxy>>>,
}

impl Network {
    /// For [`crate::installation::Plan::wire`].
    #[must_use]
    pub fn wire() -> Wire {
        Box::new(|_| async { Ok(Arc::new(Self::default()) as Arc<dyn Edges>) }.boxed())
    }

    /// The one of an installation, if it was wired so.
    #[must_use]
    pub fn of(installation: &Installation) -> Option<&Self> {
        installation.edges().as_any().downcast_ref()
    }

    /// An edge that processes use.
    #[must_use]
    pub fn proxy(&self, edge: &Edge) -> Option<Arc<Proxy>> {
        self.lock().get(edge).cloned()
    }

    /// Counts, and at last holds, what one process writes on any of its edges.
    pub fn set_trap(&self, process: &str, trap: Option<&Arc<Trap>>) {
        for (edge, proxy) in self.lock().iter() {
            if edge.is_of(process) {
                proxy.set_trap(trap.cloned());
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Edge, Arc<Proxy>>> {
        self.proxies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the proxy of an edge listens; none where there could be none, so that the direct way is taken.
    fn address(&self, edge: Edge, upstream: Upstream) -> Option<SocketAddr> {
        let mut proxies = self.lock();
        if let Some(proxy) = proxies.get(&edge) {
            return Some(proxy.address());
        }
        match Proxy::start(upstream) {
            Ok(proxy) => {
                let address = proxy.address();
                proxies.insert(edge, Arc::new(proxy));
                Some(address)
            }
            Err(error) => {
                tracing::warn!(edge = edge.name(), %error, "there is no proxy on an edge");
                None
            }
        }
    }
}

impl Edges for Network {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn postgres_url(&self, process: &str, direct: &Direct) -> String {
        let upstream = Upstream::Unix(direct.postgres_socket.clone());
        let address = self.address(Edge::Postgres(process.to_owned()), upstream);
        // The database's name ends the path of the direct URL, which has a socket's folder for a host.
        let database = direct.postgres_url.split(['/', '?']).nth(3).unwrap_or("kassa");
        address.map_or_else(
            || direct.postgres_url.clone(),
            |address| format!("postgresql://kassa@{address}/{database}?sslmode=disable"),
        )
    }

    fn nats_url(&self, process: &str, direct: &Direct) -> String {
        let edge = Edge::Nats(process.to_owned());
        let address = self.address(edge, Upstream::Tcp(direct.nats));
        format!("nats://{}", address.unwrap_or(direct.nats))
    }

    fn cm_url(&self, _: &str, direct: &Direct) -> String {
        let address = self.address(Edge::Cm, Upstream::Tcp(direct.cm));
        format!("http://{}", address.unwrap_or(direct.cm))
    }

    fn hooks_url(&self, direct: &Direct) -> String {
        let address = self.address(Edge::Hooks, Upstream::Tcp(direct.hooks));
        format!("http://{}", address.unwrap_or(direct.hooks))
    }
}

pub(super) fn absent(at: &Installation) -> Option<String> {
    Network::of(at)
        .is_none()
        .then(|| "no proxy stands between processes and servers".to_owned())
}

/// Bad weather, and cuts, on some edges at once.
pub(super) struct Storm {
    pub(super) target: String,
    pub(super) edges: Vec<Edge>,
    pub(super) weather: Weather,
    pub(super) cuts: Vec<Cut>,
    /// Connections that are open are reset first.
    pub(super) reset: bool,
    /// What counts as done, of all that was counted.
    pub(super) proof: fn(&Counts) -> (u64, &'static str),
    pub(super) done: (u64, &'static str),
    before: BTreeMap<Edge, Counts>,
}

impl Storm {
    pub(super) fn on(edges: Vec<Edge>, proof: fn(&Counts) -> (u64, &'static str)) -> Self {
        Self {
            target: edges.first().map(Edge::name).unwrap_or_default(),
            edges,
            weather: Weather::default(),
            cuts: Vec::new(),
            reset: false,
            proof,
            done: (0, ""),
            before: BTreeMap::new(),
        }
    }

    pub(super) fn weather(mut self, weather: Weather) -> Self {
        self.weather = weather;
        self
    }

    pub(super) fn cut(mut self, cut: Cut) -> Self {
        self.cuts.push(cut);
        self
    }

    pub(super) fn reset(mut self) -> Self {
        self.reset = true;
        self
    }

    /// By which name a storm on many edges is told of.
    pub(super) fn target(mut self, target: &str) -> Self {
        target.clone_into(&mut self.target);
        self
    }

    pub(super) fn boxed(self) -> Box<dyn Fault> {
        Box::new(self)
    }

    fn each(&self, at: &Installation) -> anyhow::Result<Vec<(Edge, Arc<Proxy>)>> {
        let network = Network::of(at).context("no proxy stands between processes and servers")?;
        let of = |edge: &Edge| Some((edge.clone(), network.proxy(edge)?));
        Ok(self.edges.iter().filter_map(of).collect())
    }
}

impl Fault for Storm {
    fn target(&self) -> String {
        self.target.clone()
    }

    fn edges(&self) -> &[Edge] {
        &self.edges
    }

    fn inject<'a>(&'a mut self, at: &'a mut Installation) -> BoxFuture<'a, anyhow::Result<()>> {
        async {
            for (edge, proxy) in self.each(at)? {
                self.before.insert(edge, proxy.counts());
                proxy.set(self.weather.clone());
                for cut in &self.cuts {
                    proxy.cut(cut.clone());
                }
                if self.reset {
                    proxy.reset_all();
                }
            }
            Ok(())
        }
        .boxed()
    }

    fn heal<'a>(&'a mut self, at: &'a mut Installation) -> BoxFuture<'a, anyhow::Result<()>> {
        async {
            for (edge, proxy) in self.each(at)? {
                proxy.heal();
                let before = self.before.get(&edge).copied().unwrap_or_default();
                let (n, what) = (self.proof)(&proxy.counts().since(&before));
                self.done = (self.done.0 + n, what);
            }
            Ok(())
        }
        .boxed()
    }

    fn bit(&self) -> Option<String> {
        let (n, what) = self.done;
        (n > 0).then(|| format!("{n} {what}"))
    }
}

/// One of the processes that have such an edge.
pub(super) fn one(random: &mut Random, names: &[String]) -> String {
    random.pick(names).cloned().unwrap_or_default()
}

/// Processes that speak to the servers of ours.
pub(super) fn ours(targets: &Targets) -> Vec<String> {
    targets.services()
}

/// Those in which a role runs.
pub(super) fn with_role(targets: &Targets, role: &str) -> Vec<String> {
    let has = |name: &String| {
        name == "all"
            || name.strip_prefix(role).is_some_and(|rest| {
                // `engine-2`, and not `cm-notifications` for `cm`.
                rest.is_empty() || rest.strip_prefix('-').is_some_and(|n| n.parse::<u8>().is_ok())
            })
    };
    targets
        .processes
        .iter()
        .filter(|name| has(name))
        .cloned()
        .collect()
}

pub(super) fn kind(
    name: &'static str,
    lasts_ms: (u64, u64),
    draw: fn(&mut Random, &Targets) -> Box<dyn Fault>,
) -> Kind {
    Kind {
        name,
        lasts: (
            Duration::from_millis(lasts_ms.0),
            Duration::from_millis(lasts_ms.1),
        ),
        absent,
        draw,
    }
}
