//! Is this process alive, started, ready? And who may ask: the admin listener's pages `/livez`, `/startupz`, `/readyz` and
//! `/metrics`.
//!
//! Alive means that it answers. Started means that its roles run. Ready is a question about each role, answered by doing in
//! small what the role does: a durable write, an acknowledged publish. A role is *ready*, *degraded* (it does its work,
//! and something that it helps with waits) or *not ready*. Traffic that is routed by readiness comes through doors: roles
//! that listen for HTTP. Where there is one, the doors decide for the process; where there is none, the worst role does.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures::{FutureExt as _, future::BoxFuture};
use serde::Serialize;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::metrics;

/// How long an answer is good for: whoever asks faster gets the same one, so that asking is no load.
const FRESH: Duration = Duration::from_secs(1);
/// For all checks together, which run side by side. A server that needs longer is as good as away.
const CHECK_MAX: Duration = Duration::from_secs(2);

/// Something that is tried.
pub struct Check {
    /// Stable, snake_case: `postgres_write`.
    pub name: &'static str,
    /// What becomes of orders while it fails.
    pub without: &'static str,
    pub attempt: Box<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>,
}

impl std::fmt::Debug for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Check")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What one role of this process asks of the world.
#[derive(Debug, Clone, Copy)]
pub struct RoleNeeds {
    pub name: &'static str,
    /// It listens for HTTP: traffic comes to it because this process is ready.
    pub door: bool,
    /// Checks without which it does nothing.
    pub needs: &'static [&'static str],
    /// Checks without which it does its work, and something waits.
    pub uses: &'static [&'static str],
}

/// How a role, or the process, stands. Ordered: the worst is the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    Ready,
    Degraded,
    NotReady,
}

/// The body of `/readyz`.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub status: Standing,
    /// In one sentence, for a person: what is done meanwhile, and what is not.
    pub meaning: String,
    pub roles: BTreeMap<&'static str, Standing>,
    pub checks: BTreeMap<&'static str, Checked>,
}

/// What became of one check.
#[derive(Debug, Clone, Serialize)]
pub struct Checked {
    pub ok: bool,
    pub ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What becomes of orders while it fails; for [`Report::meaning`].
    #[serde(skip)]
    pub without: &'static str,
}

/// Sets gauges that are only known by asking, before they are told.
type Refresh = Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// What one process knows of its own health. Cheap to clone.
#[derive(Clone)]
pub struct Health(Arc<Inner>);

struct Inner {
    shutdown: CancellationToken,
    started: AtomicBool,
    roles: RwLock<Vec<RoleNeeds>>,
    ended: RwLock<Vec<&'static str>>,
    checks: RwLock<Arc<Vec<Check>>>,
    refresh: RwLock<Option<Arc<Refresh>>>,
    report: Mutex<Option<(Instant, Report)>>,
    refreshed: Mutex<Option<Instant>>,
}

impl std::fmt::Debug for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Health").finish_non_exhaustive()
    }
}

impl Health {
    pub fn new(shutdown: CancellationToken) -> Self {
        Self(Arc::new(Inner {
            shutdown,
            started: AtomicBool::new(false),
            roles: RwLock::default(),
            ended: RwLock::default(),
            checks: RwLock::default(),
            refresh: RwLock::default(),
            report: Mutex::default(),
            refreshed: Mutex::default(),
        }))
    }

    /// The roles run; from now on they are asked after.
    pub fn started(&self, roles: Vec<RoleNeeds>, checks: Vec<Check>, refresh: Option<Refresh>) {
        put(&self.0.roles, roles);
        put(&self.0.checks, Arc::new(checks));
        put(&self.0.refresh, refresh.map(Arc::new));
        self.0.started.store(true, Ordering::Release);
    }

    /// A role ended while the process goes on: it is not ready any more.
    pub fn ended(&self, role: &'static str) {
        if let Ok(mut ended) = self.0.ended.write() {
            ended.push(role);
        }
    }

    /// How things stand, by trying; at most one try at a time and one a second.
    pub async fn report(&self) -> Report {
        // Whoever comes while it is tried waits for that try, and gets its answer.
        let mut known = self.0.report.lock().await;
        if let Some((at, report)) = &*known
            && at.elapsed() < FRESH
        {
            return report.clone();
        }
        let report = self.attempt().await;
        *known = Some((Instant::now(), report.clone()));
        report
    }

