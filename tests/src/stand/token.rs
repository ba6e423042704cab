//! id_tokens as GitLab makes them, and as nobody should accept them.
//!
//! Used by `stand token` and by scenarios. A token starts as that of an ordinary job of project 42 with every
//! claim of the shape that GitLab gives it (numbers as strings but for `runner_id`, booleans as strings); then
//! any claim or header is set, dropped or made another type, and any key and algorithm signs.

use std::fs;
use std::path::Path;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use anyhow::Context;
use anyhow::Result;
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::encoding::Pkcs8V1Der;
use aws_lc_rs::encoding::PublicKeyX509Der;
use aws_lc_rs::hmac;
use aws_lc_rs::rand;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::KeyPair as _;
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use aws_lc_rs::signature::RsaKeyPair;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use super::layout::AUDIENCE;
use super::layout::write_whole;

/// An RSA key of an issuer.
pub struct IssuerKey {
    kid: String,
    pair: RsaKeyPair,
    pkcs8: Vec<u8>,
}

impl IssuerKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// When the machine has no randomness.
    pub fn generate() -> Result<Self> {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).context("making an RSA key")?;
        let pkcs8: Pkcs8V1Der<'_> = pair.as_der().context("encoding an RSA key")?;
        let pkcs8 = pkcs8.as_ref().to_vec();
        Ok(Self {
            kid: random_hex(16)?,
            pair,
            pkcs8,
        })
    }

    /// Keeps the key in `path`, for other processes that mint tokens.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = json!({ "kid": self.kid, "pkcs8": STANDARD.encode(&self.pkcs8) });
        write_whole(path, text.to_string().as_bytes())
    }

    /// Reads a key that [`Self::save`] kept.
    ///
    /// # Errors
    /// When the file is missing or not such a key.
    pub fn load(path: &Path) -> Result<Self> {
        let value: Value =
            serde_json::from_str(&fs::read_to_string(path).context("reading the issuer's key")?)?;
        let text = |name: &str| {
            value[name]
                .as_str()
                .context("the issuer's key file is incomplete")
        };
        let pkcs8 = STANDARD.decode(text("pkcs8")?)?;
        let pair = RsaKeyPair::from_pkcs8(&pkcs8).context("reading the issuer's key")?;
        Ok(Self {
            kid: text("kid")?.to_owned(),
            pair,
            pkcs8,
        })
    }

    /// Identifier of the key.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The public part as JWKS list it.
    #[must_use]
    pub fn jwk(&self) -> Value {
        let key = self.pair.public_key();
        let number = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({ "kty": "RSA", "kid": self.kid, "use": "sig", "alg": "RS256",
            "n": number(key.modulus().big_endian_without_leading_zero()),
            "e": number(key.exponent().big_endian_without_leading_zero()) })
    }

    /// The public part as PEM.
    ///
    /// # Errors
    /// Never for a key that was made or read.
    pub fn public_pem(&self) -> Result<String> {
        let der: PublicKeyX509Der<'_> = self
            .pair
            .public_key()
            .as_der()
            .context("encoding a public key")?;
        Ok(format!(
            "-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n",
            STANDARD.encode(der.as_ref())
        ))
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair
            .sign(
                &RSA_PKCS1_SHA256,
                &SystemRandom::new(),
                message,
                &mut signature,
            )
            .context("signing a token")?;
        Ok(signature)
    }
}

/// A token that is still being written.
#[derive(Clone, Debug)]
pub struct IdToken {
    header: Map<String, Value>,
    claims: Map<String, Value>,
}

impl IdToken {
    /// The token of a running job of project 42, branch `main`, without an environment, one hour long.
    ///
    /// # Errors
    /// When the machine has no randomness.
    pub fn new(issuer: &str) -> Result<Self> {
        let now = now();
        let random = random_hex(16)?;
        let jti = format!(
            "{}-{}-{}-{}-{}",
            &random[..8],
            &random[8..12],
            &random[12..16],
            &random[16..20],
            &random[20..]
        );
        // Pipelines are counted upwards, so a later token is of no older pipeline.
        let job = u32::from_str_radix(&random[..7], 16)?;
        let standard = json!({
            "iss": issuer, "aud": AUDIENCE, "sub": "", "jti": jti,
            "iat": now, "nbf": now - 5, "exp": now + 3600,
            "user_id": "9", "user_login": "mara", "user_email": "mara@example.com", "user_access_level": "maintainer",
            "pipeline_id": now.to_string(), "pipeline_source": "push", "job_id": job.to_string(),
            "ref_protected": "true",
            "runner_id": 77, "runner_environment": "self-hosted",
            "sha": "6d1f0e2c9b8a7f6e5d4c3b2a190817263544f3e2",
            "ci_config_sha": "6d1f0e2c9b8a7f6e5d4c3b2a190817263544f3e2",
            "project_visibility": "private",
        });
        let claims = standard
            .as_object()
            .cloned()
            .context("claims are an object")?;
        let token = Self {
            header: Map::from_iter([("typ".to_owned(), json!("JWT"))]),
            claims,
        };
        Ok(token
            .project("42", "shop/flask")
            .reference("main", "branch"))
    }

