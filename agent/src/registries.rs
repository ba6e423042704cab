//! The `Registry` port: looks for images by the distribution API of the OCI, and reads nothing else there.
//!
//! Made by `app`; called by the engine through the port. Which images may be looked for was decided by the
//! rule. Invariants: https, but for this machine and for addresses that the operator wrote down; a whole
//! look has a limit of time; a redirect leads to no other server; a password or token goes where the
//! registry is, and to the server of tokens that it names. [`wire`] is one request, [`token`] says who
//! asks; `render` fetches charts with both.

pub(crate) mod token;
pub(crate) mod wire;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use deploy::ports::ImagePlace;
use deploy::ports::Registry;
use deploy::ports::RegistryError;
use deploy::ports::RegistryLogin;
use deploy::ports::is_digest;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use reqwest::Certificate;
use reqwest::Url;
use sha2::Digest as _;
use sha2::Sha256;

use self::wire::Came;
use self::wire::Depth;
use self::wire::Follow;
use self::wire::Reply;
use self::wire::Wanted;
use self::wire::Wire;

/// The longest that one look may take.
const LIMIT: Duration = Duration::from_secs(15);
/// What can be an image: an index of platforms, or a single one; of the OCI, or of Docker.
const KINDS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                     application/vnd.docker.distribution.manifest.list.v2+json, \
                     application/vnd.docker.distribution.manifest.v2+json";
/// The name of Docker Hub in references, and where it is.
const HUB: (&str, &str) = ("docker.io", "https://registry-1.docker.io");

const HEAD: Wanted = Wanted {
    what: "image of this name and tag or digest",
    depth: Depth::Head,
    follow: Follow::Home,
    accept: KINDS,
    limit: 0,
};
const MANIFEST: Wanted = Wanted {
    depth: Depth::Whole,
    limit: 4 << 20,
    ..HEAD
};

/// How registries are reached.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    /// What they may have beside the machine's roots.
    roots: Vec<Certificate>,
    /// Where those are that are not at https and their own name.
    addresses: BTreeMap<String, String>,
}

impl Registries {
    /// Takes a file of roots, and the addresses of registries that are not where their names say.
    ///
    /// # Errors
    /// When the file has no certificates.
    pub fn new(ca_file: Option<&Path>, addresses: BTreeMap<String, String>) -> io::Result<Self> {
        Ok(Self {
            roots: ca_file.map_or_else(|| Ok(Vec::new()), roots)?,
            addresses,
        })
    }

    /// Returns where a registry is asked.
    fn origin(&self, registry: &str) -> String {
        match self.addresses.get(registry) {
            Some(address) => address.clone(),
            None if registry == HUB.0 => HUB.1.to_owned(),
            None if is_near(registry) => format!("http://{registry}"),
            None => format!("https://{registry}"),
        }
    }

    async fn look(
        &self,
        image: &ImagePlace,
        login: Option<&RegistryLogin>,
    ) -> Result<String, RegistryError> {
        let mut wire = Wire::to(&self.origin(&image.registry), &self.roots)?;
        let ImagePlace {
            registry: _,
            repository,
            reference,
        } = image;
        let url = wire.at(&format!("/v2/{repository}/manifests/{reference}"))?;
        let head = match wire.get(url.clone(), HEAD).await? {
            Reply::Came(came) => came,
            Reply::Challenge(challenge) => {
                token::answer(&mut wire, &challenge, repository, login).await?;
                came(&wire, url.clone(), HEAD).await?
            }
        };
        let found = match head.digest.filter(|digest| is_digest(digest)) {
            Some(digest) => digest,
            // A registry need not tell it in a header.
            None => digest(&came(&wire, url, MANIFEST).await?.body),
        };
        if is_digest(reference) && *reference != found {
            return Err(RegistryError::Unfit {
                server: wire.server(),
                reason: format!("asked for {reference}, it answers with {found}"),
            });
        }
        Ok(found)
    }
}

/// Reads where nobody asks any more who we are.
async fn came(wire: &Wire, url: Url, wanted: Wanted) -> Result<Came, RegistryError> {
    match wire.get(url, wanted).await? {
        Reply::Came(came) => Ok(came),
        Reply::Challenge(_) => Err(RegistryError::Denied {
            server: wire.server(),
            status: 401,
        }),
    }
}

/// Says whether a registry is on this machine, where plain http is taken, as container engines do.
fn is_near(registry: &str) -> bool {
    let bare = registry
        .rsplit_once(':')
        .filter(|_| !registry.ends_with(']'));
    let host = bare.map_or(registry, |(host, _)| host);
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Computes the digest of what came.
pub(crate) fn digest(bytes: &[u8]) -> String {
    let mut text = "sha256:".to_owned();
    for byte in Sha256::digest(bytes) {
        // Writing to a text cannot fail.
        let _written = write!(text, "{byte:02x}");
    }
    text
}

/// Reads roots that servers may have beside the machine's.
pub(crate) fn roots(path: &Path) -> io::Result<Vec<Certificate>> {
    let unusable = |problem: String| io::Error::other(format!("{}: {problem}", path.display()));
    let pem = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(roots) if !roots.is_empty() => Ok(roots),
        _ => Err(unusable("has no usable PEM certificate".to_owned())),
    }
}

impl Registry for Registries {
    fn digest<'a>(
        &'a self,
        image: &'a ImagePlace,
        login: Option<&'a RegistryLogin>,
    ) -> BoxFuture<'a, Result<String, RegistryError>> {
        async move {
            let looked = tokio::time::timeout(LIMIT, self.look(image, login)).await;
            looked.unwrap_or_else(|_elapsed| {
                Err(RegistryError::Unavailable {
                    server: self.origin(&image.registry),
                    reason: format!("it did not answer all of it in {} s", LIMIT.as_secs()),
                    retry_after_seconds: None,
                })
            })
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests;
