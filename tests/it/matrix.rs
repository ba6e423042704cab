//! The fault matrix of Secrets that are kept fresh: one row a cell, with the fault, when it comes, and what
//! may happen then.
//!
//! A cell's promise is checked in PostgreSQL, in Kubernetes and at the agent, see [`tests::matrix`]. Rows are
//! played one after the other in a few worlds at once. `-- --nocapture` prints what was promised and what
//! happened.

use std::time::Duration;

use anyhow::Result;
use anyhow::ensure;
use tests::faults::Fault;
use tests::matrix::Cell;
use tests::matrix::Lasts;
use tests::matrix::Phase;
use tests::matrix::Promise;
use tests::matrix::Row;
use tests::matrix::Setup;
use tests::matrix::Site;
use tests::matrix::Used;

/// Credentials that need nothing while a cell is played.
pub(crate) const LONG: Setup = Setup {
    life: "1h",
    longest: "24h",
    rotate: "{ outage_budget: 60s }",
    used: Used::ByNobody,
};
/// Credentials that are extended about every twelve seconds.
pub(crate) const SHORT: Setup = Setup {
    life: "20s",
    longest: "1h",
    rotate: "{ outage_budget: 4s }",
    used: Used::ByNobody,
};
/// As [`LONG`], with a Deployment that is restarted at each change.
const USED: Setup = Setup {
    used: Used::ByDeployment,
    ..LONG
};

fn answer(status: u16, headers: &str, body: &str) -> Fault {
    Fault::Answer(status, headers.to_owned(), body.to_owned())
}

