//! The Docker engine of Debian, and the programs that its images are made of.
//!
//! Called by `Stand::docker` on first use, because few scenarios need it. Invariant: what is installed already
//! is left as it is.

use anyhow::Result;
use anyhow::ensure;

use super::packages;
use super::turn;
use crate::progress::Event;
use crate::stand::layout::Settings;
use crate::stand::process;

/// As [`super::PROGRAMS`]: a program, its package, what it is needed for.
const PROGRAMS: &[(&str, &str, &str)] = &[
    ("dockerd", "docker.io", "runs the containers of jobs"),
    ("curl", "curl", "is the content of an image for jobs"),
    ("jq", "jq", "is the content of an image for jobs"),
];

fn missing() -> Vec<&'static str> {
    PROGRAMS
        .iter()
        .filter(|(name, ..)| process::find(name).is_none())
        .map(|(_, package, _)| *package)
        .collect()
}

/// Installs what is missing; `tell` hears what happens meanwhile.
///
/// # Errors
/// When something cannot be installed.
pub(in crate::stand) async fn ensure(settings: &Settings, tell: fn(&Event)) -> Result<()> {
    if missing().is_empty() {
        return Ok(());
    }
    ensure!(
        settings.root,
        "{} missing: ask an administrator for `apt-get install`, but a stand without root runs no containers",
        missing().join(", ")
    );
    let _turn = turn(settings, || {}).await?;
    // Looked at again: another process may have done it.
    let names = missing();
    if names.is_empty() {
        return Ok(());
    }
    tell(&Event::Step {
        index: 1,
        of: 1,
        what: format!("installing Debian packages: {}", names.join(" ")),
        seconds_left: 30,
    });
    packages(&names).await
}
