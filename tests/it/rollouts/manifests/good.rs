//! Rollouts that become ready: slow, stumbling, or with nothing to wait for.
//!
//! Used by [`crate::rollouts`].

use serde_json::Value;
use serde_json::json;

use super::SLEEPS;
use super::Workload;
use crate::rollouts::Case;
use crate::rollouts::Want;

/// The class of claims that are bound when a pod uses them. The same for every process on a stand.
const CLASS: &str = "rollouts-late";

/// A registry that is not there for two requests of the manifest (two pulls), and then the stand's own.
pub(in crate::rollouts) const STUMBLING_REGISTRY: &str = "
import urllib.request, urllib.error
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
seen = [0]
class Registry(BaseHTTPRequestHandler):
    def do_GET(self):
        if '/manifests/' in self.path:
            seen[0] += 1
            if seen[0] <= 2:
                self.send_response(503)
                self.send_header('Content-Length', '0')
                self.end_headers()
                return
        headers = {k: v for k, v in self.headers.items() if k.lower() == 'accept'}
        request = urllib.request.Request('http://127.0.0.1:5000' + self.path, headers=headers, method=self.command)
        try:
            answer = urllib.request.urlopen(request)
        except urllib.error.HTTPError as error:
            answer = error
        body = answer.read()
        self.send_response(answer.status)
        for name in ('Content-Type', 'Docker-Content-Digest', 'Docker-Distribution-Api-Version', 'Content-Length'):
            if answer.headers.get(name):
                self.send_header(name, answer.headers[name])
        self.end_headers()
        if self.command == 'GET':
            self.wfile.write(body)
    do_HEAD = do_GET
    def log_message(self, *words):
        pass
ThreadingHTTPServer(('127.0.0.1', 5056), Registry).serve_forever()
";

/// Fails three times, then stays.
const HEALS: &str = "n=$(cat /state/n 2>/dev/null || echo 0); echo $((n+1)) > /state/n; [ $n -ge 3 ] && exec sleep 3600; echo not yet; exit 1";
const STATE: &str = "volumes: [{ name: state, emptyDir: {} }]";
const MOUNT: &str = "volumeMounts: [{ name: state, mountPath: /state }]";

/// A class whose claims wait for their first pod.
pub(in crate::rollouts) fn late_binding_class() -> Value {
    json!({ "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": { "name": CLASS },
        "provisioner": "example.com/nobody", "volumeBindingMode": "WaitForFirstConsumer" })
}

/// A pod that needs twelve seconds to end.
pub(in crate::rollouts) fn stubborn(image: &str, version: &str) -> String {
    let shell =
        format!("trap 'sleep 12; exit 0' TERM; echo {version}; while true; do sleep 1; done");
    let workload = Workload {
        shell: &shell,
        ..SLEEPS
    };
    workload.yaml("term", image).replace(
        "terminationGracePeriodSeconds: 0",
        "terminationGracePeriodSeconds: 20",
    )
}

fn ready(name: &'static str, timeout: &'static str, manifest: String) -> Case {
    Case {
        name,
        timeout,
        manifest,
        want: Want::Ready,
    }
}

pub(in crate::rollouts) fn cases(image: &str) -> Vec<Case> {
    let mut cases = slow(image);
    cases.extend(probed(image));
    cases.extend(still(image));
    cases.extend(to_an_end(image));
    cases
}

/// What takes its time or stumbles.
fn slow(image: &str) -> Vec<Case> {
    let plain =
        |name, timeout, workload: Workload<'_>| ready(name, timeout, workload.yaml(name, image));
    let init = format!(
        "initContainers: [{{ name: prepare, image: {image:?}, command: [sh, -c, sleep 6] }}]"
    );
    let sidecar = format!(
        "initContainers: [{{ name: proxy, image: {image:?}, restartPolicy: Always, command: [sleep, \"3600\"] }}]"
    );
    let heals = Workload {
        shell: HEALS,
        pod: STATE,
        container: MOUNT,
        ..SLEEPS
    };
    let stumbling = Workload {
        container: "imagePullPolicy: Always",
        ..SLEEPS
    };
    let later = Workload {
        container: "envFrom: [{ configMapRef: { name: later } }]",
        ..SLEEPS
    };
    vec![
        plain("heals-after-three-restarts", "150s", heals),
        ready(
            "registry-stumbles-twice",
            "120s",
            stumbling.yaml(
                "registry-stumbles-twice",
                &image.replacen("5000", "5056", 1),
            ),
        ),
        plain(
            "slow-init-container",
            "60s",
            Workload {
                pod: &init,
                ..SLEEPS
            },
        ),
        plain(
            "sidecar",
            "60s",
            Workload {
                pod: &sidecar,
                ..SLEEPS
            },
        ),
        ready(
            "config-map-beside-it",
            "60s",
            format!(
                "{}---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: later }}\ndata: {{ key: v }}\n",
                later.yaml("config-map-beside-it", image)
            ),
        ),
    ]
}

