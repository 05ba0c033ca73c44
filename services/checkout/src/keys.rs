//! Who is asking? A shop, by an API key: `kassa_{mode}_{id}_{secret}`. The id is looked up, the secret is compared as a hash.
//!
//! The secret has 256 bits from the system's generator, so SHA-256 is enough: nobody can try them all, and slow hashes,
//! made for what people choose, would only let strangers keep the machine busy. The prefix lets scanners of repositories
//! find a key that was committed.

use std::{
    fmt,
    num::NonZeroUsize,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use data_encoding::{BASE32_NOPAD, HEXLOWER};
use jiff::Timestamp;
use kassa_chassis::problem::Problem;
use kassa_event_store::Store;
use lru::LruCache;
use secrecy::SecretString;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::sync::Semaphore;
use tokio_postgres::Client;

/// How long a key that was seen is believed to be as it was: revoking takes effect within this.
const BELIEVED: Duration = Duration::from_secs(1);
/// Keys that are remembered, known or not.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(4_096).expect("it is not zero");
/// Look-ups at once: made-up keys may cost so many connections and no more.
const LOOKUPS: usize = 2;
/// For one look-up, its turn included: as long as the pool's own waits. A database that hangs says nothing for far longer,
/// and every request begins here.
const LOOK_UP_MAX: Duration = Duration::from_secs(3);
/// Bytes of the secret.
const SECRET: usize = 32;
/// Characters of an id.
const ID: usize = 12;

/// What a key may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Create and cancel orders, start payments.
    OrdersWrite,
    /// Where orders stand, and why; which methods a checkout may offer.
    OrdersRead,
    /// What has happened, past and live.
    EventsRead,
}

impl Scope {
    pub const ALL: [Self; 3] = [Self::OrdersWrite, Self::OrdersRead, Self::EventsRead];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::OrdersWrite => "orders:write",
            Self::OrdersRead => "orders:read",
            Self::EventsRead => "events:read",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|scope| scope.as_str() == text)
            .ok_or_else(|| format!("one of {}", Self::ALL.map(Self::as_str).join(", ")))
    }
}

/// A key as it is stored, but for its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    pub key_id: String,
    pub shop: String,
    /// `sim`, `test` or `live`.
    pub mode: String,
    /// What people call it.
    pub name: String,
    pub scopes: Vec<String>,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
}

/// A key that is to be made.
#[derive(Debug, Clone)]
pub struct NewKey {
    pub shop: String,
    pub mode: &'static str,
    pub name: String,
    pub scopes: Vec<Scope>,
    pub expires_at: Option<Timestamp>,
}

/// Why a key could not be made, listed or revoked.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("the database refused: the login must own the table api_keys")]
    Database(#[from] tokio_postgres::Error),
    #[error("the system has no random numbers: {0}")]
    Random(getrandom::Error),
}

/// Makes a key. Its text is told once, here; afterwards there is only its hash.
///
/// # Errors
/// [`KeyError`]; nothing was made.
pub async fn create(client: &Client, new: &NewKey, now: Timestamp) -> Result<SecretString, KeyError> {
    let mut random = [0; SECRET + ID];
    getrandom::fill(&mut random).map_err(KeyError::Random)?;
    let (secret, id) = random.split_at(SECRET);
    let mut key_id = BASE32_NOPAD.encode(id).to_ascii_lowercase();
    key_id.truncate(ID);
    let secret = HEXLOWER.encode(secret);
    let scopes: Vec<&str> = new.scopes.iter().map(|scope| scope.as_str()).collect();
    client
        .execute(
            "INSERT INTO api_keys (key_id, shop, mode, name, secret_hash, scopes, created_at, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            &[
                &key_id,
                &new.shop,
                &new.mode,
                &new.name,
                &hash(&secret),
                &scopes,
                &now,
                &new.expires_at,
            ],
        )
        .await?;
    Ok(SecretString::from(format!(
        "kassa_{}_{key_id}_{secret}",
        new.mode
    )))
}

