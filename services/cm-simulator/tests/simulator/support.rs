//! A running simulator, a merchant that listens to notifications, and a shopper.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{RawQuery, State},
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use kassa_chassis::http::{self, Limits};
use kassa_cm_simulator::{SimConfig, Simulator};
use reqwest::{Client, RequestBuilder, redirect};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) const MERCHANT_KEY: &str = "4f1b6c1e-0000-4000-8000-000000000001";
pub(crate) const ACCOUNT: &str = "kassa_test";
pub(crate) const PASSWORD: &str = "not a secret";

/// Longer than anything here takes on a busy machine, so that only a wrong program reaches it.
const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) struct Sim {
    pub(crate) base: String,
    rest: String,
    pub(crate) client: Client,
    pub(crate) merchant: Merchant,
    pub(crate) shutdown: CancellationToken,
    pub(crate) serving: JoinHandle<std::io::Result<()>>,
    _stop_at_the_end: DropGuard,
}

impl Sim {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut SimConfig)) -> Self {
        let shutdown = CancellationToken::new();
        let merchant = Merchant::start(shutdown.clone()).await;
        let mut config = SimConfig::new(MERCHANT_KEY, ACCOUNT, PASSWORD.into());
        change(&mut config);
        let simulator = Simulator::bind(config).await.expect("a free port");
        simulator
            .set_notification_url(merchant.url())
            .expect("ends in '='");
        let (base, rest) = (simulator.base_url().to_owned(), simulator.rest_url());
        let serving = tokio::spawn(simulator.serve(shutdown.clone()));
        let guard = shutdown.clone().drop_guard();
        Self {
            base,
            rest,
            client: client(DEADLINE),
            merchant,
            shutdown,
            serving,
            _stop_at_the_end: guard,
        }
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.client
            .get(format!("{}{path}", self.rest))
            .basic_auth(ACCOUNT, Some(PASSWORD))
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        self.client
            .post(format!("{}{path}", self.rest))
            .basic_auth(ACCOUNT, Some(PASSWORD))
            .json(body)
    }

    /// Creates an order in a scenario; its key.
    pub(crate) async fn create(&self, reference: &str, scenario: &str) -> String {
        let response = self
            .post("/orders", &order(reference))
            .header("X-Sim-Scenario", scenario)
            .send()
            .await
            .expect("an answer");
        let (status, body) = answer(response).await;
        assert_eq!(status, 201, "{body}");
        body["order_key"].as_str().expect("a key").to_owned()
    }

    /// Asks for a payment, without judging the answer.
    pub(crate) fn start_payment(&self, key: &str) -> RequestBuilder {
        self.post(&format!("/orders/{key}/payments"), &json!({ "method": "IDEAL" }))
    }

    /// Starts a payment that is expected to be answered; the bank's URL.
    pub(crate) async fn started(&self, key: &str) -> String {
        let (status, body) = answer(self.start_payment(key).send().await.expect("an answer")).await;
        assert_eq!(status, 201, "{body}");
        body["urls"][0]["url"].as_str().expect("a url").to_owned()
    }

    /// Presses a button of the bank as a browser would; status and `Location`.
    pub(crate) async fn press(&self, bank_url: &str, result: &str) -> (u16, Option<String>) {
        let trxid = bank_url.split_once("trxid=").expect("a bank url").1;
        let form = [("trxid", trxid), ("result", result)];
        let url = format!("{}/ps_sim/ideal", self.base);
        redirect_of(self.client.post(url).form(&form).send().await.expect("an answer"))
    }

    pub(crate) async fn detail(&self, key: &str) -> Value {
        let response = self
            .get(&format!("/orders/{key}"))
            .send()
            .await
            .expect("an answer");
        let (status, body) = answer(response).await;
        assert_eq!(status, 200, "{body}");
        body
    }

    pub(crate) async fn sim_get(&self, path: &str) -> (u16, Value) {
        answer(
            self.client
                .get(format!("{}{path}", self.base))
                .send()
                .await
                .expect("an answer"),
        )
        .await
    }

    pub(crate) async fn sim_post(&self, path: &str, body: &Value) -> (u16, Value) {
        let url = format!("{}{path}", self.base);
        answer(self.client.post(url).json(body).send().await.expect("an answer")).await
    }

    /// The order as the simulator itself sees it.
    pub(crate) async fn order(&self, key: &str) -> Value {
        let (status, mut orders) = self.sim_get(&format!("/sim/orders?order_key={key}")).await;
        assert_eq!((status, orders.as_array().map(Vec::len)), (200, Some(1)));
        orders[0].take()
    }

    pub(crate) async fn ledger(&self, query: &str) -> Vec<Value> {
        let response = self
            .client
            .get(format!("{}/sim/ledger{query}", self.base))
            .send()
            .await
            .expect("rows");
        assert_eq!(response.headers()["content-type"], "application/x-ndjson");
        let text = response.text().await.expect("all rows");
        text.lines()
            .map(|line| serde_json::from_str(line).expect("a row per line"))
            .collect()
    }

    /// Rows of an order with this kind and op.
    pub(crate) async fn rows(&self, key: &str, kind: &str, op: &str) -> Vec<Value> {
        let mut rows = self.ledger(&format!("?order_key={key}")).await;
        rows.retain(|row| row["kind"] == kind && row["op"] == op);
        rows
    }

    /// Waits until no notification of the order is on its way any more.
    pub(crate) async fn quiet(&self, key: &str) {
        until("all notifications delivered or given up", async || {
            self.order(key).await["notifications_pending"] == 0
        })
        .await;
    }
}

