//! Several processes that train one model: each computes its share of the batches of a step, their
//! gradients are averaged, and all make the same step.
//!
//! Ranks talk over one connection each to rank 0, which carries small messages: whether all were
//! started alike, what the loss was, who was interrupted. Gradients go from device to device where
//! devices can (NCCL), else over the same connections.

mod error;
mod frames;
mod inbox;
mod meeting;
mod place;
mod sockets;
mod threads;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use burn::tensor::{DType, Tensor, TensorData};
use longcat_kernels::{KernelBackend, RankGroup, sum_over_ranks};

use crate::TrainError;
use crate::parameters::read_values;

pub use error::RankError;
pub use place::{RankPlace, host_name};

use inbox::Inbox;
use threads::Threads;

/// How a rank reaches the others. What they send it comes into its [`Inbox`].
trait Post: fmt::Debug + Send + Sync {
    /// Sends a message; ranks but the first reach the first only.
    fn send(&self, to: usize, message: &[u8]) -> Result<(), RankError>;
    /// Tells all others of a failure.
    fn fail(&self, failure: &RankError);
    /// Tells all others that this rank ends as it should.
    fn leave(&self);
}

/// This process among those that train together; dropped when it is through.
#[derive(Debug)]
pub struct Ranks {
    rank: usize,
    size: usize,
    /// Without others there is nothing to connect.
    others: Option<(Box<dyn Post>, Arc<Inbox>)>,
    /// Whether they were started as ranks, be it a single one.
    started: bool,
    group: Option<RankGroup>,
}

impl Ranks {
    /// A process that trains by itself.
    pub fn alone() -> Self {
        Self {
            rank: 0,
            size: 1,
            others: None,
            started: false,
            group: None,
        }
    }

    /// Ranks that are threads of this process, each to be moved to one. Burn 0.21 builds one graph at a
    /// time in a process, so they take turns: this is for tests. Each has the flag that is set when
    /// another one fails.
    pub fn in_threads(interrupts: &[Arc<AtomicBool>]) -> Vec<Self> {
        let size = interrupts.len();
        let inboxes = interrupts.iter();
        let inboxes: Arc<[Arc<Inbox>]> = inboxes
            .map(|interrupt| Arc::new(Inbox::new(size, interrupt.clone())))
            .collect();
        let rank = |rank: usize| {
            let post = Threads {
                rank,
                inboxes: inboxes.clone(),
            };
            Self::connected(rank, size, Box::new(post), inboxes[rank].clone())
        };
        (0..size).map(rank).collect()
    }

    /// Waits until all ranks are there. Rank 0 listens, the others connect to it.
    ///
    /// `interrupt` ends the wait; later it is set when another rank fails, so that long work ends.
    ///
    /// # Errors
    /// [`RankError::Meeting`] names the address and who has not come.
    pub fn meet(place: &RankPlace, interrupt: &Arc<AtomicBool>) -> Result<Self, RankError> {
        if place.size == 1 {
            let mut alone = Self::alone();
            alone.started = true;
            return Ok(alone);
        }
        let (post, inbox) = sockets::meet(place, interrupt)?;
        Ok(Self::connected(place.rank, place.size, post, inbox))
    }

    fn connected(rank: usize, size: usize, post: Box<dyn Post>, inbox: Arc<Inbox>) -> Self {
        Self {
            rank,
            size,
            others: Some((post, inbox)),
            started: true,
            group: None,
        }
    }

    /// The number of this one, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether this is the rank that writes.
    pub fn is_first(&self) -> bool {
        self.rank == 0
    }

    /// The first failure of another rank, or of the way to it.
    pub fn failure(&self) -> Option<RankError> {
        self.others.as_ref()?.1.failure()
    }

    /// The first failure of another rank, as an error. Sums that devices were waiting for then are of no
    /// use.
    pub(crate) fn check(&self) -> Result<(), RankError> {
        self.failure().map_or(Ok(()), Err)
    }

    /// Runs `hook` when another rank fails, on a thread that must not be held up.
    pub fn when_failed(&self, hook: impl FnOnce(&RankError) + Send + 'static) {
        if let Some((_, inbox)) = &self.others {
            inbox.when_failed(Box::new(hook));
        }
    }

