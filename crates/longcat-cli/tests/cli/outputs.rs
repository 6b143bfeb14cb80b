//! Outputs that cannot be written, whatever the command.

use std::fs;
use std::path::Path;

use crate::fail;

/// Commands up to the name of what they write. Models and inputs are not there, which is told of by
/// whatever looks for them first.
const COMMANDS: [(&str, &str); 20] = [
    ("t2v ring --model nowhere -o", "a.mp4"),
    ("t2v ring --model nowhere -o", "frames/"),
    (
        "t2v ring --model nowhere -o fine.mp4 --save-latents",
        "a.safetensors",
    ),
    ("i2v nowhere.png ring --model nowhere -o", "a.mp4"),
    ("continue nowhere.mp4 ring --model nowhere -o", "a.gif"),
    ("refine nowhere.mp4 ring --model nowhere -o", "a.webp"),
    ("long ring --model nowhere -o", "a.mp4"),
    ("long ring --model nowhere -o fine.mp4 --work-dir", "work"),
    ("batch nowhere.jsonl -o", "videos"),
    ("decode nowhere.safetensors -o", "a.mp4"),
    ("calibrate ring --model nowhere -o", "layers.json"),
    ("convert --model nowhere --to comfyui -o", "a.safetensors"),
    ("convert --model nowhere --to official -o", "model"),
    ("quantize --model nowhere --to fp8 -o", "model"),
    (
        "lora convert nowhere.safetensors --to official -o",
        "a.safetensors",
    ),
    ("lora convert nowhere.safetensors --to peft -o", "adapter"),
    ("lora combine nowhere.safetensors -o", "a.safetensors"),
    (
        "lora resize nowhere.safetensors --rank 2 -o",
        "a.safetensors",
    ),
    ("lora extract nowhere nowhere -o", "a.safetensors"),
    ("lora merge nowhere.safetensors --model nowhere -o", "model"),
];

#[test]
fn every_command_refuses_what_it_cannot_write_before_it_looks_at_anything_else() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::write(dir.join("file"), b"mine").unwrap();
    // No one, not even root, makes files in the second.
    for place in ["file", "/proc"] {
        if place == "/proc" && !Path::new("/proc/self").is_dir() {
            continue;
        }
        for (command, name) in COMMANDS {
            let output = format!("{place}/{name}");
            let mut args: Vec<&str> = command.split(' ').collect();
            args.push(&output);
            let message = fail(dir, 1, &args);
            assert!(
                message.contains(place) && !message.contains("nowhere"),
                "{args:?}: {message}"
            );
        }
    }
    assert_eq!(fs::read_dir(dir).unwrap().count(), 1);
}

#[test]
fn an_adapter_replaces_files_of_a_folder_only_when_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let adapter = crate::golden("checkpoints/tiny/lora/cfg_step_lora.safetensors");
    let adapter = adapter.to_str().unwrap();
    let convert = ["lora", "convert", adapter, "--to", "peft", "-o", "adapter"];
    crate::succeed(dir, &convert);
    let message = fail(dir, 1, &convert);
    assert!(message.contains("adapter exists"), "{message}");
    fs::write(dir.join("adapter/adapter_config.json"), b"{}").unwrap();
    crate::succeed(dir, &[&convert[..], &["-y"]].concat());
    let config = fs::read_to_string(dir.join("adapter/adapter_config.json")).unwrap();
    assert!(config.contains("lora_alpha"), "{config}");
}
