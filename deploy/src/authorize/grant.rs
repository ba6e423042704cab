//! Does a rule grant everything in a request? The first thing that it does not grant is named.
//!
//! Called by [`super::authorize`] for each rule that matches the caller. Checks go from the target to
//! Secrets to objects and count what passed, so that the refusal of the rule that came farthest is
//! the one that is told. Nothing is changed before a rule granted all of it.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use proto::ids::ClusterName;
use proto::ids::Namespace;
use serde_json::Value;

use crate::object::Object;
use crate::object::ObjectId;
use crate::object::at;
use crate::object::text;
use crate::policy::ClusterGrant;
use crate::policy::Pattern;
use crate::policy::Rule;
use crate::policy::SensitiveMetadata;
use crate::request::Request;
use crate::secret::VaultPath;
use crate::spec::SecretSpec;
use crate::spec::Source;

use super::charts;
use super::flux;
use super::images;
use super::scope::Scope;
use super::scope::Scopes;
use super::verbs::granted_verb;
use super::verbs::verbs;

/// What a rule granted, with everything that the request left open.
pub(super) struct Granted {
    pub(super) rule: String,
    pub(super) grant: ClusterGrant,
    pub(super) cluster: ClusterName,
    pub(super) namespace: Namespace,
    pub(super) vault_role: Option<String>,
    /// For each object in order.
    fates: Vec<Fate>,
}

/// What becomes of an object once the request is granted.
enum Fate {
    /// It is applied in this namespace; none for cluster scope.
    Keep(Option<String>),
    /// It says the same as an earlier one.
    Repeated,
}

/// The first thing that a rule does not grant.
pub(super) struct Refusal {
    /// How many checks passed before.
    pub(super) passed: usize,
    pub(super) message: String,
    pub(super) hint: String,
}

impl Refusal {
    /// The refusal where there was no rule to ask.
    pub(super) fn nothing() -> Self {
        refuse(
            "no rule grants this",
            "ask the operator, naming the decision id",
        )
    }
}

pub(super) fn refuse(message: impl Into<String>, hint: impl Into<String>) -> Refusal {
    Refusal {
        passed: 0,
        message: message.into(),
        hint: hint.into(),
    }
}

pub(super) const ASK: &str = "ask the operator to extend the rule, naming the decision id";

/// Counts the checks that passed, so that refusals of several rules can be compared.
struct Progress(usize);

impl Progress {
    fn step<T>(&mut self, result: Result<T, Refusal>) -> Result<T, Refusal> {
        match result {
            Ok(value) => {
                self.0 += 1;
                Ok(value)
            }
            Err(refusal) => Err(Refusal {
                passed: self.0,
                ..refusal
            }),
        }
    }
}

/// Decides about a whole request.
pub(super) fn decide(
    rule: &Rule,
    request: &Request,
    scopes: &Scopes<'_>,
) -> Result<Granted, Refusal> {
    let mut progress = Progress(0);
    let (cluster, grant) = progress.step(cluster(rule, request))?;
    for verb in verbs(request) {
        progress.step(granted_verb(grant, verb))?;
    }
    let namespace = progress.step(namespace(grant, request))?;
    progress.step(charts::fetch(grant, request))?;
    progress.step(flux::flux(rule, grant, request))?;
    progress.step(images::registries(rule, grant, request))?;
    for secret in &request.spec.secrets {
        progress.step(secret_name(grant, secret, &namespace))?;
        for path in vault_paths(secret) {
            progress.step(vault_path(rule, path))?;
        }
    }
    let fates = objects(&mut progress, grant, request, &namespace, scopes)?;
    Ok(Granted {
        rule: rule.id.clone(),
        grant: grant.clone(),
        cluster: cluster.clone(),
        namespace,
        vault_role: rule.vault.as_ref().and_then(|vault| vault.role.clone()),
        fates,
    })
}

/// Decides about objects that became known after the rest of the request was granted.
pub(super) fn complete(
    grant: &ClusterGrant,
    request: &mut Request,
    namespace: &Namespace,
    scopes: &Scopes<'_>,
) -> Result<(), Refusal> {
    let fates = objects(&mut Progress(0), grant, request, namespace, scopes)?;
    put(request, &fates);
    Ok(())
}

fn objects(
    progress: &mut Progress,
    grant: &ClusterGrant,
    request: &Request,
    namespace: &Namespace,
    scopes: &Scopes<'_>,
) -> Result<Vec<Fate>, Refusal> {
    let open = images::open(grant, &request.spec);
    let mut taken = BTreeMap::new();
    let mut fates = Vec::with_capacity(request.objects.len());
    for object in &request.objects {
        let id = progress.step(object_grant(grant, &open, object, namespace, scopes))?;
        let fate = progress.step(fate(&taken, &request.spec.secrets, namespace, &id, object))?;
        if let Fate::Keep(_) = fate {
            taken.insert(versionless(id), object);
        }
        fates.push(fate);
    }
    Ok(fates)
}

