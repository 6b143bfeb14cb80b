//! A server that answers as the hub does: a list of files, redirects to another server, parts of files. It
//! serves one connection at a time in a thread of its own, on this machine only.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use longcat_hub::{Hub, HubSettings, PullOptions, RepoName, Token};
use sha2::{Digest, Sha256};

pub const REPO: &str = "owner/model";
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the server does wrong.
#[derive(Default, Clone)]
pub struct Faults {
    /// Breaks the connection after so many bytes of the file, so many times.
    pub breaks: Option<(String, usize, usize)>,
    /// Sends other bytes of this file than it announces.
    pub wrong: Option<String>,
    /// Sends whole files, whatever part is asked for.
    pub no_ranges: bool,
    /// Leaves sizes and blobs out of the list.
    pub plain_list: bool,
    /// Calls the content of all small files so.
    pub etag: Option<String>,
    /// Says that the server of large files speaks TLS, which it does not.
    pub claims_tls: bool,
    /// The status of all answers to requests without this token.
    pub token: Option<(String, u16)>,
    /// The status of so many requests for files.
    pub busy: Option<(u16, usize)>,
}

struct State {
    files: BTreeMap<String, Vec<u8>>,
    large: Vec<String>,
    faults: Faults,
    requests: Vec<Request>,
    storage: String,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub path: String,
    pub range: Option<usize>,
    pub token: Option<String>,
    /// Whether it came to the server that has the large files.
    pub storage: bool,
    head: bool,
}

pub struct Server {
    pub endpoint: String,
    state: Arc<Mutex<State>>,
    pub folder: tempfile::TempDir,
}

impl Server {
    /// A repository with these files; those that end in .safetensors or .gguf are stored as large ones are.
    pub fn new(files: &[(&str, &[u8])], faults: Faults) -> Self {
        let hub = TcpListener::bind("127.0.0.1:0").unwrap();
        let storage = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
        let endpoint = address(&hub);
        let large = |name: &&str| name.ends_with(".safetensors") || name.ends_with(".gguf");
        let names = files.iter().map(|(name, _)| *name);
        let state = Arc::new(Mutex::new(State {
            files: files
                .iter()
                .map(|(name, content)| (name.to_string(), content.to_vec()))
                .collect(),
            large: names.filter(large).map(str::to_string).collect(),
            faults,
            requests: Vec::new(),
            storage: address(&storage),
        }));
        for (listener, is_storage) in [(hub, false), (storage, true)] {
            let state = state.clone();
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let state = state.clone();
                    thread::spawn(move || answer(stream, &state, is_storage));
                }
            });
        }
        Self {
            endpoint,
            state,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub fn settings(&self) -> HubSettings {
        HubSettings {
            cache: self.folder.path().join("hub"),
            endpoint: self.endpoint.clone(),
            token: None,
            offline: false,
        }
    }

    pub fn hub(&self) -> Hub {
        Hub::new(self.settings(), quick())
    }

    pub fn hub_with_token(&self, token: &str) -> Hub {
        let token = Token::new(token, "HF_TOKEN").unwrap();
        let settings = HubSettings {
            token,
            ..self.settings()
        };
        Hub::new(settings, quick())
    }

    pub fn set_faults(&self, faults: Faults) {
        self.state.lock().unwrap().faults = faults;
    }

    pub fn requests(&self) -> Vec<Request> {
        self.state.lock().unwrap().requests.clone()
    }

    pub fn forget_requests(&self) {
        self.state.lock().unwrap().requests.clear();
    }
}

/// Options with which tests do not wait.
pub fn quick() -> PullOptions {
    PullOptions {
        at_once: 1,
        retries: 2,
        wait: Duration::from_millis(1),
        ..PullOptions::default()
    }
}

pub fn repo() -> RepoName {
    REPO.parse().unwrap()
}

pub fn sha256(content: &[u8]) -> String {
    format!("{:x}", Sha256::digest(content))
}

/// As `git hash-object` computes it.
pub fn git_sha1(content: &[u8]) -> String {
    let mut sum = sha1::Sha1::default();
    sum.update(format!("blob {}\0", content.len()));
    sum.update(content);
    format!("{:x}", sum.finalize())
}

fn answer(mut stream: TcpStream, state: &Mutex<State>, storage: bool) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while let Some(request) = read(&mut reader, storage) {
        let mut state = state.lock().unwrap();
        state.requests.push(request.clone());
        if !respond(&mut stream, &mut state, &request) {
            return;
        }
    }
}

fn read(reader: &mut BufReader<TcpStream>, storage: bool) -> Option<Request> {
    let mut line = String::new();
    let mut lines = Vec::new();
    while reader.read_line(&mut line).ok()? > 0 && line.trim() != "" {
        lines.push(std::mem::take(&mut line).trim().to_string());
    }
    let mut first = lines.first()?.split(' ');
    let head = first.next()? == "HEAD";
    let path = first.next()?.to_string();
    let header = |name: &str| {
        let found = lines[1..].iter().filter_map(|line| line.split_once(':'));
        let mut found = found.filter(|(key, _)| key.eq_ignore_ascii_case(name));
        Some(found.next()?.1.trim().to_string())
    };
    let range = header("range").and_then(|range| {
        let start = range.strip_prefix("bytes=")?.strip_suffix('-')?;
        start.parse().ok()
    });
    let token = header("authorization").and_then(|t| Some(t.strip_prefix("Bearer ")?.to_string()));
    Some(Request {
        path,
        range,
        token,
        storage,
        head,
    })
}

