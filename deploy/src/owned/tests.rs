//! What is the same, what differs, and what only the server can say.

use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::fakes::FakeCluster;
use crate::object::Gvk;
use crate::object::ObjectId;
use crate::ports::Cluster;
use crate::ports::Force;
use crate::ports::Payload;
use crate::ports::Write;
use crate::principal::Actor;
use crate::secret::FingerprintKey;

/// A Deployment as a manifest has it.
fn wanted() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": "web", "namespace": "app", "labels": { "app.kubernetes.io/name": "web" } },
        "spec": {
            "replicas": 2,
            "selector": { "matchLabels": { "app": "web" } },
            "template": {
                "metadata": { "labels": { "app": "web" } },
                "spec": { "containers": [
                    { "name": "web", "image": "web:1", "args": ["-v"],
                      "ports": [{ "containerPort": 80 }, { "containerPort": 80, "protocol": "UDP" }],
                      "resources": { "limits": { "cpu": "500m" } } },
                    { "name": "log", "image": "log:1" },
                ] },
            },
        },
    })
}

/// The same as the server has it after an apply, with its defaults, another manager's label and a status.
fn live() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {
            "name": "web", "namespace": "app", "uid": "u", "generation": 1, "resourceVersion": "5",
            "labels": { "app.kubernetes.io/name": "web", "other": "x" },
            "managedFields": [
                { "manager": "kube-controller-manager", "operation": "Update", "apiVersion": "apps/v1",
                  "fieldsType": "FieldsV1", "subresource": "status",
                  "fieldsV1": { "f:status": { "f:replicas": {} } } },
                { "manager": "quaymaster", "operation": "Apply", "apiVersion": "apps/v1",
                  "fieldsType": "FieldsV1", "fieldsV1": {
                    "f:metadata": { "f:labels": { "f:app.kubernetes.io/name": {} } },
                    "f:spec": {
                        "f:replicas": {}, "f:selector": {},
                        "f:template": {
                            "f:metadata": { "f:labels": { "f:app": {} } },
                            "f:spec": { "f:containers": {
                                "k:{\"name\":\"log\"}": { ".": {}, "f:image": {}, "f:name": {} },
                                "k:{\"name\":\"web\"}": {
                                    ".": {}, "f:args": {}, "f:image": {}, "f:name": {},
                                    "f:ports": {
                                        "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": { ".": {}, "f:containerPort": {} },
                                        "k:{\"containerPort\":80,\"protocol\":\"UDP\"}":
                                            { ".": {}, "f:containerPort": {}, "f:protocol": {} },
                                    },
                                    "f:resources": { "f:limits": { "f:cpu": {} } },
                                },
                            } },
                        },
                    },
                } },
            ],
        },
        "spec": {
            "replicas": 2, "progressDeadlineSeconds": 600,
            "selector": { "matchLabels": { "app": "web" } },
            "template": {
                "metadata": { "labels": { "app": "web" } },
                "spec": { "restartPolicy": "Always", "containers": [
                    { "name": "injected", "image": "mesh:1" },
                    { "name": "web", "image": "web:1", "args": ["-v"], "imagePullPolicy": "Always",
                      "ports": [{ "containerPort": 80, "protocol": "TCP" }, { "containerPort": 80, "protocol": "UDP" }],
                      "resources": { "limits": { "cpu": "500m" } } },
                    { "name": "log", "image": "log:1" },
                ] },
            },
        },
        "status": { "replicas": 2 },
    })
}

/// Compares after the wanted body was changed.
fn after(change: impl FnOnce(&mut Value)) -> Sameness {
    let mut wanted = wanted();
    change(&mut wanted);
    compare(&wanted, &live())
}

/// Compares after the live object was changed.
fn found(change: impl FnOnce(&mut Value)) -> Sameness {
    let mut live = live();
    change(&mut live);
    compare(&wanted(), &live)
}

fn differs(path: &str) -> Sameness {
    Sameness::Differs(vec![path.to_owned()])
}

const WEB: &str = "/spec/template/spec/containers/0";

#[test]
fn an_object_with_the_servers_defaults_and_other_peoples_fields_is_the_same() {
    assert_eq!(compare(&wanted(), &live()), Sameness::Same);
}

