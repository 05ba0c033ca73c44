//! How do shops reach the engine? The NATS micro service `kassa-commands`: one endpoint a verb, and one that answers
//! verbs that do not exist.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_nats::{Client, HeaderMap};
use jiff::SignedDuration;
use kassa_chassis::{
    config::Config,
    input,
    micro::{self, About, Asked, MicroService, Reply},
    prefer::Preference,
    problem::{FieldError, Problem},
    rate::RatePerShop,
    requests, trace,
};
use kassa_domain::{
    ids::{CommandId, OrderId, Shop},
    methods::Catalogue,
    order::{NextAction, next_action},
    payment::{Payment, Step},
};
use kassa_events_schema::api::{self, OrderAnswer, PaymentAnswer};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use crate::{
    admission::Admission,
    commands::{CancelOrder, CreateOrder, OrderMade, PaymentMade, StartPayment},
    executor::{Caller, Decide, Executed, Executor, Fault},
    input::rule,
    poll::Ladders,
};

pub(crate) const SERVICE: MicroService = MicroService {
    name: "kassa-commands",
    description: "commands of the payment orchestrator kassa: orders and payments",
    version: env!("CARGO_PKG_VERSION"),
    prefix: "kassa.cmd",
    verbs: &["create_order", "start_payment", "cancel_order"],
};
/// The newest shape of commands that we know; `Kassa-Command-Version` may ask for an older one.
const COMMAND_VERSION: u32 = 1;
/// How long the start of a payment waits for its link when it is not told for how long.
pub const WAIT_DEFAULT_S: u64 = 10;
/// Below the time-out of ordinary clients' longest patience, and of proxies.
const WAIT_MAX_S: u64 = 25;
/// HTTP clients and proxies are more patient.
pub const WAIT_MAX_HTTP_S: u64 = kassa_events_schema::api::WAIT_MAX_HTTP_S;
/// While waiting, the state is looked at this often even when no hint comes: hints may be lost.
const LOOK: Duration = Duration::from_millis(250);

/// What the engine needs to know of a shop.
#[derive(Debug, Clone)]
pub struct ShopRules {
    pub return_url_origins: Vec<url::Origin>,
}

/// Answers commands, however they came.
#[derive(Debug)]
pub struct Commands {
    executor: Arc<Executor>,
    shops: BTreeMap<Shop, ShopRules>,
    order_ttl: SignedDuration,
    attempt_ttl: SignedDuration,
    methods: Arc<Catalogue>,
    ladders: Arc<Ladders>,
    wait_max_s: u64,
    rates: RatePerShop,
    admission: Admission,
    shutdown: CancellationToken,
}

