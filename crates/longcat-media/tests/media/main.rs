//! Videos written, read back and compared; files that must be refused.
#![allow(clippy::unwrap_used)]

mod field;
mod memory;
mod output;
mod pictures;
mod rounds;

use std::fs;
use std::path::{Path, PathBuf};

use image::{Rgba, RgbaImage};
use longcat_media::{
    Decoder, MediaError, ReadOptions, VideoFrames, VideoSize, VideoSpec, WriteOptions,
    create_video, read_image, read_video, write_video,
};

/// A disc that moves over a gradient, with an edge as soft as a camera would show it.
fn clip(width: u32, height: u32, frames: u32, fps: f64) -> VideoFrames {
    let mut data = Vec::new();
    for t in 0..frames {
        let centre = (
            f64::from(width) * (0.2 + 0.6 * f64::from(t) / f64::from(frames)),
            f64::from(height) * 0.5,
        );
        let radius = f64::from(height) * 0.3;
        for y in 0..height {
            for x in 0..width {
                let distance = (f64::from(x) - centre.0).hypot(f64::from(y) - centre.1);
                let disc = ((radius - distance) / 4.0 + 0.5).clamp(0.0, 1.0);
                let ground = [
                    255.0 * f64::from(x) / f64::from(width),
                    255.0 * f64::from(y) / f64::from(height),
                    90.0,
                ];
                for (ground, disc_colour) in ground.into_iter().zip([220.0, 40.0, 30.0]) {
                    data.push((ground + disc * (disc_colour - ground)).round() as u8);
                }
            }
        }
    }
    VideoFrames::new((width, height).into(), fps, data).unwrap()
}

/// Peak signal-to-noise ratio in decibels, of videos of one size and length.
fn psnr(a: &VideoFrames, b: &VideoFrames) -> f64 {
    assert_eq!((a.size(), a.len()), (b.size(), b.len()));
    let squares: f64 = a
        .data()
        .iter()
        .zip(b.data())
        .map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2))
        .sum();
    10.0 * (255.0 * 255.0 * a.data().len() as f64 / squares).log10()
}

fn write(dir: &Path, name: &str, video: &VideoFrames) -> PathBuf {
    let path = dir.join(name);
    write_video(&path, video, &WriteOptions::default()).unwrap();
    path
}

fn options(quality: u8) -> WriteOptions {
    WriteOptions {
        quality,
        ..WriteOptions::default()
    }
}

fn bundled() -> ReadOptions {
    ReadOptions {
        decoder: Decoder::Bundled,
        ..Default::default()
    }
}

/// Whether programs of other projects can be run. Where they are missing a test that needs them passes
/// without its comparison, unless `LONGCAT_REQUIRE_TOOLS` is set, as in the gate.
fn can_run(programs: &[(&str, &str)]) -> bool {
    programs.iter().all(|(program, version)| {
        let found = std::process::Command::new(program)
            .arg(version)
            .output()
            .is_ok();
        let required = std::env::var_os("LONGCAT_REQUIRE_TOOLS").is_some();
        assert!(found || !required, "{program} is not on the PATH");
        if !found {
            eprintln!("{program} is not on the PATH: nothing is compared with it");
        }
        found
    })
}

/// Options for ffmpeg, where it can be run.
fn ffmpeg() -> Option<ReadOptions> {
    can_run(&[("ffmpeg", "-version")]).then(|| ReadOptions {
        decoder: Decoder::Ffmpeg("ffmpeg".into()),
        ..Default::default()
    })
}

/// What a program prints, which must succeed.
fn output(program: &str, args: &[&str]) -> Vec<u8> {
    let output = std::process::Command::new(program)
        .args(args)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {errors}");
    output.stdout
}

#[test]
fn mp4_comes_back_with_size_rate_and_picture() {
    let dir = tempfile::tempdir().unwrap();
    // Sizes that are and are not whole macroblocks, more frames than one group of pictures.
    for (width, height, frames, fps) in [
        (64, 48, 33, 15.0),
        (50, 34, 5, 30000.0 / 1001.0),
        (16, 16, 1, 12.5),
        (34, 130, 3, 24.0),
    ] {
        let video = clip(width, height, frames, fps);
        let path = write(dir.path(), "clip.mp4", &video);
        let back = read_video(&path, &bundled()).unwrap();
        assert!((back.fps() - fps).abs() < 1e-9, "{} != {fps}", back.fps());
        let quality = psnr(&video, &back);
        println!("{width}x{height}: {quality:.1} dB, bundled decoder");
        assert!(quality >= 30.0, "{width}x{height}: {quality} dB");
    }
}

