//! The directory of a zip file whose entries are not compressed, which is what PyTorch writes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use super::{corrupt, foreign};
use crate::WeightsError;

/// The entries of a zip file and where their bytes lie.
///
/// # Errors
/// [`WeightsError::Corrupt`] for anything that contradicts itself, compressed entries included.
pub(super) fn entries(
    path: &Path,
    map: &[u8],
) -> Result<BTreeMap<String, Range<usize>>, WeightsError> {
    let zip = Zip { path, map };
    let (mut at, count) = zip.directory()?;
    let mut entries = BTreeMap::new();
    for _ in 0..count {
        let header = zip.at(at, 46)?;
        if !header.starts_with(b"PK\x01\x02") {
            return Err(zip.damaged());
        }
        let lengths = [28, 30, 32].map(|i| u16_at(header, i));
        let [name_length, extra_length, comment_length] = lengths;
        let name = zip.at(at + 46, name_length)?;
        let name = String::from_utf8_lossy(name).into_owned();
        let extra = zip.at(at + 46 + name_length, extra_length)?;
        let mut sizes = [24, 20, 42].map(|i| u32_at(header, i) as u64);
        wide(extra, &mut sizes);
        let [size, stored, local] = sizes;
        if u16_at(header, 10) != 0 || size != stored {
            return Err(corrupt(
                path,
                format!("{name} is compressed, which PyTorch does not do"),
            ));
        }
        let bytes = zip.bytes(local, size)?;
        if entries.insert(name.clone(), bytes).is_some() {
            return Err(corrupt(path, format!("two entries are called {name}")));
        }
        at += 46 + name_length + extra_length + comment_length;
    }
    Ok(entries)
}

struct Zip<'a> {
    path: &'a Path,
    map: &'a [u8],
}

impl<'a> Zip<'a> {
    fn damaged(&self) -> WeightsError {
        corrupt(self.path, "its directory of entries is damaged")
    }

    /// A zip file that was cut off: PyTorch's begins with the pickle.
    fn endless(&self) -> WeightsError {
        const FIRST: &[u8] = b"/data.pkl";
        let start = &self.map[..self.map.len().min(512)];
        match start.windows(FIRST.len()).any(|name| name == FIRST) {
            true => corrupt(self.path, "the end of the zip file is missing"),
            false => foreign(
                self.path,
                "it begins as a zip file, but is not one that PyTorch wrote",
            ),
        }
    }

    fn at(&self, start: usize, count: usize) -> Result<&'a [u8], WeightsError> {
        let end = start.checked_add(count);
        end.and_then(|end| self.map.get(start..end))
            .ok_or_else(|| self.damaged())
    }

    /// Where the directory begins, and the number of its entries.
    fn directory(&self) -> Result<(usize, u64), WeightsError> {
        // At the end, but for a comment of at most 64 KiB.
        let from = self.map.len().saturating_sub(22 + 0xffff);
        let end = (from..=self.map.len().saturating_sub(22))
            .rev()
            .find(|i| self.map[*i..].starts_with(b"PK\x05\x06"))
            .ok_or_else(|| self.endless())?;
        let record = self.at(end, 22)?;
        let (mut count, mut start) = (u16_at(record, 10) as u64, u32_at(record, 16) as u64);
        let locator = end.checked_sub(20).map(|i| &self.map[i..end]);
        if let Some(locator) = locator.filter(|l| l.starts_with(b"PK\x06\x07")) {
            let record = self.at(self.size(u64_at(locator, 8))?, 56)?;
            if !record.starts_with(b"PK\x06\x06") {
                return Err(self.damaged());
            }
            (count, start) = (u64_at(record, 32), u64_at(record, 48));
        }
        Ok((self.size(start)?, count))
    }

    /// The bytes of an entry, behind its local header.
    fn bytes(&self, local: u64, size: u64) -> Result<Range<usize>, WeightsError> {
        let (local, size) = (self.size(local)?, self.size(size)?);
        let header = self.at(local, 30)?;
        if !header.starts_with(b"PK\x03\x04") {
            return Err(self.damaged());
        }
        let start = local + 30 + u16_at(header, 26) + u16_at(header, 28);
        self.at(start, size)?;
        Ok(start..start + size)
    }

    fn size(&self, size: u64) -> Result<usize, WeightsError> {
        usize::try_from(size).map_err(|_| self.damaged())
    }
}

/// Replaces sizes that do not fit in 32 bits by those of the extra field.
fn wide(mut extra: &[u8], sizes: &mut [u64]) {
    while extra.len() >= 4 {
        let (kind, length) = (u16_at(extra, 0), u16_at(extra, 2));
        let Some(field) = extra.get(4..4 + length) else {
            return;
        };
        if kind == 1 {
            let mut fields = field.chunks_exact(8).map(|f| u64_at(f, 0));
            for size in sizes.iter_mut().filter(|s| **s == u64::from(u32::MAX)) {
                *size = fields.next().unwrap_or(*size);
            }
        }
        extra = &extra[4 + length..];
    }
}

fn u16_at(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4]
        .iter()
        .rev()
        .fold(0, |n, b| n << 8 | u32::from(*b))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
