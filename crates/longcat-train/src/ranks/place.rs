//! Which rank this process is: what `torchrun`, `mpirun` and `srun` put into its environment.

use std::net::Ipv4Addr;
use std::str::FromStr;
use std::time::Duration;

use super::RankError;

/// The port that PyTorch takes where none is given.
const PORT: u16 = 29_500;
/// How long ranks wait for each other at the start.
const PATIENCE: Duration = Duration::from_secs(600);

/// Which of several processes this one is, and where they meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RankPlace {
    /// Its number, from 0.
    pub rank: usize,
    /// Its number among those of this host, from 0.
    pub local_rank: usize,
    /// How many there are on all hosts.
    pub size: usize,
    /// The host of rank 0.
    pub address: String,
    /// The port that rank 0 listens on: the one after `MASTER_PORT`, on which torchrun itself listens.
    pub port: u16,
    /// How long ranks wait for each other at the start.
    pub patience: Duration,
}

/// The names that a launcher has for the numbers.
struct Launcher {
    rank: &'static str,
    size: &'static str,
    local_rank: &'static str,
    /// Ranks on this host.
    local_size: &'static str,
}

/// In the order in which they count: a launcher may itself run under one of those after it.
const LAUNCHERS: [Launcher; 3] = [
    Launcher {
        rank: "RANK",
        size: "WORLD_SIZE",
        local_rank: "LOCAL_RANK",
        local_size: "LOCAL_WORLD_SIZE",
    },
    Launcher {
        rank: "OMPI_COMM_WORLD_RANK",
        size: "OMPI_COMM_WORLD_SIZE",
        local_rank: "OMPI_COMM_WORLD_LOCAL_RANK",
        local_size: "OMPI_COMM_WORLD_LOCAL_SIZE",
    },
    // The size of the step, which only srun sets: a batch script has the number of tasks too, and is
    // none of them.
    Launcher {
        rank: "SLURM_PROCID",
        size: "SLURM_STEP_NUM_TASKS",
        local_rank: "SLURM_LOCALID",
        local_size: "SLURM_STEP_TASKS_PER_NODE",
    },
];

impl RankPlace {
    /// The place that the environment of this process names, if it names one.
    ///
    /// # Errors
    /// [`RankError::Environment`] names the variable.
    pub fn from_env() -> Result<Option<Self>, RankError> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// As [`from_env`](Self::from_env), of variables that are looked up.
    ///
    /// # Errors
    /// [`RankError::Environment`] names the variable.
    pub fn from_variables(
        look_up: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, RankError> {
        let look_up = |name: &str| look_up(name).filter(|value| !value.is_empty());
        let known = |launcher: &&Launcher| {
            look_up(launcher.rank).is_some() && look_up(launcher.size).is_some()
        };
        let Some(launcher) = LAUNCHERS.iter().find(known) else {
            return match look_up("RANK") {
                Some(_) => Err(wrong(
                    "WORLD_SIZE",
                    "RANK is set and this is not: set it to the number of ranks, or unset RANK",
                )),
                None => Ok(None),
            };
        };
        let rank: usize = required(&look_up, launcher.rank)?;
        let size: usize = required(&look_up, launcher.size)?;
        if rank >= size {
            let reason = format!("rank {rank} is not below the number of ranks, {size}");
            return Err(wrong(launcher.rank, reason));
        }
        let local_rank = match look_up(launcher.local_rank) {
            Some(_) => required(&look_up, launcher.local_rank)?,
            None => rank,
        };
        let (address, port) = meeting(&look_up, launcher, size)?;
        Ok(Some(Self {
            rank,
            local_rank,
            size,
            address,
            port,
            patience: PATIENCE,
        }))
    }

    /// The number of a process, if `RANK` says it, and how many there are, if `WORLD_SIZE` does: torchrun sets
    /// both, others do by hand. For processes that need not meet.
    ///
    /// # Errors
    /// [`RankError::Environment`] names the variable that is no number.
    pub fn number(
        look_up: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<(usize, Option<usize>)>, RankError> {
        let look_up = |name: &str| look_up(name).filter(|value| !value.is_empty());
        let [Launcher { rank, size, .. }, ..] = &LAUNCHERS;
        if look_up(rank).is_none() {
            return Ok(None);
        }
        let size = look_up(size).map(|_| required(&look_up, size));
        Ok(Some((required(&look_up, rank)?, size.transpose()?)))
    }
}

/// The name of this host, as far as it says.
pub fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = name.or_else(|| std::env::var("HOSTNAME").ok());
    let name = name.or_else(|| std::env::var("COMPUTERNAME").ok())?;
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_string())
}

/// Where rank 0 listens.
fn meeting(
    look_up: &impl Fn(&str) -> Option<String>,
    launcher: &Launcher,
    size: usize,
) -> Result<(String, u16), RankError> {
    let slurm = launcher.rank == "SLURM_PROCID";
    let on_one_host = size == 1
        || look_up(launcher.local_size).is_some_and(|local| local.trim() == size.to_string());
    let first_host = || {
        let lists = ["SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"];
        let list = lists.into_iter().find_map(look_up).filter(|_| slurm)?;
        first_host(&list)
    };
    let address = look_up("MASTER_ADDR")
        .or_else(first_host)
        .or_else(|| on_one_host.then(|| Ipv4Addr::LOCALHOST.to_string()));
    let Some(address) = address else {
        let reason = "set it to the host of rank 0, which all ranks can reach";
        return Err(wrong("MASTER_ADDR", reason));
    };
    let before = match look_up("MASTER_PORT") {
        Some(_) => required(look_up, "MASTER_PORT")?,
        // Several jobs may share a host.
        None if slurm && look_up("SLURM_JOB_ID").is_some() => {
            let job: u64 = required(look_up, "SLURM_JOB_ID")?;
            15_000 + (job % 10_000) as u16
        }
        None => PORT,
    };
    let Some(port) = before.checked_add(1) else {
        let reason = "the port after it is used, and there is none after 65535";
        return Err(wrong("MASTER_PORT", reason));
    };
    Ok((address, port))
}

