//! `cargo measure fresh`: our agent that keeps Secrets fresh, beside `bao agent`, on the same servers in the
//! same run.
//!
//! Called by `main`. [`many`] measures memory, processor time and how soon a change arrives; [`trouble`] a
//! revoked token, a seal, refused renewals and kills. OpenBao is sealed on the way and its requests are
//! counted, so nobody else should use the stand meanwhile: `QUAYMASTER_STAND=<name of your own>`. Nothing is
//! asserted but that a thing happens at all.

pub(crate) mod arrivals;
mod beside;
pub(crate) mod managed;
mod many;
mod table;
mod trouble;

use anyhow::Result;
use clap::ValueEnum;
use tests::stand::agent::Programs;
use tokio::time::Instant;

use self::many::Whole;

/// The field of every secret of these measurements, and the key of every Secret.
pub(crate) const KEY: &str = "value";

/// What of it is measured.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Part {
    /// Everything.
    All,
    /// Memory, processor time and changes.
    Many,
    /// Tokens, seals, refusals and kills.
    Trouble,
}

/// Prints the table.
pub(super) async fn fresh(programs: &Programs, most: usize, part: Part) -> Result<()> {
    let began = Instant::now();
    table::head();
    if part != Part::Trouble {
        many::rows(programs, 1, Whole::Memory).await?;
        many::rows(programs, most.min(100), Whole::Memory).await?;
        many::rows(programs, most, Whole::Changes { times: 20 }).await?;
    }
    if part != Part::Many {
        trouble::rows(programs).await?;
    }
    println!("it took {:.0} s", began.elapsed().as_secs_f64());
    Ok(())
}
