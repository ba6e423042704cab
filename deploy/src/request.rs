//! A complete, valid request: the spec and the objects of one bundle.
//!
//! Made from an unpacked bundle; consumed by [`crate::authorize`]. From here on nothing is parsed
//! again.

use std::collections::BTreeMap;

use proto::app::Rollback;
use proto::error::Code;
use proto::error::Place;
use proto::ids::ClusterName;
use proto::ids::Namespace;
use proto::report::Mode;
use serde_json::json;

use crate::binding::Binding;
use crate::bundle::Bundle;
use crate::bundle::InputError;
use crate::chart;
use crate::image;
use crate::kustomization;
use crate::manifest;
use crate::object::Object;
use crate::ports::Files;
use crate::spec;
use crate::spec::Duplicates;
use crate::spec::Rollout;
use crate::spec::SPEC_FILE;
use crate::spec::Source as ValueSource;
use crate::spec::Spec;

/// What a caller asks for.
#[derive(Debug, PartialEq)]
pub struct Request {
    /// Whether it writes.
    pub mode: Mode,
    /// The spec.
    pub spec: Spec,
    /// The objects that are known, with images put in; namespaces are not filled in yet.
    pub objects: Vec<Object>,
    /// Where more objects come from, once the run is on.
    pub source: Source,
    /// The environment whose images are promoted to this one; unset: the spec says which images.
    pub origin: Option<Box<Self>>,
    /// The bundle it came in, and the saved plan that it has to keep; the caller of [`read`] sets it.
    pub binding: Binding,
    /// Things to tell the caller.
    pub notes: Vec<String>,
}

/// Where objects come from that are not known when the request is taken.
#[derive(Debug, PartialEq)]
pub enum Source {
    /// There are none: the manifests are all.
    Manifests,
    /// A recorded revision of the app; unset is the one before the current.
    Revision(Option<u64>),
    /// The kustomization or chart of the spec, rendered by the run from these files of the bundle.
    Rendered(Files),
    /// Nothing is changed: the spec names an environment whose images are read, and judged.
    Environment,
}

/// Reads a request out of a bundle.
///
/// # Errors
/// Every error of the spec at once, else every error of the manifests, else images that nothing uses.
pub fn read(bundle: &Bundle, mode: Mode) -> Result<Request, InputError> {
    let file = spec_file(bundle)?;
    let spec = spec::parse(file)?;
    if !spec.deploys() {
        let message =
            "there is nothing to deploy: 'expose' is for 'quaymaster exec', and no deploy reads it";
        let place = spec::place_of(file, &["expose"], message);
        return Err(InputError::one(Code::SpecInvalid, place));
    }
    if let Some(folder) = &spec.kustomize {
        kustomization::check(bundle, folder)?;
    }
    if let Some(helm) = &spec.helm {
        chart::check(bundle, helm)?;
    }
    if spec.kustomize.is_some() || spec.helm.is_some() {
        return Ok(Request {
            mode,
            spec,
            objects: Vec::new(),
            source: Source::Rendered(bundle.files.clone()),
            origin: None,
            binding: Binding::default(),
            notes: Vec::new(),
        });
    }
    let mut manifests = manifest::read(bundle, &spec.manifests, spec.duplicates)?;
    let unused = image::substitute(&mut manifests.objects, &spec.images);
    // With Flux the images belong into the repository, which is not here.
    if spec.flux.is_none() && !unused.is_empty() {
        let message = "no container of the manifests has an image of this name; correct the name, \
                       or leave it out";
        let place = |name: &String| spec::image_error(file, name, message);
        return Err(InputError {
            code: Code::SpecInvalid,
            places: unused.iter().map(place).collect(),
        });
    }
    Ok(Request {
        mode,
        spec,
        objects: manifests.objects,
        source: Source::Manifests,
        origin: None,
        binding: Binding::default(),
        notes: manifests.notes,
    })
}

/// Reads which variables a bundle asks for. Nothing of it but the spec is looked at.
///
/// # Errors
/// Every error of the spec at once; a spec without `expose`.
pub fn exposed(bundle: &Bundle) -> Result<BTreeMap<String, ValueSource>, InputError> {
    let spec = spec::parse(spec_file(bundle)?)?;
    if spec.expose.is_empty() {
        let message = "there is no variable to give: name them under 'expose'";
        let place = Place {
            file: Some(SPEC_FILE.to_owned()),
            ..Place::message(message)
        };
        return Err(InputError::one(Code::SpecInvalid, place));
    }
    Ok(spec.expose)
}

fn spec_file(bundle: &Bundle) -> Result<&[u8], InputError> {
    let missing = || InputError::one(Code::SpecInvalid, Place::message(missing(bundle)));
    bundle
        .files
        .get(SPEC_FILE)
        .map(Vec::as_slice)
        .ok_or_else(missing)
}

