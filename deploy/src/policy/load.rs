//! Reads the TOML of a policy into rules, collecting every problem with rule and key.
//!
//! Called by [`super::Policy::parse`] only. Each table is walked by [`Keys`], which reports what
//! nobody asked for, so that a misspelt key can never be a rule that silently grants less or more.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use proto::ids::ClusterName;
use toml::Table;
use toml::Value;

use super::ClusterGrant;
use super::Condition;
use super::FluxGrant;
use super::KindPattern;
use super::PathPattern;
use super::Pattern;
use super::Rule;
use super::SensitiveMetadata;
use super::Subject;
use super::VaultGrant;
use super::Verb;
use super::claims;
use super::claims::Shape;
use super::table::Flag;
use super::table::Keys;

/// The version of the file's form that this agent reads.
const VERSION: i64 = 1;
/// Metadata under these names says what the caller chose, not what somebody gave to it.
const WEAK_METADATA: [&str; 3] = ["sub", "project_path", "namespace_path"];

/// Reads all rules.
pub(super) fn rules(text: &str) -> Result<Vec<Rule>, Vec<String>> {
    let table: Table = match text.parse() {
        Ok(table) => table,
        Err(error) => return Err(vec![syntax(text, &error)]),
    };
    let mut problems = Vec::new();
    let mut keys = Keys::new("policy".to_owned(), &table, &mut problems);
    match keys.take("version").map(Value::as_integer) {
        Some(Some(VERSION)) => {}
        _ => keys.problem("version", "is not 1, the version that this agent reads"),
    }
    let listed = match keys.take("rule") {
        None => Vec::new(),
        Some(Value::Array(list)) => list.iter().collect(),
        Some(_) => {
            keys.problem("rule", "is no list; write each rule as [[rule]]");
            Vec::new()
        }
    };
    keys.finish();
    let mut rules = Vec::new();
    let mut ids = BTreeSet::new();
    for (place, value) in listed.into_iter().enumerate() {
        let Some(table) = value.as_table() else {
            problems.push(format!("rule number {}: is no table", place + 1));
            continue;
        };
        let rule = rule(place + 1, table, &mut problems);
        if !rule.id.is_empty() && !ids.insert(rule.id.clone()) {
            problems.push(format!("rule \"{}\": id: is used twice", rule.id));
        }
        rules.push(rule);
    }
    if problems.is_empty() {
        Ok(rules)
    } else {
        Err(problems)
    }
}

fn syntax(text: &str, error: &toml::de::Error) -> String {
    let line = error
        .span()
        .and_then(|span| text.get(..span.start))
        .map_or(1, |before| before.matches('\n').count() + 1);
    format!("line {line}: {}", error.message())
}

fn rule(number: usize, table: &Table, problems: &mut Vec<String>) -> Rule {
    let given = table.get("id").and_then(Value::as_str).unwrap_or_default();
    let place = if given.is_empty() {
        format!("rule number {number}")
    } else {
        format!("rule {given:?}")
    };
    let mut keys = Keys::new(place.clone(), table, problems);
    let id = match keys.text("id") {
        Some(id) if is_id(id) => id.to_owned(),
        Some(_) => {
            keys.problem(
                "id",
                "expected letters, digits, `-`, `_` and `.`, at most 100",
            );
            String::new()
        }
        None => {
            if !table.contains_key("id") {
                keys.problem("id", "is missing");
            }
            String::new()
        }
    };
    let allow_forks = keys.flag("allow_forks", Flag::No) == Flag::Yes;
    let matching = keys.section("match");
    let vault = keys.section("vault");
    let clusters = keys.section("cluster");
    keys.finish();
    let conditions = conditions(&place, matching, problems);
    let hangs_on_metadata = conditions
        .iter()
        .any(|condition| matches!(condition.subject, Subject::VaultMetadata(_)));
    let granted = vault.map(|table| {
        let role = if hangs_on_metadata {
            Role::Optional
        } else {
            Role::Required
        };
        vault_grant(&place, table, role, problems)
    });
    let clusters = clusters.map_or_else(BTreeMap::new, |table| {
        cluster_grants(&place, table, problems)
    });
    let exposes = vault.is_some_and(|table| table.contains_key("expose"));
    if clusters.is_empty() && !exposes && !table.contains_key("cluster") {
        problems.push(format!(
            "{place}: cluster: is missing; a rule grants at least one [rule.cluster.NAME], or `expose` \
             in [rule.vault]"
        ));
    }
    Rule {
        id,
        conditions,
        allow_forks,
        vault: granted,
        clusters,
    }
}

