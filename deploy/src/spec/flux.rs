//! The field `flux` of `quaymaster.yaml`: which branch is changed, and what of Flux is waited for.
//!
//! Called by [`super::parse()`]. Every image of the spec is looked for in the files below `path`; places that
//! no marker and no kustomization names are named by `values`. Names of Flux objects are written
//! `namespace/name`; without a namespace they are in `flux-system`, where `flux bootstrap` puts them.

use std::collections::BTreeMap;
use std::fmt;

use super::Flux;
use super::GitCredential;
use super::OnFailure;
use super::Rollout;
use super::fields::Errors;
use super::fields::Fields;
use super::fields::Spot;
use super::parse::path;
use crate::fleet::Part;
use crate::fleet::ValueRule;
use crate::image::ImageRef;
use crate::ports::Branch;
use crate::ports::BranchName;
use crate::ports::GitAddress;
use crate::secret::VaultPath;

/// Where Flux objects are that are named without a namespace.
const HOME: &str = "flux-system";
/// The names of the fields of a credential in Vault, as Flux names them in its own Secrets.
const USERNAME: &str = "username";
const PASSWORD: &str = "password";
const IDENTITY: &str = "identity";
const KNOWN_HOSTS: &str = "known_hosts";

/// The name of an object of Flux.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FluxName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl FluxName {
    fn parse(text: &str) -> Result<Self, &'static str> {
        const SHAPE: &str = "expected the name of an object of Flux: name, or namespace/name";
        let (namespace, name) = text.split_once('/').unwrap_or((HOME, text));
        let good = proto::ids::dns_subdomain(namespace).is_ok()
            && !namespace.contains('.')
            && proto::ids::dns_subdomain(name).is_ok();
        good.then(|| Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
        .ok_or(SHAPE)
    }
}

impl fmt::Display for FluxName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Reads the field.
pub(super) fn flux(
    spot: Spot<'_>,
    images: &BTreeMap<String, ImageRef>,
    errors: &mut Errors,
) -> Option<Flux> {
    const WORDS: &[&str] = &[
        "repository",
        "branch",
        "path",
        "credential",
        "sources",
        "wait",
        "values",
        "message",
        "author",
    ];
    if images.is_empty() {
        errors.at(
            &spot,
            "there is no image to put into the repository; name them under 'images'",
        );
    }
    let fields = spot.fields(WORDS, errors)?;
    let repository = fields
        .need("repository", errors)
        .and_then(|spot| spot.parsed(errors, GitAddress::parse));
    let name = match fields.take("branch") {
        Some(spot) => spot.parsed(errors, BranchName::parse),
        None => BranchName::parse("main").ok(),
    };
    let paths = fields
        .need("path", errors)
        .map(|spot| list_or_one(&spot, errors, path))
        .unwrap_or_default();
    let credential = match (fields.take("credential"), &repository) {
        (Some(spot), Some(repository)) => Some(credential(spot, repository, errors)?),
        (Some(_), None) | (None, _) => None,
    };
    let names = |spot: Spot<'_>, errors: &mut Errors| {
        list_or_one(&spot, errors, |spot, errors| {
            spot.parsed(errors, FluxName::parse)
        })
    };
    let sources = fields
        .need("sources", errors)
        .map(|spot| names(spot, errors))
        .unwrap_or_default();
    let wait = fields
        .need("wait", errors)
        .and_then(|spot| spot.fields(&["kustomizations", "helmreleases"], errors));
    let waited = |word: &str, errors: &mut Errors| {
        let found = wait.as_ref().and_then(|wait| wait.take(word));
        found.map(|spot| names(spot, errors)).unwrap_or_default()
    };
    let kustomizations = waited("kustomizations", errors);
    let helmreleases = waited("helmreleases", errors);
    if kustomizations.is_empty()
        && helmreleases.is_empty()
        && let Some(spot) = fields.take("wait")
    {
        errors.at(
            &spot,
            "name what applies the change: kustomizations, helmreleases, or both",
        );
    }
    let values = fields.take("values").map(|spot| {
        let items = spot.items(errors).into_iter();
        items
            .filter_map(|item| value_rule(item, images, errors))
            .collect()
    });
    let message = fields.take("message").and_then(|spot| {
        let text = spot.text(errors)?;
        Some(text.to_owned())
    });
    let (author, email) = author(&fields, errors);
    Some(Flux {
        branch: Branch {
            repository: repository?,
            name: name?,
        },
        paths,
        credential,
        sources,
        kustomizations,
        helmreleases,
        values: values.unwrap_or_default(),
        message,
        author,
        email,
    })
}

