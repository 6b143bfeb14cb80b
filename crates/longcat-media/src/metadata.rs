//! A text that goes with a video or picture: where each format keeps it, and reading it back.
//!
//! It is the comment of an mp4 (`©cmt`, as players show it), the description of XMP in WebP, the
//! comment of GIF, and the text chunk `Comment` of PNG, in every frame of a folder.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use crate::image_folder::pictures;
use crate::{MediaError, mp4_tags};

/// Keyword of the text chunk of PNG.
pub(crate) const PNG_KEYWORD: &str = "Comment";
/// No text that is worth reading is longer.
pub(crate) const LONGEST: u64 = 1 << 24;

/// The text that a video or picture was written with, [`WriteOptions::metadata`], or the comment that
/// another program left there; `None` without one.
///
/// mp4 (mov, m4v), WebP, GIF, PNG and folders of PNG files are looked into; others have none.
///
/// # Errors
/// [`MediaError`] names a file that cannot be read.
///
/// [`WriteOptions::metadata`]: crate::WriteOptions::metadata
pub fn read_metadata(path: &Path) -> Result<Option<String>, MediaError> {
    if path.is_dir() {
        return match pictures(path)?.first() {
            Some(first) => read_metadata(first),
            None => Ok(None),
        };
    }
    let file = File::open(path).map_err(MediaError::io(path))?;
    let mut file = BufReader::new(file);
    let mut head = [0; 12];
    let text = match file.read_exact(&mut head) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => Err(error),
        Ok(()) => {
            if head.starts_with(b"\x89PNG\r\n\x1a\n") {
                in_png(path)
            } else if head.starts_with(b"RIFF") && head.ends_with(b"WEBP") {
                in_webp(&mut file)
            } else if head.starts_with(b"GIF8") {
                in_gif(&mut file)
            } else {
                mp4_tags::read_comment(&mut file)
            }
        }
    };
    text.map_err(MediaError::io(path))
}

fn in_png(path: &Path) -> std::io::Result<Option<String>> {
    let file = BufReader::new(File::open(path)?);
    let mut decoder = png::Decoder::new(file);
    decoder.set_ignore_text_chunk(false);
    // A damaged picture has no text that could be trusted.
    let Ok(reader) = decoder.read_info() else {
        return Ok(None);
    };
    let info = reader.info();
    let unicode = info
        .utf8_text
        .iter()
        .find(|chunk| chunk.keyword == PNG_KEYWORD);
    if let Some(text) = unicode.and_then(|chunk| chunk.get_text().ok()) {
        return Ok(Some(text));
    }
    let mut latin = info.uncompressed_latin1_text.iter();
    let latin = latin.find(|chunk| chunk.keyword == PNG_KEYWORD);
    Ok(latin.map(|chunk| chunk.text.clone()))
}

/// After the header of the container.
fn in_webp(file: &mut (impl Read + Seek)) -> std::io::Result<Option<String>> {
    loop {
        let mut head = [0; 8];
        if !fill(file, &mut head)? {
            return Ok(None);
        }
        let [a, b, c, d] = [head[4], head[5], head[6], head[7]];
        let size = u64::from(u32::from_le_bytes([a, b, c, d]));
        if head.starts_with(b"XMP ") {
            let mut packet = Vec::new();
            file.take(size.min(LONGEST)).read_to_end(&mut packet)?;
            return Ok(from_xmp(&String::from_utf8_lossy(&packet)));
        }
        file.seek(SeekFrom::Current(size as i64 + (size % 2) as i64))?;
    }
}

/// A packet of XMP with a description.
pub(crate) fn to_xmp(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + text.len() / 4);
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c => escaped.push(c),
        }
    }
    format!(
        "<?xpacket begin=\"\u{feff}\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>\
         <x:xmpmeta xmlns:x=\"adobe:ns:meta/\">\
         <rdf:RDF xmlns:rdf=\"http://www.w3.org/1999/02/22-rdf-syntax-ns#\">\
         <rdf:Description rdf:about=\"\" xmlns:dc=\"http://purl.org/dc/elements/1.1/\">\
         <dc:description><rdf:Alt><rdf:li xml:lang=\"x-default\">{escaped}</rdf:li></rdf:Alt>\
         </dc:description></rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end=\"r\"?>"
    )
}

fn from_xmp(packet: &str) -> Option<String> {
    let (_, description) = packet.split_once("<dc:description>")?;
    let (_, item) = description.split_once("<rdf:li")?;
    let (_, text) = item.split_once('>')?;
    let (text, _) = text.split_once("</rdf:li>")?;
    let plain = [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&apos;", "'"),
        ("&amp;", "&"),
    ]
    .iter()
    // The ampersand last, or `&amp;lt;` would be undone twice.
    .fold(text.to_string(), |text, (from, to)| text.replace(from, to));
    Some(plain)
}

/// After the first bytes of the header.
fn in_gif(file: &mut (impl Read + Seek)) -> std::io::Result<Option<String>> {
    const EXTENSION: u8 = 0x21;
    const COMMENT: u8 = 0xfe;
    const IMAGE: u8 = 0x2c;
    // 12 bytes were read of a header of 13, of which the eleventh tells of a table of colours.
    file.seek(SeekFrom::Start(10))?;
    let mut screen = [0; 3];
    if !fill(file, &mut screen)? {
        return Ok(None);
    }
    file.seek(SeekFrom::Current(table(screen[0])))?;
    loop {
        let mut kind = [0];
        if !fill(file, &mut kind)? {
            return Ok(None);
        }
        match kind[0] {
            EXTENSION => {
                let mut label = [0];
                if !fill(file, &mut label)? {
                    return Ok(None);
                }
                let data = blocks(file)?;
                if label[0] == COMMENT {
                    return Ok(Some(String::from_utf8_lossy(&data).into_owned()));
                }
            }
            IMAGE => {
                let mut descriptor = [0; 9];
                if !fill(file, &mut descriptor)? {
                    return Ok(None);
                }
                // The table, and a byte for the size of codes.
                file.seek(SeekFrom::Current(table(descriptor[8]) + 1))?;
                blocks(file)?;
            }
            _ => return Ok(None),
        }
    }
}

/// Bytes of the table of colours that the flags of GIF announce.
fn table(flags: u8) -> i64 {
    match flags & 0x80 {
        0 => 0,
        _ => 3 << ((flags & 7) + 1),
    }
}

/// The data of blocks of at most 255 bytes, up to an empty one.
fn blocks(file: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut data = Vec::new();
    loop {
        let mut size = [0];
        if !fill(file, &mut size)? || size[0] == 0 {
            return Ok(data);
        }
        let mut block = vec![0; usize::from(size[0])];
        if !fill(file, &mut block)? {
            return Ok(data);
        }
        if (data.len() as u64) < LONGEST {
            data.extend(block);
        }
    }
}

/// Whether there were enough bytes.
fn fill(file: &mut impl Read, bytes: &mut [u8]) -> std::io::Result<bool> {
    match file.read_exact(bytes) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        result => result.map(|()| true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_survives_xmp() {
        for text in ["", "{\"a\": \"<b> & 'c' &lt; ü \u{1f600}\"}", "&amp;&quot;"] {
            assert_eq!(from_xmp(&to_xmp(text)).as_deref(), Some(text));
        }
    }
}
