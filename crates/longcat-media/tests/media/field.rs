//! Files as cameras, editors and other programs write them, made by ffmpeg where it can be run.

use std::process::Command;

use longcat_media::{VideoReader, frames_to_the_last, read_last};

use super::rounds::blobs;
use super::*;

/// Frames that tell their number: frame `i` is grey of level `4 * i + 16`.
pub(crate) fn numbered(frames: u8, fps: f64) -> VideoFrames {
    let data = (0..frames)
        .flat_map(|i| vec![level(i); 32 * 32 * 3])
        .collect();
    VideoFrames::new(VideoSize::new(32, 32), fps, data).unwrap()
}

fn level(number: u8) -> u8 {
    4 * number + 16
}

/// The numbers of such frames.
pub(crate) fn numbers<'a>(frames: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let number = |frame: &[u8]| (frame[frame.len() / 2].saturating_sub(14)) / 4;
    frames.map(number).collect()
}

struct Field {
    dir: tempfile::TempDir,
    /// Reads through ffmpeg.
    through: ReadOptions,
}

impl Field {
    /// A folder to make files in; nothing where ffmpeg cannot be run.
    fn new() -> Option<Self> {
        Some(Self {
            through: ffmpeg()?,
            dir: tempfile::tempdir().unwrap(),
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs ffmpeg in the folder; the last word is the file that it makes.
    fn make(&self, words: &str) -> PathBuf {
        let words: Vec<&str> = words.split_whitespace().collect();
        let output = Command::new("ffmpeg")
            .args(["-nostdin", "-v", "error", "-y"])
            .args(&words)
            .current_dir(self.dir.path())
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {errors}");
        self.path(words[words.len() - 1])
    }

    /// Frames as PNG files, for `-i name/frame_%05d.png`.
    fn frames(&self, name: &str, video: &VideoFrames) {
        write(self.dir.path(), &format!("{name}/"), video);
    }
}

/// An mp4 file whose track is to be shown turned: where a step to the right goes, and one down.
fn with_matrix(mut file: Vec<u8>, [a, b, c, d]: [i32; 4]) -> Vec<u8> {
    let header = file.windows(4).position(|name| name == b"tkhd").unwrap();
    let matrix = header + 4 + 40;
    for (place, value) in [(0, a), (1, b), (3, c), (4, d)] {
        let at = matrix + 4 * place;
        file[at..at + 4].copy_from_slice(&(value << 16).to_be_bytes());
    }
    file
}

#[test]
fn colour_of_420_video_is_that_of_its_source() {
    let Some(field) = Field::new() else {
        return;
    };
    let video = blobs(17);
    field.frames("blob", &video);
    let input = "-framerate 15 -i blob/frame_%05d.png";
    let x264 = "-c:v libx264 -preset veryfast -qp";
    let scaled = |how: &str| format!("{input} -vf zscale={how}:f=bilinear,format=yuv420p");
    for (name, made) in [
        (
            "bt709",
            format!(
                "{} -colorspace bt709 {x264}",
                scaled("m=709:r=limited:c=left")
            ),
        ),
        (
            "bt601",
            format!("{} {x264}", scaled("m=170m:r=limited:c=left")),
        ),
        (
            "full",
            format!(
                "{} -colorspace bt709 -color_range pc {x264}",
                scaled("m=709:r=full:c=left")
            ),
        ),
    ] {
        let lossless = field.make(&format!("{made} 0 {name}.mp4"));
        let found = psnr(&video, &read_video(&lossless, &field.through).unwrap());
        println!("{name}: {found:.1} dB");
        assert!(found >= 52.0, "{name}: {found} dB");
        // The bundled decoder has no lossless profile.
        let good = field.make(&format!("{made} 2 {name}-2.mp4"));
        let theirs = read_video(&good, &field.through).unwrap();
        let ours = read_video(&good, &bundled()).unwrap();
        assert_eq!(theirs, ours, "{name}");
    }
    // A turn moves chroma to another side of luma.
    for (matrix, orientation) in [
        ([0, 1, -1, 0], 6),
        ([-1, 0, 0, -1], 3),
        ([0, -1, 1, 0], 8),
        ([-1, 0, 0, 1], 2),
        ([0, 1, 1, 0], 5),
    ] {
        let upright = image::metadata::Orientation::from_exif(orientation).unwrap();
        let turned = |frame: &[u8]| {
            let picture = image::RgbImage::from_raw(96, 64, frame.to_vec()).unwrap();
            let mut picture = image::DynamicImage::from(picture);
            picture.apply_orientation(upright);
            picture.into_bytes()
        };
        let path = field.path("turned.mp4");
        let file = fs::read(field.path("bt709-2.mp4")).unwrap();
        fs::write(&path, with_matrix(file, matrix)).unwrap();
        let plain = read_video(&field.path("bt709-2.mp4"), &bundled()).unwrap();
        let ours = read_video(&path, &bundled()).unwrap();
        let expected: Vec<u8> = plain.frames().flat_map(turned).collect();
        assert!(ours.data() == expected, "{orientation}");
        if matches!(orientation, 3 | 6 | 8) {
            let theirs = read_video(&path, &field.through).unwrap();
            assert_eq!(theirs.size(), ours.size());
            assert!(psnr(&theirs, &ours) >= 60.0, "{orientation}");
        }
    }
    let x264 = "-c:v libx264 -preset veryfast -qp 2";
    // High definition without tags is BT.709, in a flat colour that BT.601 would shift by 10 levels.
    let colour = "-f lavfi -i color=0x3070c0:s=1280x64:r=15 -frames:v 1";
    let untag =
        "-bsf:v h264_metadata=colour_primaries=2:transfer_characteristics=2:matrix_coefficients=2";
    let path = field.make(&format!(
        "{colour} -vf format=gbrp,zscale=m=709:r=limited,format=yuv420p {x264} {untag} hd.mp4"
    ));
    for options in [&field.through, &bundled()] {
        let read = read_video(&path, options).unwrap();
        let pixel = &read.data()[..3];
        let worst = pixel
            .iter()
            .zip([0x30u8, 0x70, 0xc0])
            .map(|(a, b)| a.abs_diff(b))
            .max();
        assert!(worst <= Some(2), "{pixel:?}, {:?}", options.decoder);
    }
}

#[test]
fn high_dynamic_range_is_shown_on_an_ordinary_screen() {
    let Some(field) = Field::new() else {
        return;
    };
    let video = blobs(2);
    field.frames("blob", &video);
    for (transfer, tag) in [("arib-std-b67", "arib-std-b67"), ("smpte2084", "smpte2084")] {
        // White at 203 cd/m², as by ITU-R BT.2408.
        let filter = format!(
            "format=gbrp,zscale=tin=709:min=gbr:pin=709:rin=pc:t=linear:p=2020:m=gbr:npl=203,\
             format=gbrpf32le,zscale=tin=linear:pin=2020:min=gbr:t={transfer}:m=2020_ncl:p=2020:\
             r=tv:npl=203,format=yuv420p10le"
        );
        let path = field.make(&format!(
            "-framerate 15 -i blob/frame_%05d.png -vf {filter} -colorspace bt2020nc \
             -color_primaries bt2020 -color_trc {tag} -color_range tv -c:v libx265 \
             -x265-params log-level=none:crf=4 hdr.mp4"
        ));
        let read = read_video(&path, &field.through).unwrap();
        let off = video
            .data()
            .iter()
            .zip(read.data())
            .map(|(a, b)| f64::from(a.abs_diff(*b)));
        let mean = off.sum::<f64>() / read.data().len() as f64;
        println!("{transfer}: {mean:.1} levels off");
        // The brightest are compressed; shown as they are, the mean would be 40 off.
        assert!(mean < 6.0, "{transfer}: {mean} levels off");
    }
}

#[test]
fn frames_come_by_time_from_every_container() {
    let Some(field) = Field::new() else {
        return;
    };
    let at = |path: &Path, fps: f64, options: &ReadOptions| {
        let steady = VideoReader::open(path, options)
            .unwrap()
            .at_rate(fps)
            .unwrap();
        numbers(steady.collect_frames().unwrap().frames())
    };
    field.frames("count", &numbered(24, 30.0));
    let input = "-framerate 30 -i count/frame_%05d.png";
    let x264 = "-c:v libx264 -preset veryfast -qp 2 -pix_fmt yuv420p";
    let mut files = vec![
        field.make(&format!("{input} {x264} -bf 2 count.mp4")),
        field.make(&format!("{input} {x264} count.mkv")),
        field.make(&format!("{input} -c:v ffv1 -pix_fmt yuv420p count.mov")),
    ];
    files.push(write(field.dir.path(), "count.gif", &numbered(24, 30.0)));
    files.push(write(field.dir.path(), "count.webp", &numbered(24, 30.0)));
    for path in &files {
        let own = bundled();
        let mut readers = vec![&field.through];
        readers.extend((path == &files[0]).then_some(&own));
        for options in readers {
            let name = path.display();
            assert_eq!(
                at(path, 15.0, options),
                (0..12).map(|i| 2 * i).collect::<Vec<_>>(),
                "{name}"
            );
            assert_eq!(
                at(path, 10.0, options),
                (0..8).map(|i| 3 * i).collect::<Vec<_>>(),
                "{name}"
            );
            let twice: Vec<u8> = (0..48).map(|i| i / 2).collect();
            assert_eq!(at(path, 60.0, options), twice, "{name}");
            // The end, at a rate and as it is, without what is before.
            let last = read_last(path, 4, Some(10.0), options).unwrap();
            assert_eq!(numbers(last.frames()), [14, 17, 20, 23], "{name}");
            let last = read_last(path, 3, None, options).unwrap();
            assert_eq!(numbers(last.frames()), [21, 22, 23], "{name}");
            let all = read_last(path, 100, Some(15.0), options).unwrap();
            let odd: Vec<u8> = (0..12).map(|i| 2 * i + 1).collect();
            assert_eq!(numbers(all.frames()), odd, "{name}");
            let kept = frames_to_the_last(path, 15.0, options).unwrap();
            assert_eq!(
                numbers(kept.collect_frames().unwrap().frames()),
                odd,
                "{name}"
            );
        }
    }
    // A rate that changes: 20 frames at 30 per second, then every other one.
    let path = field.make(&format!(
        "{input} -vf select='lt(n,12)+not(mod(n,2))',settb=1/600 -fps_mode vfr \
         -enc_time_base 1/600 -video_track_timescale 600 {x264} vfr.mp4"
    ));
    for options in [&field.through, &bundled()] {
        let expected: Vec<u8> = (0..24)
            .map(|i| if i < 12 { i } else { i / 2 * 2 })
            .collect();
        let found = at(&path, 30.0, options);
        // How long the last frame lasts is a guess of ffmpeg's.
        assert!(
            found.len() >= 23 && expected.starts_with(&found[..23]),
            "{found:?}"
        );
    }
    // A slide show: the first frame for a second.
    let path = field.path("slides.gif");
    let mut encoder = gif::Encoder::new(fs::File::create(&path).unwrap(), 32, 32, &[]).unwrap();
    for i in 0..4 {
        let mut frame = gif::Frame::from_rgb(32, 32, &[level(i); 32 * 32 * 3]);
        frame.delay = if i == 0 { 100 } else { 10 };
        encoder.write_frame(&frame).unwrap();
    }
    drop(encoder);
    let slides = at(&path, 10.0, &bundled());
    assert_eq!(slides, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3]);
}

#[test]
fn the_bundled_reader_shows_a_video_as_ffmpeg_does_or_asks_for_it() {
    let Some(field) = Field::new() else {
        return;
    };
    field.frames("blob", &blobs(12));
    let input = "-framerate 15 -i blob/frame_%05d.png";
    let x264 = "-c:v libx264 -preset veryfast -qp 2";
    field.make(&format!(
        "{input} -pix_fmt yuv420p {x264} -bf 3 -g 5 plain.mp4"
    ));
    for (name, made) in [
        (
            "wide.mp4",
            format!("{input} -vf scale=48:64,setsar=2/1 -pix_fmt yuv420p {x264}"),
        ),
        (
            "high.mp4",
            format!("{input} -vf scale=96:32,setsar=1/2 -pix_fmt yuv420p {x264}"),
        ),
        ("cut.mp4", "-ss 0.4 -i plain.mp4 -c copy".to_string()),
        (
            "sizes.mp4",
            format!("{input} -vf crop=94:62:0:0 -pix_fmt yuv420p {x264}"),
        ),
        (
            "open.mp4",
            format!("{input} -pix_fmt yuv420p {x264} -x264-params open-gop=1:keyint=4:bframes=2"),
        ),
    ] {
        let path = field.make(&format!("{made} {name}"));
        let theirs = read_video(&path, &field.through).unwrap();
        let ours = read_video(&path, &bundled()).unwrap();
        assert_eq!(
            (theirs.size(), theirs.len()),
            (ours.size(), ours.len()),
            "{name}"
        );
        let found = psnr(&theirs, &ours);
        assert!(found >= 50.0, "{name}: {found} dB");
        let last = read_last(&path, 4, None, &bundled()).unwrap();
        assert!(ours.data().ends_with(last.data()), "{name}");
    }
    let square = read_video(&field.path("wide.mp4"), &bundled()).unwrap();
    assert_eq!(square.size(), VideoSize::new(96, 64));
    for (name, made) in [
        ("grey.mp4", format!("{input} -pix_fmt gray {x264}")),
        (
            "deep.mp4",
            format!("{input} -pix_fmt yuv420p10le -c:v libx264 -preset veryfast"),
        ),
        ("422.mp4", format!("{input} -pix_fmt yuv422p {x264}")),
        ("444.mp4", format!("{input} -pix_fmt yuv444p {x264}")),
        (
            "fields.mp4",
            format!("{input} -pix_fmt yuv420p {x264} -x264-params interlaced=1:tff=1"),
        ),
        (
            "pieces.mp4",
            "-i plain.mp4 -c copy -movflags +frag_keyframe+empty_moov".to_string(),
        ),
    ] {
        let path = field.make(&format!("{made} {name}"));
        read_video(&path, &field.through).unwrap();
        let error = read_video(&path, &bundled()).unwrap_err();
        assert!(
            matches!(error, MediaError::NeedsFfmpeg { .. }),
            "{name}: {error}"
        );
    }
}

#[test]
fn what_ffmpeg_says_is_no_damage_and_a_cover_is_no_video() {
    let Some(field) = Field::new() else {
        return;
    };
    field.frames("count", &numbered(5, 15.0));
    let plain = field.make(
        "-framerate 15 -i count/frame_%05d.png -pix_fmt yuv420p -c:v libx264 -qp 0 plain.mp4",
    );
    // The track of chapters is gone: a line of errors, and all frames.
    fs::write(
        field.path("chapters.txt"),
        ";FFMETADATA1\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=100\ntitle=a\n",
    )
    .unwrap();
    let path =
        field.make("-i plain.mp4 -i chapters.txt -map_metadata 1 -map_chapters 1 -c copy c.mp4");
    let mut file = fs::read(&path).unwrap();
    let at = file.windows(4).position(|name| name == b"chap").unwrap();
    file[at + 4..at + 8].copy_from_slice(&99u32.to_be_bytes());
    fs::write(&path, file).unwrap();
    let expected = read_video(&plain, &field.through).unwrap();
    assert_eq!(read_video(&path, &field.through).unwrap(), expected);

    let cover = field.make(
        "-i count/frame_00004.png -i plain.mp4 -map 0 -map 1 -c:v:0 png -c:v:1 copy \
         -disposition:v:0 attached_pic cover.mp4",
    );
    assert_eq!(read_video(&cover, &field.through).unwrap(), expected);

    // A file of which the end is missing is damaged, though ffmpeg returns success.
    let whole = field.make("-i plain.mp4 -c copy whole.mkv");
    let bytes = fs::read(&whole).unwrap();
    fs::write(&whole, &bytes[..bytes.len() * 6 / 10]).unwrap();
    refused(&whole, &field.through);
}

#[test]
fn short_delays_are_those_of_browsers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("zero.gif");
    let mut encoder = gif::Encoder::new(fs::File::create(&path).unwrap(), 8, 8, &[]).unwrap();
    for _ in 0..3 {
        let mut frame = gif::Frame::from_rgb(8, 8, &[50; 8 * 8 * 3]);
        frame.delay = 0;
        encoder.write_frame(&frame).unwrap();
    }
    drop(encoder);
    assert_eq!(read_video(&path, &bundled()).unwrap().fps(), 10.0);
}
