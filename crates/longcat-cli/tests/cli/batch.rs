//! `longcat batch`: what is checked, made, skipped, recorded and shared.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::adapters::{SHORT, bundled, text};
use crate::{command, fail, longcat, succeed};

/// Of all lines: the smallest videos.
const TINY: [&str; 8] = [
    "--set",
    "size=16x16",
    "--set",
    "frames=5",
    "--set",
    "steps=1",
    "--set",
    "guidance=1",
];

pub fn write_list(dir: &Path, lines: &[Value]) {
    let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
    fs::write(dir.join("list.jsonl"), lines.join("\n")).unwrap();
}

pub fn batch<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let base = ["batch", "list.jsonl", "-o", "out", "--device", "cpu"];
    [&base[..], &TINY, more].concat()
}

/// The records of results, by output; each has one.
pub fn records(dir: &Path) -> BTreeMap<String, Value> {
    let text = fs::read_to_string(dir.join("out/results.jsonl")).unwrap();
    let mut all = BTreeMap::new();
    for line in text.lines() {
        let Ok(record) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        let output = record["output"].as_str().unwrap().to_string();
        let twice = all.insert(output, record);
        assert_eq!(twice, None, "{text}");
    }
    all
}

/// Names in the folder of results, but for the records.
pub fn made(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir.join("out")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name != "results.jsonl").collect();
    names.sort();
    names
}

#[test]
fn all_lines_are_checked_before_the_first_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write_list(
        dir,
        &[
            json!({"prompt": "a ring"}),
            json!({"prompt": "a ring", "sed": 4}),
            json!({"prompt": "a ring", "output": "00001.mp4"}),
        ],
    );
    let message = fail(dir, 2, &batch(&[]));
    for words in [
        "list.jsonl:2: sed: t2v takes no such key; did you mean `seed`?",
        "list.jsonl:3: output: 00001.mp4 is the output of line 1 already",
        "2 lines are at fault",
    ] {
        assert!(message.contains(words), "{message}");
    }

    let bad = crate::golden("cases/lora_invalid/unknown_module.safetensors");
    write_list(
        dir,
        &[
            json!({"prompt": "a ring"}),
            json!({"prompt": "a ring", "image": "gone.png"}),
            json!({"prompt": "a ring", "size": "60x64"}),
            json!({"prompt": "a ring", "lora": {"path": bad}}),
            json!({"prompt": "a ring", "output": "a.xyz"}),
            json!({"prompt": "a ring", "frames": 1, "refine": true, "size": "48x48"}),
            json!({"prompt": " "}),
        ],
    );
    let message = fail(dir, 2, &batch(&[]));
    for words in [
        "list.jsonl:2: image: gone.png",
        "list.jsonl:3: size: 60x64",
        "list.jsonl:4: lora: ",
        "list.jsonl:5: output: ",
        "list.jsonl:6: size: 96x96",
        "list.jsonl:7: prompt: ",
        "6 lines are at fault",
    ] {
        assert!(message.contains(words), "{message}");
    }
    assert_eq!(made(dir), [""; 0]);

    write_list(dir, &[json!({"prompt": "a ring"})]);
    let said = succeed(dir, &batch(&["--check"]));
    assert!(said.contains("1 line can be made"), "{said}");
    assert_eq!(made(dir), [""; 0]);

    // Told once, though the line is checked and made.
    write_list(dir, &[json!({"prompt": "a ring", "negative": "blue"})]);
    let output = longcat(dir, &batch(&[]));
    let words = String::from_utf8(output.stderr).unwrap();
    let told = words.matches("negative has no effect").count();
    assert!(output.status.success() && told == 1, "{words}");
    assert!(words.contains("line 1: "), "{words}");
}

