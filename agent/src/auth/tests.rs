//! Tests of identity: every sentence about tokens, against a small issuer on loopback.

use super::*;
use std::sync::LazyLock;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::KeyPair as _;
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use deploy::principal::PrincipalKind;
use futures::FutureExt;
use jiff::Timestamp;
use serde_json::Value;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

const AUDIENCE: &str = "https://quaymaster.example";
const NOW: i64 = 1_800_000_000;

// Making a key takes longer than all tests together.
static OURS: LazyLock<KeyPair> = LazyLock::new(generate);
static THEIRS: LazyLock<KeyPair> = LazyLock::new(generate);

fn generate() -> KeyPair {
    KeyPair::generate(KeySize::Rsa2048).expect("the machine can make keys")
}

struct FixedClock(i64);

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.0).expect("the second is valid")
    }
}

fn jwk(kid: &str, pair: &KeyPair) -> Value {
    let parts: PublicKeyComponents<Vec<u8>> = pair.public_key().into();
    let (n, e) = (
        URL_SAFE_NO_PAD.encode(parts.n),
        URL_SAFE_NO_PAD.encode(parts.e),
    );
    json!({"kty": "RSA", "kid": kid, "use": "sig", "alg": "RS256", "n": n, "e": e})
}

/// An issuer on loopback that counts what it is asked.
struct Issuer {
    url: String,
    keys: Arc<Mutex<Vec<Value>>>,
    status: Arc<AtomicUsize>,
    asked: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Issuer {
    async fn new(keys: Vec<Value>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let url = format!("http://{address}");
        let keys = Arc::new(Mutex::new(keys));
        let status = Arc::new(AtomicUsize::new(200));
        let asked = Arc::new(AtomicUsize::new(0));
        let (served, state, count) = (Arc::clone(&keys), Arc::clone(&status), Arc::clone(&asked));
        let base = url.clone();
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = vec![0; 4096];
                let size = stream.read(&mut head).await.unwrap_or(0);
                let head = String::from_utf8_lossy(&head[..size]).into_owned();
                let body = if head.starts_with("GET /.well-known/openid-configuration ") {
                    json!({"issuer": base, "jwks_uri": format!("{base}/oauth/discovery/keys")})
                } else {
                    count.fetch_add(1, Ordering::SeqCst);
                    json!({"keys": served.lock().expect("no panic").clone()})
                };
                let body = body.to_string();
                let answer = format!(
                    "HTTP/1.1 {} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    state.load(Ordering::SeqCst),
                    body.len()
                );
                stream.write_all(answer.as_bytes()).await.unwrap_or(());
            }
        });
        Self {
            url,
            keys,
            status,
            asked,
            task,
        }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn no_vault() -> VaultTrust {
    with_vault(Err(AuthError::VaultRefused {
        problem: "is not known".to_owned(),
    }))
}

fn with_vault(answer: Result<TokenFacts, AuthError>) -> VaultTrust {
    VaultTrust {
        lookup: Arc::new(move |_| futures::future::ready(answer.clone()).boxed()),
        trusted_mounts: vec!["jwt".to_owned()],
    }
}

fn facts() -> TokenFacts {
    TokenFacts {
        policies: vec!["default".to_owned()],
        metadata: [("project_id".to_owned(), "42".to_owned())].into(),
        path: "auth/jwt/login".to_owned(),
        period: 0,
        orphan: true,
        ttl: 600,
        token_type: "service".to_owned(),
    }
}

/// An authenticator with our key in a pinned file, so that nothing is fetched.
fn pinned(change: impl FnOnce(&mut IssuerSettings), vault: VaultTrust) -> Authenticator {
    let file = tempfile::NamedTempFile::new().expect("a file can be made");
    let text = json!({"keys": [jwk("ours", &OURS)]}).to_string();
    std::fs::write(file.path(), text).expect("the file is writable");
    let mut settings = IssuerSettings::new("https://git.example.org", AUDIENCE);
    settings.pinned_jwks = Some(file.path().to_owned());
    change(&mut settings);
    Authenticator::new(settings, vault, Arc::new(FixedClock(NOW))).expect("the settings are good")
}

