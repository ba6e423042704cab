//! Paths of fields inside objects: written by people, told by the server, followed in JSON.
//!
//! `.spec.template.spec.containers[name="app"].image`, `.metadata.annotations["example.com/x"]`,
//! `[*]` for every item of a list. Used by options, the spec, the check of manifests and of the
//! cluster's answers. Pure; a path never holds a value but the keys of list items.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde_json::Value;

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// A field of an object.
    Key(String),
    /// The item of a list that has these fields.
    Item(BTreeMap<String, Value>),
    /// The item of a list that is this value.
    Is(Value),
    /// The item of a list at this place.
    Index(usize),
    /// Every item of a list.
    Every,
}

/// Where a field is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldPath(pub Vec<Segment>);

/// Why a text is no path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FieldPathError {
    /// It does not begin as a path.
    #[error("a path begins with a dot, such as .spec.replicas")]
    Start,
    /// Two dots without a name between them, or a dot at the end.
    #[error("a name is missing behind a dot")]
    Name,
    /// A bracket that is not closed, or holds nothing that selects.
    #[error("brackets hold a key in quotes, an item such as [name=\"app\"], a number or *")]
    Bracket,
}

impl FromStr for FieldPath {
    type Err = FieldPathError;

    fn from_str(text: &str) -> Result<Self, FieldPathError> {
        if !text.starts_with('.') {
            return Err(FieldPathError::Start);
        }
        let mut segments = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            if let Some(inside) = rest.strip_prefix('[') {
                let end = closing(inside).ok_or(FieldPathError::Bracket)?;
                segments.push(bracket(&inside[..end])?);
                rest = &inside[end + 1..];
            } else {
                let name = rest.strip_prefix('.').ok_or(FieldPathError::Name)?;
                let end = name.find(['.', '[']).unwrap_or(name.len());
                if end == 0 {
                    return Err(FieldPathError::Name);
                }
                segments.push(Segment::Key(name[..end].to_owned()));
                rest = &name[end..];
            }
        }
        Ok(Self(segments))
    }
}

/// Finds the bracket that closes, outside of quotes.
fn closing(text: &str) -> Option<usize> {
    outside_quotes(text).find_map(|(at, letter)| (letter == ']').then_some(at))
}

/// Walks over the characters that stand in no quotes.
fn outside_quotes(text: &str) -> impl Iterator<Item = (usize, char)> {
    let (mut quoted, mut escaped) = (false, false);
    text.char_indices().filter(move |(_, letter)| {
        let inside = quoted;
        match letter {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        !inside && *letter != '"'
    })
}

fn bracket(inside: &str) -> Result<Segment, FieldPathError> {
    let word = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text));
    if inside == "*" {
        return Ok(Segment::Every);
    }
    if let Ok(index) = inside.parse() {
        return Ok(Segment::Index(index));
    }
    if let Some(value) = inside.strip_prefix('=') {
        return Ok(Segment::Is(word(value)));
    }
    if inside.starts_with('"') {
        let key = serde_json::from_str(inside).map_err(|_shown| FieldPathError::Bracket)?;
        return Ok(Segment::Key(key));
    }
    if !inside.contains('=') {
        // Keys with dots and slashes, as people write them.
        return match inside {
            "" => Err(FieldPathError::Bracket),
            key => Ok(Segment::Key(key.to_owned())),
        };
    }
    let pairs = split(inside).into_iter().map(|pair| {
        let (key, value) = pair.split_once('=').ok_or(FieldPathError::Bracket)?;
        Ok((key.trim().to_owned(), word(value.trim())))
    });
    Ok(Segment::Item(pairs.collect::<Result<_, _>>()?))
}

/// Splits at commas that stand neither in quotes nor in brackets.
pub(crate) fn split(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut depth) = (0, 0_usize);
    for (at, letter) in outside_quotes(text) {
        match letter {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|segment| segment.fmt(f))
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_/$".contains(letter);
        match self {
            Self::Key(key) if !key.is_empty() && key.chars().all(plain) => write!(f, ".{key}"),
            Self::Key(key) => write!(f, "[{}]", Value::from(key.as_str())),
            Self::Item(keys) => {
                let pairs = keys.iter().map(|(key, value)| format!("{key}={value}"));
                write!(f, "[{}]", pairs.collect::<Vec<_>>().join(","))
            }
            Self::Is(value) => write!(f, "[={value}]"),
            Self::Index(index) => write!(f, "[{index}]"),
            Self::Every => write!(f, "[*]"),
        }
    }
}