#[test]
fn ffmpeg_sees_the_same_video() {
    let Some(options) = ffmpeg() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    for fps in [15.0, 30000.0 / 1001.0] {
        let video = clip(66, 50, 31, fps);
        let path = write(dir.path(), "-odd name: é.mp4", &video);
        let theirs = read_video(&path, &options).unwrap();
        let ours = read_video(&path, &bundled()).unwrap();
        assert!((theirs.fps() - fps).abs() < 1e-9, "{}", theirs.fps());
        println!(
            "{:.1} dB, ffmpeg; {:.1} dB between decoders",
            psnr(&video, &theirs),
            psnr(&ours, &theirs)
        );
        assert!(psnr(&video, &theirs) >= 30.0);
        // Only the interpolation of chroma differs: a wrong matrix or range would be far below.
        assert!(psnr(&ours, &theirs) >= 36.0);
    }
}

#[test]
fn quality_trades_size_for_likeness() {
    let dir = tempfile::tempdir().unwrap();
    let video = clip(96, 64, 8, 15.0);
    let path = dir.path().join("clip.mp4");
    let mut last = (0, 0.0);
    for quality in [0, 50, 100] {
        write_video(&path, &video, &options(quality)).unwrap();
        let found = (
            fs::metadata(&path).unwrap().len(),
            psnr(&video, &read_video(&path, &bundled()).unwrap()),
        );
        println!("quality {quality}: {} bytes, {:.1} dB", found.0, found.1);
        assert!(found.0 > last.0 && found.1 > last.1, "{quality}: {found:?}");
        last = found;
    }
}

/// Names of the boxes at the top of an mp4 file.
fn top_boxes(file: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = file;
    while rest.len() >= 8 {
        let size = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
        let name = String::from_utf8_lossy(&rest[4..8]).into_owned();
        let size = match size {
            1 => u64::from_be_bytes(rest[8..16].try_into().unwrap()) as usize,
            size => size,
        };
        names.push(name);
        rest = &rest[size..];
    }
    assert!(rest.is_empty());
    names
}

#[test]
fn the_index_of_an_mp4_comes_before_the_pictures() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("clip.mp4");
    for quality in [70, 50] {
        write_video(&path, &clip(32, 32, 40, 15.0), &options(quality)).unwrap();
        let file = fs::read(&path).unwrap();
        let boxes = top_boxes(&file);
        let position = |name| boxes.iter().position(|b| b == name).unwrap();
        assert_eq!(boxes[0], "ftyp");
        assert!(position("moov") < position("mdat"), "{boxes:?}");
        let has = |part: &[u8]| file.windows(part.len()).any(|w| w == part);
        for part in [&b"avc1"[..], b"avcC", b"colrnclx\0\x01\0\x01\0\x01\0"] {
            assert!(has(part), "no {part:?}");
        }
        // Without a list of key frames all are.
        assert_eq!(has(b"stss"), quality == 50);
    }
}

#[test]
fn webp_and_png_are_lossless() {
    let dir = tempfile::tempdir().unwrap();
    let video = clip(37, 23, 12, 15.0);
    let path = write(dir.path(), "clip.webp", &video);
    assert_eq!(read_video(&path, &bundled()).unwrap(), video);
    let path = write(dir.path(), "frames/", &video);
    assert_eq!(fs::read_dir(&path).unwrap().count(), 12);
    assert!(path.join("frame_00011.png").is_file());
    // What macOS leaves beside files on foreign disks.
    fs::write(path.join("._frame_00000.png"), b"Mac OS X").unwrap();
    assert_eq!(read_video(&path, &bundled()).unwrap(), video);
}

#[test]
fn gif_keeps_rate_count_and_most_of_the_picture() {
    let dir = tempfile::tempdir().unwrap();
    let video = clip(48, 32, 30, 15.0);
    let back = read_video(&write(dir.path(), "clip.gif", &video), &bundled()).unwrap();
    assert!((back.fps() - 15.0).abs() < 1e-9);
    let quality = psnr(&video, &back);
    println!("gif: {quality:.1} dB");
    // 256 colours for a gradient in two directions.
    assert!(quality >= 24.0, "{quality} dB");
}

