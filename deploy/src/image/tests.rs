//! References that are taken and refused, and where images are put in.

use serde_json::json;

use super::*;
use crate::object::Gvk;
use crate::object::ObjectId;
use crate::object::Origin;

const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn object(api: &str, kind: &str, body: Value) -> Object {
    Object {
        id: ObjectId {
            gvk: Gvk::new(api, kind),
            namespace: None,
            name: "web".into(),
        },
        body,
        origin: Origin {
            file: "web.yaml".into(),
            line: 1,
        },
    }
}

fn pod(image: &str) -> Value {
    json!({
        "initContainers": [{"name": "i", "image": image}],
        "containers": [{"name": "c", "image": image}, {"name": "d", "image": "other:1"}],
        "ephemeralContainers": [{"name": "e", "image": image}],
        "volumes": [{"name": "v", "image": {"reference": image}}, {"name": "w", "emptyDir": {}}],
    })
}

#[test]
fn references_of_the_distribution_grammar_are_taken() {
    for (text, name, tag, digest) in [
        ("flask", "flask", None, None),
        ("flask:1.4.2", "flask", Some("1.4.2"), None),
        (
            "library/flask_a__b--c.d",
            "library/flask_a__b--c.d",
            None,
            None,
        ),
        ("localhost:5000/flask", "localhost:5000/flask", None, None),
        (
            "localhost:5000/flask:v1",
            "localhost:5000/flask",
            Some("v1"),
            None,
        ),
        (
            "REG.example.com/team/flask:_x",
            "REG.example.com/team/flask",
            Some("_x"),
            None,
        ),
        ("[fd00::1]:5000/flask", "[fd00::1]:5000/flask", None, None),
        (
            &format!("r.io/flask@{DIGEST}"),
            "r.io/flask",
            None,
            Some(DIGEST),
        ),
        (
            &format!("r.io/flask:1@{DIGEST}"),
            "r.io/flask",
            Some("1"),
            Some(DIGEST),
        ),
    ] {
        let reference = ImageRef::parse(text).expect(text);
        assert_eq!(reference.name, name);
        assert_eq!(reference.tag.as_deref(), tag);
        assert_eq!(reference.digest.as_deref(), digest);
        assert_eq!(reference.to_string(), text);
    }
}

#[test]
fn everything_else_is_refused() {
    for text in [
        "",
        ":1",
        "@sha256:00",
        "Flask",
        "flask:",
        "flask:a b",
        "flask:-x",
        "fla sk",
        "flask/",
        "/flask",
        "a//b",
        "flask_",
        "-flask",
        "a..b",
        "a___b",
        "a_.b",
        "reg.io:/a",
        "reg.io:99999999/a",
        "-reg.io/a",
        "reg..io/a",
        "https://reg.io/a",
        "flask@sha256:abc",
        "flask@md5:00",
        "flask@",
        "${IMAGE}",
        "flask:1:2",
        "fläsk",
        "[::1/a",
        "[]/a",
        "Team/flask/Web",
        &format!("flask@{}", DIGEST.to_uppercase()),
        &format!("flask@{DIGEST}@{DIGEST}"),
        &format!("flask:{}", "x".repeat(129)),
        &"x".repeat(256),
    ] {
        assert!(ImageRef::parse(text).is_err(), "{text}");
    }
}

#[test]
fn images_are_put_into_every_kind_that_has_a_pod() {
    let reference = ImageRef::parse(&format!("r.io/team/flask:2@{DIGEST}")).expect("valid");
    let images = BTreeMap::from([("flask".to_owned(), reference.clone())]);
    let template = |pod: Value| json!({"spec": {"template": {"spec": pod}}});
    for (api, kind) in [
        ("apps/v1", "Deployment"),
        ("apps/v1", "StatefulSet"),
        ("apps/v1", "DaemonSet"),
        ("apps/v1", "ReplicaSet"),
        ("batch/v1", "Job"),
        ("v1", "ReplicationController"),
        ("v1", "Pod"),
        ("v1", "PodTemplate"),
        ("batch/v1", "CronJob"),
    ] {
        let body = match kind {
            "Pod" => json!({"spec": pod("flask:1")}),
            "PodTemplate" => json!({"template": {"spec": pod("flask:1")}}),
            "CronJob" => json!({"spec": {"jobTemplate": template(pod("flask:1"))}}),
            _ => template(pod("flask:1")),
        };
        let mut objects = [object(api, kind, body)];
        assert_eq!(
            substitute(&mut objects, &images),
            Vec::<String>::new(),
            "{kind}"
        );
        let new = reference.to_string();
        assert_eq!(
            images_of(&objects[0]),
            [&new, &new, "other:1", &new, &new],
            "{kind}"
        );
    }
}

#[test]
fn only_the_whole_name_counts() {
    let images = BTreeMap::from([(
        "r.io:5000/flask".to_owned(),
        ImageRef::parse("new:1").unwrap(),
    )]);
    for (image, used) in [
        ("r.io:5000/flask", true),
        ("r.io:5000/flask:1", true),
        (&format!("r.io:5000/flask:1@{DIGEST}"), true),
        ("flask", false),
        ("r.io:5000/flask-x", false),
        ("r.io:5000/flask/x", false),
        ("r.io/flask", false),
    ] {
        let mut objects = [object(
            "v1",
            "Pod",
            json!({"spec": {"containers": [{"image": image}]}}),
        )];
        assert_eq!(
            substitute(&mut objects, &images).is_empty(),
            used,
            "{image}"
        );
        assert_eq!(images_of(&objects[0]), [if used { "new:1" } else { image }]);
    }
}

#[test]
fn unused_images_are_named_and_odd_bodies_are_left_alone() {
    let images = BTreeMap::from([("flask".to_owned(), ImageRef::parse("new:1").unwrap())]);
    for body in [
        json!({}),
        json!({"spec": 1}),
        json!({"spec": {"containers": {"image": "flask"}}}),
        json!({"spec": {"containers": [1, null, {"image": 5}, {}]}}),
    ] {
        let mut objects = [object("v1", "Pod", body.clone())];
        assert_eq!(substitute(&mut objects, &images), ["flask"]);
        assert_eq!(objects[0].body, body);
    }
    let body = json!({"data": {"image": "flask"}});
    assert_eq!(
        substitute(&mut [object("v1", "ConfigMap", body)], &images),
        ["flask"]
    );
}

#[test]
fn an_image_is_in_the_registry_that_its_name_begins_with() {
    let digest = format!("sha256:{}", "0a".repeat(32));
    let pinned = format!("r.example.com/a:1@{digest}");
    for (text, registry, repository, reference) in [
        (
            "r.example.com/team/flask:1",
            "r.example.com",
            "team/flask",
            "1",
        ),
        (
            "r.example.com:5050/flask",
            "r.example.com:5050",
            "flask",
            "latest",
        ),
        ("localhost/flask:1", "localhost", "flask", "1"),
        ("[::1]:5000/flask:1", "[::1]:5000", "flask", "1"),
        ("nginx", "docker.io", "library/nginx", "latest"),
        ("team/flask:2", "docker.io", "team/flask", "2"),
        ("docker.io/nginx:1", "docker.io", "library/nginx", "1"),
        (
            "index.docker.io/team/flask:1",
            "docker.io",
            "team/flask",
            "1",
        ),
        (&pinned, "r.example.com", "a", &digest),
    ] {
        let place = ImageRef::parse(text).expect("a good reference").place();
        let found = (&*place.registry, &*place.repository, &*place.reference);
        assert_eq!(found, (registry, repository, reference), "{text}");
    }
}