    /// Ends all ranks for a reason that this one has.
    pub fn end(self, reason: &str) {
        if let (Some((post, _)), None) = (&self.others, self.failure()) {
            post.fail(&RankError::Failed {
                rank: self.rank,
                reason: reason.into(),
            });
        }
        self.leave_group();
    }

    /// Ends what devices still wait for from each other.
    fn leave_group(&self) {
        if let Some(group) = &self.group {
            group.leave();
        }
    }

    /// Ends the others, which then have the same error.
    pub(crate) fn fail(&self, error: &TrainError) {
        let Some((post, inbox)) = &self.others else {
            return;
        };
        if inbox.failure().is_some() {
            return;
        }
        let rank = self.rank;
        post.fail(&match error {
            TrainError::Ranks(failure) => failure.clone(),
            TrainError::Interrupted => RankError::Interrupted { rank },
            error => RankError::Failed {
                rank,
                reason: error.to_string(),
            },
        });
        self.leave_group();
    }

    /// What each rank gives, on rank 0.
    fn collect(&self, mine: Vec<u8>) -> Result<Option<Vec<Vec<u8>>>, RankError> {
        let Some((post, inbox)) = &self.others else {
            return Ok(Some(vec![mine]));
        };
        if !self.is_first() {
            post.send(0, &mine)?;
            return Ok(None);
        }
        let others = (1..self.size).map(|rank| inbox.take(rank));
        let all: Result<_, RankError> = std::iter::once(Ok(mine)).chain(others).collect();
        all.map(Some)
    }

    /// What rank 0 gives, which is `mine` of that rank. Nobody goes on before rank 0 is here.
    ///
    /// # Errors
    /// Those of another rank.
    pub fn first_says(&self, mine: Vec<u8>) -> Result<Vec<u8>, RankError> {
        let Some((post, inbox)) = &self.others else {
            return Ok(mine);
        };
        if !self.is_first() {
            return inbox.take(0);
        }
        (1..self.size).try_for_each(|rank| post.send(rank, &mine))?;
        Ok(mine)
    }

    /// What each rank gives, in the order of ranks; for small messages. Nobody goes on before all are
    /// here.
    ///
    /// # Errors
    /// Those of another rank.
    pub fn gather(&self, mine: Vec<u8>) -> Result<Vec<Vec<u8>>, RankError> {
        let all = self.collect(mine)?.unwrap_or_default();
        let mut message = Vec::new();
        for part in &all {
            message.extend((part.len() as u64).to_le_bytes());
            message.extend(part);
        }
        let message = self.first_says(message)?;
        let mut rest = &message[..];
        let mut parts = Vec::with_capacity(self.size);
        while let Some((length, after)) = rest.split_first_chunk::<8>() {
            let length = (u64::from_le_bytes(*length) as usize).min(after.len());
            let (part, after) = after.split_at(length);
            parts.push(part.to_vec());
            rest = after;
        }
        Ok(parts)
    }

    /// Nobody goes on before all are here.
    ///
    /// # Errors
    /// Those of another rank.
    pub fn barrier(&self) -> Result<(), RankError> {
        self.gather(Vec::new()).map(|_| ())
    }

    /// The sums of what all ranks give, added in the order of ranks: the same bits on each of them. All
    /// must give as many.
    ///
    /// # Errors
    /// Those of another rank.
    pub fn sum(&self, values: Vec<f32>) -> Result<Vec<f32>, RankError> {
        if self.others.is_none() {
            return Ok(values);
        }
        let own = self.is_first().then(|| values.clone());
        let mut sums = own.unwrap_or_default();
        let all = self.collect(match self.is_first() {
            true => Vec::new(),
            false => bytes_of(&values),
        })?;
        for other in all.iter().flatten().skip(1) {
            for (sum, value) in sums.iter_mut().zip(floats_of(other)) {
                *sum += value;
            }
        }
        let sums = self.first_says(bytes_of(&sums))?;
        Ok(floats_of(&sums).collect())
    }