/// Every key of a shop, or of all, oldest first; revoked ones too.
///
/// # Errors
/// [`KeyError`].
pub async fn list(client: &Client, shop: Option<&str>) -> Result<Vec<ApiKey>, KeyError> {
    let rows = client
        .query(
            "SELECT key_id, shop, mode, name, scopes, created_at, expires_at, revoked_at
               FROM api_keys WHERE $1::text IS NULL OR shop = $1 ORDER BY shop, created_at, key_id",
            &[&shop],
        )
        .await?;
    Ok(rows.iter().map(stored).collect())
}

/// Ends a key; `false` where there is none of that id. One that was revoked before stays as it was.
///
/// # Errors
/// [`KeyError`].
pub async fn revoke(client: &Client, key_id: &str, now: Timestamp) -> Result<bool, KeyError> {
    let rows = client
        .execute(
            "UPDATE api_keys SET revoked_at = coalesce(revoked_at, $2) WHERE key_id = $1",
            &[&key_id, &now],
        )
        .await?;
    Ok(rows > 0)
}

fn stored(row: &tokio_postgres::Row) -> ApiKey {
    ApiKey {
        key_id: row.get(0),
        shop: row.get(1),
        mode: row.get(2),
        name: row.get(3),
        scopes: row.get(4),
        created_at: row.get(5),
        expires_at: row.get(6),
        revoked_at: row.get(7),
    }
}

fn hash(secret: &str) -> Vec<u8> {
    Sha256::digest(secret.as_bytes()).to_vec()
}

#[derive(Debug, Clone)]
struct Known {
    key: ApiKey,
    hash: Vec<u8>,
}

/// The keys that requests come with.
#[derive(Debug)]
pub(crate) struct Keys {
    store: Store,
    seen: Mutex<LruCache<String, (Instant, Option<Known>)>>,
    lookups: Arc<Semaphore>,
}

impl Keys {
    pub(crate) fn new(store: Store) -> Self {
        Self {
            store,
            seen: Mutex::new(LruCache::new(REMEMBERED)),
            lookups: Arc::new(Semaphore::new(LOOKUPS)),
        }
    }

    /// The key behind an `Authorization` header.
    ///
    /// # Errors
    /// 401 `unauthenticated`, the same for every reason but the form; 503 when the keys cannot be read.
    pub(crate) async fn recognise(&self, authorization: Option<&str>) -> Result<ApiKey, Box<Problem>> {
        let text = authorization
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, text)| text.trim())
            .ok_or_else(|| unauthenticated("the header Authorization must be Bearer and an API key"))?;
        let (mode, key_id, secret) = parse(text).ok_or_else(|| {
            unauthenticated("this is no API key: they begin with kassa_ and have four parts")
        })?;
        let known = self.known(key_id).await?;
        // Compared in any case, so that the time of the answer does not tell which ids exist.
        let nobody = vec![0; 32];
        let expected = known.as_ref().map_or(&nobody, |known| &known.hash);
        let same = bool::from(hash(secret).ct_eq(expected));
        let now = self.store.clock().now();
        known
            .map(|known| known.key)
            .filter(|key| same && key.mode == mode && key.revoked_at.is_none())
            .filter(|key| key.expires_at.is_none_or(|end| now < end))
            .ok_or_else(refused)
    }

    /// Whether a key that was taken earlier would be taken now, too. `true` while that cannot be looked up: without the
    /// database there is nothing to tell anyone, and a stream that is kept is no wider open than it was.
    pub(crate) async fn holds(&self, key: &ApiKey) -> bool {
        let now = self.store.clock().now();
        match self.known(&key.key_id).await {
            Ok(Some(known)) => known.key == *key && key.expires_at.is_none_or(|end| now < end),
            Ok(None) => false,
            Err(_) => true,
        }
    }

    async fn known(&self, key_id: &str) -> Result<Option<Known>, Box<Problem>> {
        let seen = self
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(key_id)
            .cloned();
        if let Some((at, known)) = seen
            && at.elapsed() < BELIEVED
        {
            return Ok(known);
        }
        let asked = Instant::now();
        let known = self.look_up(key_id).await.map_err(|error| {
            tracing::error!(error = format!("{error:#}"), "API keys cannot be read");
            let mut problem = Problem::store_unavailable();
            problem.detail = "who is asking cannot be looked up; nothing was decided".to_owned();
            Box::new(problem)
        })?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.put(key_id.to_owned(), (asked, known.clone()));
        Ok(known)
    }

    async fn look_up(&self, key_id: &str) -> anyhow::Result<Option<Known>> {
        let (store, lookups, key_id) = (self.store.clone(), self.lookups.clone(), key_id.to_owned());
        let looking = async move {
            let turn = lookups.acquire_owned().await?;
            // On a task of its own, which keeps its turn and its connection when nobody waits any more: a connection with a
            // question under way would keep the next one waiting, too.
            tokio::spawn(async move {
                let _turn = turn;
                read(&store, &key_id).await
            })
            .await?
        };
        tokio::time::timeout(LOOK_UP_MAX, looking)
            .await
            .map_err(|_| anyhow::anyhow!("no answer within {} s", LOOK_UP_MAX.as_secs()))?
    }
}

