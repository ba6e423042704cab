//! The keeper: the process that owns a stand, from the first mkdir to the last rmdir.
//!
//! Started by [`super::Stand`] or by `stand up`, as a process of its own. It holds a lock on the state folder for
//! as long as it lives; whoever gets that lock may clean up. A second small process, the guard, waits for the
//! keeper's end on a pipe and cleans up after it, also when the keeper was killed.

use std::fs;
use std::fs::DirBuilder;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command as StdCommand;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::anyhow;
use anyhow::bail;
use anyhow::ensure;
use tokio::io::AsyncBufReadExt;
use tokio::io::BufReader;
use tokio::process::Child;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;

use super::forward::Door;
use super::git::Accounts;
use super::gitlab::Gitlab;
use super::install;
use super::isolate;
use super::layout::Facts;
use super::layout::Ports;
use super::layout::Settings;
use super::layout::Site;
use super::layout::cgroup;
use super::layout::check_name;
use super::process as programs;
use super::process::Server;
use super::reach;
use super::servers;
use super::token::IssuerKey;
use crate::progress::Event;
use crate::progress::Progress;
use crate::wait::Look;
use crate::wait::until;

/// What an owner writes to let the stand live on without it.
pub const LET_GO: &[u8] = b"let go\n";

/// Keeps a stand until its owner wants it gone: standard input closes, without [`LET_GO`] before, or SIGTERM.
///
/// # Errors
/// When the stand cannot be started.
pub async fn keep(
    program: &Path,
    settings: &Settings,
    name: &str,
    progress: &Progress,
) -> Result<()> {
    let began = tokio::time::Instant::now();
    check_name(name)?;
    let mut stop = stop_signals()?;
    let state = settings.state(name);
    let lock = claim(settings, name).await?;
    // Lives as long as this function, and so does what it stands for.
    let _guard = guard(program, settings, name)?;
    let start = async {
        let (site, doors) = site(settings, name, progress).await?;
        let gitlab = Gitlab::start_with(IssuerKey::load(&state.join("issuer.json"))?).await?;
        let site = Site {
            issuer: gitlab.url().to_owned(),
            ..site
        };
        fs::write(state.join("site.json"), serde_json::to_vec(&site)?)?;
        let (life, inner) = enter(program, &site, progress).await?;
        let facts = reach::describe(settings, &site, inner, doors, progress).await?;
        Facts {
            started_in: began.elapsed().as_secs_f64(),
            ..facts
        }
        .write(&state)?;
        progress.tell(&Event::Ready);
        anyhow::Ok((gitlab, site, life))
    };
    let (gitlab, site, life) = tokio::select! {
        started = start => started?,
        // Whatever was started so far ends with this process.
        () = stop.recv() => return Ok(()),
    };
    tokio::select! {
        () = live(&site, life) => bail!("the servers of the stand ended by themselves; see its logs"),
        () = stop.recv() => {}
    }
    drop((gitlab, lock));
    Ok(())
}

/// What keeps the servers alive: the namespaces' life line, or the servers themselves.
enum Life {
    Enclosed(Child),
    Beside(Vec<Server>),
}

async fn live(site: &Site, life: Life) {
    match life {
        Life::Enclosed(mut child) => {
            // The life line is in `child` and must not be closed by waiting.
            let line = child.stdin.take();
            drop(child.wait().await);
            drop(line);
        }
        Life::Beside(servers) => servers::supervise(site, servers).await,
    }
}

struct Stop(tokio::sync::mpsc::Receiver<()>);

impl Stop {
    async fn recv(&mut self) {
        self.0.recv().await;
    }
}

fn stop_signals() -> Result<Stop> {
    let (send, receive) = tokio::sync::mpsc::channel(1);
    for kind in [
        SignalKind::terminate(),
        SignalKind::interrupt(),
        SignalKind::hangup(),
    ] {
        let (mut signals, send) = (signal(kind)?, send.clone());
        tokio::spawn(async move {
            signals.recv().await;
            send.send(()).await.ok();
        });
    }
    let end = end_of_input()?;
    tokio::spawn(async move {
        if let Ok(said) = end.await
            && said != LET_GO
        {
            send.send(()).await.ok();
        }
    });
    Ok(Stop(receive))
}

/// Resolves when standard input is closed, with what came before. Read by a thread, because such a read cannot
/// be cancelled.
///
/// # Errors
/// When no thread can be made.
pub fn end_of_input() -> Result<tokio::sync::oneshot::Receiver<Vec<u8>>> {
    let (send, receive) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("owner".to_owned())
        .spawn(move || {
            let mut said = Vec::new();
            // A read that fails is an end as well.
            drop(std::io::stdin().read_to_end(&mut said));
            drop(send.send(said));
        })?;
    Ok(receive)
}

/// Makes the state folder and locks it, after removing what a killed stand left.
async fn claim(settings: &Settings, name: &str) -> Result<File> {
    let what = format!("the state folder of `{name}`");
    // Others sweep at the same time, and may remove a folder that is not locked yet.
    until(&what, Duration::from_secs(5), async || {
        sweep(settings);
        match try_claim(settings, name) {
            Ok(lock) => Look::Ready(lock),
            Err(_) if Facts::read(&settings.state(name)).is_ok() => Look::Hopeless(anyhow!(
                "the stand `{name}` is already running; `stand status` shows it, `stand down` ends it"
            )),
            Err(error) => Look::NotYet(format!("{error:#}")),
        }
    })
    .await
}