/// What is not ready at once although it runs.
fn probed(image: &str) -> Vec<Case> {
    let plain = |name, workload: Workload<'_>| ready(name, "90s", workload.yaml(name, image));
    vec![
        plain(
            "ready-after-20-seconds",
            Workload {
                shell: "sleep 20; touch /ok; exec sleep 3600",
                container: "readinessProbe: { exec: { command: [test, -e, /ok] }, periodSeconds: 1, failureThreshold: 1 }",
                ..SLEEPS
            },
        ),
        plain(
            "startup-probe-fails-first",
            Workload {
                shell: "sleep 5; touch /ok; exec sleep 3600",
                container: "startupProbe: { exec: { command: [test, -e, /ok] }, periodSeconds: 1, failureThreshold: 30 }",
                ..SLEEPS
            },
        ),
        plain(
            "minimum-ready-seconds",
            Workload {
                spec: "minReadySeconds: 4",
                ..SLEEPS
            },
        ),
    ]
}

/// What has little or nothing to wait for.
fn still(image: &str) -> Vec<Case> {
    let plain = |name, workload: Workload<'_>| ready(name, "60s", workload.yaml(name, image));
    let of = |kind, spec| Workload {
        kind,
        spec,
        ..SLEEPS
    };
    vec![
        plain("scaled-to-zero", of("Deployment", "replicas: 0")),
        plain("paused", of("Deployment", "paused: true")),
        plain(
            "set-on-delete",
            of(
                "StatefulSet",
                "serviceName: x\nupdateStrategy: { type: OnDelete }",
            ),
        ),
        plain(
            "set-with-partition",
            of(
                "StatefulSet",
                "serviceName: x\nreplicas: 2\nupdateStrategy: { type: RollingUpdate, rollingUpdate: { partition: 1 } }",
            ),
        ),
        plain("daemon-set", of("DaemonSet", "")),
        plain(
            "skipped-and-crashing",
            Workload {
                shell: "exit 1",
                annotations: "annotations: { quaymaster.dev/wait: skip }",
                ..SLEEPS
            },
        ),
        ready(
            "skipped-load-balancer",
            "30s",
            "apiVersion: v1\nkind: Service\nmetadata: { name: skipped-lb, annotations: { quaymaster.dev/wait: skip } }\nspec: { type: LoadBalancer, ports: [{ port: 80 }] }\n".to_owned(),
        ),
        ready(
            "claim-waits-for-its-first-pod",
            "30s",
            format!("apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{ name: late }}\nspec: {{ storageClassName: {CLASS}, accessModes: [ReadWriteOnce], resources: {{ requests: {{ storage: 1Mi }} }} }}\n"),
        ),
    ]
}

/// What runs to an end.
fn to_an_end(image: &str) -> Vec<Case> {
    let job = |name, spec, shell| {
        let workload = Workload {
            kind: "Job",
            spec,
            pod: "restartPolicy: Never",
            shell,
            ..SLEEPS
        };
        ready(name, "60s", workload.yaml(name, image))
    };
    let again = Workload {
        kind: "Job",
        spec: "backoffLimit: 3",
        pod: &format!("restartPolicy: OnFailure\n{STATE}"),
        container: MOUNT,
        shell: "[ -e /state/n ] && exit 0; touch /state/n; exit 1",
        annotations: "",
    };
    vec![
        job("job", "backoffLimit: 0", "sleep 2"),
        job(
            "job-removed-at-once",
            "ttlSecondsAfterFinished: 0",
            "sleep 1",
        ),
        job("job-suspended", "suspend: true", "exit 1"),
        ready(
            "job-that-tries-again",
            "60s",
            again.yaml("job-that-tries-again", image),
        ),
        ready(
            "pod-that-succeeds",
            "60s",
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{ name: pod-ok }}\nspec: {{ restartPolicy: Never, containers: [{{ name: main, image: {image:?}, command: [\"true\"] }}] }}\n"
            ),
        ),
    ]
}
