//! Generated apps and states of the cluster.
//!
//! Used by [`super`]. There are few kinds, names and keys, so that things meet. Values of Secrets are made of a
//! word that nothing else has, so that they can be found wherever they should not be.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::Just;
use proptest::prelude::Strategy;
use proptest::prelude::any;
use proptest::prelude::prop;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::object::Gvk;
use crate::object::ObjectId;

/// Kinds that things are of, with their API version.
const KINDS: [(&str, &str); 6] = [
    ("v1", "ConfigMap"),
    ("v1", "Secret"),
    ("v1", "Service"),
    ("v1", "ServiceAccount"),
    ("rbac.authorization.k8s.io/v1", "Role"),
    ("apps/v1", "Deployment"),
];
/// Keys of data, labels and annotations, some of them with characters that paths have to quote.
const KEYS: [&str; 4] = ["one", "two", "a.b/c", "x-y_z"];

/// An object that is wanted.
#[derive(Debug, Clone)]
pub(super) struct Thing {
    kind: usize,
    number: u8,
    values: BTreeMap<&'static str, u32>,
    labels: BTreeMap<&'static str, u8>,
    /// Whether a value of the first Secret is copied into it.
    leaky: bool,
}

/// Everything that a bundle wants.
#[derive(Debug, Clone)]
pub(super) struct App {
    /// The manifests, in their order.
    pub(super) things: Vec<Thing>,
    /// Keys of the Secret from Vault, with values; none: no such Secret.
    pub(super) vault: BTreeMap<&'static str, u32>,
}

/// Who wrote what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writer {
    /// An earlier deploy.
    Us,
    /// Somebody whose fields nobody noted down.
    Nobody,
}

/// An object that is there before.
#[derive(Debug, Clone)]
pub(super) struct Live {
    /// What it looks like.
    pub(super) thing: Thing,
    /// Who wrote it.
    pub(super) writer: Writer,
}

/// What happens to an object of the app between two deploys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nothing.
    None,
    /// Another app's label is put on it.
    Taken,
    /// It is deleted and made anew by somebody.
    Remade,
    /// It is told to be kept.
    Kept,
}

fn values() -> impl Strategy<Value = BTreeMap<&'static str, u32>> {
    prop::collection::btree_map(prop::sample::select(&KEYS[..]), any::<u32>(), 0..4)
}

/// One object.
pub(super) fn thing() -> impl Strategy<Value = Thing> {
    let labels = prop::collection::btree_map(prop::sample::select(&KEYS[..]), 0_u8..3, 0..3);
    (0..KINDS.len(), 0_u8..3, values(), labels, any::<bool>()).prop_map(
        |(kind, number, values, labels, leaky)| Thing {
            kind,
            number,
            values,
            labels,
            leaky,
        },
    )
}

/// Things of different names.
fn things(most: usize) -> impl Strategy<Value = Vec<Thing>> {
    prop::collection::vec(thing(), 1..most).prop_map(|things| {
        let unlike: BTreeMap<(usize, u8), Thing> = things
            .into_iter()
            .map(|thing| ((thing.kind, thing.number), thing))
            .collect();
        unlike.into_values().collect()
    })
}

/// An app.
pub(super) fn app() -> impl Strategy<Value = App> {
    (things(7), values()).prop_map(|(things, vault)| App { things, vault })
}

/// The same app with its manifests in another order.
pub(super) fn shuffled(app: &App) -> impl Strategy<Value = App> + use<> {
    let vault = app.vault.clone();
    let things = Just(app.things.clone()).prop_shuffle();
    things.prop_map(move |things| App {
        things,
        vault: vault.clone(),
    })
}

/// How an object that is wanted looks before.
#[derive(Debug, Clone, Copy)]
enum Before {
    Absent,
    AsWanted,
    OtherValues,
    OtherLabels,
    Other,
}

/// All of them.
const BEFORE: [Before; 5] = [
    Before::Absent,
    Before::AsWanted,
    Before::OtherValues,
    Before::OtherLabels,
    Before::Other,
];

/// An app, and what is there before: its own objects as they may be, and others.
pub(super) fn case() -> impl Strategy<Value = (App, Vec<Live>)> {
    let writer = prop::sample::select(&[Writer::Us, Writer::Nobody][..]);
    let before = prop::sample::select(&BEFORE[..]);
    let fates = prop::collection::vec((before, writer, thing()), 7);
    (app(), fates, things(3)).prop_map(|(app, fates, others)| {
        let own = app
            .things
            .iter()
            .zip(fates)
            .filter_map(|(wanted, (before, writer, other))| {
                let (wanted, mut thing) = (wanted.clone(), wanted.clone());
                match before {
                    Before::Absent => return None,
                    Before::AsWanted => {}
                    Before::OtherValues => thing.values = other.values,
                    Before::OtherLabels => thing.labels = other.labels,
                    Before::Other => {
                        thing = Thing {
                            kind: wanted.kind,
                            number: wanted.number,
                            ..other
                        }
                    }
                }
                Some((thing, writer))
            });
        let wanted = |thing: &Thing| app.things.iter().any(|own| own.id() == thing.id());
        let others = others.into_iter().filter(|thing| !wanted(thing));
        let all = own.chain(others.map(|thing| (thing, Writer::Nobody)));
        // The values of a Secret are only known to the double when it wrote them itself.
        let live = all.map(|(thing, writer)| Live {
            writer: if thing.is_secret() {
                Writer::Us
            } else {
                writer
            },
            thing,
        });
        let live = live.collect();
        (app, live)
    })
}

