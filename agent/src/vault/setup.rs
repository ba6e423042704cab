//! From settings to a transport: checks the address, pins the roots, bounds the time.
//!
//! Called by [`super::Vault::new`] only. The environment is not looked at, neither for Vault's own
//! variables nor for proxies. Plain HTTP is for loopback alone.

use std::path::PathBuf;
use std::time::Duration;

use super::wire::Wire;
use crate::outbound;

/// The longest wait for a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// How to reach Vault.
#[derive(Debug, Clone)]
pub struct VaultSettings {
    /// Scheme, host and port, such as `https://vault.example.com:8200`.
    pub address: String,
    /// PEM file with the only roots to trust; unset trusts those of the system.
    pub ca_file: Option<PathBuf>,
    /// Where the JWT login method is mounted, such as `jwt`.
    pub jwt_mount: String,
    /// The namespace; unset is the root namespace.
    pub namespace: Option<String>,
    /// The longest time of one call.
    pub timeout: Duration,
}

/// Why the settings give no client.
#[derive(Debug, thiserror::Error)]
pub enum VaultSetupError {
    /// The address is not usable.
    #[error("the Vault address {address} {problem}")]
    Address {
        /// The address, without user information.
        address: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// The namespace or mount cannot be sent.
    #[error("the Vault {setting} has characters that cannot be sent")]
    Unsendable {
        /// Which setting.
        setting: &'static str,
    },
    /// The CA file cannot be read.
    #[error("cannot read the Vault CA file {}", path.display())]
    ReadCa {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The CA file holds no certificate.
    #[error("the Vault CA file {} has no usable PEM certificate", path.display())]
    ParseCa {
        /// The file.
        path: PathBuf,
    },
    /// The HTTP client cannot be made.
    #[error("cannot make the HTTP client for Vault")]
    Client {
        /// Why.
        source: reqwest::Error,
    },
}

/// Makes the transport.
pub(super) fn wire(settings: &VaultSettings) -> Result<Wire, VaultSetupError> {
    wire_with(settings, None)
}

/// Makes a transport that shows a client certificate.
pub(super) fn wire_with(
    settings: &VaultSettings,
    client: Option<reqwest::Identity>,
) -> Result<Wire, VaultSetupError> {
    let url = address(&settings.address)?;
    check_mount(
        "namespace",
        settings.namespace.as_deref().unwrap_or_default(),
    )?;
    if !sendable(&settings.jwt_mount) {
        return Err(VaultSetupError::Unsendable {
            setting: "JWT mount",
        });
    }
    let connecting = settings.timeout.min(CONNECT_LIMIT);
    let mut builder = outbound::builder(connecting).timeout(settings.timeout);
    if url.scheme() == "http" {
        // Without TLS no roots are needed, and a machine may have none.
        builder = builder.tls_certs_only([]);
    } else if let Some(path) = &settings.ca_file {
        builder = builder.tls_certs_only(roots(path)?);
    }
    if let Some(client) = client {
        builder = builder.identity(client);
    }
    let http = builder
        .build()
        .map_err(|source| VaultSetupError::Client { source })?;
    Ok(Wire {
        base: url.origin().ascii_serialization(),
        namespace: settings.namespace.clone(),
        http,
    })
}

/// Checks that a namespace or mount can stand in headers and URLs; none is fine.
pub(super) fn check_mount(setting: &'static str, text: &str) -> Result<(), VaultSetupError> {
    if text.is_empty() || sendable(text) {
        return Ok(());
    }
    Err(VaultSetupError::Unsendable { setting })
}

fn address(text: &str) -> Result<reqwest::Url, VaultSetupError> {
    let broken = |problem| VaultSetupError::Address {
        address: text.rsplit('@').next().unwrap_or_default().to_owned(),
        problem,
    };
    let url = reqwest::Url::parse(text).map_err(|_no_detail| broken("is not a URL"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(broken("is neither http nor https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(broken("has user information"));
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(broken("has a path, a query or a fragment"));
    }
    if url.scheme() == "http" && !is_loopback(&url) {
        return Err(broken("is plain http and not on loopback"));
    }
    Ok(url)
}

fn is_loopback(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

fn sendable(text: &str) -> bool {
    let segments = || text.trim_end_matches('/').split('/');
    text.bytes().all(|b| b.is_ascii_graphic())
        && !text.contains(['?', '#', '%', '\\'])
        && segments().all(|segment| !matches!(segment, "" | "." | ".."))
}

fn roots(path: &PathBuf) -> Result<Vec<reqwest::Certificate>, VaultSetupError> {
    let pem = std::fs::read(path).map_err(|source| VaultSetupError::ReadCa {
        path: path.clone(),
        source,
    })?;
    let unusable = || VaultSetupError::ParseCa { path: path.clone() };
    let roots = reqwest::Certificate::from_pem_bundle(&pem).map_err(|_no_detail| unusable())?;
    if roots.is_empty() {
        return Err(unusable());
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_loopback_alone() {
        for good in [
            "http://127.0.0.1:8200",
            "http://[::1]:8200/",
            "http://localhost:8200",
            "https://vault.example.com",
        ] {
            assert!(address(good).is_ok(), "{good}");
        }
        for bad in [
            "http://vault.example.com",
            "https://u:p@vault.example.com",
            "https://vault.example.com/v1",
            "unix:///x",
            "vault",
        ] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_password_in_the_address_is_not_repeated() {
        let error = address("https://u:hunter2@vault/").expect_err("user information is refused");
        assert!(!error.to_string().contains("hunter2"));
    }

    #[test]
    fn namespaces_and_mounts_fit_into_headers_and_urls() {
        assert!(sendable("team-a/") && sendable("jwt") && sendable("a/b"));
        for bad in ["", "a\n", "a b", "../sys", "a//b", "a?b"] {
            assert!(!sendable(bad), "{bad:?}");
        }
    }
}
