//! `longcat serve`.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use longcat_cli::{interrupt, note, printable, say};
use longcat_serve::{Limits, ServeOptions, Server};

use crate::args::Serve;
use crate::serve::LoadedStudio;

/// Where a token can be given that command lines do not show.
const TOKEN: &str = "LONGCAT_TOKEN";

pub fn run(args: &Serve) -> Result<()> {
    if let Some(folder) = args.lora_dir.as_ref().filter(|folder| !folder.is_dir()) {
        bail!("--lora-dir: {} is not a folder", folder.display());
    }
    let absolute = |path: PathBuf| {
        std::path::absolute(&path).with_context(|| format!("{} is no path", path.display()))
    };
    let data = match &args.data {
        Some(data) => data.clone(),
        None => dirs::data_dir()
            .context("the user has no data folder; name one with --data")?
            .join("longcat")
            .join("serve"),
    };
    let variable = || std::env::var(TOKEN).ok().filter(|token| !token.is_empty());
    let options = ServeOptions {
        host: args.host,
        port: args.port,
        loras: args.lora_dir.clone().map(absolute).transpose()?,
        token: args.token.clone().or_else(variable),
        limits: Limits {
            queue: args.queue,
            ..Limits::default()
        },
        note: |message| note!("warning: {}", printable(message)),
        ..ServeOptions::new(absolute(data)?)
    };
    options.check()?;
    let token = options.token.is_some();
    let stop = interrupt()?;
    let studio = LoadedStudio::open(args)?;
    let server = Server::bind(options, Arc::new(studio))?;
    say!("http://{}/", server.address());
    match token {
        true => note!("open the page once with ?token=TOKEN; Ctrl-C stops"),
        false => note!("open the page in a browser; Ctrl-C stops"),
    }
    server.run(&stop)?;
    Ok(())
}