#[test]
fn ffmpeg_reads_what_is_written() {
    if ffmpeg().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let video = clip(48, 32, 10, 10.0);
    for name in ["clip.mp4", "clip.gif"] {
        let path = write(dir.path(), name, &video);
        let status = std::process::Command::new("ffmpeg")
            .args(["-v", "error", "-xerror", "-i"])
            .arg(&path)
            .args(["-f", "null", "-"])
            .output()
            .unwrap();
        let message = String::from_utf8_lossy(&status.stderr).into_owned();
        assert!(
            status.status.success() && message.is_empty(),
            "{name}: {message}"
        );
    }
}

/// ffmpeg reads no animated WebP before version 8; the format's own tools do.
#[test]
fn libwebp_reads_the_frames_of_an_animation() {
    if !can_run(&[
        ("webpinfo", "-version"),
        ("webpmux", "-version"),
        ("dwebp", "-version"),
    ]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let video = clip(48, 32, 10, 10.0);
    let path = write(dir.path(), "clip.webp", &video);
    let path = path.to_str().unwrap();
    let info = String::from_utf8(output("webpinfo", &[path])).unwrap();
    assert!(info.contains("No error detected"), "{info}");
    let shown = info.matches("Duration: 100").count();
    assert_eq!(shown, 10, "frames of 100 ms: {info}");
    let (frame, picture) = (dir.path().join("frame.webp"), dir.path().join("frame.ppm"));
    let (frame, picture) = (frame.to_str().unwrap(), picture.to_str().unwrap());
    for (i, expected) in video.data().chunks_exact(48 * 32 * 3).enumerate() {
        let number = (i + 1).to_string();
        output("webpmux", &["-get", "frame", &number, path, "-o", frame]);
        output("dwebp", &["-quiet", "-ppm", frame, "-o", picture]);
        let picture = fs::read(picture).unwrap();
        assert!(picture.starts_with(b"P6\n48 32\n255\n"), "frame {i}");
        assert!(picture.ends_with(expected), "frame {i} has other pixels");
    }
}

#[test]
fn what_a_format_cannot_hold_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |name: &str, width, height, fps, quality| {
        let path = dir.path().join(name);
        let size = VideoSize::new(width, height);
        let spec = VideoSpec { size, fps };
        let Err(error) = create_video(&path, spec, &options(quality)) else {
            panic!("{name} was accepted");
        };
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{name}");
        error
    };
    let message = refused("a.mp4", 33, 32, 15.0, 75).to_string();
    assert!(
        message.contains("a.mp4") && message.contains("33x32"),
        "{message}"
    );
    assert!(matches!(
        refused("a.mp4", 8, 32, 15.0, 75),
        MediaError::Size { .. }
    ));
    assert!(matches!(
        refused("a.mp4", 4096, 32, 15.0, 75),
        MediaError::Size { .. }
    ));
    assert!(matches!(
        refused("a.gif", 0, 32, 15.0, 75),
        MediaError::Size { .. }
    ));
    assert!(matches!(
        refused("a.gif", 32, 32, 60.0, 75),
        MediaError::FrameRate { .. }
    ));
    assert!(matches!(
        refused("a.mp4", 32, 32, f64::NAN, 75),
        MediaError::FrameRate { .. }
    ));
    assert!(matches!(
        refused("a.mp4", 32, 32, 15.0, 101),
        MediaError::Quality(101)
    ));
    assert!(matches!(
        refused("a.avi", 32, 32, 15.0, 75),
        MediaError::UnknownFormat { .. }
    ));
    assert!(matches!(
        refused("none/a.mp4", 32, 32, 15.0, 75),
        MediaError::Io { .. }
    ));
}

