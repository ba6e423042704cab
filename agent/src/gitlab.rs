//! Tells GitLab how runs stand: a commit status when one begins and when it ends.
//!
//! Made by `app` where `[gitlab]` is configured; [`crate::runs`] starts one [`Herald`] a run. The request is the
//! one that GitLab documents as "Set the commit status" (docs.gitlab.com/api/commits): `POST
//! /api/v4/projects/:id/statuses/:sha` with `state`, `name`, `target_url`, `description`, `ref` and
//! `pipeline_id`, and the token in `PRIVATE-TOKEN`. Invariants: nothing here changes a run or waits in its way;
//! calls are bounded in time and number; the token is read from its file for each call, goes to the configured
//! address alone, and is in no log. Project, commit and pipeline are those of the verified token.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use deploy::principal::Principal;
use deploy::principal::PrincipalKind;
use deploy::secret::Secret;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use proto::report::Mode;
use proto::report::Report;
use proto::report::Status;
use reqwest::Client;
use reqwest::StatusCode;
use reqwest::Url;
use reqwest::header::CONTENT_TYPE;
use reqwest::header::HeaderValue;
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::auth::http_client;
use crate::config::GitLabApi;
use crate::telemetry::Chain;

/// The longest that one call takes.
const LIMIT: Duration = Duration::from_secs(5);
/// What is waited before each repetition of a call that got no answer, or one that may be better later.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];
/// GitLab takes so many characters of a description, a name and an address.
const LONGEST: usize = 255;
/// A token is far shorter.
const FILE_LIMIT: usize = 4 << 10;

/// Follows one run and tells GitLab; ends after the run, or with the token.
pub type Herald = Box<
    dyn FnOnce(watch::Receiver<Arc<Report>>, CancellationToken) -> BoxFuture<'static, ()> + Send,
>;

/// Whether GitLab knows of a run already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// It begins.
    No,
    /// It goes on after a restart.
    FromBefore,
}

/// GitLab's interface for commit statuses.
pub struct Statuses {
    http: Client,
    base: Url,
    token_file: PathBuf,
}

/// Why the settings give no client.
#[derive(Debug, thiserror::Error)]
#[error("gitlab.{key}: {problem}")]
pub struct StatusesError {
    /// The setting.
    key: &'static str,
    /// What is wrong and what is expected.
    problem: String,
}

/// Why GitLab does not have a status.
#[derive(Debug, thiserror::Error)]
enum PostError {
    #[error("{} cannot be read: {problem}", file.display())]
    Token { file: PathBuf, problem: String },
    #[error("it answered {0}")]
    Refused(StatusCode),
    #[error("it did not answer")]
    Silent(#[source] reqwest::Error),
}

impl PostError {
    /// Says whether the same call may be taken later.
    fn may_pass(&self) -> bool {
        match self {
            Self::Token { .. } => false,
            Self::Refused(status) => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            Self::Silent(_) => true,
        }
    }
}

/// What a status is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    project: String,
    sha: String,
    reference: Option<String>,
    pipeline: Option<String>,
    name: String,
    page: Option<String>,
}

impl Subject {
    /// Reads it from a job's verified claims; nothing for callers that are no job of a commit.
    #[must_use]
    pub fn of(principal: &Principal, app: &str, namespace: &str) -> Option<Self> {
        if principal.kind() != PrincipalKind::GitlabJob {
            return None;
        }
        let digits = |text: &&str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let hex = |text: &&str| text.len() >= 8 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let project = principal.project().filter(digits)?.to_owned();
        let sha = principal.attribute("sha").filter(hex)?.to_owned();
        let place = principal.attribute("environment").unwrap_or(namespace);
        let own = |name: &str| principal.attribute(name).map(str::to_owned);
        Some(Self {
            project,
            sha,
            reference: own("ref"),
            pipeline: principal
                .attribute("pipeline_id")
                .filter(digits)
                .map(str::to_owned),
            name: cut(&format!("quaymaster/{app}/{place}")),
            page: principal
                .page("jobs", "job_id")
                .filter(|page| page.len() <= LONGEST),
        })
    }
}

