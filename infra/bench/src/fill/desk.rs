//! How does an order come to be paid, when only the engine and a database are there? By the engine's own decisions, with
//! the provider's words put into its mouth: so what is stored is what an installation stores.

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use async_nats::HeaderMap;
use jiff::SignedDuration;
use kassa_chassis::{
    config::{Cm, Config, Mode, Shop as ShopConfig},
    micro::Asked,
};
use kassa_domain::{
    ids::{CommandId, OrderId, PaymentId, Shop, ShopperId},
    money::{Currency, Money},
    order::ProviderOrder,
    payment::Operation,
    report::{AuthorizationState, Confidence, ConsideredSafe, ProviderReport, ReportedPayment},
    safety::Policy,
};
use kassa_engine::{
    Caller, Commands, Decide, Executor, Ladders, ObserveReport, OrderRegistered, Recorded, Said, StartNow,
    Word, key_id,
};
use kassa_event_store::{Store, StoreConfig};
use kassa_read_models::Queries;
use secrecy::SecretString;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub(crate) const SHOP: &str = "demo-shop";
const AMOUNT_MINOR: i64 = 4_995;
const RETURN_ORIGIN: &str = "https://shop.example";
/// The shop's own limit is not what is measured.
const UNLIMITED: u32 = 1_000_000;
const CONNECTIONS: usize = 8;
/// As a gateway's: longer than a call.
const LEASE: SignedDuration = SignedDuration::from_secs(20);
/// Nobody is there: what CM would say is put into its mouth.
const CM_URL: &str = "http://127.0.0.1:9";

/// The names of one order and of all that was decided for it; derived, so that they are known before it is there.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    pub(crate) reference: String,
    pub(crate) order: OrderId,
    pub(crate) payment: PaymentId,
    pub(crate) shopper: ShopperId,
    /// In the order in which they were decided.
    pub(crate) commands: Vec<CommandId>,
}

impl Names {
    pub(crate) fn new(shop: &Shop, reference: String) -> Self {
        let order = OrderId::new(shop, &reference);
        let start = CommandId::from_key(shop, &format!("start-{reference}"));
        let word = |n| CommandId::derived(order.stream(), "word", n);
        let commands = vec![
            CommandId::from_key(shop, &format!("create-{reference}")),
            start,
            word(1),
            key_id(CM_URL, &format!("key-{reference}")),
            word(2),
            CommandId::derived(order.stream(), "read", 1),
        ];
        Self {
            order,
            payment: PaymentId::new(order, start),
            shopper: ShopperId::new(order),
            commands,
            reference,
        }
    }
}

/// The shop and the gateway of one database.
#[derive(Debug)]
pub(crate) struct Desk {
    shop: Shop,
    store: Store,
    executor: Executor,
    commands: Commands,
    queries: Queries,
}

