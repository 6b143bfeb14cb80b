//! Memory that reading takes, in a process of its own.

use std::process::Command;

use longcat_media::read_last;

use super::*;

/// Names the file to the process that reads it.
const FILE: &str = "LONGCAT_TEST_LAST_OF";

#[test]
fn the_end_of_a_long_video_takes_little_memory() {
    if let Some(path) = std::env::var_os(FILE) {
        let last = read_last(Path::new(&path), 13, Some(15.0), &bundled()).unwrap();
        assert_eq!(last.len(), 13);
        return println!("{}", fs::read_to_string("/proc/self/status").unwrap());
    }
    if ffmpeg().is_none() || !Path::new("/proc/self/status").exists() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("long.mp4");
    // 620 MB of planes.
    let source = "testsrc=s=640x480:r=30:d=45";
    let made = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-f", "lavfi", "-i", source])
        .args(["-c:v", "libx264", "-preset", "ultrafast", "-bf", "2"])
        .args(["-pix_fmt", "yuv420p"])
        .arg(&path)
        .status()
        .unwrap();
    assert!(made.success());
    let test = "memory::the_end_of_a_long_video_takes_little_memory";
    let read = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(FILE, &path)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&read.stdout);
    let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak: u64 = peak
        .and_then(|peak| peak.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&read.stderr)));
    println!("{} MB", peak / 1024);
    assert!(peak < 80 * 1024, "{peak} kB");
}
