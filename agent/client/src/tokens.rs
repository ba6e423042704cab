//! Finds the caller's tokens: in the environment or in files, never in arguments.
//!
//! Called by `main`. Both tokens may be given; which are needed is the agent's business. No message
//! shows a token or a part of one.

use std::fs;
use std::path::Path;

use hyper::header::HeaderValue;
use proto::error::Code;
use proto::error::Problem;

use crate::expand::Environment;

/// Where GitLab's `id_tokens:` puts our token.
const ID_TOKEN: &str = "QUAYMASTER_ID_TOKEN";
/// Where a Vault token is looked for, in this order.
const VAULT_TOKEN: [&str; 2] = ["QUAYMASTER_VAULT_TOKEN", "VAULT_TOKEN"];
/// Every variable that can hold a token of ours; no command that is started here gets them.
pub(crate) const VARIABLES: [&str; 3] = [ID_TOKEN, VAULT_TOKEN[0], VAULT_TOKEN[1]];

/// Returns the `Authorization` header, if there is an id token.
///
/// # Errors
/// A file that cannot be read, or a text that cannot be a token.
pub(crate) fn id_token(
    file: Option<&Path>,
    environment: &Environment,
) -> Result<Option<HeaderValue>, Problem> {
    let token = find(file, environment, &[ID_TOKEN])?;
    token
        .map(|(origin, token)| header(&origin, &format!("Bearer {token}")))
        .transpose()
}

/// Returns the header of the Vault token, if there is one.
///
/// # Errors
/// As [`id_token`].
pub(crate) fn vault_token(
    file: Option<&Path>,
    environment: &Environment,
) -> Result<Option<HeaderValue>, Problem> {
    let token = find(file, environment, &VAULT_TOKEN)?;
    token
        .map(|(origin, token)| header(&origin, &token))
        .transpose()
}

/// Returns where a token was found, and the token.
fn find(
    file: Option<&Path>,
    environment: &Environment,
    names: &[&str],
) -> Result<Option<(String, String)>, Problem> {
    let Some(path) = file else {
        let set = |name: &&str| {
            let value = environment.get(*name)?.trim();
            (!value.is_empty()).then(|| (format!("the variable {name}"), value.to_owned()))
        };
        return Ok(names.iter().find_map(set));
    };
    let origin = format!("the file {}", path.display());
    let text = fs::read_to_string(path)
        .map_err(|error| Problem::new(Code::TokenMissing, format!("reading {origin}: {error}")))?;
    match text.trim() {
        "" => Err(Problem::new(
            Code::TokenMissing,
            format!("{origin} is empty"),
        )),
        token => Ok(Some((origin, token.to_owned()))),
    }
}

fn header(origin: &str, text: &str) -> Result<HeaderValue, Problem> {
    let is_token = text
        .bytes()
        .skip("Bearer ".len())
        .all(|byte| byte.is_ascii_graphic());
    match HeaderValue::from_str(text) {
        Ok(mut value) if is_token => {
            value.set_sensitive(true);
            Ok(value)
        }
        Ok(_) | Err(_) => Err(Problem::new(
            Code::TokenMalformed,
            format!("{origin} does not hold a token: it has blanks or other characters that tokens do not have"),
        )
        .hint("for GitLab, name the variable under id_tokens: of the job")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proto::error::Code;

    use super::Environment;
    use super::id_token;
    use super::vault_token;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        pairs.iter().map(owned).collect()
    }

    #[test]
    fn tokens_come_from_the_environment_and_are_marked_sensitive() {
        let set = environment(&[
            ("QUAYMASTER_ID_TOKEN", "a.b.c\n"),
            ("VAULT_TOKEN", "s.second"),
            ("QUAYMASTER_VAULT_TOKEN", "s.first"),
        ]);
        let id = id_token(None, &set).expect("good").expect("set");
        assert_eq!(id.to_str().expect("text"), "Bearer a.b.c");
        assert!(id.is_sensitive());
        let vault = vault_token(None, &set).expect("good").expect("set");
        assert_eq!(vault.to_str().expect("text"), "s.first");
        assert!(vault.is_sensitive());
    }

    #[test]
    fn an_empty_variable_is_no_token() {
        let set = environment(&[("QUAYMASTER_VAULT_TOKEN", ""), ("VAULT_TOKEN", "s.second")]);
        assert_eq!(id_token(None, &set), Ok(None));
        let vault = vault_token(None, &set).expect("good").expect("set");
        assert_eq!(vault.to_str().expect("text"), "s.second");
    }

    #[test]
    fn a_file_comes_before_the_environment_and_must_hold_a_token() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("token");
        let set = environment(&[("VAULT_TOKEN", "s.x")]);
        let code = |problem: proto::error::Problem| problem.code;
        assert_eq!(
            vault_token(Some(&path), &set).map_err(code),
            Err(Code::TokenMissing)
        );
        fs::write(&path, "s.file\n").expect("written");
        let vault = vault_token(Some(&path), &set).expect("good").expect("set");
        assert_eq!(vault.to_str().expect("text"), "s.file");
    }

    #[test]
    fn a_text_that_is_no_token_is_refused_without_showing_it() {
        let set = environment(&[("QUAYMASTER_ID_TOKEN", "canary words")]);
        let problem = id_token(None, &set).expect_err("no token");
        assert_eq!(problem.code, Code::TokenMalformed);
        assert!(!format!("{problem:?}").contains("canary"));
    }
}
