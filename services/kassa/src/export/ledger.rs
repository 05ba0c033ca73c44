//! What does the provider's own ledger say? Asked of the simulator, which writes it.

use std::time::Duration;

use super::Folder;
use crate::exit::Ended;

pub(super) const FILE: &str = "ledger.ndjson";
/// The simulator writes as fast as it is read; one that is silent for so long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// A simulator that has answered.
pub(super) struct Simulator {
    client: reqwest::Client,
    url: String,
}

impl Simulator {
    /// # Errors
    /// [`Ended`] where nobody answers as one.
    pub(super) async fn find(url: &str) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder()
            .no_proxy()
            .read_timeout(SILENCE_MAX)
            .build()?;
        let found = Self {
            client,
            url: url.trim_end_matches('/').to_owned(),
        };
        // The cheapest that only a simulator answers.
        found.get("/sim/clock").await?;
        Ok(found)
    }

    /// The number of rows.
    pub(super) async fn write(&self, folder: &Folder) -> anyhow::Result<u64> {
        let mut answer = self.get("/sim/ledger").await?;
        let mut file = folder.file(FILE)?;
        while let Some(chunk) = answer.chunk().await.map_err(gone)? {
            file.write(&chunk)?;
        }
        Ok(file.finish()?)
    }

    async fn get(&self, path: &str) -> Result<reqwest::Response, Ended> {
        self.client
            .get(format!("{}{path}", self.url))
            .send()
            .await
            .and_then(reqwest::Response::error_for_status)
            .map_err(gone)
    }
}

fn gone(error: reqwest::Error) -> Ended {
    Ended::new(
        Ended::UNREACHABLE,
        format!("the simulator's ledger cannot be read: {}", error.without_url()),
    )
    .hint("give --simulator as http://host:port, or leave it out")
}
