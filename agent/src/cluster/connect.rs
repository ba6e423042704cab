//! From kube's configuration to clients: one for calls, one for watches.
//!
//! Called by [`super::setup`] only. Calls are many and short and share one HTTP/2 connection, so that a
//! server far away is not asked for a connection by each of them; a server that does not offer HTTP/2 gets
//! HTTP/1.1. Watches are few and long, each on an HTTP/1.1 connection of its own: an API server allows 100
//! requests at a time on one connection (`http2-max-streams-per-connection`), which long ones would take
//! from the others.

use std::time::Duration;

use hyper_rustls::FixedServerNameResolver;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::Builder;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioTimer;
use kube::Client;
use kube::Config;
use kube::client::Body;
use kube::client::ConfigExt as _;
use kube::client::RustlsTlsError;
use tower::BoxError;
use tower::ServiceBuilder;
use tower_http::decompression::DecompressionLayer;

/// How often a connection with open calls is asked whether the server is still there.
const PING_EVERY: Duration = Duration::from_secs(10);

/// The two ways to one API server.
#[derive(Clone)]
pub(super) struct Lines {
    /// For calls that are answered at once.
    pub(super) calls: Client,
    /// For watches.
    pub(super) watches: Client,
}

impl Lines {
    /// Makes both; sends nothing.
    pub(super) fn new(config: Config) -> Result<Self, kube::Error> {
        Ok(Self {
            calls: if std::env::var_os("QM_H1").is_some() { Client::try_from(config.clone())? } else { shared(&config)? },
            watches: Client::try_from(config)?,
        })
    }
}

/// A client whose calls share one connection, with everything else as kube's own client has it.
fn shared(config: &Config) -> Result<Client, kube::Error> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    let mut https = HttpsConnectorBuilder::new()
        .with_tls_config(config.rustls_client_config()?)
        .https_or_http();
    if let Some(name) = &config.tls_server_name {
        let name = name.clone().try_into();
        let name = name.map_err(|e| kube::Error::RustlsTls(RustlsTlsError::InvalidServerName(e)))?;
        https = https.with_server_name_resolver(FixedServerNameResolver::new(name));
    }
    let mut connector = TimeoutConnector::new(https.enable_all_versions().wrap_connector(http));
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    connector.set_reset_reader_on_write(config.reset_reader_on_write);
    let client = Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .http2_keep_alive_interval(PING_EVERY)
        .http2_keep_alive_timeout(PING_EVERY)
        .build::<_, Body>(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .layer(DecompressionLayer::new())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(client);
    Ok(Client::new(service, config.default_namespace.clone()))
}
