//! Requests that are none: no panic, an error of the client, nothing written.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::{Map, Value, json};

use crate::fake::Fake;
use crate::media::{png, tree};
use crate::server::{Local, quick};

const REQUESTS: u32 = 10_000;
/// More than enough; it ends there with what it has.
const LIMIT: Duration = Duration::from_secs(120);

#[derive(Debug, Clone)]
struct Fuzzed {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

fn names() -> impl Strategy<Value = String> {
    let known = [
        "mode",
        "prompt",
        "prompts",
        "negative_prompt",
        "size",
        "frames",
        "seconds",
        "seed",
        "steps",
        "guidance",
        "distill",
        "refine",
        "spatial_only",
        "cond_frames",
        "cache",
        "adapters",
        "from",
        "input_from",
        "model",
        "request",
        "image",
        "video",
        "input_reference",
        "file",
        "config",
    ];
    prop_oneof![8 => prop::sample::select(known.to_vec()).prop_map(String::from), 1 => "\\PC{0,12}"]
}

fn texts() -> impl Strategy<Value = String> {
    let known = [
        "",
        "a",
        "text",
        "image",
        "continue",
        "refine",
        "64x64",
        "0x0",
        "99999999999x1",
        "easy",
        "1e309",
        "-1",
        "NaN",
        "../../etc/passwd",
        "video_000000000000000000000000",
        "\u{0}",
        "{\"prompt\": \"a\"}",
    ];
    prop_oneof![
        3 => prop::sample::select(known.to_vec()).prop_map(String::from),
        1 => "\\PC{0,40}",
        1 => vec(any::<char>(), 0..20).prop_map(|chars| chars.into_iter().collect()),
    ]
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        texts().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((names(), inner), 0..4)
                .prop_map(|members| Value::from(members.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// A request that would be accepted, but for some members, or cut.
fn objects() -> impl Strategy<Value = Vec<u8>> {
    let valid = json!({"prompt": "a", "frames": 5, "seed": 1, "adapters": []});
    (
        vec((names(), values()), 0..4),
        prop::option::weighted(0.2, any::<prop::sample::Index>()),
    )
        .prop_map(move |(members, cut)| {
            let mut object = valid.as_object().cloned().unwrap_or_default();
            object.extend(members);
            let mut bytes = Value::from(object).to_string().into_bytes();
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            bytes
        })
}

/// Forms, some of them without their end, with files that are cut or something else.
fn forms() -> impl Strategy<Value = Vec<u8>> {
    let picture = png(16, 16);
    let contents = prop_oneof![
        texts().prop_map(String::into_bytes),
        objects(),
        vec(any::<u8>(), 0..200),
        any::<prop::sample::Index>()
            .prop_map(move |cut| picture[..cut.index(picture.len())].to_vec()),
    ];
    let part = (names(), prop::option::of(texts()), contents);
    (vec(part, 0..5), any::<bool>(), 0..20u8).prop_map(|(parts, ends, flaw)| {
        let mut body = Vec::new();
        for (name, file, contents) in parts {
            let file = file.map_or(String::new(), |file| format!("; filename=\"{file}\""));
            let line = if flaw == 1 { "\n" } else { "\r\n" };
            let head = format!(
                "--B{line}Content-Disposition: form-data; name=\"{name}\"{file}{line}{line}"
            );
            body.extend(head.into_bytes());
            body.extend(contents);
            body.extend(b"\r\n");
        }
        if ends {
            body.extend(b"--B--\r\n");
        }
        body
    })
}

fn paths() -> impl Strategy<Value = String> {
    let known = [
        "/v1/videos",
        "/v1/videos/",
        "/v1/adapters",
        "/v1/events/",
        "/v1/options",
        "/health",
        "/metrics",
        "/",
        "/openapi.json",
        "/page/",
        "/v1/videos/video_000000000000000000000000",
    ];
    let ends = [
        "",
        "",
        "/content",
        "/latents",
        "/settings",
        "/events",
        "/input",
        "/%2e%2e",
        "?",
        "//",
    ];
    let sign = "[!-~]{0,12}";
    let query = prop_oneof![
        Just(String::new()),
        (names(), "[!-~]{0,8}").prop_map(|(name, value)| {
            let plain: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
            format!("?{plain}={value}")
        }),
        "(limit|after|order|status|variant)=[!-~]{0,8}".prop_map(|query| format!("?{query}")),
    ];
    (
        prop::sample::select(known.to_vec()),
        prop::sample::select(ends.to_vec()),
        prop_oneof![3 => Just(String::new()), 1 => sign.prop_map(|sign| format!("/{sign}"))],
        query,
    )
        .prop_map(|(path, end, sign, query)| {
            format!("{path}{end}{sign}{query}").replace('#', "%23")
        })
}

fn requests() -> impl Strategy<Value = Fuzzed> {
    let post = |kind: &'static str, body: BoxedStrategy<Vec<u8>>, path: &'static str| {
        body.prop_map(move |body| Fuzzed {
            method: "POST".into(),
            path: path.into(),
            headers: vec![("Content-Type".into(), kind.into())],
            body,
        })
    };
    const FORM: &str = "multipart/form-data; boundary=B";
    let methods = [
        "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "X",
    ];
    let header = (
        prop::sample::select(vec![
            "Content-Type",
            "Range",
            "Accept",
            "Cookie",
            "Authorization",
            "Origin",
            "Idempotency-Key",
            "Expect2",
            "If-Match",
            "Sec-Fetch-Site",
            "X-Y",
        ]),
        prop_oneof![
            prop::sample::select(vec![
                "application/json",
                "multipart/form-data",
                FORM,
                "multipart/form-data; boundary=",
                "bytes=0-",
                "bytes=-1",
                "bytes=9-1,2-3",
                "null",
                "same-origin",
                "cross-site",
            ])
            .prop_map(String::from),
            "[ -~]{0,40}",
        ],
    );
    let anything = (
        prop::sample::select(methods.to_vec()),
        paths(),
        vec(header, 0..4),
        prop_oneof![Just(Vec::new()), vec(any::<u8>(), 0..300), objects()],
    );
    prop_oneof![
        4 => post("application/json", objects().boxed(), "/v1/videos"),
        1 => post("application/json", vec(any::<u8>(), 0..200).boxed(), "/v1/videos"),
        3 => post(FORM, forms().boxed(), "/v1/videos"),
        1 => post(FORM, forms().boxed(), "/v1/adapters"),
        4 => anything.prop_map(|(method, path, headers, body)| Fuzzed {
            method: method.into(),
            path,
            headers: headers.into_iter().map(|(name, value)| (name.into(), value.trim().into())).collect(),
            body,
        }),
    ]
}

#[test]
fn requests_that_are_none_are_refused_and_leave_nothing() {
    let server = Local::start(Fake {
        refuses: true,
        ..quick()
    });
    let before = tree(&server.data());
    let client = RefCell::new(server.client());
    let begun = Instant::now();
    let mut runner = TestRunner::new(Config {
        cases: REQUESTS,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    });
    let sent = RefCell::new(0);
    let result = runner.run(&requests(), |request| {
        if begun.elapsed() > LIMIT {
            return Ok(());
        }
        let headers: Vec<(&str, &str)> = request
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        // An endless answer.
        if request.path.split('?').next() == Some("/v1/events") {
            return Ok(());
        }
        let reply =
            client
                .borrow_mut()
                .raw(&request.method, &request.path, &headers, &request.body);
        *sent.borrow_mut() += 1;
        let status = reply
            .map_err(|error| TestCaseError::fail(error.to_string()))?
            .status;
        let changes = !matches!(request.method.as_str(), "GET" | "HEAD");
        let fine = match changes {
            true => (400..500).contains(&status),
            false => (200..500).contains(&status),
        };
        prop_assert!(fine, "{status}");
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    println!("{} requests in {:.1?}", sent.borrow(), begun.elapsed());
    assert!(*sent.borrow() >= 9_000, "{}", sent.borrow());
    assert_eq!(tree(&server.data()), before);
    let mut client = server.client();
    assert_eq!(client.get("/v1/videos").json()["total"], 0);
    assert_eq!(client.get("/health").json()["status"], "ok");
}

#[test]
fn bytes_that_are_no_http_do_no_harm() {
    let server = Local::start(quick());
    let before = tree(&server.data());
    let valid: &[u8] =
        b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
        Content-Length: 15\r\n\r\n{\"prompt\": \"a\"}";
    let mut runner = TestRunner::new(Config {
        cases: 300,
        failure_persistence: None,
        ..Config::default()
    });
    let changes = vec((any::<prop::sample::Index>(), any::<u8>()), 1..6);
    // Within the head, whatever it becomes: its length is more than comes.
    let result = runner.run(&(changes, vec(any::<u8>(), 0..64)), |(changes, noise)| {
        let mut bytes = valid.to_vec();
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        bytes.truncate(valid.len() - 1);
        for bytes in [bytes, noise] {
            let mut stream = TcpStream::connect(server.address)
                .map_err(|error| TestCaseError::fail(error.to_string()))?;
            let _ = stream.set_read_timeout(Some(Duration::from_millis(20)));
            let _ = stream.write_all(&bytes);
            let mut answer = [0; 12];
            if stream.read_exact(&mut answer).is_ok() {
                prop_assert!(
                    answer.starts_with(b"HTTP/1.1 4"),
                    "{:?}",
                    String::from_utf8_lossy(&answer)
                );
            }
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
    let mut client = server.client();
    assert_eq!(client.get("/v1/videos").json()["total"], 0);
    // Requests that were cut off are forgotten.
    let begun = Instant::now();
    while tree(&server.data()) != before {
        assert!(begun.elapsed() < Duration::from_secs(5));
        std::thread::sleep(Duration::from_millis(10));
    }
}
