//! What goes over a connection between ranks: a kind, a length, and as many bytes.

use std::io::{Error, ErrorKind, Read, Result, Write};

/// What a connection begins with, so that strangers are told from ranks.
const MAGIC: &[u8; 16] = b"longcat ranks 1\n";
/// Bytes that are made room for before they have come.
const TRUSTED: u64 = 1 << 20;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A message.
    Message,
    /// Nothing but a sign of life.
    Alive,
    /// A [`RankError`](super::RankError) as JSON.
    Failure,
    /// The last one of a rank that ends as it should.
    Bye,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Message, Self::Alive, Self::Failure, Self::Bye];
}

/// Who connects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hello {
    pub rank: u64,
    pub size: u64,
    /// Host and process.
    pub place: String,
}

impl Hello {
    pub(super) fn write(&self, mut to: impl Write) -> Result<()> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.rank.to_le_bytes());
        bytes.extend(self.size.to_le_bytes());
        to.write_all(&bytes)?;
        write(to, Kind::Message, self.place.as_bytes())
    }

    pub(super) fn read(mut from: impl Read) -> Result<Self> {
        let mut magic = [0; MAGIC.len()];
        from.read_exact(&mut magic)?;
        if magic != *MAGIC {
            return Err(Error::new(ErrorKind::InvalidData, "this is no rank"));
        }
        let [rank, size] = [number(&mut from)?, number(&mut from)?];
        let (_, place) = read(from)?;
        Ok(Self {
            rank,
            size,
            place: String::from_utf8_lossy(&place).into_owned(),
        })
    }
}

pub(super) fn write(mut to: impl Write, kind: Kind, bytes: &[u8]) -> Result<()> {
    let mut head = [0; 9];
    head[0] = kind as u8;
    head[1..].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
    to.write_all(&head)?;
    to.write_all(bytes)
}

pub(super) fn read(mut from: impl Read) -> Result<(Kind, Vec<u8>)> {
    let mut kind = [0];
    from.read_exact(&mut kind)?;
    let Some(kind) = Kind::ALL.get(usize::from(kind[0])) else {
        return Err(Error::new(ErrorKind::InvalidData, "no rank sends this"));
    };
    let length = number(&mut from)?;
    let mut bytes = Vec::with_capacity(length.min(TRUSTED) as usize);
    if from.take(length).read_to_end(&mut bytes)? as u64 != length {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok((*kind, bytes))
}

fn number(mut from: impl Read) -> Result<u64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in_and_strangers_do_not() {
        let hello = Hello {
            rank: 3,
            size: 4,
            place: "host, process 7".into(),
        };
        let mut bytes = Vec::new();
        hello.write(&mut bytes).unwrap();
        write(&mut bytes, Kind::Alive, b"").unwrap();
        write(&mut bytes, Kind::Message, b"abc").unwrap();
        let mut rest = &bytes[..];
        assert_eq!(Hello::read(&mut rest).unwrap(), hello);
        assert_eq!(read(&mut rest).unwrap(), (Kind::Alive, Vec::new()));
        assert_eq!(read(&mut rest).unwrap(), (Kind::Message, b"abc".to_vec()));
        assert!(rest.is_empty());
        assert!(Hello::read(&b"GET / HTTP/1.1\r\nHost: a\r\n"[..]).is_err());
        // A length that nothing follows.
        let mut cut = vec![0];
        cut.extend(u64::MAX.to_le_bytes());
        assert!(read(&cut[..]).is_err());
    }
}
