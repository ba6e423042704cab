//! What a failed exchange means: status and transport fault to [`SecretsError`].
//!
//! Called by [`super`] only, and the one place where Vault's statuses are interpreted. A refused
//! connection had no effect; a cut one after a change is an unknown outcome. Vault's own words go
//! on only where they help the caller, masked and capped.

use deploy::ports::SecretsError;

use super::wire::Failure;
use super::wire::Refusal;

/// The longest text of Vault that is passed on.
const WORDS_LIMIT: usize = 300;

/// What was being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing<'a> {
    /// Presenting a token or trading one.
    Login,
    /// Reading something that stays as it is.
    Read {
        /// The path.
        path: &'a str,
        /// The version asked for; 0 is the latest.
        version: u64,
    },
    /// Making or ending something.
    Change {
        /// The path.
        path: &'a str,
    },
}

impl Doing<'_> {
    fn path(self) -> String {
        match self {
            Self::Login => "the login".to_owned(),
            Self::Read { path, .. } | Self::Change { path } => path.to_owned(),
        }
    }

    /// A fault after the request left.
    fn cut(self, reason: String) -> SecretsError {
        match self {
            Self::Login | Self::Read { .. } => unavailable(reason, None),
            Self::Change { path } => SecretsError::Unanswered {
                path: path.to_owned(),
            },
        }
    }
}

/// Maps a failed exchange.
pub(super) fn meaning(failure: Failure, doing: Doing<'_>) -> SecretsError {
    match failure {
        Failure::BadToken => SecretsError::LoginRefused {
            reason: "the token has characters that no Vault token has".to_owned(),
        },
        Failure::NotSent { reason } => unavailable(reason, None),
        Failure::NoOwnToken(error) => error,
        Failure::Cut { reason } => doing.cut(reason),
        Failure::Garbled => match doing {
            Doing::Login | Doing::Read { .. } => SecretsError::Unexpected {
                reason: format!("the body for {} is not Vault's form", doing.path()),
            },
            Doing::Change { .. } => doing.cut("the body is not Vault's form".to_owned()),
        },
        Failure::Refused(refusal) => refused(&refusal, doing),
    }
}

fn refused(refusal: &Refusal, doing: Doing<'_>) -> SecretsError {
    let wait = refusal.retry_after_seconds;
    match refusal.code {
        400 => bad_request(refusal, doing),
        401 | 403 => match doing {
            Doing::Login => SecretsError::LoginRefused {
                reason: words(refusal),
            },
            Doing::Read { .. } | Doing::Change { .. } => {
                SecretsError::Forbidden { path: doing.path() }
            }
        },
        404 | 405 => match doing {
            Doing::Login => SecretsError::LoginRefused {
                reason: "there is no such login method".to_owned(),
            },
            Doing::Read { path, version } if refusal.tombstone => SecretsError::VersionGone {
                path: path.to_owned(),
                version,
            },
            Doing::Read { .. } | Doing::Change { .. } => {
                SecretsError::Missing { path: doing.path() }
            }
        },
        // Vault answers these before it does anything: waiting for replication, quota, standby.
        412 | 429 | 472 | 473 => unavailable(status_words(refusal), wait),
        300..=399 => unavailable("standby node, another one is active".to_owned(), wait),
        503 if refusal.speaks_vault => unavailable(status_words(refusal), wait),
        500 if nobody_behind(refusal) => {
            unavailable("the engine cannot reach what it serves".to_owned(), wait)
        }
        500..=599 => match doing {
            Doing::Login | Doing::Read { .. } => unavailable(status_words(refusal), wait),
            Doing::Change { .. } => doing.cut(status_words(refusal)),
        },
        code => SecretsError::Unexpected {
            reason: format!("status {code} for {}", doing.path()),
        },
    }
}

fn bad_request(refusal: &Refusal, doing: Doing<'_>) -> SecretsError {
    match doing {
        Doing::Login => SecretsError::LoginRefused {
            reason: words(refusal),
        },
        Doing::Read { .. } | Doing::Change { .. } => {
            if refusal.says(&["unknown role", "role not found", "no handler for route"]) {
                return SecretsError::Missing { path: doing.path() };
            }
            SecretsError::Unexpected {
                reason: format!("status 400 for {}: {}", doing.path(), words(refusal)),
            }
        }
    }
}

/// Says whether an engine could not even connect to its database, so that nothing was made there.
fn nobody_behind(refusal: &Refusal) -> bool {
    refusal.says(&["failed to connect to", "error verifying connection"])
}

