//! Rollouts that do not become ready, each with the cause that has to be named.
//!
//! Used by [`crate::rollouts`].

use super::SLEEPS;
use super::Workload;
use crate::rollouts::Case;
use crate::rollouts::Want;
use crate::rollouts::Want::Failed;
use crate::rollouts::Want::Late;

/// A registry that has no time for anybody.
pub(in crate::rollouts) const BUSY_REGISTRY: &str = "
from http.server import BaseHTTPRequestHandler, HTTPServer
class Busy(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(429)
        self.send_header('Content-Length', '0')
        self.end_headers()
    do_HEAD = do_GET
    def log_message(self, *words):
        pass
server = HTTPServer(('127.0.0.1', 5057), Busy)
print('up', flush=True)
server.serve_forever()
";

/// A pod without a readiness probe counts as available as soon as it runs. On a busy machine the kubelet
/// reports its end seconds later, so these Deployments say how long a pod has to stay.
const STAYS: &str = "minReadySeconds: 15";

/// A Deployment whose readiness probe always fails.
pub(in crate::rollouts) fn never_ready(name: &str, image: &str) -> String {
    let workload = Workload {
        container: "readinessProbe: { exec: { command: [\"false\"] }, periodSeconds: 1 }",
        ..SLEEPS
    };
    workload.yaml(name, image)
}

pub(in crate::rollouts) fn cases(image: &str, registry: &str) -> Vec<Case> {
    let mut cases = crashes(image);
    cases.extend(ends(image));
    cases.extend(images(image, registry));
    cases.extend(configuration(image));
    cases.extend(places(image));
    cases.extend(deadlines(image));
    cases
}

fn case(name: &'static str, timeout: &'static str, manifest: String, want: Want) -> Case {
    Case {
        name,
        timeout,
        manifest,
        want,
    }
}

fn crashes(image: &str) -> Vec<Case> {
    let plain =
        |name, workload: Workload<'_>, want| case(name, "150s", workload.yaml(name, image), want);
    let init = format!(
        "initContainers: [{{ name: prepare, image: {image:?}, command: [sh, -c, \"echo no schema; exit 5\"] }}]"
    );
    let failing = |kind: &str| {
        format!(
            "{kind}: {{ exec: {{ command: [\"false\"] }}, periodSeconds: 1, failureThreshold: 1 }}"
        )
    };
    let shell = |shell| Workload { shell, ..SLEEPS };
    let with = |container| Workload {
        container,
        ..SLEEPS
    };
    vec![
        plain(
            "init-container-fails",
            Workload {
                pod: &init,
                ..SLEEPS
            },
            Failed("init_failed", "no schema"),
        ),
        plain(
            "program-ends",
            Workload {
                spec: STAYS,
                ..shell("echo done already")
            },
            Failed("crash", "code 0"),
        ),
        plain(
            "killed-by-a-signal",
            Workload {
                spec: STAYS,
                ..shell("echo ouch; kill -SEGV $$; exit 139")
            },
            Failed("crash", "ouch"),
        ),
        plain(
            "liveness-probe-kills",
            Workload {
                spec: STAYS,
                // The kubelet connects by itself, which a busy node does not delay as it does a program.
                ..with(
                    "livenessProbe: { tcpSocket: { port: 1 }, periodSeconds: 1, failureThreshold: 1 }",
                )
            },
            Failed("probe_failing", "liveness"),
        ),
        plain(
            "startup-probe-kills",
            with(&failing("startupProbe")),
            Failed("probe_failing", "startup"),
        ),
        plain(
            "post-start-hook-fails",
            with("lifecycle: { postStart: { exec: { command: [\"false\"] } } }"),
            Failed("hook_failed", "postStart"),
        ),
    ]
}

fn ends(image: &str) -> Vec<Case> {
    let job = |name, spec, shell, want| {
        let workload = Workload {
            kind: "Job",
            spec,
            pod: "restartPolicy: Never",
            shell,
            ..SLEEPS
        };
        case(name, "60s", workload.yaml(name, image), want)
    };
    vec![
        job(
            "job-fails",
            "backoffLimit: 0",
            "echo no table; exit 9",
            Failed("job_failed", "no table"),
        ),
        job(
            "job-runs-too-long",
            "activeDeadlineSeconds: 3",
            "exec sleep 600",
            Failed("job_failed", "activeDeadlineSeconds"),
        ),
        case(
            "pod-fails",
            "60s",
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{ name: pod-fails }}\nspec: {{ restartPolicy: Never, containers: [{{ name: main, image: {image:?}, command: [sh, -c, \"echo no luck; exit 4\"] }}] }}\n"
            ),
            Failed("crash", "no luck"),
        ),
        case(
            "pod-runs-too-long",
            "60s",
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{ name: pod-long }}\nspec: {{ terminationGracePeriodSeconds: 0, restartPolicy: Never, activeDeadlineSeconds: 3, containers: [{{ name: main, image: {image:?}, command: [sleep, \"600\"], readinessProbe: {{ exec: {{ command: [\"false\"] }} }} }}] }}\n"
            ),
            Failed("pod_deadline", "activeDeadlineSeconds"),
        ),
    ]
}

fn images(image: &str, registry: &str) -> Vec<Case> {
    let of = |name, image: &str, container, want| {
        let workload = Workload {
            container,
            ..SLEEPS
        };
        case(name, "25s", workload.yaml(name, image), want)
    };
    let absent = format!("{registry}/absent:1");
    let typo = image.replace("busybox", "busybocks");
    vec![
        of(
            "image-name-typo",
            &typo,
            "",
            Failed("image_missing", "busybocks"),
        ),
        of(
            "image-never-pulled",
            &absent,
            "imagePullPolicy: Never",
            Failed("image_never_pulled", "absent:1"),
        ),
        of(
            "registry-away",
            "localhost:5999/app:1",
            "",
            Late("registry_unreachable", "localhost:5999/app:1"),
        ),
        of(
            "registry-busy",
            "localhost:5057/app:1",
            "",
            Late("image_rate_limit", "localhost:5057/app:1"),
        ),
    ]
}

fn configuration(image: &str) -> Vec<Case> {
    let plain =
        |name, workload: Workload<'_>, want| case(name, "60s", workload.yaml(name, image), want);
    let with = |container| Workload {
        container,
        ..SLEEPS
    };
    let volume = |pod| Workload {
        pod,
        container: "volumeMounts: [{ name: v, mountPath: /v }]",
        ..SLEEPS
    };
    let no_shell = SLEEPS.yaml("command-not-found", image);
    vec![
        plain(
            "config-map-missing",
            with("envFrom: [{ configMapRef: { name: absent-map } }]"),
            Failed("config_map_missing", "absent-map"),
        ),
        plain(
            "config-map-volume-missing",
            volume("volumes: [{ name: v, configMap: { name: absent-volume } }]"),
            Failed("config_map_missing", "absent-volume"),
        ),
        plain(
            "secret-volume-missing",
            volume("volumes: [{ name: v, secret: { secretName: absent-secret } }]"),
            Failed("secret_missing", "absent-secret"),
        ),
        plain(
            "root-forbidden",
            with("securityContext: { runAsNonRoot: true }"),
            Failed("config_invalid", "runAsNonRoot"),
        ),
        case(
            "command-not-found",
            "60s",
            no_shell.replace("/bin/sh", "/bin/no-such-shell"),
            Failed("cannot_run", "no-such-shell"),
        ),
        plain(
            "working-folder-is-a-file",
            with("workingDir: /bin/sh"),
            Failed("cannot_run", "not a directory"),
        ),
        plain(
            "service-account-missing",
            Workload {
                pod: "serviceAccountName: absent-account",
                ..SLEEPS
            },
            Failed("service_account_missing", "absent-account"),
        ),
    ]
}

fn places(image: &str) -> Vec<Case> {
    let pod = |name, pod, want| {
        let workload = Workload { pod, ..SLEEPS };
        case(name, "10s", workload.yaml(name, image), want)
    };
    let huge = Workload {
        container: "resources: { requests: { memory: 900Ti } }",
        ..SLEEPS
    };
    vec![
        pod(
            "claim-missing",
            "volumes: [{ name: v, persistentVolumeClaim: { claimName: absent-claim } }]",
            Failed("claim_missing", "absent-claim"),
        ),
        pod(
            "scheduling-gate",
            "schedulingGates: [{ name: example.com/wait }]",
            Late("scheduling_gated", "scheduling gates"),
        ),
        case(
            "too-much-memory-asked",
            "10s",
            huge.yaml("too-much-memory-asked", image),
            Late("unschedulable", "Insufficient memory"),
        ),
        case(
            "claim-of-unknown-class",
            "60s",
            "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: { name: nowhere }\nspec: { storageClassName: no-such-class, accessModes: [ReadWriteOnce], resources: { requests: { storage: 1Mi } } }\n".to_owned(),
            Failed("volume_not_bound", "no-such-class"),
        ),
        case(
            "load-balancer-without-provider",
            "8s",
            "apiVersion: v1\nkind: Service\nmetadata: { name: lb }\nspec: { type: LoadBalancer, ports: [{ port: 80 }] }\n".to_owned(),
            Late("not_ready", "load balancer address"),
        ),
    ]
}

fn deadlines(image: &str) -> Vec<Case> {
    let never = |name| never_ready(name, image);
    vec![
        case(
            "readiness-probe-fails",
            "25s",
            never("readiness-probe-fails"),
            Late("probe_failing", "readiness"),
        ),
        case(
            "progress-deadline",
            "90s",
            never("progress-deadline").replacen("spec:", "spec:\n  progressDeadlineSeconds: 15", 1),
            Failed("probe_failing", "ProgressDeadlineExceeded"),
        ),
        case(
            "own-deadline",
            "90s",
            never("own-deadline").replacen(
                "  name: own-deadline\n",
                "  name: own-deadline\n  annotations: { quaymaster.dev/timeout: 15s }\n",
                1,
            ),
            Failed("probe_failing", "own deadline"),
        ),
    ]
}
