//! Manifests of a bundle as objects: read as kubectl reads them, refused where two readings exist.
//!
//! Called by [`crate::request`]. The objects that come out are the very ones that are decided on and
//! applied.

mod rules;

use std::collections::BTreeMap;
use std::collections::HashMap;

use proto::error::Code;
use serde_json::Value;

use crate::bundle::Bundle;
use crate::bundle::InputError;
use crate::object::Gvk;
use crate::object::Object;
use crate::object::ObjectId;
use crate::object::Origin;
use crate::object::text;
use crate::yaml::Flaw;
use crate::yaml::FlawKind;
use crate::yaml::legacy;
use crate::yaml::legacy::Budget;
use crate::yaml::legacy::Form;

/// What was read.
#[derive(Debug, Default, PartialEq)]
pub struct Manifests {
    /// The objects, in the order of files and documents.
    pub objects: Vec<Object>,
    /// Things to tell the caller: dropped fields, repeated objects.
    pub notes: Vec<String>,
}

/// Objects that one run may have.
const MAX_OBJECTS: usize = 10_000;
/// Bytes of one object as JSON; the server's own limit decides below that.
const MAX_OBJECT: usize = 3 << 20;

/// Reads files and folders of a bundle.
///
/// # Errors
/// [`proto::error::Code::ManifestInvalid`] or `TooLarge` with file, line and what is wrong.
pub fn read(bundle: &Bundle, paths: &[String]) -> Result<Manifests, InputError> {
    let mut reader = Reader::default();
    let mut budget = Budget::default();
    for file in files(bundle, paths)? {
        let content = bundle
            .files
            .get(&file)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let form = if has_ending(&file, &[".json"]) {
            Form::Json
        } else {
            Form::Yaml
        };
        let documents =
            legacy::documents(content, form, &mut budget).map_err(|flaw| wrong(flaw, &file))?;
        for node in documents {
            let body = legacy::value(&node).map_err(|flaw| wrong(flaw, &file))?;
            reader.document(
                body,
                &Origin {
                    file: file.clone(),
                    line: node.line,
                },
            )?;
        }
    }
    if !paths.is_empty() && reader.found.objects.is_empty() {
        return Err(at(
            "manifests",
            0,
            "the named files and folders hold no object (*.yaml, *.yml, *.json)",
        ));
    }
    reader.tell_dropped();
    Ok(reader.found)
}

fn wrong(flaw: Flaw, file: &str) -> InputError {
    let code = match flaw.kind {
        FlawKind::Invalid => Code::ManifestInvalid,
        FlawKind::TooLarge => Code::TooLarge,
    };
    InputError {
        code,
        places: vec![flaw.place(file)],
    }
}

fn at(file: &str, line: u64, message: impl Into<String>) -> InputError {
    InputError {
        code: Code::ManifestInvalid,
        places: vec![Flaw::new(line, 0, message).place(file)],
    }
}

fn has_ending(path: &str, endings: &[&str]) -> bool {
    endings.iter().any(|ending| path.ends_with(ending))
}

/// Lists the files that the paths name: each once, folders sorted, dot files of folders skipped.
fn files(bundle: &Bundle, paths: &[String]) -> Result<Vec<String>, InputError> {
    let mut files: Vec<String> = Vec::new();
    for path in paths {
        let mut named: Vec<String> = if bundle.files.contains_key(path) {
            vec![path.clone()]
        } else {
            let prefix = if path.is_empty() {
                String::new()
            } else {
                format!("{path}/")
            };
            let inner = |file: &&String| {
                file.strip_prefix(&prefix)
                    .is_some_and(|rest| !rest.split('/').any(|part| part.starts_with('.')))
            };
            let read = |file: &&String| {
                has_ending(file, &[".yaml", ".yml", ".json"])
                    && file.as_str() != crate::bundle::SPEC_FILE
            };
            bundle
                .files
                .keys()
                .filter(inner)
                .filter(read)
                .cloned()
                .collect()
        };
        if named.is_empty() {
            let name = if path.is_empty() { "." } else { path };
            return Err(at(
                name,
                0,
                "the bundle has no such file, and no manifests in such a folder",
            ));
        }
        named.sort();
        named.retain(|file| !files.contains(file));
        files.extend(named);
    }
    Ok(files)
}

