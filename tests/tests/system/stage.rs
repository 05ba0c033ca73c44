//! One installation for one test: its own database and account, the simulator, every role, a shipment service.

use std::{
    collections::HashMap,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use async_nats::{Client, HeaderMap, Message};
use jiff::SignedDuration;
use kassa::{Bound, Role, Running};
use kassa_chassis::{
    bus,
    config::{Cm, Config, Login, Mode, Shop},
};
use kassa_checkout::{
    Checkout,
    keys::{self, NewKey, Scope},
};
use kassa_cm_notifications::Notifications;
use kassa_cm_simulator::{SimConfig, Simulator};
use kassa_event_store::{Store, StoreConfig};
use kassa_shipment::{Consumer, Database, Inbox, Instruction, Settings, Stats};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_postgres::{NoTls, Transaction};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::world::{Logins, SHOP, world};

/// Everything that a test waits for comes within seconds; on a loaded machine within this.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
/// A word that stands nowhere else, so that it can be looked for where it must not be.
pub(crate) const CM_PASSWORD: &str = "canary-cm-password";
const EVERY_ROLE: [Role; 6] = [
    Role::Engine,
    Role::Relay,
    Role::CmGateway,
    Role::CmNotifications,
    Role::ReadModels,
    Role::Checkout,
];

pub(crate) struct Stage {
    pub(crate) config: Config,
    pub(crate) logins: Logins,
    pub(crate) store: Store,
    pub(crate) database_url: String,
    pub(crate) sim_url: String,
    pub(crate) hooks_url: String,
    /// The HTTP API, without a slash at its end.
    pub(crate) api_url: String,
    /// One that may do everything; made when it is first needed.
    api_key: tokio::sync::OnceCell<String>,
    pub(crate) checkout: Client,
    pub(crate) shipped: Arc<Stats>,
    http: reqwest::Client,
    config_file: PathBuf,
    children: HashMap<&'static str, Child>,
    stop: CancellationToken,
}

/// How a stage differs from the ordinary one.
pub(crate) struct Plan {
    /// Roles that run as processes of their own, to be killed.
    pub(crate) processes: Vec<(&'static str, Role)>,
    /// Another nats-server than the shared one.
    pub(crate) nats: Option<(String, Logins)>,
    /// The address of another database than one of the shared server.
    pub(crate) database: Option<String>,
}

impl Plan {
    pub(crate) fn ordinary() -> Self {
        Self {
            processes: vec![],
            nats: None,
            database: None,
        }
    }

    pub(crate) fn with_process(name: &'static str, role: Role) -> Self {
        Self {
            processes: vec![(name, role)],
            ..Self::ordinary()
        }
    }
}

impl Stage {
    pub(crate) async fn new() -> Self {
        Self::planned(Plan::ordinary()).await
    }

    pub(crate) async fn planned(plan: Plan) -> Self {
        Self::tuned(plan, |_| {}).await
    }

    /// With a configuration that differs from what is usual.
    pub(crate) async fn tuned(plan: Plan, tune: impl FnOnce(&mut Config)) -> Self {
        let world = world();
        let database_url = match plan.database {
            Some(url) => url,
            None => world.database().await,
        };
        let (nats_url, logins) = plan.nats.unwrap_or_else(|| (world.nats_url(), world.logins()));
        let stop = CancellationToken::new();

        let mut config = Config::default();
        config.database.url = SecretString::from(database_url.as_str());
        // Many stages share one server.
        config.database.max_connections = 4;
        config.nats.url = nats_url.clone();
        config.nats.worker = logins.worker.clone();
        config.nats.relay = logins.relay.clone();
        config.http.listen.set_port(0);

        let mut sim = SimConfig::new("merchant", "account", SecretString::from(CM_PASSWORD));
        sim.listen.set_port(0);
        let simulator = Simulator::bind(sim).await.expect("the simulator binds");
        let sim_url = simulator.base_url().to_owned();
        let notifications = Notifications::bind(config.http.listen)
            .await
            .expect("the hook binds");
        let hooks_url = format!("http://{}/hooks/cm/{SHOP}", notifications.local_addr());
        simulator
            .set_notification_url(format!("{hooks_url}?id="))
            .expect("a good URL");
        tokio::spawn(simulator.serve(stop.clone()));

        let shop = Shop {
            cm: Cm {
                mode: Mode::Sim,
                rest_url: sim_url.clone(),
                account: "account".to_owned(),
                password: Some(SecretString::from(CM_PASSWORD)),
                password_file: None,
                merchant_key: "merchant".to_owned(),
                timeout: SignedDuration::from_secs(2),
            },
            return_url_origins: vec!["https://shop.example".to_owned()],
        };
        config.shops.insert(SHOP.to_owned(), shop.clone());
        config.shops.insert("other-shop".to_owned(), shop);
        config.poll.ladder.insert(
            "ideal".to_owned(),
            [1, 1, 2, 3, 5, 10].map(SignedDuration::from_secs).to_vec(),
        );
        tune(&mut config);
        config.check().expect("the test's configuration holds");

        let settings = StoreConfig {
            url: database_url.clone(),
            pool_size: config.database.max_connections,
        };
        let store = Store::connect(settings).await.expect("the store opens");
        let in_process: Vec<Role> = EVERY_ROLE
            .into_iter()
            .filter(|role| !plan.processes.iter().any(|(_, other)| other == role))
            .collect();
        config.checkout.listen.set_port(0);
        let api = Checkout::bind(config.checkout.listen)
            .await
            .expect("the API binds");
        let api_address = api.local_addr();
        let api_url = format!("http://{api_address}");
        config.checkout.listen = api_address;
        config.http.public_url = Some(api_url.clone());
        let bound = Bound {
            notifications: Some(notifications),
            // A process of its own listens where this one would have.
            checkout: in_process.contains(&Role::Checkout).then_some(api),
        };
        let running = Running::start(&config, &store, &in_process, bound, stop.clone());
        tokio::spawn(running.wait());

        let config_file = world.folder.join(format!("{}.toml", Uuid::new_v4()));
        std::fs::write(&config_file, as_toml(&config)).expect("the folder can be written");

        let checkout = bus::connect(&nats_url, &logins.checkout, "test checkout")
            .await
            .expect("NATS answers");
        let options = bus::options(&nats_url, &logins.shipment).expect("a good address");
        let (client, connection) = tokio_postgres::connect(&database_url, NoTls)
            .await
            .expect("it opens");
        let driving = tokio::spawn(connection);
        Inbox::prepare(&client).await.expect("the shop's tables are made");
        // What the shop did, without a key that would hide a second time.
        client
            .batch_execute(
                "CREATE TABLE shipment_service.handled (order_id text);
                 CREATE TABLE shipment_service.stopped (order_id text)",
            )
            .await
            .expect("the shop's table is made");
        drop(client);
        let _ = driving.await;
        let database = Database::new(database_url.parse().expect("an address"), NoTls);
        let consumer = Consumer::connect(Settings::new(&nats_url, "test-shipment"), options, database)
            .await
            .expect("the shipment service connects");
        let shipped = consumer.stats();
        tokio::spawn(consumer.run(
            async |told: &Instruction, transaction: &Transaction<'_>| {
                let sql = match told {
                    Instruction::Ship(_) => "INSERT INTO shipment_service.handled VALUES ($1)",
                    _ => "INSERT INTO shipment_service.stopped VALUES ($1)",
                };
                transaction.execute(sql, &[&told.order_id()]).await.map(|_| ())
            },
            stop.clone(),
        ));

        let mut stage = Self {
            config,
            logins,
            store,
            database_url,
            sim_url,
            hooks_url,
            api_url,
            api_key: tokio::sync::OnceCell::new(),
            checkout,
            shipped,
            http: reqwest::Client::builder().no_proxy().build().expect("a client"),
            config_file,
            children: HashMap::new(),
            stop,
        };
        for (name, _) in plan.processes {
            stage.spawn(name);
        }
        stage
            .until("the services answer", async |stage| {
                let asked = |subject: String| stage.checkout.request(subject, "".into());
                asked(format!("kassa.cmd.{SHOP}.create_order")).await.is_ok()
                    && asked(format!("kassa.cmd.{SHOP}.start_payment")).await.is_ok()
                    && asked(format!("kassa.qry.{SHOP}.get_order")).await.is_ok()
            })
            .await;
        stage
    }

    /// Starts a role as a process of its own.
    pub(crate) fn spawn(&mut self, role: &'static str) {
        self.spawn_as(role, role);
    }

    /// One more process of a role, under a name of its own here.
    pub(crate) fn spawn_as(&mut self, name: &'static str, role: &'static str) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.config_file.with_extension("log"))
            .expect("the folder can be written");
        let child = Command::new(env!("CARGO_BIN_EXE_kassa-under-test"))
            .arg("--config")
            .arg(&self.config_file)
            .args(["serve", "--role", role])
            // Whatever our own code can be made to say.
            .env(
                "RUST_LOG",
                "info,kassa=debug,async_nats=warn,async_nats::connector=off,deadpool=off",
            )
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the binary starts");
        self.children.insert(name, child);
    }

    /// Sends a signal, such as `STOP`, to a process.
    pub(crate) fn signal(&self, name: &str, signal: &str) {
        let pid = self.children[name].id().to_string();
        let sent = Command::new("kill").args([&format!("-{signal}"), &pid]).status();
        assert!(sent.expect("kill is there").success(), "kill -{signal} {name}");
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, role: &str) {
        let mut child = self.children.remove(role).expect("it runs as a process");
        child.kill().expect("it is ours to kill");
        let _ = child.wait();
    }

    /// SIGTERM; its exit code, once it has ended.
    pub(crate) async fn terminate(&mut self, role: &str) -> Option<i32> {
        let mut child = self.children.remove(role).expect("it runs as a process");
        let told = Command::new("kill")
            .args(["-TERM", &child.id().to_string()])
            .status();
        assert!(told.expect("kill is there").success());
        let deadline = Instant::now() + DEADLINE;
        let mut look = tokio::time::interval(Duration::from_millis(20));
        loop {
            look.tick().await;
            if let Some(status) = child.try_wait().expect("it is ours") {
                return status.code();
            }
            assert!(Instant::now() < deadline, "{role} does not end");
        }
    }

    /// The configuration for the binary itself.
    pub(crate) fn config_file(&self) -> &std::path::Path {
        &self.config_file
    }

    pub(crate) async fn send(&self, subject: &str, headers: HeaderMap, body: Vec<u8>) -> (Message, Value) {
        let request = async_nats::Request::new()
            .headers(headers)
            .payload(body.into())
            .timeout(Some(Duration::from_secs(30)));
        let answer = self
            .checkout
            .send_request(subject.to_owned(), request)
            .await
            .expect("an answer");
        let document = serde_json::from_slice(&answer.payload).expect("answers are JSON");
        (answer, document)
    }

    /// A command as a shop sends it, with a key of its own.
    pub(crate) async fn command(&self, verb: &str, body: &Value) -> Value {
        self.command_with_key(verb, &Uuid::new_v4().to_string(), body)
            .await
    }

    pub(crate) async fn command_with_key(&self, verb: &str, key: &str, body: &Value) -> Value {
        let mut headers = HeaderMap::new();
        headers.insert("Idempotency-Key", key);
        let subject = format!("kassa.cmd.{SHOP}.{verb}");
        self.send(&subject, headers, serde_json::to_vec(body).expect("JSON"))
            .await
            .1
    }

    /// An order's document; nothing while the bus is away, as in tests that kill it: whoever waits asks again.
    pub(crate) async fn get_order(&self, order_id: &str) -> Value {
        let body = serde_json::to_vec(&json!({ "order_id": order_id })).expect("JSON");
        match self
            .checkout
            .request(format!("kassa.qry.{SHOP}.get_order"), body.into())
            .await
        {
            Ok(answer) => serde_json::from_slice(&answer.payload).expect("answers are JSON"),
            Err(_) => Value::Null,
        }
    }

    /// An order in a scenario; its reference and its id.
    pub(crate) async fn create(&self, scenario: &str) -> (String, String) {
        let reference = format!("T-{}", Uuid::new_v4().simple());
        let answer = self
            .command("create_order", &order_body(&reference, scenario))
            .await;
        assert_eq!(answer["status"], "open", "{answer}");
        (reference, answer["order_id"].as_str().expect("an id").to_owned())
    }

    pub(crate) async fn start(&self, order_id: &str) -> Value {
        self.start_by(order_id, "ideal").await
    }

    pub(crate) async fn start_by(&self, order_id: &str, method: &str) -> Value {
        let answer = self
            .command(
                "start_payment",
                &json!({ "order_id": order_id, "method": method }),
            )
            .await;
        assert!(answer["payment_id"].is_string(), "{answer}");
        answer
    }

    /// What the shopper does, at the bank or through the menu.
    pub(crate) async fn press(&self, reference: &str, scenario: &str) {
        let body = json!({ "order_reference": reference, "scenario": scenario });
        self.sim_post("/sim/pay", &body).await;
    }

    /// Has the simulator do something; its answer.
    pub(crate) async fn sim_post(&self, path: &str, body: &Value) -> Value {
        let url = format!("{}{path}", self.sim_url);
        let response = self.http.post(url).json(body).send().await.expect("it answers");
        let status = response.status();
        let answer = response.text().await.unwrap_or_default();
        assert!(status.is_success(), "{path} {body}: {status}: {answer}");
        serde_json::from_str(&answer).expect("JSON")
    }

    /// Lets time pass, such as `45m`, for the simulator and for every service.
    pub(crate) async fn pass(&self, time: &str) {
        let clock = self.sim_post("/sim/clock", &json!({ "advance": time })).await;
        let offset_ms = clock["offset_ms"].as_i64().expect("milliseconds");
        self.store
            .set_clock_offset(offset_ms)
            .await
            .expect("the clock moves");
    }

    /// The simulator's ledger of an order.
    pub(crate) async fn ledger(&self, reference: &str) -> Vec<Value> {
        let url = format!("{}/sim/ledger?reference={reference}", self.sim_url);
        let text = self
            .http
            .get(url)
            .send()
            .await
            .expect("it answers")
            .text()
            .await
            .expect("a body");
        text.lines()
            .map(|line| serde_json::from_str(line).expect("NDJSON"))
            .collect()
    }

    pub(crate) async fn count(&self, reference: &str, kind: &str, op: &str) -> usize {
        self.ledger(reference)
            .await
            .iter()
            .filter(|row| row["kind"] == kind && row["op"] == op)
            .count()
    }

    pub(crate) async fn http_get(&self, url: &str) -> reqwest::Response {
        self.http.get(url).send().await.expect("it answers")
    }

    /// An API key of a shop, as an operator makes it.
    pub(crate) async fn api_key(&self, shop: &str, scopes: &[Scope]) -> String {
        self.api_key_until(shop, scopes, None).await
    }

    pub(crate) async fn api_key_until(
        &self,
        shop: &str,
        scopes: &[Scope],
        expires_at: Option<jiff::Timestamp>,
    ) -> String {
        self.api_key_made(NewKey {
            shop: shop.to_owned(),
            mode: "sim",
            name: "test".to_owned(),
            scopes: scopes.to_vec(),
            expires_at,
        })
        .await
    }

    pub(crate) async fn api_key_made(&self, new: NewKey) -> String {
        let (client, connection) = tokio_postgres::connect(&self.database_url, NoTls)
            .await
            .expect("it opens");
        let driving = tokio::spawn(connection);
        let key = keys::create(&client, &new, self.store.clock().now())
            .await
            .expect("a key is made");
        drop(client);
        let _ = driving.await;
        key.expose_secret().to_owned()
    }

    /// A POST to the HTTP API by a service that may do everything.
    pub(crate) async fn api_post(&self, path: &str) -> reqwest::RequestBuilder {
        let key = self.api_key.get_or_init(|| self.api_key(SHOP, &Scope::ALL)).await;
        self.http.post(format!("{}{path}", self.api_url)).bearer_auth(key)
    }

    /// Ends an API key, as an operator does.
    pub(crate) async fn revoke(&self, key_id: &str) {
        let (client, connection) = tokio_postgres::connect(&self.database_url, NoTls)
            .await
            .expect("it opens");
        let driving = tokio::spawn(connection);
        let found = keys::revoke(&client, key_id, self.store.clock().now()).await;
        assert!(found.expect("it is revoked"), "there is no key {key_id}");
        drop(client);
        let _ = driving.await;
    }

    /// Whether the HTTP API is there, for a test that has killed it.
    pub(crate) async fn api_answers(&self) -> bool {
        let asked = self
            .http
            .get(format!("{}/openapi.json", self.api_url))
            .send()
            .await;
        asked.is_ok_and(|response| response.status() == 200)
    }

    /// How often the shop shipped an order.
    pub(crate) async fn shipments(&self, order_id: &str) -> i64 {
        self.sql_count(&format!(
            "SELECT count(*) FROM shipment_service.handled WHERE order_id = '{order_id}'"
        ))
        .await
    }

    /// How often the shop was told to hold an order.
    pub(crate) async fn holds(&self, order_id: &str) -> i64 {
        self.sql_count(&format!(
            "SELECT count(*) FROM shipment_service.stopped WHERE order_id = '{order_id}'"
        ))
        .await
    }

    pub(crate) async fn sql_count(&self, sql: &str) -> i64 {
        let (client, connection) = tokio_postgres::connect(&self.database_url, NoTls)
            .await
            .expect("it opens");
        let driving = tokio::spawn(connection);
        let count = client.query_one(sql, &[]).await.expect(sql).get(0);
        drop(client);
        let _ = driving.await;
        count
    }

    /// The first column of every row, as the owner of the database sees it.
    pub(crate) async fn sql_texts(&self, sql: &str) -> Vec<String> {
        let (client, connection) = tokio_postgres::connect(&self.database_url, NoTls)
            .await
            .expect("it opens");
        let driving = tokio::spawn(connection);
        let rows = client.query(sql, &[]).await.expect(sql);
        let texts = rows.iter().map(|row| row.get(0)).collect();
        drop(client);
        let _ = driving.await;
        texts
    }

    /// Waits for a condition; a test that waits in vain says what for.
    pub(crate) async fn until(&self, what: &str, holds: impl AsyncFn(&Self) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        let mut look = tokio::time::interval(Duration::from_millis(20));
        loop {
            look.tick().await;
            if holds(self).await {
                return;
            }
            if Instant::now() >= deadline {
                let log = std::fs::read_to_string(self.config_file.with_extension("log")).unwrap_or_default();
                panic!("waited in vain: {what}\n{log}");
            }
        }
    }

    /// Waits until an order stands as expected; its document then.
    pub(crate) async fn until_order(&self, order_id: &str, status: &str, payment: &str, safe: &str) -> Value {
        let what = format!("order {status}, payment {payment}, safe {safe}");
        let last = std::sync::Mutex::new(Value::Null);
        let deadline = Instant::now() + DEADLINE;
        let mut look = tokio::time::interval(Duration::from_millis(20));
        loop {
            look.tick().await;
            let order = self.get_order(order_id).await;
            if order["status"] == status
                && order["payments"][0]["status"] == payment
                && order["safe"]["value"] == safe
            {
                return order;
            }
            *last.lock().expect("one task") = order;
            assert!(
                Instant::now() < deadline,
                "waited in vain for {what}; last: {}",
                last.lock().expect("one task")
            );
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop.cancel();
        for child in self.children.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub(crate) fn order_body(reference: &str, scenario: &str) -> Value {
    json!({
        "order_reference": reference,
        "description": "Dog food, 12 kg",
        "amount": { "value": 4995, "currency": "EUR" },
        "country": "NL",
        "language": "nl",
        "shopper": { "email": "canary.person@example.org", "first_name": "Canary" },
        "return_url": "https://shop.example/return",
        "metadata": { "sim_scenario": scenario },
    })
}

/// The configuration as the file that a process reads.
fn as_toml(config: &Config) -> String {
    let login = |login: &Login| {
        let password = login.password.as_ref().map_or("", |p| p.expose_secret());
        format!(
            "{{ user = \"{}\", password = \"{password}\" }}",
            login.user.as_deref().unwrap_or_default()
        )
    };
    let cm = &config.shops[SHOP].cm;
    let shop = |name: &str| {
        format!(
            "[shops.{name}]\nreturn_url_origins = [\"https://shop.example\"]\n\
             cm = {{ mode = \"sim\", rest_url = \"{}\", account = \"{}\", password = \"{CM_PASSWORD}\", merchant_key = \"{}\", \
             timeout = \"2s\" }}\n",
            cm.rest_url, cm.account, cm.merchant_key
        )
    };
    format!(
        "[database]\nurl = \"{}\"\nmax_connections = 4\n[nats]\nurl = \"{}\"\nworker = {}\nrelay = {}\n\
         [checkout]\nlisten = \"{}\"\n[http]\nlisten = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n[poll.ladder]\nideal = [\"1s\", \"1s\", \"2s\", \"3s\", \"5s\", \"10s\"]\n{}{}",
        config.database.url.expose_secret(),
        config.nats.url,
        login(&config.nats.worker),
        login(&config.nats.relay),
        config.checkout.listen,
        shop(SHOP),
        shop("other-shop"),
    )
}
