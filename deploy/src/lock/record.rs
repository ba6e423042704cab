//! The lock object as JSON: what a run writes into it, and what another one reads out of it.
//!
//! Pure. Used by [`super`] only. Invariant: the fencing number never goes down, so it is carried
//! through every write, also through the one that gives the lock back.

use std::time::Duration;

use serde_json::Value;
use serde_json::json;
use sha2::Digest as _;
use sha2::Sha256;

use crate::object::Gvk;
use crate::object::ObjectId;
use crate::object::number;
use crate::object::text;
use crate::ports::Branch;
use crate::principal::Principal;
use proto::ids::RunId;

/// How long a lock is held without a renewal.
pub(super) const DURATION: Duration = Duration::from_secs(30);

/// Annotations of the lock, beside the run in `spec.holderIdentity`.
const APP: &str = "state.quaymaster.dev/app";
const FILES: &str = "state.quaymaster.dev/files";
const JOB: &str = "state.quaymaster.dev/job";
const JOB_URL: &str = "state.quaymaster.dev/job-url";
const AGENT: &str = "state.quaymaster.dev/agent";

/// Who holds a lock, as far as it says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The run.
    pub run: String,
    /// The job's id; empty where it is not known.
    pub job: String,
    /// Where the job is looked at; empty where it is not known.
    pub url: String,
    /// The agent that carries the run out; empty where it is not known.
    pub agent: String,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "run {}", self.run)?;
        match (self.url.as_str(), self.job.as_str()) {
            ("", "") => {}
            ("", job) => write!(f, " of job {job}")?,
            (url, _) => write!(f, " of {url}")?,
        }
        if !self.agent.is_empty() {
            write!(f, " (agent {})", self.agent)?;
        }
        Ok(())
    }
}

impl Holder {
    /// Names the run of a principal.
    #[must_use]
    pub fn of(run: &RunId, principal: &Principal, agent: &str) -> Self {
        let job = principal.attribute("job_id").unwrap_or_default();
        Self {
            run: run.to_string(),
            job: job.to_owned(),
            url: principal.page("jobs", "job_id").unwrap_or_default(),
            agent: agent.to_owned(),
        }
    }
}

/// What a lock object says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) holder: Option<Holder>,
    pub(super) fence: u64,
    pub(super) duration: Duration,
    pub(super) renewed: String,
    pub(super) version: String,
}

/// What a lock is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// An app, by its name.
    App(String),
    /// A file or folder on a branch of a repository, in words.
    Files(String),
}

impl Subject {
    /// Names a file or folder of a branch.
    #[must_use]
    pub fn files(branch: &Branch, path: &str) -> Self {
        Self::Files(format!("{} on {branch}", path.trim_end_matches('/')))
    }

    fn annotation(&self) -> &'static str {
        match self {
            Self::App(_) => APP,
            Self::Files(_) => FILES,
        }
    }

    pub(super) fn words(&self) -> &str {
        match self {
            Self::App(words) | Self::Files(words) => words,
        }
    }
}

/// Returns the id of a lock.
pub(super) fn id(namespace: &str, subject: &Subject) -> ObjectId {
    let name = match subject {
        Subject::App(app) => format!("quaymaster-{app}"),
        // The name of an app has no dot, so none is like this.
        Subject::Files(words) => format!("quaymaster.files.{}", digest(words)),
    };
    ObjectId {
        gvk: Gvk::new("coordination.k8s.io/v1", "Lease"),
        namespace: Some(namespace.to_owned()),
        name,
    }
}

fn digest(words: &str) -> String {
    let digest = Sha256::digest(words.as_bytes());
    let digest = digest.iter().take(16);
    let number = digest.fold(0_u128, |number, byte| number << 8 | u128::from(*byte));
    format!("{number:032x}")
}

/// Reads a lock object.
pub(super) fn read(body: &Value) -> Record {
    let annotation = |name| text(body, &["metadata", "annotations", name]).to_owned();
    let run = text(body, &["spec", "holderIdentity"]);
    let whole = |name| number(body, &["spec", name]).and_then(|number| u64::try_from(number).ok());
    Record {
        holder: (!run.is_empty()).then(|| Holder {
            run: run.to_owned(),
            job: annotation(JOB),
            url: annotation(JOB_URL),
            agent: annotation(AGENT),
        }),
        fence: whole("leaseTransitions").unwrap_or(0),
        duration: whole("leaseDurationSeconds").map_or(DURATION, Duration::from_secs),
        renewed: text(body, &["spec", "renewTime"]).to_owned(),
        version: text(body, &["metadata", "resourceVersion"]).to_owned(),
    }
}

/// When a lock was taken and renewed, in the form that Kubernetes reads.
pub(super) struct Times {
    pub(super) acquired: String,
    pub(super) renewed: String,
}

