//! The answer to a registry's challenge: a token for reading one repository, or the login itself.
//!
//! Used by [`super`] for images, with a login or without, and by `render` for charts, without. A login is
//! shown to the registry and to the server of tokens that it names; the scope that is asked for is ours,
//! whatever the registry proposes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use deploy::ports::RegistryError;
use deploy::ports::RegistryLogin;
use reqwest::Url;
use reqwest::header::HeaderValue;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::wire::Depth;
use super::wire::Follow;
use super::wire::Wanted;
use super::wire::Wire;

const TOKEN: Wanted = Wanted {
    what: "token",
    depth: Depth::Whole,
    follow: Follow::Anywhere,
    accept: "application/json",
    limit: 64 << 10,
};

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// What a registry wants.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Challenge {
    /// A token from this address.
    Bearer(Url),
    /// User and password themselves.
    Basic,
}

/// Makes the wire say who asks, as the challenge wants it.
pub(crate) async fn answer(
    wire: &mut Wire,
    challenge: &str,
    repository: &str,
    login: Option<&RegistryLogin>,
) -> Result<(), RegistryError> {
    let server = wire.server();
    let denied = || RegistryError::Denied {
        server: server.clone(),
        status: 401,
    };
    let basic = login.map(basic).transpose()?;
    match read(challenge, repository).ok_or_else(denied)? {
        Challenge::Basic => wire.authorize(basic.ok_or_else(denied)?),
        Challenge::Bearer(url) => {
            wire.may_go(&url, Follow::Anywhere)?;
            let body = Zeroizing::new(wire.body(url, TOKEN, basic.as_ref()).await?);
            let unfit = || RegistryError::Unfit {
                server: server.clone(),
                reason: "its token server answers no token".to_owned(),
            };
            let token: Token = serde_json::from_slice(&body).map_err(|_no_detail| unfit())?;
            let token = token.token.or(token.access_token).ok_or_else(unfit)?;
            let token = Zeroizing::new(format!("Bearer {}", Zeroizing::new(token).as_str()));
            let header = HeaderValue::try_from(token.as_str()).map_err(|_no_detail| unfit())?;
            wire.authorize(header);
        }
    }
    Ok(())
}

/// Makes the header of a login.
fn basic(login: &RegistryLogin) -> Result<HeaderValue, RegistryError> {
    let pair = [login.user.as_bytes(), b":", login.password.reveal()].concat();
    let pair = Zeroizing::new(pair);
    let text = Zeroizing::new(format!(
        "Basic {}",
        *Zeroizing::new(STANDARD.encode(&*pair))
    ));
    let mut header = HeaderValue::try_from(text.as_str()).map_err(|_no_detail| {
        let reason = "the login makes no header".to_owned();
        RegistryError::Broken { reason }
    })?;
    header.set_sensitive(true);
    Ok(header)
}

/// Reads a challenge; a way that is not known is none.
fn read(challenge: &str, repository: &str) -> Option<Challenge> {
    let (word, rest) = challenge.split_once(' ').unwrap_or((challenge, ""));
    if word.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !word.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mut url = Url::parse(&parameter(rest, "realm")?).ok()?;
    let mut pairs = url.query_pairs_mut();
    if let Some(service) = parameter(rest, "service") {
        pairs.append_pair("service", &service);
    }
    // Ours, whatever the server proposes: never more than reading this one.
    pairs.append_pair("scope", &format!("repository:{repository}:pull"));
    drop(pairs);
    Some(Challenge::Bearer(url))
}

/// Reads a parameter of a challenge: `name="value"` or `name=value`, with commas between.
fn parameter(text: &str, name: &str) -> Option<String> {
    let mut rest = text.trim_start_matches([' ', ',']);
    while let Some((key, after)) = rest.split_once('=') {
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        if key.trim().eq_ignore_ascii_case(name) {
            return Some(value.trim().to_owned());
        }
        rest = next.trim_start_matches([' ', ',']);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use deploy::secret::Secret;

    #[test]
    fn a_challenge_leads_to_a_token_for_reading_this_repository_alone() {
        let rows = [
            r#"Bearer realm="https://auth.example.com/token",service="r.example.com",scope="repository:x:push""#,
            r#"bearer service="r.example.com", realm="https://auth.example.com/token""#,
            "Bearer realm=https://auth.example.com/token,service=r.example.com",
        ];
        let expected = "https://auth.example.com/token?service=r.example.com&scope=repository%3Ateam%2Fweb%3Apull";
        for challenge in rows {
            let Some(Challenge::Bearer(url)) = read(challenge, "team/web") else {
                panic!("{challenge}");
            };
            assert_eq!(url.as_str(), expected, "{challenge}");
        }
        for challenge in [
            "",
            "Bearer",
            "Bearer realm=\"x",
            "Bearer service=\"x\"",
            "Negotiate",
            "Digest realm=\"x\"",
        ] {
            assert_eq!(read(challenge, "team/web"), None, "{challenge}");
        }
    }

    #[test]
    fn a_registry_may_want_the_login_itself() {
        for challenge in ["Basic realm=\"x\"", "basic", "BASIC realm=x, charset=UTF-8"] {
            assert_eq!(read(challenge, "a"), Some(Challenge::Basic), "{challenge}");
        }
        let login = RegistryLogin {
            user: "aladdin".to_owned(),
            password: Secret::from_text("opensesame".to_owned()),
        };
        let header = basic(&login).expect("a header");
        assert_eq!(header, "Basic YWxhZGRpbjpvcGVuc2VzYW1l");
        assert!(header.is_sensitive());
    }
}
