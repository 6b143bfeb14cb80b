//! Pictures and folders of them, as they are found.

use longcat_media::{is_picture, read_last, read_metadata};

use super::field::{numbered, numbers};
use super::*;

#[test]
fn pictures_are_known_limited_and_whole() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    image::RgbImage::from_fn(96, 64, |x, y| image::Rgb([x as u8, y as u8, 9]))
        .save(at("a.jpg"))
        .unwrap();
    read_image(&at("a.jpg")).unwrap();
    for name in ["phone.heic", "page.avif"] {
        let brand = &name[name.len() - 4..];
        fs::write(at(name), format!("\0\0\0\x18ftyp{brand}")).unwrap();
        let message = read_image(&at(name)).unwrap_err().to_string();
        assert!(message.contains("convert it to PNG"), "{message}");
    }
    let file = fs::read(at("a.jpg")).unwrap();
    for end in [file.len() * 6 / 10, file.len() - 1] {
        fs::write(at("cut.jpg"), &file[..end]).unwrap();
        let message = read_image(&at("cut.jpg")).unwrap_err().to_string();
        assert!(message.contains("cut.jpg"), "{message}");
    }

    let video = numbered(3, 15.0);
    write(dir.path(), "moving.webp", &video);
    image::RgbImage::new(8, 8).save(at("still.webp")).unwrap();
    fs::write(at("clip.mp4"), "").unwrap();
    fs::write(at("empty.png"), "").unwrap();
    let known = [
        "a.jpg",
        "empty.png",
        "moving.webp",
        "still.webp",
        "clip.mp4",
    ]
    .map(|name| is_picture(&at(name)));
    assert_eq!(known, [true, true, false, true, false]);
}

#[test]
fn hidden_files_are_no_frames() {
    let dir = tempfile::tempdir().unwrap();
    let video = numbered(3, 15.0);
    let path = write(dir.path(), "frames/", &video);
    // What macOS, Windows and notebooks leave: some would sort before all frames.
    fs::create_dir(path.join(".ipynb_checkpoints")).unwrap();
    fs::copy(
        path.join("frame_00001.png"),
        path.join(".ipynb_checkpoints/frame_00001-checkpoint.png"),
    )
    .unwrap();
    for name in [
        "._000.png",
        "._frame_00002.png",
        ".DS_Store",
        ".hidden.jpg",
        "Thumbs.db",
    ] {
        fs::write(path.join(name), b"Mac OS X").unwrap();
    }
    assert_eq!(read_video(&path, &bundled()).unwrap(), video);
    let last = read_last(&path, 1, None, &bundled()).unwrap();
    assert_eq!(numbers(last.frames()), [2]);
    assert_eq!(read_metadata(&path).unwrap(), None);
    for frame in 0..3 {
        fs::remove_file(path.join(format!("frame_{frame:05}.png"))).unwrap();
    }
    assert!(refused(&path, &bundled()).contains("no frames"));
}

/// Files of which the header announces 60000 times 60000 pixels, with next to nothing behind it.
fn enormous(dir: &Path) -> Vec<PathBuf> {
    const SIDE: u16 = 60_000;
    let side = u32::from(SIDE);
    let mut png = Vec::new();
    let mut encoder = png::Encoder::new(&mut png, side, side);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().unwrap();
    writer.write_chunk(png::chunk::IDAT, &[0x78, 0x9c]).unwrap();
    drop(writer);

    let mut bmp = b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0".to_vec();
    bmp.extend([side, side].map(u32::to_le_bytes).concat());
    bmp.extend([1, 0, 24, 0]);
    bmp.extend([0; 24]);

    let sides = [SIDE, SIDE].map(u16::to_le_bytes).concat();
    let mut gif = b"GIF89a".to_vec();
    gif.extend(&sides);
    gif.extend([0, 0, 0, 0x2c, 0, 0, 0, 0]);
    gif.extend(&sides);
    gif.extend([0x80, 0, 0, 0, 255, 255, 255, 2, 2, 0x4c, 1, 0, 0x3b]);

    // A baseline JPEG of one component, up to where its data would begin.
    let mut jpeg = vec![0xff, 0xd8, 0xff, 0xc0, 0, 11, 8];
    jpeg.extend([SIDE, SIDE].map(u16::to_be_bytes).concat());
    jpeg.extend([
        1, 1, 0x11, 0, 0xff, 0xda, 0, 8, 1, 1, 0, 0, 63, 0, 0xff, 0xd9,
    ]);

    [
        ("a.png", png),
        ("a.bmp", bmp),
        ("a.gif", gif),
        ("a.jpg", jpeg),
    ]
    .map(|(name, file)| {
        let path = dir.join(name);
        fs::write(&path, file).unwrap();
        path
    })
    .to_vec()
}

#[test]
fn what_a_header_announces_takes_no_memory() {
    let dir = tempfile::tempdir().unwrap();
    let peak = || {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        kib.unwrap_or(0u64)
    };
    let before = peak();
    for path in enormous(dir.path()) {
        let name = path.file_name().unwrap().to_str().unwrap();
        let message = read_image(&path).unwrap_err().to_string();
        let told = message.contains(name) && message.to_lowercase().contains("limit");
        assert!(told, "{message}");
        if name == "a.gif" {
            refused(&path, &bundled());
        }
    }
    // A thousandth of what is announced would be 10 MB; other tests run beside this one.
    assert!(peak() < before + 500_000, "{before} {}", peak());
}
