//! One line of a followed run.
//!
//! The agent keeps the events of a run in a log and streams them as NDJSON, or rendered as a GitLab
//! job log. `seq` starts at 1 and has no holes; the last event of every run is [`Body::End`].
//! Heartbeats are made for each reader and carry the seq of the last real event.

use serde::Deserialize;
use serde::Serialize;

use crate::report::Status;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Position in the run's log, counted from 1.
    pub seq: u64,
    /// When it happened, RFC 3339 with milliseconds.
    pub ts: String,
    /// What happened.
    #[serde(flatten)]
    pub body: Body,
}

/// The stages of a run, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The permit is there, the run begins.
    Authorize,
    /// A kustomization or chart is rendered; other runs have no such stage.
    Render,
    /// Secrets are read.
    Resolve,
    /// What would change is found out.
    Plan,
    /// The API server is asked whether it would take it.
    Check,
    /// It is written.
    Apply,
    /// The rollout is watched.
    Watch,
    /// The verdict.
    Report,
}

impl Stage {
    /// Returns the word as it stands on the wire and in log sections.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Authorize => "authorize",
            Self::Render => "render",
            Self::Resolve => "resolve",
            Self::Plan => "plan",
            Self::Check => "check",
            Self::Apply => "apply",
            Self::Watch => "watch",
            Self::Report => "report",
        }
    }
}

/// How loud a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Ordinary progress.
    Info,
    /// Something to know that does not fail the run.
    Warn,
    /// Part of a failure.
    Error,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Body {
    /// A stage begins.
    StageStarted {
        /// Which.
        stage: Stage,
        /// The heading for people.
        title: String,
    },
    /// A stage is over (well or not).
    StageEnded {
        /// Which.
        stage: Stage,
    },
    /// One line for people.
    Message {
        /// How loud.
        level: Level,
        /// The text, redacted, without control characters; it may have several lines.
        text: String,
    },
    /// Something happened to one object.
    Object {
        /// The object as `Kind/name` or `group/Kind namespace/name`.
        object: String,
        /// What was done or seen: `created`, `changed`, `same`, `ready`, `waiting`, `failed`.
        state: String,
        /// Why, in words; may be empty.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        detail: String,
    },
    /// Nothing happened for a while; the run and the agent are alive.
    Heartbeat,
    /// The run is over.
    End {
        /// How.
        status: Status,
    },
}
