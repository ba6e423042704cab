//! How history looks in ConfigMaps. Pure; used by [`super::store`] only.
//!
//! The parent has the revisions as JSON that people can read, and the members compressed, since an
//! app can have thousands. A revision is one compressed JSON text, cut into pieces that fit into a
//! ConfigMap. Fields may be added with a default and never change their meaning.

use std::collections::BTreeSet;
use std::io::Read;
use std::io::Write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;
use sha2::Digest as _;
use sha2::Sha256;

use super::Member;
use super::Past;
use crate::object::Gvk;
use crate::object::ObjectId;
use crate::object::text;

/// Bytes of one piece; base64 makes a third more of it, and an object may have 1 MiB and some.
const PIECE: usize = 700 << 10;

/// What a revision may have uncompressed: the limit of a bundle, with room for what is filled in.
const LARGEST: u64 = 64 << 20;

/// The objects of a revision, as they were sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Content {
    /// Everything but Secrets.
    pub objects: Vec<Value>,
    /// The names of Secrets, whose values are nowhere but in Vault and in the cluster.
    pub secrets: Vec<String>,
}

/// Why something that was read is not history.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is not as this agent writes it")]
pub struct Broken;

/// The name of the parent.
pub(super) fn parent_name(app: &str) -> String {
    format!("quaymaster-{app}")
}

/// The name of a piece of a revision.
pub(super) fn piece_name(app: &str, revision: u64, piece: usize) -> String {
    format!("quaymaster-{app}-r{revision}-{piece}")
}

/// The id of a ConfigMap in the app's namespace.
pub(super) fn config_map(namespace: &str, name: String) -> ObjectId {
    ObjectId {
        gvk: Gvk::new("v1", "ConfigMap"),
        namespace: Some(namespace.to_owned()),
        name,
    }
}

/// The ApplySet id of an app: a hash of its parent's identity (KEP-3659).
pub(super) fn set_id(namespace: &str, app: &str) -> String {
    let whole = format!("{}.{namespace}.ConfigMap.", parent_name(app));
    let hash = URL_SAFE_NO_PAD.encode(Sha256::digest(whole.as_bytes()));
    format!("applyset-{hash}-v1")
}

/// Writes the parent down.
pub(super) fn parent(namespace: &str, app: &str, past: &Past) -> Value {
    let others: BTreeSet<&str> = past
        .members
        .iter()
        .filter_map(|member| member.namespace.as_deref())
        .filter(|name| *name != namespace)
        .collect();
    let kinds: BTreeSet<String> = past.members.iter().map(group_kind).collect();
    let join = |items: Vec<&str>| items.join(",");
    let mut metadata = json!({
        "name": parent_name(app),
        "namespace": namespace,
        "labels": {
            "applyset.kubernetes.io/id": set_id(namespace, app),
            "app.kubernetes.io/managed-by": "quaymaster",
            "quaymaster.dev/app": app,
        },
        "annotations": {
            "applyset.kubernetes.io/tooling": "quaymaster/v1",
            "applyset.kubernetes.io/contains-group-kinds":
                join(kinds.iter().map(String::as_str).collect()),
            "applyset.kubernetes.io/additional-namespaces": join(others.into_iter().collect()),
        },
    });
    if let Some(version) = &past.version {
        metadata["resourceVersion"] = Value::from(version.as_str());
    }
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "data": { "revisions": json!(past.revisions).to_string() },
        "binaryData": { "members": STANDARD.encode(packed(&json!(past.members))) },
    })
}

/// `Deployment.apps`, and `ConfigMap` for the core group, as KEP-3659 writes them.
fn group_kind(member: &Member) -> String {
    let gvk = member.id().gvk;
    if gvk.group.is_empty() {
        gvk.kind
    } else {
        format!("{}.{}", gvk.kind, gvk.group)
    }
}

/// Reads a parent.
pub(super) fn past(body: &Value) -> Result<Past, Broken> {
    let revisions = serde_json::from_str(text(body, &["data", "revisions"]));
    let members = unpacked(text(body, &["binaryData", "members"]))?;
    Ok(Past {
        revisions: revisions.map_err(|_quotes| Broken)?,
        members: serde_json::from_value(members).map_err(|_quotes| Broken)?,
        version: Some(text(body, &["metadata", "resourceVersion"]).to_owned()),
    })
}

