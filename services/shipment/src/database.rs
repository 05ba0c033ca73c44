//! How is the shop's database reached, and reached again?

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, Config, Socket};

/// A database that does not let us in within this time is treated as away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

type Connecting = Pin<Box<dyn Future<Output = Result<Session, tokio_postgres::Error>> + Send>>;

/// Where the shop's tables are, and how to get there.
#[derive(Clone)]
pub struct Database {
    connect: Arc<dyn Fn() -> Connecting + Send + Sync>,
}

impl Database {
    /// Takes the address and a TLS connector, such as [`tokio_postgres::NoTls`] for a Unix socket. Connects later.
    pub fn new<T>(mut config: Config, tls: T) -> Self
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send,
        T::TlsConnect: Send,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        let connect = move || -> Connecting {
            let (config, tls) = (config.clone(), tls.clone());
            Box::pin(async move {
                let (client, connection) = config.connect(tls).await?;
                let task = tokio::spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            "database connection ended"
                        );
                    }
                });
                Ok(Session {
                    client,
                    task: task.abort_handle(),
                })
            })
        };
        Self {
            connect: Arc::new(connect),
        }
    }

    pub(crate) async fn connect(&self) -> Result<Session, tokio_postgres::Error> {
        (self.connect)().await
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The address may hold a password.
        f.debug_struct("Database").finish_non_exhaustive()
    }
}

/// One connection. Dropping it cuts it at once, so that a transaction left in it can only be rolled back.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client: Client,
    task: AbortHandle,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}