fn try_claim(settings: &Settings, name: &str) -> Result<File> {
    settings.make_base()?;
    let state = settings.state(name);
    let made = DirBuilder::new().mode(0o700).create(&state);
    made.with_context(|| format!("making {}", state.display()))?;
    let lock = File::open(&state)?;
    lock.try_lock()
        .context("it is being removed or started by another process")?;
    ensure!(is_at(&lock, &state)?, "it was removed by another process");
    Ok(lock)
}

/// Whether an open folder is still the one at `path`.
fn is_at(folder: &File, path: &Path) -> Result<bool> {
    Ok(fs::metadata(path)?.ino() == folder.metadata()?.ino())
}

/// Removes every stand of this user whose keeper is gone.
pub fn sweep(settings: &Settings) {
    let entries = fs::read_dir(&settings.base)
        .into_iter()
        .flatten()
        .filter_map(Result::ok);
    for entry in entries {
        if let Some(name) = entry.file_name().to_str() {
            drop(remove(settings, name));
        }
    }
}

/// Removes what is left of a stand, if nobody holds its lock.
fn remove(settings: &Settings, name: &str) -> Result<()> {
    let state = settings.state(name);
    let lock = File::open(&state)?;
    lock.try_lock().context("the stand is running")?;
    // Another process may have removed the folder, and a third made it anew, before the lock was ours.
    ensure!(is_at(&lock, &state)?, "the stand was started again");
    // Without root none was made, and one of that name is somebody else's.
    if settings.root {
        isolate::remove_cgroups(&cgroup(name))?;
    }
    fs::remove_dir_all(&state)?;
    // Fails while other stands are in it, as it should.
    drop(fs::remove_dir(&settings.base));
    Ok(())
}

fn guard(program: &Path, settings: &Settings, name: &str) -> Result<std::process::Child> {
    StdCommand::new(program)
        .args(["guard", name])
        .arg(&settings.base)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // So that what ends the keeper's group does not end the guard.
        .process_group(0)
        .spawn()
        .context("starting the guard")
}

/// Is the guard: waits for the end of input, then removes what the keeper left.
///
/// # Errors
/// When something could not be removed in time.
pub async fn watch_over(settings: &Settings, name: &str) -> Result<()> {
    let mut rest = Vec::new();
    // Nothing is ever written; the read ends when the keeper does.
    drop(std::io::stdin().read_to_end(&mut rest));
    let state = settings.state(name);
    until(
        "the stand's processes to end",
        Duration::from_secs(30),
        async || {
            if !state.exists() {
                return Look::Ready(());
            }
            remove(settings, name).into()
        },
    )
    .await
}

/// What the servers are started from, and the ports that are held for them outside.
async fn site(settings: &Settings, name: &str, progress: &Progress) -> Result<(Site, Vec<Door>)> {
    let programs = install::ensure(settings, progress).await?;
    let isolated = settings.root;
    if !settings.root {
        progress.note("NOT ROOT: no namespaces and no real node. Pods are only played by kwok; no container runs.");
    }
    let key = IssuerKey::generate()?;
    let dir = settings.state(name);
    key.save(&dir.join("issuer.json"))?;
    let (git, ssh) = (Door::open()?, Door::open()?);
    let site = Site {
        name: name.to_owned(),
        git: Accounts::new(&dir)?,
        dir,
        cache: settings.cache.clone(),
        programs,
        ports: if isolated {
            Ports::fixed([git.port, ssh.port])
        } else {
            Ports::free()?
        },
        isolated,
        issuer: String::new(),
        issuer_key: key.public_pem()?,
        own_cluster: settings.kubeconfig.is_none(),
        own_vault: settings.vault.is_none(),
    };
    Ok((site, vec![git, ssh]))
}

/// Starts the servers, inside namespaces where possible, and waits until they answer.
async fn enter(program: &Path, site: &Site, progress: &Progress) -> Result<(Life, Option<u32>)> {
    if !site.isolated {
        return Ok((Life::Beside(servers::start(site, progress).await?), None));
    }
    let mut child = isolate::enclose(program, site)?;
    let unshare = child.id().context("unshare ended at once")?;
    let output = child.stdout.take().context("the inside has an output")?;
    let mut lines = BufReader::new(output).lines();
    loop {
        let Some(line) = lines.next_line().await? else {
            let said = programs::tail(&site.dir.join("logs/inner.log"), 20);
            bail!("the inside of the stand ended: {said}");
        };
        match serde_json::from_str(&line)? {
            Event::Ready => break,
            Event::Failed(why) => bail!("{why}"),
            event @ (Event::Step { .. } | Event::Note(_) | Event::Up(..)) => progress.tell(&event),
        }
    }
    Ok((Life::Enclosed(child), Some(isolate::init_of(unshare)?)))
}
