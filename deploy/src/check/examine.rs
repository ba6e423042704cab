//! One object before the first write: dry runs until it is known on what terms it can be written.
//!
//! Called by [`super::dry_run`]. A dry run that meets other managers is judged field by field and
//! asked again on the terms that came out of it, at most a few times. Nothing is changed here.

use std::collections::BTreeMap;

use proto::report::FieldChange;
use serde_json::Value;

use super::fields;
use super::fields::Contested;
use super::fixed;
use super::fixed::Obstacle;
use crate::backoff::Patience;
use crate::backoff::Trouble;
use crate::class::Class;
use crate::field::FieldPath;
use crate::managers;
use crate::object::AppliedObject;
use crate::object::text;
use crate::options::Options;
use crate::plan::Content;
use crate::plan::Live;
use crate::plan::Step;
use crate::plan::cluster_trouble;
use crate::ports::ClusterError;
use crate::ports::Deletion;
use crate::ports::Dependents;
use crate::ports::FieldConflict;
use crate::ports::Force;
use crate::ports::Payload;
use crate::ports::Ports;
use crate::ports::Write;
use crate::principal::Actor;
use crate::secret::Secret;
use crate::spec::Spec;
use crate::spec::conflicts::Then;
use crate::terms;
use crate::terms::Replaced;
use crate::terms::Terms;

/// Dry runs of one object: the first, one for each way in which terms can grow, and one to spare.
const ROUNDS: usize = 5;

/// The manager under which Kubernetes' own autoscaler writes replicas.
const CONTROLLER: &str = "kube-controller-manager";

/// What is examined, and with what.
pub(super) struct Case<'a> {
    pub(super) step: &'a Step,
    pub(super) writer: Writer,
    pub(super) live: Option<&'a Value>,
    pub(super) spec: &'a Spec,
    pub(super) scaled: Scaling,
    pub(super) data: Option<BTreeMap<String, Secret>>,
    pub(super) actor: &'a Actor,
    pub(super) ports: &'a Ports,
    pub(super) patience: &'a Patience<'a>,
}

/// Who writes the object later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writer {
    /// This agent.
    Agent,
    /// Helm, whose own manager has the fields of a chart's objects; it will ask about others.
    Helm,
}

/// Whether an autoscaler sets the replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scaling {
    /// It does.
    Auto,
    /// The manifest does.
    Manifest,
}

/// How an object can be written.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) terms: Terms,
    /// What is sent.
    pub(super) body: Value,
    pub(super) notes: Vec<String>,
    pub(super) outcome: Outcome,
}

/// What writing would do.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The server would have this.
    Applies(AppliedObject, Value),
    /// The object has to go first, because these fields cannot change.
    Recreates(Vec<FieldChange>),
}

/// Why an object cannot be written.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The server's answer.
    Cluster(ClusterError),
    /// Fields of others that no rule gives away.
    Contested(Vec<Contested>),
    /// Fields that cannot change.
    Fixed(Vec<FieldChange>, Obstacle),
}

/// Returns what is there, without the values of a Secret.
pub(super) const fn body_of(live: &Live) -> Option<&Value> {
    match live {
        Live::Absent => None,
        Live::Object(body) => Some(body),
        Live::Secret(view) => Some(&view.rest),
    }
}

