//! A local server that makes videos: a queue that survives a restart, an HTTP API in the shape of
//! OpenAI's video endpoints, and a page.
//!
//! What makes the videos is behind the traits [`Studio`] and [`Maker`]; nothing here knows of models.
//! [`Server::bind`] opens a folder and an address, [`Server::run`] serves. The API is described by
//! [`OPENAPI`].

mod app;
mod data;
mod error;
mod http;
mod hub;
mod id;
mod library;
mod limits;
mod metrics;
mod page;
mod progress;
mod settings;
mod store;
mod studio;
mod upload;
mod worker;

pub use app::{Ended, ServeOptions, Server};
pub use error::ServeError;
pub use hub::Watch;
pub use limits::Limits;
pub use settings::{AdapterUse, Mode, Settings};
pub use studio::{
    About, AdapterReport, Defaults, InputKind, JobFiles, MakeError, Maker, Order, OrderedAdapter,
    Planned, PulledAdapter, Refusal, Studio,
};

/// The description of the API, as it is served at `/openapi.json`.
pub const OPENAPI: &str = include_str!("../openapi.json");
