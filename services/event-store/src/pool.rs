//! How does one get a connection to read with, and what is said where there is none?

use std::time::Duration;

use deadpool_postgres::{
    Hook, HookError, Manager, ManagerConfig, Object, PoolError, RecyclingMethod, Runtime, TimeoutType,
};
use tokio_postgres::{Config, NoTls};

use crate::StoreError;

/// For the connections of the pool. A transaction that is left open holds rows that appends may wait for, so the server
/// ends it; five seconds are more than any of ours pauses on a busy machine. Almost all is looked up by key, and a plan for each
/// time costs more than what it finds: who asks otherwise says so ([`PLANNED_ANEW`]). A plan that was made while a table was empty
/// would look through all of it for as long as nobody analyses it: by an index, then.
const LIMITS: &str = "SET statement_timeout = '10s'; SET lock_timeout = '2s'; \
     SET idle_in_transaction_session_timeout = '5s'; SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off";
/// Begins a transaction for a statement whose best plan depends on what is asked.
pub const PLANNED_ANEW: &str = "BEGIN READ ONLY; SET LOCAL plan_cache_mode = force_custom_plan";
/// Who cannot get a connection in this time is told so, instead of queueing for ever.
const GET_MAX: Duration = Duration::from_secs(3);

/// Connections of one process, taken in turns. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pool(deadpool_postgres::Pool);

impl Pool {
    /// Opens nothing yet; each connection steps down to `role`.
    pub(crate) fn new(address: Config, size: usize, role: Option<String>) -> Result<Self, StoreError> {
        let settings = ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        };
        let session = match role {
            Some(role) => format!("SET ROLE {role}; {LIMITS}"),
            None => LIMITS.to_owned(),
        };
        deadpool_postgres::Pool::builder(Manager::from_config(address, NoTls, settings))
            .max_size(size)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(GET_MAX))
            .create_timeout(Some(GET_MAX))
            .post_create(Hook::async_fn(move |client, _| {
                let session = session.clone();
                Box::pin(async move { client.batch_execute(&session).await.map_err(HookError::Backend) })
            }))
            .build()
            .map(Self)
            .map_err(|error| StoreError::Unreachable(error.to_string()))
    }

    /// A connection, given back when it is dropped.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`], within seconds.
    pub async fn get(&self) -> Result<Object, StoreError> {
        self.0
            .get()
            .await
            .map_err(|error| StoreError::Unreachable(why(&error)))
    }
}

/// In words about the database: the library's are about its own objects.
fn why(error: &PoolError) -> String {
    match error {
        PoolError::Timeout(TimeoutType::Wait) => {
            format!(
                "every connection waits for an answer, for {} s",
                GET_MAX.as_secs()
            )
        }
        PoolError::Timeout(TimeoutType::Create | TimeoutType::Recycle) => {
            format!("no answer within {} s", GET_MAX.as_secs())
        }
        PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error)) => words(error),
        other => other.to_string(),
    }
}

/// What the server says, without the values that it may quote in its detail; or, where it says nothing, the cause below the
/// library's words.
pub(crate) fn words(error: &tokio_postgres::Error) -> String {
    if let Some(refused) = error.as_db_error() {
        return format!("{} ({})", refused.message(), refused.code().code());
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// What is told of an address where no connection is to be had.
    async fn told(url: &str) -> String {
        let address = url.parse().expect("an address");
        let pool = Pool::new(address, 1, None).expect("nothing is opened yet");
        let error = pool.get().await.map(drop).expect_err("nobody answers there");
        error.to_string()
    }

    #[tokio::test]
    async fn a_database_that_is_away_is_told_as_such_and_not_as_an_object_of_the_library() {
        let refused = told("postgresql://kassa@127.0.0.1:1/kassa").await;
        assert!(
            refused.starts_with("the database cannot be reached: Connection refused"),
            "{refused}"
        );
        // It takes connections, as a frozen one does, and says nothing.
        let mute = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = mute.local_addr().expect("bound").port();
        assert_eq!(
            told(&format!("postgresql://kassa@127.0.0.1:{port}/kassa")).await,
            "the database cannot be reached: no answer within 3 s"
        );
    }
}
