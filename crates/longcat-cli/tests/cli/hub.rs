//! Models by name: pulled from a hub on this machine, found in the cache, listed.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::thread;

use serde_json::{Value, json};

use super::{command, golden};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Serves a folder as the repository `owner/tiny`; gives the address.
fn serve(folder: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let mut names = Vec::new();
    list(&folder, "", &mut names);
    let siblings = names.iter().enumerate().map(|(number, name)| {
        let size = fs::metadata(folder.join(name)).unwrap().len();
        json!({"rfilename": name, "size": size, "blobId": format!("blob-{number}")})
    });
    let siblings: Vec<Value> = siblings.collect();
    let listing = json!({"sha": COMMIT, "siblings": siblings}).to_string();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (folder, listing) = (folder.clone(), listing.clone());
            thread::spawn(move || answer(stream, &folder, &listing));
        }
    });
    address
}

fn list(folder: &Path, prefix: &str, names: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("{prefix}{}", path.file_name().unwrap().to_string_lossy());
        match path.is_dir() {
            true => list(&path, &format!("{name}/"), names),
            false => names.push(name),
        }
    }
}

fn answer(mut stream: TcpStream, folder: &Path, listing: &str) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request).unwrap_or(0) == 0 {
            return;
        }
        let mut header = String::new();
        while reader.read_line(&mut header).unwrap_or(0) > 2 {
            header.clear();
        }
        let path = request.split(' ').nth(1).unwrap();
        let file = path.strip_prefix(&format!("/owner/tiny/resolve/{COMMIT}/"));
        let body = match file {
            Some(name) => fs::read(folder.join(name)).unwrap(),
            None => listing.as_bytes().to_vec(),
        };
        let length = body.len();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
        let sent = stream.write_all(head.as_bytes());
        if sent.and_then(|()| stream.write_all(&body)).is_err() {
            return;
        }
    }
}

#[test]
fn a_model_is_pulled_found_by_its_name_and_listed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let tiny = golden("checkpoints/tiny");
    let hub = serve(tiny.clone());
    let run = |offline: &str, args: &[&str]| -> (bool, String, String) {
        let mut command = command(dir, args);
        command
            .env("HF_HOME", dir.join("hf"))
            .env("HF_ENDPOINT", &hub);
        command.env("HF_HUB_OFFLINE", offline);
        for name in ["HF_HUB_CACHE", "HF_TOKEN", "HF_TOKEN_PATH"] {
            command.env_remove(name);
        }
        let output: Output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (
            output.status.success(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let t2v = |model: &str, name: &str| {
        let args = "t2v cat --size 32x32 --frames 5 --steps 1 --device cpu --no-metadata";
        let mut args: Vec<&str> = args.split(' ').collect();
        args.extend(["--model", model, "-o", name]);
        run("1", &args)
    };

    let (ok, _, message) = t2v("owner/tiny", "no.safetensors");
    assert!(
        !ok && message.contains("`longcat pull owner/tiny`"),
        "{message}"
    );
    let (ok, plan, message) = run("", &["pull", "owner/tiny", "--dry-run"]);
    assert!(ok && plan.contains("dit/config.json"), "{plan}{message}");
    assert!(!dir.join("hf").exists());
    let (ok, _, message) = run("1", &["pull", "owner/tiny"]);
    assert!(!ok && message.contains("HF_HUB_OFFLINE"), "{message}");

    let (ok, path, message) = run("", &["pull", "owner/tiny"]);
    assert!(ok, "{message}");
    let path = Path::new(path.trim());
    let repo = dir.join("hf/hub/models--owner--tiny");
    assert_eq!(path, repo.join("snapshots").join(COMMIT));
    let (_, again, _) = run("1", &["pull", "owner/tiny"]);
    assert_eq!(Path::new(again.trim()), path);

    let (ok, _, message) = t2v("owner/tiny", "named.safetensors");
    assert!(ok, "{message}");
    assert!(t2v(tiny.to_str().unwrap(), "folder.safetensors").0);
    let bytes = |name: &str| fs::read(dir.join(name)).unwrap();
    assert!(bytes("named.safetensors") == bytes("folder.safetensors"));

    let models = |args: &[&str]| run("1", &[&["models"], args].concat()).1;
    let listed: Value = serde_json::from_str(&models(&["--json"])).unwrap();
    let model = &listed["models"][0];
    assert_eq!(
        (&model["name"], &model["kind"]),
        (&json!("owner/tiny"), &json!("base"))
    );
    let parts = model["parts"].as_array().unwrap().iter();
    let parts: Vec<&str> = parts.filter_map(|part| part["name"].as_str()).collect();
    let expected = [
        "lora/cfg_step_lora.safetensors",
        "lora/refinement_lora.safetensors",
    ];
    assert_eq!(parts, expected, "{listed}");
    let shown = models(&[]);
    assert!(
        shown.contains("base") && shown.contains("adapter"),
        "{shown}"
    );

    // Where links are not allowed, a snapshot has the files themselves.
    let packed = dir
        .join("hf/hub/models--owner--packed/snapshots")
        .join(COMMIT);
    fs::create_dir_all(packed.parent().unwrap()).unwrap();
    let packed = packed.to_str().unwrap();
    let quantize = ["quantize", "--model", "owner/tiny", "--to", "q8_0", "-o"];
    let (ok, _, message) = run("1", &[&quantize, &[packed][..]].concat());
    assert!(ok, "{message}");
    let listed: Value = serde_json::from_str(&models(&["--json"])).unwrap();
    let model = &listed["models"][0];
    let expected = (&json!("owner/packed"), &json!("quantised"));
    assert_eq!((&model["name"], &model["kind"]), expected, "{listed}");

    let shard = "dit/diffusion_pytorch_model-00002-of-00002.safetensors";
    fs::remove_file(path.join(shard)).unwrap();
    let shown = models(&[]);
    let lacks = format!("lacks {shard}; `longcat pull owner/tiny`");
    assert!(
        shown.contains("incomplete") && shown.contains(&lacks),
        "{shown}"
    );
    let (ok, _, message) = t2v("owner/tiny", "no.safetensors");
    assert!(
        !ok && message.contains(&format!("lacks {shard}")),
        "{message}"
    );
}
