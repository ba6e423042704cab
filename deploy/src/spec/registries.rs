//! The list `registries` of a spec: which registries are asked for the images before anything is written.
//!
//! Called by [`super::parse()`]. A registry that is not listed is not asked, unless the rule wants it for all
//! images.

use std::collections::BTreeMap;

use super::RegistryCredential;
use super::fields::Errors;
use super::fields::Spot;
use crate::image::ImageRef;
use crate::secret::VaultPath;

/// The names of the fields of a credential in Vault, unless they are given.
const USERNAME: &str = "username";
const PASSWORD: &str = "password";

/// Reads the list.
pub(super) fn registries(
    spot: &Spot<'_>,
    errors: &mut Errors,
) -> BTreeMap<String, Option<RegistryCredential>> {
    let mut registries = BTreeMap::new();
    for item in spot.items(errors) {
        let Some(fields) = item.fields(&["server", "credential"], errors) else {
            continue;
        };
        let given = fields.take("credential");
        let credential = given.and_then(|spot| credential(spot, errors));
        let Some(spot) = fields.need("server", errors) else {
            continue;
        };
        let Some(server) = spot.parsed(errors, server) else {
            continue;
        };
        if registries.insert(server, credential).is_some() {
            errors.at(&spot, "another entry above has this server");
        }
    }
    registries
}

/// Reads the name of a registry as references begin with it.
fn server(text: &str) -> Result<String, &'static str> {
    let image = ImageRef::parse(&format!("{text}/x"));
    let image = image.ok().filter(|image| image.registry() == text);
    image
        .map(|_| text.to_owned())
        .ok_or("expected the registry as references begin with it, such as registry.example.com:5050, or docker.io")
}

fn credential(spot: Spot<'_>, errors: &mut Errors) -> Option<RegistryCredential> {
    let fields = spot.fields(&["vault", USERNAME, PASSWORD], errors)?;
    let path = fields.need("vault", errors);
    let path = path.and_then(|spot| spot.parsed(errors, VaultPath::parse));
    let mut field = |word: &str| match fields.take(word) {
        Some(spot) => spot.text(errors).map(str::to_owned),
        None => Some(word.to_owned()),
    };
    Some(RegistryCredential {
        username: field(USERNAME)?,
        password: field(PASSWORD)?,
        path: path?,
    })
}

#[cfg(test)]
mod tests {
    use crate::spec::Spec;
    use crate::spec::parse;

    fn read(list: &str) -> Result<Spec, String> {
        let text = format!("version: 1\nname: a\nmanifests: [k8s]\nregistries: {list}\n");
        parse(text.as_bytes()).map_err(|error| {
            let places = error.places.into_iter();
            let told = places
                .map(|place| format!("{}: {}", place.path.unwrap_or_default(), place.message));
            told.collect::<Vec<_>>().join("; ")
        })
    }

    #[test]
    fn registries_have_a_credential_or_none() {
        let list = "[{ server: 'registry.example.com:5050', credential: { vault: kv/a/registry, password: token } }, \
                    { server: docker.io }]";
        let spec = read(list).expect("it is good");
        assert_eq!(spec.registries["docker.io"], None);
        let credential = spec.registries["registry.example.com:5050"].as_ref();
        let credential = credential.expect("it has one");
        let found = (
            credential.path.as_str(),
            &*credential.username,
            &*credential.password,
        );
        assert_eq!(found, ("kv/a/registry", "username", "token"));
    }

    #[test]
    fn every_mistake_is_named() {
        for (list, expected) in [
            ("[]", "the list is empty"),
            ("[{}]", "registries[0]: the field 'server' is missing"),
            (
                "[{ server: 'https://r.example.com' }]",
                "as references begin with it",
            ),
            (
                "[{ server: r.example.com/team }]",
                "as references begin with it",
            ),
            ("[{ server: team }]", "as references begin with it"),
            (
                "[{ server: r.io }, { server: r.io }]",
                "another entry above",
            ),
            ("[{ server: r.io, username: u }]", "is not a field here"),
            (
                "[{ server: r.io, credential: { username: u } }]",
                "registries[0].credential: the field 'vault' is missing",
            ),
            (
                "[{ server: r.io, credential: { vault: 'kv/../x' } }]",
                "registries[0].credential.vault",
            ),
        ] {
            let found = read(list).expect_err(list);
            assert!(found.contains(expected), "{list}: {found}");
        }
    }
}
