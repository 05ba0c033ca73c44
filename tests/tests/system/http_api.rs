//! Over HTTP as over NATS: orders are made, waited for, watched; keys open what they should and nothing else; what is bad
//! is refused with a problem document; and none of it needs the bus.

use std::time::Duration;

use kassa::Role;
use kassa_checkout::keys::{NewKey, Scope};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::Instant,
};
use uuid::Uuid;

use crate::{
    crashes::stream,
    stage::{DEADLINE, Plan, Stage, order_body},
    world::{SHOP, own_nats},
};

/// A shop's service with a key of its own.
pub(crate) struct Api<'s> {
    stage: &'s Stage,
    http: reqwest::Client,
    key: String,
}

/// An answer with what matters in it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: reqwest::header::HeaderMap,
    pub(crate) body: Value,
}

impl<'s> Api<'s> {
    pub(crate) async fn new(stage: &'s Stage) -> Self {
        Self::of(stage, SHOP, &Scope::ALL).await
    }

    pub(crate) async fn of(stage: &'s Stage, shop: &str, scopes: &[Scope]) -> Self {
        Self {
            stage,
            http: reqwest::Client::builder().no_proxy().build().expect("a client"),
            key: stage.api_key(shop, scopes).await,
        }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}{path}", self.stage.api_url);
        self.http.request(method, url).bearer_auth(&self.key)
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_with_key(path, &Uuid::new_v4().to_string(), body).await
    }

    pub(crate) async fn post_with_key(&self, path: &str, key: &str, body: &Value) -> Answer {
        let request = self.request(Method::POST, path).header("Idempotency-Key", key);
        Answer::of(request.json(body)).await
    }

    pub(crate) async fn create(&self, reference: &str, scenario: &str) -> String {
        let answer = self.post("/v1/orders", &order_body(reference, scenario)).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.text("order_id")
    }

    async fn pay(&self, reference: &str, order_id: &str) {
        let path = format!("/v1/orders/{order_id}/payments");
        let started = self.post(&path, &json!({ "method": "ideal" })).await;
        assert_eq!(started.status, 201, "{started:?}");
        assert_eq!(started.body["next_action"]["type"], "redirect", "{started:?}");
        self.stage.press(reference, "ideal/success").await;
    }
}

impl Answer {
    pub(crate) async fn of(request: RequestBuilder) -> Self {
        let response = request.send().await.expect("it answers");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.expect("a body");
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        let answer = Self {
            status,
            headers,
            body,
        };
        if !StatusCode::from_u16(status).is_ok_and(|status| status.is_success()) {
            answer.is_a_problem();
        }
        answer
    }

    /// Whatever is refused is refused in one form.
    fn is_a_problem(&self) {
        assert_eq!(
            self.header("content-type"),
            "application/problem+json",
            "{self:?}"
        );
        assert_eq!(self.body["status"], self.status, "{self:?}");
        let code = self.text("code");
        let known = kassa_events_schema::api::problems::problem_type(&code);
        let known = known.unwrap_or_else(|| panic!("{code} is not in the registry: {self:?}"));
        assert_eq!(known.status, self.status, "{self:?}");
        assert_eq!(known.title, self.text("title"), "{self:?}");
        assert_eq!(self.text("type"), format!("/problems/{code}"));
        assert_eq!(self.text("trace_id"), self.header("trace-id"));
        assert!(!self.text("hint").is_empty() && !self.text("instance").is_empty());
        if let Some(seconds) = self.body["retry_after_s"].as_u64() {
            assert_eq!(self.header("retry-after"), seconds.to_string());
        }
    }

    pub(crate) fn header(&self, name: &str) -> String {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned()
    }

    /// All headers but some, as text.
    pub(crate) fn headers_without(&self, names: &[&str]) -> Vec<String> {
        self.headers
            .iter()
            .filter(|(name, _)| !names.contains(&name.as_str()))
            .map(|(name, value)| format!("{name}: {value:?}"))
            .collect()
    }