impl Commands {
    /// As the configuration says.
    ///
    /// # Errors
    /// When a shop's name or origin is malformed; [`Config::check`] names it.
    pub fn from_config(
        config: &Config,
        executor: Arc<Executor>,
        ladders: Arc<Ladders>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            executor,
            shops: shop_rules(config)?,
            rates: RatePerShop::new(config.shops.keys(), config.rate.commands_per_second),
            admission: Admission::default(),
            order_ttl: config.checkout.order_ttl,
            attempt_ttl: config.checkout.attempt_ttl,
            methods: Arc::new(crate::methods::catalogue(config)?),
            ladders,
            wait_max_s: WAIT_MAX_S,
            shutdown,
        })
    }

    /// The longest that `Prefer: wait=N` can make a caller wait here.
    #[must_use]
    pub fn waiting_at_most(mut self, seconds: u64) -> Self {
        self.wait_max_s = seconds;
        self
    }

    /// Answers requests until shutdown, then finishes those under way.
    ///
    /// # Errors
    /// When the subscriptions cannot be made or end; the caller runs it again.
    pub async fn serve(
        self: Arc<Self>,
        client: Client,
        about: About,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        micro::serve(&client, SERVICE, &about, &shutdown, move |asked| {
            let commands = self.clone();
            async move { commands.answer(&asked).await }
        })
        .await
    }

    /// The answer to one command, whichever way it came: `verb` is one of the service's, and the headers are named and
    /// meant as on NATS. A repeat with the same key is answered as the first was.
    pub async fn answer(&self, asked: &Asked) -> Reply {
        requests::answered(requests::Kind::Command, asked, async {
            self.decided(asked).await.unwrap_or_else(Reply::from)
        })
        .await
    }

    async fn decided(&self, asked: &Asked) -> Result<Reply, Box<Problem>> {
        let shop = Shop::parse(&asked.shop)
            .ok()
            .filter(|shop| self.shops.contains_key(shop))
            .ok_or_else(|| Box::new(Problem::unknown_shop()))?;
        // Before anything is read: a flood costs next to nothing, and other shops' requests are not behind it.
        self.rates.check(&asked.shop)?;
        let headers = asked.headers.as_ref();
        check_headers(headers)?;
        let key = idempotency_key(headers)?;
        let wait = wait_of(headers, self.wait_max_s)?;
        let command = CommandId::from_key(&shop, &key);
        match asked.verb.as_str() {
            "create_order" => {
                self.admission.order()?;
                let rules = &self.shops[&shop];
                let decision = CreateOrder::check(
                    &shop,
                    &rules.return_url_origins,
                    self.order_ttl,
                    input::decode(&asked.body, rule)?,
                )?;
                let order_id = decision.order_id();
                let executed = self
                    .run(order_id, command, fingerprint(asked)?, &decision)
                    .await?;
                self.order_answer(executed).await
            }
            "cancel_order" => {
                let decision = CancelOrder::check(&shop, input::decode(&asked.body, rule)?)?;
                let order_id = decision.order_id();
                let executed = self
                    .run(order_id, command, fingerprint(asked)?, &decision)
                    .await?;
                self.order_answer(executed).await
            }
            _ => {
                self.admission.payment()?;
                let body = input::decode(&asked.body, rule)?;
                let decision = StartPayment::check(
                    &shop,
                    self.attempt_ttl,
                    self.methods.clone(),
                    self.ladders.clone(),
                    body,
                )?;
                let order_id = decision.order_id();
                let executed = self
                    .run(order_id, command, fingerprint(asked)?, &decision)
                    .await?;
                self.payment_answer(executed, wait).await
            }
        }
    }

    async fn run<D: Decide>(
        &self,
        order: OrderId,
        command: CommandId,
        fingerprint: Vec<u8>,
        decision: &D,
    ) -> Result<Executed<D::Outcome>, Box<Problem>> {
        trace::note("kassa.order.id", order.to_string());
        self.executor
            .execute(order, command, Caller::Shop(fingerprint), decision)
            .await
            .map_err(unavailable)
    }

    async fn order_answer(&self, executed: Executed<OrderMade>) -> Result<Reply, Box<Problem>> {
        let Executed {
            result,
            position,
            replayed,
        } = executed;
        let order_id = match result {
            Ok(made) => made.order_id,
            Err(problem) => return Ok(Reply::new(Err(problem)).replayed(replayed)),
        };
        // What was decided just now is remembered; what was decided before may have gone on elsewhere.
        let order = if replayed {
            self.executor.current_order(order_id).await
        } else {
            self.executor.remembered_order(order_id).await
        };
        let (order, at) = order.map_err(unavailable)?;
        let status = order.opened().map_or("open", kassa_domain::order::Opened::status);
        let position = self.position(order_id, position.max(at)).await?;
        let answer = OrderAnswer {
            order_id: order_id.to_string(),
            status: status.into(),
            position: position.clone(),
        };
        Ok(body(&answer)?.replayed(replayed).at(position))
    }

    async fn payment_answer(
        &self,
        executed: Executed<PaymentMade>,
        wait: Option<Duration>,
    ) -> Result<Reply, Box<Problem>> {
        let Executed {
            result,
            position,
            replayed,
        } = executed;
        let made = match result {
            Ok(made) => made,
            Err(problem) => return Ok(Reply::new(Err(problem)).replayed(replayed)),
        };
        let deadline = tokio::time::Instant::now() + wait.unwrap_or(Duration::from_secs(WAIT_DEFAULT_S));
        let streams = vec![made.payment_id.stream(), made.order_id.stream()];
        let heard = self.executor.store().hear(streams);
        // What was decided just now is remembered.
        let mut look = replayed;
        let mut waits = Some(self.admission.waits());
        loop {
            let (payment, order) = if look {
                let executor = &self.executor;
                futures::join!(
                    executor.current_payment(made.payment_id),
                    executor.current_order(made.order_id)
                )
            } else {
                let executor = &self.executor;
                futures::join!(
                    executor.remembered_payment(made.payment_id),
                    executor.remembered_order(made.order_id)
                )
            };
            let (payment, paid_at) = payment.map_err(unavailable)?;
            let (order, at) = order.map_err(unavailable)?;
            let next_action = order
                .opened()
                .map_or(NextAction::None, |opened| next_action(opened, &payment));
            if !is_untouched(&payment) {
                drop(waits.take());
            }
            let undecided = matches!(payment, Payment::Pending(_)) && next_action == NextAction::Wait;
            if undecided && tokio::time::Instant::now() < deadline && !self.shutdown.is_cancelled() {
                let look_at = deadline.min(tokio::time::Instant::now() + LOOK);
                look = tokio::select! {
                    // Answered with what there is: the shop asks again, and another instance answers.
                    () = self.shutdown.cancelled() => true,
                    elsewhere = tokio::time::timeout_at(look_at, heard.changed()) => elsewhere.unwrap_or(true),
                };
                continue;
            }
            let position = self
                .position(made.order_id, position.max(at).max(paid_at))
                .await?;
            let answer = PaymentAnswer {
                payment_id: made.payment_id.to_string(),
                status: payment.status().into(),
                next_action: on_the_wire(next_action),
                position: position.clone(),
            };
            let mut reply = body(&answer)?.replayed(replayed).at(position);
            reply.preference = wait.map(|wait| format!("wait={}", wait.as_secs()));
            return Ok(reply);
        }
    }

    async fn position(&self, order: OrderId, position: i64) -> Result<String, Box<Problem>> {
        let part = self
            .executor
            .store()
            .part_of_bucket(order.bucket())
            .map_err(|e| unavailable(e.into()))?;
        Ok(format!("{part}-{position}"))
    }
}

