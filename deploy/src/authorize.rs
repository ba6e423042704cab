//! May they? The one place where a [`Permit`] is made.
//!
//! Two questions: [`admit`] before the body is read (is there any rule for this caller at all?), and
//! [`authorize`] on the parsed request (does one of these rules grant everything in it?). The
//! decision is made on the very objects that will be applied: they move into the permit.

use proto::ids::ClusterName;
use proto::ids::Namespace;
use proto::report::NearMiss;

use crate::object::Resource;
use crate::policy::Policy;
use crate::principal::Actor;
use crate::principal::Principal;
use crate::request::Request;

/// No.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("denied: {message}")]
pub struct Denial {
    /// The id of this decision, for the operator's log.
    pub decision: String,
    /// What is not granted, naming object, path or field of the caller's own request.
    pub message: String,
    /// What to do.
    pub hint: String,
    /// Rules of the caller's own project that almost matched.
    pub nearest: Vec<NearMiss>,
}

/// Proof that a principal may do a request. Not cloneable, consumed by its run.
#[derive(Debug)]
pub struct Permit {
    principal: Principal,
    actor: Actor,
    rule: String,
    decision: String,
    policy: String,
    cluster: ClusterName,
    namespace: Namespace,
    vault_role: Option<String>,
    request: Request,
}

impl Permit {
    /// Returns who asked.
    #[must_use]
    pub const fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Returns as whom the agent acts in the cluster.
    #[must_use]
    pub const fn actor(&self) -> &Actor {
        &self.actor
    }

    /// Returns the id of the rule that grants it.
    #[must_use]
    pub fn rule(&self) -> &str {
        &self.rule
    }

    /// Returns the id of the decision.
    #[must_use]
    pub fn decision(&self) -> &str {
        &self.decision
    }

    /// Returns the hash of the policy that granted it.
    #[must_use]
    pub fn policy(&self) -> &str {
        &self.policy
    }

    /// Returns the cluster.
    #[must_use]
    pub const fn cluster(&self) -> &ClusterName {
        &self.cluster
    }

    /// Returns the namespace.
    #[must_use]
    pub const fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Returns the Vault role of the rule.
    #[must_use]
    pub fn vault_role(&self) -> Option<&str> {
        self.vault_role.as_deref()
    }

    /// Returns the request, with every namespaced object's namespace filled in.
    #[must_use]
    pub const fn request(&self) -> &Request {
        &self.request
    }
}

/// Lists the ids of the rules that match a principal, and the nearest misses of its own project.
#[must_use]
pub fn explain(_policy: &Policy, _principal: &Principal) -> (Vec<String>, Vec<NearMiss>) {
    panic!("not written yet")
}

/// Says whether any rule matches the principal; asked before the body is read.
///
/// # Errors
/// The denial, with the nearest failing conditions of the caller's own project.
pub fn admit(_policy: &Policy, _principal: &Principal, _decision: &str) -> Result<(), Denial> {
    panic!("not written yet")
}

/// Makes the permit. `decision` is a fresh id that the caller brings. Whether a kind is namespaced
/// is told by built-in knowledge, or by `served` for kinds that the cluster defines.
///
/// # Errors
/// The denial, naming the first thing that the best matching rule does not grant.
pub fn authorize(
    _policy: &Policy,
    _principal: Principal,
    _request: Request,
    _served: &[Resource],
    _decision: &str,
) -> Result<Permit, Denial> {
    panic!("not written yet")
}
