//! What is asked of the hub over HTTP.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ureq::http::{HeaderMap, Response};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body, BodyReader};

use crate::listing::{Listing, RemoteFile, is_blob};
use crate::name::RepoName;
use crate::settings::Token;
use crate::{HubError, HubSettings};

/// The most bytes of an answer that is not a file.
const LONGEST_ANSWER: u64 = 32 << 20;

/// Redirects that are followed.
const MOST_REDIRECTS: usize = 10;

/// What is kept as it is in a part of a path.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// The hub, asked as one user.
pub(crate) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<Token>,
}

/// An answer to the last of some redirects.
struct Answer {
    /// What was asked, without its query: that of another server holds a signature.
    url: String,
    response: Response<Body>,
    /// What the hub says of a file before it points to another server.
    linked_etag: Option<String>,
    linked_size: Option<u64>,
}

/// A file that comes.
pub(crate) struct Incoming {
    /// Where in the file it begins.
    pub(crate) start: u64,
    /// Bytes of the whole file, if that is told.
    pub(crate) total: Option<u64>,
    pub(crate) reader: BodyReader<'static>,
    pub(crate) url: String,
}

impl Client {
    /// # Errors
    /// [`HubError::NoCertificates`] if the system has none and the hub is asked over TLS.
    pub(crate) fn new(settings: &HubSettings, patience: Duration) -> Result<Self, HubError> {
        let mut config = Agent::config_builder()
            .user_agent(concat!("longcat-hub/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            // By hand: the token goes to the hub only, and what it says of a file comes with the redirect.
            .max_redirects(0)
            .timeout_resolve(Some(patience))
            .timeout_connect(Some(patience))
            .timeout_recv_response(Some(patience))
            .timeout_per_read(Some(patience));
        let hosts = ["http://127.0.0.1", "http://localhost", "http://[::1]"];
        if hosts
            .iter()
            .any(|host| origin(&settings.endpoint).starts_with(host))
        {
            // A hub on this machine, which no proxy reaches.
            config = config.proxy(None);
        }
        let tls = tls(settings.endpoint.starts_with("https:"))?;
        config = config.tls_config(tls);
        Ok(Self {
            agent: config.build().new_agent(),
            endpoint: settings.endpoint.clone(),
            token: settings.token.clone(),
        })
    }

    /// The files of a repository at its revision.
    pub(crate) fn listing(&self, name: &RepoName) -> Result<Listing, HubError> {
        let revision = encoded(name.revision_or_main());
        let url = format!(
            "{}/api/models/{}/revision/{revision}?blobs=true",
            self.endpoint,
            name.id()
        );
        let answer = self.ask(false, &url, 0)?;
        let answer = self.checked(answer, name)?;
        let body = answer.response.into_body().into_with_config();
        let text = body
            .limit(LONGEST_ANSWER)
            .read_to_string()
            .map_err(|error| connection(&answer.url, &error))?;
        Listing::parse(&text).map_err(|reason| HubError::Answer {
            url: answer.url,
            reason,
        })
    }

    /// Size and name of the blob of a file that the listing says neither of.
    pub(crate) fn details(
        &self,
        name: &RepoName,
        commit: &str,
        file: &str,
    ) -> Result<RemoteFile, HubError> {
        let answer = self.ask(true, &self.file_url(name, commit, file), 0)?;
        let answer = self.checked(answer, name)?;
        let headers = answer.response.headers();
        let size = answer
            .linked_size
            .or_else(|| number(headers, "content-length"));
        let blob = answer.linked_etag.or_else(|| etag(headers, "etag"));
        // It becomes the name of a file.
        if let Some(blob) = blob.as_ref().filter(|blob| !is_blob(blob)) {
            return Err(HubError::Answer {
                url: answer.url,
                reason: format!("the blob {blob:?}"),
            });
        }
        match (size, blob) {
            (Some(size), Some(blob)) => Ok(RemoteFile {
                name: file.to_string(),
                size,
                blob,
            }),
            _ => Err(HubError::Answer {
                url: answer.url,
                reason: "neither ETag and Content-Length nor X-Linked-Etag and X-Linked-Size"
                    .into(),
            }),
        }
    }

    /// A file from one of its bytes on, or, if the server wants so, from the first.
    pub(crate) fn open(
        &self,
        name: &RepoName,
        commit: &str,
        file: &str,
        start: u64,
    ) -> Result<Incoming, HubError> {
        let answer = self.ask(false, &self.file_url(name, commit, file), start)?;
        let answer = self.checked(answer, name)?;
        let headers = answer.response.headers();
        let (start, total) = match answer.response.status().as_u16() {
            206 => content_range(headers).ok_or_else(|| HubError::Answer {
                url: answer.url.clone(),
                reason: "206 without a Content-Range".into(),
            })?,
            _ => (0, number(headers, "content-length")),
        };
        Ok(Incoming {
            start,
            total,
            reader: answer.response.into_body().into_reader(),
            url: answer.url,
        })
    }

    pub(crate) fn file_url(&self, name: &RepoName, commit: &str, file: &str) -> String {
        let file: Vec<String> = file.split('/').map(encoded).collect();
        format!(
            "{}/{}/resolve/{}/{}",
            self.endpoint,
            name.id(),
            encoded(commit),
            file.join("/")
        )
    }

    /// Asks, and follows redirects.
    fn ask(&self, head: bool, url: &str, start: u64) -> Result<Answer, HubError> {
        let mut url = url.to_string();
        let (mut linked_etag, mut linked_size) = (None, None);
        for _ in 0..MOST_REDIRECTS {
            let mut request = match head {
                true => self.agent.head(&url),
                false => self.agent.get(&url),
            };
            // Compressed, a part of a file would be a part of something else.
            request = request.header("Accept-Encoding", "identity");
            if let Some(token) = &self.token
                && origin(&url) == origin(&self.endpoint)
            {
                request = request.header("Authorization", format!("Bearer {}", token.secret()));
            }
            if start > 0 {
                request = request.header("Range", format!("bytes={start}-"));
            }
            let response = request.call().map_err(|error| match error {
                ureq::Error::BadUri(_) | ureq::Error::Http(_) => HubError::Answer {
                    url: without_query(&url).to_string(),
                    reason: error.to_string(),
                },
                error => connection(&url, &error),
            })?;
            let headers = response.headers();
            linked_etag = linked_etag.or_else(|| etag(headers, "x-linked-etag"));
            linked_size = linked_size.or_else(|| number(headers, "x-linked-size"));
            let location = text(headers, "location").filter(|_| response.status().is_redirection());
            let Some(location) = location else {
                return Ok(Answer {
                    url: without_query(&url).to_string(),
                    response,
                    linked_etag,
                    linked_size,
                });
            };
            url = joined(&url, location);
        }
        Err(HubError::Answer {
            url: without_query(&url).to_string(),
            reason: format!("more than {MOST_REDIRECTS} redirects"),
        })
    }

    /// An answer that is no error.
    fn checked(&self, answer: Answer, name: &RepoName) -> Result<Answer, HubError> {
        let status = answer.response.status();
        if status.is_success() {
            return Ok(answer);
        }
        let headers = answer.response.headers();
        let said = text(headers, "x-error-message").map(str::to_string);
        let code = text(headers, "x-error-code").map(str::to_string);
        let mut body = String::new();
        // What cannot be read of it says nothing.
        let _ = answer
            .response
            .into_body()
            .into_reader()
            .take(4096)
            .read_to_string(&mut body);
        let said = said.or_else(|| error_of(&body)).unwrap_or_default();
        let message: String = said.chars().take(300).collect();
        let message = match message.trim() {
            "" => String::new(),
            text => format!(" ({text})"),
        };
        Err(HubError::Refused {
            url: answer.url,
            status: status.as_u16(),
            message,
            advice: self.advice(status.as_u16(), code.as_deref(), name),
        })
    }

    /// What to do about an error of the hub.
    fn advice(&self, status: u16, code: Option<&str>, name: &RepoName) -> String {
        let page = format!("{}/{}", self.endpoint, name.id());
        let make = format!("{}/settings/tokens", self.endpoint);
        match (status, &self.token) {
            (401 | 403, None) => format!(
                "it may be private, need its licence accepted at {page}, or not exist: check the name, accept the \
                 licence there, and give a token from {make} with `hf auth login` or HF_TOKEN"
            ),
            (401, Some(token)) => format!(
                "the token of {} is not accepted, or there is no such repository: check the name, or make a new \
                 token at {make}",
                token.from()
            ),
            (403, Some(token)) => format!(
                "the token of {} may not read it: accept the licence at {page}, and see at {make} what the token \
                 may do",
                token.from()
            ),
            (404, _) if code == Some("RevisionNotFound") => {
                format!("there is no revision {} in it", name.revision_or_main())
            }
            (404, None) => format!(
                "check the name at {page}; of a private repository a token is needed, with `hf auth login` or HF_TOKEN"
            ),
            (404, Some(token)) => format!(
                "check the name at {page}; if it is private, the token of {} may not see it",
                token.from()
            ),
            (429, _) => "the hub is asked too often from here: wait some minutes, then run the same command again, \
                         it goes on where it stopped"
                .into(),
            _ => "run the same command again later, it goes on where it stopped".into(),
        }
    }
}

/// The certificates of the system, or those of SSL_CERT_FILE and SSL_CERT_DIR. A hub without TLS may lead to
/// servers with it; where it does not, none are needed.
fn tls(needed: bool) -> Result<TlsConfig, HubError> {
    let found = rustls_native_certs::load_native_certs();
    if needed && found.certs.is_empty() {
        let reasons: Vec<String> = found.errors.iter().map(|e| format!(" ({e})")).collect();
        return Err(HubError::NoCertificates(reasons.concat()));
    }
    let certificates = found.certs.iter();
    let certificates = certificates.map(|c| Certificate::from_der(c.as_ref()).to_owned());
    let certificates: Vec<Certificate<'static>> = certificates.collect();
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(certificates)))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build())
}