/// A fate.
pub(super) fn fate() -> impl Strategy<Value = Fate> {
    prop::sample::select(
        &[
            Fate::None,
            Fate::None,
            Fate::Taken,
            Fate::Remade,
            Fate::Kept,
        ][..],
    )
}

/// The value of a Secret.
fn canary(number: u32) -> String {
    format!("canary{number:08x}")
}

/// Every form of every value of a Secret.
pub(super) fn canaries(app: &App, live: &[Live]) -> Vec<String> {
    let things = app.things.iter().chain(live.iter().map(|live| &live.thing));
    let numbers = things
        .filter(|thing| thing.is_secret())
        .flat_map(|thing| thing.values.values());
    let plain = numbers
        .chain(app.vault.values())
        .map(|number| canary(*number));
    plain
        .flat_map(|plain| [STANDARD.encode(&plain), plain])
        .collect()
}

impl App {
    /// Everything that is wanted, as the plan names it.
    pub(super) fn ids(&self) -> impl Iterator<Item = String> {
        let vault = (!self.vault.is_empty()).then(|| "v1/Secret app/own-vault".to_owned());
        self.things
            .iter()
            .map(|thing| thing.id().to_string())
            .chain(vault)
    }

    /// The text of its manifests.
    pub(super) fn manifests(&self) -> String {
        // The same one in every order.
        let secrets = self.things.iter().filter(|thing| thing.is_secret());
        let secret = secrets.min_by_key(|thing| thing.number);
        let known = secret.and_then(|secret| secret.values.values().next());
        let bodies = self
            .things
            .iter()
            .map(|thing| format!("{}\n---\n", thing.body(known)));
        bodies.collect()
    }

    /// The text of its spec.
    pub(super) fn spec(&self) -> String {
        let keys: Map<String, Value> = self
            .vault
            .keys()
            .map(|key| {
                (
                    key.replace('/', "-"),
                    json!({ "vault": "kv/app/own", "field": key }),
                )
            })
            .collect();
        let mut spec = json!({ "version": 1, "name": "app", "manifests": ["all.yaml"],
            "rollout": { "timeout": "30s", "prune": true, "prune_share": 100, "prune_protected": true } });
        if !keys.is_empty() {
            spec["secrets"] = json!([{ "name": "own-vault", "keys": keys }]);
        }
        spec.to_string()
    }

    /// What Vault holds for it.
    pub(super) fn fields(&self) -> Vec<(&'static str, String)> {
        self.vault
            .iter()
            .map(|(key, number)| (*key, canary(*number)))
            .collect()
    }
}

impl Thing {
    /// Says whether it is a Secret.
    pub(super) fn is_secret(&self) -> bool {
        KINDS[self.kind].1 == "Secret"
    }

    /// Which object it is.
    pub(super) fn id(&self) -> ObjectId {
        let (api_version, kind) = KINDS[self.kind];
        ObjectId {
            gvk: Gvk::new(api_version, kind),
            namespace: Some("app".to_owned()),
            name: format!("own-{}", self.number),
        }
    }

    /// Its JSON; `known` is a value of a Secret that it may copy.
    pub(super) fn body(&self, known: Option<&u32>) -> Value {
        let (api_version, kind) = KINDS[self.kind];
        let labels: Map<String, Value> = (self.labels.iter())
            .map(|(key, value)| ((*key).to_owned(), format!("v{value}").into()))
            .collect();
        let mut body = json!({ "apiVersion": api_version, "kind": kind,
            "metadata": { "name": self.id().name, "namespace": "app" } });
        if !labels.is_empty() {
            body["metadata"]["labels"] = Value::Object(labels);
        }
        let text = |number: &u32| match known {
            Some(known) if self.leaky => canary(*known),
            _ => format!("value{number}"),
        };
        self.fill(&mut body, &text);
        body
    }

    fn fill(&self, body: &mut Value, text: &dyn Fn(&u32) -> String) {
        let (_, kind) = KINDS[self.kind];
        let pairs = |value: &dyn Fn(&u32) -> String| -> Value {
            let pairs = self.values.iter();
            pairs
                .map(|(key, number)| (key.replace('/', "-"), value(number).into()))
                .collect::<Map<_, _>>()
                .into()
        };
        let numbers = || self.values.values();
        match kind {
            "ConfigMap" => body["data"] = pairs(text),
            "Secret" => body["data"] = pairs(&|number| STANDARD.encode(canary(*number))),
            "Service" => {
                let port = |(key, number): (&&str, &u32)| json!({ "name": key.replace(['/', '.', '_'], "-"), "port": number % 60000 + 1 });
                let ports: BTreeMap<u32, Value> = self
                    .values
                    .iter()
                    .map(|pair| (*pair.1 % 60000, port(pair)))
                    .collect();
                body["spec"] = json!({ "selector": pairs(text), "ports": ports.into_values().collect::<Vec<_>>() });
            }
            "Role" => {
                let rule = |number| json!({ "apiGroups": [""], "resources": ["pods"], "resourceNames": [text(number)], "verbs": ["get"] });
                body["rules"] = numbers().map(rule).collect();
            }
            "Deployment" => {
                let container = |(key, number): (&&str, &u32)| {
                    json!({ "name": key.replace(['/', '.', '_'], "-"), "image": format!("registry.example.com/app:{number}"),
                        "env": [{ "name": "VALUE", "value": text(number) }] })
                };
                let containers: Vec<Value> = self.values.iter().map(container).collect();
                body["spec"] = json!({ "replicas": 0, "selector": { "matchLabels": { "app": "own" } },
                    "template": { "metadata": { "labels": { "app": "own" }, "annotations": pairs(text) },
                        "spec": { "containers": containers } } });
            }
            _ => body["metadata"]["annotations"] = pairs(text),
        }
    }
}