    async fn attempt(&self) -> Report {
        let checks = get_copy(&self.0.checks);
        let tried = checks.iter().map(|check| async {
            let began = Instant::now();
            let outcome = tokio::time::timeout(CHECK_MAX, (check.attempt)()).await;
            let error = match outcome {
                Ok(Ok(())) => None,
                Ok(Err(why)) => Some(why),
                Err(_) => Some(format!("no answer within {} s", CHECK_MAX.as_secs())),
            };
            let checked = Checked {
                ok: error.is_none(),
                ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
                error,
                without: check.without,
            };
            (check.name, checked)
        });
        let checks: BTreeMap<_, _> = futures::future::join_all(tried).await.into_iter().collect();
        let (needs, ended) = (get_copy(&self.0.roles), get_copy(&self.0.ended));
        judge(&needs, &ended, checks)
    }

    async fn refresh(&self) {
        let mut refreshed = self.0.refreshed.lock().await;
        if refreshed.is_some_and(|at| at.elapsed() < FRESH) {
            return;
        }
        if let Some(refresh) = get_copy(&self.0.refresh) {
            // A gauge that cannot be refreshed keeps its value; the checks tell why.
            let _ = tokio::time::timeout(CHECK_MAX, refresh()).await;
        }
        *refreshed = Some(Instant::now());
    }

    /// The admin listener's pages.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/livez", get(async || "alive\n"))
            .route("/startupz", get(startupz))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics_page))
            .with_state(self.clone())
    }
}

/// What the checks mean for each role, and the roles for the process.
fn judge(needs: &[RoleNeeds], ended: &[&'static str], checks: BTreeMap<&'static str, Checked>) -> Report {
    let failed = |names: &[&'static str]| {
        names
            .iter()
            .any(|name| checks.get(name).is_none_or(|checked| !checked.ok))
    };
    let stands = |role: &RoleNeeds| {
        if ended.contains(&role.name) || failed(role.needs) {
            Standing::NotReady
        } else if failed(role.uses) {
            Standing::Degraded
        } else {
            Standing::Ready
        }
    };
    let roles: BTreeMap<_, _> = needs.iter().map(|role| (role.name, stands(role))).collect();
    let worst = roles.values().copied().max().unwrap_or(Standing::Ready);
    let doors = needs.iter().filter(|role| role.door).map(stands).max();
    let status = match doors {
        // Behind an open door, work may wait; that is no reason to close it.
        Some(doors) if doors < Standing::NotReady => doors.max(worst.min(Standing::Degraded)),
        Some(doors) => doors,
        None => worst,
    };
    let meaning = match status {
        Standing::Ready => "everything works",
        Standing::Degraded if doors.is_some() => {
            "requests are taken and stored; what failed below is caught up with once it is back"
        }
        Standing::Degraded => "the work is done; what failed below is caught up with once it is back",
        Standing::NotReady => "nothing can be done without what failed below",
    };
    let missed: Vec<&str> = checks
        .values()
        .filter(|checked| !checked.ok)
        .map(|checked| checked.without)
        .collect();
    let meaning = if missed.is_empty() {
        meaning.to_owned()
    } else {
        format!("{meaning}; until then: {}", missed.join("; "))
    };
    Report {
        status,
        meaning,
        roles,
        checks,
    }
}

async fn startupz(State(health): State<Health>) -> Response {
    if health.0.started.load(Ordering::Acquire) {
        "started\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "waiting for the database\n").into_response()
    }
}

async fn readyz(State(health): State<Health>) -> Response {
    if health.0.shutdown.is_cancelled() {
        return told(
            StatusCode::SERVICE_UNAVAILABLE,
            &Unready {
                status: "shutting_down",
            },
        );
    }
    if !health.0.started.load(Ordering::Acquire) {
        return told(StatusCode::SERVICE_UNAVAILABLE, &Unready { status: "starting" });
    }
    let report = health.report().await;
    let status = match report.status {
        Standing::Ready | Standing::Degraded => StatusCode::OK,
        Standing::NotReady => StatusCode::SERVICE_UNAVAILABLE,
    };
    told(status, &report)
}

#[derive(Serialize)]
struct Unready {
    status: &'static str,
}

fn told(status: StatusCode, body: &impl Serialize) -> Response {
    let body = serde_json::to_string(body).unwrap_or_default();
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (status, headers, body).into_response()
}

async fn metrics_page(State(health): State<Health>) -> Response {
    health.refresh().await;
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::render()).into_response()
}