    /// Makes it a job of another project, in the project's own runner.
    #[must_use]
    pub fn project(self, id: &str, path: &str) -> Self {
        let namespace = path
            .rsplit_once('/')
            .map_or("shop", |(namespace, _)| namespace)
            .to_owned();
        // One id for one path, so that equal namespaces have equal ids; the sample's is 31.
        let namespace_id = match namespace.as_str() {
            "shop" => 31,
            other => {
                1000 + other.bytes().fold(0u32, |sum, byte| {
                    sum.wrapping_mul(31).wrapping_add(u32::from(byte)) % 9000
                })
            }
        };
        let config = format!("gitlab.example.com/{path}//.gitlab-ci.yml@refs/heads/main");
        self.claim("project_id", id)
            .claim("project_path", path)
            .claim("namespace_id", namespace_id.to_string())
            .claim("namespace_path", namespace.as_str())
            .claim("job_project_id", id)
            .claim("job_project_path", path)
            .claim("job_namespace_id", namespace_id.to_string())
            .claim("job_namespace_path", namespace)
            .claim("ci_config_ref_uri", config)
            .subject()
    }

    /// Makes it a job of another branch or tag (`kind`).
    #[must_use]
    pub fn reference(self, name: &str, kind: &str) -> Self {
        let folder = if kind == "tag" { "tags" } else { "heads" };
        self.claim("ref", name)
            .claim("ref_type", kind)
            .claim("ref_path", format!("refs/{folder}/{name}"))
            .subject()
    }

    /// Makes it a job with an environment, as a deploy job has.
    #[must_use]
    pub fn environment(self, name: &str) -> Self {
        self.claim("environment", name)
            .claim("environment_protected", "false")
            .claim("deployment_tier", name)
            .claim("environment_action", "start")
    }

    fn subject(self) -> Self {
        let text = |name: &str| {
            self.claims
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let subject = format!(
            "project_path:{}:ref_type:{}:ref:{}",
            text("project_path"),
            text("ref_type"),
            text("ref")
        );
        self.claim("sub", subject)
    }

    /// Sets when it ends, in seconds from now; in the past when negative.
    #[must_use]
    pub fn expires_in(self, seconds: i64) -> Self {
        self.claim("exp", now() + seconds)
    }

    /// Sets a claim to a value of any type.
    #[must_use]
    pub fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.claims.insert(name.to_owned(), value.into());
        self
    }

    /// Leaves a claim out.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.claims.remove(name);
        self
    }

    /// Sets a header to a value of any type; wins over what signing would set.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.header.insert(name.to_owned(), value.into());
        self
    }

    /// What the token says.
    #[must_use]
    pub const fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }

    /// The running job that this token is of, as `GET /api/v4/job` describes it.
    #[must_use]
    pub fn job(&self) -> Value {
        let text = |name: &str| {
            self.claims
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let number = |name: &str| text(name).parse::<u64>().unwrap_or_default();
        json!({
            "id": number("job_id"), "status": "running", "stage": "deploy", "name": "deploy",
            "ref": text("ref"), "tag": text("ref_type") == "tag",
            "user": { "id": number("user_id"), "username": text("user_login") },
            "commit": { "id": text("sha") },
            "pipeline": { "id": number("pipeline_id"), "project_id": number("project_id"),
                "ref": text("ref"), "sha": text("sha"), "status": "running" },
            "runner": { "id": self.claims.get("runner_id"), "is_shared": false },
            "project": { "ci_job_token_scope_enabled": false },
        })
    }

    /// Signs as GitLab does, RS256.
    ///
    /// # Errors
    /// When signing fails.
    pub fn sign(self, key: &IssuerKey) -> Result<String> {
        let message = self.message("RS256", Some(key.kid()));
        let signature = key.sign(message.as_bytes())?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// Signs with a shared secret, HS256; with the public key's PEM as secret this is the classic confusion.
    #[must_use]
    pub fn sign_hmac(self, secret: &[u8], kid: Option<&str>) -> String {
        let message = self.message("HS256", kid);
        let signature = hmac::sign(
            &hmac::Key::new(hmac::HMAC_SHA256, secret),
            message.as_bytes(),
        );
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }

    /// Leaves it unsigned, `alg: none`.
    #[must_use]
    pub fn unsigned(self) -> String {
        format!("{}.", self.message("none", None))
    }

    fn message(mut self, algorithm: &str, kid: Option<&str>) -> String {
        self.header.entry("alg").or_insert_with(|| json!(algorithm));
        if let Some(kid) = kid {
            self.header.entry("kid").or_insert_with(|| json!(kid));
        }
        let part = |map: Map<String, Value>| URL_SAFE_NO_PAD.encode(Value::Object(map).to_string());
        format!("{}.{}", part(self.header), part(self.claims))
    }
}

fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// `bytes` random bytes as hexadecimal text.
///
/// # Errors
/// When the machine has no randomness.
pub fn random_hex(bytes: usize) -> Result<String> {
    let mut raw = vec![0; bytes];
    rand::fill(&mut raw).context("the machine has no randomness")?;
    Ok(raw.iter().map(|byte| format!("{byte:02x}")).collect())
}