/// What was read so far.
#[derive(Default)]
struct Reader {
    found: Manifests,
    seen: HashMap<ObjectId, usize>,
    dropped: BTreeMap<&'static str, usize>,
}

impl Reader {
    fn document(&mut self, body: Value, origin: &Origin) -> Result<(), InputError> {
        let is_list = body
            .get("kind")
            .and_then(Value::as_str)
            .is_some_and(|kind| kind.ends_with("List"));
        match (is_list, body.get("items")) {
            (true, Some(Value::Array(_))) => {
                let Value::Object(mut list) = body else {
                    return Ok(());
                };
                let Some(Value::Array(items)) = list.remove("items") else {
                    return Ok(());
                };
                items
                    .into_iter()
                    .try_for_each(|item| self.document(item, origin))
            }
            _ => self.object(body, origin),
        }
    }

    fn object(&mut self, mut body: Value, origin: &Origin) -> Result<(), InputError> {
        let fail = |message: String| Err(at(&origin.file, origin.line, message));
        let id = match identity(&body) {
            Ok(id) => id,
            Err(message) => return fail(message),
        };
        rules::check(&id, &body).or_else(fail)?;
        for name in rules::drop_server_fields(&mut body) {
            *self.dropped.entry(name).or_default() += 1;
        }
        rules::encode_string_data(&id, &mut body).or_else(fail)?;
        if body.to_string().len() > MAX_OBJECT {
            return Err(InputError {
                code: Code::TooLarge,
                ..at(&origin.file, origin.line, "the object is larger than 3 MiB")
            });
        }
        if let Some(first) = self
            .seen
            .get(&id)
            .and_then(|index| self.found.objects.get(*index))
        {
            if first.body == body {
                self.found.notes.push(format!(
                    "{id} stands twice, at {} and {origin}; it counts once",
                    first.origin
                ));
                return Ok(());
            }
            let message = format!(
                "{id} stands at {} already, with another content",
                first.origin
            );
            return fail(message);
        }
        if self.found.objects.len() >= MAX_OBJECTS {
            let message = format!("the bundle has more than {MAX_OBJECTS} objects");
            return Err(InputError {
                code: Code::TooLarge,
                ..at(&origin.file, origin.line, message)
            });
        }
        self.seen.insert(id.clone(), self.found.objects.len());
        self.found.objects.push(Object {
            id,
            body,
            origin: origin.clone(),
        });
        Ok(())
    }

    fn tell_dropped(&mut self) {
        for (name, count) in &self.dropped {
            self.found.notes.push(format!(
                "{name} belongs to the server and was left out of {count} objects"
            ));
        }
    }
}

fn identity(body: &Value) -> Result<ObjectId, String> {
    let need = |path: &[&str]| {
        let text = text(body, path);
        if text.is_empty() {
            Err(format!("the object has no {}", path.join(".")))
        } else {
            Ok(text)
        }
    };
    if !body.is_object() {
        return Err("expected an object with apiVersion, kind and metadata".to_owned());
    }
    let (api_version, kind) = (need(&["apiVersion"])?, need(&["kind"])?);
    if text(body, &["metadata", "name"]).is_empty()
        && !text(body, &["metadata", "generateName"]).is_empty()
    {
        return Err(
            "generateName without name cannot be applied twice; give the object a name".to_owned(),
        );
    }
    let name = need(&["metadata", "name"])?;
    let namespace = text(body, &["metadata", "namespace"]);
    Ok(ObjectId {
        gvk: Gvk::new(api_version, kind),
        namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
        name: name.to_owned(),
    })
}

#[cfg(test)]
mod tests;
