//! The query of a request, strictly: what is unknown or repeated is refused.
//!
//! A misspelt `dry_run` must not deploy. Values are taken literally, nothing is decoded: no valid
//! value needs it. Used by [`super::guard`] and the handlers.

use std::time::Duration;

use proto::ids::RunId;
use proto::report::Mode;

use super::answer::Refusal;
use crate::config::digits;
use crate::config::duration;

/// The longest long poll.
const MAX_WAIT: Duration = Duration::from_secs(3_600);
/// The longest page of runs.
const MAX_LIMIT: usize = 100;
/// The longest path in a bundle.
const MAX_PATH: usize = 240;
/// The page of runs unless asked otherwise.
const DEFAULT_LIMIT: usize = 20;

/// The parameters of one request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Query {
    pairs: Vec<(&'static str, String)>,
}

impl Query {
    /// Reads a query; `allowed` are the names that the endpoint takes.
    ///
    /// # Errors
    /// 400 for unknown, repeated or nameless parameters.
    pub fn parse(raw: Option<&str>, allowed: &'static [&'static str]) -> Result<Self, Refusal> {
        let mut pairs: Vec<(&'static str, String)> = Vec::new();
        for part in raw
            .unwrap_or_default()
            .split('&')
            .filter(|part| !part.is_empty())
        {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            if matches!(
                name,
                "token" | "access_token" | "id_token" | "private_token"
            ) {
                return Err(Refusal::bad("the URL holds a token").hint(
                    "send the token in the Authorization header, and renew the one that was sent",
                ));
            }
            let Some(known) = allowed.iter().find(|known| **known == name) else {
                let taken = match allowed {
                    [] => "no parameters".to_owned(),
                    names => names.join(", "),
                };
                return Err(
                    Refusal::bad("the query has a parameter that does not exist here")
                        .hint(format!("this path takes {taken}")),
                );
            };
            if pairs.iter().any(|(seen, _)| seen == known) {
                return Err(Refusal::bad(format!("the query has `{known}` twice")));
            }
            pairs.push((known, value.to_owned()));
        }
        Ok(Self { pairs })
    }

    fn value(&self, name: &str) -> Option<&str> {
        let found = self.pairs.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Reads `dry_run`.
    ///
    /// # Errors
    /// Neither `true` nor `false`.
    pub fn mode(&self) -> Result<Mode, Refusal> {
        match self.value("dry_run") {
            None | Some("false") => Ok(Mode::Deploy),
            Some("true") => Ok(Mode::DryRun),
            Some(_) => Err(expected("dry_run", "`true` or `false`")),
        }
    }

    /// Reads `plan`: a file of the bundle.
    ///
    /// # Errors
    /// Empty, or with characters that would have to be encoded.
    pub fn plan(&self) -> Result<Option<String>, Refusal> {
        self.file("plan")
    }

    /// Reads `promote`: a file of the bundle.
    ///
    /// # Errors
    /// As for [`Self::plan`].
    pub fn promote(&self) -> Result<Option<String>, Refusal> {
        self.file("promote")
    }

    fn file(&self, name: &'static str) -> Result<Option<String>, Refusal> {
        let Some(text) = self.value(name) else {
            return Ok(None);
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
        if text.is_empty() || text.len() > MAX_PATH || !text.bytes().all(plain) {
            return Err(expected(
                name,
                "the path of a file of the bundle, of letters, digits and `._-/`",
            ));
        }
        Ok(Some(text.to_owned()))
    }

    /// Reads `since`.
    ///
    /// # Errors
    /// Not a whole number.
    pub fn since(&self) -> Result<u64, Refusal> {
        let Some(text) = self.value("since") else {
            return Ok(0);
        };
        digits(text).ok_or_else(|| expected("since", "the seq of the last event that you have"))
    }

    /// Reads `wait`; none is zero.
    ///
    /// # Errors
    /// Not a duration up to an hour.
    pub fn wait(&self) -> Result<Duration, Refusal> {
        let Some(text) = self.value("wait") else {
            return Ok(Duration::ZERO);
        };
        let wait = if text == "0" {
            Some(Duration::ZERO)
        } else {
            duration(text)
        };
        wait.filter(|wait| *wait <= MAX_WAIT)
            .ok_or_else(|| expected("wait", "a duration up to 1h, such as `90s` or `10m`"))
    }

    /// Reads `limit`.
    ///
    /// # Errors
    /// Not between 1 and 100.
    pub fn limit(&self) -> Result<usize, Refusal> {
        let Some(text) = self.value("limit") else {
            return Ok(DEFAULT_LIMIT);
        };
        let limit = digits(text).and_then(|limit| usize::try_from(limit).ok());
        limit
            .filter(|limit| (1..=MAX_LIMIT).contains(limit))
            .ok_or_else(|| expected("limit", "a number from 1 to 100"))
    }

    /// Reads `after`.
    ///
    /// # Errors
    /// Not the id of a run.
    pub fn after(&self) -> Result<Option<RunId>, Refusal> {
        let id = self.value("after").map(str::parse).transpose();
        id.map_err(|_malformed| expected("after", "the `next` of the page before"))
    }
}

fn expected(name: &str, what: &str) -> Refusal {
    Refusal::bad(format!("the query parameter `{name}` has a bad value"))
        .hint(format!("expected {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(raw: &str, allowed: &'static [&'static str]) -> Result<Query, u16> {
        Query::parse(Some(raw), allowed).map_err(|refusal| refusal.problem.status)
    }

    #[test]
    fn unknown_and_repeated_parameters_are_refused() {
        let allowed = &["dry_run"];
        for raw in [
            "dryrun=true",
            "dry-run=true",
            "dry_run=true&dry_run=true",
            "x",
            "DRY_RUN=true",
            "=1",
            "dry%5Frun=true",
        ] {
            assert_eq!(parse(raw, allowed), Err(400), "{raw}");
        }
        assert!(parse("token=abc", &["token"]).is_err());
        assert_eq!(parse("", allowed), Ok(Query::default()));
    }

    #[test]
    fn dry_run_is_true_or_false_and_nothing_else() {
        let mode = |raw| {
            parse(raw, &["dry_run"])?
                .mode()
                .map_err(|r| r.problem.status)
        };
        assert_eq!(mode("dry_run=true"), Ok(Mode::DryRun));
        assert_eq!(mode("dry_run=false"), Ok(Mode::Deploy));
        for raw in [
            "dry_run",
            "dry_run=",
            "dry_run=1",
            "dry_run=True",
            "dry_run=%74rue",
        ] {
            assert_eq!(mode(raw), Err(400), "{raw}");
        }
    }

    #[test]
    fn a_plan_is_a_plain_path() {
        let plan = |raw| parse(raw, &["plan"])?.plan().map_err(|r| r.problem.status);
        assert_eq!(plan(""), Ok(None));
        assert_eq!(plan("plan=a/.b-c.json"), Ok(Some("a/.b-c.json".to_owned())));
        for raw in ["plan", "plan=", "plan=a%2fb", "plan=a+b"] {
            assert_eq!(plan(raw), Err(400), "{raw}");
        }
    }

    #[test]
    fn waits_are_durations_up_to_an_hour() {
        let wait = |raw| parse(raw, &["wait"])?.wait().map_err(|r| r.problem.status);
        assert_eq!(wait("wait=600s"), Ok(Duration::from_secs(600)));
        assert_eq!(wait("wait=0"), Ok(Duration::ZERO));
        for raw in [
            "wait=10",
            "wait=-1s",
            "wait=2h",
            "wait=s",
            "wait=1m1h",
            "wait=99999999999999999999s",
        ] {
            assert_eq!(wait(raw), Err(400), "{raw}");
        }
    }
}
