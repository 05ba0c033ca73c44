//! What goes wrong when, and for how long? Drawn from the seed: at most three faults at once, each with an end.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use crate::{
    fault::{Fault, Kind, Targets, in_the_way},
    installation::{Installation, Unasked},
    random::Random,
};

/// Beyond it nobody could tell what caused what, and nothing would be left to work.
const AT_ONCE: usize = 3;
/// Before the first one: shoppers are there.
const QUIET_FIRST: Duration = Duration::from_secs(2);
/// Between two looks whether a process ended by itself.
const SUPERVISED_EVERY: Duration = Duration::from_millis(500);

/// One fault, when it begins and how long it lasts.
pub struct Planned {
    pub begins: Duration,
    pub lasts: Duration,
    pub kind: &'static str,
    pub target: String,
    pub fault: Box<dyn Fault>,
}

impl fmt::Debug for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Planned")
            .field("begins", &self.begins)
            .field("lasts", &self.lasts)
            .field("kind", &self.kind)
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

impl Planned {
    /// For a person and for `schedule.ndjson`.
    #[must_use]
    pub fn row(&self) -> Value {
        json!({
            "begins_ms": millis(self.begins), "lasts_ms": millis(self.lasts), "kind": self.kind, "target": self.target,
        })
    }
}

/// How one fault went.
#[derive(Debug, Clone)]
pub struct Went {
    pub kind: &'static str,
    pub target: String,
    /// What shows that it did something.
    pub bit: Option<String>,
    /// Why it could not be begun.
    pub failed: Option<String>,
}

/// Draws a schedule: a fault `every` so often in the mean, all of them over by `lasts`.
///
/// Kinds come in turns, shuffled anew each time, so that a long run has had all of them.
#[must_use]
pub fn draw(seed: u64, lasts: Duration, every: Duration, kinds: &[Kind], targets: &Targets) -> Vec<Planned> {
    let mut chance = Random::of(seed, "schedule", 0);
    let mut planned: Vec<Planned> = Vec::new();
    let mut deck: Vec<&Kind> = Vec::new();
    let mut begins = QUIET_FIRST;
    while begins < lasts {
        if deck.is_empty() {
            deck = kinds.iter().collect();
            for last in (1..deck.len()).rev() {
                let other = chance.below(u64::try_from(last + 1).unwrap_or(1));
                deck.swap(last, usize::try_from(other).unwrap_or_default());
            }
        }
        let Some(kind) = deck.pop() else { break };
        let length = chance.between(kind.lasts.0, kind.lasts.1);
        let fault = (kind.draw)(&mut chance, targets);
        let target = fault.target();
        // Waits until there is room for it, and what it is done to is free.
        let room = |begins: Duration| {
            let at_once: Vec<&Planned> = planned
                .iter()
                .filter(|other| other.begins < begins + length && begins < other.begins + other.lasts)
                .collect();
            let free = at_once
                .iter()
                .all(|other| !in_the_way(other.fault.as_ref(), fault.as_ref()));
            free && at_once.len() < AT_ONCE
        };
        let mut at = begins;
        while !room(at) && at < lasts {
            at += Duration::from_millis(250);
        }
        if at + length <= lasts {
            planned.push(Planned {
                begins: at,
                lasts: length,
                kind: kind.name,
                target,
                fault,
            });
        }
        begins += chance.between(every / 2, every * 3 / 2);
    }
    planned.sort_by_key(|one| one.begins);
    planned
}

/// Injects and heals what is planned; tells `say` of each, and of processes that ended by themselves and were started again,
/// as a supervisor would have done.
///
/// # Errors
/// When a fault cannot be ended, or a process cannot be started again: nothing can be said of the system then.
pub async fn run(
    mut planned: Vec<Planned>,
    at: &mut Installation,
    mut say: impl FnMut(&str),
) -> anyhow::Result<Vec<Went>> {
    let began = Instant::now();
    // By moment: what begins or ends then.
    let mut moments: BTreeMap<(Duration, bool, usize), ()> = BTreeMap::new();
    for (index, one) in planned.iter().enumerate() {
        moments.insert((one.begins, false, index), ());
    }
    let mut went = Vec::new();
    let mut failed: BTreeMap<usize, String> = BTreeMap::new();
    // What is there now, and when it ends.
    let mut there: BTreeMap<usize, Duration> = BTreeMap::new();
    while let Some(((moment, ends, index), ())) = moments.pop_first() {
        while Instant::now() < began + moment {
            let look = Instant::now() + SUPERVISED_EVERY;
            sleep_until(look.min(began + moment)).await;
            supervise(at, &mut say)?;
        }
        if !ends && let Some(free) = busy_until(&planned, &there, index) {
            // Others took longer to begin than was planned.
            moments.insert((free, false, index), ());
            continue;
        }
        let one = &mut planned[index];
        let name = format!("{} {}", one.kind, one.target);
        if ends {
            there.remove(&index);
            one.fault
                .heal(at)
                .await
                .map_err(|error| error.context(format!("the fault {name} cannot be ended")))?;
            let of_it = Went {
                kind: one.kind,
                target: one.target.clone(),
                bit: one.fault.bit(),
                failed: failed.remove(&index),
            };
            say(&format!("ended {name}: {}", of_it.told()));
            went.push(of_it);
        } else {
            say(&format!("begins {name}, for {} ms", millis(one.lasts)));
            if let Err(error) = one.fault.inject(at).await {
                failed.insert(index, format!("{error:#}"));
            }
            // From when it is there: what takes long to begin lasts as long as planned.
            let ends_at = began.elapsed().max(one.begins) + one.lasts;
            moments.insert((ends_at, true, index), ());
            there.insert(index, ends_at);
        }
    }
    Ok(went)
}

