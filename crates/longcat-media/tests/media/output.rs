//! Outputs that are checked before any work, and the text that goes with them.

use std::process::Command;

use longcat_media::{PlannedOutput, check_output, read_metadata};

use super::*;

fn planned(fps: f64) -> PlannedOutput {
    let size = Some(VideoSize::new(32, 32));
    PlannedOutput::Video { size, fps }
}

#[test]
fn what_cannot_be_written_is_told_before_any_work() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let refused = |path: &Path, planned| {
        let message = check_output(path, planned).unwrap_err().to_string();
        println!("{message}");
        message
    };
    for fps in [0.0, f64::NAN, -1.0, f64::INFINITY, 2000.0] {
        refused(&at("a.mp4"), planned(fps));
    }
    assert!(refused(&at("a.gif"), planned(60.0)).contains("60"));
    refused(&at("a.webp"), planned(2000.0));
    refused(&at("a.avi"), planned(15.0));
    let odd = PlannedOutput::Video {
        size: Some(VideoSize::new(33, 32)),
        fps: 15.0,
    };
    assert!(refused(&at("a.mp4"), odd).contains("33x32"));
    assert!(refused(&at("none/a.mp4"), planned(15.0)).contains("none"));
    refused(&at("none/frames/"), planned(15.0));
    // A name may have 255 bytes, whatever the temporary one looks like.
    let named = |bytes: usize| at(&format!("{}.mp4", "é".repeat((bytes - 4) / 2)));
    refused(&named(256), planned(15.0));
    refused(&named(256), PlannedOutput::File);
    check_output(&named(254), planned(15.0)).unwrap();
    let video = clip(32, 32, 1, 15.0);
    write_video(&named(254), &video, &WriteOptions::default()).unwrap();
    fs::remove_file(named(254)).unwrap();

    fs::write(at("file"), "").unwrap();
    refused(&at("file/"), planned(15.0));
    fs::create_dir(at("full")).unwrap();
    fs::write(at("full/a.txt"), "").unwrap();
    assert!(refused(&at("full"), planned(15.0)).contains("not empty"));
    refused(&at("full"), PlannedOutput::File);
    refused(&at("full"), PlannedOutput::Folder);
    // No one, not even root, makes files there.
    if Path::new("/proc/self").is_dir() {
        refused(Path::new("/proc/a.mp4"), planned(15.0));
        refused(Path::new("/proc/frames/"), planned(15.0));
    }
    let before = fs::read_dir(dir.path()).unwrap().count();
    for name in ["a.mp4", "a.gif", "a.webp", "frames/", "file.mp4"] {
        check_output(&at(name), planned(15.0)).unwrap();
    }
    check_output(&at("a.safetensors"), PlannedOutput::File).unwrap();
    check_output(&at("merged"), PlannedOutput::Folder).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), before);
}

