//! The comment of an mp4 file: `moov/udta/meta/ilst/©cmt`, where iTunes, ffmpeg and players keep it.

use std::io::{Read, Seek, SeekFrom};

use crate::metadata::LONGEST;

const COMMENT: &[u8; 4] = b"\xa9cmt";
/// Type of a value that is UTF-8.
const TEXT: u32 = 1;

/// The box `udta` with a comment.
pub(crate) fn user_data(comment: &str) -> Vec<u8> {
    let mut data = TEXT.to_be_bytes().to_vec();
    data.extend([0; 4]); // language
    data.extend(comment.as_bytes());
    let list = boxed(b"ilst", &boxed(COMMENT, &boxed(b"data", &data)));
    // Version and flags, then who understands the list: handler `mdir`, of `appl`.
    let mut handler = vec![0; 8];
    handler.extend(b"mdirappl");
    handler.extend([0; 9]);
    let mut meta = vec![0; 4];
    meta.extend(boxed(b"hdlr", &handler));
    meta.extend(list);
    boxed(b"udta", &boxed(b"meta", &meta))
}

fn boxed(name: &[u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut bytes = (8 + payload.len() as u32).to_be_bytes().to_vec();
    bytes.extend(name);
    bytes.extend(payload);
    bytes
}

/// Puts a box at the end of the index, which is in one of the pieces of a file that are written last.
/// A `free` box behind it becomes smaller; nothing else moves. `None` where there is no index or no
/// room.
pub(crate) fn append_to_index(pieces: &mut [(u64, Vec<u8>)], addition: &[u8]) -> Option<()> {
    for (_, bytes) in pieces {
        let Some((at, size)) = find(bytes, b"moov") else {
            continue;
        };
        let end = at + size;
        let longer = u32::try_from(size + addition.len()).ok()?;
        bytes[at..at + 4].copy_from_slice(&longer.to_be_bytes());
        if end == bytes.len() {
            bytes.extend(addition);
            return Some(());
        }
        let free = bytes.len() - end;
        let rest = free.checked_sub(addition.len())?;
        if bytes.get(end + 4..end + 8)? != b"free" || (1..8).contains(&rest) {
            return None;
        }
        bytes.truncate(end);
        bytes.extend(addition);
        if rest > 0 {
            bytes.extend(boxed(b"free", &vec![0; rest - 8]));
        }
        return Some(());
    }
    None
}

/// Where a box lies among those of a buffer, with its header.
fn find(bytes: &[u8], name: &[u8; 4]) -> Option<(usize, usize)> {
    let mut at = 0;
    while let Some(head) = bytes.get(at..at + 8) {
        let size = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        if size < 8 || at + size > bytes.len() {
            return None;
        }
        if &head[4..] == name {
            return Some((at, size));
        }
        at += size;
    }
    None
}

/// The comment of a file; `None` for one without, or one that is no mp4.
pub(crate) fn read_comment(file: &mut (impl Read + Seek)) -> std::io::Result<Option<String>> {
    let length = file.seek(SeekFrom::End(0))?;
    let Some(index) = within(file, 0..length, b"moov")? else {
        return Ok(None);
    };
    let Some(data) = within(file, index, b"udta")? else {
        return Ok(None);
    };
    let Some(mut meta) = within(file, data, b"meta")? else {
        return Ok(None);
    };
    // Version and flags, which QuickTime leaves out.
    file.seek(SeekFrom::Start(meta.start))?;
    let mut flags = [0; 4];
    if file.read_exact(&mut flags).is_ok() && flags == [0; 4] {
        meta.start += 4;
    }
    let mut found = Some(meta);
    for name in [b"ilst", COMMENT, b"data"] {
        found = match found {
            Some(range) => within(file, range, name)?,
            None => None,
        };
    }
    let Some(value) = found else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(value.start))?;
    file.take((value.end - value.start).min(LONGEST))
        .read_to_end(&mut bytes)?;
    Ok(match bytes.split_at_checked(8) {
        Some((kind, text)) if kind.starts_with(&TEXT.to_be_bytes()) => {
            Some(String::from_utf8_lossy(text).into_owned())
        }
        _ => None,
    })
}

/// Where the payload of a box lies, looked for among the boxes of a part of a file.
fn within(
    file: &mut (impl Read + Seek),
    part: std::ops::Range<u64>,
    name: &[u8; 4],
) -> std::io::Result<Option<std::ops::Range<u64>>> {
    let mut at = part.start;
    while part.end.saturating_sub(at) >= 8 {
        file.seek(SeekFrom::Start(at))?;
        let mut head = [0; 16];
        file.read_exact(&mut head[..8])?;
        let (mut size, mut header) = (
            u64::from(u32::from_be_bytes([head[0], head[1], head[2], head[3]])),
            8,
        );
        if size == 1 && part.end - at >= 16 {
            file.read_exact(&mut head[8..])?;
            let mut long = [0; 8];
            long.copy_from_slice(&head[8..]);
            (size, header) = (u64::from_be_bytes(long), 16);
        } else if size == 0 {
            size = part.end - at;
        }
        if size < header || size > part.end - at {
            return Ok(None);
        }
        if &head[4..8] == name {
            return Ok(Some(at + header..at + size));
        }
        at += size;
    }
    Ok(None)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_index_grows_into_the_room_behind_it() {
        let index = boxed(b"moov", &boxed(b"trak", &[7; 20]));
        let head = [
            boxed(b"ftyp", b"isom"),
            index.clone(),
            boxed(b"free", &[0; 500]),
        ]
        .concat();
        let addition = user_data("a red circle");
        let mut pieces = vec![(0, head.clone()), (900, vec![1; 16])];
        append_to_index(&mut pieces, &addition).unwrap();
        assert_eq!(pieces[0].1.len(), head.len());
        let mut file = std::io::Cursor::new(&pieces[0].1);
        assert_eq!(
            read_comment(&mut file).unwrap().as_deref(),
            Some("a red circle")
        );
        // At the end of a file there is room.
        let mut pieces = vec![(0, boxed(b"ftyp", b"isom")), (70, index)];
        append_to_index(&mut pieces, &addition).unwrap();
        let mut file = std::io::Cursor::new(&pieces[1].1);
        assert_eq!(
            read_comment(&mut file).unwrap().as_deref(),
            Some("a red circle")
        );
        let mut pieces = vec![(0, [boxed(b"moov", &[]), boxed(b"free", &[])].concat())];
        assert_eq!(append_to_index(&mut pieces, &addition), None);
    }
}
