//! What a passed Vault token says about its holder.
//!
//! Called by [`super::Authenticator`] with the facts of a look-up. Pure. Identity comes only from
//! metadata that a trusted auth mount wrote at login; a token that could be anybody's is refused.

use std::collections::BTreeMap;

use deploy::principal::Principal;
use deploy::principal::PrincipalKind;

use super::AuthError;

/// What `lookup-self` tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenFacts {
    /// Names of its policies, those of its identity too.
    pub policies: Vec<String>,
    /// What the login wrote.
    pub metadata: BTreeMap<String, String>,
    /// Where the login was, such as `auth/jwt/login`.
    pub path: String,
    /// Seconds; 0 for tokens that are not periodic.
    pub period: u64,
    /// Whether it has no parent.
    pub orphan: bool,
    /// Seconds that are left; 0 for tokens that never end.
    pub ttl: u64,
    /// `service` or `batch`.
    pub token_type: String,
}

fn refused(problem: impl Into<String>) -> AuthError {
    AuthError::VaultRefused {
        problem: problem.into(),
    }
}

/// Refuses tokens that are too mighty to be passed around.
pub(super) fn usable(facts: &TokenFacts) -> Result<(), AuthError> {
    if facts.policies.iter().any(|policy| policy == "root") {
        return Err(refused("is a root token, which is never taken"));
    }
    if facts.period > 0 && facts.orphan {
        return Err(refused(
            "is periodic and has no parent, so it never has to end; it is not taken",
        ));
    }
    Ok(())
}

/// Makes the principal of a token's holder. `trusted_mounts` are auth mounts as `auth/jwt/`; with or
/// without the slash or `auth/`.
///
/// # Errors
/// [`AuthError::VaultRefused`] for root tokens, periodic orphans, logins at other mounts, and tokens
/// without metadata.
pub fn principal(facts: &TokenFacts, trusted_mounts: &[String]) -> Result<Principal, AuthError> {
    usable(facts)?;
    let trusted = trusted_mounts
        .iter()
        .any(|mount| is_login_at(&facts.path, mount));
    if !trusted {
        return Err(refused(
            "does not come from an auth mount that this agent trusts",
        ));
    }
    if facts.metadata.is_empty() {
        return Err(refused("has no metadata that tells whose it is"));
    }
    Ok(Principal::unchecked(
        PrincipalKind::VaultToken,
        facts.metadata.clone(),
    ))
}

/// Says whether a login path lies below a mount. `auth/token/create` never does: a child token
/// carries whatever metadata its maker chose.
fn is_login_at(path: &str, mount: &str) -> bool {
    let mount = mount.trim_matches('/');
    let mount = mount.strip_prefix("auth/").unwrap_or(mount);
    let rest = path
        .strip_prefix("auth/")
        .and_then(|rest| rest.strip_prefix(mount));
    !mount.is_empty()
        && mount != "token"
        && rest.is_some_and(|rest| rest.starts_with('/') && rest.len() > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> TokenFacts {
        TokenFacts {
            policies: vec!["default".to_owned(), "flask".to_owned()],
            metadata: BTreeMap::from([("project_id".to_owned(), "42".to_owned())]),
            path: "auth/jwt/login".to_owned(),
            period: 0,
            orphan: true,
            ttl: 600,
            token_type: "service".to_owned(),
        }
    }

    fn problem(facts: &TokenFacts, mounts: &[&str]) -> Option<AuthError> {
        let mounts: Vec<String> = mounts.iter().map(|mount| (*mount).to_owned()).collect();
        principal(facts, &mounts).err()
    }

    #[test]
    fn metadata_of_a_trusted_mount_is_the_identity() {
        let found = principal(&facts(), &["auth/jwt/".to_owned()]).expect("it is trusted");
        assert_eq!(found.kind(), PrincipalKind::VaultToken);
        assert_eq!(found.attribute("project_id"), Some("42"));
        for mount in ["jwt", "jwt/", "auth/jwt"] {
            assert_eq!(problem(&facts(), &[mount]), None, "{mount}");
        }
    }

    #[test]
    fn root_tokens_and_periodic_orphans_are_refused() {
        let mut root = facts();
        root.policies.push("root".to_owned());
        let mut endless = facts();
        endless.period = 3600;
        for bad in [&root, &endless] {
            assert!(problem(bad, &["jwt"]).is_some(), "{bad:?}");
            assert!(usable(bad).is_err());
        }
        let mut child = facts();
        (child.period, child.orphan) = (3600, false);
        assert_eq!(problem(&child, &["jwt"]), None);
    }

    #[test]
    fn other_mounts_and_child_tokens_are_refused() {
        for path in [
            "auth/jwt2/login",
            "auth/token/create",
            "auth/xjwt/login",
            "auth/jwt",
            "auth/jwt/",
            "jwt/login",
            "",
        ] {
            let bad = TokenFacts {
                path: path.to_owned(),
                ..facts()
            };
            assert!(
                problem(&bad, &["jwt", "token", "", "auth/"]).is_some(),
                "{path}"
            );
        }
        assert!(
            problem(&facts(), &[]).is_some(),
            "no mount is trusted by default"
        );
    }

    #[test]
    fn a_token_without_metadata_says_nothing() {
        let bare = TokenFacts {
            metadata: BTreeMap::new(),
            ..facts()
        };
        assert!(problem(&bare, &["jwt"]).is_some());
    }
}
