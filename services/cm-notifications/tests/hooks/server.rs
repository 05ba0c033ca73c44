//! One PostgreSQL for all tests of this binary, a database and a listener for each. They end with the process.

use std::{future::Future, net::SocketAddr, time::Duration};

use kassa_cm_notifications::Notifications;
use kassa_domain::ids::{OrderId, Shop};
use kassa_event_store::{Append, NewEvent, Store, StoreConfig, Touch};
use kassa_test_servers::{connect, database};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub(crate) const SHOP: &str = "demo-shop";
/// Generous, as the machine may be building something else; nothing waits longer than it must.
const DEADLINE: Duration = Duration::from_secs(60);

/// A listener on a database of its own.
pub(crate) struct Hook {
    pub(crate) address: SocketAddr,
    pub(crate) store: Store,
    url: String,
    _stop: tokio_util::sync::DropGuard,
}

impl Hook {
    pub(crate) async fn new() -> Self {
        let url = database().await;
        let config = StoreConfig {
            url: url.clone(),
            pool_size: 16,
        };
        let store = Store::connect(config).await.expect("the store opens");
        let bound = Notifications::bind(([127, 0, 0, 1], 0).into())
            .await
            .expect("it binds");
        let address = bound.local_addr();
        let stop = CancellationToken::new();
        tokio::spawn(bound.serve(store.clone(), stop.clone()));
        Self {
            address,
            store,
            url,
            _stop: stop.drop_guard(),
        }
    }

    pub(crate) async fn call(&self, reference: &str) -> u16 {
        call(self.address, reference).await
    }

    pub(crate) async fn send(&self, request: &str) -> u16 {
        send(self.address, request).await
    }

    /// Makes the order of this reference known, as the engine would.
    pub(crate) async fn create(&self, reference: &str) -> OrderId {
        let order = OrderId::new(&Shop::parse(SHOP).expect("a shop"), reference);
        let append = Append {
            part: 0,
            command_id: Uuid::new_v4(),
            fingerprint: vec![],
            outcome: vec![],
            touches: vec![Touch {
                stream_id: order.stream(),
                expected: 0,
            }],
            events: vec![NewEvent {
                stream_id: order.stream(),
                event_id: Uuid::new_v4(),
                shop: SHOP.to_owned(),
                aggregate_type: "order".to_owned(),
                aggregate_id: order.to_string(),
                event_type: "OrderCreated".to_owned(),
                schema_version: 1,
                payload: b"{}".to_vec(),
                metadata: b"{}".to_vec(),
            }],
            timers: vec![],
            done_timers: vec![],
            vault: vec![],
            reads: vec![],
            recorded_at: self.store.clock().now(),
        };
        self.store.append(append).await.expect("it is stored");
        order
    }

    pub(crate) async fn superuser(&self) -> Client {
        connect(&self.url).await
    }

    pub(crate) async fn number(&self, sql: &str) -> i64 {
        let row = self.superuser().await.query_one(sql, &[]).await.expect(sql);
        row.get(0)
    }

    /// How often the report of this order was asked for.
    pub(crate) async fn requests(&self, order: OrderId) -> i64 {
        let sql = format!(
            "SELECT coalesce(sum(requests), 0)::bigint FROM provider_reads WHERE order_id = '{order}'"
        );
        self.number(&sql).await
    }

    /// Waits until a count is what it should be.
    pub(crate) async fn until(&self, sql: &str, expected: i64) {
        within(sql, async {
            while self.number(sql).await != expected {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }
}

/// The address of a fresh database with the schema in it.
/// The status of one call for this reference, as it stands in the URL.
pub(crate) async fn call(address: SocketAddr, reference: &str) -> u16 {
    let request =
        format!("GET /hooks/cm/{SHOP}?id={reference} HTTP/1.1\r\nHost: kassa\r\nConnection: close\r\n\r\n");
    send(address, &request).await
}

/// The status of one request of raw bytes; 0 where there is no answer.
async fn send(address: SocketAddr, request: &str) -> u16 {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    stream.write_all(request.as_bytes()).await.expect("it is sent");
    let mut answer = Vec::new();
    within("an answer", stream.read_to_end(&mut answer))
        .await
        .expect("it is read");
    String::from_utf8_lossy(&answer)
        .split(' ')
        .nth(1)
        .and_then(|word| word.parse().ok())
        .unwrap_or(0)
}

/// Fails the test instead of hanging it.
pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: not within {} s", DEADLINE.as_secs()),
    }
}
