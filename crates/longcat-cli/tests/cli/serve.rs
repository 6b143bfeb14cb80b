//! `longcat serve` with the built-in model: what clients get is what the command makes.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use longcat_video::Latents;
use longcat_video::media::VideoSize;
use serde_json::{Value, json};

use crate::adapters::bundled;
use crate::{command, fail, succeed, video};

const PATIENCE: Duration = Duration::from_secs(120);

/// A server that is killed when it is dropped.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(dir: &Path, environment: &[(&str, &str)]) -> Self {
        let args = [
            "serve",
            "--port",
            "0",
            "--data",
            "data",
            "--lora-dir",
            "loras",
            "--device",
            "cpu",
        ];
        let mut command = command(dir, &args);
        command.envs(environment.iter().copied());
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line
            .trim()
            .strip_prefix("http://")
            .unwrap()
            .trim_end_matches('/');
        let address = address.to_string();
        Self { child, address }
    }

    /// Status and body of an answer. A server that starts anew closes connections; it is asked again then.
    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, Vec<u8>) {
        let begun = Instant::now();
        loop {
            let answer = self.try_to_ask(method, path, body);
            let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
            if let Some(end) = end {
                let head = String::from_utf8_lossy(&answer[..end]);
                let status = head.split(' ').nth(1).unwrap().parse().unwrap();
                return (status, answer[end + 4..].to_vec());
            }
            assert!(begun.elapsed() < PATIENCE, "{method} {path}");
            sleep(Duration::from_millis(50));
        }
    }

    fn try_to_ask(&self, method: &str, path: &str, body: &str) -> Vec<u8> {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        let mut answer = Vec::new();
        // What is cut off is no answer.
        let _ = stream.write_all(request.as_bytes());
        let _ = stream.read_to_end(&mut answer);
        answer
    }

    fn json(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let (status, body) = self.ask(method, path, &body.to_string());
        (status, serde_json::from_slice(&body).unwrap())
    }

    fn post(&self, body: &Value) -> String {
        let (status, video) = self.json("POST", "/v1/videos", body);
        assert_eq!(status, 200, "{video}");
        video["id"].as_str().unwrap().to_string()
    }

    /// The job when it has ended.
    fn wait(&self, id: &str) -> Value {
        let begun = Instant::now();
        loop {
            let (_, video) = self.json("GET", &format!("/v1/videos/{id}"), &Value::Null);
            if !matches!(video["status"].as_str(), Some("queued" | "in_progress")) {
                return video;
            }
            assert!(begun.elapsed() < PATIENCE, "{video}");
            sleep(Duration::from_millis(50));
        }
    }

    fn make(&self, body: &Value) -> Value {
        let video = self.wait(&self.post(body));
        assert_eq!(video["status"], "completed", "{body}: {}", video["error"]);
        video
    }

    /// Writes a file of a job.
    fn fetch(&self, video: &Value, what: &str, to: &Path) {
        let id = video["id"].as_str().unwrap();
        let (status, body) = self.ask("GET", &format!("/v1/videos/{id}/{what}"), "");
        assert_eq!(status, 200);
        fs::write(to, body).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("loras")).unwrap();
    fs::copy(
        bundled("cfg_step_lora"),
        dir.path().join("loras/step.safetensors"),
    )
    .unwrap();
    fs::write(dir.path().join("loras/bad.safetensors"), b"what is this?").unwrap();
    dir
}

