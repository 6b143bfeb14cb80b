//! Training that is asked to end while it reads its folder.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{command, golden};

const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until a process hears of SIGTERM.
fn wait_for_ears(child: &Child) {
    let begun = Instant::now();
    let status = format!("/proc/{}/status", child.id());
    loop {
        let text = fs::read_to_string(&status).unwrap();
        let caught = text.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let caught = u64::from_str_radix(caught.unwrap().trim(), 16).unwrap();
        if caught & (1 << 14) != 0 {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{text}");
        sleep(Duration::from_millis(1));
    }
}

/// Names of the files below a folder.
fn files(folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => files(&entry.path(), found),
            false => found.push(entry.file_name().into_string().unwrap()),
        }
    }
}

#[test]
fn a_folder_with_loops_of_links_is_left_as_soon_as_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let loops = dir.path().join("clips/deep/er");
    fs::create_dir_all(&loops).unwrap();
    // Each leads through those before it, and followed from one another they never end.
    for number in 0..600 {
        let to = match number % 30 {
            0 => "../..".to_string(),
            _ => (number - 1).to_string(),
        };
        symlink(to, loops.join(number.to_string())).unwrap();
    }
    let picture = image::RgbImage::from_pixel(48, 32, image::Rgb([200, 30, 40]));
    picture.save(dir.path().join("clips/a.png")).unwrap();
    fs::write(dir.path().join("clips/a.txt"), "a red wall").unwrap();
    let checkpoint = fs::canonicalize(golden("checkpoints/tiny")).unwrap();
    let mut config = fs::File::create(dir.path().join("run.toml")).unwrap();
    write!(
        config,
        "output = 'run'\nmodel.checkpoint = '{}'\ndata.path = 'clips'\ndata.sizes = ['48x32']\n\
         data.frames = [1]\ncache.path = 'cache'\ncache.text_length = 8\nlora.rank = 2\n\
         lora.alpha = 2.0\ntrain.steps = 100000\n",
        checkpoint.display()
    )
    .unwrap();
    let args = ["train-lora", "--device", "cpu", "--config", "run.toml"];
    let mut child = command(dir.path(), &args)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for_ears(&child);
    let begun = Instant::now();
    let kill = Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("it does not end");
        }
        sleep(Duration::from_millis(10));
    }
    let mut said = String::new();
    child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{said}");
    assert!(said.contains("stopped after step"), "{said}");
    let mut left = Vec::new();
    for folder in ["run", "cache"] {
        let folder = dir.path().join(folder);
        if folder.is_dir() {
            files(&folder, &mut left);
        }
    }
    let hidden = left
        .iter()
        .filter(|name| name.starts_with('.') && *name != ".lock");
    assert_eq!(hidden.count(), 0, "{left:?}");
}
