//! What was typed, as values; nothing is read or built here.
//!
//! Called by `main`. The doc comments of the fields are the help text. Tokens are deliberately no
//! arguments: a process list must never show one.

mod values;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use clap::Parser;
use clap::Subcommand;
use clap::ValueEnum;
use proto::ids::ClusterName;
use proto::ids::DeployName;
use proto::ids::Namespace;
use proto::ids::RunId;
use proto::ids::dns_subdomain;

pub(crate) use self::values::Env;
pub(crate) use self::values::Exec;
pub(crate) use self::values::Form;
use crate::exit;
use crate::images::Image;

const EXAMPLES: &str = "\
Examples:
  quaymaster deploy                         deploy what ./quaymaster.yaml describes
  quaymaster deploy app/ --timeout 15m      another folder; wait at most 15 minutes
  quaymaster deploy --image web=$IMAGE      with this image in place of the one in the file
  quaymaster plan                           say what a deploy would do, write nothing
  quaymaster plan --save plan.json          and keep the plan, for a person to approve
  quaymaster deploy --plan plan.json        deploy exactly what was approved, or nothing
  quaymaster deploy -o json | jq .status    one JSON document, the verdict
  quaymaster promote staging production     the images of staging/ into production/, if they are ready
  quaymaster log --follow r0123...          follow a run that another job started
  quaymaster cancel --report deploy.json    in after_script: end what 'deploy --report' began, if it is on
  quaymaster history                        the revisions of the project's app
  quaymaster rollback --to 7                put revision 7 back and wait for the verdict
  quaymaster secrets list                   the project's Secrets that are kept fresh
  quaymaster secrets changed kv/shop/api    that path was just written: take it now
  quaymaster exec -- npm publish            a command with the values of 'expose' as variables
  quaymaster whoami                         who am I to the agent, which rules match

Environment:
  QUAYMASTER_SOCKET        the agent's socket
  QUAYMASTER_ID_TOKEN      the GitLab id token (id_tokens: in .gitlab-ci.yml)
  QUAYMASTER_VAULT_TOKEN   a Vault token, or else
  VAULT_TOKEN              a Vault token
  ${NAME} in quaymaster.yaml is replaced by the variable NAME; $${ is a literal ${";

/// Deploys through the Quaymaster agent beside the GitLab Runner.
#[derive(Debug, Parser)]
#[command(name = "quaymaster", version, max_term_width = 100)]
#[command(after_help = exit::HELP, after_long_help = format!("{EXAMPLES}\n\n{}", exit::HELP))]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The agent's socket [default: $QUAYMASTER_SOCKET or /run/quaymaster/jobs/quaymaster.sock]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// How to answer
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Text)]
    pub(crate) output: Format,
    /// Tell more: packed files, heartbeats
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
    /// Read the GitLab id token from a file instead of $QUAYMASTER_ID_TOKEN
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) id_token_file: Option<PathBuf>,
    /// Read the Vault token from a file instead of $QUAYMASTER_VAULT_TOKEN or $VAULT_TOKEN
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) vault_token_file: Option<PathBuf>,
}

/// The form of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// Exactly one JSON document on stdout
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Deploy a folder and wait for the verdict
    Deploy(Deploy),
    /// Say what a deploy would do; write nothing
    Plan(Plan),
    /// Deploy the images of another environment, once that one is ready with them; for Flux
    Promote(Promote),
    /// Say how a run stands
    Status(Run),
    /// List the project's runs, newest first
    List(List),
    /// Print the log of a run
    Log(LogOf),
    /// Print the verdict of a run; the exit code is the run's
    Result(ResultOf),
    /// End a run; in an 'after_script' the one that 'deploy --report FILE' began
    Cancel(Cancel),
    /// Go back to a recorded revision of an app and wait for the verdict
    Rollback(Rollback),
    /// Show the revisions of an app, newest first; * marks the current one
    History(AppOf),
    /// Write Secrets alone, and look after those that are kept fresh
    #[command(subcommand)]
    Secrets(Secrets),
    /// All Secrets that this agent keeps fresh; for the operator, on the admin socket
    Managed(Managed),
    /// Run a command with the values of 'expose' as variables; they are masked in what it writes
    Exec(Exec),
    /// Print the values of 'expose' for a shell to read; nobody masks them, so better use 'exec'
    Env(Env),
    /// Say who the caller is to the agent and which rules match
    Whoami,
    /// Print the versions of the client and the agent
    Version,
}

