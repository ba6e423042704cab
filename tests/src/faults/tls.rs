//! The TLS side of a proxy: connects to a kubeconfig's server with its user's certificate.
//!
//! Used by [`super::Faults::through_tls`] only. The server is verified by the kubeconfig's own roots.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject as _;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How to connect.
pub(super) struct Tls {
    connector: TlsConnector,
}

impl Tls {
    /// Reads a kubeconfig, which is JSON on the stand.
    pub(super) fn of(kubeconfig: &Path) -> Result<Self> {
        let all: Value = serde_json::from_slice(&fs::read(kubeconfig)?)?;
        let pem = |value: &Value| {
            let text = value.as_str().context("a field of the kubeconfig")?;
            Ok::<_, anyhow::Error>(STANDARD.decode(text)?)
        };
        let mut roots = RootCertStore::empty();
        let authority = pem(&all["clusters"][0]["cluster"]["certificate-authority-data"])?;
        roots.add(CertificateDer::from_pem_slice(&authority)?)?;
        let user = &all["users"][0]["user"];
        let certificate = CertificateDer::from_pem_slice(&pem(&user["client-certificate-data"])?)?;
        let key = PrivateKeyDer::from_pem_slice(&pem(&user["client-key-data"])?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate], key)?;
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
        })
    }

    /// Opens TLS on a connection to the server, which is on loopback.
    pub(super) async fn connect(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from("127.0.0.1")?;
        Ok(self.connector.connect(name, stream).await?)
    }
}
