//! Does a rule let a request have its images, and ask registries for them?
//!
//! Called by [`super::grant`] for every object, and by the engine through [`Permit`] when digests are known.
//! A registry is asked only for images that the rule names, so a spec cannot send the agent anywhere else. A
//! tag that is looked for counts as a digest until then; after that it has one.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use super::Denial;
use super::Permit;
use super::grant::ASK;
use super::grant::Refusal;
use super::grant::any;
use super::grant::refuse;
use super::grant::vault_path;
use crate::image;
use crate::image::ImageRef;
use crate::image::images_of;
use crate::object::Object;
use crate::object::ObjectId;
use crate::policy::ClusterGrant;
use crate::policy::Rule;
use crate::request::Request;
use crate::request::Source;
use crate::spec::Spec;

impl Permit {
    /// Puts the images in that a promotion found. The same rule decides about them as about those of a spec.
    ///
    /// # Errors
    /// The denial, naming the first image that the rule does not grant.
    pub fn with_images(mut self, images: BTreeMap<String, ImageRef>) -> Result<Self, Box<Denial>> {
        self.request.spec.images = images;
        let decided = of_branch(&self.grant, &self.request);
        match decided.and_then(|()| places(&self.grant, &self.request)) {
            Ok(()) => Ok(self),
            Err(refusal) => Err(Box::new(self.denial(refusal))),
        }
    }

    /// Lists the images that have to be in their registries before anything is written.
    #[must_use]
    pub fn images_to_find(&self) -> BTreeMap<String, ImageRef> {
        let asked = asked(&self.grant, &self.request.spec);
        asked
            .map(|(name, image)| (name.clone(), image.clone()))
            .collect()
    }

    /// Puts images in that were found, with their digests, also into the objects that name them. The same
    /// rule decides about them.
    ///
    /// # Errors
    /// The denial, naming the first image that the rule does not grant.
    pub fn with_digests(mut self, found: BTreeMap<String, ImageRef>) -> Result<Self, Box<Denial>> {
        let mut references = BTreeMap::new();
        for (name, image) in found {
            let text = image.to_string();
            if let Some(old) = self.request.spec.images.insert(name, image) {
                references.insert(old.to_string(), text);
            }
        }
        image::replace(&mut self.request.objects, &references);
        let none = BTreeSet::new();
        let mut objects = self.request.objects.iter();
        let decided = objects.try_for_each(|one| of_object(&self.grant, &none, one, &one.id));
        match decided.and_then(|()| of_branch(&self.grant, &self.request)) {
            Ok(()) => Ok(self),
            Err(refusal) => Err(Box::new(self.denial(refusal))),
        }
    }
}

/// Lists the images whose registries are asked: those of the spec, or all where the rule wants it.
fn asked<'r>(
    grant: &ClusterGrant,
    spec: &'r Spec,
) -> impl Iterator<Item = (&'r String, &'r ImageRef)> {
    let all = grant.check_images;
    let images = spec.images.iter();
    images.filter(move |(_, image)| all || spec.registries.contains_key(image.registry()))
}

/// Lists the references without digest that get one before anything is written.
pub(super) fn open(grant: &ClusterGrant, spec: &Spec) -> BTreeSet<String> {
    asked(grant, spec)
        .filter(|(_, image)| image.digest.is_none())
        .map(|(_, image)| image.to_string())
        .collect()
}

/// Decides which registries may be asked, and with which credentials.
pub(super) fn registries(
    rule: &Rule,
    grant: &ClusterGrant,
    request: &Request,
) -> Result<(), Refusal> {
    if request.source == Source::Environment {
        return Ok(());
    }
    for credential in request.spec.registries.values().flatten() {
        vault_path(rule, &credential.path)?;
    }
    // Images that are promoted are not known yet.
    if request.origin.is_some() {
        return Ok(());
    }
    places(grant, request)
}

/// Decides about the images that are looked for.
fn places(grant: &ClusterGrant, request: &Request) -> Result<(), Refusal> {
    let Some((name, image)) = asked(grant, &request.spec).find(|(_, image)| {
        let granted = |patterns| is_granted(patterns, &image.to_string(), image);
        !grant.images.as_deref().is_some_and(granted)
    }) else {
        return Ok(());
    };
    let registry = image.registry();
    Err(refuse(
        format!(
            "images.{name}: asking {registry} for {image} is not granted by `images` of the rule"
        ),
        "registries are asked for images only that the rule names: ask the operator to add it to the rule's \
         key `images`, naming the decision id",
    ))
}

/// Decides about the images that a request puts into a branch.
pub(super) fn of_branch(grant: &ClusterGrant, request: &Request) -> Result<(), Refusal> {
    let spec = &request.spec;
    if spec.flux.is_none() || request.source == Source::Environment {
        return Ok(());
    }
    let open = open(grant, spec);
    let mut images = spec.images.iter();
    images.try_for_each(|(name, image)| {
        decide(grant, &open, &image.to_string(), &format!("images.{name}"))
    })
}

/// Decides about the images of an object.
pub(super) fn of_object(
    grant: &ClusterGrant,
    open: &BTreeSet<String>,
    object: &Object,
    id: &ObjectId,
) -> Result<(), Refusal> {
    let place = id.to_string();
    let mut images = images_of(object).into_iter();
    images.try_for_each(|reference| decide(grant, open, &reference, &place))
}

/// Decides about one image.
fn decide(
    grant: &ClusterGrant,
    open: &BTreeSet<String>,
    image: &str,
    place: &str,
) -> Result<(), Refusal> {
    let Ok(parsed) = ImageRef::parse(image) else {
        return Err(refuse(
            format!("{place}: a container's image is no valid reference"),
            "write it as registry/repository:tag@sha256:digest",
        ));
    };
    if grant.require_digest && parsed.digest.is_none() && !open.contains(image) {
        return Err(refuse(
            format!("{place}: the image {image} has no digest, which the rule requires"),
            "append @sha256:.., or name the image under `images` and its registry under `registries` in \
             quaymaster.yaml, so that the tag becomes its digest",
        ));
    }
    match &grant.images {
        Some(patterns) if !is_granted(patterns, image, &parsed) => Err(refuse(
            format!("{place}: the image {image} is not granted"),
            ASK,
        )),
        Some(_) | None => Ok(()),
    }
}

/// Says whether patterns grant an image, with its tag and digest or without.
fn is_granted(patterns: &[crate::policy::Pattern], image: &str, parsed: &ImageRef) -> bool {
    any(patterns, image) || any(patterns, &parsed.name)
}