fn asking(issuer: &Issuer) -> Authenticator {
    let settings = IssuerSettings::new(&*issuer.url, AUDIENCE);
    Authenticator::new(settings, no_vault(), Arc::new(FixedClock(NOW))).expect("good settings")
}

fn claims() -> Value {
    json!({
        "iss": "https://git.example.org", "aud": AUDIENCE, "sub": "project_path:shop/flask",
        "jti": "b9c0", "iat": NOW - 10, "nbf": NOW - 15, "exp": NOW + 3590,
        "namespace_id": "31", "namespace_path": "shop",
        "project_id": "42", "project_path": "shop/flask",
        "job_project_id": "42", "job_project_path": "shop/flask",
        "job_namespace_id": "31", "job_namespace_path": "shop",
        "user_id": "9", "user_login": "mara", "user_email": "mara@example.org",
        "user_access_level": "maintainer",
        "user_identities": [{"provider": "saml", "extern_uid": "u1"}], "groups_direct": ["shop"],
        "pipeline_id": "5", "job_id": "7", "pipeline_source": "push",
        "ref": "main", "ref_type": "branch", "ref_path": "refs/heads/main",
        "ref_protected": "true", "environment": "production", "environment_protected": "false",
        "deployment_tier": "production", "environment_action": "start",
        "runner_id": 77, "runner_environment": "self-hosted", "sha": "6d1f",
        "ci_config_ref_uri": "git.example.org/shop/flask//.gitlab-ci.yml@refs/heads/main",
        "ci_config_sha": "6d1f", "project_visibility": "private",
    })
}

fn claims_with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn header() -> Value {
    json!({"alg": "RS256", "kid": "ours", "typ": "JWT"})
}

fn sign_text(header: &str, payload: &str, pair: &KeyPair) -> String {
    let message = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(payload)
    );
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(
        &RSA_PKCS1_SHA256,
        &SystemRandom::new(),
        message.as_bytes(),
        &mut signature,
    )
    .expect("the key signs");
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn sign(header: &Value, claims: &Value) -> String {
    sign_text(&header.to_string(), &claims.to_string(), &OURS)
}

fn token(claims: &Value) -> String {
    sign(&header(), claims)
}

async fn identify(authenticator: &Authenticator, token: &str) -> Result<Principal, AuthError> {
    let presented = Presented {
        id_token: Some(Secret::from_text(token.to_owned())),
        vault_token: None,
    };
    let identity = authenticator.identify(presented).await?;
    assert!(
        identity.id_token.is_some(),
        "the token goes on to the login"
    );
    Ok(identity.principal)
}

async fn code_of(token: &str) -> Option<Code> {
    let result = identify(&pinned(|_| {}, no_vault()), token).await;
    result.err().map(|error| error.code())
}

#[tokio::test]
async fn a_good_token_becomes_a_principal_of_normalized_claims() {
    let principal = identify(&pinned(|_| {}, no_vault()), &token(&claims()))
        .await
        .expect("the token is good");
    assert_eq!(principal.kind(), PrincipalKind::GitlabJob);
    assert_eq!(principal.project(), Some("42"));
    assert_eq!(principal.attribute("runner_id"), Some("77"));
    assert_eq!(principal.attribute("ref_protected"), Some("true"));
    for absent in ["groups_direct", "user_identities", "aud", "iat"] {
        assert_eq!(principal.attribute(absent), None, "{absent}");
    }
}

