//! The checks of a request's head that need no token: one row of the contract after the other.
//!
//! Called by [`super`] for every request before anything else. Pure. What could be meant in two ways
//! is refused; nothing of the body is read.

use deploy::secret::Secret;
use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::header;
use http::request::Parts;
use proto::CLIENT_HEADER;
use proto::VAULT_TOKEN_HEADER;
use proto::error::Code;

use super::answer::Refusal;
use super::query::Query;
use super::route::Endpoint;
use super::route::Miss;
use super::route::Socket;
use super::route::find;
use crate::auth::Presented;
use crate::config::HttpLimits;

/// The longest token of any kind.
const MAX_TOKEN: usize = 16 << 10;
/// The longest value of the client header.
const MAX_CLIENT: usize = 100;

/// A request whose head is in order.
#[derive(Debug)]
pub struct Call {
    /// What it asks for.
    pub endpoint: Endpoint,
    /// Its parameters.
    pub query: Query,
}

/// Checks a head.
///
/// # Errors
/// The first row that is broken.
pub fn check(socket: Socket, head: &Parts, limits: &HttpLimits) -> Result<Call, Refusal> {
    sizes(&head.headers, limits)?;
    protocol(head)?;
    host(head)?;
    let endpoint = find(socket, &head.method, head.uri.path()).map_err(missed)?;
    if !endpoint.is_open() {
        client(&head.headers)?;
    }
    let query = Query::parse(head.uri.query(), endpoint.parameters())?;
    if !endpoint.takes_body() && announces_body(&head.headers) {
        return Err(Refusal::bad("this path takes no body").close());
    }
    Ok(Call { endpoint, query })
}

fn missed(miss: Miss) -> Refusal {
    match miss {
        Miss::Path => Refusal::new(Code::NotFound, "no such path on this socket")
            .hint("GET /openapi.json lists all paths"),
        Miss::Method { allow } => {
            Refusal::new(Code::MethodNotAllowed, format!("this path takes {allow}")).allow(allow)
        }
    }
}

fn sizes(headers: &HeaderMap, limits: &HttpLimits) -> Result<(), Refusal> {
    // Name, value, colon, space and line end, as they came.
    let size = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 4;
    let bytes: usize = headers.iter().map(size).sum();
    if headers.len() > limits.headers || bytes > limits.header_bytes {
        let detail = format!(
            "at most {} headers and {} bytes of them are taken",
            limits.headers, limits.header_bytes
        );
        return Err(Refusal::new(Code::HeadersTooLarge, detail).close());
    }
    Ok(())
}

fn protocol(head: &Parts) -> Result<(), Refusal> {
    let headers = &head.headers;
    if headers.contains_key(header::ORIGIN) {
        return Err(
            Refusal::new(Code::CrossProtocol, "the request has an Origin header")
                .hint("browsers and web pages are not served here"),
        );
    }
    if headers.contains_key(header::UPGRADE) || head.method == Method::CONNECT {
        return Err(Refusal::bad("upgrades and tunnels are not served").close());
    }
    if headers.contains_key(header::TRAILER) {
        return Err(Refusal::bad("trailers are not taken").close());
    }
    let expect = headers.get_all(header::EXPECT).iter();
    if expect
        .into_iter()
        .any(|value| !value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
    {
        return Err(Refusal::bad("only `Expect: 100-continue` is understood").close());
    }
    if headers.contains_key(header::TRANSFER_ENCODING)
        && headers.contains_key(header::CONTENT_LENGTH)
    {
        return Err(
            Refusal::bad("the request has both Content-Length and Transfer-Encoding").close(),
        );
    }
    Ok(())
}

/// Checks that the host is a name that routes nowhere, so that a request for another server that
/// was led here is noticed.
fn host(head: &Parts) -> Result<(), Refusal> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Refusal::bad("the request has two Host headers").close());
    }
    if host.is_none() && head.version == http::Version::HTTP_11 {
        return Err(Refusal::bad("the request has no Host header").close());
    }
    let routable = |text: &[u8]| text.iter().any(|byte| matches!(byte, b'.' | b':' | b'@'));
    let named = host.map(HeaderValue::as_bytes).unwrap_or_default();
    let target = head.uri.authority().map(|authority| authority.as_str());
    let foreign = target.is_some_and(|target| {
        routable(target.as_bytes()) || !target.as_bytes().eq_ignore_ascii_case(named)
    });
    if routable(named) || foreign {
        return Err(Refusal::bad("the request is for another host")
            .hint("use a host without dot and port, such as http://localhost/"));
    }
    Ok(())
}

