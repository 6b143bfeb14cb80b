//! The CUDA streams of cubecl, which it keeps to itself.
//!
//! An event of the context covers every stream of it, so that work ordered by such events would wait
//! for copies that are made ahead for later work, and the copies for the work: one after the other
//! (measured: 284 ms instead of 180). Events of cubecl's own streams leave the copies out. cubecl 0.10
//! tells their handles nowhere but in the debug output of its server, where they are the fields named
//! below; without them the context's events serve, slower and as safe.
//!
//! The output is long (it lists compiled kernels), so it is only looked at once something is copied
//! ahead on the device, and again for a stream that was not seen before.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::sync::Mutex;

use cubecl::stream_id::StreamId;
use cudarc::driver::sys;

use super::stream::{Server, lock};

/// The fields: of a compute stream, and of the stream of transfers between devices.
const FIELDS: [&str; 2] = ["sys", "comm_stream"];

/// By device, the streams of those whose copies run beside the work.
static THEIRS: Mutex<BTreeMap<usize, Theirs>> = Mutex::new(BTreeMap::new());

#[derive(Default)]
struct Theirs {
    /// Who has used the device since then.
    users: BTreeSet<u64>,
    /// Addresses of the streams.
    streams: Vec<usize>,
}

/// From now on copies run beside the work of device `index`.
pub(super) fn watch(index: usize) {
    lock(&THEIRS).entry(index).or_default();
}

/// Looks for the streams of those who use the device now, if it is watched. Called on its thread, when
/// these streams exist.
pub(super) fn note(server: &Server, index: usize, users: impl Iterator<Item = StreamId>) {
    let mut all = lock(&THEIRS);
    let Some(theirs) = all.get_mut(&index) else {
        return;
    };
    let mut new = false;
    for user in users {
        new |= theirs.users.insert(user.value);
    }
    if new {
        let mut fields = Fields::default();
        // The sink takes all.
        let _ = write!(fields, "{server:?}");
        theirs.streams = fields.found;
    }
}

/// cubecl's streams on device `index`; none if they are not known, or need not be.
pub(super) fn known(index: usize) -> Vec<sys::CUstream> {
    let all = lock(&THEIRS);
    let streams = all.get(&index).map_or(&[][..], |theirs| &theirs.streams);
    let streams = streams.iter();
    streams.map(|address| *address as sys::CUstream).collect()
}

/// Takes debug output and keeps the pointers in [`FIELDS`].
#[derive(Default)]
struct Fields {
    found: Vec<usize>,
    /// What was read of a field's value.
    value: Option<String>,
}

impl Write for Fields {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let Some(value) = &mut self.value else {
            // Derived output writes the name of a field in one piece.
            self.value = FIELDS.contains(&part).then(String::new);
            return Ok(());
        };
        let part = match value.is_empty() {
            true => part.trim_start_matches([':', ' ']),
            false => part,
        };
        let end = part.find(|c: char| !c.is_ascii_hexdigit() && c != 'x');
        value.push_str(&part[..end.unwrap_or(part.len())]);
        if end.is_some() {
            let address = value.strip_prefix("0x");
            let address = address.and_then(|digits| usize::from_str_radix(digits, 16).ok());
            self.found.extend(address.filter(|address| *address != 0));
            self.value = None;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use super::*;

    #[derive(Debug)]
    #[allow(dead_code)] // Read by its debug output.
    struct Stream {
        sys: *mut u8,
        errors: Vec<String>,
    }

    #[derive(Debug)]
    #[allow(dead_code)] // Read by its debug output.
    struct Server {
        kernels: Vec<u8>,
        streams: Vec<Option<Stream>>,
        comm_stream: *mut u8,
        names: Vec<&'static str>,
    }

    #[test]
    fn streams_are_found_in_debug_output() {
        let at = ptr::without_provenance_mut;
        let stream = |address| Stream {
            sys: at(address),
            errors: vec!["sys: 0x7".into()],
        };
        let server = Server {
            kernels: vec![1, 2],
            streams: vec![None, Some(stream(0x7f00_1234_abc0)), Some(stream(0x10))],
            comm_stream: at(0xfade),
            names: vec!["sys", "comm_stream"],
        };
        let mut fields = Fields::default();
        write!(fields, "{server:?}").expect("the sink takes all");
        assert_eq!(fields.found, [0x7f00_1234_abc0, 0x10, 0xfade]);
    }
}