    /// An error on all ranks where one of them is not as rank 0 is: `differs` gets what rank 0 gave and
    /// tells in what. What each gives is `mine`.
    pub(crate) fn same(
        &self,
        mine: Vec<u8>,
        differs: impl FnOnce(&[u8]) -> Option<String>,
    ) -> Result<(), RankError> {
        let first = self.first_says(mine)?;
        let reason = match self.is_first() {
            true => None,
            false => differs(&first),
        };
        let reasons = self.gather(reason.unwrap_or_default().into_bytes())?;
        match reasons.iter().position(|reason| !reason.is_empty()) {
            None => Ok(()),
            Some(rank) => Err(RankError::Differs {
                rank,
                reason: String::from_utf8_lossy(&reasons[rank]).into_owned(),
            }),
        }
    }

    /// Lets the devices exchange tensors by themselves from now on, where they can. Those of one host
    /// must be different ones.
    ///
    /// # Errors
    /// [`RankError::Differs`] where a library is missing or a device cannot join.
    pub(crate) fn join_devices<B: KernelBackend>(
        &mut self,
        device: &B::Device,
    ) -> Result<(), RankError> {
        if !self.started {
            return Ok(());
        }
        let available = RankGroup::is_for(device);
        if self.size == 1 && available.is_err() {
            return Ok(());
        }
        let problem = available.as_ref().err().cloned().unwrap_or_default();
        self.agree(problem)?;
        if available != Ok(true) {
            return Ok(());
        }
        let id = match self.is_first() {
            true => RankGroup::new_id(),
            false => Ok(Vec::new()),
        };
        self.agree(id.as_ref().err().cloned().unwrap_or_default())?;
        let id = self.first_says(id.unwrap_or_default())?;
        // The others wait in there for one that fails, which their connections then tell them.
        let rank = self.rank;
        let group = RankGroup::join(device, &id, rank, self.size)
            .map_err(|reason| RankError::Failed { rank, reason })?;
        let left = group.clone();
        // A device waits for ever for one that is gone. Leaving may itself take a while.
        self.when_failed(move |_| {
            thread::spawn(move || left.leave());
        });
        self.group = Some(group);
        Ok(())
    }

    /// An error on all ranks where one has a problem.
    fn agree(&self, problem: String) -> Result<(), RankError> {
        let problems = self.gather(problem.into_bytes())?;
        match problems.iter().position(|problem| !problem.is_empty()) {
            None => Ok(()),
            Some(rank) => Err(RankError::Failed {
                rank,
                reason: String::from_utf8_lossy(&problems[rank]).into_owned(),
            }),
        }
    }

    /// The sum over all ranks of a flat tensor of f32 that each has.
    pub(crate) fn sum_tensor<B: KernelBackend>(
        &self,
        values: Tensor<B, 1>,
    ) -> Result<Tensor<B, 1>, TrainError> {
        let by_devices = |group| sum_over_ranks(values.clone(), group);
        if let Some(sums) = self.group.as_ref().and_then(by_devices) {
            return Ok(sums);
        }
        if self.others.is_none() {
            return Ok(values);
        }
        let (device, length) = (values.device(), values.dims()[0]);
        let sums = self.sum(read_values(values, "the gradients")?)?;
        let data = TensorData::new(sums, [length]);
        Ok(Tensor::from_data(data, (&device, DType::F32)))
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        let Some((post, inbox)) = &self.others else {
            return;
        };
        let panicked = || RankError::Failed {
            rank: self.rank,
            reason: "it panicked".into(),
        };
        // Who leaves tells why first: otherwise others that have not heard of the failure yet would blame
        // this rank, which ended because of it.
        let failure = inbox.failure();
        let failure = failure.or_else(|| thread::panicking().then(panicked));
        if let Some(failure) = &failure {
            post.fail(failure);
        }
        post.leave();
        match (&self.group, failure) {
            (Some(group), None) => group.end(),
            (Some(group), Some(_)) => group.leave(),
            (None, _) => {}
        }
    }
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

fn floats_of(bytes: &[u8]) -> impl Iterator<Item = f32> {
    let words = bytes.as_chunks::<4>().0.iter();
    words.map(|word| f32::from_le_bytes(*word))
}
