//! GGUF and PyTorch files from strangers: damage is an error, never a panic, and costs no more memory
//! than the file has bytes.

use std::fs;

use longcat_weights::{WeightFiles, WeightsError};
use proptest::prelude::*;

use crate::packed::layouts;

/// Opens a file of these bytes and unpacks all of it.
fn read(name: &str, bytes: &[u8]) -> Result<(), WeightsError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    let files = WeightFiles::open(&path)?;
    for key in files.keys() {
        files.tensor_data(key)?;
    }
    Ok(())
}

fn gguf() -> Vec<u8> {
    fs::read(layouts().join("kijai_mixed.gguf")).unwrap()
}

fn pickle() -> Vec<u8> {
    fs::read(layouts().join("fp8_patterns.pth")).unwrap()
}

/// A GGUF header with one tensor of this name, dimensions, type and place, and no data.
fn header(dimensions: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(1u64.to_le_bytes());
    bytes.extend(0u64.to_le_bytes());
    bytes.extend(1u64.to_le_bytes());
    bytes.push(b'w');
    bytes.extend((dimensions.len() as u32).to_le_bytes());
    dimensions
        .iter()
        .for_each(|d| bytes.extend(d.to_le_bytes()));
    bytes.extend(kind.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

#[test]
fn whole_files_are_read_and_cut_ones_are_named() {
    for (name, bytes) in [("w.gguf", gguf()), ("w.pth", pickle())] {
        read(name, &bytes).unwrap();
        for end in [bytes.len() - 1, bytes.len() / 2, 100] {
            let error = read(name, &bytes[..end]).unwrap_err();
            assert!(
                matches!(error, WeightsError::Corrupt { .. }),
                "{end}: {error}"
            );
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}

#[test]
fn gguf_headers_that_announce_too_much_are_refused() {
    let mut counts = b"GGUF\x03\0\0\0".to_vec();
    counts.extend([0xff; 16]);
    let mut long_name = header(&[1], 0, 0);
    long_name[24..32].copy_from_slice(&u64::MAX.to_le_bytes());
    for (bytes, word) in [
        (counts, "too early"),
        (long_name, "too early"),
        (header(&[1 << 40, 1 << 40], 0, 0), "w of shape"),
        (header(&[1 << 40], 0, 0), "outside"),
        (header(&[1], 0, u64::MAX - 31), "outside"),
        (header(&[33], 8, 0), "whole rows of Q8_0"),
        (header(&[1; 9], 0, 0), "dimensions"),
        (header(&[256], 23, 0), "IQ4_XS"),
        (b"GGUF\x01\0\0\0".to_vec(), "version 1"),
        (b"GGUF\0\0\0\x03".to_vec(), "little endian"),
    ] {
        let error = read("w.gguf", &bytes).unwrap_err().to_string();
        assert!(error.contains(word), "{word:?} not in {error:?}");
        assert!(error.contains("w.gguf"), "{error}");
    }
}

/// A zip file of one stored entry.
fn zip(name: &str, content: &[u8]) -> Vec<u8> {
    let sizes = |bytes: &mut Vec<u8>| {
        bytes.extend([0; 4]);
        (0..2).for_each(|_| bytes.extend((content.len() as u32).to_le_bytes()));
        bytes.extend((name.len() as u16).to_le_bytes());
    };
    let mut bytes = b"PK\x03\x04\x14\0\0\0\0\0\0\0\0\0".to_vec();
    sizes(&mut bytes);
    bytes.extend([0; 2]);
    bytes.extend(name.bytes().chain(content.iter().copied()));
    let directory = bytes.len() as u32;
    bytes.extend(b"PK\x01\x02\x14\0\x14\0\0\0\0\0\0\0\0\0");
    sizes(&mut bytes);
    bytes.extend([0; 16]);
    bytes.extend(name.bytes());
    let length = bytes.len() as u32 - directory;
    bytes.extend(b"PK\x05\x06\0\0\0\0\x01\0\x01\0");
    bytes.extend(length.to_le_bytes());
    bytes.extend(directory.to_le_bytes());
    bytes.extend([0; 2]);
    bytes
}

#[test]
fn pickles_are_data_and_execute_nothing() {
    // A call of `os.system` gives an object that is never made; alone it is no model, and among tensors
    // it would be refused.
    let evil = zip(
        "archive/data.pkl",
        b"\x80\x02}q\0X\x01\0\0\0acos\nsystem\nX\x04\0\0\0true\x85Rs.",
    );
    let error = read("evil.pth", &evil).unwrap_err().to_string();
    assert!(error.contains("without tensors"), "{error}");
    // Text as long as the instruction says would not fit in memory.
    let long = zip("archive/data.pkl", b"\x80\x02X\xff\xff\xff\xff.");
    let error = read("long.pth", &long).unwrap_err().to_string();
    assert!(error.contains("ends too early"), "{error}");
    // A tuple in a tuple, a hundred thousand times.
    let deep = [&b"\x80\x02)"[..], &[0x85; 100_000], b"."].concat();
    let error = read("deep.pth", &zip("archive/data.pkl", &deep)).unwrap_err();
    assert!(error.to_string().contains("dictionary"), "{error}");
    let error = read("no.pth", &zip("notes.txt", b"hello")).unwrap_err();
    assert!(error.to_string().contains("no data.pkl"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn damage_never_panics(position in 0usize..4000, byte: u8, cut in 0usize..4000, format: bool) {
        let mut bytes = if format { gguf() } else { pickle() };
        let at = position % bytes.len();
        bytes[at] = byte;
        let kept = if cut % 3 == 0 { bytes.len() - cut % bytes.len() } else { bytes.len() };
        bytes.truncate(kept);
        let _ = read("damaged", &bytes);
    }

    #[test]
    fn random_pickles_never_panic(program in proptest::collection::vec(any::<u8>(), 0..200)) {
        let instructions = b"(t)}]NKMJXqrhjQRb.su\x80\x85\x86\x87\x88\x8a\x93\x94\x95";
        let program: Vec<u8> = program
            .iter()
            .map(|b| if b % 2 == 0 { instructions[usize::from(*b) % instructions.len()] } else { *b })
            .collect();
        let _ = read("random.pth", &zip("archive/data.pkl", &program));
    }
}
