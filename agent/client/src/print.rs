//! `quaymaster env`: the values under `expose` as text, for a shell or another program to read.
//!
//! Called by `commands`. What is printed here nobody masks: it goes to whoever reads our standard output,
//! and never to a terminal or into the job's log unless it is asked for.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::io::IsTerminal as _;
use std::io::Write as _;
use std::path::PathBuf;

use proto::error::Code;
use proto::error::Problem;
use zeroize::Zeroizing;

use crate::args::Env;
use crate::args::Form;
use crate::exit::Exit;
use crate::session::Session;
use crate::variables;
use crate::variables::Variables;

/// What a shell that evaluates our output is to do when there are no values: fail.
const FAIL: &[u8] = b"false\n";

/// Prints variables.
pub(crate) async fn env(session: &mut Session<'_>, arguments: &Env) -> Result<Exit, Problem> {
    if !arguments.show {
        is_captured()?;
    }
    let text = match variables::fetch(session, &arguments.spec.file).await {
        Ok(variables) => text(&variables, arguments.format),
        Err(problem) => Err(problem),
    };
    let mut out = io::stdout().lock();
    match text {
        Ok(text) => {
            let written = out.write_all(&text).and_then(|()| out.flush());
            let lost =
                |error| Problem::new(Code::Internal, format!("writing the variables: {error}"));
            written.map_err(lost)?;
            Ok(Exit::Done)
        }
        Err(problem) => {
            if arguments.format == Form::Shell {
                // `eval "$(quaymaster env)"` sees no exit code of ours.
                drop(out.write_all(FAIL).and_then(|()| out.flush()));
            }
            Err(problem)
        }
    }
}

/// Writes variables in a form.
fn text(variables: &Variables, form: Form) -> Result<Zeroizing<Vec<u8>>, Problem> {
    let mut out = Zeroizing::new(Vec::new());
    match form {
        Form::Shell => {
            for (name, value) in variables {
                out.extend_from_slice(format!("export {name}='").as_bytes());
                for &byte in value.iter() {
                    match byte {
                        b'\'' => out.extend_from_slice(b"'\\''"),
                        other => out.push(other),
                    }
                }
                out.extend_from_slice(b"'\n");
            }
        }
        Form::Dotenv => {
            for (name, value) in variables {
                if value.iter().any(|byte| b"\r\n".contains(byte)) {
                    return Err(unfit(name, "has line breaks, which this form cannot hold"));
                }
                out.extend_from_slice(format!("{name}=").as_bytes());
                out.extend_from_slice(value);
                out.push(b'\n');
            }
        }
        Form::Json => {
            let mut texts = BTreeMap::new();
            for (name, value) in variables {
                let text = std::str::from_utf8(value)
                    .map_err(|_shape| unfit(name, "is no UTF-8, which JSON cannot hold"))?;
                texts.insert(name, text);
            }
            let written = serde_json::to_writer(&mut *out, &texts);
            written.map_err(|error| {
                Problem::new(Code::Internal, format!("writing the variables: {error}"))
            })?;
            out.push(b'\n');
        }
    }
    Ok(out)
}

fn unfit(name: &str, problem: &str) -> Problem {
    Problem::new(Code::BadRequest, format!("the value of {name} {problem}"))
        .hint("use --format shell, or quaymaster exec")
}

/// Checks that somebody reads our standard output, before anything is asked for.
fn is_captured() -> Result<(), Problem> {
    let refused = |place: &str| {
        let detail = format!("the values would be shown in {place}, where nobody masks them");
        Err(Problem::new(Code::BadRequest, detail).hint(
            "run the command that needs them: quaymaster exec -- CMD; or read them: values=\"$(quaymaster env)\" && \
             eval \"$values\"; --show prints them all the same",
        ))
    };
    if io::stdout().is_terminal() {
        return refused("the terminal");
    }
    // A shell may be redirected itself while a command of it writes to a file; no log is a file.
    let is_file = fs::metadata("/proc/self/fd/1").is_ok_and(|output| output.is_file());
    if !is_file && is_of_the_job(&Proc) {
        return refused("the job's log");
    }
    Ok(())
}

/// What is known about processes.
trait Processes {
    /// The id of this process.
    fn own(&self) -> u32;
    /// The parent and the group of a process.
    fn family(&self, id: u32) -> Option<(u32, u32)>;
    /// Where its standard output goes.
    fn output(&self, id: u32) -> Option<PathBuf>;
}

/// The processes of this machine.
struct Proc;

impl Processes for Proc {
    fn own(&self) -> u32 {
        std::process::id()
    }

    fn family(&self, id: u32) -> Option<(u32, u32)> {
        let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        // The name of the program stands in brackets and can hold anything.
        let mut fields = text.rsplit_once(')')?.1.split_whitespace().skip(1);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    }

