//! Jobs side by side: waiting, cancelled, failing, on several devices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use longcat_serve::{Ended, Limits, ServeOptions, Server};
use serde_json::{Value, json};

use crate::client::{Client, PATIENCE};
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
fn a_job_that_cannot_be_read_hides_and_holds_up_no_other() {
    let server = Local::start(quick());
    let mut client = server.client();
    let made = [1, 2].map(|seed| {
        let video = client.make(&json!({"prompt": "a circle", "seed": seed}));
        video["id"].as_str().unwrap().to_string()
    });
    let running = client.create(&json!({"prompt": "slow", "steps": 1000}));
    client.wait(&running, &["in_progress"]);
    let waiting = [3, 4].map(|seed| client.create(&json!({"prompt": "a ring", "seed": seed})));
    // What another version, another program or a disk may have done.
    let jobs = rusqlite::Connection::open(server.data().join("longcat.sqlite3")).unwrap();
    for (change, id) in [
        ("settings = '{\"mode\": \"sound\"}'", &made[0]),
        ("planned = x'00ff'", &waiting[0]),
    ] {
        let changed = jobs.execute(&format!("UPDATE videos SET {change} WHERE id = ?1"), [id]);
        assert_eq!(changed.unwrap(), 1);
    }
    let list = client.get("/v1/videos?order=asc").json();
    let codes: Vec<_> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| &v["error"]["code"])
        .collect();
    assert_eq!(
        json!(codes),
        json!(["unreadable", null, null, "unreadable", null])
    );
    client.delete(&format!("/v1/videos/{running}"));
    client.wait(&waiting[1], &["completed"]);
    for id in [&made[0], &waiting[0]] {
        let video = client.video(id);
        assert_eq!(video["status"], "failed");
        let message = video["error"]["message"].as_str().unwrap();
        assert!(message.contains("cannot be read"), "{message}");
        assert_eq!(
            client.delete(&format!("/v1/videos/{id}")).json()["deleted"],
            true
        );
    }
    assert_eq!(client.get("/v1/videos").json()["total"], 3);
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

#[test]
fn a_device_that_needs_another_process_gets_one_when_all_jobs_have_ended() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let fake = Fake {
        devices: 2,
        outlives_faults: false,
        log: Some(log.clone()),
        ..quick()
    };
    let bind = |listener| {
        let options = ServeOptions {
            port: 0,
            listener,
            ..ServeOptions::new(folder.path().join("data"))
        };
        Server::bind(options, Arc::new(fake.clone())).unwrap()
    };
    let mut server = bind(None);
    let address = server.address();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let servers = scope.spawn(|| {
            for number in 1.. {
                server = match server.run(&stop).unwrap() {
                    Ended::Stopped => return number,
                    Ended::Broken(listener) => bind(Some(listener)),
                };
            }
            unreachable!("numbers do not end");
        });
        let mut client = Client::new(address);
        let slow = client.create(&json!({"prompt": "slow", "steps": 10}));
        let bad = client.create(&json!({"prompt": "out of memory"}));
        client.wait(&bad, &["failed"]);
        let next = client.create(&json!({"prompt": "next"}));
        // Connections that the first server had are closed when it ends; none is refused.
        let ended = |id: &str| {
            let path = format!("/v1/videos/{id}");
            let reply = Client::new(address).raw("GET", &path, &[], b"");
            reply.is_ok_and(|reply| reply.json()["status"] == "completed")
        };
        let begun = Instant::now();
        while !ended(&slow) || !ended(&next) {
            assert!(begun.elapsed() < PATIENCE);
            std::thread::sleep(Duration::from_millis(20));
        }
        stop.store(true, Ordering::SeqCst);
        assert_eq!(servers.join().unwrap(), 2);
        let log = std::fs::read_to_string(log).unwrap();
        let begun = |id: &str| {
            log.lines()
                .filter(|line| *line == format!("begin {id}"))
                .count()
        };
        assert_eq!([&slow, &bad, &next].map(|id| begun(id)), [1, 1, 1]);
    });
}
