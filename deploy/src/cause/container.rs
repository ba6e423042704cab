//! Containers of a pod, and why one stopped: crash, out of memory, cannot be started.
//!
//! Used by [`super::findings`]. Counts failed starts of one container of one pod, so that replicas
//! do not add up.

use serde_json::Value;

use super::AT_ONCE;
use super::Bound;
use super::CRASHES;
use super::Finding;
use super::OUT_OF_MEMORY;
use super::SETTLED;
use super::World;
use super::probe;
use crate::object::at;
use crate::object::list;
use crate::object::number;
use crate::object::text;
use crate::ports::LogRequest;

/// How many lines of the last container's log become evidence.
const LOG_LINES: u32 = 15;

/// One container of a pod with its status.
pub(super) struct Container<'a> {
    pub(super) name: &'a str,
    pub(super) status: &'a Value,
    pub(super) is_init: bool,
    pod: &'a str,
}

impl Container<'_> {
    /// Such as `container app of pod web-1`.
    pub(super) fn title(&self) -> String {
        let kind = if self.is_init {
            "init container"
        } else {
            "container"
        };
        format!("{kind} {} of pod {}", self.name, self.pod)
    }

    pub(super) fn subject(&self) -> String {
        format!("{}/{}", self.pod, self.name)
    }

    pub(super) fn waiting(&self) -> &str {
        text(self.status, &["state", "waiting", "reason"])
    }

    pub(super) fn waiting_message(&self) -> &str {
        text(self.status, &["state", "waiting", "message"])
    }

    pub(super) fn is_ready(&self) -> bool {
        at(self.status, &["ready"]).and_then(Value::as_bool) == Some(true)
    }

    pub(super) fn restarts(&self) -> u64 {
        number(self.status, &["restartCount"])
            .and_then(|count| u64::try_from(count).ok())
            .unwrap_or(0)
    }

    fn is_down(&self) -> bool {
        at(self.status, &["state", "terminated"]).is_some() || self.waiting() == "CrashLoopBackOff"
    }

    /// How often it was started and ended again. A container that runs now may still get there.
    pub(super) fn failed_starts(&self) -> u64 {
        self.restarts() + u64::from(self.is_down())
    }

    /// Its last end.
    pub(super) fn ended(&self) -> Option<&Value> {
        ["state", "lastState"]
            .into_iter()
            .find_map(|field| at(self.status, &[field, "terminated"]))
    }
}

/// Returns all containers of a pod that have a status, init containers first.
pub(super) fn all(pod: &Value) -> Vec<Container<'_>> {
    let name = text(pod, &["metadata", "name"]);
    let of = |field: &'static str, is_init: bool| {
        list(pod, &["status", field])
            .iter()
            .map(move |status| Container {
                name: text(status, &["name"]),
                status,
                is_init,
                pod: name,
            })
    };
    of("initContainerStatuses", true)
        .chain(of("containerStatuses", false))
        .collect()
}

/// Says why a container stopped.
pub(super) fn failure(container: &Container<'_>, pod: &Value, world: &World) -> Option<Finding> {
    if matches!(
        container.waiting(),
        "RunContainerError" | "CreateContainerError"
    ) {
        return Some(cannot_start(container, container.waiting_message(), pod));
    }
    let nothing = Value::Null;
    let ended = match container.ended() {
        Some(ended) => ended,
        None if container.is_down() => &nothing,
        None => return None,
    };
    let exit = number(ended, &["exitCode"]).unwrap_or(1);
    let stays_down = container.is_init || !restarts_always(pod);
    if exit == 0 && stays_down {
        return None;
    }
    if !container.is_down() && container.restarts() == 0 {
        return None;
    }
    let running = at(container.status, &["state", "running"]).is_some();
    if running && container.is_ready() {
        return None;
    }
    let finding = stopped(container, ended, exit, pod, world);
    Some(if running {
        // It may get there this time.
        finding.transient()
    } else {
        finding
    })
}

fn stopped(
    container: &Container<'_>,
    ended: &Value,
    exit: i64,
    pod: &Value,
    world: &World,
) -> Finding {
    let reason = text(ended, &["reason"]);
    let message = text(ended, &["message"]);
    if matches!(reason, "ContainerCannotRun" | "StartError") {
        return cannot_start(container, message, pod);
    }
    if reason == "OOMKilled" {
        return out_of_memory(container, pod);
    }
    probe::hook(container, pod, world)
        .or_else(|| probe::killed(container, pod, world))
        .unwrap_or_else(|| crash(container, ended, exit, pod))
}

fn restarts_always(pod: &Value) -> bool {
    matches!(text(pod, &["spec", "restartPolicy"]), "" | "Always")
}

/// Pods that are not started again have their first failure as their last.
pub(super) fn crash_bound(pod: &Value, needed: u64) -> Bound {
    let needed = if text(pod, &["spec", "restartPolicy"]) == "Never" {
        1
    } else {
        needed
    };
    Bound { needed, ..AT_ONCE }
}

