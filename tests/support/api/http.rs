//! As much of HTTP/1.1 as one client needs.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::store::Selector;

/// Longer heads and bodies are no client of ours.
const BYTES_MAX: usize = 1 << 20;

/// One request.
#[derive(Debug, Default)]
pub(super) struct Request {
    pub(super) method: String,
    /// Path and query.
    pub(super) target: String,
    pub(super) body: Vec<u8>,
}

impl Request {
    /// Resource, namespace and name; those that the path does not have are empty.
    pub(super) fn place(&self) -> Option<(String, String, String)> {
        let path = self.target.split('?').next().unwrap_or_default();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        // /api/v1/… or /apis/<group>/<version>/…
        let parts = match *parts.first()? {
            "api" => parts.get(2..)?,
            "apis" => parts.get(3..)?,
            _ => return None,
        };
        let owned = |parts: [&str; 3]| Some(parts.map(str::to_owned).into());
        match *parts {
            ["namespaces"] => owned(["namespaces", "", ""]),
            ["namespaces", name] => owned(["namespaces", "", name]),
            ["namespaces", namespace, resource] => owned([resource, namespace, ""]),
            ["namespaces", namespace, resource, name] => owned([resource, namespace, name]),
            [resource] => owned([resource, "", ""]),
            [resource, name] => owned([resource, "", name]),
            _ => None,
        }
    }

    /// A value of the query, decoded.
    pub(super) fn query(&self, key: &str) -> Option<String> {
        let (_, query) = self.target.split_once('?')?;
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let (_, value) = pairs.find(|(name, _)| *name == key)?;
        Some(decode(value))
    }

    /// Who is asked for.
    pub(super) fn selector(&self) -> Selector {
        let field = self.query("fieldSelector").unwrap_or_default();
        Selector {
            node: field.strip_prefix("spec.nodeName=").map(str::to_owned),
            label: self
                .query("labelSelector")
                .filter(|label| !label.is_empty()),
        }
    }
}

/// Percent-encoding undone.
fn decode(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        let hex = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        match byte {
            b'%' => match (hex(bytes.next()), hex(bytes.next())) {
                (Some(high), Some(low)) => out.extend(u8::try_from(high * 16 + low)),
                _ => out.push(b'?'),
            },
            b'+' => out.push(b' '),
            other => out.push(other),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The next request of a connection; `None` when the client is done.
pub(super) fn read(stream: &mut TcpStream) -> Result<Option<Request>> {
    // The client sends the next request only after our answer: nothing is read ahead and lost.
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_ascii_whitespace();
    let mut request = Request {
        method: words.next().context("a method")?.to_owned(),
        target: words.next().context("a target")?.to_owned(),
        body: Vec::new(),
    };
    let mut length = 0;
    loop {
        let mut line = String::new();
        ensure!(reader.read_line(&mut line)? > 0, "the head ends early");
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse()?;
        }
    }
    ensure!(length <= BYTES_MAX, "a body of {length} bytes");
    request.body = vec![0; length];
    reader.read_exact(&mut request.body)?;
    Ok(Some(request))
}

/// Bytes sent so far.
pub(super) static SENT: AtomicU64 = AtomicU64::new(0);

fn send(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    SENT.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    stream.write_all(bytes)
}

/// A whole answer.
pub(super) fn respond(stream: &mut TcpStream, code: u16, body: &Value) -> Result<()> {
    let body = serde_json::to_vec(body)?;
    let head = format!(
        "HTTP/1.1 {code} -\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    Ok(send(stream, &[head.as_bytes(), &body].concat())?)
}

/// The head of an answer that goes on.
pub(super) fn begin_chunks(stream: &mut TcpStream) -> Result<()> {
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    Ok(send(stream, head.as_bytes())?)
}

/// One event, on a line of its own.
pub(super) fn chunk(stream: &mut TcpStream, event: &Value) -> Result<()> {
    let line = format!("{event}\n");
    Ok(send(
        stream,
        format!("{:x}\r\n{line}\r\n", line.len()).as_bytes(),
    )?)
}

/// A proper end.
pub(super) fn end_chunks(stream: &mut TcpStream) -> Result<()> {
    send(stream, b"0\r\n\r\n")?;
    Ok(stream.shutdown(Shutdown::Both)?)
}

/// An improper one: half an event.
pub(super) fn cut(stream: &mut TcpStream) -> Result<()> {
    send(stream, b"40\r\n{\"type\":\"ADDED\",\"obj")?;
    Ok(stream.shutdown(Shutdown::Both)?)
}