/// `quaymaster deploy`.
#[derive(Debug, Args)]
pub(crate) struct Deploy {
    /// The folder that holds quaymaster.yaml
    #[arg(default_value = ".")]
    pub(crate) dir: PathBuf,
    /// Deploy this image under a name that 'images' of the spec lists; may be given more than once
    #[arg(long, value_name = "NAME=REFERENCE")]
    pub(crate) image: Vec<Image>,
    /// The same as 'plan'
    #[arg(long, conflicts_with = "detach")]
    pub(crate) dry_run: bool,
    /// Deploy only if it would do exactly what this plan says ('plan --save'); else exit code 22
    #[arg(long, value_name = "FILE")]
    pub(crate) plan: Option<PathBuf>,
    /// Do not wait: print the run's id once it is accepted
    #[arg(long)]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) files: Files,
    #[command(flatten)]
    pub(crate) waiting: Waiting,
    #[command(flatten)]
    pub(crate) key: Key,
}

/// Files for GitLab.
#[derive(Debug, Default, Clone, Args)]
pub(crate) struct Files {
    /// Write the report as JSON: the run's id once it is accepted, in the end the verdict, also of a run that
    /// failed or was refused
    #[arg(long, value_name = "FILE", conflicts_with = "detach")]
    pub(crate) report: Option<PathBuf>,
    /// Write variables for 'artifacts:reports:dotenv': QUAYMASTER_STATUS, QUAYMASTER_RUN and others
    #[arg(long, value_name = "FILE", conflicts_with = "detach")]
    pub(crate) dotenv: Option<PathBuf>,
}

/// `quaymaster plan`.
#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// The folder that holds quaymaster.yaml
    #[arg(default_value = ".")]
    pub(crate) dir: PathBuf,
    /// Deploy this image under a name that 'images' of the spec lists; may be given more than once
    #[arg(long, value_name = "NAME=REFERENCE")]
    pub(crate) image: Vec<Image>,
    /// Keep the plan in a file, for 'deploy --plan'; it holds no secret value
    #[arg(long, value_name = "FILE")]
    pub(crate) save: Option<PathBuf>,
    /// End with 2 instead of 0 when something would change
    #[arg(long)]
    pub(crate) detailed_exitcode: bool,
    #[command(flatten)]
    pub(crate) waiting: Waiting,
    #[command(flatten)]
    pub(crate) key: Key,
}

/// `quaymaster promote`.
#[derive(Debug, Args)]
pub(crate) struct Promote {
    /// The folder with the quaymaster.yaml of the environment whose images are taken
    pub(crate) from: PathBuf,
    /// The folder with the quaymaster.yaml of the environment that gets them
    pub(crate) to: PathBuf,
    /// Say what would change; write nothing
    #[arg(long, conflicts_with = "detach")]
    pub(crate) dry_run: bool,
    /// Do not wait: print the run's id once it is accepted
    #[arg(long)]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) waiting: Waiting,
    #[command(flatten)]
    pub(crate) key: Key,
    #[command(flatten)]
    pub(crate) files: Files,
}

/// A limit on waiting.
#[derive(Debug, Clone, Args)]
pub(crate) struct Waiting {
    /// Stop waiting after this long (90s, 10m, 1h30m); the run goes on, the exit code is 31
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1h")]
    pub(crate) timeout: Duration,
}

/// An idempotency key.
#[derive(Debug, Clone, Args)]
pub(crate) struct Key {
    /// Find the run of an earlier invocation with this key instead of starting another one
    /// [default: a fresh one]
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency_key: Option<String>,
    /// Go on with the run that an earlier job of the project began with this key, as long as it is on; else
    /// begin another one. For jobs that are retried: --key "$CI_PIPELINE_ID-$CI_ENVIRONMENT_SLUG"
    #[arg(long, value_name = "KEY", conflicts_with = "idempotency_key")]
    pub(crate) key: Option<String>,
}