#[test]
fn videos_of_the_server_are_those_of_the_command() {
    let dir = folder();
    let at = |name: &str| dir.path().join(name);
    let server = Server::start(dir.path(), &[]);
    let prompt = "a red circle moves right";
    let made = server
        .make(&json!({"prompt": prompt, "distill": true, "frames": 9, "steps": 4, "seed": 3}));
    server.fetch(&made, "content", &at("served.mp4"));
    server.fetch(&made, "latents", &at("served.safetensors"));
    let options = [
        "--distill",
        "--frames",
        "9",
        "--steps",
        "4",
        "--seed",
        "3",
        "--device",
        "cpu",
    ];
    let files = [
        "t2v",
        prompt,
        "-o",
        "own.mp4",
        "--save-latents",
        "own.safetensors",
    ];
    succeed(dir.path(), &[&files[..], &options].concat());
    let latents = |name: &str| Latents::read(&at(name)).unwrap();
    assert_eq!(latents("served.safetensors"), latents("own.safetensors"));
    assert_eq!(video(&at("served.mp4")), video(&at("own.mp4")));
    let settings = |name: &str| Latents::read_settings(&at(name)).unwrap();
    assert_eq!(settings("served.safetensors"), settings("own.safetensors"));

    // Every mode, each in the same models.
    let few = json!({"prompt": prompt, "frames": 9, "steps": 1, "guidance": 1, "seed": 1});
    let with = |more: Value| {
        let mut body = few.clone();
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        body
    };
    let continued = server.make(&with(json!({"from": made["id"], "cond_frames": 5})));
    assert_eq!(continued["frames"], 9);
    let mut long = with(json!({"prompts": [prompt, "a blue ring"]}));
    long.as_object_mut().unwrap().remove("prompt");
    let long = server.make(&long);
    assert_eq!(
        (&long["frames"], &long["files"]["latents"]),
        (&json!(13), &json!(false))
    );
    let refined = server.make(&json!({"mode": "refine", "from": made["id"], "seed": 2}));
    assert_eq!(
        (&refined["size"], &refined["fps"]),
        (&json!("128x128"), &json!(30.0))
    );
    server.fetch(&refined, "content", &at("refined.mp4"));
    let shown = video(&at("refined.mp4"));
    assert_eq!(
        (shown.len() as u64, shown.size()),
        (
            refined["frames"].as_u64().unwrap(),
            VideoSize::new(128, 128)
        )
    );
    let both = server.make(&with(
        json!({"refine": true, "frames": 1, "adapters": [{"id": "step.safetensors", "strength": 0.5}]}),
    ));
    assert_eq!(both["size"], "128x128");
    let id = both["id"].as_str().unwrap();
    let (_, settings) = server.json("GET", &format!("/v1/videos/{id}/settings"), &Value::Null);
    assert_eq!(
        settings["made"]["generation"]["adapters"][0]["strength"],
        0.5
    );

    // What the model refuses is refused before it is accepted.
    let (_, before) = server.json("GET", "/v1/videos", &Value::Null);
    for (more, param, words) in [
        (
            json!({"frames": 10}),
            "frames",
            "10 is not 1 more than a multiple of 4",
        ),
        (
            json!({"adapters": [{"id": "bad.safetensors"}]}),
            "adapters[0].id",
            "cannot be used",
        ),
        (
            json!({"adapters": [{"id": "step.safetensors", "scope": "blocks.9-1"}]}),
            "adapters[0].scope",
            "9-1",
        ),
        (
            json!({"adapters": [{"id": "step.safetensors", "scope": "steps.5"}]}),
            "adapters",
            "act in none of the 1 steps",
        ),
        (json!({"cache": "easy=x"}), "cache", "easy"),
        (json!({"size": "8x8"}), "size", "multiples of 16"),
    ] {
        let (status, answer) = server.json("POST", "/v1/videos", &with(more));
        let error = &answer["error"];
        assert_eq!((status, &error["param"]), (422, &json!(param)), "{error}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(words), "{message}");
        assert!(!message.contains(dir.path().to_str().unwrap()), "{message}");
    }
    let (_, after) = server.json("GET", "/v1/videos", &Value::Null);
    assert_eq!(before["total"], after["total"]);
}

#[cfg(unix)]
#[test]
fn adapters_that_were_pulled_can_be_used() {
    use std::os::unix::fs::symlink;

    let dir = folder();
    let home = dir.path().join("hf");
    let repo = home.join("hub/models--owner--styles");
    let environment = [
        ("HF_HOME", home.to_str().unwrap()),
        ("HF_HUB_CACHE", ""),
        ("HUGGINGFACE_HUB_CACHE", ""),
    ];
    let server = Server::start(dir.path(), &environment);
    let pulled = || {
        let (_, list) = server.json("GET", "/v1/adapters", &Value::Null);
        let mut list = list["data"].as_array().unwrap().clone();
        list.retain(|adapter| adapter["source"] == "pulled");
        list
    };
    assert_eq!(pulled(), Vec::<Value>::new());

    // What pulls beside the running server leave: two commits that share one file.
    let (old, new) = ("0".repeat(40), "1".repeat(40));
    let file =
        |commit: &str, name: &str| repo.join("snapshots").join(commit).join("lora").join(name);
    for (blob, from) in [("few", "cfg_step_lora"), ("more", "refinement_lora")] {
        fs::create_dir_all(repo.join("blobs")).unwrap();
        fs::copy(bundled(from), repo.join("blobs").join(blob)).unwrap();
    }
    for commit in [&old, &new] {
        fs::create_dir_all(file(commit, "")).unwrap();
        fs::write(file(commit, "other.safetensors"), b"what is this?").unwrap();
        symlink("../../../blobs/few", file(commit, "few.safetensors")).unwrap();
    }
    symlink("../../../blobs/more", file(&old, "more.safetensors")).unwrap();
    fs::create_dir(repo.join("refs")).unwrap();
    fs::write(repo.join("refs/main"), &new).unwrap();
    let found = pulled();
    let shown: Vec<[&Value; 3]> = found
        .iter()
        .map(|adapter| ["id", "repository", "usable"].map(|member| &adapter[member]))
        .collect();
    let id = "owner~styles~lora~few.safetensors";
    let other = format!("owner~styles@{old}~lora~more.safetensors");
    let expected = json!([
        [other, format!("owner/styles@{old}"), true],
        [id, "owner/styles", true],
    ]);
    assert_eq!(json!(shown), expected);
    let text = json!(found).to_string();
    assert!(!text.contains(dir.path().to_str().unwrap()), "{text}");

    let made = server.make(&json!({
        "prompt": "a ring", "frames": 5, "steps": 1, "guidance": 1, "seed": 0, "adapters": [{"id": id}],
    }));
    assert_eq!(made["settings"]["adapters"][0]["id"], id);
    let (status, _) = server.ask("DELETE", &format!("/v1/adapters/{id}"), "");
    assert_eq!(status, 409);
    assert!(file(&new, "few.safetensors").is_file());
}

#[test]
fn a_device_that_fails_while_decoding_leaves_latents_and_the_server() {
    let dir = folder();
    let server = Server::start(dir.path(), &[("LONGCAT_FAIL_AT", "decoding")]);
    let body = json!({"prompt": "a ring", "frames": 5, "steps": 1, "guidance": 1, "seed": 0});
    let failed = [(); 2].map(|()| server.wait(&server.post(&body)));
    for video in &failed {
        assert_eq!(
            (&video["status"], &video["error"]["code"]),
            (&json!("failed"), &json!("device"))
        );
        let message = video["error"]["message"].as_str().unwrap();
        assert!(message.contains("failed while decoding"), "{message}");
        assert_eq!(video["files"]["latents"], true);
    }
    let latents = dir.path().join("kept.safetensors");
    server.fetch(&failed[0], "latents", &latents);
    succeed(
        dir.path(),
        &["decode", "kept.safetensors", "-o", "kept.mp4"],
    );
    assert_eq!(video(&dir.path().join("kept.mp4")).len(), 5);
    let (status, _) = server.ask("GET", "/health", "");
    assert_eq!(status, 200);
}

#[test]
fn a_server_that_others_reach_needs_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let message = fail(
        dir.path(),
        1,
        &[
            "serve", "--host", "0.0.0.0", "--port", "0", "--data", "data",
        ],
    );
    assert!(message.contains("--token"), "{message}");
    let message = fail(dir.path(), 1, &["serve", "--lora-dir", "nowhere"]);
    assert!(message.contains("nowhere is not a folder"), "{message}");
}