#[test]
fn lines_make_what_commands_make_and_are_made_once() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let small = [&SHORT[..], &["--device", "cpu"]].concat();
    let single = |args: &[&str]| succeed(dir, &[args, &small[..]].concat());
    single(&["t2v", "a ring", "-o", "given/"]);
    let style = bundled("cfg_step_lora");
    let (style, strong) = (text(&style), format!("{}=4", text(&style)));
    let image = "given/frame_00000.png";
    write_list(
        dir,
        &[
            json!({"prompt": "@a star", "seed": 7, "output": "t.mp4"}),
            json!({"prompt": "a ring", "lora": [{"path": style, "strength": 4}], "output": "l.mp4"}),
            json!({"prompt": "a ring", "image": image, "output": "i.mp4"}),
            json!({"prompt": "a ring", "lora": format!("{style}=1e38"), "output": "x.mp4"}),
            json!({"prompt": "a ring", "video": "given", "cond_frames": 1, "output": "more/c.gif"}),
            json!({"command": "refine", "video": "given", "prompt": "a ring", "output": "r.mp4",
                "steps": 50}),
            json!({"prompt": "a ring", "output": "o.mp4"}),
        ],
    );
    let args = |more: &[&'static str]| {
        let base =
            "batch list.jsonl -o out --device cpu --set frames=5 --set steps=1 --set guidance=1";
        base.split(' ')
            .chain(more.iter().copied())
            .collect::<Vec<_>>()
    };
    let message = fail(dir, 1, &args(&[]));
    for words in [
        "line 4, x.mp4: step 1 of 1",
        "6 made, 0 there already, 1 failed, of 7",
    ] {
        assert!(message.contains(words), "{message}");
    }
    let told = records(dir);
    assert_eq!(told.len(), 7);
    assert!(
        told["x.mp4"]["error"]
            .as_str()
            .unwrap()
            .contains("not finite")
    );
    let record = &told["l.mp4"];
    assert_eq!((&record["line"], &record["frames"]), (&json!(2), &json!(5)));
    assert!(
        record["seconds"]
            .as_f64()
            .is_some_and(|seconds| seconds > 0.0)
    );
    let used = &record["settings"]["generation"]["adapters"][0];
    assert_eq!(used["strength"], json!(4.0));

    single(&["t2v", "@@a star", "--seed", "7", "-o", "t.mp4"]);
    single(&["t2v", "a ring", "--lora", &strong, "-o", "l.mp4"]);
    single(&["i2v", image, "a ring", "-o", "i.mp4"]);
    single(&[
        "continue",
        "given",
        "a ring",
        "--cond-frames",
        "1",
        "-o",
        "c.gif",
    ]);
    single(&["t2v", "a ring", "-o", "o.mp4"]);
    succeed(
        dir,
        &[
            "refine", "given", "a ring", "-o", "r.mp4", "--device", "cpu",
        ],
    );
    let bytes = |name: &str| fs::read(dir.join(name)).unwrap();
    for (name, made) in [
        ("t.mp4", "out/t.mp4"),
        ("l.mp4", "out/l.mp4"),
        ("i.mp4", "out/i.mp4"),
        ("c.gif", "out/more/c.gif"),
        ("r.mp4", "out/r.mp4"),
        ("o.mp4", "out/o.mp4"),
    ] {
        assert!(bytes(name) == bytes(made), "{name}");
    }

    // Only what failed is tried again; a line that changed is not mistaken for the one before.
    let text = fs::read_to_string(dir.join("list.jsonl")).unwrap();
    fs::write(dir.join("list.jsonl"), text.replace("1e38", "2")).unwrap();
    let output = longcat(dir, &args(&["--json"]));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains("1 made, 6 there already, 0 failed"),
        "{stderr}"
    );
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(record["output"], "x.mp4");
    assert!(bytes("out/t.mp4") == bytes("t.mp4"));
    let text = fs::read_to_string(dir.join("list.jsonl")).unwrap();
    fs::write(dir.join("list.jsonl"), text.replace("star", "stair")).unwrap();
    let message = fail(dir, 2, &args(&[]));
    assert!(
        message.contains("t.mp4 was made from another line"),
        "{message}"
    );
    succeed(dir, &args(&["-y"]));
    assert!(bytes("out/t.mp4") != bytes("t.mp4") && bytes("out/l.mp4") == bytes("l.mp4"));
}

#[test]
fn parts_of_a_list_are_all_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let lines: Vec<Value> = (0..5)
        .map(|i| json!({"prompt": "a ring", "seed": i}))
        .collect();
    write_list(dir, &lines);
    let args = batch(&["--shard", "1/2"]);
    succeed(dir, &args);
    assert_eq!(made(dir), ["00002.mp4", "00004.mp4"]);
    // As the first task of `sbatch --array=10-12:2`.
    let args = batch(&[]);
    let mut slurm = command(dir, &args);
    for (name, value) in [("ID", "10"), ("MIN", "10"), ("COUNT", "2"), ("STEP", "2")] {
        slurm.env(format!("SLURM_ARRAY_TASK_{name}"), value);
    }
    let output = slurm.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    assert!(
        stderr.contains("part 0/2 (from SLURM_ARRAY_TASK_ID): 3 of 5 lines"),
        "{stderr}"
    );
    assert_eq!(made(dir).len(), 5);
    assert_eq!(records(dir).len(), 5);
    let mut pod = command(dir, &args);
    let output = pod.env("JOB_COMPLETION_INDEX", "0").output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && stderr.contains("--shard N"),
        "{stderr}"
    );
}

