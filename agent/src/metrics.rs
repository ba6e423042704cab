//! Counters of the agent, in the text format that Prometheus reads.
//!
//! Incremented by `http` and `runs`, shown by `/metrics` on the admin socket. Invariant: label sets
//! are closed (routes, statuses, codes), never ids, paths or names of callers; only [`managed`] names
//! what it tells of, as many as there are Secrets that are kept fresh.

mod managed;

use std::fmt;

use jiff::Timestamp;
use prometheus_client::encoding::text::encode_eof;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use proto::error::Code;
use proto::managed::ManagedList;
use proto::report::Status;

/// Upper bounds of run durations, in seconds: a no-op deploy to the default deadline and above.
const RUN_SECONDS: [f64; 10] = [0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 180.0, 600.0, 1800.0, 3600.0];

type RequestLabels = [(&'static str, String); 2];
type StatusLabel = [(&'static str, &'static str); 1];

/// All counters; one value a process, shared by reference.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    runs: Family<StatusLabel, Counter>,
    denials: Family<StatusLabel, Counter>,
    refused_connections: Counter,
    connections: Gauge,
    active_runs: Gauge,
    run_seconds: Histogram,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("quaymaster"),
            requests: Family::default(),
            runs: Family::default(),
            denials: Family::default(),
            refused_connections: Counter::default(),
            connections: Gauge::default(),
            active_runs: Gauge::default(),
            run_seconds: Histogram::new(RUN_SECONDS),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "http_requests",
            "Requests by route and HTTP status",
            self.requests.clone(),
        );
        registry.register("runs", "Ended runs by status", self.runs.clone());
        registry.register(
            "denials",
            "Refused requests by problem code",
            self.denials.clone(),
        );
        registry.register(
            "connections_refused",
            "Connections over the limits",
            self.refused_connections.clone(),
        );
        registry.register("connections", "Open connections", self.connections.clone());
        registry.register(
            "runs_active",
            "Runs that are on now",
            self.active_runs.clone(),
        );
        registry.register(
            "run_duration_seconds",
            "Time from acceptance to verdict",
            self.run_seconds.clone(),
        );
    }

    /// Counts an answered request.
    pub fn request(&self, route: &'static str, status: u16) {
        let labels = [("route", route.to_owned()), ("status", status.to_string())];
        self.requests.get_or_create(&labels).inc();
    }

    /// Counts a refused request.
    pub fn denial(&self, code: Code) {
        self.denials.get_or_create(&[("code", code.word())]).inc();
    }

    /// Counts a run that begins.
    pub fn run_started(&self) {
        self.active_runs.inc();
    }

    /// Counts a run that is over.
    pub fn run_ended(&self, status: Status, seconds: f64) {
        self.active_runs.dec();
        self.runs.get_or_create(&[("status", status.word())]).inc();
        self.run_seconds.observe(seconds);
    }

    /// Counts a connection that is opened.
    pub fn connection_opened(&self) {
        self.connections.inc();
    }

    /// Counts a connection that is closed.
    pub fn connection_closed(&self) {
        self.connections.dec();
    }

    /// Counts a connection over the limits.
    pub fn connection_refused(&self) {
        self.refused_connections.inc();
    }

    /// Returns everything as text, with what there is of Secrets that are kept fresh.
    ///
    /// # Errors
    /// Never with the counters of this file; the encoder's signature has one.
    pub fn text(&self, kept: Option<&ManagedList>, now: Timestamp) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode_registry(&mut text, &self.registry)?;
        if let Some(list) = kept {
            managed::encode(&mut text, list, now)?;
        }
        encode_eof(&mut text)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_show_in_the_text() {
        let metrics = Metrics::default();
        metrics.request("/ping", 200);
        metrics.denial(Code::Denied);
        metrics.run_started();
        metrics.run_ended(Status::Failed, 2.0);
        let text = metrics.text(None, Timestamp::UNIX_EPOCH);
        let text = text.expect("counters encode");
        assert!(text.ends_with("# EOF\n"), "{text}");
        for line in [
            "quaymaster_http_requests_total{route=\"/ping\",status=\"200\"} 1",
            "quaymaster_denials_total{code=\"denied\"} 1",
            "quaymaster_runs_total{status=\"failed\"} 1",
            "quaymaster_runs_active 0",
            "quaymaster_run_duration_seconds_count 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
