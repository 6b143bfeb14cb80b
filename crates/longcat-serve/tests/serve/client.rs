//! A small HTTP client that keeps its connection and compares every answer with the description of the API.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::description;

/// Longer than anything here takes.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            panic!("{error}: {}", String::from_utf8_lossy(&self.body));
        })
    }

    /// The member of the request that an error names.
    pub fn param(&self) -> String {
        self.json()["error"]["param"]
            .as_str()
            .unwrap_or_default()
            .to_string()
    }

    pub fn message(&self) -> String {
        self.json()["error"]["message"]
            .as_str()
            .unwrap_or_default()
            .to_string()
    }
}

/// A part of a form: name, name of its file, contents.
pub type Part<'a> = (&'a str, Option<&'a str>, &'a [u8]);

/// Type and body of a form.
pub fn form(parts: &[Part<'_>]) -> (String, Vec<u8>) {
    const BOUNDARY: &str = "a-line-that-is-in-no-part";
    let mut body = Vec::new();
    for (name, file, contents) in parts {
        let file = file.map_or(String::new(), |file| format!("; filename=\"{file}\""));
        let head = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n"
        );
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(contents);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    (format!("multipart/form-data; boundary={BOUNDARY}"), body)
}

pub struct Client {
    address: SocketAddr,
    connection: Option<BufReader<TcpStream>>,
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            connection: None,
        }
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&self.address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Sends a request as it is given.
    pub fn raw(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Reply> {
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        if !headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("host"))
        {
            head += &format!("Host: {}\r\n", self.address);
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("Content-Length: {}\r\n\r\n", body.len());
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => BufReader::new(self.connect()?),
        };
        let sent = [head.as_bytes(), body].concat();
        // A server may answer and close before it has read all.
        let written = connection.get_mut().write_all(&sent);
        let reply = read(&mut connection, method == "HEAD")?;
        let closes = reply
            .header("connection")
            .is_some_and(|value| value == "close");
        if !closes && written.is_ok() {
            self.connection = Some(connection);
        }
        Ok(reply)
    }

    /// Sends a request and compares the answer with the description.
    pub fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        let reply = self.raw(method, path, headers, body);
        let reply = reply.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        description::check(method, path, &reply);
        reply
    }

    pub fn get(&mut self, path: &str) -> Reply {
        self.send("GET", path, &[], b"")
    }

    pub fn delete(&mut self, path: &str) -> Reply {
        self.send("DELETE", path, &[], b"")
    }

    pub fn post(&mut self, path: &str, body: &Value) -> Reply {
        let headers = [("Content-Type", "application/json")];
        self.send("POST", path, &headers, body.to_string().as_bytes())
    }

    pub fn post_form(&mut self, path: &str, parts: &[Part<'_>]) -> Reply {
        let (kind, body) = form(parts);
        self.send("POST", path, &[("Content-Type", &kind)], &body)
    }

    /// Puts a video into the queue; its id.
    pub fn create(&mut self, body: &Value) -> String {
        let reply = self.post("/v1/videos", body);
        assert_eq!(reply.status, 200, "{body}: {}", reply.json());
        reply.json()["id"].as_str().unwrap_or_default().to_string()
    }

    pub fn video(&mut self, id: &str) -> Value {
        let reply = self.get(&format!("/v1/videos/{id}"));
        assert_eq!(reply.status, 200, "{}", reply.json());
        reply.json()
    }

    /// Waits for a job to be in one of these states.
    pub fn wait(&mut self, id: &str, states: &[&str]) -> Value {
        let begun = Instant::now();
        loop {
            let video = self.video(id);
            if states.iter().any(|state| video["status"] == *state) {
                return video;
            }
            assert!(begun.elapsed() < PATIENCE, "{video}");
            sleep(Duration::from_millis(10));
        }
    }

    /// Makes a video; the job when it is completed.
    pub fn make(&mut self, body: &Value) -> Value {
        let id = self.create(body);
        let video = self.wait(&id, &["completed", "failed", "cancelled"]);
        assert_eq!(video["status"], "completed", "{video}");
        video
    }

    /// Server-sent events from now on, up to the end or until `enough`.
    pub fn events(
        &self,
        path: &str,
        enough: impl Fn(&[(String, Value)]) -> bool,
    ) -> Vec<(String, Value)> {
        let mut stream = self.connect().unwrap_or_else(|error| panic!("{error}"));
        let head = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address);
        stream
            .write_all(head.as_bytes())
            .unwrap_or_else(|error| panic!("{error}"));
        let mut reader = BufReader::new(stream);
        let mut events = Vec::new();
        let mut name = String::new();
        for line in (&mut reader).lines() {
            let line = line.unwrap_or_else(|error| panic!("{path}: {error}"));
            if let Some(text) = line.strip_prefix("event: ") {
                name = text.to_string();
            }
            if let Some(text) = line.strip_prefix("data: ") {
                let data = serde_json::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"));
                description::check_event(&name, &data);
                events.push((name.clone(), data));
                if enough(&events) {
                    break;
                }
            }
            // The last chunk of the answer.
            if line == "0" {
                break;
            }
        }
        events
    }
}

fn read(connection: &mut BufReader<TcpStream>, head_only: bool) -> io::Result<Reply> {
    let line = |connection: &mut BufReader<TcpStream>| {
        let mut line = String::new();
        match connection.read_line(&mut line)? {
            0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            _ => Ok(line.trim_end().to_string()),
        }
    };
    let first = line(connection)?;
    let status = first
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("no answer: {first:?}")))?;
    let mut reply = Reply {
        status,
        headers: Vec::new(),
        body: Vec::new(),
    };
    loop {
        let header = line(connection)?;
        match header.split_once(':') {
            Some((name, value)) => {
                reply
                    .headers
                    .push((name.to_string(), value.trim().to_string()));
            }
            None => break,
        }
    }
    if head_only || status == 304 || status == 204 {
        return Ok(reply);
    }
    if let Some(length) = reply.header("content-length") {
        let length: usize = length.parse().map_err(io::Error::other)?;
        reply.body.resize(length, 0);
        connection.read_exact(&mut reply.body)?;
        return Ok(reply);
    }
    loop {
        let length = line(connection)?;
        let length = usize::from_str_radix(&length, 16).map_err(io::Error::other)?;
        let mut chunk = vec![0; length + 2];
        connection.read_exact(&mut chunk)?;
        if length == 0 {
            return Ok(reply);
        }
        reply.body.extend_from_slice(&chunk[..length]);
    }
}
