//! Servers that a stand starts when somebody asks: what few scenarios need and what costs memory.
//!
//! `flux` and `docker` use it from both sides: the asker speaks, over a socket in the state folder, to [`serve`],
//! which runs inside. Invariant: they are started once per stand, whoever asks, and an answer is only given when
//! they are ready.

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::io::AsyncBufReadExt;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::io::BufReader;
use tokio::net::UnixListener;
use tokio::net::UnixStream;

use super::layout::Site;
use super::process::Server;
use super::servers::keep_up;
use crate::wait::until;

fn socket(state: &Path, name: &str) -> PathBuf {
    state.join(format!("{name}.ask"))
}

/// Asks a stand for `name`, telling it `words` on one line; returns when it is ready.
///
/// # Errors
/// When it does not start.
pub(super) async fn ask(site: &Site, name: &str, mut words: Vec<u8>) -> Result<()> {
    let path = socket(&site.dir, name);
    let stream = until("the stand to listen", Duration::from_secs(10), async || {
        let opened = UnixStream::connect(&path).await;
        opened
            .with_context(|| format!("asking the stand for {name}"))
            .into()
    });
    let mut stream = stream.await?;
    words.push(b'\n');
    stream.write_all(&words).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    match answer.strip_prefix("ok") {
        Some(_) => Ok(()),
        None => bail!("{name} did not start: {answer}"),
    }
}

/// Waits for those who ask for `name`, for as long as it is polled, and keeps up what `start` started.
pub(super) async fn serve(
    site: &Site,
    name: &str,
    start: impl AsyncFn(&str) -> Result<Vec<Server>>,
) {
    // A stand whose folder cannot take a socket says so to the asker.
    let Ok(listener) = UnixListener::bind(socket(&site.dir, name)) else {
        return std::future::pending().await;
    };
    let mut kept = FuturesUnordered::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((mut stream, _)) = accepted else { continue };
                // Whoever closes with something unread breaks the asker's pipe.
                let mut line = String::new();
                let asked = BufReader::new(&mut stream).read_line(&mut line).await;
                let answer = if kept.is_empty() && asked.is_ok() {
                    match start(&line).await {
                        Ok(servers) => {
                            kept.extend(servers.into_iter().map(|server| keep_up(site, server)));
                            "ok".to_owned()
                        }
                        Err(error) => format!("{error:#}"),
                    }
                } else {
                    "ok".to_owned()
                };
                // An asker that went away does not need the answer.
                drop(stream.write_all(answer.as_bytes()).await);
            }
            // A server that cannot be started again is gone; the next asker starts all anew.
            Some(()) = kept.next(), if !kept.is_empty() => {}
        }
    }
}