#[tokio::test]
async fn every_required_claim_is_missed() {
    let required = [
        "iss",
        "aud",
        "sub",
        "exp",
        "nbf",
        "iat",
        "jti",
        "project_id",
        "job_id",
    ];
    for name in required {
        let mut less = claims();
        less.as_object_mut().expect("an object").remove(name);
        let error = identify(&pinned(|_| {}, no_vault()), &token(&less)).await;
        let error = error.expect_err("a claim is missing");
        assert_eq!(error.code(), Code::TokenMalformed, "{name}");
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[tokio::test]
async fn every_claim_of_another_type_is_malformed() {
    let all = claims();
    for name in all.as_object().expect("an object").keys() {
        let others = match &all[name] {
            Value::Number(_) => vec![json!("77"), json!(true), json!(1.5), json!(-1), Value::Null],
            Value::Array(_) => vec![json!("shop"), json!({}), json!(1)],
            Value::Null | Value::Bool(_) | Value::String(_) | Value::Object(_) => {
                vec![json!(42), json!(true), json!({}), json!([1])]
            }
        };
        for other in others {
            let code = code_of(&token(&claims_with(name, other.clone()))).await;
            assert_eq!(code, Some(Code::TokenMalformed), "{name} = {other}");
        }
    }
    for (name, value) in [
        ("ref_protected", json!("yes")),
        ("project_id", json!("4a")),
        ("project_id", json!("")),
        ("job_id", Value::Null),
        ("aud", json!([])),
    ] {
        let code = code_of(&token(&claims_with(name, value))).await;
        assert_eq!(code, Some(Code::TokenMalformed), "{name}");
    }
    let null = token(&claims_with("ci_config_ref_uri", Value::Null));
    assert_eq!(code_of(&null).await, None, "GitLab sends null here");
    let unknown = token(&claims_with("of_next_year", json!({"a": 1})));
    assert_eq!(code_of(&unknown).await, None, "new claims are ignored");
}

#[tokio::test]
async fn issuer_and_audience_are_ours_alone() {
    for (name, value) in [
        ("iss", json!("https://git.example.org/")),
        ("iss", json!("https://GIT.example.org")),
        ("iss", json!("https://elsewhere.example")),
        ("aud", json!("https://elsewhere.example")),
        ("aud", json!(format!("{AUDIENCE}/"))),
        ("aud", json!([AUDIENCE, "https://elsewhere.example"])),
    ] {
        let code = code_of(&token(&claims_with(name, value.clone()))).await;
        assert_eq!(code, Some(Code::TokenUntrusted), "{name} = {value}");
    }
    let listed = token(&claims_with("aud", json!([AUDIENCE])));
    assert_eq!(code_of(&listed).await, None);
    let both = token(&claims_with(
        "aud",
        json!([AUDIENCE, "https://vault.example"]),
    ));
    let wide = pinned(
        |settings| settings.extra_audiences = vec!["https://vault.example".to_owned()],
        no_vault(),
    );
    assert!(identify(&wide, &both).await.is_ok());
    let other = token(&claims_with("aud", json!("https://vault.example")));
    assert!(
        identify(&wide, &other).await.is_err(),
        "an extra one alone is not ours"
    );
}

#[tokio::test]
async fn times_hold_with_thirty_seconds_of_leeway() {
    let rows = [
        ("exp", NOW - 29, None),
        ("exp", NOW - 30, Some(Code::TokenExpired)),
        ("nbf", NOW + 30, None),
        ("nbf", NOW + 31, Some(Code::TokenExpired)),
        ("iat", NOW + 30, None),
        ("iat", NOW + 31, Some(Code::TokenExpired)),
        ("iat", NOW - 3630, None),
        ("iat", NOW - 3631, Some(Code::TokenExpired)),
        ("iat", 0, Some(Code::TokenMalformed)),
        ("exp", i64::MAX, None),
    ];
    for (name, value, expected) in rows {
        let code = code_of(&token(&claims_with(name, json!(value)))).await;
        assert_eq!(code, expected, "{name} {}", value - NOW);
    }
}

#[tokio::test]
async fn headers_with_surprises_are_refused() {
    let with = |name: &str, value: Value| {
        let mut header = header();
        header[name] = value;
        sign(&header, &claims())
    };
    for (name, value) in [
        ("alg", json!("none")),
        ("alg", json!("HS256")),
        ("alg", json!("RS512")),
        ("alg", json!("PS256")),
        ("alg", json!("rs256")),
        ("alg", Value::Null),
        ("crit", json!(["exp"])),
        ("jku", json!("https://elsewhere.example")),
        ("x5u", json!("https://elsewhere.example")),
        ("jwk", jwk("ours", &THEIRS)),
        ("kid", json!("unknown")),
    ] {
        let code = code_of(&with(name, value.clone())).await;
        assert_eq!(code, Some(Code::TokenUntrusted), "{name} = {value}");
    }
    for (name, value) in [
        ("kid", Value::Null),
        ("kid", json!("")),
        ("kid", json!(1)),
        ("typ", json!("at+jwt")),
    ] {
        let code = code_of(&with(name, value.clone())).await;
        assert_eq!(code, Some(Code::TokenMalformed), "{name} = {value}");
    }
}

#[tokio::test]
async fn repeated_members_are_refused_in_header_and_payload() {
    let twice = |text: &str, member: &str| text.replacen('{', &format!("{{{member},"), 1);
    let (header, claims) = (header().to_string(), claims().to_string());
    let bad_header = sign_text(&twice(&header, "\"kid\":\"ours\""), &claims, &OURS);
    assert_eq!(code_of(&bad_header).await, Some(Code::TokenMalformed));
    let bad_claims = sign_text(&header, &twice(&claims, "\"project_id\":\"43\""), &OURS);
    assert_eq!(code_of(&bad_claims).await, Some(Code::TokenMalformed));
}

#[tokio::test]
async fn what_is_no_token_is_malformed_and_what_was_changed_is_untrusted() {
    let good = token(&claims());
    let parts: Vec<&str> = good.split('.').collect();
    let padded = format!("{}=.{}.{}", parts[0], parts[1], parts[2]);
    let long = format!("{}.{}.{}", parts[0], "A".repeat(17 << 10), parts[2]);
    for bad in [
        "",
        "abc",
        "a.b",
        "a.b.c.d",
        "..",
        &padded,
        &long,
        &format!("{good}\n.x"),
        "\u{e9}.b.c",
    ] {
        assert_eq!(code_of(bad).await, Some(Code::TokenMalformed), "{bad:.40}");
    }
    let other = URL_SAFE_NO_PAD.encode(claims_with("project_id", json!("43")).to_string());
    let changed = format!("{}.{other}.{}", parts[0], parts[2]);
    let unsigned = format!("{}.{}.", parts[0], parts[1]);
    let foreign = sign_text(&header().to_string(), &claims().to_string(), &THEIRS);
    let line_end = format!("{good}\n");
    for bad in [changed, unsigned, foreign, line_end] {
        assert_eq!(code_of(&bad).await, Some(Code::TokenUntrusted), "{bad:.40}");
    }
}

#[tokio::test]
async fn errors_tell_nothing_about_keys_or_content() {
    let bad = [
        token(&claims_with("iss", json!("https://canary.example"))),
        token(&claims_with("project_id", json!("canary"))),
        sign(&json!({"alg": "RS256", "kid": "canary"}), &claims()),
        sign_text(&header().to_string(), &claims().to_string(), &THEIRS),
    ];
    for token in bad {
        let error = identify(&pinned(|_| {}, no_vault()), &token).await;
        let error = error.expect_err("the token is bad");
        let told = format!("{error} {error:?} {}", error.hint());
        for word in ["canary", "key", "kid", "RS256"] {
            assert!(!told.contains(word), "{word}: {told}");
        }
        assert!(told.contains("id_token"), "{told}");
    }
}

#[tokio::test]
async fn both_tokens_must_be_good_and_the_id_token_is_the_identity() {
    let ask = |vault: VaultTrust, id_token: Option<String>| async move {
        let presented = Presented {
            id_token: id_token.map(Secret::from_text),
            vault_token: Some(Secret::from_text("hvs.x".to_owned())),
        };
        pinned(|_| {}, vault).identify(presented).await
    };
    let good = || Some(token(&claims()));
    let both = ask(with_vault(Ok(facts())), good())
        .await
        .expect("both are good");
    assert_eq!(both.principal.kind(), PrincipalKind::GitlabJob);
    assert!(both.vault_token.is_some());
    let alone = ask(with_vault(Ok(facts())), None)
        .await
        .expect("it is good");
    assert_eq!(alone.principal.kind(), PrincipalKind::VaultToken);
    let bad_id = ask(with_vault(Ok(facts())), Some("abc".to_owned())).await;
    assert_eq!(bad_id.expect_err("bad").code(), Code::TokenMalformed);
    let bad_vault = ask(no_vault(), good()).await.expect_err("bad");
    assert_eq!(bad_vault.code(), Code::VaultTokenRefused);
    assert!(bad_vault.to_string().contains("Vault token"));
    let mut root = facts();
    root.policies = vec!["root".to_owned()];
    let root = ask(with_vault(Ok(root)), good()).await.expect_err("root");
    assert_eq!(root.code(), Code::VaultTokenRefused);
    let nothing = Presented {
        id_token: None,
        vault_token: None,
    };
    let none = pinned(|_| {}, no_vault()).identify(nothing).await;
    assert_eq!(none.expect_err("nothing").code(), Code::TokenMissing);
}

fn of(issuer: &Issuer, kid: &str, pair: &KeyPair) -> String {
    let claims = claims_with("iss", json!(issuer.url));
    let header = json!({"alg": "RS256", "kid": kid});
    sign_text(&header.to_string(), &claims.to_string(), pair)
}

#[tokio::test]
async fn keys_are_fetched_once_for_many_callers() {
    let issuer = Issuer::new(vec![jwk("a", &OURS)]).await;
    let authenticator = asking(&issuer);
    let token = of(&issuer, "a", &OURS);
    let callers = (0..20).map(|_| identify(&authenticator, &token));
    for result in futures::future::join_all(callers).await {
        assert!(result.is_ok(), "{result:?}");
    }
    assert_eq!(authenticator.ready().await, Ok(()));
    assert_eq!(issuer.asked(), 1);
}

/// Sets the cache's clock forward; real sockets need the real timer otherwise.
async fn pass(duration: Duration) {
    tokio::time::pause();
    tokio::time::advance(duration).await;
    tokio::time::resume();
}

#[tokio::test]
async fn unknown_key_ids_cause_one_fetch_a_minute() {
    let issuer = Issuer::new(vec![jwk("a", &OURS)]).await;
    let authenticator = asking(&issuer);
    assert!(
        identify(&authenticator, &of(&issuer, "a", &OURS))
            .await
            .is_ok()
    );
    for number in 0..10 {
        let stranger = of(&issuer, &format!("x{number}"), &THEIRS);
        let error = identify(&authenticator, &stranger)
            .await
            .expect_err("unknown");
        assert_eq!(error.code(), Code::TokenUntrusted);
    }
    assert_eq!(
        issuer.asked(),
        1,
        "the set was fetched less than a minute ago"
    );
    issuer
        .keys
        .lock()
        .expect("no panic")
        .push(jwk("b", &THEIRS));
    pass(Duration::from_secs(61)).await;
    assert!(
        identify(&authenticator, &of(&issuer, "b", &THEIRS))
            .await
            .is_ok()
    );
    assert_eq!(issuer.asked(), 2);
}

#[tokio::test]
async fn a_silent_issuer_costs_nobody_a_good_key() {
    let issuer = Issuer::new(vec![jwk("a", &OURS)]).await;
    let authenticator = asking(&issuer);
    assert!(
        identify(&authenticator, &of(&issuer, "a", &OURS))
            .await
            .is_ok()
    );
    issuer.status.store(503, Ordering::SeqCst);
    pass(Duration::from_hours(3)).await;
    assert!(
        identify(&authenticator, &of(&issuer, "a", &OURS))
            .await
            .is_ok()
    );
    let error = identify(&authenticator, &of(&issuer, "b", &THEIRS)).await;
    assert_eq!(error.expect_err("nobody knows").code(), Code::Unavailable);
}

#[tokio::test]
async fn a_key_that_was_taken_back_stops_working() {
    let issuer = Issuer::new(vec![jwk("a", &OURS), jwk("b", &THEIRS)]).await;
    let authenticator = asking(&issuer);
    assert!(
        identify(&authenticator, &of(&issuer, "a", &OURS))
            .await
            .is_ok()
    );
    issuer.keys.lock().expect("no panic").remove(0);
    pass(Duration::from_mins(11)).await;
    let error = identify(&authenticator, &of(&issuer, "a", &OURS)).await;
    assert_eq!(error.expect_err("taken back").code(), Code::TokenUntrusted);
}

#[tokio::test]
async fn without_keys_the_answer_is_to_try_again() {
    let issuer = Issuer::new(Vec::new()).await;
    let authenticator = asking(&issuer);
    let error = identify(&authenticator, &of(&issuer, "a", &OURS)).await;
    assert_eq!(error.expect_err("no keys").code(), Code::Unavailable);
    assert!(authenticator.ready().await.is_err());
    issuer.keys.lock().expect("no panic").push(jwk("a", &OURS));
    pass(Duration::from_secs(2)).await;
    assert_eq!(authenticator.ready().await, Ok(()));
}

#[test]
fn only_keys_for_rs256_signatures_are_taken() {
    let with = |name: &str, value: Value| {
        let mut key = jwk("a", &OURS);
        key[name] = value;
        json!({"keys": [key]}).to_string()
    };
    for (name, value) in [
        ("alg", json!("RS512")),
        ("alg", json!("HS256")),
        ("use", json!("enc")),
        ("kty", json!("EC")),
        ("key_ops", json!(["sign"])),
        ("kid", Value::Null),
        ("kid", json!("")),
        ("n", json!("%%")),
    ] {
        let found = keys::KeySet::parse(with(name, value.clone()).as_bytes());
        assert!(found.is_err(), "{name} = {value}");
    }
    let twice = json!({"keys": [jwk("a", &OURS), jwk("a", &THEIRS)]}).to_string();
    assert!(
        keys::KeySet::parse(twice.as_bytes()).is_err(),
        "two keys of one id"
    );
    assert!(keys::KeySet::parse(with("alg", json!("RS256")).as_bytes()).is_ok());
}

#[tokio::test]
async fn a_discovery_document_of_another_issuer_gives_no_keys() {
    let issuer = Issuer::new(vec![jwk("a", &OURS)]).await;
    let settings = IssuerSettings::new(format!("{}/", issuer.url), AUDIENCE);
    let other = Authenticator::new(settings, no_vault(), Arc::new(FixedClock(NOW)));
    let reason = other.expect("good settings").ready().await;
    assert!(reason.expect_err("another issuer").contains("issuer"));
    assert_eq!(issuer.asked(), 0);
}

#[test]
fn settings_that_cannot_be_used_are_named() {
    let make = |settings| Authenticator::new(settings, no_vault(), Arc::new(FixedClock(NOW)));
    let plain = IssuerSettings::new("http://git.example.org", AUDIENCE);
    assert_eq!(make(plain).err().map(|error| error.key), Some("url"));
    let mut missing = IssuerSettings::new("https://git.example.org", AUDIENCE);
    missing.pinned_jwks = Some("/nonexistent/keys.json".into());
    assert_eq!(
        make(missing).err().map(|error| error.key),
        Some("pinned_jwks")
    );
    let mut ca = IssuerSettings::new("https://git.example.org", AUDIENCE);
    ca.ca_file = Some("/nonexistent/ca.pem".into());
    assert_eq!(make(ca).err().map(|error| error.key), Some("ca_file"));
}
