//! What operators alert on about the Secrets that are kept fresh, made anew for each scrape.
//!
//! Called by [`super::Metrics::text`] with what the desk tells. Nothing is held between scrapes: a
//! Secret that is forgotten is in no later answer.

use std::fmt;
use std::sync::atomic::AtomicU64;

use jiff::Timestamp;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use proto::managed::Freshness;
use proto::managed::ManagedList;
use proto::managed::ManagedSecret;

type StateLabel = [(&'static str, &'static str); 1];
type SecretLabels = [(&'static str, String); 3];
type Seconds = Gauge<f64, AtomicU64>;

/// The gauges of one scrape.
#[derive(Default)]
struct Scrape {
    states: Family<StateLabel, Gauge>,
    expiry: Family<SecretLabels, Gauge>,
    age: Family<SecretLabels, Gauge>,
    contact: Family<SecretLabels, Seconds>,
    stale: Family<SecretLabels, Seconds>,
    restarts: Family<SecretLabels, Counter>,
}

/// Appends the lines about a list.
pub(super) fn encode(text: &mut String, list: &ManagedList, now: Timestamp) -> fmt::Result {
    let scrape = Scrape::default();
    for word in Freshness::ALL {
        scrape
            .states
            .get_or_create(&[("state", word.word())])
            .set(0);
    }
    for secret in &list.secrets {
        scrape.add(secret, now);
    }
    let mut registry = Registry::with_prefix("quaymaster");
    scrape.register(&mut registry);
    encode_registry(text, &registry)
}

impl Scrape {
    fn add(&self, secret: &ManagedSecret, now: Timestamp) {
        let state = [("state", secret.freshness.word())];
        self.states.get_or_create(&state).inc();
        let labels = [
            ("cluster", secret.cluster.to_string()),
            ("namespace", secret.namespace.to_string()),
            ("name", secret.name.clone()),
        ];
        let whole = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
        if let Some(left) = secret.expires_in_seconds {
            self.expiry.get_or_create(&labels).set(whole(left));
        }
        if !secret.written.is_empty() {
            let age = whole(secret.age_seconds);
            self.age.get_or_create(&labels).set(age);
        }
        let stale = secret.stale.as_ref();
        let stale = stale.and_then(|stale| stale.since.parse::<Timestamp>().ok());
        let stale = stale.map_or(0.0, |since| {
            now.duration_since(since).as_secs_f64().max(0.0)
        });
        self.stale.get_or_create(&labels).set(stale);
        let contact = secret.last_contact.as_ref();
        if let Some(contact) = contact.and_then(|text| text.parse::<Timestamp>().ok()) {
            let since = now.duration_since(contact).as_secs_f64().max(0.0);
            self.contact.get_or_create(&labels).set(since);
        }
        self.restarts.get_or_create(&labels).inc_by(secret.restarts);
    }

    fn register(self, registry: &mut Registry) {
        let Self {
            states,
            expiry,
            age,
            contact,
            stale,
            restarts,
        } = self;
        registry.register(
            "managed_secrets",
            "Secrets that are kept fresh by how they stand",
            states,
        );
        registry.register(
            "managed_secret_expiry_seconds",
            "Time until the first credential of a Secret ends unless it is extended",
            expiry,
        );
        registry.register(
            "managed_secret_age_seconds",
            "Time since the values of a Secret were written",
            age,
        );
        registry.register(
            "managed_secret_contact_seconds",
            "Time since Vault last answered about a Secret",
            contact,
        );
        registry.register(
            "managed_secret_stale_seconds",
            "Time since which a Secret may not be what Vault has; 0 while it is",
            stale,
        );
        registry.register(
            "managed_secret_restarts",
            "Restarts of workloads that a Secret has caused",
            restarts,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_tells_states_times_and_restarts() {
        let golden = include_str!("../../../proto/golden/managed_list.json");
        let list: ManagedList = serde_json::from_str(golden).expect("the recorded body");
        let now = "2026-11-24T09:30:00Z".parse().expect("a timestamp");
        let mut text = String::new();
        encode(&mut text, &list, now).expect("gauges encode");
        let labels = "{cluster=\"prod\",namespace=\"shop\",name=\"shop-db\"}";
        for line in [
            "quaymaster_managed_secrets{state=\"kept\"} 1\n".to_owned(),
            "quaymaster_managed_secrets{state=\"unknown\"} 1\n".to_owned(),
            "quaymaster_managed_secrets{state=\"failing\"} 0\n".to_owned(),
            format!("quaymaster_managed_secret_expiry_seconds{labels} 3000\n"),
            format!("quaymaster_managed_secret_age_seconds{labels} 5400\n"),
            format!("quaymaster_managed_secret_contact_seconds{labels} 0.5\n"),
            format!("quaymaster_managed_secret_stale_seconds{labels} 1800.0\n"),
            format!("quaymaster_managed_secret_restarts_total{labels} 2\n"),
        ] {
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
        let unknown =
            "managed_secret_age_seconds{cluster=\"prod\",namespace=\"shop\",name=\"shop-tls\"}";
        assert!(!text.contains(unknown), "{text}");
    }
}
