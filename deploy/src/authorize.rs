//! May they? The one place where a [`Permit`] is made.
//!
//! Two questions: [`admit`] before the body is read (is there any rule for this caller at all?), and
//! [`authorize`] on the parsed request (does one of these rules grant everything in it?). The
//! decision is made on the very objects that will be applied: they move into the permit.
//!
//! A third one, [`expose()`], is about values that the job itself gets: no cluster is part of it, and its
//! proof is an [`Exposure`].
//!
//! `matching` compares rules with the principal, `grant` a rule with the request (`charts` where its
//! chart comes from, `flux` which branch it changes, `images` which images it has and where they are looked
//! for), `scope` knows which kinds live in a namespace. Default deny; a rule of another
//! project is never told about.

mod charts;
mod expose;
mod flux;
mod grant;
mod images;
mod matching;
mod scope;
mod verbs;

use proto::ids::ClusterName;
use proto::ids::Namespace;
use proto::report::Mode;
use proto::report::NearMiss;

use crate::binding::Binding;
use crate::chart;
use crate::object::Object;
use crate::object::Resource;
use crate::policy::ClusterGrant;
use crate::policy::Policy;
use crate::policy::Rule;
use crate::policy::Verb;
use crate::principal::Actor;
use crate::principal::Principal;
use crate::request::Request;
use crate::request::Source;

pub use self::expose::Exposure;
pub use self::expose::expose;
use self::grant::Granted;
use self::grant::Refusal;

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
    grant: ClusterGrant,
    request: Request,
    /// For a promotion: to look at the environment that the images come from.
    origin: Option<Box<Self>>,
}

impl Permit {
    /// Gives out the permit to look at the environment whose images are promoted, once.
    pub fn take_origin(&mut self) -> Option<Self> {
        self.origin.take().map(|origin| *origin)
    }

    /// Shows that permit while it is there.
    #[must_use]
    pub fn origin(&self) -> Option<&Self> {
        self.origin.as_deref()
    }

    /// Adds objects that became known after the rest was granted: rendered ones, or those of a
    /// recorded revision. The same rule decides about them as about all others; `served` as in
    /// [`authorize`].
    ///
    /// # Errors
    /// The denial, naming the first object that the rule does not grant.
    pub fn complete(
        mut self,
        objects: Vec<Object>,
        served: &[Resource],
    ) -> Result<Self, Box<Denial>> {
        self.request.objects.extend(objects);
        let known = std::mem::take(&mut self.request.objects);
        let scopes = scope::Scopes::of(&known, served);
        self.request.objects.clone_from(&known);
        match grant::complete(&self.grant, &mut self.request, &self.namespace, &scopes) {
            Ok(()) => Ok(self),
            Err(refusal) => Err(Box::new(self.denial(refusal))),
        }
    }

    /// Puts the archive of the chart beside the files of the bundle, once it is fetched. What is in
    /// it is decided on by [`Self::complete`], as for any chart.
    #[must_use]
    pub fn with_chart(mut self, archive: Vec<u8>) -> Self {
        if let Source::Rendered(files) = &mut self.request.source {
            files.insert(chart::FETCHED.to_owned(), archive);
        }
        self
    }

    /// Makes the permit to put recorded objects of the same app back, by the rule that granted this
    /// one. Secrets from Vault are no part of it.
    ///
    /// # Errors
    /// The denial, naming the first object that the rule does not grant any more.
    pub fn sibling(&self, objects: Vec<Object>, served: &[Resource]) -> Result<Self, Box<Denial>> {
        let mut spec = self.request.spec.clone();
        spec.secrets.clear();
        let sibling = Self {
            principal: self.principal.clone(),
            actor: self.actor.clone(),
            rule: self.rule.clone(),
            decision: self.decision.clone(),
            policy: self.policy.clone(),
            cluster: self.cluster.clone(),
            namespace: self.namespace.clone(),
            vault_role: None,
            grant: self.grant.clone(),
            request: Request {
                mode: self.request.mode,
                spec,
                objects: Vec::new(),
                source: Source::Manifests,
                origin: None,
                binding: Binding::default(),
                notes: Vec::new(),
            },
            origin: None,
        };
        sibling.complete(objects, served)
    }

