//! Probes that fail, readiness, liveness and startup; and the hook after the start.
//!
//! Used by [`super::findings`]. A failing readiness probe is only reported at the deadline: programs
//! may need long to start. A liveness or startup probe that makes the kubelet kill the container
//! again and again counts like a crash.

use serde_json::Value;

use super::CRASHES;
use super::Finding;
use super::World;
use super::container::Container;
use super::container::crash_bound;
use super::world::event_count;
use super::world::event_line;
use crate::object::at;
use crate::object::text;
use crate::ports::LogRequest;

/// How many lines of the log of a container that does not become ready are evidence.
const LOG_LINES: u32 = 15;

/// Says that a running container is not ready because of a probe.
pub(super) fn failing(container: &Container<'_>, pod: &Value, world: &World) -> Option<Finding> {
    let runs = at(container.status, &["state", "running"]).is_some();
    if !runs || container.is_ready() || container.is_init {
        return None;
    }
    let events = unhealthy(container, pod, world);
    let title = container.title();
    let subject = container.subject();
    let Some(event) = events.first() else {
        return (container.restarts() == 0).then(|| {
            let message = format!("{title} runs but is not ready");
            with_log(Finding::new("waiting", &subject, message), container, pod)
        });
    };
    let count: u64 = events.iter().map(|event| event_count(event)).sum();
    let probe = probe_name(event);
    let message = format!(
        "the {probe} probe of {title} fails ({count} {})",
        if count == 1 { "time" } else { "times" }
    );
    let finding = Finding::new("probe_failing", &subject, message)
        .seen_all(events.iter().take(2).map(|event| event_line(event)))
        .hint("check path, port and timing of the probe against what the program does");
    Some(with_log(finding, container, pod))
}

/// Says that a container was killed because of a probe, if it was.
pub(super) fn killed(container: &Container<'_>, pod: &Value, world: &World) -> Option<Finding> {
    let kills = world.events_of(pod, &["Killing"]);
    let kill = kills.iter().find(|event| {
        let message = text(event, &["message"]);
        belongs(event, container)
            && (message.contains("failed liveness probe")
                || message.contains("failed startup probe"))
    })?;
    let probe = if text(kill, &["message"]).contains("startup") {
        "startup"
    } else {
        "liveness"
    };
    let message = format!(
        "{} is killed again and again because its {probe} probe fails ({} restarts)",
        container.title(),
        container.restarts()
    );
    let finding = Finding::new("probe_failing", &container.subject(), message)
        .permanent(crash_bound(pod, CRASHES))
        .counted(container.failed_starts())
        .seen_all(
            unhealthy(container, pod, world)
                .iter()
                .take(2)
                .map(|event| event_line(event)),
        )
        .seen(event_line(kill))
        .hint("check path, port and timing of the probe against what the program does");
    Some(with_log(finding, container, pod))
}

/// Says that a container was killed because its hook after the start failed.
pub(super) fn hook(container: &Container<'_>, pod: &Value, world: &World) -> Option<Finding> {
    let events = world.events_of(pod, &["FailedPostStartHook"]);
    let event = events.iter().find(|event| belongs(event, container))?;
    let message = format!(
        "{} is killed because its postStart hook fails ({} restarts)",
        container.title(),
        container.restarts()
    );
    let finding = Finding::new("hook_failed", &container.subject(), message)
        .permanent(crash_bound(pod, CRASHES))
        .counted(container.failed_starts())
        .seen(event_line(event))
        .hint("run the hook's command in the container by hand; it runs beside the program, maybe before it is up");
    Some(with_log(finding, container, pod))
}

fn unhealthy<'a>(container: &Container<'_>, pod: &Value, world: &'a World) -> Vec<&'a Value> {
    let mut events = world.events_of(pod, &["Unhealthy", "ProbeWarning"]);
    events.retain(|event| belongs(event, container));
    events
}

/// The field path of an event about a container is `spec.containers{name}`.
fn belongs(event: &Value, container: &Container<'_>) -> bool {
    let path = text(event, &["involvedObject", "fieldPath"]);
    path.is_empty() || path.ends_with(&format!("{{{}}}", container.name))
}

fn probe_name(event: &Value) -> &'static str {
    let message = text(event, &["message"]);
    if message.starts_with("Liveness") {
        "liveness"
    } else if message.starts_with("Startup") {
        "startup"
    } else {
        "readiness"
    }
}

fn with_log(mut finding: Finding, container: &Container<'_>, pod: &Value) -> Finding {
    finding.log = Some(LogRequest {
        namespace: text(pod, &["metadata", "namespace"]).to_owned(),
        pod: text(pod, &["metadata", "name"]).to_owned(),
        container: container.name.to_owned(),
        previous: false,
        lines: LOG_LINES,
    });
    finding
}
