//! Manifests of a bundle as objects: read as kubectl reads them, refused where two readings exist.
//!
//! Called by [`crate::request`]. The objects that come out are the very ones that are decided on and
//! applied. [`object`] checks one object, [`names`] its metadata, [`sane`]
//! what server-side apply would trip over.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::btree_map::Entry;

use proto::error::Code;
use proto::error::Place;
use serde_json::Value;

use crate::bundle::Bundle;
use crate::bundle::InputError;
use crate::object::Object;
use crate::object::Origin;
use crate::spec::Duplicates;
use crate::spec::SPEC_FILE;
use crate::yaml::Flaw;
use crate::yaml::FlawKind;
use crate::yaml::legacy;
use crate::yaml::legacy::Form;
use crate::yaml::tree::Budget;
use crate::yaml::tree::Node;

mod foreign;
mod names;
mod object;
mod sane;

/// Objects of one bundle.
const MAX_OBJECTS: usize = 10_000;
/// Errors after which reading stops.
const MAX_PLACES: usize = 100;

/// What was read.
#[derive(Debug, Default, PartialEq)]
pub struct Manifests {
    /// The objects, in the order of files and documents.
    pub objects: Vec<Object>,
    /// Things to tell the caller: dropped fields, repeated objects.
    pub notes: Vec<String>,
}

/// Reads files and folders of a bundle.
///
/// # Errors
/// [`proto::error::Code::ManifestInvalid`] or `TooLarge` with file, line and what is wrong.
pub fn read(
    bundle: &Bundle,
    paths: &[String],
    duplicates: Duplicates,
) -> Result<Manifests, InputError> {
    let mut reader = Reader {
        duplicates,
        ..Reader::default()
    };
    let files = reader.files(bundle, paths);
    for file in files {
        let content = bundle.files.get(&file).map(Vec::as_slice);
        reader.file(&file, content.unwrap_or_default())?;
        if reader.places.len() >= MAX_PLACES {
            break;
        }
    }
    if reader.places.is_empty() && reader.read.objects.is_empty() && !paths.is_empty() {
        let message = "the manifests hold no object; every document is empty";
        reader.places.push(Place::message(message));
    }
    if reader.places.is_empty() {
        Ok(reader.read)
    } else {
        Err(InputError {
            code: Code::ManifestInvalid,
            places: reader.places,
        })
    }
}

/// Reads what a program rendered. Places are in `name`, by line.
///
/// # Errors
/// As [`read`].
pub fn rendered(name: &str, text: &[u8]) -> Result<Manifests, InputError> {
    let mut reader = Reader {
        author: Author::Program,
        ..Reader::default()
    };
    reader.file(name, text)?;
    if reader.places.is_empty() {
        Ok(reader.read)
    } else {
        Err(InputError {
            code: Code::ManifestInvalid,
            places: reader.places,
        })
    }
}

/// Group, kind, namespace and name: what the server takes for one object, whatever the version.
type Identity = (String, String, Option<String>, String);

/// Who wrote what is read.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Author {
    /// The caller, who can correct it.
    #[default]
    Caller,
    /// A program, from a chart or base that is somebody else's for the most part.
    Program,
}

#[derive(Default)]
struct Reader {
    author: Author,
    read: Manifests,
    places: Vec<Place>,
    budget: Budget,
    duplicates: Duplicates,
    /// Where each identity is among the objects.
    known: BTreeMap<Identity, usize>,
}

