//! Servers that end while they work, and those that follow them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::{Client, PATIENCE};
use crate::fake::Fake;
use crate::server::{Local, Process, quick};

const CLIENTS: usize = 20;
const EACH: usize = 10;

/// How often each video is on a line of the studio's log that begins with a word.
fn logged(folder: &Path, word: &str) -> BTreeMap<String, usize> {
    let mut count = BTreeMap::new();
    let log = fs::read_to_string(folder.join("log")).unwrap_or_default();
    for line in log.lines() {
        if let Some(id) = line
            .strip_prefix(word)
            .and_then(|rest| rest.strip_prefix(' '))
        {
            *count.entry(id.to_string()).or_default() += 1;
        }
    }
    count
}

/// Posts until the server has accepted it, whatever becomes of the server meanwhile; its id.
fn post(address: SocketAddr, key: &str, accepted: &AtomicUsize) -> String {
    let headers = [
        ("Content-Type", "application/json"),
        ("Idempotency-Key", key),
    ];
    let body = json!({"prompt": key, "size": "16x16", "frames": 5, "steps": 2}).to_string();
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < 2 * PATIENCE, "{key} is not accepted");
        match Client::new(address).raw("POST", "/v1/videos", &headers, body.as_bytes()) {
            Ok(reply) if reply.status == 200 => {
                accepted.fetch_add(1, Ordering::SeqCst);
                return reply.json()["id"].as_str().unwrap().to_string();
            }
            // The queue is full, or the server is gone for a moment.
            Ok(reply) => assert_eq!(reply.status, 429, "{}", reply.json()),
            Err(_) => {}
        }
        sleep(Duration::from_millis(50));
    }
}

