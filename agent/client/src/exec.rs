//! `quaymaster exec`: a command with values from Vault as variables, and a mask over what it writes.
//!
//! Called by `commands`. The command gets the job's environment with the values, and without the tokens
//! that `quaymaster` itself was given. Its standard input is the job's; what it writes passes [`Mask`].
//! The exit code is the command's, or what a shell makes of a signal and of a command that is not there.

use std::cell::Cell;
use std::ffi::OsStr;
use std::io;
use std::io::IsTerminal as _;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::process::Stdio;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use proto::error::Code;
use proto::error::Problem;
use rustix::process::DumpableBehavior;
use rustix::process::Pid;
use rustix::process::Signal;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt as _;
use tokio::process::Child;
use tokio::process::Command;
use tokio::signal::unix;
use tokio::signal::unix::SignalKind;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::args::Exec;
use crate::exit::Exit;
use crate::mask::Mask;
use crate::mask::SHORT;
use crate::mask::Values;
use crate::session::Session;
use crate::tokens;
use crate::variables;
use crate::variables::Variables;

/// So many bytes are read at once.
const CHUNK: usize = 16 << 10;
/// A beginning of a value that tells little is shown after this much silence.
const SILENCE: Duration = Duration::from_millis(100);
/// How often a silent stream is looked at.
const TICK: Duration = Duration::from_millis(500);
/// Once the command has ended, a stream that something else still holds may be silent so many times.
const QUIET: u32 = 4;
/// Exit codes of shells: there is no such command; it cannot be run; a signal's number comes on top of this.
const NOT_FOUND: u8 = 127;
const NOT_RUN: u8 = 126;
const BY_SIGNAL: i32 = 128;

/// Runs a command.
pub(crate) async fn exec(session: &mut Session<'_>, arguments: &Exec) -> Result<Exit, Problem> {
    let variables = variables::fetch(session, &arguments.spec.file).await?;
    let mut values = Values::default();
    for (name, value) in &variables {
        if !values.add(value) {
            let text = format!(
                "{name} has fewer than {SHORT} bytes, which is too short to be masked in the output"
            );
            session.output.aside(&text);
        }
    }
    // Before the start: a signal that comes from here on goes to the command.
    let mut signals = Signals::listen()
        .map_err(|error| Problem::new(Code::Internal, format!("listening to signals: {error}")))?;
    // The tokens are still in our own environment: keep it from the command, as far as the kernel does.
    let hidden = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    if let Err(error) = hidden {
        session
            .output
            .aside(&format!("the tokens are readable in /proc: {error}"));
    }
    let child = match start(&arguments.command, &variables) {
        Ok(child) => child,
        Err(error) => {
            let name = arguments.command.first().map(|name| name.display());
            let name = name.map(|name| name.to_string()).unwrap_or_default();
            session.output.aside(&format!("{name}: {error}"));
            return Ok(Exit::Command(match error.kind() {
                io::ErrorKind::NotFound => NOT_FOUND,
                _ => NOT_RUN,
            }));
        }
    };
    drop(variables);
    let status = attend(child, Rc::new(values), &mut signals).await;
    let status = status.map_err(|error| {
        Problem::new(Code::Internal, format!("waiting for the command: {error}"))
    })?;
    Ok(Exit::Command(number(status)))
}

fn start(words: &[std::ffi::OsString], variables: &Variables) -> io::Result<Child> {
    let (program, arguments) = words.split_first().ok_or(io::ErrorKind::NotFound)?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for name in tokens::VARIABLES {
        command.env_remove(name);
    }
    for (name, value) in variables {
        command.env(name, OsStr::from_bytes(value));
    }
    command.spawn()
}

