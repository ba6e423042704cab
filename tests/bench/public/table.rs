//! One row of the table of [`super`], and the lines below it that say why.
//!
//! Called by [`super`]. Invariant: what is printed is what the runs reported and what the programs said.

use std::time::Duration;

use anyhow::Error;
use anyhow::Result;
use serde_json::Value;
use tests::submission::Finished;

use super::Set;
use super::peers::Peers;
use super::peers::Theirs;

/// Words of a row that are as long as they are.
const SAID: usize = 400;

/// How we did.
pub(super) struct Ours {
    pub(super) planned: Finished,
    pub(super) first: Finished,
    pub(super) second: Finished,
    pub(super) took: Duration,
    pub(super) again: Duration,
    /// Applies that the API server saw during the second deploy.
    pub(super) writes: u64,
}

/// A row.
#[derive(Default)]
pub(super) struct Row {
    objects: usize,
    plan: String,
    applied: String,
    seconds: String,
    again: String,
    writes: String,
    others: [String; 4],
    below: Vec<String>,
}

fn seconds(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64())
}

/// `ok`, or the code of the problem.
fn word(done: &Finished) -> String {
    match done.status() {
        200 => "ok".to_owned(),
        _ => done.code(),
    }
}

fn cut(text: &str) -> String {
    let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    text.chars().take(SAID).collect()
}

/// What a run that did not succeed said.
fn why(done: &Finished) -> String {
    let body = done.json().unwrap_or(Value::Null);
    let mut said = Vec::new();
    for key in ["message", "detail"] {
        said.extend(body[key].as_str().map(str::to_owned));
        said.extend(body["problem"][key].as_str().map(str::to_owned));
    }
    for list in ["causes", "errors"] {
        let items = body[list].as_array().into_iter().flatten();
        let items = items.chain(body["problem"][list].as_array().into_iter().flatten());
        said.extend(items.take(3).map(|item| {
            let word = |key: &str| item[key].as_str().unwrap_or_default().to_owned();
            format!("{} {}", word("file"), word("message"))
        }));
    }
    // The verdict repeats what its problem says.
    let mut told: Vec<String> = Vec::new();
    for one in said {
        if !told.iter().any(|before| before.contains(one.trim())) {
            told.push(one);
        }
    }
    cut(&told.join("; "))
}

fn steps(done: &Finished) -> Vec<Value> {
    let body = done.json().unwrap_or(Value::Null);
    body["steps"].as_array().cloned().unwrap_or_default()
}

impl Row {
    /// Prints the first line.
    pub(super) fn head() {
        println!(
            "{:<26}{:<10}{:>7}  {:<17}{:<17}{:>6}{:>7}{:>7}  {:>10}{:>10}{:>10}{:>10}",
            "set",
            "form",
            "objects",
            "planned",
            "applied",
            "s",
            "again",
            "writes",
            "kubectl ss",
            "again",
            "kubectl",
            "helm"
        );
    }

    /// A set that neither Helm nor kubectl can render.
    pub(super) fn unrendered(error: &Error) -> Self {
        Self {
            below: vec![format!(
                "cannot be rendered: {}",
                cut(&format!("{error:#}"))
            )],
            ..Self::default()
        }
    }

    /// A row of what we did.
    pub(super) fn of(ours: Ours) -> Self {
        let planned = steps(&ours.planned);
        let unknown = planned
            .iter()
            .filter(|step| step["action"] == "unknown")
            .count();
        let mut below = Vec::new();
        for (what, run) in [
            ("plan", &ours.planned),
            ("deploy", &ours.first),
            ("again", &ours.second),
        ] {
            if run.status() != 200 {
                below.push(format!("{what}: {}", why(run)));
            }
        }
        let changed = steps(&ours.second);
        let changed = changed.iter().filter(|step| step["action"] != "same");
        for step in changed.take(5) {
            below.push(format!(
                "again: {} {} {}",
                step["action"], step["object"], step["reason"]
            ));
        }
        Self {
            objects: planned.len(),
            plan: match unknown {
                0 => word(&ours.planned),
                some => format!("{}, {some} not", word(&ours.planned)),
            },
            applied: word(&ours.first),
            seconds: seconds(ours.took),
            again: seconds(ours.again),
            writes: ours.writes.to_string(),
            below,
            ..Self::default()
        }
    }

    /// Adds what others do.
    pub(super) async fn theirs(&mut self, peers: &Peers<'_>) -> Result<()> {
        let server_side = ["--server-side"];
        self.tell(0, "kubectl --server-side", peers.apply(&server_side).await);
        self.tell(
            1,
            "kubectl --server-side again",
            peers.apply(&server_side).await,
        );
        peers.clear().await?;
        self.tell(2, "kubectl", peers.apply(&[]).await);
        peers.clear().await?;
        self.tell(3, "helm", peers.helm().await);
        peers.clear().await
    }

    fn tell(&mut self, place: usize, who: &str, theirs: Theirs) {
        self.others[place] = match theirs {
            Ok(time) => seconds(time),
            Err(said) => {
                self.below.push(format!("{who}: {said}"));
                "failed".to_owned()
            }
        };
    }

    /// Prints the row.
    pub(super) fn print(&self, set: &Set) {
        println!(
            "{:<26}{:<10}{:>7}  {:<17}{:<17}{:>6}{:>7}{:>7}  {:>10}{:>10}{:>10}{:>10}",
            set.name,
            set.form.word(),
            self.objects,
            self.plan,
            self.applied,
            self.seconds,
            self.again,
            self.writes,
            self.others[0],
            self.others[1],
            self.others[2],
            self.others[3]
        );
        for line in &self.below {
            println!("    {line}");
        }
    }
}