#[test]
fn another_value_differs_on_either_side() {
    let image = ".spec.template.spec.containers[name=\"web\"].image";
    let path = format!("{WEB}/image");
    let wanted = after(|body| {
        if let Some(image) = body.pointer_mut(&path) {
            *image = json!("web:2");
        }
    });
    assert_eq!(wanted, differs(image));
    let edited = found(|body| body["spec"]["replicas"] = json!(5));
    assert_eq!(edited, differs(".spec.replicas"));
    let gone = found(|body| body["metadata"]["labels"] = json!({ "other": "x" }));
    assert_eq!(gone, differs(".metadata.labels.app.kubernetes.io/name"));
}

#[test]
fn a_field_that_we_own_and_want_no_more_differs() {
    let fewer = after(|body| {
        if let Some(web) = body.pointer_mut(WEB).and_then(Value::as_object_mut) {
            web.remove("args");
        }
    });
    assert_eq!(
        fewer,
        differs(".spec.template.spec.containers[name=\"web\"].args")
    );
    let item = after(|body| {
        let containers = body.pointer_mut("/spec/template/spec/containers");
        if let Some(containers) = containers.and_then(Value::as_array_mut) {
            containers.pop();
        }
    });
    assert_eq!(
        item,
        differs(".spec.template.spec.containers[name=\"log\"]")
    );
}

#[test]
fn a_field_that_is_new_to_us_differs_even_with_the_right_value() {
    let more = after(|body| body["metadata"]["labels"]["other"] = json!("x"));
    assert_eq!(more, differs(".metadata.labels.other"));
    let port = after(|body| {
        let ports = body.pointer_mut(&format!("{WEB}/ports"));
        if let Some(ports) = ports.and_then(Value::as_array_mut) {
            ports.push(json!({ "containerPort": 81 }));
        }
    });
    assert_eq!(
        port,
        differs(".spec.template.spec.containers[name=\"web\"].ports[2]")
    );
}

#[test]
fn the_protocol_that_the_server_put_in_is_no_field_of_ours() {
    let said = after(|body| {
        if let Some(port) = body.pointer_mut(&format!("{WEB}/ports/0")) {
            port["protocol"] = json!("TCP");
        }
    });
    let path = ".spec.template.spec.containers[name=\"web\"].ports[containerPort=80,protocol=\"TCP\"].protocol";
    assert_eq!(said, differs(path));
}

#[test]
fn what_may_be_the_same_in_other_words_is_for_the_server_to_say() {
    let set = |path: &str, value: Value| {
        after(|body| body.pointer_mut(path).map_or((), |it| *it = value))
    };
    let cpu = format!("{WEB}/resources/limits/cpu");
    assert_eq!(set(&cpu, json!("0.5")), Sameness::Unsure);
    assert_eq!(set(&cpu, json!(0.5)), Sameness::Unsure);
    assert_eq!(set("/spec/replicas", json!("2")), Sameness::Unsure);
    assert_eq!(set("/spec/replicas", Value::Null), Sameness::Unsure);
    let empty = after(|body| body["spec"]["template"]["spec"]["volumes"] = json!([]));
    assert_eq!(empty, Sameness::Unsure);
    let atomic = found(|body| body["spec"]["selector"]["matchExpressions"] = json!([]));
    assert_eq!(atomic, Sameness::Unsure);
}

#[test]
fn items_in_another_order_are_for_the_server_to_say() {
    let turned = after(|body| {
        let containers = body.pointer_mut("/spec/template/spec/containers");
        if let Some(containers) = containers.and_then(Value::as_array_mut) {
            containers.reverse();
        }
    });
    assert_eq!(turned, Sameness::Unsure);
}

#[test]
fn without_an_entry_of_ours_nothing_is_known() {
    let entry =
        |change: fn(&mut Value)| found(|body| change(&mut body["metadata"]["managedFields"][1]));
    assert_eq!(
        entry(|it| it["manager"] = json!("kubectl")),
        Sameness::Unsure
    );
    assert_eq!(
        entry(|it| it["operation"] = json!("Update")),
        Sameness::Unsure
    );
    assert_eq!(
        entry(|it| it["apiVersion"] = json!("apps/v1beta1")),
        Sameness::Unsure
    );
    assert_eq!(
        entry(|it| it["subresource"] = json!("scale")),
        Sameness::Unsure
    );
    let twice = found(|body| {
        let entries = body.pointer_mut("/metadata/managedFields");
        if let Some(entries) = entries.and_then(Value::as_array_mut) {
            entries.push(entries[1].clone());
        }
    });
    assert_eq!(twice, Sameness::Unsure);
}

