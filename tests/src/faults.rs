//! A proxy between the agent and a real server: lets through, refuses, delays, cuts, or answers itself.
//!
//! Plain TCP, so it also stands before TLS servers; what looks at single requests needs plain HTTP, which
//! [`Faults::through_tls`] gives in front of a TLS server. Counts connections and requests. Used by
//! scenarios, the fault matrix and the contract suite. Dropping it ends it.

mod tls;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::tls::Tls;

/// What the proxy does with connections and requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Everything goes through.
    None,
    /// New connections are closed at once, open ones are cut.
    Refuse,
    /// Bytes towards the server wait this long, or until the fault is over.
    Delay(Duration),
    /// The request goes through, the answer does not: the connection is cut when it comes.
    CutAnswer,
    /// The request goes through; of the answer only the first half does, then the connection is cut.
    HalfAnswer,
    /// The request goes through, and its answer waits this long, or until the fault is over.
    LateAnswer(Duration),
    /// Every request gets this HTTP status, these header lines and this body, and never reaches the server.
    Answer(u16, String, String),
    /// Every request reaches the server, and gets this instead of the server's answer.
    AnswerAfter(u16, String, String),
}

/// Which requests meet which fault.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    fault: Fault,
    /// A part of the first line of a request; empty for all of them.
    part: String,
}

impl Rule {
    const fn none() -> Self {
        Self {
            fault: Fault::None,
            part: String::new(),
        }
    }

    /// The fault of a whole connection, whatever is asked on it.
    const fn of_all(&self) -> &Fault {
        if self.part.is_empty() {
            &self.fault
        } else {
            &Fault::None
        }
    }
}