impl Segment {
    /// Finds what this step leads to.
    fn follow<'a>(&self, value: &'a Value) -> Option<&'a Value> {
        match self {
            Self::Key(key) => value.get(key),
            _ => value.as_array()?.get(self.position(value)?),
        }
    }

    fn follow_mut<'a>(&self, value: &'a mut Value) -> Option<&'a mut Value> {
        match self {
            Self::Key(key) => value.get_mut(key),
            _ => {
                let at = self.position(value)?;
                value.as_array_mut()?.get_mut(at)
            }
        }
    }

    /// Finds the place of the item in a list.
    fn position(&self, list: &Value) -> Option<usize> {
        let items = list.as_array()?;
        match self {
            Self::Key(_) | Self::Every => None,
            Self::Index(index) => (*index < items.len()).then_some(*index),
            Self::Is(value) => items.iter().position(|item| item == value),
            Self::Item(keys) => items.iter().position(|item| {
                keys.iter()
                    .all(|(key, wanted)| item_key(item, key).as_ref() == Some(wanted))
            }),
        }
    }
}

/// Reads a field that tells list items apart. The server writes a port's protocol in where it is
/// left out, so a port without one is the same item.
#[must_use]
pub fn item_key(item: &Value, key: &str) -> Option<Value> {
    let given = item.get(key).filter(|value| !value.is_null()).cloned();
    match key {
        "protocol" => given.or_else(|| item.is_object().then(|| Value::from("TCP"))),
        _ => given,
    }
}

impl FieldPath {
    /// Returns the path one step longer.
    #[must_use]
    pub fn then(&self, segment: Segment) -> Self {
        let mut longer = self.clone();
        longer.0.push(segment);
        longer
    }

    /// Returns the path of a field.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        self.then(Segment::Key(key.to_owned()))
    }

    /// Returns the value at this path.
    #[must_use]
    pub fn get<'a>(&self, body: &'a Value) -> Option<&'a Value> {
        let mut steps = self.0.iter();
        steps.try_fold(body, |value, segment| segment.follow(value))
    }

    /// Takes the value out, and every object that is empty without it; `None` where there is none.
    pub fn remove(&self, body: &mut Value) -> Option<Value> {
        let (last, parents) = self.0.split_last()?;
        let parent = parents
            .iter()
            .try_fold(&mut *body, |value, segment| segment.follow_mut(value))?;
        let taken = match last {
            Segment::Key(key) => parent.as_object_mut()?.remove(key)?,
            _ => {
                let at = last.position(parent)?;
                parent.as_array_mut()?.remove(at)
            }
        };
        let emptied = match parent {
            Value::Object(fields) => fields.is_empty(),
            Value::Array(items) => items.is_empty(),
            _ => false,
        };
        if emptied && !parents.is_empty() {
            Self(parents.to_vec()).remove(body);
        }
        Some(taken)
    }

    /// Puts a value in and makes the objects and list items on the way; returns whether it could.
    pub fn set(&self, body: &mut Value, value: Value) -> bool {
        let mut place = body;
        for segment in &self.0 {
            if place.is_null() {
                *place = match segment {
                    Segment::Key(_) => Value::Object(serde_json::Map::new()),
                    _ => Value::Array(Vec::new()),
                };
            }
            if segment.follow(place).is_none() {
                let added = match (segment, &mut *place) {
                    (Segment::Key(key), Value::Object(fields)) => {
                        fields.insert(key.clone(), Value::Null);
                        true
                    }
                    (Segment::Item(keys), Value::Array(items)) => {
                        let item = keys.clone().into_iter().collect();
                        items.push(Value::Object(item));
                        true
                    }
                    (Segment::Is(value), Value::Array(items)) => {
                        items.push(value.clone());
                        true
                    }
                    _ => false,
                };
                if !added {
                    return false;
                }
            }
            match segment.follow_mut(place) {
                Some(next) => place = next,
                None => return false,
            }
        }
        *place = value;
        true
    }

    /// Says whether `other` is this field or a part of it. Names of this path that are written
    /// with dots between them also mean one key with dots, as the server tells it.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        covers(&self.0, &other.0)
    }

    /// Says whether one of the two is a part of the other, or they are the same.
    #[must_use]
    pub fn touches(&self, other: &Self) -> bool {
        self.covers(other) || other.covers(self)
    }
}

