//! When which value arrived in which Secret, told by a watch of the API server.
//!
//! Used by every measurement of freshness: a watch tells of a change within a millisecond and costs the
//! servers nothing between changes, as asking again and again would. Invariant: a time is taken when the
//! line of the watch is read, before anything else is done with it. Dropping it ends the watch.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use tests::wait::pause;
use tests::world::World;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::KEY;
use crate::peers;

/// After the server ended a watch, the next one begins after this time.
const AGAIN: Duration = Duration::from_millis(100);

/// One line of a watch, as far as it is of interest.
#[derive(Deserialize)]
struct Line {
    object: Body,
}

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    data: BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
struct Metadata {
    #[serde(default)]
    name: String,
}

/// The value of each Secret that was seen last, and since when.
type Seen = BTreeMap<String, (String, Instant)>;

#[derive(Default)]
struct Shared {
    seen: Mutex<Seen>,
    moved: Notify,
}

/// A watch of a world's Secrets.
pub(crate) struct Arrivals {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Arrivals {
    /// Begins to watch.
    pub(crate) fn of(world: &World) -> Result<Self> {
        let facts = world.stand.facts();
        let client = peers::client(&facts.kubeconfig_admin)?.build()?;
        let address = format!(
            "{}/api/v1/namespaces/{}/secrets?watch=1",
            facts.api, world.namespace
        );
        let shared = Arc::new(Shared::default());
        let inner = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            loop {
                // However a watch ended, the next one begins with what is there.
                drop(follow(&client, &address, &inner).await);
                pause(AGAIN).await;
            }
        });
        Ok(Self { shared, task })
    }

    /// Returns the value of a Secret, and when it was first seen.
    pub(crate) fn value(&self, secret: &str) -> Option<(String, Instant)> {
        self.shared.lock().get(secret).cloned()
    }

    /// Waits until a Secret has a value; returns since when.
    pub(crate) async fn until(
        &self,
        secret: &str,
        value: &str,
        within: Duration,
    ) -> Result<Instant> {
        let wait = async {
            loop {
                let moved = self.shared.moved.notified();
                if let Some((has, at)) = self.value(secret)
                    && has == value
                {
                    return at;
                }
                moved.await;
            }
        };
        tokio::time::timeout(within, wait)
            .await
            .with_context(|| format!("{secret} did not get its value within {within:?}"))
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, line: &[u8]) -> Result<()> {
        let now = Instant::now();
        let body = serde_json::from_slice::<Line>(line)?.object;
        let value = body.data.get(KEY).context("another Secret")?;
        let value = String::from_utf8(STANDARD.decode(value)?)?;
        let mut seen = self.lock();
        if seen
            .get(&body.metadata.name)
            .is_none_or(|(has, _)| *has != value)
        {
            seen.insert(body.metadata.name, (value, now));
            drop(seen);
            self.moved.notify_waiters();
        }
        Ok(())
    }
}

async fn follow(client: &reqwest::Client, address: &str, shared: &Shared) -> Result<()> {
    let mut answer = client.get(address).send().await?.error_for_status()?;
    let mut rest = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        rest.extend_from_slice(&chunk);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            // What is no Secret of the measurement is of no interest.
            drop(shared.take(&line));
        }
    }
    Ok(())
}