impl Desk {
    /// On a database that has its schema.
    pub(crate) async fn open(url: &str) -> anyhow::Result<Self> {
        let mut config = Config::default();
        config.database.url = SecretString::from(url);
        config.rate.commands_per_second = UNLIMITED;
        config.rate.queries_per_second = UNLIMITED;
        let shop = ShopConfig {
            cm: Cm {
                mode: Mode::Sim,
                rest_url: CM_URL.to_owned(),
                account: "account".to_owned(),
                password: Some(SecretString::from("bench-cm-password")),
                password_file: None,
                merchant_key: "merchant".to_owned(),
                timeout: SignedDuration::from_secs(2),
            },
            return_url_origins: vec![RETURN_ORIGIN.to_owned()],
        };
        config.shops.insert(SHOP.to_owned(), shop);
        let store = Store::connect(StoreConfig {
            url: url.to_owned(),
            pool_size: CONNECTIONS,
        })
        .await?;
        let methods = kassa_engine::catalogue(&config)?;
        let ladders = Arc::new(Ladders::new(config.poll.ladder.clone(), &methods));
        let executor = Arc::new(Executor::new(store.clone()));
        let commands = Commands::from_config(&config, executor, ladders, CancellationToken::new())?;
        // What is asked for is stored long ago: no question waits for the projection.
        let (_, everything) = watch::channel(i64::MAX);
        let queries = Queries::new(&config, store.clone(), everything, CancellationToken::new());
        Ok(Self {
            shop: Shop::parse(SHOP)?,
            executor: Executor::new(store.clone()),
            store,
            commands,
            queries,
        })
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn names(&self, reference: String) -> Names {
        Names::new(&self.shop, reference)
    }

    /// From nothing to safe.
    pub(crate) async fn pay(&self, names: &Names) -> anyhow::Result<()> {
        self.create(names).await?;
        self.start(names).await?;
        self.redirect(names).await?;
        self.judge(names).await
    }

    pub(crate) async fn create(&self, names: &Names) -> anyhow::Result<()> {
        let body = json!({
            "order_reference": names.reference,
            "description": "Royal Canin Medium Adult 15 kg",
            "amount": { "value": AMOUNT_MINOR, "currency": "EUR" },
            "country": "NL",
            "language": "nl",
            "shopper": { "email": format!("{}@mail.example", names.reference), "first_name": "Anna", "last_name": "de Vries" },
            "return_url": format!("{RETURN_ORIGIN}/return"),
            "metadata": { "basket": format!("basket-{}", names.reference) },
        });
        self.ask("create_order", format!("create-{}", names.reference), &body)
            .await
    }

    pub(crate) async fn start(&self, names: &Names) -> anyhow::Result<()> {
        let body = json!({ "order_id": names.order, "method": "ideal" });
        self.ask("start_payment", format!("start-{}", names.reference), &body)
            .await
    }

    /// What the gateway records until the shopper is sent to the bank.
    pub(crate) async fn redirect(&self, names: &Names) -> anyhow::Result<()> {
        let (reference, attempt) = (&names.reference, 1);
        let deadline = self.executor.now() + SignedDuration::from_secs(2);
        let [_, _, creating, registering, redirecting, _] = names.commands[..] else {
            anyhow::bail!("an order has a command for each of its steps");
        };
        let key = format!("key-{reference}");
        let creates = Said::CallAttempted {
            operation: Operation::CreateOrder,
            attempt,
            reference: reference.clone(),
            deadline,
        };
        self.say(names, creating, creates).await?;
        let registered = OrderRegistered {
            order: names.order,
            payment: names.payment,
            attempt,
            provider: ProviderOrder {
                order_key: key.clone(),
                menu_url: format!("https://pay.example/menu/{key}"),
                reference: reference.clone(),
                expires_at: None,
            },
            start: Some(StartNow {
                attempt,
                deadline,
                nonce: redirecting.uuid(),
            }),
        };
        let executed = self
            .executor
            .execute(names.order, registering, Caller::Internal, &registered)
            .await?;
        ensure!(
            executed.result.is_ok(),
            "CM's order for {reference} was not registered: {:?}",
            executed.result
        );
        let redirected = Said::Redirected {
            attempt,
            provider_payment_id: format!("pid-{reference}"),
            url: format!("https://bank.example/pay/pid-{reference}"),
        };
        self.say(names, redirecting, redirected).await
    }

    async fn say(&self, names: &Names, command: CommandId, said: Said) -> anyhow::Result<()> {
        let word = Word {
            order: names.order,
            payment: names.payment,
            said,
        };
        self.record(names, command, &word).await
    }

    /// A report is asked for, claimed, judged and recorded, as after a notification.
    pub(crate) async fn judge(&self, names: &Names) -> anyhow::Result<()> {
        let now = self.executor.now();
        let order = names.order.to_string();
        self.store.request_read(&order, SHOP).await?;
        let claims = self.store.claim_reads(now, LEASE, 1).await?;
        let claim = claims
            .first()
            .context("the read that was asked for can be claimed")?;
        ensure!(
            claim.order_id == order,
            "another order's read waits: {}",
            claim.order_id
        );
        let amount = Money::new(AMOUNT_MINOR, Currency::EUR);
        let report = ProviderReport {
            reference: names.reference.clone(),
            ordered: amount,
            considered_safe: Some(ConsideredSafe {
                level: "SAFE".to_owned(),
                // Another moment each time: a report that says nothing new would not be recorded.
                at: Some(now),
            }),
            payments: vec![ReportedPayment {
                id: format!("pid-{}", names.reference),
                method: "IDEAL".to_owned(),
                state: AuthorizationState::Authorized,
                confidence: Some(Confidence::AcquirerApproved),
                amount,
                reason: None,
                captures: vec![],
                refunds: vec![],
                chargebacks: vec![],
            }],
        };
        let observe = ObserveReport {
            order: names.order,
            read_no: claim.read_no,
            read_started_at: now,
            report,
            policy: Policy::default(),
        };
        let number = u64::try_from(claim.read_no)?;
        let command = CommandId::derived(names.order.stream(), "read", number);
        self.record(names, command, &observe).await?;
        self.store.finish_read(claim, true, self.executor.now()).await?;
        Ok(())
    }

    /// Where an order stands, as a shop asks for it.
    pub(crate) async fn get(&self, reference: &str) -> anyhow::Result<()> {
        self.question("get_order", &json!({ "order_reference": reference }))
            .await
    }

    /// The newest orders that wait for their shoppers.
    pub(crate) async fn list_open(&self) -> anyhow::Result<()> {
        self.question("list_orders", &json!({ "status": "open" })).await
    }

    async fn question(&self, verb: &str, body: &serde_json::Value) -> anyhow::Result<()> {
        let asked = Asked {
            shop: SHOP.to_owned(),
            verb: verb.to_owned(),
            headers: None,
            body: serde_json::to_vec(body)?.into(),
        };
        match self.queries.answer(&asked).await.result {
            Ok(_) => Ok(()),
            Err(problem) => anyhow::bail!("{verb} was refused: {} ({:?})", problem.code, problem.errors),
        }
    }

    async fn record<D: Decide<Outcome = Recorded>>(
        &self,
        names: &Names,
        command: CommandId,
        decision: &D,
    ) -> anyhow::Result<()> {
        let executed = self
            .executor
            .execute(names.order, command, Caller::Internal, decision)
            .await?;
        ensure!(
            matches!(executed.result, Ok(Recorded::Yes)),
            "a worker's word about {} was not recorded: {:?}",
            names.reference,
            executed.result
        );
        Ok(())
    }

    async fn ask(&self, verb: &str, key: String, body: &serde_json::Value) -> anyhow::Result<()> {
        let mut headers = HeaderMap::new();
        headers.insert("Idempotency-Key", key);
        headers.insert("Prefer", "wait=0");
        let asked = Asked {
            shop: SHOP.to_owned(),
            verb: verb.to_owned(),
            headers: Some(headers),
            body: serde_json::to_vec(body)?.into(),
        };
        let reply = self.commands.answer(&asked).await;
        match reply.result {
            Ok(_) => Ok(()),
            Err(problem) => anyhow::bail!("{verb} was refused: {} ({:?})", problem.code, problem.errors),
        }
    }
}
