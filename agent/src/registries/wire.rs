//! One read of a registry or chart repository: redirects by our own rules, answers cut to a limit.
//!
//! Used by [`super`] for images, and by `render` for charts. What is asked first is the home; redirects stay
//! there, or go to https alone where an archive may be anywhere, or, where home is this machine, to this
//! machine; never from elsewhere to this machine. Authorization goes to home only. What is told of an
//! answer is its status, never its body.

use std::net::IpAddr;
use std::time::Duration;

use deploy::ports::RegistryError;
use reqwest::Certificate;
use reqwest::Client;
use reqwest::Response;
use reqwest::StatusCode;
use reqwest::Url;
use reqwest::header::ACCEPT;
use reqwest::header::AUTHORIZATION;
use reqwest::header::HeaderMap;
use reqwest::header::HeaderValue;
use reqwest::header::LOCATION;
use reqwest::header::RETRY_AFTER;
use reqwest::header::WWW_AUTHENTICATE;

use crate::outbound;

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Redirects of one read.
const HOPS: usize = 5;
/// The header in which a registry tells the digest of a manifest.
const DIGEST: &str = "docker-content-digest";

/// Where answers may lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Follow {
    /// To other paths of the same server.
    Home,
    /// To servers of its choice, such as a store of blobs.
    Anywhere,
}

/// How much of an answer is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Its headers.
    Head,
    /// All of it.
    Whole,
}

/// What is read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// In words.
    pub(crate) what: &'static str,
    /// How much of it.
    pub(crate) depth: Depth,
    /// Where it may be.
    pub(crate) follow: Follow,
    /// Media types, as they stand in the header.
    pub(crate) accept: &'static str,
    /// Bytes.
    pub(crate) limit: usize,
}

/// What came.
#[derive(Debug)]
pub(crate) enum Reply {
    /// What was asked for.
    Came(Came),
    /// Home wants to know who asks, and says how to tell it.
    Challenge(String),
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Came {
    /// The whole body; empty where only headers were asked for.
    pub(crate) body: Vec<u8>,
    /// What the server says that the digest is.
    pub(crate) digest: Option<String>,
}

/// The way to one server.
#[derive(Debug)]
pub(crate) struct Wire {
    http: Client,
    home: Url,
    authorization: Option<HeaderValue>,
}

impl Wire {
    /// Makes the client, which takes these roots beside the machine's; nothing is sent.
    pub(crate) fn to(origin: &str, roots: &[Certificate]) -> Result<Self, RegistryError> {
        let home = Url::parse(origin).map_err(|error| broken(&error))?;
        let more = roots.iter().cloned();
        let http = match outbound::builder(CONNECT_LIMIT)
            .tls_certs_merge(more.clone())
            .build()
        {
            // A machine without root certificates can still talk to itself, and to those that are named.
            Err(_no_roots) if home.scheme() == "http" || !roots.is_empty() => {
                outbound::builder(CONNECT_LIMIT)
                    .tls_certs_only(more)
                    .build()
            }
            other => other,
        };
        Ok(Self {
            http: http.map_err(|error| broken(&error))?,
            home,
            authorization: None,
        })
    }

    /// Returns the address of a path of the server.
    pub(crate) fn at(&self, path: &str) -> Result<Url, RegistryError> {
        self.home.join(path).map_err(|error| broken(&error))
    }

    /// Returns the server's name as it is told.
    pub(crate) fn server(&self) -> String {
        name_of(&self.home)
    }

    /// Says from now on who asks, to home only.
    pub(crate) fn authorize(&mut self, mut value: HeaderValue) {
        value.set_sensitive(true);
        self.authorization = Some(value);
    }

    /// Says whether requests may lead there.
    pub(crate) fn may_go(&self, next: &Url, follow: Follow) -> Result<(), RegistryError> {
        allowed(&self.home, next, follow).map_err(|problem| RegistryError::Unfit {
            server: self.server(),
            reason: format!("it leads to {}, {problem}", name_of(next)),
        })
    }

    /// Reads from a URL.
    pub(crate) async fn get(&self, url: Url, wanted: Wanted) -> Result<Reply, RegistryError> {
        self.read(url, wanted, None).await
    }

    /// Reads from a URL where nothing else than the body will do. `login` is shown to this URL, and not to
    /// where it may redirect.
    pub(crate) async fn body(
        &self,
        url: Url,
        wanted: Wanted,
        login: Option<&HeaderValue>,
    ) -> Result<Vec<u8>, RegistryError> {
        match self.read(url, wanted, login).await? {
            Reply::Came(came) => Ok(came.body),
            Reply::Challenge(_) => Err(RegistryError::Denied {
                server: self.server(),
                status: StatusCode::UNAUTHORIZED.as_u16(),
            }),
        }
    }