#[test]
fn unfinished_files_leave_nothing_and_do_not_replace() {
    let dir = tempfile::tempdir().unwrap();
    let spec = VideoSpec {
        size: VideoSize::new(32, 32),
        fps: 15.0,
    };
    for name in ["a.mp4", "a.gif", "a.webp", "frames/"] {
        let path = dir.path().join(name);
        let mut writer = create_video(&path, spec, &WriteOptions::default()).unwrap();
        let error = writer.push(&[0; 5]).unwrap_err();
        assert!(
            matches!(
                error,
                MediaError::FrameBytes {
                    expected: 3072,
                    found: 5
                }
            ),
            "{error}"
        );
        writer.push(&[0; 3072]).unwrap();
        assert!(!path.exists());
        drop(writer);
        let empty = create_video(&path, spec, &WriteOptions::default()).unwrap();
        assert!(matches!(empty.finish(), Err(MediaError::NoFrames { .. })));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{name}");
    }
    let file = dir.path().join("a.mp4");
    fs::write(&file, "old").unwrap();
    let mut writer = create_video(&file, spec, &WriteOptions::default()).unwrap();
    writer.push(&[0; 3072]).unwrap();
    drop(writer);
    assert_eq!(fs::read(&file).unwrap(), b"old");
    let error = write_video(dir.path(), &clip(16, 16, 1, 1.0), &WriteOptions::default());
    assert!(matches!(error, Err(MediaError::FolderNotEmpty { .. })));
}

fn refused(path: &Path, options: &ReadOptions) -> String {
    let message = read_video(path, options).unwrap_err().to_string();
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    assert!(message.contains(&name), "{message}");
    message
}

#[test]
fn truncated_and_foreign_videos_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let video = clip(48, 32, 20, 15.0);
    let through = ffmpeg();
    for name in ["clip.mp4", "clip.gif", "clip.webp"] {
        let path = write(dir.path(), name, &video);
        let file = fs::read(&path).unwrap();
        for end in [file.len() - 40, file.len() / 2, 100, 10, 0] {
            fs::write(&path, &file[..end]).unwrap();
            refused(&path, &bundled());
            if let Some(options) = &through {
                refused(&path, options);
            }
        }
        fs::write(&path, "this is not a video, whatever its name says").unwrap();
        refused(&path, &bundled());
        if let Some(options) = &through {
            refused(&path, options);
        }
        fs::remove_file(&path).unwrap();
        refused(&path, &bundled());
    }
    let path = dir.path().join("clip.mkv");
    fs::write(&path, "x").unwrap();
    assert!(refused(&path, &bundled()).contains("ffmpeg"));
    let still = dir.path().join("still.webp");
    image::RgbImage::new(4, 4).save(&still).unwrap();
    refused(&still, &bundled());
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    assert!(refused(&empty, &bundled()).contains("no frames"));
}

#[test]
fn pictures_of_several_sizes_are_no_video() {
    let dir = tempfile::tempdir().unwrap();
    image::RgbImage::new(4, 4)
        .save(dir.path().join("1.png"))
        .unwrap();
    image::RgbImage::new(4, 6)
        .save(dir.path().join("2.png"))
        .unwrap();
    fs::write(dir.path().join("notes.txt"), "not a frame").unwrap();
    let message = read_video(dir.path(), &bundled()).unwrap_err().to_string();
    assert!(
        message.contains("2.png") && message.contains("4x6"),
        "{message}"
    );
}

#[test]
fn pictures_are_opaque_and_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("picture.png");
    let refused = || {
        let message = read_image(&path).unwrap_err().to_string();
        assert!(message.contains("picture.png"), "{message}");
        message
    };
    RgbaImage::from_pixel(3, 2, Rgba([9, 8, 7, 255]))
        .save(&path)
        .unwrap();
    assert_eq!(read_image(&path).unwrap().get_pixel(2, 1).0, [9, 8, 7]);
    RgbaImage::from_pixel(3, 2, Rgba([9, 8, 7, 254]))
        .save(&path)
        .unwrap();
    assert!(refused().contains("transparent"));

    image::RgbImage::new(40, 40).save(&path).unwrap();
    let file = fs::read(&path).unwrap();
    fs::write(&path, &file[..file.len() / 2]).unwrap();
    refused();
    fs::write(&path, "no picture").unwrap();
    refused();
    fs::remove_file(&path).unwrap();
    refused();
}

#[test]
fn a_damaged_mp4_never_panics() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "clip.mp4", &clip(32, 32, 4, 15.0));
    let good = fs::read(&path).unwrap();
    let moov = good.windows(4).position(|w| w == b"moov").unwrap();
    // A fixed sequence of damage: every byte of the index, and a spread over the rest.
    let index = moov..moov + 900;
    let spread = (0..good.len()).step_by(97);
    for (i, position) in index.chain(spread).enumerate() {
        let mut file = good.clone();
        file[position] = [0xff, 0, 0x80, 1][i % 4] ^ file[position].wrapping_mul(3);
        fs::write(&path, &file).unwrap();
        let _ = read_video(&path, &bundled());
    }
}