/// Puts into the request what was decided: namespaces, and no object twice.
pub(super) fn settle(request: &mut Request, granted: &Granted) {
    put(request, &granted.fates);
}

fn put(request: &mut Request, fates: &[Fate]) {
    let objects = std::mem::take(&mut request.objects);
    for (mut object, fate) in objects.into_iter().zip(fates) {
        match fate {
            Fate::Keep(namespace) => {
                set_namespace(&mut object, namespace.as_deref());
                request.objects.push(object);
            }
            Fate::Repeated => {
                let note = format!("{} ({}) repeats an earlier one", object.id, object.origin);
                request.notes.push(note);
            }
        }
    }
}

fn set_namespace(object: &mut Object, namespace: Option<&str>) {
    object.id.namespace = namespace.map(str::to_owned);
    let Some(metadata) = object
        .body
        .get_mut("metadata")
        .and_then(Value::as_object_mut)
    else {
        return;
    };
    match namespace {
        Some(namespace) => {
            metadata.insert("namespace".to_owned(), Value::from(namespace));
        }
        None => {
            metadata.remove("namespace");
        }
    }
}

fn cluster<'r>(
    rule: &'r Rule,
    request: &Request,
) -> Result<(&'r ClusterName, &'r ClusterGrant), Refusal> {
    if let Some(name) = &request.spec.cluster {
        return rule
            .clusters
            .get_key_value(name)
            .ok_or_else(|| refuse(format!("target.cluster {name} is not granted"), ASK));
    }
    let mut clusters = rule.clusters.iter();
    match (clusters.next(), clusters.next()) {
        (Some(only), None) => Ok(only),
        _ => Err(refuse(
            "target.cluster is not given and the rule does not grant exactly one",
            "name it in quaymaster.yaml: target: { cluster: .., namespace: .. }",
        )),
    }
}

fn namespace(grant: &ClusterGrant, request: &Request) -> Result<Namespace, Refusal> {
    if let Some(name) = &request.spec.namespace {
        if any(&grant.namespaces, name.as_str()) {
            return Ok(name.clone());
        }
        return Err(refuse(
            format!("target.namespace {name} is not granted"),
            ASK,
        ));
    }
    let only = match grant.namespaces.as_slice() {
        [only] => only.literal().and_then(|text| text.parse().ok()),
        _ => None,
    };
    only.ok_or_else(|| {
        refuse(
            "target.namespace is not given and the rule does not grant exactly one",
            "name it in quaymaster.yaml: target: { cluster: .., namespace: .. }",
        )
    })
}

pub(super) fn any(patterns: &[Pattern], text: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(text))
}

fn secret_name(
    grant: &ClusterGrant,
    secret: &SecretSpec,
    namespace: &Namespace,
) -> Result<(), Refusal> {
    let name = &secret.name;
    if !any(&grant.secrets, name) {
        let message = format!("v1/Secret {namespace}/{name} (from secrets) is not granted");
        return Err(refuse(message, ASK));
    }
    secret_type(&format!("v1/Secret {namespace}/{name}"), &secret.kind)
}

fn secret_type(object: &str, kind: &str) -> Result<(), Refusal> {
    if !crate::spec::FORBIDDEN_TYPES.contains(&kind) {
        return Ok(());
    }
    Err(refuse(
        format!("{object}: Secrets of type {kind} are never written"),
        "use another type; a ServiceAccount's token is issued by the cluster itself",
    ))
}

fn vault_paths(secret: &SecretSpec) -> impl Iterator<Item = &VaultPath> {
    secret.keys.values().filter_map(|source| match source {
        Source::Field { path, .. } => Some(path),
        Source::Template(_) => None,
    })
}

pub(super) fn vault_path(rule: &Rule, path: &VaultPath) -> Result<(), Refusal> {
    let patterns = rule.vault.as_ref().map_or(&[][..], |vault| &vault.paths);
    if patterns.iter().any(|pattern| pattern.matches(path)) {
        return Ok(());
    }
    Err(refuse(
        format!("the Vault path {path} is not granted"),
        misspelt(path).unwrap_or(ASK),
    ))
}

/// Says what is wrong with a path that has `data/` in it, as only the API of a KV v2 mount does.
pub(super) fn misspelt(path: &VaultPath) -> Option<&'static str> {
    let is_of_the_api = path.as_str().split('/').nth(1) == Some("data");
    is_of_the_api
        .then_some("on a KV v2 mount the path is written without data/, as `vault kv get` takes it")
}