async fn read(store: &Store, key_id: &str) -> anyhow::Result<Option<Known>> {
    let client = store.pool().get().await?;
    let row = client
        .query_opt(
            "SELECT key_id, shop, mode, name, scopes, created_at, expires_at, revoked_at, secret_hash
               FROM api_keys WHERE key_id = $1",
            &[&key_id],
        )
        .await?;
    Ok(row.map(|row| Known {
        key: stored(&row),
        hash: row.get(8),
    }))
}

impl ApiKey {
    /// # Errors
    /// 403 `forbidden`, with the scope that is missing.
    pub(crate) fn must_have(&self, scope: Scope) -> Result<(), Box<Problem>> {
        if self.scopes.iter().any(|held| held == scope.as_str()) {
            return Ok(());
        }
        Err(Box::new(Problem::of(
            "forbidden",
            format!("the API key lacks the scope {scope}"),
            "use a key that has the scope named in detail",
        )))
    }
}

/// Mode, id and secret of a key's text.
fn parse(text: &str) -> Option<(&str, &str, &str)> {
    let mut parts = text.split('_');
    let (kassa, mode, id, secret) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let fits = kassa == "kassa"
        && ["sim", "test", "live"].contains(&mode)
        && id.len() == ID
        && secret.len() == SECRET * 2
        && plain(id)
        && plain(secret)
        && parts.next().is_none();
    fits.then_some((mode, id, secret))
}

/// The same for every reason that lies in the key.
pub(crate) fn refused() -> Box<Problem> {
    unauthenticated("this API key is not known, is of another mode than the shop, has expired or was revoked")
}

fn unauthenticated(detail: &str) -> Box<Problem> {
    Box::new(Problem::of(
        "unauthenticated",
        detail,
        "send Authorization: Bearer with an API key of the shop; kassa keys create makes one",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_four_parts_and_each_has_its_form() {
        let secret = "0".repeat(64);
        let good = format!("kassa_sim_abcdefghij12_{secret}");
        assert_eq!(parse(&good), Some(("sim", "abcdefghij12", &secret[..])));
        for wrong in [
            "",
            "kassa_sim_abcdefghij12",
            &good.replace("kassa", "stripe"),
            &good.replace("sim", "prod"),
            &format!("{good}_"),
            &format!("{good}0"),
            &good.replace("abcdefghij12", "ABCDEFGHIJ12"),
            &good.replace("abcdefghij12", "a' OR true--"),
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn scopes_are_read_as_they_are_written() {
        for scope in Scope::ALL {
            assert_eq!(scope.as_str().parse(), Ok(scope));
        }
        assert!(
            "orders:*"
                .parse::<Scope>()
                .is_err_and(|text| text.contains("orders:write"))
        );
    }
}