impl Case<'_> {
    /// Finds the terms.
    pub(super) async fn examine(&self) -> Result<Finding, Refusal> {
        let Some(live) = self.live else {
            return self.plainly(Force::No).await;
        };
        if self.writer == Writer::Helm {
            return self.plainly(Force::Take).await;
        }
        let id = &self.step.id;
        let mut round = Round::begin(self, live);
        for _ in 0..ROUNDS {
            let mut body = self.step.content.body().clone();
            terms::shape(
                &id.gvk,
                &mut body,
                live,
                &round.terms.leave,
                &self.spec.adopt,
            );
            match self.ask(&body, round.force).await {
                Ok((applied, after)) => return Ok(round.done(self, live, body, applied, after)),
                Err(ClusterError::Conflict { fields, object }) => {
                    if !round.judge(self, live, &fields)? {
                        let error = ClusterError::Conflict { fields, object };
                        return Err(Refusal::Cluster(error));
                    }
                }
                Err(ClusterError::Invalid { causes, object }) => {
                    if fixed::all_fixed(&causes) {
                        return self.anew(round, live, body, &causes).await;
                    }
                    let error = ClusterError::Invalid { causes, object };
                    return self.without_leftovers(round, live, body, error).await;
                }
                Err(error) => return Err(Refusal::Cluster(error)),
            }
        }
        Err(Refusal::Cluster(ClusterError::Raced {
            object: id.to_string(),
        }))
    }

    /// Asks once, on no terms.
    async fn plainly(&self, force: Force) -> Result<Finding, Refusal> {
        let body = self.step.content.body();
        let asked = self.ask(body, force).await;
        let (applied, after) = asked.map_err(Refusal::Cluster)?;
        Ok(Finding {
            terms: Terms::default(),
            body: body.clone(),
            notes: Vec::new(),
            outcome: Outcome::Applies(applied, after),
        })
    }

    async fn ask(
        &self,
        body: &Value,
        force: Force,
    ) -> Result<(AppliedObject, Value), ClusterError> {
        let payload = || with_body(&self.step.content, body, self.data.as_ref());
        let cluster = &self.ports.cluster;
        self.patience
            .retry(
                || cluster.apply(self.actor, &self.step.id, payload(), Write::DryRun, force),
                harmless,
            )
            .await
    }

    /// A refusal may come from fields that go with the ownership that moves: the server cannot be
    /// asked about two writes at once, so it is asked about what both together would make.
    async fn without_leftovers(
        &self,
        round: Round,
        live: &Value,
        body: Value,
        error: ClusterError,
    ) -> Result<Finding, Refusal> {
        let id = &self.step.id;
        let gone = terms::leftovers(&id.gvk, &body, live, &self.spec.adopt);
        if gone.is_empty() || id.gvk.is("", "Secret") {
            return Err(Refusal::Cluster(error));
        }
        let patch = terms::simulated(&id.gvk, &body, live, &gone);
        let cluster = &self.ports.cluster;
        let asked = self
            .patience
            .retry(
                || cluster.patch(self.actor, id, &patch, Write::DryRun),
                harmless,
            )
            .await;
        match asked {
            Ok(after) => {
                let applied = AppliedObject::of(id.clone(), &after);
                Ok(round.done(self, live, body, applied, after))
            }
            Err(ClusterError::Invalid { causes, .. }) if fixed::all_fixed(&causes) => {
                self.anew(round, live, body, &causes).await
            }
            // The refusal of the object itself says more than that of the patch.
            Err(_) => Err(Refusal::Cluster(error)),
        }
    }

    /// Decides about an object with fields that cannot change.
    async fn anew(
        &self,
        mut round: Round,
        live: &Value,
        mut body: Value,
        causes: &[String],
    ) -> Result<Finding, Refusal> {
        let id = &self.step.id;
        let fixed = fixed::fixed(&id.gvk, causes, live, &body);
        if let Some(obstacle) = fixed::obstacle(&id.gvk, live, &body) {
            return Err(Refusal::Fixed(fixed, obstacle));
        }
        let uid = text(live, &["metadata", "uid"]).to_owned();
        let deletion = Deletion {
            uid: uid.clone(),
            dependents: dependents(self.step),
            write: Write::DryRun,
        };
        let cluster = &self.ports.cluster;
        self.patience
            .retry(|| cluster.delete(self.actor, id, &deletion), harmless)
            .await
            .map_err(Refusal::Cluster)?;
        // Nobody else sets a field of a new object yet, so it begins with what the old one had.
        for field in &round.terms.leave {
            if let Some(value) = field.get(live) {
                field.set(&mut body, value.clone());
            }
        }
        round.terms.replaces = Some(Replaced { uid });
        round.terms.moves.clear();
        round.terms.take.clear();
        Ok(Finding {
            terms: round.terms,
            body,
            notes: vec![
                "it is deleted and made anew, as quaymaster.dev/recreate allows; what cannot \
                 change is listed"
                    .to_owned(),
            ],
            outcome: Outcome::Recreates(fixed),
        })
    }
}

/// The pods of a StatefulSet stay and are taken over by the new one.
pub(crate) fn dependents(step: &Step) -> Dependents {
    if step.id.gvk.is("apps", "StatefulSet") {
        Dependents::Orphan
    } else {
        Dependents::Background
    }
}

/// Puts a body in the place of a content's own.
pub(crate) const fn with_body<'a>(
    content: &Content,
    body: &'a Value,
    data: Option<&'a BTreeMap<String, Secret>>,
) -> Payload<'a> {
    match (content, data) {
        (Content::Secret { .. }, Some(data)) => Payload::Secret { body, data },
        (Content::Object(_) | Content::Secret { .. }, _) => Payload::Object(body),
    }
}

/// A dry run changes nothing, so an unanswered one is simply asked again.
pub(crate) fn harmless(error: &ClusterError) -> Trouble {
    let mut trouble = cluster_trouble(error);
    if trouble.class == Class::OutcomeUnknown {
        trouble.class = Class::Upstream;
    }
    trouble
}