/// Makes the lock object of a holder; `version` is the one to replace, unset makes a new object.
pub(super) fn held(
    id: &ObjectId,
    subject: &Subject,
    holder: &Holder,
    fence: u64,
    times: &Times,
    version: Option<&str>,
) -> Value {
    let mut body = frame(id, subject, fence, version);
    let said = [
        (JOB, &holder.job),
        (JOB_URL, &holder.url),
        (AGENT, &holder.agent),
    ];
    for (name, value) in said.into_iter().filter(|(_, value)| !value.is_empty()) {
        body["metadata"]["annotations"][name] = Value::from(value.clone());
    }
    body["spec"]["holderIdentity"] = Value::from(holder.run.clone());
    body["spec"]["leaseDurationSeconds"] = Value::from(DURATION.as_secs());
    body["spec"]["acquireTime"] = Value::from(times.acquired.clone());
    body["spec"]["renewTime"] = Value::from(times.renewed.clone());
    body
}

/// Makes the lock object that nobody holds.
pub(super) fn free(id: &ObjectId, subject: &Subject, fence: u64, version: &str) -> Value {
    frame(id, subject, fence, Some(version))
}

fn frame(id: &ObjectId, subject: &Subject, fence: u64, version: Option<&str>) -> Value {
    let mut body = json!({
        "apiVersion": id.gvk.api_version(),
        "kind": id.gvk.kind,
        "metadata": {
            "name": id.name,
            "namespace": id.namespace,
            "labels": { "app.kubernetes.io/managed-by": "quaymaster" },
            "annotations": { subject.annotation(): subject.words() },
        },
        "spec": { "leaseTransitions": fence },
    });
    if let Some(version) = version {
        body["metadata"]["resourceVersion"] = Value::from(version);
    }
    body
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::ports::BranchName;
    use crate::ports::GitAddress;
    use crate::principal::PrincipalKind;

    fn principal(pairs: &[(&str, &str)]) -> Principal {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let attributes: BTreeMap<String, String> = pairs.iter().map(own).collect();
        Principal::unchecked(PrincipalKind::GitlabJob, attributes)
    }

    #[test]
    fn a_lock_says_who_holds_it() {
        let claims = [
            ("iss", "https://gitlab.example.com/"),
            ("job_project_path", "team/app"),
            ("job_id", "7"),
        ];
        let holder = Holder::of(&RunId::from_bits(5), &principal(&claims), "host-a");
        assert_eq!(holder.url, "https://gitlab.example.com/team/app/-/jobs/7");
        let web = Subject::App("web".to_owned());
        let id = id("shop", &web);
        let times = Times {
            acquired: "2026-01-01T00:00:00.000000Z".to_owned(),
            renewed: "2026-01-01T00:00:10.000000Z".to_owned(),
        };
        let record = read(&held(&id, &web, &holder, 4, &times, Some("17")));
        assert_eq!(record.holder.as_ref(), Some(&holder));
        assert_eq!((record.fence, record.version.as_str()), (4, "17"));
        assert_eq!(record.renewed, times.renewed);
        assert_eq!(record.duration, DURATION);
    }

    #[test]
    fn a_free_lock_keeps_its_number() {
        let web = Subject::App("web".to_owned());
        let record = read(&free(&id("shop", &web), &web, 4, "18"));
        assert_eq!((record.holder, record.fence), (None, 4));
    }

    #[test]
    fn files_have_one_lock_for_each_path_of_a_branch() {
        let branch = |repository: &str, name: &str| Branch {
            repository: GitAddress::parse(repository).expect("good"),
            name: BranchName::parse(name).expect("good"),
        };
        let (one, two) = (
            "https://git.example.com/team/fleet.git",
            "https://git.example.com/team/other.git",
        );
        let names: std::collections::BTreeSet<String> = [
            (one, "main", "apps"),
            (two, "main", "apps"),
            (one, "next", "apps"),
            (one, "main", "apps/web"),
        ]
        .map(|(repository, name, path)| {
            id("shop", &Subject::files(&branch(repository, name), path)).name
        })
        .into();
        assert_eq!(names.len(), 4);
        let folder = Subject::files(&branch(one, "main"), "apps/");
        assert!(names.contains(&id("shop", &folder).name));
        assert!(
            names
                .iter()
                .all(|name| proto::ids::dns_subdomain(name).is_ok())
        );
        let body = free(&id("shop", &folder), &folder, 1, "1");
        let said = text(&body, &["metadata", "annotations", FILES]);
        assert_eq!(said, format!("apps on branch main of {one}"));
    }

    #[test]
    fn a_holder_without_claims_is_named_by_its_run() {
        let holder = Holder::of(&RunId::from_bits(5), &principal(&[("job_id", "7")]), "");
        assert_eq!(
            holder.to_string(),
            format!("run {} of job 7", RunId::from_bits(5))
        );
    }
}