/// Says whether the connection goes on.
fn respond(stream: &mut TcpStream, state: &mut State, request: &Request) -> bool {
    let path = request.path.split('?').next().unwrap();
    if let Some((token, status)) = &state.faults.token
        && !request.storage
        && request.token.as_ref() != Some(token)
    {
        let said = "x-error-message: Access to model owner/model is restricted.\r\nx-error-code: GatedRepo\r\n";
        return send(stream, *status, said, b"", true);
    }
    if path == format!("/api/models/{REPO}/revision/main") {
        let list = list(state);
        return send(stream, 200, "", list.as_bytes(), true);
    }
    if let Some(name) = path.strip_prefix(&format!("/{REPO}/resolve/{COMMIT}/")) {
        let name = name.replace("%20", " ");
        let Some(content) = state.files.get(&name).cloned() else {
            return send(stream, 404, "x-error-code: EntryNotFound\r\n", b"", true);
        };
        if let Some((status, times)) = &mut state.faults.busy
            && *times > 0
        {
            *times -= 1;
            return send(stream, *status, "", b"", true);
        }
        let commit = format!("x-repo-commit: {COMMIT}\r\n");
        if state.large.contains(&name) {
            let storage = match state.faults.claims_tls {
                true => state.storage.replace("http:", "https:"),
                false => state.storage.clone(),
            };
            let headers = format!(
                "{commit}x-linked-etag: \"{}\"\r\nx-linked-size: {}\r\nlocation: {}/{}?Signature=secret\r\n",
                sha256(&content),
                content.len(),
                storage,
                name.replace(' ', "%20"),
            );
            return send(stream, 302, &headers, b"", !request.head);
        }
        let etag = state.faults.etag.clone();
        let etag = etag.unwrap_or_else(|| git_sha1(&content));
        let headers = format!("{commit}etag: W/\"{etag}\"\r\n");
        return file(stream, state, request, &name, &content, &headers);
    }
    if request.storage {
        let name = path[1..].replace("%20", " ");
        let content = state.files[&name].clone();
        return file(stream, state, request, &name, &content, "");
    }
    send(
        stream,
        404,
        "x-error-code: RevisionNotFound\r\n",
        b"{\"error\": \"Invalid rev id\"}",
        true,
    )
}

fn file(
    stream: &mut TcpStream,
    state: &mut State,
    request: &Request,
    name: &str,
    content: &[u8],
    headers: &str,
) -> bool {
    let mut content = content.to_vec();
    if state.faults.wrong.as_deref() == Some(name) {
        content[0] ^= 1;
    }
    let total = content.len();
    let start = request.range.filter(|_| !state.faults.no_ranges);
    let status = if start.is_some() { 206 } else { 200 };
    let mut headers = headers.to_string();
    if let Some(start) = start {
        headers += &format!("content-range: bytes {start}-{}/{total}\r\n", total - 1);
    }
    let body = &content[start.unwrap_or(0)..];
    if let Some((broken, after, times)) = &mut state.faults.breaks
        && broken == name
        && *times > 0
    {
        *times -= 1;
        let sent = &body[..(*after).min(body.len())];
        let length = body.len();
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n{headers}\r\n");
        let _ = stream.write_all(head.as_bytes());
        let _ = stream.write_all(sent);
        let _ = stream.shutdown(std::net::Shutdown::Both);
        return false;
    }
    send(stream, status, &headers, body, !request.head)
}

fn send(stream: &mut TcpStream, status: u16, headers: &str, body: &[u8], with_body: bool) -> bool {
    let length = body.len();
    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n{headers}\r\n");
    let body = if with_body { body } else { b"" };
    stream.write_all(head.as_bytes()).is_ok() && stream.write_all(body).is_ok()
}

fn list(state: &State) -> String {
    let files = state.files.iter().map(|(name, content)| {
        let size = content.len();
        let details = match (state.faults.plain_list, state.large.contains(name)) {
            (true, _) => String::new(),
            (false, false) => format!(r#", "size": {size}, "blobId": "{}""#, git_sha1(content)),
            (false, true) => format!(
                r#", "size": {size}, "blobId": "{}", "lfs": {{"sha256": "{}", "size": {size}, "pointerSize": 134}}"#,
                git_sha1(b"a pointer"),
                sha256(content)
            ),
        };
        format!(r#"{{"rfilename": "{name}"{details}}}"#)
    });
    let files: Vec<String> = files.collect();
    format!(
        r#"{{"id": "{REPO}", "sha": "{COMMIT}", "gated": false, "siblings": [{}]}}"#,
        files.join(", ")
    )
}
