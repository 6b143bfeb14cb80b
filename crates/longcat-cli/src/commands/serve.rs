//! `longcat serve`.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use longcat_cli::{interrupt, note, printable, say};
use longcat_serve::{Ended, Limits, ServeOptions, Server};

use crate::args::Serve;
use crate::serve::LoadedStudio;
use crate::successor;

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
        listener: listening::listener()?,
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
    let (token, follows) = (options.token.is_some(), options.listener.is_some());
    let stop = interrupt()?;
    let studio = LoadedStudio::open(args)?;
    let server = Server::bind(options, Arc::new(studio))?;
    if !follows {
        say!("http://{}/", server.address());
        match token {
            true => note!("open the page once with ?token=TOKEN; Ctrl-C stops"),
            false => note!("open the page in a browser; Ctrl-C stops"),
        }
    }
    match server.run(&stop)? {
        Ended::Stopped => Ok(()),
        Ended::Broken(listener) => listening::hand_over(listener),
    }
}

/// What a process that takes the place of this one gets beside its arguments: the connections. Who connects
/// meanwhile waits for it.
#[cfg(unix)]
mod listening {
    use std::os::fd::{AsFd, OwnedFd};

    use super::*;

    /// Says that standard input is what a server has listened with.
    const LISTENER: &str = "LONGCAT_SERVE_LISTENER";

    /// What the process before this one has listened with, if there was one.
    pub fn listener() -> Result<Option<TcpListener>> {
        if std::env::var_os(LISTENER).is_none_or(|value| value != "stdin") {
            return Ok(None);
        }
        let input = std::io::stdin().as_fd().try_clone_to_owned();
        Ok(Some(input.context("taking over connections")?.into()))
    }

    /// Becomes that process.
    pub fn hand_over(listener: TcpListener) -> Result<()> {
        Err(successor::take_over(|command| {
            command
                .env(LISTENER, "stdin")
                .stdin(OwnedFd::from(listener));
        }))
    }
}

#[cfg(not(unix))]
mod listening {
    use super::*;

    pub fn listener() -> Result<Option<TcpListener>> {
        Ok(None)
    }

    pub fn hand_over(_listener: TcpListener) -> Result<()> {
        let failed = successor::take_over(|_| {});
        Err(failed.context("start the server again, its jobs wait"))
    }
}