pub(crate) fn connection(url: &str, error: &dyn std::fmt::Display) -> HubError {
    let mut cause = error.to_string();
    if cause.contains("certificate") {
        cause += " (name the certificates of a proxy with SSL_CERT_FILE)";
    }
    HubError::Connection {
        url: without_query(url).to_string(),
        cause,
    }
}

fn encoded(part: &str) -> String {
    utf8_percent_encode(part, PLAIN).to_string()
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    text(headers, name)?.trim().parse().ok()
}

/// The name in an ETag, which may be weak and is quoted.
fn etag(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = text(headers, name)?.trim();
    let value = value.strip_prefix("W/").unwrap_or(value);
    Some(value.trim_matches('"').to_string())
}

/// First byte and size of the whole of `bytes 5-9/10`.
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let range = text(headers, "content-range")?.trim();
    let (range, total) = range.strip_prefix("bytes")?.trim().split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.trim().parse().ok()?, total.trim().parse().ok()))
}

/// What `{"error": "..."}` says.
fn error_of(body: &str) -> Option<String> {
    let body: serde_json::Value = serde_json::from_str(body).ok()?;
    Some(body["error"].as_str()?.to_string())
}

fn without_query(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or(url)
}

/// Scheme, host and port.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url[host..].find(['/', '?', '#']);
    end.map_or(url, |end| &url[..host + end])
}

/// Where a redirect leads.
fn joined(url: &str, location: &str) -> String {
    let scheme = url.find("://").map_or("", |at| &url[..at]);
    let folder = without_query(url).rsplit_once('/');
    match location {
        _ if location.contains("://") && !location.starts_with('/') => location.to_string(),
        _ if location.starts_with("//") => format!("{scheme}:{location}"),
        _ if location.starts_with('/') => format!("{}{location}", origin(url)),
        _ => format!("{}/{location}", folder.map_or(url, |(folder, _)| folder)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_where_a_browser_would_go() {
        let from = "https://hub.example:8443/a/b?x=1";
        let leads = |to: &str| joined(from, to);
        assert_eq!(
            leads("http://cdn.example/f?s=/"),
            "http://cdn.example/f?s=/"
        );
        assert_eq!(leads("//cdn.example/f"), "https://cdn.example/f");
        assert_eq!(
            leads("/c?next=https://x/"),
            "https://hub.example:8443/c?next=https://x/"
        );
        assert_eq!(leads("c"), "https://hub.example:8443/a/c");
        assert_eq!(origin(from), "https://hub.example:8443");
        assert_ne!(
            origin("https://hub.example.evil/"),
            origin("https://hub.example/")
        );
    }
}