/// What is decided so far.
struct Round {
    terms: Terms,
    force: Force,
    notes: Vec<String>,
}

impl Round {
    fn begin(case: &Case<'_>, live: &Value) -> Self {
        let mut terms = Terms {
            adopt: case.spec.adopt.clone(),
            ..Terms::default()
        };
        let mut notes = Vec::new();
        let body = case.step.content.body();
        terms.leave = Options::of(body).ignore;
        for field in &terms.leave {
            notes.push(format!(
                "{field} is left as it is, as quaymaster.dev/ignore-fields says"
            ));
        }
        if case.scaled == Scaling::Auto {
            terms.leave.push(replicas());
            notes.push(
                ".spec.replicas is left as it is: a HorizontalPodAutoscaler sets it".to_owned(),
            );
        }
        let api_version = case.step.id.gvk.api_version();
        if let Some(moved) = managers::to_us(live, &terms.adopt, &api_version) {
            terms.moves = moved.managers;
        }
        Self {
            terms,
            force: Force::No,
            notes,
        }
    }

    /// Judges a conflict; returns whether anything new was decided.
    fn judge(
        &mut self,
        case: &Case<'_>,
        live: &Value,
        conflicts: &[FieldConflict],
    ) -> Result<bool, Refusal> {
        let id = &case.step.id;
        let known = managers::of(live);
        let mut failed = Vec::new();
        let before = (self.terms.clone(), self.force);
        for conflict in conflicts {
            let field = fields::exact(conflict, &known);
            let manager = conflict.manager.as_str();
            let pair = (conflict.field.clone(), conflict.manager.clone());
            if managers::hands_over(manager, &self.terms.adopt) {
                if !self.terms.moves.iter().any(|name| name == manager) {
                    self.terms.take.push(pair);
                }
                self.force = Force::Take;
                continue;
            }
            let rule = case
                .spec
                .conflicts
                .iter()
                .find(|rule| rule.fits(id, &field, manager));
            // Nobody but an autoscaler has that controller write replicas.
            let scaled = field == replicas() && manager == CONTROLLER;
            match rule.map(|rule| rule.then) {
                None if scaled => self.leave(field, "an autoscaler set it"),
                // Values from Vault are not in the body, so they cannot be left out of it.
                Some(Then::Leave)
                    if matches!(case.step.content, Content::Secret { .. })
                        && conflict.field.starts_with(".data") =>
                {
                    failed.push(conflict);
                }
                Some(Then::Leave) => {
                    let why = format!("quaymaster.yaml leaves it to {manager}");
                    self.leave(field, &why);
                }
                Some(Then::Take) => {
                    if !self.terms.take.contains(&pair) {
                        let note =
                            format!("{field} is taken from {manager}, as quaymaster.yaml says");
                        self.notes.push(note);
                        self.terms.take.push(pair);
                    }
                    self.force = Force::Take;
                }
                Some(Then::Fail) | None => failed.push(conflict),
            }
        }
        if !failed.is_empty() {
            let body = case.step.content.body();
            let told = failed
                .into_iter()
                .map(|conflict| fields::contested(&id.gvk, conflict, &known, live, body));
            return Err(Refusal::Contested(told.collect()));
        }
        Ok(before != (self.terms.clone(), self.force))
    }

    fn leave(&mut self, field: FieldPath, why: &str) {
        if !self.terms.leave.contains(&field) {
            self.notes.push(format!("{field} is left as it is: {why}"));
            self.terms.leave.push(field);
        }
    }

    fn done(
        mut self,
        case: &Case<'_>,
        live: &Value,
        body: Value,
        applied: AppliedObject,
        mut after: Value,
    ) -> Finding {
        if !self.terms.moves.is_empty() {
            let gone = terms::leftovers(&case.step.id.gvk, &body, live, &self.terms.adopt);
            let copy = "kubectl.kubernetes.io/last-applied-configuration";
            let told: Vec<String> = gone
                .iter()
                .filter(|field| field.0.last() != FieldPath::default().key(copy).0.last())
                .map(ToString::to_string)
                .collect();
            let mut note = format!(
                "fields of {} become ours, once",
                self.terms.moves.join(" and ")
            );
            if !told.is_empty() {
                note.push_str("; not in the manifest, so they go: ");
                note.push_str(&told.join(", "));
            }
            self.notes.push(note);
            for field in &gone {
                field.remove(&mut after);
            }
        }
        Finding {
            terms: self.terms,
            body,
            notes: self.notes,
            outcome: Outcome::Applies(applied, after),
        }
    }
}

fn replicas() -> FieldPath {
    FieldPath::default().key("spec").key("replicas")
}