/// Commands on one run.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The run's id
    pub(crate) run: RunId,
}

/// `quaymaster cancel`.
#[derive(Debug, Args)]
pub(crate) struct Cancel {
    /// The run's id
    #[arg(required_unless_present = "report")]
    pub(crate) run: Option<RunId>,
    /// The run that is named in the file which 'deploy --report' wrote; without such a file, or when that run
    /// is over, there is nothing to do and the exit code is 0
    #[arg(long, value_name = "FILE", conflicts_with = "run")]
    pub(crate) report: Option<PathBuf>,
}

/// Which app.
#[derive(Debug, Clone, Args)]
pub(crate) struct AppOf {
    /// The app [default: the only one among the project's runs]
    pub(crate) name: Option<DeployName>,
    /// Its cluster [default: as the project's runs have it]
    #[arg(long)]
    pub(crate) cluster: Option<ClusterName>,
    /// Its namespace [default: as the project's runs have it]
    #[arg(long)]
    pub(crate) namespace: Option<Namespace>,
}

/// `quaymaster rollback`.
#[derive(Debug, Args)]
pub(crate) struct Rollback {
    #[command(flatten)]
    pub(crate) app: AppOf,
    /// The revision [default: the deployed one before the newest]
    #[arg(long, value_name = "REVISION")]
    pub(crate) to: Option<u64>,
    /// Do not wait: print the run's id once it is accepted
    #[arg(long)]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) files: Files,
    #[command(flatten)]
    pub(crate) waiting: Waiting,
    #[command(flatten)]
    pub(crate) key: Key,
}

/// `quaymaster secrets`: what a project does with its own Secrets.
#[derive(Debug, Subcommand)]
pub(crate) enum Secrets {
    /// Write the Secrets of a folder's quaymaster.yaml, which names nothing else to deploy, and wait
    /// for the verdict
    Apply(Apply),
    /// List the project's Secrets that are kept fresh, and how each stands
    List,
    /// Replace everything in a Secret that can be replaced, now
    Rotate(SecretOf),
    /// Say that paths in Vault were just written; the agent looks at them now
    Changed {
        /// Mount and path, as 'vault kv put' takes them
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<String>,
    },
    /// Stop keeping a Secret fresh; its values stay, its credentials end by themselves
    Forget(SecretOf),
}

/// `quaymaster secrets apply`.
#[derive(Debug, Args)]
pub(crate) struct Apply {
    /// The folder that holds quaymaster.yaml
    #[arg(default_value = ".")]
    pub(crate) dir: PathBuf,
    /// Say what would be written; write nothing
    #[arg(long, conflicts_with = "detach")]
    pub(crate) dry_run: bool,
    /// Do not wait: print the run's id once it is accepted
    #[arg(long)]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) waiting: Waiting,
    #[command(flatten)]
    pub(crate) key: Key,
}

/// Which Secret of the project.
#[derive(Debug, Args)]
pub(crate) struct SecretOf {
    /// The Secret
    pub(crate) name: String,
    /// Its cluster [default: the only one that has a Secret of this name]
    #[arg(long)]
    pub(crate) cluster: Option<ClusterName>,
    /// Its namespace [default: the only one that has a Secret of this name]
    #[arg(long)]
    pub(crate) namespace: Option<Namespace>,
}

/// `quaymaster managed`.
#[derive(Debug, Args)]
#[command(after_help = "\
Uses the admin socket: --socket, or /run/quaymaster/admin/quaymaster.sock. $QUAYMASTER_SOCKET and \
tokens are of no account here.")]
pub(crate) struct Managed {
    #[command(subcommand)]
    pub(crate) command: ManagedCommand,
}

