//! Splits a streamed answer into lines.
//!
//! Called by `follow`. A line over the limit ends the stream; so does a broken connection. A last
//! line without its line end is incomplete and is dropped.

use bytes::BytesMut;
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::Incoming;
use tokio::time::Instant;
use tokio::time::timeout_at;

use crate::wire::Answer;

/// Bytes of one line.
const LINE_LIMIT: usize = 1 << 20;

/// The lines of a body.
pub(crate) struct Lines {
    body: Incoming,
    buffer: BytesMut,
    /// How far the buffer is known to hold no line end.
    searched: usize,
}

impl Lines {
    /// Reads this body.
    pub(crate) fn new(body: Incoming) -> Self {
        Self {
            body,
            buffer: BytesMut::new(),
            searched: 0,
        }
    }

    /// Returns the next line without its end; `None` when the body is over. Losing the future
    /// loses no bytes.
    pub(crate) async fn next(&mut self) -> Result<Option<BytesMut>, String> {
        loop {
            if let Some(at) = self.buffer[self.searched..]
                .iter()
                .position(|byte| *byte == b'\n')
            {
                let mut line = self.buffer.split_to(self.searched + at + 1);
                line.truncate(line.len() - 1);
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            if self.searched > LINE_LIMIT {
                return Err("the agent sent a line that is too long".to_owned());
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(format!("the log broke off: {error}")),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
            }
        }
    }

    /// Returns the rest as the body of a refusal with this status.
    pub(crate) async fn rest(mut self, status: StatusCode, limit: Instant) -> Answer {
        while let Ok(Some(Ok(frame))) = timeout_at(limit, self.body.frame()).await {
            if let Some(data) = frame.data_ref() {
                self.buffer.extend_from_slice(data);
            }
            if self.buffer.len() > LINE_LIMIT {
                break;
            }
        }
        Answer {
            status,
            body: self.buffer.freeze(),
        }
    }
}
