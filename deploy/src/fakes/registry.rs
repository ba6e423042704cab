//! Image registries in memory: tags and digests, some of them private.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Mutex;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::lock;
use crate::ports::ImagePlace;
use crate::ports::Registry;
use crate::ports::RegistryError;
use crate::ports::RegistryLogin;

#[derive(Default)]
struct State {
    /// Digests by what is asked for.
    images: BTreeMap<ImagePlace, String>,
    /// User and password of registries that want one.
    private: BTreeMap<String, (String, String)>,
    /// What the next calls say instead.
    faults: VecDeque<RegistryError>,
    /// What was asked for.
    asked: Vec<String>,
}

/// The double.
#[derive(Default)]
pub struct FakeRegistry(Mutex<State>);

impl FakeRegistry {
    /// Puts an image there, under its tag and its digest.
    pub fn push(&self, registry: &str, repository: &str, tag: &str, digest: &str) {
        let mut state = lock(&self.0);
        for reference in [tag, digest] {
            let place = ImagePlace {
                registry: registry.to_owned(),
                repository: repository.to_owned(),
                reference: reference.to_owned(),
            };
            state.images.insert(place, digest.to_owned());
        }
    }

    /// Lets a registry ask for a login from now on.
    pub fn lock_up(&self, registry: &str, user: &str, password: &str) {
        let login = (user.to_owned(), password.to_owned());
        lock(&self.0).private.insert(registry.to_owned(), login);
    }

    /// Makes the next call fail.
    pub fn fail(&self, error: RegistryError) {
        lock(&self.0).faults.push_back(error);
    }

    /// Returns what was asked for so far, such as `registry.example.com/team/web:1`.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        lock(&self.0).asked.clone()
    }
}

impl Registry for FakeRegistry {
    fn digest<'a>(
        &'a self,
        image: &'a ImagePlace,
        login: Option<&'a RegistryLogin>,
    ) -> BoxFuture<'a, Result<String, RegistryError>> {
        async move {
            let mut state = lock(&self.0);
            let ImagePlace {
                registry,
                repository,
                reference,
            } = image;
            state
                .asked
                .push(format!("{registry}/{repository}:{reference}"));
            if let Some(error) = state.faults.pop_front() {
                return Err(error);
            }
            let server = format!("https://{registry}");
            if let Some((user, password)) = state.private.get(registry) {
                let fits = login.is_some_and(|login| {
                    login.user == *user && login.password.bytes() == password.as_bytes()
                });
                if !fits {
                    return Err(RegistryError::Denied {
                        server,
                        status: 401,
                    });
                }
            }
            let what = "image of this name and tag or digest".to_owned();
            let found = state.images.get(image).cloned();
            found.ok_or(RegistryError::Missing { server, what })
        }
        .boxed()
    }
}