/// Whether no gateway has taken it up yet.
fn is_untouched(payment: &Payment) -> bool {
    let Payment::Pending(pending) = payment else {
        return false;
    };
    matches!(pending.step, Step::Deciding) && pending.creates == 0 && pending.starts == 0
}

fn on_the_wire(next: NextAction) -> api::NextAction {
    match next {
        NextAction::Redirect { url } => api::NextAction::Redirect { url },
        NextAction::Wait => api::NextAction::Wait,
        NextAction::None => api::NextAction::None,
    }
}

fn body(answer: &impl Serialize) -> Result<Reply, Box<Problem>> {
    let bytes = serde_json::to_vec(answer).map_err(|_| Box::new(Problem::store_unavailable()))?;
    Ok(Reply::new(Ok(bytes)))
}

fn shop_rules(config: &Config) -> anyhow::Result<BTreeMap<Shop, ShopRules>> {
    config
        .shops
        .iter()
        .map(|(name, shop)| {
            let origins = shop
                .return_url_origins
                .iter()
                .map(|text| Ok(url::Url::parse(text)?.origin()));
            let return_url_origins = origins.collect::<anyhow::Result<_>>()?;
            Ok((Shop::parse(name)?, ShopRules { return_url_origins }))
        })
        .collect()
}

fn unavailable(fault: Fault) -> Box<Problem> {
    tracing::error!(error = %chain(&fault), "a command could not be decided");
    Box::new(Problem::store_unavailable())
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn check_headers(headers: Option<&HeaderMap>) -> Result<(), Box<Problem>> {
    let Some(headers) = headers else { return Ok(()) };
    if headers
        .get("Content-Encoding")
        .is_some_and(|value| value.as_str() != "identity")
    {
        return Err(Box::new(Problem::of(
            "unsupported_encoding",
            "Content-Encoding must be absent",
            "send the JSON as it is",
        )));
    }
    if let Some(version) = headers.get("Kassa-Command-Version") {
        let known = version
            .as_str()
            .parse::<u32>()
            .is_ok_and(|asked| (1..=COMMAND_VERSION).contains(&asked));
        if !known {
            return Err(Box::new(Problem::of(
                "command_version_unknown",
                format!("Kassa-Command-Version: the highest version known is {COMMAND_VERSION}"),
                "send an older version, or leave the header out",
            )));
        }
    }
    Ok(())
}

/// The caller's name for one intention: 1 to 64 printable ASCII characters, given once.
fn idempotency_key(headers: Option<&HeaderMap>) -> Result<String, Box<Problem>> {
    let mut values = headers
        .into_iter()
        .flat_map(|headers| headers.get_all("Idempotency-Key"));
    let Some(key) = values.next() else {
        return Err(Box::new(Problem::of(
            "idempotency_key_missing",
            "the header Idempotency-Key is required on every command",
            "send a UUID, made once for this intention and sent again with every repeat",
        )));
    };
    let key = key.as_str();
    let fits = (1..=64).contains(&key.len()) && key.bytes().all(|b| (0x21..=0x7e).contains(&b));
    if !fits || values.next().is_some() {
        return Err(Box::new(Problem::validation(vec![FieldError::new(
            "Idempotency-Key",
            "invalid",
            "must be given once, as 1 to 64 printable ASCII characters without spaces, such as a UUID",
        )])));
    }
    Ok(key.to_owned())
}

/// `Prefer: wait=N` in seconds, cut to `max`; `None` where it is absent.
fn wait_of(headers: Option<&HeaderMap>, max: u64) -> Result<Option<Duration>, Box<Problem>> {
    let Some(prefer) = headers.and_then(|headers| headers.get("Prefer")) else {
        return Ok(None);
    };
    Ok(Preference::parse(prefer.as_str(), max)?.wait)
}

/// What makes two requests the same intention: verb and body, whatever the order of its fields or its spaces. The first
/// byte names the scheme, so that another may come.
fn fingerprint(asked: &Asked) -> Result<Vec<u8>, Box<Problem>> {
    let value: serde_json::Value = input::decode(&asked.body, rule)?;
    let mut hash = Sha256::new();
    hash.update(asked.verb.as_bytes());
    hash.update([0]);
    hash.update(canonical(&value).as_bytes());
    Ok([&[1_u8][..], &hash.finalize()].concat())
}

/// The same text for the same content: object fields sorted by name.
fn canonical(value: &serde_json::Value) -> String {
    use serde_json::Value;
    match value {
        Value::Object(fields) => {
            let sorted: BTreeMap<_, _> = fields.iter().collect();
            let parts: Vec<_> = sorted
                .into_iter()
                .map(|(name, value)| format!("{}:{}", Value::from(name.as_str()), canonical(value)))
                .collect();
            format!("{{{}}}", parts.join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
    }
}