struct Shared {
    rule: watch::Sender<Rule>,
    connections: AtomicUsize,
    requests: AtomicUsize,
    left: Mutex<Option<usize>>,
    /// The first lines of requests that were passed on.
    passed: Mutex<Vec<String>>,
    tls: Option<Tls>,
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
        Self::start(target, None).await
    }

    /// Starts a proxy that speaks plain HTTP and passes on to the TLS server of a kubeconfig, as its user.
    ///
    /// # Errors
    /// When the kubeconfig cannot be used, or loopback has no port left.
    pub async fn through_tls(target: &str, kubeconfig: &Path) -> Result<Self> {
        Self::start(target, Some(Tls::of(kubeconfig)?)).await
    }

    async fn start(target: &str, tls: Option<Tls>) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            rule: watch::Sender::new(Rule::none()),
            connections: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            left: Mutex::new(None),
            passed: Mutex::new(Vec::new()),
            tls,
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

    /// Returns the URL that it is reached at.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.shared.tls.is_some() {
            "http"
        } else {
            "https"
        };
        format!("{scheme}://{}", self.address)
    }

    /// Sets the fault until it is set again.
    pub fn set(&self, fault: Fault) {
        self.rule(fault, "", None);
    }

    /// Sets the fault for the next `count` requests that meet it.
    pub fn set_times(&self, fault: Fault, count: usize) {
        self.rule(fault, "", Some(count));
    }

    /// Sets the fault for requests whose first line has `part` in it, until it is set again. Plain HTTP only.
    pub fn set_for(&self, part: &str, fault: Fault) {
        self.rule(fault, part, None);
    }

    fn rule(&self, fault: Fault, part: &str, count: Option<usize>) {
        *lock(&self.shared.left) = count;
        self.shared.rule.send_replace(Rule {
            fault,
            part: part.to_owned(),
        });
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

    /// Returns how many requests reached the server whose first line has `part` in it. Plain HTTP only.
    #[must_use]
    pub fn passed(&self, part: &str) -> usize {
        let passed = lock(&self.shared.passed);
        passed.iter().filter(|line| line.contains(part)).count()
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What is inside is changed by whole operations, so a poisoned lock does no harm.
fn lock<T>(inside: &Mutex<T>) -> MutexGuard<'_, T> {
    inside.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Notes that a request met the fault; the last of a counted fault takes it away.
    fn meet(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let mut left = lock(&self.left);
        if let Some(count) = left.as_mut() {
            *count = count.saturating_sub(1);
            if *count == 0 {
                *left = None;
                self.rule.send_replace(Rule::none());
            }
        }
    }
}

async fn serve(mut client: TcpStream, target: String, shared: Arc<Shared>) {
    let fault = shared.rule.borrow().of_all().clone();
    match fault {
        Fault::Refuse => shared.meet(),
        Fault::Answer(status, headers, body) => {
            let mut head = Vec::new();
            if whole(&mut client, &mut head).await {
                shared.meet();
                answer(&mut client, status, &headers, &body).await;
            }
        }
        Fault::None
        | Fault::Delay(_)
        | Fault::CutAnswer
        | Fault::HalfAnswer
        | Fault::LateAnswer(_)
        | Fault::AnswerAfter(..) => {
            let Ok(server) = TcpStream::connect(&target).await else {
                return;
            };
            match &shared.tls {
                None => relay(client, server, &shared).await,
                Some(tls) => {
                    if let Ok(server) = tls.connect(server).await {
                        relay(client, server, &shared).await;
                    }
                }
            }
        }
    }
}

/// Reads until a request is whole; `false` where the client went before.
async fn whole(client: &mut TcpStream, request: &mut Vec<u8>) -> bool {
    let mut chunk = [0; 4096];
    loop {
        let end = request.windows(4).position(|four| four == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            if request.len() >= end + 4 + length.unwrap_or(0_usize) {
                return true;
            }
        }
        match client.read(&mut chunk).await {
            Ok(0) | Err(_) => return false,
            Ok(count) => request.extend_from_slice(&chunk[..count]),
        }
    }
}

/// Answers and closes.
async fn answer(client: &mut TcpStream, status: u16, headers: &str, body: &str) {
    let length = body.len();
    let text = format!(
        "HTTP/1.1 {status} Fault\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}"
    );
    // The client may have gone; nothing is left to do then.
    let _gone = client.write_all(text.as_bytes()).await;
    let _gone = client.shutdown().await;
}

/// Returns the first line of a request that begins with these bytes.
fn first_line(bytes: &[u8]) -> Option<String> {
    let line = bytes.split(|byte| *byte == b'\r').next()?;
    let line = std::str::from_utf8(line).ok()?;
    line.ends_with(" HTTP/1.1").then(|| line.to_owned())
}

/// Copies both ways, and obeys the fault that is set while the connection is open.
async fn relay<S>(mut client: TcpStream, mut server: S, shared: &Shared)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut rule = shared.rule.subscribe();
    let (mut up, mut down) = (vec![0; 16 << 10], vec![0; 16 << 10]);
    // What the request that is on met, where faults are for some requests only.
    let mut met = Fault::None;
    loop {
        tokio::select! {
            // Nothing is lost: an open connection is to be cut as soon as the fault says so.
            _ = rule.changed() => {
                if matches!(rule.borrow().of_all(), Fault::Refuse | Fault::Answer(..)) {
                    return;
                }
            }
            // Reading a socket is cancel safe.
            count = client.read(&mut up) => {
                let Ok(count @ 1..) = count else { return };
                let line = first_line(&up[..count]);
                let now = rule.borrow_and_update().clone();
                if let Some(line) = &line {
                    let is_meant = !now.part.is_empty() && line.contains(&now.part);
                    met = if is_meant { now.fault.clone() } else { Fault::None };
                    if met != Fault::None {
                        shared.meet();
                    }
                }
                match &met {
                    Fault::Refuse => return,
                    Fault::Answer(status, headers, body) => {
                        let mut request = up[..count].to_vec();
                        if whole(&mut client, &mut request).await {
                            answer(&mut client, *status, headers, body).await;
                        }
                        return;
                    }
                    Fault::Delay(wait) => {
                        if late(*wait, &mut rule, &mut client).await.is_none() {
                            return;
                        }
                    }
                    Fault::None
                    | Fault::CutAnswer
                    | Fault::HalfAnswer
                    | Fault::LateAnswer(_)
                    | Fault::AnswerAfter(..) => {}
                }
                if let Fault::Delay(wait) = now.of_all() {
                    shared.meet();
                    crate::wait::pause(*wait).await;
                }
                if server.write_all(&up[..count]).await.is_err() || server.flush().await.is_err() {
                    return;
                }
                lock(&shared.passed).extend(line);
            }
            // Reading a socket is cancel safe.
            count = server.read(&mut down) => {
                let Ok(count @ 1..) = count else { return };
                let of_all = rule.borrow().of_all().clone();
                let now = if of_all == Fault::None { met.clone() } else {
                    if of_all == Fault::CutAnswer {
                        shared.meet();
                    }
                    of_all
                };
                match now {
                    Fault::CutAnswer => return,
                    Fault::HalfAnswer => {
                        // The client may have gone; nothing is left to do then.
                        let _gone = client.write_all(&down[..count / 2]).await;
                        return;
                    }
                    Fault::AnswerAfter(status, headers, body) => {
                        answer(&mut client, status, &headers, &body).await;
                        return;
                    }
                    Fault::LateAnswer(wait) => {
                        if late(wait, &mut rule, &mut client).await.is_none() {
                            return;
                        }
                    }
                    Fault::None | Fault::Refuse | Fault::Delay(_) | Fault::Answer(..) => {}
                }
                if client.write_all(&down[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Holds something back for a while, and no longer than the fault; `None` where the client has gone.
async fn late(
    wait: Duration,
    rule: &mut watch::Receiver<Rule>,
    client: &mut TcpStream,
) -> Option<()> {
    let mut none = [0; 1];
    tokio::select! {
        // Nothing is lost: only time was waited for.
        () = crate::wait::pause(wait) => Some(()),
        // As above.
        _ = rule.changed() => Some(()),
        // Nothing is taken out of the socket.
        peeked = client.peek(&mut none) => matches!(peeked, Ok(1..)).then_some(()),
    }
}
