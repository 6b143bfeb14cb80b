//! Clients that leave, or do not take what they asked for.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use longcat_serve::Limits;
use serde_json::json;

use crate::client::{PATIENCE, form};
use crate::media::png;
use crate::server::{Local, quick};

#[test]
fn clients_that_leave_do_not_have_more_uploads_decoded_at_once() {
    let server = Local::start(quick());
    let picture = png(16, 16);
    let parts = [
        ("prompt", None, &b"long check"[..]),
        ("image", Some("a.png"), &picture[..]),
    ];
    let (kind, body) = form(&parts);
    let head = format!(
        "POST /v1/videos HTTP/1.1\r\nHost: {}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
        server.address,
        body.len()
    );
    for _ in 0..6 {
        let mut client = TcpStream::connect(server.address).unwrap();
        client
            .write_all(&[head.as_bytes(), &body].concat())
            .unwrap();
        sleep(Duration::from_millis(50));
    }
    sleep(Duration::from_millis(1500));
    // Two have had their turn; whoever left while it waited for one is not served.
    let total = server.client().get("/v1/videos").json()["total"].clone();
    assert!(
        total.as_u64().is_some_and(|total| (1..6).contains(&total)),
        "{total}"
    );
}

#[test]
fn who_follows_all_jobs_too_slowly_has_to_connect_again() {
    let server = Local::start(quick());
    let mut client = server.client();
    let mut slow = TcpStream::connect(server.address).unwrap();
    slow.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!(
        "GET /v1/events HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        server.address
    );
    slow.write_all(head.as_bytes()).unwrap();
    // Each tells of its long prompts three times, and of more than a hundred steps.
    let prompts = vec!["x".repeat(9000); 64];
    let jobs: Vec<String> = (0..20)
        .map(|_| {
            client.create(&json!({"prompts": prompts, "steps": 1, "frames": 1, "size": "16x16"}))
        })
        .collect();
    for id in &jobs {
        client.wait(id, &["completed"]);
    }
    let mut told = Vec::new();
    slow.read_to_end(&mut told).unwrap();
    assert!(told.ends_with(b"0\r\n\r\n"), "{} bytes", told.len());
}

/// A connection on which this was sent.
fn connect(address: SocketAddr, sent: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(sent.as_bytes()).unwrap();
    stream
}

/// What the server says before it closes a connection, whose client goes on to send a byte now and then.
fn drip(mut stream: TcpStream) -> String {
    let begun = Instant::now();
    let mut told = Vec::new();
    stream
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    loop {
        let mut bytes = [0; 1000];
        match stream.read(&mut bytes) {
            Ok(0) => break,
            Ok(count) => told.extend_from_slice(&bytes[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(_) => {}
        }
        assert!(begun.elapsed() < PATIENCE, "a slow client is not cut off");
        let _ = stream.write_all(b"a");
    }
    String::from_utf8(told).unwrap()
}

#[test]
fn slow_clients_are_cut_off_and_others_are_answered_meanwhile() {
    let patience = Duration::from_secs(2);
    let server = Local::with(quick(), |options| {
        options.limits = Limits {
            connections: 6,
            header_time: patience,
            stall_time: patience,
            ..Limits::default()
        };
    });
    let address = server.address;
    let begun = Instant::now();
    let head = "GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ";
    let post = "POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                Content-Length: 100000\r\n\r\n{";
    let slow: Vec<TcpStream> = [head, head, head, post, post]
        .map(|sent| connect(address, sent))
        .into();
    // There is one place left.
    assert_eq!(server.client().get("/health").status, 200);
    assert!(begun.elapsed() < patience, "{:?}", begun.elapsed());
    let told: Vec<String> = std::thread::scope(|scope| {
        let each: Vec<_> = slow
            .into_iter()
            .map(|stream| scope.spawn(|| drip(stream)))
            .collect();
        each.into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(told[..3].iter().all(String::is_empty), "{told:?}");
    for answer in &told[3..] {
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert!(answer.contains("too slowly"), "{answer}");
    }
    assert!(begun.elapsed() >= patience);

    // Whoever comes when all places are taken is answered when one is left.
    let all: Vec<TcpStream> = (0..6).map(|_| connect(address, head)).collect();
    let begun = Instant::now();
    assert_eq!(server.client().get("/health").status, 200);
    assert!(begun.elapsed() > patience / 4, "{:?}", begun.elapsed());
    drop(all);
    let total = server.client().get("/v1/videos").json()["total"].clone();
    assert_eq!(total, 0);
}