fn says(status: u16, words: &str) -> Fault {
    answer(status, "", &format!(r#"{{"errors":["{words}"]}}"#))
}

fn sealed() -> Fault {
    says(503, "Vault is sealed")
}

fn forbidden() -> Fault {
    says(403, "permission denied")
}

fn throttled() -> Fault {
    answer(
        429,
        "retry-after: 1\r\n",
        r#"{"errors":["rate limit quota exceeded"]}"#,
    )
}

fn not_found() -> Fault {
    answer(
        404,
        "",
        r#"{"errors":[],"data":null,"warnings":["no such thing"]}"#,
    )
}

fn page() -> Fault {
    answer(502, "", "<html>bad gateway</html>")
}

fn nonsense() -> Fault {
    answer(200, "", r#"{"data": 5, "lease_id": 7}"#)
}

/// Longer than the agent waits for Vault here.
fn slow() -> Fault {
    Fault::Delay(Duration::from_secs(4))
}

/// An answer of the API server.
fn refused(status: u16, reason: &str) -> Fault {
    let body = format!(
        r#"{{"kind":"Status","apiVersion":"v1","metadata":{{}},"status":"Failure","message":"a fault","reason":"{reason}","code":{status}}}"#
    );
    answer(
        status,
        "content-type: application/json\r\nretry-after: 1\r\n",
        &body,
    )
}

fn cell(name: &'static str, phase: Phase, fault: Fault, met: usize, promise: Promise) -> Cell {
    Cell {
        name,
        phase,
        fault,
        lasts: Lasts::Met(met),
        promise,
    }
}

/// Plays groups of cells at once, each in a world of its own.
async fn play(name: &str, setup: Setup, groups: Vec<Vec<Cell>>) -> Result<()> {
    let played = groups.into_iter().map(async |cells| {
        let mut rows = Vec::new();
        let mut site = Site::new(name, setup).await?;
        for cell in cells {
            rows.push(site.play(&cell).await);
            if rows.last().is_some_and(|row| row.happened.is_err()) {
                // What is broken there is not the next cell's.
                site = Site::new(name, setup).await?;
            }
        }
        Ok::<_, anyhow::Error>(rows)
    });
    let mut rows = Vec::new();
    for played in futures::future::join_all(played).await {
        rows.extend(played?);
    }
    judge(&rows)
}

/// Prints rows, and fails with those that broke their promise.
pub(crate) fn judge(rows: &[Row]) -> Result<()> {
    let mut broken = Vec::new();
    for row in rows {
        let (mark, happened) = match &row.happened {
            Ok(happened) => ("kept", happened.clone()),
            Err(error) => ("BROKEN", format!("{error:#}")),
        };
        println!(
            "| {} | {} | {} | {mark}: {happened} | {:.1} s |",
            row.name,
            row.phase,
            row.promised,
            row.took.as_secs_f32()
        );
        if row.happened.is_err() {
            let (name, phase, log) = (&row.name, &row.phase, &row.log);
            broken.push(format!("{name} / {phase}: {happened}\n{log}"));
        }
    }
    ensure!(
        broken.is_empty(),
        "{} cells broke their promise:\n{}",
        broken.len(),
        broken.join("\n\n")
    );
    Ok(())
}

#[tokio::test]
async fn cells_while_versions_are_checked() -> Result<()> {
    use Phase::Check;
    use Promise as P;
    let first = vec![
        cell("sealed", Check, sealed(), 2, P::VERSION),
        cell("standby (429)", Check, answer(429, "", ""), 2, P::VERSION),
        cell("standby (472)", Check, answer(472, "", ""), 2, P::VERSION),
        cell("standby (473)", Check, answer(473, "", ""), 2, P::VERSION),
        cell("rate limit (429)", Check, throttled(), 2, P::VERSION),
        cell(
            "stale (412)",
            Check,
            says(412, "required index"),
            2,
            P::VERSION,
        ),
        cell("forbidden (403)", Check, forbidden(), 2, P::VERSION),
    ];
    let second = vec![
        cell("not found (404)", Check, not_found(), 2, P::VERSION),
        cell(
            "broken (500)",
            Check,
            says(500, "internal error"),
            2,
            P::VERSION,
        ),
        cell("error page (502)", Check, page(), 2, P::VERSION),
        cell("cut before", Check, Fault::Refuse, 2, P::VERSION),
        cell("cut after", Check, Fault::CutAnswer, 2, P::VERSION),
        cell("half an answer", Check, Fault::HalfAnswer, 2, P::VERSION),
        cell("wrong JSON", Check, nonsense(), 2, P::VERSION),
        cell("slow", Check, slow(), 2, P::VERSION),
    ];
    play("m-check", LONG, vec![first, second]).await
}

#[tokio::test]
async fn cells_while_a_credential_is_issued() -> Result<()> {
    use Phase::Intent;
    use Phase::Issue;
    use Promise as P;
    let first = vec![
        cell("sealed", Intent, sealed(), 2, P::ONE),
        cell("cut after", Intent, Fault::CutAnswer, 1, P::ONE),
        cell("forbidden (403)", Intent, forbidden(), 1, P::ONE),
        cell("wrong JSON", Intent, nonsense(), 1, P::ONE),
        cell("sealed", Issue, sealed(), 2, P::ONE),
        cell("rate limit (429)", Issue, throttled(), 2, P::ONE),
        cell("standby (473)", Issue, answer(473, "", ""), 2, P::ONE),
        cell("stale (412)", Issue, says(412, "required index"), 1, P::ONE),
    ];
    let after = Fault::AnswerAfter(504, String::new(), "<html>timeout</html>".to_owned());
    let second = vec![
        cell("forbidden (403)", Issue, forbidden(), 1, P::ONE),
        cell("not found (404)", Issue, not_found(), 1, P::ONE),
        cell(
            "broken (500)",
            Issue,
            says(500, "internal error"),
            1,
            P::ONE,
        ),
        cell(
            "error page after it was done",
            Issue,
            after,
            1,
            P::ONE_OF_TWO,
        ),
        cell("cut before", Issue, Fault::Refuse, 1, P::ONE),
        cell("cut after", Issue, Fault::CutAnswer, 1, P::ONE_OF_TWO),
        cell("half an answer", Issue, Fault::HalfAnswer, 1, P::ONE_OF_TWO),
        cell("wrong JSON", Issue, nonsense(), 1, P::ONE),
        cell("slow", Issue, slow(), 2, P::ONE),
    ];
    play("m-issue", LONG, vec![first, second]).await
}

#[tokio::test]
async fn cells_while_a_credential_is_extended() -> Result<()> {
    use Phase::Renew;
    use Promise as P;
    let lasting = |name, fault| Cell {
        lasts: Lasts::Changed,
        ..cell(name, Renew, fault, 0, P::ONE)
    };
    let groups = vec![
        vec![
            cell("sealed", Renew, sealed(), 2, P::STAYS),
            cell("rate limit (429)", Renew, throttled(), 2, P::STAYS),
            cell("standby (472)", Renew, answer(472, "", ""), 2, P::STAYS),
            lasting("forbidden (403), for ever", forbidden()),
        ],
        vec![
            cell(
                "broken (500)",
                Renew,
                says(500, "internal error"),
                2,
                P::STAYS,
            ),
            cell("error page (502)", Renew, page(), 2, P::STAYS),
            cell("cut before", Renew, Fault::Refuse, 2, P::STAYS),
            lasting("not found (404), for ever", not_found()),
        ],
        vec![
            cell("cut after", Renew, Fault::CutAnswer, 2, P::STAYS),
            cell("half an answer", Renew, Fault::HalfAnswer, 2, P::STAYS),
            cell("slow", Renew, slow(), 2, P::STAYS),
            lasting("wrong JSON, for ever", nonsense()),
        ],
        vec![
            cell(
                "stale (412)",
                Renew,
                says(412, "required index"),
                2,
                P::STAYS,
            ),
            cell("forbidden (403), once", Renew, forbidden(), 1, P::STAYS),
            cell(
                "database away (400)",
                Renew,
                says(400, "failed to renew entry: dial tcp"),
                2,
                P::STAYS,
            ),
            lasting("not renewable", says(400, "lease is not renewable")),
        ],
    ];
    play("m-renew", SHORT, groups).await
}

#[tokio::test]
async fn cells_while_a_secret_is_written() -> Result<()> {
    use Phase::Write;
    use Promise as P;
    let after = Fault::AnswerAfter(504, String::new(), "<html>timeout</html>".to_owned());
    let first = vec![
        cell(
            "conflict (409)",
            Write,
            refused(409, "Conflict"),
            1,
            P::ONE_OF_TWO,
        ),
        cell(
            "invalid (422)",
            Write,
            refused(422, "Invalid"),
            1,
            P::ONE_OF_TWO,
        ),
        cell(
            "throttled (429)",
            Write,
            refused(429, "TooManyRequests"),
            2,
            P::ONE,
        ),
        cell(
            "broken (500)",
            Write,
            refused(500, "InternalError"),
            1,
            P::ONE,
        ),
        cell(
            "away (503)",
            Write,
            refused(503, "ServiceUnavailable"),
            2,
            P::ONE,
        ),
    ];
    let second = vec![
        cell("cut before", Write, Fault::Refuse, 1, P::ONE),
        cell("cut after", Write, Fault::CutAnswer, 1, P::ONE),
        cell("half an answer", Write, Fault::HalfAnswer, 1, P::ONE),
        cell("error page after it was done", Write, after, 1, P::ONE),
        cell(
            "slow answer",
            Write,
            Fault::LateAnswer(Duration::from_secs(18)),
            1,
            P::ONE,
        ),
    ];
    play("m-write", LONG, vec![first, second]).await
}

#[tokio::test]
async fn cells_while_what_uses_it_is_restarted() -> Result<()> {
    use Phase::Restart;
    use Promise as P;
    let cells = vec![
        cell(
            "conflict (409)",
            Restart,
            refused(409, "Conflict"),
            1,
            P::ONE,
        ),
        cell(
            "throttled (429)",
            Restart,
            refused(429, "TooManyRequests"),
            2,
            P::ONE,
        ),
        cell(
            "away (503)",
            Restart,
            refused(503, "ServiceUnavailable"),
            2,
            P::ONE,
        ),
        cell("cut after", Restart, Fault::CutAnswer, 1, P::ONE),
        cell(
            "broken (500)",
            Restart,
            refused(500, "InternalError"),
            1,
            P::ONE,
        ),
        cell("invalid (422)", Restart, refused(422, "Invalid"), 1, P::ONE),
    ];
    play("m-restart", USED, vec![cells]).await
}

#[tokio::test]
async fn cells_while_the_credential_of_before_is_ended() -> Result<()> {
    use Phase::Revoke;
    use Promise as P;
    let cells = vec![
        cell("sealed", Revoke, sealed(), 2, P::ONE),
        cell("forbidden (403)", Revoke, forbidden(), 1, P::ONE),
        cell(
            "broken (500)",
            Revoke,
            says(500, "internal error"),
            2,
            P::ONE,
        ),
        cell("cut after", Revoke, Fault::CutAnswer, 1, P::ONE),
        cell("slow", Revoke, slow(), 2, P::ONE),
        cell("wrong JSON", Revoke, nonsense(), 1, P::ONE),
    ];
    play("m-revoke", LONG, vec![cells]).await
}

#[tokio::test]
async fn cells_in_which_the_agent_is_killed() -> Result<()> {
    use Phase::Intent;
    use Phase::Issue;
    use Phase::Restart;
    use Phase::Revoke;
    use Phase::Write;
    let long = Duration::from_secs(600);
    let killed = |name, phase, fault, issued| Cell {
        lasts: Lasts::Killed,
        ..cell(name, phase, fault, 1, Promise::at_most_one(issued))
    };
    let before = || Fault::Delay(long);
    let after = || Fault::LateAnswer(long);
    let first = vec![
        killed("kill before the intent", Intent, before(), 1),
        killed("kill after the intent", Issue, before(), 1),
        killed("kill after the lease", Issue, after(), 2),
        killed("kill before the write", Write, before(), 2),
    ];
    let second = vec![
        killed("kill after the write", Write, after(), 1),
        killed("kill before the revoke", Revoke, before(), 1),
        killed("kill after the revoke", Revoke, after(), 1),
    ];
    let third = vec![
        killed("kill before the restart", Restart, before(), 1),
        killed("kill after the restart", Restart, after(), 1),
    ];
    let (unused, used) = futures::join!(
        play("m-kill", LONG, vec![first, second]),
        play("m-kill-used", USED, vec![third])
    );
    unused.and(used)
}
