//! From a kubeconfig to a client: which files are taken, and with which limits.
//!
//! Called by [`super::Kube::connect`] only; sends nothing, so an API server that is down is no
//! start-up error. The kubeconfig is the operator's own: exec plugins in it are allowed. What would
//! weaken every run is not: no pinned roots, no verification, an impersonation of its own, a proxy.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use kube::Config;
use kube::config::KubeConfigOptions;
use kube::config::Kubeconfig;
use kube::config::KubeconfigError;

use deploy::secret::FingerprintKey;

/// The longest wait for a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Silence after which a watch or list is given up; watches end by themselves earlier.
const SILENCE_LIMIT: Duration = Duration::from_secs(45);

/// How to reach a cluster.
#[derive(Debug, Clone)]
pub struct ClusterSettings {
    /// The name under which rules and specs know it.
    pub name: String,
    /// The operator's kubeconfig.
    pub kubeconfig: PathBuf,
    /// Which context of it; unset is its current one.
    pub context: Option<String>,
    /// The longest time of one call.
    pub timeout: Duration,
    /// The key of fingerprints.
    pub fingerprint_key: Arc<FingerprintKey>,
}

/// Why the settings give no client.
#[derive(Debug, thiserror::Error)]
pub enum ClusterSetupError {
    /// The kubeconfig cannot be used.
    #[error("cannot use the kubeconfig {} of cluster {cluster}: {problem}", path.display())]
    Kubeconfig {
        /// The cluster.
        cluster: String,
        /// The file.
        path: PathBuf,
        /// What is wrong, without contents of the file.
        problem: String,
    },
    /// The client cannot be made.
    #[error("cannot make the client for cluster {cluster}: {problem}")]
    Client {
        /// The cluster.
        cluster: String,
        /// What is wrong.
        problem: String,
    },
}

/// Makes kube's client.
pub(super) async fn client(settings: &ClusterSettings) -> Result<kube::Client, ClusterSetupError> {
    let broken = |problem: String| ClusterSetupError::Kubeconfig {
        cluster: settings.name.clone(),
        path: settings.kubeconfig.clone(),
        problem,
    };
    let kubeconfig = Kubeconfig::read_from(&settings.kubeconfig).map_err(|e| broken(words(&e)))?;
    let has_proxy = kubeconfig.clusters.iter().any(|named| {
        let cluster = named.cluster.as_ref();
        cluster.is_some_and(|cluster| cluster.proxy_url.is_some())
    });
    let options = KubeConfigOptions {
        context: settings.context.clone(),
        ..KubeConfigOptions::default()
    };
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .map_err(|e| broken(words(&e)))?;
    check(&config, has_proxy).map_err(|problem| broken(problem.to_owned()))?;
    limit(&mut config, settings.timeout);
    kube::Client::try_from(config).map_err(|error| ClusterSetupError::Client {
        cluster: settings.name.clone(),
        problem: if matches!(error, kube::Error::Auth(_)) {
            // Its text may hold what an exec plugin printed.
            "the user's credentials cannot be had".to_owned()
        } else {
            error.to_string().chars().take(200).collect()
        },
    })
}

fn check(config: &Config, has_proxy: bool) -> Result<(), &'static str> {
    let auth = &config.auth_info;
    if auth.impersonate.is_some()
        || auth.impersonate_uid.is_some()
        || auth.impersonate_groups.is_some()
        || auth.impersonate_user_extra.is_some()
    {
        return Err("its user impersonates (`as`), which is for the agent to do");
    }
    if config.accept_invalid_certs {
        return Err("it switches verification off (`insecure-skip-tls-verify`)");
    }
    if has_proxy {
        return Err("it names a proxy (`proxy-url`), which is not supported");
    }
    match config.cluster_url.scheme_str() {
        Some("https") if config.root_cert.is_some() || config.root_cert_file.is_some() => Ok(()),
        Some("https") => Err("it names no roots (`certificate-authority`)"),
        _ if is_loopback(&config.cluster_url) => Ok(()),
        _ => Err("the server is not https and not on loopback"),
    }
}

fn limit(config: &mut Config, timeout: Duration) {
    // kube takes a proxy from the environment; the agent's environment does not decide routes.
    config.proxy_url = None;
    // A POST answered 429 would be sent again, up to 15 times.
    config.default_retry = false;
    config.connect_timeout = Some((timeout / 2).min(CONNECT_LIMIT));
    config.write_timeout = Some(timeout);
    config.read_timeout = Some(SILENCE_LIMIT.max(timeout));
    // Else the idle time of a pooled connection counts against the next answer.
    config.reset_reader_on_write = true;
    config.headers.push((
        http::header::USER_AGENT,
        HeaderValue::from_static(concat!("quaymasterd/", env!("CARGO_PKG_VERSION"))),
    ));
}

fn is_loopback(url: &http::Uri) -> bool {
    let host = url.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

/// Says what is wrong with a kubeconfig; the YAML reader's own words may quote the file.
fn words(error: &KubeconfigError) -> String {
    if let KubeconfigError::Parse(_) = error {
        return "it is not a kubeconfig in YAML".to_owned();
    }
    error.to_string().chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> Config {
        Config::new(url.parse().expect("the test's URL is valid"))
    }

    #[test]
    fn roots_are_pinned_and_plain_http_is_for_loopback() {
        assert!(check(&config("http://127.0.0.1:8080"), false).is_ok());
        assert!(check(&config("http://10.0.0.1:8080"), false).is_err());
        assert!(check(&config("https://10.0.0.1"), false).is_err());
        let mut pinned = config("https://10.0.0.1");
        pinned.root_cert = Some(Vec::new());
        assert!(check(&pinned, false).is_ok());
        assert!(check(&pinned, true).is_err());
        pinned.accept_invalid_certs = true;
        assert!(check(&pinned, false).is_err());
    }

    #[test]
    fn a_kubeconfig_that_impersonates_is_refused() {
        let mut config = config("http://127.0.0.1:8080");
        config.auth_info.impersonate = Some("root".to_owned());
        assert!(check(&config, false).is_err());
    }

    #[tokio::test]
    async fn a_broken_kubeconfig_is_not_quoted() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("kubeconfig");
        std::fs::write(&path, "users: [{user: {token: hunter2}, {").expect("a file in it");
        let settings = ClusterSettings {
            name: "c".to_owned(),
            kubeconfig: path,
            context: None,
            timeout: Duration::from_secs(1),
            fingerprint_key: Arc::new(FingerprintKey::new([0; 32])),
        };
        let Err(error) = client(&settings).await else {
            panic!("the file is not YAML");
        };
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}
