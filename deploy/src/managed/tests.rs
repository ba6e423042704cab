//! Records as they are written and read, and what tells two declarations apart.

use super::*;

fn owner(pairs: &[(&str, &str)]) -> Owner {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let attributes = pairs.iter().map(own).collect();
    Owner::of(&Principal::unchecked(PrincipalKind::GitlabJob, attributes))
}

pub(crate) fn record() -> Record {
    let secret = json!({
        "name": "db",
        "type": "Opaque",
        "keys": {
            "password": {"vault": "database/creds/app", "field": "password"},
            "api": {"vault": "kv/app", "field": "api"},
            "url": {"template": "x://{{ password }}"},
        },
        "rotate": {"outage_budget": "10m"},
    });
    let issued = "2026-01-01T00:00:00Z".parse().expect("a timestamp");
    let credential = Credential {
        path: "database/creds/app".to_owned(),
        lease: Some(LeaseId("database/creds/app/abc".to_owned())),
        accessor: Some(Accessor("acc".to_owned())),
        parent: "own".to_owned(),
        issued,
        seconds: 3_600,
        renewable: true,
    };
    Record {
        declaration: Declaration {
            app: "shop".parse().expect("valid"),
            cluster: "prod".parse().expect("valid"),
            secret: spec::secret(&secret).expect("valid"),
            owner: owner(&[("project_id", "42"), ("ref_path", "refs/heads/main")]),
            rule: "shop-production".to_owned(),
        },
        state: State {
            generation: 3,
            written: issued,
            run: "r1".to_owned(),
            versions: BTreeMap::from([("kv/app".to_owned(), 7)]),
            credentials: BTreeMap::from([(credential.path.clone(), credential)]),
            retiring: Vec::new(),
            stale: false,
            trial: None,
            setback: None,
            restarts: 1,
        },
    }
}

#[test]
fn a_record_is_read_as_it_was_written() {
    let mut record = record();
    let old = record.state.credentials["database/creds/app"].clone();
    record.state.retiring.push(old.clone());
    record.state.trial = Some(Trial {
        backup: backup_name("db"),
        versions: record.state.versions.clone(),
        credentials: BTreeMap::from([("database/creds/app".to_owned(), old)]),
    });
    record.state.setback = Some(Setback {
        at: record.state.written,
        why: "image".to_owned(),
        times: 2,
        versions: BTreeMap::new(),
    });
    assert_eq!(Record::read(&record.to_text()), Ok(record));
}

#[test]
fn a_secret_without_a_record_is_not_managed() {
    assert_eq!(
        Record::of(&json!({"metadata": {"annotations": {}}})),
        Ok(None)
    );
}

#[test]
fn what_cannot_be_read_is_told_and_never_quoted() {
    let text = record().to_text();
    for broken in [
        text.replace("\"v\":1", "\"v\":2"),
        text.replace("\"shop\"", "\"NOT A NAME\""),
        text.replace("\"vault\":\"kv/app\"", "\"vault\":\"kv/../app\""),
        text[..text.len() / 2].to_owned(),
        "hunter2".to_owned(),
    ] {
        let error = Record::read(&broken).expect_err("it is broken");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

#[test]
fn an_owner_is_a_project_and_not_one_of_its_jobs() {
    let one = owner(&[
        ("project_id", "42"),
        ("job_id", "1"),
        ("sha", "a"),
        ("jti", "x"),
    ]);
    let other = owner(&[
        ("project_id", "42"),
        ("job_id", "2"),
        ("sha", "b"),
        ("jti", "y"),
    ]);
    assert_eq!(one, other);
    assert_eq!(one.project(), "42");
    assert_eq!(one.principal().attribute("job_id"), None);
}

#[test]
fn a_record_on_another_secret_or_of_another_owner_has_another_digest() {
    let record = record();
    let base = record.declaration.digest("shop");
    assert_eq!(base, record.declaration.digest("shop"));
    assert_ne!(base, record.declaration.digest("other"));
    let mut other = record.clone();
    other.declaration.owner = owner(&[("project_id", "43")]);
    assert_ne!(base, other.declaration.digest("shop"));
    let mut other = record.clone();
    other.declaration.secret.name = "db2".to_owned();
    assert_ne!(base, other.declaration.digest("shop"));
    let mut renamed = record;
    renamed.declaration.rule = "another-name".to_owned();
    assert_eq!(base, renamed.declaration.digest("shop"));
}

#[test]
fn the_server_says_when_the_agents_wrote() {
    let entry = |manager: &str, operation: &str, time: &str| json!({"manager": manager, "operation": operation, "time": time});
    let secret = json!({"metadata": {"managedFields": [
        entry("quaymaster", "Apply", "2026-01-01T00:00:01Z"),
        entry("quaymaster", "Update", "2026-01-01T00:00:05Z"),
        entry("kubectl-edit", "Update", "2026-01-01T00:00:09Z"),
    ]}});
    let time = written_by_server(&secret).expect("the agents wrote it");
    assert_eq!(time.to_string(), "2026-01-01T00:00:01Z");
    assert_eq!(written_by_server(&json!({})), None);
}

#[test]
fn long_names_have_a_backup_too() {
    assert_eq!(backup_name("db"), "db.previous");
    assert_eq!(backup_name(&"a".repeat(253)).len(), 253);
}
