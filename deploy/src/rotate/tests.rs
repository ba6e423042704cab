//! What is due, by table.

use super::*;
use crate::managed::tests::record;

const NOW: &str = "2026-01-01T12:00:00Z";
const KV: &str = "kv/app";
const DB: &str = "database/creds/app";

fn at(text: &str) -> Timestamp {
    text.parse().expect("a timestamp")
}

/// A record whose Secret is kept fresh so.
fn kept(change: impl FnOnce(&mut Rotate)) -> Record {
    let mut record = record();
    let rotate = record.declaration.secret.rotate.get_or_insert_default();
    change(rotate);
    record
}

struct World {
    newest: BTreeMap<String, Newest>,
    credentials: BTreeMap<String, Known>,
    own: OwnToken,
    found: Found,
    asked: Asked,
    now: Timestamp,
}

impl World {
    /// Everything is as the record says.
    fn quiet() -> Self {
        let newest = Newest {
            version: 7,
            standing: Standing::Live,
        };
        Self {
            newest: BTreeMap::from([(KV.to_owned(), newest)]),
            credentials: BTreeMap::from([(DB.to_owned(), Known::Alive)]),
            own: OwnToken {
                id: "own".to_owned(),
                ends: None,
            },
            found: Found::Whole,
            asked: Asked::No,
            now: at(NOW),
        }
    }

    fn version(version: u64, standing: Standing) -> Self {
        let mut world = Self::quiet();
        let newest = Newest { version, standing };
        world.newest.insert(KV.to_owned(), newest);
        world
    }

    fn due(&self, record: &Record) -> Due {
        due(
            record,
            &Facts {
                now: self.now,
                newest: &self.newest,
                credentials: &self.credentials,
                own: Some(&self.own),
                found: &self.found,
                asked: self.asked,
            },
        )
    }
}

fn only(due: &Due) -> Reason {
    let mut now = due.now.iter();
    let first = now.next().expect("something is due").clone();
    assert_eq!(now.next(), None, "{due:?}");
    first
}

fn new_version(version: u64) -> Reason {
    Reason::Version {
        path: KV.to_owned(),
        version,
    }
}

#[test]
fn nothing_is_due_where_nothing_changed() {
    assert_eq!(World::quiet().due(&record()), Due::default());
}

#[test]
fn a_new_version_is_due_at_once() {
    let due = World::version(8, Standing::Live).due(&record());
    assert_eq!(only(&due), new_version(8));
}

#[test]
fn a_version_that_went_back_is_taken_too() {
    let due = World::version(6, Standing::Live).due(&record());
    assert_eq!(only(&due), new_version(6));
}

#[test]
fn a_pinned_version_is_never_due() {
    let mut record = record();
    let keys = &mut record.declaration.secret.keys;
    let Some(Source::Field { version, .. }) = keys.get_mut("api") else {
        panic!("it is a field");
    };
    *version = Some(7);
    assert!(World::version(8, Standing::Live).due(&record).is_idle());
}

#[test]
fn a_deleted_version_is_kept_and_told() {
    for (standing, word) in [
        (Standing::Deleted, "deleted"),
        (Standing::Destroyed, "destroyed"),
    ] {
        for on_deleted in [OnDeleted::Keep, OnDeleted::Fail] {
            let record = kept(|rotate| rotate.on_deleted = on_deleted);
            let due = World::version(8, standing).due(&record);
            assert!(due.is_idle());
            assert!(due.kept[0].contains(word), "{:?}", due.kept);
        }
    }
}

#[test]
fn the_version_before_a_deleted_one_is_taken_where_that_is_asked() {
    let record = kept(|rotate| rotate.on_deleted = OnDeleted::Previous);
    let due = World::version(9, Standing::Deleted).due(&record);
    assert!(due.is_idle(), "7 is before 9 and was read: {due:?}");
    let due = World::version(7, Standing::Deleted).due(&record);
    assert_eq!(only(&due), new_version(6));
}

