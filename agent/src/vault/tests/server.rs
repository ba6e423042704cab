//! A server on loopback that answers by a script and remembers what it was asked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// What was asked.
#[derive(Debug, Clone)]
pub(in crate::vault) struct Asked {
    pub(in crate::vault) method: String,
    /// With the query.
    pub(in crate::vault) path: String,
    pub(in crate::vault) token: String,
    pub(in crate::vault) body: String,
}

type Script = dyn Fn(&Asked) -> (u16, String) + Send + Sync;

/// The server; ends when it is dropped.
pub(in crate::vault) struct Server {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: JoinHandle<()>,
}

impl Server {
    /// Starts it.
    pub(in crate::vault) async fn start(
        script: impl Fn(&Asked) -> (u16, String) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound listener");
        let asked = Arc::<Mutex<Vec<Asked>>>::default();
        let (script, seen): (Arc<Script>, _) = (Arc::new(script), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                open.spawn(serve(stream, Arc::clone(&script), Arc::clone(&seen)));
            }
        });
        Self {
            address,
            asked,
            task,
        }
    }

    pub(in crate::vault) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns how many requests had a path that begins so.
    pub(in crate::vault) fn count(&self, path: &str) -> usize {
        let asked = self.asked.lock().expect("no holder panics");
        asked.iter().filter(|a| a.path.starts_with(path)).count()
    }

    /// Returns the last request.
    pub(in crate::vault) fn last(&self) -> Asked {
        let asked = self.asked.lock().expect("no holder panics");
        asked.last().cloned().expect("something was asked")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Answers the requests of one connection until it is closed.
async fn serve(mut stream: TcpStream, script: Arc<Script>, seen: Arc<Mutex<Vec<Asked>>>) {
    let mut bytes = Vec::new();
    loop {
        let asked = loop {
            if let Some(asked) = take(&mut bytes) {
                break asked;
            }
            let mut chunk = [0; 4096];
            match stream.read(&mut chunk).await {
                Ok(0) | Err(_) => return,
                Ok(count) => bytes.extend_from_slice(&chunk[..count]),
            }
        };
        let (code, body) = script(&asked);
        seen.lock().expect("no holder panics").push(asked);
        let length = body.len();
        let answer = format!("HTTP/1.1 {code} x\r\ncontent-length: {length}\r\n\r\n{body}");
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Takes a whole request off the front.
fn take(bytes: &mut Vec<u8>) -> Option<Asked> {
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
    let header = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(": "));
        let found = lines.find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.to_owned()).unwrap_or_default()
    };
    let length: usize = header("content-length").parse().unwrap_or(0);
    if bytes.len() < head + length {
        return None;
    }
    let rest = bytes.split_off(head + length);
    let body = String::from_utf8_lossy(&bytes[head..]).into_owned();
    *bytes = rest;
    let mut words = text.split(' ').map(str::to_owned);
    Some(Asked {
        method: words.next().unwrap_or_default(),
        path: words.next().unwrap_or_default(),
        token: header("x-vault-token"),
        body,
    })
}
