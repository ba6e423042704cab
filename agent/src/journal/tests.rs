//! The journal on a real disk: order, restart, idempotency keys, forgetting.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;

use deploy::secret::Accessor;
use deploy::secret::LeaseId;
use proto::error::Code;
use proto::report::Status;

use super::*;

fn report(id: u128, mode: Mode) -> Report {
    Report {
        id: RunId::from_bits(id),
        mode,
        name: "flask".parse().expect("a name"),
        cluster: "demo".parse().expect("a name"),
        namespace: "flask".parse().expect("a name"),
        status: Status::Running,
        started: "2026-01-01T00:00:00.000Z".to_owned(),
        finished: None,
        message: "the run is on".to_owned(),
        code: None,
        revision: None,
        problem: None,
        steps: Vec::new(),
        images: Vec::new(),
        url: None,
        plan: None,
        causes: Vec::new(),
        warnings: Vec::new(),
    }
}

fn run(id: u128, key: Option<&str>, digest: u8) -> NewRun {
    NewRun {
        owner: "project:42".to_owned(),
        key: key.map(str::to_owned),
        digest: [digest; 32],
        report: report(id, Mode::Deploy),
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).expect("a time")
}

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self { folder }
    }

    fn open(&self) -> Result<DiskJournal, OpenError> {
        DiskJournal::open(&self.folder.path().join("state"))
    }
}

#[tokio::test]
async fn the_same_key_finds_its_run_for_a_day() {
    let place = Place::new();
    let journal = place.open().expect("it opens");
    let begun = journal.begin(run(1, Some("k"), 7), at(0)).await.unwrap();
    assert_eq!(begun, Begun::New);
    let again = journal.begin(run(2, Some("k"), 7), at(60)).await.unwrap();
    assert_eq!(again, Begun::Same(RunId::from_bits(1)));
    let other = journal.begin(run(3, Some("k"), 8), at(60)).await.unwrap();
    assert_eq!(other, Begun::OtherBody);
    let next_day = at(86_401);
    let late = journal.begin(run(4, Some("k"), 8), next_day).await.unwrap();
    assert_eq!(late, Begun::New);
    assert_eq!(journal.load(&RunId::from_bits(2)).await.unwrap(), None);
}

#[tokio::test]
async fn keys_of_dry_runs_and_other_owners_are_apart() {
    let place = Place::new();
    let journal = place.open().expect("it opens");
    journal.begin(run(1, Some("k"), 7), at(0)).await.unwrap();
    let dry = journal
        .seen("project:42", "k", Mode::DryRun, [7; 32], at(0))
        .await;
    assert_eq!(dry.unwrap(), Begun::New);
    let other = journal
        .seen("project:43", "k", Mode::Deploy, [7; 32], at(0))
        .await;
    assert_eq!(other.unwrap(), Begun::New);
}

#[tokio::test]
async fn a_run_that_was_cut_off_is_told_truthfully() {
    let place = Place::new();
    let lease = || LeaseId("database/creds/flask/1".to_owned());
    {
        let journal = place.open().expect("it opens");
        for id in 1..=4 {
            journal.begin(run(id, None, 0), at(0)).await.unwrap();
        }
        let writing = journal.of_run(RunId::from_bits(2));
        let issued = Entry::LeaseIssued { lease: lease() };
        writing.append(issued.clone()).await.unwrap();
        writing.append(Entry::Applying { fence: 1 }).await.unwrap();
        let written = journal.of_run(RunId::from_bits(3));
        for entry in [
            issued,
            Entry::Applying { fence: 1 },
            Entry::LeaseRevoked { lease: lease() },
            Entry::Applied {
                objects: Vec::new(),
            },
        ] {
            written.append(entry).await.unwrap();
        }
        let mut done = report(4, Mode::Deploy);
        done.status = Status::Succeeded;
        journal.finish(done).await.unwrap();
    }
    let journal = place.open().expect("it opens again");
    let cut = journal.recover(at(100)).await.unwrap();
    let standing: Vec<_> = cut
        .iter()
        .map(|run| (run.phase, run.leases.len()))
        .collect();
    assert_eq!(
        standing,
        [
            (Phase::NothingWritten, 0),
            (Phase::Writing, 1),
            (Phase::Written, 0)
        ]
    );
    let record = journal.load(&RunId::from_bits(2)).await.unwrap().unwrap();
    assert_eq!(record.report.status, Status::Interrupted);
    assert_eq!(record.report.code, Some(Code::Interrupted));
    assert!(record.report.message.contains(Phase::Writing.message()));
    let done = journal.load(&RunId::from_bits(4)).await.unwrap().unwrap();
    assert_eq!(done.report.status, Status::Succeeded);

    assert_eq!(journal.unfinished().await.unwrap(), cut);
    journal.settle(&RunId::from_bits(2)).await.unwrap();
    assert_eq!(journal.unfinished().await.unwrap().len(), 2);
}