/// Decides about one object; returns its id with the namespace that it gets.
fn object_grant(
    grant: &ClusterGrant,
    open: &BTreeSet<String>,
    object: &Object,
    target: &Namespace,
    scopes: &Scopes<'_>,
) -> Result<ObjectId, Refusal> {
    let id = placed(grant, object, target, scopes)?;
    if !grant
        .kinds
        .iter()
        .any(|kind| kind.matches(&id.gvk, &id.name))
    {
        let about = grant.kinds.iter().any(|kind| kind.is_about(&id.gvk));
        let message = if about {
            format!("{id}: this name is not granted for its kind")
        } else {
            format!("{id}: this kind is not granted")
        };
        let hint = if id.gvk.is("", "Secret") && !about {
            "let `secrets` in quaymaster.yaml write it from Vault, or ask the operator to grant \
             v1/Secret with a name"
        } else {
            ASK
        };
        return Err(refuse(message, hint));
    }
    if id.gvk.is("", "Namespace") && !any(&grant.namespaces, &id.name) {
        return Err(refuse(format!("{id}: this namespace is not granted"), ASK));
    }
    if id.gvk.is("", "Secret") {
        secret_type(&id.to_string(), text(&object.body, &["type"]))?;
    }
    sensitive_metadata(grant, object, &id)?;
    images::of_object(grant, open, object, &id)?;
    Ok(id)
}

fn placed(
    grant: &ClusterGrant,
    object: &Object,
    target: &Namespace,
    scopes: &Scopes<'_>,
) -> Result<ObjectId, Refusal> {
    let mut id = object.id.clone();
    let written = match text(&object.body, &["metadata", "namespace"]) {
        "" => id.namespace.take().filter(|name| !name.is_empty()),
        name => Some(name.to_owned()),
    };
    match (scopes.scope(&id.gvk), written) {
        (Scope::Cluster, Some(_)) => {
            id.namespace = None;
            Err(refuse(
                format!("{id}: metadata.namespace is set, but the kind is cluster scoped"),
                "remove metadata.namespace",
            ))
        }
        (Scope::Cluster, None) => {
            id.namespace = None;
            Ok(id)
        }
        (Scope::Namespaced | Scope::Unknown, None) => {
            id.namespace = Some(target.to_string());
            Ok(id)
        }
        (Scope::Namespaced | Scope::Unknown, Some(name)) => {
            let granted = name == target.as_str() || any(&grant.namespaces, &name);
            id.namespace = Some(name);
            if granted {
                return Ok(id);
            }
            Err(refuse(
                format!("{id}: this namespace is not granted"),
                "remove metadata.namespace to use the target's, or ask the operator",
            ))
        }
    }
}

fn sensitive_metadata(grant: &ClusterGrant, object: &Object, id: &ObjectId) -> Result<(), Refusal> {
    let set = |key: &str| match at(&object.body, &["metadata", key]) {
        None | Some(Value::Null) => false,
        Some(Value::Array(list)) => !list.is_empty(),
        Some(_) => true,
    };
    let refused = SensitiveMetadata::ALL
        .into_iter()
        .find(|one| set(one.key()) && !grant.metadata.contains(one));
    match refused {
        None => Ok(()),
        Some(one) => Err(refuse(
            format!("{id}: metadata.{} is not granted", one.key()),
            "remove it, or ask the operator, naming the decision id",
        )),
    }
}

/// With namespaces filled in two objects can turn out to be one. The same content counts once;
/// different content, or a Secret that is also written from Vault, has two readings.
fn fate(
    taken: &BTreeMap<ObjectId, &Object>,
    secrets: &[SecretSpec],
    target: &Namespace,
    id: &ObjectId,
    object: &Object,
) -> Result<Fate, Refusal> {
    let from_vault = id.gvk.is("", "Secret")
        && id.namespace.as_deref() == Some(target.as_str())
        && secrets.iter().any(|secret| secret.name == id.name);
    if from_vault {
        return Err(refuse(
            format!("{id} is written twice: by a manifest and by `secrets`"),
            "keep one of them",
        ));
    }
    match taken.get(&versionless(id.clone())) {
        None => Ok(Fate::Keep(id.namespace.clone())),
        Some(first) if without_namespace(first) == without_namespace(object) => Ok(Fate::Repeated),
        Some(first) => Err(refuse(
            format!(
                "{id} is described twice and differently: {} and {}",
                first.origin, object.origin
            ),
            "keep one of them",
        )),
    }
}

/// Returns the id under which an object of any version of its kind is the same object.
fn versionless(mut id: ObjectId) -> ObjectId {
    id.gvk.version.clear();
    id
}

fn without_namespace(object: &Object) -> Value {
    let mut body = object.body.clone();
    if let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("namespace");
    }
    body
}