/// The first host of a list as Slurm writes it: `node[07-09,12],login` is `node07` and so on.
fn first_host(list: &str) -> Option<String> {
    let (name, rest) = match list.find(['[', ',']) {
        Some(end) => list.split_at(end),
        None => (list, ""),
    };
    let number = rest.strip_prefix('[').map(|numbers| {
        let end = numbers.find(['-', ',', ']']).unwrap_or(numbers.len());
        &numbers[..end]
    });
    let host = format!("{name}{}", number.unwrap_or_default());
    (!host.is_empty()).then_some(host)
}

fn required<T: FromStr>(
    look_up: &impl Fn(&str) -> Option<String>,
    name: &str,
) -> Result<T, RankError> {
    let text = look_up(name).unwrap_or_default();
    let number = text.trim().parse();
    number.map_err(|_| wrong(name, format!("{text:?} is no number that this can be")))
}

fn wrong(variable: &str, reason: impl Into<String>) -> RankError {
    RankError::Environment {
        variable: variable.into(),
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(variables: &str) -> Result<Option<RankPlace>, RankError> {
        let pairs: Vec<(&str, &str)> = variables
            .split_whitespace()
            .map(|pair| pair.split_once('=').unwrap())
            .collect();
        let found = |name: &str| pairs.iter().find(|(key, _)| *key == name);
        RankPlace::from_variables(|name| found(name).map(|(_, value)| value.to_string()))
    }

    #[test]
    fn launchers_name_rank_and_meeting() {
        // Environments as the launchers write them; rank, local rank, size, address, port.
        let table = [
            (
                "RANK=3 LOCAL_RANK=1 WORLD_SIZE=4 LOCAL_WORLD_SIZE=2 MASTER_ADDR=10.0.0.7 \
                 MASTER_PORT=29400",
                (3, 1, 4, "10.0.0.7", 29_401),
            ),
            // torchrun under srun.
            (
                "RANK=0 LOCAL_RANK=0 WORLD_SIZE=8 MASTER_ADDR=node1 SLURM_PROCID=1 \
                 SLURM_STEP_NUM_TASKS=2 SLURM_LOCALID=0",
                (0, 0, 8, "node1", 29_501),
            ),
            (
                "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_LOCAL_RANK=1 \
                 OMPI_COMM_WORLD_LOCAL_SIZE=2",
                (1, 1, 2, "127.0.0.1", 29_501),
            ),
            (
                "SLURM_PROCID=5 SLURM_STEP_NUM_TASKS=8 SLURM_LOCALID=1 SLURM_JOB_ID=1234567 \
                 SLURM_STEP_NODELIST=gpu[07-08,11]",
                (5, 1, 8, "gpu07", 19_568),
            ),
            (
                "SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=2 SLURM_LOCALID=0 MASTER_ADDR=a MASTER_PORT=7 \
                 SLURM_STEP_NODELIST=b,c",
                (0, 0, 2, "a", 8),
            ),
            ("RANK=0 WORLD_SIZE=1", (0, 0, 1, "127.0.0.1", 29_501)),
        ];
        for (variables, (rank, local_rank, size, address, port)) in table {
            let expected = RankPlace {
                rank,
                local_rank,
                size,
                address: address.into(),
                port,
                patience: PATIENCE,
            };
            assert_eq!(read(variables), Ok(Some(expected)), "{variables}");
        }
        // No launcher; a batch script outside of any step.
        for variables in ["", "WORLD_SIZE=4", "SLURM_PROCID=0 SLURM_NTASKS=4"] {
            assert_eq!(read(variables), Ok(None), "{variables}");
        }
    }

    #[test]
    fn nonsense_is_named_by_its_variable() {
        for (variables, variable) in [
            ("RANK=0", "WORLD_SIZE"),
            ("RANK=x WORLD_SIZE=2", "RANK"),
            ("RANK=2 WORLD_SIZE=2", "RANK"),
            ("RANK=0 WORLD_SIZE=2", "MASTER_ADDR"),
            (
                "RANK=0 WORLD_SIZE=2 MASTER_ADDR=a MASTER_PORT=65535",
                "MASTER_PORT",
            ),
            (
                "RANK=0 WORLD_SIZE=2 LOCAL_RANK=-1 MASTER_ADDR=a",
                "LOCAL_RANK",
            ),
        ] {
            let error = read(variables).unwrap_err();
            let text = error.to_string();
            assert!(
                text.starts_with(&format!("{variable}: ")),
                "{variables}: {text}"
            );
        }
    }

    #[test]
    fn the_first_host_of_a_list_is_found() {
        for (list, host) in [
            ("node1", "node1"),
            ("node1,node2", "node1"),
            ("gpu[003-010]", "gpu003"),
            ("gpu[3,5-7],login", "gpu3"),
        ] {
            assert_eq!(first_host(list).as_deref(), Some(host));
        }
        assert_eq!(first_host(""), None);
    }
}