    async fn read(
        &self,
        url: Url,
        wanted: Wanted,
        mut login: Option<&HeaderValue>,
    ) -> Result<Reply, RegistryError> {
        let mut url = url;
        for _hop in 0..=HOPS {
            let answer = self.send(&url, wanted, login.take()).await?;
            let Some(next) = redirect(&url, &answer)? else {
                return self.take(&url, answer, wanted).await;
            };
            self.may_go(&next, wanted.follow)?;
            url = next;
        }
        Err(RegistryError::Unfit {
            server: self.server(),
            reason: format!("it redirects more than {HOPS} times"),
        })
    }

    async fn send(
        &self,
        url: &Url,
        wanted: Wanted,
        login: Option<&HeaderValue>,
    ) -> Result<Response, RegistryError> {
        let request = match wanted.depth {
            Depth::Head => self.http.head(url.clone()),
            Depth::Whole => self.http.get(url.clone()),
        };
        let mut request = request.header(ACCEPT, wanted.accept);
        let own = self.authorization.as_ref().filter(|_| self.is_home(url));
        if let Some(value) = login.or(own) {
            request = request.header(AUTHORIZATION, value.clone());
        }
        request.send().await.map_err(|error| lost(url, &error))
    }

    fn is_home(&self, url: &Url) -> bool {
        url.origin() == self.home.origin()
    }

    async fn take(
        &self,
        url: &Url,
        mut answer: Response,
        wanted: Wanted,
    ) -> Result<Reply, RegistryError> {
        let status = answer.status();
        if status == StatusCode::UNAUTHORIZED && self.is_home(url) && self.authorization.is_none() {
            return Ok(Reply::Challenge(challenge(answer.headers())));
        }
        if status != StatusCode::OK {
            return Err(refused(url, status, answer.headers(), wanted.what));
        }
        let digest = answer.headers().get(DIGEST);
        let digest = digest.and_then(|value| value.to_str().ok());
        let digest = digest.map(str::to_owned);
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| lost(url, &error))? {
            if body.len() + chunk.len() > wanted.limit {
                return Err(RegistryError::TooLarge {
                    what: wanted.what,
                    limit: wanted.limit,
                });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Reply::Came(Came { body, digest }))
    }
}

fn broken(error: &dyn std::error::Error) -> RegistryError {
    RegistryError::Broken {
        reason: error.to_string(),
    }
}

/// Names the server of a URL: no path, no query, no user.
fn name_of(url: &Url) -> String {
    let name: String = url.origin().ascii_serialization();
    name.chars().take(200).collect()
}

fn challenge(headers: &HeaderMap) -> String {
    let all = headers.get_all(WWW_AUTHENTICATE).iter();
    let texts: Vec<&str> = all.filter_map(|value| value.to_str().ok()).collect();
    // A server that offers several ways has each in a line of its own.
    let bearer = texts.iter().find(|text| {
        text.get(..7)
            .is_some_and(|word| word.eq_ignore_ascii_case("bearer "))
    });
    bearer
        .or(texts.first())
        .copied()
        .unwrap_or_default()
        .to_owned()
}

/// Returns where an answer leads, if it does.
fn redirect(url: &Url, answer: &Response) -> Result<Option<Url>, RegistryError> {
    if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let place = answer.headers().get(LOCATION);
    let place = place.and_then(|value| value.to_str().ok());
    let next = place.and_then(|place| url.join(place).ok());
    next.map(Some).ok_or_else(|| RegistryError::Unfit {
        server: name_of(url),
        reason: "it redirects to no address".to_owned(),
    })
}

/// The rule of redirects and token servers.
fn allowed(home: &Url, next: &Url, follow: Follow) -> Result<(), &'static str> {
    if !next.username().is_empty() || next.password().is_some() {
        return Err("with user information in the address");
    }
    // Plain http too: the operator named it, or it is this machine.
    match follow {
        _ if next.origin() == home.origin() => return Ok(()),
        Follow::Home => return Err("which is another server"),
        Follow::Anywhere => {}
    }
    match (next.scheme(), is_loopback(next), is_loopback(home)) {
        ("https", false, _) | ("https" | "http", true, true) => Ok(()),
        ("https" | "http", true, false) => Err("which is the agent's own machine"),
        ("http", false, _) => Err("which is not https"),
        _ => Err("which is neither https nor http"),
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let near = |ip: IpAddr| ip.to_canonical().is_loopback() || ip.is_unspecified();
    let host = host.trim_end_matches('.');
    host == "localhost" || host.ends_with(".localhost") || host.parse::<IpAddr>().is_ok_and(near)
}

fn refused(url: &Url, status: StatusCode, headers: &HeaderMap, what: &str) -> RegistryError {
    let server = name_of(url);
    match status.as_u16() {
        401 | 403 => RegistryError::Denied {
            server,
            status: status.as_u16(),
        },
        404 | 410 => RegistryError::Missing {
            server,
            what: what.to_owned(),
        },
        408 | 429 | 500..=599 => RegistryError::Unavailable {
            server,
            reason: status.as_u16().to_string(),
            retry_after_seconds: headers
                .get(RETRY_AFTER)
                .and_then(|value| value.to_str().ok()?.trim().parse().ok()),
        },
        other => RegistryError::Unfit {
            server,
            reason: format!("it answers {other} when asked for {what}"),
        },
    }
}

fn lost(url: &Url, error: &reqwest::Error) -> RegistryError {
    let mut source: &dyn std::error::Error = error;
    // The layers above only repeat the address.
    while let Some(next) = source.source() {
        source = next;
    }
    let reason: String = source.to_string().chars().take(200).collect();
    let server = name_of(url);
    if reason.contains("certificate") {
        // It will not be another one in a minute.
        return RegistryError::Unfit { server, reason };
    }
    RegistryError::Unavailable {
        server,
        reason,
        retry_after_seconds: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).expect("a good address")
    }

