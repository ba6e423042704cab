//! What every HTTP client of the agent has in common.
//!
//! Used by [`crate::vault`], [`crate::registries`] and [`crate::auth`], which add their roots and limits.
//! Invariant: no proxy of the environment, no redirect that the caller did not decide on, no request that is
//! sent twice behind the caller's back.

use std::time::Duration;

use reqwest::Client;
use reqwest::ClientBuilder;

/// Begins a client that gives up connecting after `connecting`.
pub(crate) fn builder(connecting: Duration) -> ClientBuilder {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // An error means that another thread was faster, which is as good.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    }
    Client::builder()
        .tls_backend_rustls()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .retry(reqwest::retry::never())
        .user_agent(concat!("quaymasterd/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(connecting)
}