/// The members that GitLab documents.
#[derive(Debug, Serialize)]
struct Posted<'a> {
    state: &'static str,
    name: &'a str,
    description: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_url: Option<&'a str>,
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    reference: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pipeline_id: Option<&'a str>,
}

fn posted<'a>(subject: &'a Subject, report: &Report) -> Posted<'a> {
    let first = report.message.lines().next().unwrap_or_default();
    Posted {
        state: state(report.status),
        name: &subject.name,
        description: cut(first),
        target_url: subject.page.as_deref(),
        reference: subject.reference.as_deref(),
        pipeline_id: subject.pipeline.as_deref(),
    }
}

/// GitLab's word.
const fn state(status: Status) -> &'static str {
    match status {
        Status::Running => "running",
        Status::Succeeded => "success",
        Status::Cancelled => "canceled",
        Status::Failed
        | Status::RolledBack
        | Status::RollbackFailed
        | Status::Denied
        | Status::Invalid
        | Status::Superseded
        | Status::Interrupted => "failed",
    }
}

fn cut(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

impl Statuses {
    /// Makes the client; nothing is sent.
    ///
    /// # Errors
    /// The address or the CA is not usable.
    pub fn new(settings: &GitLabApi) -> Result<Self, StatusesError> {
        let made = http_client(&settings.url, settings.ca_file.as_deref());
        let (base, http) = made.map_err(|error| StatusesError {
            key: error.key,
            problem: error.problem,
        })?;
        Ok(Self {
            http,
            base,
            token_file: settings.token_file.clone(),
        })
    }

    /// Makes what tells GitLab about one run; nothing for runs that write nothing or are no job's.
    #[must_use]
    pub fn herald(
        self: &Arc<Self>,
        principal: &Principal,
        mode: Mode,
        (app, namespace): (&str, &str),
        known: Known,
    ) -> Option<Herald> {
        match mode {
            Mode::Deploy | Mode::Rollback => {}
            Mode::DryRun | Mode::Rotation => return None,
        }
        let subject = Subject::of(principal, app, namespace)?;
        let statuses = Arc::clone(self);
        Some(Box::new(move |reports, stop| {
            async move { statuses.follow(&subject, known, reports, stop).await }.boxed()
        }))
    }

    async fn follow(
        &self,
        subject: &Subject,
        known: Known,
        mut reports: watch::Receiver<Arc<Report>>,
        stop: CancellationToken,
    ) {
        let first = Arc::clone(&reports.borrow());
        if known == Known::No && !first.status.is_final() {
            self.tell(subject, &first).await;
        }
        let last = tokio::select! {
            biased;
            // A report that is final stays so; the token stays cancelled.
            last = reports.wait_for(|report| report.status.is_final()) => {
                last.ok().map(|report| Arc::clone(&report))
            }
            () = stop.cancelled() => None,
        };
        if let Some(last) = last {
            self.tell(subject, &last).await;
        }
    }

    /// Posts a status, again where that may help; what stays refused is the operator's to know.
    async fn tell(&self, subject: &Subject, report: &Report) {
        let mut pauses = PAUSES.into_iter();
        let error = loop {
            let error = match self.post(subject, report).await {
                Ok(()) => return,
                Err(error) => error,
            };
            match pauses.next().filter(|_| error.may_pass()) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => break error,
            }
        };
        tracing::warn!(
            run = %report.id,
            project = subject.project,
            state = state(report.status),
            error = %Chain(&error),
            "GitLab has no commit status of this run, which is not affected; gitlab.token_file has to hold a token \
             with the scope api and the role Developer in the project"
        );
    }

    async fn post(&self, subject: &Subject, report: &Report) -> Result<(), PostError> {
        let token = self.token().await?;
        let mut value = HeaderValue::from_bytes(token.reveal())
            .map_err(|_shown_nowhere| self.unusable("it does not hold one word of ASCII text"))?;
        value.set_sensitive(true);
        let base = self.base.as_str().trim_end_matches('/');
        let Subject { project, sha, .. } = subject;
        let url = format!("{base}/api/v4/projects/{project}/statuses/{sha}");
        // Texts always have a JSON form.
        let body = serde_json::to_vec(&posted(subject, report)).unwrap_or_default();
        let sent = self
            .http
            .post(url)
            .timeout(LIMIT)
            .header("PRIVATE-TOKEN", value)
            .header(CONTENT_TYPE, "application/json")
            .body(body)
            .send()
            .await;
        let status = sent
            .map_err(|error| PostError::Silent(error.without_url()))?
            .status();
        if status.is_success() {
            Ok(())
        } else {
            Err(PostError::Refused(status))
        }
    }

    /// Reads the token anew, as it is replaced from time to time.
    async fn token(&self) -> Result<Secret, PostError> {
        let read = tokio::fs::read(&self.token_file).await;
        let mut bytes = read.map_err(|error| self.unusable(&error.to_string()))?;
        let end = bytes.trim_ascii_end().len();
        bytes.truncate(end);
        let token = Secret::new(bytes);
        if token.is_empty() || token.len() > FILE_LIMIT {
            return Err(self.unusable("it does not hold one word of ASCII text"));
        }
        Ok(token)
    }

    fn unusable(&self, problem: &str) -> PostError {
        PostError::Token {
            file: self.token_file.clone(),
            problem: problem.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(pairs: &[(&str, &str)]) -> Principal {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Principal::unchecked(PrincipalKind::GitlabJob, pairs.iter().map(own).collect())
    }

    const SHA: &str = "6d1f0e2c9b8a7f6e5d4c3b2a190817263544f3e2";

    fn whole() -> Principal {
        job(&[
            ("iss", "https://gitlab.example.com"),
            ("project_id", "42"),
            ("project_path", "team/shop"),
            ("job_id", "7"),
            ("pipeline_id", "5001"),
            ("environment", "production"),
            ("ref", "main"),
            ("sha", SHA),
        ])
    }

    fn report(status: Status, message: &str) -> Report {
        serde_json::from_value(serde_json::json!({
            "id": "r00000000000000000000000000000001", "mode": "deploy", "name": "shop",
            "cluster": "prod", "namespace": "shop", "status": status, "started": "x",
            "message": message, "steps": [], "causes": [], "warnings": [],
        }))
        .expect("a report")
    }

    #[test]
    fn a_status_has_the_documented_members() {
        let subject = Subject::of(&whole(), "shop", "shop-ns").expect("a job of a commit");
        let report = report(Status::RolledBack, "first line\nsecond line");
        let body = serde_json::to_value(posted(&subject, &report)).expect("it has a JSON form");
        let expected = serde_json::json!({
            "state": "failed",
            "name": "quaymaster/shop/production",
            "description": "first line",
            "target_url": "https://gitlab.example.com/team/shop/-/jobs/7",
            "ref": "main",
            "pipeline_id": "5001",
        });
        assert_eq!(body, expected);
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let subject = Subject::of(&whole(), "shop", "shop-ns").expect("a job of a commit");
        let report = report(Status::Succeeded, &"ä".repeat(300));
        assert_eq!(posted(&subject, &report).description.chars().count(), 255);
    }

    #[test]
    fn only_a_job_of_a_commit_has_a_status() {
        let without = |name: &str| {
            let mut claims = whole().attributes().clone();
            claims.remove(name);
            Principal::unchecked(PrincipalKind::GitlabJob, claims)
        };
        for name in ["sha", "project_id"] {
            assert_eq!(Subject::of(&without(name), "shop", "ns"), None, "{name}");
        }
        let plain = Subject::of(&without("environment"), "shop", "ns").expect("a job");
        assert_eq!(plain.name, "quaymaster/shop/ns");
        let odd = job(&[("project_id", "42/../1"), ("sha", SHA)]);
        assert_eq!(Subject::of(&odd, "shop", "ns"), None);
        let holder = Principal::unchecked(PrincipalKind::VaultToken, whole().attributes().clone());
        assert_eq!(Subject::of(&holder, "shop", "ns"), None);
    }

    #[test]
    fn every_end_has_a_word_of_gitlabs() {
        assert_eq!(state(Status::Succeeded), "success");
        assert_eq!(state(Status::Cancelled), "canceled");
        assert_eq!(state(Status::Superseded), "failed");
        assert_eq!(state(Status::Running), "running");
    }
}