#[test]
fn an_object_that_is_about_to_go_is_not_the_same() {
    let going = found(|body| body["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
    assert_eq!(going, Sameness::Unsure);
}

#[test]
fn items_of_sets_are_their_own_keys() {
    let wanted = |items: Value| json!({ "apiVersion": "v1", "metadata": { "finalizers": items } });
    let live = json!({ "apiVersion": "v1", "metadata": {
        "finalizers": ["a/x", "theirs/y", "b/z"],
        "managedFields": [{ "manager": "quaymaster", "operation": "Apply", "apiVersion": "v1",
            "fieldsType": "FieldsV1", "fieldsV1": { "f:metadata": { "f:finalizers":
                { "v:\"a/x\"": {}, "v:\"b/z\"": {} } } } }] } });
    assert_eq!(
        compare(&wanted(json!(["a/x", "b/z"])), &live),
        Sameness::Same
    );
    assert_eq!(
        compare(&wanted(json!(["b/z", "a/x"])), &live),
        Sameness::Unsure
    );
    assert_eq!(
        compare(&wanted(json!(["a/x"])), &live),
        differs(".metadata.finalizers[=\"b/z\"]")
    );
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn up_to(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn value(&mut self, depth: u32) -> Value {
        let kinds = if depth == 0 { 3 } else { 6 };
        match self.up_to(kinds) {
            0 => json!(self.up_to(100)),
            1 => json!(format!("text-{}", self.up_to(100))),
            2 => json!(self.up_to(2) == 0),
            3 => self.fields(depth),
            4 => {
                let names = 1 + self.up_to(4);
                let items = (0..names).map(|name| {
                    let mut item = self.fields(depth);
                    item["name"] = json!(format!("n{name}"));
                    item
                });
                Value::Array(items.collect())
            }
            _ => {
                let count = 1 + self.up_to(3);
                let items = (0..count).map(|_| json!(self.up_to(100)));
                Value::Array(items.collect())
            }
        }
    }

    fn fields(&mut self, depth: u32) -> Value {
        let count = self.up_to(4);
        let fields = (0..count).map(|field| (format!("field{field}"), self.value(depth - 1)));
        Value::Object(fields.collect())
    }
}

/// Lists a pointer to every value below, deepest last.
fn pointers(value: &Value, path: &str, into: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(fields) => fields.iter().map(|(f, v)| (f.clone(), v)).collect(),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(i, v)| (i.to_string(), v))
            .collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    };
    for (name, child) in children {
        let here = format!("{path}/{name}");
        into.push(here.clone());
        pointers(child, &here, into);
    }
}

#[tokio::test]
async fn whatever_was_applied_is_the_same_and_no_longer_after_any_change() {
    let cluster = FakeCluster::new(Arc::new(FingerprintKey::new([1; 32])));
    let actor = Actor {
        user: "job".to_owned(),
        groups: Vec::new(),
    };
    let id = ObjectId {
        gvk: Gvk::new("demo.example.com/v1", "Thing"),
        namespace: Some("app".to_owned()),
        name: "one".to_owned(),
    };
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for round in 0..100 {
        let mut body = json!({ "apiVersion": "demo.example.com/v1", "kind": "Thing",
            "metadata": { "name": "one", "namespace": "app" } });
        body["spec"] = json!({ "first": dice.value(4), "second": dice.fields(4) });
        let payload = Payload::Object(&body);
        let applied = cluster
            .apply(&actor, &id, payload, Write::Commit, Force::No)
            .await;
        assert!(applied.is_ok(), "round {round}");
        let live = cluster.object(&id).expect("it was applied");
        assert_eq!(
            compare(&body, &live),
            Sameness::Same,
            "round {round}: {body}"
        );
        let mut places = Vec::new();
        pointers(&body["spec"], "/spec", &mut places);
        for place in places {
            let mut other = body.clone();
            if let Some(value) = other.pointer_mut(&place) {
                *value = json!("another");
            }
            assert_ne!(
                compare(&other, &live),
                Sameness::Same,
                "round {round} at {place}: {body}"
            );
        }
    }
}