fn put<T>(place: &RwLock<T>, value: T) {
    if let Ok(mut place) = place.write() {
        *place = value;
    }
}

fn get_copy<T: Clone + Default>(place: &RwLock<T>) -> T {
    place.read().map(|value| value.clone()).unwrap_or_default()
}

/// Wraps an attempt, so that whoever makes a check writes an `async` block. `without` says what becomes of orders while it
/// fails.
pub fn check<F>(
    name: &'static str,
    without: &'static str,
    attempt: impl Fn() -> F + Send + Sync + 'static,
) -> Check
where
    F: Future<Output = Result<(), String>> + Send + 'static,
{
    Check {
        name,
        without,
        attempt: Box::new(move || attempt().boxed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHECKOUT: RoleNeeds = RoleNeeds {
        name: "checkout",
        door: true,
        needs: &["postgres_write"],
        uses: &["nats_publish"],
    };
    const RELAY: RoleNeeds = RoleNeeds {
        name: "relay",
        door: false,
        needs: &["postgres_write", "nats_publish"],
        uses: &[],
    };

    fn checked(postgres: bool, nats: bool) -> BTreeMap<&'static str, Checked> {
        [("postgres_write", postgres), ("nats_publish", nats)]
            .map(|(name, ok)| {
                (
                    name,
                    Checked {
                        ok,
                        ms: 1,
                        error: None,
                        without: if name == "nats_publish" {
                            "no link is made"
                        } else {
                            "no order is taken"
                        },
                    },
                )
            })
            .into()
    }

    #[test]
    fn without_the_bus_orders_are_taken_and_nothing_is_relayed() {
        let both = judge(&[CHECKOUT, RELAY], &[], checked(true, false));
        assert_eq!(both.status, Standing::Degraded);
        assert_eq!(both.roles["relay"], Standing::NotReady);
        let told = &both.meaning;
        assert!(
            told.starts_with("requests are taken") && told.ends_with("until then: no link is made"),
            "{told}"
        );
        assert_eq!(
            judge(&[RELAY], &[], checked(true, false)).status,
            Standing::NotReady
        );
        assert_eq!(
            judge(&[CHECKOUT], &[], checked(true, true)).status,
            Standing::Ready
        );
    }

    #[test]
    fn without_the_database_nothing_is_ready() {
        for roles in [&[CHECKOUT][..], &[RELAY], &[CHECKOUT, RELAY]] {
            assert_eq!(judge(roles, &[], checked(false, true)).status, Standing::NotReady);
        }
    }

    #[test]
    fn a_role_that_ended_is_not_ready_and_a_door_beside_it_stays_open() {
        let report = judge(&[CHECKOUT, RELAY], &["relay"], checked(true, true));
        assert_eq!(
            (report.status, report.roles["relay"]),
            (Standing::Degraded, Standing::NotReady)
        );
    }

    #[tokio::test]
    async fn every_page_that_is_named_for_the_night_is_there() {
        use tower::ServiceExt as _;
        let router = Health::new(CancellationToken::new()).router();
        let text = include_str!("../../../docs/how-to/at-night.md");
        let pages: std::collections::BTreeSet<&str> =
            text.split('`').filter(|word| word.starts_with('/')).collect();
        assert_eq!(pages.len(), 4, "{pages:?}");
        for page in pages {
            let request = axum::http::Request::get(page).body(axum::body::Body::empty());
            let answer = router.clone().oneshot(request.expect("a path")).await;
            let status = answer.expect("it cannot fail").status();
            assert_ne!(status, StatusCode::NOT_FOUND, "{page}");
        }
    }

    #[tokio::test]
    async fn who_asks_often_causes_one_try() {
        let tries = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let health = Health::new(CancellationToken::new());
        let counted = tries.clone();
        let counting = check("postgres_write", "no order is taken", move || {
            counted.fetch_add(1, Ordering::Relaxed);
            async { Ok(()) }
        });
        health.started(vec![CHECKOUT], vec![counting], None);
        let asked = futures::future::join_all((0..20).map(|_| health.report())).await;
        assert_eq!(asked.len(), 20);
        assert_eq!(tries.load(Ordering::Relaxed), 1);
    }
}
