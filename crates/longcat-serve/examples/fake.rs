//! The server without a model, to work on its page: `cargo run -p longcat-serve --example fake -- --port 8188
//! --data DIR [--loras DIR] [--pulled DIR] [--token TOKEN] [--pause MILLISECONDS] [--devices N] [--queue N] [--log FILE]`.
#![allow(clippy::print_stdout, clippy::print_stderr)]

#[path = "../tests/serve/fake.rs"]
mod fake;

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use longcat_serve::{Limits, ServeOptions, Server};

fn main() -> Result<(), Box<dyn Error>> {
    let mut options = HashMap::new();
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
        options.insert(name, value);
    }
    let get = |name: &str| options.get(name).map(String::as_str);
    let number = |name: &str, default: u64| get(name).map_or(Ok(default), str::parse);
    let studio = fake::Fake {
        pause: Duration::from_millis(number("--pause", 100)?),
        devices: number("--devices", 1)? as usize,
        log: get("--log").map(Into::into),
        refuses: false,
        outlives_faults: true,
        pulled: get("--pulled").map(Into::into),
    };
    let server = Server::bind(
        ServeOptions {
            port: number("--port", 8188)?.try_into()?,
            loras: get("--loras").map(Into::into),
            token: get("--token").map(Into::into),
            limits: Limits {
                queue: number("--queue", 100)? as usize,
                ..Limits::default()
            },
            note: |message| eprintln!("{message}"),
            ..ServeOptions::new(get("--data").ok_or("--data DIR is missing")?)
        },
        Arc::new(studio),
    )?;
    println!("http://{}/", server.address());
    server.run(&AtomicBool::new(false))?;
    Ok(())
}