/// Checks what `rollout` says against where the objects come from.
pub(super) fn on_failure(
    fields: &Fields<'_>,
    flux: Option<&Flux>,
    rollout: &Rollout,
    errors: &mut Errors,
) {
    let spot = fields.take("rollout").or_else(|| fields.take("flux"));
    let Some(spot) = spot else {
        return;
    };
    match (flux.is_some(), rollout.on_failure) {
        (true, OnFailure::Rollback) => errors.at(
            &spot,
            "a deploy through Flux goes back by a commit: on_failure: revert",
        ),
        (false, OnFailure::Revert) => errors.at(
            &spot,
            "on_failure: revert is for deploys through Flux; others say rollback",
        ),
        (true | false, OnFailure::Keep)
        | (true, OnFailure::Revert)
        | (false, OnFailure::Rollback) => {}
    }
}

/// Reads one item, or a list of them.
fn list_or_one<T>(
    spot: &Spot<'_>,
    errors: &mut Errors,
    read: impl Fn(&Spot<'_>, &mut Errors) -> Option<T>,
) -> Vec<T> {
    if spot.node.sequence().is_none() {
        return read(spot, errors).into_iter().collect();
    }
    let items = spot.items(errors);
    items.iter().filter_map(|item| read(item, errors)).collect()
}

fn credential(
    spot: Spot<'_>,
    repository: &GitAddress,
    errors: &mut Errors,
) -> Option<GitCredential> {
    let (words, is_ssh): (&[&str], _) = if repository.is_ssh() {
        (&["vault", IDENTITY, KNOWN_HOSTS], true)
    } else {
        (&["vault", USERNAME, PASSWORD], false)
    };
    let fields = spot.fields(words, errors)?;
    let path = fields
        .need("vault", errors)
        .and_then(|spot| spot.parsed(errors, VaultPath::parse));
    let mut field = |word: &str| match fields.take(word) {
        Some(spot) => spot.text(errors).map(str::to_owned),
        None => Some(word.to_owned()),
    };
    Some(if is_ssh {
        GitCredential::Key {
            identity: field(IDENTITY)?,
            known_hosts: field(KNOWN_HOSTS)?,
            path: path?,
        }
    } else {
        GitCredential::Password {
            username: field(USERNAME)?,
            password: field(PASSWORD)?,
            path: path?,
        }
    })
}

fn value_rule(
    spot: Spot<'_>,
    images: &BTreeMap<String, ImageRef>,
    errors: &mut Errors,
) -> Option<ValueRule> {
    let fields = spot.fields(&["object", "path", "image", "part"], errors)?;
    let object = match fields.take("object") {
        Some(spot) => Some(spot.parsed(errors, object)?),
        None => None,
    };
    let path = fields.need("path", errors)?.text(errors)?.to_owned();
    let spot = fields.need("image", errors)?;
    let image = spot.text(errors)?.to_owned();
    if !images.contains_key(&image) {
        errors.at(&spot, "no image of this name is given under 'images'");
    }
    let part = match fields.take("part") {
        None => Part::Reference,
        Some(spot) => match spot.text(errors)? {
            "reference" => Part::Reference,
            "name" => Part::Name,
            "tag" => Part::Tag,
            "digest" => Part::Digest,
            _ => {
                errors.at(&spot, "expected reference, name, tag or digest");
                return None;
            }
        },
    };
    Some(ValueRule {
        object,
        path,
        image,
        part,
    })
}

fn object(text: &str) -> Result<String, &'static str> {
    let good = text.split_once('/').is_some_and(|(kind, name)| {
        kind.starts_with(|c: char| c.is_ascii_uppercase())
            && kind.chars().all(|c| c.is_ascii_alphanumeric())
            && proto::ids::dns_subdomain(name).is_ok()
    });
    good.then(|| text.to_owned())
        .ok_or("expected kind and name, such as HelmRelease/web")
}