fn covers(ours: &[Segment], theirs: &[Segment]) -> bool {
    let Some((first, rest)) = ours.split_first() else {
        return true;
    };
    let Some((other, below)) = theirs.split_first() else {
        return false;
    };
    match (first, other) {
        (Segment::Key(first), Segment::Key(other)) => {
            if first == other {
                return covers(rest, below);
            }
            let mut joined = first.clone();
            for (at, segment) in rest.iter().enumerate() {
                let Segment::Key(key) = segment else { break };
                joined = format!("{joined}.{key}");
                if joined == *other {
                    return covers(&rest[at + 1..], below);
                }
            }
            false
        }
        (Segment::Every, Segment::Key(_)) => false,
        (Segment::Every, _) => covers(rest, below),
        (Segment::Item(wanted), Segment::Item(keys)) => {
            let met = wanted
                .iter()
                .all(|(key, value)| keys.get(key) == Some(value));
            met && covers(rest, below)
        }
        (first, other) => first == other && covers(rest, below),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn path(text: &str) -> FieldPath {
        text.parse().expect(text)
    }

    #[test]
    fn paths_are_read_and_told_alike() {
        for text in [
            ".spec.replicas",
            ".metadata.annotations[\"example.com/x\"]",
            ".spec.containers[name=\"app\"].ports[containerPort=80,protocol=\"TCP\"].name",
            ".metadata.finalizers[=\"a]b\"]",
            ".spec.rules[0].host",
            ".spec.rules[*].host",
        ] {
            assert_eq!(path(text).to_string(), text);
        }
        let loose = path(".metadata.annotations[example.com/x].a[name=app]");
        assert_eq!(
            loose.to_string(),
            ".metadata.annotations[\"example.com/x\"].a[name=\"app\"]"
        );
        for (text, error) in [
            ("spec", FieldPathError::Start),
            ("", FieldPathError::Start),
            (".", FieldPathError::Name),
            (".a..b", FieldPathError::Name),
            (".a[0", FieldPathError::Bracket),
            (".a[]", FieldPathError::Bracket),
            (".a[\"x]", FieldPathError::Bracket),
        ] {
            assert_eq!(text.parse::<FieldPath>(), Err(error), "{text}");
        }
    }

    #[test]
    fn lists_of_paths_split_outside_of_brackets_and_quotes() {
        assert_eq!(
            split(".a[x=1,y=\",\"].b,.c[\"d,e\"]"),
            [".a[x=1,y=\",\"].b", ".c[\"d,e\"]"]
        );
    }

    #[test]
    fn values_are_found_taken_out_and_put_in() {
        let mut body =
            json!({"spec": {"ports": [{"port": 80, "name": "a"}], "x": {"y": {"z": 1}}}});
        let name = path(".spec.ports[port=80,protocol=\"TCP\"].name");
        assert_eq!(name.get(&body), Some(&json!("a")));
        assert!(name.set(&mut body, json!("b")));
        assert_eq!(path(".spec.x.y.z").remove(&mut body), Some(json!(1)));
        assert_eq!(
            body,
            json!({"spec": {"ports": [{"port": 80, "name": "b"}]}})
        );
        assert!(path(".metadata.labels.a").set(&mut body, json!("v")));
        assert!(path(".spec.env[name=\"A\"].value").set(&mut body, json!("w")));
        assert_eq!(body["metadata"]["labels"]["a"], "v");
        assert_eq!(body["spec"]["env"], json!([{"name": "A", "value": "w"}]));
        assert!(!path(".spec.ports[7].name").set(&mut body, json!("c")));
    }

    #[test]
    fn a_path_covers_itself_and_what_is_below() {
        for (whole, part, covered) in [
            (".spec", ".spec.replicas", true),
            (".spec.replicas", ".spec.replicas", true),
            (".spec.replicas", ".spec", false),
            (".spec.rep", ".spec.replicas", false),
            (
                ".metadata.annotations.example.com/x",
                ".metadata.annotations[\"example.com/x\"]",
                true,
            ),
            (
                ".metadata.annotations.example",
                ".metadata.annotations[\"example.com/x\"]",
                false,
            ),
            (".a[*].b", ".a[name=\"x\"].b.c", true),
            (".a[name=\"x\"]", ".a[name=\"x\",protocol=\"TCP\"].b", true),
            (".a[name=\"y\"]", ".a[name=\"x\"].b", false),
        ] {
            assert_eq!(path(whole).covers(&path(part)), covered, "{whole} {part}");
        }
    }
}