#[tokio::test]
async fn tokens_that_were_made_and_not_ended_are_listed_after_a_restart() {
    let place = Place::new();
    let token = |name: &str| Accessor(format!("accessor-{name}"));
    {
        let journal = place.open().expect("it opens");
        journal.begin(run(1, None, 0), at(0)).await.unwrap();
        let entries = journal.of_run(RunId::from_bits(1));
        for name in ["db", "cache", "web"] {
            let made = Entry::TokenMade {
                accessor: token(name),
                secret: format!("flask-{name}"),
            };
            entries.append(made).await.unwrap();
        }
        let ended = Entry::TokenEnded {
            accessor: token("db"),
        };
        entries.append(ended).await.unwrap();
        let kept = Entry::TokenKept {
            accessor: token("web"),
        };
        entries.append(kept).await.unwrap();
    }
    let journal = place.open().expect("it opens again");
    // Whatever becomes of the run.
    journal.settle(&RunId::from_bits(1)).await.unwrap();
    let made = MadeToken {
        run: RunId::from_bits(1),
        secret: "flask-cache".to_owned(),
    };
    assert_eq!(journal.tokens().await.unwrap(), [(token("cache"), made)]);
    journal.forget_token(&token("cache")).await.unwrap();
    assert_eq!(journal.tokens().await.unwrap(), []);
}

#[tokio::test]
async fn runs_are_listed_newest_first_by_owner() {
    let place = Place::new();
    let journal = place.open().expect("it opens");
    for id in 1..=3 {
        journal.begin(run(id, None, 0), at(0)).await.unwrap();
    }
    let mut foreign = run(4, None, 0);
    foreign.owner = "project:43".to_owned();
    journal.begin(foreign, at(0)).await.unwrap();
    let ids = |reports: Vec<Report>| reports.into_iter().map(|r| r.id).collect::<Vec<_>>();
    let first = journal.list("project:42", None, 2).await.unwrap();
    assert_eq!(ids(first), [RunId::from_bits(3), RunId::from_bits(2)]);
    let next = Some(RunId::from_bits(2));
    let second = journal.list("project:42", next, 2).await.unwrap();
    assert_eq!(ids(second), [RunId::from_bits(1)]);
}

#[tokio::test]
async fn old_runs_and_keys_are_forgotten_but_not_unsettled_ones() {
    let place = Place::new();
    let journal = place.open().expect("it opens");
    let day = 86_400_000_u128;
    let old = journal
        .begin(run(day << 80, Some("k"), 1), at(86_400))
        .await;
    old.unwrap();
    let mut ended = report((day + 1) << 80, Mode::Deploy);
    journal
        .begin(
            NewRun {
                report: ended.clone(),
                ..run(0, None, 1)
            },
            at(86_400),
        )
        .await
        .unwrap();
    ended.status = Status::Failed;
    journal.finish(ended.clone()).await.unwrap();
    journal.purge(at(86_400 * 60)).await.unwrap();
    assert_eq!(journal.load(&ended.id).await.unwrap(), None);
    assert!(
        journal
            .load(&RunId::from_bits(day << 80))
            .await
            .unwrap()
            .is_some()
    );
    assert_eq!(journal.list("project:42", None, 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_second_agent_on_the_same_folder_is_refused() {
    let place = Place::new();
    let first = place.open().expect("it opens");
    assert!(matches!(place.open(), Err(OpenError::InUse { .. })));
    drop(first);
    assert!(place.open().is_ok());
}

#[test]
fn the_files_are_for_the_agent_alone() {
    let place = Place::new();
    let state = place.folder.path().join("state");
    drop(place.open().expect("it opens"));
    let mode = |path: &Path| fs::metadata(path).expect("it is there").mode() & 0o777;
    assert_eq!(mode(&state), 0o700);
    assert_eq!(mode(&state.join("journal.redb")), 0o600);
    fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).expect("it is ours");
    assert!(matches!(
        place.open(),
        Err(OpenError::Mode { mode: 0o755, .. })
    ));
}