/// Cuts a revision into ConfigMaps.
pub(super) fn pieces(namespace: &str, app: &str, number: u64, content: &Content) -> Vec<Value> {
    let whole = packed(&json!(content));
    let cut = whole.chunks(PIECE).enumerate();
    cut.map(|(index, piece)| {
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": piece_name(app, number, index),
                "namespace": namespace,
                "labels": {
                    "app.kubernetes.io/managed-by": "quaymaster",
                    "quaymaster.dev/app": app,
                    "quaymaster.dev/revision": number.to_string(),
                },
            },
            "immutable": true,
            "binaryData": { "piece": STANDARD.encode(piece) },
        })
    })
    .collect()
}

/// Puts a revision together again.
pub(super) fn content(pieces: &[Value]) -> Result<Content, Broken> {
    let mut whole = Vec::new();
    for piece in pieces {
        let bytes = STANDARD.decode(text(piece, &["binaryData", "piece"]));
        whole.extend(bytes.map_err(|_quotes| Broken)?);
    }
    serde_json::from_value(unzipped(&whole)?).map_err(|_quotes| Broken)
}

fn packed(value: &Value) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder
        .write_all(value.to_string().as_bytes())
        .and_then(|()| encoder.finish())
        .expect("writing to memory cannot fail")
}

fn unpacked(text: &str) -> Result<Value, Broken> {
    let bytes = STANDARD.decode(text).map_err(|_quotes| Broken)?;
    unzipped(&bytes)
}

fn unzipped(bytes: &[u8]) -> Result<Value, Broken> {
    let mut text = Vec::new();
    let mut bounded = GzDecoder::new(bytes).take(LARGEST);
    bounded
        .read_to_end(&mut text)
        .map_err(|_no_detail| Broken)?;
    serde_json::from_slice(&text).map_err(|_quotes| Broken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Origin;
    use crate::history::Revision;
    use crate::history::State;

    fn past_of_one() -> Past {
        let id = ObjectId {
            gvk: Gvk::new("apps/v1", "Deployment"),
            namespace: Some("other".to_owned()),
            name: "web".to_owned(),
        };
        Past {
            revisions: vec![Revision {
                number: 3,
                state: State::Deployed,
                run: "r1".to_owned(),
                time: "2026-01-01T00:00:00Z".to_owned(),
                origin: Origin {
                    pipeline: Some(7),
                    ..Origin::default()
                },
                chunks: 1,
                back_to: None,
            }],
            members: vec![Member::of(&id, "u")],
            version: Some("12".to_owned()),
        }
    }

    #[test]
    fn a_parent_is_read_as_it_was_written() {
        let before = past_of_one();
        let body = parent("flask", "web", &before);
        assert_eq!(past(&body), Ok(before));
        let annotation = |name: &str| text(&body["metadata"]["annotations"], &[name]).to_owned();
        assert_eq!(
            annotation("applyset.kubernetes.io/contains-group-kinds"),
            "Deployment.apps"
        );
        assert_eq!(
            annotation("applyset.kubernetes.io/additional-namespaces"),
            "other"
        );
    }

    #[test]
    fn the_id_of_a_set_is_the_hash_that_kubectl_makes() {
        let hash = Sha256::digest(b"quaymaster-web.flask.ConfigMap.");
        let expected = format!("applyset-{}-v1", URL_SAFE_NO_PAD.encode(hash));
        assert_eq!(set_id("flask", "web"), expected);
    }

    #[test]
    fn a_large_revision_is_cut_and_put_together() {
        // Text that does not compress: hashes of numbers.
        let noise: String = (0..60_000_u32)
            .map(|number| STANDARD.encode(Sha256::digest(number.to_be_bytes())))
            .collect();
        let before = Content {
            objects: vec![json!({"data": {"noise": noise}})],
            secrets: vec!["db".to_owned()],
        };
        let cut = pieces("flask", "web", 4, &before);
        assert!(cut.len() > 1, "{}", cut.len());
        assert_eq!(text(&cut[1], &["metadata", "name"]), "quaymaster-web-r4-1");
        assert_eq!(content(&cut), Ok(before));
        assert_eq!(content(&cut[..1]), Err(Broken));
    }
}