#[test]
fn two_hundred_jobs_survive_two_kills() {
    let folder = tempfile::tempdir().unwrap();
    let start = |port| Process::start(folder.path(), port, 150, 3);
    let mut server = start(0);
    let address = server.address;
    let accepted = AtomicUsize::new(0);
    let made = || logged(folder.path(), "made").len();
    let reached = |what: &dyn Fn() -> bool| {
        let begun = Instant::now();
        while !what() {
            assert!(begun.elapsed() < PATIENCE);
            sleep(Duration::from_millis(1));
        }
    };
    let ids: BTreeSet<String> = scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let accepted = &accepted;
                scope.spawn(move || {
                    let keys = (0..EACH).map(|job| format!("client {client} job {job}"));
                    let ids = keys.map(|key| post(address, &key, accepted));
                    ids.collect::<Vec<_>>()
                })
            })
            .collect();
        // Once while jobs come in, once while they are made.
        reached(&|| accepted.load(Ordering::SeqCst) >= 60 && made() >= 5);
        server.kill();
        server = start(address.port());
        reached(&|| made() >= 90);
        server.kill();
        server = start(address.port());
        clients
            .into_iter()
            .flat_map(|client| client.join().unwrap())
            .collect()
    });
    assert_eq!(ids.len(), CLIENTS * EACH);

    let mut client = server.client();
    for id in &ids {
        client.wait(id, &["completed"]);
    }
    let list = client.get("/v1/videos?limit=100").json();
    assert_eq!(list["total"], CLIENTS * EACH);
    let made = logged(folder.path(), "made");
    assert!(made.values().all(|count| *count == 1), "{made:?}");
    // One that was killed between its file and the line in the log has no line.
    assert!(made.len() + 2 >= ids.len());
    // Killed twice, with one worker: no more than two were begun again.
    let begun: usize = logged(folder.path(), "begin").values().sum();
    assert!(begun <= ids.len() + 2, "{begun}");
    let videos = fs::read_dir(folder.path().join("data/videos")).unwrap();
    let folders: BTreeSet<String> = videos
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    assert_eq!(folders, ids);
    for id in &ids {
        let video = client.video(id);
        let files = &video["files"];
        assert_eq!(
            (&files["content"], &files["thumbnail"]),
            (&json!(true), &json!(true)),
            "{video}"
        );
    }
    assert_eq!(
        fs::read_dir(folder.path().join("data/incoming"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn a_job_that_ended_while_it_was_decoded_goes_on_from_its_latents() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Process::start(folder.path(), 0, 10, 0);
    let id = server.client().create(&json!({"prompt": "long decode"}));
    let begun = Instant::now();
    while logged(folder.path(), "latents").is_empty() {
        assert!(begun.elapsed() < PATIENCE);
        sleep(Duration::from_millis(5));
    }
    // Latents can be fetched before the video is there.
    assert_eq!(
        server
            .client()
            .get(&format!("/v1/videos/{id}/latents"))
            .status,
        200
    );
    server.kill();
    let server = Process::start(folder.path(), 0, 10, 0);
    server.client().wait(&id, &["completed"]);
    assert_eq!(logged(folder.path(), "latents")[&id], 1);
    assert_eq!(logged(folder.path(), "resume")[&id], 1);
}

#[test]
fn a_job_that_ends_the_server_again_and_again_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let mut id = Value::Null;
    for time in 1..=3 {
        let mut server = Process::start(folder.path(), 0, 10, 0);
        let mut client = server.client();
        if id.is_null() {
            id = json!(client.create(&json!({"prompt": "slow", "steps": 1000})));
        }
        let begun = Instant::now();
        while logged(folder.path(), "begin").values().sum::<usize>() < time {
            assert!(begun.elapsed() < PATIENCE);
            sleep(Duration::from_millis(5));
        }
        server.kill();
    }
    let server = Process::start(folder.path(), 0, 10, 0);
    let mut client = server.client();
    let video = client.video(id.as_str().unwrap());
    assert_eq!(
        (&video["status"], &video["error"]["code"]),
        (&json!("failed"), &json!("interrupted"))
    );
    assert_eq!(
        client.make(&json!({"prompt": "next"}))["status"],
        "completed"
    );
}

#[test]
fn a_server_that_is_stopped_keeps_its_jobs_for_the_next_one() {
    let server = Local::start(quick());
    let mut client = server.client();
    let done = client.make(&json!({"prompt": "a"}))["id"]
        .as_str()
        .unwrap()
        .to_string();
    let slow = client.create(&json!({"prompt": "slow", "steps": 40}));
    let waiting = client.create(&json!({"prompt": "b"}));
    client.wait(&slow, &["in_progress"]);
    let stopping = Instant::now();
    let folder = server.stop();
    assert!(stopping.elapsed() < Duration::from_secs(3));

    let fake = Fake {
        pause: Duration::from_millis(1),
        ..quick()
    };
    let server = Local::again(folder, fake, |_| {});
    let mut client = server.client();
    assert_eq!(client.video(&done)["status"], "completed");
    let slow = client.wait(&slow, &["in_progress"]);
    // It was stopped, not tried in vain.
    assert_eq!(slow["error"], Value::Null);
    client.delete(&format!("/v1/videos/{}", slow["id"].as_str().unwrap()));
    client.wait(&waiting, &["completed"]);
}

#[test]
fn what_others_put_into_the_folder_stays() {
    let server = Local::start(quick());
    let data = server.data();
    let folder = server.stop();
    let theirs = [
        "videos/holiday/beach.mp4",
        "videos/.DS_Store",
        "incoming/letters/one.txt",
        "incoming/two.txt",
    ];
    let ours = [
        "videos/video_0123456789abcdef01234567/video.mp4",
        "incoming/request-a1b2c3/upload",
    ];
    for name in theirs.iter().chain(&ours) {
        let path = data.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, name).unwrap();
    }
    let _server = Local::again(folder, quick(), |_| {});
    for name in theirs {
        assert!(data.join(name).is_file(), "{name}");
    }
    for name in ours {
        assert!(!data.join(name).parent().unwrap().exists(), "{name}");
    }
}
