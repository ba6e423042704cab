//! The field `expose` of `quaymaster.yaml`: values that a command of the job gets as variables.
//!
//! Called by [`super::parse()`]. The sources are those of a Secret's keys, as far as a KV engine has them.
//! Names that would change how programs are found, loaded or set up are refused, and so are those that
//! GitLab and this project give a meaning to: whoever may write a value in Vault shall not thereby decide
//! what a job runs.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use super::Source;
use super::fields::Errors;
use super::fields::Spot;
use super::secrets;

/// At most so many variables.
const MAX_NAMES: usize = 100;
/// The longest name.
const MAX_NAME: usize = 128;

/// Why a name is refused, with the names; one that ends in `*` stands for all that begin so.
const REFUSED: &[(&str, &[&str])] = &[
    (
        "changes how programs are found, loaded or started",
        &[
            "PATH",
            "HOME",
            "SHELL",
            "IFS",
            "ENV",
            "BASH_*",
            "BASHOPTS",
            "SHELLOPTS",
            "PS4",
            "PROMPT_COMMAND",
            "CDPATH",
            "GLOBIGNORE",
            "FPATH",
            "ZDOTDIR",
            "PWD",
            "OLDPWD",
            "TMPDIR",
            "TERMINFO",
            "XDG_*",
            "LD_*",
            "DYLD_*",
            "GLIBC_*",
            "MALLOC_*",
            "GCONV_PATH",
            "LOCPATH",
            "NLSPATH",
            "HOSTALIASES",
            "RES_OPTIONS",
            "LOCALDOMAIN",
            "EDITOR",
            "VISUAL",
            "PAGER",
            "BROWSER",
            "TAR_OPTIONS",
            "MAKEFLAGS",
            "MAKEFILES",
            "GNUMAKEFLAGS",
        ],
    ),
    (
        "changes which code an interpreter or compiler loads",
        &[
            "NODE_OPTIONS",
            "NODE_PATH",
            "PERL5*",
            "PERLLIB",
            "PERL_*",
            "RUBYOPT",
            "RUBYLIB",
            "GEM_HOME",
            "GEM_PATH",
            "BUNDLE_GEMFILE",
            "JAVA_TOOL_OPTIONS",
            "JDK_JAVA_OPTIONS",
            "_JAVA_OPTIONS",
            "CLASSPATH",
            "MAVEN_OPTS",
            "GRADLE_OPTS",
            "PHPRC",
            "PHP_INI_SCAN_DIR",
            "LUA_*",
            "GOFLAGS",
            "RUSTC",
            "RUSTC_*",
            "RUSTFLAGS",
            "CARGO_BUILD_*",
            "CC",
            "CXX",
            "LD",
        ],
    ),
    (
        "changes which programs git or ssh starts",
        &[
            "GIT_CONFIG*",
            "GIT_SSH",
            "GIT_SSH_*",
            "GIT_EXEC_PATH",
            "GIT_ASKPASS",
            "GIT_PROXY_COMMAND",
            "GIT_EXTERNAL_DIFF",
            "GIT_EDITOR",
            "GIT_SEQUENCE_EDITOR",
            "GIT_PAGER",
            "GIT_TEMPLATE_DIR",
            "GIT_DIR",
            "GIT_WORK_TREE",
            "SSH_ASKPASS",
            "SSH_AUTH_SOCK",
        ],
    ),
    (
        "is a variable of GitLab, which tools of the job trust",
        &[
            "CI",
            "CI_*",
            "GITLAB_CI",
            "GITLAB_FEATURES",
            "GITLAB_USER_*",
            "GITLAB_ENVIRONMENT_*",
            "RUNNER_*",
            "FF_*",
        ],
    ),
    (
        "is read by quaymaster itself and kept from commands",
        &["QUAYMASTER_*", "VAULT_TOKEN"],
    ),
];

/// Reads the field.
pub(super) fn expose(spot: &Spot<'_>, errors: &mut Errors) -> BTreeMap<String, Source> {
    let entries = spot.map(errors);
    if entries.len() > MAX_NAMES {
        errors.at(spot, format!("has more than {MAX_NAMES} variables"));
    }
    let names: BTreeSet<&str> = entries.iter().map(|(name, _)| *name).collect();
    let mut sources = BTreeMap::new();
    for (name, value) in &entries {
        if let Err(problem) = variable(name) {
            errors.at(value, problem);
        }
        let Some(source) = secrets::source(value, errors) else {
            continue;
        };
        if let Source::Field { parameters, .. } = &source
            && !parameters.is_empty()
        {
            errors.at(
                value,
                "a variable comes from a KV secret, which takes no params",
            );
        }
        sources.insert((*name).to_owned(), source);
    }
    secrets::templates(&entries, &sources, &names, "a name under 'expose'", errors);
    sources
}

