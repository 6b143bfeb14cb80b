//! Clients that leave, or do not take what they asked for.

use std::io::Write;
use std::net::TcpStream;
use std::thread::sleep;
use std::time::Duration;

use crate::client::form;
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
