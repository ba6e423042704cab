//! The arguments of commands that bring values to the job itself: `exec` and `env`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use clap::ValueEnum;

/// Which spec has the values.
#[derive(Debug, Args)]
pub(crate) struct SpecFile {
    /// The file with 'expose', or its folder; only version, name, target and expose of it are read
    #[arg(short, long, value_name = "FILE", default_value = "quaymaster.yaml")]
    pub(crate) file: PathBuf,
}

/// `quaymaster exec`.
#[derive(Debug, Args)]
#[command(after_help = "\
The command gets the job's variables, those of 'expose' over them, and not the tokens \
QUAYMASTER_ID_TOKEN, QUAYMASTER_VAULT_TOKEN and VAULT_TOKEN. It has no terminal for its output. \
TERM, INT, HUP, QUIT, USR1 and USR2 are passed on to it.")]
pub(crate) struct Exec {
    #[command(flatten)]
    pub(crate) spec: SpecFile,
    /// The command with its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

/// `quaymaster env`.
#[derive(Debug, Args)]
#[command(after_help = "\
In a shell: values=\"$(quaymaster env)\" && eval \"$values\"")]
pub(crate) struct Env {
    #[command(flatten)]
    pub(crate) spec: SpecFile,
    /// How to print them
    #[arg(long, value_enum, default_value_t = Form::Shell)]
    pub(crate) format: Form,
    /// Print them also to a terminal, or where the job's log is written
    #[arg(long)]
    pub(crate) show: bool,
}

/// The form of printed variables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// export NAME='value', for 'eval'
    Shell,
    /// NAME=value, one a line, unquoted, as 'docker run --env-file' reads them
    Dotenv,
    /// One JSON object
    Json,
}
