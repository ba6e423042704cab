//! Patterns of a policy: text with `*`, Vault paths by segment, kinds with names.
//!
//! Made while a policy is loaded, asked by [`crate::authorize`]. Invariant: a pattern starts with a
//! literal and covers the whole text; the only wildcard is `*`. Errors say in words what is wrong
//! and are completed with rule and key by the loader.

use std::fmt;

use crate::object::Gvk;
use crate::secret::VaultPath;

/// Text in which `*` stands for any characters, none included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// Checks and takes a pattern.
    ///
    /// # Errors
    /// Says in words what is wrong.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("is empty".to_owned());
        }
        if text.trim() != text || text.chars().any(char::is_control) {
            return Err("has white space at its ends or a control character".to_owned());
        }
        if text.starts_with('*') {
            return Err("starts with `*`; it has to start with literal text".to_owned());
        }
        if text.contains("**") || text.contains(['?', '[', ']', '{', '}', '^', '|']) {
            return Err("has a wildcard that does not exist; the only one is `*`".to_owned());
        }
        Ok(Self(text.to_owned()))
    }

    /// Says whether the whole text matches.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let mut parts = self.0.split('*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = text.strip_prefix(first) else {
            return false;
        };
        let mut parts: Vec<&str> = parts.collect();
        let Some(last) = parts.pop() else {
            return rest.is_empty();
        };
        // The leftmost place for each inner part leaves the most for the parts after it.
        for part in parts {
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last)
    }

    /// Returns the text if there is no wildcard in it.
    #[must_use]
    pub fn literal(&self) -> Option<&str> {
        (!self.0.contains('*')).then_some(self.0.as_str())
    }

    /// Returns the pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Mounts whose reads are about Vault itself, never a secret for an app.
const RESERVED_MOUNTS: [&str; 4] = ["sys", "auth", "identity", "cubbyhole"];

/// A Vault path in which `*` stands for characters of one segment, and at the very end for any
/// suffix, as in Vault's own policies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    segments: Vec<Pattern>,
    any_suffix: bool,
}

impl PathPattern {
    /// Checks and takes a pattern.
    ///
    /// # Errors
    /// Says in words what is wrong.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.contains('+') {
            return Err("has a `+`; write `*` for one segment".to_owned());
        }
        if text.contains("**") {
            return Err("has a wildcard that does not exist; the only one is `*`".to_owned());
        }
        // A stand-in for the wildcard leaves exactly the rules of a path.
        VaultPath::parse(&text.replace('*', "x")).map_err(|error| error.problem.to_owned())?;
        let (mount, _) = text.split_once('/').unwrap_or((text, ""));
        if mount.contains('*') {
            return Err("has a wildcard in its mount".to_owned());
        }
        if RESERVED_MOUNTS.contains(&mount) {
            return Err(format!(
                "lies in `{mount}/`, which holds no secrets of apps"
            ));
        }
        let any_suffix = text.ends_with('*');
        let segments = text.strip_suffix('*').unwrap_or(text).split('/');
        // Segments skip Pattern::parse: `*` alone is a good segment, and the path was checked whole.
        Ok(Self {
            segments: segments
                .map(|segment| Pattern(segment.to_owned()))
                .collect(),
            any_suffix,
        })
    }

    /// Returns a path that is granted, with `x` for every wildcard.
    #[must_use]
    pub fn example(&self) -> String {
        let segments = self.segments.iter();
        let segments = segments.map(|segment| segment.0.replace('*', "x"));
        let path = segments.collect::<Vec<_>>().join("/");
        if self.any_suffix {
            format!("{path}x")
        } else {
            path
        }
    }

    /// Says whether a path is granted.
    #[must_use]
    pub fn matches(&self, path: &VaultPath) -> bool {
        let mut given = path.as_str().split('/');
        let Some((last, inner)) = self.segments.split_last() else {
            return false;
        };
        let inner_match = inner
            .iter()
            .all(|segment| given.next().is_some_and(|text| segment.matches(text)));
        if !inner_match {
            return false;
        }
        let rest: Vec<&str> = given.collect();
        if !self.any_suffix {
            return matches!(rest.as_slice(), [text] if last.matches(text));
        }
        let open = Pattern(format!("{}*", last.0));
        rest.first().is_some_and(|text| open.matches(text))
    }
}

/// A kind, and which names of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KindPattern {
    group: String,
    kind: String,
    name: Option<Pattern>,
}

