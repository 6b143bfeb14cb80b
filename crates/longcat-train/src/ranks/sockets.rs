//! Ranks that are processes: a connection from each to rank 0.
//!
//! A thread for each connection reads what comes, so that the end of a process is known at once. Signs
//! of life go both ways all the time: where none come the other host is gone.

use std::io::{self, ErrorKind};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use super::frames::{self, Kind};
use super::inbox::Inbox;
use super::meeting::{connect, listen};
use super::{Post, RankError, RankPlace};

/// Time between signs of life.
const BEAT: Duration = Duration::from_secs(5);
/// Time without any after which a rank is taken to be gone.
pub(super) const SILENCE: Duration = Duration::from_secs(30);
/// How long a rank that is through waits for the others to be.
const FAREWELL: Duration = Duration::from_secs(3);

/// A connection to another rank.
#[derive(Debug)]
pub(super) struct Peer {
    pub rank: usize,
    /// Host and process.
    pub place: String,
    /// One writes at a time.
    pub stream: Mutex<TcpStream>,
}

/// The connections of a rank: of the first to all, of the others to the first.
#[derive(Debug)]
struct Sockets {
    rank: usize,
    peers: Vec<Peer>,
    inbox: Arc<Inbox>,
}

/// Connects this rank; see [`Ranks::meet`](super::Ranks::meet).
pub(super) fn meet(
    place: &RankPlace,
    interrupt: &Arc<AtomicBool>,
) -> Result<(Box<dyn Post>, Arc<Inbox>), RankError> {
    let apart = |reason: String| match interrupt.load(Ordering::Relaxed) {
        true => RankError::Interrupted { rank: place.rank },
        false => RankError::Meeting {
            address: format!("{}:{}", place.address, place.port),
            reason,
        },
    };
    let met = match place.rank {
        0 => listen(place, interrupt),
        _ => connect(place, interrupt),
    };
    let peers = met.map_err(apart)?;
    let inbox = Arc::new(Inbox::new(place.size, interrupt.clone()));
    let sockets = Arc::new(Sockets {
        rank: place.rank,
        peers,
        inbox: inbox.clone(),
    });
    for index in 0..sockets.peers.len() {
        let reading = lock(&sockets.peers[index].stream).try_clone();
        let reading = reading.map_err(|e| apart(e.to_string()))?;
        let sockets = sockets.clone();
        thread::spawn(move || sockets.read(index, &reading));
    }
    let alive = Arc::downgrade(&sockets);
    thread::spawn(move || beat(&alive));
    Ok((Box::new(Connected(sockets)), inbox))
}

pub(super) fn lock(stream: &Mutex<TcpStream>) -> MutexGuard<'_, TcpStream> {
    stream.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends signs of life until the connections are gone.
fn beat(sockets: &Weak<Sockets>) {
    loop {
        thread::sleep(BEAT);
        let Some(sockets) = sockets.upgrade() else {
            return;
        };
        for peer in &sockets.peers {
            // Whoever writes a message shows life thereby.
            if let Ok(stream) = peer.stream.try_lock() {
                // That it failed is what the reader notices.
                let _ = frames::write(&*stream, Kind::Alive, &[]);
            }
        }
    }
}

impl Sockets {
    /// Takes what comes from a rank until it ends.
    fn read(&self, index: usize, stream: &TcpStream) {
        let peer = &self.peers[index];
        loop {
            let failure = match frames::read(stream) {
                Ok((Kind::Message, message)) => {
                    self.inbox.put(peer.rank, message);
                    continue;
                }
                Ok((Kind::Alive, _)) => continue,
                Ok((Kind::Bye, _)) => return self.inbox.leave(peer.rank),
                Ok((Kind::Failure, failure)) => serde_json::from_slice(&failure)
                    .unwrap_or_else(|_| lost(peer, "it sent an error that cannot be read")),
                Err(e) => lost(peer, &words_of(&e)),
            };
            self.spread(&failure);
            return;
        }
    }

    /// A failure ends this rank, and the first passes it on.
    fn spread(&self, failure: &RankError) {
        if self.inbox.fail(failure.clone()) && self.rank == 0 {
            self.tell(failure);
        }
    }

    fn tell(&self, failure: &RankError) {
        let Ok(text) = serde_json::to_vec(failure) else {
            return;
        };
        for peer in &self.peers {
            // Whoever is gone needs not be told.
            let _ = frames::write(&*lock(&peer.stream), Kind::Failure, &text);
        }
    }
}

fn lost(peer: &Peer, reason: &str) -> RankError {
    RankError::Lost {
        rank: peer.rank,
        place: peer.place.clone(),
        reason: reason.into(),
    }
}

fn words_of(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
            "its process ended".into()
        }
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            format!("no sign of life for {} seconds", SILENCE.as_secs())
        }
        _ => error.to_string(),
    }
}

/// What a rank holds; the threads that read hold the rest.
#[derive(Debug)]
struct Connected(Arc<Sockets>);

impl Post for Connected {
    fn send(&self, to: usize, message: &[u8]) -> Result<(), RankError> {
        let Some(peer) = self.0.peers.iter().find(|peer| peer.rank == to) else {
            unreachable!("ranks send to the first, and the first to all others");
        };
        let sent = frames::write(&*lock(&peer.stream), Kind::Message, message);
        sent.map_err(|e| {
            let failure = lost(peer, &words_of(&e));
            self.0.spread(&failure);
            // What came before explains more.
            self.0.inbox.failure().unwrap_or(failure)
        })
    }

    fn fail(&self, failure: &RankError) {
        self.0.tell(failure);
    }

    fn leave(&self) {
        for peer in &self.0.peers {
            let stream = lock(&peer.stream);
            let _ = frames::write(&*stream, Kind::Bye, &[]);
            // What was sent still arrives.
            let _ = stream.shutdown(Shutdown::Write);
        }
        // A connection that is closed before it was read to its end takes what was sent with it.
        let others: Vec<usize> = self.0.peers.iter().map(|peer| peer.rank).collect();
        self.0.inbox.await_end(&others, FAREWELL);
    }
}