fn author(fields: &Fields<'_>, errors: &mut Errors) -> (String, String) {
    let plain = |text: &str| {
        let bad = |c: char| c.is_control() || "<>".contains(c);
        let good = !text.contains(bad) && text.trim() == text && text.len() <= 200;
        good.then(|| text.to_owned())
            .ok_or("expected a plain name or address, without < and >")
    };
    let given = fields
        .take("author")
        .and_then(|spot| spot.fields(&["name", "email"], errors));
    let mut read = |word: &str, default: &str| {
        let spot = given.as_ref().and_then(|given| given.take(word));
        let text = spot.and_then(|spot| spot.parsed(errors, plain));
        text.unwrap_or_else(|| default.to_owned())
    };
    (
        read("name", "Quaymaster"),
        read("email", "quaymaster@localhost"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::parse;

    const GOOD: &str = r#"
version: 1
name: shop
flux:
  repository: https://git.example.com/team/fleet.git
  path: [apps/shop, infra/values.yaml]
  credential: { vault: kv/shop/fleet, password: token }
  sources: fleet
  wait: { kustomizations: [shop], helmreleases: [shop/web] }
  values: [{ object: HelmRelease/web, path: image.tag, image: shop, part: tag }]
images: { shop: "registry.example.com/shop:2" }
rollout: { on_failure: revert }
"#;

    fn problems(text: &str) -> Vec<String> {
        let Err(error) = parse(text.as_bytes()) else {
            return Vec::new();
        };
        let places = error.places.into_iter();
        places
            .map(|place| format!("{}: {}", place.path.unwrap_or_default(), place.message))
            .collect()
    }

    #[test]
    fn a_flux_spec_is_read_with_its_defaults() {
        let spec = parse(GOOD.as_bytes()).expect("it is good");
        let flux = spec.flux.expect("it has flux");
        assert_eq!(
            flux.branch.to_string(),
            "branch main of https://git.example.com/team/fleet.git"
        );
        assert_eq!(flux.paths, ["apps/shop", "infra/values.yaml"]);
        let objects: Vec<String> = flux.objects().map(ToString::to_string).collect();
        assert_eq!(
            objects,
            ["flux-system/fleet", "flux-system/shop", "shop/web"]
        );
        let Some(GitCredential::Password {
            path,
            username,
            password,
        }) = flux.credential
        else {
            panic!("https wants a password");
        };
        assert_eq!(
            (path.as_str(), &*username, &*password),
            ("kv/shop/fleet", "username", "token")
        );
        assert_eq!(flux.values[0].part, Part::Tag);
        assert_eq!(spec.rollout.on_failure, OnFailure::Revert);
    }

    #[test]
    fn every_mistake_is_named() {
        for (from, to, expected) in [
            ("https://git", "https://user:pw@git", "names a user"),
            ("  sources: fleet\n", "", "the field 'sources' is missing"),
            (
                "  path: [apps/shop, infra/values.yaml]\n",
                "  path: ../x\n",
                "the path has '..'",
            ),
            (
                "sources: fleet",
                "sources: Fleet_1",
                "expected the name of an object of Flux",
            ),
            (
                "kustomizations: [shop], helmreleases: [shop/web]",
                "",
                "name what applies the change",
            ),
            ("image: shop,", "image: other,", "no image of this name"),
            (
                "part: tag",
                "part: whole",
                "expected reference, name, tag or digest",
            ),
            (
                "object: HelmRelease/web",
                "object: web",
                "expected kind and name",
            ),
            ("password: token", "identity: token", "is not a field here"),
            (
                "on_failure: revert",
                "on_failure: rollback",
                "on_failure: revert",
            ),
            (
                "images: { shop: \"registry.example.com/shop:2\" }\n",
                "",
                "there is no image",
            ),
            (
                "flux:\n",
                "manifests: [k8s/]\nflux:\n",
                "'manifests' is given too",
            ),
        ] {
            let text = GOOD.replace(from, to);
            assert_ne!(text, GOOD, "{from}");
            let found = problems(&text);
            assert!(
                found.iter().any(|one| one.contains(expected)),
                "{expected}: {found:?}"
            );
        }
        let other = "version: 1\nname: a\nmanifests: [k8s/]\nrollout: { on_failure: revert }\n";
        assert!(problems(other)[0].contains("on_failure: revert is for deploys through Flux"));
    }
}