/// When the last of those ends that are there now and in the way of this one; none if it may begin.
fn busy_until(planned: &[Planned], there: &BTreeMap<usize, Duration>, index: usize) -> Option<Duration> {
    let waits = there
        .iter()
        .filter(|(other, _)| in_the_way(planned[**other].fault.as_ref(), planned[index].fault.as_ref()));
    // A moment later: what ends at a moment is ended after what begins then.
    waits.map(|(_, ends)| *ends + Duration::from_millis(1)).max()
}

impl Went {
    #[must_use]
    pub fn told(&self) -> String {
        match (&self.failed, &self.bit) {
            (Some(why), _) => format!("it could not be begun: {why}"),
            (None, Some(evidence)) => evidence.clone(),
            (None, None) => "it did nothing".to_owned(),
        }
    }
}

pub(crate) fn supervise(at: &mut Installation, say: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
    for Unasked { name, how, .. } in at.supervise()? {
        say(&format!("{name} ended by itself ({how}) and was started again"));
    }
    Ok(())
}

fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, path::PathBuf};

    use super::*;
    use crate::{
        fault::kinds,
        installation::{Access, Direct, ROLES, SHIPMENT, SIMULATOR},
    };

    fn targets() -> Targets {
        let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
        let direct = Direct {
            postgres_url: String::new(),
            postgres_socket: PathBuf::new(),
            nats: nobody,
            cm: nobody,
            hooks: nobody,
            checkout: nobody,
        };
        Targets {
            processes: ROLES
                .into_iter()
                .chain([SHIPMENT, SIMULATOR])
                .map(str::to_owned)
                .collect(),
            access: Access {
                exe: PathBuf::new(),
                folder: PathBuf::new(),
                config: PathBuf::new(),
                direct,
                database_url: String::new(),
                nats_url: String::new(),
                cm_url: String::new(),
                api_url: String::new(),
            },
        }
    }

    #[test]
    fn no_two_faults_at_once_are_on_one_way_or_have_one_target() {
        let (lasts, every) = (Duration::from_secs(1_200), Duration::from_secs(4));
        let mut at_once = 0;
        for seed in 0..20 {
            let planned = draw(seed, lasts, every, &kinds(), &targets());
            for (n, one) in planned.iter().enumerate() {
                for other in planned.iter().skip(n + 1) {
                    if other.begins >= one.begins + one.lasts {
                        continue;
                    }
                    at_once += 1;
                    let (this, that) = (one.fault.edges(), other.fault.edges());
                    let shared = this.iter().find(|edge| that.contains(edge));
                    assert_eq!(shared, None, "seed {seed}: {one:?} and {other:?}");
                    assert_ne!(one.target, other.target, "seed {seed}: {one:?} and {other:?}");
                }
            }
        }
        assert!(at_once > 1_000, "faults come at once: {at_once}");
    }

    #[test]
    fn a_run_of_twenty_minutes_has_sixty_faults_of_fifteen_kinds_with_wrong_clocks_and_without() {
        let (lasts, every) = (Duration::from_secs(1_200), Duration::from_secs(12));
        for seed in 0..20 {
            let of_it = crate::fault::kinds_of(seed, "");
            let planned = draw(seed, lasts, every, &of_it, &targets());
            let kinds: std::collections::BTreeSet<_> = planned.iter().map(|one| one.kind).collect();
            assert!(
                planned.len() >= 75 && kinds.len() >= 30,
                "seed {seed}: {} faults of {} kinds",
                planned.len(),
                kinds.len()
            );
        }
    }

    #[test]
    fn what_is_in_the_way_of_a_fault_that_took_long_to_begin_waits_for_its_end() {
        let mut planned = draw(
            3,
            Duration::from_secs(1_200),
            Duration::from_secs(4),
            &kinds(),
            &targets(),
        );
        planned.retain(|one| one.kind == "postgres-cut-in-bulk" || one.kind == "postgres-late");
        let bulk = planned.iter().position(|one| one.kind == "postgres-cut-in-bulk");
        let late = planned.iter().position(|one| one.kind == "postgres-late");
        let (bulk, late) = (bulk.expect("one is drawn"), late.expect("one is drawn"));
        let there = BTreeMap::from([(late, Duration::from_secs(9))]);
        assert_eq!(
            busy_until(&planned, &there, bulk),
            Some(Duration::from_millis(9_001))
        );
        assert_eq!(busy_until(&planned, &BTreeMap::new(), bulk), None);
    }
}
