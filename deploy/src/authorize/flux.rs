//! Does a rule let a request change a branch for Flux, and ask Flux for these objects?
//!
//! Called by [`super::grant`] before anything is fetched, and by [`super::Permit::may_change`] for each file
//! once it is known which ones change. One grant of the rule has to allow all of it.

use super::grant::ASK;
use super::grant::Refusal;
use super::grant::any;
use super::grant::refuse;
use super::grant::vault_path;
use super::images;
use crate::policy::ClusterGrant;
use crate::policy::FluxGrant;
use crate::policy::Rule;
use crate::request::Request;
use crate::spec::Flux;

/// Decides about everything but the files, which are not known yet.
pub(super) fn flux(rule: &Rule, grant: &ClusterGrant, request: &Request) -> Result<(), Refusal> {
    let Some(flux) = &request.spec.flux else {
        return Ok(());
    };
    grant_of(grant, flux)?;
    if let Some(credential) = &flux.credential {
        vault_path(rule, credential.path())?;
    }
    // Images that are promoted are not known yet.
    if request.origin.is_some() {
        return Ok(());
    }
    images::of_branch(grant, request)
}

/// Finds the grant for a branch and its objects, or tells the first thing that is not granted.
fn grant_of<'g>(grant: &'g ClusterGrant, flux: &Flux) -> Result<&'g FluxGrant, Refusal> {
    let not = |what: String| refuse(format!("flux: {what} is not granted"), ASK);
    let (repository, branch) = (flux.branch.repository.as_str(), flux.branch.name.as_str());
    let about: Vec<&FluxGrant> = grant
        .flux
        .iter()
        .filter(|one| any(&one.repositories, repository))
        .collect();
    if about.is_empty() {
        return Err(not(format!("the repository {repository}")));
    }
    let mut refusal = not(format!("the branch {branch} of {repository}"));
    for one in about {
        if !any(&one.branches, branch) {
            continue;
        }
        let mut objects = flux.objects();
        match objects.find(|name| !any(&one.objects, &name.to_string())) {
            None => return Ok(one),
            Some(name) => refusal = not(format!("reconciling {name}")),
        }
    }
    Err(refusal)
}

/// Decides about one file.
pub(super) fn file(grant: &ClusterGrant, flux: &Flux, path: &str) -> Result<(), Refusal> {
    let one = grant_of(grant, flux)?;
    if any(&one.files, path) {
        return Ok(());
    }
    Err(refuse(
        format!("flux: changing the file {path} is not granted"),
        ASK,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;
    use crate::spec;

    const POLICY: &str = r#"
version = 1
[[rule]]
id = "shop"
[rule.match]
project_id = 42
[rule.vault]
role = "shop"
paths = ["kv/shop/*"]
[rule.cluster.demo]
namespaces = ["shop"]
verbs = ["commit", "reconcile"]
require_digest = false
images = ["registry.example.com/*"]
[[rule.cluster.demo.flux]]
repositories = ["https://git.example.com/team/*"]
branches = ["main", "env/*"]
files = ["apps/shop/*"]
objects = ["flux-system/fleet", "flux-system/shop-*"]
"#;

    const SPEC: &str = r#"
version: 1
name: shop
flux:
  repository: https://git.example.com/team/fleet.git
  path: apps
  credential: { vault: kv/shop/fleet }
  sources: fleet
  wait: { kustomizations: [shop-a] }
images: { shop: "registry.example.com/shop:2" }
"#;

    fn decided(spec: &str) -> Result<(), String> {
        let policy = Policy::parse(POLICY).map_err(|error| error.problems.join("; "))?;
        let rule = &policy.rules()[0];
        let spec = spec::parse(spec.as_bytes()).map_err(|error| format!("{:?}", error.places))?;
        let grant = rule.clusters.values().next().ok_or("a grant")?;
        let request = Request {
            mode: proto::report::Mode::Deploy,
            spec,
            objects: Vec::new(),
            source: crate::request::Source::Manifests,
            origin: None,
            binding: crate::binding::Binding::default(),
            notes: Vec::new(),
        };
        flux(rule, grant, &request).map_err(|refusal| refusal.message)?;
        let flux = request.spec.flux.as_ref().ok_or("flux")?;
        file(grant, flux, "apps/shop/web.yaml").map_err(|refusal| refusal.message)?;
        let other = file(grant, flux, "apps/other/web.yaml").map_err(|refusal| refusal.message);
        assert_eq!(
            other,
            Err("flux: changing the file apps/other/web.yaml is not granted".to_owned())
        );
        Ok(())
    }

    #[test]
    fn everything_of_a_request_has_to_be_granted() {
        assert_eq!(decided(SPEC), Ok(()));
        for (from, to, expected) in [
            (
                "team/fleet",
                "other/fleet",
                "the repository https://git.example.com/other/fleet.git",
            ),
            (
                "  path: apps\n",
                "  path: apps\n  branch: prod\n",
                "the branch prod",
            ),
            (
                "sources: fleet",
                "sources: [fleet, secret]",
                "reconciling flux-system/secret",
            ),
            (
                "[shop-a]",
                "[shop-a, other]",
                "reconciling flux-system/other",
            ),
            (
                "kv/shop/fleet",
                "kv/other/fleet",
                "the Vault path kv/other/fleet",
            ),
            (
                "registry.example.com/shop",
                "evil.example.com/shop",
                "images.shop: the image",
            ),
        ] {
            let told = decided(&SPEC.replace(from, to)).expect_err(expected);
            assert!(told.contains(expected), "{expected}: {told}");
        }
    }

    #[test]
    fn a_wildcard_must_not_reach_into_the_server() {
        for (from, to) in [
            ("https://git.example.com/team/*", "https://git.example.*"),
            ("https://git.example.com/team/*", "git.example.com/team/*"),
            ("branches = [\"main\", \"env/*\"]\n", ""),
        ] {
            assert!(Policy::parse(&POLICY.replace(from, to)).is_err(), "{to}");
        }
    }
}