impl KindPattern {
    /// Reads `group/Kind`, `v1/Kind` or `Kind` (the core group), and `:name` after it.
    ///
    /// # Errors
    /// Says in words what is wrong.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (kind, name) = match text.split_once(':') {
            Some((kind, name)) => (
                kind,
                Some(Pattern::parse(name).map_err(|problem| format!("has a name that {problem}"))?),
            ),
            None => (text, None),
        };
        let (group, kind) = match kind.split_once('/') {
            Some(("v1", kind)) => ("", kind),
            Some((group, kind)) => (group, kind),
            None => ("", kind),
        };
        if kind.contains('/') {
            return Err("has a version; write group and kind, such as apps/Deployment".to_owned());
        }
        if group.contains('*') || kind.contains('*') {
            return Err("has a wildcard; every kind is named".to_owned());
        }
        // A few add-ons have kinds without a capital, such as acid.zalan.do/postgresql.
        let first =
            |c: char| c.is_ascii_uppercase() || (c.is_ascii_lowercase() && group.contains('.'));
        let shape = kind.starts_with(first) && kind.chars().all(|c| c.is_ascii_alphanumeric());
        if !shape {
            return Err("is no kind; expected a word such as Deployment".to_owned());
        }
        if !group.is_empty() && proto::ids::dns_subdomain(group).is_err() {
            return Err("has a group that is none; expected one such as apps".to_owned());
        }
        if group.is_empty() && kind == "Secret" && name.is_none() {
            return Err("needs names, such as v1/Secret:flask-*".to_owned());
        }
        Ok(Self {
            group: group.to_owned(),
            kind: kind.to_owned(),
            name,
        })
    }

    /// Says whether an object of this kind and name is granted.
    #[must_use]
    pub fn matches(&self, gvk: &Gvk, name: &str) -> bool {
        gvk.is(&self.group, &self.kind)
            && self
                .name
                .as_ref()
                .is_none_or(|pattern| pattern.matches(name))
    }

    /// Says whether this is about the kind, whatever the names.
    #[must_use]
    pub fn is_about(&self, gvk: &Gvk) -> bool {
        gvk.is(&self.group, &self.kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_covers_any_characters_and_the_rest_is_anchored() {
        let rows = [
            ("main", "main", true),
            ("main", "main2", false),
            ("main", "xmain", false),
            ("refs/tags/v*", "refs/tags/v1.2", true),
            ("refs/tags/v*", "refs/tags/v", true),
            ("refs/tags/v*", "refs/tags/x1", false),
            ("a*b*c", "axbxc", true),
            ("a*b*c", "abc", true),
            ("a*b*c", "acb", false),
            ("a*bc*c", "abcc", true),
            ("a*b", "ab/c/b", true),
            ("ab*b", "ab", false),
            ("é*é", "éé", true),
        ];
        for (pattern, text, expected) in rows {
            let pattern = Pattern::parse(pattern).expect("the pattern is valid");
            assert_eq!(pattern.matches(text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn patterns_that_mean_nothing_or_everything_are_refused() {
        for bad in ["", "*", "*x", "a**", "a?", "a[b]", " a", "a\n", "{a,b}"] {
            assert!(Pattern::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn vault_paths_match_by_segment_and_a_last_star_takes_any_suffix() {
        let rows = [
            ("kv/flask/*", "kv/flask/a", true),
            ("kv/flask/*", "kv/flask/a/b", true),
            ("kv/flask/*", "kv/flask", false),
            ("kv/flask/*", "kv/flasky/a", false),
            ("kv/flask*", "kv/flask", true),
            ("kv/flask*", "kv/flask-a", true),
            ("kv/flask*", "kv/flask-a/b", true),
            ("kv/*/db", "kv/a/db", true),
            ("kv/*/db", "kv/a/b/db", false),
            ("kv/a-*/db", "kv/a-1/db", true),
            ("kv/a-*/db", "kv/b-1/db", false),
            ("database/creds/flask", "database/creds/flask", true),
            ("database/creds/flask", "database/creds/flask2", false),
            ("database/creds/flask", "database/creds", false),
            ("kv/*", "kv1/a", false),
        ];
        for (pattern, path, expected) in rows {
            let parsed = PathPattern::parse(pattern).expect("the pattern is valid");
            let path = VaultPath::parse(path).expect("the path is valid");
            assert_eq!(parsed.matches(&path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn vault_paths_that_could_reach_elsewhere_are_refused() {
        for bad in [
            "",
            "kv",
            "*",
            "*/a",
            "k*/a",
            "kv/../a",
            "kv/+/a",
            "kv//a",
            "/kv/a",
            "kv/a/",
            "kv/a%2e",
            "sys/policies",
            "auth/token/x",
            "identity/x",
            "cubbyhole/x",
            "kv/**",
        ] {
            assert!(PathPattern::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn kinds_are_named_one_by_one() {
        let deployment = Gvk::new("apps/v1", "Deployment");
        let secret = Gvk::new("v1", "Secret");
        let parse = |text: &str| KindPattern::parse(text).expect("the kind is valid");
        assert!(parse("apps/Deployment").matches(&deployment, "web"));
        assert!(!parse("Deployment").matches(&deployment, "web"));
        assert!(parse("v1/Secret:flask-*").matches(&secret, "flask-db"));
        assert!(!parse("v1/Secret:flask-*").matches(&secret, "other"));
        assert_eq!(parse("Service"), parse("v1/Service"));
        let postgres = Gvk::new("acid.zalan.do/v1", "postgresql");
        assert!(parse("acid.zalan.do/postgresql").matches(&postgres, "db"));
        for bad in [
            "",
            "*",
            "apps/*",
            "v1/Secret",
            "Secret",
            "apps/v1/Deployment",
            "deployment",
            "apps/",
            "v1/Service:",
            "v1/Service:*",
            "A PPS/Deployment",
        ] {
            assert!(KindPattern::parse(bad).is_err(), "{bad:?}");
        }
    }
}