/// Reads a request whose images are those of another environment: `path` is the spec of that one in the
/// bundle. Both are delivered by Flux; what stands under `images` counts by its names only.
///
/// # Errors
/// As for [`read`], for either spec; a spec without `flux`, or names that the other one does not have.
pub fn promotion(bundle: &Bundle, path: &str, mode: Mode) -> Result<Request, InputError> {
    let mut request = read(bundle, mode)?;
    let refused = |file: &str, message: String| {
        let place = Place {
            file: Some(file.to_owned()),
            ..Place::message(message)
        };
        InputError::one(Code::SpecInvalid, place)
    };
    let Some(file) = bundle.files.get(path) else {
        let message = "the images are to come from the environment of this spec, and the bundle has no such file";
        return Err(refused(path, message.to_owned()));
    };
    let mut other = spec::parse(file).map_err(|mut error| {
        let places = error.places.iter_mut();
        places.for_each(|place| place.file = Some(path.to_owned()));
        error
    })?;
    for (file, spec) in [(SPEC_FILE, &request.spec), (path, &other)] {
        if spec.flux.is_none() {
            let message = "images are promoted between environments that Flux delivers; this spec has no 'flux'";
            return Err(refused(file, message.to_owned()));
        }
    }
    let names = &request.spec.images;
    if let Some(name) = names.keys().find(|name| !other.images.contains_key(*name)) {
        let message = format!("the image {name} of {SPEC_FILE} is not listed under 'images' here");
        return Err(refused(path, message));
    }
    other.images.retain(|name, _| names.contains_key(name));
    if let Some(flux) = &mut other.flux {
        flux.values.retain(|rule| names.contains_key(&rule.image));
    }
    other.secrets.clear();
    request.origin = Some(Box::new(Request {
        mode,
        spec: other,
        objects: Vec::new(),
        source: Source::Environment,
        origin: None,
        binding: Binding::default(),
        notes: Vec::new(),
    }));
    Ok(request)
}

/// Makes the request to go back to a recorded revision; its objects become known during the run.
///
/// # Errors
/// The timeout is no duration.
pub fn rollback(asked: Rollback) -> Result<Request, InputError> {
    let mut rollout = Rollout {
        // Whoever asks for a revision by name means to go back.
        allow_older: true,
        ..Rollout::default()
    };
    if let Some(text) = &asked.timeout {
        rollout.timeout = spec::duration(text).map_err(|problem| {
            let place = Place {
                path: Some("timeout".to_owned()),
                ..Place::message(problem)
            };
            InputError::one(Code::BadRequest, place)
        })?;
    }
    let text = rollback_text(&asked, &rollout);
    Ok(Request {
        mode: Mode::Rollback,
        spec: Spec {
            name: asked.name,
            cluster: asked.cluster,
            namespace: asked.namespace,
            secrets: Vec::new(),
            manifests: Vec::new(),
            duplicates: Duplicates::default(),
            kustomize: None,
            helm: None,
            flux: None,
            images: BTreeMap::new(),
            registries: BTreeMap::new(),
            rollout,
            health: Vec::new(),
            conflicts: Vec::new(),
            adopt: Vec::new(),
            expose: BTreeMap::new(),
            text,
        },
        objects: Vec::new(),
        source: Source::Revision(asked.revision),
        origin: None,
        binding: Binding::default(),
        notes: Vec::new(),
    })
}

/// The spec that a rollback is taken up again with after a restart; its objects are in the journal.
fn rollback_text(asked: &Rollback, rollout: &Rollout) -> String {
    let named = |place: &'static str, name: Option<&str>| Some((place, name?.to_owned()));
    let target: BTreeMap<&str, String> = [
        named("cluster", asked.cluster.as_ref().map(ClusterName::as_str)),
        named("namespace", asked.namespace.as_ref().map(Namespace::as_str)),
    ]
    .into_iter()
    .flatten()
    .collect();
    let spec = json!({
        "version": 1,
        "name": asked.name,
        "target": target,
        "manifests": ["recorded/"],
        "rollout": {
            "timeout": format!("{}s", rollout.timeout.as_secs()),
            "allow_older": rollout.allow_older,
        },
    });
    spec.to_string()
}

/// Says where the spec may have gone.
fn missing(bundle: &Bundle) -> String {
    let at_root = "quaymaster.yaml has to be at the root of the bundle";
    if bundle.files.is_empty() {
        return format!("the bundle has no files; {at_root}");
    }
    let is_lookalike = |path: &&String| {
        let name = path.rsplit('/').next().unwrap_or_default();
        ["quaymaster.yaml", "quaymaster.yml"]
            .iter()
            .any(|other| name.eq_ignore_ascii_case(other))
    };
    match bundle.files.keys().find(is_lookalike) {
        Some(path) if path.contains('/') => format!(
            "{at_root}, but it is in a folder; pack from inside that folder: \
             `tar -C <folder> -c .`"
        ),
        Some(_) => format!("{at_root}, and has to be written exactly so"),
        None => format!("the bundle has no quaymaster.yaml; {at_root}"),
    }
}

#[cfg(test)]
mod tests;
