//! Is the live object to the last field what we want? Proved from what the server keeps of us.
//!
//! Pure; called by [`crate::plan`]. The server notes per manager which fields it owns
//! (`metadata.managedFields`, `FieldsV1`). Where our entry names exactly the fields of the wanted
//! body, every one of them has the wanted value, and items of keyed lists stand in the wanted order,
//! another apply would change nothing: it is [`Sameness::Same`] and nothing has to be sent. Invariant:
//! never `Same` by guess. What could be equal after all (a quantity in other words, an empty field that
//! the server leaves out) is [`Sameness::Unsure`], and the server is asked.

use std::collections::BTreeSet;

use serde_json::Map;
use serde_json::Value;

use crate::object::list;
use crate::object::text;

/// The field manager of everything that the agent applies.
const MANAGER: &str = "quaymaster";

/// How a live object compares to the wanted one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sameness {
    /// Applying the wanted body would change nothing.
    Same,
    /// These fields differ, in value or in who owns them.
    Differs(Vec<String>),
    /// Only the server can say.
    Unsure,
}

/// Compares a live object, with its `managedFields`, to the wanted body.
#[must_use]
pub fn compare(wanted: &Value, live: &Value) -> Sameness {
    let (Some(body), Some(there)) = (wanted.as_object(), live.as_object()) else {
        return Sameness::Unsure;
    };
    let Some(owned) = our_fields(wanted, live) else {
        return Sameness::Unsure;
    };
    let mut walk = Walk::default();
    walk.fields("", owned, body, Some(there));
    if !walk.differs.is_empty() {
        Sameness::Differs(walk.differs)
    } else if walk.unsure {
        Sameness::Unsure
    } else {
        Sameness::Same
    }
}

/// Finds the fields that we own by server-side apply in the version that is wanted; `None` where that
/// cannot be told, or the object is about to go.
fn our_fields<'a>(wanted: &Value, live: &'a Value) -> Option<&'a Map<String, Value>> {
    if live.pointer("/metadata/deletionTimestamp").is_some() {
        return None;
    }
    let mut ours = list(live, &["metadata", "managedFields"])
        .iter()
        .filter(|entry| is_ours(entry));
    let entry = ours.next()?;
    let fits = text(entry, &["apiVersion"]) == text(wanted, &["apiVersion"])
        && text(entry, &["fieldsType"]) == "FieldsV1";
    if !fits || ours.next().is_some() {
        return None;
    }
    entry.get("fieldsV1")?.as_object()
}

/// Says whether an entry of `managedFields` is of our server-side apply.
pub(crate) fn is_ours(entry: &Value) -> bool {
    text(entry, &["manager"]) == MANAGER
        && text(entry, &["operation"]) == "Apply"
        && text(entry, &["subresource"]).is_empty()
}

/// Lists the keys of a Secret that our server-side apply owns, from its metadata alone.
#[must_use]
pub fn data_keys(secret: &Value) -> BTreeSet<String> {
    let entries = list(secret, &["metadata", "managedFields"]).iter();
    entries
        .filter(|entry| is_ours(entry))
        .filter_map(|entry| entry.pointer("/fieldsV1/f:data")?.as_object())
        .flat_map(Map::keys)
        .filter_map(|element| element.strip_prefix("f:"))
        .map(str::to_owned)
        .collect()
}

/// Fields that belong to nobody: they say which object it is.
fn is_identity(path: &str, field: &str) -> bool {
    matches!(
        (path, field),
        ("", "apiVersion" | "kind") | (".metadata", "name" | "namespace")
    )
}

/// What was found so far.
#[derive(Default)]
struct Walk {
    differs: Vec<String>,
    unsure: bool,
}

impl Walk {
    fn differ(&mut self, path: String) {
        self.differs.push(path);
    }

    /// Compares a value below `path`; `owned` is the node of it in the fields that we own.
    fn value(&mut self, path: &str, owned: &Value, wanted: &Value, live: Option<&Value>) {
        let Some(owned) = owned.as_object() else {
            self.unsure = true;
            return;
        };
        if !owned.keys().any(|element| element != ".") {
            // A scalar, or something that has one owner as a whole.
            self.leaf(path, wanted, live);
            return;
        }
        match (wanted, live) {
            (Value::Object(wanted), None) => self.fields(path, owned, wanted, None),
            (Value::Object(wanted), Some(Value::Object(live))) => {
                self.fields(path, owned, wanted, Some(live));
            }
            (Value::Array(wanted), Some(Value::Array(live))) => {
                self.items(path, owned, wanted, live);
            }
            _ => self.unsure = true,
        }
    }

    fn fields(
        &mut self,
        path: &str,
        owned: &Map<String, Value>,
        wanted: &Map<String, Value>,
        live: Option<&Map<String, Value>>,
    ) {
        for (field, value) in wanted {
            if is_identity(path, field) {
                continue;
            }
            let here = format!("{path}.{field}");
            let live = live.and_then(|live| live.get(field));
            match owned.get(&format!("f:{field}")) {
                Some(owned) => self.value(&here, owned, value, live),
                None if here == ".metadata" && is_only_identity(value) => {}
                None if leaves_no_trace(value) => self.unsure = true,
                None => self.differ(here),
            }
        }
        for element in owned.keys() {
            match element.strip_prefix("f:") {
                Some(field) if wanted.contains_key(field) => {}
                Some(field) => self.differ(format!("{path}.{field}")),
                None if element == "." => {}
                None => self.unsure = true,
            }
        }
    }

