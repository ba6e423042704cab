//! Secrets that are kept fresh, as text for people. Pure.
//!
//! Called by `secrets`. One row a Secret, and below the table what there is to know about each; what
//! is not known is a dash, never a guess.

use proto::managed::ManagedList;
use proto::managed::ManagedSecret;
use proto::managed::Taken;

use crate::log::clean;

const HEADS: [&str; 9] = [
    "CLUSTER",
    "NAMESPACE",
    "NAME",
    "STATE",
    "AGE",
    "EXPIRES IN",
    "VERSIONS",
    "LAST CONTACT",
    "AGENT",
];

/// Renders a list: the table, the notes, and how soon changes are noticed.
pub(crate) fn list(list: &ManagedList) -> String {
    let mut out = String::new();
    if !list.secrets.is_empty() {
        out = table(&list.secrets);
    } else if list.unread.is_empty() {
        return "no Secrets are kept fresh\n".to_owned();
    }
    for cluster in &list.unread {
        let text = format!(
            "{cluster}: not read yet by the agent, so what is kept fresh there is missing here"
        );
        line(&text, &mut out);
    }
    for secret in &list.secrets {
        if let Some(stale) = &secret.stale {
            let text = format!(
                "{}: stale since {}: {}",
                place(secret),
                stale.since,
                stale.why
            );
            line(&text, &mut out);
        }
        // What it is stale for was just said.
        let why = secret.stale.as_ref().map(|stale| &stale.why);
        for note in secret.notes.iter().filter(|note| Some(*note) != why) {
            line(&format!("{}: {note}", place(secret)), &mut out);
        }
    }
    for folder in &list.folders {
        let way = if folder.whole {
            "asked as a whole"
        } else {
            "each secret asked by itself"
        };
        let within = folder.within_millis;
        let text = format!(
            "{}: {way}, a change is noticed within {within} ms",
            folder.folder
        );
        line(&text, &mut out);
    }
    out
}

/// Renders one Secret with everything that is known.
pub(crate) fn one(secret: &ManagedSecret) -> String {
    let mut out = String::new();
    let mut row = |name: &str, value: &str| line(&format!("{name:<13}  {value}"), &mut out);
    row("secret", &place(secret));
    row("app", secret.app.as_str());
    row("project", or_dash(&secret.project));
    row("state", secret.freshness.word());
    row("written", or_dash(&secret.written));
    row("age", &age(secret));
    row("generation", &secret.generation.to_string());
    row("run", or_dash(&secret.run));
    for (path, version) in &secret.versions {
        row("version", &format!("{version} of {path}"));
    }
    for credential in &secret.credentials {
        let renewable = if credential.renewable {
            ", can be extended"
        } else {
            ""
        };
        let left = span(credential.left_seconds);
        row(
            "credential",
            &format!("{}: {left} left{renewable}", credential.path),
        );
    }
    row("expires in", &expiry(secret));
    row(
        "last contact",
        secret.last_contact.as_deref().unwrap_or("-"),
    );
    if let Some(stale) = &secret.stale {
        row("stale since", &format!("{}: {}", stale.since, stale.why));
    }
    row("restarts", &secret.restarts.to_string());
    row("agent", or_dash(&secret.agent));
    for note in &secret.notes {
        row("note", note);
    }
    out
}

/// Says what was begun, and how to look; `look` is the command that shows it.
pub(crate) fn begun(taken: &Taken, look: &str) -> String {
    let mut out = String::new();
    for secret in &taken.secrets {
        line(&format!("{secret}: the agent looks at it now"), &mut out);
    }
    if taken.secrets.is_empty() {
        line(
            "no Secret that is kept fresh has values from there",
            &mut out,
        );
        return out;
    }
    if let Some(run) = &taken.run {
        line(
            &format!("run {run}: quaymaster log --follow {run}"),
            &mut out,
        );
    }
    line(&format!("how it goes: {look}"), &mut out);
    out
}

/// Says what is kept fresh no more.
pub(crate) fn forgotten(taken: &Taken) -> String {
    let mut out = String::new();
    for secret in &taken.secrets {
        let text = "is kept fresh no more; its values stay, and its credentials end by themselves";
        line(&format!("{secret} {text}"), &mut out);
    }
    out
}

fn table(secrets: &[ManagedSecret]) -> String {
    let mut rows = vec![HEADS.map(str::to_owned)];
    rows.extend(secrets.iter().map(cells));
    let mut widths = [0; HEADS.len()];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for row in &rows {
        let padded = row.iter().zip(widths);
        let padded = padded.map(|(cell, width)| format!("{cell:<width$}"));
        line(&padded.collect::<Vec<_>>().join("  "), &mut out);
    }
    out
}

