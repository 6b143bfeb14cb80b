//! How ranks find each other: the first listens at `MASTER_ADDR`, the others connect and say who they are.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::RankPlace;
use super::frames::{self, Hello, Kind};
use super::place::host_name;
use super::sockets::{Peer, SILENCE, lock};

/// Time between two tries to connect.
const RETRY: Duration = Duration::from_millis(100);
/// How long rank 0 waits for others that it will not take.
const LATE: Duration = Duration::from_secs(3);
/// What whoever connects has to say who it is.
const INTRODUCTION: Duration = Duration::from_secs(10);

/// Rank 0: waits for the others.
pub(super) fn listen(place: &RankPlace, interrupt: &AtomicBool) -> Result<Vec<Peer>, String> {
    let local = resolve(place)?;
    let any = match local.ip() {
        // Nobody from elsewhere is expected.
        ip if ip.is_loopback() && is_loopback_name(&place.address) => ip,
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let listener = TcpListener::bind((any, place.port)).map_err(|e| {
        format!(
            "rank 0 cannot listen on port {} ({e}); choose another MASTER_PORT",
            place.port
        )
    })?;
    let listening = listener.set_nonblocking(true);
    listening.map_err(|e| e.to_string())?;
    let mut peers: Vec<Option<Peer>> = (1..place.size).map(|_| None).collect();
    let deadline = Instant::now() + place.patience;
    while peers.iter().any(Option::is_none) {
        let waiting = || {
            let missing = peers.iter().enumerate().filter(|(_, peer)| peer.is_none());
            let missing: Vec<String> = missing.map(|(i, _)| (i + 1).to_string()).collect();
            missing.join(", ")
        };
        going_on(interrupt, deadline, || {
            format!("ranks {} of {} have not come", waiting(), place.size)
        })?;
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(_) => {
                thread::sleep(RETRY);
                continue;
            }
        };
        // Port scanners and the like are let go.
        let Ok((hello, stream)) = introduced(stream) else {
            continue;
        };
        let refusal = match (hello.rank as usize, hello.size as usize) {
            (rank, size) if size != place.size => Some(format!(
                "rank {rank} was started as one of {size}, and rank 0 as one of {}",
                place.size
            )),
            (rank, _) if rank == 0 || rank >= place.size || peers[rank - 1].is_some() => {
                Some(format!("two processes are rank {rank}"))
            }
            _ => None,
        };
        if let Some(reason) = refusal {
            refuse(&stream, &reason);
            for peer in peers.iter().flatten() {
                refuse(&lock(&peer.stream), &reason);
            }
            let arrived = peers.iter().flatten().count() + 1;
            refuse_rest(&listener, peers.len().saturating_sub(arrived), &reason);
            return Err(reason);
        }
        let rank = hello.rank as usize;
        peers[rank - 1] = Some(Peer {
            rank,
            place: hello.place,
            stream: Mutex::new(stream),
        });
    }
    let peers: Vec<Peer> = peers.into_iter().flatten().collect();
    let own = own_place();
    for peer in &peers {
        let stream = lock(&peer.stream);
        let welcome = frames::write(&*stream, Kind::Message, own.as_bytes());
        welcome.map_err(|e| format!("rank {} ({}) is gone: {e}", peer.rank, peer.place))?;
    }
    Ok(peers)
}

/// Tells a process that is not welcome why.
fn refuse(stream: &TcpStream, reason: &str) {
    let _ = frames::write(stream, Kind::Failure, reason.as_bytes());
}

/// Tells those that have not come yet, as far as they come soon: they would wait for long.
fn refuse_rest(listener: &TcpListener, mut missing: usize, reason: &str) {
    let deadline = Instant::now() + LATE;
    while missing > 0 && Instant::now() < deadline {
        match listener.accept() {
            Ok((stream, _)) => {
                if let Ok((_, stream)) = introduced(stream) {
                    refuse(&stream, reason);
                    missing -= 1;
                }
            }
            Err(_) => thread::sleep(RETRY),
        }
    }
}

fn introduced(stream: TcpStream) -> io::Result<(Hello, TcpStream)> {
    stream.set_nonblocking(false)?;
    prepare(&stream, INTRODUCTION)?;
    let hello = Hello::read(&stream)?;
    prepare(&stream, SILENCE)?;
    Ok((hello, stream))
}

/// Another rank: tries until rank 0 listens, then waits until it has all.
pub(super) fn connect(place: &RankPlace, interrupt: &AtomicBool) -> Result<Vec<Peer>, String> {
    let deadline = Instant::now() + place.patience;
    let mut problem = String::new();
    let stream = loop {
        going_on(interrupt, deadline, || {
            format!("rank 0 does not answer there ({problem})")
        })?;
        // Names of hosts that are just starting may not be known yet.
        let connected = resolve(place).and_then(|address| {
            let stream = TcpStream::connect_timeout(&address, INTRODUCTION);
            stream.map_err(|e| e.to_string())
        });
        match connected {
            Ok(stream) => break stream,
            Err(reason) => problem = reason,
        }
        thread::sleep(RETRY);
    };
    let hello = Hello {
        rank: place.rank as u64,
        size: place.size as u64,
        place: own_place(),
    };
    let said = prepare(&stream, RETRY).and_then(|()| hello.write(&stream));
    said.map_err(|e| format!("rank 0 does not listen to it: {e}"))?;
    // A peek does not tear a frame apart when its time is over.
    while let Err(e) = stream.peek(&mut [0]) {
        if !matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) {
            return Err(format!("rank 0 is gone: {e}"));
        }
        going_on(interrupt, deadline, || {
            "rank 0 waits for others that have not come".to_string()
        })?;
    }
    let welcome = prepare(&stream, SILENCE).and_then(|()| frames::read(&stream));
    match welcome.map_err(|e| format!("rank 0 is gone: {e}"))? {
        (Kind::Message, place) => Ok(vec![Peer {
            rank: 0,
            place: String::from_utf8_lossy(&place).into_owned(),
            stream: Mutex::new(stream),
        }]),
        (_, reason) => Err(String::from_utf8_lossy(&reason).into_owned()),
    }
}