    fn items(&mut self, path: &str, owned: &Map<String, Value>, wanted: &[Value], live: &[Value]) {
        let elements: Option<Vec<Element<'_>>> = owned
            .iter()
            .filter(|(element, _)| *element != ".")
            .map(|(element, owned)| Element::read(element, owned))
            .collect();
        let Some(elements) = elements else {
            self.unsure = true;
            return;
        };
        let Some(pairs) = pair(&elements, wanted) else {
            self.unsure = true;
            return;
        };
        let mut last = None;
        for (position, (item, element)) in wanted.iter().zip(&pairs).enumerate() {
            let Some(element) = element.and_then(|index| elements.get(index)) else {
                self.differ(format!("{path}[{position}]"));
                continue;
            };
            let Some(found) = live.iter().position(|item| element.key.names(item)) else {
                self.unsure = true;
                continue;
            };
            // An item in another place is moved by an apply; how, the server knows best.
            self.unsure |= last.is_some_and(|last| last >= found);
            last = Some(found);
            if let Key::Fields(_) = element.key {
                let here = format!("{path}[{}]", element.key.shown());
                self.value(&here, element.owned, item, live.get(found));
            }
        }
        for (index, element) in elements.iter().enumerate() {
            if !pairs.contains(&Some(index)) {
                self.differ(format!("{path}[{}]", element.key.shown()));
            }
        }
    }

    fn leaf(&mut self, path: &str, wanted: &Value, live: Option<&Value>) {
        match (wanted, live) {
            (Value::Null, _) => self.unsure = true,
            (wanted, Some(live)) if wanted == live => {}
            // Fields with the value that a type starts with are often left out.
            (wanted, None) if is_blank(wanted) => self.unsure = true,
            (_, None) => self.differ(path.to_owned()),
            (wanted, Some(live)) if may_mean_the_same(wanted, live) => self.unsure = true,
            (_, Some(_)) => self.differ(path.to_owned()),
        }
    }
}

/// Says whether metadata holds nothing but name and namespace.
fn is_only_identity(metadata: &Value) -> bool {
    metadata
        .as_object()
        .is_some_and(|metadata| metadata.keys().all(|field| is_identity(".metadata", field)))
}

/// Says whether the server may note no owner for a value: an empty list has nothing to own.
fn leaves_no_trace(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(leaves_no_trace),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn is_blank(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

/// Says whether two different values may be the same to the server: a quantity or time in other words,
/// a number as text, a whole struct with defaults in it.
fn may_mean_the_same(wanted: &Value, live: &Value) -> bool {
    match (wanted, live) {
        (Value::Bool(_), Value::Bool(_)) => false,
        (Value::Number(wanted), Value::Number(live)) => wanted.as_f64() == live.as_f64(),
        (Value::String(wanted), Value::String(live)) => {
            let number =
                |text: &str| text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
            number(wanted) && number(live)
        }
        _ => true,
    }
}

/// How the server tells the items of a list apart.
#[derive(Debug, PartialEq)]
enum Key {
    /// By the values of some fields, with the server's defaults in them.
    Fields(Map<String, Value>),
    /// By the item itself.
    Whole(Value),
}

impl Key {
    /// Says whether an item as the server has it is the one.
    fn names(&self, item: &Value) -> bool {
        match self {
            Self::Whole(value) => value == item,
            Self::Fields(fields) => fields
                .iter()
                .all(|(field, value)| item.get(field) == Some(value)),
        }
    }

    /// Says whether an item that may leave fields to the server can be the one.
    fn can_name(&self, item: &Value) -> bool {
        match self {
            Self::Whole(value) => value == item,
            Self::Fields(fields) => fields
                .iter()
                .all(|(field, value)| item.get(field).is_none_or(|given| given == value)),
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::Whole(value) => format!("={value}"),
            Self::Fields(fields) => {
                let pairs = fields
                    .iter()
                    .map(|(field, value)| format!("{field}={value}"));
                pairs.collect::<Vec<_>>().join(",")
            }
        }
    }
}

/// One item of a list that we own.
struct Element<'a> {
    key: Key,
    owned: &'a Value,
}

impl<'a> Element<'a> {
    /// Reads `k:{..}` or `v:..`; `None` for items known by their position only.
    fn read(element: &str, owned: &'a Value) -> Option<Self> {
        let key = if let Some(text) = element.strip_prefix("k:") {
            Key::Fields(serde_json::from_str(text).ok()?)
        } else {
            let text = element.strip_prefix("v:")?;
            Key::Whole(serde_json::from_str(text).ok()?)
        };
        Some(Self { key, owned })
    }
}

/// Finds the element of each wanted item, unset where we own none; `None` where that is not clear.
fn pair(elements: &[Element<'_>], wanted: &[Value]) -> Option<Vec<Option<usize>>> {
    let mut pairs: Vec<Option<usize>> = vec![None; wanted.len()];
    // Items that give every key field come first: what is left is for those that leave some out.
    for fits in [Key::names, Key::can_name] {
        for position in 0..wanted.len() {
            if pairs[position].is_some() {
                continue;
            }
            let free = |index: &usize| !pairs.contains(&Some(*index));
            let mut fitting = (0..elements.len())
                .filter(|index| fits(&elements[*index].key, &wanted[position]))
                .filter(free);
            let first = fitting.next();
            if fitting.next().is_some() {
                return None;
            }
            pairs[position] = first;
        }
    }
    Some(pairs)
}

#[cfg(test)]
mod tests;
