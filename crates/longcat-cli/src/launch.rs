//! Ranks on this host: a process for each device.

use std::io::{BufRead, Write, stdin};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, ExitStatus, Stdio, exit};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use longcat_runtime::DeviceSpec;

/// Set in the processes that [`start`] starts.
const STARTED: &str = "LONGCAT_STARTED_RANK";
/// How long the others may take to end by themselves when one has failed.
const GRACE: Duration = Duration::from_secs(25);
/// Time between two looks at the processes.
const LOOK: Duration = Duration::from_millis(50);

/// A process for one of the devices.
struct Rank {
    device: DeviceSpec,
    child: Child,
    ended: Option<ExitStatus>,
}

/// Starts this program once more for each device, with the same arguments, as one rank each, and waits
/// for all. When one fails the others end, and when `stop` is set all save and end.
///
/// # Errors
/// Names the rank that failed.
pub(crate) fn start(devices: &[DeviceSpec], stop: &AtomicBool) -> Result<()> {
    fit(devices)?;
    let port = free_port().context("finding a free port for the ranks")?;
    let mut ranks = Vec::with_capacity(devices.len());
    for (number, device) in devices.iter().enumerate() {
        match spawn(number, devices.len(), port) {
            Ok(child) => ranks.push(Rank {
                device: *device,
                child,
                ended: None,
            }),
            Err(error) => {
                end(&mut ranks);
                return Err(error).with_context(|| format!("starting rank {number} on {device}"));
            }
        }
    }
    let result = watch(&mut ranks, stop);
    let failed = failed(&ranks);
    end(&mut ranks);
    result?;
    match failed {
        None => Ok(()),
        // It has said why.
        Some((number, device, status)) if status.code().is_some() => {
            bail!("rank {number} on {device} ended with {status}, and all others with it")
        }
        Some((number, device, status)) => bail!(
            "rank {number} on {device} ended with {status}, and all others with it; the same command \
             goes on from the newest checkpoint"
        ),
    }
}

/// Devices that one run can have.
fn fit(devices: &[DeviceSpec]) -> Result<()> {
    for (number, device) in devices.iter().enumerate() {
        if matches!(device, DeviceSpec::Cuda(_)) && devices[..number].contains(device) {
            bail!("--devices: {device} is named twice");
        }
        let alike = std::mem::discriminant(device) == std::mem::discriminant(&devices[0]);
        if !alike {
            bail!(
                "--devices: {} and {device} do not train together: all ranks need devices of one kind",
                devices[0]
            );
        }
    }
    Ok(())
}

/// A port that nobody listens on.
fn free_port() -> std::io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

fn spawn(rank: usize, size: usize, port: u16) -> Result<Child> {
    let program = std::env::current_exe().context("finding this program")?;
    let mut command = Command::new(program);
    command
        .args(std::env::args_os().skip(1))
        .envs([
            ("RANK", rank.to_string()),
            ("LOCAL_RANK", rank.to_string()),
            ("WORLD_SIZE", size.to_string()),
            ("LOCAL_WORLD_SIZE", size.to_string()),
            ("MASTER_ADDR", Ipv4Addr::LOCALHOST.to_string()),
            // Rank 0 listens on the port after it.
            ("MASTER_PORT", (port - 1).to_string()),
            (STARTED, "1".to_string()),
        ])
        .stdin(Stdio::piped());
    // Ctrl-C reaches this process only, which passes it on: twice at once would end them without saving.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    Ok(command.spawn()?)
}

/// Waits until all have ended, or should have.
fn watch(ranks: &mut [Rank], stop: &AtomicBool) -> Result<()> {
    let (mut told, mut deadline) = (false, None);
    loop {
        for (number, rank) in ranks.iter_mut().enumerate() {
            if rank.ended.is_none() {
                let ended = rank.child.try_wait();
                rank.ended = ended.with_context(|| format!("waiting for rank {number}"))?;
            }
            if rank.ended.is_some_and(|status| !status.success()) {
                deadline.get_or_insert_with(|| Instant::now() + GRACE);
            }
        }
        if ranks.iter().all(|rank| rank.ended.is_some()) {
            return Ok(());
        }
        if deadline.is_some_and(|deadline| Instant::now() > deadline) {
            return Ok(());
        }
        if !told && stop.load(Ordering::SeqCst) {
            told = true;
            for rank in ranks.iter_mut() {
                if let Some(stdin) = &mut rank.child.stdin {
                    // One that has just ended need not be told.
                    let _ = writeln!(stdin, "stop");
                }
            }
        }
        thread::sleep(LOOK);
    }
}

/// The rank that failed, of several the one that was killed: that explains the others.
fn failed(ranks: &[Rank]) -> Option<(usize, DeviceSpec, ExitStatus)> {
    let failed = ranks.iter().enumerate().filter_map(|(number, rank)| {
        let status = rank.ended.filter(|status| !status.success())?;
        Some((number, rank.device, status))
    });
    failed.min_by_key(|(_, _, status)| status.code().is_some())
}

/// Ends those that have not ended.
fn end(ranks: &mut [Rank]) {
    for rank in ranks.iter_mut().filter(|rank| rank.ended.is_none()) {
        let _ = rank.child.kill();
        rank.ended = rank.child.wait().ok();
    }
}

/// In a process that [`start`] started: lets a word of that process do what Ctrl-C does, and its end too.
pub(crate) fn follow(stop: &Arc<AtomicBool>) {
    if std::env::var_os(STARTED).is_none() {
        return;
    }
    let stop = stop.clone();
    thread::spawn(move || {
        let mut lines = stdin().lock().lines();
        loop {
            let ended = !matches!(lines.next(), Some(Ok(_)));
            if stop.swap(true, Ordering::SeqCst) {
                exit(130);
            }
            if ended {
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_of_one_run_are_of_one_kind_and_different() {
        use DeviceSpec::{Cpu, Cuda, Wgpu};
        let refusal = |devices: &[DeviceSpec]| fit(devices).err().map(|e| e.to_string());
        assert_eq!(refusal(&[Cpu, Cpu]), None);
        assert_eq!(refusal(&[Cuda(1), Cuda(0)]), None);
        let twice = refusal(&[Cuda(1), Cuda(1)]);
        assert!(twice.is_some_and(|text| text.contains("cuda:1 is named twice")));
        let mixed = refusal(&[Cuda(0), Wgpu(None)]);
        assert!(mixed.is_some_and(|text| text.contains("cuda:0 and wgpu")));
    }
}
