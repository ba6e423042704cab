//! Does a rule match a principal, and if not, which condition fails first?
//!
//! Pure comparison of normalized attributes; a missing attribute never matches. Beside the rule's own
//! conditions two hold for every rule: no job of a fork, and no environment action that promises not
//! to deploy, unless the rule says otherwise.

use crate::policy::Condition;
use crate::policy::Rule;
use crate::policy::Subject;
use crate::principal::Principal;
use crate::principal::PrincipalKind;

/// Why a rule does not match.
pub(super) struct Failure {
    /// The attribute whose condition fails first.
    pub(super) attribute: String,
    /// What the rule wants and what the token has.
    pub(super) message: String,
    /// How many conditions fail.
    pub(super) failing: usize,
}

/// Returns the first failing condition; none if the rule matches.
pub(super) fn first_failure(rule: &Rule, principal: &Principal) -> Option<Failure> {
    let failures = rule
        .conditions
        .iter()
        .filter_map(|condition| unmet(condition, principal))
        .chain(fork(rule, principal))
        .chain(environment_action(rule, principal));
    let mut failures: Vec<(String, String)> = failures.collect();
    let failing = failures.len();
    failures.truncate(1);
    let (attribute, message) = failures.pop()?;
    Some(Failure {
        attribute,
        message,
        failing,
    })
}

/// Says whether a rule is about the caller's own project or group, so that its conditions may be
/// told: every condition that rights hang on holds.
pub(super) fn is_own(rule: &Rule, principal: &Principal) -> bool {
    let mut carrying = rule
        .conditions
        .iter()
        .filter(|condition| condition.subject.carries_rights())
        .peekable();
    carrying.peek().is_some() && carrying.all(|condition| unmet(condition, principal).is_none())
}

fn value<'p>(subject: &Subject, principal: &'p Principal) -> Option<&'p str> {
    match subject {
        Subject::Project => principal.project(),
        Subject::Claim(name) => principal.attribute(name),
        Subject::VaultMetadata(name) => match principal.kind() {
            PrincipalKind::VaultToken => principal.attribute(name),
            PrincipalKind::GitlabJob => None,
        },
    }
}

fn unmet(condition: &Condition, principal: &Principal) -> Option<(String, String)> {
    let given = value(&condition.subject, principal);
    let met = given.is_some_and(|text| condition.accepted.iter().any(|one| one.matches(text)));
    if met {
        return None;
    }
    let wanted: Vec<String> = condition
        .accepted
        .iter()
        .map(|one| format!("{:?}", one.as_str()))
        .collect();
    let key = condition.subject.key();
    let message = match given {
        Some(given) => format!(
            "the rule wants {}, the token has {given:?}",
            wanted.join(" or ")
        ),
        None => format!("the rule wants {}, the token has none", wanted.join(" or ")),
    };
    Some((key, message))
}

/// In a merge request pipeline of a fork the job runs in one project with code of another.
fn fork(rule: &Rule, principal: &Principal) -> Option<(String, String)> {
    if rule.allow_forks {
        return None;
    }
    let source = principal.attribute("project_id");
    let unmet = |attribute: &str, message: &str| Some((attribute.to_owned(), message.to_owned()));
    match (source, principal.attribute("job_project_id")) {
        (Some(source), Some(job)) if source == job => None,
        (Some(_), Some(_)) => unmet(
            "project_id",
            "the job runs code of another project (a fork), which the rule does not allow",
        ),
        (None, Some(_)) => unmet(
            "project_id",
            "the token does not tell which project's code the job runs",
        ),
        // Older GitLab: only the kind of pipeline tells.
        (Some(_), None) => match principal.attribute("pipeline_source") {
            Some("merge_request_event") => unmet(
                "pipeline_source",
                "a merge request pipeline may run code of a fork, which the rule does not allow, \
                 and this token does not tell (it has no job_project_id)",
            ),
            Some(_) => None,
            None => unmet(
                "job_project_id",
                "the token has neither job_project_id nor pipeline_source, so a fork cannot be \
                 told from the project",
            ),
        },
        (None, None) => None,
    }
}

/// `prepare`, `verify` and `access` skip GitLab's own approval of deploys.
fn environment_action(rule: &Rule, principal: &Principal) -> Option<(String, String)> {
    const NAME: &str = "environment_action";
    let named = Subject::Claim(NAME.to_owned());
    if rule.conditions.iter().any(|one| one.subject == named) {
        return None;
    }
    match principal.attribute(NAME) {
        None | Some("start" | "stop") => None,
        Some(other) => Some((
            NAME.to_owned(),
            format!(
                "the token has {other:?}; a rule takes only \"start\" and \"stop\" unless it lists \
                 others"
            ),
        )),
    }
}
