//! What does a provider do that is down, slow, cut off, restarted, or wrong by its own doing, and what happens to its
//! notifications?

use std::time::Duration;

use anyhow::Context as _;
use futures::{FutureExt as _, future::BoxFuture};
use serde_json::{Value, json};

use super::{
    Fault, Kind, Targets,
    edges::{cuts, delayed, few, millis},
    network::{Edge, Network, Storm, kind, with_role},
};
use crate::{
    installation::{Installation, SIMULATOR},
    proxy::{Accept, At, Counts, Cut, Side, Way, Weather},
    random::Random,
};

/// For one word with the simulator.
const ASK_MAX: Duration = Duration::from_secs(5);
const GET: &[u8] = b"GET ";
const POST: &[u8] = b"POST ";

pub(super) fn kinds() -> Vec<Kind> {
    let mut kinds = on_the_way();
    kinds.extend(notifications());
    kinds.extend([
        kind("cm-refused", (1_000, 8_000), |_, targets| {
            Box::new(Refused::new(targets))
        }),
        // The whole provider, for as long as shoppers are patient.
        kind("cm-away", (10_000, 25_000), |_, targets| {
            Box::new(Refused::new(targets))
        }),
        Kind {
            name: "cm-killed",
            lasts: (Duration::ZERO, Duration::from_secs(5)),
            absent: |_| None,
            draw: |_, _| {
                Box::new(Killed {
                    killed: None,
                    back: false,
                })
            },
        },
        Kind {
            name: "cm-own-fault",
            lasts: (Duration::from_secs(3), Duration::from_secs(10)),
            absent: |_| None,
            draw: |random, _| Box::new(OwnFault::new(random)),
        },
    ]);
    kinds
}

fn on_the_way() -> Vec<Kind> {
    vec![
        kind("cm-black-hole", (2_000, 8_000), |_, _| {
            cm(|counts| (counts.black_holed, "calls were never heard of"))
                .weather(Weather::accepting(Accept::BlackHole))
                .reset()
                .boxed()
        }),
        kind("cm-answer-cut", (3_000, 8_000), |random, _| {
            let at = At::Bytes(1 + random.below(400));
            let of = if random.percent(50) { POST } else { GET };
            let times = few(random);
            cm(cuts)
                .cut(Cut::new(Side::Down, at).only(of).times(times))
                .boxed()
        }),
        // The effect is certain, and its answer is lost as a whole.
        kind("cm-answer-lost", (3_000, 8_000), |random, _| {
            let times = few(random);
            cm(cuts)
                .cut(Cut::new(Side::Down, At::Piece(1)).only(POST).times(times))
                .boxed()
        }),
        kind("cm-reset-after-head", (3_000, 8_000), |random, _| {
            let times = few(random);
            cm(cuts)
                .cut(Cut::new(Side::Down, At::Through(b"\r\n\r\n".to_vec())).times(times))
                .boxed()
        }),
        kind("cm-request-cut", (3_000, 8_000), |random, _| {
            let at = At::Bytes(1 + random.below(500));
            let times = few(random);
            cm(cuts).cut(Cut::new(Side::Up, at).times(times)).boxed()
        }),
        // Closed by CM just as it is used again.
        kind("cm-closed-on-reuse", (3_000, 8_000), |random, _| {
            let times = few(random);
            cm(cuts)
                .cut(Cut::new(Side::Up, At::Piece(2)).only(GET).times(times))
                .boxed()
        }),
        // Around the time-out of a call, so that some are in time.
        kind("cm-late", (3_000, 10_000), |random, _| {
            let late = millis(random, 400, 2_500);
            cm(delayed)
                .weather(Weather {
                    down: Way {
                        latency: late,
                        jitter: late / 2,
                        ..Way::default()
                    },
                    ..Weather::default()
                })
                .boxed()
        }),
        // Answers of a byte at a time are longer than the call's whole time.
        kind("cm-trickle", (3_000, 8_000), |random, _| {
            let pace = u32::try_from(40 + random.below(400)).unwrap_or(40);
            cm(delayed)
                .weather(Weather {
                    down: Way {
                        bytes_per_second: Some(pace),
                        ..Way::default()
                    },
                    ..Weather::default()
                })
                .boxed()
        }),
        // Reads alone. An order or a `start` that arrives twice is two orders or two payments by CM's own rule, and nothing
        // on our side can know.
        kind("cm-request-twice", (3_000, 8_000), |_, _| {
            let of = "GET ";
            cm(duplicated)
                .weather(Weather {
                    duplicate: Some(of.to_owned()),
                    ..Weather::default()
                })
                .boxed()
        }),
    ]
}

fn notifications() -> Vec<Kind> {
    vec![
        kind("hooks-twice", (3_000, 12_000), |_, _| {
            hooks(duplicated)
                .weather(Weather {
                    duplicate: Some("/hooks".to_owned()),
                    ..Weather::default()
                })
                .boxed()
        }),
        kind("hooks-dropped", (3_000, 15_000), |_, _| {
            hooks(cuts)
                .cut(Cut::new(Side::Up, At::Piece(1)).times(u32::MAX))
                .boxed()
        }),
        // Heard, and CM is not told, so that it comes again.
        kind("hooks-answer-lost", (3_000, 12_000), |random, _| {
            let times = few(random);
            hooks(cuts)
                .cut(Cut::new(Side::Down, At::Piece(1)).times(times))
                .boxed()
        }),
        kind("hooks-late", (3_000, 12_000), |random, _| {
            let late = millis(random, 500, 5_000);
            hooks(delayed).weather(Weather::slow(late)).boxed()
        }),
    ]
}

