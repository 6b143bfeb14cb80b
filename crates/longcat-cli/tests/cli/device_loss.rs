//! `longcat batch` on a device that fails.

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::batch::{batch, made, records, write_list};
use crate::{command, succeed};

#[test]
fn a_lost_device_ends_the_work_and_is_no_fault_of_the_lines() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let lines: Vec<Value> = (0..5)
        .map(|i| json!({"prompt": "a ring", "seed": i}))
        .collect();
    write_list(dir, &lines);
    let args = batch(&[]);
    let mut failing = command(dir, &args);
    failing.env("LONGCAT_FAIL_AT", "denoising, step 1 of 1");
    let output = failing.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("the device failed for 3 lines"), "{stderr}");
    let told = records(dir);
    assert!(told.len() == 3 && told.values().all(|record| record["error"].is_string()));
    // Those that failed come last, so that all have their turn.
    assert_eq!(failing.output().unwrap().status.code(), Some(1));
    let text = fs::read_to_string(dir.join("out/results.jsonl")).unwrap();
    let lines = text.lines().map(|line| {
        let record: Value = serde_json::from_str(line).unwrap();
        record["line"].as_u64().unwrap()
    });
    assert_eq!(lines.collect::<Vec<_>>(), [1, 2, 3, 4, 5, 1]);
    succeed(dir, &args);
    assert_eq!(made(dir).len(), 5);
}

#[test]
fn a_new_process_goes_on_after_a_device_failed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let write = |steps: &[usize]| {
        let lines = steps
            .iter()
            .map(|steps| json!({"prompt": "a ring", "steps": steps}));
        write_list(dir, &lines.collect::<Vec<_>>());
    };
    // A device of a debug build that has failed once fails for all that its process asks of it.
    let run = |args: &[&str]| {
        let mut failing = command(dir, args);
        failing.env("LONGCAT_FAIL_AT", "denoising, step 1 of 2");
        let output = failing.output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let failed = |told: &BTreeMap<String, Value>| -> Vec<u64> {
        let failed = told.values().filter(|record| record["error"].is_string());
        failed
            .map(|record| record["line"].as_u64().unwrap())
            .collect()
    };
    write(&[1, 2, 1, 2, 1]);
    let (code, said) = run(&batch(&[]));
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("3 made, 0 there already, 2 failed, of 5 lines"),
        "{said}"
    );
    assert_eq!(said.matches("a new process goes on").count(), 2, "{said}");
    let told = records(dir);
    assert_eq!((told.len(), failed(&told)), (5, vec![2, 4]));
    succeed(dir, &batch(&[]));
    assert_eq!(made(dir).len(), 5);

    // Lines that failed at once are not to blame: each is made alone.
    fs::remove_dir_all(dir.join("out")).unwrap();
    write(&[2, 1, 2]);
    let (code, said) = run(&batch(&["--together", "2"]));
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("1 made, 0 there already, 2 failed, of 3 lines"),
        "{said}"
    );
    assert_eq!(failed(&records(dir)), [1, 3]);

    // What cannot be read again is left to whoever gave it.
    fs::remove_dir_all(dir.join("out")).unwrap();
    let mut args = batch(&[]);
    args[1] = "/dev/stdin";
    let mut child = command(dir, &args)
        .env("LONGCAT_FAIL_AT", "denoising, step 1 of 2")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let list = fs::read(dir.join("list.jsonl")).unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), &list).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("the same command goes on with the lines that are left"),
        "{said}"
    );
    assert_eq!(failed(&records(dir)), [1]);
}