#[test]
fn changes_that_nothing_forces_wait_for_age_and_window() {
    let young = kept(|rotate| rotate.min_age = Some(Duration::from_secs(24 * 3_600)));
    let due = World::version(8, Standing::Live).due(&young);
    assert!(due.is_idle());
    assert_eq!(
        due.later,
        Some((at("2026-01-02T00:00:00Z"), new_version(8)))
    );

    let nightly = kept(|rotate| {
        let window = crate::spec::Window::parse("daily 02:00-03:00");
        rotate.windows = vec![window.expect("valid")];
    });
    let mut world = World::version(8, Standing::Live);
    let due = world.due(&nightly);
    assert_eq!(
        due.later,
        Some((at("2026-01-02T02:00:00Z"), new_version(8)))
    );
    world.now = at("2026-01-02T02:30:00Z");
    assert_eq!(only(&world.due(&nightly)), new_version(8));
}

#[test]
fn what_ends_does_not_wait() {
    let nightly = kept(|rotate| {
        let window = crate::spec::Window::parse("daily 02:00-03:00");
        rotate.windows = vec![window.expect("valid")];
        rotate.min_age = Some(Duration::from_secs(24 * 3_600));
    });
    let path = DB.to_owned();
    for (known, reason) in [
        (Known::Ending, Reason::Ending { path: path.clone() }),
        (Known::Gone, Reason::Gone { path: path.clone() }),
    ] {
        let mut world = World::quiet();
        world.credentials.insert(path.clone(), known);
        assert_eq!(only(&world.due(&nightly)), reason);
    }
    let mut world = World::quiet();
    world.own.ends = Some(at("2026-01-01T12:15:00Z"));
    let reason = Reason::TokenEnds { path };
    assert_eq!(
        only(&world.due(&nightly)),
        reason,
        "twice the budget is near"
    );
    world.own.ends = Some(at("2026-01-01T13:00:00Z"));
    assert!(world.due(&nightly).is_idle());
    world.own.id = "another".to_owned();
    world.own.ends = Some(at(NOW));
    assert!(
        world.due(&nightly).is_idle(),
        "it is not held by that token"
    );
}

#[test]
fn what_did_not_work_is_not_tried_again_but_a_newer_version_is() {
    let mut record = record();
    record.state.setback = Some(Setback {
        at: at(NOW),
        why: "crash".to_owned(),
        times: 3,
        versions: BTreeMap::from([(KV.to_owned(), 8)]),
    });
    let due = World::version(8, Standing::Live).due(&record);
    assert!(due.is_idle() && due.later.is_none());
    assert!(due.kept[0].contains("did not work"), "{:?}", due.kept);
    let due = World::version(9, Standing::Live).due(&record);
    assert_eq!(
        due.later,
        Some((at("2026-01-01T12:40:00Z"), new_version(9)))
    );
}

#[test]
fn waits_after_setbacks_grow_to_a_day() {
    let after = |times| {
        let setback = Setback {
            at: at(NOW),
            why: String::new(),
            times,
            versions: BTreeMap::new(),
        };
        after_setback(&setback).duration_since(at(NOW)).as_secs()
    };
    assert_eq!([after(1), after(2), after(3)], [600, 1_200, 2_400]);
    assert_eq!(after(60), 24 * 3_600);
}

#[test]
fn damage_deletion_and_open_changes_are_due() {
    let mut world = World::quiet();
    world.found = Found::Deleted;
    assert_eq!(only(&world.due(&record())), Reason::Deleted);
    let keys = BTreeSet::from(["api".to_owned()]);
    world.found = Found::Damaged(keys.clone());
    assert_eq!(only(&world.due(&record())), Reason::Damaged { keys });
    let mut open = record();
    let old = open.state.credentials[DB].clone();
    open.state.retiring.push(old);
    assert_eq!(only(&World::quiet().due(&open)), Reason::Unsettled);
    let mut world = World::quiet();
    world.asked = Asked::Yes;
    assert_eq!(only(&world.due(&record())), Reason::Asked);
}

#[test]
fn a_clock_that_jumps_an_hour_replaces_nothing_and_restarts_nothing() {
    // Two cells of the fault matrix, with a clock that is told: the agent of a real server cannot be given
    // another wall clock. When leases end is kept on a monotonic clock, which no jump moves.
    for jump in ["2026-01-01T11:00:00Z", "2026-01-01T13:00:00Z"] {
        let mut world = World::quiet();
        world.now = at(jump);
        assert_eq!(world.due(&record()), Due::default(), "at {jump}");
        world.newest.insert(
            KV.to_owned(),
            Newest {
                version: 8,
                standing: Standing::Live,
            },
        );
        let due = world.due(&kept(|_| {}));
        assert_eq!(only(&due), new_version(8), "at {jump}");
    }
}