/// Says that Vault is away, with what it asked to wait.
pub(super) fn unavailable(reason: String, retry_after_seconds: Option<u64>) -> SecretsError {
    SecretsError::Unavailable {
        reason,
        retry_after_seconds,
    }
}

fn status_words(refusal: &Refusal) -> String {
    let sealed = |error: &String| error.to_lowercase().contains("sealed");
    match refusal.code {
        503 if refusal.errors.iter().any(sealed) => "sealed".to_owned(),
        429 => "429, too many requests".to_owned(),
        472 | 473 => "standby".to_owned(),
        code => format!("status {code}"),
    }
}

/// Returns Vault's words on one line, without anything that looks like a token.
pub(super) fn words(refusal: &Refusal) -> String {
    let text = refusal.errors.join("; ");
    let masked: Vec<&str> = text
        .split_whitespace()
        .map(|word| {
            if word.len() > 80 || word.contains("eyJ") || word.contains("hvs.") {
                "[removed]"
            } else {
                word
            }
        })
        .collect();
    let line: String = masked.join(" ").chars().take(WORDS_LIMIT).collect();
    if line.is_empty() {
        format!("status {}", refusal.code)
    } else {
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use deploy::class::Class;

    const READ: Doing<'_> = Doing::Read {
        path: "kv/flask",
        version: 3,
    };
    const CHANGE: Doing<'_> = Doing::Change {
        path: "database/creds/flask",
    };

    fn answered(code: u16, errors: &[&str]) -> Failure {
        Failure::Refused(Refusal {
            code,
            errors: errors.iter().map(|e| (*e).to_owned()).collect(),
            speaks_vault: true,
            ..Refusal::default()
        })
    }

    #[test]
    fn a_sealed_vault_is_away_for_reads_and_changes() {
        for doing in [READ, CHANGE, Doing::Login] {
            assert_eq!(
                meaning(answered(503, &["Vault is sealed"]), doing),
                unavailable("sealed".to_owned(), None)
            );
        }
    }

    #[test]
    fn a_change_that_was_cut_has_an_unknown_outcome_and_one_not_sent_has_none() {
        let reason = || "gone".to_owned();
        let cut = || Failure::Cut { reason: reason() };
        let not_sent = Failure::NotSent { reason: reason() };
        assert_eq!(meaning(cut(), CHANGE).class(), Class::OutcomeUnknown);
        assert_eq!(meaning(cut(), READ).class(), Class::Upstream);
        assert_eq!(meaning(not_sent, CHANGE).class(), Class::Upstream);
        assert_eq!(
            meaning(answered(500, &[]), CHANGE).class(),
            Class::OutcomeUnknown
        );
    }

    #[test]
    fn a_deleted_version_keeps_its_number() {
        let tombstone = Failure::Refused(Refusal {
            code: 404,
            tombstone: true,
            ..Refusal::default()
        });
        let expected = SecretsError::VersionGone {
            path: "kv/flask".to_owned(),
            version: 3,
        };
        assert_eq!(meaning(tombstone, READ), expected);
    }

    #[test]
    fn a_refused_login_tells_vaults_words_without_tokens() {
        let failure = answered(400, &["claim \"ref\" does not match", "got eyJhbGci.x.y"]);
        let expected = SecretsError::LoginRefused {
            reason: "claim \"ref\" does not match; got [removed]".to_owned(),
        };
        assert_eq!(meaning(failure, Doing::Login), expected);
    }

    #[test]
    fn an_unknown_role_is_missing_and_a_denied_path_is_forbidden() {
        let path = || "database/creds/flask".to_owned();
        assert_eq!(
            meaning(answered(400, &["unknown role: flask"]), CHANGE),
            SecretsError::Missing { path: path() }
        );
        assert_eq!(
            meaning(answered(403, &["permission denied"]), CHANGE),
            SecretsError::Forbidden { path: path() }
        );
    }

    #[test]
    fn a_database_that_is_down_made_no_credential() {
        let failure = answered(500, &["* failed to connect to `user=v`: dial error"]);
        assert_eq!(meaning(failure, CHANGE).class(), Class::Upstream);
    }

    #[test]
    fn throttling_keeps_the_wait() {
        let failure = Failure::Refused(Refusal {
            code: 429,
            retry_after_seconds: Some(4),
            ..Refusal::default()
        });
        let expected = unavailable("429, too many requests".to_owned(), Some(4));
        assert_eq!(meaning(failure, CHANGE), expected);
    }
}
