//! The adapter against scripted answers: who is asked for what, and what an answer means.

use std::sync::Arc;
use std::sync::Mutex;

use deploy::class::Class;
use deploy::secret::Secret;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;

const NAME: &str = "registry.internal:5000";

/// A server on loopback that answers by a script; ends when it is dropped.
struct Server {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Starts it; the script gets "METHOD PATH AUTHORIZATION" and returns status, header lines and body.
    async fn start(script: impl Fn(&str) -> (u16, String, String) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound listener").to_string();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => break,
                    }
                }
                let line = told(&String::from_utf8_lossy(&head));
                let (status, headers, body) = script(&line);
                seen.lock().expect("no holder panics").push(line);
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {status} x\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n"
                );
                // A client that went away is no matter of the server.
                drop(stream.write_all(answer.as_bytes()).await);
                drop(stream.write_all(body.as_bytes()).await);
            }
        });
        Self {
            address,
            asked,
            task,
        }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no holder panics").clone()
    }
}

/// Shortens a request to method, path and authorization.
fn told(head: &str) -> String {
    let mut words = head.split(' ');
    let (method, path) = (words.next(), words.next());
    let mut lines = head.lines();
    let who = lines.find_map(|line| line.strip_prefix("authorization: "));
    let words = [method, path, who];
    let words: Vec<&str> = words.into_iter().flatten().collect();
    words.join(" ")
}

fn registries(server: &Server) -> Registries {
    let address = format!("http://{}", server.address);
    Registries::new(None, [(NAME.to_owned(), address)].into()).expect("no file is read")
}

fn place(reference: &str) -> ImagePlace {
    ImagePlace {
        registry: NAME.to_owned(),
        repository: "team/web".to_owned(),
        reference: reference.to_owned(),
    }
}

fn login() -> RegistryLogin {
    RegistryLogin {
        user: "aladdin".to_owned(),
        password: Secret::from_text("opensesame".to_owned()),
    }
}

fn hex(digit: &str) -> String {
    format!("sha256:{}", digit.repeat(64))
}

const MANIFEST: &str = "/v2/team/web/manifests/1";
const BASIC: &str = "Basic YWxhZGRpbjpvcGVuc2VzYW1l";

#[tokio::test]
async fn a_digest_is_in_the_answers_head_or_computed_of_its_body() {
    let server = Server::start(|_| {
        let header = format!("docker-content-digest: {}\r\n", hex("a"));
        (200, header, String::new())
    });
    let server = server.await;
    let registries = registries(&server);
    assert_eq!(registries.digest(&place("1"), None).await, Ok(hex("a")));
    assert_eq!(server.asked(), [format!("HEAD {MANIFEST}")]);
    assert_eq!(
        registries.digest(&place(&hex("a")), None).await,
        Ok(hex("a"))
    );
    let other = registries.digest(&place(&hex("b")), None).await;
    assert!(
        matches!(other, Err(RegistryError::Unfit { .. })),
        "{other:?}"
    );
    let silent = Server::start(|line| {
        let body = if line.starts_with("GET") { "abc" } else { "" };
        (200, String::new(), body.to_owned())
    });
    let silent = silent.await;
    let found = self::registries(&silent).digest(&place("1"), None).await;
    assert_eq!(found, Ok(digest(b"abc")));
    let expected = [format!("HEAD {MANIFEST}"), format!("GET {MANIFEST}")];
    assert_eq!(silent.asked(), expected);
}

/// A registry that wants tokens, which are for everybody or for the login alone.
async fn with_tokens(everybody: bool) -> Server {
    let own = Arc::<Mutex<String>>::default();
    let address = Arc::clone(&own);
    let server = Server::start(move |line| {
        let host = address.lock().expect("no holder panics").clone();
        let found = format!("docker-content-digest: {}\r\n", hex("a"));
        match line {
            _ if line.starts_with("GET /token?") && (everybody || line.ends_with(BASIC)) => {
                (200, String::new(), "{\"access_token\":\"t\"}".to_owned())
            }
            _ if line.starts_with("GET /token?") => (401, String::new(), String::new()),
            _ if line.ends_with(" Bearer t") => (200, found, String::new()),
            _ => {
                let realm = format!(
                    "www-authenticate: Bearer realm=\"http://{host}/token\",service=\"r\"\r\n"
                );
                (401, realm, String::new())
            }
        }
    });
    let server = server.await;
    server
        .address
        .clone_into(&mut own.lock().expect("no holder panics"));
    server
}

#[tokio::test]
async fn a_token_is_asked_for_with_the_login_if_there_is_one() {
    let scope = "/token?service=r&scope=repository%3Ateam%2Fweb%3Apull";
    let server = with_tokens(false).await;
    let found = registries(&server)
        .digest(&place("1"), Some(&login()))
        .await;
    assert_eq!(found, Ok(hex("a")));
    let expected = [
        format!("HEAD {MANIFEST}"),
        format!("GET {scope} {BASIC}"),
        format!("HEAD {MANIFEST} Bearer t"),
    ];
    assert_eq!(server.asked(), expected);
    let nobody = registries(&server).digest(&place("1"), None).await;
    let denied = matches!(nobody, Err(RegistryError::Denied { status: 401, .. }));
    assert!(denied, "{nobody:?}");
    let open = with_tokens(true).await;
    let found = registries(&open).digest(&place("1"), None).await;
    assert_eq!(found, Ok(hex("a")));
    assert_eq!(open.asked()[1], format!("GET {scope}"));
}