/// What the operator does with them.
#[derive(Debug, Subcommand)]
pub(crate) enum ManagedCommand {
    /// List all Secrets that are kept fresh, and how soon changes in Vault are noticed
    List,
    /// Show one with everything that is known
    Show {
        /// The Secret
        #[arg(value_name = "CLUSTER/NAMESPACE/NAME")]
        secret: FullName,
    },
    /// Replace everything in one that can be replaced, now
    Rotate {
        /// The Secret
        #[arg(value_name = "CLUSTER/NAMESPACE/NAME")]
        secret: FullName,
    },
}

/// A Secret by cluster, namespace and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FullName {
    cluster: ClusterName,
    namespace: Namespace,
    name: String,
}

impl FromStr for FullName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected =
            || "expected CLUSTER/NAMESPACE/NAME, as 'managed list' shows them".to_owned();
        let (cluster, rest) = text.split_once('/').ok_or_else(expected)?;
        let (namespace, name) = rest.split_once('/').ok_or_else(expected)?;
        dns_subdomain(name).map_err(|_error| expected())?;
        Ok(Self {
            cluster: cluster.parse().map_err(|_error| expected())?,
            namespace: namespace.parse().map_err(|_error| expected())?,
            name: name.to_owned(),
        })
    }
}

impl fmt::Display for FullName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.cluster, self.namespace, self.name)
    }
}

/// `quaymaster list`.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// How many at most
    #[arg(long, default_value_t = 20)]
    pub(crate) limit: u16,
    /// Only runs older than this one
    #[arg(long, value_name = "RUN")]
    pub(crate) after: Option<RunId>,
}

/// `quaymaster log`.
#[derive(Debug, Args)]
pub(crate) struct LogOf {
    /// The run's id
    pub(crate) run: RunId,
    /// Go on until the run is over
    #[arg(short, long)]
    pub(crate) follow: bool,
    #[command(flatten)]
    pub(crate) waiting: Waiting,
}

/// `quaymaster result`.
#[derive(Debug, Args)]
pub(crate) struct ResultOf {
    /// The run's id
    pub(crate) run: RunId,
    /// Wait until the run is over
    #[arg(short, long)]
    pub(crate) wait: bool,
    #[command(flatten)]
    pub(crate) waiting: Waiting,
}

/// Reads a duration such as `90s`, `10m` or `1h30m`.
fn duration(text: &str) -> Result<Duration, String> {
    let expected = || "expected a duration such as 90s, 10m or 1h30m, up to 24h".to_owned();
    let mut seconds: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .ok_or_else(expected)?;
        let (number, tail) = rest.split_at(digits);
        let number: u64 = number.parse().ok().ok_or_else(expected)?;
        let unit = match tail.as_bytes().first() {
            Some(b'h') => 3_600,
            Some(b'm') => 60,
            Some(b's') => 1,
            _ => return Err(expected()),
        };
        seconds = number
            .checked_mul(unit)
            .and_then(|more| seconds.checked_add(more))
            .ok_or_else(expected)?;
        rest = &tail[1..];
    }
    if (1..=86_400).contains(&seconds) {
        Ok(Duration::from_secs(seconds))
    } else {
        Err(expected())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::CommandFactory;

    use super::Arguments;
    use super::FullName;
    use super::duration;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn durations_are_read_and_bounded() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5_400)));
        for bad in [
            "",
            "0s",
            "10",
            "m",
            "-1s",
            "25h",
            "1d",
            "99999999999999999999h",
            "1é",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_full_name_has_three_parts_and_goes_into_a_path_as_it_is() {
        let name: FullName = "prod/shop/shop.db".parse().expect("valid");
        assert_eq!(name.to_string(), "prod/shop/shop.db");
        for bad in [
            "shop-db", "shop/db", "a/b/c/d", "a/b/", "/b/c", "a/b/C", "a/b/c?x",
        ] {
            assert!(bad.parse::<FullName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn help_shows_examples_and_exit_codes() {
        let help = Arguments::command().render_long_help().to_string();
        assert!(help.contains("quaymaster deploy app/"));
        assert!(help.contains("31  still running"));
    }
}