fn client(headers: &HeaderMap) -> Result<(), Refusal> {
    let missing = || {
        Refusal::new(
            Code::ClientHeaderMissing,
            "the header X-Quaymaster-Client is missing or not 1 to 100 printable characters",
        )
        .hint("send for example `X-Quaymaster-Client: curl`")
    };
    let mut values = headers.get_all(CLIENT_HEADER).iter();
    let value = values.next().ok_or_else(missing)?.as_bytes();
    let printable = value.iter().all(|byte| (b' '..=b'~').contains(byte));
    let blank = value.iter().all(|byte| *byte == b' ');
    if blank || !printable || value.len() > MAX_CLIENT || values.next().is_some() {
        return Err(missing());
    }
    Ok(())
}

fn announces_body(headers: &HeaderMap) -> bool {
    let length = headers.get(header::CONTENT_LENGTH);
    headers.contains_key(header::TRANSFER_ENCODING) || length.is_some_and(|length| length != "0")
}

/// Takes the tokens out of the headers.
///
/// # Errors
/// 400 where a header is there twice; 401 for none, or for one that cannot be a token.
pub fn presented(headers: &HeaderMap) -> Result<Presented, Refusal> {
    let bearer = single(headers, header::AUTHORIZATION)?
        .map(bearer)
        .transpose()?;
    let vault = single(headers, HeaderName::from_static(VAULT_TOKEN_HEADER))?;
    let vault_token = vault
        .map(|value| token(value.as_bytes(), "X-Vault-Token"))
        .transpose()?;
    if bearer.is_none() && vault_token.is_none() {
        let hint = "send `Authorization: Bearer <id_token>` or `X-Vault-Token`";
        return Err(Refusal::new(Code::TokenMissing, "the request has no token").hint(hint));
    }
    Ok(Presented {
        id_token: bearer,
        vault_token,
    })
}

fn single(headers: &HeaderMap, name: HeaderName) -> Result<Option<&HeaderValue>, Refusal> {
    let mut values = headers.get_all(&name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(Refusal::bad(format!(
            "the request has the header {name} twice"
        )));
    }
    Ok(first)
}

fn bearer(value: &HeaderValue) -> Result<Secret, Refusal> {
    let bytes = value.as_bytes();
    let split = bytes
        .iter()
        .position(|byte| *byte == b' ')
        .unwrap_or(bytes.len());
    let (scheme, rest) = bytes.split_at(split);
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return Err(malformed("Authorization"));
    }
    token(rest.trim_ascii(), "Authorization")
}

fn token(bytes: &[u8], header: &str) -> Result<Secret, Refusal> {
    let visible = bytes.iter().all(u8::is_ascii_graphic);
    if bytes.is_empty() || bytes.len() > MAX_TOKEN || !visible {
        return Err(malformed(header));
    }
    Ok(Secret::new(bytes.to_vec()))
}

fn malformed(header: &str) -> Refusal {
    Refusal::new(
        Code::TokenMalformed,
        format!("the header {header} holds no token"),
    )
    .hint("expected `Authorization: Bearer <id_token>` or `X-Vault-Token: <token>`")
}

/// Reads the idempotency key.
///
/// # Errors
/// 400 when it is there twice, empty, longer than 255, or not visible ASCII.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(value) = single(headers, HeaderName::from_static("idempotency-key"))? else {
        return Ok(None);
    };
    let bytes = value.as_bytes();
    let valid = (1..=255).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic);
    let text = value.to_str().ok().filter(|_| valid);
    let refusal = || Refusal::bad("the Idempotency-Key is not 1 to 255 visible ASCII characters");
    text.map(|text| Some(text.to_owned())).ok_or_else(refusal)
}

/// Checks that a body is announced as JSON and nothing more.
///
/// # Errors
/// 415.
pub fn plain_json(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut kinds = headers.get_all(header::CONTENT_TYPE).iter();
    let is_json = kinds
        .next()
        .is_some_and(|kind| kind.as_bytes().eq_ignore_ascii_case(b"application/json"));
    if is_json && kinds.next().is_none() && !headers.contains_key(header::CONTENT_ENCODING) {
        return Ok(());
    }
    Err(Refusal::new(
        Code::UnsupportedMediaType,
        "the body is not announced as plain JSON",
    )
    .hint("send it with `Content-Type: application/json`"))
}

#[cfg(test)]
mod tests;
