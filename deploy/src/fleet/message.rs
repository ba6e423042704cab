//! What a commit says: a first line by a template, and trailers that lead back to the job.
//!
//! Called by [`crate::engine`]. Invariant: no value can add a line or a trailer; what a caller sends is kept on
//! one line.

/// What a commit is about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// The app.
    pub app: String,
    /// The run's id.
    pub run: String,
    /// The address of the job; empty where there is none, as for the next ones.
    pub job: String,
    /// The address of the pipeline.
    pub pipeline: String,
    /// The path of the project.
    pub project: String,
    /// The environment.
    pub environment: String,
    /// The commit that the job is about.
    pub commit: String,
    /// Images by name.
    pub images: Vec<(String, String)>,
}

/// The first line unless the spec gives one.
const DEFAULT: &str = "deploy {app}: {images}";
/// Longest first line.
const LONGEST: usize = 200;

/// Writes the message.
#[must_use]
pub fn message(template: Option<&str>, facts: &Facts) -> String {
    let mut subject = one_line(&filled(template.unwrap_or(DEFAULT), facts));
    if let Some((end, _)) = subject.char_indices().nth(LONGEST) {
        subject.truncate(end);
        subject.push('…');
    }
    let mut text = format!("{subject}\n\n");
    let mut trailer = |name: &str, value: &str| {
        let value = one_line(value);
        if !value.is_empty() {
            text.push_str(&format!("{name}: {value}\n"));
        }
    };
    trailer("Job", &facts.job);
    trailer("Pipeline", &facts.pipeline);
    trailer("Commit", &facts.commit);
    for (name, reference) in &facts.images {
        trailer("Image", &format!("{name}={reference}"));
    }
    trailer("Run", &facts.run);
    text
}

/// Fills a template in one pass, so that no value is read as a placeholder.
fn filled(template: &str, facts: &Facts) -> String {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        text.push_str(before);
        let known = after.split_once('}').and_then(|(name, behind)| {
            let value = value(name, facts)?;
            Some((value, behind))
        });
        match known {
            Some((value, behind)) => {
                text.push_str(&value);
                rest = behind;
            }
            None => {
                text.push('{');
                rest = after;
            }
        }
    }
    text + rest
}

fn value(name: &str, facts: &Facts) -> Option<String> {
    Some(match name {
        "app" => facts.app.clone(),
        "run" => facts.run.clone(),
        "job" => facts.job.clone(),
        "pipeline" => facts.pipeline.clone(),
        "project" => facts.project.clone(),
        "environment" => facts.environment.clone(),
        "images" => images(facts),
        _ => return None,
    })
}

/// The images as people name them: the tag, or the beginning of the digest.
fn images(facts: &Facts) -> String {
    let short = |(name, reference): &(String, String)| {
        let (rest, digest) = reference.split_once('@').unwrap_or((reference, ""));
        let path = rest.rsplit('/').next().unwrap_or(rest);
        let version = match (path.split_once(':'), digest.strip_prefix("sha256:")) {
            (Some((_, tag)), _) => tag.to_owned(),
            (None, Some(digest)) => digest.chars().take(12).collect(),
            (None, None) => reference.clone(),
        };
        format!("{name} {version}")
    };
    let all: Vec<String> = facts.images.iter().map(short).collect();
    all.join(", ")
}

fn one_line(text: &str) -> String {
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            app: "shop".to_owned(),
            run: "r01".to_owned(),
            job: "https://gitlab.example.com/j/1".to_owned(),
            commit: "abc".to_owned(),
            images: vec![(
                "web".to_owned(),
                "registry.example.com:5000/web:1.4@sha256:0123456789abcdef".to_owned(),
            )],
            ..Facts::default()
        }
    }

    #[test]
    fn the_usual_message_leads_back_to_the_job() {
        assert_eq!(
            message(None, &facts()),
            "deploy shop: web 1.4\n\nJob: https://gitlab.example.com/j/1\nCommit: abc\n\
             Image: web=registry.example.com:5000/web:1.4@sha256:0123456789abcdef\nRun: r01\n"
        );
    }

    #[test]
    fn no_value_adds_a_line_or_is_read_as_a_placeholder() {
        let mut facts = facts();
        facts.environment = "prod\n\nSigned-off-by: me {app}".to_owned();
        facts.job = "x\nRun: r99".to_owned();
        let text = message(Some("to {environment} {nothing} {"), &facts);
        assert!(
            text.starts_with("to prod  Signed-off-by: me {app} {nothing} {\n\n"),
            "{text}"
        );
        assert_eq!(
            text.lines().filter(|line| line.starts_with("Run:")).count(),
            1
        );
        assert!(
            message(Some(&"x".repeat(500)), &facts)
                .lines()
                .next()
                .is_some_and(|line| line.chars().count() == LONGEST + 1)
        );
    }
}