    pub(crate) fn text(&self, field: &str) -> String {
        self.body[field].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn refused(&self, status: u16, code: &str) {
        assert_eq!(
            (self.status, self.text("code").as_str()),
            (status, code),
            "{self:?}"
        );
    }
}

fn reference() -> String {
    format!("H-{}", Uuid::new_v4().simple())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_is_made_paid_and_read_over_http() {
    let stage = Stage::new().await;
    let api = Api::new(&stage).await;
    let reference = reference();
    let order_id = api.create(&reference, "ideal/success").await;
    api.pay(&reference, &order_id).await;
    // Woken by the event, not by the clock.
    let waiting = api
        .request(Method::GET, &format!("/v1/orders/{order_id}"))
        .header("Prefer", "wait=30; for=safe");
    let safe = Answer::of(waiting).await;
    assert_eq!(safe.body["safe"]["value"], "yes", "{safe:?}");
    assert_eq!(safe.header("preference-applied"), "wait=30; for=safe");
    assert_eq!(safe.header("kassa-position"), safe.text("position"));
    assert_eq!(safe.header("trace-id").len(), 32);
    // The same document, whichever way it is asked for.
    let by_reference = api.get(&format!("/v1/orders?order_reference={reference}")).await;
    let by_nats = stage.get_order(&order_id).await;
    assert_eq!((&by_reference.body, &by_nats), (&safe.body, &safe.body));
    let story = api.get(&format!("/v1/orders/{order_id}/events")).await;
    assert_eq!(story.header("content-type"), "application/cloudevents-batch+json");
    let plain = api
        .request(Method::GET, &format!("/v1/orders/{order_id}/events"))
        .header("Accept", "application/json");
    let plain = Answer::of(plain).await;
    assert_eq!(plain.header("content-type"), "application/json");
    assert_eq!(plain.body, story.body);
    let subject = format!("kassa.qry.{SHOP}.get_order_events");
    let asked = json!({ "order_id": order_id }).to_string();
    let by_nats = stage
        .checkout
        .request(subject, asked.into())
        .await
        .expect("it answers");
    let kind = by_nats
        .headers
        .as_ref()
        .and_then(|headers| headers.get("Content-Type"));
    assert_eq!(
        kind.map(|kind| kind.as_str()),
        Some("application/cloudevents-batch+json")
    );
    let types: Vec<_> = story
        .body
        .as_array()
        .expect("a list")
        .iter()
        .map(|event| event["type"].clone())
        .collect();
    assert_eq!(types.first(), Some(&json!("kassa.order.created.v1")));
    assert!(types.contains(&json!("kassa.payment.authorized.v1")), "{types:?}");
    assert!(types.contains(&json!("kassa.order.payment_safe.v1")), "{types:?}");
    let internal = story.body.to_string().contains("internal");
    assert!(!internal && !story.body.to_string().contains("canary.person"));
    stage
        .until("one shipment", async |stage| {
            stage.shipments(&order_id).await == 1
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_ends_with_what_there_is_and_a_position_is_waited_for() {
    let stage = Stage::new().await;
    let api = Api::new(&stage).await;
    let made = api
        .post("/v1/orders", &order_body(&reference(), "ideal/success"))
        .await;
    let (order_id, position) = (made.text("order_id"), made.text("position"));
    assert_eq!(made.header("kassa-position"), position);
    let path = format!("/v1/orders/{order_id}");
    let began = Instant::now();
    let waited = Answer::of(
        api.request(Method::GET, &path)
            .header("Prefer", "wait=1; for=change"),
    )
    .await;
    assert_eq!((waited.status, waited.text("status").as_str()), (200, "open"));
    assert!(began.elapsed() >= Duration::from_secs(1), "nothing changed");
    let read = api.get(&format!("{path}?min_position={position}")).await;
    assert_eq!(read.status, 200, "{read:?}");
    for wrong in ["0-999999999", "x", "0", "7-1", "0--1", "0-99999999999999999999"] {
        let answer = api.get(&format!("{path}?min_position={wrong}")).await;
        answer.refused(400, "validation");
        assert_eq!(answer.body["errors"][0]["pointer"], "/min_position", "{answer:?}");
    }
    Answer::of(api.request(Method::GET, &path).header("Prefer", "wait=soon"))
        .await
        .refused(400, "validation");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_10_a_repeat_is_answered_as_the_first_was_also_after_the_service_was_killed() {
    let mut stage = Stage::planned(Plan::with_process("checkout", Role::Checkout)).await;
    let (body, other) = (
        order_body("K-1", "ideal/success"),
        order_body("K-2", "ideal/success"),
    );
    let first = {
        let api = Api::new(&stage).await;
        stage
            .until("the API answers", async |stage| stage.api_answers().await)
            .await;
        let first = api.post_with_key("/v1/orders", "the-key", &body).await;
        assert_eq!(
            (first.status, first.header("idempotent-replayed").as_str()),
            (201, "")
        );
        first
    };
    stage.kill("checkout");
    stage.spawn("checkout");
    stage
        .until("the API answers again", async |stage| stage.api_answers().await)
        .await;
    let api = Api::new(&stage).await;
    let again = api.post_with_key("/v1/orders", "the-key", &body).await;
    assert_eq!(
        (again.status, again.header("idempotent-replayed").as_str()),
        (201, "true")
    );
    assert_eq!(again.body["order_id"], first.body["order_id"]);
    let reused = api.post_with_key("/v1/orders", "the-key", &other).await;
    reused.refused(422, "idempotency_key_reused");
    let missing = Answer::of(api.request(Method::POST, "/v1/orders").json(&body)).await;
    missing.refused(400, "idempotency_key_missing");
    // The key is the shop's, however the command comes.
    let by_nats = stage.command_with_key("create_order", "the-key", &body).await;
    assert_eq!(by_nats["order_id"], first.body["order_id"]);
    assert_eq!(
        stage
            .sql_count("SELECT count(*) FROM events WHERE event_type = 'OrderCreated'")
            .await,
        1
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_10_while_a_command_is_under_way_its_key_is_taken() {
    let stage = Stage::new().await;
    let api = Api::new(&stage).await;
    let body = order_body(&reference(), "ideal/success");
    let answers =
        futures::future::join_all((0..50).map(|_| api.post_with_key("/v1/orders", "one", &body))).await;
    for answer in &answers {
        if answer.status != 201 {
            answer.refused(409, "idempotency_in_flight");
        }
    }
    assert!(answers.iter().any(|answer| answer.status == 201));
    assert_eq!(stage.sql_count("SELECT count(*) FROM events").await, 1);
    assert_eq!(api.post_with_key("/v1/orders", "one", &body).await.status, 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_opens_what_its_scopes_say_until_it_expires_or_is_revoked() {
    let stage = Stage::new().await;
    let api = Api::new(&stage).await;
    let order_id = api.create(&reference(), "ideal/success").await;
    let order = format!("/v1/orders/{order_id}");
    // Every scope against every route.
    let routes = [
        (Method::POST, "/v1/orders".to_owned(), Scope::OrdersWrite),
        (Method::POST, format!("{order}/payments"), Scope::OrdersWrite),
        (Method::POST, format!("{order}/cancel"), Scope::OrdersWrite),
        (Method::GET, order.clone(), Scope::OrdersRead),
        (Method::GET, "/v1/orders".to_owned(), Scope::OrdersRead),
        (Method::GET, format!("{order}/why"), Scope::OrdersRead),
        (Method::GET, "/v1/methods".to_owned(), Scope::OrdersRead),
        (Method::GET, format!("{order}/events"), Scope::EventsRead),
        (Method::GET, "/v1/events".to_owned(), Scope::EventsRead),
        (Method::GET, "/v1/events/stream".to_owned(), Scope::EventsRead),
    ];
    for scope in Scope::ALL {
        let narrow = Api::of(&stage, SHOP, &[scope]).await;
        for (method, path, needed) in &routes {
            if scope == *needed {
                continue;
            }
            let answer = Answer::of(narrow.request(method.clone(), path)).await;
            answer.refused(403, "forbidden");
            assert!(answer.text("detail").contains(needed.as_str()), "{answer:?}");
        }
    }
    for (method, path, _) in &routes {
        let nobody = api
            .http
            .request(method.clone(), format!("{}{path}", stage.api_url));
        let answer = Answer::of(nobody).await;
        answer.refused(401, "unauthenticated");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
    }
    let mut forged = api.key.clone();
    forged.pop();
    forged.push(if api.key.ends_with('0') { '1' } else { '0' });
    for wrong in [
        forged,
        api.key.replace("_sim_", "_live_"),
        "kassa_sim_000000000000_x".to_owned(),
        String::new(),
        "x".repeat(10_000),
    ] {
        let request = api
            .http
            .get(format!("{}{order}", stage.api_url))
            .bearer_auth(wrong);
        Answer::of(request).await.refused(401, "unauthenticated");
    }
    // Two keys are valid side by side; one is revoked, and the other goes on.
    let old = Api::new(&stage).await;
    assert_eq!(old.get(&order).await.status, 200);
    let mut open = Frames::open(old.request(Method::GET, "/v1/events/stream")).await;
    open.joined().await;
    let id = old.key.split('_').nth(2).expect("it has an id").to_owned();
    stage.revoke(&id).await;
    stage
        .until("the revoked key is refused", async |_| {
            old.get(&order).await.status == 401
        })
        .await;
    assert_eq!(api.get(&order).await.status, 200);
    assert!(
        open.next().await.is_none(),
        "a stream that was open with it ends, and does not wait for an event to do so"
    );
    let ended = stage.store.clock().now() - jiff::SignedDuration::from_secs(1);
    let expired = Api {
        stage: &stage,
        http: api.http.clone(),
        key: stage.api_key_until(SHOP, &Scope::ALL, Some(ended)).await,
    };
    expired.get(&order).await.refused(401, "unauthenticated");
    // A whole key, made while the shop was in another mode.
    let other_mode = NewKey {
        shop: SHOP.to_owned(),
        mode: "live",
        name: "test".to_owned(),
        scopes: Scope::ALL.to_vec(),
        expires_at: None,
    };
    let other_mode = Api {
        stage: &stage,
        http: api.http.clone(),
        key: stage.api_key_made(other_mode).await,
    };
    other_mode.get(&order).await.refused(401, "unauthenticated");
    // What is stored opens nothing.
    let secret = api.key.split('_').nth(3).expect("it has a secret");
    let stored = format!("SELECT count(*) FROM api_keys AS k WHERE k::text LIKE '%{secret}%'");
    assert_eq!(stage.sql_count(&stored).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_16_what_is_another_shops_is_not_there() {
    let stage = Stage::new().await;
    let (mine, theirs) = (
        Api::new(&stage).await,
        Api::of(&stage, "other-shop", &Scope::ALL).await,
    );
    let order_id = mine.create(&reference(), "ideal/success").await;
    let mut told = Vec::new();
    for id in [
        order_id.as_str(),
        "ord_p6rg29pzj1vn6a4282w39drs9b20",
        "ord_",
        "x",
        "%00",
    ] {
        for path in [
            format!("/v1/orders/{id}"),
            format!("/v1/orders/{id}/events"),
            format!("/v1/events?order={id}"),
            format!("/v1/events/stream?order={id}"),
        ] {
            let answer = theirs.get(&path).await;
            answer.refused(404, "not_found");
            told.push(answer.text("detail"));
        }
        let path = format!("/v1/orders/{id}/payments");
        theirs
            .post(&path, &json!({ "method": "ideal" }))
            .await
            .refused(404, "not_found");
    }
    told.dedup();
    assert_eq!(told.len(), 1, "the answers differ: {told:?}");
    theirs
        .get(&format!("/v1/events?shop={SHOP}"))
        .await
        .refused(404, "not_found");
    assert_eq!(theirs.get("/v1/orders").await.body["orders"], json!([]));
    assert_eq!(theirs.get("/v1/events").await.body, json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_17_pages_follow_one_another_and_their_cursors_fit_nowhere_else() {
    let stage = Stage::new().await;
    let api = Api::new(&stage).await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(api.create(&reference(), "ideal/success").await);
    }
    made.reverse();
    let mut found = Vec::new();
    let mut path = "/v1/orders?limit=2&status=open".to_owned();
    let mut cursor = String::new();
    for left in [2, 2, 1] {
        let page = api.get(&path).await;
        let orders = page.body["orders"].as_array().expect("a list").clone();
        assert_eq!(orders.len(), left, "{page:?}");
        found.extend(
            orders
                .iter()
                .map(|order| order["order_id"].as_str().expect("an id").to_owned()),
        );
        let link = page.header("link");
        assert_eq!(link.is_empty(), left == 1, "{page:?}");
        if let Some(next) = link.strip_prefix('<').and_then(|link| link.split('>').next()) {
            next.clone_into(&mut path);
            cursor = page.text("next");
            assert!(path.contains(&format!("after={cursor}")), "{path}");
        }
    }
    assert_eq!(found, made, "newest first, each once");
    let long = "A".repeat(64);
    for wrong in [
        format!("after={cursor}"),
        format!("status=paid&after={cursor}"),
        format!("status=open&after={long}"),
        "after=".to_owned(),
        "limit=0".to_owned(),
        "limit=-1".to_owned(),
        "limit=1000000000".to_owned(),
        "limit=1e2".to_owned(),
        "limit=2&limit=3".to_owned(),
        "status=payed".to_owned(),
        "pirce=1".to_owned(),
    ] {
        api.get(&format!("/v1/orders?{wrong}"))
            .await
            .refused(400, "validation");
    }
    for wrong in [
        "after=x",
        "after=1-5",
        "limit=0",
        "type=order.payment_save",
        "from=yesterday",
        "x=1",
    ] {
        api.get(&format!("/v1/events?{wrong}"))
            .await
            .refused(400, "validation");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_come_as_pages_or_as_lines_from_where_they_are_asked() {
    let stage = Stage::new().await;
    let api = Api::new(&stage).await;
    let reference = reference();
    let order_id = api.create(&reference, "ideal/success").await;
    api.pay(&reference, &order_id).await;
    stage.until_order(&order_id, "paid", "authorized", "yes").await;
    let all = api.get("/v1/events").await;
    let all: Vec<Value> = all.body.as_array().expect("a list").clone();
    let mut paged = Vec::new();
    let mut path = "/v1/events?limit=2".to_owned();
    loop {
        let page = api.get(&path).await;
        let some = page.body.as_array().expect("a list").clone();
        if some.is_empty() {
            break;
        }
        assert!(some.len() <= 2);
        paged.extend(some);
        let link = page.header("link");
        link.trim_start_matches('<')
            .split('>')
            .next()
            .expect("a link")
            .clone_into(&mut path);
    }
    assert_eq!(paged, all);
    let lines = api
        .request(Method::GET, "/v1/events")
        .header("Accept", "application/x-ndjson");
    let text = lines
        .send()
        .await
        .expect("it answers")
        .text()
        .await
        .expect("a body");
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("NDJSON"))
        .collect();
    assert_eq!(lines, all);
    let safe = api
        .get(&format!("/v1/events?type=order.payment_safe&order={order_id}"))
        .await;
    assert_eq!(safe.body.as_array().map(Vec::len), Some(1), "{safe:?}");
    let payments = api.get("/v1/events?type=payment.*&method=ideal").await;
    let about = payments.body.as_array().expect("a list").clone();
    assert!(
        !about.is_empty()
            && about.iter().all(|event| event["subject"]
                .as_str()
                .is_some_and(|s| s.starts_with("payment/")))
    );
}

/// What a stream has sent so far, frame by frame.
pub(crate) struct Frames {
    response: reqwest::Response,
    text: String,
}

impl Frames {
    pub(crate) async fn open(request: RequestBuilder) -> Self {
        let response = request.send().await.expect("it answers");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self {
            response,
            text: String::new(),
        }
    }

    /// Waits for the stream's first frame, by which it is there.
    pub(crate) async fn joined(&mut self) {
        while self.text.is_empty() {
            let chunk = self
                .response
                .chunk()
                .await
                .expect("the stream is whole")
                .expect("a frame");
            self.text.push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
        }
    }

    /// The next frame that is an event: id, event, data. `None` at the end.
    async fn next(&mut self) -> Option<(String, String, Value)> {
        loop {
            while let Some((frame, rest)) = self.text.split_once("\n\n") {
                let (frame, rest) = (frame.to_owned(), rest.to_owned());
                self.text = rest;
                let field = |name: &str| {
                    frame
                        .lines()
                        .find_map(|line| line.strip_prefix(name))
                        .unwrap_or_default()
                        .to_owned()
                };
                if !field("event: ").is_empty() {
                    let data = serde_json::from_str(&field("data: ")).expect("data is JSON");
                    return Some((field("id: "), field("event: "), data));
                }
            }
            let chunk = tokio::time::timeout(DEADLINE, self.response.chunk())
                .await
                .expect("within the deadline");
            self.text
                .push_str(std::str::from_utf8(&chunk.expect("the stream is whole")?).expect("UTF-8"));
        }
    }

    pub(crate) async fn until(&mut self, event: &str) -> Vec<(String, String, Value)> {
        let mut frames = Vec::new();
        while let Some(frame) = self.next().await {
            let last = frame.1 == event;
            frames.push(frame);
            if last {
                break;
            }
        }
        frames
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_stream_that_is_taken_up_again_has_no_gap_and_no_repeat() {
    let stage = Stage::new().await;
    let api = Api::new(&stage).await;
    let mut live = Frames::open(api.request(Method::GET, "/v1/events/stream?after=0-0")).await;
    let reference = reference();
    let order_id = api.create(&reference, "ideal/success").await;
    let mut seen = live.until("order.created").await;
    drop(live);
    // While nobody listens.
    api.pay(&reference, &order_id).await;
    stage.until_order(&order_id, "paid", "authorized", "yes").await;
    let last = seen.last().expect("one event").0.clone();
    let again = api
        .request(Method::GET, "/v1/events/stream?after=0-0")
        .header("Last-Event-ID", last);
    seen.extend(Frames::open(again).await.until("order.payment_safe").await);
    let told: Vec<Value> = seen.iter().map(|(_, _, data)| data.clone()).collect();
    let stored = api.get("/v1/events").await;
    assert_eq!(Value::from(told), stored.body);
    for (id, event, data) in &seen {
        let sequence: i64 = data["sequence"]
            .as_str()
            .and_then(|text| text.parse().ok())
            .expect("a sequence");
        assert_eq!(id, &format!("0-{sequence}"));
        assert_eq!(data["type"], format!("kassa.{event}.v1"));
    }
    // Nobody has seen what has not happened: he would hear nothing until the log is as long as he says.
    for path in ["/v1/events?after=0-99999", "/v1/events/stream?after=0-99999"] {
        let answer = api.get(path).await;
        answer.refused(400, "validation");
        assert_eq!(answer.body["errors"][0]["pointer"], "after", "{answer:?}");
    }
    let beyond = api.request(Method::GET, "/v1/events/stream");
    let beyond = Answer::of(beyond.header("Last-Event-ID", "0-99999")).await;
    assert_eq!(beyond.body["errors"][0]["pointer"], "Last-Event-ID", "{beyond:?}");
    // One order's story is told from its beginning and ends; for who has heard it, too.
    let path = format!("/v1/events/stream?order={order_id}&type=order.*");
    let mut story = Frames::open(api.request(Method::GET, &path)).await;
    let events: Vec<String> = story
        .until("end")
        .await
        .into_iter()
        .map(|frame| frame.1)
        .collect();
    assert_eq!(events.first().map(String::as_str), Some("order.created"));
    assert_eq!(events.last().map(String::as_str), Some("end"));
    assert!(
        events
            .iter()
            .all(|event| event == "end" || event.starts_with("order."))
    );
    assert!(story.next().await.is_none(), "nothing comes after the end");
    let heard = api
        .request(Method::GET, &path)
        .header("Last-Event-ID", seen.last().expect("some").0.clone());
    assert_eq!(Frames::open(heard).await.until("end").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_bus_orders_are_made_and_afterwards_everything_arrives_in_order_and_once() {
    const ORDERS: usize = 20;
    let (mut nats, logins) = own_nats("http-nats");
    let plan = Plan {
        processes: vec![],
        nats: Some((nats.url(), logins.clone())),
        database: None,
    };
    let stage = Stage::planned(plan).await;
    let api = Api::new(&stage).await;
    let mut nats = tokio::task::spawn_blocking(move || {
        nats.kill().expect("it is ours to kill");
        nats
    })
    .await
    .expect("it does not panic");
    let mut live = Frames::open(api.request(Method::GET, "/v1/events/stream")).await;
    // Joined before the first order: the frame that says so.
    live.joined().await;
    let mut made = Vec::new();
    for _ in 0..ORDERS {
        made.push(api.create(&reference(), "ideal/success").await);
    }
    for order_id in &made {
        assert_eq!(api.get(&format!("/v1/orders/{order_id}")).await.status, 200);
        // Live updates do not need the bus either.
        let told = live.until("order.created").await;
        assert_eq!(
            told.last().expect("an event").2["subject"],
            format!("order/{order_id}")
        );
    }
    let nats = tokio::task::spawn_blocking(move || {
        nats.restart().expect("it starts again");
        nats
    })
    .await
    .expect("it does not panic");
    let head = stage.store.head(0).await.expect("a head");
    let messages = stream(&nats.url(), &logins, head).await;
    let sequences: Vec<i64> = messages
        .iter()
        .filter_map(|(at, ..)| i64::try_from(*at).ok())
        .collect();
    assert_eq!(
        sequences,
        (1..=head).collect::<Vec<_>>(),
        "each once, under its number"
    );
    let arrived: Vec<String> = messages
        .iter()
        .map(|(.., body)| serde_json::from_slice::<Value>(body).expect("an envelope"))
        .filter(|event| event["type"] == "kassa.order.created.v1")
        .map(|event| event["correlationid"].as_str().expect("an order").to_owned())
        .collect();
    assert_eq!(arrived, made, "in order");
}

/// Sends bytes as they are; everything that comes back until the connection is closed.
async fn raw(stage: &Stage, request: &[u8]) -> String {
    let address = stage.api_url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    // A server that has heard enough closes before it has read all.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await;
    let _ = read.expect("the connection is closed");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_11_what_can_be_read_in_two_ways_is_refused_and_the_connection_is_closed() {
    let stage = Stage::new().await;
    let many: String = (0..200).map(|n| format!("X-{n}: 1\r\n")).collect();
    let large = "x".repeat(70_000);
    let address = "GET http://kassa/v1/orders HTTP/1.1\r\nHost: kassa\r\n\r\n";
    for (request, status) in [
        ("GET /v1/orders HTTP/1.1\r\n\r\n", 400),
        ("GET /v1/orders HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (address, 400),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (
            "POST /v1/orders HTTP/1.1\r\nHost: a\r\nX-HTTP-Method-Override: DELETE\r\nContent-Length: 0\r\n\r\n",
            400,
        ),
        (&format!("GET /v1/orders HTTP/1.1\r\nHost: a\r\n{many}\r\n"), 431),
        (
            &format!("GET /v1/orders HTTP/1.1\r\nHost: a\r\nX: {large}\r\n\r\n"),
            431,
        ),
        (
            "POST /v1/orders HTTP/1.1\r\nHost: a\r\nContent-Length: 1048577\r\n\r\n",
            413,
        ),
        // B-02: not a byte of it is waited for.
        (
            "POST /v1/orders HTTP/1.1\r\nHost: a\r\nContent-Length: 104857600\r\n\r\n",
            413,
        ),
        // A length beside chunks is dropped by the parser, so chunks are not taken at all: our clients know their length.
        (
            "POST /v1/orders HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
    ] {
        let answer = raw(&stage, request.as_bytes()).await;
        let shown = &request[..request.len().min(120)];
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{shown}: {answer}"
        );
        assert!(answer.contains("application/problem+json"), "{shown}: {answer}");
        assert!(
            answer.to_ascii_lowercase().contains("trace-id: "),
            "{shown}: {answer}"
        );
    }
    let both = "POST /v1/orders HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n\
                GET /v1/orders HTTP/1.1\r\nHost: a\r\n\r\n";
    let answer = raw(&stage, both.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(
        answer.matches("HTTP/1.1 4").count(),
        1,
        "the second request was not read: {answer}"
    );
    // Without a length there is no body, and a command needs one.
    let key = stage.api_key(SHOP, &Scope::ALL).await;
    let none = format!(
        "POST /v1/orders HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\nIdempotency-Key: k\r\n\
         Content-Type: application/json\r\nConnection: close\r\n\r\n"
    );
    let answer = raw(&stage, none.as_bytes()).await;
    assert!(
        answer.starts_with("HTTP/1.1 400 ") && answer.contains("\"malformed\""),
        "{answer}"
    );
    // What the parser itself refuses, it answers without a document.
    let two = "POST /v1/orders HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}";
    let answer = raw(&stage, two.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let old = raw(&stage, b"GET /v1/orders\r\n\r\n").await;
    assert!(
        old.is_empty() || old.starts_with("HTTP/1.1 400 "),
        "HTTP/0.9: {old}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_02_b_11_every_way_to_be_wrong_has_one_form() {
    let stage = Stage::new().await;
    let api = Api::new(&stage).await;
    api.get("/v1/nothing").await.refused(404, "not_found");
    // Whatever an address does not take, it says what it takes.
    for (path, allowed) in [
        ("/v1/orders", "GET,HEAD,POST"),
        ("/v1/orders/ord_1", "GET,HEAD"),
        ("/v1/orders/ord_1/payments", "POST"),
        ("/v1/orders/ord_1/cancel", "POST"),
        ("/v1/orders/ord_1/events", "GET,HEAD"),
        ("/v1/orders/ord_1/why", "GET,HEAD"),
        ("/v1/methods", "GET,HEAD"),
        ("/v1/events", "GET,HEAD"),
        ("/v1/events/stream", "GET,HEAD"),
        ("/openapi.json", "GET,HEAD"),
        ("/docs/api", "GET,HEAD"),
        ("/problems/validation", "GET,HEAD"),
        ("/schemas/order/created.v1.json", "GET,HEAD"),
    ] {
        for method in [Method::TRACE, Method::DELETE, Method::PATCH] {
            let shown = format!("{method} {path}");
            let wrong_method = Answer::of(api.request(method, path)).await;
            wrong_method.refused(405, "method_not_allowed");
            let header = wrong_method.header("allow");
            let mut told: Vec<_> = header.split(',').map(str::trim).collect();
            told.sort_unstable();
            assert_eq!(told.join(","), allowed, "{shown}: {wrong_method:?}");
        }
    }
    let post = |kind: &str, body: &str| {
        api.request(Method::POST, "/v1/orders")
            .header("Idempotency-Key", "k")
            .header("Content-Type", kind.to_owned())
            .body(body.to_owned())
    };
    Answer::of(post("text/plain", "{}"))
        .await
        .refused(415, "unsupported_media_type");
    Answer::of(post("application/json", "{}").header("Content-Encoding", "gzip"))
        .await
        .refused(415, "unsupported_encoding");
    Answer::of(post("application/json", &" ".repeat(1_048_577)))
        .await
        .refused(413, "payload_too_large");
    Answer::of(post("application/json", "{}").header("Accept", "text/html"))
        .await
        .refused(406, "not_acceptable");
    // The id of the path stands for that of the body, and is not overruled by it.
    let twice = json!({ "order_id": "ord_x", "method": "ideal" });
    let answer = api.post("/v1/orders/ord_y/payments", &twice).await;
    answer.refused(400, "validation");
    assert_eq!(answer.body["errors"][0]["code"], "duplicate", "{answer:?}");
    let pages = [
        "/problems/rate_limited",
        "/docs/api",
        "/openapi.json",
        "/schemas/order/payment_safe.v1.json",
    ];
    for path in pages {
        assert_eq!(
            stage.http_get(&format!("{}{path}", stage.api_url)).await.status(),
            200,
            "{path}"
        );
    }
    api.get("/problems/none").await.refused(404, "not_found");
    // A question has no key to be sent again with, and a misspelt name is answered with all that are known.
    let misspelt = api.get("/v1/orders?reference=A-1").await;
    misspelt.refused(400, "validation");
    assert!(
        misspelt.text("detail").contains("order_reference"),
        "{misspelt:?}"
    );
    for wrong in [misspelt, api.get("/v1/orders?status=lost").await] {
        wrong.refused(400, "validation");
        assert!(!wrong.text("hint").contains("Idempotency-Key"), "{wrong:?}");
    }
    api.get("/schemas/../Cargo.toml").await.refused(404, "not_found");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b_15_a_shop_that_runs_wild_is_told_to_wait_and_another_notices_nothing() {
    let stage = Stage::tuned(Plan::ordinary(), |config| config.rate.commands_per_second = 5).await;
    let (wild, calm) = (
        Api::new(&stage).await,
        Api::of(&stage, "other-shop", &Scope::ALL).await,
    );
    let body = order_body(&reference(), "ideal/success");
    let storm = futures::future::join_all((0..60).map(|_| wild.post("/v1/orders", &body)));
    let (answers, other) = tokio::join!(storm, calm.post("/v1/orders", &body));
    assert_eq!(other.status, 201, "{other:?}");
    let limited: Vec<_> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert!(limited.len() >= 20, "{} of 60 were told to wait", limited.len());
    for answer in limited {
        answer.refused(429, "rate_limited");
        assert!(
            answer
                .header("retry-after")
                .parse::<u32>()
                .is_ok_and(|seconds| seconds > 0)
        );
    }
    let by_nats = futures::future::join_all((0..60).map(|_| stage.command("create_order", &body))).await;
    let limited = by_nats
        .iter()
        .filter(|answer| answer["code"] == "rate_limited")
        .count();
    assert!(limited >= 20, "{limited} of 60 were told to wait");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_the_log_in_crowds_is_told_to_wait_and_commands_are_not_kept_waiting() {
    let stage = Stage::tuned(Plan::ordinary(), |config| config.rate.queries_per_second = 10_000).await;
    let api = Api::new(&stage).await;
    let order_id = api.create(&reference(), "ideal/success").await;
    let read = || {
        let request = api.request(Method::GET, "/v1/events");
        Answer::of(request.header("Accept", "application/x-ndjson"))
    };
    let crowd = futures::future::join_all((0..150).map(|_| read()));
    let another = reference();
    let (answers, made) = tokio::join!(crowd, api.create(&another, "ideal/success"));
    assert_ne!(made, order_id);
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert!(!refused.is_empty(), "150 readers at once, with one key");
    for answer in &refused {
        answer.refused(429, "rate_limited");
        let detail = answer.text("detail");
        assert!(detail.starts_with("readers of past events"), "{answer:?}");
    }
    let whole = answers.iter().filter(|answer| answer.status == 200);
    assert!(whole.clone().count() >= 4, "some have their turn");
    for answer in whole {
        assert!(answer.body.to_string().contains(&order_id), "{answer:?}");
    }
    // Places are left when the answer has been read.
    stage
        .until("there is a place again", async |_| read().await.status == 200)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_read_while_orders_are_made_hold_each_event_once() {
    const ORDERS: usize = 60;
    let stage = Stage::tuned(Plan::ordinary(), |config| {
        config.rate.queries_per_second = 10_000;
        config.rate.commands_per_second = 10_000;
    })
    .await;
    let api = Api::new(&stage).await;
    let making = async {
        for _ in 0..ORDERS {
            api.create(&reference(), "ideal/success").await;
        }
    };
    let reading = async {
        let (mut told, mut after) = (Vec::new(), "0-0".to_owned());
        while told.len() < ORDERS {
            let page = api
                .get(&format!("/v1/events?type=order.created&after={after}"))
                .await;
            after = page.header("kassa-position");
            let reached = after.strip_prefix("0-").and_then(|number| number.parse().ok());
            let reached: i64 = reached.expect("a position");
            for event in page.body.as_array().expect("a list") {
                let text = event["sequence"].as_str().expect("a sequence");
                let sequence: i64 = text.parse().expect("a number");
                assert!(
                    sequence <= reached,
                    "{sequence} is on a page that ends at {reached}"
                );
                told.push(sequence);
            }
        }
        told
    };
    let ((), told) = tokio::join!(making, tokio::time::timeout(DEADLINE, reading));
    let told = told.expect("all are told in time");
    assert!(
        told.windows(2).all(|two| two[0] < two[1]),
        "each once and in order: {told:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_keys_cannot_be_read_every_request_is_told_so_within_seconds() {
    let stage = Stage::new().await;
    let api = Api::new(&stage).await;
    api.create(&reference(), "ideal/success").await;
    let (admin, connection) = tokio_postgres::connect(&stage.database_url, tokio_postgres::NoTls)
        .await
        .expect("it opens");
    tokio::spawn(connection);
    // A table that needs nine seconds for an answer, as on a disk that hangs: less than the statement timeout.
    admin
        .batch_execute(
            "ALTER TABLE api_keys RENAME TO api_keys_kept;
             CREATE VIEW api_keys AS SELECT kept.* FROM api_keys_kept kept, pg_sleep(9);
             GRANT SELECT ON api_keys TO kassa_app;",
        )
        .await
        .expect("the keys are slow");
    let other = Api {
        stage: &stage,
        http: api.http.clone(),
        key: format!("kassa_sim_abcdefghij12_{}", "0".repeat(64)),
    };
    let mut asked = Vec::new();
    // More than are looked up at once.
    for n in 0..6 {
        let api = if n % 2 == 0 { &api } else { &other };
        asked.push(async move {
            let began = Instant::now();
            (api.get("/v1/orders").await, began.elapsed())
        });
    }
    // What was seen within the last second is believed, and may be answered as it was.
    stage
        .until("the keys are read again", async |_| {
            api.get("/v1/orders").await.status == 503
        })
        .await;
    for (answer, took) in futures::future::join_all(asked).await {
        answer.refused(503, "store_unavailable");
        assert!(took < Duration::from_secs(7), "answered after {took:?}");
    }
    admin
        .batch_execute("DROP VIEW api_keys; ALTER TABLE api_keys_kept RENAME TO api_keys;")
        .await
        .expect("they are as they were");
    stage
        .until("keys are read", async |_| {
            api.get("/v1/orders").await.status == 200
        })
        .await;
}
