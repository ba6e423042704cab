//! Logging: set-up, the span of a run, and the one helper that prints an error with its causes.
//!
//! Called by `main` once and by every part that logs an error. Lines go to standard error, as JSON
//! or text. Invariant: the targets of libraries that print requests are off whatever the level says.

use std::error::Error;
use std::fmt;
use std::io;

use proto::ids::RunId;
use tracing::Span;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Libraries whose traces hold tokens or bodies.
const MUTED: [&str; 2] = ["vaultrs", "rustify"];

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// One JSON object a line.
    #[default]
    Json,
    /// For people.
    Text,
}

/// What to log and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Logging {
    /// How lines look.
    pub format: Format,
    /// A level (`info`), or levels by target (`info,agent=debug`); checked by the configuration.
    pub level: Targets,
}

impl Default for Logging {
    fn default() -> Self {
        Self {
            format: Format::default(),
            level: Targets::new().with_default(LevelFilter::INFO),
        }
    }
}

/// Starts logging for the process. A second call, as tests make, changes nothing.
pub fn start(logging: &Logging) {
    let filter = MUTED.iter().fold(logging.level.clone(), |filter, target| {
        filter.with_target(*target, LevelFilter::OFF)
    });
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let layer = match logging.format {
        Format::Json => lines.json().flatten_event(true).boxed(),
        Format::Text => lines.with_ansi(false).boxed(),
    };
    let started = tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init();
    drop(started);
}

/// Makes the span under which everything of one run is logged.
#[must_use]
pub fn run_span(id: &RunId) -> Span {
    tracing::info_span!("run", id = %id)
}

/// Prints an error and its causes, joined by colons; causes that their parent repeats are left out.
pub struct Chain<'a>(pub &'a (dyn Error + 'a));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.0.to_string();
        f.write_str(&said)?;
        let mut next = self.0.source();
        while let Some(cause) = next {
            let text = cause.to_string();
            if !said.contains(&text) {
                write!(f, ": {text}")?;
                said = text;
            }
            next = cause.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open the journal")]
    struct Outer(#[source] io::Error);

    #[test]
    fn a_chain_prints_every_cause_once() {
        let error = Outer(io::Error::other("disk full"));
        assert_eq!(
            Chain(&error).to_string(),
            "cannot open the journal: disk full"
        );
    }
}