fn duplicated(counts: &Counts) -> (u64, &'static str) {
    (counts.duplicated, "requests arrived twice")
}

fn cm(proof: fn(&Counts) -> (u64, &'static str)) -> Storm {
    Storm::on(vec![Edge::Cm], proof)
}

fn hooks(proof: fn(&Counts) -> (u64, &'static str)) -> Storm {
    Storm::on(vec![Edge::Hooks], proof)
}

/// Nobody listens at CM. A connection that is refused leaves no trace at a proxy; the gateway's log says so.
struct Refused {
    read_from: Vec<(std::path::PathBuf, u64)>,
    refused: usize,
}

/// As the operating system words it.
const REFUSED: &str = "Connection refused";

impl Refused {
    fn new(targets: &Targets) -> Self {
        let gateways = with_role(targets, "cm-gateway");
        let log = |name: &String| (targets.access.folder.join(format!("{name}.log")), 0);
        Self {
            read_from: gateways.iter().map(log).collect(),
            refused: 0,
        }
    }
}

impl Fault for Refused {
    fn target(&self) -> String {
        "gateway>cm".to_owned()
    }

    fn edges(&self) -> &[Edge] {
        &[Edge::Cm]
    }

    fn inject<'a>(&'a mut self, at: &'a mut Installation) -> BoxFuture<'a, anyhow::Result<()>> {
        async {
            for (log, from) in &mut self.read_from {
                *from = std::fs::metadata(log).map_or(0, |file| file.len());
            }
            let network = Network::of(at).context("no proxy stands before CM")?;
            if let Some(proxy) = network.proxy(&Edge::Cm) {
                proxy.set(Weather::accepting(Accept::Refuse));
                proxy.reset_all();
            }
            Ok(())
        }
        .boxed()
    }

    fn heal<'a>(&'a mut self, at: &'a mut Installation) -> BoxFuture<'a, anyhow::Result<()>> {
        async {
            let network = Network::of(at).context("no proxy stands before CM")?;
            if let Some(proxy) = network.proxy(&Edge::Cm) {
                proxy.heal();
            }
            for (log, from) in &self.read_from {
                let text = std::fs::read(log).unwrap_or_default();
                let new = text
                    .get(usize::try_from(*from).unwrap_or(0)..)
                    .unwrap_or_default();
                self.refused += String::from_utf8_lossy(new).matches(REFUSED).count();
            }
            Ok(())
        }
        .boxed()
    }

    fn bit(&self) -> Option<String> {
        (self.refused > 0).then(|| format!("the gateway tells {} times that it was refused", self.refused))
    }
}

/// The simulator is killed and comes back with its state.
struct Killed {
    killed: Option<u32>,
    back: bool,
}

impl Fault for Killed {
    fn target(&self) -> String {
        SIMULATOR.to_owned()
    }

    fn inject<'a>(&'a mut self, at: &'a mut Installation) -> BoxFuture<'a, anyhow::Result<()>> {
        async {
            self.killed = Some(at.kill(SIMULATOR)?.pid);
            Ok(())
        }
        .boxed()
    }

    fn heal<'a>(&'a mut self, at: &'a mut Installation) -> BoxFuture<'a, anyhow::Result<()>> {
        async {
            at.spawn(SIMULATOR)?;
            self.back = true;
            Ok(())
        }
        .boxed()
    }

    fn bit(&self) -> Option<String> {
        let killed = self.killed.filter(|_| self.back)?;
        Some(format!(
            "the simulator, process {killed}, was killed and came back"
        ))
    }
}

/// The next calls go wrong at CM itself, before or after their effect.
struct OwnFault {
    asked: Value,
    count: u64,
    felt: u64,
}

impl OwnFault {
    fn new(random: &mut Random) -> Self {
        let faults = [
            "psp_503",
            "psp_503_after_effect",
            "psp_timeout",
            "psp_timeout_after_effect",
        ];
        let operations = ["create", "start", "status", "any"];
        let count = 1 + random.below(5);
        let fault = random.pick(&faults).copied().unwrap_or("psp_503");
        let operation = random.pick(&operations).copied().unwrap_or("any");
        Self {
            asked: json!({ "fault": fault, "operation": operation, "count": count }),
            count,
            felt: 0,
        }
    }
}

impl Fault for OwnFault {
    fn target(&self) -> String {
        SIMULATOR.to_owned()
    }

    fn inject<'a>(&'a mut self, at: &'a mut Installation) -> BoxFuture<'a, anyhow::Result<()>> {
        async {
            let url = format!("{}/sim/faults", at.access().cm_url);
            let request = client()?.post(url).json(&self.asked);
            request.send().await?.error_for_status()?;
            Ok(())
        }
        .boxed()
    }

    fn heal<'a>(&'a mut self, at: &'a mut Installation) -> BoxFuture<'a, anyhow::Result<()>> {
        async {
            let url = format!("{}/sim/faults", at.access().cm_url);
            let client = client()?;
            let left: Value = client.get(&url).send().await?.json().await?;
            client.delete(&url).send().await?.error_for_status()?;
            let of = |fault: &Value| fault["left"].as_u64().unwrap_or(0);
            let left: u64 = left["faults"]
                .as_array()
                .map_or(0, |faults| faults.iter().map(of).sum());
            self.felt = self.count.saturating_sub(left);
            Ok(())
        }
        .boxed()
    }

    fn bit(&self) -> Option<String> {
        (self.felt > 0).then(|| format!("{} calls felt {}", self.felt, self.asked))
    }
}

fn client() -> anyhow::Result<reqwest::Client> {
    Ok(reqwest::Client::builder().no_proxy().timeout(ASK_MAX).build()?)
}