fn is_id(id: &str) -> bool {
    id.len() <= 100
        && id
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

fn conditions(place: &str, table: Option<&Table>, problems: &mut Vec<String>) -> Vec<Condition> {
    let place = format!("{place}: match");
    let Some(table) = table.filter(|table| !table.is_empty()) else {
        problems.push(format!(
            "{place}: matches on nothing; name at least the project_id"
        ));
        return Vec::new();
    };
    let mut conditions = Vec::new();
    for (key, value) in table {
        match condition(key, value) {
            Ok(condition) => conditions.push(condition),
            Err(found) => {
                problems.extend(found.iter().map(|what| format!("{place}: {key}: {what}")));
            }
        }
    }
    if table.contains_key("ref") && !table.contains_key("ref_type") {
        problems.push(format!(
            "{place}: ref: a branch and a tag can have the same name; use ref_path, such as \
             refs/heads/main, or add ref_type"
        ));
    }
    let carried = conditions.iter().any(|one| match &one.subject {
        Subject::VaultMetadata(name) => !WEAK_METADATA.contains(&name.as_str()),
        subject @ (Subject::Project | Subject::Claim(_)) => subject.carries_rights(),
    });
    // Where an id was named and is wrong, its own problem is enough.
    if !carried && conditions.len() == table.len() {
        problems.push(format!(
            "{place}: names no id; paths and names can be registered anew by others, so add \
             project_id, namespace_id, or metadata of a Vault token"
        ));
    }
    conditions
}

fn condition(key: &str, value: &Value) -> Result<Condition, Vec<String>> {
    let (subject, shape) = if let Some(name) = key.strip_prefix(claims::VAULT_PREFIX) {
        if name.is_empty() {
            return Err(vec!["names no metadata".to_owned()]);
        }
        (Subject::VaultMetadata(name.to_owned()), Shape::Text)
    } else {
        let shape = claims::shape(key).map_err(|what| vec![what])?;
        let subject = match key {
            "project_id" => Subject::Project,
            other => Subject::Claim(other.to_owned()),
        };
        (subject, shape)
    };
    let alternatives = value
        .as_array()
        .map_or_else(|| vec![value], |list| list.iter().collect());
    if alternatives.is_empty() {
        return Err(vec!["is an empty list, so nothing could match".to_owned()]);
    }
    let mut accepted = Vec::new();
    let mut found = Vec::new();
    for value in alternatives {
        match alternative(value, shape) {
            Ok(pattern) => accepted.push(pattern),
            Err(what) => found.push(what),
        }
    }
    if found.is_empty() {
        Ok(Condition { subject, accepted })
    } else {
        Err(found)
    }
}

fn alternative(value: &Value, shape: Shape) -> Result<Pattern, String> {
    let text = match (value, shape) {
        (Value::Boolean(flag), Shape::Flag) => flag.to_string(),
        (Value::Boolean(_), Shape::Id | Shape::RefPath | Shape::Text) => {
            return Err("is a boolean; this claim is a text, write it in quotes".to_owned());
        }
        (Value::Integer(number), Shape::Id | Shape::Text) => number.to_string(),
        (Value::String(text), _) => text.clone(),
        _ => return Err("expected a text, a number, true or false, or a list of them".to_owned()),
    };
    match shape {
        Shape::Id if !is_number(&text) => {
            Err("expected a whole number above 0, without wildcards".to_owned())
        }
        Shape::Flag if text != "true" && text != "false" => {
            Err("expected true or false".to_owned())
        }
        Shape::RefPath if !text.starts_with("refs/") => {
            Err("expected a full path, such as refs/heads/main".to_owned())
        }
        Shape::Id | Shape::Flag | Shape::RefPath | Shape::Text => Pattern::parse(&text),
    }
}

fn is_number(text: &str) -> bool {
    text.len() <= 19
        && !text.starts_with('0')
        && text.bytes().all(|byte| byte.is_ascii_digit())
        && !text.is_empty()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Required,
    Optional,
}

fn vault_grant(place: &str, table: &Table, need: Role, problems: &mut Vec<String>) -> VaultGrant {
    let mut keys = Keys::new(format!("{place}: vault"), table, problems);
    let role = keys.text("role").map(str::to_owned);
    if !table.contains_key("role") && need == Role::Required {
        keys.problem("role", "is missing; it is the role for the JWT login");
    }
    if !table.contains_key("paths") && !table.contains_key("expose") {
        keys.problem("paths", "is missing, and so is expose: nothing is granted");
    }
    let paths = keys.list("paths", PathPattern::parse).unwrap_or_default();
    let expose = keys.list("expose", PathPattern::parse).unwrap_or_default();
    keys.finish();
    VaultGrant {
        role,
        paths,
        expose,
    }
}

fn cluster_grants(
    place: &str,
    table: &Table,
    problems: &mut Vec<String>,
) -> BTreeMap<ClusterName, ClusterGrant> {
    let mut grants = BTreeMap::new();
    if table.is_empty() {
        problems.push(format!("{place}: cluster: grants no cluster"));
    }
    for (name, value) in table {
        let place = format!("{place}: cluster.{name}");
        let parsed: Result<ClusterName, _> = name.parse();
        match (parsed, value.as_table()) {
            (Ok(name), Some(table)) => {
                grants.insert(name, cluster_grant(place, table, problems));
            }
            (Err(error), _) => problems.push(format!("{place}: is no name of a cluster: {error}")),
            (Ok(_), None) => problems.push(format!("{place}: expected a table")),
        }
    }
    grants
}

fn cluster_grant(name: String, table: &Table, problems: &mut Vec<String>) -> ClusterGrant {
    let mut keys = Keys::new(name.clone(), table, problems);
    if !table.contains_key("namespaces") {
        keys.problem("namespaces", "is missing");
    }
    let grant = ClusterGrant {
        namespaces: keys.list("namespaces", name_pattern).unwrap_or_default(),
        kinds: keys.list("kinds", KindPattern::parse).unwrap_or_default(),
        secrets: keys.list("secrets", name_pattern).unwrap_or_default(),
        require_digest: keys.flag("require_digest", Flag::Yes) == Flag::Yes,
        check_images: keys.flag("check_images", Flag::No) == Flag::Yes,
        images: keys.list("images", image_pattern),
        charts: keys.list("charts", chart_pattern).unwrap_or_default(),
        flux: Vec::new(),
        verbs: keys
            .list("verbs", verb)
            .map_or_else(|| BTreeSet::from([Verb::Apply]), BTreeSet::from_iter),
        metadata: keys
            .list("metadata", metadata)
            .map_or_else(BTreeSet::new, BTreeSet::from_iter),
    };
    if !["kinds", "secrets", "flux"]
        .iter()
        .any(|key| table.contains_key(*key))
    {
        keys.problem(
            "kinds",
            "is missing, and so are secrets and flux: nothing is granted",
        );
    }
    if grant.check_images && grant.images.is_none() {
        keys.problem(
            "check_images",
            "needs images: registries are asked for named images only",
        );
    }
    let listed = keys.take("flux");
    keys.finish();
    ClusterGrant {
        flux: listed.map_or_else(Vec::new, |value| flux_grants(&name, value, problems)),
        ..grant
    }
}

/// Reads the list of tables `flux`.
fn flux_grants(place: &str, value: &Value, problems: &mut Vec<String>) -> Vec<FluxGrant> {
    let Some(list) = value.as_array().filter(|list| !list.is_empty()) else {
        problems.push(format!(
            "{place}: flux: is no list; write each grant as [[rule.cluster.NAME.flux]]"
        ));
        return Vec::new();
    };
    let mut grants = Vec::new();
    for (number, value) in list.iter().enumerate() {
        let place = format!("{place}: flux number {}", number + 1);
        let Some(table) = value.as_table() else {
            problems.push(format!("{place}: is no table"));
            continue;
        };
        let mut keys = Keys::new(place, table, problems);
        for key in ["repositories", "branches", "files", "objects"] {
            if !table.contains_key(key) {
                keys.problem(key, "is missing");
            }
        }
        grants.push(FluxGrant {
            repositories: keys
                .list("repositories", repository_pattern)
                .unwrap_or_default(),
            branches: keys.list("branches", Pattern::parse).unwrap_or_default(),
            files: keys.list("files", Pattern::parse).unwrap_or_default(),
            objects: keys.list("objects", Pattern::parse).unwrap_or_default(),
        });
        keys.finish();
    }
    grants
}

/// A pattern over addresses of repositories; a wildcard must not reach into the name of the server.
fn repository_pattern(text: &str) -> Result<Pattern, String> {
    server_pattern(text, &["https://", "ssh://", "http://"])
}

/// A pattern over names of objects and namespaces.
fn name_pattern(text: &str) -> Result<Pattern, String> {
    let pattern = Pattern::parse(text)?;
    if proto::ids::dns_subdomain(&text.replace('*', "x")).is_err() {
        return Err("can match no name: names are lower case letters, digits, `-` and `.`".into());
    }
    Ok(pattern)
}

/// A pattern over images; a wildcard must not reach into the name of the registry.
fn image_pattern(text: &str) -> Result<Pattern, String> {
    let pattern = Pattern::parse(text)?;
    let head = text.split('*').next().unwrap_or_default();
    if pattern.literal().is_none() && !head.contains('/') {
        return Err("has a wildcard in the registry's name; write a `/` before it".to_owned());
    }
    Ok(pattern)
}

/// A pattern over addresses of charts; a wildcard must not reach into the name of the server.
fn chart_pattern(text: &str) -> Result<Pattern, String> {
    let pattern = server_pattern(text, &["oci://", "https://", "http://"])?;
    if text.contains('@') {
        return Err("can match no address: servers of charts have no user names".to_owned());
    }
    Ok(pattern)
}

/// A pattern over addresses of some schemes, the first two of which are told.
fn server_pattern(text: &str, schemes: &[&str]) -> Result<Pattern, String> {
    let pattern = Pattern::parse(text)?;
    let Some(rest) = schemes.iter().find_map(|scheme| text.strip_prefix(scheme)) else {
        let told: Vec<String> = schemes
            .iter()
            .take(2)
            .map(|one| format!("{one}.."))
            .collect();
        return Err(format!(
            "is no such address; expected {}",
            told.join(" or ")
        ));
    };
    let head = rest.split('*').next().unwrap_or_default();
    match head.split_once('/') {
        None | Some(("", _)) => {
            Err("has no `/` behind the server's name, or a wildcard before it".to_owned())
        }
        Some((server, _)) if server.chars().any(|c| c.is_ascii_uppercase()) => {
            Err("can match no address: servers are lower case".to_owned())
        }
        Some(_) => Ok(pattern),
    }
}

fn verb(text: &str) -> Result<Verb, String> {
    match text {
        "apply" => Ok(Verb::Apply),
        "prune" => Ok(Verb::Prune),
        "rollback" => Ok(Verb::Rollback),
        "rotate" => Ok(Verb::Rotate),
        "commit" => Ok(Verb::Commit),
        "reconcile" => Ok(Verb::Reconcile),
        "revert" => Ok(Verb::Revert),
        _ => Err(
            "is no verb; expected apply, prune, rollback, rotate, commit, reconcile or \
                  revert"
                .to_owned(),
        ),
    }
}

fn metadata(text: &str) -> Result<SensitiveMetadata, String> {
    let mut all = SensitiveMetadata::ALL.into_iter();
    all.find(|one| one.key() == text)
        .ok_or_else(|| "is none of finalizers and ownerReferences".to_owned())
}
