//! The form of an id_token: three parts, a header without surprises, a signature by RS256.
//!
//! Called by [`super::Authenticator`]. The header is judged before any key is looked for; the payload
//! is not even parsed before its signature is good.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use jsonwebtoken::DecodingKey;
use jsonwebtoken::crypto::verify;
use serde_json::Map;
use serde_json::Value;

use super::AuthError;
use super::members;

/// Longer tokens are not looked at.
pub(super) const MAX_BYTES: usize = 16 << 10;
/// A longer key id is nobody's.
const MAX_KID: usize = 200;
/// Header members that would let the token choose its own key or rules.
const REFUSED_MEMBERS: [&str; 7] = ["crit", "jku", "jwk", "x5u", "x5c", "b64", "zip"];

/// A token whose header is good and whose signature was not checked yet.
#[derive(Debug)]
pub(super) struct Signed<'t> {
    /// Which key signed it, as the token says.
    pub(super) kid: String,
    message: &'t str,
    payload: &'t str,
    signature: &'t str,
}

pub(super) fn malformed(problem: impl Into<String>) -> AuthError {
    AuthError::Malformed {
        problem: problem.into(),
    }
}

/// Takes a token apart and judges its header.
pub(super) fn read(token: &[u8]) -> Result<Signed<'_>, AuthError> {
    if token.len() > MAX_BYTES {
        return Err(malformed("it is longer than 16 KiB"));
    }
    let text = std::str::from_utf8(token).map_err(|_no_detail| malformed("it is not text"))?;
    let parts: Vec<&str> = text.split('.').collect();
    let [header, payload, signature] = parts.as_slice() else {
        return Err(malformed("it has not three parts"));
    };
    let message = &text[..header.len() + 1 + payload.len()];
    let header = object(header, "its header")?;
    if header.get("alg").and_then(Value::as_str) != Some("RS256") {
        return Err(untrusted("is not signed in the way that GitLab signs"));
    }
    if REFUSED_MEMBERS
        .iter()
        .any(|name| header.contains_key(*name))
    {
        return Err(untrusted("has header members that GitLab does not send"));
    }
    match header.get("typ") {
        None => {}
        Some(Value::String(typ)) if typ.eq_ignore_ascii_case("JWT") => {}
        Some(_) => return Err(malformed("its header says that it is no JWT")),
    }
    let kid = header.get("kid").and_then(Value::as_str);
    let kid = kid.filter(|kid| !kid.is_empty() && kid.len() <= MAX_KID);
    let Some(kid) = kid else {
        return Err(malformed("its header is incomplete"));
    };
    Ok(Signed {
        kid: kid.to_owned(),
        message,
        payload,
        signature,
    })
}

pub(super) fn untrusted(problem: &'static str) -> AuthError {
    AuthError::Untrusted { problem }
}

fn object(part: &str, what: &str) -> Result<Map<String, Value>, AuthError> {
    let bytes = URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_no_detail| malformed(format!("{what} is not base64url")))?;
    members::object(&bytes)
        .map_err(|_no_detail| malformed(format!("{what} is no JSON object of single members")))
}

impl Signed<'_> {
    /// Checks the signature and returns the payload's members.
    pub(super) fn verify(&self, key: &DecodingKey) -> Result<Map<String, Value>, AuthError> {
        // A signature of no valid form is as bad as a wrong one.
        let good = verify(
            self.signature,
            self.message.as_bytes(),
            key,
            Algorithm::RS256,
        )
        .unwrap_or(false);
        if !good {
            return Err(untrusted("is not signed by the trusted issuer"));
        }
        object(self.payload, "its payload")
    }
}