impl Reader {
    /// Lists the files that the paths mean, each once, in the order of the spec.
    fn files(&mut self, bundle: &Bundle, paths: &[String]) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let mut files = Vec::new();
        for (index, path) in paths.iter().enumerate() {
            let found = resolve(bundle, path);
            if found.is_empty() {
                self.places.push(Place {
                    file: Some(SPEC_FILE.to_owned()),
                    path: Some(format!("manifests[{index}]")),
                    ..Place::message(
                        "the bundle has no such file, and no folder with *.yaml, *.yml or *.json",
                    )
                });
            }
            files.extend(found.into_iter().filter(|file| seen.insert(file.clone())));
        }
        files
    }

    fn file(&mut self, file: &str, content: &[u8]) -> Result<(), InputError> {
        let form = if file.ends_with(".json") {
            Form::Json
        } else {
            Form::Yaml
        };
        let nodes = match legacy::documents(content, form, &mut self.budget) {
            Ok(nodes) => nodes,
            Err(flaw) => return self.flaw(foreign::explained(flaw, content), file),
        };
        for node in &nodes {
            let value = match legacy::value(node) {
                Ok(value) => value,
                Err(flaw) => {
                    self.flaw(flaw, file)?;
                    continue;
                }
            };
            self.expand(file, value, Some(node), node.line)?;
        }
        Ok(())
    }

    /// Keeps an error; one about size ends the reading.
    fn flaw(&mut self, flaw: Flaw, file: &str) -> Result<(), InputError> {
        let kind = flaw.kind;
        let place = flaw.place(file);
        match kind {
            FlawKind::TooLarge => Err(InputError::one(Code::ManifestInvalid, place)),
            FlawKind::Invalid => {
                self.places.push(place);
                Ok(())
            }
        }
    }

    /// Takes an object, or every object of a list.
    fn expand(
        &mut self,
        file: &str,
        mut value: Value,
        node: Option<&Node>,
        line: u64,
    ) -> Result<(), InputError> {
        let Some(items) = list_items(&mut value) else {
            return self.object(file, value, line);
        };
        let nodes = node
            .and_then(|node| node.get("items"))
            .and_then(Node::sequence)
            .unwrap_or_default();
        for (index, item) in items.into_iter().enumerate() {
            let node = nodes.get(index);
            self.expand(file, item, node, node.map_or(line, |node| node.line))?;
        }
        Ok(())
    }

    fn object(&mut self, file: &str, mut value: Value, line: u64) -> Result<(), InputError> {
        if self.places.len() >= MAX_PLACES {
            return Ok(());
        }
        let origin = Origin {
            file: file.to_owned(),
            line,
        };
        if let Some(message) = foreign::what(file, &value) {
            self.places.push(object::place(&origin, None, message));
            return Ok(());
        }
        let dropped = self.author == Author::Program && object::drop_namespace(&mut value);
        let checked = match object::object(value, origin) {
            Ok(checked) => checked,
            Err(error) if error.code == Code::TooLarge => return Err(error),
            Err(error) => {
                self.places.extend(error.places);
                return Ok(());
            }
        };
        if dropped {
            let Object { id, origin, .. } = &checked.object;
            let why = "objects of this kind have no namespace";
            let note = format!("{id} at {origin}: metadata.namespace dropped, {why}");
            self.read.notes.push(note);
        }
        self.read.notes.extend(checked.notes);
        self.keep(checked.object)
    }

    fn keep(&mut self, object: Object) -> Result<(), InputError> {
        let id = &object.id;
        let identity = (
            id.gvk.group.clone(),
            id.gvk.kind.clone(),
            id.namespace.clone(),
            id.name.clone(),
        );
        match self.known.entry(identity) {
            Entry::Vacant(entry) => {
                if self.read.objects.len() >= MAX_OBJECTS {
                    let message = format!("the manifests hold more than {MAX_OBJECTS} objects");
                    return Err(InputError::one(Code::TooLarge, Place::message(message)));
                }
                entry.insert(self.read.objects.len());
                self.read.objects.push(object);
            }
            Entry::Occupied(entry) => {
                let Some(first) = self.read.objects.get_mut(*entry.get()) else {
                    return Ok(()); // The map holds positions of kept objects only.
                };
                let (here, there) = (&object.origin, &first.origin);
                if first.body == object.body {
                    let note = format!("{id} at {here} repeats {there} and counts once");
                    self.read.notes.push(note);
                    return Ok(());
                }
                match self.duplicates {
                    Duplicates::Refuse => {
                        let message = format!(
                            "another object of this kind, namespace and name, with other content, \
                             is at {there}; keep one, or let the later one count with \
                             `duplicates: last` in {SPEC_FILE}"
                        );
                        self.places.push(object::place(here, None, message));
                    }
                    Duplicates::Last => {
                        let note = format!("{id} at {here} counts instead of the one at {there}");
                        self.read.notes.push(note);
                        *first = object;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Lists the files that one path of the spec means.
fn resolve(bundle: &Bundle, path: &str) -> Vec<String> {
    let segments: Vec<_> = path
        .split('/')
        .filter(|segment| !segment.is_empty() && *segment != ".")
        .collect();
    let plain = segments.join("/");
    if !path.ends_with('/') && bundle.files.contains_key(&plain) {
        return vec![plain];
    }
    let prefix = match plain.as_str() {
        "" => plain,
        _ => format!("{plain}/"),
    };
    let wanted = |file: &&String| {
        file.strip_prefix(&prefix).is_some_and(|below| {
            let hidden = below.split('/').any(|segment| segment.starts_with('.'));
            let ending = [".yaml", ".yml", ".json"];
            !hidden && ending.iter().any(|ending| below.ends_with(ending))
        })
    };
    let files = bundle.files.keys().filter(wanted);
    // A folder that holds the spec too is a folder of manifests all the same.
    files.filter(|file| *file != SPEC_FILE).cloned().collect()
}

/// Takes the items out of a list; `None` where it is none. Items of a typed list (`PodList`) may
/// leave out what its kind says.
fn list_items(value: &mut Value) -> Option<Vec<Value>> {
    let kind = value.get("kind")?.as_str()?.to_owned();
    let item_kind = kind.strip_suffix("List")?;
    let api_version = value.get("apiVersion").cloned();
    let items = match value.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => items,
        Some(Value::Null) | None if item_kind.is_empty() => Vec::new(),
        other => {
            // Put it back: this is an object that happens to be called so.
            if let (Some(other), Some(object)) = (other, value.as_object_mut()) {
                object.insert("items".to_owned(), other);
            }
            return None;
        }
    };
    if item_kind.is_empty() {
        return Some(items);
    }
    let typed = |mut item: Value| {
        if let Some(object) = item.as_object_mut()
            && !object.contains_key("kind")
            && !object.contains_key("apiVersion")
        {
            object.insert("kind".to_owned(), Value::from(item_kind));
            object.extend(
                api_version
                    .clone()
                    .map(|version| ("apiVersion".to_owned(), version)),
            );
        }
        item
    };
    Some(items.into_iter().map(typed).collect())
}

#[cfg(test)]
mod tests;
