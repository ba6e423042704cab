//! The images of a run in their registries: are they there, and which digests do their tags mean now?
//!
//! Called by [`super`] before anything is rendered, planned or written, for dry runs too. What is deployed
//! from here on are the digests. Credentials are read from Vault for this alone, and are gone after it.

use std::collections::BTreeMap;

use proto::error::Code;
use proto::error::Problem;
use proto::event::Stage;

use super::Tools;
use super::values;
use crate::authorize::Permit;
use crate::backoff::Patience;
use crate::backoff::Trouble;
use crate::image::ImageRef;
use crate::ports::Login;
use crate::ports::Parameters;
use crate::ports::RegistryError;
use crate::ports::RegistryLogin;
use crate::report;
use crate::report::images::Looked;
use crate::resolve::ResolvedSecrets;
use crate::resolve::Scope;
use crate::spec::RegistryCredential;
use crate::spec::SecretSpec;
use crate::spec::Source;

type Images = BTreeMap<String, ImageRef>;

/// The keys under which a credential is read; it becomes no Secret.
const USER: &str = "user";
const PASSWORD: &str = "password";

/// Who the agent is to the registries.
struct Logins {
    logins: BTreeMap<String, RegistryLogin>,
    secrets: ResolvedSecrets,
}

/// Finds the images that the spec or the rule wants to be looked for, and puts their digests into the permit.
pub(super) async fn found(
    permit: Permit,
    login: Option<&Login>,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Result<Permit, Problem> {
    let asked = permit.images_to_find();
    for server in permit.request().spec.registries.keys() {
        if !asked.values().any(|image| image.registry() == server) {
            tools.log.warn(format!(
                "registries: no image under `images` is in {server}, so it is not asked"
            ));
        }
    }
    if asked.is_empty() {
        return Ok(permit);
    }
    let logins = open(&permit, &asked, login, tools, patience).await?;
    tools
        .log
        .start(Stage::Resolve, "look for the images in their registries");
    let found = look(&permit, asked, &logins.logins, tools, patience).await;
    tools.log.end_stage(Stage::Resolve);
    values::settle_secrets(logins.secrets, &[], tools, patience).await;
    permit
        .with_digests(found?)
        .map_err(|denial| report::of_denial(&denial))
}

async fn look(
    permit: &Permit,
    asked: Images,
    logins: &BTreeMap<String, RegistryLogin>,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Result<Images, Problem> {
    let spec = &permit.request().spec;
    let registry = &tools.ports.registry;
    let mut found = Images::new();
    for (name, image) in asked {
        let place = image.place();
        let login = logins.get(&place.registry);
        let answer = patience
            .retry(|| registry.digest(&place, login), trouble(&image))
            .await;
        let digest = answer.map_err(|error| {
            let credential = credential(permit, &place.registry);
            let looked = Looked {
                name: &name,
                image: &image,
                credential: credential.map(|credential| &credential.path),
                spec: &spec.text,
            };
            report::images::of_registry(&looked, &error)
        })?;
        tools.log.info(match &image.digest {
            Some(_) => format!("image {name}: {image} is in its registry"),
            None => format!("image {name}: {image} is {digest}"),
        });
        let digest = Some(digest);
        found.insert(name, ImageRef { digest, ..image });
    }
    Ok(found)
}

/// Tells the retry policy about a registry.
fn trouble(image: &ImageRef) -> impl Fn(&RegistryError) -> Trouble {
    move |error| Trouble {
        class: error.class(),
        retry_after_seconds: error.retry_after_seconds(),
        reason: format!("looking for {image}: {error}"),
    }
}

fn credential<'p>(permit: &'p Permit, registry: &str) -> Option<&'p RegistryCredential> {
    permit.request().spec.registries.get(registry)?.as_ref()
}

/// Reads the credentials of the registries that are asked; nothing where none has one.
async fn open(
    permit: &Permit,
    asked: &Images,
    login: Option<&Login>,
    tools: &Tools<'_>,
    patience: &Patience<'_>,
) -> Result<Logins, Problem> {
    let registries = asked.values().map(|image| image.registry().to_owned());
    let named: BTreeMap<String, &RegistryCredential> = registries
        .filter_map(|registry| Some((registry.clone(), credential(permit, &registry)?)))
        .collect();
    for (registry, credential) in &named {
        let path = &credential.path;
        tools
            .log
            .info(format!("the credential of {registry} comes from {path}"));
    }
    let specs: Vec<SecretSpec> = named
        .iter()
        .map(|(registry, one)| spec_of(registry, one))
        .collect();
    let scope = (Scope::Alive, BTreeMap::new());
    let draft = values::draft_of(&specs, permit, login, scope, tools, patience).await?;
    let mut secrets = values::issue(draft, tools, patience).await?;
    let mut logins = BTreeMap::new();
    for (resolved, (registry, credential)) in secrets.secrets.iter_mut().zip(named) {
        let (user, password) = (resolved.data.remove(USER), resolved.data.remove(PASSWORD));
        let user = user.and_then(|user| String::from_utf8(user.bytes().to_vec()).ok());
        let fit = user.filter(|user| !user.contains(':')).zip(password);
        let Some((user, password)) = fit else {
            values::settle_secrets(secrets, &[], tools, patience).await;
            let path = &credential.path;
            let detail = format!("the user name in {path} for {registry} is no text without ':'");
            return Err(Problem::new(Code::SecretMissing, detail).hint("store it as text"));
        };
        logins.insert(registry, RegistryLogin { user, password });
    }
    Ok(Logins { logins, secrets })
}

fn spec_of(registry: &str, credential: &RegistryCredential) -> SecretSpec {
    let field = |field: &String| Source::Field {
        path: credential.path.clone(),
        field: field.clone(),
        version: None,
        parameters: Parameters::default(),
    };
    let keys = [
        (USER, &credential.username),
        (PASSWORD, &credential.password),
    ];
    SecretSpec {
        name: registry.to_owned(),
        kind: "Opaque".to_owned(),
        keys: keys.map(|(key, name)| (key.to_owned(), field(name))).into(),
        rotate: None,
    }
}