    /// Decides about a file of the repository that Flux reads, before it is changed.
    ///
    /// # Errors
    /// The denial, naming the file.
    pub fn may_change(&self, path: &str) -> Result<(), Box<Denial>> {
        let Some(flux) = &self.request.spec.flux else {
            return Ok(());
        };
        flux::file(&self.grant, flux, path).map_err(|refusal| Box::new(self.denial(refusal)))
    }

    fn denial(&self, refusal: Refusal) -> Denial {
        Denial {
            decision: self.decision.clone(),
            message: refusal.message,
            hint: refusal.hint,
            nearest: Vec::new(),
        }
    }

    /// Says whether the rule grants a verb for this app.
    #[must_use]
    pub fn may(&self, verb: Verb) -> bool {
        self.grant.verbs.contains(&verb)
    }

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

/// At most this many near misses are told.
const MAX_NEAREST: usize = 5;

/// Lists the ids of the rules that match a principal, and the nearest misses of its own project.
#[must_use]
pub fn explain(policy: &Policy, principal: &Principal) -> (Vec<String>, Vec<NearMiss>) {
    let matching = rules_for(policy, principal);
    let ids = matching.iter().map(|rule| rule.id.clone()).collect();
    (ids, nearest(policy, principal))
}

/// Says whether any rule matches the principal; asked before the body is read.
///
/// # Errors
/// The denial, with the nearest failing conditions of the caller's own project.
pub fn admit(policy: &Policy, principal: &Principal, decision: &str) -> Result<(), Denial> {
    admitted(policy, principal, decision).map(|_| ())
}

/// Makes the permit. `decision` is a fresh id that the caller brings. Whether a kind is namespaced
/// is told by built-in knowledge, by a CRD in the same bundle, or by `served` for kinds that the
/// cluster defines. A kind that none of them knows is taken as namespaced: had it been cluster
/// scoped, the API server would find no such path and refuse it before the first write. A promotion needs
/// a grant for both environments, which may be of two rules.
///
/// # Errors
/// The denial, naming the first thing that the best matching rule does not grant.
pub fn authorize(
    policy: &Policy,
    principal: Principal,
    request: Request,
    served: &[Resource],
    decision: &str,
) -> Result<Permit, Denial> {
    let mut permit = one(policy, principal, request, served, decision)?;
    let Some(asked) = permit.request.origin.take() else {
        return Ok(permit);
    };
    let name = asked.spec.name.clone();
    let made = one(policy, permit.principal.clone(), *asked, &[], decision);
    let made = made.map_err(|denial| Denial {
        message: format!("promoting from {name}: {}", denial.message),
        ..denial
    })?;
    permit.origin = Some(Box::new(made));
    Ok(permit)
}

/// Makes the permit of one environment.
fn one(
    policy: &Policy,
    principal: Principal,
    request: Request,
    served: &[Resource],
    decision: &str,
) -> Result<Permit, Denial> {
    let (actor, rules) = match request.mode {
        Mode::Deploy | Mode::DryRun | Mode::Rollback => admitted(policy, &principal, decision)?,
        Mode::Rotation => kept_fresh(policy, &principal, decision)?,
    };
    let scopes = scope::Scopes::of(&request.objects, served);
    let mut best: Option<Refusal> = None;
    for rule in rules {
        match grant::decide(rule, &request, &scopes) {
            Ok(granted) => {
                return Ok(permit(policy, principal, actor, decision, granted, request));
            }
            Err(refusal)
                if best
                    .as_ref()
                    .is_none_or(|best| refusal.passed > best.passed) =>
            {
                best = Some(refusal);
            }
            Err(_) => {}
        }
    }
    let refusal = best.unwrap_or_else(Refusal::nothing);
    Err(Denial {
        decision: decision.to_owned(),
        message: refusal.message,
        hint: refusal.hint,
        nearest: nearest(policy, &principal),
    })
}

/// Says as whom a caller may look at the apps of a namespace: a rule that matches has to grant it.
///
/// # Errors
/// The denial, the same for namespaces that exist and those that do not.
pub fn look(
    policy: &Policy,
    principal: &Principal,
    cluster: &ClusterName,
    namespace: &Namespace,
    decision: &str,
) -> Result<Actor, Denial> {
    let (actor, rules) = admitted(policy, principal, decision)?;
    let grants = |rule: &&Rule| {
        rule.clusters.get(cluster).is_some_and(|grant| {
            let mut namespaces = grant.namespaces.iter();
            namespaces.any(|pattern| pattern.matches(namespace.as_str()))
        })
    };
    if rules.iter().any(grants) {
        return Ok(actor);
    }
    Err(Denial {
        decision: decision.to_owned(),
        message: format!("namespace {namespace} of cluster {cluster} is not granted"),
        hint: "ask the operator to extend the rule, naming the decision id".to_owned(),
        nearest: Vec::new(),
    })
}

/// Returns the actor and the matching rules, at least one.
fn admitted<'p>(
    policy: &'p Policy,
    principal: &Principal,
    decision: &str,
) -> Result<(Actor, Vec<&'p Rule>), Denial> {
    let denial = denial(policy, principal, decision);
    let rules = rules_for(policy, principal);
    if rules.is_empty() {
        return Err(denial(
            "no rule of the operator's policy matches this caller",
            "`quaymaster whoami` shows the caller as the agent sees it and the nearest condition \
             that fails; for a new rule give the operator the decision id",
        ));
    }
    let Some(actor) = Actor::of(principal) else {
        return Err(denial(
            "the token names no job, so the cluster could not be told who acts",
            "send the job's id_token, or let the Vault role's claim_mappings copy job_id and \
             project_id into the token's metadata",
        ));
    };
    Ok((actor, rules))
}