fn cells(secret: &ManagedSecret) -> [String; HEADS.len()] {
    let versions = secret.versions.iter();
    let versions: Vec<String> = versions
        .map(|(path, version)| format!("{path}={version}"))
        .collect();
    [
        secret.cluster.to_string(),
        secret.namespace.to_string(),
        secret.name.clone(),
        secret.freshness.word().to_owned(),
        age(secret),
        expiry(secret),
        or_dash(&versions.join(",")).to_owned(),
        secret
            .last_contact
            .clone()
            .unwrap_or_else(|| "-".to_owned()),
        or_dash(&secret.agent).to_owned(),
    ]
    .map(|cell| clean(&cell).replace('\n', " "))
}

fn place(secret: &ManagedSecret) -> String {
    format!("{}/{}/{}", secret.cluster, secret.namespace, secret.name)
}

/// Values that were never written have no age.
fn age(secret: &ManagedSecret) -> String {
    if secret.written.is_empty() {
        "-".to_owned()
    } else {
        span(secret.age_seconds)
    }
}

fn expiry(secret: &ManagedSecret) -> String {
    secret
        .expires_in_seconds
        .map_or_else(|| "-".to_owned(), span)
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

/// Writes a time in its two largest units.
fn span(seconds: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let first = UNITS.iter().position(|(size, _)| seconds >= *size);
    let Some(first) = first else {
        return "0s".to_owned();
    };
    let mut rest = seconds;
    let mut out = String::new();
    for (size, unit) in UNITS.iter().skip(first).take(2) {
        let count = rest / size;
        rest %= size;
        if count > 0 {
            out.push_str(&format!("{count}{unit}"));
        }
    }
    out
}

/// Appends one line without control characters.
fn line(text: &str, out: &mut String) {
    let text = clean(text).replace('\n', " ");
    out.push_str(text.trim_end());
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded() -> ManagedList {
        let golden = include_str!("../../../proto/golden/managed_list.json");
        serde_json::from_str(golden).expect("the recorded body")
    }

    #[test]
    fn the_table_has_a_row_a_secret_and_the_notes_below() {
        let text = list(&recorded());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 5, "{text}");
        assert!(lines[0].starts_with("CLUSTER  NAMESPACE  NAME"));
        for word in ["kept", "1h30m", "50m", "kv/shop/api=7", "runner-1"] {
            assert!(lines[1].contains(word), "{word} is not in {}", lines[1]);
        }
        let unknown: Vec<&str> = lines[2].split_whitespace().collect();
        assert_eq!(unknown[3..], ["unknown", "-", "-", "-", "-", "-"]);
        let stale = "prod/shop/shop-db: stale since 2026-11-24T09:00:00.000Z: version 8";
        assert!(lines[3].starts_with(stale), "{}", lines[3]);
        assert!(lines[4].ends_with("within 1000 ms"), "{}", lines[4]);
    }

    #[test]
    fn what_is_not_read_yet_is_not_called_empty() {
        let mut none = ManagedList {
            secrets: Vec::new(),
            folders: Vec::new(),
            unread: Vec::new(),
        };
        assert_eq!(list(&none), "no Secrets are kept fresh\n");
        none.unread = recorded().secrets[0..1]
            .iter()
            .map(|secret| secret.cluster.clone())
            .collect();
        assert!(
            list(&none).starts_with("prod: not read yet"),
            "{}",
            list(&none)
        );
    }

    #[test]
    fn one_secret_tells_its_credentials_and_notes() {
        let text = one(&recorded().secrets[0]);
        for line in [
            "secret         prod/shop/shop-db\n",
            "version        7 of kv/shop/api\n",
            "credential     database/creds/shop: 50m left, can be extended\n",
            "note           version 8 of kv/shop/api is deleted",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
    }

    #[test]
    fn what_was_begun_says_how_to_look() {
        let mut taken = Taken {
            secrets: vec!["prod/shop/shop-db".to_owned()],
            run: None,
        };
        let text = begun(&taken, "quaymaster secrets list");
        assert!(text.contains("prod/shop/shop-db") && text.ends_with("quaymaster secrets list\n"));
        taken.secrets.clear();
        assert_eq!(begun(&taken, "x").lines().count(), 1);
    }

    #[test]
    fn times_have_two_units() {
        let written = [0, 59, 60, 3_661, 86_400, 90_000, 200_000].map(span);
        assert_eq!(written, ["0s", "59s", "1m", "1h1m", "1d", "1d1h", "2d7h"]);
    }
}
