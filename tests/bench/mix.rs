//! The objects that are deployed in measurements: 40 % ConfigMap, 20 % Secret, 20 % Service, 20 % Deployment.
//!
//! Used by `deploys`. Deployments have no replicas, so that the API server and the tools are measured and not
//! the kubelet. The same number is always the same object, so that a mix can be deployed again.

use std::fmt::Write as _;

/// One object.
pub(crate) struct Document {
    /// Its path below the API server's root, in the namespace.
    pub(crate) path: String,
    /// Its manifest.
    pub(crate) yaml: String,
}

/// Makes `count` objects; those whose number is in `changed` have another value.
pub(crate) fn mix(namespace: &str, count: usize, changed: &[usize]) -> Vec<Document> {
    (0..count)
        .map(|number| {
            let value = if changed.contains(&number) {
                "new"
            } else {
                "old"
            };
            document(namespace, number, value)
        })
        .collect()
}

/// Puts all manifests into one file.
pub(crate) fn file(documents: &[Document]) -> String {
    documents.iter().fold(String::new(), |mut text, document| {
        let _never_fails = writeln!(text, "{}---", document.yaml);
        text
    })
}

fn document(namespace: &str, number: usize, value: &str) -> Document {
    let head = |kind: &str, api: &str, name: &str| {
        format!(
            "apiVersion: {api}\nkind: {kind}\nmetadata:\n  name: {name}\n  namespace: {namespace}\n  labels:\n    app.kubernetes.io/name: mix\n"
        )
    };
    let (api, plural, name, yaml) = match number % 5 {
        0 | 1 => {
            let name = format!("c{number}");
            let body = format!(
                "data:\n  key: value-{value}\n  number: \"{number}\"\n  text: |\n    one line\n    another line\n"
            );
            (
                "api/v1",
                "configmaps",
                name.clone(),
                head("ConfigMap", "v1", &name) + &body,
            )
        }
        2 => {
            let name = format!("app-s{number}");
            let body = format!(
                "type: Opaque\nstringData:\n  password: p4ss-{value}-{number}\n  user: user-of-{number}\n"
            );
            (
                "api/v1",
                "secrets",
                name.clone(),
                head("Secret", "v1", &name) + &body,
            )
        }
        3 => {
            let name = format!("s{number}");
            let body = format!(
                "spec:\n  selector:\n    app: {value}\n  ports:\n    - name: http\n      port: 80\n      targetPort: 8080\n"
            );
            (
                "api/v1",
                "services",
                name.clone(),
                head("Service", "v1", &name) + &body,
            )
        }
        _ => {
            let name = format!("d{number}");
            let body = format!(
                "spec:\n  replicas: 0\n  selector:\n    matchLabels:\n      app: {name}\n  template:\n    metadata:\n      labels:\n        app: {name}\n    spec:\n      containers:\n        - name: main\n          image: registry.example.com/app:1\n          env:\n            - name: VALUE\n              value: {value}\n          ports:\n            - containerPort: 8080\n          resources:\n            limits:\n              cpu: 500m\n              memory: 64Mi\n"
            );
            (
                "apis/apps/v1",
                "deployments",
                name.clone(),
                head("Deployment", "apps/v1", &name) + &body,
            )
        }
    };
    Document {
        path: format!("{api}/namespaces/{namespace}/{plural}/{name}"),
        yaml,
    }
}
