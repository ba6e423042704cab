//! The exit codes: what a script may rely on.
//!
//! Every end of the program goes through [`Exit`]; only `main` turns it into a process exit code.
//! The numbers never change their meaning. Usage errors of the command line are 2, made by clap.

use proto::error::Code;
use proto::report::Status;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Done,
    /// The plan would change something, and the caller asked to be told by the exit code.
    Changes,
    /// The run failed; what was written stays.
    Failed,
    /// The run failed and the previous revision is back.
    RolledBack,
    /// The run failed and so did the way back.
    RollbackFailed,
    /// Not allowed, or not authenticated.
    Denied,
    /// The input is not valid.
    Invalid,
    /// Another run of the app came first.
    Superseded,
    /// The agent cannot be reached or takes no requests.
    Unreachable,
    /// The run was still on when the client stopped waiting.
    StillRunning,
    /// The run was cancelled.
    Cancelled,
    /// A command was run, and ended with this code.
    Command(u8),
}

/// The table that `--help` shows.
pub(crate) const HELP: &str = "\
Exit codes:
   0  done and verified
   2  the command line is wrong; or 'plan --detailed-exitcode' found something to change
  10  failed; what was written stays
  11  failed; the previous revision was put back
  12  failed; putting the previous revision back failed too
  20  denied: no valid token, or no rule allows it
  21  invalid: quaymaster.yaml, a manifest, the bundle or the request
  22  not done: a newer pipeline came first, another run holds the app, or the world is not
      as the saved plan says
  30  the agent cannot be reached or takes no requests
  31  still running when the client stopped waiting (--timeout or a signal)
  40  cancelled with 'quaymaster cancel'
'exec' ends with the exit code of the command: 128+N for signal N, 127 not found, 126 not run";

impl Exit {
    /// Returns the number that the process ends with.
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Changes => 2,
            Self::Failed => 10,
            Self::RolledBack => 11,
            Self::RollbackFailed => 12,
            Self::Denied => 20,
            Self::Invalid => 21,
            Self::Superseded => 22,
            Self::Unreachable => 30,
            Self::StillRunning => 31,
            Self::Cancelled => 40,
            Self::Command(number) => number,
        }
    }

    /// Returns how a run with this status ends the program.
    pub(crate) const fn of_status(status: Status) -> Self {
        match status {
            Status::Running => Self::StillRunning,
            Status::Succeeded => Self::Done,
            Status::Failed | Status::Interrupted => Self::Failed,
            Status::RolledBack => Self::RolledBack,
            Status::RollbackFailed => Self::RollbackFailed,
            Status::Denied => Self::Denied,
            Status::Invalid => Self::Invalid,
            Status::Superseded => Self::Superseded,
            Status::Cancelled => Self::Cancelled,
        }
    }

    /// Returns how a problem with this code ends the program.
    pub(crate) const fn of_code(code: Code) -> Self {
        match code {
            Code::BadRequest
            | Code::ClientHeaderMissing
            | Code::NotFound
            | Code::MethodNotAllowed
            | Code::IdempotencyConflict
            | Code::TooLarge
            | Code::UnsupportedMediaType
            | Code::HeadersTooLarge
            | Code::BundleInvalid
            | Code::SpecInvalid
            | Code::ManifestInvalid
            | Code::ObjectInvalid => Self::Invalid,
            Code::CrossProtocol
            | Code::TokenMissing
            | Code::TokenMalformed
            | Code::TokenExpired
            | Code::TokenUntrusted
            | Code::VaultTokenRefused
            | Code::Denied
            | Code::ClusterDenied
            | Code::VaultDenied => Self::Denied,
            Code::Superseded | Code::Locked | Code::PlanChanged => Self::Superseded,
            Code::SecretMissing
            | Code::RotationRefused
            | Code::VaultUnavailable
            | Code::ChartMissing
            | Code::ChartInvalid
            | Code::ChartUnavailable
            | Code::GitDenied
            | Code::GitMissing
            | Code::GitRefused
            | Code::GitUnavailable
            | Code::ImageMissing
            | Code::RegistryDenied
            | Code::RegistryInvalid
            | Code::RegistryUnavailable
            | Code::ImagePlaceMissing
            | Code::FluxNotReady
            | Code::PromotionRefused
            | Code::ClusterUnavailable
            | Code::ApplyConflict
            | Code::RolloutFailed
            | Code::RolloutTimeout
            | Code::Interrupted => Self::Failed,
            Code::Cancelled => Self::Cancelled,
            Code::Unavailable | Code::Internal => Self::Unreachable,
            Code::StillRunning => Self::StillRunning,
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::error::Code;
    use proto::report::Status;

    use super::Exit;

    #[test]
    fn statuses_have_the_documented_numbers() {
        let number = |status| Exit::of_status(status).number();
        assert_eq!(number(Status::Succeeded), 0);
        assert_eq!(number(Status::Failed), 10);
        assert_eq!(number(Status::Interrupted), 10);
        assert_eq!(number(Status::RolledBack), 11);
        assert_eq!(number(Status::RollbackFailed), 12);
        assert_eq!(number(Status::Denied), 20);
        assert_eq!(number(Status::Invalid), 21);
        assert_eq!(number(Status::Superseded), 22);
        assert_eq!(number(Status::Running), 31);
        assert_eq!(number(Status::Cancelled), 40);
    }

    #[test]
    fn codes_have_the_documented_numbers() {
        let number = |code| Exit::of_code(code).number();
        assert_eq!(number(Code::TokenExpired), 20);
        assert_eq!(number(Code::Denied), 20);
        assert_eq!(number(Code::SpecInvalid), 21);
        assert_eq!(number(Code::TooLarge), 21);
        assert_eq!(number(Code::Superseded), 22);
        assert_eq!(number(Code::Unavailable), 30);
        assert_eq!(number(Code::StillRunning), 31);
        assert_eq!(number(Code::RolloutFailed), 10);
        assert_eq!(number(Code::RotationRefused), 10);
        assert_eq!(number(Code::Cancelled), 40);
    }
}