/// Writing frames to a disk that is full, which a limit on the size of files stands for.
#[test]
fn frames_that_do_not_fit_on_the_disk_are_an_error() {
    const FOLDER: &str = "LONGCAT_TEST_FULL_DISK";
    let mut noise = 1u32;
    let data = (0..4 * 64 * 64 * 3).map(|_| {
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (noise >> 24) as u8
    });
    let video = VideoFrames::new(VideoSize::new(64, 64), 15.0, data.collect()).unwrap();
    if let Some(folder) = std::env::var_os(FOLDER) {
        for name in ["frames/", "a.mp4", "a.gif", "a.webp"] {
            let path = Path::new(&folder).join(name);
            let error = write_video(&path, &video, &WriteOptions::default()).unwrap_err();
            assert!(!path.exists(), "{error}");
        }
        return;
    }
    if cfg!(not(unix)) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let name = "output::frames_that_do_not_fit_on_the_disk_are_an_error";
    let output = Command::new("sh")
        .args([
            "-c",
            "trap '' XFSZ; ulimit -f 2; exec \"$0\" --exact \"$1\"",
        ])
        .arg(std::env::current_exe().unwrap())
        .arg(name)
        .env(FOLDER, dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_text_goes_with_every_format_and_other_programs_see_it() {
    let dir = tempfile::tempdir().unwrap();
    let text = "{\"prompt\": \"a <red> circle & 'é' \\\"雪\\\"\", \"seed\": 7}";
    let video = clip(32, 32, 3, 15.0);
    for name in ["a.mp4", "a.gif", "a.webp", "frames/"] {
        let plain = write(dir.path(), name, &video);
        assert_eq!(read_metadata(&plain).unwrap(), None, "{name}");
        let pixels = read_video(&plain, &bundled()).unwrap();
        if name.ends_with('/') {
            fs::remove_dir_all(&plain).unwrap();
        }
        let options = WriteOptions {
            metadata: Some(text.to_string()),
            ..WriteOptions::default()
        };
        write_video(&plain, &video, &options).unwrap();
        assert_eq!(
            read_metadata(&plain).unwrap().as_deref(),
            Some(text),
            "{name}"
        );
        assert_eq!(read_video(&plain, &bundled()).unwrap(), pixels, "{name}");
    }
    // One text that takes more room than the index of a short video.
    let long = WriteOptions {
        metadata: Some("x".repeat(100_000)),
        ..WriteOptions::default()
    };
    let path = dir.path().join("long.mp4");
    write_video(&path, &video, &long).unwrap();
    assert_eq!(read_metadata(&path).unwrap(), long.metadata);
    read_video(&path, &bundled()).unwrap();

    // By the PNG specification: keyword, no compression, no language, no translation, the text.
    let picture = fs::read(dir.path().join("frames/frame_00002.png")).unwrap();
    let chunk = ["iTXtComment\0\0\0\0\0", text].concat();
    assert!(
        picture
            .windows(chunk.len())
            .any(|part| part == chunk.as_bytes())
    );
    let ascii = WriteOptions {
        metadata: Some("{\"seed\": 7}".to_string()),
        ..WriteOptions::default()
    };
    write_video(&dir.path().join("plain/"), &video, &ascii).unwrap();
    let first = dir.path().join("plain/frame_00000.png");
    assert_eq!(read_metadata(&first).unwrap(), ascii.metadata);

    if can_run(&[("ffprobe", "-version")]) {
        let shown = |name: &str| {
            let path = dir.path().join(name);
            let args = [
                "-v",
                "error",
                "-show_frames",
                "-show_format",
                "-show_streams",
                "-of",
                "json",
            ];
            let args = [&args[..], &[path.to_str().unwrap()]].concat();
            let shown: serde_json::Value =
                serde_json::from_slice(&output("ffprobe", &args)).unwrap();
            shown.to_string()
        };
        let quoted = serde_json::Value::from(text).to_string();
        assert!(shown("a.mp4").contains(&quoted));
        assert!(shown("a.gif").contains(&quoted));
        assert!(shown("plain/frame_00000.png").contains("{\\\"seed\\\": 7}"));
    }
    if can_run(&[("webpmux", "-version")]) {
        let (path, xmp) = (dir.path().join("a.webp"), dir.path().join("a.xmp"));
        let args = [
            "-get",
            "xmp",
            path.to_str().unwrap(),
            "-o",
            xmp.to_str().unwrap(),
        ];
        output("webpmux", &args);
        let packet = fs::read_to_string(xmp).unwrap();
        assert!(
            packet.contains("a &lt;red&gt; circle &amp; 'é'"),
            "{packet}"
        );
    }
}

#[test]
fn comments_of_other_programs_are_read() {
    if ffmpeg().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let plain = write(dir.path(), "plain.mp4", &clip(32, 32, 3, 15.0));
    for name in ["other.mp4", "other.mov"] {
        let path = dir.path().join(name);
        let (plain, path) = (plain.to_str().unwrap(), path.to_str().unwrap());
        let args = [
            "-v",
            "error",
            "-i",
            plain,
            "-c",
            "copy",
            "-metadata",
            "comment=a dog",
            path,
        ];
        output("ffmpeg", &args);
        if name.ends_with("mp4") {
            assert_eq!(
                read_metadata(Path::new(path)).unwrap().as_deref(),
                Some("a dog")
            );
        } else {
            // QuickTime keeps its comments elsewhere; that is no error.
            read_metadata(Path::new(path)).unwrap();
        }
    }
}

/// The standard wants it so (H.264, 7.4.3, `idr_pic_id`), since decoders tell pictures apart by it.
#[test]
fn key_frames_in_a_row_have_different_numbers() {
    if ffmpeg().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("clip.mp4");
    // More groups of frames than encoders.
    let frames = 124;
    for (quality, period) in [(70, 1), (50, 3)] {
        write_video(&path, &clip(32, 16, frames, 15.0), &options(quality)).unwrap();
        let trace = Command::new("ffmpeg")
            .args(["-hide_banner", "-i", path.to_str().unwrap(), "-c", "copy"])
            .args(["-bsf:v", "trace_headers", "-f", "null", "-"])
            .output()
            .unwrap();
        let trace = String::from_utf8(trace.stderr).unwrap();
        let lines = trace.lines().filter(|line| line.contains(" idr_pic_id "));
        let numbers: Vec<&str> = lines
            .map(|line| line.rsplit(' ').next().unwrap_or_default())
            .collect();
        assert_eq!(numbers.len(), frames.div_ceil(period) as usize, "{trace}");
        assert!(
            numbers.windows(2).all(|pair| pair[0] != pair[1]),
            "{numbers:?}"
        );
    }
}