/// Passes on output and signals until the command has ended.
async fn attend(
    mut child: Child,
    values: Rc<Values>,
    signals: &mut Signals,
) -> io::Result<ExitStatus> {
    let ended = Cell::new(false);
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (masked, also) = (Mask::new(Rc::clone(&values)), Mask::new(values));
    let pumps = async {
        tokio::join!(
            pump(out, to_stdout, masked, &ended),
            pump(err, to_stderr, also, &ended),
        )
    };
    let mut pumps = std::pin::pin!(pumps);
    let mut flowing = true;
    let status = loop {
        // Waiting, pumping and listening keep their own state between polls.
        tokio::select! {
            status = child.wait() => break status?,
            _ = &mut pumps, if flowing => flowing = false,
            signal = signals.next() => {
                if let Some(signal) = signal {
                    forward(&child, signal);
                }
            }
        }
    };
    ended.set(true);
    if flowing {
        pumps.await;
    }
    Ok(status)
}

/// Passes a stream on through its mask. It ends with the stream, or when the reader of ours has gone:
/// then the command learns it by writing, as it would without us.
async fn pump(
    from: Option<impl AsyncRead + Unpin>,
    to: fn(&[u8]) -> io::Result<()>,
    mut mask: Mask,
    ended: &Cell<bool>,
) {
    let Some(mut from) = from else { return };
    let mut chunk = Zeroizing::new(vec![0; CHUNK]);
    let mut clean = Vec::new();
    let mut quiet = 0;
    loop {
        let patience = if mask.waits() { SILENCE } else { TICK };
        // A read that is given up has taken nothing.
        let over = match timeout(patience, from.read(&mut chunk)).await {
            Ok(Ok(0) | Err(_)) => true,
            Ok(Ok(read)) => {
                quiet = 0;
                mask.feed(&chunk[..read], &mut clean);
                false
            }
            Err(_) => {
                mask.idle(&mut clean);
                // A process that the command left behind may hold the stream for ever.
                quiet += u32::from(ended.get());
                quiet >= QUIET
            }
        };
        if over {
            mask.finish(&mut clean);
        }
        if !clean.is_empty() {
            let text = std::mem::take(&mut clean);
            // A reader that is slow holds back this stream, and neither the other one nor signals.
            let written = tokio::task::spawn_blocking(move || to(&text)).await;
            if !matches!(written, Ok(Ok(()))) {
                return;
            }
        }
        if over {
            return;
        }
    }
}

fn to_stdout(text: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text)?;
    out.flush()
}

fn to_stderr(text: &[u8]) -> io::Result<()> {
    io::stderr().lock().write_all(text)
}

fn number(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| BY_SIGNAL + signal));
    code.and_then(|code| u8::try_from(code).ok())
        .unwrap_or(u8::MAX)
}

fn forward(child: &Child, signal: Signal) {
    // The process is ours until it was waited for, so its id is nobody else's.
    let id = child.id().and_then(|id| i32::try_from(id).ok());
    if let Some(id) = id.and_then(Pid::from_raw) {
        // It may have ended just now.
        let _gone = rustix::process::kill_process(id, signal);
    }
}

/// The signals that are listened to, and what each is passed on as.
struct Signals(Vec<(Option<Signal>, unix::Signal)>);

impl Signals {
    fn listen() -> io::Result<Self> {
        // A terminal sends two of them to the command as well: twice would be once too often.
        let typed = io::stdin().is_terminal();
        let unless_typed = |signal| (!typed).then_some(signal);
        let kinds = [
            (Some(Signal::TERM), SignalKind::terminate()),
            (Some(Signal::HUP), SignalKind::hangup()),
            (Some(Signal::USR1), SignalKind::user_defined1()),
            (Some(Signal::USR2), SignalKind::user_defined2()),
            (unless_typed(Signal::INT), SignalKind::interrupt()),
            (unless_typed(Signal::QUIT), SignalKind::quit()),
        ];
        let listening = kinds
            .into_iter()
            .map(|(signal, kind)| Ok((signal, unix::signal(kind)?)));
        listening.collect::<io::Result<_>>().map(Self)
    }

    async fn next(&mut self) -> Option<Signal> {
        std::future::poll_fn(|context| {
            for (signal, stream) in &mut self.0 {
                if let Poll::Ready(Some(())) = stream.poll_recv(context) {
                    return Poll::Ready(*signal);
                }
            }
            Poll::Pending
        })
        .await
    }
}
