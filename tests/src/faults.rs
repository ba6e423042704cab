//! A proxy between the agent and a real server: lets through, refuses, delays, cuts, or answers itself.
//!
//! Plain TCP, so it also stands before TLS servers; answering with a status works for plain HTTP only.
//! Counts connections. Used by scenarios and the contract suite. Dropping it ends it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What the proxy does with connections and requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Everything goes through.
    None,
    /// New connections are closed at once, open ones are cut.
    Refuse,
    /// Bytes towards the server wait this long.
    Delay(Duration),
    /// The request goes through, the answer does not: the connection is cut when it comes.
    CutAnswer,
    /// Every request gets this HTTP status and body and never reaches the server.
    Answer(u16, String, String),
}

struct Shared {
    fault: watch::Sender<Fault>,
    connections: AtomicUsize,
    requests: AtomicUsize,
    left: Mutex<Option<usize>>,
}

/// A running proxy.
pub struct Faults {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Faults {
    /// Starts a proxy to `target`, `host:port`.
    ///
    /// # Errors
    /// When loopback has no port left.
    pub async fn to(target: &str) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            fault: watch::Sender::new(Fault::None),
            connections: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            left: Mutex::new(None),
        });
        let (target, inner) = (target.to_owned(), Arc::clone(&shared));
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                inner.connections.fetch_add(1, Ordering::Relaxed);
                open.spawn(serve(stream, target.clone(), Arc::clone(&inner)));
            }
        });
        Ok(Self {
            address,
            shared,
            task,
        })
    }

    /// Returns where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the fault until it is set again.
    pub fn set(&self, fault: Fault) {
        *self
            .shared
            .left
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = None;
        self.shared.fault.send_replace(fault);
    }

    /// Sets the fault for the next `count` requests that meet it.
    pub fn set_times(&self, fault: Fault, count: usize) {
        *self
            .shared
            .left
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(count);
        self.shared.fault.send_replace(fault);
    }

    /// Returns how many connections came.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Returns how many requests met a fault.
    #[must_use]
    pub fn met(&self) -> usize {
        self.shared.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    /// Notes that a request met the fault; the last of a counted fault takes it away.
    fn meet(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = left.as_mut() {
            *count = count.saturating_sub(1);
            if *count == 0 {
                *left = None;
                self.fault.send_replace(Fault::None);
            }
        }
    }
}

async fn serve(mut client: TcpStream, target: String, shared: Arc<Shared>) {
    let fault = shared.fault.borrow().clone();
    match fault {
        Fault::Refuse => shared.meet(),
        Fault::Answer(status, headers, body) => {
            answer(&mut client, status, &headers, &body, &shared).await;
        }
        Fault::None | Fault::Delay(_) | Fault::CutAnswer => relay(client, &target, &shared).await,
    }
}

/// Answers one request after its head was read, and closes.
async fn answer(client: &mut TcpStream, status: u16, headers: &str, body: &str, shared: &Shared) {
    let mut head = Vec::new();
    let mut chunk = [0; 4096];
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        match client.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(count) => head.extend_from_slice(&chunk[..count]),
        }
    }
    shared.meet();
    let length = body.len();
    let text = format!(
        "HTTP/1.1 {status} Fault\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}"
    );
    // The client may have gone; nothing is left to do then.
    let _gone = client.write_all(text.as_bytes()).await;
    let _gone = client.shutdown().await;
}

/// Copies both ways, and obeys the fault that is set while the connection is open.
async fn relay(mut client: TcpStream, target: &str, shared: &Shared) {
    let Ok(mut server) = TcpStream::connect(target).await else {
        return;
    };
    let mut fault = shared.fault.subscribe();
    let (mut up, mut down) = (vec![0; 16 << 10], vec![0; 16 << 10]);
    loop {
        tokio::select! {
            // Nothing is lost: an open connection is to be cut as soon as the fault says so.
            _ = fault.changed() => {
                if matches!(*fault.borrow(), Fault::Refuse | Fault::Answer(..)) {
                    return;
                }
            }
            // Reading a socket is cancel safe.
            count = client.read(&mut up) => {
                let Ok(count @ 1..) = count else { return };
                let now = fault.borrow().clone();
                if let Fault::Delay(wait) = now {
                    shared.meet();
                    crate::wait::pause(wait).await;
                }
                if server.write_all(&up[..count]).await.is_err() {
                    return;
                }
            }
            // Reading a socket is cancel safe.
            count = server.read(&mut down) => {
                let Ok(count @ 1..) = count else { return };
                if *fault.borrow() == Fault::CutAnswer {
                    shared.meet();
                    return;
                }
                if client.write_all(&down[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
}