    fn output(&self, id: u32) -> Option<PathBuf> {
        fs::read_link(format!("/proc/{id}/fd/1")).ok()
    }
}

/// Says whether our standard output is that of everything around us: of our parent, and of those above it
/// in our group of processes. `$(..)`, a pipe or a file make it another one. What cannot be looked at is no
/// reason to refuse.
fn is_of_the_job(processes: &impl Processes) -> bool {
    let own = processes.own();
    let (Some(ours), Some((mut above, group))) = (processes.output(own), processes.family(own))
    else {
        return false;
    };
    let parent = above;
    while above != 0 {
        let Some((next, its)) = processes.family(above) else {
            return false;
        };
        // Beyond our group begins what started the job; our parent counts whatever its group is.
        if its != group && above != parent {
            return true;
        }
        if processes.output(above).as_ref() != Some(&ours) {
            return false;
        }
        above = if its == group { next } else { 0 };
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &[u8])]) -> Variables {
        let owned =
            |(name, value): &(&str, &[u8])| ((*name).to_owned(), Zeroizing::new(value.to_vec()));
        pairs.iter().map(owned).collect()
    }

    fn written(pairs: &[(&str, &[u8])], form: Form) -> Result<Vec<u8>, Code> {
        let text = text(&variables(pairs), form);
        text.map(|text| text.to_vec())
            .map_err(|problem| problem.code)
    }

    #[test]
    fn a_shell_reads_back_every_byte() {
        let values: [&[u8]; 4] = [
            b"it's $HOME `id` \\ \"x\"\n!",
            b"",
            b"-n",
            &[0xff, b'\'', b'\''],
        ];
        for value in values {
            let script = written(&[("A", value)], Form::Shell).expect("any bytes");
            let script = [script.as_slice(), b"printf %s \"$A\"\n"].concat();
            let dir = tempfile::tempdir().expect("a folder");
            let path = dir.path().join("script");
            fs::write(&path, script).expect("written");
            let run = std::process::Command::new("sh").arg(path).output();
            assert_eq!(run.expect("a shell").stdout, value);
        }
    }

    #[test]
    fn forms_refuse_what_they_cannot_hold() {
        let text: &[(&str, &[u8])] = &[("A", b"x y"), ("B", b"")];
        assert_eq!(written(text, Form::Dotenv), Ok(b"A=x y\nB=\n".to_vec()));
        assert_eq!(
            written(text, Form::Json),
            Ok(b"{\"A\":\"x y\",\"B\":\"\"}\n".to_vec())
        );
        for break_ in [b"a\nb", b"a\rb"] {
            assert_eq!(
                written(&[("A", break_)], Form::Dotenv),
                Err(Code::BadRequest)
            );
        }
        assert_eq!(
            written(&[("A", &[0xff])], Form::Json),
            Err(Code::BadRequest)
        );
    }

    /// Processes by id: parent, group, where the output goes.
    struct Table(BTreeMap<u32, (u32, u32, &'static str)>);

    impl Processes for Table {
        fn own(&self) -> u32 {
            9
        }

        fn family(&self, id: u32) -> Option<(u32, u32)> {
            self.0.get(&id).map(|(parent, group, _)| (*parent, *group))
        }

        fn output(&self, id: u32) -> Option<PathBuf> {
            let output = self.0.get(&id).map(|(_, _, output)| PathBuf::from(output));
            output.filter(|output| !output.as_os_str().is_empty())
        }
    }

    #[test]
    fn output_that_is_the_jobs_own_is_told_from_output_that_is_read() {
        let of = |rows: &[(u32, u32, u32, &'static str)]| {
            let rows = rows.iter();
            is_of_the_job(&Table(
                rows.map(|(id, parent, group, output)| (*id, (*parent, *group, *output)))
                    .collect(),
            ))
        };
        // In a container: the shell of the job is all there is.
        assert!(of(&[(9, 8, 1, "log"), (8, 1, 1, "log"), (1, 0, 1, "log")]));
        // Beside a runner, which has a group of its own.
        assert!(of(&[
            (9, 8, 8, "log"),
            (8, 2, 8, "log"),
            (2, 1, 2, "other")
        ]));
        // $(quaymaster env), and in a subshell of it.
        assert!(!of(&[
            (9, 8, 1, "pipe"),
            (8, 1, 1, "log"),
            (1, 0, 1, "log")
        ]));
        assert!(!of(&[
            (9, 8, 1, "pipe"),
            (8, 7, 1, "pipe"),
            (7, 1, 1, "log"),
            (1, 0, 1, "log")
        ]));
        // By a shell of a terminal, which gives each pipeline a group of its own.
        assert!(!of(&[(9, 8, 9, "pipe"), (8, 1, 8, "terminal")]));
        // Nothing is known about the parent.
        assert!(!of(&[(9, 8, 9, "pipe"), (8, 1, 9, "")]));
        assert!(!of(&[]));
    }
}
