//! One read of a registry or repository: redirects by our own rules, answers cut to a limit.
//!
//! Used by the two protocols beside it. Redirects go to https alone, or, where the chart's server is
//! this machine, to this machine; never from elsewhere to this machine. A token goes to the chart's
//! own server only. What is told of an answer is its status, never its body.

use std::net::IpAddr;
use std::time::Duration;

use deploy::ports::ChartAddress;
use deploy::ports::ChartError;
use reqwest::Certificate;
use reqwest::Client;
use reqwest::ClientBuilder;
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

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Redirects of one read.
const HOPS: usize = 5;

/// What is read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// In words.
    pub(super) what: &'static str,
    /// Media types, as they stand in the header.
    pub(super) accept: &'static str,
    /// Bytes.
    pub(super) limit: usize,
}

/// What came.
#[derive(Debug)]
pub(super) enum Reply {
    /// The whole body.
    Body(Vec<u8>),
    /// The chart's server wants to know who asks, and says how to tell it.
    Challenge(String),
}

/// The way to one server.
#[derive(Debug)]
pub(super) struct Wire {
    http: Client,
    home: Url,
    token: Option<HeaderValue>,
}

impl Wire {
    /// Makes the client, which takes these roots beside the machine's; nothing is sent.
    pub(super) fn to(address: &ChartAddress, roots: &[Certificate]) -> Result<Self, ChartError> {
        let home = Url::parse(address.origin()).map_err(|error| broken(&error))?;
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // An error means that another thread was faster, which is as good.
            drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        }
        let more = roots.iter().cloned();
        let http = match client().tls_certs_merge(more.clone()).build() {
            // A machine without root certificates can still talk to itself, and to those that are named.
            Err(_no_roots) if home.scheme() == "http" || !roots.is_empty() => {
                client().tls_certs_only(more).build()
            }
            other => other,
        };
        Ok(Self {
            http: http.map_err(|error| broken(&error))?,
            home,
            token: None,
        })
    }

    /// Returns the address of a path of the server.
    pub(super) fn at(&self, path: &str) -> Result<Url, ChartError> {
        self.home.join(path).map_err(|error| broken(&error))
    }

    /// Returns the server's name as it is told.
    pub(super) fn server(&self) -> String {
        name_of(&self.home)
    }

    /// Sends a token from now on, to the chart's own server only.
    pub(super) fn use_token(&mut self, mut token: HeaderValue) {
        token.set_sensitive(true);
        self.token = Some(token);
    }

    /// Says whether requests may lead there.
    pub(super) fn may_go(&self, next: &Url) -> Result<(), ChartError> {
        allowed(&self.home, next).map_err(|problem| ChartError::Unfit {
            server: self.server(),
            reason: format!("it leads to {}, {problem}", name_of(next)),
        })
    }

    /// Reads from a URL.
    pub(super) async fn get(&self, url: Url, wanted: Wanted) -> Result<Reply, ChartError> {
        let mut url = url;
        for _hop in 0..=HOPS {
            let answer = self.send(&url, wanted).await?;
            let Some(next) = redirect(&url, &answer)? else {
                return self.take(&url, answer, wanted).await;
            };
            self.may_go(&next)?;
            url = next;
        }
        Err(ChartError::Unfit {
            server: self.server(),
            reason: format!("it redirects more than {HOPS} times"),
        })
    }

    /// Reads from a URL where nothing else than the body will do.
    pub(super) async fn body(&self, url: Url, wanted: Wanted) -> Result<Vec<u8>, ChartError> {
        match self.get(url, wanted).await? {
            Reply::Body(body) => Ok(body),
            Reply::Challenge(_) => Err(ChartError::Denied {
                server: self.server(),
                status: StatusCode::UNAUTHORIZED.as_u16(),
            }),
        }
    }

    async fn send(&self, url: &Url, wanted: Wanted) -> Result<Response, ChartError> {
        let mut request = self.http.get(url.clone()).header(ACCEPT, wanted.accept);
        if let Some(token) = self.token.as_ref().filter(|_| self.is_home(url)) {
            request = request.header(AUTHORIZATION, token.clone());
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
    ) -> Result<Reply, ChartError> {
        let status = answer.status();
        if status == StatusCode::UNAUTHORIZED && self.is_home(url) && self.token.is_none() {
            return Ok(Reply::Challenge(challenge(answer.headers())));
        }
        if status != StatusCode::OK {
            return Err(refused(url, status, answer.headers(), wanted.what));
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| lost(url, &error))? {
            if body.len() + chunk.len() > wanted.limit {
                return Err(ChartError::TooLarge {
                    what: wanted.what,
                    limit: wanted.limit,
                });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Reply::Body(body))
    }
}

fn client() -> ClientBuilder {
    Client::builder()
        .tls_backend_rustls()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .retry(reqwest::retry::never())
        .user_agent(concat!("quaymasterd/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_LIMIT)
}

fn broken(error: &dyn std::error::Error) -> ChartError {
    ChartError::Broken {
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
fn redirect(url: &Url, answer: &Response) -> Result<Option<Url>, ChartError> {
    if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let place = answer.headers().get(LOCATION);
    let place = place.and_then(|value| value.to_str().ok());
    let next = place.and_then(|place| url.join(place).ok());
    next.map(Some).ok_or_else(|| ChartError::Unfit {
        server: name_of(url),
        reason: "it redirects to no address".to_owned(),
    })
}

/// The rule of redirects and token servers.
fn allowed(home: &Url, next: &Url) -> Result<(), &'static str> {
    if !next.username().is_empty() || next.password().is_some() {
        return Err("with user information in the address");
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

fn refused(url: &Url, status: StatusCode, headers: &HeaderMap, what: &str) -> ChartError {
    let server = name_of(url);
    match status.as_u16() {
        401 | 403 => ChartError::Denied {
            server,
            status: status.as_u16(),
        },
        404 | 410 => ChartError::Missing {
            server,
            what: what.to_owned(),
        },
        408 | 429 | 500..=599 => ChartError::Unavailable {
            server,
            reason: status.as_u16().to_string(),
            retry_after_seconds: headers
                .get(RETRY_AFTER)
                .and_then(|value| value.to_str().ok()?.trim().parse().ok()),
        },
        other => ChartError::Unfit {
            server,
            reason: format!("it answers {other} when asked for {what}"),
        },
    }
}

fn lost(url: &Url, error: &reqwest::Error) -> ChartError {
    let mut source: &dyn std::error::Error = error;
    // The layers above only repeat the address.
    while let Some(next) = source.source() {
        source = next;
    }
    let reason: String = source.to_string().chars().take(200).collect();
    let server = name_of(url);
    if reason.contains("certificate") {
        // It will not be another one in a minute.
        return ChartError::Unfit { server, reason };
    }
    ChartError::Unavailable {
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
                allowed(&far, &url(next)).is_ok(),
                from_far,
                "{next} from far"
            );
            assert_eq!(
                allowed(&near, &url(next)).is_ok(),
                from_near,
                "{next} from near"
            );
        }
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