/// Makes denials of one decision, with the nearest misses of the principal.
fn denial<'p>(
    policy: &'p Policy,
    principal: &'p Principal,
    decision: &'p str,
) -> impl Fn(&str, &str) -> Denial + use<'p> {
    move |message, hint| Denial {
        decision: decision.to_owned(),
        message: message.to_owned(),
        hint: hint.to_owned(),
        nearest: nearest(policy, principal),
    }
}

/// As [`admitted`], for what outlives its job: the cluster sees the project instead of a job.
fn kept_fresh<'p>(
    policy: &'p Policy,
    owner: &Principal,
    decision: &str,
) -> Result<(Actor, Vec<&'p Rule>), Denial> {
    let denial = denial(policy, owner, decision);
    let rules = rules_for(policy, owner);
    if rules.is_empty() {
        return Err(denial(
            "no rule of the operator's policy matches the owner of these Secrets any more",
            "deploy them again, or ask the operator to extend the rule, naming the decision id",
        ));
    }
    let Some(actor) = Actor::of_project(owner) else {
        return Err(denial(
            "the owner of these Secrets names no project",
            "deploy them again with an id_token",
        ));
    };
    Ok((actor, rules))
}

fn rules_for<'p>(policy: &'p Policy, principal: &Principal) -> Vec<&'p Rule> {
    let rules = policy.rules().iter();
    rules
        .filter(|rule| matching::first_failure(rule, principal).is_none())
        .collect()
}

/// Lists the rules of the caller's own project that do not match, the nearest first.
fn nearest(policy: &Policy, principal: &Principal) -> Vec<NearMiss> {
    let mut found: Vec<(usize, NearMiss)> = policy
        .rules()
        .iter()
        .filter(|rule| matching::is_own(rule, principal))
        .filter_map(|rule| {
            let failure = matching::first_failure(rule, principal)?;
            let miss = NearMiss {
                rule: rule.id.clone(),
                attribute: failure.attribute,
                message: failure.message,
            };
            Some((failure.failing, miss))
        })
        .collect();
    found.sort_by_key(|(failing, _)| *failing);
    found.truncate(MAX_NEAREST);
    found.into_iter().map(|(_, miss)| miss).collect()
}

/// The one place where a permit comes into being.
fn permit(
    policy: &Policy,
    principal: Principal,
    actor: Actor,
    decision: &str,
    granted: Granted,
    mut request: Request,
) -> Permit {
    grant::settle(&mut request, &granted);
    Permit {
        principal,
        actor,
        rule: granted.rule,
        decision: decision.to_owned(),
        policy: policy.hash().to_owned(),
        cluster: granted.cluster,
        namespace: granted.namespace,
        vault_role: granted.vault_role,
        grant: granted.grant,
        request,
        origin: None,
    }
}

#[cfg(test)]
mod tests;