fn crash(container: &Container<'_>, ended: &Value, exit: i64, pod: &Value) -> Finding {
    let kind = if container.is_init {
        "init_failed"
    } else {
        "crash"
    };
    let message = format!(
        "{} exits with {}{} ({})",
        container.title(),
        exit_words(exit, ended),
        right_after_start(ended),
        times(container.restarts())
    );
    let finding = Finding::new(kind, &container.subject(), message)
        .permanent(crash_bound(pod, CRASHES))
        .counted(container.failed_starts())
        .seen(text(ended, &["message"]).trim())
        .hint(crash_hint(exit));
    with_log(finding, container, pod)
}

const fn crash_hint(exit: i64) -> &'static str {
    match exit {
        0 => {
            "the program ends instead of going on; a Deployment needs one that stays in the foreground"
        }
        126 => "the command cannot be executed: check its permissions in the image",
        127 => "the command was not found: check command and args against the image",
        137 => "it was killed from outside: look at memory limits and liveness probes",
        139 => "it crashed with a memory fault: look at the program and its native libraries",
        _ => "read the last lines above; run the image with the same configuration to see it fail",
    }
}

fn exit_words(exit: i64, ended: &Value) -> String {
    if ended.is_null() {
        return "an unknown code".to_owned();
    }
    let signal = number(ended, &["signal"])
        .filter(|signal| *signal > 0)
        .or_else(|| (129..=192).contains(&exit).then_some(exit - 128));
    match signal {
        Some(signal) => format!("code {exit} (signal {signal})"),
        None => format!("code {exit}"),
    }
}

/// Says "right after start" for programs that ran at most 3 seconds.
fn right_after_start(ended: &Value) -> &'static str {
    let time = |field| -> Option<jiff::Timestamp> { text(ended, &[field]).parse().ok() };
    match (time("startedAt"), time("finishedAt")) {
        (Some(start), Some(end)) if end.as_second() - start.as_second() <= 3 => {
            " right after start"
        }
        _ => "",
    }
}

fn times(restarts: u64) -> String {
    match restarts {
        1 => "1 restart".to_owned(),
        count => format!("{count} restarts"),
    }
}

fn out_of_memory(container: &Container<'_>, pod: &Value) -> Finding {
    let limit = memory_limit(container, pod);
    let limit = limit.map_or_else(String::new, |limit| format!(" of {limit}"));
    let message = format!(
        "{} was killed because it used more memory than its limit{limit} ({})",
        container.title(),
        times(container.restarts())
    );
    let finding = Finding::new("oom_killed", &container.subject(), message)
        .permanent(crash_bound(pod, OUT_OF_MEMORY))
        .counted(container.failed_starts())
        .hint("raise resources.limits.memory or make the program use less");
    with_log(finding, container, pod)
}

fn memory_limit<'a>(container: &Container<'_>, pod: &'a Value) -> Option<&'a str> {
    let field = if container.is_init {
        "initContainers"
    } else {
        "containers"
    };
    list(pod, &["spec", field])
        .iter()
        .find(|spec| text(spec, &["name"]) == container.name)
        .map(|spec| text(spec, &["resources", "limits", "memory"]))
        .filter(|limit| !limit.is_empty())
}

fn cannot_start(container: &Container<'_>, message: &str, pod: &Value) -> Finding {
    let sentence = format!("{} cannot be started", container.title());
    let lower = message.to_ascii_lowercase();
    let kind = if lower.contains("exec format error") {
        "image_platform"
    } else {
        "cannot_run"
    };
    let finding = Finding::new(kind, &container.subject(), sentence).seen(message.trim());
    let certain = [
        "executable file not found",
        "no such file or directory",
        "permission denied",
        "exec format error",
        "not a directory",
        "is a directory",
        "no command specified",
    ]
    .iter()
    .any(|words| lower.contains(words));
    let finding = if certain {
        finding.permanent(SETTLED)
    } else {
        finding
            .permanent(crash_bound(pod, CRASHES))
            .counted(container.failed_starts())
    };
    finding.hint(start_hint(&lower))
}

fn start_hint(message: &str) -> &'static str {
    if message.contains("exec format error") {
        "the image is for another processor architecture than the node"
    } else if message.contains("permission denied") {
        "the command is not executable for the user of the container"
    } else {
        "check command, args and workingDir against what is in the image"
    }
}

fn with_log(mut finding: Finding, container: &Container<'_>, pod: &Value) -> Finding {
    finding.log = Some(LogRequest {
        namespace: text(pod, &["metadata", "namespace"]).to_owned(),
        pod: text(pod, &["metadata", "name"]).to_owned(),
        container: container.name.to_owned(),
        previous: at(container.status, &["state", "terminated"]).is_none(),
        lines: LOG_LINES,
    });
    finding
}