#[tokio::test]
async fn a_registry_may_want_the_login_itself() {
    let server = Server::start(|line| {
        if line.ends_with(BASIC) {
            let found = format!("docker-content-digest: {}\r\n", hex("a"));
            return (200, found, String::new());
        }
        let challenge = "www-authenticate: Basic realm=\"r\"\r\n";
        (401, challenge.to_owned(), String::new())
    });
    let server = server.await;
    let registries = registries(&server);
    let found = registries.digest(&place("1"), Some(&login())).await;
    assert_eq!(found, Ok(hex("a")));
    let wrong = RegistryLogin {
        password: Secret::from_text("closesame".to_owned()),
        ..login()
    };
    for login in [None, Some(&wrong)] {
        let found = registries.digest(&place("1"), login).await;
        let denied = matches!(found, Err(RegistryError::Denied { status: 401, .. }));
        assert!(denied, "{found:?}");
    }
}

#[tokio::test]
async fn answers_have_the_class_that_says_what_to_do() {
    for (status, headers, expected) in [
        (404, "", Class::NotFound),
        (401, "", Class::Denied),
        (403, "", Class::Denied),
        (429, "retry-after: 7\r\n", Class::Upstream),
        (500, "", Class::Upstream),
        (503, "", Class::Upstream),
        (418, "", Class::Caller),
        (
            307,
            "location: https://registry.example.com/v2/\r\n",
            Class::Caller,
        ),
        (307, "location: http://127.0.0.1:9/v2/\r\n", Class::Caller),
        (307, "", Class::Caller),
    ] {
        let server = Server::start(move |_| (status, headers.to_owned(), String::new())).await;
        let found = registries(&server)
            .digest(&place("1"), Some(&login()))
            .await;
        let error = found.expect_err("it is no image");
        assert_eq!(error.class(), expected, "{status}: {error}");
        let wait = (status == 429).then_some(7);
        assert_eq!(error.retry_after_seconds(), wait, "{status}");
        assert!(!error.to_string().contains("opensesame"), "{error}");
    }
    let gone = Server::start(|_| (200, String::new(), String::new())).await;
    let registries = registries(&gone);
    drop(gone);
    let found = registries.digest(&place("1"), None).await;
    let class = found.map_err(|error| error.class());
    assert_eq!(class, Err(Class::Upstream));
}

#[tokio::test]
async fn other_paths_of_the_same_registry_are_followed() {
    let server = Server::start(|line| {
        if line.contains("/v2/team/web/") {
            let place = "location: /v2/elsewhere/manifests/1\r\n";
            return (308, place.to_owned(), String::new());
        }
        let found = format!("docker-content-digest: {}\r\n", hex("a"));
        (200, found, String::new())
    });
    let server = server.await;
    let found = registries(&server).digest(&place("1"), None).await;
    assert_eq!(found, Ok(hex("a")));
}

#[test]
fn a_file_without_certificates_is_no_file_of_roots() {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), "no certificate\n").expect("it can be written");
    for path in [file.path(), Path::new("/nonexistent/ca.pem")] {
        let error = roots(path).expect_err("there are none").to_string();
        assert!(error.contains(&path.display().to_string()), "{error}");
    }
}

#[test]
fn a_registry_is_asked_at_its_name_unless_the_operator_says_where() {
    let addresses = [("r.internal:5000", "http://r.internal:5000")];
    let addresses = addresses.map(|(name, at)| (name.to_owned(), at.to_owned()));
    let registries = Registries::new(None, addresses.into()).expect("no file is read");
    for (name, expected) in [
        ("registry.example.com", "https://registry.example.com"),
        (
            "registry.example.com:5050",
            "https://registry.example.com:5050",
        ),
        ("docker.io", "https://registry-1.docker.io"),
        ("r.internal:5000", "http://r.internal:5000"),
        ("r.internal:5001", "https://r.internal:5001"),
        ("localhost:5000", "http://localhost:5000"),
        ("127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("[::1]:5000", "http://[::1]:5000"),
        ("[::1]", "http://[::1]"),
        ("10.0.0.1:5000", "https://10.0.0.1:5000"),
        ("localhost.example.com", "https://localhost.example.com"),
    ] {
        assert_eq!(registries.origin(name), expected, "{name}");
    }
}

#[test]
fn a_digest_is_that_of_all_bytes() {
    let abc = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(digest(b"abc"), abc);
    assert!(is_digest(abc) && !is_digest(&abc[1..]) && !is_digest(&abc.to_uppercase()));
}
