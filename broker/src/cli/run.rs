//! Runs one client command: a runtime, a session, and the end of the process.
//!
//! Called by `main`. Failures are one line on standard error; the exit code says whose turn it is.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::client::Client;
use super::failure::{Failure, Kind, Result};
use super::output::Out;
use super::{ClientCommand, complain, config, consume, doctor, group, produce, topic};
use crate::env::Env;

/// What all client commands have.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Brokers to begin with, several with commas
    #[arg(
        short,
        long,
        global = true,
        value_name = "HOST:PORT",
        env = "OTTLA_BOOTSTRAP",
        default_value = "127.0.0.1:9092"
    )]
    pub bootstrap: String,
    /// Seconds that an answer may take
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 10.0)]
    pub timeout: f64,
    /// Print one JSON object a line, for programs
    #[arg(long, global = true)]
    pub json: bool,
}

/// What a command works with.
pub struct Session {
    /// The cluster.
    pub client: Client,
    /// Standard output.
    pub out: Out,
    /// Time and chance.
    pub env: Env,
}

impl Session {
    /// The timeout as requests carry it.
    pub fn timeout_ms(&self) -> i32 {
        i32::try_from(self.client.timeout().as_millis()).unwrap_or(i32::MAX)
    }
}

/// Runs a client command to its end.
pub fn run(command: &ClientCommand) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format_args!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(dispatch(command));
    // A thread may still wait for standard input.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if failure.kind != Kind::OutputClosed {
                complain(&failure);
            }
            ExitCode::from(failure.exit_code())
        }
    }
}

async fn dispatch(command: &ClientCommand) -> Result<()> {
    match command {
        ClientCommand::Topic(args) => {
            with(&args.common, async |session| {
                topic::run(session, &args.command).await
            })
            .await
        }
        ClientCommand::Produce(args) => {
            with(&args.common, async |session| {
                produce::run(session, &args.args).await
            })
            .await
        }
        ClientCommand::Consume(args) => {
            with(&args.common, async |session| {
                consume::run(session, &args.args).await
            })
            .await
        }
        ClientCommand::Group(args) => {
            with(&args.common, async |session| {
                group::run(session, &args.command).await
            })
            .await
        }
        ClientCommand::Config(args) => {
            with(&args.common, async |session| {
                config::run(session, &args.command).await
            })
            .await
        }
        ClientCommand::Doctor(args) => {
            with(&args.common, async |session| {
                doctor::run(session, &args.args).await
            })
            .await
        }
    }
}

async fn with(
    common: &Common,
    command: impl AsyncFnOnce(&mut Session) -> Result<()>,
) -> Result<()> {
    let timeout = Duration::try_from_secs_f64(common.timeout)
        .ok()
        .filter(|timeout| {
            (Duration::from_millis(1)..=Duration::from_secs(86_400)).contains(timeout)
        })
        .ok_or_else(|| {
            Failure::usage(format_args!(
                "--timeout {} is not between 0.001 and 86400 seconds",
                common.timeout
            ))
        })?;
    let mut session = Session {
        client: Client::new(&common.bootstrap, timeout)?,
        out: Out::new(common.json),
        env: Env::system(),
    };
    let outcome = command(&mut session).await;
    // What was done is said also when something failed later.
    let flushed = session.out.flush();
    outcome.and(flushed)
}
