//! The one text form of a plan, for the agent's job log and for the client alike.
//!
//! Pure. Steps that change something are told one by one, with fields, keys and notes below them;
//! what stays the same is one line when it is much. Marks are the ones that people know from other
//! planners: `+ ~ - -/+ ? =`.

use std::collections::BTreeMap;

use super::Action;
use super::FieldChange;
use super::ImageChange;
use super::KeyChange;
use super::Step;

/// So many unchanged objects are still told one by one.
const FEW: usize = 3;

/// One line of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// What it is about, for readers that color lines.
    pub action: Action,
    /// The text, indented; without a line end of its own, though a note may hold some.
    pub text: String,
}

/// Returns the lines of a plan.
#[must_use]
pub fn lines(steps: &[Step]) -> Vec<Line> {
    let (same, changing): (Vec<&Step>, Vec<&Step>) = steps
        .iter()
        .partition(|step| step.action == Action::Same && step.notes.is_empty());
    let mut lines: Vec<Line> = changing.into_iter().flat_map(of_step).collect();
    if same.len() <= FEW {
        lines.extend(same.into_iter().flat_map(of_step));
        return lines;
    }
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for step in &same {
        let kind = step.object.split(' ').next().unwrap_or_default();
        *kinds.entry(kind).or_default() += 1;
    }
    let kinds = kinds
        .into_iter()
        .map(|(kind, count)| format!("{count} {kind}"));
    lines.push(Line {
        action: Action::Same,
        text: format!(
            "  = {} objects stay the same: {}",
            same.len(),
            kinds.collect::<Vec<_>>().join(", ")
        ),
    });
    lines
}

fn of_step(step: &Step) -> Vec<Line> {
    let Step {
        object,
        action,
        reason,
        keys,
        fields,
        notes,
    } = step;
    let colon = if reason.is_empty() { "" } else { ": " };
    let first = format!(
        "{:>3} {} {object}{colon}{reason}",
        mark(*action),
        word(*action)
    );
    let line = |action: Action, text: String| Line { action, text };
    let mut lines = vec![line(*action, first)];
    lines.extend(fields.iter().map(|field| {
        let FieldChange {
            field,
            before,
            after,
        } = field;
        let (action, text) = match (before, after) {
            (None, Some(after)) => (Action::Create, format!("+ {field}: {after}")),
            (Some(before), None) => (Action::Delete, format!("- {field}: {before}")),
            (Some(before), Some(after)) => {
                (Action::Change, format!("~ {field}: {before} -> {after}"))
            }
            (None, None) => (Action::Change, format!("~ {field}: (changed)")),
        };
        line(action, format!("        {text}"))
    }));
    lines.extend(keys.iter().map(|key| {
        let KeyChange {
            key,
            action,
            source,
        } = key;
        let word = match action {
            Action::Create => "new",
            Action::Change => "changes",
            Action::Same => "same",
            Action::Unknown => "set anew",
            Action::Delete | Action::Recreate => "goes",
        };
        let text = format!("        {} {key}: {word}, from {source}", mark(*action));
        line(*action, text)
    }));
    let told = notes.iter();
    lines.extend(told.map(|note| line(Action::Same, format!("        note: {note}"))));
    lines
}

const fn mark(action: Action) -> &'static str {
    match action {
        Action::Create => "+",
        Action::Change => "~",
        Action::Same => "=",
        Action::Unknown => "?",
        Action::Delete => "-",
        Action::Recreate => "-/+",
    }
}

const fn word(action: Action) -> &'static str {
    match action {
        Action::Create => "create",
        Action::Change => "change",
        Action::Same => "same",
        Action::Unknown => "not known before",
        Action::Delete => "delete",
        Action::Recreate => "recreate",
    }
}

/// Says what becomes of an image, in one line.
#[must_use]
pub fn image(change: &ImageChange) -> String {
    let ImageChange {
        name,
        before,
        after,
    } = change;
    match before {
        None => format!("image {name}: {after}"),
        Some(before) if before == after => format!("image {name}: {after} (unchanged)"),
        Some(before) => format!("image {name}: {before} -> {after}"),
    }
}

