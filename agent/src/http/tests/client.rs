//! A caller that speaks HTTP by hand, so that also what no library sends can be sent.

use std::path::PathBuf;

use super::*;

/// One caller.
#[derive(Clone)]
pub(super) struct Tester {
    path: PathBuf,
    headers: Vec<(String, String)>,
}

/// One answer.
pub(super) struct Reply {
    pub(super) status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Tester {
    pub(super) fn new(path: PathBuf) -> Self {
        let mut tester = Self {
            path,
            headers: Vec::new(),
        };
        tester = tester.with("host", "localhost");
        tester.with("x-quaymaster-client", "test")
    }

    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Without the client header.
    pub(super) fn bare(mut self) -> Self {
        self.headers.retain(|(name, _)| name == "host");
        self
    }

    pub(super) fn project(self, number: usize) -> Self {
        self.with("authorization", &format!("Bearer {}", "x".repeat(number)))
    }

    pub(super) async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.path).await.expect("it listens")
    }

    pub(super) fn head(&self, method: &str, uri: &str, more: &[(&str, &str)]) -> String {
        let mut head = format!("{method} {uri} HTTP/1.1\r\n");
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        for (name, value) in more {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head + "\r\n"
    }

    pub(super) async fn get(&self, uri: &str) -> Reply {
        self.send("GET", uri, &[], b"").await
    }

    pub(super) async fn post(&self, uri: &str) -> Reply {
        self.send("POST", uri, &[("content-length", "0")], b"")
            .await
    }

    /// Sends a bundle.
    pub(super) async fn deploy(&self, uri: &str, word: &str) -> Reply {
        let kind = ("content-type", "application/x-tar");
        let length = word.len().to_string();
        let headers = [kind, ("content-length", length.as_str())];
        self.send("POST", uri, &headers, word.as_bytes()).await
    }

    /// Sends a bundle that is taken; returns the path of its run.
    pub(super) async fn run(&self, word: &str) -> String {
        let reply = self.deploy("/v1/deploys", word).await;
        assert_eq!(reply.status, 202, "{}", reply.text());
        let accepted: Accepted = serde_json::from_value(reply.json()).expect("the wire type");
        assert_eq!(reply.header("location"), Some(accepted.location.as_str()));
        accepted.location
    }

    pub(super) async fn result(&self, run: &str) -> (u16, Report) {
        let reply = self.get(&format!("{run}/result?wait=20s")).await;
        let report = serde_json::from_value(reply.json()).expect("the wire type");
        (reply.status, report)
    }

    pub(super) async fn send(
        &self,
        method: &str,
        uri: &str,
        more: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        let mut all = vec![("connection", "close")];
        all.extend(more);
        let head = self.head(method, uri, &all);
        self.raw(&[head.as_bytes(), body].concat()).await
    }

    /// Sends bytes and reads until the server closes.
    pub(super) async fn raw(&self, bytes: &[u8]) -> Reply {
        let mut stream = self.connect().await;
        // The server may answer and close before it has read everything.
        drop(stream.write_all(bytes).await);
        Reply::read(&mut stream).await
    }
}

impl Reply {
    pub(super) async fn read(stream: &mut UnixStream) -> Self {
        let mut bytes = Vec::new();
        drop(soon(stream.read_to_end(&mut bytes)).await);
        Self::parse(&bytes)
    }

    pub(super) fn parse(bytes: &[u8]) -> Self {
        let split = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        let Some(split) = split else {
            return Self {
                status: 0,
                headers: Vec::new(),
                body: bytes.to_vec(),
            };
        };
        let head = String::from_utf8_lossy(&bytes[..split]).into_owned();
        let mut lines = head.lines();
        let status = lines
            .next()
            .and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let pair = |line: &str| {
            let (name, value) = line.split_once(": ")?;
            Some((name.to_lowercase(), value.to_owned()))
        };
        let mut reply = Self {
            status: status.unwrap_or(0),
            headers: lines.filter_map(pair).collect(),
            body: bytes[split + 4..].to_vec(),
        };
        if reply.header("transfer-encoding") == Some("chunked") {
            reply.body = unchunked(&reply.body);
        }
        reply
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("{} is no JSON: {}", self.status, self.text()))
    }

    pub(super) fn code(&self) -> Code {
        let problem: Problem = serde_json::from_value(self.json()).expect("a problem");
        assert_eq!(
            (self.status, problem.status),
            (problem.code.status(), self.status)
        );
        problem.code
    }

    pub(super) fn events(&self) -> Vec<Event> {
        let text = self.text();
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).expect("an event"))
            .collect()
    }
}

fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|window| window == b"\r\n") {
        let size = String::from_utf8_lossy(&rest[..end]).into_owned();
        let size = usize::from_str_radix(&size, 16).expect("a size");
        body.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[end + 2 + size + 2..];
        if size == 0 {
            break;
        }
    }
    body
}