/// Checks the name of a variable.
fn variable(name: &str) -> Result<(), String> {
    let mut bytes = name.bytes();
    let first = bytes.next();
    let is_name = first.is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !is_name || name.len() > MAX_NAME {
        return Err(format!(
            "the name of a variable has to be letters, digits and '_', not a digit first, at most {MAX_NAME}"
        ));
    }
    let is_meant = |pattern: &&str| match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == *pattern,
    };
    let refused = REFUSED
        .iter()
        .find(|(_, patterns)| patterns.iter().any(&is_meant));
    // PYTHONPATH, PYTHONSTARTUP and their like; PYTHON_TOKEN is nobody's.
    let python = name
        .strip_prefix("PYTHON")
        .is_some_and(|rest| rest.starts_with(|letter: char| letter.is_ascii_uppercase()));
    let why = match refused {
        Some((why, _)) => why,
        None if python => REFUSED[1].0,
        None => return Ok(()),
    };
    Err(format!(
        "the variable {name} {why}; take another name and set this one in the command if it has to be"
    ))
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn places(expose: &str) -> Vec<(String, String)> {
        let text = format!("version: 1\nname: shop\nexpose:\n{expose}");
        match parse(text.as_bytes()) {
            Ok(_) => Vec::new(),
            Err(error) => {
                let places = error.places.into_iter();
                places
                    .map(|place| (place.path.unwrap_or_default(), place.message))
                    .collect()
            }
        }
    }

    #[test]
    fn values_alone_are_a_spec() {
        let text = "version: 1\nname: shop\nexpose:\n  USER_1: { vault: kv/a, field: b }\n  _P: { vault: kv/a, field: c, version: 3 }\n  AUTH: { template: \"{{ USER_1 }}:{{ _P }}\" }\n";
        let spec = parse(text.as_bytes()).expect("valid");
        assert_eq!(spec.expose.len(), 3);
        let Source::Field { path, version, .. } = &spec.expose["_P"] else {
            panic!("a field");
        };
        assert_eq!((path.as_str(), *version), ("kv/a", Some(3)));
    }

    #[test]
    fn names_that_decide_what_runs_are_refused_with_the_reason() {
        for (name, reason) in [
            ("PATH", "found, loaded"),
            ("LD_PRELOAD", "found, loaded"),
            ("BASH_ENV", "found, loaded"),
            ("ENV", "found, loaded"),
            ("IFS", "found, loaded"),
            ("HOME", "found, loaded"),
            ("PYTHONPATH", "interpreter"),
            ("PYTHONSTARTUP", "interpreter"),
            ("NODE_OPTIONS", "interpreter"),
            ("PERL5LIB", "interpreter"),
            ("GIT_SSH_COMMAND", "git"),
            ("GIT_CONFIG_COUNT", "git"),
            ("CI_JOB_TOKEN", "GitLab"),
            ("CI", "GitLab"),
            ("QUAYMASTER_ID_TOKEN", "quaymaster"),
            ("VAULT_TOKEN", "quaymaster"),
        ] {
            let found = places(&format!("  {name}: {{ vault: kv/a, field: b }}\n"));
            assert!(
                found.len() == 1
                    && found[0].0 == format!("expose.{name}")
                    && found[0].1.contains(reason),
                "{name}: {found:?}"
            );
        }
        for name in [
            "NPM_TOKEN",
            "GIT_PASSWORD",
            "GITLAB_TOKEN",
            "PYTHON_TOKEN",
            "CIRCLE",
            "DOCKER_AUTH_CONFIG",
            "path",
            "P",
            "_",
        ] {
            let found = places(&format!("  {name}: {{ vault: kv/a, field: b }}\n"));
            assert_eq!(found, [], "{name}");
        }
    }

    #[test]
    fn names_are_those_that_a_shell_takes() {
        for name in ["1A", "A-B", "A.B", "'A B'", "'A=B'", "''", "Ä"] {
            let found = places(&format!("  {name}: {{ vault: kv/a, field: b }}\n"));
            assert_eq!(found.len(), 1, "{name}: {found:?}");
        }
        let long = "A".repeat(MAX_NAME + 1);
        assert_eq!(
            places(&format!("  {long}: {{ vault: kv/a, field: b }}\n")).len(),
            1
        );
    }

    #[test]
    fn sources_are_those_of_a_kv_secret() {
        for (source, message) in [
            (
                "{ vault: pki/issue/a, field: b, params: { ttl: 1h } }",
                "params",
            ),
            ("{ template: '{{ B }}' }", "not a name under 'expose'"),
            ("{ vault: kv/a }", "field"),
            ("{ vault: kv/a, field: b, template: x }", "not both"),
        ] {
            let found = places(&format!("  A: {source}\n"));
            assert!(
                !found.is_empty() && found.iter().any(|(_, told)| told.contains(message)),
                "{source}: {found:?}"
            );
        }
        assert_eq!(places("  {}\n").len(), 1);
        let many: String = (0..=MAX_NAMES)
            .map(|number| format!("  A{number}: {{ vault: kv/a, field: b }}\n"))
            .collect();
        assert_eq!(places(&many).len(), 1);
    }
}
