//! Tells it of images that were looked for in their registries.
//!
//! Pure; called by [`crate::engine`]. Of a registry's answer only its status is told.

use proto::error::Code;
use proto::error::Problem;

use crate::image::ImageRef;
use crate::ports::RegistryError;
use crate::secret::VaultPath;
use crate::spec;

/// One image and who asked for it.
pub struct Looked<'a> {
    /// The name under `images`.
    pub name: &'a str,
    /// The image.
    pub image: &'a ImageRef,
    /// Where the credential is; unset: nobody in particular asked.
    pub credential: Option<&'a VaultPath>,
    /// The text of the spec.
    pub spec: &'a str,
}

/// Tells why an image is not known to be there, at its place in the spec.
#[must_use]
pub fn of_registry(looked: &Looked<'_>, error: &RegistryError) -> Problem {
    let Looked {
        name,
        image,
        credential,
        spec,
    } = looked;
    let (code, hint) = match (error, credential) {
        (RegistryError::Missing { .. }, None) => (
            Code::ImageMissing,
            "push it first, or correct its name or tag; a private registry answers so to strangers: name a \
             credential under `registries`"
                .to_owned(),
        ),
        (RegistryError::Missing { .. }, Some(path)) => (
            Code::ImageMissing,
            format!(
                "push it first, or correct its name or tag; some registries answer so where the credential in \
                 {path} may not read the repository"
            ),
        ),
        (RegistryError::Denied { .. }, None) => (
            Code::RegistryDenied,
            "name a credential for it under `registries`, such as credential: { vault: kv/app/registry }; some \
             registries answer so for what does not exist"
                .to_owned(),
        ),
        (RegistryError::Denied { .. }, Some(path)) => (
            Code::RegistryDenied,
            format!("look whether the credential in {path} is right, and whether it may read this repository"),
        ),
        (RegistryError::Unavailable { .. }, _) => (
            Code::RegistryUnavailable,
            "look at the registry's health and the way to it from the agent; the run tried until its deadline"
                .to_owned(),
        ),
        (RegistryError::TooLarge { .. } | RegistryError::Unfit { .. }, _) => (
            Code::RegistryInvalid,
            "look at what the registry answers; the operator says in [registries] where one is that is not at \
             https and its own name"
                .to_owned(),
        ),
        (RegistryError::Broken { .. }, _) => {
            (Code::Internal, "tell the operator the run's id".to_owned())
        }
    };
    let detail = format!("image {name}, {image}: {error}");
    let place = spec::image_error(spec.as_bytes(), name, &error.to_string());
    Problem::new(code, detail).hint(hint).places([place])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(error: &RegistryError, credential: Option<&VaultPath>) -> Problem {
        let image = ImageRef::parse("r.example.com/team/web:1").expect("a good reference");
        let looked = Looked {
            name: "web",
            image: &image,
            credential,
            spec: "version: 1\nimages:\n  web: r.example.com/team/web:1\n",
        };
        of_registry(&looked, error)
    }

    #[test]
    fn every_answer_has_its_own_code_place_and_advice() {
        let server = || "https://r.example.com".to_owned();
        let path = VaultPath::parse("kv/app/registry").expect("a good path");
        let rows = [
            (
                RegistryError::Missing {
                    server: server(),
                    what: "image".to_owned(),
                },
                (Code::ImageMissing, false),
            ),
            (
                RegistryError::Denied {
                    server: server(),
                    status: 403,
                },
                (Code::RegistryDenied, false),
            ),
            (
                RegistryError::Unavailable {
                    server: server(),
                    reason: "429".to_owned(),
                    retry_after_seconds: Some(7),
                },
                (Code::RegistryUnavailable, true),
            ),
            (
                RegistryError::Unfit {
                    server: server(),
                    reason: "odd".to_owned(),
                },
                (Code::RegistryInvalid, false),
            ),
            (
                RegistryError::Broken {
                    reason: "odd".to_owned(),
                },
                (Code::Internal, false),
            ),
        ];
        for (error, expected) in rows {
            for credential in [None, Some(&path)] {
                let told = problem(&error, credential);
                assert_eq!((told.code, told.retryable), expected, "{error:?}");
                assert!(told.detail.contains("r.example.com/team/web:1"), "{told:?}");
                let place = &told.errors[0];
                assert_eq!(place.path.as_deref(), Some("images.web"));
                assert_eq!((place.line, place.column), (Some(3), Some(8)));
            }
        }
        let denied = RegistryError::Denied {
            server: server(),
            status: 401,
        };
        let hints = [None, Some(&path)].map(|one| problem(&denied, one).hint.unwrap_or_default());
        assert!(hints[0].contains("under `registries`"), "{hints:?}");
        assert!(hints[1].contains("kv/app/registry"), "{hints:?}");
    }
}
