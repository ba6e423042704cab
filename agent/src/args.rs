//! What was typed on the command line, validated; nothing is opened or built here.
//!
//! Read by `main` once.

use std::path::PathBuf;

use clap::Parser;

/// The Quaymaster agent: deploys for CI jobs over a unix socket, without giving them a credential.
///
/// It reads its configuration, opens the jobs socket and the admin socket, and serves until SIGTERM.
/// The first SIGTERM or SIGINT drains: new runs are refused, running ones end by themselves up to
/// drain_timeout. A second one ends the process at once; the next start tells how each run stood.
#[derive(Debug, Clone, PartialEq, Eq, Parser)]
#[command(name = "quaymasterd", version, about, long_about, after_help = AFTER)]
pub struct Args {
    /// The configuration file (TOML)
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/quaymaster/quaymaster.toml",
        global = true
    )]
    pub config: PathBuf,

    /// Check the configuration and the policy, tell every mistake, and end
    #[arg(long)]
    pub check: bool,

    /// What to do instead of serving
    #[command(subcommand)]
    pub verb: Option<Verb>,
}

/// What can be done instead of serving.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Subcommand)]
pub enum Verb {
    /// Check the agent's own identity in Vault, and tell what its policy allows
    ///
    /// Logs in as [vault.identity] says, looks whether the token can be renewed, asks Vault what it may do,
    /// and says for each path of the rules with the verb `rotate` how soon a new version is noticed. It
    /// ends the token that it logged in for, and neither reads nor changes that of a running agent.
    Doctor,
}

const AFTER: &str = "\
Environment:
  QUAYMASTER_*   override keys of the configuration: QUAYMASTER_VAULT_ADDRESS sets vault.address

Exit status:
  0   ended as asked, with every run over
  1   could not start, or a part of the agent failed; doctor: a check failed
  2   bad arguments
  3   ended before every run was over; the next start reports them as interrupted";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Args as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn the_configuration_has_a_default_place() {
        let args = Args::parse_from(["quaymasterd"]);
        assert_eq!(
            args.config,
            PathBuf::from("/etc/quaymaster/quaymaster.toml")
        );
        assert!(!args.check);
    }
}
