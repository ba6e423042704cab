//! Images that cannot be had: missing, refused, wrongly named, or a registry that is away.
//!
//! Used by [`super::findings`]. The kubelet's words decide, so that a typo fails at once while a
//! registry that is restarting or throttling is waited for.

use serde_json::Value;

use super::AT_ONCE;
use super::Finding;
use super::LASTING;
use super::SECOND_LOOK;
use super::SETTLED;
use super::World;
use super::container::Container;
use super::world::event_count;
use super::world::event_line;
use crate::object::list;
use crate::object::text;

/// What the words of a failed pull mean.
enum Pull {
    Missing,
    Platform,
    Refused,
    Throttled,
    Unreachable,
    Unknown,
}

/// Says why a container's image cannot be had.
pub(super) fn problem(container: &Container<'_>, pod: &Value, world: &World) -> Option<Finding> {
    let image = image_of(container, pod);
    let title = container.title();
    let subject = container.subject();
    let words = container.waiting_message();
    match container.waiting() {
        "InvalidImageName" => Some(
            Finding::new(
                "image_name_invalid",
                &subject,
                format!("{title} has an image name that is not valid: {image}"),
            )
            .permanent(AT_ONCE)
            .seen(words)
            .hint("correct the image in the manifest or under images in quaymaster.yaml"),
        ),
        "ErrImageNeverPull" => Some(
            Finding::new(
                "image_never_pulled",
                &subject,
                format!("{title} may not pull {image}, and its node does not have it"),
            )
            .permanent(SETTLED)
            .seen(words)
            .hint("imagePullPolicy is Never: load the image onto the nodes or change the policy"),
        ),
        "ErrImagePull"
        | "ImagePullBackOff"
        | "RegistryUnavailable"
        | "SignatureValidationFailed"
        | "ImageInspectError" => Some(pull(container, pod, world, image)),
        _ => None,
    }
}

fn pull(container: &Container<'_>, pod: &Value, world: &World, image: &str) -> Finding {
    let title = container.title();
    let subject = container.subject();
    let events = pull_events(pod, image, world);
    let attempts = events
        .iter()
        .map(|event| event_count(event))
        .sum::<u64>()
        .max(1);
    let words = std::iter::once(container.waiting_message())
        .chain(events.iter().map(|event| text(event, &["message"])))
        .collect::<Vec<_>>()
        .join("\n");
    let (kind, sentence, hint) = match meaning(&words) {
        Pull::Missing => (
            "image_missing",
            format!("the image of {title} does not exist: {image}"),
            "check name, tag or digest, and whether the build has pushed it to this registry",
        ),
        Pull::Platform => (
            "image_platform",
            format!("{image} has no image for the platform of the node of {title}"),
            "build the image for the architecture of the nodes, or choose nodes by kubernetes.io/arch",
        ),
        Pull::Refused => (
            "image_auth",
            format!("the registry refuses {title} the image {image}"),
            "check that imagePullSecrets name a Secret with rights for this repository; registries also answer so when the image does not exist",
        ),
        Pull::Throttled => (
            "image_rate_limit",
            format!("the registry throttles pulls of {image} for {title}"),
            "wait, pull with an account, or use a mirror",
        ),
        Pull::Unreachable => (
            "registry_unreachable",
            format!("the registry of {image} cannot be reached for {title}"),
            "check the registry, its DNS name and certificate as the nodes see them",
        ),
        Pull::Unknown => (
            "image_pull",
            format!("the image of {title} cannot be pulled: {image}"),
            "read the kubelet's words above",
        ),
    };
    let finding = Finding::new(kind, &subject, sentence)
        .hint(hint)
        .counted(attempts)
        .seen(container.waiting_message().trim())
        .seen_all(events.iter().take(2).map(|event| event_line(event)));
    match kind {
        "image_missing" | "image_auth" | "image_platform" => finding.permanent(SECOND_LOOK),
        _ => finding.permanent(LASTING),
    }
}

fn pull_events<'a>(pod: &Value, image: &str, world: &'a World) -> Vec<&'a Value> {
    let mut events = world.events_of(pod, &["Failed", "FailedToRetrieveImagePullSecret"]);
    events.retain(|event| {
        let message = text(event, &["message"]);
        message.contains("image") && (message.contains(image) || message.contains("pull secret"))
    });
    events
}

/// Reads the words of container runtimes and registries. What may pass is looked for first: a
/// gateway that answers 503 often does so with a page that also says "not found".
fn meaning(words: &str) -> Pull {
    let words = words.to_ascii_lowercase();
    let any = |list: &[&str]| list.iter().any(|word| words.contains(word));
    if any(&["toomanyrequests", "too many requests", "rate limit", " 429"]) {
        return Pull::Throttled;
    }
    if any(&[
        "no such host",
        "connection refused",
        "connection reset",
        "i/o timeout",
        "timeout exceeded",
        "deadline exceeded",
        "tls handshake",
        "no route to host",
        "network is unreachable",
        "temporary failure",
        "x509",
        "certificate",
        "server misbehaving",
        "unexpected eof",
        "http response to https client",
        "500 internal",
        "502 bad",
        "503 service",
        "504 gateway",
    ]) {
        return Pull::Unreachable;
    }
    if any(&[
        "unauthorized",
        "authorization failed",
        "authentication required",
        "no basic auth",
        "access denied",
        "access to the resource is denied",
        "access forbidden",
        "insufficient_scope",
        "403 forbidden",
        "401 unauthorized",
        "code = permissiondenied",
        "code = unauthenticated",
    ]) {
        return Pull::Refused;
    }
    if any(&["no match for platform", "no matching manifest"]) {
        return Pull::Platform;
    }
    if any(&[
        "not found",
        "manifest unknown",
        "manifest_unknown",
        "name unknown",
        "name_unknown",
        "repository does not exist",
        "no such image",
    ]) {
        return Pull::Missing;
    }
    Pull::Unknown
}

fn image_of<'a>(container: &Container<'_>, pod: &'a Value) -> &'a str {
    ["initContainers", "containers"]
        .into_iter()
        .flat_map(|field| list(pod, &["spec", field]))
        .find(|spec| text(spec, &["name"]) == container.name)
        .map_or("", |spec| text(spec, &["image"]))
}
