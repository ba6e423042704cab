//! The pulse of a connection: is it idle, sending a head, or being served, and for how long.
//!
//! hyper's own header timer also runs while a connection is idle, so it cannot allow 60 s of idling
//! and 5 s of header at once. [`Watched`] sees the bytes that come in, the service says when a head
//! is complete, and [`Guarded`] sees the end of the answer. Asked by [`super::serve`].

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::task::Context;
use std::task::Poll;

use bytes::Bytes;
use hyper::body::Frame;
use hyper::body::SizeHint;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::ReadBuf;
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::answer::Body;
use crate::config::HttpLimits;

#[derive(Debug, Clone, Copy)]
enum Phase {
    Idle(Instant),
    Head(Instant),
    Served,
}

/// The state of one connection, shared by its three watchers.
#[derive(Debug, Clone)]
pub struct Pulse {
    phase: Arc<Mutex<Phase>>,
}

impl Pulse {
    /// Starts with the head of the first request being due.
    #[must_use]
    pub fn first() -> Self {
        Self {
            phase: Arc::new(Mutex::new(Phase::Head(Instant::now()))),
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Phase) -> T) -> T {
        // One assignment cannot be left half done.
        act(&mut self.phase.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A head is complete: what follows is bounded by its handler.
    pub fn served(&self) {
        self.with(|phase| *phase = Phase::Served);
    }

    fn bytes_came(&self) {
        self.with(|phase| {
            if let Phase::Idle(_) = phase {
                *phase = Phase::Head(Instant::now());
            }
        });
    }

    fn answered(&self) {
        self.with(|phase| *phase = Phase::Idle(Instant::now()));
    }

    /// Says whether the connection used up its time.
    #[must_use]
    pub fn is_over(&self, limits: &HttpLimits) -> bool {
        self.with(|phase| match *phase {
            Phase::Idle(since) => since.elapsed() >= limits.idle_time,
            Phase::Head(since) => since.elapsed() >= limits.header_time,
            Phase::Served => false,
        })
    }
}

/// A stream whose incoming bytes are seen.
pub struct Watched {
    stream: UnixStream,
    pulse: Pulse,
}

impl Watched {
    /// Watches a stream.
    #[must_use]
    pub const fn new(stream: UnixStream, pulse: Pulse) -> Self {
        Self { stream, pulse }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.pulse.bytes_came();
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A body whose end is seen.
pub struct Guarded {
    body: Body,
    pulse: Pulse,
}

impl Guarded {
    /// Watches a body.
    #[must_use]
    pub const fn new(body: Body, pulse: Pulse) -> Self {
        Self { body, pulse }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.pulse.answered();
    }
}

impl hyper::body::Body for Guarded {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
