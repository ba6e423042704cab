//! What a job sends and what it learns: bundles, posts, the end of a run.
//!
//! Used by [`crate::world`] and by scenarios.

use anyhow::Result;
use serde_json::Value;

use crate::client::Answer;
use crate::client::Client;

/// How a deploy ended.
#[derive(Debug)]
pub struct Finished {
    /// The run's id; empty when it was refused by the POST itself.
    pub id: String,
    /// The answer of `/result`, or of the POST that refused.
    pub answer: Answer,
    /// The text log; empty when it was refused.
    pub log: String,
}

impl Finished {
    /// Returns the HTTP status.
    #[must_use]
    pub const fn status(&self) -> u16 {
        self.answer.status
    }

    /// Returns the stable code of the problem; empty when it succeeded.
    #[must_use]
    pub fn code(&self) -> String {
        self.answer.code()
    }

    /// Returns the body of the answer.
    ///
    /// # Errors
    /// When it is not JSON.
    pub fn json(&self) -> Result<Value> {
        self.answer.json()
    }

    /// Returns the kinds of the causes, the likeliest first.
    #[must_use]
    pub fn causes(&self) -> Vec<String> {
        let body = self.json().unwrap_or_default();
        let causes = body["causes"].as_array().cloned().unwrap_or_default();
        causes
            .iter()
            .filter_map(|cause| cause["kind"].as_str().map(str::to_owned))
            .collect()
    }
}

/// Posts a bundle.
///
/// # Errors
/// When the agent does not answer.
pub async fn post(client: &Client, path: &str, files: &[(&str, &str)]) -> Result<Answer> {
    client
        .clone()
        .with("content-type", "application/x-tar")
        .send("POST", path, bundle(files)?)
        .await
}

/// Packs files as a bundle.
///
/// # Errors
/// When a name does not fit into a tar header.
pub fn bundle(files: &[(&str, &str)]) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, content.as_bytes())?;
    }
    Ok(archive.into_inner()?)
}