/// An error when it is time to give up.
fn going_on(
    interrupt: &AtomicBool,
    deadline: Instant,
    waiting: impl FnOnce() -> String,
) -> Result<(), String> {
    if interrupt.load(Ordering::Relaxed) {
        return Err("interrupted".into());
    }
    match Instant::now() < deadline {
        true => Ok(()),
        false => Err(waiting()),
    }
}

fn prepare(stream: &TcpStream, patience: Duration) -> io::Result<()> {
    // Messages are small, and waited for.
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(SILENCE))
}

fn resolve(place: &RankPlace) -> Result<SocketAddr, String> {
    let addresses = (place.address.as_str(), place.port).to_socket_addrs();
    let addresses = addresses.map_err(|e| format!("MASTER_ADDR {:?}: {e}", place.address))?;
    let mut addresses: Vec<SocketAddr> = addresses.collect();
    // All ranks choose alike.
    addresses.sort_by_key(|address| address.is_ipv6());
    let first = addresses.first().copied();
    first.ok_or_else(|| format!("MASTER_ADDR {:?} has no address", place.address))
}

/// Whether a name means this host by itself: the name of a host may do so on that host only.
fn is_loopback_name(name: &str) -> bool {
    let address = name.parse::<IpAddr>();
    name == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Host and process, for messages.
fn own_place() -> String {
    let host = host_name().unwrap_or_else(|| "unknown host".into());
    format!("{host}, process {}", std::process::id())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::super::{RankError, Ranks};
    use super::*;

    fn place(rank: usize, size: usize, port: u16) -> RankPlace {
        RankPlace {
            rank,
            local_rank: rank,
            size,
            address: "127.0.0.1".into(),
            port,
            patience: Duration::from_secs(20),
        }
    }

    fn free_port() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    }

    /// What each of some ranks gives, which have these sizes.
    fn ranks<T: Send>(sizes: &[usize], work: impl Fn(&RankPlace) -> T + Sync) -> Vec<T> {
        let (port, work) = (free_port(), &work);
        thread::scope(|scope| {
            let ranks = sizes.iter().enumerate();
            let ranks: Vec<_> = ranks
                .map(|(rank, size)| {
                    let place = place(rank, *size, port);
                    scope.spawn(move || work(&place))
                })
                .collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }

    #[test]
    fn sums_and_messages_reach_all() {
        let found = ranks(&[3; 3], |place| {
            let ranks = Ranks::meet(place, &Arc::default()).unwrap();
            let rank = ranks.rank();
            let names = ranks.gather(vec![rank as u8; rank]).unwrap();
            // Longer than what a connection holds.
            let values = vec![(rank + 1) as f32; 300_000];
            let sums = ranks.sum(values).unwrap();
            ranks.barrier().unwrap();
            (names, sums)
        });
        for (names, sums) in found {
            assert_eq!(names, [vec![], vec![1], vec![2, 2]]);
            assert!(sums.len() == 300_000 && sums.iter().all(|sum| *sum == 6.0));
        }
    }

    #[test]
    fn a_rank_that_ends_without_a_word_is_named_on_the_others() {
        let found = ranks(&[3; 3], |place| {
            let flag = Arc::new(AtomicBool::new(false));
            if place.rank == 1 {
                // Its connection ends, as that of a process that is killed.
                drop(connect(place, &flag).unwrap());
                return None;
            }
            let ranks = Ranks::meet(place, &flag).unwrap();
            let error = ranks.barrier().unwrap_err();
            assert_eq!(ranks.failure().as_ref(), Some(&error));
            assert!(flag.load(Ordering::Relaxed), "long work goes on");
            Some(error)
        });
        for error in found.iter().flatten() {
            assert!(matches!(error, RankError::Lost { rank: 1, .. }), "{error}");
            let place = format!("process {}", std::process::id());
            assert!(error.to_string().contains(&place), "{error}");
        }
        assert_eq!(found.iter().flatten().count(), 2);
    }

    #[test]
    fn ranks_of_other_sizes_are_refused() {
        let found = ranks(&[3, 3, 2], |place| {
            let met = Ranks::meet(place, &Arc::default());
            met.unwrap_err().to_string()
        });
        for error in found {
            assert!(error.contains("rank 2 was started as one of 2"), "{error}");
        }
    }

    #[test]
    fn who_does_not_come_is_named() {
        let place = RankPlace {
            patience: Duration::from_millis(50),
            ..place(0, 3, free_port())
        };
        let met = Ranks::meet(&place, &Arc::default());
        let error = met.unwrap_err().to_string();
        assert!(error.contains("ranks 1, 2 of 3"), "{error}");
    }
}