/// Counts the steps in one sentence.
#[must_use]
pub fn summary(steps: &[Step]) -> String {
    let count = |action| steps.iter().filter(|step| step.action == action).count();
    if steps.iter().all(|step| step.action == Action::Same) {
        return match steps.len() {
            1 => "nothing would change: the object is as described".to_owned(),
            many => format!("nothing would change: {many} objects are as described"),
        };
    }
    let told: Vec<String> = [
        (Action::Create, "to create"),
        (Action::Change, "to change"),
        (Action::Recreate, "to recreate"),
        (Action::Delete, "to delete"),
        (Action::Unknown, "not known before the run"),
        (Action::Same, "the same"),
    ]
    .into_iter()
    .map(|(action, words)| (count(action), words))
    .filter(|(number, _)| *number > 0)
    .map(|(number, words)| format!("{number} {words}"))
    .collect();
    told.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(object: &str, action: Action) -> Step {
        Step {
            object: object.to_owned(),
            action,
            reason: String::new(),
            keys: Vec::new(),
            fields: Vec::new(),
            notes: Vec::new(),
        }
    }

    fn text(steps: &[Step]) -> String {
        let lines = lines(steps).into_iter();
        lines.map(|line| line.text + "\n").collect()
    }

    #[test]
    fn changes_are_told_field_by_field_and_key_by_key() {
        let field = |field: &str, before: Option<&str>, after: Option<&str>| FieldChange {
            field: field.to_owned(),
            before: before.map(str::to_owned),
            after: after.map(str::to_owned),
        };
        let web = Step {
            reason: "2 fields".to_owned(),
            fields: vec![
                field(".spec.replicas", Some("1"), Some("2")),
                field(".spec.paused", None, Some("true")),
                field(".metadata.labels.old", Some("\"x\""), None),
                field(".env", None, None),
            ],
            notes: vec!["left to the autoscaler".to_owned()],
            ..step("apps/v1/Deployment app/web", Action::Change)
        };
        let db = Step {
            keys: vec![KeyChange {
                key: "password".to_owned(),
                action: Action::Change,
                source: "kv/app field password version 4".to_owned(),
            }],
            ..step("v1/Secret app/db", Action::Change)
        };
        let gone = step("v1/ConfigMap app/old", Action::Delete);
        let anew = step("batch/v1/Job app/migrate", Action::Recreate);
        assert_eq!(
            text(&[web, db, gone, anew]),
            "  ~ change apps/v1/Deployment app/web: 2 fields\n\
             \x20       ~ .spec.replicas: 1 -> 2\n\
             \x20       + .spec.paused: true\n\
             \x20       - .metadata.labels.old: \"x\"\n\
             \x20       ~ .env: (changed)\n\
             \x20       note: left to the autoscaler\n\
             \x20 ~ change v1/Secret app/db\n\
             \x20       ~ password: changes, from kv/app field password version 4\n\
             \x20 - delete v1/ConfigMap app/old\n\
             -/+ recreate batch/v1/Job app/migrate\n"
        );
    }

    #[test]
    fn many_unchanged_objects_are_one_line_and_those_with_notes_are_not_hidden() {
        let mut steps: Vec<Step> = (0..5)
            .map(|number| step(&format!("v1/ConfigMap app/c{number}"), Action::Same))
            .collect();
        steps.push(step("v1/Service app/s", Action::Same));
        steps[2].notes = vec!["kept".to_owned()];
        assert_eq!(
            text(&steps),
            "  = same v1/ConfigMap app/c2\n\
             \x20       note: kept\n\
             \x20 = 5 objects stay the same: 4 v1/ConfigMap, 1 v1/Service\n"
        );
        assert_eq!(text(&steps[..2]).lines().count(), 2);
    }

    #[test]
    fn the_summary_counts_what_there_is() {
        let steps = [
            step("a", Action::Create),
            step("b", Action::Same),
            step("c", Action::Create),
        ];
        assert_eq!(summary(&steps), "2 to create, 1 the same");
        assert_eq!(
            summary(&steps[1..2]),
            "nothing would change: the object is as described"
        );
    }
}
