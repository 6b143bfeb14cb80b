//! The models behind `longcat serve`.

mod follower;
mod order;
mod studio;

pub use follower::Follower;
pub use studio::LoadedStudio;