fn start(dir: &Path, args: &[&str]) -> Child {
    let mut command = command(dir, args);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

/// Waits until so many videos are there.
fn wait_for(dir: &Path, count: usize) {
    let started = Instant::now();
    let videos = || {
        let entries = fs::read_dir(dir.join("out")).into_iter().flatten();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names
            .filter(|name| !name.starts_with('.') && name.ends_with(".mp4"))
            .count()
    };
    while videos() < count {
        assert!(started.elapsed() < Duration::from_secs(120), "{}", videos());
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn processes_share_a_list_and_a_killed_one_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let lines: Vec<Value> = (0..60)
        .map(|i| json!({"prompt": "a ring", "seed": i}))
        .collect();
    write_list(dir, &lines);
    let args = batch(&["--claim"]);
    let mut first = start(dir, &args);
    wait_for(dir, 2);
    let mut second = start(dir, &args);
    wait_for(dir, 5);
    first.kill().unwrap();
    first.wait().unwrap();
    let mut third = start(dir, &args);
    assert!(second.wait().unwrap().success());
    assert!(third.wait().unwrap().success());
    let all = (1..=60).map(|number| format!("{number:05}.mp4"));
    assert_eq!(made(dir), all.collect::<Vec<_>>());
    let told = records(dir);
    assert_eq!(told.len(), 60);

    let single = "t2v;a ring;--size=16x16;--frames=5;--steps=1;--guidance=1;--device=cpu;--seed=20;-o;20.mp4";
    succeed(dir, &single.split(';').collect::<Vec<_>>());
    let bytes = |name: &str| fs::read(dir.join(name)).unwrap();
    assert!(bytes("20.mp4") == bytes("out/00021.mp4"));
}

#[test]
#[cfg(unix)]
fn a_process_that_is_asked_to_end_leaves_nothing_torn() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let lines: Vec<Value> = (0..400)
        .map(|i| json!({"prompt": "a ring", "seed": i}))
        .collect();
    write_list(dir, &lines);
    let args = batch(&[]);
    let mut child = start(dir, &args);
    wait_for(dir, 1);
    let pid = child.id().to_string();
    let killed = std::process::Command::new("kill")
        .args(["-TERM", &pid])
        .status();
    assert!(killed.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let names = made(dir);
    assert!(
        names.len() < 400 && names.iter().all(|name| name.ends_with(".mp4")),
        "{names:?}"
    );
    assert!(names.iter().all(|name| !name.starts_with('.')), "{names:?}");
    assert_eq!(records(dir).len(), names.len());

    // One that was cut off between a video and its record: what it held says whose the video is.
    write_list(dir, &lines[..names.len()]);
    let results = dir.join("out/results.jsonl");
    let told = fs::read_to_string(&results).unwrap();
    let (before, last) = told
        .trim_end()
        .rsplit_once('\n')
        .unwrap_or(("", told.trim_end()));
    fs::write(&results, format!("{before}\n{{\"line\": 3, \"outp")).unwrap();
    let last: Value = serde_json::from_str(last).unwrap();
    let name = last["output"].as_str().unwrap();
    let message = fail(dir, 2, &args);
    assert!(message.contains(&format!("{name} is there")), "{message}");
    let lock = dir.join("out/.claims").join(name);
    fs::create_dir_all(&lock).unwrap();
    let held = json!({"host": "gone", "pid": 1, "system": "", "began": 0, "token": "",
        "request": last["request"]});
    fs::write(lock.join("1.json"), held.to_string()).unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    let said = succeed(dir, &batch(&["--claim=1"]));
    assert!(
        said.contains(&format!("{name}: was there already")),
        "{said}"
    );
    assert_eq!(made(dir), names);
    assert_eq!(records(dir).len(), names.len());
}

#[test]
fn lines_of_one_shape_are_made_at_once_where_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut lines: Vec<Value> = (0..4)
        .map(|i| json!({"prompt": "a ring", "seed": 3 * i}))
        .collect();
    lines.insert(2, json!({"prompt": "a star", "size": "32x16"}));
    for (index, line) in lines.iter_mut().enumerate() {
        line["save_latents"] = format!("{index}.safetensors").into();
    }
    write_list(dir, &lines);
    let args = batch(&["--together", "3"]);
    succeed(dir, &args);
    fs::rename(dir.join("out"), dir.join("at-once")).unwrap();
    let told = fs::read_to_string(dir.join("at-once/results.jsonl")).unwrap();
    let told: Vec<Value> = told
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let together = told
        .iter()
        .map(|record| (record["line"].as_u64(), record["together"].as_u64()));
    let expected = [
        (1, Some(3)),
        (2, Some(3)),
        (4, Some(3)),
        (3, None),
        (5, None),
    ];
    assert!(
        together.eq(expected.map(|(line, n)| (Some(line), n))),
        "{told:?}"
    );

    succeed(dir, &batch(&[]));
    for index in 0..5 {
        let name = |folder: &str| format!("{folder}/{index}.safetensors");
        let difference = crate::adapters::difference(dir, &name("out"), &name("at-once"));
        assert!(difference < 1e-4, "{index}: {difference}");
    }
}