    #[test]
    fn redirects_go_to_https_and_to_loopback_only_from_loopback() {
        let (far, near) = (
            url("https://charts.example.com"),
            url("http://127.0.0.1:5000"),
        );
        let rows = [
            ("https://cdn.example.com/a?b", true, true),
            ("http://charts.example.com/", false, false),
            ("http://127.0.0.1:7/a", false, true),
            ("https://127.0.0.1/a", false, true),
            ("http://localhost/", false, true),
            ("http://[::1]:5/", false, true),
            ("https://0.0.0.0/", false, true),
            ("https://[::ffff:127.0.0.1]/", false, true),
            ("https://2130706433/", false, true),
            ("https://localhost./", false, true),
            ("http://127.0.0.1.example.com/", false, false),
            ("https://u:p@cdn.example.com/", false, false),
            ("file:///etc/passwd", false, false),
            ("ftp://cdn.example.com/", false, false),
        ];
        for (next, from_far, from_near) in rows {
            assert_eq!(
                allowed(&far, &url(next), Follow::Anywhere).is_ok(),
                from_far,
                "{next} from far"
            );
            assert_eq!(
                allowed(&near, &url(next), Follow::Anywhere).is_ok(),
                from_near,
                "{next} from near"
            );
        }
    }

    #[test]
    fn home_alone_is_followed_where_nothing_else_is_meant() {
        for (home, next, expected) in [
            ("https://r.example.com", "https://r.example.com/v2/b", true),
            (
                "https://r.example.com",
                "https://r.example.com:443/v2",
                true,
            ),
            (
                "https://r.example.com",
                "https://r.example.com:8443/",
                false,
            ),
            ("https://r.example.com", "http://r.example.com/", false),
            ("https://r.example.com", "https://cdn.example.com/", false),
            ("http://r.internal:5000", "http://r.internal:5000/v2", true),
            ("http://127.0.0.1:5000", "http://127.0.0.1:5001/", false),
        ] {
            let found = allowed(&url(home), &url(next), Follow::Home);
            assert_eq!(found.is_ok(), expected, "{home} to {next}");
        }
        let plain = url("http://r.internal:5000");
        let token = url("http://r.internal:5000/token");
        assert_eq!(allowed(&plain, &token, Follow::Anywhere), Ok(()));
        let other = url("http://auth.internal:5000/token");
        assert!(allowed(&plain, &other, Follow::Anywhere).is_err());
    }

    #[test]
    fn statuses_say_what_to_do() {
        let (url, headers) = (url("https://charts.example.com"), HeaderMap::new());
        let class = |status| {
            let status = StatusCode::from_u16(status).expect("a status");
            refused(&url, status, &headers, "it").class()
        };
        use deploy::class::Class;
        for (status, expected) in [
            (401, Class::Denied),
            (403, Class::Denied),
            (404, Class::NotFound),
            (429, Class::Upstream),
            (503, Class::Upstream),
            (418, Class::Caller),
            (206, Class::Caller),
        ] {
            assert_eq!(class(status), expected, "{status}");
        }
    }
}
