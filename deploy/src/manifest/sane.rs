//! What server-side apply would trip over in a manifest: nulls, and list items that are there twice.
//!
//! Called by [`super::object`], before anything is sent. Custom kinds are left to the server, whose
//! schema alone knows what they take.

use std::collections::BTreeSet;

use serde_json::Map;
use serde_json::Value;

use super::object::Findings;
use crate::field::FieldPath;
use crate::field::Segment;
use crate::field::item_key;
use crate::kinds::BUILT_IN;
use crate::lists;
use crate::object::Gvk;

/// Fields whose keys are the caller's own: a null there is a value that was forgotten, and is
/// refused by what reads them.
const OWN_KEYS: [&str; 4] = ["labels", "annotations", "data", "stringData"];

/// Says whether a kind is one of Kubernetes itself.
fn is_built_in(gvk: &Gvk) -> bool {
    BUILT_IN.iter().any(|(group, _)| *group == gvk.group)
}

/// Takes nulls out, which built-in kinds read as not set; returns their paths. A null that is an item
/// of a list is an error.
pub(super) fn drop_nulls(
    gvk: &Gvk,
    body: &mut Map<String, Value>,
    findings: &mut Findings<'_>,
) -> Vec<String> {
    let mut dropped = Vec::new();
    if is_built_in(gvk) {
        nulls_of(body, &FieldPath::default(), findings, &mut dropped);
    }
    dropped
}

fn nulls_of(
    fields: &mut Map<String, Value>,
    path: &FieldPath,
    findings: &mut Findings<'_>,
    dropped: &mut Vec<String>,
) {
    let own = matches!(path.0.last(), Some(Segment::Key(key)) if OWN_KEYS.contains(&key.as_str()));
    fields.retain(|key, value| {
        let below = path.key(key);
        let goes = value.is_null() && !own;
        if goes {
            dropped.push(told(&below));
        } else {
            nulls(value, &below, findings, dropped);
        }
        !goes
    });
}

fn nulls(
    value: &mut Value,
    path: &FieldPath,
    findings: &mut Findings<'_>,
    dropped: &mut Vec<String>,
) {
    match value {
        Value::Object(fields) => nulls_of(fields, path, findings, dropped),
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                let below = path.then(Segment::Index(index));
                if item.is_null() {
                    findings.at(
                        &told(&below),
                        "the item is empty (null); leave it out or fill it",
                    );
                }
                nulls(item, &below, findings, dropped);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Reports every item that is there twice in a list whose items are told apart by keys.
pub(super) fn check_lists(gvk: &Gvk, body: &Map<String, Value>, findings: &mut Findings<'_>) {
    for (key, value) in body {
        let names = vec![key.as_str()];
        let path = FieldPath::default().key(key);
        lists_of(gvk, value, &names, &path, findings);
    }
}

fn lists_of(
    gvk: &Gvk,
    value: &Value,
    names: &[&str],
    path: &FieldPath,
    findings: &mut Findings<'_>,
) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let names = [names, &[key.as_str()]].concat();
                lists_of(gvk, value, &names, &path.key(key), findings);
            }
        }
        Value::Array(items) => {
            if let Some(keys) = lists::keys(gvk, names) {
                doubles(items, keys, path, findings);
            }
            for (index, item) in items.iter().enumerate() {
                lists_of(
                    gvk,
                    item,
                    names,
                    &path.then(Segment::Index(index)),
                    findings,
                );
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn doubles(items: &[Value], keys: &[&str], path: &FieldPath, findings: &mut Findings<'_>) {
    let mut seen = BTreeSet::new();
    for item in items {
        let found = keys
            .iter()
            .map(|key| Some(((*key).to_owned(), item_key(item, key)?)));
        // An item without its key is for the server to refuse, by its own words.
        let Some(found) = found.collect() else {
            continue;
        };
        let twice = told(&path.then(Segment::Item(found)));
        if !seen.insert(twice.clone()) {
            findings.at(
                &twice,
                "the list has this item twice; the API server would refuse it or merge the two, \
                 so keep one",
            );
        }
    }
}

/// Paths of manifests are told without the dot at the start.
fn told(path: &FieldPath) -> String {
    path.to_string().trim_start_matches('.').to_owned()
}
