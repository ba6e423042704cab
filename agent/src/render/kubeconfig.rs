//! The identity of a child at the API server: the agent's own kubeconfig, impersonating an actor.
//!
//! Used by [`super`]. It is written to a sealed file in memory, which the child gets as its standard
//! input and opens as [`PATH`]: no other process inherits it, and it is on no disk. Read anew for
//! every call, so that rotated credentials are taken.

use std::fs::File;
use std::path::Path;

use deploy::principal::Actor;
use kube::config::Kubeconfig;
use zeroize::Zeroizing;

use crate::child::sealed;

/// Where the child finds it.
pub(super) const PATH: &str = "/proc/self/fd/0";

/// Makes the kubeconfig of an actor. An error says what is wrong, without contents of the file.
pub(super) fn of(path: &Path, context: Option<&str>, actor: &Actor) -> Result<File, String> {
    let own = Kubeconfig::read_from(path)
        .map_err(|_may_quote| "the agent's kubeconfig cannot be read".to_owned())?;
    let config = impersonating(own, context, actor)?;
    let text = serde_json::to_vec(&config)
        .map(Zeroizing::new)
        .map_err(|_may_quote| "the agent's kubeconfig cannot be written down".to_owned())?;
    sealed("kubeconfig", &text)
        .map_err(|error| format!("the kernel has no file in memory for us: {error}"))
}

/// Keeps one context of a kubeconfig and lets its user act as the actor.
fn impersonating(
    mut config: Kubeconfig,
    context: Option<&str>,
    actor: &Actor,
) -> Result<Kubeconfig, String> {
    if actor.user.is_empty() || actor.groups.iter().any(String::is_empty) {
        return Err("an actor's name or group is empty".to_owned());
    }
    let missing = || "the agent's kubeconfig has no such context".to_owned();
    let current = context
        .map(str::to_owned)
        .or(config.current_context)
        .ok_or_else(missing)?;
    config.contexts.retain(|named| named.name == current);
    let chosen = config.contexts.first();
    let chosen = chosen
        .and_then(|named| named.context.clone())
        .ok_or_else(missing)?;
    config.current_context = Some(current);
    config.clusters.retain(|named| named.name == chosen.cluster);
    config
        .auth_infos
        .retain(|named| Some(&named.name) == chosen.user.as_ref());
    let user = config
        .auth_infos
        .first_mut()
        .and_then(|named| named.auth_info.as_mut())
        .ok_or_else(missing)?;
    user.impersonate = Some(actor.user.clone());
    user.impersonate_groups = Some(actor.groups.clone());
    Ok(config)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::io::Seek;
    use std::io::Write;

    use super::*;

    const OWN: &str = r#"{"apiVersion":"v1","kind":"Config","current-context":"b",
        "clusters":[{"name":"a","cluster":{"server":"https://a"}},{"name":"b","cluster":{"server":"https://b"}}],
        "users":[{"name":"a","user":{"token":"token-of-a"}},{"name":"b","user":{"token":"token-of-b"}}],
        "contexts":[{"name":"a","context":{"cluster":"a","user":"a"}},{"name":"b","context":{"cluster":"b","user":"b"}}]}"#;

    fn actor(user: &str) -> Actor {
        Actor {
            user: user.to_owned(),
            groups: vec!["gitlab:project:4".to_owned()],
        }
    }

    fn made(context: Option<&str>, actor: &Actor) -> Result<String, String> {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let path = dir.path().join("kubeconfig");
        std::fs::write(&path, OWN).expect("it can be written");
        let mut file = of(&path, context, actor)?;
        assert!(file.write_all(b"x").is_err(), "it is sealed");
        file.rewind().expect("a file in memory");
        let mut text = String::new();
        file.read_to_string(&mut text).expect("it is text");
        Ok(text)
    }

    #[test]
    fn one_context_is_left_and_acts_as_the_actor() {
        let text = made(None, &actor("gitlab:ci_job:7")).expect("it can be made");
        let value: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
        assert_eq!(value["users"][0]["user"]["as"], "gitlab:ci_job:7");
        assert_eq!(
            value["users"][0]["user"]["as-groups"][0],
            "gitlab:project:4"
        );
        assert_eq!(value["clusters"][0]["cluster"]["server"], "https://b");
        assert!(!text.contains("token-of-a") && text.contains("token-of-b"));
    }

    #[test]
    fn an_actor_without_a_name_never_becomes_the_agent() {
        assert!(made(None, &actor("")).is_err());
        assert!(made(Some("c"), &actor("gitlab:ci_job:7")).is_err());
    }
}