/// Receives notifications and answers from a list of codes, then 200.
pub(crate) struct Merchant {
    address: SocketAddr,
    heard: Arc<Heard>,
}

#[derive(Default)]
struct Heard {
    queries: Mutex<Vec<String>>,
    codes: Mutex<VecDeque<StatusCode>>,
}

impl Merchant {
    async fn start(shutdown: CancellationToken) -> Self {
        let heard = Arc::new(Heard::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let router = Router::new().route("/hook", get(hear)).with_state(heard.clone());
        tokio::spawn(http::serve(listener, router, Limits::default(), shutdown));
        Self { address, heard }
    }

    fn url(&self) -> String {
        format!("http://{}/hook?id=", self.address)
    }

    pub(crate) fn answer_first_with(&self, codes: &[u16]) {
        let codes = codes
            .iter()
            .map(|code| StatusCode::from_u16(*code).expect("a code"));
        self.heard.codes.lock().expect("not poisoned").extend(codes);
    }

    /// The query of each notification, as it came over the wire.
    pub(crate) fn queries(&self) -> Vec<String> {
        self.heard.queries.lock().expect("not poisoned").clone()
    }
}

async fn hear(State(heard): State<Arc<Heard>>, RawQuery(query): RawQuery) -> Response {
    heard
        .queries
        .lock()
        .expect("not poisoned")
        .push(query.unwrap_or_default());
    let code = heard
        .codes
        .lock()
        .expect("not poisoned")
        .pop_front()
        .unwrap_or(StatusCode::OK);
    if code.is_redirection() {
        return (code, [(header::LOCATION, "/hook?id=followed")]).into_response();
    }
    code.into_response()
}

pub(crate) fn client(timeout: Duration) -> Client {
    // Refused when another test was first, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .no_proxy()
        .redirect(redirect::Policy::none())
        .timeout(timeout)
        .build()
        .expect("a client")
}

pub(crate) fn order(reference: &str) -> Value {
    json!({
        "order_reference": reference,
        "description": "Dog food",
        "amount": 4995,
        "currency": "EUR",
        "email": "shopper@example.com",
        "language": "nl",
        "country": "NL",
        "return_urls": {
            "success": "https://shop.example/done?key=",
            "pending": "https://shop.example/pending",
            "canceled": "https://shop.example/canceled?a=b",
            "error": "https://shop.example/error",
        },
    })
}

pub(crate) async fn answer(response: reqwest::Response) -> (u16, Value) {
    let status = response.status().as_u16();
    (status, response.json().await.expect("a json body"))
}

pub(crate) fn redirect_of(response: reqwest::Response) -> (u16, Option<String>) {
    let location = response
        .headers()
        .get("location")
        .map(|url| url.to_str().expect("ascii").to_owned());
    (response.status().as_u16(), location)
}

pub(crate) async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let started = Instant::now();
    while !condition().await {
        assert!(
            started.elapsed() < DEADLINE,
            "still not so after {DEADLINE:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
