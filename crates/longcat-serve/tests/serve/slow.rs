//! Clients that leave, or do not take what they asked for.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::Duration;

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
