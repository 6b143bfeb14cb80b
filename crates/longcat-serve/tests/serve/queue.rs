//! Jobs side by side: waiting, cancelled, failing, on several devices.

use std::time::Duration;

use longcat_serve::Limits;
use serde_json::{Value, json};

use crate::client::Client;
use crate::fake::Fake;
use crate::server::{Local, quick};

#[test]
fn jobs_are_cancelled_before_and_while_they_are_made() {
    let server = Local::start(quick());
    let mut client = server.client();
    let running = client.create(&json!({"prompt": "slow", "steps": 1000}));
    let waiting = client.create(&json!({"prompt": "never"}));
    client.wait(&running, &["in_progress"]);
    assert_eq!(client.video(&waiting)["position"], 0);
    let deleted = client.delete(&format!("/v1/videos/{waiting}")).json();
    assert_eq!(
        (&deleted["deleted"], &deleted["status"]),
        (&json!(false), &json!("cancelled"))
    );
    let deleted = client.delete(&format!("/v1/videos/{running}")).json();
    assert_eq!(
        (&deleted["deleted"], &deleted["status"]),
        (&json!(false), &json!("in_progress"))
    );
    let ended = client.wait(&running, &["cancelled"]);
    assert_eq!(
        (&ended["error"], &ended["files"]["content"]),
        (&Value::Null, &json!(false))
    );
    assert_eq!(client.video(&waiting)["status"], "cancelled");
    assert_eq!(
        client.delete(&format!("/v1/videos/{running}")).json()["deleted"],
        true
    );
    assert_eq!(
        client.make(&json!({"prompt": "next"}))["status"],
        "completed"
    );
}

#[test]
fn a_bad_job_does_not_end_the_server() {
    let server = Local::start(quick());
    let mut client = server.client();
    for (prompt, code, words) in [
        ("panic", "panic", "as it was told"),
        ("out of memory", "out_of_memory", "no memory left"),
        ("panic", "panic", "unexpected"),
    ] {
        let id = client.create(&json!({"prompt": prompt}));
        let next = client.create(&json!({"prompt": "a circle"}));
        let failed = client.wait(&id, &["failed"]);
        assert_eq!(failed["error"]["code"], code);
        assert!(
            failed["error"]["message"].as_str().unwrap().contains(words),
            "{failed}"
        );
        client.wait(&next, &["completed"]);
    }
    let text = String::from_utf8(client.get("/metrics").body).unwrap();
    for line in [
        "longcat_jobs_total{result=\"failed\"} 3",
        "longcat_jobs_total{result=\"completed\"} 3",
        "longcat_videos{status=\"queued\"} 0",
        "# TYPE longcat_requests_total counter",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert_eq!(client.get("/health").json()["status"], "ok");
}

#[test]
fn a_full_queue_says_when_to_try_again() {
    let server = Local::with(quick(), |options| {
        options.limits = Limits {
            queue: 2,
            ..Limits::default()
        };
    });
    let mut client = server.client();
    let running = client.create(&json!({"prompt": "slow", "steps": 1000}));
    client.wait(&running, &["in_progress"]);
    for _ in 0..2 {
        client.create(&json!({"prompt": "a"}));
    }
    let refused = client.post("/v1/videos", &json!({"prompt": "a"}));
    assert_eq!(refused.status, 429);
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=3600).contains(&seconds));
    assert_eq!(client.get("/v1/videos").json()["total"], 3);
}

#[test]
fn a_request_that_is_sent_again_makes_one_video() {
    let server = Local::start(quick());
    let post = |key: &str| {
        let headers = [
            ("Content-Type", "application/json"),
            ("Idempotency-Key", key),
        ];
        let mut client = server.client();
        client
            .send("POST", "/v1/videos", &headers, b"{\"prompt\": \"a\"}")
            .json()["id"]
            .clone()
    };
    let (first, again, other) = (post("one"), post("one"), post("two"));
    assert_eq!(first, again);
    assert_ne!(first, other);
    // Also at the same moment.
    let ids: Vec<Value> = std::thread::scope(|scope| {
        let posts = (0..8).map(|_| {
            let address = server.address;
            scope.spawn(move || {
                let headers = [
                    ("Content-Type", "application/json"),
                    ("Idempotency-Key", "three"),
                ];
                let mut client = Client::new(address);
                client
                    .send("POST", "/v1/videos", &headers, b"{\"prompt\": \"a\"}")
                    .json()["id"]
                    .clone()
            })
        });
        let posts: Vec<_> = posts.collect();
        posts.into_iter().map(|post| post.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]));
    assert_eq!(server.client().get("/v1/videos").json()["total"], 3);
}

#[test]
fn every_device_makes_videos() {
    let server = Local::start(Fake {
        devices: 3,
        pause: Duration::from_millis(10),
        ..quick()
    });
    let mut client = server.client();
    assert_eq!(
        client.get("/v1/options").json()["devices"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
    let ids: Vec<String> = (0..12)
        .map(|_| client.create(&json!({"prompt": "a"})))
        .collect();
    let devices: std::collections::BTreeSet<u64> = ids
        .iter()
        .map(|id| {
            client.wait(id, &["completed"]);
            let settings = client.get(&format!("/v1/videos/{id}/settings")).json();
            settings["made"]["device"].as_u64().unwrap()
        })
        .collect();
    assert_eq!(devices.len(), 3);
}

#[test]
fn all_jobs_can_be_followed_at_once() {
    let server = Local::start(quick());
    let mut client = server.client();
    let blocker = client.create(&json!({"prompt": "slow", "steps": 3}));
    let second = client.create(&json!({"prompt": "b"}));
    let events = client.events("/v1/events", |events| {
        let done = |id: &str| {
            let mut events = events.iter();
            events.any(|(name, data)| {
                name == "status" && data["id"] == id && data["status"] == "completed"
            })
        };
        let removed = events.iter().any(|(name, _)| name == "removed");
        if done(&second) && !removed {
            server.client().delete(&format!("/v1/videos/{blocker}"));
        }
        removed
    });
    assert_eq!(events.last().unwrap().1["id"], blocker);
}
